"""Probabilistic PCA in closed form, and a linear VAE that is trained to it."""

import math

import pytest
import torch
from helpers import full_rank, mean_field, seeded
from torch.distributions import MultivariateNormal

from vilib import (
    GaussianDecoder, LinearVAE, MissingGenerator, ShapeError, VilibError, adam, data_log_evidence, exact_elbo, ppca,
    sticking_the_landing, train,
)

close = torch.testing.assert_close


def data(count=200, num_inputs=6, rank=2, noise=0.5, seed=0) -> torch.Tensor:
    generator = seeded(seed)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(count, rank) @ draw(rank, num_inputs) + noise * draw(count, num_inputs) + draw(num_inputs)


def linear(num_inputs=6, num_latent=2, seed=0) -> LinearVAE:
    return LinearVAE(num_inputs, num_latent, generator=seeded(seed), dtype=torch.float64)


def solved(x, num_latent=2) -> LinearVAE:
    """A linear VAE that holds the closed form: decoder W, b, σ; encoder M⁻¹Wᵀ(x − b), σ²M⁻¹."""
    exact, vae = ppca(x, num_latent), linear(x.shape[1], num_latent)
    precision = exact.weights.square().sum(0) + exact.noise_variance
    encode = vae.encoder.body
    with torch.no_grad():
        vae.decoder.body[0].weight.copy_(exact.weights), vae.decoder.body[0].bias.copy_(exact.mean)
        vae.decoder.log_scale.copy_(0.5 * exact.noise_variance.log())
        encode.mean[0].weight.copy_(exact.weights.mT / precision.unsqueeze(-1))
        encode.mean[0].bias.copy_(-encode.mean[0].weight @ exact.mean)
        encode.omega.copy_(0.5 * (exact.noise_variance / precision).log())
    return vae


# ---- the closed form ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_latent", [1, 2, 5])
def test_the_log_likelihood_is_that_of_the_gaussian(num_latent):
    x = data()
    exact = ppca(x, num_latent)
    covariance = exact.weights @ exact.weights.mT + exact.noise_variance * torch.eye(6, dtype=torch.float64)
    log_p = MultivariateNormal(exact.mean, covariance).log_prob(x)
    close(exact.log_prob(x), log_p)
    assert exact.log_likelihood == pytest.approx(log_p.sum().item(), rel=1e-12)


def test_the_solution_is_a_maximum():
    """Its gradient in W, b and log σ is zero, and no step from it is a gain."""
    x = data()
    exact = ppca(x, 2)

    def log_likelihood(vector):
        weights, mean, log_scale = vector.split([12, 6, 1])
        covariance = weights.reshape(6, 2) @ weights.reshape(6, 2).mT + (2 * log_scale).exp() * torch.eye(6, dtype=torch.float64)
        return MultivariateNormal(mean, covariance).log_prob(x).sum()

    at = torch.cat([exact.weights.flatten(), exact.mean, 0.5 * exact.noise_variance.log().reshape(1)]).requires_grad_()
    assert torch.autograd.grad(log_likelihood(at), at)[0].abs().max() < 1e-8
    for _ in range(20):
        step = 0.05 * torch.randn(19, generator=seeded(_), dtype=torch.float64)
        assert log_likelihood(at.detach() + step) < exact.log_likelihood


def test_eigenvalues_and_noise_are_those_of_the_covariance():
    x = data()
    exact = ppca(x, 2)
    close(exact.eigenvalues, torch.linalg.eigvalsh(torch.cov(x.mT, correction=0)).flip(0))
    close(exact.noise_variance, exact.eigenvalues[2:].mean())
    close(exact.weights.mT @ exact.weights, torch.diag(exact.eigenvalues[:2] - exact.noise_variance))
    total = 6 * math.log(2 * math.pi) + exact.eigenvalues[:2].log().sum() + 4 * exact.noise_variance.log() + 6
    assert exact.log_likelihood == pytest.approx(-100 * total.item(), rel=1e-12)


