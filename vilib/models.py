"""From the model as it stands on paper to a log joint on the real line.

A reader writes ``log_joint(theta)`` for one draw of named parameters, each on its own support.  ``Model`` maps the
supports to R^D, pays for the change of variables with log |det J|, and runs many draws at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from vilib.types import LogJoint, NonFiniteLogJoint, NonScalarLogJoint, NotBatchable, ShapeError, UnsupportedSupport

_ELEMENTWISE = (
    type(constraints.real), constraints.greater_than, constraints.greater_than_eq, constraints.less_than,
    constraints.interval, constraints.half_open_interval,
)


class Model:
    """log p(x, T⁻¹(z)) + log |det J| as a function of unconstrained z (..., D), from a function of one draw.

    log_joint: ``theta -> scalar``, theta a dict of tensors, ``theta[name]`` of shape ``shapes[name]``.
    supports: name -> constraint of ``torch.distributions.constraints``: real, positive, unit_interval, interval(a, b),
        greater_than(a), less_than(b), real_vector.  Anything else raises UnsupportedSupport here, not later.
    shapes: name -> shape of one draw; a name left out is a scalar.
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
        self._bijections = {name: _bijection(name, support) for name, support in supports.items()}
        self._sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.dim = sum(self._sizes)

    def constrain(self, z: Tensor) -> dict[str, Tensor]:
        """θ = T⁻¹(z) on the reader's scale: z (..., D) -> {name: (..., *shape)}."""
        return self._constrain(z)[0]

    def unconstrain(self, theta: Mapping[str, Tensor]) -> Tensor:
        """z = T(θ): {name: (..., *shape)} -> (..., D).  The inverse of :meth:`constrain`.

        Raises ShapeError when a name is missing or has another shape.
        """
        parts = []
        for name, shape in self.shapes.items():
            if name not in theta:
                raise ShapeError(f"theta: no value for {name!r}; expected {sorted(self.shapes)}, got {sorted(theta)}.")
            value = torch.as_tensor(theta[name])
            if tuple(value.shape[value.ndim - len(shape):]) != shape:
                raise ShapeError(f"theta[{name!r}]: expected (..., {shape}), got {tuple(value.shape)}.")
            z = self._bijections[name].inv(value)
            parts.append(z.reshape((*value.shape[: value.ndim - len(shape)], math.prod(shape))))
        return torch.cat(parts, -1)

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
        theta, log_jacobian = {}, 0.0
        for (name, bijection), part in zip(self._bijections.items(), z.split(self._sizes, -1)):
            value = bijection(part)
            theta[name] = value.reshape((*z.shape[:-1], *self.shapes[name]))
            log_jacobian = log_jacobian + bijection.log_abs_det_jacobian(part, value).sum(-1)
        return theta, log_jacobian

    def _run(self, theta: dict[str, Tensor], num_draws: int) -> Tensor:
        if self.batched:
            log_p = self.log_joint(theta)
        else:
            try:
                log_p = torch.func.vmap(self.log_joint)(theta)
            except Exception as error:
                self._explain(theta, error)
        if not isinstance(log_p, Tensor) or log_p.shape != (num_draws,):
            got = tuple(log_p.shape) if isinstance(log_p, Tensor) else type(log_p).__name__
            raise NonScalarLogJoint(
                f"log_joint: expected one number a draw, shape ({num_draws},) for {num_draws} draws, got {got}. "
                + ("With batched=True keep the first axis and sum the others: .sum(-1)." if self.batched
                   else "Sum the log densities of the data: .sum().")
            )
        return log_p

    def _explain(self, theta: dict[str, Tensor], error: Exception) -> None:
        """vmap's own message is obscure: run one draw without it and raise what that says."""
        one = self.log_joint({name: value[0] for name, value in theta.items()})
        if not isinstance(one, Tensor) or one.ndim:
            got = f"shape {tuple(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
            raise NonScalarLogJoint(f"log_joint: expected a scalar tensor for one draw, got {got}. Return .sum().") from None
        raise NotBatchable(
            "log_joint: runs on one draw, but not on many at once, because it looks at a value while it runs "
            f"(if, .item(), float(), print of a number, or noise of its own). torch says: {str(error).splitlines()[0]} "
            "Use torch.where instead of if, or write it for (N, ...) at once and pass batched=True."
        ) from error


