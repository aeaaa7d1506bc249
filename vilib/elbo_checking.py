"""Is my ELBO right?  A marker for functions that estimate the *value* of the ELBO; for gradients see :mod:`vilib.checking`.

:func:`check_elbo` runs the estimate many times on three small models whose ELBO is known by quadrature, and asks whether its mean could
be that number. If it could not, it looks for the slip that explains all the means at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vilib.checks import Estimates, Report, alarm, all_and_alone, explanation, failed, on_every, unusable
from vilib.families import LOG_2PI, MeanFieldGaussian
from vilib.quadrature import expectation, log_evidence
from vilib.slips import WRONG_DRAWS, Problem, cases


def _off_by(of_dim: Callable[[Problem], Tensor | float]) -> Callable[[Problem], Tensor]:
    return lambda p: p.value + of_dim(p)


def _drawn(vector: Callable[[MeanFieldGaussian], Tensor]) -> Callable[[Problem], Tensor]:
    """The mean of log p − log q when z comes from another member of the family, at λ = vector(q)."""
    return lambda p: expectation(lambda z: p.target(z) - p.q.log_prob(z), p.q.with_vector(vector(p.q)))


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
    **{name: (_drawn(vector), words) for name, (vector, words) in WRONG_DRAWS.items()},
    "log weight squared": (lambda p: expectation(lambda z: (p.target(z) - p.q.log_prob(z)).square(), p.q),
        "It is the mean of the squared log weight; take the mean of the log weight itself (eq:elbo)."),
    "weight without a log": (lambda p: torch.tensor(_evidence(p), dtype=torch.float64).exp(),
        "It estimates p(x), the mean of the weight p(x, z)/q(z). The ELBO is the mean of its *logarithm*, a bound on log p(x) (eq:elbo-jensen)."),
}


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
    run = lambda name, target, q, num_samples, eps: _run(estimate, Problem(name, target, q, num_samples, expectation=False), eps)  # noqa: E731
    runs = on_every(cases(), sample_counts, num_replicates, seed, run)
    if isinstance(runs, Report):
        return runs
    threshold = alarm(false_alarm, len(runs))
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
    found = explanation(ELBO_SLIPS, lambda predict: all(run.z_score(predict(run.problem)) <= threshold for run in runs))
    if found is not None:
        return failed(*found, facts, largest_z=largest, threshold=threshold)
    if _log_of_mean(runs, threshold):
        return Report(False, (
            "It lies between the ELBO and log p(x), and higher with more draws: you took the log of the mean weight. That is another, "
            "tighter bound; the ELBO is the mean of the log (eq:elbo-jensen).", facts), "log of the mean", largest, threshold)
    return Report(False, (facts, "No single slip that we know explains the numbers: "
                          + "; ".join(f"{r.problem.where}: {r.mean:.3f} for {r.problem.value:.3f}" for r in runs) + "."), None, largest, threshold)


def _run(estimate: Callable[..., Any], problem: Problem, eps: Tensor) -> Estimates | Report:
    results = all_and_alone(estimate, problem.target, problem.q, eps, problem.where)
    if isinstance(results, Report):
        return results
    complaint = unusable(*results, eps, problem.where)
    return Estimates(problem, results[0].detach().double()) if complaint is None else complaint


def _evidence(problem: Problem) -> float:
    return log_evidence(problem.target, [-9.0] * problem.q.dim, [9.0] * problem.q.dim)


def _log_of_mean(runs: list[Estimates], threshold: float) -> bool:
    """Above the ELBO, not above log p(x), and nearer to it with more draws, on every model."""
    inside = all(r.mean > float(r.problem.value) + threshold * r.error and r.mean < _evidence(r.problem) + threshold * r.error for r in runs)
    by_model: dict[str, list[Estimates]] = {}
    for run in sorted(runs, key=lambda r: r.problem.num_samples):
        by_model.setdefault(run.problem.name, []).append(run)
    rise = lambda a, b: (b.mean - a.mean) / (a.error**2 + b.error**2) ** 0.5  # noqa: E731
    return inside and all(rise(a, b) > threshold for group in by_model.values() for a, b in zip(group, group[1:]))
