"""Every explorable of the built book, moved as a reader moves it: over http and as files, with the network cut off.

Nothing here sleeps. A test acts, and waits for the DOM contract (`hands.py`) to say what came of it.
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from book.hands import Hands, all_ready
from book.phone import PHONE
from book.sources import SHOWS, explorables_of
from book.test_site import PAGES

from vilib import book
from vilib.explorables.core import Choice, Definition, NewNoise, Play, Slider, Switches
from vilib.explorables.palette import INKS, PAGE
from vilib.explorables.recording import TINY

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
SHOWING = [
    name for name in PAGES
    if "{code-cell}" in (text := (ROOT / f"{name}.md").read_text()) and SHOWS.search(text)
]
DESKTOP = {"width": 1440, "height": 900}
TWO_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(null))))"


@pytest.fixture
def visit(visit):
    """Explorables do not wait for formulas."""
    return functools.partial(visit, formulas=False)


def everywhere(test):
    """Once a page that shows an explorable."""
    return pytest.mark.parametrize("name", SHOWING)(test)


#: What one visit can tell of a page's explorables, one check after the other; each begins where the explorables began.
CHECKS = []


def in_one_visit(check):
    """``check(page)``: a page takes longer to open than most things take to look at."""
    CHECKS.append(check)
    return check


@everywhere
def test_in_one_visit(site_http, visit, subtests, name):
    """Each of `CHECKS`. The reader has asked for reduced motion, so nothing is on its way when it is looked at."""
    page = visit(f"{site_http}/{name}.html", reduced_motion="reduce", viewport=DESKTOP).page
    figures = all_ready(page)
    for check in CHECKS:
        with subtests.test(check.__name__):
            if page.viewport_size != DESKTOP:  # to lay a page out again takes longer than most checks
                page.set_viewport_size(DESKTOP)
            page.evaluate("() => { document.documentElement.dataset.theme = 'light' }")
            for hands in figures:
                hands.find("button[name=reset]").dispatch_event("click")
            page.evaluate(TWO_FRAMES)  # in which what has a new size is drawn in it
            check(page)


def movable(hands: Hands) -> list[dict]:
    """The controls that offer more than one thing."""
    return [c for c in hands.spec["controls"] if c["kind"] != "choice" or len(c["options"]) > 1]


def test_the_pages_that_should_do_show_explorables(built_book):
    assert SHOWING
    showing = [name for name in PAGES if f'class="{book.EXPLORABLE}' in (built_book / f"{name}.html").read_text()]
    assert showing == SHOWING


# -- every control, by mouse and by keyboard ---------------------------------------------------------------------------


def _by_mouse(hands: Hands, control: dict) -> list[tuple[bool, bool]]:
    """Move one control with the pointer in every way it offers; what each move changed."""
    kind, name, seen = control["kind"], control["name"], []
    if kind in ("slider", "play"):
        slider = hands.find(f"input[name={name}]")
        low_half = slider.evaluate("i => i.valueAsNumber * 2 <= Number(i.max)")
        for share in (0.93, 0.07) if low_half else (0.07, 0.93):
            spoken = slider.get_attribute("aria-valuetext")
            box = slider.bounding_box()
            spot = {"x": box["width"] * share, "y": box["height"] / 2}
            seen.append(hands.changes(lambda at=spot: slider.click(position=at), f"a click on {name} at {share:.0%}"))
            assert slider.get_attribute("aria-valuetext") != spoken
    elif kind == "choice":  # the list itself is the system's, not the page's
        select = hands.find(f"select[name={name}]")
        for key, _ in [*control["options"][1:], control["options"][0]]:
            if select.input_value() != key:
                seen.append(hands.changes(lambda key=key: select.select_option(key), f"choosing {key} in {name}"))
    elif kind == "noise":
        seen += [
            hands.changes(hands.find(f"button[name={name}]").click, f"pressing {name}") for _ in range(control["count"])
        ]
    else:
        for key, _ in control["options"]:
            label = hands.find(f"label:has(input[name={name}][value={key}])")
            seen += [hands.changes(label.click, f"switching {key} in {name}") for _ in range(2)]
    return seen


def _by_keyboard(hands: Hands, control: dict) -> list[tuple[bool, bool]]:
    kind, name, seen = control["kind"], control["name"], []

    def press(selector: str, key: str, what: str) -> None:
        seen.append(hands.changes(lambda: hands.press(selector, key), what))

    if kind in ("slider", "play"):
        selector = f"input[name={name}]"
        slider = hands.find(selector)
        last = int(slider.get_attribute("max"))
        at = lambda: slider.evaluate("i => i.valueAsNumber")  # noqa: E731
        hands.press(selector, "End" if at() < last else "Home")
        for key, place in (
            ("Home", 0),
            ("ArrowRight", 1),
            ("ArrowUp", 2),
            ("ArrowLeft", 1),
            ("ArrowDown", 0),
            ("End", last),
        ):
            if place > last or at() == place:
                continue
            press(selector, key, f"{key} on {name}")
            assert at() == place, f"{key} on {name}"
    elif kind == "choice":
        selector = f"select[name={name}]"
        for key in ("Home", "End", "ArrowUp", "ArrowDown"):
            before = hands.find(selector).input_value()
            places = [k for k, _ in control["options"]]
            place, last = places.index(before), len(places) - 1
            goes = {"Home": 0, "End": last, "ArrowUp": max(place - 1, 0), "ArrowDown": min(place + 1, last)}[key]
            if goes != place:
                press(selector, key, f"{key} on {name}")
                assert hands.find(selector).input_value() == places[goes]
    elif kind == "noise":
        for key in ("Enter", "Space"):
            press(f"button[name={name}]", key, f"{key} on {name}")
    else:
        for key, _ in control["options"]:
            for _ in range(2):
                press(f"input[name={name}][value={key}]", "Space", f"Space on {key} of {name}")
    return seen


def _full_screen(hands: Hands, toggle) -> None:
    """The button fills the screen, or the window where a screen is not to be had; again gives it back."""
    button, frame = hands.find("button[name=fullscreen]"), hands.frame
    full = "(document.fullscreenElement === root || root.classList.contains('vl-maximised'))"
    small = hands.root.bounding_box()["height"]
    toggle()
    hands.until(f"{full} && root.querySelector('[name=fullscreen]').getAttribute('aria-pressed') === 'true'")
    hands.until(
        "root.getBoundingClientRect().width === innerWidth && root.getBoundingClientRect().height === innerHeight"
    )
    hands.until_drawn_after(frame)
    assert button.inner_text().strip() == "Leave full screen"
    frame = hands.frame
    toggle()
    hands.until(f"!{full} && root.querySelector('[name=fullscreen]').getAttribute('aria-pressed') === 'false'")
    hands.until_drawn_after(frame)
    hands.until("Math.abs(root.getBoundingClientRect().height - a) < 2", small)


@pytest.mark.parametrize(("move", "way"), [(_by_mouse, "http"), (_by_keyboard, "file")], ids=["mouse", "keyboard"])
@everywhere
def test_every_control_changes_the_picture(request, visit, name, move, way):
    site = request.getfixturevalue(f"site_{way}")
    seen = visit(f"{site}/{name}.html")
    for hands in all_ready(seen.page):
        assert hands.root.get_attribute("data-mode") == "recorded"
        first, drawn = hands.values(), hands.frame
        play = next((c for c in hands.spec["controls"] if c["kind"] == "play"), None)
        if play:  # where the story ends there is most to see
            hands.put({play["name"]: play["count"] - 1})
        for control in movable(hands):
            told = move(hands, control)
            assert told, f"{hands.name}: {control['name']} was not moved"
            assert any(picture for _, picture in told), f"{hands.name}: {control['name']} never changed the picture"
            if hands.spec["table"] and control["kind"] != "switches":
                assert any(numbers for numbers, _ in told), f"{hands.name}: {control['name']} never changed the table"

        def push(button: str, hands: Hands = hands) -> None:
            if move is _by_mouse:
                hands.find(f"button[name={button}]").click()
            else:
                hands.press(f"button[name={button}]", "Enter")

        hands.put({c["name"]: c["values"][-1] for c in hands.spec["controls"] if c["kind"] == "slider"})
        hands.changes(lambda: push("reset"), "reset")
        assert hands.values() == first
        _full_screen(hands, lambda: push("fullscreen"))
        assert hands.frame > drawn
    assert seen.strangers(site) == []
    assert seen.failed == []
    assert seen.complaints == []


@in_one_visit
def a_drag_follows_the_pointer(page):
    for hands in all_ready(page):
        control = next(c for c in hands.spec["controls"] if c["kind"] == "slider")
        slider = hands.find(f"input[name={control['name']}]")
        slider.press("Home")
        slider.scroll_into_view_if_needed()
        box, frame = slider.bounding_box(), hands.frame
        y = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + 8, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 2, y, steps=25)
        page.mouse.up()
        last = len(control["values"]) - 1
        hands.until(f"root.querySelector('input[name={control['name']}]').valueAsNumber === a", last)
        assert hands.frame - frame >= min(2, last), "nothing was drawn on the way"


@in_one_visit
def tab_reaches_every_control_and_shows_where_it_is(page):
    for hands in all_ready(page):
        nodes = hands.root.evaluate(
            """root => {
              root.tabbed = [...root.querySelectorAll("input, select, button")].filter((node) => node.checkVisibility());
              root.tabbed[0].focus();
              return root.tabbed.length;
            }"""
        )
        for i in range(nodes):
            assert hands.root.evaluate("(root, i) => root.tabbed[i] === document.activeElement", i)
            if i:  # focused by the keyboard
                ring = page.evaluate(
                    "() => { const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);"
                    " return outlineStyle !== 'none' && parseFloat(outlineWidth) >= 1; }"
                )
                assert ring, f"{hands.name}: nothing shows that control {i} has the focus"
            page.keyboard.press("Tab")


# -- play --------------------------------------------------------------------------------------------------------------


def players(page) -> list[tuple[Hands, dict]]:
    return [(hands, c) for hands in all_ready(page) for c in hands.spec["controls"] if c["kind"] == "play"]


def plays(built_book, name: str) -> bool:
    return bool(re.search(r'"kind":\s*"play"', (built_book / f"{name}.html").read_text()))


def test_some_page_plays(built_book):
    assert any(plays(built_book, name) for name in SHOWING)


@everywhere
def test_play_advances_pauses_and_ends(site_http, built_book, visit, name):
    if not plays(built_book, name):
        return
    seen = visit(f"{site_http}/{name}.html")
    for (hands, control), key in itertools.product(players(seen.page), ("click", "Space")):
        step, last = control["name"], control["count"] - 1
        button = hands.find("button[name=play]")
        pressed = "root.querySelector('[name=play]').getAttribute('aria-pressed') === a"
        place = f"Number(root.querySelector('output[data-control={step}]').dataset.value)"

        def push(hands=hands, button=button, key=key) -> None:
            button.click() if key == "click" else hands.press("button[name=play]", key)

        hands.put({step: last})
        picture, frame = hands.picture(), hands.frame
        push()  # from the end it starts again
        hands.until(pressed, "true")
        hands.until(f"{place} >= 2 && {place} < {last}")
        push()
        hands.until(pressed, "false")
        assert hands.frame > frame + 2
        assert hands.picture() != picture
        assert button.inner_text().strip() == "Play"
        stopped = (hands.frame, hands.values(), hands.picture())
        assert 2 <= int(stopped[1][step]) < last
        seen.page.evaluate(TWO_FRAMES)
        assert (hands.frame, hands.values(), hands.picture()) == stopped

        hands.put({step: last - 2})
        push()
        hands.until(f"{pressed} && {place} === {last}", "false")
        ended = hands.numbers()
        hands.put({step: 0})
        hands.put({step: last})
        assert hands.numbers() == ended
    assert seen.complaints == []


@in_one_visit
def reduced_motion_is_honoured(page):
    """No transitions; play goes from step to step and draws nothing between two."""
    for hands in all_ready(page):
        moving = hands.root.evaluate(
            "root => [...root.querySelectorAll('*')].map(n => getComputedStyle(n).transitionDuration)"
            ".filter(times => times.split(', ').some(time => time !== '0s')).length"
        )
        assert moving == 0
    for hands, control in players(page):
        step, last = control["name"], control["count"] - 1
        hands.put({step: last - 5})
        frame = hands.frame
        hands.find("button[name=play]").click()
        hands.until(
            f"root.querySelector('[name=play]').getAttribute('aria-pressed') === 'false' "
            f"&& Number(root.querySelector('output[data-control={step}]').dataset.value) === {last}"
        )
        assert hands.frame - frame <= 5 + 1  # a frame a step, and one for the pause


# -- the address -------------------------------------------------------------------------------------------------------


def _elsewhere(hands: Hands) -> dict:
    """A setting in which no control stands where it stood at first."""
    values = {}
    for control in movable(hands):
        kind, first = control["kind"], hands.spec["values"][control["name"]]
        if kind == "slider":
            values[control["name"]] = control["values"][0 if first == control["values"][-1] else -1]
        elif kind == "play":
            values[control["name"]] = control["count"] // 2
        elif kind == "noise":
            values[control["name"]] = control["count"] - 1
        else:
            keys = [key for key, _ in control["options"]]
            values[control["name"]] = keys[1:] if kind == "switches" else next(key for key in keys if key != first)
    return values


def _address_says(hands: Hands, values: dict) -> None:
    """Wait until the address carries these values."""
    wanted = {name: ",".join(v) if isinstance(v, list) else v for name, v in values.items()}
    hands.until(
        """location.hash.startsWith(`#${a.name}?`) && Object.entries(a.wanted).every(([key, value]) =>
        String(new URLSearchParams(location.hash.split("?")[1]).get(key)) === String(value))""",
        {"name": hands.name, "wanted": wanted},
    )


@everywhere
def test_the_address_brings_the_state_back(site_file, visit, name):
    page = visit(f"{site_file}/{name}.html").page
    for k, hands in enumerate(all_ready(page)):
        first, numbers = hands.values(), hands.numbers()
        values = _elsewhere(hands)
        hands.put(values)
        _address_says(hands, values)
        asked = parse_qs(urlsplit(page.url).fragment.partition("?")[2], keep_blank_values=True)
        assert set(asked) == set(first), "every control stands in the address"
        moved = hands.values()
        assert all(moved[c["name"]] != first[c["name"]] for c in movable(hands))
        if numbers:
            assert hands.numbers() != numbers

        again = visit(page.url)
        other = all_ready(again.page)[k]
        assert other.values() == moved
        assert other.numbers() == hands.numbers()
        assert other.caption == hands.caption
        assert (
            other.picture().replace("vl-clip", "") == hands.picture().replace("vl-clip", "")
            or other.root.bounding_box() != hands.root.bounding_box()
        )
        other.until("root.getBoundingClientRect().top < innerHeight && root.getBoundingClientRect().bottom > 0")
        # and the start is still the definition's
        other.find("button[name=reset]").click()
        other.until(
            "Object.entries(a).every(([k, v]) => root.querySelector(`output[data-control=${k}]`).dataset.value === v)",
            first,
        )
        assert again.complaints == []


@in_one_visit
def a_link_in_the_page_moves_the_explorable(page):
    for hands in all_ready(page):
        control = next(c for c in hands.spec["controls"] if c["kind"] == "slider")
        value = control["values"][0 if control["value"] == control["values"][-1] else -1]
        hands.changes(
            lambda h=hands, c=control, v=value: page.evaluate(
                "(hash) => { location.hash = hash }", f"#{h.name}?{c['name']}={v}"
            ),
            "a link",
        )
        assert float(hands.values()[control["name"]]) == value


@in_one_visit
def an_address_that_asks_for_what_is_not_offered_is_told_so(page):
    for hands in all_ready(page):
        control = next(c for c in hands.spec["controls"] if c["kind"] == "slider")
        first = hands.values()
        page.evaluate("(hash) => { location.hash = hash }", f"#{hands.name}?{control['name']}=12345.5&no_such_control=1")
        hands.until("root.querySelector('figcaption').textContent.includes('12345.5')")
        assert f"{control['name']}=12345.5" in hands.caption
        assert "no_such_control" in hands.caption
        assert "not offer" in hands.caption
        assert hands.values() == first
        hands.press(f"input[name={control['name']}]", "Home")
        hands.press(f"input[name={control['name']}]", "End")
        hands.until("!root.querySelector('figcaption').textContent.includes('12345.5')")


def test_a_page_opened_at_what_is_not_offered_says_so(site_http, visit):
    own = all_ready(visit(f"{site_http}/{SHOWING[0]}.html").page)[0]
    control = next(c for c in own.spec["controls"] if c["kind"] == "slider")
    here = visit(f"{site_http}/{SHOWING[0]}.html#{own.name}?{control['name']}=12345.5&no_such_control=1").page
    hands = all_ready(here)[0]
    assert f"{control['name']}=12345.5" in hands.caption and "no_such_control" in hands.caption and "not offer" in hands.caption
    assert hands.values() == own.values()


# -- the numbers are Python's ------------------------------------------------------------------------------------------


def _settings(definition: Definition, count: int) -> list[dict]:
    """Where to look: the start, the first and the last of everything, and places drawn at random."""
    generator = np.random.default_rng(20)
    every = {c.name: c.allowed() for c in definition.controls if not isinstance(c, Switches)}
    start = {c.name: c.value for c in definition.controls if c.name in every}
    settings = [start, {n: v[0] for n, v in every.items()}, {n: v[-1] for n, v in every.items()}]
    settings += [{n: v[generator.integers(len(v))] for n, v in every.items()} for _ in range(count)]
    return settings


def _agrees(shown: float | None, exact: float, spec: dict) -> bool:
    """Whether a number in the page is Python's, to the precision that the recording states."""
    if shown is None or math.isnan(exact):
        return shown is None and math.isnan(exact)
    slack = 1e-6 * abs(exact) + 1e-12
    if spec["coding"] == "step":
        return abs(shown - exact) <= spec["step"] / 2 + slack
    if spec["coding"] == "log":
        return abs(shown - exact) <= spec["relative"] * abs(exact) + TINY
    return abs(shown - exact) <= 2.0**-23 * abs(exact) + 1e-37


