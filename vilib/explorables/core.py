"""What an explorable is: controls, a `compute` function, and panels of marks.

`compute(**controls)` is Python. It calls `vilib` and returns a *frame*: named channels of numbers.
Panels say which channel is drawn how. Nothing here knows whether a kernel is running: `widget.py`
makes the live form, `recording.py` and `island.py` the static one, and `static/explorable.js` draws both.

A control is either *computed* (a `Slider`, a `Choice`, `NewNoise`: a new value asks for a new frame) or
*viewed* (`Switches`, `Play`: a new value shows more, less or a later part of the frame that is there).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from .palette import INKS

#: The name of a row of numbers that `compute` returns.
Channel = str
#: What `compute` returned, checked: channel → its numbers, or a text.
Frame = dict[str, np.ndarray]


class ExplorableError(ValueError):
    """An explorable was put together wrongly; the message names the part and the mend."""


# ---------------------------------------------------------------- controls


@dataclass(frozen=True)
class Slider:
    """A slider over `values`, in order. The same values are offered live and recorded.

    `format` is a Python-like number format (`".3g"`, `"d"`, `",d"`, `".2f"`); `unit` follows the number.
    """

    name: str
    label: str
    values: Sequence[float]
    value: float
    format: str = ".3g"
    unit: str = ""
    wide: bool = False
    kind: ClassVar[str] = "slider"
    computed: ClassVar[Literal[True]] = True

    def allowed(self) -> list[Any]:
        return list(self.values)


@dataclass(frozen=True)
class Choice:
    """One of several named options: `options` maps the key that `compute` receives to its label."""

    name: str
    label: str
    options: Mapping[str, str]
    value: str
    kind: ClassVar[str] = "choice"
    computed: ClassVar[Literal[True]] = True

    def allowed(self) -> list[Any]:
        return list(self.options)


@dataclass(frozen=True)
class NewNoise:
    """A button that draws fresh noise: it steps through the seeds `0 … count − 1`, then starts again."""

    name: str = "seed"
    label: str = "New noise"
    count: int = 3
    value: int = 0
    kind: ClassVar[str] = "noise"
    computed: ClassVar[Literal[True]] = True

    def allowed(self) -> list[Any]:
        return list(range(self.count))


@dataclass(frozen=True)
class Switches:
    """Things to show or hide, each on its own: `options` maps a key to its label, `inks` a key to its ink."""

    name: str
    label: str
    options: Mapping[str, str]
    value: tuple[str, ...]
    inks: Mapping[str, str] = field(default_factory=dict)
    kind: ClassVar[str] = "switches"
    computed: ClassVar[Literal[False]] = False


@dataclass(frozen=True)
class Play:
    """A play button and a scrub bar over the time axis of the frame.

    `times` names the channel that holds the times shown beside the bar; `count` is its length.
    """

    name: str
    label: str
    times: Channel
    count: int
    value: int = 0
    seconds: float = 6.0
    kind: ClassVar[str] = "play"
    computed: ClassVar[Literal[False]] = False

    def allowed(self) -> list[Any]:
        return list(range(self.count))


#: Anything that a reader moves.
Control = Slider | Choice | NewNoise | Switches | Play


# ---------------------------------------------------------------- panels and marks


@dataclass(frozen=True)
class Axis:
    """One axis. `domain` is `(low, high)`, or the name of a channel that holds the two.

    `scale` is `"linear"`, `"log"` or `"sqrt"`. `ticks=()` draws none. A domain that comes from a channel
    should depend on as few controls as it can: an axis that moves cannot be read against.
    """

    label: str
    domain: tuple[float, float] | Channel
    scale: str = "linear"
    ticks: tuple[float, ...] | None = None
    format: str = ".3g"


@dataclass(frozen=True)
class Mark:
    """What every mark has: an `ink`, and `when`, a control's value without which it is not drawn.

    `when={"estimators": "pathwise"}` draws the mark while the switch `pathwise` is on;
    `when={"target": "logistic"}` while the choice stands there. `label` is written beside the mark.
    """

    ink: str = "text"
    when: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True)
class Line(Mark):
    """A line through `(x[i], y[i])`; with `until`, the name of a `Play`, bold up to now and faint after.
    `fill` shades down to the axis; `points` sets the ink's marker on every point; `aside` writes the label in the
    right margin, at the line's end."""

    x: Channel = ""
    y: Channel = ""
    width: float = 2.0
    dashed: bool | None = None
    until: str = ""
    fill: bool = False
    points: bool = False
    aside: bool = False
    opacity: float = 1.0


