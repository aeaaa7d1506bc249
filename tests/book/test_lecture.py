"""The lecture view of a chapter, on a projector's screen, with the keyboard alone."""

from __future__ import annotations

import re

import pytest

pytestmark = pytest.mark.browser
PROJECTOR = {"width": 1920, "height": 1080}
READY = """() => window.vilibLecture
  && [...document.querySelectorAll("figure.vilib-explorable")].every((figure) => figure.dataset.ready === "true")"""
#: What stands on the screen now.
NOW = """() => {
  const screen = vilibLecture.screens[vilibLecture.at];
  const seen = (node) => node && node.checkVisibility() && node.getBoundingClientRect().height > 0;
  return {
    kind: screen.kind, kept: screen.kept.length, shown: screen.kept.filter(seen).length,
    text: screen.prose.filter(seen).length, said: document.querySelector(".vilib-lecture-bar output").textContent,
    others: vilibLecture.screens.filter((other) => other !== screen).flatMap((other) => other.kept).filter(seen).length,
  };
}"""


#: How far what stands on the screen reaches below its lower edge, where the bar begins.
BELOW = """() => Math.max(...[...document.querySelectorAll("article .vilib-now:not(section)")].map((n) => n.getBoundingClientRect().bottom))
  - document.querySelector(".vilib-lecture-bar").getBoundingClientRect().top"""
#: The size of what is read on the screen, in pixels.
TYPE = "() => parseFloat(getComputedStyle(vilibLecture.screens[vilibLecture.at].kept[0]).fontSize)"
TO_THE_FIRST = "(kind) => { vilibLecture.show(vilibLecture.screens.findIndex((s) => s.kind === kind)); return vilibLecture.at; }"


@pytest.fixture
def lecture(visit, site_file):
    """Open a chapter's lecture view from disk; a page with a record of what went wrong."""

    def open_at(address: str):
        seen = visit(f"{site_file}/chapters/{address}", viewport=PROJECTOR)
        seen.page.wait_for_function(READY)
        return seen

    return open_at


def pages(built_book) -> list[str]:
    return sorted(p.stem for p in (built_book / "chapters").glob("*.html") if 'class="vilib-explorable' in p.read_text())


def test_every_screen_shows_what_it_keeps_and_nothing_else(lecture, built_book):
    for name in pages(built_book)[::4]:  # every fourth chapter: a screen takes its time
        seen = lecture(f"{name}.html?lecture")
        page, kinds = seen.page, []
        count = page.evaluate("() => vilibLecture.screens.length")
        for k in range(count):
            now = page.evaluate(NOW)
            assert now["said"] == f"{k + 1} / {count}"
            assert now["shown"] == now["kept"], f"{name}, screen {k + 1}"
            assert now["others"] == now["text"] == 0, f"{name}, screen {k + 1}"
            kinds.append(now["kind"])
            page.keyboard.press("ArrowRight")
        assert {"title", "explorable", "formula", "exercise"} <= set(kinds), name
        assert page.evaluate(NOW)["said"] == f"{count} / {count}", "the last screen stays"
        assert not page.locator(".bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article").locator("visible=true").count()
        assert seen.complaints == [] and seen.failed == []
        page.close()


def first_explorable(page) -> str:
    """Step to the first screen with an explorable that has presets; its name."""
    k = page.evaluate("() => vilibLecture.screens.findIndex((s) => s.kind === 'explorable')")
    page.evaluate("(k) => vilibLecture.show(k)", k)
    return page.evaluate("(k) => vilibLecture.screens[k].kept[0].querySelector('figure.vilib-explorable').dataset.explorable", k)


