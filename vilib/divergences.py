"""KL between q and p, both ways: in closed form, by quadrature, by Monte Carlo; and the Gaussians that make it
smallest.

KL(q ‖ p) = E_q[log q − log p] is *reverse*: q must not be where p is not, so it settles on one mode.  KL(p ‖ q) is
*forward*: q must be wherever p is, so it covers.  All in nats, none negative, zero only where q = p.

``log_p`` is z (..., D) -> (...).  Where it is a log joint, ∫p = p(x) and not 1: then the reverse KL is short of its
``log_evidence``, which is why that is an argument (:func:`vilib.quadrature.log_evidence` finds it).  With the default,
0, an unnormalised p gives −ELBO instead, the same up to a constant in λ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vilib.families import FullRankGaussian, Gaussian, MeanFieldGaussian
from vilib.models import evaluate
from vilib.quadrature import (
    Rule, best_gaussian, box_nodes, exact_curvature, exact_elbo, exact_gradient, trapezoid,
)
from vilib.types import Family, LogJoint, ShapeError, VilibError

#: By how much a box may be too small or its grid too coarse: the density at its edge over that at the peak, and the
#: relative change of ∫p when every second node is left out.
BOX_TOLERANCE = 1e-6


# ---- closed form ----------------------------------------------------------------------------------------------------


def gaussian_kl(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q ‖ p) of two Gaussians, mean-field or full-rank in any mix: (*R), differentiable in both.

    ½ ( ‖L_p⁻¹ L_q‖² − D + ‖L_p⁻¹ (μ_q − μ_p)‖² ) + log |L_p| − log |L_q|, L Lᵀ the covariance.
    The batch shapes of q and p broadcast to *R.  Raises ShapeError when they do not, or the dimensions differ.
    (eq:kl-gaussian-matrix)

    >>> q, p = (MeanFieldGaussian(torch.tensor([m]), torch.tensor([s]).log()) for m, s in [(0.0, 1.0), (1.0, 2.0)])
    >>> round(gaussian_kl(q, p).item(), 6), round(gaussian_kl(p, q).item(), 6)
    (0.443147, 1.306853)
    """
    try:
        torch.broadcast_shapes(q.batch_shape, p.batch_shape)
        fits = q.dim == p.dim
    except RuntimeError:
        fits = False
    if not fits:
        raise ShapeError(f"q and p: one dimension and batch shapes that broadcast, got D = {q.dim} and {p.dim}, "
                         f"*R = {tuple(q.batch_shape)} and {tuple(p.batch_shape)}.")
    shift = _whiten(p, (q.mean - p.mean).unsqueeze(-1)).square().sum((-2, -1))
    log_ratio = q.log_scales() - p.log_scales()
    if isinstance(q, MeanFieldGaussian) and isinstance(p, MeanFieldGaussian):
        return 0.5 * ((2 * log_ratio).expm1() - 2 * log_ratio).sum(-1) + 0.5 * shift      # exactly 0 where q = p
    spread = _whiten(p, q.scale_tril).square().sum((-2, -1)) - q.dim
    return 0.5 * (spread + shift) - log_ratio.sum(-1)


def _whiten(p: Gaussian, matrix: Tensor) -> Tensor:
    """L_p⁻¹ times matrix (*R, D, K)."""
    if isinstance(p, MeanFieldGaussian):
        return matrix * (-p.omega).exp().unsqueeze(-1)
    return torch.linalg.solve_triangular(p.scale_tril, matrix, upper=False)


# ---- quadrature -----------------------------------------------------------------------------------------------------


def reverse_kl(log_p: LogJoint, q: Family, *, log_evidence: float = 0.0, rule: Rule = trapezoid) -> Tensor:
    """KL(q ‖ p) = log_evidence − ELBO, (*R), float64, differentiable in λ; D ≤ 2, or q discrete.  (eq:elbo)

    log_evidence: log ∫p, 0 for a normalised p.  For an unnormalised p without it the result is −ELBO = KL − log ∫p, of
        either sign.
    Raises ShapeError (D), NonScalarLogJoint, NonFiniteLogJoint.

    >>> from vilib import gaussian_target
    >>> q = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> round(reverse_kl(gaussian_target(1.0, 2.0), q).item(), 6)
    0.443147
    """
    return log_evidence - exact_elbo(log_p, q, rule)


