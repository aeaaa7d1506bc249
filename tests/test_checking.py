"""The marker of the exercises passes what is right and names what is wrong."""

from statistics import NormalDist

import pytest
import torch
from helpers import ESTIMATORS

from vilib import (
    BiasedEstimator, VilibError, assert_unbiased, check_unbiased, exact_gradient, leave_one_out, leave_one_out_mean,
    other_half_mean, pathwise, pathwise_expectation, score_function, score_function_expectation, sticking_the_landing, total_derivative, value_of,
)
from vilib.slips import SLIPS, VALUE_SLIPS, cases


def words_of(report) -> str:
    """The report on one line, however it is wrapped."""
    return " ".join(str(report).split())


def scored(weight, *, still=True):
    """A score-function estimator that multiplies ``weight(f, log q)`` into log q."""
    def estimator(log_joint, q, eps):
        z = q.sample(eps) if still else q.transform(eps)
        log_q = q.log_prob(z)
        f = log_joint(z) - log_q
        return value_of(f.mean(0), gradient_of=(weight(f, log_q) * log_q).mean(0))

    return estimator


def changed(estimator, gradient=1.0, value=1.0):
    """The estimator with its gradient or its value multiplied; a function of S may stand for a number."""
    number = lambda x, eps: x(len(eps)) if callable(x) else x  # noqa: E731
    def mutant(log_joint, q, eps):
        v = estimator(log_joint, q, eps)
        return value_of(number(value, eps) * v, gradient_of=number(gradient, eps) * v)

    return mutant


def plus_entropy(times):
    return lambda log_joint, q, eps: value_of(
        pathwise(log_joint, q, eps), gradient_of=log_joint(q.transform(eps)).mean(0) + times * q.entropy())


def by_sigma(log_joint, q, eps):
    """The gradient itself, (*R, P), which is welcome too; but by σ."""
    vector = q.vector().detach().requires_grad_()
    gradient = torch.autograd.grad(pathwise(log_joint, q.with_vector(vector), eps).sum(), vector)[0]
    return gradient / torch.cat([torch.ones_like(q.mu), q.stddev], -1).detach()


def from_draws(z_of):
    """The score function and three forms of the path, each with draws of its own."""
    def scored(log_joint, q, eps):
        z = z_of(q, eps).detach()
        log_q = q.log_prob(z)
        return ((log_joint(z) - log_q).detach() * log_q).mean(0)

    return {
        "score": scored,
        "log q(z)": lambda log_joint, q, eps: (log_joint(z_of(q, eps)) - q.log_prob(z_of(q, eps))).mean(0),
        "landing": lambda log_joint, q, eps: (log_joint(z_of(q, eps)) - q.detach().log_prob(z_of(q, eps))).mean(0),
        "entropy": lambda log_joint, q, eps: log_joint(z_of(q, eps)).mean(0) + q.entropy(),
    }


WRONG_DRAWS = {
    "variance for standard deviation": lambda q, eps: q.mu + q.stddev**2 * eps,
    "draws with omega": lambda q, eps: q.mu + q.omega * eps,
    "omega as log variance": lambda q, eps: q.mu + (q.omega / 2).exp() * eps,
}


def path_by_hand(of_omega, of_entropy=1.0):
    """The gradient itself, (*R, 2 D), written out (eq:gaussian-by-hand)."""
    def estimator(log_joint, q, eps):
        z = q.sample(eps).detach().requires_grad_()
        g, = torch.autograd.grad(log_joint(z).sum(), z)
        return torch.cat([g.mean(0), (g * of_omega(q, eps)).mean(0) + of_entropy], -1).detach()

    return estimator


def density(log_joint, q, eps):
    z = q.sample(eps)
    f = (log_joint(z) - q.log_prob(z)).detach()
    return value_of(f.mean(0), gradient_of=(f * q.log_prob(z).exp()).mean(0))