def test_the_posterior_is_bayes_rule():
    """p(z | x) p(x) = p(x | z) p(z) at any z."""
    x = data(5)
    exact, vae = ppca(data(), 2), solved(data())
    z = torch.randn((3, 5, 2), generator=seeded(), dtype=torch.float64)
    close(exact.posterior(x).log_prob(z) + exact.log_prob(x), vae.log_joint(x)(z))
    q = vae.exact_posterior(x)
    close(q.log_prob(z) + vae.exact_log_evidence(x), vae.log_joint(x)(z))
    close(q.mean, exact.posterior(x).mean)
    close(q.covariance, exact.posterior(x).covariance, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("x, num_latent, error, message", [
    (data(), 6, ShapeError, r"num_latent: expected 1 ≤ num_latent < P.*got 6 for data of shape \(200, 6\)"),
    (data(), 0, ShapeError, "got 0"), (data()[0], 1, ShapeError, r"shape \(6,\)"),
    (data(noise=0.0), 2, VilibError, "data: 2 dimensions hold all of it, so σ² is 0"),
    (data(3), 2, VilibError, "Take fewer than 2, or more rows than 3"),
    (data() * torch.nan, 2, VilibError, "data: row 0 holds nan or an infinity"),
])
def test_data_without_a_solution_are_refused(x, num_latent, error, message):
    with pytest.raises(error, match=message):
        ppca(x, num_latent)


# ---- the linear VAE -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_latent", [1, 2, 4])
def test_at_the_solution_the_elbo_is_the_log_likelihood(num_latent):
    x = data(rank=4)
    vae = solved(x, num_latent)
    close(vae.exact_elbo(x), vae.exact_log_evidence(x))
    assert vae.exact_elbo(x).sum().item() == pytest.approx(ppca(x, num_latent).log_likelihood, rel=1e-12)


def test_the_exact_elbo_is_the_integral_for_any_q():
    vae, x = linear(), data(3)
    for q in (vae.encode(x), mean_field(3), full_rank(3), vae.exact_posterior(x)):
        close(vae.exact_elbo(x, q), exact_elbo(vae.log_joint(x), q), rtol=1e-9, atol=1e-9)
    close(vae.exact_elbo(x), vae.exact_elbo(x, vae.encode(x)))
    close(vae.exact_elbo(x, vae.exact_posterior(x)), vae.exact_log_evidence(x))


def test_the_evidence_is_the_integral():
    vae, x = linear(), data(4)
    close(data_log_evidence(vae, x), vae.exact_log_evidence(x))


def test_the_elbo_never_passes_the_likelihood():
    x = data()
    best = ppca(x, 2).log_likelihood / len(x)
    for seed in range(20):
        vae = linear(seed=seed)
        assert vae.exact_elbo(x).mean() < vae.exact_log_evidence(x).mean() < best


def test_the_gap_of_a_turned_solution_is_what_mean_field_costs():
    """W R explains the data as well as W, but its posterior is correlated: ½ (Σ log Λ_ii − log |Λ|), Λ = M/σ²."""
    x = data()
    vae, exact = solved(x), ppca(x, 2)
    turn = torch.linalg.qr(torch.randn((2, 2), generator=seeded(), dtype=torch.float64))[0]
    with torch.no_grad():
        vae.decoder.body[0].weight.copy_(exact.weights @ turn)
        precision = turn.mT @ (exact.weights.mT @ exact.weights) @ turn / exact.noise_variance + torch.eye(2)
        vae.encoder.body.mean[0].weight.copy_(turn.mT @ vae.encoder.body.mean[0].weight)
        vae.encoder.body.mean[0].bias.copy_(turn.mT @ vae.encoder.body.mean[0].bias)
        vae.encoder.body.omega.copy_(-0.5 * precision.diagonal().log())
    close(vae.exact_log_evidence(x), exact.log_prob(x))
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    assert gap > 0.05
    close(vae.exact_log_evidence(x) - vae.exact_elbo(x), gap.expand(len(x)))


@pytest.mark.parametrize("seed", range(3))
def test_training_reaches_the_closed_form(seed):
    """From any first weights: the ELBO, the subspace, the noise, and columns of W that have turned orthogonal."""
    x, num_epochs = data(), 2000
    vae, exact = linear(seed=seed), ppca(x, 2)
    train(vae, x, num_epochs=num_epochs, batch_size=len(x), optimizer=adam(0.03, lambda t: 1 - t / num_epochs),
          generator=seeded(seed), estimator=sticking_the_landing)
    with torch.no_grad():
        short = exact.log_likelihood / len(x) - vae.exact_elbo(x).mean().item()
        gram = vae.weights.mT @ vae.weights
        assert 0 <= short < 0.002
        close(vae.weights @ vae.weights.mT, exact.weights @ exact.weights.mT, rtol=0.05, atol=0.05)
        close(vae.noise_variance, exact.noise_variance, rtol=0.02, atol=0)
        assert gram[0, 1].square() < 0.01 * gram[0, 0] * gram[1, 1]


def test_minibatches_reach_it_too():
    x, num_epochs = data(), 150
    vae = linear()
    train(vae, x, num_epochs=num_epochs, batch_size=40, optimizer=adam(0.03, lambda t: 1 - t / (5 * num_epochs)), generator=seeded())
    assert 0 <= ppca(x, 2).log_likelihood / len(x) - vae.exact_elbo(x).mean().item() < 0.03


def test_its_first_weights_need_a_generator():
    with pytest.raises(MissingGenerator):
        LinearVAE(6, 2, generator=None)
    with pytest.raises(ShapeError, match="widths"):
        LinearVAE(6, 0, generator=seeded())
    assert isinstance(linear().decoder, GaussianDecoder) and linear().encoder.body.omega.requires_grad
