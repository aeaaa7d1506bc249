"""The live front end without a server: a stub of the widget model in a bare page, and packets as Python makes them.

What a kernel does to the page, from a slow answer to silence, played by hand; `test_lab.py` and `test_own_models.py` have real ones.
"""

from __future__ import annotations

import base64
import json

import pytest
from book.hands import Hands
from explorables.toys import compute, toy

from vilib.explorables import Explorable
from vilib.explorables.widget import static_text

pytestmark = pytest.mark.browser

#: What anywidget hands to `render`: get, set, save_changes, send, on, off; `arrive` plays a message from the kernel.
STUB = """(state) => {
  const heard = new Map(), bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const whole = (value) => (value && value.data64 ? { ...value, data: bytes(value.data64) } : value);
  const fire = (what) => (heard.get(what) || []).forEach((act) => act());
  window.model = {
    saved: [], sent: [],
    get: (name) => whole(state[name]),
    set(name, value) { const news = JSON.stringify(state[name]) !== JSON.stringify(value); state[name] = value; if (news) fire(`change:${name}`); },
    save_changes() { this.saved.push(JSON.parse(JSON.stringify({ ...state, _frame: null, _spec: null }))); },
    send(content) { this.sent.push(content); },
    on(what, act) { heard.set(what, [...(heard.get(what) || []), act]); },
    off(what, act) { heard.set(what, (heard.get(what) || []).filter((one) => one !== act)); },
    arrive(name, value) { state[name] = value; fire(`change:${name}`); },
    fire,
  };
  document.body.style.width = "1200px";
  window.leave = vilibExplorables.render({ model, el: document.body });
}"""


def packed(packet: dict) -> dict:
    """A packet as JSON can carry it."""
    data = {"data64": base64.b64encode(packet["data"]).decode()} if "data" in packet else {}
    return {key: value for key, value in packet.items() if key != "data"} | data


class Kernel:
    """A page with one live explorable, and the kernel's side of it."""

    def __init__(self, browser, first: bool = True) -> None:
        self.explorable = Explorable(toy())
        self.page = browser.new_page()
        self.page.clock.install(time=0)
        self.page.clock.pause_at(1000)  # time passes when a test says so
        self.page.set_content("<!doctype html><html><body></body></html>")
        self.page.add_style_tag(content=static_text("explorable.css"))
        self.page.add_script_tag(content=static_text("explorable.js"))
        state = self.explorable.values() | {
            "_spec": self.explorable.definition.specification(),
            "_request": 0,
            "_progress": {},
            "_frame": packed(self.explorable._frame) if first else {},
        }
        self.page.evaluate(STUB, json.loads(json.dumps(state, default=list)))
        self.hands = Hands(self.page, self.page.query_selector("figure"))

    def answer(self, request: int, serial: int, **values) -> None:
        """The frame for these controls arrives."""
        controls = self.explorable.definition.defaults() | values
        fresh = Explorable(toy(), **values)
        self.arrive("_frame", packed(fresh._frame | {"request": request, "serial": serial, "controls": controls}))

    def arrive(self, name: str, value: dict) -> None:
        self.page.evaluate(
            "([name, value]) => model.arrive(name, value)", [name, json.loads(json.dumps(value, default=list))]
        )

    def at_work(self, request: int, serial: int, words: str = "", share: float | None = None) -> None:
        self.arrive("_progress", {"request": request, "serial": serial, "words": words, "share": share})

    def pass_by(self, milliseconds: int) -> None:
        self.page.clock.run_for(milliseconds)

    @property
    def asked(self) -> list[tuple[int, float]]:
        """(request, slope) of every question."""
        return [(saved["_request"], saved["slope"]) for saved in self.page.evaluate("() => model.saved")]

    @property
    def state(self) -> str | None:
        return self.hands.root.get_attribute("data-state")

    @property
    def busy(self) -> str:
        """What the status says, "" if it is not there."""
        return self.hands.root.evaluate(
            "root => { const s = root.querySelector('.vl-status'); return s.hidden ? '' : s.querySelector('span').textContent; }"
        )

    @property
    def slope(self) -> float:
        """Of the picture that is drawn."""
        return json.loads(self.hands.root.get_attribute("data-answers"))["slope"]


@pytest.fixture
def kernel(browser):
    kernel = Kernel(browser)
    yield kernel
    kernel.page.close()


def test_a_quick_answer_is_drawn_and_nothing_is_said(kernel):
    assert kernel.slope == 1.0 and not kernel.busy
    kernel.hands.put({"slope": 2.0})
    kernel.pass_by(250)
    assert kernel.asked == [(1, 2.0)] and not kernel.busy
    kernel.answer(1, 2, slope=2.0)
    kernel.pass_by(2000)
    assert kernel.slope == 2.0 and not kernel.busy and kernel.state == ""


