"""Encoders, decoders and the VAE: exact identities, every estimator, and what is refused."""

import math

import pytest
import torch
from helpers import DEVICES, ESTIMATORS, FAMILIES, PATHWISE, full_rank, mean_field, seeded
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

import vilib
from vilib import (
    VAE, BernoulliDecoder, DataLogJoint, Encoder, FullRankGaussian, GaussianDecoder, MeanFieldGaussian, MissingGenerator,
    NonFiniteLogJoint, NonScalarLogJoint, NotFactorized, ShapeError, VilibError, adam, analytic_kl, digits, doubly_reparameterized, exact_elbo,
    expectation, expected_log_prior, fit, gauss_hermite, gradient_replicates, iwae, kl_to_standard_normal, mlp, mlp_vae, normal,
    pathwise, score_function, sticking_the_landing, with_model_gradient,
)

close = torch.testing.assert_close
ALL = {**ESTIMATORS, "analytic_kl": analytic_kl, "iwae": iwae, "doubly_reparameterized": doubly_reparameterized}
DECODERS = {"bernoulli": BernoulliDecoder, "gaussian": GaussianDecoder}


def small(decoder=BernoulliDecoder, family="mean-field", dim=2, dtype=torch.float64, device="cpu", seed=0) -> VAE:
    """P = 5 inputs, one hidden layer of 6."""
    generator, template = torch.Generator(device).manual_seed(seed), FAMILIES[family](dim=dim, dtype=dtype)
    encoder = Encoder(mlp([5, 6, template.num_parameters], generator=generator, dtype=dtype), template)
    return VAE(encoder, decoder(mlp([dim, 6, 5], generator=generator, dtype=dtype)))


def binary(count=4, dtype=torch.float64, device="cpu") -> torch.Tensor:
    return torch.randint(2, (count, 5), generator=seeded(3)).to(device, dtype)


def noise(num_samples=6, batch=(4,), dim=2, dtype=torch.float64, device="cpu") -> torch.Tensor:
    return normal(num_samples, batch, dim, generator=torch.Generator(device).manual_seed(7), dtype=dtype)


def gradients(value: torch.Tensor, module: nn.Module) -> list[torch.Tensor]:
    return torch.autograd.grad(value.sum(), list(module.parameters()), materialize_grads=True, retain_graph=True)


