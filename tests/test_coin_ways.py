"""The ways to the posterior of a coin: what each says, and that its error is what it is off by."""

import pytest
import torch
from helpers import seeded, tensor

from vilib import NoMode, coin_toss
from vilib.coin_ways import (
    closed_ways, coin_chains, exact_way, grid_way, laplace_in_theta, logit_distribution, theta_densities, theta_density,
)

COIN = coin_toss(6, 4)
EXACT = logit_distribution(COIN)


def test_closed_ways_of_the_coin_of_the_book():
    ways, gaussians = closed_ways(COIN, EXACT)
    assert ways["exact"] == exact_way(COIN) and ways["exact"].error == 0
    known = ways["exact"]
    assert (known.mean, known.sd, known.evidence) == pytest.approx((16 / 30, 0.089603, -7.069375), abs=1e-6)
    assert (ways["laplace_theta"].mean, ways["laplace_theta"].sd) == pytest.approx((0.535714, 0.094250), abs=1e-6)
    assert ways["vi"].evidence == pytest.approx(-7.069509, abs=1e-6) and ways["vi"].mean == pytest.approx(16 / 30, abs=1e-6)
    z = gaussians["vi"].mean + gaussians["vi"].stddev * torch.linspace(-5, 5, 2001, dtype=torch.float64)
    off = (torch.distributions.Normal(gaussians["vi"].mean, gaussians["vi"].stddev).cdf(z) - EXACT(z)).abs().max().item()
    assert ways["vi"].error == pytest.approx(off, rel=0.02)


def test_a_coin_without_a_mode_has_no_laplace_in_theta():
    coin = coin_toss(6, 0, (1.0, 1.0))
    exact = logit_distribution(coin)
    with pytest.raises(NoMode):
        laplace_in_theta(coin, exact)
    ways, gaussians = closed_ways(coin, exact)
    assert ways["laplace_theta"].mean != ways["laplace_theta"].mean and "laplace_theta" not in gaussians
    assert theta_densities(coin, gaussians, tensor(0.5))["laplace_theta"].isnan().all()


def test_a_grid_converges_on_the_exact_answers():
    fine = grid_way(COIN, EXACT, torch.linspace(-8, 8, 2560, dtype=torch.float64))
    known = exact_way(COIN)
    assert (fine.mean, fine.sd, fine.evidence) == pytest.approx((known.mean, known.sd, known.evidence), abs=1e-6)
    assert fine.error < 1e-4


def test_chains_are_those_of_their_coin():
    chains = coin_chains((0, 6), (10.0, 10.0), 8, 1000, seeded())
    for i, heads in enumerate((0, 6)):
        for j, tails in enumerate((0, 6)):
            theta = torch.sigmoid(chains[i, j])
            assert theta.mean().item() == pytest.approx((10 + heads) / (20 + heads + tails), abs=0.03)


def test_the_density_of_theta_is_the_beta_density_and_zero_outside():
    theta = tensor(-0.2, 0.0, 0.1, 0.5, 0.9, 1.0, 1.3)
    density = theta_density(lambda z: COIN(z) - COIN.log_evidence, theta)
    torch.testing.assert_close(density[2:5], COIN.posterior.log_prob(theta[2:5]).exp())
    assert (density[[0, 1, 5, 6]] == 0).all()
