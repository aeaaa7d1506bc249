"""Is my estimator right?  A marker for the exercises, and for estimators of your own.

:func:`check_unbiased` runs an estimator many times on three small models whose gradients are known exactly, asks of every coordinate
whether its mean could be the true gradient (a z-test), and, if it could not, which well-known slip would explain the numbers: each slip
predicts a mean gradient of its own, and we look for one that all of them fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from vilib import estimators
from vilib.checks import LEAK, Report, alarm, axis_advice, described, explanation, failed, on_every, raised, z_scores
from vilib.draws import value_and_gradient
from vilib.slips import SLIPS, VALUE_SLIPS, Problem, cases
from vilib.types import VilibError


class BiasedEstimator(VilibError, AssertionError):
    """Raised by :func:`assert_unbiased`; the message is the report."""


def check_unbiased(
    estimator: Callable[..., Any], *, expectation: bool = False, sample_counts: tuple[int, ...] = (2, 8), num_replicates: int = 4000,
    false_alarm: float = 1e-6, seed: int = 0,
) -> Report:
    """Test ``estimator(log_joint, q, eps)`` statistically, and say in words what is wrong.

    estimator: returns an ELBO estimate (*R) that differentiates to its gradient, or that gradient itself, (*R, P).
    expectation=True: it is ``estimator(f, q, eps)`` for ∇_λ E_q[f(z)] instead.
    sample_counts: the S to try.  num_replicates: independent estimates for each test.
    false_alarm: the chance that a right estimator fails at all, shared among the tests (Bonferroni).
    The noise is the check's own: the same seed gives the same report.

    >>> from vilib import pathwise
    >>> check_unbiased(pathwise).passed
    True
    >>> def forgets_entropy(log_joint, q, eps):
    ...     return log_joint(q.transform(eps)).mean(0)
    >>> check_unbiased(forgets_entropy).slip
    'no entropy'
    """
    run = lambda name, target, q, num_samples, eps: _run(estimator, Problem(name, target, q, num_samples, expectation), eps)  # noqa: E731
    runs = on_every(cases(), sample_counts, num_replicates, seed, run)
    if isinstance(runs, Report):
        return runs
    num_tests = sum(run.gradients.shape[-1] + (run.values is not None) for run in runs)
    threshold = alarm(false_alarm, num_tests)
    complaints = (_gradient_report(runs, threshold), _value_report(runs, threshold))
    found = [complaint for complaint in complaints if complaint is not None]
    return found[0] if found else _praise(runs, threshold, num_tests, num_replicates)


def assert_unbiased(estimator: Callable[..., Any], **options: Any) -> Report:
    """:func:`check_unbiased`, but raise BiasedEstimator with the report if it fails.

    >>> from vilib import leave_one_out
    >>> print(str(assert_unbiased(leave_one_out))[:8])
    ✓ Right.
    """
    report = check_unbiased(estimator, **options)
    if not report:
        raise BiasedEstimator(str(report))
    return report


# ---- the problems and the runs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    problem: Problem
    values: Tensor | None        # (R)
    gradients: Tensor            # (R, P)
    eps: Tensor

    def z_scores(self, predicted: Tensor) -> Tensor:
        """How many standard errors the mean gradient is from ``predicted``, (P)."""
        return z_scores(self.gradients, predicted)


def _run(estimator: Callable[..., Any], problem: Problem, eps: Tensor) -> _Run | Report:
    """Run it on all replicates at once; a Report if the result is unusable."""
    try:
        vector, result = _call(estimator, problem, eps)
    except Exception as error:
        return raised(error, f"on {problem.where}, eps of shape {tuple(eps.shape)}")
    if not isinstance(result, Tensor) or result.shape not in (vector.shape, vector.shape[:-1]):
        return failed("shape", _shape_advice(result, problem, eps, vector))
    if result.ndim == 1 and not result.requires_grad:
        return failed("no gradient", (
            "No gradient reaches mu or omega: the result is a plain number. Everything was detached, or z came from q.sample "
            "(plain numbers) where q.transform was needed (eq:pathwise), or log q(z) does not multiply f (eq:score-function)."))
    gradients = _gradients(vector, result)
    if not torch.isfinite(gradients).all():
        return failed("not finite", f"Some gradients are not finite on {problem.where}.")
    if not torch.allclose(_gradients(*_call(estimator, problem, eps[:, :2])), gradients[:2], rtol=1e-8, atol=1e-8):
        return failed("leak", LEAK)
    for part, name in zip(gradients.chunk(2, -1), ("mu", "omega")):
        if (part == 0).all():
            return failed(f"no gradient to {name}", (
                f"No gradient reaches {name} on {problem.where}: it is exactly 0 every time. Was z, or a part of q, detached?"),
                *((SLIPS["draws that move"][1],) if name == "mu" and problem.q.dim == 1 else ()))
    return _Run(problem, result.detach() if result.ndim == 1 else None, gradients, eps)


def _call(estimator: Callable[..., Any], problem: Problem, eps: Tensor) -> tuple[Tensor, Tensor]:
    vector = problem.q.vector().expand(eps.shape[1], -1).clone().requires_grad_()
    return vector, estimator(problem.target, problem.q.with_vector(vector), eps)


def _gradients(vector: Tensor, result: Tensor) -> Tensor:
    if result.ndim == 2:
        return result.detach()
    return torch.autograd.grad(result.sum(), vector)[0]


def _shape_advice(result: Any, problem: Problem, eps: Tensor, vector: Tensor) -> str:
    return (f"It returned {described(result)}, expected one number a replicate (*R) = {tuple(vector.shape[:-1])}, or a gradient (*R, P) = "
            f"{tuple(vector.shape)}, for eps {tuple(eps.shape)} = (S, *R, D) on {problem.name}. {axis_advice(result)}")


# ---- what slip would explain it? ------------------------------------------------------------------------------------


def _gradient_report(runs: list[_Run], threshold: float) -> Report | None:
    worst, largest = (runs[0], 0), 0.0
    for run in runs:
        z = run.z_scores(run.problem.gradient).abs()
        if z.max() > largest:
            worst, largest = (run, int(z.argmax())), z.max().item()
    if largest <= threshold:
        return None
    run, coordinate = worst
    mean, error = run.gradients.mean(0)[coordinate], run.gradients.std(0)[coordinate] / len(run.gradients) ** 0.5
    exact, name = run.problem.gradient[coordinate], run.problem.q.parameter_names()[coordinate]
    facts = (f"On {run.problem.where} the mean gradient of {name} is {mean:.3g} ± {error:.1g}, exact is {exact:.3g}: "
             f"biased, {largest:.0f} standard errors away.")
    found = explanation(SLIPS, lambda predict: all(bool((r.z_scores(predict(r.problem)).abs() <= threshold).all()) for r in runs))
    if found is not None:
        return failed(*found, facts, largest_z=largest, threshold=threshold)
    return Report(False, (facts, *_ratio(runs), *_innocent(runs, threshold)), None, largest, threshold)


def _ratio(runs: list[_Run]) -> tuple[str, ...]:
    means = torch.cat([r.gradients.mean(0) for r in runs])
    exact = torch.cat([r.problem.gradient for r in runs])
    factor = (means @ exact) / (exact @ exact)
    if (means - factor * exact).norm() < 0.03 * means.norm():
        return (f"Everywhere it is about {factor:.2g} times the true gradient: look for a constant factor.",)
    return ("No single slip that we know explains all the numbers; here is where it is right and where not.",)


def _innocent(runs: list[_Run], threshold: float) -> tuple[str, ...]:
    lines = []
    for run in runs:
        z = run.z_scores(run.problem.gradient).abs()
        names = run.problem.q.parameter_names()
        wrong = [n for n, score in zip(names, z) if score > threshold]
        lines.append(f"{run.problem.where}: " + (f"{', '.join(wrong)} wrong" if wrong else "all right"))
    return tuple(lines)


def _value_report(runs: list[_Run], threshold: float) -> Report | None:
    runs = [run for run in runs if run.values is not None]
    scores = lambda of: [z_scores(cast(Tensor, r.values), of(r.problem)).abs().item() for r in runs]  # noqa: E731
    exact = scores(lambda p: p.value)
    if not runs or max(exact) <= threshold:
        return None
    run = runs[exact.index(max(exact))]
    what = "E_q[f]" if run.problem.expectation else "the ELBO"
    facts = f"On {run.problem.where} its mean is {cast(Tensor, run.values).mean():.3g}, {what} is {run.problem.value:.3g}."
    slip, words = explanation(VALUE_SLIPS, lambda predict: max(scores(predict)) <= threshold) or (
        "value", "it may be the surrogate that you differentiate. value_of(v, gradient_of=s) keeps the two apart.")
    return Report(False, (f"The gradient is right, but the value does not match {what}: {words}", facts), slip, max(exact), threshold)


def _praise(runs: list[_Run], threshold: float, num_tests: int, num_replicates: int) -> Report:
    largest = max(run.z_scores(run.problem.gradient).abs().max().item() for run in runs)
    run = runs[-1] if len(runs) == 1 else runs[1]
    lines = [f"Unbiased on {len({r.problem.name for r in runs})} models: {num_tests} z-tests of {num_replicates:,} replicates each, "
             f"the largest {largest:.1f} standard errors, alarm at {threshold:.1f}."]
    if not run.problem.expectation:
        for other in (estimators.score_function, estimators.pathwise):
            q = run.problem.q.expand(run.eps.shape[1])
            variance = value_and_gradient(other, run.problem.target, q, run.eps)[1].var(0)
            ratio = (run.gradients.var(0) / variance).tolist()
            lines.append(f"Variance beside {other.__name__} ({run.problem.where}): mu {ratio[0]:.2g}×, omega {ratio[1]:.2g}×.")
    return Report(True, tuple(lines), None, largest, threshold)