def forward_kl(
    log_p: LogJoint, q: Gaussian, lower: float | Sequence[float] | Tensor, upper: float | Sequence[float] | Tensor, *,
    num_nodes: int | None = None,
) -> Tensor:
    """KL(p ‖ q) over a box that holds all of p's mass, (*R), float64, differentiable in λ; D ≤ 2.

    p need not be normalised: it is divided by its integral over the box.
    lower, upper, num_nodes: as for :func:`vilib.quadrature.box_nodes`.
    Raises ShapeError (D), VilibError where the box cuts p off or the grid is too coarse, NonScalarLogJoint,
    NonFiniteLogJoint.

    >>> from vilib import gaussian_target
    >>> q, unnormalised = MeanFieldGaussian(torch.zeros(1), torch.zeros(1)), lambda z: gaussian_target(1.0, 2.0)(z) + 5
    >>> round(forward_kl(unnormalised, q, -15.0, 17.0).item(), 6)
    1.306853
    """
    on_device = lambda end: torch.as_tensor(end, dtype=torch.float64, device=q.mean.device).reshape(-1)  # noqa: E731
    lower, upper = on_device(lower), on_device(upper)
    if len(lower) != q.dim:
        raise ShapeError(f"lower and upper: one number for each of q's {q.dim} coordinates, got {len(lower)}.")
    z, log_density, weights = _normalised(log_p, lower, upper, num_nodes)
    z = z.reshape(len(z), *(1 for _ in q.batch_shape), q.dim)
    log_q = q.with_vector(q.vector().double()).log_prob(z)
    return weights @ log_density - torch.tensordot(weights, log_q, 1)