class Returning(nn.Module):
    """A module that is a function."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


# ---- the closed-form terms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.covers("4.5")
def test_the_closed_form_terms_are_their_integrals(family, dim, batch):
    q = FAMILIES[family](*batch, dim=dim)
    log_prior = lambda z: Normal(0.0, 1.0).log_prob(z).sum(-1)  # noqa: E731
    close(expected_log_prior(q), expectation(log_prior, q))
    close(-q.entropy(), expectation(q.log_prob, q))
    close(kl_to_standard_normal(q), expectation(lambda z: q.log_prob(z) - log_prior(z), q))
    close(kl_to_standard_normal(q), -q.entropy() - expected_log_prior(q))
    assert kl_to_standard_normal(q).shape == batch


def test_the_kl_is_torchs_in_many_dimensions():
    diagonal, full = mean_field(3, dim=20), full_rank(3, dim=20)
    close(kl_to_standard_normal(diagonal), kl_divergence(Normal(diagonal.mean, diagonal.stddev), Normal(0.0, 1.0)).sum(-1))
    prior = torch.distributions.MultivariateNormal(torch.zeros(20).double(), torch.eye(20).double())
    close(kl_to_standard_normal(full),
          kl_divergence(torch.distributions.MultivariateNormal(full.mean, scale_tril=full.scale_tril), prior))


def test_the_kl_of_the_prior_is_zero_and_the_lecture_formula_holds():
    assert kl_to_standard_normal(MeanFieldGaussian(torch.zeros(3), torch.zeros(3))) == 0
    q = mean_field(4, dim=3)
    variance = (2 * q.omega).exp()
    close(kl_to_standard_normal(q), 0.5 * (variance + q.mu.square() - 1 - variance.log()).sum(-1))
    close(expected_log_prior(q), -0.5 * (variance + q.mu.square()).sum(-1) - 1.5 * math.log(2 * math.pi))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_reconstruction_minus_kl_is_the_elbo(decoder, family):
    """By quadrature, so exactly: nodes and weights in the place of the draws."""
    vae, x = small(DECODERS[decoder], family), binary()
    q, log_joint = vae.encode(x), vae.log_joint(x)
    nodes, weights = gauss_hermite(2, 20)
    one_each = torch.stack([analytic_kl(log_joint, q, node.expand(1, 4, 2)) for node in nodes])
    close(weights @ one_each, exact_elbo(log_joint, q, lambda dim: gauss_hermite(dim, 20)))


def test_beta_weighs_the_kl_alone():
    vae, x, eps = small(), binary(), noise()
    q, log_joint = vae.encode(x), vae.log_joint(x)
    plain, heavy = analytic_kl(log_joint, q, eps), analytic_kl(log_joint, q, eps, beta=4.0)
    close(plain - heavy, 3 * kl_to_standard_normal(q))
    close(analytic_kl(log_joint, q, eps, beta=0.0), log_joint.log_likelihood(q.transform(eps)).mean(0))


# ---- every estimator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ALL)
def test_every_estimator_gives_the_elbo_of_each_datum_and_both_gradients(name, decoder, family, dtype, device):
    vae = small(DECODERS[decoder], family, dtype=dtype, device=device)
    x, eps = binary(dtype=dtype, device=device), noise(dtype=dtype, device=device)
    if family == "full-rank" and name.startswith("rao_blackwell"):
        with pytest.raises(NotFactorized, match="FullRankGaussian are not independent"):
            vae.elbo(x, eps, ALL[name])
        return
    value = vae.elbo(x, eps, ALL[name])
    assert value.shape == (4,) and value.dtype == dtype and value.device.type == device
    for part in (vae.encoder, vae.decoder):
        assert all(g.isfinite().all() and (g != 0).any() for g in gradients(value, part))
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    for n in range(4):
        close(value[n], vae.elbo(x[n : n + 1], eps[:, n : n + 1], ALL[name])[0], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_gradient_in_the_model_is_the_mean_of_its_draws(name):
    """∇_θ E_q[log p_θ] = E_q[∇_θ log p_θ], whatever the estimator does for λ; value and λ's gradient are its own."""
    vae, x, eps = small(), binary(), noise()
    q, log_joint = vae.encode(x), vae.log_joint(x)
    value = with_model_gradient(ESTIMATORS[name])(log_joint, q, eps)
    own = ESTIMATORS[name](log_joint, q, eps)
    close(value, own)
    close(gradients(value, vae.encoder), gradients(own, vae.encoder))
    close(gradients(value, vae.decoder), gradients(log_joint(q.sample(eps)).mean(0), vae.decoder))
    alone = torch.cat([g.flatten() for g in gradients(own, vae.decoder)])
    assert bool((alone != 0).any()) == (name in PATHWISE)                # by the score alone, θ would stand still


def test_a_frozen_encoder_still_leaves_the_model_its_gradient():
    vae, x, eps = small(), binary(), noise()
    vae.encoder.requires_grad_(False)
    with torch.no_grad():
        z = vae.encode(x).sample(eps)
    expected = gradients(vae.log_joint(x)(z).mean(0), vae.decoder)
    for estimator in (pathwise, sticking_the_landing, analytic_kl, score_function):
        close(gradients(vae.elbo(x, eps, estimator), vae.decoder), expected)


def test_an_estimator_keeps_its_name_and_its_needs():
    wrapped = with_model_gradient(vilib.leave_one_out)
    assert wrapped.__name__ == "leave_one_out" and wrapped.needs_independent_draws
    assert not with_model_gradient(pathwise).needs_independent_draws
    with pytest.raises(ShapeError, match="at least 2 draws, got 1"):
        small().elbo(binary(), noise(1), vilib.leave_one_out)


