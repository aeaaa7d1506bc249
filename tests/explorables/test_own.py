"""The explorables over a reader's own models: what they show is true, broken ones say so, and long ones are watched and stopped."""

from __future__ import annotations

import math
import re
import threading

import numpy as np
import pytest
import torch
import traitlets
from torch.distributions import Normal, constraints

from vilib import Model, ShapeError, VilibError, correlated_gaussian, gaussian_target, kidiq
from vilib.explorables import Explorable, ExplorableError, checkpoint, picture, record
from vilib.explorables.gallery import advi_lab, fit_race, gradient_variance
from vilib.explorables.widget import RECORD

FACTORIES = {"noise": gradient_variance, "race": fit_race, "lab": advi_lab}
SUPPORTS = {"mu": constraints.real, "sigma": constraints.positive}
DATA = torch.tensor([1.2, 0.4, 2.1, 0.9, -0.3])
PATIENCE = 120.0
SECOND = {"noise": ("mu", 2.0), "race": ("optimizer", "rmsprop"), "lab": ("family", "full")}


@pytest.fixture(autouse=True)
def no_book_is_being_built(monkeypatch):
    monkeypatch.delenv(RECORD, raising=False)


def height(theta):
    return Normal(theta["mu"], theta["sigma"]).log_prob(DATA).sum() - theta["mu"] ** 2 / 50 - theta["sigma"]


def three(z):
    """Three unknowns, independent, of widths 1, 5 and 0.1."""
    return Normal(torch.zeros(3, dtype=z.dtype), torch.tensor([1.0, 5.0, 0.1], dtype=z.dtype)).log_prob(z).sum(-1)


def answered(explorable: Explorable) -> dict:
    assert explorable.wait(PATIENCE)
    return explorable._frame


def words(explorable: Explorable) -> str:
    """The caption as a reader reads it, names for numbers."""
    frame = explorable.frame()
    text = explorable.definition.caption
    for _ in range(2):
        text = re.sub(
            r"\{(\w+)[^}]*\}",
            lambda m: frame[m[1]].item() if m[1] in frame and frame[m[1]].dtype == object else m[1],
            text,
        )
    return text


@pytest.fixture(scope="module", params=FACTORIES)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def made() -> dict:
    """Each explorable over models of one, two and three unknowns, made once."""
    return {
        name: make({"one": gaussian_target(5.0, 0.1), "two": Model(height, SUPPORTS), "three": kidiq()})
        for name, make in FACTORIES.items()
    }


# -- the API -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "options", "name"),
    [
        (Model(height, SUPPORTS), {}, "height"),
        (height, {"supports": SUPPORTS}, "height"),
        (three, {"dim": 3, "coordinates": (2, 0)}, "three"),
        ({"mine": height, "other": gaussian_target()}, {"supports": SUPPORTS}, "mine"),
    ],
)
def test_every_form_is_taken_by_all_three(kind, given, options, name):
    explorable = FACTORIES[kind](given, **options)
    explorable.stop()
    control = {"noise": "cost", "race": "target", "lab": "model"}[kind]
    assert getattr(explorable, control) == name and explorable.definition.background
    axis = explorable.definition.panels[0]
    if options.get("dim"):
        assert (axis.x.label, axis.y.label, axis.note) == ("z[2]", "z[0]", "grey: a long full-rank fit")
    else:
        assert (axis.x.label, axis.y.label) == ("mu", "log sigma")


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        (3, {}, VilibError, "model: expected a vilib.Model or a function, got 3"),
        (height, {}, VilibError, "height is a plain function, of which one of the two must be said, got neither"),
        (three, {"dim": -1}, ShapeError, "dim: expected the number of unknowns, a whole number from 1, got -1"),
        (
            three,
            {"dim": 3, "coordinates": (0, 7)},
            ShapeError,
            "coordinates: expected 2 different whole numbers from 0 to 2",
        ),
        ({}, {}, ExplorableError, "models: expected a dict from names to models"),
        ({1: height}, {}, ExplorableError, "models: expected a dict from names to models"),
        (Model(height, SUPPORTS), {"sample_count": 3.5}, traitlets.TraitError, "is not offered"),
        (Model(height, SUPPORTS), {"slop": 3}, ExplorableError, "'slop' is not a control"),
    ],
)
def test_misuse_is_refused_in_words(kind, given, options, error, message):
    if "sample_count" in options and kind == "lab":
        options, message = {"draws": 3.5}, "is not offered"
    with pytest.raises(error, match=re.escape(message)):
        FACTORIES[kind](given, **options)


