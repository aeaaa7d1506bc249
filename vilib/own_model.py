"""A model of the reader's own, in any of the forms in which one comes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.distributions import constraints

from vilib.examples import Example
from vilib.models import Model
from vilib.own_posterior import OwnModel
from vilib.types import ShapeError, VilibError


def own_model(
    model: Any, *, supports: Mapping[str, constraints.Constraint] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None, dim: int | None = None, coordinates: Sequence[int] | None = None,
    name: str = "", on_call: Callable[[], None] | None = None,
) -> OwnModel:
    """The reader's model, in any of the forms in which a model comes, as an :class:`vilib.own_posterior.OwnModel`.

    model: a :class:`vilib.models.Model`; an Example; with ``supports`` (and ``shapes``), a function of one draw, theta -> scalar;
        with ``dim``, a function of many draws on the real line, z (..., D) -> (...).
    coordinates: the two of the D unconstrained coordinates that are shown; by default the first two.
    on_call: called each time the model is evaluated; what it raises ends the evaluation.

    Nothing is evaluated here.  Raises VilibError (what is no model, or a function of which too little is said), ShapeError
    (dim, coordinates), UnsupportedSupport.

    >>> own = own_model(lambda theta: -theta["rate"], supports={"rate": constraints.positive}, name="waiting time")
    >>> own.labels, round(own.grid.log_evidence, 6)
    (('log rate',), 0.0)
    """
    name = name or _name_of(model)
    model = _as_model(model, supports, shapes, dim, name)
    if on_call is not None:
        model = _watched(model, on_call)
    return OwnModel(name, model, _shown(coordinates, model.dim))


def _as_model(
    model: Any, supports: Mapping[str, constraints.Constraint] | None, shapes: Mapping[str, tuple[int, ...]] | None, dim: int | None,
    name: str,
) -> Model:
    if isinstance(model, Example):
        model = model.model or _on_the_real_line(model, model.dim)
    if isinstance(model, Model):
        extra = [key for key, value in (("supports", supports), ("shapes", shapes), ("dim", dim)) if value is not None]
        if extra:
            raise VilibError(f"{extra[0]}: {name} is a vilib.Model, which knows its own; leave {extra[0]} out.")
        return model
    if not callable(model) or isinstance(model, type):
        raise VilibError(f"model: expected a vilib.Model or a function, got {model!r}. Pass Model(log_joint, {{'sigma': "
                         "constraints.positive}), or the function itself with supports=… or dim=….")
    if (supports is None) == (dim is None):
        raise VilibError(
            f"supports, dim: {name} is a plain function, of which one of the two must be said, got "
            f"{'neither' if dim is None else 'both'}. Pass supports={{'sigma': constraints.positive}} if it takes one draw of named "
            "parameters, theta -> scalar; or dim=2 if it takes many draws on the real line, z (..., 2) -> (...).")
    if supports is not None:
        if not isinstance(supports, Mapping):
            raise VilibError(f"supports: expected a dict such as {{'sigma': constraints.positive}}, got {supports!r}.")
        return Model(model, supports, shapes)
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
        raise ShapeError(f"dim: expected the number of unknowns, a whole number from 1, got {dim!r}.")
    return _on_the_real_line(model, dim)


def _on_the_real_line(f: Callable[[Tensor], Tensor], dim: int) -> Model:
    return Model(lambda theta: f(theta["z"]), {"z": constraints.real_vector}, {"z": (dim,)}, batched=True)


def _shown(coordinates: Sequence[int] | None, dim: int) -> tuple[int, ...]:
    if coordinates is None:
        return tuple(range(min(dim, 2)))
    shown, wanted = tuple(coordinates), min(dim, 2)
    whole = all(isinstance(i, int) and 0 <= i < dim for i in shown)
    if not whole or len(shown) != wanted or len(set(shown)) != wanted:
        raise ShapeError(f"coordinates: expected {wanted} different whole number{'s' * (wanted > 1)} from 0 to {dim - 1}, "
                         f"places in z, got {coordinates!r}.")
    return shown


def _name_of(model: Any) -> str:
    name = model.name if isinstance(model, Example) else getattr(getattr(model, "log_joint", model), "__name__", "")
    return name if name and name not in ("<lambda>", "log_joint") else "your model"


def _watched(model: Model, on_call: Callable[[], None]) -> Model:
    """The same model, of which each evaluation is announced."""
    log_joint, watched = model.log_joint, copy.copy(model)

    def announced(theta: dict[str, Tensor]) -> Tensor:
        on_call()
        return log_joint(theta)

    watched.log_joint = announced
    return watched
