"""The book as a site: whole, self-contained and in order, over http and as files."""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from book.phone import PHONE, check_fits, check_reachable
from book.conftest import HEADER

from vilib import book

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.browser


def _pages(toc: dict) -> list[str]:
    """The book's pages, in reading order."""
    own = [toc.get("root") or toc.get("file")]
    for key in ("parts", "chapters", "sections"):
        for entry in toc.get(key, ()):
            own += _pages(entry)
    return [page for page in own if page]


PAGES = _pages(yaml.safe_load((ROOT / "_toc.yml").read_text()))


@pytest.mark.parametrize(
    ("name", "way"), [(name, "http") for name in PAGES] + [(name, "file") for name in (PAGES[0], PAGES[3], PAGES[-1])]
)
def test_page_is_self_contained_typeset_and_free_of_errors(request, visit, name, way):
    """Over http on a phone, where it must fit too; as a file on a wide screen."""
    site = request.getfixturevalue(f"site_{way}")
    seen = visit(f"{site}/{name}.html", **({"viewport": PHONE, "has_touch": True} if way == "http" else {}))
    seen.settle()
    assert seen.strangers(site) == []
    assert seen.failed == []
    assert seen.complaints == []

    page = seen.page
    assert page.locator(".bd-article .math:not(:has(mjx-container))").count() == 0
    assert page.locator("mjx-merror, [data-mml-node=merror]").count() == 0
    text = page.evaluate(
        """() => {
          const article = document.querySelector(".bd-article").cloneNode(true);
          article.querySelectorAll("pre, code, script, mjx-container").forEach((node) => node.remove());
          return article.textContent;
        }"""
    )
    assert not re.search(r"\\\(|\\\[|\$\$|\\begin\{|\\(frac|mathbb|lambda)\b", text), "TeX left as it was typed"
    if way == "http":
        check_fits(page)
    check_reachable(page)


def test_formulas_are_there(built_book):
    assert any('class="math' in (built_book / f"{name}.html").read_text() for name in PAGES)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 390)])
def test_buttons_show_their_icons(site_http, visit, scheme, width):
    page = visit(f"{site_http}/{PAGES[-1]}.html", formulas=False, color_scheme=scheme, viewport={"width": width, "height": 900}).page
    icons = page.evaluate(
        """() => [...document.querySelectorAll("[class*='fa-']")].filter((icon) => icon.checkVisibility()).map((icon) => {
          const mark = getComputedStyle(icon, "::before");
          return { name: icon.className, width: parseFloat(mark.width), mask: mark.maskImage, ink: mark.backgroundColor };
        })"""
    )
    assert len(icons) >= 4
    fallback = page.evaluate(
        """() => {
          const stray = document.body.appendChild(document.createElement("i"));
          stray.className = "fa-nothing-of-the-name";
          return getComputedStyle(stray, "::before").maskImage;
        }"""
    )
    for icon in icons:
        assert icon["width"] >= 8, icon
        assert icon["mask"].startswith('url("data:image/svg+xml'), icon
        assert icon["mask"] != fallback, f"book.css draws no icon of its own for {icon['name']}"
        assert icon["ink"] != "rgba(0, 0, 0, 0)", icon


def test_theme_follows_the_reader_and_the_button(site_http, visit):
    page = visit(f"{site_http}/{PAGES[0]}.html", formulas=False, color_scheme="dark").page
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == "dark"
    button = page.locator(".theme-switch-button:visible")
    button.click()
    page.wait_for_function("document.documentElement.dataset.mode !== 'auto'")
    chosen = page.evaluate(theme)
    page.reload()
    assert page.evaluate(theme) == chosen


def test_without_javascript_the_page_is_dressed(site_http, visit):
    page = visit(f"{site_http}/{PAGES[0]}.html", java_script_enabled=False).page
    assert page.locator("html").get_attribute("data-theme") == "light"


def test_search_finds_the_chapters(site, visit):
    seen = visit(f"{site}/search.html?q=gradient")
    seen.page.locator("#search-results li a").first.wait_for()
    seen.settle()
    assert seen.strangers(site) == []
    assert seen.complaints == []


def test_a_wide_screen_gives_an_explorable_room(site_http, built_book, visit):
    """At least 1000 pixels of 1440, and the list of contents out of its way; nothing sticks out at 390."""
    name = next((n for n in PAGES if book.EXPLORABLE in (built_book / f"{n}.html").read_text()), None)
    assert name, "no page shows an explorable"
    page = visit(f"{site_http}/{name}.html", viewport={"width": 1440, "height": 900}).page
    explorable = page.locator(f".{book.EXPLORABLE}").first
    explorable.scroll_into_view_if_needed()
    assert explorable.bounding_box()["width"] >= 1000
    page.wait_for_function("document.querySelector('.bd-sidebar-secondary').classList.contains('hide')")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.documentElement.clientWidth === 390")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = explorable.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390


