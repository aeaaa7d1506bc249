"""ε is standard normal, draw by draw, under every noise; and each noise is what it says."""

import pytest
import torch
from helpers import seeded
from statistical.ztest import assert_mean

from vilib import DependentDraws, MissingGenerator, ShapeError, antithetic, leave_one_out, normal, pathwise, sobol
from vilib.fit import check_draws

NOISES = [normal, antithetic, sobol]
named = pytest.mark.parametrize("noise", NOISES, ids=lambda n: n.__name__)


@named
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_the_shape_law(noise, batch, dtype):
    eps = noise(8, batch, 2, generator=seeded(), dtype=dtype)
    assert eps.shape == (8, *batch, 2) and eps.dtype == dtype and not eps.requires_grad


@named
def test_the_same_generator_state_gives_the_same_draws(noise):
    draw = lambda seed: noise(4, (2,), 1, generator=seeded(seed))  # noqa: E731
    assert torch.equal(draw(5), draw(5)) and not torch.equal(draw(5), draw(6))


@named
def test_a_second_call_gives_fresh_draws(noise):
    generator = seeded()
    assert not torch.equal(noise(4, (2,), 1, generator=generator), noise(4, (2,), 1, generator=generator))


@named
@pytest.mark.statistical
def test_each_draw_is_standard_normal_by_itself(noise):
    eps = noise(4, (2000,), 2, generator=seeded(11), dtype=torch.float64).movedim(1, 0)      # (replicates, S, D)
    for power, moment in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)]:
        assert_mean(eps**power, moment, f"E eps^{power}")
    assert_mean((eps < 0.5).double(), torch.special.ndtr(torch.tensor(0.5, dtype=torch.float64)), "P(eps < 1/2)")


@named
@pytest.mark.statistical
def test_replicates_and_coordinates_are_uncorrelated(noise):
    eps = noise(2, (1000, 2), 2, generator=seeded(12), dtype=torch.float64)
    assert_mean(eps[0, :, 0] * eps[0, :, 1], 0.0, "between replicates")
    assert_mean(eps[0, :, :, 0] * eps[0, :, :, 1], 0.0, "between coordinates")
    if noise.independent_draws:
        assert_mean(eps[0] * eps[1], 0.0, "between draws")


def test_antithetic_draws_come_in_neighbouring_pairs():
    eps = antithetic(6, (3,), 2, generator=seeded())
    assert torch.equal(eps[0::2], -eps[1::2])


@pytest.mark.parametrize("num_samples", [1, 2, 8, 64])
def test_sobol_puts_one_draw_in_each_of_s_equal_cells(num_samples):
    eps = sobol(num_samples, (5,), 3, generator=seeded(), dtype=torch.float64)
    cell = (torch.special.ndtr(eps) * num_samples).floor().long().sort(0).values
    assert (cell == torch.arange(num_samples).reshape(-1, 1, 1)).all()


def test_each_sobol_replicate_has_a_scramble_of_its_own():
    eps = sobol(8, (50,), 1, generator=seeded())[:, :, 0].sort(0).values
    assert len(torch.unique(eps, dim=1).T) == 50


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sobol_stays_finite_where_a_point_falls_on_the_edge_of_the_cube(monkeypatch, dtype):
    edges = torch.tensor([[0.0], [1 - 2.0**-30]], dtype=torch.float64)

    class OnTheEdge:
        def __init__(self, *args, **options): ...
        def draw(self, num_samples, dtype): return edges.to(dtype)

    monkeypatch.setattr(torch.quasirandom, "SobolEngine", OnTheEdge)
    eps = sobol(2, (), 1, generator=seeded(), dtype=dtype)
    assert eps.isfinite().all() and eps[0] == -eps[1] and eps[1] > 6


@pytest.mark.statistical
def test_a_mean_over_sobol_draws_settles_faster():
    draw = lambda noise: noise(64, (300,), 1, generator=seeded(), dtype=torch.float64)  # noqa: E731
    spread = {noise: draw(noise).square().mean((0, 2)).var() for noise in NOISES}
    assert spread[sobol] < 0.2 * spread[normal]               # ε² is even: pairs see it half as often, and lose
    assert 1.3 * spread[normal] < spread[antithetic]


@pytest.mark.parametrize("noise, count, message", [
    (normal, 0, "num_samples and dim: both at least 1, got num_samples=0"),
    (antithetic, 3, "num_samples: antithetic draws come in pairs, so an even number is needed, got 3"),
    (antithetic, 1, "an even number is needed, got 1"),
    (sobol, 6, "num_samples: Sobol points are balanced only in powers of two, got 6; take 4 or 8"),
    (sobol, 0, "both at least 1"),
])
def test_a_count_that_cannot_be_says_which_can(noise, count, message):
    with pytest.raises(ShapeError, match=message):
        noise(count, (), 1, generator=seeded())


@named
def test_noise_without_a_generator_is_refused(noise):
    with pytest.raises(MissingGenerator, match="generator: expected a torch.Generator, got None"):
        noise(2, (), 1, generator=None)


def test_only_independent_draws_may_teach_a_baseline():
    for noise in (antithetic, sobol):
        check_draws(pathwise, noise)
        with pytest.raises(DependentDraws, match=f"noise: leave_one_out learns.*{noise.__name__} draws are not. Use noise=normal"):
            check_draws(leave_one_out, noise)
    check_draws(leave_one_out, normal)
