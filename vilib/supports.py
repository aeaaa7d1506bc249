"""Supports: where a parameter lives, and the map from the real line to there.

A support is a constraint of ``torch.distributions.constraints``, or :data:`ordered`, which torch does not have.  Its
map θ = T⁻¹(z) comes with log |det dθ/dz|, exact at every z; only θ itself is kept representable: where rounding would
put it on the edge of its support it stays one floating-point number inside, so that its logarithm is a number.
"""

from __future__ import annotations

import difflib
import inspect
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import StickBreakingTransform, Transform
from torch.nn.functional import logsigmoid, pad

from vilib.types import ShapeError, UnsupportedSupport, VilibError

_ELEMENTWISE = (
    type(constraints.real), constraints.greater_than, constraints.greater_than_eq, constraints.less_than,
    constraints.interval, constraints.half_open_interval,
)
_MATRICES = tuple(type(c) for c in (
    constraints.lower_cholesky, constraints.lower_triangular, constraints.corr_cholesky, constraints.positive_definite,
    constraints.positive_semidefinite, constraints.symmetric, constraints.square,
))
_USE = ("Use one of torch.distributions.constraints: real, positive, unit_interval, interval(a, b), greater_than(a), "
        "less_than(b), real_vector, simplex; or vilib.ordered; each with its shape in shapes.")


class _Ordered(constraints.Constraint):
    """Vectors whose entries increase, θ_1 < θ_2 < … < θ_K, along the last axis.  As ``vilib.ordered``."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value.diff(dim=-1) > 0).all(-1)

    def __repr__(self) -> str:
        return "vilib.ordered"


#: Vectors (…, K) whose entries increase along the last axis: what tells the components of a mixture apart.
ordered = _Ordered()


class OrderedTransform(Transform):
    """θ_1 = z_1, θ_k = θ_{k−1} + exp(z_k); log |det dθ/dz| = z_2 + … + z_K.  z and θ (…, K), the determinant (…).
    (eq:jac-ordered)

    >>> to_ordered = OrderedTransform()
    >>> theta = to_ordered(torch.tensor([1.0, 0.0, 0.0])); theta
    tensor([1., 2., 3.])
    >>> to_ordered.inv(theta)
    tensor([1., 0., 0.])
    """

    domain, codomain, bijective = constraints.real_vector, ordered, True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OrderedTransform)

    def _call(self, z: Tensor) -> Tensor:
        return torch.cat([z[..., :1], z[..., 1:].exp()], -1).cumsum(-1)

    def _inverse(self, theta: Tensor) -> Tensor:
        steps = theta.diff(dim=-1).clamp_min(torch.finfo(theta.dtype).tiny)
        return torch.cat([theta[..., :1], steps.log()], -1)

    def log_abs_det_jacobian(self, z: Tensor, theta: Tensor) -> Tensor:
        return z[..., 1:].sum(-1)


class SimplexTransform(StickBreakingTransform):
    """torch's stick-breaking map, z (…, K−1) to θ (…, K), worked in logarithms, so that no stick is lost to rounding.

    log θ_k = log s(t_k) + Σ_{j<k} log s(−t_j), t_k = z_k − log(K − k), s the sigmoid; log |det| = Σ_{k<K} log θ_k +
    log s(−t_k).  (eq:jac-stick, eq:jac-stick-det)

    >>> SimplexTransform()(torch.zeros(2))                                    # zero is the middle
    tensor([0.3333, 0.3333, 0.3333])
    """

    def _call(self, z: Tensor) -> Tensor:
        t = self._centred(z)
        theta = (pad(logsigmoid(t), (0, 1)) + pad(logsigmoid(-t).cumsum(-1), (1, 0))).exp()
        return theta.clamp_min(torch.finfo(z.dtype).tiny)

    def _inverse(self, theta: Tensor) -> Tensor:
        rest = theta.flip(-1).cumsum(-1).flip(-1)[..., 1:]               # what is left of the stick, summed from its end
        t = theta[..., :-1].log() - rest.log()
        return t + self._offset(t)

    def log_abs_det_jacobian(self, z: Tensor, theta: Tensor) -> Tensor:
        t = self._centred(z)
        left = logsigmoid(-t)
        return (logsigmoid(t) + left + pad(left.cumsum(-1)[..., :-1], (1, 0))).sum(-1)

    def _centred(self, z: Tensor) -> Tensor:
        return z - self._offset(z)

    @staticmethod
    def _offset(z: Tensor) -> Tensor:
        return torch.arange(z.shape[-1], 0, -1, dtype=z.dtype, device=z.device).log()


@dataclass(frozen=True, eq=False)
class Bijection:
    """From ``size`` unconstrained coordinates (…, size) to one parameter (…, *shape), and back."""

    name: str
    support: constraints.Constraint
    transform: Transform
    shape: tuple[int, ...]
    free_shape: tuple[int, ...]
    _limits: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """How many unconstrained coordinates: a simplex of K has K − 1."""
        return math.prod(self.free_shape)

    @property
    def bounded(self) -> bool:
        """Whether its volume is finite: an interval, a simplex."""
        intervals = constraints.interval, constraints.half_open_interval
        return isinstance(self.transform, SimplexTransform) or isinstance(self.support, intervals)

    def constrain(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """θ (…, *shape) and log |det dθ/dz| (…).  (eq:jac-joint)"""
        batch = z.shape[:-1]
        z = z.reshape((*batch, *self.free_shape))
        theta = self.transform(z)
        log_det = self.transform.log_abs_det_jacobian(z, theta)
        log_det = log_det.flatten(len(batch)).sum(-1) if log_det.ndim > len(batch) else log_det
        return self._inside(theta.to(z.dtype)), log_det.to(z.dtype)                     # bounds may be of another dtype

    def unconstrain(self, theta: Tensor) -> Tensor:
        """z (…, size).  Raises ShapeError, and VilibError for a value outside of the support."""
        batch = theta.shape[: theta.ndim - len(self.shape)]
        if tuple(theta.shape[len(batch):]) != self.shape:
            raise ShapeError(f"theta[{self.name!r}]: expected (..., {self.shape}), got {tuple(theta.shape)}.")
        theta = theta if theta.is_floating_point() else theta.to(torch.get_default_dtype())
        inside = self.support.check(theta) & theta.isfinite().all() if theta.numel() else torch.tensor(True)
        if not bool(inside.all()):
            raise VilibError(f"theta[{self.name!r}]: {theta.tolist()} is not inside its support, {self.support!r}. "
                             "Pass a value that is, and not on its edge.")
        return self.transform.inv(self._inside(theta)).reshape((*batch, self.size)).to(theta.dtype)

    def _inside(self, theta: Tensor) -> Tensor:
        """θ off the edges of its support, where rounding has put it there."""
        key = (theta.dtype, theta.device)
        if key not in self._limits:
            self._limits[key] = _limits(self.support, theta)
        limits = self._limits[key]
        return theta if limits is None else torch.clamp(theta, *limits)


def bijection(name: str, support: constraints.Constraint, shape: tuple[int, ...] = ()) -> Bijection:
    """The map from the real line to ``support`` for a parameter of that shape.

    support: an instance of one of the constraints that vilib knows, or of ``constraints.independent`` around one.
    Raises UnsupportedSupport, which says what to use instead, and ShapeError where the support needs an axis that is
    not there.

    >>> bijection("p", constraints.simplex, (3,)).size
    2
    """
    base: Any = support
    axes = 0
    while isinstance(base, constraints.independent):
        base, axes = base.base_constraint, axes + base.reinterpreted_batch_ndims
    if isinstance(base, _ELEMENTWISE):
        _check_bounds(name, base)
        transform = biject_to(base)
    elif isinstance(base, _Ordered):
        transform, axes = OrderedTransform(), axes + 1
    elif isinstance(base, type(constraints.simplex)):
        transform, axes = SimplexTransform(), axes + 1
    else:
        raise UnsupportedSupport(f"supports[{name!r}]: {_refusal(support, base)} {_USE}")
    if len(shape) < axes:
        raise ShapeError(f"shapes[{name!r}]: {support!r} needs at least {axes} axis of its own, got the shape {shape}. "
                         f"Say how long it is: shapes={{{name!r}: (3,)}}.")
    if 0 in shape or (isinstance(transform, SimplexTransform) and shape[-1] < 2):
        raise ShapeError(f"shapes[{name!r}]: {shape} leaves nothing to infer; a simplex has at least two parts, "
                         "other axes at least one.")
    return Bijection(name, base, transform, shape, tuple(transform.inverse_shape(shape)))


def _bounds(support: constraints.Constraint) -> tuple[Any, Any] | None:
    if isinstance(support, type(constraints.real)) or support.event_dim:
        return None
    return getattr(support, "lower_bound", -math.inf), getattr(support, "upper_bound", math.inf)


def _limits(support: constraints.Constraint, theta: Tensor) -> tuple[Any, Any] | None:
    """The least and the greatest number strictly inside, in theta's dtype; None where there is no edge."""
    bounds = _bounds(support)
    if bounds is None:
        return None
    number = torch.finfo(theta.dtype)
    ends = (torch.as_tensor(bound, dtype=theta.dtype, device=theta.device) for bound in bounds)
    lower, upper = (end.clamp(number.min, number.max) for end in ends)
    least = torch.where(lower == 0, number.tiny, torch.nextafter(lower, upper))
    most = torch.where(upper == 0, -number.tiny, torch.nextafter(upper, lower))
    return (least.item(), most.item()) if least.ndim == most.ndim == 0 else (least, most)


