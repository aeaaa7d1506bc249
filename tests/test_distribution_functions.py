"""Distribution functions against torch.distributions, and their distances against enumeration."""

import math

import numpy as np
import pytest
import torch
from helpers import seeded, tensor
from torch.distributions import Normal

from vilib import DistributionFunction, ShapeError

GRID = torch.linspace(-9, 9, 4001, dtype=torch.float64)
STANDARD = Normal(tensor(0.0).squeeze(), tensor(1.0).squeeze())
NORMAL = DistributionFunction.from_density(GRID, 7 * STANDARD.log_prob(GRID).exp())


def test_the_integral_of_a_density_that_need_not_be_normalised():
    t = torch.linspace(-4, 4, 37, dtype=torch.float64).reshape(37, 1)
    torch.testing.assert_close(NORMAL(t), STANDARD.cdf(t), rtol=0, atol=2e-6)
    assert NORMAL(t).shape == t.shape and NORMAL.values[0] == 0 and NORMAL.values[-1] == 1
    assert NORMAL(torch.tensor([-50.0, 50.0])).tolist() == [0, 1] and NORMAL(torch.tensor(0.0)).dtype == torch.float64


def test_between_the_points_it_is_numpy_s_interpolation():
    coarse = DistributionFunction.from_density(tensor(-1.0, 0.0, 0.5, 3.0), tensor(1.0, 2.0, 0.0, 1.0))
    t = torch.linspace(-2, 4, 101, dtype=torch.float64)
    assert np.allclose(coarse(t), np.interp(t, coarse.grid, coarse.values), atol=1e-15)


@pytest.mark.parametrize("shift", [0.1, 0.5, 2.0])
def test_the_distance_of_two_gaussians_is_in_the_middle(shift):
    exact = 2 * STANDARD.cdf(tensor(shift / 2)).item() - 1
    assert NORMAL.distance(lambda t: STANDARD.cdf(t - shift)) == pytest.approx(exact, abs=1e-5)


def test_no_increasing_map_changes_the_distance():
    on_theta = DistributionFunction(torch.sigmoid(GRID), NORMAL.values)
    other = lambda z: STANDARD.cdf((z - 0.3) / 1.2)  # noqa: E731
    assert on_theta.distance(lambda theta: other(torch.logit(theta))) == pytest.approx(NORMAL.distance(other), abs=1e-9)


def test_the_distance_of_draws_looks_on_both_sides_of_each():
    draws = torch.randn(50, 3, generator=seeded(1), dtype=torch.float64)
    fine = torch.linspace(-5, 5, 200_001, dtype=torch.float64)
    for k, found in enumerate(NORMAL.distance_of_draws(draws).tolist()):
        shares = torch.searchsorted(draws[:, k].sort().values, fine, right=True) / 50
        assert found == pytest.approx((shares - NORMAL(fine)).abs().max().item(), abs=1e-4)
    one = NORMAL.distance_of_draws(tensor(0.0))
    assert one.shape == () and one.item() == pytest.approx(0.5, abs=1e-9)


def test_draws_of_it_come_closer_like_a_root():
    """√S times the distance has the Kolmogorov distribution, of mean √(π/2) ln 2."""
    draws = torch.randn(1000, 2000, generator=seeded(2), dtype=torch.float64)
    scaled = NORMAL.distance_of_draws(draws) * 1000**0.5
    expected = math.sqrt(math.pi / 2) * math.log(2)
    bias = 0.01                                                                          # it is 1/(6√S) short of it
    assert abs(scaled.mean().item() - expected) < 5 * scaled.std().item() / 2000**0.5 + bias


@pytest.mark.parametrize(
    ("grid", "density"), [((0.0,), (1.0,)), ((0.0, 1.0), (1.0,)), ((1.0, 0.0), (1.0, 1.0)), ((0.0, 0.0), (1.0, 1.0))]
)
def test_a_grid_that_is_none(grid, density):
    with pytest.raises(ShapeError, match="grid, density: expected two points or more, increasing"):
        DistributionFunction.from_density(tensor(*grid), tensor(*density))
