"""The gradients of a VAE in φ and in θ, and of the importance-weighted bound, have the mean that quadrature says.

Replicates of a gradient in a module's parameters: each datum has parameters of its own, all equal, so the gradient of
the summed value is one independent gradient a datum.
"""

import pytest
import torch
from helpers import ESTIMATORS, FAMILIES, gaussian, seeded
from statistical.ztest import assert_mean, assert_unbiased
from test_iwae import exact_bound
from torch import nn

from vilib import (
    VAE, BernoulliDecoder, MeanFieldGaussian, analytic_kl, doubly_reparameterized, exact_elbo, expected_log_prior, iwae,
    kl_to_standard_normal, logistic_one_coefficient, normal,
)

pytestmark = pytest.mark.statistical
X = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)


class OwnParameters(nn.Module):
    """(N, K) parameters, a row a datum, every row the same."""

    def __init__(self, count, values):
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(values, dtype=torch.float64).expand(count, -1).clone())


class OwnEncoder(OwnParameters):
    def forward(self, x):
        slope, shift, omega = self.rows.unsqueeze(-1).unbind(1)
        return MeanFieldGaussian(slope * x.sum(-1, keepdim=True) + shift, omega)


class OwnBody(OwnParameters):
    def forward(self, z):
        weight, bias = self.rows.chunk(2, -1)                                  # (N, 3) each
        return z * weight + bias


def model(count: int) -> VAE:
    return VAE(OwnEncoder(count, [0.3, -0.2, -0.4]), BernoulliDecoder(OwnBody(count, [1.2, -0.7, 0.4, 0.1, -0.3, 0.8])))


def gradients(vae: VAE, value: torch.Tensor) -> torch.Tensor:
    """(N, 9): three parameters of the encoder, six of the decoder."""
    return torch.cat(torch.autograd.grad(value.sum(), [vae.encoder.rows, vae.decoder.body.rows]), -1)


def exact() -> tuple[torch.Tensor, torch.Tensor]:
    vae, x = model(1), X.expand(1, 3)
    value = exact_elbo(vae.log_joint(x), vae.encode(x))
    return value, gradients(vae, value)[0]


def estimates(estimator, count=10_000, num_samples=4) -> tuple[torch.Tensor, torch.Tensor]:
    vae, x = model(count), X.expand(count, 3)
    eps = normal(num_samples, (count,), 1, generator=seeded(), dtype=torch.float64)
    value = vae.elbo(x, eps, estimator)
    return value.detach(), gradients(vae, value)


@pytest.mark.parametrize("name", [*ESTIMATORS, "analytic_kl"])
def test_both_gradients_of_a_vae_are_unbiased(name):
    value, gradient = exact()
    values, replicates = estimates({**ESTIMATORS, "analytic_kl": analytic_kl}[name])
    assert_mean(values, value[0].detach(), "value")
    assert_mean(replicates, gradient, "gradient in φ and θ")


def test_mutants_of_the_model_gradient_are_caught():
    """The model's term twice for a pathwise estimator, and the KL forgotten."""
    _, gradient = exact()

    def twice(log_joint, q, eps):
        return analytic_kl(log_joint, q, eps) + log_joint(q.sample(eps)).mean(0)

    def without_kl(log_joint, q, eps):
        return analytic_kl(log_joint, q, eps, beta=0.0)

    for mutant in (twice, without_kl):
        with pytest.raises(AssertionError):
            assert_mean(estimates(mutant)[1], gradient)


# ---- the closed-form terms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_closed_form_terms_are_their_monte_carlo_means(family):
    q = FAMILIES[family](3, dim=5)
    z = q.transform(normal(20_000, (3,), 5, generator=seeded(), dtype=torch.float64))
    log_prior, log_q = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1), q.log_prob(z)
    assert_mean(log_prior, expected_log_prior(q), "E log p(z)")
    assert_mean(-log_q, q.entropy(), "−E log q(z)")
    assert_mean(log_q - log_prior, kl_to_standard_normal(q), "KL")


# ---- the importance-weighted bound ----------------------------------------------------------------------------------


def exact_bound_and_gradient(num_draws: int):
    q, log_joint = gaussian(-0.5, 0.2), logistic_one_coefficient()
    vector = q.vector().requires_grad_()
    value = exact_bound(log_joint, q.with_vector(vector), num_draws)
    return log_joint, q, value.detach(), torch.autograd.grad(value, vector)[0]


@pytest.mark.parametrize("estimator", [iwae, doubly_reparameterized])
@pytest.mark.parametrize("num_draws", [1, 2])
def test_the_bound_and_its_gradient_are_unbiased(estimator, num_draws):
    log_joint, q, value, gradient = exact_bound_and_gradient(num_draws)
    assert_unbiased(estimator, log_joint, q, gradient, value, num_samples=num_draws, num_replicates=40_000)


def test_weights_that_are_not_squared_are_caught():
    """Sticking the landing inside the bound leaves out a score whose mean is no longer zero: biased for S > 1."""
    def once(log_joint, q, eps):
        z = q.transform(eps)
        return (log_joint(z) - q.detach().log_prob(z)).logsumexp(0)

    log_joint, q, _, gradient = exact_bound_and_gradient(2)
    with pytest.raises(AssertionError):
        assert_unbiased(once, log_joint, q, gradient, num_samples=2, num_replicates=40_000)


def test_the_bound_is_not_the_elbo():
    """The tests above would see the difference between L_2 and L_1."""
    log_joint, q, _, gradient = exact_bound_and_gradient(1)
    with pytest.raises(AssertionError):
        assert_unbiased(iwae, log_joint, q, gradient, num_samples=2, num_replicates=40_000)