def test_keys_pick_a_preset_reset_and_ask(lecture):
    page = lecture("score-function.html?lecture").page
    name = first_explorable(page)
    figure = page.locator(f"figure[data-explorable={name}]")
    values = "(figure) => ({...figure.vilibView.values})"
    at_first = figure.evaluate(values)

    links = "(links) => links.map((a) => a.getAttribute('href'))"
    questions = page.evaluate(
        f"""() => vilibLecture.screens[vilibLecture.at].prose.filter((p) => /predict/i.test(p.querySelector("em")?.textContent))
          .map((p) => ({links})([...p.querySelectorAll("a[href^='#{name}?']")]))"""
    )
    assert len(questions) >= 3
    page.keyboard.press("3")
    def asked(link: str) -> dict[str, str]:
        return dict(pair.split("=") for pair in link.split("?")[1].split("&"))

    def stands(link: str) -> bool:
        """The explorable as a link wants it, and the address too, whether it is the link's yet or says all."""
        wanted, now, said = asked(link), figure.evaluate(values), asked(page.evaluate("() => location.hash"))
        return all(str(now[key]) == said[key] == value for key, value in wanted.items())

    wanted = asked(questions[2][0])
    assert stands(questions[2][0]) and wanted != {key: str(at_first[key]) for key in wanted}

    page.keyboard.press("r")
    assert figure.evaluate(values) == at_first

    prompts = page.locator(".vilib-prompts")
    assert not prompts.is_visible()
    page.keyboard.press("p")
    assert prompts.is_visible() and re.search("predict", prompts.inner_text(), re.IGNORECASE)
    third = prompts.inner_text()
    twice = next(k for k, each in enumerate(questions) if len(each) == 2 and k != 2)
    page.keyboard.press(str(twice + 1))
    assert prompts.is_visible() and prompts.inner_text() != third
    assert stands(questions[twice][0])
    page.keyboard.press(str(twice + 1))
    assert stands(questions[twice][1])
    prompts.locator("a").first.click()
    assert stands(questions[twice][0])
    page.keyboard.press("p")
    assert not prompts.is_visible()


def test_the_arrows_stay_with_a_slider_and_the_page_keys_do_not(lecture):
    page = lecture("score-function.html?lecture").page
    name = first_explorable(page)
    slider = page.locator(f"figure[data-explorable={name}] input[type=range]").first
    slider.focus()
    before, at = slider.input_value(), page.evaluate("() => vilibLecture.at")
    page.keyboard.press("ArrowRight")
    assert slider.input_value() != before and page.evaluate("() => vilibLecture.at") == at
    page.keyboard.press("PageDown")
    assert page.evaluate("() => vilibLecture.at") == at + 1
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("() => vilibLecture.at") == at


def test_the_text_unfolds_and_the_view_is_left_where_it_stood(lecture):
    page = lecture("pathwise.html?lecture=5").page
    assert page.evaluate(NOW)["said"].startswith("5 /")
    assert page.evaluate(NOW)["text"] == 0
    page.keyboard.press("t")
    assert page.evaluate(NOW)["text"] > 0
    page.keyboard.press("Escape")
    assert not page.locator(".vilib-lecture-bar").is_visible()
    assert page.locator("article h2").first.is_visible() and "lecture" not in page.evaluate("() => location.search")
    page.locator(".vilib-lecture-button").click()
    assert page.locator(".vilib-lecture-bar").is_visible()


def test_an_address_brings_back_screen_and_state(lecture):
    page = lecture("score-function.html?lecture#gradient-variance?sample_count=256&cost=cosine").page
    now = page.evaluate(NOW)
    assert now["kind"] == "explorable"
    values = page.locator("figure[data-explorable=gradient-variance]").evaluate("(f) => f.vilibView.values")
    assert (values["sample_count"], values["cost"]) == (256, "cosine")
    page.reload()
    page.wait_for_function(READY)
    assert page.evaluate(NOW) == now


def test_an_explorable_fits_a_projector(lecture, built_book):
    for name in pages(built_book)[1::2]:
        page = lecture(f"{name}.html?lecture").page
        places = page.evaluate("() => vilibLecture.screens.flatMap((s, k) => s.kind === 'explorable' ? [k] : [])")
        for k in places:
            page.evaluate("(k) => vilibLecture.show(k)", k)
            width = page.evaluate("() => document.documentElement.scrollWidth")
            assert width <= PROJECTOR["width"], f"{name}, screen {k + 1}: wider than the screen"
            assert page.evaluate(BELOW) <= 0, f"{name}, screen {k + 1}: higher than the screen"
        page.close()


