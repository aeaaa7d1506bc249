"""Gradients of an expectation, and of the ELBO, in the order in which they are derived.

The contract.  An estimator is a pure function ``(log_joint, q, eps) -> value (*R)``.  The value is an unbiased estimate of
the ELBO, E_q[log p(x, z) − log q(z)] in nats (eq:elbo), and its autograd gradient with respect to λ is the gradient
estimate, to be *climbed*.  Nothing is drawn inside: ε (S, *R, D) comes from :mod:`vilib.noise`.

Two families of them.  *Score function*: the draws are plain numbers, and the gradient is carried by log q; log p is never
differentiated.  *Pathwise*: the draws z = T_λ(ε) move with λ, and the gradient runs through them into log p.

All raise NonScalarLogJoint, NonFiniteLogJoint and ShapeError (eps); the pathwise ones raise NotReparameterizable.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from vilib.control_variates import (
    cross_fitted_coefficient, leave_one_out_mean, local_cost, log_factors, log_importance_weights, other_half_mean,
)
from vilib.models import evaluate
from vilib.types import Baseline, Estimator, Family, LogJoint, NotReparameterizable, ShapeError


def value_of(v: Tensor, gradient_of: Tensor) -> Tensor:
    """A number that reads v and differentiates like ``gradient_of``; both (*R).

    >>> import torch; x = torch.tensor(3.0, requires_grad=True)
    >>> y = value_of(torch.tensor(7.0), gradient_of=x**2)
    >>> y.item(), torch.autograd.grad(y, x)[0].item()
    (7.0, 6.0)
    """
    return v.detach() + gradient_of - gradient_of.detach()


# ---- the gradient of an expectation, ∇_λ E_q[f(z)] ----------------------------------------------------------------


def score_function_expectation(
    f: Callable[[Tensor], Tensor], q: Family, eps: Tensor, baseline: Baseline | None = None
) -> Tensor:
    """∇_λ E_q[f] = E_q[f(z) ∇_λ log q(z)], f never differentiated.  (eq:score-function; Williams 1992)

    f: z (S, *R, D) -> (S, *R).  baseline: see :mod:`vilib.control_variates`.  (eq:baseline)
    Returns (*R): the mean of f, differentiating to the estimate.

    >>> import torch; from vilib import MeanFieldGaussian, normal
    >>> q = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> score_function_expectation(lambda z: z[..., 0], q, normal(8, (), 1, generator=torch.Generator())).shape
    torch.Size([])
    """
    z = q.sample(eps)                                               # plain numbers
    cost = evaluate(f, z).detach()                                  # (S, *R)
    if baseline is None:
        return value_of(cost.mean(0), gradient_of=(cost * q.log_prob(z)).mean(0))
    return value_of(cost.mean(0), gradient_of=_along_score(cost, q, z, baseline))


def pathwise_expectation(f: Callable[[Tensor], Tensor], q: Family, eps: Tensor) -> Tensor:
    """∇_λ E_q[f] = E_ε[∇_λ f(T_λ(ε))].

    (eq:pathwise; Kingma & Welling 2014, Rezende et al. 2014)

    >>> import torch; from vilib import MeanFieldGaussian
    >>> mu = torch.zeros(1, requires_grad=True)
    >>> q, eps = MeanFieldGaussian(mu, torch.zeros(1)), torch.ones(8, 1)
    >>> value = pathwise_expectation(lambda z: 3 * z[..., 0], q, eps)
    >>> torch.autograd.grad(value, mu)[0]
    tensor([3.])
    """
    return evaluate(f, _path(q, eps)).mean(0)


# ---- the gradient of the ELBO, by the score -------------------------------------------------------------------------


def score_function(log_joint: LogJoint, q: Family, eps: Tensor) -> Tensor:
    """∇_λ ELBO = E_q[ (log p(x, z) − log q(z)) ∇_λ log q(z) ].

    (eq:score-function; Paisley et al. 2012)

    The term −∇_λ log q inside the bracket is missing on purpose:
    its mean is zero.  (eq:score-zero-mean)
    """
    z = q.sample(eps)                      # (S, *R, D), plain numbers
    log_q = q.log_prob(z)                  # (S, *R), carries the gradient
    f = (evaluate(log_joint, z) - log_q).detach()
    return value_of(f.mean(0), gradient_of=(f * log_q).mean(0))


def score_function_with(baseline: Baseline) -> Estimator:
    """The estimator E_q[ (f − b) ∇_λ log q ], f = log p − log q, for a baseline b.  (eq:baseline)

    >>> from vilib import constant_baseline
    >>> score_function_with(constant_baseline(-1.0)).__name__
    'score_function_with_baseline'
    """

    def score_function_with_baseline(log_joint: LogJoint, q: Family, eps: Tensor) -> Tensor:
        z = q.sample(eps)
        f = (evaluate(log_joint, z) - q.log_prob(z)).detach()
        return value_of(f.mean(0), gradient_of=_along_score(f, q, z, baseline))

    setattr(score_function_with_baseline, "baseline", baseline)
    setattr(score_function_with_baseline, "needs_independent_draws", getattr(baseline, "needs_independent_draws", False))
    return score_function_with_baseline


def score_function_mean_baseline(log_joint: LogJoint, q: Family, eps: Tensor) -> Tensor:
    """Each half of the draws takes the mean of f over the *other* half as its baseline.  (eq:baseline)

    Raises ShapeError for S = 1.  Needs independent draws.
    """
    return score_function_with(other_half_mean)(log_joint, q, eps)


def leave_one_out(log_joint: LogJoint, q: Family, eps: Tensor) -> Tensor:
    """Each draw takes the mean of f over all the *other* draws as its baseline.

    (eq:leave-one-out; Kool et al. 2019)

    Raises ShapeError for S = 1: there is no other draw.
    Needs independent draws.
    """
    num_samples = len(eps)
    if num_samples < 2:
        raise ShapeError(
            f"num_samples: leave_one_out needs at least 2 draws, got {num_samples}."
        )
    z = q.sample(eps)
    log_q = q.log_prob(z)
    f = (evaluate(log_joint, z) - log_q).detach()
    others = (f.sum(0) - f) / (num_samples - 1)       # (S, *R), without one's own
    return value_of(f.mean(0), gradient_of=((f - others) * log_q).mean(0))


def optimal_coefficient(log_joint: LogJoint, q: Family, eps: Tensor) -> Tensor:
    """Each coordinate of λ has its own best multiple of the score subtracted.  (eq:optimal-baseline; Ranganath et al. 2014)

    The multiple is learnt from draws that it is not used on, see
    :func:`vilib.control_variates.cross_fitted_coefficient`.  Raises ShapeError for S = 1.  Needs independent draws.
    """
    learnt = lambda f, score: cross_fitted_coefficient(f, score, q.score_variance().detach())  # noqa: E731
    return score_function_with(learnt)(log_joint, q, eps)


def rao_blackwell(log_joint: LogJoint, q: Family, eps: Tensor) -> Tensor:
    """Each coordinate hears only what touches it: Σ_d E_q[ f_d ∇_λ log q_d(z_d) ].

    (eq:rao-blackwell; Ranganath et al. 2014)

    f_d is the sum of the terms of log p that touch z_d, less log q_d.  The rest does not involve z_d, which q draws on
    its own, so the rest times the score of q_d has mean zero.  (eq:score-zero-mean)  log_joint: a
    :class:`vilib.control_variates.FactorizedLogJoint`; any other is one term that touches everything.

    A rest of mean zero that shares no coordinate with f_d adds Var(rest) · Var(s_d) to the variance, and here it is
    gone.  (eq:rao-blackwell-gain)  A rest of another mean may have been a good baseline by accident, and then dropping it costs; see
    :func:`rao_blackwell_leave_one_out`.
    Raises NotFactorized for a q whose coordinates depend on each other.
    """
    z = q.sample(eps)
    log_q = log_factors(q, z)                                       # (S, *R, D), carries the gradient
    f, f_local = local_cost(log_joint, q, z)                        # (S, *R), (S, *R, D)
    return value_of(f.mean(0), gradient_of=(f_local * log_q).sum(-1).mean(0))


def rao_blackwell_leave_one_out(log_joint: LogJoint, q: Family, eps: Tensor) -> Tensor:
    """:func:`rao_blackwell`, with the mean of the *other* draws' f_d taken from each f_d.

    (eq:rao-blackwell, eq:leave-one-out; Ranganath et al. 2014)

    With independent terms it is never noisier than :func:`leave_one_out`, at any S.
    Raises NotFactorized, and ShapeError for S = 1.  Needs independent draws.
    """
    z = q.sample(eps)
    log_q = log_factors(q, z)
    f, f_local = local_cost(log_joint, q, z)
    others = leave_one_out_mean(f_local).squeeze(-1)                # (S, *R, D)
    return value_of(f.mean(0), gradient_of=((f_local - others) * log_q).sum(-1).mean(0))


# ---- the gradient of the ELBO, from the draws of an older q ----------------------------------------------------------


def reweighted_score_function(log_joint: LogJoint, q: Family, q_old: Family, eps: Tensor) -> Tensor:
    """E_old[ w f ∇_λ log q_λ ], w = q_λ/q_old, at draws of q_old: unbiased, and the old draws serve again.

    (eq:importance-weights; Owen 2013)

    q, q_old: the same *R and D; eps is q_old's.  With q_old = q it is :func:`score_function`.  log p at the old draws
    does not change with λ: where it is dear, store it and pass ``lambda z: stored``.  Ask
    :func:`vilib.control_variates.effective_sample_size` how many draws the weights leave; where q is wider than √2
    times q_old the variance is infinite.

    >>> import torch; from vilib import MeanFieldGaussian
    >>> q, target = MeanFieldGaussian(torch.zeros(1), torch.zeros(1)), lambda z: -z.square().sum(-1)
    >>> bool(reweighted_score_function(target, q, q, torch.ones(4, 1)) == score_function(target, q, torch.ones(4, 1)))
    True
    """
    return _reweighted(log_joint, q, q_old, eps, lambda log_w: log_w.exp() / len(log_w))


def self_normalized_score_function(log_joint: LogJoint, q: Family, q_old: Family, eps: Tensor) -> Tensor:
    """:func:`reweighted_score_function` with weights made to sum to one, w/Σw: quieter as a rule, and biased.

    (eq:importance-weights; Owen 2013)

    For a mean h (f, or f s) with I = E_q[h], the bias is −E_old[w² (h − I)]/S + O(1/S²): it vanishes like 1/S, and is
    zero at q_old = q.  Adding a constant to the log joint adds it to the value exactly.

    >>> import torch; from vilib import MeanFieldGaussian
    >>> q, target = MeanFieldGaussian(torch.zeros(1), torch.zeros(1)), lambda z: -z.square().sum(-1)
    >>> eps = torch.ones(4, 1)
    >>> bool(self_normalized_score_function(target, q, q, eps) == score_function(target, q, eps))
    True
    """
    return _reweighted(log_joint, q, q_old, eps, lambda log_w: log_w.softmax(0))


def _reweighted(log_joint: LogJoint, q: Family, q_old: Family, eps: Tensor, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    z = q_old.sample(eps)
    log_q = q.log_prob(z)
    f = (evaluate(log_joint, z) - log_q).detach()
    weights = weigh(log_importance_weights(q, q_old, z))            # (S, *R), plain numbers
    return value_of((weights * f).sum(0), gradient_of=(weights * f * log_q).sum(0))


# ---- the gradient of the ELBO, by the path --------------------------------------------------------------------------


def pathwise(log_joint: LogJoint, q: Family, eps: Tensor) -> Tensor:
    """∇_λ { E_ε[log p(x, T_λ(ε))] + H[q_λ] }, the entropy in closed form.

    (eq:analytic-entropy; Kucukelbir et al. 2017)
    """
    z = _path(q, eps)                      # (S, *R, D), moves with λ
    return evaluate(log_joint, z).mean(0) + q.entropy()


def total_derivative(log_joint: LogJoint, q: Family, eps: Tensor) -> Tensor:
    """∇_λ E_ε[ log p(x, T_λ(ε)) − log q_λ(T_λ(ε)) ], log q moving with λ twice.

    (eq:total-derivative)

    Once through z and once through its own λ.  For a Gaussian, log q_λ(T_λ(ε)) is
    −½ε² − log σ + const, so this gradient is the same as that of :func:`pathwise`,
    draw by draw; the values differ.
    """
    z = _path(q, eps)
    return (evaluate(log_joint, z) - q.log_prob(z)).mean(0)


def sticking_the_landing(log_joint: LogJoint, q: Family, eps: Tensor) -> Tensor:
    """∇_λ E_ε[ log p(x, T_λ(ε)) − log q_λ̄(T_λ(ε)) ], λ̄ held fixed.

    (eq:stl; Roeder, Wu & Duvenaud 2017)

    What is left out of the total derivative is the score, whose mean is zero
    (eq:score-zero-mean).  Its gain: where q is the posterior, the bracket is
    constant along every path and the gradient is exactly zero.
    """
    z = _path(q, eps)
    return (evaluate(log_joint, z) - q.detach().log_prob(z)).mean(0)


setattr(score_function_mean_baseline, "baseline", other_half_mean)
for _estimator in (score_function_mean_baseline, leave_one_out, optimal_coefficient, rao_blackwell_leave_one_out):
    setattr(_estimator, "needs_independent_draws", True)


def _along_score(f: Tensor, q: Family, z: Tensor, baseline: Baseline) -> Tensor:
    """A scalar (*R) whose gradient in λ is the mean of (f − b) s."""
    score = q.score(z).detach()                                     # (S, *R, P)
    gradient = ((f.unsqueeze(-1) - baseline(f, score)) * score).mean(0)
    return (gradient * q.vector()).sum(-1)


def _path(q: Family, eps: Tensor) -> Tensor:
    if not getattr(q, "reparameterizable", False):
        raise NotReparameterizable(
            f"q: {type(q).__name__} has no differentiable transform(eps), so no gradient can run along its draws. "
            "Use an estimator that needs only log q: score_function, leave_one_out, optimal_coefficient."
        )
    return q.transform(eps)
