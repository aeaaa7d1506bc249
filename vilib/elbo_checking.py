"""Is my ELBO right?  A marker for functions that estimate the *value* of the ELBO; for gradients see :mod:`vilib.checking`.

:func:`check_elbo` runs the estimate many times on three small models whose ELBO is known by quadrature, and asks whether its mean could
be that number. If it could not, it looks for the slip that explains all the means at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from vilib.checking import Report
from vilib.families import LOG_2PI, MeanFieldGaussian
from vilib.noise import normal
from vilib.quadrature import expectation, log_evidence
from vilib.slips import Problem, cases


def _off_by(of_dim: Callable[[Problem], Tensor | float]) -> Callable[[Problem], Tensor]:
    return lambda p: p.value + of_dim(p)


def _other_draws(drawn: Callable[[MeanFieldGaussian], MeanFieldGaussian]) -> Callable[[Problem], Tensor]:
    """The mean of log p − log q when z comes from ``drawn(q)`` instead of q."""
    return lambda p: expectation(lambda z: p.target(z) - p.q.log_prob(z), drawn(p.q))


#: name -> (the mean that the slip leads to, what to say about it)
ELBO_SLIPS: dict[str, tuple[Callable[[Problem], Tensor], str]] = {
    "loss": (lambda p: -p.value, "It is −ELBO, a loss or free energy. The book climbs: return E_q[log p(x, z) − log q(z)] (eq:elbo)."),
    "no entropy": (_off_by(lambda p: -p.q.entropy()),
        "It is E_q[log p(x, z)] alone. The entropy is missing: subtract log q(z), or add q.entropy() (eq:elbo-energy-entropy)."),
    "entropy subtracted": (_off_by(lambda p: -2 * p.q.entropy()),
        "The entropy has the wrong sign: log q(z) is subtracted, and H[q] = −E_q[log q] added (eq:elbo-energy-entropy)."),
    "entropy twice": (_off_by(lambda p: p.q.entropy()),
        "The entropy is there twice: subtract log q(z) or add q.entropy(), not both (eq:elbo-energy-entropy)."),
    "sum for mean": (lambda p: p.num_samples * p.value, "It is S times the ELBO: you sum over the draws; take the mean."),
    "q without its constant": (_off_by(lambda p: -0.5 * p.q.dim * LOG_2PI),
        "It is too low by ½ D log 2π: your log q lacks its constant, −½ log 2π a coordinate. The optimum is right, the value is not."),
    "entropy without its constant": (_off_by(lambda p: -0.5 * p.q.dim * (1 + LOG_2PI)),
        "It is too low by ½ D (1 + log 2π): your entropy is Σ log σ without its constant. The optimum is right, the value is not."),
    "draws of the noise": (_other_draws(lambda q: q.with_vector(torch.zeros_like(q.vector()))),
        "z is ε itself, a draw from N(0, I) and not from q: use z = q.sample(eps), which is μ + σ ε."),
    "variance for standard deviation": (_other_draws(lambda q: q.with_vector(torch.cat([q.mu, 2 * q.omega], -1))),
        "z is μ + σ² ε, whose variance is σ⁴: the noise is multiplied by the standard deviation, z = μ + σ ε."),
    "draws with omega": (_other_draws(lambda q: q.with_vector(torch.cat([q.mu, q.omega.abs().log()], -1))),
        "z is μ + ω ε: omega is log σ, so the noise is multiplied by omega.exp()."),
    "log weight squared": (lambda p: expectation(lambda z: (p.target(z) - p.q.log_prob(z)).square(), p.q),
        "It is the mean of the squared log weight; take the mean of the log weight itself (eq:elbo)."),
    "weight without a log": (lambda p: torch.tensor(_evidence(p), dtype=torch.float64).exp(),
        "It estimates p(x), the mean of the weight p(x, z)/q(z). The ELBO is the mean of its *logarithm*, a bound on log p(x) (eq:elbo-jensen)."),
}


@dataclass(frozen=True)
class _Run:
    problem: Problem
    mean: float
    error: float

    def z_score(self, predicted: Tensor | float) -> float:
        """How many standard errors the mean is from ``predicted``; the error has a floor, for estimates without noise."""
        predicted = float(predicted)
        return abs(self.mean - predicted) / (self.error + 1e-9 * (1 + abs(predicted)))


def check_elbo(
    estimate: Callable[..., Any], *, sample_counts: tuple[int, ...] = (2, 8), num_replicates: int = 20_000, false_alarm: float = 1e-6, seed: int = 0,
) -> Report:
    """Test ``estimate(log_joint, q, eps)`` as an unbiased estimate of the ELBO (eq:elbo), and say in words what is wrong.

    estimate: log_joint takes z (S, *R, D) to (S, *R); q is a MeanFieldGaussian; eps (S, *R, D) is its noise.  Returns (*R), in nats.
    sample_counts: the S to try.  num_replicates: independent estimates for each test.
    false_alarm: the chance that a right estimate fails at all, shared among the tests (Bonferroni).
    The noise is the check's own: the same seed gives the same report.  An estimate that raises is reported, not raised.

    >>> check_elbo(lambda log_joint, q, eps: (log_joint(q.sample(eps)) - q.log_prob(q.sample(eps))).mean(0)).passed
    True
    >>> check_elbo(lambda log_joint, q, eps: log_joint(q.sample(eps)).mean(0)).slip
    'no entropy'
    """
    runs, generator = [], torch.Generator().manual_seed(seed)
    for name, target, q in cases():
        for num_samples in sample_counts:
            eps = normal(num_samples, (num_replicates,), q.dim, generator=generator, dtype=torch.float64)
            run = _run(estimate, Problem(name, target, q, num_samples, expectation=False), eps)
            if isinstance(run, Report):
                return run
            runs.append(run)
    threshold = NormalDist().inv_cdf(1 - false_alarm / (2 * len(runs)))
    worst = max(runs, key=lambda run: run.z_score(run.problem.value))
    largest = worst.z_score(worst.problem.value)
    if largest <= threshold:
        return Report(True, (
            f"Unbiased on 3 models: {len(runs)} z-tests of {num_replicates:,} estimates each, the largest {largest:.1f} standard errors, "
            f"alarm at {threshold:.1f}.",
            f"On {worst.problem.where} its mean is {worst.mean:.4f} ± {worst.error:.4f}, the ELBO is {worst.problem.value:.4f}.",
        ), None, largest, threshold)
    facts = (f"On {worst.problem.where} its mean is {worst.mean:.3f} ± {worst.error:.1g}, the ELBO is {worst.problem.value:.3f}: "
             f"{largest:.0f} standard errors away.")
    for slip, (predict, words) in ELBO_SLIPS.items():
        if all(run.z_score(predict(run.problem)) <= threshold for run in runs):
            return Report(False, (words, facts), slip, largest, threshold)
    if _log_of_mean(runs, threshold):
        return Report(False, (
            "It lies between the ELBO and log p(x), and higher with more draws: you took the log of the mean weight. That is another, "
            "tighter bound; the ELBO is the mean of the log (eq:elbo-jensen).", facts), "log of the mean", largest, threshold)
    return Report(False, (facts, "No single slip that we know explains the numbers: "
                          + "; ".join(f"{r.problem.where}: {r.mean:.3f} for {r.problem.value:.3f}" for r in runs) + "."), None, largest, threshold)


def _run(estimate: Callable[..., Any], problem: Problem, eps: Tensor) -> _Run | Report:
    failed = lambda slip, finding: Report(False, (finding,), slip)  # noqa: E731
    q = problem.q.expand(eps.shape[1])
    try:
        result = estimate(problem.target, q, eps)
        alone = estimate(problem.target, problem.q.expand(2), eps[:, :2])
    except Exception as error:
        return failed("raises", f"It raised {type(error).__name__} on {problem.where}, eps of shape {tuple(eps.shape)}: {error}")
    if not isinstance(result, Tensor) or result.shape != eps.shape[1:2]:
        got = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        axis = "It averaged over the replicates too. " if isinstance(result, Tensor) and result.ndim == 0 else ""
        return failed("shape", f"It returned {got}, expected one number a replicate (*R) = {tuple(eps.shape[1:2])}, for eps {tuple(eps.shape)} = "
                      f"(S, *R, D). {axis}Average over the S draws, the first axis: .mean(0).")
    result = result.detach().double()
    if not torch.isfinite(result).all():
        return failed("not finite", f"Some estimates are not finite on {problem.where}.")
    if not torch.allclose(alone.detach().double(), result[:2], rtol=1e-8, atol=1e-8):
        return failed("leak", "Replicates 0 and 1 come out differently alone than among the rest: average over the first axis only, and "
                      "take all randomness from eps.")
    return _Run(problem, result.mean().item(), (result.std() / len(result) ** 0.5).item())


def _evidence(problem: Problem) -> float:
    return log_evidence(problem.target, [-9.0] * problem.q.dim, [9.0] * problem.q.dim)


def _log_of_mean(runs: list[_Run], threshold: float) -> bool:
    """Above the ELBO, not above log p(x), and nearer to it with more draws, on every model."""
    inside = all(r.mean > float(r.problem.value) + threshold * r.error and r.mean < _evidence(r.problem) + threshold * r.error for r in runs)
    by_model: dict[str, list[_Run]] = {}
    for run in sorted(runs, key=lambda r: r.problem.num_samples):
        by_model.setdefault(run.problem.name, []).append(run)
    rise = lambda a, b: (b.mean - a.mean) / (a.error**2 + b.error**2) ** 0.5  # noqa: E731
    return inside and all(rise(a, b) > threshold for group in by_model.values() for a, b in zip(group, group[1:]))
