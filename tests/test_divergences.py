"""KL both ways: closed form against torch, quadrature against closed form, minimisers against what is known of them."""

import math
from itertools import product

import pytest
import torch
from helpers import (
    FAMILIES, bernoulli, categorical, every_family, full_rank, gaussian, mean_field, readers_model, seeded, tensor,
)
from torch.distributions import Bernoulli, Categorical, MultivariateNormal, kl_divergence

from vilib import (
    FullRankGaussian, MeanFieldGaussian, NonFiniteLogJoint, ShapeError, VilibError, best_gaussian, correlated_gaussian,
    exact_elbo, forward_kl, gaussian_kl, gaussian_target, gumbel_target, log_evidence, logistic_one_coefficient, moment_matched_gaussian,
    monte_carlo_forward_kl, monte_carlo_kl, monte_carlo_kl_k3, normal, reverse_kl, stationary_gaussians, two_component_mixture,
)

close = torch.testing.assert_close
MIXES = list(product(FAMILIES, FAMILIES))
every_mix = pytest.mark.parametrize("kinds", MIXES, ids=lambda k: " to ".join(k))


def pair(kinds, *, batches=((), ()), dim=2, dtype=torch.float64):
    return [FAMILIES[kind](*batch, dim=dim, dtype=dtype, seed=seed) for kind, batch, seed in zip(kinds, batches, (11, 12))]


def of_torch(q):
    return MultivariateNormal(q.mean, scale_tril=q.scale_tril)


def affine(q, matrix, shift):
    """The density of A z + b where z ~ q, as a full-rank Gaussian."""
    tril = torch.linalg.cholesky(matrix @ q.covariance @ matrix.mT)
    return FullRankGaussian(q.mean @ matrix.mT + shift, tril.tril(-1) + torch.diag_embed(tril.diagonal(dim1=-2, dim2=-1).log()))


# ---- closed form ----------------------------------------------------------------------------------------------------


@every_mix
@pytest.mark.parametrize("batches", [((), ()), ((3,), (3,)), ((2, 3), ()), ((), (3,)), ((2, 1), (3,))], ids=str)
@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_closed_form_is_torchs(kinds, batches, dim, dtype):
    q, p = pair(kinds, batches=batches, dim=dim, dtype=dtype)
    found = gaussian_kl(q, p)
    assert found.shape == torch.broadcast_shapes(*batches) and found.dtype == dtype
    exact = kl_divergence(of_torch(pair(kinds, batches=batches, dim=dim)[0]), of_torch(pair(kinds, batches=batches, dim=dim)[1]))
    tolerance = dict(rtol=1e-10, atol=1e-10) if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-5)
    close(found.double(), exact, **tolerance)


@every_mix
def test_it_is_differentiable_in_both(kinds):
    q, p = pair(kinds, batches=((3,), (3,)))
    at = [x.vector().requires_grad_() for x in (q, p)]
    gradients = torch.autograd.grad(gaussian_kl(q.with_vector(at[0]), p.with_vector(at[1])).sum(), at)
    by_torch = torch.autograd.grad(kl_divergence(of_torch(q.with_vector(at[0])), of_torch(p.with_vector(at[1]))).sum(), at)
    for found, exact in zip(gradients, by_torch):
        close(found, exact)


def test_two_gaussians_in_one_dimension():
    """log(σ_p/σ_q) + (σ_q² + δ²)/(2σ_p²) − ½; N(0,1) and N(1,2²) give 0.443147 and 1.306853."""
    for (m, s), (m0, s0) in [((0.0, 1.0), (1.0, 2.0)), ((1.0, 2.0), (0.0, 1.0)), ((-0.4, 0.3), (0.2, 0.9))]:
        exact = math.log(s0 / s) + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5
        assert gaussian_kl(gaussian(m, math.log(s)), gaussian(m0, math.log(s0))).item() == pytest.approx(exact, abs=1e-12)
    narrow, wide = gaussian(), gaussian(1.0, math.log(2))
    assert gaussian_kl(narrow, wide).item() == pytest.approx(0.443147, abs=5e-7)
    assert gaussian_kl(wide, narrow).item() == pytest.approx(1.306853, abs=5e-7)


