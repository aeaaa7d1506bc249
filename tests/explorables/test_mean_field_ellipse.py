"""mean-field-ellipse computes what `vilib` computes and theory says, and its sentences are true at every setting."""

from __future__ import annotations

import itertools
import math
import re
import sys

import numpy as np
import pytest
import torch

from vilib import (
    FullRankGaussian, MeanFieldGaussian, best_gaussian, correlated_gaussian, exact_elbo, forward_kl, normal, pareto_k,
)
from vilib.explorables import record
from vilib.explorables.gallery import mean_field_ellipse

ellipse = sys.modules["vilib.explorables.gallery.mean_field_ellipse"]
SETTINGS = list(itertools.product(ellipse.RHOS, ellipse.DIRECTIONS, ellipse.FAMILIES))


@pytest.fixture(scope="module")
def definition():
    return mean_field_ellipse().definition


def key_of(direction: str, family: str) -> str:
    return direction if family == "mean_field" else "full"


def test_the_correlations_offered_are_symmetric_and_inside():
    assert ellipse.RHOS[19] == 0 and len(ellipse.RHOS) == 39
    assert all(-rho in ellipse.RHOS and abs(rho) < 1 for rho in ellipse.RHOS)


@pytest.mark.parametrize(("rho", "direction", "family"), SETTINGS)
def test_every_number_is_what_theory_says(definition, rho, direction, family):
    f, key, r = definition.frame(rho=rho, direction=direction, family=family), key_of(direction, family), 1 - rho**2
    half_log = -0.5 * math.log(r)
    expected = {
        "sd_reverse": math.sqrt(r), "sd_forward": 1.0, "sd_full": 1.0, "gap_reverse": half_log, "gap_forward": rho**2 / r - half_log,
        "gap_full": 0.0, "forward_kl_forward": half_log, "forward_kl_reverse": rho**2 / r - half_log, "forward_kl_full": 0.0,
    }
    for name, value in expected.items():
        assert f[name][0] == pytest.approx(value, abs=1e-9), name
    laws = {"reverse": abs(rho), "forward": abs(rho) / (1 + abs(rho)), "full": math.nan}
    for row, law in laws.items():
        law = math.nan if rho == 0 else law
        assert f[f"law_{row}"][0] == pytest.approx(law, abs=1e-9, nan_ok=True)
        assert np.isnan(f[f"k_hat_{row}"][0]) == (rho == 0 or row == "full")
    for name in ("sd", "correlation", "gap", "forward_kl", "law", "k_hat"):                      # the table's first row
        assert f[f"{name}_now"][0] == pytest.approx(f[f"{name}_{key}"][0], nan_ok=True)
    # the picture: ellipses as m1, m2, L11, L21, L22, and what they say of z1 alone
    m, tril = f["ellipse_p"][:2], np.array([[f["ellipse_p"][2], 0], f["ellipse_p"][3:]])
    assert (m == 0).all() and tril @ tril.T == pytest.approx(np.array([[1, rho], [rho, 1]]))
    sd = f[f"sd_{key}"][0]
    assert f["ellipse_q"] == pytest.approx(f["ellipse_p"] if key == "full" else [0, 0, sd, 0, sd])
    density = lambda sd: np.exp(-0.5 * (f["z"] / sd) ** 2) / math.sqrt(2 * math.pi * sd**2)  # noqa: E731
    drawn = lambda name: (f[name] - ellipse.FLOOR) / ellipse.SCALE  # noqa: E731
    assert drawn("marginal_p") == pytest.approx(density(1.0)) and drawn("conditional_p") == pytest.approx(density(math.sqrt(r)))
    assert f["marginal_q"] == pytest.approx(f["conditional_p" if key == "reverse" else "marginal_p"]), "on the curve that its label names"
    assert f["marginal_q"].max() < -2, "below the ellipses"


@pytest.mark.parametrize("rho", [-0.95, -0.3, 0.0, 0.8])
def test_the_closed_forms_are_those_of_quadrature_and_of_a_free_search(definition, rho):
    f, target = definition.frame(rho=rho), correlated_gaussian(rho)
    start = torch.zeros(2, dtype=torch.float64)
    found, elbo = best_gaussian(target.log_joint, MeanFieldGaussian(start, start))
    assert f["gap_reverse"][0] == pytest.approx(-elbo, abs=1e-6) and f["sd_reverse"][0] == pytest.approx(found.stddev[0].item(), abs=1e-6)
    wide = MeanFieldGaussian(start, start)
    assert f["gap_forward"][0] == pytest.approx(-exact_elbo(target, wide).item(), abs=1e-6)
    assert f["forward_kl_forward"][0] == pytest.approx(forward_kl(target.log_joint, wide, [-9.0, -9.0], [9.0, 9.0]).item(), abs=1e-6)
    full, elbo = best_gaussian(target.log_joint, FullRankGaussian(start, torch.zeros(2, 2, dtype=torch.float64)))
    assert abs(elbo) < 1e-8 and full.stddev.tolist() == pytest.approx([1, 1], abs=1e-4)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("rho", [0.4, -0.4, 0.9])
