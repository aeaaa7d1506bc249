"""The explorables with a kernel: in JupyterLab, answered by Python."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from book.hands import Hands
from book.lab import ROOT, Notebook, jupyter_lab, write_notebook
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyterlab_server.settings_utils import get_settings
from traitlets.config.loader import PyFileConfigLoader

from vilib.explorables.core import Definition
from vilib.explorables.gallery import fit_race, gradient_variance

pytestmark = pytest.mark.browser

OWN = """
import ipywidgets
from vilib.explorables import Axis, Column, Explorable, Line, Panel, Slider, Table

def compute(a):
    if a == 7:
        raise ValueError("seven is not for me")
    return {"x": [0, 1], "y": [0, a], "half_line": a / 2}

own = Explorable(
    "own", "How steep?", (Slider("a", "slope a", tuple(range(11)), 2, "d"),), compute,
    (Panel("line", "y = ax", Axis("x", (0, 1)), Axis("y", (0, 10)), (Line(x="x", y="y"),)),),
    caption="Half of {a} is {half_line}.", table=Table({"line": "the line"}, (Column("half", "half_{row}"),)),
)
beside = ipywidgets.IntSlider(value=2, min=0, max=10, description="beside")
ipywidgets.link((beside, "value"), (own, "a"))
ipywidgets.HBox([beside, own])
"""

#: What the notebook calls them.
VARIABLE = {"gradient-variance": "noise", "fit-race": "race"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> str:
    """A JupyterLab over a copy of the book's chapters and a notebook of three explorables."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(ROOT / "intro.md", folder)
    shutil.copytree(ROOT / "chapters", folder / "chapters")
    write_notebook(
        folder / "live.ipynb",
        "from vilib.explorables.gallery import fit_race, gradient_variance\nnoise = gradient_variance()\nnoise",
        "race = fit_race()\nrace",
        OWN,
    )
    with jupyter_lab(folder, tmp_path_factory.mktemp("home")) as address:
        yield address


