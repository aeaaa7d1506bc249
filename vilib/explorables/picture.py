"""A frame as a still picture, for print and for pages without JavaScript (and for a notebook's own figures).

matplotlib draws the same panels and marks as `static/explorable.js`, in the same inks.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .core import (
    Axis, Band, Bar, Bars, Contour, Definition, Ellipse, Frame, Gaussian, Image, Letters, Line, Mark, Panel, Play, Point, Rule, Slider,
    Stems,
)
from .palette import ink, matplotlib_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Place = Callable[[str], int]


def picture(definition: Definition, frame: Frame, values: Mapping[str, Any], width: float = 9.0) -> Figure:
    """A matplotlib figure of one frame; `values` holds every control, `width` is in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    place = _places(definition, values)
    panels = [panel for panel in definition.panels if shown(panel, values)]
    columns = sorted({panel.column for panel in panels})
    with matplotlib.rc_context(cast(Any, matplotlib_style())):
        figure = Figure(figsize=(width, 3.3), layout="constrained")
        grid = figure.add_gridspec(1, len(columns))
        for k, column in enumerate(columns):
            stack = [panel for panel in panels if panel.column == column]
            rows = grid[k].subgridspec(len(stack), 1, height_ratios=[panel.height for panel in stack])
            for row, panel in enumerate(stack):
                _draw_panel(figure.add_subplot(rows[row]), panel, frame, values, place)
    return figure


def picture_svg(definition: Definition, frame: Frame, values: Mapping[str, Any]) -> str:
    """`picture` as an `<svg>` element that scales with the page."""
    import matplotlib

    buffer = io.StringIO()
    salt = {"svg.fonttype": "none", "svg.hashsalt": definition.name, "path.simplify_threshold": 1.0}
    with matplotlib.rc_context(cast(Any, matplotlib_style() | salt)):
        picture(definition, frame, values).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg"):]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(\d+\.\d\d)\d+", r"\1", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(definition.title)}" ', 1)


def shown(mark: Mark | Panel, values: Mapping[str, Any]) -> bool:
    """Whether the `when` of a mark or a panel holds at these control values."""
    for name, wanted in mark.when.items():
        wanted = (wanted,) if isinstance(wanted, str) else wanted
        chosen = values[name] if isinstance(values[name], tuple | list) else (values[name],)
        if not set(wanted) & set(chosen):
            return False
    return True


def _places(definition: Definition, values: Mapping[str, Any]) -> Place:
    """The place in a channel at which a control stands: a play head's time, a slider's notch, 0 for no control."""
    notches = {control.name: control.allowed().index(values[control.name])
               for control in definition.controls if isinstance(control, Play | Slider)}
    return lambda name: notches[name] if name else 0


def _draw_panel(axes: Axes, panel: Panel, frame: Frame, values: Mapping[str, Any], place: Place) -> None:
    axes.set_title(panel.title)
    _draw_axis(axes.set_xlim, axes.set_xscale, axes.set_xlabel, axes.set_xticks, panel.x, frame)
    _draw_axis(axes.set_ylim, axes.set_yscale, axes.set_ylabel, axes.set_yticks, panel.y, frame)
    for mark in panel.marks:
        if shown(mark, values):
            _DRAW[type(mark)](axes, mark, frame, place, ink(mark.ink).light)


def _draw_axis(limit: Any, scale: Any, label: Any, ticks: Any, axis: Axis, frame: Frame) -> None:
    if axis.scale == "sqrt":
        scale("function", functions=(lambda v: np.sqrt(np.maximum(v, 0)), np.square))
    else:
        scale(axis.scale)
    limit(*(frame[axis.domain] if isinstance(axis.domain, str) else axis.domain))
    label(axis.label)
    if axis.ticks is not None:
        ticks(list(axis.ticks))


def _line(axes: Axes, mark: Line, frame: Frame, place: Place, color: str) -> None:
    x, y, style = frame[mark.x], frame[mark.y], ink(mark.ink)
    dashed = bool(style.dash) if mark.dashed is None else mark.dashed
    if mark.fill:
        axes.fill_between(x, axes.get_ylim()[0], y, color=color, alpha=0.22, linewidth=0)
    axes.plot(x, y, color=color, linewidth=mark.width, linestyle=(0, (4, 2)) if dashed else "-", alpha=mark.opacity,
              marker=style.marker if mark.points else None, markersize=4)


def _band(axes: Axes, mark: Band, frame: Frame, place: Place, color: str) -> None:
    axes.fill_between(frame[mark.x], frame[mark.low], frame[mark.high], color=color, alpha=0.18, linewidth=0)


def _bars(axes: Axes, mark: Bars, frame: Frame, place: Place, color: str) -> None:
    heights = frame[mark.heights]
    edges = np.linspace(*axes.get_xlim(), len(heights) + 1)
    low, high = sorted(axes.get_ylim())
    lane = (high - low) / mark.rows
    base = high - lane * (mark.row + 1)
    axes.stairs(base + 0.86 * lane * heights / max(np.nanmax(heights), 1e-12), edges, baseline=base, fill=True, color=color)