@everywhere
def test_every_number_is_what_python_computes(site_http, visit, name):
    page = visit(f"{site_http}/{name}.html").page
    figures, made = all_ready(page), explorables_of(ROOT / f"{name}.md")
    assert [hands.name for hands in figures] == [each.definition.name for each in made]
    for hands, explorable in zip(figures, made, strict=True):
        definition = explorable.definition
        stated = hands.spec["recording"]["channels"]
        assert hands.values() == {
            n: ",".join(v) if isinstance(v, tuple) else str(v) for n, v in _as_said(explorable.values()).items()
        }
        for setting in [explorable.values(), *_settings(definition, 3)]:
            hands.put({n: list(v) if isinstance(v, tuple) else v for n, v in setting.items()})
            frame = definition.frame(**{c.name: setting[c.name] for c in definition.computed})
            shown = hands.channels()
            assert set(shown) == set(frame)
            for channel, exact in frame.items():
                if exact.dtype == object:
                    assert shown[channel] == exact.item(), (hands.name, setting, channel)
                    continue
                assert len(shown[channel]) == len(exact)
                wrong = [
                    i
                    for i, (a, b) in enumerate(zip(shown[channel], exact.tolist(), strict=True))
                    if not _agrees(a, b, stated[channel])
                ]
                assert not wrong, (
                    hands.name,
                    setting,
                    channel,
                    wrong[0],
                    shown[channel][wrong[0]],
                    exact[wrong[0]],
                    stated[channel],
                )
            read = hands.numbers()
            for column, key in (
                (c, k) for c in (definition.table.columns if definition.table else ()) for k in definition.table.rows
            ):
                channel = column.channel.format(row=key)
                control = next((c for c in definition.controls if c.name == column.at), None)
                exact = float(frame[channel][control.allowed().index(setting[column.at]) if control else 0])
                text = read.pop(channel)
                assert (text == "nan") == math.isnan(exact), (hands.name, setting, channel, text, exact)
                assert _agrees(None if text == "nan" else float(text), exact, stated[channel]), (
                    hands.name,
                    setting,
                    channel,
                    text,
                    exact,
                )
            assert read == {}


