"""What the build leaves for hosts, readers with a kernel and search engines: links, notebooks, previews, the page for no page."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import stat
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import nbformat
import pytest
import yaml
from book.conftest import serve
from book.test_site import PAGES, ROOT

from vilib import addresses, hosting, notebooks

pytestmark = pytest.mark.browser

NOTEBOOKS = [name for name in PAGES if "kernelspec" in (ROOT / f"{name}.md").read_text(encoding="utf8")]
RUNNERS = re.compile(r'href="(https://(?:mybinder\.org|colab\.research\.google\.com)/[^"]*)"')


def read(built_book: Path, name: str):
    return nbformat.read(built_book / "_sources" / f"{name}.ipynb", as_version=4)


# -- notebooks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_pages_notebook_is_clean(built_book, name):
    """A valid notebook of plain Markdown: no output, no tag, and no MyST that plain Jupyter would show as it is typed."""
    book = read(built_book, name)
    nbformat.validate(book)
    assert len({cell.id for cell in book.cells}) == len(book.cells)
    for cell in book.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert set(cell.metadata) <= {"jupyter", "cellView", "jp-MarkdownHeadingCollapsed"}
        assert not re.search("[\x00-\x08]", cell.source)
        if cell.cell_type == "markdown":
            prose = re.sub(r"^```.*?^```|`[^`\n]+`", "", cell.source, flags=re.M | re.S)
            prose = re.sub(r"\$\$.*?\$\$|\$[^$]+\$", "", prose, flags=re.S)
            assert not re.search(r"\{[a-z:]+\}`|^\(.+\)=$|^:[a-z]+:|^% |:::|\\begin|\\\(|<(?!/?(details|summary|b)>)[a-z/]", prose, re.M), prose
            assert prose.count("$") == prose.count(r"\$"), "a formula without an end"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_pages_notebook_holds_the_chapters_own_cells(built_book, name):
    """Every cell of the source, in order, after the cell that installs."""
    source = (ROOT / f"{name}.md").read_text(encoding="utf8")
    written = re.findall(r"^```\{code-cell\}[^\n]*\n(?:---\n.*?^---\n|(?::\w[^\n]*\n)+\n?)?\n*(.*?)\n*^```", source, re.M | re.S)
    first, *cells = [cell.source for cell in read(built_book, name).cells if cell.cell_type == "code"]
    assert [cell.strip() for cell in cells] == [cell.strip() for cell in written]
    assert first == notebooks.setup_code(addresses.repository(ROOT, _configured("repository", "url")))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_pages_notebook_counts_like_the_page(built_book, name):
    """The numbers of its equations are those on the page, each once, and so are its headings."""
    page = (built_book / f"{name}.html").read_text(encoding="utf8")
    text = "\n".join(cell.source for cell in read(built_book, name).cells if cell.cell_type == "markdown")
    assert re.findall(r"\\tag\{(.*?)\}", text) == re.findall(r'class="eqno">\((.*?)\)', page)
    numbers = re.findall(r'<h[23]><span class="section-number">([\d.]+) ?</span>', page)
    assert re.findall(r"^#{2,3} ([\d.]+\.) ", text, re.M) == numbers
    exercises = re.findall(r'class="caption-number">(Exercise [\d.]+) ', page)
    assert re.findall(r"^#### (Exercise [\d.]+)", text, re.M) == exercises


def test_the_folder_of_notebooks_is_a_repository_that_runs(built_book, tmp_path):
    made = notebooks.gather(built_book, tmp_path / "out", ROOT)
    assert {path.with_suffix("").as_posix() for path in made} == set(NOTEBOOKS)
    assert (tmp_path / "out" / "binder" / "postBuild").stat().st_mode & stat.S_IXUSR
    assert (tmp_path / "out" / "pyproject.toml").exists() and (tmp_path / "out" / "vilib" / "data").is_dir()


# -- links to kernels --------------------------------------------------------------------------------------------------


def _configured(*keys: str) -> str:
    setting = yaml.safe_load((ROOT / "_config.yml").read_text())
    for key in keys:
        setting = (setting or {}).get(key, {})
    return setting or ""


@pytest.mark.parametrize("name", PAGES)
def test_the_built_pages_offer_what_is_known_of_their_repository(built_book, name):
    repository = addresses.repository(ROOT, _configured("repository", "url"))
    found = RUNNERS.findall((built_book / f"{name}.html").read_text(encoding="utf8"))
    wanted = [] if repository is None or name not in NOTEBOOKS else [repository.binder(name), repository.colab(name)]
    assert [html.unescape(link) for link in found] == [link for link in wanted if link]


BODY = "```{code-cell} ipython3\nprint(6 * 7)\n```\n\n## The question\n\nHow is a probe read, and what does a messenger show of it?\n"
HERE = re.compile(r"https?://(?!(?:[\w-]+\.)+(?:org|com|net|io|dev)\b)[^\s\"'<>]*|\b(?:127\.0\.0\.1|localhost|/tmp/|/home/|/opt/)[^\s\"'<]*")


def test_a_book_of_no_repository_and_no_address_says_nothing_of_either(small_book):
    """And no address of this machine, of its package index or of anyone else comes into a page or notebook."""
    status, log, page = small_book(BODY)
    assert status == 0, log
    built = small_book.root / "_build" / "html"
    assert RUNNERS.findall(page) == [] and "launch-buttons" not in page
    assert "og:" not in page and "twitter:" not in page and 'rel="canonical"' not in page
    assert '<meta name="description" content="How is a probe read, and what does a messenger show of it?" />' in page
    assert not (built / "sitemap.xml").exists() and not (built / hosting.PICTURE_IN_SITE).exists()
    assert (built / "robots.txt").read_text() == "User-agent: *\nAllow: /\n"
    notebook = (built / "_sources" / "intro.ipynb").read_text()
    assert "git+" not in notebook
    for text in (page, notebook, (built / "404.html").read_text()):
        assert HERE.findall(text) == []


def test_a_book_of_a_known_repository_and_address(small_book):
    (small_book.root / "docs").mkdir()
    shutil.copy(ROOT / hosting.PICTURE, small_book.root / hosting.PICTURE)
    site = "https://owner.github.io/book/"
    status, log, page = small_book(BODY, VILIB_REPOSITORY="git@github.com:owner/book.git", VILIB_SITE=site)
    assert status == 0, log
    built = small_book.root / "_build" / "html"
    assert RUNNERS.findall(page) == [
        "https://mybinder.org/v2/gh/owner/book/notebooks?urlpath=lab/tree/intro.ipynb",
        "https://colab.research.google.com/github/owner/book/blob/notebooks/intro.ipynb",
    ]
    menu = re.search(r'<div class="dropdown dropdown-launch-buttons">.*?</ul>', page, re.S)[0]
    assert "<img" not in menu, "a logo is one more file that each page loads"
    style = (built / "_static" / "book.css").read_text()
    assert all(f".{icon} {{" in style for icon in re.findall(r'"fas (fa-[\w-]+)"', menu))
    meta = {a or b: html.unescape(c) for a, b, c in re.findall(r'<meta (?:name="([^"]*)"|property="([^"]*)") content="([^"]*)"', page)}
    assert meta["og:title"] == "Probe" and meta["og:url"] == f"{site}intro.html" and meta["og:site_name"] == "Variational Inference, Live"
    assert meta["og:description"] == meta["description"] == "How is a probe read, and what does a messenger show of it?"
    assert meta["og:image"] == f"{site}{hosting.PICTURE_IN_SITE}" and meta["twitter:card"] == "summary_large_image"
    picture = (built / hosting.PICTURE_IN_SITE).read_bytes()
    assert picture == (ROOT / hosting.PICTURE).read_bytes()
    assert (int(meta["og:image:width"]), int(meta["og:image:height"])) == hosting.png_size(ROOT / hosting.PICTURE)
    assert f'<link rel="canonical" href="{site}intro.html"' in page
    sitemap = ElementTree.parse(built / "sitemap.xml").getroot()
    assert [each.text for each in sitemap.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")] == [f"{site}intro.html"]
    assert (built / "robots.txt").read_text().endswith(f"\nSitemap: {site}sitemap.xml\n")
    cells = json.loads((built / "_sources" / "intro.ipynb").read_text())["cells"]
    assert "git+https://github.com/owner/book" in "".join(cells[1]["source"])
    assert f"{site}intro.html" in "".join(cells[0]["source"])

    # The settings are no file that Sphinx watches: without them the next build takes all of it back.
    status, log, page = small_book(BODY)
    assert status == 0, log
    assert RUNNERS.findall(page) == [] and "og:" not in page and not (built / "sitemap.xml").exists()
    assert "git+" not in (built / "_sources" / "intro.ipynb").read_text()


def test_a_setting_that_is_no_address_fails_the_build(small_book):
    status, log, _page = small_book(BODY, VILIB_REPOSITORY="http://127.0.0.1:3000/owner/book")
    assert status != 0 and "is no address of a public repository" in log


# -- the page for no page ----------------------------------------------------------------------------------------------


def test_the_sites_own_files(built_book):
    assert (built_book / "robots.txt").read_text().startswith("User-agent: *\nAllow: /\n")
    page = (built_book / "404.html").read_text()
    for name in PAGES:
        assert f'<a href="{name}.html">' in page
    assert not re.search(r'\b(src|href)="(?!data:)[^"]+\.(css|js|png|svg)"', page), "it loads nothing of its own"


@pytest.fixture
def host(built_book, tmp_path):
    """The book under a folder of a host that answers 404 with its page, as static hosts do; gives (host, folder)."""
    (tmp_path / "some").mkdir()
    os.symlink(built_book, tmp_path / "some" / "book")
    server = serve(tmp_path)
    handler = server.RequestHandlerClass.func
    (tmp_path / "404.html").touch()

    class Host(handler):
        def do_GET(self):
            if not Path(self.translate_path(self.path)).exists():
                body = (built_book / "404.html").read_bytes()
                self.send_response(404)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            else:
                super().do_GET()

    server.RequestHandlerClass = lambda *arguments: Host(*arguments, directory=str(tmp_path))
    yield f"http://127.0.0.1:{server.server_port}", "/some/book/"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("asked", ["nothing.html", "chapters/elb0.html", "a/b/c/d.html"])
def test_a_page_that_is_not_there_leads_back_from_any_depth(host, visit, asked):
    """Without the address of the site; the folder is found, and the style is in the page."""
    home, folder = host
    seen = visit(f"{home}{folder}{asked}", color_scheme="dark")
    page = seen.page
    page.wait_for_function("folder => new URL(document.baseURI).pathname === folder", arg=folder)
    assert seen.strangers(home) == []
    assert page.locator("h1").inner_text() == "There is no such page"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 30)"
    link = page.locator("nav a").nth(1)
    assert urlsplit(link.evaluate("a => a.href")).path == f"{folder}{PAGES[1]}.html"
    link.click()
    page.wait_for_selector(".bd-article h1")
    page.go_back()
    page.wait_for_function("folder => new URL(document.baseURI).pathname === folder", arg=folder)
    page.locator("input[name=q]").fill("gradient")
    page.locator("button").click()
    page.locator("#search-results li a").first.wait_for()


def test_opened_as_a_file_it_leads_to_the_files_beside_it(site_file, visit):
    seen = visit(f"{site_file}/404.html", viewport={"width": 390, "height": 800})
    assert seen.strangers(site_file) == [] and seen.failed == [] and seen.complaints == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") == 390
    seen.page.locator("nav a").first.click()
    seen.page.wait_for_selector(".bd-article h1")


def test_where_the_address_is_known_it_needs_no_script():
    page = hosting.not_found("A book", [("intro.html", "A & B")], "https://owner.github.io/book/")
    assert '<base href="https://owner.github.io/book/" />' in page and '<a href="intro.html">A &amp; B</a>' in page