@every_mix
def test_it_is_never_negative_and_zero_only_where_they_are_equal(kinds):
    q, p = pair(kinds, batches=((200,), (200,)), dim=3)
    assert (gaussian_kl(q, p) > 1e-3).all()
    for x in (q, p):
        assert gaussian_kl(x, x).abs().max() < 1e-12
        moved = x.with_vector(x.vector() + 1e-3 * torch.eye(x.num_parameters, dtype=torch.float64)[:, None, :])
        assert (gaussian_kl(x, moved) > 1e-8).all() and (gaussian_kl(moved, x) > 1e-8).all()       # in every coordinate of λ
    assert torch.equal(gaussian_kl(mean_field(), mean_field()), torch.zeros((), dtype=torch.float64))


@every_mix
def test_it_does_not_depend_on_the_coordinates(kinds):
    q, p = pair(kinds, batches=((3,), (3,)))
    matrix, shift = tensor([1.3, -0.4], [0.7, 2.0]), tensor(5.0, -1.0)
    close(gaussian_kl(affine(q, matrix, shift), affine(p, matrix, shift)), gaussian_kl(q, p), rtol=1e-9, atol=1e-10)


def test_mean_field_in_ten_thousand_dimensions_needs_no_matrix():
    q, p = mean_field(dim=10_000, seed=1), mean_field(dim=10_000, seed=2)
    close(gaussian_kl(q, p), kl_divergence(torch.distributions.Normal(q.mu, q.stddev), torch.distributions.Normal(p.mu, p.stddev)).sum())


@pytest.mark.parametrize("q, p, message", [
    (mean_field(), mean_field(dim=3), r"q and p: one dimension .* got D = 2 and 3, \*R = \(\) and \(\)"),
    (mean_field(2), full_rank(3), r"batch shapes that broadcast, got D = 2 and 2, \*R = \(2,\) and \(3,\)"),
])
def test_two_that_do_not_fit_are_refused(q, p, message):
    with pytest.raises(ShapeError, match=message):
        gaussian_kl(q, p)


# ---- quadrature -----------------------------------------------------------------------------------------------------


@every_mix
@pytest.mark.parametrize("dim", [1, 2])
def test_quadrature_both_ways_is_the_closed_form(kinds, dim):
    q, p = FAMILIES[kinds[0]](2, 3, dim=dim, seed=5), FAMILIES[kinds[1]](dim=dim, seed=6)
    box = (-12.0,) * dim, (12.0,) * dim
    close(reverse_kl(p.log_prob, q), gaussian_kl(q, p), rtol=1e-9, atol=1e-9)
    close(forward_kl(p.log_prob, q, *box), gaussian_kl(p, q), rtol=1e-9, atol=1e-9)


@every_family
def test_they_are_differentiable(make):
    q, p = make(3, seed=5), full_rank(seed=6)
    vector = q.vector().requires_grad_()
    for kl, exact in [(lambda q: reverse_kl(p.log_prob, q), lambda q: gaussian_kl(q, p)),
                      (lambda q: forward_kl(p.log_prob, q, (-12.0, -12.0), (12.0, 12.0)), lambda q: gaussian_kl(p, q))]:
        found, by_hand = (torch.autograd.grad(f(q.with_vector(vector)).sum(), vector)[0] for f in (kl, exact))
        close(found, by_hand, rtol=1e-8, atol=1e-8)


def test_what_an_unnormalised_p_gives():
    """Forward: the same.  Reverse: −ELBO, and the KL once its log evidence is told."""
    p, q = gaussian(1.0, 0.4), mean_field(3, dim=1)
    joint = lambda z: p.log_prob(z) - 4.2  # noqa: E731
    close(forward_kl(joint, q, -15.0, 15.0), gaussian_kl(p, q), rtol=1e-9, atol=1e-9)
    close(reverse_kl(joint, q), -exact_elbo(joint, q))
    close(reverse_kl(joint, q), gaussian_kl(q, p) + 4.2, rtol=1e-9, atol=1e-9)
    close(reverse_kl(joint, q, log_evidence=log_evidence(joint, -15.0, 15.0)), gaussian_kl(q, p), rtol=1e-9, atol=1e-9)


