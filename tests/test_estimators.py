"""What holds of the estimators draw by draw, before any statistics."""

import math

import pytest
import torch
from helpers import (
    ESTIMATORS, LEARNT, LOCAL, PATHWISE, by_autograd, every_family, full_rank, gaussian, gradient,
    mean_field, noise_for, tensor,
)

from vilib import (
    MeanFieldGaussian, NonScalarLogJoint, NotReparameterizable, ShapeError, constant_baseline, correlated_gaussian,
    gaussian_target, leave_one_out, leave_one_out_mean, logistic_one_coefficient, other_half_mean, pathwise,
    pathwise_expectation, quadratic_cost, score_function, score_function_expectation, score_function_mean_baseline,
    score_function_with, sticking_the_landing, total_derivative, value_of,
)
from vilib.control_variates import cross_fitted_coefficient

close = torch.testing.assert_close
every_estimator = pytest.mark.parametrize("name", ESTIMATORS)
TARGET = correlated_gaussian(0.5)


def test_the_estimators_are_found():
    assert set(ESTIMATORS) == PATHWISE | LEARNT | LOCAL | {"score_function", "constant_baseline"}


def test_value_of_reads_one_thing_and_differentiates_as_another():
    x = torch.tensor([3.0, 4.0], requires_grad=True)
    y = value_of(torch.tensor([7.0, 8.0], requires_grad=True), gradient_of=x**2)
    assert y.tolist() == [7, 8] and torch.autograd.grad(y.sum(), x)[0].tolist() == [6, 8]


# ---- by hand --------------------------------------------------------------------------------------------------------


@every_family
def test_the_score_function_is_the_mean_of_f_times_the_score(make):
    q = make()
    eps = noise_for(q)
    z = q.transform(eps)
    f = TARGET(z) - q.log_prob(z)
    value, found = by_autograd(score_function, TARGET, q, eps)
    close(value, f.mean())
    close(found, (f.unsqueeze(-1) * q.score(z)).mean(0))
    b = torch.linspace(-1, 1, q.num_parameters, dtype=torch.float64)
    found = gradient(score_function_with(constant_baseline(b)), TARGET, q, eps)
    close(found, ((f.unsqueeze(-1) - b) * q.score(z)).mean(0))


@every_family
def test_the_pathwise_gradient_is_log_ps_slope_pulled_back_plus_the_entropys(make):
    q = make()
    eps = noise_for(q)
    value, found = by_autograd(pathwise, TARGET, q, eps)
    close(value, TARGET(q.transform(eps)).mean(0) + q.entropy())
    close(found, q.pullback(eps, TARGET.slope(q.transform(eps))).mean(0) + q.entropy_gradient())


@every_family
def test_the_total_derivative_is_the_pathwise_gradient_draw_by_draw(make):
    q = make()
    eps = noise_for(q, 1)
    close(gradient(total_derivative, TARGET, q, eps), gradient(pathwise, TARGET, q, eps))


@every_family
def test_sticking_the_landing_is_the_total_derivative_plus_the_score(make):
    q = make()
    eps = noise_for(q)
    close(gradient(sticking_the_landing, TARGET, q, eps),
          gradient(total_derivative, TARGET, q, eps) + q.score_at(eps).mean(0))


def test_all_but_the_analytic_entropy_read_the_same_value():
    q = mean_field()
    eps = noise_for(q)
    values = {name: by_autograd(estimator, TARGET, q, eps)[0] for name, estimator in ESTIMATORS.items()}
    for name in ESTIMATORS.keys() - {"pathwise"}:
        close(values[name], values["score_function"])
    assert abs(values["pathwise"] - values["score_function"]) > 1e-3


# ---- where q is the posterior, and other exact points ---------------------------------------------------------------


@every_family
def test_sticking_the_landing_is_still_at_the_posterior(make):
    """Every draw's gradient is zero there; the pathwise one is not, nor is any single score."""
    q = make()
    target = lambda z: q.detach().log_prob(z) - 3.0  # noqa: E731
    for seed in range(3):
        eps = noise_for(q, 1, seed)
        assert gradient(sticking_the_landing, target, q, eps).abs().max() < 1e-12
        assert gradient(pathwise, target, q, eps).abs().max() > 1e-3
        assert gradient(score_function, target, q, eps).abs().max() > 1e-3


