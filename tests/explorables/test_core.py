"""What an explorable is: its errors name the part and the mend, and the front end is told all that it needs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch
from explorables.toys import PANELS, compute, toy

from vilib.explorables import (
    INKS,
    Axis,
    Choice,
    Column,
    Contour,
    Definition,
    ExplorableError,
    Line,
    NewNoise,
    Panel,
    Play,
    Slider,
    Switches,
    Table,
    ink,
    level_rings,
    matplotlib_style,
    picture,
)
from vilib.explorables.gallery import fit_race, gradient_variance
from vilib.explorables.palette import PAGE
from vilib.explorables.picture import picture_svg, shown


def with_mark(mark) -> Definition:
    return toy(panels=(replace(PANELS[0], marks=(mark,)),))


def returning(**channels) -> Definition:
    return toy(compute=lambda **controls: compute(**controls) | channels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: toy(name="Not Kebab"), "name must be kebab-case such as 'gradient-variance', got 'Not Kebab'"),
        (
            lambda: toy(controls=(Slider("my slope", "", (1, 2), 1),)),
            "control name 'my slope' must be a Python identifier",
        ),
        (
            lambda: toy(controls=(Slider("_slope", "", (1, 2), 1),)),
            "control name '_slope' must be a Python identifier without a leading _",
        ),
        (lambda: toy(controls=(Slider("a", "", (1, 2), 1), NewNoise("a"))), "two controls are called 'a'; rename one"),
        (lambda: toy(controls=(Slider("a", "", (1, 2), 3),)), "a = 3 is not offered; choose one of [1, 2]"),
        (
            lambda: toy(controls=(Slider("a", "", range(100), -1),)),
            "a = -1 is not offered; choose one of [0, 1, 2, '…', 99]",
        ),
        (lambda: toy(controls=(Choice("c", "", {"x": "X"}, "y"),)), "c = 'y' is not offered; choose one of ['x']"),
        (lambda: toy(controls=(Switches("s", "", {"x": "X"}, ("z",)),)), "s has no option 'z'; it offers ['x']"),
        (lambda: toy(controls=(NewNoise("seed", count=2, value=2),)), "seed = 2 is not offered; choose one of [0, 1]"),
        (lambda: toy(controls=(Play("t", "", "times", 3, 3),)), "t = 3 is not offered; choose one of [0, 1, 2]"),
        (
            lambda: with_mark(Line(x="x", y="y", ink="mauve")),
            "panel 'curve', mark Line: ink 'mauve' is unknown; choose one of ['target', ",
        ),
        (
            lambda: with_mark(Line(x="x", y="y", until="tim")),
            "panel 'curve', mark Line refers to a control 'tim'; the controls are ['slope', ",
        ),
        (
            lambda: with_mark(Line(x="x", y="y", when={"sown": "line"})),
            "panel 'curve', mark Line refers to a control 'sown'",
        ),
        (lambda: toy(panels=(replace(PANELS[0], when={"cure": "bent"}),)), "panel 'curve' refers to a control 'cure'"),
        (
            lambda: toy().frame(slop=1.0),
            "'slop' is not a computed control of toy; those are ['slope', 'curve', 'seed']",
        ),
        (lambda: toy().frame(time=1), "'time' is not a computed control of toy"),
        (lambda: toy().frame(slope=0.7), "slope = 0.7 is not offered; choose one of [0.5, 1.0, 2.0, 3.0]"),
        (lambda: toy().frame(curve="round"), "curve = 'round' is not offered"),
        (
            lambda: with_mark(Line(x="x", y="why")).frame(),
            "Line in panel 'curve' needs channel 'why'; compute returned ['big', ",
        ),
        (
            lambda: toy(panels=(replace(PANELS[0], x=Axis("x", "range")),)).frame(),
            "an axis of panel 'curve' needs channel 'range'",
        ),
        (
            lambda: toy(controls=(*toy().controls[:4], Play("time", "", "hours", 5))).frame(),
            "Play 'time' needs channel 'hours'",
        ),
        (
            lambda: toy(table=Table({"r": "R"}, (Column("c", "mean_{row}"),))).frame(),
            "table column 'c' needs channel 'mean_r'",
        ),
        (
            lambda: returning(y=[0.0, 1.0, float("inf")]).frame(),
            "channel 'y' holds an infinity at index 2; return a finite number, or nan for a gap",
        ),
        (lambda: returning(y=[-float("inf")]).frame(), "channel 'y' holds an infinity at index 0"),
    ],
)
def test_errors_name_the_part_and_the_mend(make, message):
    with pytest.raises(ExplorableError, match=re.escape(message)):
        make()


def test_a_frame_holds_flat_float64_and_text():
    frame = returning(
        y=torch.arange(7, requires_grad=True, dtype=torch.float32), low=[[1, 2], [3, 4]], constant=np.float32(2)
    ).frame()
    assert frame["y"].dtype == np.float64 and frame["y"].tolist() == list(range(7))
    assert frame["low"].tolist() == [1, 2, 3, 4]
    assert frame["constant"].tolist() == [2]
    assert frame["word"].item() == "a straight line"
    assert np.isnan(frame["gap"]).sum() == 4


def test_computed_controls_alone_reach_compute():
    asked = []

    def listen(**controls):
        asked.append(controls)
        return compute(**controls)

    definition = toy(compute=listen)
    assert [c.name for c in definition.computed] == ["slope", "curve", "seed"]
    definition.frame(seed=2)
    assert asked == [{"slope": 1.0, "curve": "straight", "seed": 2}]
    assert definition.defaults() == {"slope": 1.0, "curve": "straight", "seed": 0, "shown": ("line",), "time": 0}


@pytest.mark.parametrize(
    "definition", [toy(), gradient_variance().definition, fit_race().definition], ids=lambda d: d.name
)
def test_the_specification_is_json(definition):
    said = json.loads(json.dumps(definition.specification()))
    assert [c["name"] for c in said["controls"]] == [c.name for c in definition.controls]
    assert {c["kind"] for c in said["controls"]} <= {"slider", "choice", "noise", "switches", "play"}
    assert [p["name"] for p in said["panels"]] == [p.name for p in definition.panels]
    for control, own in zip(said["controls"], definition.controls, strict=True):
        if hasattr(own, "options"):
            assert control["options"] == [list(pair) for pair in own.options.items()]
    for panel, own in zip(said["panels"], definition.panels, strict=True):
        assert [m["type"] for m in panel["marks"]] == [type(m).__name__.lower() for m in own.marks]
        for mark, each in zip(panel["marks"], own.marks, strict=True):
            assert mark["ink"] == each.ink
            assert mark.get("label", "") == each.label


# -- the palette -------------------------------------------------------------------------------------------------------


def _css_inks(theme: str) -> dict[str, str]:
    css = files("vilib.explorables").joinpath("static", "explorable.css").read_text(encoding="utf-8")
    blocks = re.findall(r"([^{}]*)\{([^{}]*--vl-target:[^{}]*)\}", css)
    wanted = [body for selector, body in blocks if ("dark" in selector) == (theme == "dark")]
    assert len(wanted) == 1, f"one block of inks for the {theme} theme"
    return dict(re.findall(r"--vl-([a-z]+):\s*(#[0-9a-f]{6})", wanted[0]))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_style_sheet_has_the_palette_s_inks(theme):
    css = _css_inks(theme)
    for name, each in (INKS | {"page": PAGE}).items():
        assert css[name] == getattr(each, theme), f"--vl-{name}"


def _luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [*INKS, "accent"])
def test_every_ink_may_colour_text(name, theme):
    """WCAG AA: at least 4.5 to 1 against the page."""
    css = _css_inks(theme)
    high, low = sorted((_luminance(css[name]), _luminance(css["page"])), reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_nothing_rests_on_colour_alone():
    """Estimators differ in marker too, here and in the front end."""
    estimators = ("score", "control", "pathwise", "stl")
    assert len({INKS[name].marker for name in estimators}) == 4
    assert len({each.light for each in INKS.values()}) == len({each.dark for each in INKS.values()}) == len(INKS)
    script = files("vilib.explorables").joinpath("static", "explorable.js").read_text(encoding="utf-8")
    assert all(re.search(rf"^    {name}: \(x, y, r\)", script, re.M) for name in estimators)
    dashes = dict(re.findall(r'(\w+): "([\d ]+)"', re.search(r"const DASH = \{(.*?)\}", script).group(1)))
    assert dashes == {name: each.dash for name, each in INKS.items() if each.dash}


def test_an_unknown_ink_is_told_which_there_are():
    with pytest.raises(KeyError, match="ink 'mauve' is unknown; the palette has target, q, score"):
        ink("mauve")


def test_matplotlib_follows_the_theme():
    assert matplotlib_style()["figure.facecolor"] == PAGE.light
    assert matplotlib_style(dark=True)["text.color"] == INKS["text"].dark


# -- the picture -------------------------------------------------------------------------------------------------------


def test_the_picture_has_the_panels_that_apply():
    definition = toy()
    for curve, titles in (
        ("straight", ["The line", "Bars", "In time"]),
        ("bent", ["The line", "Bars", "In the plane"]),
    ):
        values = definition.defaults() | {"curve": curve, "time": 3}
        figure = picture(definition, definition.frame(curve=curve), values)
        assert [axes.get_title("left") for axes in figure.axes] == titles


def test_the_picture_is_one_svg_and_always_the_same():
    definition = toy()
    svg = picture_svg(definition, definition.frame(), definition.defaults())
    assert svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
    assert 'role="img" aria-label="What is a line?"' in svg
    assert svg == picture_svg(definition, definition.frame(), definition.defaults())


def test_a_mark_shows_while_its_control_stands_there():
    line = Line(when={"shown": ("line", "other"), "curve": "bent"})
    assert shown(line, {"shown": ("line",), "curve": "bent"})
    assert not shown(line, {"shown": ("nothing",), "curve": "bent"})
    assert not shown(line, {"shown": ("line",), "curve": "straight"})
    assert shown(Panel("p", "", Axis("", (0, 1)), Axis("", (0, 1)), ()), {})


# -- bars and level lines ----------------------------------------------------------------------------------------------


def test_rings_follow_their_level_and_say_which():
    grid = np.linspace(-2, 2, 161)
    field = np.hypot(*np.meshgrid(grid, grid))
    x, y, levels = level_rings(grid, grid, field, (0.5, 1.5, 9.0), num_rings=4, num_points=21)
    assert x.shape == y.shape == (4 * 22,) and levels[:3].tolist() == [9.0, 1.5, 0.5] and np.isnan(levels[3])
    for k, radius in ((1, 1.5), (2, 0.5)):
        ring = slice(22 * k, 22 * k + 21)
        assert np.allclose(np.hypot(x[ring], y[ring]), radius, atol=0.02)
        assert (x[ring][0], y[ring][0]) == pytest.approx((x[ring][-1], y[ring][-1])) and np.isnan(x[22 * k + 21])
    wall = np.maximum(np.abs(x[:21]), np.abs(y[:21]))
    assert (wall > 1.9).all(), "a level that is never reached closes along the edge of the grid"


def test_a_field_with_two_bottoms_has_two_rings_of_a_level():
    grid = np.linspace(-2, 2, 161)
    x, y = np.meshgrid(grid, grid)
    depth = np.minimum(np.hypot(x - 1, y), np.hypot(x + 1, y))
    assert level_rings(grid, grid, depth, (0.5, 1.2))[2][:3].tolist() == [1.2, 0.5, 0.5]
    with pytest.raises(ExplorableError, match=re.escape("the field has 3 level lines; allow num_rings=3, or ask for fewer levels")):
        level_rings(grid, grid, depth, (0.5, 1.2), num_rings=2)


def test_the_picture_draws_a_bar_and_every_ring():
    definition = toy()
    values = definition.defaults() | {"curve": "bent"}
    frame = definition.frame(curve="bent")
    plane = next(axes for axes in picture(definition, frame, values).axes if axes.get_title("left") == "In the plane")
    assert len(plane.patches) == 2                                                   # two rings, shaded
    bar, = plane.collections
    low, high = bar.get_paths()[0].get_extents().get_points()
    assert (low.tolist(), high.tolist()) == ([-2.0, 2.0], [0.0, 3.25])
    assert [text.get_text() for text in plane.texts] == ["a bar"]


def test_a_mark_names_the_levels_it_needs():
    with pytest.raises(ExplorableError, match="Contour in panel 'curve' needs channel 'nothing'"):
        with_mark(Contour(x="ring_x", y="ring_y", levels="nothing")).frame()