@pytest.fixture(scope="module")
def notebook(lab, browser) -> Notebook:
    """The notebook of three, all of it run; each test moves what it needs and minds no more."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(f"{lab}/lab/tree/live.ipynb?reset")
    opened = Notebook(page)
    opened.figures = {hands.name: hands for hands in opened.run_all()}
    opened.faults = faults
    yield opened
    context.close()


def definition_of(name: str) -> Definition:
    return {"gradient-variance": gradient_variance, "fit-race": fit_race}[name]().definition


def asked(hands: Hands) -> dict:
    """The controls that the drawn frame answers to."""
    return json.loads(hands.root.get_attribute("data-answers"))


def shows_what_python_computes(hands: Hands, definition: Definition, values: dict) -> None:
    """Every number that a reader reads, to the last digit."""
    frame = definition.frame(**{c.name: values[c.name] for c in definition.computed})
    read = hands.numbers()
    for column in definition.table.columns:
        control = next((c for c in definition.controls if c.name == column.at), None)
        for row in definition.table.rows:
            channel = column.channel.format(row=row)
            exact = float(frame[channel][control.allowed().index(values[column.at]) if control else 0])
            assert read[channel] == "nan" if math.isnan(exact) else float(read[channel]) == exact, (values, channel)


def test_three_explorables_are_alive(notebook):
    assert list(notebook.figures) == ["gradient-variance", "fit-race", "own"]
    for hands in notebook.figures.values():
        assert hands.root.get_attribute("data-mode") == "live"
        assert hands.root.query_selector("script") is None, "a recording travels into the notebook"
        assert all(
            svg.bounding_box()["height"] > 100 for svg in hands.root.query_selector_all(".vl-panel:not([hidden]) svg")
        )
    assert notebook.faults == []


@pytest.mark.parametrize("name", ["gradient-variance", "fit-race"])
def test_python_answers_every_control(notebook, name):
    hands, definition, variable = notebook.figures[name], definition_of(name), VARIABLE[name]
    shows_what_python_computes(hands, definition, notebook.value(f"{variable}.values()"))
    for control in hands.spec["controls"]:
        kind, key = control["kind"], control["name"]
        now = notebook.value(f"{variable}.{key}")
        if kind == "slider":
            value = next(v for v in (control["values"][0], control["values"][-1]) if v != now)
        elif kind in ("choice", "switches"):
            keys = [k for k, _ in control["options"]]
            value = keys[1:] if kind == "switches" else next(k for k in keys if k != now)
        else:
            value = (now + 1) % control["count"]
        table, picture = hands.changes(lambda value=value, key=key: hands.put({key: value}), f"{key} = {value}")
        assert table or kind == "switches"
        if control["kind"] not in ("switches", "play"):  # those show more or less of a frame that is there
            hands.until_answered({key: value})
        told = (notebook.value(f"{variable}.{key}") for _ in range(40))  # messages to a busy kernel are gathered first
        assert any(now == value for now in told), "the trait follows"
    shows_what_python_computes(hands, definition, notebook.value(f"{variable}.values()"))
    assert notebook.faults == []


@pytest.mark.parametrize("pace", ["at once", "a frame apart"])
def test_after_a_drag_the_last_value_wins(notebook, pace):
    hands = notebook.figures["gradient-variance"]
    values = next(c for c in hands.spec["controls"] if c["name"] == "sample_count")["values"]
    last = values[5] if asked(hands)["sample_count"] != values[5] else values[4]
    hands.root.evaluate(
        """async (root, { last, apart }) => {
      const slider = root.querySelector("input[name=sample_count]");
      const { values } = root.vilibView.control("sample_count");
      for (let i = 0; i < 60; i++) {
        slider.value = i === 59 ? values.indexOf(last) : (7 * i) % values.length;
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        if (apart) await new Promise(requestAnimationFrame);
      }
    }""",
        {"last": last, "apart": pace != "at once"},
    )
    hands.until_answered({"sample_count": last})
    # and nothing that was asked on the way comes after it: the kernel has nothing left to say
    assert notebook.value("[noise.sample_count, noise._request == noise._frame['request']]") == [last, True]
    notebook.page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(null))))"
    )
    assert asked(hands)["sample_count"] == last
    assert hands.values()["sample_count"] == str(last)
    shows_what_python_computes(hands, definition_of("gradient-variance"), notebook.value("noise.values()"))


def test_arrow_keys_stay_with_the_slider(notebook):
    hands, page = notebook.figures["gradient-variance"], notebook.page
    hands.put({"sample_count": 16})
    hands.until_answered({"sample_count": 16})
    slider = hands.find("input[name=sample_count]")
    for focus in (slider.focus, lambda: slider.click(position={"x": slider.bounding_box()["width"] / 2, "y": 8})):
        focus()
        before = notebook.place()
        at = slider.evaluate("i => i.valueAsNumber")
        keys = {"ArrowLeft": -1, "ArrowDown": -1, "ArrowUp": 1, "ArrowRight": 1}
        for key, step in [*keys.items(), ("ArrowRight", 1), ("ArrowRight", 1)]:
            page.keyboard.press(key)
            at += step
            assert slider.evaluate("i => i.valueAsNumber") == at
            assert slider.evaluate("i => i === document.activeElement")
        hands.until_answered({"sample_count": 2**at})
        assert notebook.place() == before, "the notebook took the keys for its own"


def test_a_trait_set_in_python_moves_the_slider(notebook):
    hands = notebook.figures["gradient-variance"]
    frame = hands.frame
    notebook.python("noise.sample_count, noise.cost, noise.estimators = 1024, 'cosine', ('pathwise',)")
    hands.until("root.querySelector('input[name=sample_count]').valueAsNumber === 10")
    hands.until("root.querySelector('select[name=cost]').value === 'cosine'")
    hands.until("[...root.querySelectorAll('input[name=estimators]:checked')].map(i => i.value).join() === 'pathwise'")
    hands.until_answered({"sample_count": 1024, "cost": "cosine"})
    assert hands.frame > frame
    shows_what_python_computes(hands, definition_of("gradient-variance"), notebook.value("noise.values()"))


def test_a_value_that_is_not_offered_is_refused_by_python(notebook):
    with pytest.raises(AssertionError, match="sample_count = 3 is not offered; choose one of"):
        notebook.python("noise.sample_count = 3")


def test_an_explorable_sits_in_a_box_and_links(notebook):
    hands = notebook.figures["own"]
    assert hands.root.evaluate("root => root.closest('.widget-hbox, .jupyter-widget-hbox') !== null")
    hands.put({"a": 4})  # the page moves it, and the slider beside follows
    hands.until_answered({"a": 4})
    notebook.page.wait_for_function("() => document.querySelector('.widget-readout').textContent.trim() === '4'")
    notebook.python("beside.value = 9")  # the slider beside moves, and the page follows
    hands.until_answered({"a": 9})
    assert hands.numbers() == {"half_line": "4.5"}
    assert hands.values() == {"a": "9"}


def test_an_error_in_compute_is_said_and_survived(notebook):
    hands = notebook.figures["own"]
    hands.put({"a": 7})
    hands.until("root.querySelector('figcaption').textContent.includes('ValueError: seven is not for me')")
    hands.put({"a": 3})
    hands.until_answered({"a": 3})
    hands.until("root.querySelector('figcaption').textContent === 'Half of 3 is 1.50.'")
    assert hands.numbers() == {"half_line": "1.5"}


def test_play_needs_no_kernel(notebook):
    hands = notebook.figures["fit-race"]
    last = next(c for c in hands.spec["controls"] if c["kind"] == "play")["count"] - 1
    hands.put({"step": last - 3})
    frame, request = hands.frame, notebook.value("race._request")
    hands.find("button[name=play]").click()
    hands.until(
        "root.querySelector('[name=play]').getAttribute('aria-pressed') === 'false' && "
        "Number(root.querySelector('output[data-control=step]').dataset.value) === a",
        last,
    )
    hands.until_drawn_after(frame + 2)
    assert notebook.value("race._request") == request
    assert notebook.value("race.step") == last


def test_an_answer_is_not_held_back_until_the_one_before_is_acknowledged(monkeypatch):
    """TCP_NODELAY on every kernel's websocket, in the server that `make lab` starts and on Binder."""
    ours = ROOT / "binder" / "jupyter_server_config.py"
    used = Path(sys.prefix) / "etc" / "jupyter" / ours.name
    assert used.read_text() == ours.read_text(), "the environment's copy is old: make lab copies it again"
    made = PyFileConfigLoader(ours.name, path=str(ours.parent)).load_config()
    connection = made.ServerApp.kernel_websocket_connection_class
    done = []
    monkeypatch.setattr(ZMQChannelsWebsocketConnection, "connect", lambda self: done.append("connected"))
    handler = SimpleNamespace(set_nodelay=lambda on: done.append(("nodelay", on)))
    stub = object.__new__(connection)
    monkeypatch.setattr(connection, "websocket_handler", handler)
    stub.connect()
    assert done == [("nodelay", True), "connected"]