def evaluate(log_joint: LogJoint, z: Tensor, *, zero_density: bool = False) -> Tensor:
    """log p(x, z), (S, *R), checked: one finite number a draw.  What every estimator calls.

    zero_density=True lets −inf pass, a density of zero: a proposal may land outside, a draw from q may not.

    Raises NonScalarLogJoint, NonFiniteLogJoint (with the draw that gave it).

    >>> evaluate(lambda z: -z.square().sum(-1), torch.ones(2, 3))
    tensor([-3., -3.])
    """
    log_p = log_joint(z)
    if not isinstance(log_p, Tensor) or log_p.shape != z.shape[:-1]:
        got = tuple(log_p.shape) if isinstance(log_p, Tensor) else type(log_p).__name__
        raise NonScalarLogJoint(
            f"log_joint: for z of shape {tuple(z.shape)} expected log densities {tuple(z.shape[:-1])}, got {got}. "
            "Sum over the last axis, .sum(-1); or wrap a function of one draw in vilib.Model."
        )
    if not math.isfinite(log_p.detach().sum()):          # one kernel; only if the sum is not finite do we look at the terms
        good = torch.isfinite(log_p) | ((log_p == -math.inf) if zero_density else False)
        if not good.all():
            raise _non_finite(log_joint, z, log_p, good)
    return log_p


def value_and_slope(log_joint: LogJoint, z: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x, z) (S, *R) and its gradient in z (S, *R, D), as plain numbers.

    By autograd, or by ``log_joint.slope(z)`` where the log joint brings its own derivative, as the book's examples do.

    >>> value_and_slope(lambda z: -z.square().sum(-1), torch.ones(2, 1))[1]
    tensor([[-2.],
            [-2.]])
    """
    slope = getattr(log_joint, "slope", None)
    if slope is not None:
        return evaluate(log_joint, z), slope(z)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        log_p = evaluate(log_joint, z)
        (grad_z,) = torch.autograd.grad(log_p.sum(), z)
    return log_p.detach(), grad_z


def _non_finite(log_joint, z: Tensor, log_p: Tensor, good: Tensor) -> NonFiniteLogJoint:
    index = tuple((~good).nonzero()[0].tolist())
    draw, value = z[index].detach(), log_p[index].item()
    theta = {k: v.detach() for k, v in log_joint.constrain(draw).items()} if isinstance(log_joint, Model) else None
    where = f"theta = {theta}" if theta else f"z = {draw.tolist()}"
    if not draw.abs().max() < 1e8:
        mend = "The draw itself is that far out: q has run away. Take a smaller step size, more draws, or a quieter estimator."
    elif value == -math.inf:
        mend = "Its density is zero there: give the parameter its support, so that no draw can land outside."
    else:
        mend = "Look for a log or a square root of a negative number, a division by zero, or nan in the data."
    bad = ~good if good.ndim == 0 else (~good).any(0)
    return NonFiniteLogJoint(f"log_joint: returned {value} at {where}. {mend}", draw, theta, value, bad)


def _bijection(name: str, support):
    base = support.base_constraint if isinstance(support, constraints.independent) else support
    if not isinstance(base, _ELEMENTWISE):
        raise UnsupportedSupport(
            f"supports[{name!r}]: {support!r} is not supported. Use one of torch.distributions.constraints: real, positive, "
            "unit_interval, interval(a, b), greater_than(a), less_than(b), real_vector (with shapes)."
        )
    return biject_to(base)
