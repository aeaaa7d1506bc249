"""The ELBO taken apart, its estimate from draws, and the models of one unknown: closed forms and quadrature."""

import math

import pytest
import torch
from helpers import gaussian, mean_field, seeded, tensor
from torch.distributions import MultivariateNormal

from vilib import (
    MeanFieldGaussian, NonFiniteLogJoint, NonScalarLogJoint, ShapeError, best_gaussian, coin, elbo_terms, exact_elbo, gaussian_mean,
    gaussian_target, hidden_sign, log_evidence, log_weights_at, logistic_one_coefficient, normal, standard_normal_prior,
)

X = tensor(1.2, 0.4, 1.6, 2.3, -0.5, 1.9, 0.7, 0.1)
TOSSES = tensor(1.0, 1.0, 0.0, 1.0, 1.0)
MODELS = {"gaussian_mean": (gaussian_mean, X), "coin": (coin, TOSSES), "hidden_sign": (hidden_sign, X)}


def q_of(mu: float, sigma: float) -> MeanFieldGaussian:
    return gaussian(mu, math.log(sigma))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.covers("0.2")
def test_both_ways_to_split_the_elbo_add_up(name, count):
    make, data = MODELS[name]
    example = make(data[:count])
    likelihood = lambda z: example(z) - standard_normal_prior(z)  # noqa: E731
    for mu, sigma in [(-1.0, 0.3), (0.0, 1.0), (0.7, 1.6)]:
        q = q_of(mu, sigma)
        terms, elbo = elbo_terms(likelihood, standard_normal_prior, q), exact_elbo(example, q)
        torch.testing.assert_close(terms.elbo, elbo, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(terms.expected_log_likelihood - terms.kl_to_prior, elbo, rtol=1e-12, atol=1e-12)
        assert terms.kl_to_prior.item() == pytest.approx(0.5 * (mu**2 + sigma**2 - 1) - math.log(sigma), abs=1e-11)
        assert terms.entropy.item() == pytest.approx(0.5 * (1 + math.log(2 * math.pi)) + math.log(sigma))


def test_terms_of_a_batch_follow_its_gradient_and_dtype():
    q = mean_field(2, 3, dim=1, dtype=torch.float32)
    mu = q.mu.clone().requires_grad_()
    terms = elbo_terms(lambda z: -z.square().sum(-1), standard_normal_prior, MeanFieldGaussian(mu, q.omega))
    assert terms.elbo.shape == (2, 3) and terms.elbo.dtype == torch.float64
    gradient, = torch.autograd.grad(terms.elbo.sum(), mu)
    torch.testing.assert_close(gradient, -3 * q.mu, rtol=1e-5, atol=1e-6)          # −2μ from the likelihood, −μ from the prior


def test_log_weights_are_log_p_at_the_posterior_and_average_to_the_elbo():
    example = gaussian_mean(X)
    eps = normal(64, (3,), 1, generator=seeded(), dtype=torch.float64)
    at_posterior = log_weights_at(example, example.best[0].expand(3), eps)
    assert at_posterior.shape == (64, 3)
    torch.testing.assert_close(at_posterior, torch.full_like(at_posterior, example.log_evidence), rtol=1e-10, atol=1e-10)
    q = q_of(0.2, 0.6)
    many = log_weights_at(example, q, normal(200_000, (), 1, generator=seeded(1), dtype=torch.float64))
    error = many.std() / len(many) ** 0.5
    assert abs(many.mean() - exact_elbo(example, q)) < 5 * error


def test_log_weights_refuse_what_no_estimator_takes():
    q, eps = q_of(0.0, 1.0), torch.zeros(4, 1, dtype=torch.float64)
    with pytest.raises(ShapeError, match="eps: expected"):
        log_weights_at(gaussian_target(), q, torch.zeros(4, 2, dtype=torch.float64))
    with pytest.raises(NonScalarLogJoint, match="expected log densities"):
        log_weights_at(lambda z: z, q, eps)
    with pytest.raises(NonFiniteLogJoint):
        log_weights_at(lambda z: z[..., 0] * math.nan, q, eps)


@pytest.mark.parametrize("count", [0, 1, 8])
def test_gaussian_mean_against_the_marginal_of_the_data(count):
    """x ~ N(0, I + 11ᵀ)."""
    x, example = X[:count], gaussian_mean(X[:count])
    if count:
        covariance = torch.eye(count, dtype=torch.float64) + 1
        marginal = MultivariateNormal(torch.zeros(count, dtype=torch.float64), covariance).log_prob(x).item()
        assert example.log_evidence == pytest.approx(marginal, abs=1e-12)
    assert example.log_evidence == pytest.approx(log_evidence(example, -9.0, 9.0), abs=1e-9)
    q, elbo = example.best
    assert (q.mean.item(), q.stddev.item()) == pytest.approx((x.sum().item() / (1 + count), (1 + count) ** -0.5))
    assert exact_elbo(example, q).item() == pytest.approx(elbo, abs=1e-9)


def test_a_coin_is_the_logistic_model_with_ones_for_inputs():
    z = torch.linspace(-3, 3, 7, dtype=torch.float64).unsqueeze(-1)
    by_hand = (TOSSES * z - torch.log1p(z.exp())).sum(-1) + standard_normal_prior(z)
    torch.testing.assert_close(coin(TOSSES)(z), by_hand)
    assert coin(torch.ones(1)).log_evidence == pytest.approx(logistic_one_coefficient().log_evidence, abs=1e-12)
    assert coin(TOSSES[:0]).log_evidence == pytest.approx(0, abs=1e-9)


def hidden_sign_elbo(x, mu, sigma):
    """By hand: E[(x − z²)²] = x² − 2x(μ² + σ²) + μ⁴ + 6μ²σ² + 3σ⁴."""
    second, fourth = mu**2 + sigma**2, mu**4 + 6 * mu**2 * sigma**2 + 3 * sigma**4
    fit = -0.5 * (x.square() - 2 * x * second + fourth).sum().item() - 0.5 * len(x) * math.log(2 * math.pi)
    return fit - 0.5 * (second - 1) + math.log(sigma)


@pytest.mark.parametrize("count", [0, 1, 8])
def test_hidden_sign_by_hand(count):
    x = X[:count]
    example = hidden_sign(x)
    for mu, sigma in [(-1.0, 0.2), (0.0, 0.7), (1.4, 1.1)]:
        assert exact_elbo(example, q_of(mu, sigma)).item() == pytest.approx(hidden_sign_elbo(x, mu, sigma), abs=1e-9)
    assert example.best[1] <= example.log_evidence + 1e-12
    other = best_gaussian(example.log_joint, q_of(-0.9, 0.2))[1]
    assert other <= example.best[1] + 1e-9


@pytest.mark.parametrize("name", MODELS)
def test_slopes_by_hand_are_autograd_s(name):
    make, data = MODELS[name]
    example = make(data)
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(-1).requires_grad_()
    by_autograd, = torch.autograd.grad(example(z).sum(), z)
    torch.testing.assert_close(example.slope(z.detach()), by_autograd)
