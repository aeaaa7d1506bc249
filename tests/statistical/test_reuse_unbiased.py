"""Draws used again: unbiased for Gaussians, with the variance that quadrature says."""

import pytest
import torch
from helpers import full_rank, gaussian
from statistical.ztest import assert_mean, assert_unbiased, assert_variance, replicates

from vilib import (
    correlated_gaussian, exact_elbo, exact_gradient, expectation, gaussian_target, log_importance_weights,
    logistic_one_coefficient, reweighted_score_function, self_normalized_score_function,
)

pytestmark = pytest.mark.statistical

#: (target, q, q_old): q is never wider than √2 times q_old in any direction.
PROBLEMS = {
    "Gaussian": (gaussian_target(1.0, 0.8), gaussian(0.3, -0.4), gaussian(0.0, 0.0)),
    "logistic": (logistic_one_coefficient(), gaussian(0.2, 0.1), gaussian(0.0, 0.2)),
    "correlated": (correlated_gaussian(0.7), gaussian(0.2, -0.2, 2), gaussian(0.0, 0.2, 2)),
    "from full-rank": (correlated_gaussian(0.7), gaussian(0.0, -0.5, 2), full_rank()),
}


def from_old(estimator, q_old):
    """The estimator for any batch of replicates."""
    return lambda log_joint, q, eps: estimator(log_joint, q, q_old.expand(*q.batch_shape), eps)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("num_samples", [1, 8])
def test_it_is_unbiased(problem, num_samples):
    target, q, q_old = PROBLEMS[problem]
    assert_unbiased(from_old(reweighted_score_function, q_old), target, q, exact_gradient(target, q, elbo=True),
                    exact_elbo(target, q), num_samples=num_samples, num_replicates=8000)


@pytest.mark.parametrize("problem", ["Gaussian", "logistic", "correlated"])
def test_its_variance_is_that_of_w_f_s_over_the_old_q(problem):
    target, q, q_old = PROBLEMS[problem]
    exact = []
    for p in range(q.num_parameters):
        def contribution(z, p=p):
            return log_importance_weights(q, q_old, z).exp() * (target(z) - q.log_prob(z)) * q.score(z)[..., p]
        exact.append(expectation(lambda z: contribution(z) ** 2, q_old) - expectation(contribution, q_old) ** 2)
    _, gradients = replicates(from_old(reweighted_score_function, q_old), target, q, num_samples=16, num_replicates=20_000)
    assert_variance(gradients, torch.stack(exact) / 16)


def test_the_bias_of_the_self_normalised_value_is_seen_and_falls_with_s():
    """With two draws a z-test notices it; with 256 the same test does not."""
    target, q, q_old = PROBLEMS["Gaussian"]
    biased, exact = from_old(self_normalized_score_function, q_old), exact_elbo(target, q)
    values, _ = replicates(biased, target, q, num_samples=2, num_replicates=20_000)
    with pytest.raises(AssertionError, match="z = "):
        assert_mean(values, exact)
    stated = -expectation(lambda z: (2 * log_importance_weights(q, q_old, z)).exp() * (target(z) - q.log_prob(z) - exact), q_old)
    values, _ = replicates(biased, target, q, num_samples=256, num_replicates=4000)
    assert_mean(values, exact + stated / 256)


def test_without_weights_it_would_be_biased():
    target, q, q_old = PROBLEMS["Gaussian"]

    def unweighted(log_joint, q, eps):
        z = q_old.expand(*q.batch_shape).sample(eps)
        f = (log_joint(z) - q.log_prob(z)).detach()
        return (f * q.log_prob(z)).mean(0)

    with pytest.raises(AssertionError, match="gradient: .*z = "):
        assert_unbiased(unweighted, target, q, exact_gradient(target, q, elbo=True), num_samples=8, num_replicates=4000)
