"""The variance of every estimator: closed forms against quadrature to 1e-9, and quadrature against replicates.

Variances by σ become variances by ω = log σ with ∂ω = σ ∂σ.  d = μ − k.
"""

import math

import pytest
import torch
from helpers import ESTIMATORS, gaussian, tensor
from statistical.ztest import assert_variance, replicates

from vilib import (
    constant_baseline, correlated_gaussian, cosine_cost, exponential_cost, gaussian_target, leave_one_out_mean,
    logistic_one_coefficient, moments, other_half_mean, pathwise_expectation, quadratic_cost, score_function_expectation,
    score_function_with, two_component_mixture,
)
from vilib.quadrature import trapezoid

pytestmark = pytest.mark.statistical
EXACT = dict(rel=1e-9, abs=1e-9)
PLACES = [(1.0, 1.0), (0.0, 1.0), (-1.7, 0.4), (2.5, 1.3)]
every_place = pytest.mark.parametrize("d, sigma", PLACES)


def by_mu_and_sigma(variances, sigma):
    """name -> (Var ∂μ, Var ∂σ)."""
    return {name: (v[..., 0].item(), v[..., 1].item() / sigma**2) for name, v in variances.items()}


# ---- f(x) = (x − k)² ------------------------------------------------------------------------------------------------


def of_the_square(d, sigma):
    s2 = sigma**2
    return {
        "score_function": (d**4 / s2 + 14 * d**2 + 15 * s2, 2 * d**4 / s2 + 60 * d**2 + 74 * s2),
        "optimal_baseline": (8 * d**2 + 6 * s2, 40 * d**2 + 24 * s2),
        "mean_baseline": (8 * d**2 + 10 * s2, 40 * d**2 + 56 * s2),
        "pathwise": (4 * s2, 4 * d**2 + 8 * s2),
    }


@every_place
@pytest.mark.parametrize("num_samples", [1, 16])
def test_the_table_of_the_square(d, sigma, num_samples):
    cost, q = quadratic_cost(0.7), gaussian(0.7 + d, math.log(sigma))
    found = by_mu_and_sigma(cost.variances(q, num_samples), sigma)
    for name, exact in of_the_square(d, sigma).items():
        assert found[name] == pytest.approx([v / num_samples for v in exact], **EXACT), name
    assert moments(cost, q).optimal_baseline.tolist() == pytest.approx([d**2 + 3 * sigma**2, d**2 + 5 * sigma**2], **EXACT)


def test_the_numbers_of_the_square_at_one():
    found = by_mu_and_sigma(quadratic_cost().variances(gaussian(1.0)), 1.0)
    by_mu, by_sigma = zip(*(found[n] for n in ("score_function", "optimal_baseline", "mean_baseline", "pathwise")))
    assert by_mu == pytest.approx([30, 14, 18, 4]) and by_sigma == pytest.approx([136, 64, 96, 12])


@pytest.mark.parametrize("dim", [1, 2, 3, 10, 1000])
def test_dimension_costs_the_score_and_not_the_path(dim):
    found = {name: v[0].item() for name, v in quadratic_cost().variances(gaussian(dim=dim)).items()}
    assert found["score_function"] == pytest.approx((dim + 2) * (dim + 4), rel=1e-9)
    assert found["mean_baseline"] == pytest.approx(2 * dim + 8, rel=1e-7)
    assert found["optimal_baseline"] == pytest.approx(2 * dim + 4, rel=1e-7)
    assert found["pathwise"] == pytest.approx(4, rel=1e-9)


# ---- cos and exp ----------------------------------------------------------------------------------------------------


def of_the_cosine(k, mu, sigma):
    t, damping = 2 * k * sigma, math.exp(-(k**2) * sigma**2 / 2)
    c = math.exp(-(t**2) / 2) * math.cos(2 * k * mu)
    g_mu, g_sigma = -k * math.sin(k * mu) * damping, -(k**2) * sigma * math.cos(k * mu) * damping
    return {
        "score_function": ((1 + (1 - t**2) * c) / (2 * sigma**2) - g_mu**2,
                           (2 + (t**4 - 4 * t**2 + 2) * c) / (2 * sigma**2) - g_sigma**2),
        "pathwise": (k**2 * (1 - c) / 2 - g_mu**2, k**2 * (1 - (1 - t**2) * c) / 2 - g_sigma**2),
    }


