"""kl-directions computes what `vilib` computes, and its sentences are true at every setting."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from explorables.laws import assert_every_name_is_there

from vilib import (
    FullRankGaussian, MeanFieldGaussian, best_gaussian, forward_kl, gaussian_kl, log_ratio_moments, monte_carlo_forward_kl, monte_carlo_kl,
    monte_carlo_kl_k3, reverse_kl,
)
from vilib.explorables import record
from vilib.explorables.gallery import kl_directions

kl = sys.modules["vilib.explorables.gallery.kl_directions"]
WAYS = ("reverse", "forward")
EVERY = list(itertools.product(kl.TARGETS, WAYS, kl.MEANS, kl.SDS))
every_way = pytest.mark.parametrize("direction", WAYS)
every_target = pytest.mark.parametrize("target", kl.TARGETS)


@pytest.fixture(scope="module")
def definition():
    return kl_directions().definition


def q_of(mu: float, sigma: float, dim: int = 1) -> MeanFieldGaussian:
    full = lambda x: torch.full((dim,), float(x), dtype=torch.float64)  # noqa: E731
    return MeanFieldGaussian(full(mu), full(math.log(sigma)))


def ridge() -> FullRankGaussian:
    tril = torch.linalg.cholesky(kl.SD**2 * torch.tensor([[1.0, kl.RHO], [kl.RHO, 1.0]], dtype=torch.float64))
    return FullRankGaussian(torch.zeros(2, dtype=torch.float64), tril.tril(-1) + torch.diag(tril.diagonal().log()))


def exact(target: str, direction: str, mu: float, sigma: float) -> float:
    """The KL by another way than the explorable's: quadrature over q's own nodes, a box around p, or a matrix formula."""
    if target == "correlated":
        q = q_of(mu, sigma, 2)
        return (gaussian_kl(q, ridge()) if direction == "reverse" else gaussian_kl(ridge(), q)).item()
    p = kl.TARGETS[target][1]
    return (reverse_kl(p, q_of(mu, sigma)) if direction == "reverse" else forward_kl(p, q_of(mu, sigma), -20, 80)).item()


@pytest.mark.parametrize(("target", "direction", "mu", "sigma"), EVERY[::7])
def test_the_kl_is_exact_and_its_shares_add_up(target, direction, mu, sigma):
    frame = kl.compute(mu, sigma, direction, target, 100, 0)
    assert frame["value_q"] == pytest.approx(exact(target, direction, mu, sigma), abs=6e-4)
    sign = 1 if target == "correlated" or frame["value_q"][0] > frame["first"] else -1
    assert frame["first"] + sign * frame["rest"] == pytest.approx(frame["value_q"][0], abs=1e-9)
    assert frame["value_q"][0] >= frame["value_best"][0] - 6e-4, "nothing is better than the best"
    if target != "correlated":
        assert frame["first"] >= frame["value_q"][0] and "takes away" in frame["split"]


@every_way
def test_the_shares_of_the_ridge_are_those_of_gaussians(direction):
    half = lambda r: 0.5 * (r - 1 - math.log(r))  # noqa: E731
    for sigma in kl.SDS:
        ratio = sigma**2 / kl.ACROSS**2
        frame = kl.compute(0.0, sigma, direction, "correlated", 10, 0)
        assert frame["first"] == pytest.approx(half(ratio if direction == "reverse" else 1 / ratio), abs=6e-4)


@every_way
@every_target
def test_the_curve_holds_the_kl(target, direction):
    """Where nothing is cut, the signed area of what is drawn is the KL."""
    for mu, sigma in [(1.0, 2.0), (0.0, 2.0), (-1.0, 1.6)]:
        frame = kl.compute(mu, sigma, direction, target, 100, 0)
        assert np.nanmin(frame["curve"]) >= kl.LOW and np.nanmax(frame["curve"]) <= kl.HIGH
        assert bool(frame["above"]) == (max(c.max() for c in raw_curves(target, direction, mu, sigma)) > kl.HIGH)
        if not frame["above"] and target == "bimodal":
            assert frame["curve"].sum() * (kl.Z[1] - kl.Z[0]) == pytest.approx(frame["value_q"][0], abs=0.02)
        assert np.isnan(frame["second"]).all() == (target != "correlated")


def raw_curves(target, direction, mu, sigma):
    z = kl.FINE
    for p, along, _ in kl.TARGETS[target][3]:
        base, other = (q_of(mu * along, sigma).log_prob, p)[:: 1 if direction == "reverse" else -1]
        yield base(z).exp() * (base(z) - other(z))


@every_target
def test_k1_and_k3_are_vilib_s_on_the_same_draws(target):
    for mu, sigma, seed in [(1.0, 2.0, 0), (-0.5, 1.3, 1)]:
        eps = torch.randn(10_000, 2, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
        for direction in WAYS:
            frame = kl.compute(mu, sigma, direction, target, 100, seed)
            p, draw = kl.TARGETS[target][1], kl.TARGETS[target][3][0][2]
            dim = 2 if target == "correlated" else 1
            q = q_of(mu, sigma, dim)
            turn = torch.tensor([[1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)           # (across, along) -> z
            for at, count in enumerate(kl.COUNTS):
                if direction == "reverse":
                    noise = (turn @ eps[:count].mT).mT if dim == 2 else eps[:count, :1]
                    estimate, error = monte_carlo_kl(p, q, noise)
                    third, third_error = monte_carlo_kl_k3(p, q, noise)
                    assert (frame["value_k3"][at], frame["error_k3"][at]) == pytest.approx((third.item(), third_error.item()), rel=1e-9)
                else:
                    parts = torch.stack([part[2](eps[:count]) for part in kl.TARGETS[target][3]])
                    z = (turn @ parts).mT if dim == 2 else draw(eps[:count]).unsqueeze(-1)
                    estimate, error = monte_carlo_forward_kl(p, q, z)
                assert (frame["value_k1"][at], frame["error_k1"][at]) == pytest.approx((estimate.item(), error.item()), rel=1e-9)


@pytest.mark.statistical
@every_target
def test_the_draws_of_p_are_draws_of_p(target):
    """Mean and variance, to 6 standard errors of a million draws."""
    eps = torch.randn(1_000_000, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for p, _, draw in kl.TARGETS[target][3]:
        z, grid = draw(eps), kl.FINE[:, 0]
        density = p(kl.FINE).exp() * (grid[1] - grid[0])
        mean = (density * grid).sum()
        for power in (1, 2, 3):
            expected, terms = (density * (grid - mean) ** power).sum(), (z - mean) ** power
            assert abs(terms.mean() - expected) < 6 * terms.std() / 1000, power


@pytest.mark.parametrize(("target", "direction", "mu", "sigma"), EVERY[::13])
def test_a_line_of_k3_stands_where_it_has_a_variance_and_only_there(target, direction, mu, sigma):
    """Gaussian tails, so the rule is known: of what draws and what does not, the latter may not be √2 times wider; Gumbel's tail: never."""
    frame = kl.compute(mu, sigma, direction, target, 100, 0)
    shown = bool(np.isfinite(frame["theory_k3"]).all())
    assert shown == (not np.isnan(frame["theory_k3"]).any()) and ("of no use" in frame["verdict"]) == (not shown)
    narrow, wide = {"bimodal": (1.0, 1.0), "correlated": (kl.ACROSS, kl.ALONG), "skewed": (0.0, math.inf)}[target]
    finite = wide < math.sqrt(2) * sigma if direction == "reverse" else sigma < math.sqrt(2) * narrow
    if shown:
        assert finite
        quieter = frame["theory_k3"][0] < frame["theory_k1"][0]
        assert ("quieter" in frame["verdict"]) == quieter
    elif finite:                                        # then it is beyond all use: over 1,000 nats a term, in a far wider box
        whole = None
        for p, along, _ in kl.TARGETS[target][3]:
            base, other = (q_of(mu * along, sigma).log_prob, p)[:: 1 if direction == "reverse" else -1]
            part = log_ratio_moments(base, other, -1500.0, 1500.0, 60_001)
            whole = part if whole is None else whole.times(part)
        assert whole.sd_k3 > 1000