def test_targets_that_are_no_gaussian():
    """No Gaussian is p, so both ways are positive, and they differ; and z -> 2.5 z + 1 on both q and p changes neither."""
    for target, box in [(logistic_one_coefficient(), (-8.0, 10.0)), (two_component_mixture(), (-12.0, 12.0))]:
        q = mean_field(5, dim=1)
        evidence = log_evidence(target, *box)
        both = reverse_kl(target, q, log_evidence=evidence), forward_kl(target, q, *box)
        assert (both[0] > 0).all() and (both[1] > 0).all() and not torch.allclose(*both)
        moved = MeanFieldGaussian(2.5 * q.mu + 1, q.omega + math.log(2.5))                  # z -> 2.5 z + 1, on both
        there = lambda z: target((z - 1) / 2.5)  # noqa: E731
        moved_box = [2.5 * end + 1 for end in box]
        close(reverse_kl(there, moved, log_evidence=evidence + math.log(2.5)), both[0], rtol=1e-8, atol=1e-8)
        close(forward_kl(there, moved, *moved_box), both[1], rtol=1e-8, atol=1e-8)


def test_the_kl_of_discrete_q_is_a_sum_over_its_states():
    for make, of in [(bernoulli, Bernoulli), (categorical, Categorical)]:
        q, p = make(3), make(seed=9)
        by_torch = kl_divergence(of(logits=q.logits), of(logits=p.expand(3).logits)).sum(-1)
        close(reverse_kl(p.log_prob, q), by_torch)


def test_a_model_of_the_readers_own():
    model = readers_model()
    evidence = log_evidence(model, (-3.0, -9.0), (4.0, 9.0), 801)
    q = full_rank()
    exact = reverse_kl(model, q, log_evidence=evidence)
    estimate, error = monte_carlo_kl(model, q, normal(20_000, (), 2, generator=seeded(), dtype=torch.float64), log_evidence=evidence)
    assert exact > 0 and abs(estimate - exact) < 6 * error


@pytest.mark.parametrize("call, error, message", [
    (lambda: forward_kl(gaussian_target(), gaussian(), -3.0, 3.0), VilibError,
     r"lower and upper: the density at the edge of the box is 0.01 of that at its peak.*Widen the box"),
    (lambda: moment_matched_gaussian(correlated_gaussian(0.0), (-9.0, -3.0), (9.0, 9.0)), VilibError, r"the density at the edge"),
    (lambda: forward_kl(gaussian_target(0.0, 1e-3), gaussian(), -9.0, 9.0), VilibError,
     r"num_nodes: every second of the 4001 nodes a side gives .* Raise num_nodes"),
    (lambda: forward_kl(gaussian_target(), gaussian(), (-9.0, -9.0), (9.0, 9.0)), ShapeError,
     r"lower and upper: one number for each of q's 1 coordinates, got 2"),
    (lambda: moment_matched_gaussian(gaussian_target(), (-9.0,) * 3, (9.0,) * 3), ShapeError,
     r"lower and upper: one or two numbers each, one a coordinate, got 3 and 3"),
    (lambda: reverse_kl(lambda z: z.sum(-1), gaussian(dim=3)), ShapeError, r"q: quadrature reaches two dimensions, this q has 3"),
    (lambda: monte_carlo_kl(gaussian_target(), gaussian(), torch.zeros(1, 1)), ShapeError,
     r"num_samples: a standard error needs at least 2 draws, got 1"),
    (lambda: monte_carlo_kl_k3(lambda z: z[..., 0].log(), gaussian(), -torch.ones(2, 1).double()), NonFiniteLogJoint, r"returned nan"),
])
def test_what_cannot_be_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_finer_grid_cures_the_complaint():
    q = gaussian(0.0, math.log(2e-3))
    found = forward_kl(gaussian_target(0.0, 1e-3), q, -9.0, 9.0, num_nodes=100_001)
    close(found, gaussian_kl(gaussian(0.0, math.log(1e-3)), q), rtol=1e-8, atol=1e-8)


# ---- Monte Carlo, draw by draw --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*FAMILIES.values(), bernoulli, categorical], ids=[*FAMILIES, "Bernoulli", "categorical"])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_two_by_hand(make, batch, dtype):
    q, p = make(*batch, dtype=dtype), make(seed=9, dtype=dtype)
    eps = normal(16, batch, 2, generator=seeded(), dtype=dtype)
    log_r = p.log_prob(q.sample(eps)) - q.log_prob(q.sample(eps))
    for kl, each in [(monte_carlo_kl, -log_r), (monte_carlo_kl_k3, log_r.exp() - 1 - log_r)]:
        estimate, error = kl(p.log_prob, q, eps)
        assert estimate.shape == error.shape == batch and estimate.dtype == dtype and not estimate.requires_grad
        close(estimate, each.mean(0), rtol=1e-4, atol=1e-6)
        close(error, each.std(0) / 4, rtol=1e-4, atol=1e-6)
        shifted = kl(lambda z: p.log_prob(z) + 3.0, q, eps, log_evidence=3.0)
        close(shifted, (estimate, error), rtol=1e-3, atol=1e-5)