@pytest.mark.parametrize("clipboard", [True, False], ids=["clipboard", "no-clipboard"])
def test_a_copied_link_brings_back_screen_and_state(visit, site_http, clipboard):
    """From the button, or by the old way where the browser gives pages no clipboard; then by hand, from the caption."""
    home = f"{site_http}/chapters/score-function.html"
    page = visit(f"{home}?lecture", viewport=PROJECTOR, permissions=["clipboard-read", "clipboard-write"]).page
    page.wait_for_function(READY)
    name = first_explorable(page)
    figure = page.locator(f"figure[data-explorable={name}]")
    figure.locator("input[type=range]").first.press("End")
    at, values = page.evaluate(NOW)["said"], figure.evaluate("(f) => JSON.stringify(f.vilibView.values)")
    if not clipboard:
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")
    button = figure.locator("button[name=copy]")
    button.click()
    button.get_by_text("Copied", exact=True).wait_for()
    link = page.evaluate("() => navigator.clipboard.readText()")
    assert link.startswith(f"{home}?lecture={at.split(' /')[0]}#{name}?")
    again = visit(link, viewport=PROJECTOR).page
    again.wait_for_function(READY)
    assert again.evaluate(NOW)["said"] == at
    assert again.locator(f"figure[data-explorable={name}]").evaluate("(f) => JSON.stringify(f.vilibView.values)") == values
    if not clipboard:
        page.evaluate("() => { document.execCommand = () => false; }")
        button.click()
        button.get_by_text("Not copied").wait_for()
        assert link in figure.locator("figcaption").inner_text()


def typeset(page) -> None:
    """Wait for the formulas, and for the screen that takes them in."""
    page.evaluate("() => MathJax.startup.promise.then(() => document.fonts.ready).then(() => new Promise(requestAnimationFrame))")


