"""Draws of an older q, weighed for a newer one."""

import math

import pytest
import torch
from helpers import (
    FAMILIES, bernoulli, by_autograd, categorical, enumerated, every_batch, full_rank, gaussian, mean_field,
    noise_for, tensor,
)

from vilib import (
    FactorizedBernoulli, ShapeError, correlated_gaussian, effective_sample_size, exact_elbo, exact_gradient, expectation,
    log_importance_weights, reweighted_score_function, score_function, self_normalized_score_function,
    value_of,
)

close = torch.testing.assert_close
REUSE = {"plain": reweighted_score_function, "self-normalised": self_normalized_score_function}
every_reuse = pytest.mark.parametrize("estimator", REUSE.values(), ids=REUSE)
every_family = pytest.mark.parametrize(
    "make", [*FAMILIES.values(), bernoulli, categorical], ids=[*FAMILIES, "Bernoulli", "categorical"])
TARGET = correlated_gaussian(0.5)


def from_old(estimator, q_old):
    return lambda log_joint, q, eps: estimator(log_joint, q, q_old, eps)


@every_family
@every_batch
@every_reuse
def test_with_the_old_q_itself_it_is_the_plain_estimator(estimator, batch, make):
    q = make(*batch)
    for num_samples in (1, 8):
        eps = noise_for(q, num_samples)
        for a, b in zip(by_autograd(from_old(estimator, q), TARGET, q, eps), by_autograd(score_function, TARGET, q, eps)):
            close(a, b, rtol=1e-13, atol=1e-13)


@every_family
@every_batch
def test_by_hand(make, batch):
    q_old, q = make(*batch), make(*batch, seed=9)
    z = q_old.sample(noise_for(q))
    w, f = (q.log_prob(z) - q_old.log_prob(z)).exp(), TARGET(z) - q.log_prob(z)
    for estimator, weights in [(reweighted_score_function, w / 8), (self_normalized_score_function, w / w.sum(0))]:
        value, gradient = by_autograd(from_old(estimator, q_old), TARGET, q, noise_for(q))
        close(value, (weights * f).sum(0))
        close(gradient, ((weights * f).unsqueeze(-1) * q.score(z)).sum(0))
        assert value.shape == batch


@every_reuse
def test_log_p_may_be_stored(estimator):
    """It is asked for once, at the old draws, and never differentiated."""
    q_old, q = mean_field(), mean_field(seed=9)
    stored = TARGET(q_old.sample(noise_for(q)))
    for a, b in zip(by_autograd(from_old(estimator, q_old), lambda z: stored, q, noise_for(q)),
                    by_autograd(from_old(estimator, q_old), TARGET, q, noise_for(q))):
        assert torch.equal(a, b)


def test_a_constant_in_the_log_joint_moves_the_self_normalised_value_by_itself():
    q_old, q = mean_field(), mean_field(seed=9)
    value = lambda c: self_normalized_score_function(lambda z: TARGET(z) + c, q, q_old, noise_for(q))  # noqa: E731
    close(value(100.0), value(0.0) + 100)


def test_q_and_q_old_of_another_batch_are_refused():
    with pytest.raises(ShapeError, match=r"eps: expected \(S, \*R, D\) = \(S, 3, 2\) for this q"):
        reweighted_score_function(TARGET, mean_field(), mean_field(3), noise_for(mean_field()))


# ---- effective sample size ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights, worth", [
    ([1.0, 1.0, 1.0, 1.0], 4), ([1.0, 0.0, 0.0, 0.0], 1), ([3.0, 1.0], 1.6), ([2.0, 2.0, 0.0], 2),
])
def test_the_effective_sample_size_by_hand(weights, worth):
    log_weights = tensor(*weights).log()
    assert effective_sample_size(log_weights).item() == pytest.approx(worth)
    assert effective_sample_size(log_weights + 1000).item() == pytest.approx(worth)          # scale does not matter


def test_the_effective_sample_size_of_a_batch_lies_between_one_and_s():
    q_old, q = mean_field(2, 3), mean_field(2, 3, seed=9)
    worth = effective_sample_size(log_importance_weights(q, q_old, q_old.sample(noise_for(q, 50))))
    assert worth.shape == (2, 3) and (worth >= 1).all() and (worth <= 50).all()


def second_moment(q, q_old):
    """E_old[w²] of mean-field Gaussians: Π σ₀²/(σ √(2σ₀² − σ²)) · exp((μ − μ₀)²/(2σ₀² − σ²)), finite while σ² < 2σ₀²."""
    left = 2 * q_old.stddev**2 - q.stddev**2
    return (q_old.stddev**2 / (q.stddev * left.sqrt()) * ((q.mu - q_old.mu) ** 2 / left).exp()).prod(-1)


PAIRS = [
    (gaussian(0.3, -0.2), gaussian(0.0, 0.0)), (gaussian(0.0, 0.1), gaussian(0.2, 0.0)),
    (mean_field(seed=1), gaussian(0.0, 0.3, dim=2)),
]


