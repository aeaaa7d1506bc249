"""The gap and its two parts, where all is known and where it is not."""

import math

import pytest
import torch
from helpers import FAMILIES, seeded
from test_amortized import binary, small
from test_linear_vae import data, linear, solved
from torch import nn

from vilib import (
    VAE, AmortizationGap, Encoder, GaussianDecoder, LinearVAE, MeanFieldGaussian, MissingGenerator, ShapeError, VilibError, adam,
    amortization_gap, analytic_kl, best_gaussian, data_log_evidence, mlp, normal, train,
)

close = torch.testing.assert_close


def mean_field_gap(vae: LinearVAE, x) -> torch.Tensor:
    """½ (Σ log Λ_ii − log |Λ|) for the posterior precision Λ, the same for every x."""
    precision = torch.linalg.inv(vae.exact_posterior(x).covariance)
    return 0.5 * (precision.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(precision))


# ---- where all is known ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_latent", [1, 2])
def test_both_parts_of_a_linear_vae_are_the_closed_form(num_latent):
    vae, x = linear(num_latent=num_latent), data(5)
    gap = amortization_gap(vae, x, num_steps=400)
    with torch.no_grad():
        whole, family = vae.exact_log_evidence(x) - vae.exact_elbo(x), mean_field_gap(vae, x)
    assert gap.exact
    close(gap.log_evidence, vae.exact_log_evidence(x).detach(), rtol=0, atol=1e-8)
    close(gap.elbo, vae.exact_elbo(x).detach(), rtol=0, atol=1e-8)
    close(gap.inference, whole, rtol=0, atol=1e-8)
    close(gap.approximation, family, rtol=0, atol=1e-5)
    close(gap.amortization, whole - family, rtol=0, atol=1e-5)
    close(gap.inference, gap.approximation + gap.amortization)


@pytest.mark.parametrize("num_latent", [1, 2])
def test_there_is_no_gap_at_all_at_the_solution(num_latent):
    x = data()
    gap = amortization_gap(solved(x, num_latent), x[:20], num_steps=20)
    for part in (gap.inference, gap.approximation, gap.amortization):
        close(part, torch.zeros_like(part), rtol=0, atol=1e-8)


def test_three_dimensions_by_sampling():
    """log p(x) is then a bound from below, close to it here; the ELBOs are right to their Monte Carlo error."""
    vae, x = linear(num_latent=3), data(5)
    gap = amortization_gap(vae, x, num_steps=600, num_importance=20_000, generator=seeded())
    with torch.no_grad():
        whole, family = vae.exact_log_evidence(x) - vae.exact_elbo(x), mean_field_gap(vae, x)
    assert not gap.exact
    close(gap.log_evidence, vae.exact_log_evidence(x).detach(), rtol=0, atol=0.03)
    close(gap.best_elbo, (vae.exact_log_evidence(x) - family).detach(), rtol=0, atol=0.05)
    close(gap.elbo, vae.exact_elbo(x).detach(), rtol=0.01, atol=0.05)
    close(gap.amortization, whole - family, rtol=0.02, atol=0.1)
    again = amortization_gap(vae, x, num_steps=600, num_importance=20_000, generator=seeded())
    assert torch.equal(gap.inference, again.inference)


def test_the_best_q_is_newtons():
    """On a nonlinear decoder: the same optimum as the one found by another method."""
    vae, x = small(dim=1), binary(3)
    gap = amortization_gap(vae, x, num_steps=500)
    for n in range(3):
        one = vae.log_joint(x[n : n + 1])
        q, elbo = best_gaussian(lambda z: one(z.unsqueeze(-2)).squeeze(-1), gap.q.with_vector(gap.q.vector()[n]))  # noqa: B023
        assert gap.best_elbo[n].item() == pytest.approx(elbo, abs=1e-6)
        close(gap.best.vector()[n], q.vector(), rtol=0, atol=1e-3)


# ---- what always holds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_neither_part_is_negative(family, dim, seed):
    gap = amortization_gap(small(family=family, dim=dim, seed=seed), binary(6), num_steps=60)
    assert (gap.amortization >= 0).all() and (gap.approximation >= -1e-6).all() and gap.best.batch_shape == (6,)
    assert gap.amortization.max() > 0.01                                          # an untrained encoder: there is a gap


def test_the_best_is_kept_even_if_the_climb_is_wild():
    gap = amortization_gap(small(), binary(6), num_steps=30, optimizer=adam(3.0))
    assert (gap.amortization >= 0).all()
    assert (amortization_gap(small(), binary(6), num_steps=0).amortization == 0).all()


def test_a_full_rank_q_costs_a_linear_model_nothing():
    vae, x = linear(), data(4)
    template = FAMILIES["full-rank"]()
    full = VAE(Encoder(mlp([6, 5], generator=seeded(), dtype=torch.float64), template), vae.decoder)
    gap = amortization_gap(full, x, num_steps=1500)
    close(gap.approximation, torch.zeros_like(gap.approximation), rtol=0, atol=1e-4)
    assert (gap.amortization > 0.1).all()