def test_make_lab_saves_the_sources_only_when_told_to(tmp_path):
    """JupyterLab saves every two minutes what it shows, and here that is the book."""
    subprocess.run(["make", "lab", "LAB_ARGS=--version"], cwd=ROOT, check=True, capture_output=True)
    share, plugin = Path(sys.prefix) / "share" / "jupyter" / "lab", "@jupyterlab/docmanager-extension:plugin"
    known = get_settings(str(share / "settings"), str(share / "schemas"), str(tmp_path), plugin)[0]["schema"]["properties"]
    assert known["autosave"]["default"] is False
    assert known["defaultViewers"]["default"]["markdown"] == "Jupytext Notebook", "and what the image says still holds"


def test_a_chapter_opens_as_a_notebook_and_runs(lab, browser):
    """Through jupytext, by a click's default: the settings in binder/overrides.json."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    try:
        page = context.new_page()
        page.goto(f"{lab}/lab/tree/intro.md?reset")
        for hands in Notebook(page).run_all():
            assert hands.root.get_attribute("data-mode") == "live"
            control = next(c for c in hands.spec["controls"] if c["kind"] == "slider")
            value = next(v for v in control["values"] if v != control["value"])
            hands.changes(lambda h=hands, c=control, v=value: h.put({c["name"]: v}), control["name"])
            hands.until_answered({control["name"]: value})
    finally:
        context.close()