@every_target
@every_way
def test_theory_s_line_falls_like_the_root_and_k1_s_points_lie_near_it(target, direction):
    frame = kl.compute(0.5, 2.0, direction, target, 100, 0)
    assert np.allclose(frame["theory_k1"] * np.sqrt(kl.COUNTS), frame["theory_k1"][0] * math.sqrt(10))
    assert frame["error_k1"][-1] == pytest.approx(frame["theory_k1"][-1], rel=0.25)


def test_the_best_are_the_known_optima():
    still = lambda target, direction: kl._still(target, direction)  # noqa: E731
    hills = still("bimodal", "reverse")
    assert hills["minima_mu"] == pytest.approx([2.98431, -2.98431, 0.0], abs=1e-4)
    assert np.exp(hills["minima_omega"]) == pytest.approx([1.02337, 1.02337, 2.74377], abs=1e-4)
    assert hills["value_best"][0] == pytest.approx(0.688769, abs=1e-6)
    forward = still("bimodal", "forward")
    assert (forward["mu_best"], forward["sigma_best"]) == pytest.approx((0, math.sqrt(10)), abs=1e-6)
    skewed = still("skewed", "reverse"), still("skewed", "forward")
    assert (skewed[0]["mu_best"], skewed[0]["sigma_best"]) == pytest.approx((-0.5, 2.0), abs=1e-5)
    assert (skewed[1]["mu_best"], skewed[1]["sigma_best"]) == pytest.approx((-1.5 + 2 * 0.5772156649, 2 * math.pi / math.sqrt(6)), abs=1e-6)
    ways = still("correlated", "reverse"), still("correlated", "forward")
    assert (ways[0]["sigma_best"], ways[1]["sigma_best"]) == pytest.approx((2 * math.sqrt(1 - 0.81), 2.0), abs=1e-6)
    assert all(way["value_best"][0] == pytest.approx(-0.5 * math.log(1 - 0.81), abs=1e-5) for way in ways)
    q, elbo = best_gaussian(kl.TARGETS["correlated"][1], q_of(0.3, 1.0, 2))
    assert q.stddev.tolist() == pytest.approx([ways[0]["sigma_best"]] * 2, abs=1e-6)


