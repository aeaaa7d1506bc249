"""Is my leave-one-out right?  A marker for estimators that are meant to be :func:`vilib.estimators.leave_one_out`.

A wrong baseline that looks at its own draw is biased, and :func:`vilib.checking.check_unbiased` finds it.  A wrong
baseline that does not is unbiased, and only noisier than it need be: no test of a mean can see that.  But a baseline
leaves nothing to chance, so the gradient is compared draw by draw with what each rule that we know would give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vilib.checking import check_unbiased
from vilib.checks import Report, explanation
from vilib.control_variates import leave_one_out_mean, other_half_mean
from vilib.noise import normal
from vilib.slips import cases
from vilib.types import Family

_ONE_OTHER = ("Each baseline is the f of one other draw. It is not biased, but as noisy as one draw: take the mean over all "
              "S − 1 others (eq:leave-one-out).")


def _others(x: Tensor) -> Tensor:
    return leave_one_out_mean(x).squeeze(-1)


#: name -> (the baseline (S, R), given log p and log q at the draws, both (S, R); what to say about it)
RULES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "no baseline": (lambda log_p, log_q: torch.zeros_like(log_p),
        "It is the plain score function: nothing is subtracted from f (eq:score-function). Subtract from each draw's f the "
        "mean of f over the others (eq:leave-one-out)."),
    "divided by S": (lambda log_p, log_q: _others(log_p - log_q) * (len(log_p) - 1) / len(log_p),
        "Each baseline is the sum of the others' f over S, and there are S − 1 others: divide by S − 1 (eq:leave-one-out). "
        "It is not biased, since it leaves its own draw out, but too small, and no longer blind to a constant added to f."),
    "one other draw": (lambda log_p, log_q: (log_p - log_q).roll(-1, 0), _ONE_OTHER),
    "one other draw, before": (lambda log_p, log_q: (log_p - log_q).roll(1, 0), _ONE_OTHER),
    "other half": (lambda log_p, log_q: other_half_mean(log_p - log_q).squeeze(-1),
        "Each baseline is the mean over the half that the draw is not in. It is not biased, but all the S − 1 others are "
        "there to be used (eq:leave-one-out)."),
    "log p alone": (lambda log_p, log_q: _others(log_p),
        "Each baseline is the others' mean of log p. But f is log p − log q: without its −log q the baseline misses the "
        "mean of f by the entropy."),
    "upside down": (lambda log_p, log_q: -_others(log_p - log_q),
        "The baseline is added to f. It has to be subtracted: f_i − b_i (eq:baseline)."),
}
_SAMPLES, _REPLICATES = 6, 2000


def check_leave_one_out(estimator: Callable[..., Any], *, seed: int = 0, **options: Any) -> Report:
    """Test ``estimator(log_joint, q, eps)`` as the leave-one-out estimator, and say in words what is wrong.

    (eq:leave-one-out)

    estimator: as for :func:`vilib.checking.check_unbiased`, which is asked first, with ``options``; if it has a
        complaint, that is the report.
    The noise is the check's own: the same seed gives the same report.

    >>> from vilib import leave_one_out, score_function
    >>> check_leave_one_out(leave_one_out).passed, check_leave_one_out(score_function).slip
    (True, 'no baseline')
    """
    report = check_unbiased(estimator, seed=seed, **options)
    if not report:
        return report
    runs, generator = [], torch.Generator().manual_seed(seed)
    for name, target, q in cases():
        eps = normal(_SAMPLES, (_REPLICATES,), q.dim, generator=generator, dtype=torch.float64)
        q = q.expand(_REPLICATES)
        log_p, log_q, score = target(q.sample(eps)), q.log_prob(q.sample(eps)), q.score(q.sample(eps))
        runs.append((name, _gradient(estimator, target, q, eps), log_p, log_q, score))
    same = lambda found, by_rule: torch.allclose(found, by_rule, rtol=1e-6, atol=1e-7)  # noqa: E731
    obeys = lambda rule: all(same(found, _by(rule, *draws)) for _, found, *draws in runs)  # noqa: E731
    of_others = lambda log_p, log_q: _others(log_p - log_q)  # noqa: E731
    if obeys(of_others):
        said = f"Draw by draw it is the leave-one-out gradient, on {len(runs)} models."
        return Report(True, (said, *report.findings), None, report.largest_z, report.threshold)
    name, found, *draws = runs[1]
    ratio = (found.var(0) / _by(of_others, *draws).var(0)).tolist()
    price = (f"It is unbiased. Beside leave-one-out its variance is mu {ratio[0]:.2g}×, omega {ratio[1]:.2g}× ({name}, "
             f"S = {_SAMPLES}).")
    slip, words = explanation(RULES, obeys) or (None, (
        "It is unbiased, but not leave-one-out: its baselines are not the means of the others' f (eq:leave-one-out), and "
        "no rule that we know explains the numbers."))
    return Report(False, (words, price), slip, report.largest_z, report.threshold)


def _by(rule: Callable[..., Any], log_p: Tensor, log_q: Tensor, score: Tensor) -> Tensor:
    """The gradient that a rule for the baseline gives, (R, P)."""
    return ((log_p - log_q - rule(log_p, log_q)).unsqueeze(-1) * score).mean(0)


def _gradient(estimator: Callable[..., Any], target: Callable[..., Any], q: Family, eps: Tensor) -> Tensor:
    """(R, P); the estimator may return that itself."""
    vector = q.vector().detach().requires_grad_()
    result = estimator(target, q.with_vector(vector), eps)
    return result.detach() if result.ndim == 2 else torch.autograd.grad(result.sum(), vector)[0]
