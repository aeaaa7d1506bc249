"""The marks `Image` and `Letters`: what they ask for, what a recording keeps of them, and how matplotlib draws them."""

from __future__ import annotations

import numpy as np
import pytest

from vilib.explorables import Axis, ExplorableError, Image, Letters, Panel, Play, Precision, picture, record
from vilib.explorables.core import Definition

TIMES = 3
#: Six pixels, each at three times: the ink moves down the rows.
PIXELS = np.array([[1, 0, 0], [0.5, 0, 0], [0, 1, 0], [0, 0.5, 0], [0, 0, 1], [0, 0, 0.5]])
X = np.array([[0.0, 1.0, 2.0], [4.0, 3.0, 2.0]])


def compute() -> dict[str, object]:
    return {"pixels": PIXELS.reshape(-1), "x": X.reshape(-1), "y": X.reshape(-1) / 2, "times": np.arange(TIMES)}


def definition(*marks) -> Definition:
    blank = Axis("", (0, 4), ticks=())
    return Definition("pixels", "What is drawn?", (Play("time", "time", "times", TIMES),), compute,
                      tuple(Panel(f"p{k}", f"P{k}", blank, blank, (mark,), k) for k, mark in enumerate(marks)),
                      precision={"pixels": Precision(step=0.1)})


IMAGE = Image(pixels="pixels", rows=3, columns=2, at="time", alt="ink at time {times@time:d}")
LETTERS = Letters(x="x", y="y", letter="7", count=2, at="time", ink="pathwise")


@pytest.mark.parametrize("time", range(TIMES))
def test_matplotlib_draws_the_rows_from_the_top_and_the_letters_where_they_are(time):
    drawn = definition(IMAGE, LETTERS)
    left, right = picture(drawn, drawn.frame(), {"time": time}).axes
    mesh, = left.collections
    assert mesh.get_array().reshape(3, 2).tolist() == PIXELS[:, time].reshape(3, 2).tolist()
    corners = mesh.get_coordinates()
    assert corners[0, 0].tolist() == [0, 3] and corners[-1, -1].tolist() == [2, 0] and left.get_aspect() == 1
    line, = right.lines
    assert line.get_xdata().tolist() == X[:, time].tolist() and line.get_marker() == "$7$"


def test_the_front_end_is_told_all_it_needs():
    image, letters = (panel["marks"][0] for panel in definition(IMAGE, LETTERS).specification()["panels"])
    assert (image["type"], image["rows"], image["columns"], image["at"]) == ("image", 3, 2, "time")
    assert "times@time" in image["alt"] and (letters["type"], letters["letter"], letters["count"]) == ("letters", "7", 2)


def test_a_recording_keeps_the_pixels():
    kept = record(definition(IMAGE)).frame()["pixels"]
    assert kept == pytest.approx(PIXELS.reshape(-1), abs=0.05)


@pytest.mark.parametrize(
    ("mark", "words"),
    [(Image(pixels="nothing"), "Image in panel 'p0' needs channel 'nothing'"), (Letters(x="x", y="none"), "Letters in panel 'p0' needs channel 'none'")])
def test_a_mark_names_the_channel_it_needs(mark, words):
    with pytest.raises(ExplorableError, match=words):
        definition(mark).frame()


@pytest.mark.parametrize("mark", [Image(pixels="pixels", at="no_play"), Letters(x="x", y="y", at="no_play")])
def test_a_mark_names_the_play_that_is_not_there(mark):
    with pytest.raises(ExplorableError, match="refers to a control 'no_play'"):
        definition(mark)