@every_way
@every_target
def test_level_lines_lie_at_their_level(target, direction):
    still = kl._still(target, direction)
    x, y = (still[name].reshape(kl.RINGS, -1)[:, :-1] for name in ("ring_mu", "ring_omega"))
    assert (~np.isnan(still["ring_levels"])).sum() >= 5
    for level, mu, omega in zip(still["ring_levels"], x, y):
        inside = (np.abs(mu) < 4.8) & (omega > -0.9) & (omega < 1.6)
        if np.isnan(level) or not inside.any():
            continue
        values = [exact(target, direction, m, math.exp(o)) for m, o in list(zip(mu[inside], omega[inside]))[::6]]
        assert np.abs(np.array(values) - still["value_best"][0] - level).max() < 0.1 * level + 0.02, level


def test_axes_hold_still(definition):
    assert not any(isinstance(axis.domain, str) for panel in definition.panels for axis in (panel.x, panel.y))
    frames = [definition.frame(mu=mu, sigma=sigma, seed=seed) for mu in (-4.0, 4.0) for sigma in (0.65, 4.0) for seed in (0, 1)]
    for name in ("p", "ring_mu", "ring_omega", "ring_levels", "minima_mu", "z"):
        assert all(np.array_equal(frame[name], frames[0][name], equal_nan=True) for frame in frames), name


def test_what_the_caption_names_is_there(definition):
    for target, direction in itertools.product(kl.TARGETS, WAYS):
        frame = definition.frame(target=target, direction=direction, mu=4.0, sigma=0.65)
        assert_every_name_is_there(definition, frame)
        assert ("across the ridge" in frame["split"].item()) == (target == "correlated")
        assert frame["name"].item() == ("KL(q ‖ p)" if direction == "reverse" else "KL(p ‖ q)")


def test_the_recording_is_light():
    recording = record(kl_directions())
    assert len(recording.base64()) + len(str(recording.header)) < 100_000
