"""From the model as it stands on paper to a log joint on the real line.

A reader writes ``log_joint(theta)`` for one draw of named parameters, each on its own support.  ``Model`` maps the
supports to R^D, pays for the change of variables with log |det J|, and runs many draws at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import constraints

from vilib.supports import bijection
from vilib.types import LogJoint, NonFiniteLogJoint, NonScalarLogJoint, NotBatchable, ShapeError, UnsupportedSupport


class Model:
    """log p(x, T⁻¹(z)) + log |det J| as a function of unconstrained z (..., D), from a function of one draw.

    log_joint: ``theta -> scalar``, theta a dict of tensors, ``theta[name]`` of shape ``shapes[name]``.
    supports: name -> constraint of ``torch.distributions.constraints``: real, positive, unit_interval, interval(a, b),
        greater_than(a), less_than(b), real_vector, simplex; or ``vilib.ordered``.  Anything else raises UnsupportedSupport
        here, not later.
    shapes: name -> shape of one draw; a name left out is a scalar.  Vectors and matrices of any support: a simplex or
        an ordered vector runs along the last axis.  ``dim`` counts free coordinates: a simplex of K has K − 1.
    batched: True if the function already takes theta[name] of shape (N, *shapes[name]) and returns (N,);
        otherwise it is run under ``torch.func.vmap``.

    Calling a model raises NonScalarLogJoint, NotBatchable, ShapeError (z), NonFiniteLogJoint (nan or +inf; −inf passes, it is
    a density of zero; the estimators refuse it), and whatever the reader's own function raises on one draw.

    >>> model = Model(lambda theta: -theta["rate"], {"rate": constraints.positive})
    >>> model(torch.tensor([[0.0], [1.0]]))                      # −e^z + z: the second term is log |dθ/dz|
    tensor([-1.0000, -1.7183])
    """

    def __init__(
        self, log_joint: Callable[[dict[str, Tensor]], Tensor], supports: Mapping[str, constraints.Constraint],
        shapes: Mapping[str, tuple[int, ...]] | None = None, batched: bool = False,
    ):
        if not supports:
            raise UnsupportedSupport("supports: name at least one parameter, as in {'sigma': constraints.positive}.")
        unknown = set(shapes or {}) - set(supports)
        if unknown:
            raise ShapeError(f"shapes: {sorted(unknown)} not among the supports {sorted(supports)}.")
        self.log_joint, self.batched = log_joint, batched
        self.supports = dict(supports)
        self.shapes = {name: tuple((shapes or {}).get(name, ())) for name in supports}
        self._bijections = [bijection(name, support, self.shapes[name]) for name, support in supports.items()]
        self._sizes = [part.size for part in self._bijections]
        self.dim = sum(self._sizes)

    def constrain(self, z: Tensor) -> dict[str, Tensor]:
        """θ = T⁻¹(z) on the reader's scale: z (..., D) -> {name: (..., *shape)}."""
        return self._constrain(z)[0]

    def unconstrain(self, theta: Mapping[str, Tensor]) -> Tensor:
        """z = T(θ): {name: (..., *shape)} -> (..., D).  The inverse of :meth:`constrain`.

        Raises ShapeError when a name is missing or has another shape, VilibError when a value is outside of its support.
        """
        parts = []
        for part in self._bijections:
            if part.name not in theta:
                raise ShapeError(f"theta: no value for {part.name!r}; expected {sorted(self.shapes)}, "
                                 f"got {sorted(theta)}.")
            parts.append(part.unconstrain(torch.as_tensor(theta[part.name])))
        return torch.cat(parts, -1)

    def coordinate_names(self) -> tuple[str, ...]:
        """A name for each of the D unconstrained coordinates: that of its parameter, numbered if it has several."""
        numbered = ((part, i) for part in self._bijections for i in range(part.size))
        return tuple(part.name if part.size == 1 else f"{part.name}[{i}]" for part, i in numbered)

    def is_bounded(self, device: torch.device | str = "cpu") -> Tensor:
        """(D,), whether a coordinate belongs to a parameter of bounded support, on which a flat density is a proper one."""
        bounded = [part.bounded for part in self._bijections for _ in range(part.size)]
        return torch.tensor(bounded, device=device)

    def slope_of_log_jacobian(self, z: Tensor) -> Tensor:
        """∇_z log |det J|, z (..., D) -> (..., D): all that moves the log density where the reader's log joint is flat."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_jacobian = self._constrain(z)[1]
            return torch.autograd.grad(log_jacobian.sum(), z)[0] if log_jacobian.requires_grad else torch.zeros_like(z)

    def __call__(self, z: Tensor) -> Tensor:
        """z (..., D) -> log density (...) on the unconstrained scale."""
        if z.ndim == 0 or z.shape[-1] != self.dim:
            raise ShapeError(f"z: expected (..., {self.dim}) for {list(self.shapes)}, got {tuple(z.shape)}.")
        flat = z.reshape(-1, self.dim)
        theta, log_jacobian = self._constrain(flat)
        log_p = self._run(theta, len(flat))
        log_p = (log_p.to(z.dtype) + log_jacobian).reshape(z.shape[:-1])
        if not bool((log_p < math.inf).all()):
            raise _non_finite(self, z, log_p, log_p < math.inf)
        return log_p

    def _constrain(self, z: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        theta: dict[str, Tensor] = {}
        log_jacobian: Any = 0.0
        for part, free in zip(self._bijections, z.split(self._sizes, -1)):
            theta[part.name], log_det = part.constrain(free)
            log_jacobian = log_jacobian + log_det
        return theta, log_jacobian

    def _run(self, theta: dict[str, Tensor], num_draws: int) -> Tensor:
        if not self.batched:
            return self._run_one_by_one(theta)
        try:
            log_p = self.log_joint(theta)
        except KeyError as error:
            raise self._names(error)
        if not isinstance(log_p, Tensor) or log_p.shape != (num_draws,):
            got = tuple(log_p.shape) if isinstance(log_p, Tensor) else type(log_p).__name__
            raise NonScalarLogJoint(
                f"log_joint: expected one number a draw, shape ({num_draws},) for {num_draws} draws, got {got}. "
                "With batched=True keep the first axis and sum the others: .sum(-1).")
        return log_p

    def _run_one_by_one(self, theta: dict[str, Tensor]) -> Tensor:
        try:
            log_p = torch.func.vmap(self.log_joint)(theta)
        except Exception as error:
            self._explain(theta, error)
        if log_p.ndim != 1:
            raise NonScalarLogJoint(f"log_joint: expected one number a draw, got shape {tuple(log_p.shape[1:])} for one draw. "
                                    "Sum the log densities of the data: .sum().")
        return log_p

    def _explain(self, theta: dict[str, Tensor], error: Exception) -> None:
        """vmap's own message is obscure: run one draw without it and raise what that says."""
        try:
            one = self.log_joint({name: value[0] for name, value in theta.items()})
        except KeyError as missing:
            raise self._names(missing)
        if not isinstance(one, Tensor):
            mend = ("Return the log density." if one is None else
                    "Return the tensor itself: not its .item() or float(), and with nothing beside it.")
            raise NonScalarLogJoint(f"log_joint: expected a scalar tensor for one draw, got {type(one).__name__}. {mend}") from None
        if one.ndim:
            raise NonScalarLogJoint(f"log_joint: expected a scalar tensor for one draw, got shape {tuple(one.shape)}. "
                                    "Return .sum().") from None
        said = _ASKS_TO_BE_TOLD.split(str(error).splitlines()[0])[0]
        raise NotBatchable(
            "log_joint: runs on one draw, but not on many at once, because it looks at a value while it runs "
            f"(if, .item(), float(), print of a number, or noise of its own). torch says: {said} "
            "Use torch.where instead of if, or write it for (N, ...) at once, as Model(log_joint, supports, batched=True)."
        ) from error

    def _names(self, error: KeyError) -> KeyError:
        """The reader's KeyError, with what theta holds."""
        if not any(name in self.supports for name in error.args if isinstance(name, str)):
            error.add_note(f"theta holds what supports names: {', '.join(map(repr, self.supports))}.")
        return error