def _as_said(values: dict) -> dict:
    """JavaScript writes 1.0 as 1."""
    return {n: int(v) if isinstance(v, float) and v.is_integer() else v for n, v in values.items()}


@everywhere
def test_the_kinds_of_control_are_all_known(name):
    """A new kind of control must come with its moves above."""
    for explorable in explorables_of(ROOT / f"{name}.md"):
        assert all(isinstance(c, Slider | Choice | NewNoise | Switches | Play) for c in explorable.definition.controls)


# -- the look ----------------------------------------------------------------------------------------------------------


@in_one_visit
def axes_hold_still_while_a_slider_inside_the_frame_moves(page):
    """S rides along curves that are there, the play head along a path: neither moves what they are read against."""
    for hands in all_ready(page):
        for control in hands.spec["controls"]:
            places = range(control["count"]) if control["kind"] == "play" else control.get("values", ())
            if control["name"] not in ("sample_count", "step") or (
                control["name"] == "sample_count" and hands.name != "gradient-variance"
            ):
                continue
            axes, pictures = set(), set()
            for place in places:
                hands.put({control["name"]: place})
                axes.add(tuple(hands.axes()))
                pictures.add(hands.picture())
            assert len(axes) == 1, f"{hands.name}: {control['name']} moves an axis"
            assert len(pictures) == len(places)