@pytest.mark.parametrize("name", sorted(LEARNT))
def test_a_learnt_baseline_is_still_at_the_posterior_too(name):
    """f = log p(x) for every draw, and a learnt baseline takes all of it away."""
    q = mean_field()
    assert gradient(ESTIMATORS[name], lambda z: q.log_prob(z) - 3.0, q, noise_for(q)).abs().max() < 1e-12


@pytest.mark.parametrize("name", sorted(LEARNT | PATHWISE))
def test_adding_a_constant_changes_no_gradient_but_the_plain_scores(name):
    q = mean_field()
    eps = noise_for(q)
    shifted = lambda z: TARGET(z) + 100.0  # noqa: E731
    close(gradient(ESTIMATORS[name], shifted, q, eps), gradient(ESTIMATORS[name], TARGET, q, eps), rtol=1e-9, atol=1e-9)
    moved = gradient(score_function, shifted, q, eps) - gradient(score_function, TARGET, q, eps)
    close(moved, 100 * q.score_at(eps).mean(0))


def test_leave_one_out_is_the_covariance_of_f_and_the_score():
    q = mean_field()
    eps = noise_for(q)
    z, score = q.transform(eps), q.score_at(eps)
    f = TARGET(z) - q.log_prob(z)
    covariance = ((f - f.mean()).unsqueeze(-1) * (score - score.mean(0))).sum(0) / (len(f) - 1)
    close(gradient(leave_one_out, TARGET, q, eps), covariance)


@pytest.mark.parametrize("one, other", [
    (leave_one_out, score_function_with(leave_one_out_mean)),
    (score_function_mean_baseline, score_function_with(other_half_mean)),
    (ESTIMATORS["optimal_coefficient"],
     score_function_with(lambda f, s: cross_fitted_coefficient(f, s, mean_field().score_variance()))),
    (score_function, score_function_with(constant_baseline(0.0))),
], ids=["leave-one-out", "other half", "coefficient", "none"])
def test_each_baseline_estimator_is_the_score_function_with_that_baseline(one, other):
    q = mean_field()
    for a, b in zip(by_autograd(one, TARGET, q, noise_for(q)), by_autograd(other, TARGET, q, noise_for(q))):
        close(a, b)


def test_with_two_draws_every_learnt_baseline_is_the_other_draw():
    q = mean_field()
    close(gradient(leave_one_out, TARGET, q, noise_for(q, 2)), gradient(score_function_mean_baseline, TARGET, q, noise_for(q, 2)))
    close(gradient(leave_one_out, TARGET, q, noise_for(q, 2)), gradient(ESTIMATORS["optimal_coefficient"], TARGET, q, noise_for(q, 2)))


# ---- the gradient of an expectation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [None, constant_baseline(0.4), leave_one_out_mean, other_half_mean])
def test_the_score_function_of_an_expectation(baseline):
    q, f = mean_field(), quadratic_cost(0.3)
    eps = noise_for(q)
    cost, score = f(q.transform(eps)), q.score_at(eps)
    b = torch.as_tensor(0.0 if baseline is None else baseline(cost, score), dtype=torch.float64)
    value, found = by_autograd(lambda f, q, eps: score_function_expectation(f, q, eps, baseline), f, q, eps)
    close(value, cost.mean())
    close(found, ((cost.unsqueeze(-1) - b) * score).mean(0))


def test_the_path_of_an_expectation():
    q, f = mean_field(), quadratic_cost(0.3)
    eps = noise_for(q)
    value, found = by_autograd(pathwise_expectation, f, q, eps)
    close(value, f(q.transform(eps)).mean())
    close(found, q.pullback(eps, f.slope(q.transform(eps))).mean(0))


