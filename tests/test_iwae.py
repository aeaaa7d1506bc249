"""The importance-weighted bound: its value, that it rises, and its two gradients."""

import math

import pytest
import torch
from helpers import FAMILIES, by_autograd, gaussian, mean_field, readers_model, seeded
from test_amortized import binary, noise, small

from vilib import (
    FullRankGaussian, MeanFieldGaussian, NotReparameterizable, ShapeError, adam, correlated_gaussian, doubly_reparameterized,
    exact_elbo, fit, gaussian_target, iwae, log_evidence, logistic_one_coefficient, normal, sticking_the_landing,
    total_derivative, trapezoid,
)

close = torch.testing.assert_close
BOTH = [iwae, doubly_reparameterized]


def exact_bound(log_joint, q, num_draws: int) -> torch.Tensor:
    """L_1 or L_2 of a q in one dimension by the trapezoid rule, differentiable in λ."""
    eps, weights = trapezoid(num_draws, 801 if num_draws == 2 else None)                # (G, num_draws)
    z = q.transform(eps.mT.unsqueeze(-1).flatten(0, 1)).reshape(num_draws, -1, 1)       # one draw a row
    log_w = log_joint(z) - q.log_prob(z)
    return weights @ (log_w.logsumexp(0) - math.log(num_draws))


# ---- the value ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", BOTH)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_bound_keeps_the_shape_law(family, batch, estimator):
    q, model = FAMILIES[family](*batch), readers_model()
    eps = normal(6, batch, 2, generator=seeded(), dtype=torch.float64)
    value, gradient = by_autograd(estimator, model, q, eps)
    assert value.shape == batch and gradient.shape == (*batch, q.num_parameters) and (gradient != 0).all()
    z = q.transform(eps)
    close(value, (model(z) - q.log_prob(z)).exp().mean(0).log())
    for at in [(0,) * len(batch), tuple(n - 1 for n in batch)]:
        close(value[at], estimator(model, q.with_vector(q.vector()[at]), eps[(slice(None), *at)]))


@pytest.mark.parametrize("m", [0.0, 0.5, -2.0])
def test_one_draw_of_a_shifted_normal_is_minus_half_the_square_of_the_shift(m):
    """q = N(m, 1), p = N(0, 1): log w = −mε − m²/2, so L_1 = −m²/2."""
    q, target = gaussian(m), gaussian_target(0.0, 1.0)
    assert exact_bound(target, q, 1).item() == pytest.approx(-m * m / 2, abs=1e-12)
    eps = normal(1, (), 1, generator=seeded(), dtype=torch.float64)
    assert iwae(target, q, eps).item() == pytest.approx(-m * eps.item() - m * m / 2, abs=1e-12)


def test_more_draws_never_lower_the_bound():
    """log of a mean ≥ mean of the logs: it holds for every set of draws, split in any way, and so for the bounds."""
    q, log_joint = mean_field(500, dim=1), logistic_one_coefficient()
    eps = normal(64, (500,), 1, generator=seeded(), dtype=torch.float64)
    bounds = [torch.stack([iwae(log_joint, q, part) for part in eps.split(k)]).mean(0) for k in (1, 2, 4, 8, 16, 32, 64)]
    for lower, higher in zip(bounds, bounds[1:]):
        assert (higher >= lower - 1e-12).all() and (higher > lower).all()


def test_the_bound_rises_from_the_elbo_to_the_evidence():
    q, log_joint = gaussian(-0.5, 0.2), logistic_one_coefficient()
    first, second = exact_bound(log_joint, q, 1), exact_bound(log_joint, q, 2)
    close(first, exact_elbo(log_joint, q))
    evidence = log_evidence(log_joint, -12.0, 12.0)
    assert first < second < evidence == pytest.approx(-math.log(2))
    eps = normal(2**20, (), 1, generator=seeded(), dtype=torch.float64)
    assert iwae(log_joint, q, eps).item() == pytest.approx(evidence, abs=0.005)


@pytest.mark.parametrize("estimator", BOTH)
def test_where_q_is_the_posterior_one_draw_says_it_all(estimator):
    target = correlated_gaussian(0.8)
    chol = torch.linalg.cholesky(torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64))
    q = FullRankGaussian(torch.zeros(2, dtype=torch.float64), chol.tril(-1) + torch.diag(chol.diagonal().log()))
    for count in (1, 5):
        value, gradient = by_autograd(estimator, target, q, normal(count, (), 2, generator=seeded(), dtype=torch.float64))
        assert value.item() == pytest.approx(0.0, abs=1e-12)
        if estimator is doubly_reparameterized:
            assert gradient.abs().max() < 1e-12


# ---- the gradients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_with_one_draw_they_are_the_gradients_of_the_elbo(family):
    q, eps = FAMILIES[family](3), normal(1, (3,), 2, generator=seeded(), dtype=torch.float64)
    for weighted, plain in [(iwae, total_derivative), (doubly_reparameterized, sticking_the_landing)]:
        for a, b in zip(by_autograd(weighted, readers_model(), q, eps), by_autograd(plain, readers_model(), q, eps)):
            close(a, b)


def test_the_doubly_reparameterized_gradient_is_the_formula():
    """Σ w̄² (∂ log w/∂z)(∂z/∂λ), each factor by hand for a Gaussian target and a mean-field q."""
    q, eps = gaussian(0.7, -0.3), normal(5, (), 1, generator=seeded(), dtype=torch.float64)
    z = q.transform(eps)[:, 0]
    slope = -(z - 2.0) / 0.5**2 + (z - 0.7) / q.stddev**2
    w = (gaussian_target(2.0, 0.5)(z.unsqueeze(-1)) - q.log_prob(z.unsqueeze(-1))).softmax(0)
    by_mu, by_omega = (w**2 * slope).sum(), (w**2 * slope * eps[:, 0] * q.stddev).sum()
    close(by_autograd(doubly_reparameterized, gaussian_target(2.0, 0.5), q, eps)[1], torch.stack([by_mu, by_omega]))


def test_both_have_the_same_gradient_in_the_model():
    vae, x, eps = small(), binary(), noise()
    values = [vae.elbo(x, eps, estimator).sum() for estimator in BOTH]
    one, other = ([*torch.autograd.grad(value, list(vae.decoder.parameters()))] for value in values)
    close(values[0], values[1])
    close(one, other)
    with torch.no_grad():
        z = vae.encode(x).sample(eps)
        w = (vae.log_joint(x)(z) - vae.encode(x).log_prob(z)).softmax(0)
    by_hand = torch.autograd.grad((w * vae.log_joint(x)(z)).sum(), list(vae.decoder.parameters()))
    close(one, [*by_hand])


def test_a_fit_climbs_the_bound():
    q0, log_joint = gaussian(-1.0, 0.5), logistic_one_coefficient()
    for estimator in BOTH:
        done = fit(estimator, log_joint, q0, num_samples=8, num_steps=300, optimizer=adam(0.03), generator=seeded())
        assert exact_bound(log_joint, done.q, 2) > exact_bound(log_joint, q0, 2) + 0.1


@pytest.mark.parametrize("estimator", BOTH)
def test_what_does_not_fit_is_refused(estimator):
    with pytest.raises(ShapeError, match=r"eps: expected \(S, \*R, D\)"):
        estimator(gaussian_target(), gaussian(), torch.zeros(3, 2, 2).double())
    with pytest.raises(NotReparameterizable):
        estimator(gaussian_target(), object(), torch.zeros(3, 1))
    assert isinstance(gaussian(), MeanFieldGaussian)
