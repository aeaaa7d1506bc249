"""Every page for everyone: axe-core finds nothing serious or critical, in light and in dark."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from book.hands import all_ready
from book.test_site import PAGES

pytestmark = pytest.mark.browser

#: What axe-core calls grave. Moderate and minor findings are advice.
GRAVE = ("serious", "critical")
#: In another theme only colours differ.
COLOURS = {"runOnly": ["color-contrast", "link-in-text-block"], "resultTypes": ["violations"]}
#: Unfolds what is folded, and thins out what is there many times over, since axe-core takes its time over each: of coloured
#: words in listings one of a kind stays, of paragraphs, entries, formulas and rows of a table the first dozen of a kind.
PREPARE = """() => {
  document.querySelectorAll("details, .toggle-hidden").forEach((n) => { n.open = true; n.classList.remove("toggle-hidden"); });
  const kinds = new Set();
  for (const word of document.querySelectorAll(".highlight pre span:not(:has(*))")) {
    const kind = word.closest(".highlight").parentElement.className + word.className;
    if (kinds.has(kind)) word.remove();
    kinds.add(kind);
  }
  const count = {};
  const many = "dl.py, p:not(:has(img, input, button)), li:not(:has(img, input, button)), .math, tr, pre";
  for (const node of document.querySelectorAll(`article :is(${many})`)) {
    const kind = node.tagName + node.className + node.parentElement.tagName + node.parentElement.className;
    count[kind] = (count[kind] || 0) + 1;
    if (count[kind] > 12 && node.isConnected) node.remove();
  }
}"""

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
    page = visit(f"{site_http}/{PAGES[-1]}.html", formulas=False).page
    page.evaluate("""() => document.querySelector("article").insertAdjacentHTML("afterbegin",
      '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><button></button><p style="color:#ccc;background:#fff">pale</p>')""")
    told = "\n".join(grave(page, {"resultTypes": ["violations"]}))
    assert all(rule in told for rule in ("image-alt", "button-name", "color-contrast"))


@pytest.mark.parametrize("name", PAGES)
def test_headings_go_down_step_by_step_and_pictures_are_described(built_book, name):
    article = BeautifulSoup((built_book / f"{name}.html").read_text(), "html.parser").find("article")
    levels = [int(heading.name[1]) for heading in article.find_all(re.compile("^h[1-6]$"))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), levels
    assert [image["src"] for image in article.find_all("img") if len(image.get("alt", "").strip()) < 15] == []
