"""A reader's own model in the explorables, in JupyterLab: answered, waited for, stopped, broken and mended; and Notebook 7.

One server and one notebook serve all tests but the last; each leaves the model quick and whole.
"""

from __future__ import annotations

import json
import shutil

import pytest
from book.hands import Hands
from book.lab import ROOT, Notebook, jupyter_lab, write_notebook

pytestmark = pytest.mark.browser

MODEL = """
import time, torch
from torch.distributions import Normal, constraints
from vilib import Model
from vilib.explorables.gallery import advi_lab, fit_race, gradient_variance

y = torch.tensor([1.2, 0.4, 2.1, 0.9])
slow, broken = 0.0, False

def height(theta):
    time.sleep(slow)
    if broken:
        raise ValueError("the data are missing")
    return Normal(theta["mu"], theta["sigma"]).log_prob(y).sum() - theta["mu"] ** 2 / 50 - theta["sigma"]

my_model = Model(height, {"mu": constraints.real, "sigma": constraints.positive})
noise = gradient_variance(my_model)
noise
"""
ALWAYS_BROKEN = """
unfinished = gradient_variance(lambda theta: theta["mu"] * nothing, supports={"mu": constraints.real})
unfinished
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(ROOT / "intro.md", folder)
    cells = (MODEL, "race = fit_race(my_model)\nrace", "lab = advi_lab(my_model)\nlab", ALWAYS_BROKEN)
    write_notebook(folder / "own.ipynb", *cells)
    write_notebook(folder / "restarted.ipynb", MODEL)
    with jupyter_lab(folder, tmp_path_factory.mktemp("home")) as address:
        yield address


@pytest.fixture(scope="module")
def page(browser):
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    yield page
    context.close()


@pytest.fixture(scope="module")
def notebook(lab, page) -> Notebook:
    page.goto(f"{lab}/lab/tree/own.ipynb?reset")
    opened = Notebook(page)
    opened.figures = opened.run_all()
    return opened


@pytest.fixture
def noise(notebook) -> Hands:
    """gradient-variance over a model that is quick and whole, at its first settings."""
    hands = notebook.figures[0]
    notebook.python("slow, broken = 0.0, False")
    hands.put({"mu": 1.0, "log_sigma": 0.0, "seed": 0, "sample_count": 16})
    hands.until_answered({"mu": 1.0, "log_sigma": 0.0, "seed": 0, "sample_count": 16})
    hands.until("root.dataset.state === ''")
    return hands


def state(hands: Hands) -> str:
    return hands.root.get_attribute("data-state")


def busy(hands: Hands) -> bool:
    return hands.root.evaluate("root => !root.querySelector('.vl-status').hidden")


def test_python_answers_with_the_readers_model(notebook):
    assert [hands.name for hands in notebook.figures] == [
        "gradient-variance",
        "fit-race",
        "advi-lab",
        "gradient-variance",
    ]
    moves = {"noise": {"mu": 2.0}, "race": {"optimizer": "sgd"}, "lab": {"family": "full"}}
    for hands, (variable, move) in zip(notebook.figures, moves.items()):
        hands.put(move)
        hands.until_answered(move)
        assert "Exact, by quadrature." in hands.caption
        columns = hands.spec["table"]["columns"]
        read = hands.numbers()
        at = {
            c["name"]: notebook.value(
                f"list({variable}.definition.controls[{i}].allowed()).index({variable}.{c['name']})"
            )
            for i, c in enumerate(hands.spec["controls"])
            if any(column["at"] == c["name"] for column in columns)
        }
        for column in columns:
            for row, _ in hands.spec["table"]["rows"]:
                channel = column["channel"].replace("{row}", row)
                frame = notebook.value(f"{variable}.frame()[{channel!r}].tolist()")
                exact = frame[at[column["at"]] if column["at"] else 0]
                assert read[channel] == "nan" if exact != exact else float(read[channel]) == exact, channel
        labels = hands.root.eval_on_selector_all(
            ".vl-panel:not([hidden]) .vl-axes text", "all => all.map(t => t.textContent)"
        )
        assert {"mu", "log sigma"} <= set(labels)
    assert notebook.page.faults == []


def test_a_quick_answer_shows_no_progress(notebook, noise):
    seen = noise.root.evaluate_handle("""root => {
      const seen = [], bar = root.querySelector(".vl-status");
      new MutationObserver(() => seen.push(!bar.hidden)).observe(bar, { attributes: true, attributeFilter: ["hidden"] });
      return seen;
    }""")
    noise.put({"sample_count": 64})
    noise.until_answered({"sample_count": 64})
    assert seen.evaluate("seen => seen.includes(true)") is False


def test_a_slow_model_shows_progress_and_is_stopped(notebook, noise):
    before, numbers = noise.root.get_attribute("data-answers"), noise.numbers()
    notebook.python("slow = 0.2")
    noise.put({"log_sigma": 0.7})  # nobody asked for this before
    noise.until("root.dataset.state === 'computing' && !root.querySelector('.vl-status').hidden")
    noise.until("root.querySelector('.vl-status progress').value > 0")
    words = noise.find(".vl-status span").inner_text()
    assert words.startswith("Computing: ") and "200 gradients" in words
    assert noise.root.get_attribute("data-answers") == before, "the old picture stays while the new one is computed"
    noise.find("button[name=stop]").click()
    noise.until("root.dataset.state === 'stopped'")
    assert "Stopped. The picture is still the last one that was finished" in noise.caption
    assert not busy(noise) and noise.numbers() == numbers and noise.root.get_attribute("data-answers") == before
    assert notebook.value("noise.wait(30)") is True
    assert notebook.value("('_studied', 'height', 1.0, 0.7, 0) in noise.definition.compute._kept") is False
    notebook.python("slow = 0.0")
    noise.put({"mu": 0.0})  # and it goes on
    noise.until_answered({"mu": 0.0})
    assert state(noise) == ""


def test_a_new_move_takes_the_place_of_a_slow_one(notebook, noise):
    notebook.python("slow = 0.2")
    noise.put({"mu": -2.0})
    noise.until("root.dataset.state === 'computing'")
    notebook.python("slow = 0.0")
    noise.put({"mu": -1.0})
    noise.until_answered({"mu": -1.0})
    assert not busy(noise) and state(noise) == ""
    kept = "[('_studied', 'height', mu, 0.0, 0) in noise.definition.compute._kept for mu in (-1.0, -2.0)]"
    assert notebook.value(kept) == [True, False], "the slow one was given up"


def test_a_broken_model_says_so_in_words_and_recovers(notebook, noise):
    numbers = noise.numbers()
    notebook.python("broken = True")
    noise.put({"seed": 1})  # no other test asks for this noise, so nothing is remembered of it
    noise.until("root.dataset.state === 'broken'")
    assert "Python stopped: ValueError: the data are missing" in noise.caption
    assert 'raise ValueError("the data are missing")' in noise.caption, "the line of the reader's own code"
    assert (
        "The picture is still the last one that could be drawn" in noise.caption and ".mend(my_model)" in noise.caption
    )
    assert "Traceback" not in noise.caption and "vmap" not in noise.caption and noise.numbers() == numbers
    notebook.python("broken = False")
    noise.put({"log_sigma": -0.7})
    noise.until_answered({"log_sigma": -0.7})
    assert state(noise) == "" and "signal-to-noise" in noise.caption


def test_a_mended_model_takes_the_place_of_a_broken_one(notebook):
    """One that never ran: the words stand where the first picture would, controls answer, and `mend` brings it to life."""
    hands = notebook.figures[3]
    assert state(hands) == "broken" and hands.frame == 0
    words = hands.find("figcaption").text_content()  # JupyterLab may not show what is far down
    assert "NameError: name 'nothing' is not defined" in words and 'theta["mu"] * nothing' in words
    hands.put({"mu": 2.0})
    hands.until("root.dataset.state === 'broken'")
    hands.until("root.querySelector('output[data-control=mu]').dataset.value === '2'")
    notebook.python("unfinished.mend(lambda theta: -theta['mu'] ** 2 / 2)")
    hands.until_answered({"mu": 2.0})
    hands.until_drawn_after(0)
    assert state(hands) == "" and float(hands.numbers()["exact_pathwise"]) == pytest.approx(-2.0, abs=1e-6)
    with pytest.raises(AssertionError, match="this one has .*make a new explorable"):
        notebook.python("unfinished.mend(my_model)")


def test_nothing_of_this_troubled_the_page(notebook):
    assert notebook.page.faults == []


def test_a_kernel_that_was_restarted_is_said_so(lab, page):
    page.goto(f"{lab}/lab/tree/restarted.ipynb?reset")
    notebook = Notebook(page)
    (hands,) = notebook.run_all()
    page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    hands.until("root.dataset.state === 'gone'")
    assert hands.caption.startswith("The kernel was restarted: run the cell again.")
    hands.put({"mu": 2.0})
    assert hands.caption.startswith("The kernel was restarted: run the cell again.") and not busy(hands)
    page.wait_for_function("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'")
    old = hands.root
    page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells').then(() => null)")
    page.wait_for_function(
        "old => !old.isConnected && document.querySelector('figure.vilib-explorable[data-ready=true]')", arg=old
    )
    fresh = Hands(page, page.query_selector("figure.vilib-explorable"))
    fresh.put({"mu": 2.0})
    fresh.until_answered({"mu": 2.0})


def test_a_chapter_runs_in_notebook_7(lab, page):
    page.goto(f"{lab}/notebooks/intro.md")
    notebook = Notebook(page)
    assert page.evaluate("() => jupyterapp.name") == "Jupyter Notebook"
    for hands in notebook.run_all():
        assert hands.root.get_attribute("data-mode") == "live"
        control = next(c for c in hands.spec["controls"] if c["kind"] == "slider")
        value = next(v for v in control["values"] if v != control["value"])
        hands.changes(lambda h=hands, c=control, v=value: h.put({c["name"]: v}), control["name"])
        hands.until_answered({control["name"]: value})
        assert json.loads(hands.root.get_attribute("data-answers"))[control["name"]] == value