@pytest.mark.parametrize("q, q_old", PAIRS)
def test_the_second_moment_of_the_weights_and_the_effective_sample_size_it_predicts(q, q_old):
    exact = second_moment(q, q_old)
    close(expectation(lambda z: (2 * log_importance_weights(q, q_old, z)).exp(), q_old), exact, rtol=1e-9, atol=0)
    close(expectation(lambda z: log_importance_weights(q, q_old, z).exp(), q_old), tensor(1.0)[0], rtol=1e-9, atol=0)
    num_samples = 2**17
    log_weights = log_importance_weights(q, q_old, q_old.sample(noise_for(q_old, num_samples)))
    close(effective_sample_size(log_weights) / num_samples, 1 / exact, rtol=0.03, atol=0)


# ---- exactly, over every set of draws -------------------------------------------------------------------------------


DISCRETE = [(bernoulli(), bernoulli(seed=9)), (categorical(), categorical(seed=9))]


@pytest.mark.parametrize("q, q_old", DISCRETE, ids=["Bernoulli", "categorical"])
@pytest.mark.parametrize("num_samples", [1, 2, 3])
def test_the_plain_one_is_exactly_unbiased(num_samples, q, q_old):
    value, gradient, _ = enumerated(reweighted_score_function, TARGET, q, num_samples, draws_of=q_old)
    close(value, exact_elbo(TARGET, q))
    close(gradient, exact_gradient(TARGET, q, elbo=True), rtol=1e-10, atol=1e-10)


def without_weights(log_joint, q, q_old, eps):
    z = q_old.sample(eps)
    f = (log_joint(z) - q.log_prob(z)).detach()
    return value_of(f.mean(0), gradient_of=(f * q.log_prob(z)).mean(0))


def upside_down(log_joint, q, q_old, eps):
    z = q_old.sample(eps)
    f = (log_joint(z) - q.log_prob(z)).detach() * log_importance_weights(q_old, q, z).exp()
    return value_of(f.mean(0), gradient_of=(f * q.log_prob(z)).mean(0))


def weighs_the_value_alone(log_joint, q, q_old, eps):
    return value_of(reweighted_score_function(log_joint, q, q_old, eps), gradient_of=without_weights(log_joint, q, q_old, eps))


@pytest.mark.parametrize("mutant", [without_weights, upside_down, weighs_the_value_alone], ids=lambda m: m.__name__)
def test_a_mutant_is_biased(mutant):
    for q, q_old in DISCRETE:
        gradient = enumerated(mutant, TARGET, q, 2, draws_of=q_old)[1]
        assert (gradient - exact_gradient(TARGET, q, elbo=True)).abs().max() > 0.01


def test_the_bias_of_the_self_normalised_one_is_the_one_it_states():
    """S · bias → −E_old[w² (h − I)], h = f for the value and f s for the gradient: the rest halves when S doubles."""
    q, q_old = FactorizedBernoulli(tensor(0.4)), FactorizedBernoulli(tensor(-0.3))
    log_p = lambda z: 1.2 * z[..., 0] - 0.7  # noqa: E731
    z = q.states()
    w, f = log_importance_weights(q, q_old, z).exp(), log_p(z) - q.log_prob(z)
    h = torch.cat([f.unsqueeze(-1), f.unsqueeze(-1) * q.score(z)], -1)
    exact = torch.stack([exact_elbo(log_p, q), exact_gradient(log_p, q, elbo=True)[0]])
    stated = -(q_old.log_prob(z).exp().unsqueeze(-1) * w.unsqueeze(-1) ** 2 * (h - exact)).sum(0)
    rest = []
    for num_samples in (6, 12):
        value, gradient, _ = enumerated(self_normalized_score_function, log_p, q, num_samples, draws_of=q_old)
        bias = torch.stack([value, gradient[0]]) - exact
        assert (bias.abs() > 1e-4).all()
        rest.append(num_samples * bias - stated)
    close(rest[1] / rest[0], tensor(0.5, 0.5), rtol=0.25, atol=0)
    assert (rest[1].abs() < 0.2 * stated.abs()).all()


def test_the_variance_is_infinite_beyond_root_two():
    """E_old[w²] grows without bound as σ → √2 σ₀ from below, as the docstring says."""
    near = [second_moment(gaussian(0.0, math.log(math.sqrt(2) - gap)), gaussian()).item() for gap in (1e-2, 1e-4, 1e-6)]
    assert near[0] > 4 and near[1] > 40 and near[2] > 400


def test_draws_of_a_full_rank_q_serve_a_mean_field_one():
    """The two need not be of one family."""
    q_old, q = full_rank(), mean_field()
    value, gradient = by_autograd(from_old(reweighted_score_function, q_old), TARGET, q, noise_for(q))
    assert value.isfinite() and gradient.shape == (4,)