@pytest.mark.parametrize("k", [0.3, 1.0, 2.5, 6.0])
@pytest.mark.parametrize("mu, sigma", [(1.0, 1.0), (-0.4, 0.5), (0.0, 2.0)])
def test_the_formulas_of_the_cosine(k, mu, sigma):
    found = by_mu_and_sigma(cosine_cost(k).variances(gaussian(mu, math.log(sigma))), sigma)
    for name, exact in of_the_cosine(k, mu, sigma).items():
        assert found[name] == pytest.approx(exact, **EXACT), name


@pytest.mark.parametrize("cost, crossing", [(cosine_cost, 1.0638), (exponential_cost, 0.86995)])
def test_beyond_some_k_the_path_is_the_noisier_one(cost, crossing):
    def excess(k):
        variances = cost(k).variances(gaussian(1.0))
        return (variances["pathwise"] - variances["score_function"])[0].item()

    half_a_digit = 0.5 * 10 ** -len(str(crossing).split(".")[1])
    assert excess(crossing - half_a_digit) < 0 < excess(crossing + half_a_digit)
    assert excess(0.5 * crossing) < 0 < excess(1.5 * crossing)


# ---- learnt baselines -----------------------------------------------------------------------------------------------


@every_place
@pytest.mark.parametrize("cost", [quadratic_cost(), cosine_cost(1.3)], ids=["square", "cos"])
def test_leave_one_out_at_two_draws_by_integrating_over_both(d, sigma, cost):
    """At S = 2 the estimate is ½ (f₁ − f₂)(s₁ − s₂): its variance is an integral over (ε₁, ε₂)."""
    q = gaussian(d, math.log(sigma))
    eps, weights = trapezoid(2)
    f, score = (x(eps.unsqueeze(-1)) for x in (lambda e: cost(q.mu + sigma * e), q.score_at))     # each draw a column
    estimate = 0.5 * (f[:, 0] - f[:, 1]).unsqueeze(-1) * (score[:, 0] - score[:, 1])
    mean = weights @ estimate
    exact = weights @ (estimate - mean).square()
    assert mean.tolist() == pytest.approx(cost.gradient(q).tolist(), **EXACT)
    for name in ("leave_one_out", "other_half"):
        assert cost.variances(q, 2)[name].tolist() == pytest.approx(exact.tolist(), **EXACT), name


@pytest.mark.parametrize("num_samples", [2, 3, 8, 64])
def test_the_leave_one_out_formula(num_samples):
    """Var[(f−f̄)(s−s̄)]/S + (Var f · Var s + Cov²)/(S(S−1)).

    For the square at μ = σ = 1 in ∂μ: 18/S + (6·1 + 4)/(S(S−1)).
    """
    variance = quadratic_cost().variances(gaussian(1.0), num_samples)["leave_one_out"][0].item()
    assert variance == pytest.approx(18 / num_samples + 10 / (num_samples * (num_samples - 1)), **EXACT)


# ---- gradients of the ELBO ------------------------------------------------------------------------------------------


def of_a_gaussian(m, s, mu0, sigma0):
    """By m and by log s."""
    moved = s**2 * (mu0 - m) ** 2 / sigma0**4
    return {
        "sticking_the_landing": ((1 / s - s / sigma0**2) ** 2, moved + 2 * (1 - s**2 / sigma0**2) ** 2),
        "pathwise": (s**2 / sigma0**4, moved + 2 * s**4 / sigma0**4),
    }


@pytest.mark.parametrize("m, s, mu0, sigma0", [
    (0.0, 1.0, 1.0, 1.0), (0.4, 0.7, -1.0, 2.0), (1.0, 1.5, 0.0, 0.6), (0.5, 0.8, 0.5, 0.8),
])
def test_the_table_of_the_elbo(m, s, mu0, sigma0):
    found = moments(gaussian_target(mu0, sigma0), gaussian(m, math.log(s)), elbo=True).variances()
    for name, exact in of_a_gaussian(m, s, mu0, sigma0).items():
        assert found[name].tolist() == pytest.approx(exact, **EXACT), name
    assert found["total_derivative"].tolist() == found["pathwise"].tolist()


@pytest.mark.parametrize("sigma0", [0.6, 1.0, 2.0])
def test_at_the_posterior_sticking_the_landing_is_silent_and_the_analytic_entropy_is_not(sigma0):
    found = moments(gaussian_target(0.5, sigma0), gaussian(0.5, math.log(sigma0)), elbo=True).variances()
    assert found["sticking_the_landing"].tolist() == pytest.approx([0, 0], abs=1e-12)
    assert found["pathwise"].tolist() == pytest.approx([1 / sigma0**2, 2], **EXACT)