# -- what is shown -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["one", "two", "three"])
def test_what_is_said_of_exactness_is_so(kind, made, model):
    explorable = made[kind]
    setattr(explorable, {"noise": "cost", "race": "target", "lab": "model"}[kind], model)
    assert "error" not in answered(explorable)
    frame, text = explorable.frame(), words(explorable)
    exact = model != "three"
    assert ("Exact, by quadrature." in text) == exact and ("With 3 unknowns nothing here is exact" in text) == (
        not exact
    )
    if kind == "noise":
        assert np.isnan(frame["theory_pathwise"]).all() == (not exact)
    if kind == "race":
        assert np.isnan(frame["error_pathwise"]).all() == exact and np.isnan(frame["log_evidence"]).all() == (not exact)
    if model == "one":
        known = {"noise": ("exact", -1.0), "race": ("log_evidence", 0.0), "lab": ("known_mean_x", 5.0)}[kind]
        assert frame[known[0]][0] == pytest.approx(known[1], abs=1e-6)


def test_the_columns_are_those_that_can_be_known():
    columns = lambda explorable: [column.label for column in explorable.definition.table.columns]  # noqa: E731
    pairs = [(FACTORIES[name](gaussian_target()), FACTORIES[name](kidiq())) for name in ("noise", "race")]
    for explorable in (e for pair in pairs for e in pair):
        explorable.stop()
    assert "in theory" in columns(pairs[0][0]) and "in theory" not in columns(pairs[0][1])
    assert "± s.e." not in columns(pairs[1][0]) and "± s.e." in columns(pairs[1][1])


def test_axes_hold_still_while_controls_move(made):
    for name, still in {
        "noise": ("x_range", "y_range", "variance_range", "p_x", "p_y"),
        "race": ("x_range", "y_range", "elbo_range", "variance_range"),
        "lab": ("x_range", "y_range", "known_mean_x"),
    }.items():
        definition = made[name].definition
        moves = [
            {c.name: value}
            for c in definition.computed
            if c.name not in ("cost", "target", "model")
            for value in (c.allowed()[0], c.allowed()[-1])
        ]
        choice = next(c.name for c in definition.computed if c.name in ("cost", "target", "model"))
        frames = [definition.frame(**{choice: "two"}, **move) for move in moves]
        for channel in still:
            assert all(np.array_equal(frame[channel], frames[0][channel], equal_nan=True) for frame in frames), (
                name,
                channel,
            )
        m1, m2, *_ = frames[0]["q_pathwise" if name == "race" else "q"].reshape(5, -1)[:, 0]
        (left, right), (bottom, top) = frames[0]["x_range"], frames[0]["y_range"]
        assert left < m1 < right and bottom < m2 < top, "q begins inside the picture"


def test_two_unknowns_have_level_lines_and_three_a_long_fit(made):
    for name in FACTORIES:
        definition = made[name].definition
        choice = next(c.name for c in definition.computed if c.name in ("cost", "target", "model"))
        frames = {model: definition.frame(**{choice: model}) for model in ("one", "two", "three")}
        assert not np.isnan(frames["two"]["ring_x"][:40]).any() and np.isnan(frames["two"]["long"]).all()
        assert np.isnan(frames["three"]["ring_x"]).all() and not np.isnan(frames["three"]["long"]).any()
        assert np.trapezoid(frames["one"]["p_y"], frames["one"]["p_x"]) == pytest.approx(1, abs=1e-3)
        x, y = frames["two"]["ring_x"][:40], frames["two"]["ring_y"][:40]
        assert frames["two"]["x_range"][0] < x.min() and x.max() < frames["two"]["x_range"][1] and y.min() < y.max()