def test_replicates_and_fits_take_the_log_joint_as_it_is():
    vae, x = small(), binary()
    q, log_joint = vae.encode(x), vae.log_joint(x)
    options = dict(num_samples=4, generator=seeded())
    assert gradient_replicates(pathwise, log_joint, q.detach(), num_replicates=3, **options).shape == (3, 4, 4)
    before = exact_elbo(log_joint, q)
    done = fit(sticking_the_landing, log_joint, q, num_steps=100, optimizer=adam(0.05), **options)
    assert (exact_elbo(log_joint, done.q) > before).all()


def test_elbo_is_analytic_unless_told_otherwise():
    vae, x, eps = small(), binary(), noise()
    close(vae.elbo(x, eps), analytic_kl(vae.log_joint(x), vae.encode(x), eps))


# ---- decoders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(4,), (3, 4)], ids=str)
def test_decoders_are_torchs_densities(batch):
    x, z = binary(), noise(6, batch)
    body = mlp([2, 5], generator=seeded(), dtype=torch.float64)
    close(BernoulliDecoder(body).log_prob(x, z), Bernoulli(logits=body(z)).log_prob(x).sum(-1))
    for log_scale in (-0.7, torch.linspace(-1, 1, 5)):
        decoder = GaussianDecoder(body, log_scale)
        close(decoder.log_prob(x, z), Normal(body(z), decoder.log_scale.exp()).log_prob(x).sum(-1))


