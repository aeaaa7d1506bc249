"""A small explorable with a control and a mark of every kind, quick to compute and to check by hand."""

from __future__ import annotations

import numpy as np

from vilib.explorables import (
    Axis,
    Band,
    Bar,
    Bars,
    Choice,
    Column,
    Contour,
    Definition,
    Ellipse,
    Gaussian,
    Line,
    NewNoise,
    Panel,
    Play,
    Point,
    Precision,
    Rule,
    Slider,
    Stems,
    Switches,
    Table,
)

TIMES = 5
X = np.linspace(0.0, 1.0, 7)


def compute(slope: float, curve: str, seed: int) -> dict[str, object]:
    """A straight or a bent line with a little noise on it; at the top level, so that a process pool can have it."""
    y = slope * (X if curve == "straight" else X**2) + 0.01 * np.random.default_rng(seed).standard_normal(X.size)
    t = np.arange(TIMES, dtype=float)
    return {
        "x": X,
        "y": y,
        "y_float": y,
        "y_step": y,
        "y_relative": y,
        "low": y - 0.1,
        "high": y + 0.1,
        "gap": np.where(X > 0.5, y, np.nan),
        "heights": np.round(100 * np.abs(y)),
        "times": t,
        "constant": 3.25,
        "of_slope": slope * 10.0,
        "of_curve": {"straight": 1.0, "bent": 2.0}[curve],
        "gaussian": np.concatenate([t, 1 + t]),
        "ellipse": np.concatenate([t, t, 1 + 0 * t, 0 * t, 1 + 0 * t]),
        "sum_line": y.sum() * (1 + t),
        "word": f"a {curve} line",
        "big": 1e5 * y,
        "signed": np.where(X > 0.5, -y, y),
        "ring_x": [1.0, 2.0, 1.5, 1.0, np.nan, 4.0, 6.0, 5.0, 4.0, np.nan, np.nan],
        "ring_y": [0.0, 0.0, 1.0 + slope, 0.0, np.nan, 1.0, 1.0, 3.0, 1.0, np.nan, np.nan],
        "ring_levels": [0.3, 10.0, np.nan],
    }


PRECISION = {
    "y_step": Precision(step=0.01),
    "y_relative": Precision(relative=1e-3),
    "gap": Precision(step=0.001),
    "heights": Precision(step=1),
    "low": Precision(relative=0.01),
    "signed": Precision(relative=0.05),
    "big": Precision(step=0.5),
}

PANELS = (
    Panel(
        "curve",
        "The line",
        Axis("x", (0, 1)),
        Axis("y", (-1, 4)),
        (
            Line(x="x", y="y", ink="pathwise", label="line", when={"shown": "line"}),
            Band(x="x", low="low", high="high"),
            Stems(x="x", y="gap"),
            Point(x="x", y="y"),
            Rule(y="constant", label="here"),
            Line(x="x", y="gap", fill=True),
        ),
    ),
    Panel("bars", "Bars", Axis("", (0, 1)), Axis("", (0, 1), ticks=()), (Bars(heights="heights"),), 1),
    Panel(
        "time",
        "In time",
        Axis("z", (-5, 15)),
        Axis("", (0, 1)),
        (Gaussian(params="gaussian", at="time"), Rule(x="times", at="time")),
        1,
        when={"curve": "straight"},
    ),
    Panel(
        "plane",
        "In the plane",
        Axis("z₁", (-3, 8)),
        Axis("z₂", (-3, 8)),
        (
            Contour(x="ring_x", y="ring_y", levels="ring_levels", ink="q"),
            Ellipse(params="ellipse", at="time"),
            Bar(low="constant", high="of_curve", left=-2, right=0, label="a bar\n{of_curve:.1f}"),
        ),
        1,
        when={"curve": "bent"},
    ),
)


def toy(**changes: object) -> Definition:
    """The toy's definition, with some of its parts replaced."""
    parts: dict[str, object] = {
        "name": "toy",
        "title": "What is a line?",
        "controls": (
            Slider("slope", "slope", (0.5, 1.0, 2.0, 3.0), 1.0),
            Choice("curve", "curve", {"straight": "a straight line", "bent": "a bent one"}, "straight"),
            NewNoise("seed", count=3),
            Switches("shown", "shown", {"line": "the line", "nothing": "nothing"}, ("line",), {"line": "pathwise"}),
            Play("time", "time", "times", TIMES),
        ),
        "compute": compute,
        "panels": PANELS,
        "caption": "The slope is {slope}; {word}; the sum is {sum_line@time:.2f}.",
        "table": Table({"line": "the line"}, (Column("sum", "sum_{row}", ".2f", "time"),)),
        "precision": PRECISION,
    }
    return Definition(**(parts | changes))