def means_multiplied(log_joint, q, eps):
    z = q.sample(eps)
    log_q = q.log_prob(z)
    f = (log_joint(z) - log_q).detach()
    return value_of(f.mean(0), gradient_of=f.mean(0) * log_q.mean(0))


def log_variance(log_joint, q, eps):
    return pathwise(log_joint, type(q)(q.mu, 0.5 * q.omega), eps)


def entropy_averaged(log_joint, q, eps):
    return log_joint(q.transform(eps)).mean(0) + q.entropy() / q.dim


GRADIENT_MUTANTS = {
    "zero mean": lambda log_joint, q, eps: value_of(score_function(log_joint, q, eps), q.log_prob(q.sample(eps)).mean(0)),
    "wrong sign": changed(leave_one_out, gradient=-1.0),
    "sum for mean": changed(leave_one_out, gradient=lambda s: s),
    "own sample": scored(lambda f, log_q: (f - f.mean(0)).detach()),
    "divided by S-1": changed(leave_one_out, gradient=lambda s: s / (s - 1)),
    "no entropy": plus_entropy(0),
    "entropy twice": plus_entropy(2),
    "entropy subtracted": plus_entropy(-1),
    "draws that move": scored(lambda f, log_q: f.detach(), still=False),
    "nothing detached": scored(lambda f, log_q: f, still=False),
    "sigma for omega": by_sigma,
    "divided by S twice": means_multiplied,
    "path without its sigma": path_by_hand(lambda q, eps: eps),
    "entropy averaged": entropy_averaged,
    "density for its logarithm": density,
    "variance for standard deviation": from_draws(WRONG_DRAWS["variance for standard deviation"])["score"],
    "draws with omega": from_draws(WRONG_DRAWS["draws with omega"])["landing"],
    "omega as log variance": log_variance,
    "draws of the noise": from_draws(lambda q, eps: eps)["score"],
}
VALUE_MUTANTS = {
    "value is a loss": changed(pathwise, value=-1.0),
    "value sums": changed(pathwise, value=lambda s: s),
    "value without entropy": lambda log_joint, q, eps: value_of(log_joint(q.transform(eps)).mean(0), pathwise(log_joint, q, eps)),
    "value is zero": changed(pathwise, value=0.0),
    "value": changed(pathwise, value=1.7),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_of_vilib_passes(name):
    report = check_unbiased(ESTIMATORS[name], num_replicates=2000)
    assert report and report.passed
    assert words_of(report).startswith("✓ Right. Unbiased on 3 models: 22 z-tests of 2,000 replicates each")
    assert report.slip is None and report.largest_z < report.threshold
    assert report.threshold == pytest.approx(NormalDist().inv_cdf(1 - 1e-6 / (2 * 22)))            # Bonferroni, two-sided


def test_estimators_of_an_expectation_pass_as_such():
    for estimator in (score_function_expectation, pathwise_expectation):
        assert check_unbiased(estimator, expectation=True, num_replicates=2000)
    for baseline in (leave_one_out_mean, other_half_mean):
        estimator = lambda f, q, eps: score_function_expectation(f, q, eps, baseline)  # noqa: B023, E731
        assert check_unbiased(estimator, expectation=True, num_replicates=2000)
    assert check_unbiased(pathwise_expectation, num_replicates=2000).slip == "no entropy"


def test_every_slip_has_its_mutant():
    assert GRADIENT_MUTANTS.keys() == SLIPS.keys() and set(VALUE_MUTANTS) == {*VALUE_SLIPS, "value"}


@pytest.mark.parametrize("slip", GRADIENT_MUTANTS)
def test_each_slip_is_called_by_its_name(slip):
    report = check_unbiased(GRADIENT_MUTANTS[slip])
    assert not report and SLIPS[slip][1] in words_of(report)
    if slip == "draws that move":                                # no gradient to mu at all: seen before any statistics
        assert report.slip == "no gradient to mu" and report.findings[1] == SLIPS[slip][1]
    else:
        assert report.slip == slip and report.largest_z > report.threshold and report.findings[0] == SLIPS[slip][1]
        assert "biased" in words_of(report) and "standard errors away" in words_of(report)


@pytest.mark.parametrize("slip", WRONG_DRAWS)
@pytest.mark.parametrize("form", ["score", "log q(z)", "landing", "entropy"])
def test_draws_of_another_density_are_told_in_every_form(slip, form):
    assert check_unbiased(from_draws(WRONG_DRAWS[slip])[form]).slip == slip


def test_the_path_by_hand_is_right_with_its_sigma():
    assert check_unbiased(path_by_hand(lambda q, eps: q.stddev * eps))


@pytest.mark.parametrize("slip", VALUE_MUTANTS)
def test_a_wrong_value_on_a_right_gradient_is_called_by_its_name(slip):
    report = check_unbiased(VALUE_MUTANTS[slip])
    assert not report and report.slip == slip
    assert "The gradient is right, but the value does not match the ELBO" in report.findings[0]


def test_a_bias_without_a_name_is_still_found_and_its_factor_said():
    report = check_unbiased(changed(pathwise, gradient=1.25))
    assert not report and report.slip is None
    assert "about 1.2 times the true gradient" in words_of(report).replace("1.3", "1.2")
    report = check_unbiased(lambda log_joint, q, eps: pathwise(log_joint, q, eps) + 0.3 * q.mu.sum(-1))
    assert not report and report.slip is None
    assert "No single slip that we know" in words_of(report) and "mu[0] wrong" in words_of(report)


@pytest.mark.parametrize("estimator, slip, words", [
    (lambda log_joint, q, eps: 1 / 0, "raises", "It raised ZeroDivisionError on a Gaussian target"),
    (lambda log_joint, q, eps: log_joint(q.transform(eps)), "shape", r"Average over the S draws, the first axis: .mean(0)."),
    (lambda log_joint, q, eps: log_joint(q.transform(eps)).mean(), "shape", "averaged over the replicates too"),
    (lambda log_joint, q, eps: None, "shape", "It returned NoneType"),
    (lambda log_joint, q, eps: pathwise(log_joint, q.detach(), eps), "no gradient", "No gradient reaches mu or omega"),
    (lambda log_joint, q, eps: log_joint(q.sample(eps)).mean(0) + q.entropy(), "no gradient to mu", "exactly 0 every time"),
    (lambda log_joint, q, eps: pathwise(log_joint, type(q)(q.mu, q.omega.detach()), eps),
     "no gradient to omega", "No gradient reaches omega"),
])
def test_what_cannot_be_tested_is_said_before_any_statistics(estimator, slip, words):
    report = check_unbiased(estimator)
    assert not report and report.slip == slip and words in words_of(report), words_of(report)


def test_the_same_seed_gives_the_same_report():
    one, two, other = (check_unbiased(leave_one_out, num_replicates=500, seed=seed) for seed in (3, 3, 4))
    assert str(one) == str(two) and one.largest_z != other.largest_z


def test_assert_unbiased_raises_the_report():
    assert assert_unbiased(sticking_the_landing).passed
    with pytest.raises(BiasedEstimator, match=r"✗ Not yet\. It is minus the true gradient") as caught:
        assert_unbiased(GRADIENT_MUTANTS["wrong sign"])
    assert isinstance(caught.value, AssertionError) and isinstance(caught.value, VilibError)


def test_praise_compares_the_variance_with_the_two_ways():
    text = words_of(check_unbiased(total_derivative))
    assert "Variance beside score_function" in text
    assert "Variance beside pathwise (a Gaussian target, S = 8): mu 1×, omega 1×." in text


def test_the_problems_have_a_gradient_to_find():
    for name, target, q in cases():
        assert (exact_gradient(target, q, elbo=True).abs() > 0.05).all(), name