def test_a_bernoulli_decoder_sums_to_one_over_x():
    every_x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 5)
    z = noise(3, (1,)).expand(3, 32, 2)
    close(small().decoder.log_prob(every_x, z).exp().sum(-1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("decoder", [
    small().decoder, GaussianDecoder(mlp([2, 5], generator=seeded(), dtype=torch.float64), torch.linspace(-2, 1, 5)),
    GaussianDecoder(mlp([2, 5], generator=seeded(), dtype=torch.float64), -1.0),
])
def test_one_z_for_all_data_is_that_z_for_each(decoder):
    z, x = noise(6, (1,)), torch.rand(4, 5, generator=seeded(), dtype=torch.float64)
    close(decoder.log_prob(x, z), decoder.log_prob(x, z.expand(6, 4, 2)))
    close(decoder.log_prob(x[:1], z), decoder.log_prob(x, z)[:, :1])


def test_data_may_be_pictures():
    picture = Returning(lambda z: z.unsqueeze(-1).expand(*z.shape, 3))                   # (..., 2) -> (..., 2, 3)
    x, z = torch.rand(4, 2, 3, generator=seeded(), dtype=torch.float64), noise()
    for make in DECODERS.values():
        flat = make(nn.Sequential(picture, nn.Flatten(-2))).log_prob(x.flatten(1), z)
        close(make(picture).log_prob(x, z), flat)
        close(make(picture).log_prob(x, z[:, :1]), make(picture).log_prob(x, z[:, :1].expand(6, 4, 2)))


def test_decoders_draw_what_they_say():
    z, body = torch.zeros(20_000, 1), Returning(lambda z: torch.cat([z - 1, z + 2], -1))
    bernoulli, gaussian = BernoulliDecoder(body), GaussianDecoder(body, math.log(0.5))
    drawn = bernoulli.sample(z, generator=seeded())
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    close(drawn.mean(0), torch.sigmoid(torch.tensor([-1.0, 2.0])), rtol=0, atol=0.02)
    drawn = gaussian.sample(z, generator=seeded())
    close(drawn.mean(0), torch.tensor([-1.0, 2.0]), rtol=0, atol=0.02)
    close(drawn.std(0), torch.tensor([0.5, 0.5]), rtol=0, atol=0.02)
    for decoder in (bernoulli, gaussian):
        with pytest.raises(MissingGenerator):
            decoder.sample(z, generator=None)


def test_the_noise_of_a_gaussian_decoder_is_learnt_or_fixed():
    body = mlp([2, 5], generator=seeded())
    assert GaussianDecoder(body).log_scale.requires_grad and not GaussianDecoder(body, learn_scale=False).log_scale.requires_grad
    log_scale = torch.zeros(5)
    GaussianDecoder(body, log_scale).log_scale.data.add_(1)
    assert (log_scale == 0).all()                                        # the caller's tensor is not the parameter


# ---- encoders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family, kind", [("mean-field", MeanFieldGaussian), ("full-rank", FullRankGaussian)])
@pytest.mark.covers("4.3")
def test_an_encoder_is_a_family_with_one_q_a_datum(family, kind):
    vae, x = small(family=family), binary()
    q = vae.encode(x)
    assert isinstance(q, kind) and q.batch_shape == (4,) and q.dim == 2
    close(q.vector(), vae.encoder.body(x))
    close(vae.encode(x[2:3]).vector()[0], q.vector()[2])


@pytest.mark.parametrize("make, error, message", [
    (lambda x: (x, x), VilibError, r"encoder: expected a family such as MeanFieldGaussian, got a tuple.*mu, omega.*vilib\.Encoder"),
    (lambda x: x, VilibError, r"encoder: expected a family.*got a tensor of shape \(4, 5\)"),
    (lambda x: None, VilibError, "got a NoneType"),
    (lambda x: MeanFieldGaussian(x[0], x[0]), ShapeError, r"one q for each of the N = 4 data, that is batch shape \(4,\), got \(\)"),
    (lambda x: MeanFieldGaussian(x[:3], x[:3]), ShapeError, r"batch shape \(4,\), got \(3,\)"),
    (Encoder(nn.Identity(), mean_field(dim=3)), ShapeError, r"body returned \(4, 5\); a MeanFieldGaussian of D = 3 takes \(N, 6\) = \(4, 6\)"),
])
def test_an_encoder_that_returns_something_else_is_told_so(make, error, message):
    with pytest.raises(error, match=message):
        VAE(Returning(make), small().decoder).elbo(binary(), noise())


def test_a_readers_own_encoder_and_decoder_are_as_good():
    class MyDecoder(nn.Module):
        def log_prob(self, x, z):
            return -(x[:, :2] - z).square().sum(-1)

    vae = VAE(Returning(lambda x: MeanFieldGaussian(x[:, :2], x[:, :2] * 0)), MyDecoder())
    vae.check(binary())
    assert vae.elbo(binary(), noise()).shape == (4,)


# ---- networks -------------------------------------------------------------------------------------------------------


def test_weights_come_from_the_generator_and_from_torchs_law():
    state = torch.get_rng_state()
    one, again, other = (mlp([100, 50, 3], generator=seeded(s)).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in one.items():
        assert torch.equal(value, again[name]) and not torch.equal(value, other[name])
    assert 0.099 < one["0.weight"].abs().max() <= 0.1 and one["2.weight"].abs().max() <= 50**-0.5
    close(one["0.weight"].var(), torch.tensor(0.01 / 3), rtol=0.1, atol=0)


@pytest.mark.parametrize("call, message", [
    (lambda: mlp([3], generator=seeded()), r"widths: at least the number of inputs and of outputs.*got \[3\]"),
    (lambda: mlp([3, 0], generator=seeded()), r"got \[3, 0\]"),
    (lambda: mlp_vae(5, 0, generator=seeded()), r"got \[5, 64, 0\]"),
])
def test_widths_that_are_none_are_refused(call, message):
    with pytest.raises(ShapeError, match=message):
        call()
    with pytest.raises(MissingGenerator):
        mlp([3, 2], generator=None)


@pytest.mark.parametrize("device", DEVICES)
def test_a_ready_vae_mirrors_its_networks(device):
    vae = mlp_vae(5, 2, (7, 3), generator=torch.Generator(device).manual_seed(0), decoder=GaussianDecoder, dtype=torch.float64)
    shapes = [tuple(p.shape) for p in vae.parameters() if p.ndim == 2]
    assert shapes == [(7, 5), (3, 7), (4, 3), (3, 2), (7, 3), (5, 7)]
    assert vae.elbo(binary(device=device), noise(device=device)).shape == (4,)


# ---- what does not fit ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data, error, message", [
    ([[1.0]], ShapeError, r"data: expected a tensor \(N, P\), a row each datum, got a list"),
    (torch.zeros(5).double(), ShapeError, r"data: expected a tensor \(N, P\).*got a tensor of shape \(5,\)"),
    (torch.zeros(0, 5).double(), ShapeError, r"data: it is empty, of shape \(0, 5\)"),
    (torch.zeros(3, 5), VilibError, r"data: torch.float32 on 'cpu', but encoder\S+ is torch.float64.*data\.to\(torch.float64\)"),
    (torch.zeros(3, 5).byte(), VilibError, "data: torch.uint8 on 'cpu'"),
    (torch.tensor([[0.0] * 5, [0, math.nan, 0, 0, 0]]).double(), VilibError, "data: row 1 holds nan or an infinity"),
    (torch.tensor([[0.0] * 5, [0, -math.inf, 0, 0, 0]]).double(), VilibError, "data: row 1 holds nan or an infinity"),
    (torch.full((3, 5), 1.5).double(), VilibError, r"data: a BernoulliDecoder takes values in \[0, 1\], got \[1.5, 1.5\]"),
    (torch.full((3, 5), -0.1).double(), VilibError, r"takes values in \[0, 1\], got \[-0.1, -0.1\]"),
    (torch.zeros(3, 6).double(), ShapeError, r"data: the encoder cannot take rows of shape \(6,\)\. torch says: mat1 and mat2"),
])
def test_data_that_do_not_fit_are_refused(data, error, message):
    with pytest.raises(error, match=message):
        small().check(data)


def test_a_decoder_of_another_width_is_refused():
    vae = VAE(small().encoder, BernoulliDecoder(mlp([2, 7], generator=seeded(), dtype=torch.float64)))
    with pytest.raises(ShapeError, match=r"decoder: for z of shape \(1, 2, 2\).*should return \(1, 2, 5\), got \(1, 2, 7\)"):
        vae.check(binary())


def test_a_decoder_that_does_not_sum_is_refused_by_the_estimators():
    class NotSummed(nn.Module):
        def log_prob(self, x, z):
            return -(x[:, :2] - z).square()

    vae = VAE(small().encoder, NotSummed())
    for estimator in (pathwise, analytic_kl, score_function):
        with pytest.raises((NonScalarLogJoint, RuntimeError)):
            vae.elbo(binary(), noise(), estimator)


def test_a_likelihood_that_is_not_finite_is_reported_with_its_draw():
    class Log(nn.Module):
        def log_prob(self, x, z):
            return z.sum(-1).log()

    with pytest.raises(NonFiniteLogJoint, match="log_joint: returned nan at z = "):
        analytic_kl(DataLogJoint(Log(), binary()), mean_field(4), noise())


# ---- the digits -----------------------------------------------------------------------------------------------------


def test_the_digits_are_the_1797_of_the_uci_test_set():
    images, labels = digits()
    assert images.shape == (1797, 64) and images.dtype == torch.float32 and labels.dtype == torch.int64
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]       # as the archive counts them
    assert torch.equal(images * 16, (images * 16).round()) and images.min() == 0 and images.max() == 1
    assert images[0].reshape(8, 8)[0].mul(16).tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


def test_binary_digits_are_black_or_white():
    grey, white = digits()[0], digits(binary=True)[0]
    assert set(white.unique().tolist()) == {0.0, 1.0} and torch.equal(white, (grey >= 0.5).float())
