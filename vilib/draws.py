"""The same gradients without autograd through q: what each draw contributes, in closed form.

For a Gaussian q the score, the path derivative ∂z/∂λ and the entropy's gradient are short formulas in ε (see :mod:`vilib.families`).
So f and ∇f evaluated once a draw are all that any estimator of :mod:`vilib.estimators` needs.  The estimators are the definition and
this module is their fast form; a test holds the two equal.  An estimator of the reader's own goes by autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from vilib import estimators
from vilib.control_variates import cross_fitted_coefficient
from vilib.families import LOG_2PI, FullRankGaussian, Gaussian, MeanFieldGaussian
from vilib.models import evaluate, slope_of, value_and_slope
from vilib.types import Baseline, Estimator, Family, LogJoint, ShapeError


@dataclass(frozen=True, eq=False)
class Draws:
    """What each draw contributes, before any averaging.

    z, eps, grad_z: (S, *R, D), the draws, their noise, and ∇f (∇log p if ``elbo``) there.  f: (S, *R), the cost, or log p − log q.
    The rest follows from these in closed form, (S, *R, P'), P' counting the ``coordinates`` of λ asked for (None: all).
    """

    q: Gaussian
    eps: Tensor
    z: Tensor
    f: Tensor
    grad_z: Tensor
    elbo: bool
    coordinates: tuple[int, ...] | None

    @cached_property
    def score(self) -> Tensor:
        """∇_λ log q(z), the score that each draw carries.  (eq:log-derivative)"""
        return self.q.score_at(self.eps, self.coordinates)

    @cached_property
    def path(self) -> Tensor:
        """The pathwise gradient of each draw, the entropy's in closed form.  (eq:pathwise, eq:analytic-entropy)"""
        path = self.q.pullback(self.eps, self.grad_z, self.coordinates)
        if not self.elbo:
            return path
        entropy = self.q.entropy_gradient()
        return path + (entropy if self.coordinates is None else entropy[..., list(self.coordinates)])

    @cached_property
    def stl(self) -> Tensor:
        """The sticking-the-landing gradient of each draw; of an ELBO only.  (eq:stl)  It is path + score, to rounding."""
        return self.q.pullback(self.eps, self.grad_z - self.q.grad_log_prob_at(self.eps), self.coordinates)

    def path_sum(self) -> Tensor:
        """``path`` summed over the draws, (*R, P'), without making each."""
        total = self.q.pullback_sum(self.eps, self.grad_z, self.coordinates)
        if not self.elbo:
            return total
        entropy = self.q.entropy_gradient()
        return total + len(self) * (entropy if self.coordinates is None else entropy[..., list(self.coordinates)])

    @cached_property
    def score_variance(self) -> Tensor:
        """Var_q of the score, exact, (P') or (*R, P').  (eq:score-variance)"""
        return self.q.score_variance(self.coordinates)

    def __len__(self) -> int:
        return len(self.f)

    def __getitem__(self, part: slice) -> Draws:
        """Some of the S draws."""
        return replace(self, eps=self.eps[part], z=self.z[part], f=self.f[part], grad_z=self.grad_z[part])


def per_draw(
    f: Callable[[Tensor], Tensor], q: Gaussian, eps: Tensor, *, elbo: bool = False, coordinates: Sequence[int] | None = None
) -> Draws:
    """Evaluate f and ∇f once for each ε (S, *R', D).

    q: its batch shape is () or *R'.  elbo=True: f is the log joint, and the gradient that of the ELBO.
    coordinates: indices into λ; only those are computed, so one of D = 100 costs no more than f does.
    f.slope(z), if f has it, is ∇f.  Raises NonScalarLogJoint, NonFiniteLogJoint, ShapeError.

    >>> draws = per_draw(lambda z: z.square().sum(-1), MeanFieldGaussian(torch.ones(1), torch.zeros(1)), torch.ones(1, 3, 1))
    >>> draws.f, draws.path[0, 0]                                   # z = 2, three times: f = z², then 2z and 2z σε
    (tensor([[4., 4., 4.]]), tensor([4., 4.]))
    """
    if eps.ndim < 2 or eps.shape[-1] != q.dim or q.batch_shape not in ((), eps.shape[1:-1]):
        raise ShapeError(f"eps: expected (S, *R, {q.dim}) with *R = {tuple(q.batch_shape)} or any, got {tuple(eps.shape)}.")
    q = q.detach()
    z = (q if q.batch_shape else q.expand(*eps.shape[1:-1])).transform(eps)
    f_z, grad_z = value_and_slope(f, z)
    if elbo:
        f_z = f_z - q.log_prob_at(eps)
    return Draws(q, eps, z, f_z, grad_z, elbo, None if coordinates is None else tuple(coordinates))


def value_and_gradient(estimator: Estimator, log_joint: LogJoint, q: Family, eps: Tensor) -> tuple[Tensor, Tensor]:
    """An estimator's value (*R) and its gradient (*R, P) as plain numbers, by the fastest way that gives just these.

    Raises what the estimator raises.

    >>> q, eps = MeanFieldGaussian(torch.zeros(1), torch.zeros(1)), torch.tensor([[1.0], [-1.0]])
    >>> value_and_gradient(estimators.pathwise, lambda z: -z.square().sum(-1) / 2, q, eps)[1]
    tensor([0., 0.])
    """
    too_few = len(eps) < 2 and getattr(estimator, "needs_independent_draws", False)      # let the estimator say so
    if isinstance(q, (MeanFieldGaussian, FullRankGaussian)) and not too_few:
        with torch.no_grad():
            if estimator in _CLOSED_FORMS:
                return _CLOSED_FORMS[estimator](log_joint, q, eps)
            if hasattr(estimator, "baseline"):
                return _with_baseline(estimator.baseline, log_joint, q, eps)
    with torch.enable_grad():
        vector = q.vector().detach().requires_grad_()
        value = estimator(log_joint, q.with_vector(vector), eps)
        return value.detach(), slope_of(value, vector)


#: (λ (*R, P), ε (S, *R, D)) -> the estimator's value (*R) and its gradient (*R, P).
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def step_of(estimator: Estimator, log_joint: LogJoint, family: Family) -> Step:
    """(λ (*R, P), ε (S, *R, D)) -> :func:`value_and_gradient` of the member of ``family`` at λ, for the many steps of a fit.

    A step of a small model is some dozens of small tensor operations, and each of them tells.  Where q is mean-field and the estimator
    goes by the path, this makes what does not change from step to step once, and the rest in as few operations as will do.

    >>> q, eps = MeanFieldGaussian(torch.zeros(1), torch.zeros(1)), torch.tensor([[1.0], [-1.0]])
    >>> step_of(estimators.pathwise, lambda z: -z.square().sum(-1) / 2, q)(q.vector(), eps)[1]
    tensor([0., 0.])
    """
    if type(family) is MeanFieldGaussian and estimator in (estimators.pathwise, estimators.sticking_the_landing):
        return _mean_field_step(log_joint, family, landing=estimator is estimators.sticking_the_landing)
    return lambda vector, eps: value_and_gradient(estimator, log_joint, family.with_vector(vector), eps)


def _mean_field_step(log_joint: LogJoint, family: MeanFieldGaussian, landing: bool) -> Step:
    """Pathwise: mean log p + H[q].  Landing: mean (log p − log q), and −log q = Σ (ω + ½ε²) + D/2 log 2π at a draw."""
    constant = family.mu.new_tensor(0.5 * family.dim * (LOG_2PI if landing else 1 + LOG_2PI))
    of_entropy = torch.zeros_like(family.vector()) if landing else family.entropy_gradient()

    def step(vector: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        mu, omega = vector.chunk(2, -1)
        if eps.shape[1:] != mu.shape:
            family.with_vector(vector).transform(eps)                        # raises, and says what was expected
        sigma, share = omega.exp(), 1 / eps.shape[0]
        f, slope = value_and_slope(log_joint, torch.addcmul(mu, sigma, eps))
        if landing:
            f, slope = torch.add(f, eps.square().sum(-1), alpha=0.5), torch.addcdiv(slope, eps, sigma)
        by_omega = (slope * eps).sum(0) * sigma
        gradient = torch.add(of_entropy, torch.cat([slope.sum(0), by_omega], -1), alpha=share)
        return torch.add(omega.sum(-1) + constant, f.sum(0), alpha=share), gradient

    return step


def _f(log_joint: LogJoint, q: Gaussian, eps: Tensor) -> Tensor:
    return evaluate(log_joint, q.transform(eps)) - q.log_prob_at(eps)


def _score_function(log_joint: LogJoint, q: Gaussian, eps: Tensor) -> tuple[Tensor, Tensor]:
    f = _f(log_joint, q, eps)
    return f.mean(0), q.score_sum(eps, f) / len(eps)


def _with_baseline(baseline: Baseline, log_joint: LogJoint, q: Gaussian, eps: Tensor) -> tuple[Tensor, Tensor]:
    f, score = _f(log_joint, q, eps), q.score_at(eps)
    return f.mean(0), ((f.unsqueeze(-1) - baseline(f, score)) * score).sum(0) / len(eps)


def _leave_one_out(log_joint: LogJoint, q: Gaussian, eps: Tensor) -> tuple[Tensor, Tensor]:
    f = _f(log_joint, q, eps)
    f_mean = f.mean(0)
    return f_mean, q.score_sum(eps, f - f_mean) / (len(eps) - 1)                          # f − others = S/(S−1) (f − f̄)


def _optimal_coefficient(log_joint: LogJoint, q: Gaussian, eps: Tensor) -> tuple[Tensor, Tensor]:
    return _with_baseline(lambda f, score: cross_fitted_coefficient(f, score, q.score_variance()), log_joint, q, eps)


def _pathwise(log_joint: LogJoint, q: Gaussian, eps: Tensor) -> tuple[Tensor, Tensor]:
    log_p, grad_z = value_and_slope(log_joint, q.transform(eps))
    return log_p.mean(0) + q.entropy(), q.pullback_sum(eps, grad_z) / len(eps) + q.entropy_gradient()


def _total_derivative(log_joint: LogJoint, q: Gaussian, eps: Tensor) -> tuple[Tensor, Tensor]:
    log_p, grad_z = value_and_slope(log_joint, q.transform(eps))
    value = (log_p - q.log_prob_at(eps)).mean(0)
    return value, q.pullback_sum(eps, grad_z) / len(eps) + q.entropy_gradient()


def _sticking_the_landing(log_joint: LogJoint, q: Gaussian, eps: Tensor) -> tuple[Tensor, Tensor]:
    log_p, grad_z = value_and_slope(log_joint, q.transform(eps))
    value = (log_p - q.log_prob_at(eps)).mean(0)
    return value, q.pullback_sum(eps, grad_z - q.grad_log_prob_at(eps)) / len(eps)


_CLOSED_FORMS = {
    estimators.score_function: _score_function,
    estimators.leave_one_out: _leave_one_out,
    estimators.optimal_coefficient: _optimal_coefficient,
    estimators.pathwise: _pathwise,
    estimators.total_derivative: _total_derivative,
    estimators.sticking_the_landing: _sticking_the_landing,
}