@everywhere
def test_without_javascript_a_picture_stands_there(site_file, visit, name):
    page = visit(f"{site_file}/{name}.html", java_script_enabled=False).page
    figures = page.locator("figure.vilib-explorable")
    assert figures.count() == len(explorables_of(ROOT / f"{name}.md"))
    for figure in figures.all():
        picture = figure.locator("svg").first
        picture.wait_for(state="visible")
        box, outer = picture.bounding_box(), figure.bounding_box()
        assert box["width"] >= 300 and box["height"] >= 100
        assert box["x"] >= outer["x"] - 1 and box["x"] + box["width"] <= outer["x"] + outer["width"] + 1
        assert picture.locator("path, use").count() > 20
        assert picture.get_attribute("role") == "img" and picture.get_attribute("aria-label")
        assert not figure.locator("script").first.is_visible()


@in_one_visit
def the_background_follows_the_theme(page):
    for hands in all_ready(page):
        for now in ("dark", "light"):
            page.evaluate("(theme) => { document.documentElement.dataset.theme = theme }", now)
            wanted = getattr(PAGE, now)
            hands.until(
                "getComputedStyle(root).backgroundColor === a", f"rgb({', '.join(str(c) for c in _rgb(wanted))})"
            )
            around = hands.root.evaluate("""root => {
              for (let node = root.parentElement; node; node = node.parentElement) {
                const color = getComputedStyle(node).backgroundColor;
                if (color !== "rgba(0, 0, 0, 0)") return color.match(/[\\d.]+/g).slice(0, 3).map(Number);
              }
            }""")
            assert (_luminance(around) < 0.1) == (now == "dark"), f"{hands.name} stands on {around} in a {now} page"
            mark = hands.root.evaluate("root => getComputedStyle(root).getPropertyValue('--vl-score').trim()")
            assert mark == getattr(INKS["score"], now)
        page.evaluate("() => { document.documentElement.dataset.theme = 'dark' }")