def test_a_wider_encoder_closes_the_amortisation_gap():
    """One fixed decoder that folds the latent; its data; encoders that are linear and that have 32 units, trained alike."""
    class Fold(nn.Module):
        def forward(self, z):
            return torch.cat([2 * z.square() - 1, 3 * torch.sin(2 * z), z, 2 * z], -1)

    decoder = GaussianDecoder(Fold(), math.log(0.5), learn_scale=False).double()
    latent = normal(1, (400,), 1, generator=seeded(1), dtype=torch.float64)[0]
    x = decoder.sample(latent, generator=seeded(2))
    gaps = []
    for hidden in ([], [32]):
        body = mlp([4, *hidden, 2], generator=seeded(3), dtype=torch.float64)
        vae = VAE(Encoder(body, MeanFieldGaussian(torch.zeros(1), torch.zeros(1))), decoder)
        train(vae, x, num_epochs=150, batch_size=100, optimizer=adam(0.01), generator=seeded(4), num_samples=4)
        gaps.append(amortization_gap(vae, x[:60]).amortization.mean().item())
    linear_gap, wide_gap = gaps
    assert 0 <= wide_gap < 0.5 * linear_gap


def test_the_vae_and_the_random_state_are_left_as_they_were():
    vae, x, state = small(dtype=torch.float32), binary(dtype=torch.float32), torch.get_rng_state()
    before = [p.detach().clone() for p in vae.parameters()]
    gap = amortization_gap(vae, x, num_steps=5)
    assert all(torch.equal(a, b) and b.requires_grad and b.grad is None for a, b in zip(before, vae.parameters()))
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(gap, AmortizationGap) and gap.inference.dtype == torch.float64 and not gap.inference.requires_grad
    close(gap.q.mean.float(), vae.encode(x).mean.detach())


def test_the_elbo_is_that_of_the_estimators():
    vae, x = small(), binary()
    gap = amortization_gap(vae, x, num_steps=0, num_nodes=40)
    eps = normal(200_000, (4,), 2, generator=seeded(), dtype=torch.float64)
    close(gap.elbo, analytic_kl(vae.log_joint(x), vae.encode(x), eps).detach(), rtol=0, atol=0.01)


# ---- the evidence, and what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2])
def test_the_evidence_of_every_x_sums_to_one(dim):
    """All 32 binary x of five pixels: Σ p(x) = 1."""
    every_x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 5)
    assert data_log_evidence(small(dim=dim), every_x).exp().sum().item() == pytest.approx(1.0, abs=1e-10)


def test_many_data_are_the_same_as_few():
    """Nodes are taken in chunks, and what is in a chunk does not matter."""
    vae, x = linear(), data(3000)
    together = data_log_evidence(vae, x, num_nodes=101)
    close(together, vae.exact_log_evidence(x).detach())
    close(together[:3], data_log_evidence(vae, x[:3], num_nodes=101))


def test_a_narrow_posterior_needs_more_nodes_and_a_far_one_more_reach():
    vae, x = linear(num_latent=1), data(5)
    with torch.no_grad():
        vae.weights.mul_(1000)
    with pytest.raises(VilibError, match="num_nodes: 401 a dimension are too few for datum 0: every second one.*Take more"):
        data_log_evidence(vae, x, num_nodes=401)
    with pytest.raises(VilibError, match="num_nodes: an odd number"):
        data_log_evidence(vae, x, num_nodes=400)
    far = linear(num_latent=1)
    with torch.no_grad():
        far.decoder.log_scale.fill_(-3.0)
    with pytest.raises(VilibError, match=r"reach: the posterior of datum \d is not over at the edge of \[−1, 1\]. Take a larger reach"):
        data_log_evidence(far, data(5) + 20, reach=1.0)


def test_more_than_two_dimensions_need_a_generator_and_have_no_quadrature():
    vae, x = linear(num_latent=3), data(5)
    with pytest.raises(MissingGenerator):
        amortization_gap(vae, x)
    with pytest.raises(ShapeError, match="quadrature reaches two dimensions, this latent has 3; see vilib.iwae for a bound"):
        data_log_evidence(vae, x)


def test_a_decoder_that_does_not_broadcast_is_told_what_is_needed():
    class OneByOne(nn.Module):
        def log_prob(self, x, z):
            return -(x[: z.shape[-2], :1] - z).square().sum(-1)

    vae = VAE(small(dim=1).encoder, OneByOne())
    with pytest.raises(ShapeError, match=r"decoder: log_prob\(x, z\) should broadcast z \(\d+, 1, 1\) against the 4 data"):
        data_log_evidence(vae, binary())


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="data: it is empty"):
        amortization_gap(small(), binary()[:0])
    with pytest.raises(VilibError, match="row 0 holds nan"):
        data_log_evidence(small(), binary() * torch.nan)
