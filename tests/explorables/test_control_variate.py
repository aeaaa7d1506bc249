"""control-variate computes what `vilib` computes, and its sentences are true at every setting."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch

from vilib import MeanFieldGaussian, antithetic, gradient_replicates, moments, normal, score_function_expectation, sobol
from vilib.explorables import record
from vilib.explorables.gallery import control_variate

page = sys.modules["vilib.explorables.gallery.control_variate"]
EVERY_PAIR = list(itertools.product(page.COSTS, page.VARIATES))
Q = MeanFieldGaussian(torch.ones(1).double(), torch.zeros(1).double())


@pytest.fixture(scope="module")
def definition():
    return control_variate().definition


@pytest.mark.parametrize(("cost", "variate"), EVERY_PAIR)
def test_the_parabola_is_that_of_many_draws(definition, cost, variate):
    """Its bottom, 1 − ρ², and the share at any a, from draws that the picture does not use."""
    eps = normal(400_000, (), page.COSTS[cost][2], generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    g, h = page._pair(cost, variate, eps)
    rho = np.corrcoef(g, h)[0, 1]
    for multiple in (-1.0, 0.3, 1.5):
        frame = definition.frame(cost=cost, variate=variate, multiple=multiple)
        assert frame["best"][0] == pytest.approx(rho, abs=0.02) and frame["best_left"][0] == pytest.approx(1 - frame["best"][0] ** 2)
        share = (g - frame["a"].item() * h).var() / g.var()
        assert frame["left"][0] == pytest.approx(share.item(), rel=0.03, abs=0.01)
        assert np.interp(multiple, frame["grid"], frame["parabola"]) == pytest.approx(frame["left"][0], abs=1e-9)


@pytest.mark.parametrize(("cost", "variate"), EVERY_PAIR)
def test_h_has_the_mean_that_it_is_said_to_have(cost, variate):
    """Zero, or the slope of the parabola at the mean of q: known without an average."""
    mean = page._exact(cost, variate).mean_h.item()
    f, step = page.COSTS[cost][1], torch.tensor([[1e-5], [-1e-5]], dtype=torch.float64)
    slope = ((f(step)[0] - f(step)[1]) / 2e-5).item()
    assert mean == pytest.approx(slope if variate == "parabola" else 0.0, abs=1e-6)


@pytest.mark.parametrize("cost", ["quadratic", "quadratic_10", "cosine", "logistic"])
def test_the_plain_line_is_exact(definition, cost):
    frame = definition.frame(cost=cost)
    _, f, dim = page.COSTS[cost]
    if cost == "quadratic_10":
        exact = 552.0
    elif cost == "logistic":
        exact = moments(page.MODEL, Q, elbo=True).variances()["score_function"][0].item()
    else:
        exact = moments(lambda z: f(z - 1), Q).variances()["score_function"][0].item()
    assert frame["plain"] * frame["counts"] == pytest.approx(np.full(len(page.COUNTS), exact), rel=1e-6)


@pytest.mark.statistical
@pytest.mark.parametrize(("name", "noise"), [("normal", normal), ("antithetic", antithetic), ("sobol", sobol)])
@pytest.mark.parametrize("count", [4, 64])
def test_the_measured_variances_are_those_of_fresh_replicates(definition, name, noise, count):
    """f = z² with a baseline, h = the score: through the estimator that the chapter shows, on other noise."""
    frame = definition.frame(multiple=0.5)
    estimator = lambda f, q, eps: score_function_expectation(f, q, eps, baseline=lambda f, s: frame["a"].item())  # noqa: E731
    fresh = gradient_replicates(estimator, lambda z: z.square().sum(-1), Q, num_samples=count, num_replicates=1000, noise=noise,
                                generator=torch.Generator().manual_seed(12))[:, 0].var().item()
    measured = frame[f"variance_{name}"][page.COUNTS.index(count)]
    assert measured / fresh == pytest.approx(1, abs=0.45)                  # two sample variances of a skewed estimate


@pytest.mark.parametrize(("cost", "variate"), EVERY_PAIR)
def test_what_is_said_is_true_at_every_step_of_the_slider(definition, cost, variate):
    for multiple in page.MULTIPLES:
        frame = definition.frame(cost=cost, variate=variate, multiple=multiple)
        words, left, best = frame["verdict"].item(), frame["left"][0], frame["best_left"][0]
        assert best <= left + 1e-9
        if "less noise than" in words and "no less" not in words:
            assert left < 1
        if "no less noise than" in words or "whatever a is" in words:
            assert left >= 1 - 1e-4
        if "No other step" in words:
            assert left == min(definition.frame(cost=cost, variate=variate, multiple=m)["left"][0] for m in page.MULTIPLES)
        assert ("takes it all" in words) == (best < 1e-6 and abs(multiple - frame["best"][0]) < 0.05)
        if "takes it all" in words:
            assert left < 1e-6 and np.isnan(frame["variance_normal"]).all(), "rounding is not shown as a variance"


def test_the_draws_shown_are_of_the_kind_that_is_chosen(definition):
    for count in (2, 8, 1024):
        frames = {noise: definition.frame(noise=noise, sample_count=count, cost="quadratic") for noise in page.NOISES}
        for frame in frames.values():
            assert np.isfinite(frame["draw_h"]).sum() == np.isfinite(frame["draw_g"]).sum() == min(count, page.SHOWN)
            kind = next(noise for noise, other in frames.items() if other is frame)
            assert frame[f"seen_{kind}"][0] == pytest.approx(np.nanmean(frame["draw_h"]), abs=1e-6)
            assert sum(np.isfinite(frame[f"seen_{noise}"][0]) for noise in page.NOISES) == 1
        assert frames["antithetic"]["seen_antithetic"][0] == 0
        pairs = frames["antithetic"]["draw_h"][: min(count, page.SHOWN)].reshape(-1, 2)
        assert pairs.sum(-1) == pytest.approx(np.zeros(len(pairs)), abs=1e-9)
    h = np.sort(frames["sobol"]["draw_h"])                              # one in each of 64 slices of equal probability
    cells = np.floor(64 * torch.special.ndtr(torch.from_numpy(h)).numpy())
    assert cells.tolist() == list(range(64))


def test_what_lies_outside_the_picture_is_counted(definition):
    for cost, variate in EVERY_PAIR:
        frame = definition.frame(cost=cost, variate=variate, sample_count=64)
        x, y = frame["draw_h"], frame["draw_g"]
        outside = int(((x < -3) | (x > 5) | (y < -3) | (y > 5)).sum())
        assert frame["beyond"].item() == (f"{outside} beyond the picture" if outside else "") and outside <= 4


def test_every_control_changes_the_picture_and_no_axis_moves(definition):
    assert not any(isinstance(axis.domain, str) for panel in definition.panels for axis in (panel.x, panel.y))
    frame = definition.frame()
    for change in ({"multiple": 0.4}, {"sample_count": 8}, {"variate": "omega"}, {"cost": "cosine"}, {"noise": "sobol"}):
        other = definition.frame(**change)
        assert any(not np.array_equal(frame[name], other[name], equal_nan=True) for name in ("draw_g", "draw_h", "slope", "parabola"))


def test_what_is_drawn_lies_within_the_axes(definition):
    low, high = definition.panels[2].y.domain
    for cost, variate in EVERY_PAIR:
        for multiple in (-1.0, 0.0, 1.5):
            frame = definition.frame(cost=cost, variate=variate, multiple=multiple)
            values = np.concatenate([frame["plain"], *(frame[f"variance_{noise}"] for noise in page.NOISES)])
            assert np.nanmin(values) > low and np.nanmax(values) < high
            assert frame["left"][0] <= definition.panels[1].y.domain[1]


def test_the_recording_is_small():
    recording = record(control_variate())
    assert len(recording.base64()) + len(str(recording.header)) < 60_000