def test_links_and_assets_lead_somewhere(built_book):
    """Every local address named in a page exists, and so does every place in a page that a link names."""
    missing, places = [], {}
    attribute = re.compile(r'<[^>]+?\s(?:href|src)="([^"]+)"')
    without_scripts = re.compile(r"<script[^>]*>(?!</script>).*?</script>", re.S)

    def ids(path: Path) -> set[str]:
        if path not in places:
            places[path] = set(re.findall(r'\s(?:id|data-explorable)="([^"]+)"', path.read_text()))
        return places[path]

    for page in built_book.rglob("*.html"):
        if "_static" in page.parts:
            continue
        for address in attribute.findall(without_scripts.sub("", page.read_text())):
            parts = urlsplit(html.unescape(address))
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists():
                missing.append(f"{page.relative_to(built_book)}: {address}")
            # The fragment may end in an explorable's state: #gradient-variance?sample_count=64
            place = unquote(parts.fragment).partition("?")[0]
            if place and target.suffix == ".html" and target.exists() and place not in ids(target):
                missing.append(f"{page.relative_to(built_book)}: {address} (no such place)")
    assert missing == []


@pytest.mark.parametrize("name", [name for name in PAGES if "kernelspec" in (ROOT / f"{name}.md").read_text()])
def test_each_page_offers_itself_as_a_notebook(built_book, name):
    notebook = built_book / "_sources" / f"{name}.ipynb"
    assert notebook.exists()
    assert f'{name.split("/")[-1]}.ipynb"' in (built_book / f"{name}.html").read_text()
    cells = json.loads(notebook.read_text())["cells"]
    assert any(cell["cell_type"] == "code" for cell in cells)
    assert not any(cell.get("outputs") for cell in cells), "it is there to be run"


def test_pages_carry_no_ballast(built_book):
    for name in PAGES:
        page = (built_book / f"{name}.html").read_text()
        for ballast in ("fontawesome", "thebe", "require.min.js", "widget-state+json", "html-manager"):
            assert ballast not in page.lower(), f"{ballast} in {name}"
        assert bool(re.search(r'src="[^"]*explorable\.js', page)) == (f'class="{book.EXPLORABLE}' in page), name


# -- what makes a build stale ------------------------------------------------------------------------------------------


def _package(folder: Path) -> Path:
    package = folder / "vilib"
    (package / "explorables" / "static").mkdir(parents=True)
    (package / "estimators.py").write_text("VALUE = 1\n")
    (package / "book.py").write_text("")
    (package / "explorables" / "static" / "explorable.js").write_text("")
    return package


def test_the_cache_key_follows_what_cells_can_import(tmp_path):
    package = _package(tmp_path)
    first = book.vilib_digest(package)
    (package / "book.py").write_text("# a comment")
    (package / "explorables" / "static" / "explorable.js").write_text("// a comment")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "estimators.cpython-311.pyc").write_bytes(b"\0")
    assert book.vilib_digest(package) == first
    (package / "estimators.py").write_text("VALUE = 2\n")
    second = book.vilib_digest(package)
    assert second != first
    (package / "estimators.py").rename(package / "renamed.py")
    assert book.vilib_digest(package) not in (first, second)


def test_a_change_in_vilib_runs_the_chapters_again(small_book):
    body = "```{code-cell} ipython3\nfrom vilib.probe import VALUE\nprint('read', VALUE)\n```\n"
    status, log, page = small_book(body)
    assert status == 0, log
    assert "Executing notebook" in log and "read first" in page
    status, log, page = small_book(body)
    assert status == 0 and "Executing notebook" not in log and "read first" in page, log
    (small_book.root / "vilib" / "probe.py").write_text("VALUE = 'second'\n")
    status, log, page = small_book(body)
    assert status == 0 and "Executing notebook" in log and "read second" in page, log
    assert len(list((small_book.root / "_build" / ".jupyter_cache").iterdir())) == 1, "old caches pile up"


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="takes two cores")
def test_chapters_run_side_by_side(small_book):
    """Two chapters that wait for each other can only end together."""
    (small_book.root / "_toc.yml").write_text("format: jb-book\nroot: intro\nchapters:\n- file: other\n")
    meet = (
        "```{{code-cell}} ipython3\nimport pathlib, time\npathlib.Path('{mine}').touch()\nend = time.monotonic() + 60\n"
        "while not pathlib.Path('{theirs}').exists():\n    assert time.monotonic() < end, 'alone'\n    time.sleep(0.05)\n```\n"
    )
    (small_book.root / "other.md").write_text(HEADER + meet.format(mine="b.met", theirs="a.met"))
    status, log, _page = small_book(meet.format(mine="a.met", theirs="b.met"))
    assert status == 0, log
    assert len(re.findall(r"\.md: executed in \d+ seconds", log)) == 2
    assert "eavesdropping" not in log, "a kernel's warning, which alarms for nothing"


def test_faults_fail_the_build_until_they_are_mended(small_book):
    """Sphinx reads a page once and would be silent about it ever after; vilib.book makes it read again."""
    faulty = (
        "See {eq}`no-such-equation`.\n\n"
        "```{code-cell} ipython3\nimport sys\nprint('a cell that grumbles', file=sys.stderr)\n```\n\n"
        "```{code-cell} ipython3\nraise ValueError('a cell that fails')\n```\n"
    )
    for _ in range(2):
        status, log, _page = small_book(faulty)
        assert status != 0
        for fault in ("no-such-equation", "stderr was found", "a cell that fails"):
            assert fault in log
    status, log, _page = small_book("All is well.\n")
    assert status == 0, log
