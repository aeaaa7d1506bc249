"""Baselines: what to subtract from f so that the score-function gradient is quieter and just as right.

E_q[s] = 0 for the score s = ∇_λ log q(z), so (f − b) s has the mean of f s for every b that does not look at the draw it
multiplies.  (eq:score-zero-mean, eq:baseline)  That clause is the whole art: a baseline learnt from the draws must leave out its own.

A ``Baseline`` is a function ``(f (S, *R), score (S, *R, P)) -> b``, and b is broadcast against the score: one number,
(S, *R, 1) for a number a draw, or (S, *R, P) for one a draw and coordinate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vilib.types import Baseline, ShapeError


#: How many draws' worth of doubt a learnt coefficient starts with.
PSEUDO_DRAWS = 8


def constant_baseline(b: float | Tensor) -> Baseline:
    """b, whatever the draws: a number, or a tensor that broadcasts against the score (*R, P).  (eq:baseline)

    With b = E_q[f] this is the *mean baseline*; with b = E[f s²]/E[s²] it is the best constant there is
    (eq:optimal-baseline; Greensmith, Bartlett & Baxter 2004).  Both come exactly from :mod:`vilib.quadrature`.

    >>> constant_baseline(2.0)(torch.zeros(3), torch.zeros(3, 1))
    2.0
    """
    return lambda f, score: b


def other_half_mean(f: Tensor, score: Tensor | None = None) -> Tensor:
    """The mean of f over the half of the draws that the draw is not in, (S, *R, 1).  (eq:baseline)

    The mean of all S would look at its own draw and shrink the gradient by (S−1)/S; the mean of the other half does not.

    Raises ShapeError for S = 1.

    >>> other_half_mean(torch.tensor([1.0, 3.0, 10.0, 20.0]))[:, 0]
    tensor([15., 15.,  2.,  2.])
    """
    _require(f, 2, "a mean over the other half of the draws")
    first, second = f.tensor_split(2)
    return torch.cat([second.mean(0).expand_as(first), first.mean(0).expand_as(second)]).unsqueeze(-1)


def leave_one_out_mean(f: Tensor, score: Tensor | None = None) -> Tensor:
    """The mean of f over the other S − 1 draws, (S, *R, 1).  (eq:leave-one-out; Salimans & Knowles 2014, Kool et al. 2019)

    Raises ShapeError for S = 1.

    >>> leave_one_out_mean(torch.tensor([1.0, 3.0, 5.0]))[:, 0]
    tensor([4., 3., 2.])
    """
    _require(f, 2, "a leave-one-out baseline")
    return ((f.sum(0) - f) / (len(f) - 1)).unsqueeze(-1)


other_half_mean.needs_independent_draws = True
leave_one_out_mean.needs_independent_draws = True


def cross_fitted_coefficient(f: Tensor, score: Tensor, score_variance: Tensor) -> Tensor:
    """The optimal coefficient of s for each coordinate, learnt from draws that it is not used on: (S, *R, P).

    f: (S, *R); score: (S, *R, P); score_variance: (*R, P), the exact Var_q(s).  (eq:optimal-baseline; Ranganath et al. 2014)

    The draws are cut into folds (eight, or S if there are fewer).  For each fold, from all the *other* draws,

        a = f̄ + Σ (s − s̄) · (f − f̄) s  /  ( Σ (s − s̄)² + 8 Var s ).

    It is the regression of f s on s, numerator and denominator both centred, with f̄ taken out first so that f + c gives
    a + c exactly.  The 8 Var s counts as eight draws' worth of doubt: with few draws a leans on f̄, the leave-one-out
    mean, and it cannot explode when the scores happen to coincide.

    Raises ShapeError for S = 1.

    >>> f, score = torch.tensor([1.0, 3.0]), torch.tensor([[-1.0], [1.0]])
    >>> cross_fitted_coefficient(f, score, torch.ones(1))[:, 0]         # one other draw: nothing but its f
    tensor([3., 1.])
    """
    _require(f, 2, "a coefficient learnt from other draws")
    num_folds = count_folds(len(f))
    centre = f.mean(0)                                   # changes nothing but the rounding: a moves with f
    f = (f - centre).unsqueeze(-1)
    fold_sums = [fold_sum(x, num_folds) for x in (f, score, f * score, score.square(), f * score.square())]
    sums = [x.sum(0) - x for x in fold_sums]             # over the draws outside each fold
    a = coefficient_from_sums(*sums, len(f) - len(f) // num_folds, score_variance) + centre.unsqueeze(-1)
    return a.repeat_interleave(len(f) // num_folds, 0)


def coefficient_from_sums(f, s, fs, s2, fs2, n: int, score_variance: Tensor) -> Tensor:
    """a from n draws' sums of f, s, f s, s² and f s².  (eq:optimal-baseline)"""
    f_mean, s_mean = f / n, s / n
    numerator = fs2 - s_mean * fs - f_mean * (s2 - s_mean * s)
    denominator = s2 - s_mean * s + PSEUDO_DRAWS * score_variance
    return f_mean + numerator / denominator


def count_folds(num_samples: int) -> int:
    """Eight, or the next number that divides S; S itself if there are fewer than eight draws."""
    return next(k for k in range(min(8, num_samples), num_samples + 1) if num_samples % k == 0)


def fold_sum(x: Tensor, num_folds: int) -> Tensor:
    """Sums over ``num_folds`` equal blocks of the first axis: (S, ...) -> (num_folds, ...)."""
    return x.unflatten(0, (num_folds, -1)).sum(1)


def _require(f: Tensor, least: int, what: str) -> None:
    if len(f) < least:
        raise ShapeError(f"num_samples: {what} needs at least {least} draws, got {len(f)}.")
