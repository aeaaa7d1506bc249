"""The exact answers in one and two dimensions, by integrating: what every estimate is held against.

A rule gives nodes ε (N, D) and weights (N,) for E_ε[g(ε)], ε standard normal, in float64.  The nodes go through the
family's own ``transform``, so an expectation under q is a weighted sum over "draws" that happen to be exact.

q has D ≤ 2 here and any batch *R.  Under a discrete q (:mod:`vilib.discrete`) an expectation is the sum over all its
states instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from vilib.discrete import FactorizedBernoulli, FactorizedCategorical
from vilib.families import Gaussian
from vilib.models import evaluate, value_and_slope
from vilib.types import Family, LogJoint, Q, ShapeError

#: dim -> nodes ε (N, D) and weights (N,) that sum to one: an average over N(0, I).
Rule = Callable[[int], tuple[Tensor, Tensor]]


def trapezoid(dim: int, num_nodes: int | None = None, reach: float = 9.0) -> tuple[Tensor, Tensor]:
    """Equal steps over [−reach, reach]^D: nodes (N, D), weights (N,).  The default rule.

    For a smooth integrand that dies at both ends the trapezoid rule converges faster than any power of the step
    (Trefethen & Weideman 2014), and it does not mind a cost that oscillates.

    >>> eps, weights = trapezoid(1)
    >>> round((weights * eps[:, 0] ** 4).sum().item(), 12)
    3.0
    """
    x = torch.linspace(-reach, reach, num_nodes or {1: 2049, 2: 201}.get(dim, 201), dtype=torch.float64)
    density = torch.exp(-0.5 * x.square())
    return _tensor_grid(x, density / density.sum(), dim)


def gauss_hermite(dim: int, num_nodes: int = 64) -> tuple[Tensor, Tensor]:
    """Gauss–Hermite: exact for polynomials up to degree 2·num_nodes − 1.  Nodes (N, D), weights (N,).

    >>> eps, weights = gauss_hermite(2, 8)
    >>> round((weights * (eps**2).prod(-1)).sum().item(), 12)
    1.0
    """
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(num_nodes))
    return _tensor_grid(nodes, weights / weights.sum(), dim)


def expectation(f: Callable[[Tensor], Tensor], q: Family, rule: Rule = trapezoid) -> Tensor:
    """E_q[f(z)], (*R), float64, differentiable in λ.  f: z (..., D) -> (...).  Of a discrete q: over every state, and
    no rule is used.

    >>> from vilib import MeanFieldGaussian
    >>> q = MeanFieldGaussian(torch.ones(1), torch.zeros(1))
    >>> round(expectation(lambda z: z[..., 0] ** 2, q).item(), 10)
    2.0
    """
    q = _double(q)
    if not q.reparameterizable:
        z = cast(FactorizedBernoulli | FactorizedCategorical, q).states()
        return (q.log_prob(z).exp() * evaluate(f, z)).sum(0)
    eps, weights = _nodes(q, rule)
    return _average(evaluate(f, q.transform(eps)), weights)


def exact_elbo(log_joint: LogJoint, q: Family, rule: Rule = trapezoid) -> Tensor:
    """E_q[log p(x, z)] + H[q], (*R), float64, in nats, differentiable in λ.  (eq:elbo)

    >>> from vilib import MeanFieldGaussian, gaussian_target
    >>> q = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> abs(exact_elbo(gaussian_target(0.0, 1.0), q).item()) < 1e-12          # q is the target: the ELBO is log p(x) = 0
    True
    """
    return expectation(log_joint, q, rule) + _double(q).entropy()


def exact_gradient(f: Callable[[Tensor], Tensor], q: Family, rule: Rule = trapezoid, *, elbo: bool = False) -> Tensor:
    """∇_λ E_q[f], or with ``elbo=True`` ∇_λ ELBO where f is the log joint: (*R, P), float64.

    λ holds ω = log σ: ∂/∂ω = σ ∂/∂σ.

    >>> from vilib import MeanFieldGaussian
    >>> exact_gradient(lambda z: z[..., 0] ** 2, MeanFieldGaussian(torch.ones(1), torch.zeros(1))).float()
    tensor([2., 2.])
    """
    with torch.enable_grad():
        vector = _double(q).vector().detach().requires_grad_()
        at = _double(q).with_vector(vector)
        value = exact_elbo(f, at, rule) if elbo else expectation(f, at, rule)
        return torch.autograd.grad(value.sum(), vector)[0]


def exact_curvature(f: Callable[[Tensor], Tensor], q: Family, rule: Rule = trapezoid, *, elbo: bool = False) -> Tensor:
    """The second derivatives in λ of what :func:`exact_gradient` is the first of: (P, P), float64; q without a batch.

    By central differences of the gradient, good to about 1e-9.

    >>> from vilib import MeanFieldGaussian
    >>> q = MeanFieldGaussian(torch.ones(1), torch.zeros(1))
    >>> (exact_curvature(lambda z: z[..., 0] ** 2, q) + 0.0).round(decimals=6).tolist()     # of μ² + e^{2ω}
    [[2.0, 0.0], [0.0, 4.0]]
    """
    q = _double(q).detach()
    slope = lambda vector: exact_gradient(f, q.with_vector(vector), rule, elbo=elbo)  # noqa: E731
    nudges = 1e-5 * torch.eye(q.num_parameters, dtype=torch.float64, device=q.vector().device)
    rows = torch.stack([slope(q.vector() + nudge) - slope(q.vector() - nudge) for nudge in nudges]) / 2e-5
    return 0.5 * (rows + rows.mT)


# ---- the exact variance of every estimator --------------------------------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """What the variance of any estimator is made of; one draw, each (*R, P) unless said otherwise.

    gradient = E[f s]; score_variance = E[s²]; mean_f = E f and variance_f = Var f, both (*R, 1); fs2 = E[f s²];
    f2s2 = E[f² s²]; path2 = E[path²] and stl2 = E[path without the score²], the latter None for a plain cost.
    """

    gradient: Tensor
    score_variance: Tensor
    mean_f: Tensor
    variance_f: Tensor
    fs2: Tensor
    f2s2: Tensor
    path2: Tensor
    stl2: Tensor | None = None

    @property
    def optimal_baseline(self) -> Tensor:
        """The best constant for each coordinate, E[f s²]/E[s²].  (eq:optimal-baseline)"""
        return self.fs2 / self.score_variance

    def variances(self, num_samples: int = 1) -> dict[str, Tensor]:
        """The variance of each estimator at S samples, name -> (*R, P).  (eq:score-variance, eq:noise-variance)

        ``mean_baseline`` is the score function with the constant b = E f; ``optimal_baseline`` with the best constant, which is
        what ``optimal_coefficient`` tends to for large S; ``other_half`` is ``score_function_mean_baseline`` (S even).
        Leave-one-out and other-half are nan at S = 1.
        """
        at_baseline = lambda b: self.f2s2 - 2 * b * self.fs2 + b**2 * self.score_variance - self.gradient**2  # noqa: E731
        at_mean = at_baseline(self.mean_f)
        learning = self.variance_f * self.score_variance + self.gradient**2
        learnt = lambda price: at_mean / num_samples + price * learning if num_samples > 1 else at_mean * math.nan  # noqa: E731
        variances = {
            "score_function": at_baseline(0.0) / num_samples,
            "mean_baseline": at_mean / num_samples,
            "optimal_baseline": at_baseline(self.optimal_baseline) / num_samples,
            "leave_one_out": learnt(1 / (num_samples * max(num_samples - 1, 1))),
            "other_half": learnt(2 / num_samples**2),
            "pathwise": (self.path2 - self.gradient**2) / num_samples,
        }
        if self.stl2 is not None:
            variances["sticking_the_landing"] = (self.stl2 - self.gradient**2) / num_samples
            variances["total_derivative"] = variances["pathwise"]
        return variances

    def variances_at(self, sample_counts: Sequence[int]) -> dict[str, Tensor]:
        """:meth:`variances` at each S of ``sample_counts``: name -> (len(sample_counts), *R, P)."""
        at = [self.variances(num_samples) for num_samples in sample_counts]
        return {name: torch.stack([variances[name] for variances in at]) for name in at[0]}


def moments(f: Callable[[Tensor], Tensor], q: Gaussian, rule: Rule = trapezoid, *, elbo: bool = False) -> Moments:
    """The moments under q of f and of its gradient's ingredients.  With ``elbo=True``, f is the log joint.

    >>> from vilib import MeanFieldGaussian
    >>> q = MeanFieldGaussian(torch.ones(1), torch.zeros(1))
    >>> moments(lambda z: z[..., 0] ** 2, q).variances()["score_function"].float()
    tensor([ 30., 136.])
    """
    return moments_at(f, q, *_nodes(q, rule), elbo=elbo)


def moments_at(f: Callable[[Tensor], Tensor], q: Gaussian, eps: Tensor, weights: Tensor, *, elbo: bool = False) -> Moments:
    """:func:`moments` as weighted sums over any ε (N, *R, D), weights (N,): of any dimension, measured if the ε are draws.

    >>> from vilib import MeanFieldGaussian
    >>> q = MeanFieldGaussian(torch.ones(1), torch.zeros(1))
    >>> moments_at(lambda z: z[..., 0], q, torch.tensor([[-1.0], [1.0]]).double(), torch.tensor([0.5, 0.5]).double()).mean_f.item()
    1.0
    """
    q = _double(q).detach()
    f_z, grad_z = value_and_slope(f, q.transform(eps))
    score = q.score_at(eps)
    stl2 = None
    if elbo:
        f_z = f_z - q.log_prob_at(eps)
        path = q.pullback(eps, grad_z) + q.entropy_gradient()
        stl2 = _average(q.pullback(eps, grad_z - q.grad_log_prob_at(eps)).square(), weights)
    else:
        path = q.pullback(eps, grad_z)
    mean_f = _average(f_z, weights)
    g = f_z.unsqueeze(-1)
    return Moments(
        gradient=_average(path, weights), score_variance=q.score_variance(), mean_f=mean_f.unsqueeze(-1),
        variance_f=_average((f_z - mean_f).square(), weights).unsqueeze(-1), fs2=_average(g * score.square(), weights),
        f2s2=_average(g.square() * score.square(), weights), path2=_average(path.square(), weights), stl2=stl2,
    )


def additive_moments(f1: Callable[[Tensor], Tensor], q1: Gaussian, dim: int) -> Moments:
    """The moments for f(z) = Σ_d f1(z_d), all D coordinates under the same 1-D q1; gradient with respect to the first.

    What the other D − 1 coordinates add is independent of the first: a mean and a variance, nothing else.  The score
    function pays for both, the pathwise gradient does not see them.  P = 2: (mu[0], omega[0]) of the first coordinate.

    >>> from vilib import MeanFieldGaussian
    >>> q1 = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> additive_moments(lambda z: z[..., 0] ** 2, q1, 10).variances()["score_function"][0].round(decimals=6).item()     # (D+2)(D+4)
    168.0
    """
    one = moments(f1, q1)
    mean_rest, variance_rest = (dim - 1) * one.mean_f, (dim - 1) * one.variance_f
    return Moments(
        gradient=one.gradient, score_variance=one.score_variance, mean_f=dim * one.mean_f, variance_f=dim * one.variance_f,
        fs2=one.fs2 + mean_rest * one.score_variance,
        f2s2=one.f2s2 + 2 * mean_rest * one.fs2 + (variance_rest + mean_rest**2) * one.score_variance, path2=one.path2,
    )


# ---- the posterior itself, and the best q ---------------------------------------------------------------------------


def log_evidence(log_joint: LogJoint, lower: float | Sequence[float], upper: float | Sequence[float],
                 num_nodes: int | None = None) -> float:
    """log p(x) = log ∫ p(x, z) dz over a box that holds all the mass, D = 1 or 2, by the trapezoid rule; in nats.

    >>> from vilib import logistic_one_coefficient
    >>> round(log_evidence(logistic_one_coefficient().log_joint, -12.0, 12.0), 12), round(-math.log(2), 12)
    (-0.69314718056, -0.69314718056)
    """
    z, log_cell = box_nodes(lower, upper, num_nodes)
    return torch.logsumexp(evaluate(log_joint, z).flatten(), 0).item() + log_cell


def box_nodes(lower: float | Sequence[float] | Tensor, upper: float | Sequence[float] | Tensor,
              num_nodes: int | None = None) -> tuple[Tensor, float]:
    """An even grid over a box: nodes (n, D) or (n, n, D), float64, and the log of a cell's length or area.

    lower, upper: one number a coordinate, D = 1 or 2; nodes lie on their device.  num_nodes: n, by default 4,001 or
        401.
    Raises ShapeError (D).

    >>> z, log_cell = box_nodes((0.0, 0.0), (1.0, 2.0), 11)
    >>> z.shape, round(math.exp(log_cell), 10)
    (torch.Size([11, 11, 2]), 0.02)
    """
    lower, upper = (torch.as_tensor(end, dtype=torch.float64).reshape(-1) for end in (lower, upper))
    if len(lower) not in (1, 2) or len(lower) != len(upper):
        raise ShapeError(f"lower and upper: one or two numbers each, one a coordinate, got {len(lower)} and {len(upper)}.")
    num_nodes = num_nodes or {1: 4001, 2: 401}[len(lower)]
    axes = [torch.linspace(a, b, num_nodes, dtype=torch.float64, device=lower.device)
            for a, b in zip(lower.tolist(), upper.tolist())]
    log_cell = sum(math.log(float(axis[1] - axis[0])) for axis in axes)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1), log_cell


def posterior_density(log_joint: LogJoint, grid: Tensor, *more: Tensor) -> Tensor:
    """p(z | x) on an evenly spaced grid (G,), or on the product of two, (G1, G2); it integrates to one over the grid.

    >>> grid = torch.linspace(-9, 9, 601)
    >>> density = posterior_density(lambda z: -z.square().sum(-1) / 2, grid)
    >>> round(density[300].item(), 4)                                           # 1/√2π
    0.3989
    """
    axes = [axis.double() for axis in (grid, *more)]
    z = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    log_p = log_joint(z)
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    return torch.softmax(log_p.flatten(), 0).reshape(log_p.shape) / cell


def best_gaussian(log_joint: LogJoint, q0: Gaussian, *, tolerance: float = 1e-10, max_steps: int = 200,
                  rule: Rule = trapezoid) -> tuple[Gaussian, float]:
    """The q near q0 with the highest ELBO, that is the lowest KL(q ‖ posterior), and that ELBO in nats; D ≤ 2, no batch.

    Newton's method on the ELBO by quadrature, its curvature by central differences, taken negative so
    that each step climbs, and the step halved until it does.  Where there are several optima, q0 decides.

    >>> from vilib import MeanFieldGaussian, gaussian_target
    >>> q, elbo = best_gaussian(gaussian_target(2.0, 3.0), MeanFieldGaussian(torch.zeros(1), torch.zeros(1)))
    >>> round(q.mean.item(), 6), round(q.stddev.item(), 6), abs(elbo) < 1e-9
    (2.0, 3.0, True)
    """
    if q0.batch_shape:
        raise ShapeError(f"q0: one density without a batch, got batch shape {tuple(q0.batch_shape)}.")
    q0 = _double(q0).detach()
    elbo = lambda vector: exact_elbo(log_joint, q0.with_vector(vector), rule).item()  # noqa: E731
    slope = lambda vector: exact_gradient(log_joint, q0.with_vector(vector), rule, elbo=True)  # noqa: E731
    vector = q0.vector()
    value, gradient = elbo(vector), slope(vector)
    for _ in range(max_steps):
        if gradient.abs().max() < tolerance:
            break
        curvature, axes = torch.linalg.eigh(exact_curvature(log_joint, q0.with_vector(vector), rule, elbo=True))
        step = axes @ (axes.mT @ gradient / curvature.abs().clamp_min(1e-6))
        step = step / max(1.0, step.abs().max().item() / 2)
        rounding = 1e-14 * max(1.0, abs(value))              # near the top the ELBO is flat to this, and only its slope still tells
        while elbo(vector + step) < value - rounding and step.abs().max() > 1e-14:
            step = step / 2
        higher, flatter = elbo(vector + step), slope(vector + step)
        if step.abs().max() <= 1e-14 or higher <= value and flatter.abs().max() >= gradient.abs().max():
            break                                            # rounding is all that is left to climb
        vector, value, gradient = vector + step, higher, flatter
    return q0.with_vector(vector), value


def _double(q: Q) -> Q:
    return q if q.vector().dtype == torch.float64 else q.with_vector(q.vector().double())


def _nodes(q: Family, rule: Rule) -> tuple[Tensor, Tensor]:
    """ε (N, *R, D) and weights (N,), on q's device."""
    if q.dim > 2:
        raise ShapeError(f"q: quadrature reaches two dimensions, this q has {q.dim}; see additive_moments for sums.")
    eps, weights = (x.to(q.vector().device) for x in rule(q.dim))
    eps = eps.reshape(len(eps), *(1 for _ in q.batch_shape), q.dim).expand(len(eps), *q.batch_shape, q.dim)
    return eps, weights


def _average(x: Tensor, weights: Tensor) -> Tensor:
    return torch.tensordot(weights, x, 1)


def _tensor_grid(x: Tensor, weights: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    nodes = torch.cartesian_prod(*[x] * dim).reshape(-1, dim)
    return nodes, torch.cartesian_prod(*[weights] * dim).reshape(-1, dim).prod(-1)
