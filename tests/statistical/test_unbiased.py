"""Every estimator is unbiased, gradient and value, under every noise it allows.

Exact gradients come from closed forms where there are any, else from quadrature.
"""

import math

import pytest
import torch
from helpers import (
    ESTIMATORS, EVERY_FAMILY, INDEPENDENT, bernoulli, categorical, full_rank, gaussian, mean_field, readers_model, refusal, tensor,
)
from statistical.ztest import assert_mean, assert_unbiased, replicates

from vilib import (
    antithetic, constant_baseline, correlated_gaussian, cosine_cost, exact_elbo, exact_gradient, exponential_cost,
    gaussian_target, leave_one_out_mean, logistic_one_coefficient, normal, other_half_mean, pathwise_expectation, quadratic_cost,
    score_function_expectation, sobol, two_component_mixture,
)
from vilib.control_variates import cross_fitted_coefficient

pytestmark = pytest.mark.statistical

PROBLEMS = {
    "Gaussian": (gaussian_target(1.0, 0.8), gaussian(0.3, -0.4)),
    "Gaussian, full-rank": (gaussian_target(1.0, 0.8), full_rank(dim=1)),
    "correlated": (correlated_gaussian(0.7, (1.0, 0.6)), mean_field()),
    "correlated, full-rank": (correlated_gaussian(0.7, (1.0, 0.6)), full_rank()),
    "logistic": (logistic_one_coefficient(), gaussian(-0.5, 0.3)),
    "logistic, full-rank": (logistic_one_coefficient(), full_rank(dim=1)),
    "mixture": (two_component_mixture(), gaussian(1.0, 0.5)),
    "reader's model": (readers_model(), mean_field()),
    "reader's model, full-rank": (readers_model(), full_rank()),
    "reader's model, Bernoulli": (readers_model(), bernoulli()),
    "reader's model, categorical": (readers_model(), categorical()),
}
#: The families by class, to ask which estimator refuses which.
NAMES = {type(make()): family for family, make in EVERY_FAMILY.items()}
#: (noise, S, replicates)
NOISES = {
    "normal": (normal, 8, 4000), "two draws": (normal, 2, 8000), "odd": (normal, 5, 4000),
    "antithetic": (antithetic, 8, 4000), "sobol": (sobol, 8, 500),
}
#: What learns a baseline from the other draws refuses dependent ones; test_replicates holds it to that.
ALLOWED = [
    (name, noise, problem) for name in ESTIMATORS for noise, (draw, *_) in NOISES.items()
    for problem, (_, q) in PROBLEMS.items()
    if (draw.independent_draws or name not in INDEPENDENT) and not refusal(name, NAMES[type(q)])
]
COSTS = {"square": quadratic_cost(0.3), "cos": cosine_cost(1.5), "exp": exponential_cost(0.8)}
LEARN = {"leave one out": leave_one_out_mean, "other half": other_half_mean}


@pytest.mark.parametrize("name, noise, problem", ALLOWED)
def test_an_estimator_of_the_elbo_is_unbiased(name, problem, noise):
    draw, num_samples, num_replicates = NOISES[noise]
    target, q = PROBLEMS[problem]
    assert_unbiased(ESTIMATORS[name], target, q, exact_gradient(target, q, elbo=True), exact_elbo(target, q),
                    num_samples=num_samples, num_replicates=num_replicates, noise=draw)


def test_the_exact_gradient_of_a_gaussian_target_is_the_closed_form():
    """∂m = (μ₀ − m)/σ₀² and ∂ log s = 1 − s²/σ₀²: what "exact" means above rests on algebra."""
    for m, omega in [(0.3, -0.4), (2.0, 0.7)]:
        found = exact_gradient(gaussian_target(1.0, 0.8), gaussian(m, omega), elbo=True)
        torch.testing.assert_close(found, tensor((1 - m) / 0.64, 1 - math.exp(2 * omega) / 0.64), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", sorted(ESTIMATORS.keys() - INDEPENDENT))
def test_one_draw_is_enough(name):
    target, q = PROBLEMS["correlated"]
    assert_unbiased(ESTIMATORS[name], target, q, exact_gradient(target, q, elbo=True), exact_elbo(target, q),
                    num_samples=1, num_replicates=20_000)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_autograd_itself_is_unbiased_and_not_only_the_closed_form(name):
    target, q = PROBLEMS["logistic"]
    assert_unbiased(ESTIMATORS[name], target, q, exact_gradient(target, q, elbo=True), exact_elbo(target, q),
                    num_samples=8, num_replicates=4000, autograd=True)


# ---- costs ----------------------------------------------------------------------------------------------------------


def of_cost(name):
    if name == "pathwise":
        return pathwise_expectation
    if name == "coefficient":
        learn = lambda q: lambda f, s: cross_fitted_coefficient(f, s, q.score_variance().detach())  # noqa: E731
        return lambda f, q, eps: score_function_expectation(f, q, eps, learn(q))
    baseline = {"score": None, "constant": constant_baseline(0.8), **LEARN}[name]
    return lambda f, q, eps: score_function_expectation(f, q, eps, baseline)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("name", ["pathwise", "coefficient", "score", "constant", *LEARN])
def test_an_estimator_of_an_expectation_is_unbiased(name, dim, cost):
    f, q = COSTS[cost], gaussian(0.6, -0.2, dim)
    for noise in (normal, antithetic) if name in ("pathwise", "score", "constant") else (normal,):
        assert_unbiased(of_cost(name), f, q, f.gradient(q), f.expectation(q),
                        num_samples=8, num_replicates=4000, noise=noise)


# ---- why some refuse ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(INDEPENDENT))
def test_a_learnt_baseline_on_dependent_draws_would_be_biased(name):
    """The reason for DependentDraws: on pairs the baseline has seen the draw's own mirror image."""
    target, q = PROBLEMS["Gaussian"]
    _, gradients = replicates(ESTIMATORS[name], target, q, num_samples=2, num_replicates=4000, noise=antithetic)
    with pytest.raises(AssertionError, match="gradient: .* z = "):
        assert_mean(gradients, exact_gradient(target, q, elbo=True), "gradient")


def test_the_families_here_are_all_there_are():
    assert {type(q).__name__ for _, q in PROBLEMS.values()} == {kind.__name__ for kind in NAMES}
