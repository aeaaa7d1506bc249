"""Mutants must fail: each well-known mistake is caught by the very functions that pass what is right."""

import pytest
import torch
from helpers import ESTIMATORS, LEARNT, gaussian, seeded
from statistical.ztest import assert_mean, assert_unbiased
from test_control_variates import LEARNT as BASELINES
from test_control_variates import assert_leaves_out_its_own
from test_models import SUPPORTS, assert_pays_for_the_change_of_variables
from torch.distributions import constraints

from vilib import (
    Model, exact_elbo, exact_gradient, gaussian_target, logistic_one_coefficient, normal, pathwise, score_function,
    score_function_with, sobol, value_of,
)
from vilib.families import LOG_2PI

pytestmark = pytest.mark.statistical


def assert_right(estimator) -> None:
    """Unbiased on a Gaussian target and on the logistic model, with two and with eight draws."""
    for exact, q in [(gaussian_target(1.0, 0.8), gaussian(0.3, -0.4)), (logistic_one_coefficient(), gaussian(-0.5, 0.3))]:
        gradient, value = exact_gradient(exact, q, elbo=True), exact_elbo(exact, q)
        for num_samples in (2, 8):
            assert_unbiased(estimator, exact, q, gradient, value, num_samples=num_samples, num_replicates=4000)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_is_right_passes(name):
    assert_right(ESTIMATORS[name])


# ---- estimators -----------------------------------------------------------------------------------------------------


def baseline_with_its_own_sample(log_joint, q, eps):
    log_q = q.log_prob(z := q.sample(eps))
    f = (log_joint(z) - log_q).detach()
    return value_of(f.mean(0), gradient_of=((f - f.mean(0)) * log_q).mean(0))


def landing_that_detaches_z(log_joint, q, eps):
    z = q.transform(eps).detach()                                                # z held still, and λ not
    return (log_joint(z) - q.log_prob(z)).mean(0)


def naive_loss(log_joint, q, eps):
    z = q.sample(eps)                                                            # no reparameterisation, no score
    return log_joint(z).mean(0) + q.entropy()


def score_that_moves(log_joint, q, eps):
    log_q = q.log_prob(z := q.transform(eps))
    f = (log_joint(z) - log_q).detach()
    return value_of(f.mean(0), gradient_of=(f * log_q).mean(0))


def score_with_f_attached(log_joint, q, eps):
    log_q = q.log_prob(z := q.sample(eps))
    f = log_joint(z) - log_q
    return value_of(f.mean(0), gradient_of=(f * log_q).mean(0))


def forgotten_entropy(log_joint, q, eps):
    return log_joint(q.transform(eps)).mean(0)


def score_without_log_q(log_joint, q, eps):
    z = q.sample(eps)
    return value_of(score_function(log_joint, q, eps), gradient_of=(log_joint(z) * q.log_prob(z)).mean(0))


def entropy_twice(log_joint, q, eps):
    return value_of(pathwise(log_joint, q, eps), gradient_of=pathwise(log_joint, q, eps) + q.entropy())


def sign_flip(log_joint, q, eps):
    return -pathwise(log_joint, q, eps)


def gradient_of_a_loss(log_joint, q, eps):
    return value_of(pathwise(log_joint, q, eps), gradient_of=-pathwise(log_joint, q, eps))


def sum_for_mean(log_joint, q, eps):
    return (log_joint(q.transform(eps)) + q.entropy()).sum(0)


def sigma_squared_for_sigma(log_joint, q, eps):
    z = q.mu + q.stddev.square() * eps                                           # a slip of a slide: z = μ + σ² ε
    return log_joint(z).mean(0) + q.entropy()


def value_of_the_surrogate(log_joint, q, eps):
    log_q = q.log_prob(z := q.sample(eps))
    return ((log_joint(z) - log_q).detach() * log_q).mean(0)                     # right gradient, meaningless value


def coefficient_from_its_own_draws(f, score):
    s2 = score.square()
    return (f.unsqueeze(-1) * s2).sum(0) / s2.sum(0)                             # eq:optimal-baseline, all draws in it