#: Where torch's message begins to speak to whoever has time to write to its authors.
_ASKS_TO_BE_TOLD = re.compile(r" *(?:We don't support|[Pp]lease file)")


def evaluate(log_joint: LogJoint, z: Tensor, *, zero_density: bool = False) -> Tensor:
    """log p(x, z), (S, *R), checked: one finite number a draw.  What every estimator calls.

    zero_density=True lets −inf pass, a density of zero: a proposal may land outside, a draw from q may not.

    Raises NonScalarLogJoint, NonFiniteLogJoint (with the draw that gave it).

    >>> evaluate(lambda z: -z.square().sum(-1), torch.ones(2, 3))
    tensor([-3., -3.])
    """
    log_p = log_joint(z)
    _check(log_joint, z, log_p, zero_density)
    return log_p


def _check(log_joint: LogJoint, z: Tensor, log_p: Tensor, zero_density: bool = False) -> None:
    if not isinstance(log_p, Tensor) or log_p.shape != z.shape[:-1]:
        got = tuple(log_p.shape) if isinstance(log_p, Tensor) else type(log_p).__name__
        raise NonScalarLogJoint(
            f"log_joint: for z of shape {tuple(z.shape)} expected log densities {tuple(z.shape[:-1])}, got {got}. "
            "Sum over the last axis, .sum(-1); or wrap a function of one draw in vilib.Model."
        )
    if not math.isfinite(log_p.detach().sum().item()):   # only if the sum is not finite do we look at the terms
        good = torch.isfinite(log_p) | ((log_p == -math.inf) if zero_density else False)
        if not good.all():
            raise _non_finite(log_joint, z, log_p, good)