def test_the_race_ends_at_the_best_q_and_no_fit_passes_it(made):
    definition = made["race"].definition
    for model in ("one", "two"):
        frame = definition.frame(target=model, optimizer="adam", sample_count=32)
        assert frame["best_elbo"] <= frame["log_evidence"] + 1e-6
        for key in ("score", "control", "pathwise", "stl"):
            assert np.nanmax(frame[f"elbo_{key}"]) <= frame["best_elbo"] + 1e-6
            assert frame[f"kl_{key}"][0] == pytest.approx(4.5, abs=1e-6), "three of its sds off: a KL of 3²/2"
        assert frame["kl_stl"][-1] < 0.1 and 0 < frame["close_stl"] <= 300


def test_the_race_lays_bare_what_noise_does():
    frame = fit_race({"m": correlated_gaussian()}).definition.frame()
    assert frame["variance_stl"][-1] < frame["variance_pathwise"][-1] < frame["variance_score"][-1]


def test_a_recording_of_an_own_model_plays_what_python_computes():
    definition = gradient_variance(gaussian_target(), mu=1.0).definition
    fewer = {"mu": (1.0,), "log_sigma": (0.0,), "sample_count": (1, 16)}
    from dataclasses import replace

    controls = tuple(
        replace(c, values=fewer[c.name], value=fewer[c.name][0]) if c.name in fewer else c for c in definition.controls
    )
    small = replace(definition, controls=controls)
    recorded, frame = record(small).frame(sample_count=16, seed=1), small.frame(sample_count=16, seed=1)
    assert recorded["mean_pathwise"] == pytest.approx(frame["mean_pathwise"], rel=1e-3)
    assert picture(small, frame, small.defaults()).axes


# -- broken, and mended ------------------------------------------------------------------------------------------------


class Switched:
    """A model that breaks or waits when it is told to."""

    def __init__(self):
        self.error, self.gate = None, None

    def __call__(self, theta):
        if self.error:
            raise self.error
        if self.gate:
            self.gate.wait(PATIENCE)
        return height(theta)


def test_a_model_broken_at_first_shows_and_does_not_raise(kind):
    switched = Switched()
    switched.error = ValueError("the data are missing")
    explorable = FACTORIES[kind](switched, supports=SUPPORTS)
    packet = answered(explorable)
    assert packet["error"] == "ValueError: the data are missing" and ".mend(my_model)" in packet["advice"]
    assert re.fullmatch(r"line \d+ of test_own.py, in __call__: raise self.error", packet["where"])
    switched.error = None
    setattr(explorable, *SECOND[kind])  # moving a control tries again
    assert "error" not in answered(explorable) and len(answered(explorable)["data"]) > 1000


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda theta: theta["mu"] + DATA + theta["sigma"], "log_joint: expected one number a draw"),
        (lambda theta: (theta["mu"] - 50).log() - theta["sigma"], "log_joint: returned nan at theta = {'mu'"),
        (lambda theta: 3.0, "log_joint: expected a scalar tensor for one draw, got float"),
        (lambda theta: theta["mu"] if theta["mu"] > 0 else -theta["mu"], "Use torch.where instead of if"),
        (lambda theta: theta["tau"], "KeyError: 'tau'. theta holds what supports names: 'mu', 'sigma'."),
        (lambda theta: -(theta["mu"] ** 2), "log_joint: it does not change with sigma, so the posterior is not proper"),
    ],
)
def test_what_is_wrong_is_said_without_vmap(function, message):
    packet = answered(fit_race(function, supports=SUPPORTS))
    assert message in packet["error"]
    assert not any(word in packet["error"] for word in ("functorch", "Traceback", "File "))


def test_what_vilib_explains_is_told_with_the_readers_line():
    def looks(theta):
        if theta["mu"] > 0:
            return -theta["sigma"]
        return theta["sigma"]

    assert re.fullmatch(r"line \d+ of test_own.py, in looks: if theta\[\"mu\"\] > 0", answered(fit_race(looks, supports=SUPPORTS))["where"])


def test_a_line_of_a_cell_is_told_as_such():
    cell = "\n\ndef f(theta):\n    return theta['sigma'] + nothing\n"
    for name in ("/tmp/ipykernel_7/3141.py", "<ipython-input-3>"):
        space: dict = {}
        exec(compile(cell, name, "exec"), space)
        assert answered(fit_race(space["f"], supports=SUPPORTS))["where"] == "line 4 of the cell, in f"


