"""Where a fit begins: at a mode, as wide as the curvature there says, or where the reader says.

The climb to the mode is Newton's method, damped.  No noise is in it, and it does not care about the units of z, so it
crosses in twenty steps what a stochastic climb would need thousands for.  A start, not an answer: the mode of a
skewed posterior is not its mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vilib.climb import InUnitsOf, gaussian_like, optimality, scaled
from vilib.families import LOG_2PI, Gaussian, MeanFieldGaussian
from vilib.models import Model, evaluate, value_and_slope
from vilib.noise import normal
from vilib.types import LogJoint, NonFiniteLogJoint, ShapeError, VilibError

_STRIDES = tuple(2.0**-k for k in range(-2, 13))             # four times the Newton step, down to 1/4096 of it
_MAX_DIM = 500                                                           # beyond, a Hessian costs more than the climb


def find_start(
    model: Model, family: type[Gaussian], init: Mapping[str, Any] | Gaussian | None, generator: torch.Generator,
    dtype: torch.dtype, power: float | None = None,
) -> Gaussian:
    """A q of ``family`` (no batch) to begin at; ``init`` as in :func:`vilib.advi.advi`.

    power: if a number, the first power of a tempering, and no mode is looked for.
    Raises NonFiniteLogJoint if log p at the start is not finite, ShapeError, and VilibError for a parameter on which
    log_joint does not depend.
    """
    device = generator.device
    if isinstance(init, Gaussian):
        if init.mean.shape != (model.dim,):
            raise ShapeError(f"init: a Gaussian of the model's {model.dim} unconstrained coordinates, no batch, "
                             f"got {tuple(init.mean.shape)}.")
        q0 = init.detach()
        if not isinstance(q0, family):
            q0 = gaussian_like(_unit(family, q0.mean), q0.mean, torch.linalg.inv(q0.covariance))
        q0 = q0.with_vector(q0.vector().to(device=device, dtype=dtype))
    else:
        centre = torch.zeros(model.dim, dtype=dtype, device=device)
        if init is not None:
            on_device = lambda value: torch.as_tensor(value, dtype=dtype, device=device)  # noqa: E731
            centre = model.unconstrain({name: on_device(value) for name, value in init.items()})
            if centre.shape != (model.dim,):
                raise ShapeError(f"init: one value a parameter, of shapes {model.shapes}, got a batch of "
                                 f"{tuple(centre.shape[:-1])}.")
        q0 = _unit(family, centre)
    evaluate(model, q0.mean.unsqueeze(0))                                        # says what is wrong, and at which theta
    _refuse_what_is_not_there(model, q0, generator)
    look = power is None and model.dim <= _MAX_DIM
    if look and (not isinstance(init, Gaussian) or _is_far(model, q0, generator)):
        mode = _best_mode(model, q0.mean, init is None, generator)
        if mode is not None:
            return gaussian_like(q0, mode.z, mode.precision)
    return _best_width(InUnitsOf(_unit(family, torch.zeros_like(q0.mean)), model, power or 1.0), q0, generator)


def _is_far(model: Model, q: Gaussian, generator: torch.Generator) -> bool:
    """Whether an optimum is more than two standard deviations away, or nowhere in sight."""
    try:
        return optimality(model, q, max(200, 10 * q.dim), generator).distance > 2
    except NonFiniteLogJoint:
        return True


def _unit(family: type[Gaussian], mean: Tensor) -> Gaussian:
    """N(mean, I)."""
    zeros = torch.zeros_like(mean)
    return family(mean, zeros if family is MeanFieldGaussian else torch.diag_embed(zeros))


def _best_width(log_joint: LogJoint, q: Gaussian, generator: torch.Generator) -> Gaussian:
    """q, its widths times the power of four, 4⁻⁶ to 4⁶, with the highest ELBO on 64 draws; q if none is clearly higher."""
    eps = normal(64, (), q.dim, generator=generator, dtype=q.mean.dtype)
    candidates = [scaled(q, 4.0**k) for k in range(-6, 7)]
    elbo = lambda q: values_where_finite(log_joint, q.transform(eps)).mean().item() + q.entropy().item()  # noqa: E731
    elbos = [elbo(candidate) for candidate in candidates]
    best = max(range(len(elbos)), key=lambda i: elbos[i])
    return candidates[best] if elbos[best] > elbos[6] + 1 else q


def _refuse_what_is_not_there(model: Model, q: Gaussian, generator: torch.Generator) -> None:
    """Raise if log p does not change with a coordinate that has nothing else to hold it: its posterior has no end."""
    z = scaled(q, 0.1).transform(normal(8, (), q.dim, generator=generator, dtype=q.mean.dtype))
    try:
        slopes = value_and_slope(model, z)[1]
    except NonFiniteLogJoint:
        return
    flat = (slopes == model.slope_of_log_jacobian(z)).all(0) & ~model.is_bounded(z.device)
    if bool(flat.any()):
        coordinates = zip(model.coordinate_names(), flat.tolist())
        names = sorted({name.split("[")[0] for name, is_flat in coordinates if is_flat})
        raise VilibError(
            f"log_joint: it does not change with {', '.join(names)}, so the posterior is not proper. Is the data set empty, "
            "a prior missing, or a .detach() or .item() in the way?")


# ---- the mode -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, eq=False)
class Mode:
    """z (D,), the highest point found; log_joint there, in nats; precision (D, D), −∇² log p(x, z) there.

    found: whether the climb ended on a peak: no step raises log p by more than 10⁻³ nats, and it bends down in every
        direction.
    """

    z: Tensor
    log_joint: float
    precision: Tensor
    found: bool

    @property
    def laplace_evidence(self) -> float:
        """log ∫ exp of the parabola at z, in nats: log p(x, z) + ½ D log 2π − ½ log |P|."""
        return self.log_joint + 0.5 * len(self.z) * LOG_2PI - 0.5 * float(torch.linalg.slogdet(self.precision)[1])


def _best_mode(model: Model, centre: Tensor, elsewhere: bool, generator: torch.Generator) -> Mode | None:
    """The mode found from ``centre``; with ``elsewhere``, the best of that and of two from random points beside it."""
    beside = normal(2, (), len(centre), generator=generator, dtype=centre.dtype) if elsewhere else ()
    try:
        modes = [find_mode(model, start) for start in (centre, *(centre + step for step in beside))]
    except RuntimeError:                                     # a log joint that cannot be differentiated twice has none
        return None
    found = (mode for mode in modes if mode is not None and mode.found)
    return max(found, key=lambda mode: mode.laplace_evidence, default=None)


def find_mode(log_joint: LogJoint, start: Tensor, max_steps: int = 60) -> Mode | None:
    """The mode that a damped Newton climb from ``start`` (D,) arrives at; None where log p at the start is not finite.

    Each step costs one Hessian and one evaluation of 15 points along the step, of which the best is taken.
    log_joint must be twice differentiable by autograd.  Raises NonScalarLogJoint, and what the log joint raises.

    >>> mode = find_mode(lambda z: -(z - 3).square().sum(-1), torch.zeros(2))
    >>> mode.z.round(decimals=4), mode.found
    (tensor([3., 3.]), True)
    """
    z, strides = start.detach().clone(), torch.tensor(_STRIDES, dtype=start.dtype, device=start.device).unsqueeze(-1)
    value, slope, precision = _second_order(log_joint, z)
    if not math.isfinite(value):
        return None
    for _ in range(max_steps):
        if not bool(slope.isfinite().all() and precision.isfinite().all()):
            return Mode(z, value, precision, False)
        step, gain = _newton_step(slope, precision)
        if gain < 1e-3 and bool((torch.linalg.eigvalsh(_unit_diagonal(precision)[0]) > 0).all()):
            return Mode(z, value, precision, True)
        values = values_where_finite(log_joint, z + strides * step)
        best = int(values.argmax())
        if not values[best] > value:
            break
        z = z + strides[best] * step
        value, slope, precision = _second_order(log_joint, z)
    return Mode(z, value, precision, False)


def _newton_step(slope: Tensor, precision: Tensor) -> tuple[Tensor, float]:
    """|P|⁻¹ g, |P| with P's directions and the sizes of its curvatures: the step goes up even where log p bends up."""
    scaled, scale = _unit_diagonal(precision)
    curvatures, directions = torch.linalg.eigh(scaled)
    sizes = curvatures.abs().clamp_min(1e-6 if slope.dtype == torch.float64 else 1e-4)
    along = directions.mT @ (slope * scale)
    return scale * (directions @ (along / sizes)), 0.5 * float((along.square() / sizes).sum())