# -- for everyone ------------------------------------------------------------------------------------------------------


@in_one_visit
def everything_has_a_name_that_can_be_spoken(page):
    for viewport, hands in itertools.product((DESKTOP, PHONE), all_ready(page)):
        if page.viewport_size != viewport:
            page.set_viewport_size(viewport)
        nameless = hands.root.evaluate("""root => [...root.querySelectorAll("input, select, button")].filter((node) => {
          const label = node.getAttribute("aria-label") || node.title || node.innerText?.trim() ||
            [...(node.labels || [])].map((label) => label.textContent.trim()).join(" ");
          return !label || !node.name;
        }).map((node) => node.outerHTML.slice(0, 120))""")
        assert nameless == []
        for slider in hands.root.query_selector_all("input[type=range]"):
            control = next(c for c in hands.spec["controls"] if c["name"] == slider.get_attribute("name"))
            said = slider.get_attribute("aria-valuetext")
            assert said and control["label"] in said and any(letter.isdigit() for letter in said)
        for group in hands.root.query_selector_all("[role=group]"):
            assert group.get_attribute("aria-label")
        assert hands.find("figcaption").get_attribute("aria-live") == "polite"
        assert hands.caption and "{" not in hands.caption and "undefined" not in hands.caption
        for svg in hands.root.query_selector_all(".vl-panel svg"):
            assert svg.get_attribute("role") == "img" and svg.get_attribute("aria-label")
        twice = hands.root.evaluate("""root => [...root.querySelectorAll('[id]')].map(n => n.id)
            .filter(id => document.querySelectorAll(`[id="${id}"]`).length > 1)""")
        assert not twice, "an id of ours is used twice in the page"
        for target in hands.root.evaluate(
            "root => [...root.querySelectorAll('[for]')].map(n => n.getAttribute('for'))"
        ):
            assert hands.root.evaluate("(root, id) => root.querySelector(`[id=\"${id}\"]`) !== null", target)