def test_a_misspelt_option_is_named(kind):
    with pytest.raises(ExplorableError, match="^support: there is no such option; did you mean supports\\?$"):
        FACTORIES[kind](height, support=SUPPORTS)


def test_mending_takes_another_function_for_the_same_coordinates(kind):
    explorable = FACTORIES[kind](lambda theta: nothing, supports=SUPPORTS)  # noqa: F821
    assert "name 'nothing' is not defined" in answered(explorable)["error"]
    explorable.mend(height)
    assert "error" not in answered(explorable)
    assert explorable.frame().keys() == FACTORIES[kind](height, supports=SUPPORTS).frame().keys()
    with pytest.raises(
        ExplorableError,
        match=re.escape("mend: your model had the coordinates ['mu', 'log sigma'], this one has ['mu']"),
    ):
        explorable.mend(Model(lambda theta: -(theta["mu"] ** 2), {"mu": constraints.real}))
    with pytest.raises(VilibError, match="expected a vilib.Model or a function"):
        explorable.mend(3)


def test_one_of_several_is_mended_by_its_name():
    explorable = gradient_variance({"a": gaussian_target(), "b": gaussian_target(1.0)})
    with pytest.raises(ExplorableError, match=re.escape("say which of ['a', 'b'] it is, as in mend({'a': my_model})")):
        explorable.mend(gaussian_target())
    with pytest.raises(ExplorableError, match="no model is called 'c'"):
        explorable.mend({"c": gaussian_target()})
    explorable.cost = "b"
    before = answered(explorable)["data"]
    explorable.mend({"b": gaussian_target(7.0)})
    assert answered(explorable)["data"] != before
    frame = explorable.frame()
    assert frame["x_range"].mean() == pytest.approx(7, abs=1e-6)


# -- long answers ------------------------------------------------------------------------------------------------------


def test_it_is_stopped_leaves_the_picture_and_goes_on():
    switched = Switched()
    explorable = gradient_variance(switched, supports=SUPPORTS)
    first = answered(explorable)
    told = []
    explorable.observe(lambda change: told.append(change.new), "_progress")
    switched.gate = threading.Event()
    explorable.mu = 2.0
    assert not explorable.wait(0.05) and explorable._frame is first, "setting a trait waits for nothing"
    explorable.stop()
    switched.gate.set()
    packet = answered(explorable)
    assert packet == {"serial": first["serial"] + 1, "request": 0, "controls": explorable.values(), "stopped": True}
    assert told[0] == {"serial": first["serial"] + 1, "request": 0, "words": "", "share": None}
    explorable.log_sigma = 0.7
    assert "data" in answered(explorable)
    assert explorable._frame["controls"]["mu"] == 2.0


def test_the_page_stops_it_by_its_own_number_and_no_other():
    switched = Switched()
    explorable = fit_race(switched, supports=SUPPORTS)
    answered(explorable)
    switched.gate = threading.Event()
    explorable.set_state({"sample_count": 32, "_request": 1})
    serial = explorable._progress["serial"]
    explorable._handle_custom_msg({"stop": serial - 1}, [])
    assert not explorable.wait(0.05)
    explorable._handle_custom_msg({"stop": serial}, [])
    switched.gate.set()
    packet = answered(explorable)
    assert packet["stopped"] and packet["request"] == 1


def test_a_new_question_ends_the_work_on_the_old_one():
    switched = Switched()
    explorable = gradient_variance(switched, supports=SUPPORTS)
    answered(explorable)
    frames = []
    explorable.observe(lambda change: frames.append(change.new["controls"]["mu"]), "_frame")
    switched.gate = threading.Event()
    for request, mu in enumerate((2.0, 0.0, -1.0, -2.0), 1):
        explorable.set_state({"mu": mu, "_request": request})
    switched.gate.set()
    assert answered(explorable)["request"] == 4 and frames == [-2.0]
    assert {key[2] for key in explorable.definition.compute._kept if key[0] == "_studied"} == {1.0, -2.0}


def test_going_back_before_the_answer_is_there_gives_up_the_way_out():
    switched = Switched()
    explorable = gradient_variance(switched, supports=SUPPORTS)
    first = answered(explorable)
    switched.gate = threading.Event()
    explorable.mu = 2.0
    explorable.mu = 1.0
    switched.gate.set()
    again = answered(explorable)
    assert again["controls"]["mu"] == 1.0 and again["data"] == first["data"] and again["serial"] == first["serial"] + 2