def _check_bounds(name: str, support: constraints.Constraint) -> None:
    bounds = _bounds(support)
    if bounds is None:
        return
    lower, upper = (torch.as_tensor(b, dtype=torch.float64) for b in bounds)
    two_sided = hasattr(support, "lower_bound") and hasattr(support, "upper_bound")
    if not bool((lower < upper).all()) or (two_sided and not bool((lower.isfinite() & upper.isfinite()).all())):
        raise UnsupportedSupport(f"supports[{name!r}]: {support!r} is empty or endless: its lower bound must be below its "
                                 "upper one, both finite. For one bound alone use greater_than(a) or less_than(b).")


def _refusal(support: Any, base: Any) -> str:
    """What is wrong with it, in one or two sentences."""
    if isinstance(support, str):
        known = ["real", "positive", "nonnegative", "unit_interval", "real_vector", "simplex", "ordered"]
        near = difflib.get_close_matches(support, known, n=1)
        meant = f" Did you mean {'vilib' if near[0] == 'ordered' else 'constraints'}.{near[0]}?" if near else ""
        return f"{support!r} is a string, and is not supported.{meant}"
    if inspect.isclass(support):
        return (f"{support.__name__.strip('_')} is a class, and is not supported. Make one with its bounds, as in "
                "constraints.interval(0.0, 1.0).")
    if isinstance(base, constraints.Constraint) and not constraints.is_dependent(base) and base.is_discrete:
        return (f"{support!r} is not supported. It is discrete, and a path of draws needs the real line: sum the "
                "variable out of log_joint (torch.logsumexp over its values).")
    if isinstance(base, _MATRICES):
        return (f"{support!r} is not supported. Build the matrix inside log_joint from parts that are: positive for its "
                "diagonal, real for what is below.")
    return f"{support!r} is not supported."
