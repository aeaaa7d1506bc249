"""The live form: an ipywidget like any other, whose controls are traits and whose frames a kernel sends."""

from __future__ import annotations

import json
import re

import ipywidgets
import numpy as np
import pytest
import traitlets
from explorables.toys import PANELS, compute, toy

from vilib.explorables import Choice, Explorable, ExplorableError, NewNoise, Slider, Switches
from vilib.explorables.gallery import fit_race, gradient_variance
from vilib.explorables.widget import RECORD, recording_wanted


@pytest.fixture(autouse=True)
def no_book_is_being_built(monkeypatch):
    monkeypatch.delenv(RECORD, raising=False)


@pytest.fixture
def explorable() -> Explorable:
    return Explorable(toy())


def sent(explorable: Explorable) -> dict[str, object]:
    """What travels to the page, unpacked as the front end does."""
    packet, at, channels = explorable._frame, 0, dict(explorable._frame["texts"])
    numbers = np.frombuffer(packet["data"], "<f8")
    for name, length in packet["layout"]:
        channels[name] = numbers[at : at + length]
        at += length
    assert at == len(numbers)
    return channels


def is_sent(explorable: Explorable) -> bool:
    """Whether what was sent is the frame at the present controls."""
    frame, channels = explorable.frame(), sent(explorable)
    assert set(frame) == set(channels)
    return explorable._frame["controls"] == explorable.values() and all(
        channels[name] == numbers.item()
        if numbers.dtype == object
        else np.array_equal(channels[name], numbers, equal_nan=True)
        for name, numbers in frame.items()
    )


# -- traits ------------------------------------------------------------------------------------------------------------


def test_every_control_is_a_trait(explorable):
    assert explorable.values() == {"slope": 1.0, "curve": "straight", "seed": 0, "shown": ("line",), "time": 0}
    for name, value in {"slope": 3.0, "curve": "bent", "seed": 2, "shown": ("line", "nothing"), "time": 4}.items():
        setattr(explorable, name, value)
        assert getattr(explorable, name) == value
        assert explorable.trait_metadata(name, "sync"), f"{name} does not reach the page"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("slope", 0.7, "slope = 0.7 is not offered; choose one of [0.5, 1.0, 2.0, 3.0]"),
        ("slope", "steep", "slope = 'steep' is not offered; choose one of [0.5, 1.0, 2.0, 3.0]"),
        ("slope", None, "slope = None is not offered"),
        ("curve", "round", "curve = 'round' is not offered; choose one of ['straight', 'bent']"),
        ("seed", 3, "seed = 3 is not offered; choose one of [0, 1, 2]"),
        ("seed", -1, "seed = -1 is not offered"),
        ("shown", ("line", "all"), "shown has no option 'all'; it offers ['line', 'nothing']"),
        ("time", 5, "time = 5 is not offered; choose one of [0, 1, 2, 3, 4]"),
    ],
)
def test_a_value_that_is_not_offered_is_refused(explorable, name, value, message):
    before = explorable.values()
    with pytest.raises(traitlets.TraitError, match=re.escape(message)):
        setattr(explorable, name, value)
    assert explorable.values() == before


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("slope", 2, 2.0),
        ("seed", np.int64(1), 1),
        ("shown", ["nothing", "line"], ("line", "nothing")),
        ("shown", [], ()),
        ("time", 3.0, 3),
    ],
)
def test_what_means_the_same_is_kept_as_it_is_offered(explorable, name, given, kept):
    setattr(explorable, name, given)
    assert getattr(explorable, name) == kept
    assert type(getattr(explorable, name)) is type(kept)


def test_values_at_first_are_arguments():
    assert Explorable(toy(), slope=3.0, shown=()).values() == toy().defaults() | {"slope": 3.0, "shown": ()}
    assert gradient_variance(costs=("cosine",), mu=2.0).values()["mu"] == 2.0
    with pytest.raises(traitlets.TraitError, match="slope = 7 is not offered"):
        Explorable(toy(), slope=7)
    with pytest.raises(
        ExplorableError,
        match=re.escape("'slop' is not a control of toy; those are ['slope', 'curve', 'seed', 'shown', 'time']"),
    ):
        Explorable(toy(), slop=7)
    with pytest.raises(ExplorableError, match="'definition' is not a control of toy"):
        Explorable(toy(), definition=1)


@pytest.mark.parametrize(
    "name", ["layout", "keys", "comm", "observe", "values", "frame", "record", "control", "definition"]
)
def test_names_that_a_widget_needs_are_refused(name):
    with pytest.raises(ExplorableError, match=f"control name '{name}' is taken"):
        Explorable(toy(controls=(*toy().controls, NewNoise(name))))