def _rgb(color: str) -> tuple[int, int, int]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def _luminance(rgb) -> float:
    parts = [c / 255 for c in rgb]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(a, b) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@in_one_visit
def every_word_stands_out_from_its_background(page):
    """WCAG AA, 4.5 to 1, for all text as the browser has resolved it; rows that are switched off are exempt."""
    for theme, hands in itertools.product(("light", "dark"), all_ready(page)):
        page.evaluate("(theme) => { document.documentElement.dataset.theme = theme }", theme)
        hands.until("getComputedStyle(root).backgroundColor === a", f"rgb({', '.join(str(c) for c in _rgb(getattr(PAGE, theme)))})")
        words = hands.root.evaluate("""root => {
          const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
          const found = [];
          for (const node of root.querySelectorAll("*")) {
            const text = [...node.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent).join(" ").trim();
            if (!text || !node.checkVisibility()) continue;
            if (node.closest("script, style, .vl-off, .vl-none, .vl-hidden, option")) continue;
            const style = getComputedStyle(node), svg = node instanceof SVGElement;
            let opacity = svg ? Number(style.fillOpacity) : 1, ground = null;
            for (let up = node; up && !(ground && up === root.parentElement); up = up.parentElement) {
              const color = numbers(getComputedStyle(up).backgroundColor);
              if (!ground && !(up instanceof SVGElement) && (color[3] ?? 1) > 0.99) ground = color.slice(0, 3);
              opacity *= Number(getComputedStyle(up).opacity);
            }
            const ink = numbers(svg ? style.fill : style.color).slice(0, 3);
            found.push({ text: text.slice(0, 40), ink, ground, opacity });
          }
          return found;
        }""")
        assert len(words) > 20
        for word in words:
            ink = [
                word["opacity"] * a + (1 - word["opacity"]) * b
                for a, b in zip(word["ink"], word["ground"], strict=True)
            ]
            assert _contrast(ink, word["ground"]) >= 4.5, (hands.name, word)
