"""On paper: explorables as pictures, light, solutions folded unless they are asked for."""

from __future__ import annotations

import pytest
from book.hands import all_ready

pytestmark = pytest.mark.browser
CHAPTER = "chapters/score-function"
FOLDED = "() => document.querySelectorAll('.solution.toggle-hidden').length"


@pytest.fixture
def printed(visit, site_http):
    """A chapter as it goes to the printer of a reader whose page is dark."""
    page = visit(f"{site_http}/{CHAPTER}.html", color_scheme="dark", formulas=False).page
    all_ready(page)
    page.evaluate("() => { window.print = () => { window.asked = document.querySelectorAll('.solution.toggle-hidden').length; }; }")
    page.emulate_media(media="print")
    return page


def test_an_explorable_is_a_picture_on_paper(printed):
    for hands in all_ready(printed):
        assert hands.find(".vl-panel:not([hidden]) svg").is_visible()
        assert hands.find("figcaption").is_visible()
        idle = hands.root.evaluate("root => [...root.querySelectorAll('input, select, button')].filter((n) => n.checkVisibility()).length")
        assert idle == 0, "nothing can be moved on paper"
        box = hands.root.evaluate("root => getComputedStyle(root).backgroundColor")
        assert box == "rgb(255, 255, 255)"
        values = hands.root.evaluate("root => [...root.querySelectorAll('output[data-control]')].filter((n) => n.checkVisibility()).length")
        assert values >= 1, "where the controls stood is said"


def test_the_page_is_white_on_paper(printed):
    ground = "(n) => getComputedStyle(n).backgroundColor"
    assert printed.locator("body").evaluate(ground) in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
    ink = printed.locator("article p").first.evaluate("(n) => getComputedStyle(n).color.match(/\\d+/g).map(Number)")
    assert max(ink[:3]) < 120
    assert not printed.locator(".bd-sidebar, .bd-header, .bd-header-article, .prev-next-area").locator("visible=true").count()


def test_solutions_are_printed_when_they_are_asked_for(printed):
    printed.emulate_media(media="screen")
    folded = printed.evaluate(FOLDED)
    assert folded >= 4
    printed.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert printed.evaluate(FOLDED) == folded, "nobody asked"
    printed.locator("[aria-label='Download this page']").click()
    printed.locator(".vilib-print-solutions").click()
    assert printed.evaluate("() => window.asked") == 0
    printed.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert printed.evaluate(FOLDED) == folded
