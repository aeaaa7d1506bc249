"""posterior-three-ways computes what `vilib` computes, and its sentences are true at every setting."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from explorables.laws import assert_every_name_is_there

from vilib import coin_toss, laplace, log_evidence
from vilib.explorables import record
from vilib.explorables.gallery import posterior_three_ways

ways = sys.modules["vilib.explorables.gallery.posterior_three_ways"]
EVERY_COIN = list(itertools.product(ways.COUNTS, ways.COUNTS, ways.PRIORS))


@pytest.fixture(scope="module")
def definition():
    return posterior_three_ways().definition


def beta_cdf(a: float, b: float, t: float) -> float:
    """∫₀ᵗ Beta(a, b), by the substitution θ = sin²φ, which takes the poles at both ends away."""
    phi = np.linspace(0, math.asin(math.sqrt(t)), 20_001)
    with np.errstate(divide="ignore", invalid="ignore"):
        f = 2 * np.sin(phi) ** (2 * a - 1) * np.cos(phi) ** (2 * b - 1)
    return float(np.trapezoid(f, phi) * math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)))


@pytest.mark.parametrize(("heads", "tails", "prior"), EVERY_COIN[::11])
def test_the_exact_distribution_function_is_that_of_a_beta(heads, tails, prior):
    coin, cdf = ways._coin(heads, tails, prior)
    a, b = coin.posterior.concentration1.item(), coin.posterior.concentration0.item()
    for t in (0.02, 0.3, 0.5, 0.8):
        assert cdf(torch.tensor(math.log(t / (1 - t)))).item() == pytest.approx(beta_cdf(a, b, t), abs=1e-4)


def test_the_coin_of_the_chapter(definition):
    f = definition.frame(prior="fair", heads=6, tails=4)
    assert (f["mean_exact"][0], f["sd_exact"][0], f["evidence_exact"][0]) == pytest.approx((16 / 30, 0.089603, -7.069375), abs=1e-6)
    assert (f["mean_laplace_theta"][0], f["sd_laplace_theta"][0]) == pytest.approx((0.535714, 0.094250), abs=1e-6)
    assert f["gaussian_laplace_logit"] == pytest.approx([0.133531, 0.365963], abs=1e-6)
    assert f["gaussian_vi"] == pytest.approx([0.137999, 0.372017], abs=1e-6) and f["evidence_vi"][0] == pytest.approx(-7.069509, abs=1e-6)
    assert f["tosses"].item() == "10 tosses" and f["named"].item() == "Beta(16, 14)"
    in_theta = laplace(lambda z: coin_toss(6, 4).model.log_joint({"theta": z[..., 0]}), torch.tensor([0.5]).double())
    assert f["evidence_laplace_theta"][0] == pytest.approx(in_theta.log_evidence.item(), abs=1e-9)
    assert f["evidence_grid"][0] == pytest.approx(log_evidence(coin_toss(6, 4), -8, 8, 160), abs=1e-12)


@pytest.mark.parametrize(("heads", "tails", "prior"), EVERY_COIN)
def test_what_is_said_is_true_of_every_coin(definition, heads, tails, prior):
    f = definition.frame(heads=heads, tails=tails, prior=prior, evaluations=160)
    a, b = (ways.PRIORS[prior][1][i] + n for i, n in enumerate((heads, tails)))
    words = f["verdict"].item()
    assert ("no mode" in words) == (a <= 1 or b <= 1) == bool(np.isnan(f["mean_laplace_theta"][0]))
    missed = beta_cdf(a, b, 1 / (1 + math.exp(8))) + beta_cdf(b, a, 1 / (1 + math.exp(8)))
    assert f["missed"][0] == pytest.approx(missed, abs=3e-5) and ("misses" in words) == (f["missed"][0] > 0.001)
    assert f["evidence_vi"][0] < f["evidence_exact"][0] + 1e-9, "the ELBO is a bound"
    assert f["mean_vi"][0] == pytest.approx(f["mean_exact"][0], abs=1e-6), "the optimum in μ says so"
    assert f["error_vi"][0] < f["error_laplace_logit"][0] and (f["error_exact"] == 0).all()
    for key in ("grid", "mcmc", "vi", "laplace_logit"):
        assert (f[f"error_{key}"] > 0).all() and (f[f"error_{key}"] <= 1).all()
    inside = (ways.THETA > 0) & (ways.THETA < 1)
    assert np.isfinite(f["curve_exact"][inside]).all() and (f["curve_exact"][~inside] == 0).all()
    exact = coin_toss(heads, tails, ways.PRIORS[prior][1]).posterior.log_prob(torch.from_numpy(ways.THETA[inside])).exp().numpy()
    assert f["curve_exact"][inside] == pytest.approx(np.minimum(exact, 9.0), rel=1e-9)           # cut above the picture


def test_the_grid_converges_and_the_draws_do_at_the_rate_of_a_root(definition):
    f = definition.frame(prior="flat", heads=6, tails=1)
    ratio = f["error_grid"][1:-1] / f["error_grid"][2:]
    assert (ratio > 10).all(), "four times the points, a step of a quarter: 16 in the limit"
    everywhere = [np.median(ways._mcmc(*coin)[1], 0) for coin in EVERY_COIN]
    slope = np.log(np.mean(everywhere, 0)[-1] / np.mean(everywhere, 0)[1]) / np.log(2560 / 40)
    assert slope == pytest.approx(-0.5, abs=0.1)


def test_the_draws_shown_are_those_that_are_counted(definition):
    f = definition.frame(prior="fair", heads=24, tails=24, evaluations=640, seed=1)
    assert f["histogram"].sum() / ways.BINS == pytest.approx(1, abs=1e-9)
    chain = ways._mcmc(24, 24, "fair")[0][1, :640]
    assert f["mean_mcmc"][0] == pytest.approx((1 / (1 + np.exp(-chain))).mean())
    _, cdf = ways._coin(24, 24, "fair")
    for t in np.linspace(-1.5, 1.5, 31):                            # no probability is off by more than is said
        assert abs((chain <= t).mean() - cdf(torch.tensor(t)).item()) <= f["error_mcmc"][3] + 1e-12


def test_axes_hold_still_and_the_grid_says_what_it_leaves_out(definition):
    assert not any(isinstance(axis.domain, str) for panel in definition.panels for axis in (panel.x, panel.y))
    for evaluations in ways.EVALUATIONS:
        f = definition.frame(evaluations=evaluations)
        assert np.isfinite(f["grid_z"]).sum() == min(evaluations, ways.NODES)
        assert f["drawn"].item() == ("" if evaluations <= 40 else f"40 of {evaluations} grid points drawn")


def test_what_the_caption_names_is_there(definition):
    for coin in [(6, 1, "flat"), (0, 24, "edges"), (0, 0, "flat")]:
        assert_every_name_is_there(definition, definition.frame(heads=coin[0], tails=coin[1], prior=coin[2]))
    assert definition.frame(heads=1, tails=0)["tosses"].item() == "1 toss"


def test_the_recording_is_small():
    assert len(record(posterior_three_ways()).base64()) < 100_000