def test_k_hat_is_that_of_vilib_on_the_same_draws(definition, rho, seed):
    """−ρ mirrors the second coordinate, and the draws with it."""
    f, target = definition.frame(rho=rho, seed=seed), correlated_gaussian(rho)
    eps = normal(ellipse.DRAWS, (), 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    eps = eps * torch.tensor([1.0, math.copysign(1, rho)])
    for row, sd in (("reverse", math.sqrt(1 - rho**2)), ("forward", 1.0)):
        q = MeanFieldGaussian(torch.zeros(2, dtype=torch.float64), torch.full((2,), math.log(sd), dtype=torch.float64))
        z = q.transform(eps)
        assert f[f"k_hat_{row}"][0] == pytest.approx(pareto_k(target(z) - q.log_prob(z)).item(), abs=1e-6)


@pytest.mark.statistical
def test_the_mean_over_the_seeds_is_near_the_law(definition):
    """The standard deviation of one k̂ of 20,000 draws is about a tenth (measured); five seeds."""
    for rho in (0.3, 0.5, 0.7):
        for row in ("reverse", "forward"):
            frames = [definition.frame(rho=rho, seed=seed) for seed in range(ellipse.SEEDS)]
            mean = np.mean([frame[f"k_hat_{row}"][0] for frame in frames])
            assert mean == pytest.approx(frames[0][f"law_{row}"][0], abs=5 * 0.11 / math.sqrt(ellipse.SEEDS))


@pytest.mark.parametrize(("rho", "direction", "family"), SETTINGS)
def test_what_is_said_is_true_of_every_setting(definition, rho, direction, family):
    f, key = definition.frame(rho=rho, direction=direction, family=family), key_of(direction, family)
    words = f["verdict"].item()
    assert ("is the posterior itself" in words) == (key == "full")
    assert ("At ρ = 0" in words) == (rho == 0 and key != "full")
    assert ("conditional width" in words) == (key == "reverse" and rho != 0)
    assert ("marginal width" in words) == (key == "forward" and rho != 0)
    assert ("k̂ is" in words) == (key != "full" and rho != 0) == bool(np.isfinite(f["k_hat_now"][0]))
    assert bool(f["above"].item()) == (f["gap_now"][0] > ellipse.DEPTH)
    assert ("alike" in f["drawn"].item()) == (key == "full")
    if key == "forward":
        assert f["gap_now"][0] >= f["gap_reverse"][0]
    names = set(f) | {c.name for c in definition.controls}
    for sentence in [definition.caption, *(p.note for p in definition.panels), words, f["above"].item(), f["drawn"].item()]:
        assert set(re.findall(r"\{(\w+)", sentence)) <= names


def test_curves_pass_through_today_s_numbers(definition):
    for rho, direction in itertools.product((-0.8, 0.2, 0.6), ellipse.DIRECTIONS):
        f = definition.frame(rho=rho, direction=direction)
        assert np.interp(rho, f["fine"], f["gap_curve"]) == pytest.approx(f["gap_now"][0], abs=2e-3)
        assert np.interp(rho, f["fine"], f["law_curve"]) == pytest.approx(f["law_now"][0], abs=1e-6)
        assert f["k_hats"][ellipse.RHOS.index(rho)] == f["k_hat_now"][0]


def test_axes_hold_still_and_every_control_changes_the_picture(definition):
    assert not any(isinstance(axis.domain, str) for panel in definition.panels for axis in (panel.x, panel.y))
    start = definition.frame()
    for change in ({"rho": 0.6}, {"direction": "forward"}, {"family": "full_rank"}, {"seed": 1}):
        frame = definition.frame(**change)
        moved = lambda names: any(not np.array_equal(frame[name], start[name], equal_nan=True) for name in names)  # noqa: B023, E731
        assert moved({"ellipse_p", "ellipse_q", "marginal_q", "k_hats"}), change
        assert moved({c.channel.format(row=row) for c in definition.table.columns for row in definition.table.rows}), change


def test_the_recording_is_small():
    recording = record(mean_field_ellipse())
    assert len(recording.base64()) + len(str(recording.header)) < 30_000