@dataclass(frozen=True)
class Band(Mark):
    """The area between `low[i]` and `high[i]` over `x[i]`."""

    x: Channel = ""
    low: Channel = ""
    high: Channel = ""


@dataclass(frozen=True)
class Bars(Mark):
    """A histogram over equal bins that fill the x axis; `row` of `rows` puts it in its own lane,
    where the highest bin is as tall as the lane."""

    heights: Channel = ""
    row: int = 0
    rows: int = 1


@dataclass(frozen=True)
class Stems(Mark):
    """A stem from 0 to `y[i]` at each `x[i]`, the stronger the ink the longer the stem; hollow heads below 0."""

    x: Channel = ""
    y: Channel = ""


@dataclass(frozen=True)
class Point(Mark):
    """One large marker at (`x`, `y`), two channels; `at` names the control that picks the place in them."""

    x: Channel = ""
    y: Channel = ""
    at: str = ""


@dataclass(frozen=True)
class Rule(Mark):
    """A straight line across the panel at `x` or at `y`, a channel of one number."""

    x: Channel = ""
    y: Channel = ""
    dashed: bool = True
    at: str = ""


#: Maps that a Gaussian mark or an ellipse may be drawn through, from the unconstrained scale to the axes': u → sigmoid(u);
#: (u, v) → (u, exp v); (u, v) → (u, u + exp v).
THROUGH = {"Gaussian": ("", "sigmoid"), "Ellipse": ("", "exp", "ordered")}


@dataclass(frozen=True)
class Gaussian(Mark):
    """The density of N(mean, sd²); the channel `params` holds the mean at every time, then the sd at every time.

    `at` names the `Play` that picks the time; the peak leaves a trail. `height` scales the density. `through="sigmoid"` draws
    the density of sigmoid(u) for u ~ N(mean, sd²).
    """

    params: Channel = ""
    at: str = ""
    fill: bool = True
    height: float = 1.0
    through: str = ""


@dataclass(frozen=True)
class Ellipse(Mark):
    """`m + r L u` over the unit circle u, for each r in `radii`; `params` holds m₁ at every time, then m₂, L₁₁, L₂₁, L₂₂.

    `through` (see `THROUGH`) draws its image on a scale where it is no ellipse; the mass inside stays what it was.
    """

    params: Channel = ""
    at: str = ""
    radii: tuple[float, ...] = (1.0, 2.0)
    fill: bool = False
    through: str = ""


@dataclass(frozen=True)
class Bar(Mark):
    """One bar, from `low` to `high` (channels of one number) and from `left` to `right` in units of the x axis.
    The label stands above it; a line break in it breaks the line, and numbers are put in as in a caption."""

    low: Channel = ""
    high: Channel = ""
    left: float = 0.0
    right: float = 1.0


@dataclass(frozen=True)
class Contour(Mark):
    """Level lines: closed rings through `(x[i], y[i])`, a nan between two rings, each shaded, so that inner ones are stronger.

    `levels` holds one number a ring, nan after the last; it is written at the ring's foot where there is room. Compute the rings on
    a field that reaches past the panel, so that a ring which leaves the panel closes out of sight.
    """

    x: Channel = ""
    y: Channel = ""
    levels: Channel = ""


@dataclass(frozen=True)
class Image(Mark):
    """A picture of `rows` × `columns` square pixels, row by row from the top: 0 the page, 1 the ink. It fills its panel.

    `pixels` holds each pixel at every time of the `Play` that `at` names. `alt` says what it shows, numbers put in as in a caption:
    it is read aloud with the panel's title, and the pixels after it, in tenths.
    """

    pixels: Channel = ""
    rows: int = 1
    columns: int = 1
    at: str = ""
    alt: str = ""


@dataclass(frozen=True)
class Letters(Mark):
    """`letter` written at `count` places (x[i], y[i]); with `at`, the name of a `Play`, each i at every time: the letters travel."""

    x: Channel = ""
    y: Channel = ""
    letter: str = "·"
    count: int = 1
    at: str = ""


