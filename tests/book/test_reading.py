"""What a reader of the pages leans on: a link arrives, a search leads to the chapter, what goes on out of sight says so."""

from __future__ import annotations

import pytest
from book.hands import all_ready
from book.phone import PHONE

pytestmark = pytest.mark.browser

#: How far below the top bar the place stands that the address names.
BELOW = """() => {
  const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  return place.getBoundingClientRect().top - parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop);
}"""


@pytest.mark.parametrize(("way", "viewport"), [("file", PHONE), ("http", {"width": 1280, "height": 900})], ids=["phone", "desk"])
def test_a_link_from_elsewhere_arrives_whatever_is_set_above_it(request, visit, way, viewport):
    seen = visit(f"{request.getfixturevalue(f'site_{way}')}/chapters/score-function.html#exercises", viewport=viewport)
    page = seen.page
    page.wait_for_function("() => window.MathJax && MathJax.startup && MathJax.startup.promise")
    page.evaluate("() => MathJax.startup.promise.then(() => null)")  # formulas have their height
    page.evaluate("() => document.fonts.ready.then(() => null)")
    page.wait_for_function(f"() => Math.abs(({BELOW})()) < 2")
    page.mouse.move(viewport["width"] / 2, viewport["height"] / 2)
    page.mouse.wheel(0, -400)
    page.wait_for_function(f"() => ({BELOW})() > 100")
    page.evaluate("() => { document.querySelector('.bd-article p').style.marginBottom = '300px'; }")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate(BELOW) > 100, "a reader who has moved is left in peace"


def test_no_line_begins_with_a_full_stop(site_http, visit):
    page = visit(f"{site_http}/chapters/score-function.html", formulas=False).page
    page.wait_for_function("() => document.querySelectorAll('.vilib-whole').length > 50")
    apart = page.evaluate("""() => [...document.querySelectorAll("article span.math")]
      .filter((n) => /^[.,;:]/.test(n.nextSibling?.data ?? "") && getComputedStyle(n.parentNode).whiteSpace !== "nowrap").length""")
    assert apart == 0


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ("mean field", "chapters/mean-field"), ("ELBO", "chapters/elbo"), ("KL divergence", "chapters/kl"), ("VAE", "chapters/vae"),
        ("control variate", "chapters/variance-reduction"), ("reparameterization trick", "chapters/pathwise"),
        ("gradient variance", "chapters/score-function"), ("check_unbiased", "reference/checks"), ("MeanFieldGaussian", "reference/models"),
    ],
)
def test_a_search_leads_to_the_chapter_and_a_name_to_the_reference(site_file, visit, asked, first):
    page = visit(f"{site_file}/search.html?q={asked.replace(' ', '+')}").page
    page.locator(".search-summary", has_text="found").wait_for()
    found = [link.get_attribute("href").split(".html")[0] for link in page.locator("#search-results li > a").all()]
    assert found[0] == first
    if not first.startswith("reference/"):
        aside = [each.startswith("reference/") or each.split("/")[-1] in ("class", "coverage", "how-to", "notation") for each in found]
        assert aside == sorted(aside), "the chapters come before the reference"


def test_what_is_typed_into_the_search_stands_beside_its_sign(site_http, visit):
    page = visit(f"{site_http}/search.html?q=noise").page
    sign = page.locator("main form.bd-search > i").bounding_box()
    text = page.locator("main form.bd-search input").evaluate("(n) => n.getBoundingClientRect().left + parseFloat(getComputedStyle(n).paddingLeft)")
    assert sign["x"] + sign["width"] <= text


def test_what_goes_on_at_the_right_says_so_until_it_is_seen(site_http, visit):
    page = visit(f"{site_http}/chapters/score-function.html", viewport=PHONE, has_touch=True).page
    all_ready(page)
    wide = page.locator("figure.vilib-more").first
    wide.wait_for()
    wide.evaluate("(node) => { node.scrollLeft = node.scrollWidth; }")
    page.wait_for_function("() => !document.querySelector('.bd-article figure:has(> img)').classList.contains('vilib-more')")


def test_an_opened_solution_is_not_framed(site_http, visit):
    page = visit(f"{site_http}/chapters/score-function.html", formulas=False).page
    button = page.locator(".solution.toggle button.toggle-button").first
    button.click()
    assert button.evaluate("(n) => getComputedStyle(n.closest('.admonition-title') ?? n.parentNode, '::before').borderTopWidth") == "0px"


def test_a_chapter_on_paper_has_its_number(site_http, visit):
    page = visit(f"{site_http}/chapters/score-function.html", formulas=False).page
    page.emulate_media(media="print")
    title = page.locator("#jb-print-docs-body > h1")
    assert title.is_visible()
    assert title.inner_text().split() == ["5.", *"A gradient with no derivative of the model".split()]
    assert title.evaluate("(n) => getComputedStyle(n).textAlign") == "left"


def test_a_fit_that_was_thrown_out_is_drawn_without_an_error(site_http, visit):
    seen = visit(f"{site_http}/intro.html", formulas=False)
    race = next(hands for hands in all_ready(seen.page) if hands.name == "fit-race")
    last = race.find("input[name=step]").evaluate("(n) => Number(n.max)")
    race.put({"optimizer": "sgd", "step": last})
    race.until("root.querySelector('figcaption').innerText.includes('threw it out')")
    assert "Infinity" not in race.picture()
    assert seen.complaints == []
