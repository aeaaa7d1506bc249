"""Every page for everyone: axe-core finds nothing serious or critical, in light and in dark."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from book.hands import all_ready
from book.test_site import PAGES

pytestmark = pytest.mark.browser

#: What axe-core calls grave. Moderate and minor findings are advice.
GRAVE = ("serious", "critical")
#: In another theme only colours differ.
COLOURS = {"runOnly": ["color-contrast", "link-in-text-block"], "resultTypes": ["violations"]}
#: Unfolds what is folded, and leaves of the coloured words in listings one of each kind: axe-core takes its time over each.
PREPARE = """() => {
  document.querySelectorAll("details, .toggle-hidden").forEach((n) => { n.open = true; n.classList.remove("toggle-hidden"); });
  const kinds = new Set();
  for (const word of document.querySelectorAll(".highlight pre span:not(:has(*))")) {
    const kind = word.closest(".highlight").parentElement.className + word.className;
    if (kinds.has(kind)) word.remove();
    kinds.add(kind);
  }
}"""
#: What can be scrolled sideways and cannot have the focus.
OUT_OF_REACH = """() => [...document.querySelectorAll("article *")].filter((n) => n.clientWidth && n.scrollWidth > n.clientWidth + 1
  && ["auto", "scroll"].includes(getComputedStyle(n).overflowX) && n.tabIndex < 0
  && !n.querySelector("a, button, input, select, [tabindex='0']")).map((n) => n.outerHTML.slice(0, 120))"""


def grave(page, options: dict) -> list[str]:
    """What is wrong, where, and how to mend it."""
    found = Axe().run(page, None, options).response["violations"]
    return [
        f"{each['id']} ({each['impact']}): {node['target']} {node['html'][:200]}\n{node['failureSummary']}"
        for each in found if each["impact"] in GRAVE for node in each["nodes"]
    ]


@pytest.mark.parametrize("name", [*PAGES, "search", "genindex"])
def test_nothing_serious_stands_in_anyone_s_way(site_http, visit, name):
    page = visit(f"{site_http}/{name}.html", formulas=False, reduced_motion="reduce", viewport={"width": 1440, "height": 900}).page
    if page.locator("figure.vilib-explorable").count():
        all_ready(page)
    page.evaluate(PREPARE)
    assert grave(page, {"resultTypes": ["violations"]}) == []
    now = page.evaluate("() => document.documentElement.dataset.theme")
    page.evaluate("(theme) => { document.documentElement.dataset.theme = theme }", {"light": "dark", "dark": "light"}[now])
    assert grave(page, COLOURS) == []


def test_axe_would_find_it(visit, site_http):
    """A picture without words, a button without a name, a grey too pale: the check can fail."""
    page = visit(f"{site_http}/{PAGES[-1]}.html").page
    page.evaluate("""() => document.querySelector("article").insertAdjacentHTML("afterbegin",
      '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><button></button><p style="color:#ccc;background:#fff">pale</p>')""")
    told = "\n".join(grave(page, {"resultTypes": ["violations"]}))
    assert all(rule in told for rule in ("image-alt", "button-name", "color-contrast"))


@pytest.mark.parametrize(("name", "width"), [(PAGES[3], 1440), (PAGES[3], 390), (PAGES[-2], 390)])
def test_what_scrolls_sideways_can_be_reached_by_keys(visit, site_http, name, width):
    seen = visit(f"{site_http}/{name}.html", viewport={"width": width, "height": 900})
    seen.settle()
    assert seen.page.evaluate(OUT_OF_REACH) == []


@pytest.mark.parametrize("name", PAGES)
def test_headings_go_down_step_by_step_and_pictures_are_described(built_book, visit, site_http, name):
    page = visit(f"{site_http}/{name}.html", formulas=False).page
    levels = page.evaluate("() => [...document.querySelectorAll('article :is(h1,h2,h3,h4,h5,h6)')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False)), levels
    undescribed = page.evaluate(
        "() => [...document.querySelectorAll('article img')].filter((i) => i.alt.trim().length < 15).map((i) => i.src)")
    assert undescribed == []