def test_type_is_as_large_as_the_screen_allows(lecture):
    page = lecture("score-function.html?lecture").page
    typeset(page)
    sizes = {}
    for k in range(page.evaluate("() => vilibLecture.screens.length")):
        page.evaluate("(k) => vilibLecture.show(k)", k)
        if page.evaluate(NOW)["kind"] in ("formula", "box", "prose"):
            sizes[k + 1] = page.evaluate(TYPE)
            assert page.evaluate(BELOW) <= 0 or sizes[k + 1] == min(sizes.values()), f"screen {k + 1} is too high, and its type is large"
    assert max(sizes.values()) >= 1.5 * min(sizes.values())
    assert sorted(sizes.values())[len(sizes) // 2] > PROJECTOR["height"] / 28, "most screens are read from the last row"


def test_page_down_reads_a_long_screen_to_its_end_before_the_next(lecture):
    page = lecture("score-function.html?lecture").page
    typeset(page)
    at = page.evaluate(TO_THE_FIRST, "exercise")
    bar = page.locator(".vilib-lecture-bar")
    assert bar.get_attribute("data-more") is None
    page.keyboard.press("a")  # its solution
    page.wait_for_function(f"() => ({BELOW})() > 100 && document.querySelector('.vilib-lecture-bar').hasAttribute('data-more')")
    presses = 0
    while page.evaluate(BELOW) > 8:
        page.keyboard.press(" " if presses % 2 else "PageDown")
        presses += 1
        assert page.evaluate("() => vilibLecture.at") == at and page.evaluate("() => scrollY") > 0 and presses < 20
    page.keyboard.press("PageDown")
    assert page.evaluate("() => [vilibLecture.at, scrollY]") == [at + 1, 0]
    page.keyboard.press("PageUp")
    assert page.evaluate("() => vilibLecture.at") == at
    page.keyboard.press("a")
    page.wait_for_function(f"() => ({BELOW})() <= 0 && !document.querySelector('.vilib-lecture-bar').hasAttribute('data-more')")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => vilibLecture.at") == at + 1


def test_the_view_opens_where_it_was_left(lecture):
    page = lecture("score-function.html").page
    typeset(page)
    easel = page.locator(".vilib-lecture-button")
    easel.click()
    assert page.evaluate("() => vilibLecture.at") == 0, "at the top of a chapter it begins with the title"
    for k in range(1, page.evaluate("() => vilibLecture.screens.length"), 3):
        page.evaluate("(k) => vilibLecture.show(k)", k)
        page.keyboard.press("Escape")
        easel.click()
        assert page.evaluate("() => vilibLecture.at") == k


def test_a_link_leads_to_its_screen_and_back_comes_back(lecture):
    page = lecture("score-function.html?lecture").page
    number = page.evaluate("""() => {
      vilibLecture.show(vilibLecture.screens.findIndex((s) => s.kept.some((n) => n.querySelector("a[href^='#ex-']"))));
      return vilibLecture.at;
    }""")
    shown = page.locator("article .vilib-now:not(section)")
    for target, kind in (("#equation-", "formula"), ("#ex-", "exercise")):
        link = shown.locator(f"a[href^='{target}']").first
        label = link.get_attribute("href")
        link.click()
        now = page.evaluate(NOW)
        assert now["kind"] == kind and page.locator(label).is_visible() and page.evaluate("() => vilibLecture.at") != number
        page.go_back()
        page.wait_for_function("(k) => vilibLecture.at === k", arg=number)
    page.evaluate("() => document.querySelector('.vilib-lecture-bar [name=screens]').click()")
    page.locator(".vilib-sheet a").last.click()  # the next chapter
    page.wait_for_url("**/variance-reduction.html?lecture*")
    page.wait_for_function(READY)
    assert page.evaluate(NOW)["kind"] == "title"
    page.go_back()
    page.wait_for_url(f"**/score-function.html?lecture={number + 1}")


def test_all_screens_and_the_keys_are_a_key_away(lecture):
    page = lecture("score-function.html?lecture=3").page
    sheet = page.locator(".vilib-sheet")
    page.keyboard.press("?")
    assert sheet.is_visible() and {"P", "R", "T", "S"} <= set(sheet.locator("dt").all_inner_texts())
    page.keyboard.press("s")
    assert sheet.locator("button").count() == page.evaluate("() => vilibLecture.screens.length")
    assert sheet.locator(":focus").inner_text() == "3"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.evaluate(NOW)["said"].startswith("4 /") and not sheet.is_visible()
    page.keyboard.press("s")
    page.keyboard.press("Escape")
    assert not sheet.is_visible() and page.locator(".vilib-lecture-bar").is_visible(), "Escape leaves the list first"


def test_a_part_of_a_section_says_of_which(lecture):
    page = lecture("advi.html?lecture").page
    page.evaluate("() => vilibLecture.show(vilibLecture.screens.findIndex((s) => s.section.parentElement.querySelector(':scope > h2')))")
    headings = page.locator("article :is(h2, h3)").locator("visible=true")
    assert [headings.nth(k).evaluate("(h) => h.tagName") for k in range(headings.count())] == ["H2", "H3"]


def test_a_reference_begins_with_its_author(lecture):
    page = lecture("advi.html?lecture").page
    page.keyboard.press("End")
    assert page.locator("article .citation").locator("visible=true").count() > 3
    assert page.locator("article .citation .backrefs").count() and not page.locator("article .citation .backrefs").locator("visible=true").count()


def test_a_question_has_its_settings_at_hand(lecture):
    """Whatever number a question says to try, a second press of its digit sets it."""
    page = lecture("score-function.html?lecture#gradient-variance").page
    said = []
    for _ in range(3):
        page.keyboard.press("1")
        said.append(page.locator("figure[data-explorable=gradient-variance]").evaluate("(f) => f.vilibView.values.sample_count"))
    assert said == [16, 64, 256]


def test_the_code_of_an_explorable_does_not_stand_before_it(lecture):
    page = lecture("pathwise.html?lecture#wiggles").page
    assert page.evaluate(NOW)["kind"] == "explorable"
    assert page.evaluate(BELOW) <= 0 and not page.locator("article .cell_input").locator("visible=true").count()


def test_a_projector_of_four_to_three_shows_panels_that_can_be_read(visit, site_file):
    page = visit(f"{site_file}/chapters/score-function.html?lecture#gradient-variance", viewport={"width": 1024, "height": 768}).page
    page.wait_for_function(READY)
    plots = page.locator("figure[data-explorable=gradient-variance] .vl-panel:not([hidden]) .vl-plot")
    heights = plots.evaluate_all("(plots) => plots.map((plot) => plot.clientHeight)")
    assert min(heights) >= 110 and page.evaluate(BELOW) <= 0, heights