def test_an_explorable_without_compute_is_refused():
    with pytest.raises(ExplorableError, match="compute is missing; pass a function of the computed controls"):
        Explorable("toy", "What is a line?")


def test_an_unknown_target_or_cost_is_refused():
    with pytest.raises(KeyError, match="circle"):
        gradient_variance(costs=("circle",))
    with pytest.raises(KeyError, match="circle"):
        fit_race(targets=("circle",))


# -- among other widgets -----------------------------------------------------------------------------------------------


def test_observe_hears_a_control(explorable):
    heard = []
    explorable.observe(lambda change: heard.append((change.old, change.new)), "slope")
    explorable.slope = 2.0
    explorable.slope = 2.0
    explorable.curve = "bent"
    assert heard == [(1.0, 2.0)]


def test_link_ties_two_explorables(explorable):
    other = Explorable(toy())
    tie = ipywidgets.link((explorable, "slope"), (other, "slope"))
    explorable.slope = 3.0
    assert other.slope == 3.0 and is_sent(other)
    other.slope = 0.5
    assert explorable.slope == 0.5 and is_sent(explorable)
    tie.unlink()
    explorable.slope = 2.0
    assert other.slope == 0.5


def test_link_ties_an_ordinary_slider():
    whole = Explorable(toy(controls=(Slider("slope", "", (0, 1, 2, 3), 1), *toy().controls[1:])))
    slider = ipywidgets.IntSlider(value=1, min=0, max=3)
    ipywidgets.link((slider, "value"), (whole, "slope"))
    slider.value = 3
    assert whole.slope == 3 and is_sent(whole)
    whole.slope = 0
    assert slider.value == 0


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("slope", ipywidgets.SelectionSlider, 3.0),
        ("curve", ipywidgets.Dropdown, "bent"),
        ("seed", ipywidgets.SelectionSlider, 2),
        ("shown", ipywidgets.SelectMultiple, ("line", "nothing")),
        ("time", ipywidgets.SelectionSlider, 3),
    ],
)
def test_a_control_is_to_be_had_as_a_plain_widget(explorable, name, kind, value):
    widget = explorable.control(name)
    assert isinstance(widget, kind)
    assert widget.value == getattr(explorable, name)
    widget.value = value
    assert getattr(explorable, name) == value
    setattr(explorable, name, toy().defaults()[name])
    assert widget.value == toy().defaults()[name]


def test_an_unknown_control_is_refused(explorable):
    with pytest.raises(ExplorableError, match=re.escape("no control is called 'slop'; those are ['slope', ")):
        explorable.control("slop")


def test_interact_calls_with_a_control(explorable):
    seen = []
    view = ipywidgets.interactive(
        lambda slope, curve: seen.append((slope, curve)),
        slope=explorable.control("slope"),
        curve=explorable.control("curve"),
    )
    view.update()
    explorable.slope = 3.0
    explorable.curve = "bent"
    assert seen[0] == (1.0, "straight")
    assert seen[-1] == (3.0, "bent")


def test_it_stands_in_a_box(explorable):
    slider = ipywidgets.IntSlider()
    box = ipywidgets.HBox([slider, explorable])
    assert box.children == (slider, explorable)
    assert "application/vnd.jupyter.widget-view+json" in box._repr_mimebundle_()


# -- frames ------------------------------------------------------------------------------------------------------------


def test_the_first_frame_is_there_at_once(explorable):
    assert is_sent(explorable)
    assert explorable._frame["request"] == 0


def test_a_computed_control_sends_a_new_frame(explorable):
    packets = []
    explorable.observe(lambda change: packets.append(change.new), "_frame")
    explorable.slope = 2.0
    assert len(packets) == 1 and is_sent(explorable)
    assert packets[0]["controls"]["slope"] == 2.0
    explorable.time, explorable.shown = 3, ()
    assert len(packets) == 1, "a control that only shows more or less asks for nothing"


def test_the_frame_is_what_python_gives(explorable):
    explorable.slope = 3.0
    assert np.array_equal(explorable.frame()["y"], compute(3.0, "straight", 0)["y"])
    assert explorable.frame()["word"].item() == "a straight line"