@pytest.mark.parametrize("name", sorted(ESTIMATORS.keys() - PATHWISE))
def test_the_score_never_differentiates_log_p(name):
    """So log p may have jumps, or come from a black box that returns plain numbers."""
    q = mean_field()
    black_box = lambda z: torch.from_numpy((z.detach().numpy() > 0).sum(-1).astype(float))  # noqa: E731
    assert gradient(ESTIMATORS[name], black_box, q, noise_for(q)).abs().max() > 1e-3


# ---- refusals -------------------------------------------------------------------------------------------------------


class OnlyLogQ:
    """A q that one can draw from and score, but not differentiate through: a Gaussian that hides it."""

    def __init__(self, q): self.q = q
    def sample(self, eps): return self.q.sample(eps)
    def log_prob(self, z): return self.q.log_prob(z)
    def transform(self, eps): raise AssertionError("nobody may ask for the path")


@pytest.mark.parametrize(
    "estimator", [*(ESTIMATORS[name] for name in sorted(PATHWISE)), pathwise_expectation], ids=lambda e: e.__name__)
def test_a_pathwise_estimator_refuses_a_family_without_a_path(estimator):
    message = r"q: OnlyLogQ has no differentiable transform\(eps\).*score_function, leave_one_out"
    with pytest.raises(NotReparameterizable, match=message):
        estimator(TARGET, OnlyLogQ(mean_field()), noise_for(mean_field()))


@pytest.mark.parametrize("estimator", [score_function, leave_one_out], ids=lambda e: e.__name__)
def test_the_score_takes_a_family_without_a_path(estimator):
    q = mean_field()
    close(estimator(TARGET, OnlyLogQ(q), noise_for(q)), estimator(TARGET, q, noise_for(q)))


@pytest.mark.parametrize("name", sorted(LEARNT))
def test_what_learns_from_the_other_draws_needs_another_draw(name):
    q = mean_field()
    with pytest.raises(ShapeError, match=r"num_samples: .* at least 2 draws, got 1"):
        ESTIMATORS[name](TARGET, q, noise_for(q, 1))


@every_estimator
@pytest.mark.parametrize("q", [mean_field(3), full_rank(3)], ids=lambda q: type(q).__name__)
def test_noise_of_another_shape_is_refused(name, q):
    for shape in [(4, 2), (4, 3, 3), (4, 2, 2), (3, 2)]:
        with pytest.raises(ShapeError, match=r"eps: expected \(S, \*R, D\) = \(S, 3, 2\) for this q, got"):
            ESTIMATORS[name](TARGET, q, torch.zeros(shape, dtype=torch.float64))


@every_estimator
def test_a_log_joint_that_is_no_number_a_draw_is_refused(name):
    q = mean_field()
    message = r"log_joint: for z of shape \(8, 2\) expected log densities \(8,\), got \(8, 2\)"
    with pytest.raises(NonScalarLogJoint, match=message):
        ESTIMATORS[name](lambda z: -z.square(), q, noise_for(q))


@every_estimator
def test_no_estimator_changes_q_eps_or_needs_a_gradient_to_give_a_value(name):
    q = mean_field()
    eps = noise_for(q)
    before = (q.vector().clone(), eps.clone())
    with torch.no_grad():
        value = ESTIMATORS[name](logistic_one_coefficient(), gaussian(0.1), noise_for(gaussian()))
        ESTIMATORS[name](TARGET, q, eps)
    assert math.isfinite(value) and torch.equal(before[0], q.vector()) and torch.equal(before[1], eps)


def test_gaussian_target_gradients_by_hand():
    """q = N(m, s²), p = N(μ₀, σ₀²), one draw ε: the formulas of eq:analytic-entropy and eq:stl written out."""
    m, s, mu0, sigma0, e = 0.4, 0.7, 1.5, 0.6, 0.9
    q, eps = gaussian(m, math.log(s)), torch.tensor([[e]], dtype=torch.float64)
    slope = (mu0 - (m + s * e)) / sigma0**2
    target, held = gaussian_target(mu0, sigma0), slope + e / s
    close(gradient(pathwise, target, q, eps), tensor(slope, slope * s * e + 1))
    close(gradient(sticking_the_landing, target, q, eps), tensor(held, held * s * e))
    assert isinstance(q, MeanFieldGaussian)
