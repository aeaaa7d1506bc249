"""How much of g a control variate takes: against numpy, closed forms and its own parabola."""

import math

import numpy as np
import pytest
import torch
from helpers import gaussian, seeded

from vilib import JointMoments, ShapeError, joint_moments, moments, quadratic_cost, trapezoid

close = torch.testing.assert_close


def some(count=50, batch=(3,)):
    generator = seeded(5)
    h = torch.randn((count, *batch), generator=generator, dtype=torch.float64)
    return 0.7 * h + torch.randn((count, *batch), generator=generator, dtype=torch.float64) + 2, h - 1


def test_of_a_sample_they_are_numpy_s():
    g, h = some()
    pair = joint_moments(g, h)
    for i in range(3):
        covariance = np.cov(g[:, i], h[:, i])
        assert pair.variance_g[i].item() == pytest.approx(covariance[0, 0]) and pair.variance_h[i].item() == pytest.approx(covariance[1, 1])
        assert pair.covariance[i].item() == pytest.approx(covariance[0, 1])
        assert pair.correlation[i].item() == pytest.approx(np.corrcoef(g[:, i], h[:, i])[0, 1])
    close(pair.mean_g, g.mean(0))
    close(pair.mean_h, h.mean(0))


@pytest.mark.parametrize("a", [-1.3, 0.0, 0.4, 2.0])
def test_the_parabola_is_the_variance_of_the_difference(a):
    g, h = some()
    close(joint_moments(g, h).variance(a), (g - a * h).var(0))


def test_the_best_coefficient_is_the_bottom_and_leaves_one_minus_rho_squared():
    pair = joint_moments(*some())
    best = pair.variance(pair.coefficient)
    close(best, pair.share_left * pair.variance_g)
    for step in (-0.01, 0.01):
        assert (pair.variance(pair.coefficient + step) > best).all()


@pytest.mark.parametrize("d, sigma", [(1.0, 1.0), (1.5, 0.7), (0.0, 2.0), (-2.0, 0.3)])
def test_of_the_square_and_its_score(d, sigma):
    """Var f s = d⁴/σ² + 14d² + 15σ², best coefficient d² + 3σ², left 8d² + 6σ²."""
    eps, weights = trapezoid(1)
    eps = eps[:, 0]
    pair = joint_moments((d + sigma * eps) ** 2 * eps / sigma, eps / sigma, weights)
    whole, left = d**4 / sigma**2 + 14 * d**2 + 15 * sigma**2, 8 * d**2 + 6 * sigma**2
    assert pair.coefficient.item() == pytest.approx(d**2 + 3 * sigma**2)
    assert pair.share_left.item() == pytest.approx(left / whole) and pair.mean_h.item() == pytest.approx(0, abs=1e-12)
    m = moments(quadratic_cost(), gaussian(d, math.log(sigma)))
    assert pair.coefficient.item() == pytest.approx(m.optimal_baseline[0].item())
    assert pair.variance(pair.coefficient).item() == pytest.approx(m.variances()["optimal_baseline"][0].item())


def test_a_multiple_is_a_perfect_control_variate_and_a_constant_none():
    g, _ = some()
    assert joint_moments(g, -3 * g).share_left.abs().max() < 1e-12
    assert torch.isnan(joint_moments(g, torch.ones_like(g)).coefficient).all()


def test_weights_that_are_even_give_the_population_s_moments():
    g, h = some(10, ())
    pair = joint_moments(g, h, torch.full((10,), 0.1, dtype=torch.float64))
    close(pair.variance_g, g.var(correction=0))
    assert isinstance(pair, JointMoments) and joint_moments(g.float(), h.float()).covariance.dtype == torch.float32


def test_bad_input_is_named():
    with pytest.raises(ShapeError, match=r"g, h and weights: expected the same number of draws .* got \(3,\), \(4,\) and None"):
        joint_moments(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ShapeError, match="g: a variance needs at least 2 draws, got 1"):
        joint_moments(torch.zeros(1), torch.zeros(1))