@pytest.mark.parametrize("s2_over_sigma02, wins", [(0.1, False), (0.49, False), (0.51, True), (1.0, True), (4.0, True)])
def test_sticking_the_landing_wins_for_the_mean_only_where_q_is_wide_enough(s2_over_sigma02, wins):
    """s² > σ₀²/2, and not otherwise."""
    sigma0 = 1.3
    q = gaussian(1.0, 0.5 * math.log(s2_over_sigma02 * sigma0**2))
    found = moments(gaussian_target(0.0, sigma0), q, elbo=True).variances()
    assert (found["sticking_the_landing"][0] < found["pathwise"][0]).item() == wins


# ---- measured -------------------------------------------------------------------------------------------------------


def expectation_estimator(name, m):
    if name == "pathwise":
        return pathwise_expectation
    baseline = {"score_function": None, "mean_baseline": constant_baseline(m.mean_f), "leave_one_out": leave_one_out_mean,
                "optimal_baseline": constant_baseline(m.optimal_baseline), "other_half": other_half_mean}[name]
    return lambda f, q, eps: score_function_expectation(f, q, eps, baseline)


def elbo_estimator(name, m):
    given = {"mean_baseline": score_function_with(constant_baseline(m.mean_f)),
             "optimal_baseline": score_function_with(constant_baseline(m.optimal_baseline)),
             "other_half": ESTIMATORS["score_function_mean_baseline"]}
    return given.get(name) or ESTIMATORS[name]


COSTS = {"square": quadratic_cost(0.2), "cos": cosine_cost(1.5), "exp": exponential_cost(1.0)}
TARGETS = {
    "Gaussian": (gaussian_target(1.0, 0.8), gaussian(0.3, -0.2)),
    "logistic": (logistic_one_coefficient(), gaussian(-0.5, 0.2)),
    "mixture": (two_component_mixture(), gaussian(1.0, 0.3)),
    "correlated": (correlated_gaussian(0.6), gaussian(0.5, -0.2, 2)),
}
BY_SCORE = ["score_function", "mean_baseline", "optimal_baseline", "leave_one_out", "other_half"]


@pytest.mark.parametrize("name", [*BY_SCORE, "pathwise"])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("num_samples", [4, 32])
def test_replicates_of_a_cost_have_the_exact_variance(name, cost, num_samples):
    f, q = COSTS[cost], gaussian(0.8, -0.1)
    m = moments(f, q)
    _, gradients = replicates(expectation_estimator(name, m), f, q, num_samples=num_samples, num_replicates=20_000, seed=1)
    assert_variance(gradients, m.variances(num_samples)[name], name)


@pytest.mark.parametrize("name", [*BY_SCORE, "pathwise", "sticking_the_landing", "total_derivative"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("num_samples", [4, 32])
def test_replicates_of_the_elbo_have_the_exact_variance(name, target, num_samples):
    log_joint, q = TARGETS[target]
    m = moments(log_joint, q, elbo=True)
    _, gradients = replicates(elbo_estimator(name, m), log_joint, q, num_samples=num_samples, num_replicates=20_000, seed=2)
    assert_variance(gradients, m.variances(num_samples)[name], name)


def test_replicates_in_ten_dimensions_have_the_variance_of_the_table():
    q, f = gaussian(dim=10), quadratic_cost()
    one = moments(f, gaussian())
    for name, exact in [("score_function", 12 * 14), ("pathwise", 4)]:
        _, gradients = replicates(expectation_estimator(name, one), f, q, num_samples=4, num_replicates=20_000)
        assert_variance(gradients[:, 0], exact / 4, name)


def test_a_variance_that_is_six_per_cent_off_would_be_noticed():
    """What the tests above are worth."""
    q, f = gaussian(0.8, -0.1), COSTS["square"]
    _, gradients = replicates(pathwise_expectation, f, q, num_samples=32, num_replicates=20_000, seed=1)
    exact = f.variances(q, 32)["pathwise"]
    for factor in (0.93, 1.08):
        with pytest.raises(AssertionError):
            assert_variance(gradients, factor * exact)


def test_the_learnt_coefficient_tends_to_the_optimal_baseline():
    log_joint, q = TARGETS["logistic"]
    m = moments(log_joint, q, elbo=True)
    _, gradients = replicates(ESTIMATORS["optimal_coefficient"], log_joint, q, num_samples=512, num_replicates=4000, seed=3)
    ratio = gradients.var(0) / m.variances(512)["optimal_baseline"]
    torch.testing.assert_close(ratio, tensor(1.0, 1.0), rtol=0.15, atol=0)