def test_what_it_does_is_told():
    """A fit of 301 steps: words, and a share that only grows within them."""
    explorable = fit_race(height, supports=SUPPORTS)
    answered(explorable)
    told, worker = [], explorable._worker
    worker._tell = lambda question, words, share: told.append((words, share))
    import vilib.explorables.threads as threads

    pause, threads.Task.__init__.__defaults__ = (
        threads.Task.__init__.__defaults__,
        (threads.Task.__init__.__defaults__[0], 0.0),
    )
    try:
        explorable.sample_count = 2
        answered(explorable)
    finally:
        threads.Task.__init__.__defaults__ = pause
    for label in ("score function", "pathwise"):
        shares = [share for words, share in told if words == f"fitting, {label}"]
        assert len(shares) >= 300 and shares == sorted(shares) and shares[-1] == pytest.approx(1, abs=0.01)


def test_the_same_numbers_come_by_every_way():
    """In the worker, at once, and of a fresh one: determinism."""
    explorable = advi_lab(height, supports=SUPPORTS)
    answered(explorable)
    at, channels = 0, {}
    for name, length in explorable._frame["layout"]:
        channels[name] = np.frombuffer(explorable._frame["data"], "<f8")[at : at + length]
        at += length
    for frame in (explorable.frame(), advi_lab(height, supports=SUPPORTS).frame()):
        assert all(
            np.array_equal(channels[name], numbers, equal_nan=True)
            for name, numbers in frame.items()
            if numbers.dtype != object
        )


def test_an_error_on_the_page_s_own_move_is_said_and_not_raised():
    """Of an ordinary explorable too: a traceback in the kernel's log helps nobody."""
    from explorables.toys import compute, toy

    def choosy(**controls):
        if controls["slope"] == 2.0:
            raise ValueError("two is not for me")
        checkpoint()
        return compute(**controls)

    explorable = Explorable(toy(compute=choosy))
    explorable.set_state({"slope": 2.0, "_request": 1})
    assert explorable._frame["error"] == "ValueError: two is not for me" and explorable._frame["request"] == 1
    assert "Move a control to try again" in explorable._frame["advice"]
    explorable.set_state({"slope": 3.0, "_request": 2})
    assert "error" not in explorable._frame
    explorable.mend(lambda **controls: compute(**controls) | {"word": "mended"})
    assert explorable.frame()["word"].item() == "mended" and explorable._frame["texts"]["word"] == "mended"
    never = Explorable(toy(compute=lambda **controls: 1 / 0))
    assert never._frame["error"] == "ZeroDivisionError: division by zero" and never._frame["where"].endswith("1 / 0))")
    with pytest.raises(ZeroDivisionError):
        never.frame()


def test_a_compute_of_the_reader_s_own_may_take_long_too():
    from explorables.toys import compute, toy

    gate, begun = threading.Event(), threading.Event()

    def patient(**controls):
        begun.set()
        gate.wait(PATIENCE)
        checkpoint()
        return compute(**controls)

    explorable = Explorable(toy(compute=patient, background=True))
    assert begun.wait(PATIENCE)
    explorable.stop()
    gate.set()
    assert answered(explorable)["stopped"]
    explorable.slope = 3.0
    assert "data" in answered(explorable) and math.isclose(explorable.frame()["of_slope"][0], 30.0)


def test_a_funnel_shows_what_can_be_known():
    """Its mode is no place to be, and a mean-field q is a poor one: the caption promises nothing that is not so."""

    def funnel(theta):
        return Normal(0.0, 3.0).log_prob(theta["v"]) + Normal(0.0, (theta["v"] / 2).exp()).log_prob(theta["x"]).sum()

    explorable = fit_race(
        funnel, supports={"v": constraints.real, "x": constraints.real_vector}, shapes={"x": (3,)}, coordinates=(1, 0)
    )
    packet = answered(explorable)
    assert "error" not in packet, packet.get("error")
    assert "With 4 unknowns nothing here is exact" in explorable.frame()["verdict"].item()