def _stems(axes: Axes, mark: Stems, frame: Frame, place: Place, color: str) -> None:
    axes.vlines(frame[mark.x], 0, frame[mark.y], color=color, linewidth=1)
    axes.axhline(0, color=color, linewidth=0.6)


def _point(axes: Axes, mark: Point, frame: Frame, place: Place, color: str) -> None:
    i = place(mark.at)
    axes.plot(frame[mark.x][i], frame[mark.y][i], marker=ink(mark.ink).marker, color=color, markersize=7)


def _rule(axes: Axes, mark: Rule, frame: Frame, place: Place, color: str) -> None:
    style: dict[str, Any] = {"color": color, "linewidth": 1.2, "linestyle": "--" if mark.dashed else "-"}
    if mark.x:
        axes.axvline(frame[mark.x][place(mark.at)], **style)
    else:
        axes.axhline(frame[mark.y][0], **style)


#: From the unconstrained scale to the axes': for curves the place x and |du/dx| there, for the plane both coordinates.
_SCALE = {"": lambda u: (u, 1.0), "sigmoid": lambda u: (1 / (1 + np.exp(-u)), 2 + 2 * np.cosh(u))}
_PLANE = {"": lambda u, v: (u, v), "exp": lambda u, v: (u, np.exp(v)), "ordered": lambda u, v: (u, u + np.exp(v))}


def _gaussian(axes: Axes, mark: Gaussian, frame: Frame, place: Place, color: str) -> None:
    mean, sd = frame[mark.params].reshape(2, -1)[:, place(mark.at)]
    u = mean + sd * np.linspace(-4.5, 4.5, 200)
    x, slope = _SCALE[mark.through](u)
    axes.plot(x, mark.height * np.exp(-0.5 * ((u - mean) / sd) ** 2) / (sd * np.sqrt(2 * np.pi)) * slope, color=color)


def _ellipse(axes: Axes, mark: Ellipse, frame: Frame, place: Place, color: str) -> None:
    m1, m2, l11, l21, l22 = frame[mark.params].reshape(5, -1)[:, place(mark.at)]
    turn = np.linspace(0, 2 * np.pi, 120)
    for radius in mark.radii:
        x, y = _PLANE[mark.through](m1 + radius * l11 * np.cos(turn), m2 + radius * (l21 * np.cos(turn) + l22 * np.sin(turn)))
        if mark.fill:
            axes.fill(x, y, color=color, alpha=0.15)
        else:
            axes.plot(x, y, color=color, linewidth=1.5)


def _bar(axes: Axes, mark: Bar, frame: Frame, place: Place, color: str) -> None:
    low, high = sorted((frame[mark.low][0], frame[mark.high][0]))
    axes.fill_between([mark.left, mark.right], low, high, color=color, alpha=0.82, linewidth=0)
    top = max(axes.get_ylim()[0], min(high, axes.get_ylim()[1]))
    axes.annotate(mark.label.split("\n")[0], ((mark.left + mark.right) / 2, top), xytext=(0, 3), textcoords="offset points",
                  ha="center", color=color, fontsize=8)


def rings(frame: Frame, mark: Contour) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rings of a contour, each as its x and its y."""
    x, y = frame[mark.x], frame[mark.y]
    breaks = np.flatnonzero(np.isnan(x))
    parts = zip(np.split(x, breaks), np.split(y, breaks), strict=True)
    return [(u[~np.isnan(u)], v[~np.isnan(u)]) for u, v in parts if (~np.isnan(u)).any()]


def _contour(axes: Axes, mark: Contour, frame: Frame, place: Place, color: str) -> None:
    for x, y in rings(frame, mark):
        axes.fill(x, y, color=color, alpha=0.1, linewidth=0)
        axes.plot(x, y, color=color, linewidth=0.8)


def _image(axes: Axes, mark: Image, frame: Frame, place: Place, color: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    pixels = frame[mark.pixels].reshape(mark.rows * mark.columns, -1)[:, place(mark.at)].reshape(mark.rows, mark.columns)
    axes.pcolormesh(np.arange(mark.columns + 1), np.arange(mark.rows, -1, -1), pixels, vmin=0, vmax=1,
                    cmap=LinearSegmentedColormap.from_list("ink", ["white", color]))
    axes.set(xlim=(0, mark.columns), ylim=(0, mark.rows), aspect="equal")
    axes.spines[:].set_visible(True)


def _letters(axes: Axes, mark: Letters, frame: Frame, place: Place, color: str) -> None:
    x, y = (frame[name].reshape(mark.count, -1)[:, place(mark.at)] for name in (mark.x, mark.y))
    axes.plot(x, y, linestyle="", marker=f"${mark.letter}$", markersize=5, color=color)


_DRAW: dict[type, Callable[..., None]] = {
    Line: _line, Band: _band, Bar: _bar, Bars: _bars, Stems: _stems, Point: _point, Rule: _rule, Gaussian: _gaussian,
    Ellipse: _ellipse, Contour: _contour, Image: _image, Letters: _letters,
}
