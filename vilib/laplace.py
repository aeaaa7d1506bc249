"""The Laplace approximation: a Gaussian at the mode of the posterior, with the curvature that the log joint has there.

Newton's method climbs to the mode ẑ, where log p(x, z) ≈ log p(x, ẑ) + ½ (z − ẑ)ᵀ H (z − ẑ).  Read as a density in z
that is N(ẑ, −H⁻¹), and its integral is an estimate of the evidence (Tierney & Kadane 1986).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vilib.families import FullRankGaussian
from vilib.models import evaluate
from vilib.types import LogJoint, NoMode, NonFiniteLogJoint, ShapeError

FAR = 1e8  # no mode is looked for beyond


@dataclass(frozen=True, eq=False)
class Laplace:
    """What :func:`laplace` found.

    q: N(ẑ, −H⁻¹), batch shape *R; its mean is the mode.  log_evidence: (*R), an estimate of log p(x) in nats, not a bound.
    """

    q: FullRankGaussian
    log_evidence: Tensor


def laplace(log_joint: LogJoint, start: Tensor, *, max_steps: int = 100) -> Laplace:
    """The Gaussian with the mode and the curvature of the posterior, and the evidence that it implies.  (eq:laplace)

    log_joint: z (..., D) -> (...), twice differentiable, on unconstrained coordinates.  start: (*R, D), where the climb begins;
    with several modes it decides which one is found.  Its dtype and device are kept; float64 is well spent here.
    max_steps: of Newton's method; ten are many for a posterior with one mode.

    Raises ShapeError (start), NoMode (nothing to climb to, or not curved downward there), and at the start what
    :func:`vilib.models.evaluate` raises.

    >>> found = laplace(lambda z: 3 * z[..., 0] - z[..., 0].exp(), torch.zeros(1).double())      # z = log θ, θ ~ Gamma(3, 1)
    >>> round(found.q.mean.exp().item(), 6), round(found.q.stddev.item() ** 2, 6)                # mode 3, curvature −3
    (3.0, 0.333333)
    >>> round(found.log_evidence.exp().item(), 4)                                                # Γ(3) = 2, by Stirling
    1.9454
    """
    _check_start(start)
    mode, before = _climb(log_joint, start.detach(), max_steps)
    log_p, _, hessian = _expand(log_joint, mode)
    _check_curvature(mode, hessian, before)
    tril = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(-hessian)))
    q = FullRankGaussian(mode, tril.tril(-1) + torch.diag_embed(tril.diagonal(dim1=-2, dim2=-1).log()))
    return Laplace(q, log_p - q.log_prob_at(torch.zeros_like(mode)))              # p(x, ẑ) / q(ẑ)


def _check_start(start: Tensor) -> None:
    if not (isinstance(start, Tensor) and start.is_floating_point() and start.ndim):
        got = f"{start.dtype} of shape {tuple(start.shape)}" if isinstance(start, Tensor) else type(start).__name__
        raise ShapeError(f"start: expected floating-point numbers (*R, D), got {got}. Pass torch.zeros(dim), for instance.")


def _check_curvature(mode: Tensor, hessian: Tensor, before: Tensor) -> None:
    """All eigenvalues of H are below zero, and H is settled: in posterior sds, it is what it was a short step before."""
    curvature, axes = torch.linalg.eigh(-hessian)                                 # (*R, D) in rising order, (*R, D, D)
    flat = ~(curvature[..., 0] > torch.finfo(mode.dtype).eps * curvature.abs().amax(-1))
    if flat.any():
        highest, lowest = (-curvature[flat][0][i].item() for i in (0, -1))
        raise NoMode(
            f"log_joint: at z = {mode[flat][0].tolist()} its slope is zero, but it is not curved downward on every side: the "
            f"Hessian's eigenvalues go from {lowest:.3g} to {highest:.3g}, and all must be below zero. This is a saddle, a valley or a "
            "flat ridge. Start elsewhere, or give a prior to the direction that is left free.", mode[flat][0], flat)
    sds = axes * curvature.rsqrt().unsqueeze(-2)
    unsettled = ~((sds.mT @ (hessian - before) @ sds).abs().amax((-1, -2)) < 0.1)
    if unsettled.any():
        raise NoMode(
            f"log_joint: next to its mode at z = {mode[unsettled][0].tolist()} the curvature changes by a tenth or more in one step of "
            f"{_close(mode):.0e} posterior sds: the second derivative vanishes or jumps there, and no Gaussian can be read off it.",
            mode[unsettled][0], unsettled)


def _climb(log_joint: LogJoint, z: Tensor, max_steps: int) -> tuple[Tensor, Tensor]:
    """The mode (*R, D), and the Hessian (*R, D, D) one short step before it."""
    value, slope, hessian = _expand(log_joint, z)
    for _ in range(max_steps):
        step, distance = _newton_step(z, slope, hessian)
        arrived = distance < _close(z)
        if arrived.all():
            return z + step, hessian                                              # quadratic convergence: this one lands
        z = z + _uphill(log_joint, z, value, step.masked_fill(arrived.unsqueeze(-1), 0.0))
        if not (z.abs() < FAR).all():
            break
        try:
            value, slope, hessian = _expand(log_joint, z)
        except NonFiniteLogJoint as error:
            raise NoMode(f"On the way uphill, {error}", error.z, error.replicates) from error
    lost = ~arrived
    where, far = z[lost][0].tolist(), distance[lost][0].item()
    raise NoMode(
        f"log_joint: no mode found in {max_steps} steps or within |z| < {FAR:.0e}. At z = {where} it still rises; by its curvature "
        f"there, the top is {far:.1e} posterior sds away. The density may rise without end (an improper or unbounded posterior), "
        "rise up to the edge of its support (then use unconstrained coordinates, as vilib.Model does), or have a kink at its top.",
        z[lost][0], lost)


def _close(z: Tensor) -> float:
    """The distance, in posterior sds, from which one more Newton step lands on the mode."""
    return torch.finfo(z.dtype).eps ** (1 / 3)


def _newton_step(z: Tensor, slope: Tensor, hessian: Tensor) -> tuple[Tensor, Tensor]:
    """|H|⁻¹ ∇, which climbs whatever the signs of the curvature, (*R, D); and its length in posterior sds, (*R)."""
    curvature, axes = torch.linalg.eigh(hessian)
    floor = torch.finfo(z.dtype).eps * curvature.abs().amax(-1, keepdim=True)
    curvature = curvature.abs().maximum(floor).clamp_min(torch.finfo(z.dtype).tiny ** 0.5)
    along = (axes.mT @ slope.unsqueeze(-1)).squeeze(-1)
    step = (axes @ (along / curvature).unsqueeze(-1)).squeeze(-1)
    reach = 10 * (1 + z.norm(dim=-1, keepdim=True))
    step = step * (reach / step.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)).clamp_max(1.0)
    return step, (along / curvature.sqrt()).norm(dim=-1)


def _uphill(log_joint: LogJoint, z: Tensor, value: Tensor, step: Tensor) -> Tensor:
    """The step, halved in each problem until it no longer leads downhill, or out of the support."""
    rounding = 8 * torch.finfo(z.dtype).eps * (1 + value.abs())
    for _ in range(60):
        try:
            downhill = ~(log_joint((z + step).unsqueeze(0)).squeeze(0).detach() >= value - rounding)
        except NonFiniteLogJoint:                                                 # a Model says nan and +inf by raising
            downhill = torch.ones_like(value, dtype=torch.bool)
        if not downhill.any():
            return step
        step = torch.where(downhill.unsqueeze(-1), step / 2, step)
    return step.masked_fill(downhill.unsqueeze(-1), 0.0)                          # it stands at an edge, or on a kink


def _expand(log_joint: LogJoint, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The log joint (*R), its gradient (*R, D) and its Hessian (*R, D, D) at z (*R, D), as plain numbers."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = evaluate(log_joint, z.unsqueeze(0)).squeeze(0)
        (slope,) = torch.autograd.grad(value.sum(), z, create_graph=True)
        if slope.requires_grad:
            rows = slope.reshape(-1, z.shape[-1]).sum(0)                          # a problem's slope knows no z but its own
            by_row = (torch.autograd.grad(row, z, retain_graph=True, materialize_grads=True)[0] for row in rows)
            hessian = torch.stack(list(by_row), -2)
        else:                                                                     # a straight line has no second derivative
            hessian = z.new_zeros(*z.shape, z.shape[-1])
    finite = (slope.isfinite() & hessian.isfinite().all(-1)).all(-1)
    if not finite.all():
        bad = z[~finite][0].detach()
        raise NoMode(
            f"log_joint: its derivatives are not finite at z = {bad.tolist()}, where the log joint itself is. Look for a square root or a "
            "power at zero and start elsewhere, or the density may rise without bound in this direction.", bad, ~finite)
    return value.detach(), slope.detach(), 0.5 * (hessian + hessian.mT)