def test_while_one_is_computed_inline_the_next_waits_and_the_last_wins(kernel):
    for slope in (2.0, 0.5, 3.0):
        kernel.hands.put({"slope": slope})
    assert kernel.asked == [(1, 2.0)]
    kernel.answer(1, 2, slope=2.0)
    assert kernel.asked == [(1, 2.0), (2, 3.0)] and kernel.slope == 1.0, (
        "an answer that nobody wants any more is not drawn"
    )
    kernel.answer(2, 3, slope=3.0)
    assert kernel.slope == 3.0


def test_a_long_answer_shows_how_far_it_is_and_for_how_long(kernel):
    kernel.hands.put({"slope": 2.0})
    kernel.at_work(1, 2)
    kernel.pass_by(250)
    assert not kernel.busy, "a glance is not worth a word"
    kernel.pass_by(100)
    assert kernel.busy == "Computing: 1 s" and kernel.state == "computing" and kernel.slope == 1.0
    assert kernel.hands.root.evaluate("root => root.querySelector('progress').hasAttribute('value')") is False
    kernel.at_work(1, 2, "fitting, pathwise", 0.25)
    kernel.pass_by(3000)
    assert kernel.busy == "Computing: 3 s, fitting, pathwise"
    bar = kernel.hands.find("progress")
    assert bar.evaluate("bar => bar.value") == 0.25 and bar.get_attribute("aria-label").startswith("Computing: 3 s")
    kernel.answer(1, 2, slope=2.0)
    assert not kernel.busy and kernel.slope == 2.0 and kernel.state == ""
    kernel.pass_by(2000)
    assert not kernel.busy


def test_stop_is_sent_by_number_and_leaves_the_picture(kernel):
    kernel.hands.put({"slope": 2.0})
    kernel.at_work(1, 2, "fitting", 0.5)
    kernel.pass_by(400)
    kernel.hands.find("button[name=stop]").click()
    assert kernel.page.evaluate("() => model.sent") == [{"stop": 2}] and "stopping after this piece" in kernel.busy
    assert not kernel.hands.find("button[name=stop]").is_visible()
    kernel.arrive("_frame", {"request": 1, "serial": 2, "controls": {}, "stopped": True})
    assert (
        kernel.state == "stopped"
        and "Stopped. The picture is still the last one that was finished" in kernel.hands.caption
    )
    assert kernel.slope == 1.0 and not kernel.busy
    kernel.hands.put({"slope": 3.0})
    kernel.answer(2, 3, slope=3.0)
    assert kernel.state == "" and "Stopped" not in kernel.hands.caption


def test_a_new_move_does_not_wait_for_a_long_answer(kernel):
    kernel.hands.put({"slope": 2.0})
    kernel.at_work(1, 2)
    kernel.hands.put({"slope": 0.5})
    assert kernel.asked == [(1, 2.0)], "it may be here in a moment"
    kernel.pass_by(400)
    assert kernel.asked == [(1, 2.0), (2, 0.5)]
    kernel.hands.put({"slope": 3.0})
    assert kernel.asked == [(1, 2.0), (2, 0.5), (3, 3.0)]
    kernel.answer(1, 2, slope=2.0)
    assert kernel.slope == 1.0
    kernel.at_work(3, 4)
    kernel.answer(3, 4, slope=3.0)
    assert kernel.slope == 3.0 and not kernel.busy


def test_what_python_asks_itself_is_shown_too(kernel):
    """`explorable.mend(…)`: a new serial, the old request."""
    kernel.at_work(0, 2, "looking for the best q")
    kernel.pass_by(400)
    assert kernel.busy.startswith("Computing: 1 s, looking")
    kernel.answer(0, 2, curve="bent")
    assert not kernel.busy and json.loads(kernel.hands.root.get_attribute("data-answers"))["curve"] == "bent"


def test_a_link_in_the_text_moves_the_picture_above_it_and_asks_python(kernel):
    link = "<p><a href='#toy?slope=2'>Set it</a> <a href='#other?slope=3'>another's</a> <a href='#toy?slope=9'>not offered</a></p>"
    kernel.page.evaluate("link => document.body.insertAdjacentHTML('afterbegin', link.replaceAll('=2', '=3'))", link)
    kernel.page.evaluate("link => document.body.insertAdjacentHTML('beforeend', link)", link)
    for place in (0, 4):  # above the picture; of another picture
        kernel.page.locator("a").nth(place).click()
    assert kernel.asked == []
    kernel.page.locator("a").nth(3).click()
    assert kernel.asked == [(1, 2.0)]
    kernel.answer(1, 2, slope=2.0)
    assert kernel.slope == 2.0
    kernel.hands.put({"slope": 3.0})
    kernel.answer(2, 3, slope=3.0)
    kernel.page.locator("a").nth(3).click()  # again
    assert kernel.asked[-1] == (3, 2.0)
    kernel.page.evaluate("() => leave()")
    kernel.page.locator("a").nth(3).click()
    assert kernel.asked[-1] == (3, 2.0)


