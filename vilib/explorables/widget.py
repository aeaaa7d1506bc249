"""The live form of an explorable: an ipywidget whose frames a kernel computes.

Every control is a trait with the control's name, so `link`, `observe` and `interact` know it and it sits
in an `HBox` beside any other widget. The front end asks with a request number and waits for the frame
that answers it before it asks again, so a drag never queues up work: the latest value wins. Where `compute` may take long
(`background=True`) a thread of its own works on it: the page shows how far it is, a new question ends the work on an old one, and
Stop leaves the picture that was there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any, overload

import anywidget
import ipywidgets
import numpy as np
import traitlets

from .core import Control, Definition, ExplorableError, Frame, Panel, Precision, Switches, Table
from .island import island_html
from .recording import Recording, record
from .threads import Worker
from .trouble import what_happened

RECORD = "VILIB_RECORD"  # set while the book is built: show the recorded form


def recording_wanted() -> bool:
    """Whether a book is being built, so that explorables answer from a recording."""
    return bool(os.environ.get(RECORD))


@cache
def static_text(name: str) -> str:
    """The text of a file in `static/`."""
    return files("vilib.explorables").joinpath("static", name).read_text(encoding="utf-8")


_STUB = "export default { render() {} };"  # a built page carries the script once, not in widget state
_MODULE = "\nexport default { render: (context) => globalThis.vilibExplorables.render(context) };\n"


class Explorable(anywidget.AnyWidget):
    """Something a reader moves: controls, a `compute` function, and panels that draw what it returns.

    Parameters are those of `vilib.explorables.core.Definition`, or a `Definition` alone. Each control is a
    trait: `explorable.sample_count = 64` moves the slider, and `explorable.observe(f, "sample_count")` hears it.

    What `compute` raises is said in the picture, with what to do; the controls stay, and moving one tries again. `mend` puts
    another `compute` in its place.

    Raises
    ------
    ExplorableError : see `Definition`; also a control whose name an ipywidget already uses (`layout`, `keys`).
    traitlets.TraitError : a trait set to a value that the control does not offer.

    Examples
    --------
    >>> from vilib.explorables import Axis, Explorable, Line, Panel, Slider
    >>> line = Panel("line", "y = ax", Axis("x", (0, 1)), Axis("y", (0, 3)), (Line(x="x", y="y"),))
    >>> mine = Explorable("a-line", "How steep?", (Slider("a", "slope a", (1, 2, 3), 2),),
    ...                   lambda a: {"x": [0, 1], "y": [0, a]}, (line,))
    >>> mine.a = 3
    >>> mine.frame()["y"]
    array([0., 3.])
    """

    _esm = traitlets.Unicode(_STUB).tag(sync=True)
    _css = traitlets.Unicode("").tag(sync=True)
    _spec = traitlets.Dict().tag(sync=True)
    _request = traitlets.Int(0).tag(sync=True)
    _frame = traitlets.Dict().tag(sync=True)
    _progress = traitlets.Dict().tag(sync=True)     # of a long answer: which one, what is done now, and its share

    @overload
    def __init__(self, name: Definition, **values: Any) -> None: ...

    @overload
    def __init__(
        self, name: str, title: str, controls: tuple[Control, ...], compute: Callable[..., Mapping[str, Any]],
        panels: tuple[Panel, ...], *, caption: str = "", table: Table | None = None,
        precision: Mapping[str, Precision] | None = None, **values: Any,
    ) -> None: ...

    def __init__(
        self,
        name: str | Definition,
        title: str = "",
        controls: tuple[Control, ...] = (),
        compute: Callable[..., Mapping[str, Any]] | None = None,
        panels: tuple[Panel, ...] = (),
        *,
        caption: str = "",
        table: Table | None = None,
        precision: Mapping[str, Precision] | None = None,
        background: bool = False,
        **values: Any,
    ) -> None:
        if isinstance(name, Definition):
            definition = name
        else:
            if compute is None:
                raise ExplorableError("compute is missing; pass a function of the computed controls")
            definition = Definition(name, title, tuple(controls), compute, tuple(panels), caption, table, precision or {},
                                    background)
        self.definition = definition
        taken = set(dir(Explorable)) | set(anywidget.AnyWidget.class_trait_names()) | set(vars(self))
        for control in definition.controls:
            if control.name in taken:
                raise ExplorableError(f"control name {control.name!r} is taken by ipywidgets; choose another")
        building = recording_wanted()
        self._one_at_a_time, self._asked_by_page, self._serial = threading.RLock(), False, 0
        self._worker = Worker(self._work, self._stopped, self._tell) if definition.background else None
        super().__init__(
            _esm=_STUB if building else static_text("explorable.js") + _MODULE,
            _css="" if building else static_text("explorable.css"),
        )
        self._answered: tuple[Any, ...] | None = None              # the settings that were answered last
        self._asking: tuple[tuple[Any, ...], int] | None = None    # settings and request that are being answered
        self.add_traits(**{c.name: _trait(definition, c) for c in definition.controls})
        self._spec = definition.specification()
        for key, value in values.items():
            if not self.has_trait(key):
                raise ExplorableError(f"{key!r} is not a control of {definition.name}; "
                                      f"those are {[c.name for c in definition.controls]}")
            setattr(self, key, value)
        if not building:
            self._answer_at_first()
            self.observe(self._answer, [c.name for c in definition.computed] + ["_request"])
            self.on_msg(self._hear)

    # -- what Python sees

    def values(self) -> dict[str, Any]:
        """Every control's present value."""
        return {control.name: getattr(self, control.name) for control in self.definition.controls}

    def frame(self) -> Frame:
        """The frame at the present controls: channel → array."""
        return self.definition.frame(**{c.name: getattr(self, c.name) for c in self.definition.computed})

    def record(self, executor: Any = None) -> Recording:
        """Every frame of the grid of controls; see `vilib.explorables.record`."""
        return record(self.definition, executor)

    def control(self, name: str) -> ipywidgets.Widget:
        """A plain ipywidget with a `value`, linked to the control `name`: what `interact` wants.

        >>> from vilib.explorables.gallery import gradient_variance     # doctest: +SKIP
        >>> interact(f, S=gradient_variance().control("sample_count"))  # doctest: +SKIP
        """
        control = next((c for c in self.definition.controls if c.name == name), None)
        if control is None:
            raise ExplorableError(f"no control is called {name!r}; those are {[c.name for c in self.definition.controls]}")
        if isinstance(control, Switches):
            widget: ipywidgets.Widget = ipywidgets.SelectMultiple(
                options=[(label, key) for key, label in control.options.items()], description=control.label)
        elif hasattr(control, "options"):
            widget = ipywidgets.Dropdown(options=[(label, key) for key, label in control.options.items()],
                                         description=control.label)
        else:
            widget = ipywidgets.SelectionSlider(options=control.allowed(), description=control.label)
        widget.value = getattr(self, name)
        traitlets.link((self, name), (widget, "value"))
        return widget

    # -- when it takes long, and when it breaks

    def mend(self, mended: Any) -> None:
        """Compute with something else from now on, and answer again; controls and panels stay as they are.

        mended: another `compute` with the same controls and channels. For an explorable of your own model, the model: in any form in
        which the first one could come, or a dict from names to models for some of several.

        Raises
        ------
        ExplorableError : a model with other coordinates, which needs another picture: make a new explorable.
        """
        with_model = getattr(self.definition.compute, "mended", None)
        self.definition = replace(self.definition, compute=with_model(mended) if with_model else mended)
        self._answered = self._asking = None
        if not recording_wanted():
            self._answer()

    def stop(self) -> None:
        """End what is being computed, if anything is, as the page's Stop button does; the last picture stays."""
        if self._worker:
            self._worker.stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Until the answer is there, at most `timeout` seconds; whether it is. Not for a callback of `observe`, which holds it up."""
        return self._worker is None or self._worker.wait(timeout)

    # -- answering the front end

    def _answer_at_first(self) -> None:
        try:
            self._answer()
        except ExplorableError:
            raise
        except Exception:
            pass  # it stands in the picture; `frame()` raises it

    def _answer(self, change: Any = None) -> None:
        """Send the frame for the present controls; called when one of them, or the request number, moves."""
        settings = tuple(getattr(self, c.name) for c in self.definition.computed)
        settled = self._asking is None and settings == self._answered and self._frame.get("request") == self._request
        if settled or self._asking == (settings, self._request):
            return
        self._serial += 1
        question = {"serial": self._serial, "request": self._request, "controls": self.values()}
        if self._worker:
            self._tell((question, settings), "", None)
            self._asking = settings, self._request
            self._worker.ask((question, settings))
        else:
            self._work((question, settings), inform=not self._asked_by_page)

    def _work(self, asked: tuple[dict[str, Any], tuple[Any, ...]], inform: bool = False) -> None:
        """Compute the frame that was asked for and send it, or what went wrong instead."""
        question, settings = asked
        names = (c.name for c in self.definition.computed)
        try:
            self._hand_over(question | _packed(self.definition.frame(**dict(zip(names, settings, strict=True)))), settings)
        except Exception as error:
            self._hand_over(question | what_happened(error, self.definition.compute), None)
            if inform:
                raise

    def _hand_over(self, packet: dict[str, Any], answered: tuple[Any, ...] | None) -> None:
        with self._one_at_a_time:
            if packet["serial"] == self._serial:
                self._asking = None
            self._frame, self._answered = packet, answered

    def _stopped(self, asked: tuple[dict[str, Any], tuple[Any, ...]]) -> None:
        self._hand_over(asked[0] | {"stopped": True}, None)

    def _tell(self, asked: tuple[dict[str, Any], tuple[Any, ...]], words: str, share: float | None) -> None:
        with self._one_at_a_time:
            self._progress = {key: asked[0][key] for key in ("serial", "request")} | {"words": words, "share": share}

    def _hear(self, widget: Any, content: Any, buffers: Any) -> None:
        """The page's Stop button; one pressed for an earlier question comes too late."""
        if content.get("stop") == self._serial:
            self.stop()

    def set_state(self, sync_data: Any) -> None:
        """What the page says; a worker does not speak in between."""
        with self._one_at_a_time:
            self._asked_by_page = True
            try:
                super().set_state(sync_data)
            finally:
                self._asked_by_page = False

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is not None and recording_wanted():
            data = bundle[0] if isinstance(bundle, tuple) else bundle
            data["text/html"] = island_html(self.definition, self.record(), self.values())
        return bundle


def _packed(frame: Frame) -> dict[str, Any]:
    """A frame as one buffer of float64 and its layout."""
    numbers = {name: array for name, array in frame.items() if array.dtype != object}
    return {
        "layout": [[name, array.size] for name, array in numbers.items()],
        "texts": {name: array.item() for name, array in frame.items() if array.dtype == object},
        "data": np.concatenate([*numbers.values(), np.empty(0)]).astype("<f8").tobytes(),
    }


def _trait(definition: Definition, control: Control) -> traitlets.TraitType[Any, Any]:
    """A synced trait that takes just what `control` offers."""

    class Offered(traitlets.TraitType[Any, Any]):
        info_text = f"a value that {control.name} offers"

        def validate(self, obj: Any, value: Any) -> Any:
            try:
                if isinstance(control, Switches):
                    definition.check_value(control, value)
                    return tuple(key for key in control.options if key in value)
                definition.check_value(control, value)
                return next(offered for offered in control.allowed() if offered == value)
            except ExplorableError as error:
                raise traitlets.TraitError(str(error)) from None

    return Offered(default_value=control.value).tag(sync=True)
