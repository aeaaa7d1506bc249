"""Coordinate ascent and the best factorised Gaussian, against closed forms, quadrature and gradients."""

import math

import pytest
import torch
from helpers import full_rank, mean_field, seeded, tensor

from vilib import (
    FullRankGaussian, MeanFieldGaussian, NotConverged, ShapeError, VilibError, best_gaussian, closest_mean_field,
    closest_mean_field_forward, coordinate_ascent, correlated_gaussian, forward_kl, gaussian_kl, gaussian_of, gaussian_updates,
    moment_matched_gaussian, pareto_k_of, precision_of, update_gaussian_factor, weight_tail,
)


def equicorrelated(rho: float, dim: int) -> FullRankGaussian:
    covariance = rho * torch.ones(dim, dim, dtype=torch.float64) + (1 - rho) * torch.eye(dim, dtype=torch.float64)
    return gaussian_of(torch.arange(dim, dtype=torch.float64), covariance)


def elbo_below(p):
    """The ELBO of a q on the normalised posterior p: minus the KL."""
    return lambda q: -gaussian_kl(q, p)


TARGETS = {"2-D": equicorrelated(0.9, 2), "5-D": equicorrelated(-0.2, 5), "any": full_rank(dim=4)}


@pytest.mark.parametrize("p", TARGETS.values(), ids=TARGETS)
def test_gaussian_of_has_the_mean_and_the_covariance(p):
    again = gaussian_of(p.mean, p.covariance)
    torch.testing.assert_close(again.covariance, p.covariance)
    torch.testing.assert_close(precision_of(p), torch.linalg.inv(p.covariance))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_every_function_keeps_batch_and_dtype(batch, dtype):
    p, q = full_rank(*batch, dim=3, dtype=dtype), mean_field(*batch, dim=3, dtype=dtype)
    same = gaussian_of(p.mean, p.covariance)
    for made in (update_gaussian_factor(q, 1, p.mean, precision_of(p)), closest_mean_field(p), closest_mean_field_forward(p), same):
        assert made.batch_shape == batch and made.mean.dtype == dtype
    assert weight_tail(q, p).shape == batch
    found = coordinate_ascent(gaussian_updates(p), elbo_below(p), q)
    assert found.converged.shape == batch and found.converged.all() and found.elbo.shape[1:] == batch and found.elbo.dtype == dtype
    torch.testing.assert_close(found.q.vector(), closest_mean_field(p).vector(), atol=2e-3 if dtype == torch.float32 else 1e-4, rtol=1e-3)


# ---- one factor -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", TARGETS.values(), ids=TARGETS)
def test_an_update_leaves_no_slope_in_its_factor_and_touches_no_other(p):
    q = mean_field(dim=p.dim)
    for i in range(p.dim):
        updated = update_gaussian_factor(q, i, p.mean, precision_of(p))
        vector = updated.vector().requires_grad_()
        (slope,) = torch.autograd.grad(gaussian_kl(updated.with_vector(vector), p), vector)
        assert slope[[i, p.dim + i]].abs().max() < 1e-9
        others = [j for j in range(2 * p.dim) if j not in (i, p.dim + i)]
        assert torch.equal(updated.vector()[others], q.vector()[others]) and slope[others].abs().max() > 1e-3


def test_the_optimal_factor_is_what_averaging_the_log_joint_says():
    """eq:optimal-factor by brute force: exp E_{q_2}[log p(z1, z2)] over a grid of z1, normalised."""
    target, q = correlated_gaussian(0.8, (1.0, 2.0)), MeanFieldGaussian(tensor(0.4, -1.0), tensor(0.3, -0.5))
    z1 = torch.linspace(-6, 6, 801, dtype=torch.float64)
    eps = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    weights = torch.softmax(-0.5 * eps.square(), 0)
    z2 = q.mu[1] + q.stddev[1] * eps
    log_factor = target(torch.stack(torch.meshgrid(z1, z2, indexing="ij"), -1)) @ weights
    density = log_factor.softmax(0) / (z1[1] - z1[0])
    p = gaussian_of(tensor(0.0, 0.0), tensor([1.0, 1.6], [1.6, 4.0]))
    updated = update_gaussian_factor(q, 0, p.mean, precision_of(p))
    by_formula = torch.distributions.Normal(updated.mean[0], updated.stddev[0]).log_prob(z1).exp()
    torch.testing.assert_close(density, by_formula, atol=1e-8, rtol=1e-6)


