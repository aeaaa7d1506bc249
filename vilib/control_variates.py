"""What makes the score-function gradient quieter, or cheaper, and leaves it just as right: baselines, locality, draws
used again.

E_q[s] = 0 for the score s = ∇_λ log q(z), so (f − b) s has the mean of f s for every b that does not look at the draw it
multiplies.  (eq:score-zero-mean, eq:baseline)  That clause is the whole art: a baseline learnt from the draws must leave out its own.

A ``Baseline`` is a function ``(f (S, *R), score (S, *R, P)) -> b``, and b is broadcast against the score: one number,
(S, *R, 1) for a number a draw, or (S, *R, P) for one a draw and coordinate.

The same zero mean lets each coordinate drop the terms of log p that do not touch it (:class:`FactorizedLogJoint`), and
weights let draws of an older q serve a newer one (:func:`log_importance_weights`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vilib.models import evaluate
from vilib.types import Baseline, Family, LogJoint, NotFactorized, ShapeError, VilibError


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


setattr(other_half_mean, "needs_independent_draws", True)
setattr(leave_one_out_mean, "needs_independent_draws", True)


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
    of_f, s, fs, s2, fs2 = (x.sum(0) - x for x in fold_sums)    # over the draws outside each fold
    a = coefficient_from_sums(of_f, s, fs, s2, fs2, len(f) - len(f) // num_folds, score_variance) + centre.unsqueeze(-1)
    return a.repeat_interleave(len(f) // num_folds, 0)


def coefficient_from_sums(f: Tensor, s: Tensor, fs: Tensor, s2: Tensor, fs2: Tensor, n: int, score_variance: Tensor) -> Tensor:
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


# ---- locality: Rao–Blackwell ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FactorizedLogJoint:
    """A log joint as a sum of local terms, each with the coordinates that it touches.  Called, it is the sum.

    Calling it: z (..., D) -> (...), as any log joint.

    terms: pairs (function, coordinates).  The function is handed those coordinates alone, (..., len(coordinates)) in
    that order, and returns (...); so it cannot look at any other.  A constant goes into any one term.
    The terms that touch coordinate d, and with them its Markov blanket, are all that the gradient of its factor of q
    needs.  (Ranganath et al. 2014)

    Raises VilibError (no term; a coordinate that is no index, or twice in a term), ShapeError (a coordinate no term
    touches; z).

    >>> unit = lambda z: -z.square().sum(-1) / 2
    >>> step = lambda z: unit(z.diff())
    >>> chain = FactorizedLogJoint([(unit, [0]), (step, [0, 1]), (step, [1, 2])])
    >>> chain(torch.tensor([1.0, 3.0, 4.0])), chain.local(torch.tensor([1.0, 3.0, 4.0]))
    (tensor(-3.), tensor([-2.5000, -2.5000, -0.5000]))
    """

    terms: Sequence[tuple[Callable[[Tensor], Tensor], Sequence[int]]]

    def __post_init__(self) -> None:
        terms = tuple((function, tuple(coordinates)) for function, coordinates in self.terms)
        object.__setattr__(self, "terms", terms)
        if not terms:
            raise VilibError("terms: name at least one, as in [(function, [0, 1])].")
        for t, (_, coordinates) in enumerate(terms):
            indices = all(isinstance(c, int) and c >= 0 for c in coordinates)
            if not coordinates or not indices or len(set(coordinates)) < len(coordinates):
                raise VilibError(f"terms[{t}]: expected distinct coordinates counted from 0, at least one, got "
                                 f"{list(coordinates)}.")
        untouched = sorted(set(range(self.dim)) - {c for _, coordinates in terms for c in coordinates})
        if untouched:
            raise ShapeError(f"terms: none touches coordinate {untouched[0]} of {self.dim}: its posterior is flat. "
                             "Give it its prior, or count the coordinates from 0.")

    @property
    def dim(self) -> int:
        """D, one more than the largest coordinate."""
        return 1 + max(c for _, coordinates in self.terms for c in coordinates)

    def values(self, z: Tensor) -> Tensor:
        """Each term by itself, (..., T)."""
        if z.shape[-1] != self.dim:
            raise ShapeError(f"z: expected (..., {self.dim}), as many as the terms touch, got {tuple(z.shape)}.")
        values = [evaluate(lambda z: function(z[..., list(touched)]), z) for function, touched in self.terms]
        return torch.stack(values, -1)

    def local(self, z: Tensor, values: Tensor | None = None) -> Tensor:
        """For each coordinate the sum of the terms that touch it, (..., D).  values: those of z, if at hand."""
        values = self.values(z) if values is None else values
        touches = values.new_tensor([[float(d in touched) for d in range(self.dim)] for _, touched in self.terms])
        return values @ touches

    def __call__(self, z: Tensor) -> Tensor:
        return self.values(z).sum(-1)


def local_cost(log_joint: LogJoint, q: Family, z: Tensor) -> tuple[Tensor, Tensor]:
    """f = log p − log q as a whole, (S, *R), and what of it coordinate d needs, f_d = Σ terms that touch d − log q_d:
    (S, *R, D).

    A log joint without terms is one term that touches every coordinate.  Both are plain numbers.
    Raises NotFactorized when the coordinates of q are not independent.

    >>> from vilib import MeanFieldGaussian
    >>> q = MeanFieldGaussian(torch.zeros(2), torch.zeros(2))
    >>> apart = FactorizedLogJoint([(lambda z: z[..., 0], [0]), (lambda z: z[..., 0], [1])])
    >>> f, local = local_cost(apart, q, torch.tensor([[1.0, 3.0]]))
    >>> bool(torch.isclose(f, local.sum(-1)))                                     # here they share no term
    True
    """
    with torch.no_grad():
        log_q = log_factors(q, z)
        if isinstance(log_joint, FactorizedLogJoint):
            values = log_joint.values(z)
            log_p, local = values.sum(-1), log_joint.local(z, values)
        else:
            log_p = evaluate(log_joint, z)
            local = log_p.unsqueeze(-1)
        return log_p - log_q.sum(-1), local - log_q


def log_factors(q: Family, z: Tensor) -> Tensor:
    """log q_d(z_d), (S, *R, D), or NotFactorized.

    >>> from vilib import MeanFieldGaussian
    >>> log_factors(MeanFieldGaussian(torch.zeros(2), torch.zeros(2)), torch.zeros(1, 2))
    tensor([[-0.9189, -0.9189]])
    """
    if not hasattr(q, "log_factors"):
        raise NotFactorized(
            f"q: the coordinates of {type(q).__name__} are not independent, so none can drop terms. "
            "Use MeanFieldGaussian, FactorizedBernoulli or FactorizedCategorical; or score_function, leave_one_out."
        )
    return q.log_factors(z)


# ---- draws used again ----------------------------------------------------------------------------------------------


def log_importance_weights(q: Family, q_old: Family, z: Tensor) -> Tensor:
    """log w = log q(z) − log q_old(z) at draws z of q_old, (S, *R), plain numbers: E_old[w g] = E_q[g] for any g.

    E_old[w] = 1.  E_old[w²] = 1 + Var w says how far q may go: for Gaussians it is finite only while q is nowhere wider
    than √2 times q_old, so a q that shrinks reuses well and one that widens does not.  (eq:importance-weights; Owen 2013, chapter 9)

    >>> from vilib import MeanFieldGaussian
    >>> q = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> log_importance_weights(q, q, torch.ones(2, 1))
    tensor([0., 0.])
    """
    with torch.no_grad():
        return q.log_prob(z) - q_old.log_prob(z)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(Σw)²/Σw², (*R), between 1 and S: how many even draws these weighted ones are worth.  log_weights: (S, *R).

    For large S it is S/E_old[w²].  (eq:effective-sample-size; Kong 1992)

    >>> effective_sample_size(torch.tensor([0.0, 0.0, 0.0, -1000.0]))
    tensor(3.)
    """
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()