def _normalised(log_p: LogJoint, lower: float | Sequence[float] | Tensor, upper: float | Sequence[float] | Tensor, num_nodes: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes z (N, D), the normalised log density there (N,), and weights (N,) that sum to one."""
    z, log_cell = box_nodes(lower, upper, num_nodes)
    grid = evaluate(log_p, z).detach()
    inner = grid[tuple(slice(1, -1) for _ in grid.shape)]
    edge = max(x.max().item() for d in range(grid.ndim) for x in (grid.select(d, 0), grid.select(d, -1)))
    log_z = grid.flatten().logsumexp(0)
    every_second = grid[tuple(slice(None, None, 2) for _ in grid.shape)].flatten()
    log_change = (every_second.logsumexp(0) - log_z).item() + grid.ndim * math.log(2)
    if edge - inner.max().item() > math.log(BOX_TOLERANCE):
        raise VilibError("lower and upper: the density at the edge of the box is "
                         f"{math.exp(edge - inner.max().item()):.1g} of that at its peak, so mass is cut off; "
                         f"at most {BOX_TOLERANCE:.0e} is allowed. Widen the box.")
    if abs(math.expm1(log_change)) > BOX_TOLERANCE:
        raise VilibError(f"num_nodes: every second of the {len(grid)} nodes a side gives {math.exp(log_change):.7g} "
                         "times the integral of p: the grid is too coarse for p. Raise num_nodes, or narrow the box.")
    log_weights = grid.flatten() - log_z
    return z.flatten(0, -2), log_weights - log_cell, log_weights.exp()


# ---- Monte Carlo ----------------------------------------------------------------------------------------------------


def monte_carlo_kl(log_p: LogJoint, q: Family, eps: Tensor, *, log_evidence: float = 0.0) -> tuple[Tensor, Tensor]:
    """KL(q ‖ p) as the mean of −log w, w = p/q, over the draws of q ("k1"): (estimate (*R), standard error (*R)).

    Plain numbers: to *climb*, take an estimator of :mod:`vilib.estimators`.  Unbiased for any
    D, with q of any family; single draws, and even the mean, may be negative.  eps: (S, *R, D).  log_evidence as for
    :func:`reverse_kl`.  The standard error holds for independent draws (noise ``normal``); of others take the spread
    over a batch.
    Raises ShapeError for S = 1, NonScalarLogJoint, NonFiniteLogJoint.  (eq:kl-monte-carlo, eq:kl-standard-error)

    >>> from vilib import gaussian_target
    >>> q = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> estimate, standard_error = monte_carlo_kl(gaussian_target(0.0, 1.0), q, torch.tensor([[-0.3], [1.7]]))
    >>> abs(estimate.item()) < 1e-6, standard_error.item() < 1e-6                # where q is p, each draw is zero
    (True, True)
    """
    return _mean_and_error(-_log_weight(log_p, q, eps, log_evidence))


def monte_carlo_kl_k3(log_p: LogJoint, q: Family, eps: Tensor, *, log_evidence: float = 0.0) -> tuple[Tensor, Tensor]:
    """The same as the mean of w − 1 − log w ("k3"), w = p/q, never negative.  (eq:kl-tangent; Schulman 2020)

    w − 1 has mean zero, so this is k1 with a control variate of coefficient one, and as unbiased; but only for a
    *normalised* p (or with its log_evidence), and a q that is positive wherever p is.  Its variance is lower

        Var k3 = Var k1 + χ²(p ‖ q) − 2 ( KL(q ‖ p) + KL(p ‖ q) )                       (eq:kl-term-variance)

    where χ² < 2 (KL + KL), that is where q and p are near.  It is *not* where they are far: for N(0,1) and N(m,1) from
    m² = 1.2564 on, and it is infinite once p is √2 times wider than q.  Arguments, result and errors as for
    :func:`monte_carlo_kl`.

    >>> from vilib import gaussian_target
    >>> q, eps = MeanFieldGaussian(torch.zeros(1), torch.zeros(1)), torch.tensor([[-1.0], [0.0], [1.0]])
    >>> [round(kl(gaussian_target(0.1, 1.0), q, eps)[1].item(), 4) for kl in (monte_carlo_kl, monte_carlo_kl_k3)]
    [0.0577, 0.0017]
    """
    log_w = _log_weight(log_p, q, eps, log_evidence)
    return _mean_and_error(log_w.expm1() - log_w)


def monte_carlo_forward_kl(log_p: LogJoint, q: Family, draws: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p ‖ q) as the mean of log p − log q over draws of *p*: (estimate (*R), standard error (*R)).

    draws: (S, *R, D), independent draws of p, in the units of z; axes of *R may be 1, and then all of q's batch share
    them.  log_p: normalised.  What does not depend on q, the mean of log p, may be left out where only the best q is
    wanted: the rest is minus a log likelihood of the draws.
    Raises ShapeError for S = 1, NonScalarLogJoint, NonFiniteLogJoint.  (eq:kl-forward)

    >>> from vilib import gaussian_target
    >>> q = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> estimate, standard_error = monte_carlo_forward_kl(gaussian_target(1.0, 1.0), q, torch.tensor([[0.0], [2.0]]))
    >>> round(estimate.item(), 6), round(standard_error.item(), 6)               # z − ½ at each draw
    (0.5, 1.0)
    """
    _check_draws(draws)
    with torch.no_grad():
        return _mean_and_error(evaluate(log_p, draws) - q.log_prob(draws))


def _log_weight(log_p: LogJoint, q: Family, eps: Tensor, log_evidence: float) -> Tensor:
    _check_draws(eps)
    with torch.no_grad():
        z = q.sample(eps)
        return evaluate(log_p, z) - log_evidence - q.log_prob(z)


def _check_draws(draws: Tensor) -> None:
    if len(draws) < 2:
        raise ShapeError(f"num_samples: a standard error needs at least 2 draws, got {len(draws)}.")


def _mean_and_error(x: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x, 0)
    return mean, (variance / len(x)).sqrt()


# ---- the Gaussians that make it smallest ----------------------------------------------------------------------------


def moment_matched_gaussian(
    log_p: LogJoint, lower: float | Sequence[float] | Tensor, upper: float | Sequence[float] | Tensor,
    family: type[Gaussian] = FullRankGaussian, *, num_nodes: int | None = None,
) -> tuple[Gaussian, float]:
    """The Gaussian with the lowest forward KL, and that KL(p ‖ q) in nats: it has p's mean and covariance.

    D ≤ 2, float64.  family: FullRankGaussian, or MeanFieldGaussian, which keeps the marginal variances and drops the
    correlation.  There is one optimum; for the *reverse* KL see :func:`vilib.quadrature.best_gaussian` and
    :func:`stationary_gaussians`.  Box and errors as for :func:`forward_kl`.  (Minka 2005, "Divergence measures and
    message passing")

    >>> from vilib import two_component_mixture
    >>> q, kl = moment_matched_gaussian(two_component_mixture(), -12.0, 12.0)
    >>> abs(q.mean.item()) < 1e-9, round(q.covariance.item(), 6)
    (True, 10.0)
    """
    z, _, weights = _normalised(log_p, lower, upper, num_nodes)
    mean = weights @ z
    covariance = (z - mean).mT @ (weights.unsqueeze(-1) * (z - mean))
    q: Gaussian
    if family is MeanFieldGaussian:
        q = MeanFieldGaussian(mean, 0.5 * covariance.diagonal().log())
    else:
        tril = torch.linalg.cholesky(covariance)
        q = FullRankGaussian(mean, tril.tril(-1) + torch.diag(tril.diagonal().log()))
    return q, forward_kl(log_p, q, lower, upper, num_nodes=num_nodes).item()


@dataclass(frozen=True, eq=False)
class StationaryPoint:
    """A Gaussian at which the reverse KL is flat.

    q: without a batch, float64.  kl: KL(q ‖ p) in nats.  curvature: (P,), rising, the eigenvalues of its second
    derivatives in λ.
    """

    q: Gaussian
    kl: float
    curvature: Tensor

    @property
    def is_minimum(self) -> bool:
        """Every direction leads up; otherwise a saddle, a maximum, or too flat to tell (an eigenvalue below 1e-6)."""
        return bool(self.curvature[0] > 1e-6)


def stationary_gaussians(
    log_p: LogJoint, starts: Gaussian, *, log_evidence: float = 0.0, rule: Rule = trapezoid, tolerance: float = 1e-7,
    max_steps: int = 100,
) -> list[StationaryPoint]:
    """The distinct Gaussians at which KL(q ‖ p) is flat that the search finds from ``starts``, lowest KL first; D ≤ 2.

    starts: a family of any batch *R; its members are the starting points, and its kind the kind of q.
    From each, :func:`vilib.quadrature.best_gaussian` climbs to an optimum, and Newton's method on the gradient looks
    for the nearest place where that is zero, saddles among them.  No search can promise that it found all: try more
    starts.
    log_evidence as for :func:`reverse_kl`.  tolerance: the largest entry of the gradient still taken for zero.

    >>> from vilib import two_component_mixture
    >>> starts = MeanFieldGaussian(torch.tensor([[-2.0], [0.1], [2.0]]), torch.tensor([[0.0], [1.0], [0.0]]))
    >>> for point in stationary_gaussians(two_component_mixture(), starts):     # three minima, a saddle in each gap
    ...     print(f"{point.q.mean.abs().item():.5f} {point.q.stddev.item():.5f} {point.kl:.6f} {point.is_minimum}")
    2.98431 1.02337 0.688769 True
    2.98431 1.02337 0.688769 True
    0.00000 2.74377 0.840621 True
    1.84050 2.10382 0.971978 False
    1.84050 2.10382 0.971978 False
    """
    found: list[StationaryPoint] = []
    starts = starts.with_vector(starts.vector().detach().double())
    for vector in starts.vector().reshape(-1, starts.num_parameters):
        start = starts.with_vector(vector)
        for q in (best_gaussian(log_p, start)[0], _flat_place(log_p, start, rule, tolerance, max_steps)):
            flat = q is not None and exact_gradient(log_p, q, rule, elbo=True).abs().max() < tolerance
            if q is not None and flat and all(gaussian_kl(q, other.q) > 1e-6 for other in found):
                curvature = torch.linalg.eigvalsh(-exact_curvature(log_p, q, rule, elbo=True))
                kl = reverse_kl(log_p, q, log_evidence=log_evidence, rule=rule).item()
                found.append(StationaryPoint(q, kl, curvature))
    return sorted(found, key=lambda point: (round(point.kl, 9), point.q.mean.tolist()))


def _flat_place(log_p: LogJoint, q: Gaussian, rule: Rule, tolerance: float, max_steps: int) -> Gaussian | None:
    """Newton's method on ∇ELBO = 0: each step is halved until the gradient is shorter.  None where it gets stuck."""
    gradient = exact_gradient(log_p, q, rule, elbo=True)
    for _ in range(max_steps):
        if gradient.abs().max() < 0.1 * tolerance:
            return q
        step = -torch.linalg.pinv(exact_curvature(log_p, q, rule, elbo=True), hermitian=True) @ gradient
        step = step / max(1.0, step.abs().max().item())
        while step.abs().max() > 1e-12:
            there = q.with_vector(q.vector() + step)
            slope = exact_gradient(log_p, there, rule, elbo=True)
            if slope.norm() < gradient.norm():
                break
            step = step / 2
        else:
            return q if gradient.abs().max() < tolerance else None
        q, gradient = there, slope
    return None
