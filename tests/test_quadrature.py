"""The exact answers are exact."""

import math

import pytest
import torch
from helpers import bernoulli, full_rank, gaussian, mean_field, tensor

from vilib import (
    MeanFieldGaussian, ShapeError, additive_moments, best_gaussian, correlated_gaussian, exact_elbo, exact_gradient,
    expectation, gauss_hermite, gaussian_target, log_evidence, logistic_one_coefficient, moments, posterior_density,
    quadratic_cost, trapezoid,
)

from vilib.quadrature import box_nodes, exact_curvature, moments_at

close = torch.testing.assert_close


@pytest.mark.parametrize("rule", [trapezoid, gauss_hermite], ids=lambda r: r.__name__)
@pytest.mark.parametrize("dim", [1, 2])
def test_a_rule_knows_the_normal_moments(rule, dim):
    eps, weights = rule(dim)
    assert eps.shape == (len(weights), dim) and weights.sum().item() == pytest.approx(1)
    for power, moment in [(1, 0), (2, 1), (4, 3), (6, 15), (8, 105)]:
        assert torch.tensordot(weights, eps**power, 1).tolist() == pytest.approx([moment] * dim, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("make", [mean_field, full_rank])
def test_an_expectation_of_a_batch_is_each_ones_own(make):
    q = make(2, 3)
    f = lambda z: (z[..., 0] * 1.3).cos() * z[..., 1] + z[..., 1] ** 2  # noqa: E731
    every = expectation(f, q)
    assert every.shape == (2, 3) and every.dtype == torch.float64
    alone = q.with_vector(q.vector()[1, 2])
    close(every[1, 2], expectation(f, alone))
    close(exact_gradient(f, q)[1, 2], exact_gradient(f, alone))
    close(expectation(f, alone, gauss_hermite), expectation(f, alone), rtol=1e-9, atol=1e-9)


def test_a_float32_q_is_integrated_in_float64():
    q = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    assert expectation(lambda z: z[..., 0] ** 2, q).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("make", [mean_field, full_rank])
def test_the_exact_gradient_is_the_slope_of_the_exact_elbo(make):
    q, target = make(), correlated_gaussian(0.5)
    gradient, nudge = exact_gradient(target, q, elbo=True), 1e-5
    for p, name in enumerate(q.parameter_names()):
        step = nudge * torch.eye(q.num_parameters, dtype=torch.float64)[p]
        up, down = (exact_elbo(target, q.with_vector(q.vector() + s)) for s in (step, -step))
        assert gradient[p].item() == pytest.approx(((up - down) / (2 * nudge)).item(), abs=1e-8), name


@pytest.mark.parametrize("q", [mean_field(), full_rank(), bernoulli()], ids=lambda q: type(q).__name__)
@pytest.mark.parametrize("elbo", [False, True])
def test_the_exact_curvature_is_autograds(q, elbo):
    f = lambda z: -0.5 * z.square().sum(-1) + 0.4 * z.prod(-1) + (1.1 * z).sin().sum(-1)  # noqa: E731
    of = lambda vector: (exact_elbo if elbo else expectation)(f, q.with_vector(vector))  # noqa: E731
    close(exact_curvature(f, q, elbo=elbo), torch.autograd.functional.hessian(of, q.vector()), rtol=1e-7, atol=1e-8)


def test_kl_between_normals_is_the_closed_form():
    for (m, s), (m0, s0) in [((0.0, 1.0), (1.0, 2.0)), ((1.0, 2.0), (0.0, 1.0)), ((-0.4, 0.3), (0.2, 0.9))]:
        kl = math.log(s0 / s) + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5
        assert -exact_elbo(gaussian_target(m0, s0), gaussian(m, math.log(s))).item() == pytest.approx(kl, abs=1e-10)
    assert -exact_elbo(gaussian_target(1.0, 2.0), gaussian()).item() == pytest.approx(0.443147, abs=1e-6)
    assert -exact_elbo(gaussian_target(0.0, 1.0), gaussian(1.0, math.log(2))).item() == pytest.approx(1.306853, abs=1e-6)


@pytest.mark.parametrize("elbo", [False, True])
@pytest.mark.parametrize("q", [gaussian(0.3, -0.2), full_rank()], ids=["1-D", "2-D full-rank"])
def test_the_score_and_the_path_have_one_gradient(q, elbo):
    """E[f s] = E[path], each integrated for itself; and it is autograd's of the exact ELBO."""
    f = lambda z: -0.5 * z.square().sum(-1) + 0.4 * z.prod(-1) + (1.1 * z).sin().sum(-1)  # noqa: E731
    cost = (lambda z: f(z) - q.log_prob(z)) if elbo else f
    by_score = torch.stack([expectation(lambda z: cost(z) * q.score(z)[..., p], q) for p in range(q.num_parameters)])
    m = moments(f, q, elbo=elbo)
    close(m.gradient, by_score, rtol=1e-9, atol=1e-9)
    close(m.gradient, exact_gradient(f, q, elbo=elbo), rtol=1e-9, atol=1e-9)
    s = [lambda z, p=p: q.score(z)[..., p] for p in range(q.num_parameters)]
    close(m.fs2, torch.stack([expectation(lambda z: cost(z) * s_p(z) ** 2, q) for s_p in s]), rtol=1e-9, atol=1e-9)
    close(m.f2s2, torch.stack([expectation(lambda z: (cost(z) * s_p(z)) ** 2, q) for s_p in s]), rtol=1e-9, atol=1e-9)


def test_the_optimal_baseline_is_the_lowest_point_of_a_parabola():
    m = moments(quadratic_cost(), gaussian(0.7, 0.3))
    at = lambda b: m.f2s2 - 2 * b * m.fs2 + b**2 * m.score_variance - m.gradient**2  # noqa: E731
    close(m.variances()["optimal_baseline"], at(m.optimal_baseline))
    for nudge in (-0.1, 0.1):
        assert (at(m.optimal_baseline + nudge) > at(m.optimal_baseline)).all()


def test_additive_moments_are_the_moments_of_the_sum():
    q1, f1 = gaussian(0.5, -0.3), lambda z: (1.3 * z).cos().sum(-1) + z.square().sum(-1)
    both = moments(f1, gaussian(0.5, -0.3, dim=2)).variances(4)                       # 0 and 2: mu[0] and omega[0]
    for name, variance in additive_moments(f1, q1, 2).variances(4).items():
        close(variance, both[name][[0, 2]], rtol=1e-8, atol=1e-10)


def test_learnt_baselines_have_no_variance_at_one_sample():
    variances = moments(quadratic_cost(), gaussian()).variances(1)
    assert variances["leave_one_out"].isnan().all() and variances["other_half"].isnan().all()


def test_evidence_in_one_and_two_dimensions():
    assert log_evidence(gaussian_target(1.0, 0.5), -5.0, 7.0) == pytest.approx(0, abs=1e-10)
    assert log_evidence(correlated_gaussian(0.8), (-9.0, -9.0), (9.0, 9.0)) == pytest.approx(0, abs=1e-9)


def test_a_box_of_nodes():
    z, log_cell = box_nodes((0.0, -1.0), (1.0, 3.0), 5)
    assert z.shape == (5, 5, 2) and z[1, 2].tolist() == [0.25, 1.0] and log_cell == pytest.approx(math.log(0.25 * 1.0))
    assert box_nodes(0, 1)[0].shape == (4001, 1) and box_nodes((0, 0), (1, 1))[0].shape == (401, 401, 2)
    for wrong in [((0.0,) * 3, (1.0,) * 3), (0.0, (1.0, 1.0))]:
        with pytest.raises(ShapeError, match="lower and upper: one or two numbers each, one a coordinate, got"):
            log_evidence(gaussian_target(), *wrong)


def test_a_posterior_density_integrates_to_one_and_is_the_right_one():
    grid = torch.linspace(-8, 8, 801, dtype=torch.float64)
    target = gaussian_target(0.5, 0.8)
    density = posterior_density(lambda z: target(z) + 3.0, grid)
    close(density, target(grid.unsqueeze(-1)).exp(), rtol=1e-9, atol=1e-12)
    both = posterior_density(correlated_gaussian(0.5), grid[::4], grid[::5])
    assert both.shape == (201, 161) and (both.sum() * 0.08 * 0.1).item() == pytest.approx(1)


@pytest.mark.parametrize("start", [(-3.0, 1.0), (0.0, 0.0), (2.0, -1.0)])
def test_best_gaussian_finds_the_logistic_optimum_from_anywhere(start):
    q, elbo = best_gaussian(logistic_one_coefficient(), gaussian(*start))
    assert (q.mean.item(), q.stddev.item(), elbo) == pytest.approx((0.413127, 0.910422, -0.693225), abs=1e-6)
    assert exact_gradient(logistic_one_coefficient(), q, elbo=True).abs().max() < 1e-9


def test_best_gaussian_of_full_rank_is_the_target():
    q, elbo = best_gaussian(correlated_gaussian(0.7, (1.0, 2.0)), full_rank())
    assert elbo == pytest.approx(0, abs=1e-10)
    close(q.covariance, tensor([1.0, 1.4], [1.4, 4.0]), rtol=1e-6, atol=1e-6)


def test_what_quadrature_cannot_do_is_said():
    with pytest.raises(ShapeError, match="q: quadrature reaches two dimensions, this q has 3; see additive_moments"):
        expectation(lambda z: z.sum(-1), gaussian(dim=3))
    with pytest.raises(ShapeError, match=r"q0: one density without a batch, got batch shape \(3,\)"):
        best_gaussian(gaussian_target(), mean_field(3, dim=1))


def test_variances_at_every_sample_count_are_those_of_each():
    q = gaussian(1.0)
    at = quadratic_cost().moments(q).variances_at((2, 8, 64))
    for i, num_samples in enumerate((2, 8, 64)):
        for name, variance in quadratic_cost().variances(q, num_samples).items():
            assert torch.equal(at[name][i], variance)
    assert torch.isnan(quadratic_cost().moments(q).variances_at((1,))["leave_one_out"]).all()
    assert torch.allclose(quadratic_cost().moments(gaussian(1.0, dim=3)).gradient, quadratic_cost().gradient(gaussian(1.0, dim=3))[[0, 3]])


def test_the_best_q_is_the_same_by_either_rule():
    start = MeanFieldGaussian(tensor(0.0), tensor(0.0))
    by_trapezoid, elbo = best_gaussian(logistic_one_coefficient(), start)
    by_hermite, also = best_gaussian(logistic_one_coefficient(), start, rule=gauss_hermite)
    close(by_hermite.vector(), by_trapezoid.vector(), rtol=1e-7, atol=1e-7)
    assert also == pytest.approx(elbo, abs=1e-9)


@pytest.mark.parametrize("dim", [1, 2])
def test_moments_at_the_nodes_of_a_rule_are_moments(dim):
    q, f = mean_field(dim=dim), lambda z: -(z - 1).square().sum(-1) + z[..., 0].sin()  # noqa: E731
    exact, there = moments(f, q, elbo=True), moments_at(f, q, *trapezoid(dim), elbo=True)
    for name in ("gradient", "mean_f", "variance_f", "fs2", "f2s2", "path2", "stl2"):
        assert getattr(exact, name).equal(getattr(there, name)), name


def test_moments_at_draws_are_measured_in_any_dimension():
    """f = ‖z‖² under N(0, 1) in five dimensions: f s has the mean 0 in μ, E f = 5, Var f = 10, and the path 2z the variance 4."""
    eps = torch.randn(200_000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = moments_at(lambda z: z.square().sum(-1), gaussian(dim=5), eps, torch.full((200_000,), 1 / 200_000).double())
    assert found.mean_f.item() == pytest.approx(5, abs=0.05) and found.variance_f.item() == pytest.approx(10, abs=0.3)
    close(found.path2[:5], torch.full((5,), 4.0).double(), rtol=0.03, atol=0)
    assert found.gradient.abs()[:5].max() < 0.03