MUTANTS = [
    baseline_with_its_own_sample, landing_that_detaches_z, naive_loss, score_that_moves, score_with_f_attached,
    forgotten_entropy, score_without_log_q, entropy_twice, sign_flip, gradient_of_a_loss, sum_for_mean,
    sigma_squared_for_sigma, value_of_the_surrogate,
    score_function_with(coefficient_from_its_own_draws), score_function_with(lambda f, score: f.mean(0).unsqueeze(-1)),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_mutant_fails(mutant):
    with pytest.raises(AssertionError, match="z = "):
        assert_right(mutant)


# ---- baselines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
def test_a_baseline_that_leaves_out_its_own_passes(baseline):
    assert_leaves_out_its_own(baseline, 8)


@pytest.mark.parametrize("mutant", [
    lambda f, score: f.mean(0).expand_as(f).unsqueeze(-1),
    lambda f, score: coefficient_from_its_own_draws(f, score).expand_as(score),
], ids=["mean", "coefficient"])
def test_a_baseline_with_its_own_sample_fails(mutant):
    with pytest.raises(AssertionError):
        assert_leaves_out_its_own(mutant, 8)
    assert len(BASELINES) == len(LEARNT)


# ---- models ---------------------------------------------------------------------------------------------------------


class NoJacobian(Model):
    def _constrain(self, z):
        return super()._constrain(z)[0], 0.0


class JacobianUpsideDown(Model):
    def _constrain(self, z):
        theta, log_jacobian = super()._constrain(z)
        return theta, -log_jacobian


def log_normal(theta):
    """The density of θ where log θ ~ N(1, 0.8²): as a function of z = log θ it is a Gaussian target."""
    x = theta["x"].log()
    return -0.5 * ((x - 1.0) / 0.8).square() - theta["x"].log() - torch.tensor(0.8).log() - 0.5 * LOG_2PI


def assert_model_has_the_gradient_of_its_density(make) -> None:
    q, known = gaussian(0.3, -0.4), gaussian_target(1.0, 0.8)
    model = make(log_normal, {"x": constraints.positive})
    assert_unbiased(pathwise, model, q, exact_gradient(known, q, elbo=True), num_samples=8, num_replicates=4000)


def test_a_model_with_its_jacobian_passes():
    assert_model_has_the_gradient_of_its_density(Model)


@pytest.mark.parametrize("make", [NoJacobian, JacobianUpsideDown], ids=lambda m: m.__name__)
def test_a_model_without_its_jacobian_fails(make):
    with pytest.raises(AssertionError, match="z = "):
        assert_model_has_the_gradient_of_its_density(make)
    for support in SUPPORTS.values():
        if support is not constraints.real:
            with pytest.raises(AssertionError):
                assert_pays_for_the_change_of_variables(make, support)


# ---- noise ----------------------------------------------------------------------------------------------------------


def too_wide(*args, **options):
    return 1.2 * normal(*args, **options)


def unscrambled(num_samples, batch_shape, dim, *, generator, dtype):
    """The same Sobol points for every replicate: an error, but never a random one."""
    points = torch.quasirandom.SobolEngine(dim).draw(num_samples, dtype=torch.float64) + 0.5 / num_samples
    return torch.special.ndtri(points).unsqueeze(1).expand(num_samples, *batch_shape, dim).to(dtype)


def assert_noise_is_standard_normal(noise) -> None:
    eps = noise(8, (2000,), 1, generator=seeded(), dtype=torch.float64)
    for power, moment in [(1, 0.0), (2, 1.0)]:
        assert_mean(eps.movedim(1, 0) ** power, moment)


@pytest.mark.parametrize("noise", [normal, sobol], ids=lambda n: n.__name__)
def test_right_noise_passes(noise):
    assert_noise_is_standard_normal(noise)


@pytest.mark.parametrize("noise", [too_wide, unscrambled], ids=lambda n: n.__name__)
def test_wrong_noise_fails(noise):
    with pytest.raises(AssertionError, match="z = "):
        assert_noise_is_standard_normal(noise)