def test_no_draw_of_k3_is_negative_and_where_q_is_p_both_are_zero():
    q, eps = mean_field(500), normal(2, (500,), 2, generator=seeded(), dtype=torch.float64)
    assert (monte_carlo_kl_k3(full_rank().log_prob, q, eps)[0] >= 0).all() and (monte_carlo_kl(full_rank().log_prob, q, eps)[0] < 0).any()
    for kl in (monte_carlo_kl, monte_carlo_kl_k3):
        estimate, error = kl(q.log_prob, q, eps)
        assert estimate.abs().max() < 1e-12 and error.max() < 1e-12


def test_both_are_the_same_in_other_coordinates_draw_by_draw():
    q, p = full_rank(seed=1), full_rank(seed=2)
    matrix, shift = tensor([1.3, 0.0], [0.7, 2.0]), tensor(5.0, -1.0)                   # lower triangular: the same ε, the same draw
    eps = normal(8, (), 2, generator=seeded(), dtype=torch.float64)
    for kl in (monte_carlo_kl, monte_carlo_kl_k3):
        close(kl(affine(p, matrix, shift).log_prob, affine(q, matrix, shift), eps), kl(p.log_prob, q, eps), rtol=1e-9, atol=1e-9)


# ---- the Gaussians that make it smallest ----------------------------------------------------------------------------


MIXTURE = two_component_mixture()


def test_the_forward_optimum_of_the_mixture_covers_both():
    """Mean 0, variance 1 + 3² = 10; and its KL is the lowest of its neighbours'."""
    for family in (MeanFieldGaussian, FullRankGaussian):
        q, kl = moment_matched_gaussian(MIXTURE, -14.0, 14.0, family)
        assert type(q) is family and q.mean.item() == pytest.approx(0, abs=1e-9) and q.covariance.item() == pytest.approx(10, abs=1e-6)
        assert kl == pytest.approx(forward_kl(MIXTURE, q, -14.0, 14.0).item())
        for nudge in 0.01 * torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64):
            assert forward_kl(MIXTURE, q.with_vector(q.vector() + nudge), -14.0, 14.0) > kl


def starts_at(*means_and_sds) -> MeanFieldGaussian:
    means, sds = zip(*means_and_sds)
    return MeanFieldGaussian(tensor(*means).unsqueeze(-1), tensor(*sds).log().unsqueeze(-1))


def test_the_reverse_optima_of_the_mixture():
    """±2.98431 with sd 1.02337 and KL 0.688769, just under ln 2; the symmetric one, sd 2.7438 and KL 0.840621, is a minimum too,
    a worse one, and the two saddles lie between."""
    points = stationary_gaussians(MIXTURE, starts_at((-3.0, 1.0), (3.0, 1.0), (0.0, 2.0), (1.5, 2.0), (-1.5, 2.0)))
    found = [(p.q.mean.item(), p.q.stddev.item(), p.kl) for p in points]
    assert found[0] == pytest.approx((-2.98431, 1.02337, 0.688769), abs=1e-5) and found[0][2] < math.log(2)
    assert found[1] == pytest.approx((2.98431, 1.02337, 0.688769), abs=1e-5)
    assert found[2] == pytest.approx((0.0, 2.7438, 0.840621), abs=5e-5)
    assert found[3] == pytest.approx((-1.8405, 2.1038, 0.971978), abs=5e-5) and len(found) == 5
    assert [p.is_minimum for p in points] == [True, True, True, False, False]
    assert points[3].curvature[0] < 0 < points[3].curvature[1]
    for point in points:
        assert point.kl == pytest.approx(reverse_kl(MIXTURE, point.q).item())


@pytest.mark.parametrize("start", [(-3.0, 1.0), (1.8, 2.0), (0.2, 2.5)])
def test_a_minimum_is_lower_than_all_around_it_and_a_saddle_is_not(start):
    """Held against the KL itself, on a ring about each point; no derivative in sight."""
    angles = torch.linspace(0, 2 * math.pi, 25, dtype=torch.float64)[:-1]
    ring = 0.02 * torch.stack([angles.cos(), angles.sin()], -1)
    for point in stationary_gaussians(MIXTURE, starts_at(start)):
        rise = reverse_kl(MIXTURE, point.q.with_vector(point.q.vector() + ring)) - point.kl
        assert (rise > 0).all() if point.is_minimum else (rise > 0).any() and (rise < 0).any()