def _unit_diagonal(precision: Tensor) -> tuple[Tensor, Tensor]:
    """P in units in which its diagonal is ±1, and those units (D,)."""
    diagonal = precision.diagonal().abs()
    scale = torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal)).rsqrt()
    return scale.unsqueeze(-1) * precision * scale, scale


def _second_order(log_joint: LogJoint, z: Tensor) -> tuple[float, Tensor, Tensor]:
    """log p, its slope (D,) and −∇² log p (D, D): D copies of z, of each one entry of its slope differentiated again."""
    with torch.enable_grad():
        copies = z.expand(len(z), -1).clone().requires_grad_()
        try:
            log_p = log_joint(copies)
        except NonFiniteLogJoint:
            return -math.inf, torch.zeros_like(z), torch.zeros(len(z), len(z), dtype=z.dtype, device=z.device)
        (slopes,) = torch.autograd.grad(log_p.sum(), copies, create_graph=True)
        if slopes.requires_grad:
            (curvature,) = torch.autograd.grad(slopes.diagonal().sum(), copies)
        else:
            curvature = torch.zeros_like(slopes)
    return log_p[0].item(), slopes[0].detach(), -0.5 * (curvature + curvature.mT)


def values_where_finite(log_joint: LogJoint, z: Tensor) -> Tensor:
    """log p at each of z (N, D), −inf where it is not finite."""
    with torch.no_grad():
        try:
            values = log_joint(z)
        except NonFiniteLogJoint:
            if len(z) == 1:
                return z.new_full((1,), -math.inf)
            values = torch.cat([values_where_finite(log_joint, half) for half in z.chunk(2)])
    return torch.where(values.isfinite(), values, -math.inf)