def test_the_readers_line_follows_an_explanation_as_a_sentence_of_its_own(kernel):
    broken = {"request": 1, "serial": 2, "controls": {}, "error": "log_joint: sum it.", "where": "line 3 of the cell, in f: if x > 0"}
    kernel.hands.put({"slope": 2.0})
    kernel.arrive("_frame", broken | {"advice": "Mend it."})
    assert kernel.hands.caption.startswith("Python stopped: log_joint: sum it. At line 3 of the cell, in f: if x > 0. The picture")


def test_an_error_says_what_where_and_what_to_do(kernel):
    numbers = kernel.hands.numbers()
    kernel.hands.put({"slope": 2.0})
    kernel.arrive(
        "_frame",
        {
            "request": 1,
            "serial": 2,
            "controls": {},
            "error": "ValueError: no <b>data</b>",
            "where": "line 3 of f: raise",
            "advice": "Mend it.",
        },
    )
    assert kernel.state == "broken" and kernel.hands.caption == (
        "Python stopped: ValueError: no <b>data</b>, at line 3 of f: raise. The picture is still the last one that could be drawn. Mend it."
    )
    assert kernel.hands.numbers() == numbers and kernel.slope == 1.0
    kernel.hands.put({"slope": 3.0})
    kernel.answer(2, 3, slope=3.0)
    assert kernel.state == "" and kernel.hands.caption.startswith("The slope is 3")


def test_before_the_first_picture_there_are_words_and_controls(browser):
    kernel = Kernel(browser, first=False)
    assert kernel.hands.root.get_attribute("data-ready") is None
    kernel.at_work(0, 1)
    kernel.pass_by(400)
    assert kernel.busy == "Computing: 1 s"
    kernel.arrive(
        "_frame",
        {
            "request": 0,
            "serial": 1,
            "controls": {},
            "error": "NameError: name 'y' is not defined",
            "advice": "Mend it.",
        },
    )
    assert (
        kernel.hands.caption == "Python stopped: NameError: name 'y' is not defined. Mend it."
        and kernel.hands.frame == 0
    )
    assert kernel.hands.root.get_attribute("data-ready") == "true" and kernel.hands.values()["slope"] == "1"
    kernel.hands.put({"slope": 2.0})
    kernel.answer(1, 2, slope=2.0)
    assert kernel.hands.frame == 1 and kernel.state == ""
    kernel.page.close()


@pytest.mark.parametrize("sign", ["comm_live_update", "comm:close"])
def test_a_lost_kernel_is_said_at_once_and_stays_said(kernel, sign):
    kernel.hands.put({"slope": 2.0})
    kernel.pass_by(400)
    kernel.page.evaluate("sign => model.fire(sign)", sign)
    assert (
        kernel.state == "gone"
        and kernel.hands.caption.startswith("The kernel was restarted: run the cell again.")
        and not kernel.busy
    )
    kernel.hands.put({"slope": 3.0})
    kernel.pass_by(60_000)
    assert kernel.asked == [(1, 2.0)] and not kernel.busy
    assert kernel.state == "gone" and kernel.hands.caption.startswith("The kernel was restarted: run the cell again.")


def test_a_kernel_that_speaks_again_is_there_again(kernel):
    """A front end that says *gone* of a connection which comes back."""
    kernel.page.evaluate("() => model.fire('comm_live_update')")
    assert kernel.state == "gone"
    kernel.answer(0, 2, slope=3.0)
    assert kernel.state == "" and kernel.slope == 3.0 and "restarted" not in kernel.hands.caption
    kernel.hands.put({"slope": 2.0})
    assert kernel.asked == [(1, 2.0)]


def test_a_silent_kernel_is_remarked_upon_until_it_speaks(kernel):
    """Where a front end does not say that the kernel is gone."""
    kernel.hands.put({"slope": 2.0})
    kernel.pass_by(5000)
    assert kernel.busy == "Computing: 5 s"
    kernel.pass_by(6000)
    assert (
        "No word from Python yet: it is busy with another cell, or the kernel was restarted; then run this cell again"
        in kernel.busy
    )
    kernel.answer(1, 2, slope=2.0)
    assert not kernel.busy and kernel.slope == 2.0


def test_leaving_lets_go_of_everything(kernel):
    kernel.hands.put({"slope": 2.0})
    kernel.page.evaluate("() => leave()")
    kernel.pass_by(60_000)
    kernel.answer(1, 2, slope=2.0)
    assert kernel.slope == 1.0 and compute(2.0, "straight", 0)