def value_and_slope(log_joint: LogJoint, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) (S, *R) and its gradient in z (S, *R, D), as plain numbers.

    By autograd, or by ``log_joint.slope(z)`` where the log joint brings its own derivative, as the book's examples do, or by
    ``log_joint.value_and_slope(z)`` where it makes both at once, as a table does.

    >>> value_and_slope(lambda z: -z.square().sum(-1), torch.ones(2, 1))[1]
    tensor([[-2.],
            [-2.]])
    """
    both, slope = getattr(log_joint, "value_and_slope", None), getattr(log_joint, "slope", None)
    if both is not None or slope is not None:
        with torch.no_grad():
            log_p, grad_z = both(z) if both is not None else (log_joint(z), None)
            _check(log_joint, z, log_p)
            return log_p, slope(z) if slope is not None and grad_z is None else cast(Tensor, grad_z)
    if z.numel() < _SMALL or len(z) == 1 or z.device.type != "cpu":
        return _by_autograd(log_joint, z)
    try:
        first, kept = _counting(log_joint, z[:1])
        parts = [first, *(_by_autograd(log_joint, part) for part in z[1:].split(max(1, _CACHED // kept)))]
    except NonFiniteLogJoint:
        evaluate(log_joint, z)                           # says it again, of all the draws and not of one part
        raise
    except RuntimeError:                                 # torch.func.grad inside the log joint bears no counting
        return _by_autograd(log_joint, z)
    log_p, grad_z = (torch.cat(part) for part in zip(*parts))
    return log_p, grad_z


#: Draws of fewer numbers than this go through a log joint all at once; more are cut along S, so that what autograd keeps of a
#: part, as a rule one number for each observation, is near the second count and stays in the processor's cache.
_SMALL, _CACHED = 2**14, 2**17


def _by_autograd(log_joint: LogJoint, z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        log_p = log_joint(z)
    _check(log_joint, z, log_p)
    return log_p.detach(), slope_of(log_p, z) if log_p.requires_grad else torch.zeros_like(z)


#: What torch.autograd.grad calls, private.  Around it that function makes ready, at each call, for nested, batched and lazy gradients,
#: and this takes a small model longer than its log joint does.
_ENGINE: Any = getattr(getattr(torch.autograd, "Variable", None), "_execution_engine", None)


def slope_of(values: Tensor, leaf: Tensor) -> Tensor:
    """``torch.autograd.grad(values.sum(), leaf)[0]``, whose errors it raises, in less time.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> slope_of(x.square(), x)
    tensor([2., 4.])
    """
    if _ENGINE is None:
        return torch.autograd.grad(values.sum(), leaf)[0]
    ones = torch.ones_like(values)                       # of anything but a scalar, torch.autograd.grad would import SymPy
    return _ENGINE.run_backward((values,), (ones,), False, False, (leaf,), allow_unreachable=False, accumulate_grad=False)[0]


def _counting(log_joint: LogJoint, z: Tensor) -> tuple[tuple[Tensor, Tensor], int]:
    """:func:`_by_autograd`, and the size of the largest tensor that autograd keeps for it."""
    sizes = [z.numel()]

    def keep(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        return _by_autograd(log_joint, z), max(sizes)


def _non_finite(log_joint: LogJoint, z: Tensor, log_p: Tensor, good: Tensor) -> NonFiniteLogJoint:
    index = tuple((~good).nonzero()[0].tolist())
    draw, value = z[index].detach(), log_p[index].item()
    constrain = getattr(log_joint, "constrain", None)
    theta = {name: value.detach() for name, value in constrain(draw).items()} if constrain is not None else None
    shown = {name: value if value.ndim else float(f"{value.item():.6g}") for name, value in (theta or {}).items()}
    where = f"theta = {shown}" if theta else f"z = {draw.tolist()}"
    if not draw.abs().max() < 1e8:
        mend = "The draw itself is that far out: q has run away. Take a smaller step size, more draws, or a quieter estimator."
    elif value == -math.inf:
        mend = "Its density is zero there: give the parameter its support, so that no draw can land outside."
    else:
        mend = ("Look for a log or a square root of a negative number, a division by zero, "
                "nan in the data, or a mean over an empty data set.")
    if good.numel() > 1 and not good.any():
        mend = f"So it is at all {good.numel()} draws, whatever theta is. {mend}"
    bad = ~good if good.ndim == 0 else (~good).any(0)
    return NonFiniteLogJoint(f"log_joint: returned {value} at {where}. {mend}", draw, theta, value, bad)

