"""A page on a phone: nothing sticks out, everything is large enough for a finger; and on any screen, in reach of keys."""

from __future__ import annotations

from book.hands import all_ready
from playwright.sync_api import Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout

PHONE = {"width": 390, "height": 844}
#: What can be scrolled sideways and cannot have the focus, so that no key scrolls it.
OUT_OF_REACH = """() => [...document.querySelectorAll("article *")].filter((n) => n.clientWidth && n.scrollWidth > n.clientWidth + 1
  && ["auto", "scroll"].includes(getComputedStyle(n).overflowX) && n.tabIndex < 0
  && !n.querySelector("a, button, input, select, [tabindex='0']")).map((n) => n.outerHTML.slice(0, 120))"""


def check_fits(page: Page) -> None:
    """The page, opened at the size of `PHONE` and whole."""
    for hands in all_ready(page) if page.query_selector("figure.vilib-explorable") else []:
        box = hands.root.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
        outside = hands.root.evaluate("""root => {
          const edge = root.getBoundingClientRect();
          return [...root.querySelectorAll('input, select, button, .vl-panel, figcaption')]
            .filter((node) => node.checkVisibility())
            .map((node) => ({ html: node.outerHTML.slice(0, 120), box: node.getBoundingClientRect() }))
            .filter(({ box }) => box.width < 8 || box.left < edge.left - 1 || box.right > edge.right + 1)
            .map(({ html }) => html);
        }""")
        assert outside == []
        for panel in hands.root.query_selector_all(".vl-panel:not([hidden]) svg"):
            assert panel.bounding_box()["height"] >= 90
        small = hands.root.evaluate(
            "root => [...root.querySelectorAll('input[type=range], select, button, .vl-chip')]"
            ".filter(n => n.checkVisibility()).map(n => [n.getBoundingClientRect(), n.outerHTML])"
            ".filter(([box]) => Math.min(box.width, box.height) < 24)"
            ".map(([box, html]) => `${box.width} x ${box.height}: ${html.slice(0, 60)}`)"
        )
        assert small == [], "too small for a finger (WCAG 2.5.8: 24 pixels)"
    assert page.evaluate("() => document.documentElement.scrollWidth") == PHONE["width"]


def check_reachable(page: Page) -> None:
    """What scrolls sideways is scrolled by keys too; what is set late, as soon as it is there."""
    try:
        page.wait_for_function(f"() => ({OUT_OF_REACH})().length === 0", timeout=5000)
    except PlaywrightTimeout:
        assert page.evaluate(OUT_OF_REACH) == []
        raise