# ---- the closest -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.0, 0.3, -0.6, 0.9])
def test_in_two_dimensions_both_gaps_are_minus_half_log_of_one_minus_rho_squared(rho):
    p = gaussian_of(tensor(0.0, 0.0), tensor([1.0, 2 * rho], [2 * rho, 4.0]))
    reverse, forward = closest_mean_field(p), closest_mean_field_forward(p)
    gap = -0.5 * math.log(1 - rho**2)
    assert gaussian_kl(reverse, p).item() == pytest.approx(gap, abs=1e-12)
    assert gaussian_kl(p, forward).item() == pytest.approx(gap, abs=1e-12)
    known, elbo = correlated_gaussian(rho, (1.0, 2.0)).best
    torch.testing.assert_close(reverse.stddev, known.stddev)
    assert elbo == pytest.approx(-gap, abs=1e-12)
    torch.testing.assert_close(forward.stddev, tensor(1.0, 2.0))


@pytest.mark.parametrize("p", TARGETS.values(), ids=TARGETS)
def test_the_gaps_in_any_dimension(p):
    precision, covariance = precision_of(p), p.covariance
    reverse = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    forward = 0.5 * (covariance.diagonal().log().sum() - torch.logdet(covariance))
    torch.testing.assert_close(gaussian_kl(closest_mean_field(p), p), reverse)
    torch.testing.assert_close(gaussian_kl(p, closest_mean_field_forward(p)), forward)
    nudges = 0.05 * torch.randn(200, 2 * p.dim, generator=seeded(), dtype=torch.float64)
    near = lambda q: q.with_vector(q.vector() + nudges)  # noqa: E731
    assert (gaussian_kl(near(closest_mean_field(p)), p) > reverse).all()
    assert (gaussian_kl(p.expand(200), near(closest_mean_field_forward(p))) > forward).all()
    assert (closest_mean_field(p).stddev <= closest_mean_field_forward(p).stddev + 1e-12).all(), "a condition never widens"


def test_quadrature_and_a_free_search_agree():
    target, p = correlated_gaussian(0.7), gaussian_of(tensor(0.0, 0.0), tensor([1.0, 0.7], [0.7, 1.0]))
    found, elbo = best_gaussian(target.log_joint, MeanFieldGaussian(tensor(0.5, -0.5), tensor(0.2, 0.2)))
    torch.testing.assert_close(found.stddev, closest_mean_field(p).stddev, atol=1e-6, rtol=1e-6)
    matched, kl = moment_matched_gaussian(target.log_joint, (-9.0, -9.0), (9.0, 9.0), MeanFieldGaussian)
    torch.testing.assert_close(matched.stddev, closest_mean_field_forward(p).stddev, atol=1e-6, rtol=1e-6)
    assert forward_kl(target.log_joint, closest_mean_field_forward(p), (-9.0, -9.0), (9.0, 9.0)).item() == pytest.approx(kl, abs=1e-6)
    assert kl == pytest.approx(-elbo, abs=1e-6)


# ---- the tail of the weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.2, -0.5, 0.9])
def test_the_shape_of_the_tail_in_two_dimensions(rho):
    p = gaussian_of(tensor(0.0, 0.0), tensor([1.0, rho], [rho, 1.0]))
    assert weight_tail(closest_mean_field(p), p).item() == pytest.approx(abs(rho), abs=1e-12)
    assert weight_tail(closest_mean_field_forward(p), p).item() == pytest.approx(abs(rho) / (1 + abs(rho)), abs=1e-12)
    assert weight_tail(p, p).item() == pytest.approx(0, abs=1e-12)
    wide = MeanFieldGaussian(p.mean, p.stddev.log() + 1)
    assert weight_tail(wide, p).item() < 0


@pytest.mark.statistical
@pytest.mark.parametrize("rho", [0.3, 0.5, 0.7])
def test_k_hat_of_draws_is_near_it(rho):
    p, target = gaussian_of(tensor(0.0, 0.0), tensor([1.0, rho], [rho, 1.0])), correlated_gaussian(rho)
    for q in (closest_mean_field(p), closest_mean_field_forward(p)):
        k_hat = pareto_k_of(target, q.expand(3), 100_000, seeded(1)).mean().item()
        assert k_hat == pytest.approx(weight_tail(q, p).item(), abs=0.1)