@dataclass(frozen=True)
class Panel:
    """One picture. Panels with the same `column` stand on top of each other; `height` is their share.

    `when` is a mark's `when`: a panel that does not apply gives its room to the others.
    """

    name: str
    title: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    column: int = 0
    height: float = 1.0
    note: str = ""
    when: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A column of the table: `channel` is a pattern with `{row}`.

    `at` names a `Play` or a `Slider`: the number is read at that place of the channel.
    """

    label: str
    channel: str
    format: str = ".3g"
    at: str = ""
    help: str = ""


@dataclass(frozen=True)
class Table:
    """Numbers to read: a row for each key of `rows` (key → label), a column for each `Column`."""

    rows: Mapping[str, str]
    columns: tuple[Column, ...]
    inks: Mapping[str, str] = field(default_factory=dict)
    switch: str = ""


@dataclass(frozen=True)
class Precision:
    """How exactly a recording keeps a channel.

    `step`: rounded to a multiple of it, so wrong by at most step/2. `relative`: each number wrong by at
    most that share of itself. Neither: float32 as it is.
    """

    step: float | None = None
    relative: float | None = None


# ---------------------------------------------------------------- the definition


@dataclass(frozen=True)
class Definition:
    """Everything about an explorable but its life: what moves, what is computed, what is drawn.

    Parameters
    ----------
    name : the kebab-case name in the page and in the URL (`gradient-variance`).
    title : the question it answers.
    controls : in the order in which they are shown.
    compute : `compute(**computed_controls) -> {channel: number or 1-D/2-D array}`.
    panels : the pictures.
    caption : a sentence with `{channel}` or `{channel:.2f}` in it, or the name of none; the numbers are put in
        when a frame is drawn. A channel of text (`str`) may be named too.
    table : numbers to read, or None.
    precision : channel name pattern (as in `fnmatch`) → `Precision`.
    background : whether `compute` may take long, so that with a kernel it runs in a thread of its own and can be stopped.

    Raises
    ------
    ExplorableError : a name used twice or not an identifier, a value that is not offered, a mark with an
        unknown ink, a `when`, `at` or `until` that names no control.
    """

    name: str
    title: str
    controls: tuple[Control, ...]
    compute: Callable[..., Mapping[str, Any]]
    panels: tuple[Panel, ...]
    caption: str = ""
    table: Table | None = None
    precision: Mapping[str, Precision] = field(default_factory=dict)
    background: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise ExplorableError(f"name must be kebab-case such as 'gradient-variance', got {self.name!r}")
        seen: set[str] = set()
        for control in self.controls:
            if not control.name.isidentifier() or control.name.startswith("_"):
                raise ExplorableError(f"control name {control.name!r} must be a Python identifier without a leading _")
            if control.name in seen:
                raise ExplorableError(f"two controls are called {control.name!r}; rename one")
            seen.add(control.name)
            self.check_value(control, control.value)
        for panel in self.panels:
            self._check_names(f"panel {panel.name!r}", panel.when)
            for mark in panel.marks:
                self._check_mark(panel, mark)

    def check_value(self, control: Control, value: Any) -> None:
        """Raise `ExplorableError` if `control` does not offer `value`."""
        if isinstance(control, Switches):
            unknown = [key for key in value if key not in control.options]
            if unknown:
                raise ExplorableError(f"{control.name} has no option {unknown[0]!r}; it offers {list(control.options)}")
        elif value not in control.allowed():
            offered = control.allowed()
            shown = offered if len(offered) <= 16 else [*offered[:3], "…", offered[-1]]
            raise ExplorableError(f"{control.name} = {value!r} is not offered; choose one of {shown}")

    def _check_mark(self, panel: Panel, mark: Mark) -> None:
        where = f"panel {panel.name!r}, mark {type(mark).__name__}"
        if mark.ink not in INKS:
            raise ExplorableError(f"{where}: ink {mark.ink!r} is unknown; choose one of {list(INKS)}")
        known = THROUGH.get(type(mark).__name__, ("",))
        if (through := getattr(mark, "through", "")) not in known:
            raise ExplorableError(f"{where}: no map through {through!r}; choose one of {list(known)}")
        self._check_names(where, [*mark.when, *filter(None, (getattr(mark, key, "") for key in ("at", "until")))])

    def _check_names(self, where: str, used: Sequence[str] | Mapping[str, Any]) -> None:
        names = [control.name for control in self.controls]
        for name in used:
            if name not in names:
                raise ExplorableError(f"{where} refers to a control {name!r}; the controls are {names}")

    @property
    def computed(self) -> tuple[Slider | Choice | NewNoise, ...]:
        """The controls that `compute` receives."""
        return tuple(control for control in self.controls if control.computed)

    def defaults(self) -> dict[str, Any]:
        """Every control's first value."""
        return {control.name: control.value for control in self.controls}

    def frame(self, **values: Any) -> Frame:
        """Run `compute` on the computed controls (defaults where not given) and check what came back.

        Returns
        -------
        channel → float64 array of shape (n,), or a 0-d object array that holds a `str`.

        Raises
        ------
        ExplorableError : a value that is not offered, a channel that a panel needs and `compute` did not
            return, or one that holds an infinity (nan is a gap and is allowed).
        """
        settings = {control.name: control.value for control in self.computed}
        for name, value in values.items():
            if name not in settings:
                raise ExplorableError(f"{name!r} is not a computed control of {self.name}; those are {list(settings)}")
            settings[name] = value
        for control in self.computed:
            self.check_value(control, settings[control.name])
        frame = {name: _as_channel(name, value) for name, value in self.compute(**settings).items()}
        for name, user in self.channels_used():
            if name not in frame:
                raise ExplorableError(f"{user} needs channel {name!r}; compute returned {sorted(frame)}")
        return frame

    def channels_used(self) -> list[tuple[Channel, str]]:
        """(channel, who uses it) for every channel that panels and table name."""
        used: list[tuple[Channel, str]] = []
        for panel in self.panels:
            for axis in (panel.x, panel.y):
                if isinstance(axis.domain, str):
                    used.append((axis.domain, f"an axis of panel {panel.name!r}"))
            for mark in panel.marks:
                for key in ("x", "y", "low", "high", "heights", "params", "levels", "pixels"):
                    if getattr(mark, key, ""):
                        used.append((getattr(mark, key), f"{type(mark).__name__} in panel {panel.name!r}"))
        for control in self.controls:
            if isinstance(control, Play):
                used.append((control.times, f"Play {control.name!r}"))
        if self.table:
            used += [(column.channel.format(row=row), f"table column {column.label!r}")
                     for column in self.table.columns for row in self.table.rows]
        return used

    def specification(self) -> dict[str, Any]:
        """All that the front end needs, as JSON-ready data."""
        return {
            "name": self.name,
            "title": self.title,
            "caption": self.caption,
            "controls": [{"kind": c.kind, **_plain(c), **_pairs(c)} for c in self.controls],
            "panels": [_panel(panel) for panel in self.panels],
            "table": _plain(self.table) | {"rows": list(self.table.rows.items())} if self.table else None,
        }