def test_a_request_is_answered_once_and_by_its_number():
    """The front end sends its controls and a request number in one message, and waits for a frame that bears it."""
    asked = []

    def listen(**controls):
        asked.append(controls)
        return compute(**controls)

    explorable = Explorable(toy(compute=listen))
    del asked[:]
    explorable.set_state({"slope": 3.0, "curve": "bent", "seed": 0, "shown": ["line"], "time": 2, "_request": 1})
    assert asked[-1] == {"slope": 3.0, "curve": "bent", "seed": 0}
    assert len(asked) == 1, "computed more than once for one request"
    assert explorable._frame["request"] == 1
    assert explorable._frame["controls"] == explorable.values() and explorable.time == 2
    explorable.set_state({"_request": 2})  # nothing moved: answered all the same
    assert explorable._frame["request"] == 2


def test_an_error_in_compute_reaches_the_page_and_the_caller():
    def choosy(**controls):
        if controls["slope"] == 2.0:
            raise ValueError("two is not for me")
        return compute(**controls)

    explorable = Explorable(toy(compute=choosy))
    with pytest.raises(ValueError, match="two is not for me"):
        explorable.slope = 2.0
    assert explorable._frame["error"] == "ValueError: two is not for me"
    assert explorable._frame["controls"]["slope"] == 2.0
    explorable.slope = 3.0
    assert "error" not in explorable._frame and is_sent(explorable)
    with pytest.raises(ValueError, match="two is not for me"):
        explorable.frame() if explorable.slope == 2.0 else explorable.definition.frame(slope=2.0)


def test_a_frame_that_the_panels_cannot_draw_is_said_so():
    with pytest.raises(ExplorableError, match="Line in panel 'curve' needs channel 'x'"):
        Explorable(toy(compute=lambda **controls: {"y": 1.0}))


# -- live and recorded -------------------------------------------------------------------------------------------------

VIEW = "application/vnd.jupyter.widget-view+json"


def mimebundle(explorable: Explorable) -> dict:
    bundle = explorable._repr_mimebundle_()
    return bundle[0] if isinstance(bundle, tuple) else bundle


def test_in_a_notebook_it_is_a_widget_and_no_html(explorable):
    assert not recording_wanted()
    bundle = mimebundle(explorable)
    assert bundle[VIEW]["model_id"] == explorable.model_id
    assert "text/html" not in bundle
    assert "vilibExplorables" in explorable._esm and "export default" in explorable._esm
    assert "--vl-target" in explorable._css


def test_while_a_book_is_built_it_is_an_island_too(monkeypatch):
    monkeypatch.setenv(RECORD, "1")
    assert recording_wanted()
    explorable = Explorable(toy(), slope=3.0, shown=())
    html = mimebundle(explorable)["text/html"]
    assert html.startswith('<figure class="vilib-explorable" data-explorable="toy" data-mode="recorded">')
    assert html.count("<svg") == 1 and html.count("</script>") == 2
    spec = json.loads(re.search(r'class="vilib-spec">(.*?)</script>', html).group(1))
    assert spec["values"] == {"slope": 3.0, "curve": "straight", "seed": 0, "shown": [], "time": 0}
    recording = explorable.record()
    assert spec["recording"] == recording.header
    assert re.search(r'class="vilib-recording">(.*?)</script>', html).group(1) == recording.base64()
    assert len(explorable._esm) < 100 and explorable._css == "", "a page carries the script once, not in widget state"
    assert explorable._frame == {}, "and the recording is nowhere in what is synced"
    assert len(json.dumps(explorable.get_state(), default=str)) < 20_000


def test_text_in_an_island_cannot_end_its_script(monkeypatch):
    monkeypatch.setenv(RECORD, "1")
    sly = Explorable(toy(title="</script><b>&", caption="<!-- {slope} -->"))
    html = mimebundle(sly)["text/html"]
    assert html.count("</script>") == 2
    assert "<b>" not in html and "<!--" not in re.sub(r"<svg.*?</svg>", "", html, flags=re.S)
    assert json.loads(re.search(r'class="vilib-spec">(.*?)</script>', html).group(1))["title"] == "</script><b>&"


def test_a_reader_builds_one_of_every_control():
    """What the chapter shows: name, title, controls, compute, panels."""
    mine = Explorable(
        "mine",
        "Mine?",
        (
            Slider("slope", "", (0.5, 1.0), 1.0),
            Choice("curve", "", {"straight": "straight", "bent": "bent"}, "bent"),
            NewNoise(),
            Switches("shown", "", {"line": "line"}, ("line",)),
        ),
        compute,
        PANELS[:2],
        caption="{slope}",
    )
    mine.slope = 0.5
    assert is_sent(mine)
    assert mine.definition.name == "mine" and mine.definition.table is None