def test_where_two_modes_melt_into_one_there_is_one_point():
    """Modes ±0.5: p has one peak, and so has the search."""
    near = stationary_gaussians(two_component_mixture((-0.5, 0.5)), starts_at((-1.0, 1.0), (0.3, 2.0), (2.0, 0.5)))
    assert len(near) == 1 and near[0].is_minimum and near[0].q.mean.item() == pytest.approx(0, abs=1e-6)


def test_the_log_evidence_is_taken_off():
    joint = lambda z: MIXTURE(z) - 1.5  # noqa: E731
    points = stationary_gaussians(joint, starts_at((3.0, 1.0)), log_evidence=-1.5)
    assert points[0].kl == pytest.approx(0.688769, abs=1e-6)


RHOS = [0.0, 0.3, 0.7, 0.9]


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize("sds", [(1.0, 1.0), (0.5, 2.0)], ids=str)
def test_mean_field_on_a_correlated_gaussian(rho, sds):
    """Reverse: σ_i² = 1/Λ_ii; forward: the marginal variances; and both lose −½ log(1 − ρ²)."""
    p = correlated_gaussian(rho, sds)
    covariance = tensor([sds[0] ** 2, rho * sds[0] * sds[1]], [rho * sds[0] * sds[1], sds[1] ** 2])
    precision = torch.linalg.inv(covariance)
    gap = -0.5 * math.log(1 - rho**2)
    box = [-12 * s for s in sds], [12 * s for s in sds]

    reverse, elbo = best_gaussian(p, mean_field())
    close(reverse.mean, torch.zeros_like(reverse.mean), rtol=0, atol=1e-7)
    close(reverse.stddev**2, 1 / precision.diagonal(), rtol=1e-7, atol=0)
    assert -elbo == pytest.approx(gap, abs=1e-9)
    assert reverse_kl(p, reverse).item() == pytest.approx(gap, abs=1e-9)
    assert gap == pytest.approx(0.5 * (precision.diagonal().log().sum() - precision.logdet()).item())

    forward, kl = moment_matched_gaussian(p, *box, MeanFieldGaussian)
    close(forward.stddev**2, covariance.diagonal(), rtol=1e-9, atol=0)
    assert kl == pytest.approx(gap, abs=1e-9)

    full, kl = moment_matched_gaussian(p, *box)
    close(full.covariance, covariance, rtol=1e-9, atol=1e-9)
    assert kl == pytest.approx(0, abs=1e-9)
    for q, exact in [(reverse, gaussian_kl(reverse, full)), (forward, gaussian_kl(full, forward))]:
        assert exact.item() == pytest.approx(gap, abs=1e-7) and q.dim == 2


def test_full_rank_in_two_dimensions_finds_one_point_from_everywhere():
    p = correlated_gaussian(0.7, (1.0, 2.0))
    starts = FullRankGaussian(tensor([-2.0, 1.0], [0.5, 3.0]), torch.zeros(2, 2, 2, dtype=torch.float64))
    points = stationary_gaussians(p, starts)
    assert len(points) == 1 and points[0].is_minimum and points[0].kl == pytest.approx(0, abs=1e-9)
    close(points[0].q.covariance, tensor([1.0, 1.4], [1.4, 4.0]), rtol=1e-6, atol=1e-6)