def _as_channel(name: str, value: Any) -> np.ndarray:
    if isinstance(value, str):
        return np.array(value, dtype=object)
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value, dtype=np.float64).reshape(-1)
    if np.isinf(array).any():
        raise ExplorableError(f"channel {name!r} holds an infinity at index {int(np.isinf(array).argmax())}; "
                              "return a finite number, or nan for a gap")
    return array


def _plain(thing: Any) -> dict[str, Any]:
    """A dataclass as JSON-ready data, leaving out what stands at its default."""
    out = {}
    for item in fields(thing):
        value = getattr(thing, item.name)
        if is_dataclass(value):
            value = _plain(value)
        elif isinstance(value, tuple | list):
            value = [_plain(v) if is_dataclass(v) else v for v in value]
        elif isinstance(value, Mapping):
            value = dict(value)
        out[item.name] = value.item() if isinstance(value, np.generic) else value
    return out


def _pairs(control: Control) -> dict[str, Any]:
    """Options as ordered pairs: JSON objects keep no promise about order."""
    options = getattr(control, "options", None)
    return {"options": list(options.items())} if options is not None else {}


def _panel(panel: Panel) -> dict[str, Any]:
    marks = [{"type": type(mark).__name__.lower(), **{k: v for k, v in asdict(mark).items() if v not in ("", {}, None)}}
             for mark in panel.marks]
    return _plain(panel) | {"marks": marks}