# ---- the ascent ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.5, -0.9])
def test_the_error_of_the_mean_shrinks_by_rho_squared_a_sweep_and_the_elbo_never_falls(rho):
    p, q = gaussian_of(tensor(1.0, -2.0), tensor([1.0, 2 * rho], [2 * rho, 4.0])), MeanFieldGaussian(tensor(3.0, 3.0), tensor(1.0, -1.0))
    errors = []
    for _ in range(5):
        for update in gaussian_updates(p):
            q = update(q)
        errors.append((q.mu - p.mean)[1].item())
    for before, after in zip(errors, errors[1:]):
        assert after / before == pytest.approx(rho**2, rel=1e-9)
    found = coordinate_ascent(gaussian_updates(p), elbo_below(p), MeanFieldGaussian(tensor(3.0, 3.0), tensor(1.0, -1.0)))
    assert (found.elbo.diff() > -1e-12).all() and found.elbo[-1].item() == pytest.approx(0.5 * math.log(1 - rho**2), abs=1e-7)


def test_starts_side_by_side_end_at_the_same_place():
    p = equicorrelated(0.6, 3)
    found = coordinate_ascent(gaussian_updates(p), elbo_below(p), mean_field(7, dim=3))
    torch.testing.assert_close(found.q.mean, p.mean.expand(7, 3), atol=1e-4, rtol=0)
    assert found.elbo.shape[1] == 7


def test_all_at_once_is_caught_and_named():
    p = equicorrelated(-0.4, 3)

    def all_at_once(q):
        parts = [update_gaussian_factor(q, i, p.mean, precision_of(p)) for i in range(3)]
        return MeanFieldGaussian(torch.stack([part.mu[i] for i, part in enumerate(parts)]), parts[0].omega)

    with pytest.raises(VilibError, match=r"updates: number 0 of 1 \(all_at_once\) lowered the ELBO by .* in sweep"):
        coordinate_ascent([all_at_once], elbo_below(p), MeanFieldGaussian(p.mean + 1, closest_mean_field(p).omega))


def test_a_mutant_update_is_named_among_the_right_ones():
    p = equicorrelated(0.8, 2)
    marginal = lambda q: MeanFieldGaussian(q.mu, torch.stack([q.omega[0], p.stddev[1].log()]))  # noqa: E731
    with pytest.raises(VilibError, match="number 2 of 3"):
        coordinate_ascent([*gaussian_updates(p), marginal], elbo_below(p), closest_mean_field(p))


def test_too_few_sweeps_are_said():
    p = equicorrelated(0.99, 2)
    with pytest.warns(NotConverged, match="after 3 sweeps the ELBO still rises by .*max_sweeps"):
        found = coordinate_ascent(gaussian_updates(p), elbo_below(p), MeanFieldGaussian(p.mean + 5, tensor(0.0, 0.0)), max_sweeps=3)
    assert not found.converged and found.elbo.shape == (4,)


def test_what_cannot_be_used_is_refused():
    with pytest.raises(ShapeError, match="nothing to update"):
        coordinate_ascent([], lambda q: q, 1)
    with pytest.raises(VilibError, match="elbo: nan at the start"):
        coordinate_ascent([lambda q: q], lambda q: tensor(math.nan), None)
    with pytest.raises(ShapeError, match=r"mean and covariance: .* got \(2,\) and \(3, 3\)"):
        gaussian_of(tensor(0.0, 0.0), torch.eye(3, dtype=torch.float64))
    with pytest.raises(VilibError, match="not positive definite"):
        gaussian_of(tensor(0.0, 0.0), tensor([1.0, 2.0], [2.0, 1.0]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda():
    p = gaussian_of(torch.zeros(2, device="cuda"), torch.tensor([[1.0, 0.5], [0.5, 1.0]], device="cuda"))
    found = coordinate_ascent(gaussian_updates(p), elbo_below(p), MeanFieldGaussian(torch.ones(2, device="cuda"), torch.zeros(2, device="cuda")))
    assert found.q.mean.device.type == "cuda" and weight_tail(found.q, p).device.type == "cuda"
