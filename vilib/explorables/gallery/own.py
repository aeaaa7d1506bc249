"""What the explorables of a reader's own models share: which models, and a `compute` that keeps what it has computed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch

from vilib import Example, FullRankGaussian, Model
from vilib.families import Gaussian as Family
from vilib.own_model import own_model
from vilib.own_posterior import OwnModel

from ..contours import rings_of
from ..core import Axis, Contour, Ellipse, ExplorableError, Gaussian, Line, Mark, Panel
from ..threads import checkpoint

ADVICE = ("Mend the model and hand it over with .mend(my_model), or run the cell that made this picture again. "
          "Moving a control tries again.")


def of_the_book(given: Any) -> bool:
    """Whether these are names of the book's own.

    >>> of_the_book(("cosine", "bump")), of_the_book(lambda z: -z.square().sum(-1))
    (True, False)
    """
    return isinstance(given, list | tuple) and all(isinstance(name, str) for name in given)


def own_models(given: Any, **ways: Any) -> dict[str, OwnModel]:
    """A model, or a dict from names to models, each as :func:`vilib.own_model.own_model` takes it; ``ways`` are its options.

    Raises ExplorableError (a name that is none, no model at all), and what ``own_model`` raises.

    >>> own_models(lambda z: -z.square().sum(-1), dim=2)["your model"].dim
    2
    """
    if isinstance(given, Mapping):
        if not given or not all(isinstance(name, str) and name for name in given):
            raise ExplorableError(f"models: expected a dict from names to models such as {{'mine': my_model}}, got {dict(given)!r}")
        return {name: own_model(model, name=name, on_call=checkpoint, **_fitting(model, ways)) for name, model in given.items()}
    one = own_model(given, on_call=checkpoint, **ways)
    return {one.name: one}


def no_misspelt(values: Mapping[str, Any]) -> None:
    """Refuse, among the values of controls, what must be meant for an option of :func:`own_models`.

    Raises ExplorableError.

    >>> no_misspelt({"support": {}})
    Traceback (most recent call last):
        ...
    vilib.explorables.core.ExplorableError: support: there is no such option; did you mean supports?
    """
    for name in values:
        near = difflib.get_close_matches(name, ("supports", "shapes", "dim", "coordinates"), 1, 0.75)
        if near:
            raise ExplorableError(f"{name}: there is no such option; did you mean {near[0]}?")


def _fitting(model: Any, ways: Mapping[str, Any]) -> dict[str, Any]:
    """Beside functions, a dict may hold Models, which know their own supports and dim."""
    known = isinstance(model, Model | Example)
    return {key: None if known and key != "coordinates" else value for key, value in ways.items()}


class OwnCompute:
    """`compute` of an explorable over the reader's models; what takes long is computed once, and kept.

    models : name → model.  ways : the options by which they were made, so that a mended one can be made alike.
    """

    advice = ADVICE

    def __init__(self, models: dict[str, OwnModel], ways: Mapping[str, Any]) -> None:
        self.models, self.ways = models, dict(ways)
        self._kept: dict[Hashable, Any] = {}

    def keep(self, make: Callable[..., Any], *key: Hashable) -> Any:
        """`make(*key)`, from what is kept if it has been made."""
        at = (make.__name__, *key)
        if at not in self._kept:
            self._kept[at] = make(*key)
        return self._kept[at]

    def mended(self, given: Any) -> OwnCompute:
        """The same over mended models: one, or a dict of some of several.

        Raises ExplorableError for a name that is not there, or for other coordinates, and what :func:`own_models` raises.
        """
        if not isinstance(given, Mapping):
            if len(self.models) > 1:
                first = next(iter(self.models))
                raise ExplorableError(f"mend: say which of {list(self.models)} it is, as in mend({{{first!r}: my_model}})")
            given = {next(iter(self.models)): given}
        fresh = own_models(given, **self.ways)
        for name, model in fresh.items():
            if name not in self.models:
                raise ExplorableError(f"mend: no model is called {name!r}; those are {list(self.models)}")
            if model.labels != self.models[name].labels:
                raise ExplorableError(f"mend: {name} had the coordinates {list(self.models[name].labels)}, this one has "
                                      f"{list(model.labels)}, and needs another picture; make a new explorable")
        return type(self)(self.models | fresh, self.ways)  # whose __call__ is the compute of one explorable


def basis(model: OwnModel, exact: bool) -> str:
    """What the numbers rest on, as a caption says it."""
    if exact:
        return "Exact, by quadrature."
    long = "a long fit" if model.best().converged else "a long fit that did not converge, so take it with care"
    return (f"With {model.dim} unknowns nothing here is exact: the best q known is that of {long}, and the rest is measured "
            "by draws.")


# ---------------------------------------------------------------- q over the posterior


def still(model: OwnModel, sds: float, top: float) -> dict[str, object]:
    """The channels of :func:`plane` that depend on the model alone: axes wide enough for q so many sds off, and the posterior.

    top : of the density axis of one unknown, in densities of the best q at its mean.
    """
    across, up = model.windows(sds)[0], model.windows(sds)[-1]
    grid, p, rings, long = np.linspace(*across, 161), np.full(161, math.nan), np.full((2, 100), math.nan), np.full(5, math.nan)
    if model.dim == 1:
        p, up = model.density(torch.from_numpy(grid)).numpy(), (0.0, 0.4 * top / model.best().q.stddev.item())
    elif model.grid is not None:
        rings = rings_of(model.grid)
    else:
        long = model.ellipse(model.best(FullRankGaussian).q).numpy()
    return {"x_range": across, "y_range": up, "p_x": grid, "p_y": p, "ring_x": rings[0], "ring_y": rings[1], "long": long}


def q_channel(model: OwnModel, q: Family) -> np.ndarray:
    """q as the marks of :func:`plane` want it."""
    return model.ellipse(q)[[0, 2] if model.dim == 1 else [0, 1, 2, 3, 4]].flatten().numpy()


def plane(
    name: str, model: OwnModel, title: str, control: str, drawn: Mapping[str, tuple[str, dict[str, str]]],
    extra: tuple[Mark, ...] = (), **how: Any,
) -> Panel:
    """The panel of q over the posterior: curves of one unknown; of two or more, level lines or a long fit, and an ellipse.

    drawn : channel of a q → its ink and its `when`.  control : the name of the Choice that picks the model.
    """
    labels = [model.labels[c] for c in model.coordinates]
    if model.dim == 1:
        marks: tuple[Mark, ...] = (Line(x="p_x", y="p_y", ink="target", fill=True, label="p"),)
        marks += tuple(Gaussian(params=q, ink=ink, when=when, **how) for q, (ink, when) in drawn.items())
    else:
        marks = (Contour(x="ring_x", y="ring_y", ink="target"), Ellipse(params="long", ink="target", fill=True))
        marks += (*(Ellipse(params=q, ink=ink, when=when, **how) for q, (ink, when) in drawn.items()), *extra)
    note = {1: "", 2: "39 % and 86 % of each"}.get(model.dim, "grey: a long full-rank fit")
    up = Axis("density" if model.dim == 1 else labels[1], "y_range")
    return Panel(f"{name}: q", title, Axis(labels[0], "x_range"), up, marks, 0, 1.2, note, when={control: name})
