"""Is my Monte Carlo KL right?  A marker for functions that estimate KL(q ‖ p) from draws of q, and its standard error.

:func:`check_kl` runs the estimate many times on three small problems whose KL is known by quadrature, and asks whether
its mean could be that number; then whether the standard errors that it states could belong to the spread of its
estimates.  If not, it looks for the slip that explains all the means, or all the errors, at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from vilib.checks import Estimates, Report, alarm, all_and_alone, explanation, failed, on_every, unusable, z_scores
from vilib.divergences import forward_kl, reverse_kl
from vilib.families import LOG_2PI, MeanFieldGaussian
from vilib.quadrature import expectation, log_evidence
from vilib.slips import WRONG_DRAWS
from vilib.types import LogJoint


@dataclass(frozen=True)
class KLProblem:
    """A normalised p, a q and an S."""

    name: str
    log_p: LogJoint
    q: MeanFieldGaussian
    num_samples: int

    @property
    def exact(self) -> float:
        return reverse_kl(self.log_p, self.q).item()

    @property
    def where(self) -> str:
        return f"{self.name}, S = {self.num_samples}"

    def mean_of(self, f: Callable[[Tensor], Tensor], of: MeanFieldGaussian | None = None) -> float:
        """E[f(log w)], log w = log p − log q, under q or another density ``of``."""
        return expectation(lambda z: f(self.log_p(z) - self.q.log_prob(z)), of or self.q).item()


def kl_cases() -> Iterator[tuple[str, LogJoint, MeanFieldGaussian]]:
    """Three normalised targets, nowhere wide beside their q, so that every moment of w = p/q in use is finite."""
    tensor = lambda *x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    unnormalised = (
        ("a Gaussian p", lambda z: -2 * (z[..., 0] - 1).square(), MeanFieldGaussian(tensor(0.4), tensor(-0.3))),
        ("a skewed p", lambda z: 2 * z[..., 0] - 3 * softplus(z[..., 0]) - 0.5 * z[..., 0].square(),
         MeanFieldGaussian(tensor(-0.5), tensor(0.2))),
        ("a correlated p in 2-D", lambda z: -2 * z.square().sum(-1) + 1.6 * z[..., 0] * z[..., 1],
         MeanFieldGaussian(tensor(0.5, -0.3), tensor(-0.2, 0.3))),
    )
    for name, log_p, q in unnormalised:
        constant = log_evidence(log_p, [-9.0] * q.dim, [9.0] * q.dim)
        yield name, partial(_normalised, log_p, constant), q


def _normalised(log_p: LogJoint, constant: float, z: Tensor) -> Tensor:
    return log_p(z) - constant


def _drawn(vector: Callable[[MeanFieldGaussian], Tensor]) -> Callable[[KLProblem], float]:
    """The mean of log q − log p when z comes from another member of the family, at λ = vector(q)."""
    return lambda p: p.mean_of(lambda log_w: -log_w, p.q.with_vector(vector(p.q)))


#: name -> (the mean that the slip leads to, what to say about it)
KL_SLIPS: dict[str, tuple[Callable[[KLProblem], float], str]] = {
    "sign": (lambda p: -p.exact, "It is −KL: the average is of log q − log p, and you have log p − log q (eq:kl)."),
    "other direction": (lambda p: forward_kl(p.log_p, p.q, [-9.0] * p.q.dim, [9.0] * p.q.dim).item(),
        "It is KL(p ‖ q), the other direction: draws of q, each weighed by p/q, are an average under p. "
        "For KL(q ‖ p) leave the weight out (eq:kl)."),
    "sum for mean": (lambda p: p.num_samples * p.exact, "It is S times the KL: you sum over the draws; take the mean."),
    "entropy alone": (lambda p: -p.q.entropy().item(),
        "It is E_q[log q] alone, minus the entropy: log p(z) is missing."),
    "cross-entropy alone": (lambda p: p.exact + p.q.entropy().item(),
        "It is −E_q[log p] alone: log q(z) is missing."),
    "q without its constant": (lambda p: p.exact + 0.5 * p.q.dim * LOG_2PI,
        "It is too high by ½ D log 2π: your log q lacks its constant, −½ log 2π a coordinate."),
    "absolute value": (lambda p: p.mean_of(torch.abs),
        "It is the mean of |log q − log p|. Single terms may be negative, only their mean may not: "
        "they cancel what is too much elsewhere."),
    "clipped at zero": (lambda p: p.mean_of(lambda log_w: (-log_w).clamp_min(0)),
        "The negative terms are cut off at zero. They belong to the mean; without them it is too high."),
    "half the square": (lambda p: p.mean_of(lambda log_w: 0.5 * log_w.square()),
        "It is the mean of ½ (log p − log q)², which is near the KL where p is near q, and biased."),
    "k3 without −1": (lambda p: p.exact + 1,
        "It is one too high: w − log w instead of w − 1 − log w. What is added must have mean zero (eq:kl-tangent)."),
    **{name: (_drawn(vector), words) for name, (vector, words) in WRONG_DRAWS.items()},
}

#: name -> (what of the stated error has the mean of the squared deviation from the KL; what to say)
ERROR_SLIPS: dict[str, tuple[Callable[[Tensor, int], Tensor], str]] = {
    "not divided by √S": (lambda error, s: error.square() / s,
        "The error is the standard deviation of one term. The mean of S is quieter by √S: divide by it "
        "(eq:kl-monte-carlo)."),
    "divided by S": (lambda error, s: error.square() * s,
        "The error is divided by S. It is the *variance* of a mean that falls like 1/S; its root falls like 1/√S."),
    "divided by S, not S−1": (lambda error, s: error.square() * s / (s - 1),
        "The error is too small by √((S−1)/S): divide the squared deviations from the draws' own mean by S − 1."),
    "no root": (lambda error, s: error, "The error is the variance of the mean: take its square root."),
    "no root, not divided": (lambda error, s: error / s,
        "The error is the variance of one term: divide it by S and take the square root."),
}

NO_ERROR = ("It came without a standard error, so none was tested: nobody can tell from one such number how far off it is. "
            "Return the pair, the estimate and its standard error (eq:kl-standard-error).")


@dataclass(frozen=True, eq=False)
class _Run(Estimates):
    eps: Tensor
    errors: Tensor | None        # (R), the standard errors that came with them

    def error_z_score(self, squared_error: Tensor) -> float:
        """The same for the mean of a squared standard error, against the mean squared deviation from the KL."""
        difference = squared_error - (self.values - self.problem.exact).square()
        return z_scores(difference, torch.zeros_like(difference[0])).abs().item()


def check_kl(
    estimate: Callable[..., Any], *, sample_counts: tuple[int, ...] = (2, 8), num_replicates: int = 20_000,
    false_alarm: float = 1e-6, seed: int = 0,
) -> Report:
    """Test ``estimate(log_p, q, eps)`` as an unbiased estimate of KL(q ‖ p) (eq:kl), and say in words what is wrong.

    estimate: log_p takes z (S, *R, D) to (S, *R), normalised; q is a MeanFieldGaussian; eps (S, *R, D) is its noise.
        Returns (*R), in nats, or a pair of it and its standard error (*R); then the error is tested too.  Where no error
        comes, the report says that none was tested.
    sample_counts: the S to try, each at least 2.  num_replicates: independent estimates for each test.
    false_alarm: the chance that a right estimate fails at all, shared among the tests (Bonferroni).
    The noise is the check's own: the same seed gives the same report.  An estimate that raises is reported, not raised.

    >>> from vilib import monte_carlo_kl
    >>> check_kl(monte_carlo_kl).passed
    True
    >>> check_kl(lambda log_p, q, eps: (log_p(q.sample(eps)) - q.log_prob(q.sample(eps))).mean(0)).slip
    'sign'
    """
    run = lambda name, log_p, q, num_samples, eps: _run(estimate, KLProblem(name, log_p, q, num_samples), eps)  # noqa: E731
    runs = on_every(kl_cases(), sample_counts, num_replicates, seed, run)
    if isinstance(runs, Report):
        return runs
    with_errors = all(run.errors is not None for run in runs)
    num_tests = len(runs) * (2 if with_errors else 1)
    threshold = alarm(false_alarm, num_tests)
    worst = max(runs, key=lambda run: run.z_score(run.problem.exact))
    largest = worst.z_score(worst.problem.exact)
    facts = (f"On {worst.problem.where} its mean is {worst.values.mean():.4f} ± {worst.error:.1g}, the KL is "
             f"{worst.problem.exact:.4f}")
    if all(_is_k3_upside_down(run) for run in runs):
        return Report(False, (
            "It is the mean of q/p − 1 − log(q/p): the ratio is upside down. Under q it is w = p/q that has mean one, "
            "and q/p may have no mean at all (eq:kl-tangent).", f"{facts}."), "k3 upside down", largest, threshold)
    wildest = max(runs, key=lambda run: run.error / run.problem.exact)
    if largest <= threshold and threshold * wildest.error > wildest.problem.exact:
        return Report(False, (
            "It is too noisy to tell: the mean of all estimates could be the KL, and it could be zero. Is there a "
            "ratio in it whose variance is infinite?",
            f"On {wildest.problem.where} its mean is {wildest.values.mean():.3g} ± {wildest.error:.1g}, the KL is "
            f"{wildest.problem.exact:.4f}."), "too noisy", largest, threshold)
    if largest > threshold:
        return _biased(runs, threshold, largest, f"{facts}: {largest:.0f} standard errors away.")
    wrong_error = _wrong_error(runs, threshold) if with_errors else None
    return wrong_error if wrong_error is not None else Report(True, (
        f"Unbiased on 3 problems: {len(runs)} z-tests of {num_replicates:,} estimates each, the largest {largest:.1f} "
        f"standard errors, alarm at {threshold:.1f}." + " So are the squares of its standard errors." * with_errors,
        f"{facts}.", *(() if with_errors else (NO_ERROR,))), None, largest, threshold)


def _biased(runs: list[_Run], threshold: float, largest: float, facts: str) -> Report:
    found = explanation(KL_SLIPS, lambda predict: all(run.z_score(predict(run.problem)) <= threshold for run in runs))
    if found is not None:
        return failed(*found, facts, largest_z=largest, threshold=threshold)
    each = "; ".join(f"{run.problem.where}: {run.values.mean():.3f} for {run.problem.exact:.3f}" for run in runs)
    return Report(False, (facts, f"No single slip that we know explains the numbers: {each}."), None, largest,
                  threshold)


def _is_k3_upside_down(run: _Run) -> bool:
    """Draw by draw, since q/p need not have a mean."""
    q = run.problem.q.expand(run.eps.shape[1])
    log_w = run.problem.log_p(q.sample(run.eps)) - q.log_prob(q.sample(run.eps))
    return torch.allclose(run.values, ((-log_w).expm1() + log_w).mean(0), rtol=1e-6, atol=1e-8)


def _wrong_error(runs: list[_Run], threshold: float) -> Report | None:
    stated_by = {run: cast(Tensor, run.errors) for run in runs}
    scores = {run: run.error_z_score(stated_by[run].square()) for run in runs}
    worst = max(scores, key=lambda run: scores[run])
    if scores[worst] <= threshold:
        return None
    stated, true = stated_by[worst].square().mean() ** 0.5, worst.values.std()
    facts = (f"The estimate is right, its standard error is not. On {worst.problem.where} the estimates spread by "
             f"{true:.3f}, and the error says {stated:.3f}.")
    fits = lambda squared: all(run.error_z_score(squared(stated_by[run], run.problem.num_samples)) <= threshold for run in runs)  # noqa: E731
    found = explanation(ERROR_SLIPS, fits)
    if found is not None:
        return failed(*found, facts, largest_z=scores[worst], threshold=threshold)
    return Report(False, (facts, "No single slip that we know explains it."), None, scores[worst], threshold)


def _run(estimate: Callable[..., Any], problem: KLProblem, eps: Tensor) -> _Run | Report:
    results = all_and_alone(estimate, problem.log_p, problem.q, eps, problem.where)
    if isinstance(results, Report):
        return results
    both, alone = (x if isinstance(x, tuple) else (x,) for x in results)
    if not 1 <= len(both) <= 2:
        return failed("shape", f"It returned {len(both)} things; expected the estimate, or it and its standard error.")
    for name, result, few in zip(("an estimate of ", "a standard error of "), both, alone):
        complaint = unusable(result, few, eps, problem.where, name)
        if complaint is not None:
            return complaint
    values, *errors = (x.detach().double() for x in both)
    return _Run(problem, values, eps, errors[0] if errors else None)