def test_two_dimensional_modes_are_told_apart():
    """Two round modes at (±3, ±3): a mean-field q has a minimum at each, a little under ln 2 from the target."""
    modes = [MeanFieldGaussian(tensor(m, m), tensor(0.0, 0.0)) for m in (-3.0, 3.0)]
    target = lambda z: torch.logaddexp(*(q.log_prob(z) for q in modes)) - math.log(2)  # noqa: E731
    points = stationary_gaussians(target, MeanFieldGaussian(tensor([-3.0, -2.0], [2.5, 3.0]), torch.zeros(2, 2, dtype=torch.float64)))
    minima = [p for p in points if p.is_minimum]
    assert len(minima) == 2 and [round(p.q.mean.mean().item(), 1) for p in minima] == [-3.0, 3.0]
    for point in minima:
        assert point.kl == pytest.approx(math.log(2), abs=2e-3) and point.kl < math.log(2)
    q, _ = moment_matched_gaussian(target, (-12.0, -12.0), (12.0, 12.0))
    close(q.covariance, tensor([10.0, 9.0], [9.0, 10.0]), rtol=1e-7, atol=1e-7)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_device_of_the_arguments_is_followed():
    q, p = (x.with_vector(x.vector().cuda()) for x in (mean_field(3), full_rank()))
    lower = torch.full((2,), -12.0, device="cuda")
    for kl in (gaussian_kl(q, p), reverse_kl(p.log_prob, q), forward_kl(p.log_prob, q, lower, -lower),
               forward_kl(p.log_prob, q, (-12.0, -12.0), (12.0, 12.0))):
        assert kl.is_cuda
    close(forward_kl(p.log_prob, q, lower, -lower), gaussian_kl(p, q), rtol=1e-8, atol=1e-8)
    assert moment_matched_gaussian(p.log_prob, lower, -lower)[0].mean.is_cuda
    one = q.with_vector(q.vector()[:1])
    assert stationary_gaussians(p.log_prob, one)[0].q.mean.is_cuda
    assert monte_carlo_kl(p.log_prob, q, torch.zeros(2, 3, 2, device="cuda", dtype=torch.float64))[0].is_cuda


# ---- a skewed target, and the forward KL from draws of p -----------------------------------------------------------


@pytest.mark.parametrize("location, scale", [(0.0, 1.0), (-1.5, 2.0), (3.0, 0.4)])
def test_the_gumbel_target_both_ways(location, scale):
    """torch's density and moments; the best Gaussian each way, and what it pays, in closed form."""
    target, exact = gumbel_target(location, scale), torch.distributions.Gumbel(tensor(location), tensor(scale))
    z = torch.linspace(location - 2 * scale, location + 6 * scale, 50, dtype=torch.float64).unsqueeze(-1)
    close(target(z), exact.log_prob(z)[:, 0])
    slope = torch.autograd.functional.jacobian(lambda z: target(z).sum(), z)
    close(target.slope(z), slope)
    lower, upper = location - 6 * scale, location + 45 * scale
    assert log_evidence(target, lower, upper) == pytest.approx(0, abs=1e-10)
    q, elbo = best_gaussian(target, gaussian(location, math.log(scale)))
    assert (q.mean.item(), q.stddev.item(), elbo) == pytest.approx((location + scale / 2, scale, target.best[1]), abs=1e-7)
    assert -target.best[1] == pytest.approx(1.5 - 0.5 * math.log(2 * math.pi * math.e), abs=1e-12)
    q, kl = moment_matched_gaussian(target, lower, upper)
    assert (q.mean.item(), q.stddev.item()) == pytest.approx((exact.mean.item(), exact.stddev.item()), abs=1e-6)
    assert kl == pytest.approx(0.5 * math.log(2 * math.pi * math.e * math.pi**2 / 6) - (1 + 0.5772156649), abs=1e-6)


@every_mix
def test_forward_from_draws_is_the_mean_log_ratio_at_them(kinds):
    """By hand for a batch of q with draws of their own, and with draws that all of them share."""
    q, p = pair(kinds, batches=((3,), ()))
    eps = normal(50, (3,), 2, generator=seeded(4), dtype=torch.float64)
    for draws in (p.expand(3).sample(eps), p.expand(1).sample(eps[:, :1])):
        terms = p.log_prob(draws) - q.log_prob(draws)
        estimate, error = monte_carlo_forward_kl(p.log_prob, q, draws)
        close(estimate, terms.mean(0))
        close(error, terms.std(0) / 50**0.5)
        assert estimate.shape == error.shape == (3,) and not estimate.requires_grad
    with pytest.raises(ShapeError, match="at least 2 draws, got 1"):
        monte_carlo_forward_kl(p.log_prob, q, eps[:1])


def test_forward_from_draws_follows_dtype():
    q, p = FAMILIES["mean-field"](dtype=torch.float32), FAMILIES["mean-field"](dtype=torch.float32, seed=7)
    estimate, error = monte_carlo_forward_kl(p.log_prob, q, p.sample(normal(9, (), 2, generator=seeded())))
    assert estimate.dtype == error.dtype == torch.float32
