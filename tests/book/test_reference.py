"""The reference pages as a reader has them: every name has a place, links lead on, search finds it, nothing heavy comes along."""

from __future__ import annotations

import gzip
import html
import re
from pathlib import Path

import pytest

from vilib.reference_pages import names_of

ROOT = Path(__file__).parents[2]
PAGES = {page.stem: names_of(page.read_text(encoding="utf-8")) for page in sorted((ROOT / "reference").glob("*.md"))}
pytestmark = pytest.mark.browser


@pytest.fixture
def page(request, built_book) -> str:
    return (built_book / "reference" / f"{request.param}.html").read_text()


def article(text: str) -> str:
    return text.split('<article class="bd-article"')[1].split("</article>")[0]


def test_the_toggle_in_the_contents_has_a_name(built_book):
    for file in (built_book / "intro.html", built_book / "reference" / "fits.html"):
        toggles = re.findall(r"<summary[^>]*>", file.read_text().split("bd-sidebar-primary")[1].split("</nav>")[0])
        assert toggles == ['<summary aria-label="Pages of Reference">'], file


@pytest.mark.parametrize(("page", "names"), PAGES.items(), indirect=["page"], ids=list(PAGES))
def test_every_name_has_its_place(page, names):
    places = set(re.findall(r'\sid="(vilib\.[^"]+)"', page))
    assert names and set(names) <= places


@pytest.mark.parametrize("page", PAGES, indirect=True)
def test_a_page_brings_no_formulas_and_is_light(page):
    assert not re.search(r'src="[^"]*(mathjax|explorable)\.js', page)
    assert len(gzip.compress(page.encode(), 6)) < 40_000


@pytest.mark.parametrize("page", PAGES, indirect=True)
def test_lists_of_descriptions_describe_something(page):
    """Each begins with what it describes; so a list has a term for a screen reader to read."""
    assert re.findall(r"<dl[^>]*>\s*<(?!dt)[^>]*>", article(page)) == []


@pytest.mark.parametrize("page", PAGES, indirect=True)
def test_what_is_meant_for_sphinx_does_not_show(page):
    text = html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"<pre.*?</pre>", "", article(page), flags=re.S)))
    assert not re.search(r":(?:func|class|meth|mod|eq|py|param|raises)\b|\beq:[a-z]|~vilib|``|\\\*|\[equation \(\)", text)


@pytest.mark.parametrize("page", ["estimators"], indirect=True)
def test_a_page_links_to_equations_to_errors_and_to_what_a_signature_names(page):
    stl = article(page).split('id="vilib.sticking_the_landing"')[1]
    assert re.search(r'\[equation <a [^>]*href="\.\./chapters/pathwise\.html#equation-eq-stl"[^>]*>\(\d+\.\d+\)</a>', stl)
    for target in ("index.html#vilib.types.LogJoint", "index.html#vilib.types.Family", "checks.html#vilib.ShapeError"):
        assert f'href="{target}"' in page, target
    assert "&gt;&gt;&gt; " in re.sub(r"<[^>]+>", "", stl.split("</dl>")[0] + stl.split("</dl>")[1])


def test_chapters_link_to_the_reference(built_book):
    chapter = (built_book / "chapters" / "advi.html").read_text()
    assert 'href="../reference/advi.html#vilib.advi"' in chapter and 'href="../reference/models.html#vilib.Model"' in chapter


@pytest.mark.parametrize("name", ["sticking_the_landing", "UnsupportedSupport", "NewNoise"])
def test_search_finds_a_name_in_the_reference(site, visit, name):
    seen = visit(f"{site}/search.html?q={name}")
    hit = seen.page.locator("#search-results li a", has_text=name).first
    hit.wait_for()
    assert "reference/" in hit.get_attribute("href")
    assert seen.complaints == []


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_shows_a_page_without_scrolling_aside(site_http, visit, name):
    page = visit(f"{site_http}/reference/{name}.html", viewport={"width": 390, "height": 844}).page
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_signatures_stand_out_from_the_page(site_http, visit, scheme):
    page = visit(f"{site_http}/reference/fits.html", color_scheme=scheme).page
    ink, paper = page.evaluate(
        """() => {
          const signature = document.getElementById("vilib.fit"), name = signature.querySelector(".sig-name");
          return [getComputedStyle(name).color, getComputedStyle(signature).backgroundColor].map((color) => color.match(/[\\d.]+/g).map(Number));
        }"""
    )

    def luminance(color: list[float]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color[:3])]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 7
