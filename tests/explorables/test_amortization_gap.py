"""amortization-gap computes what `vilib` computes, its gaps add up and are never negative, and its sentences are true at every setting."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch
from explorables.laws import assert_every_name_is_there

from vilib import sensor_encoder, sensor_gap
from vilib.explorables import record
from vilib.explorables.gallery import amortization_gap

gap = sys.modules["vilib.explorables.gallery.amortization_gap"]
ENCODERS = list(itertools.product(gap.WIDTHS, gap.STEPS, gap.NUM_DATA))


@pytest.fixture(scope="module")
def definition():
    return amortization_gap().definition


@pytest.mark.parametrize(("width", "step", "readings"), [(0, 4800, 256), (32, 4800, 256), (8, 480, 16), (2, 0, 16)])
def test_its_numbers_are_those_of_vilib(definition, width, step, readings):
    x = (-2.4, 0.8, 2.0, 3.0, 4.2)
    exact = sensor_gap(sensor_encoder(width, readings, step), torch.tensor(x).double().unsqueeze(-1), num_steps=600)
    for n, each in enumerate(x):
        f = definition.frame(x=each, width=width, step=step, readings=readings)
        assert f["evidence"][0] == pytest.approx(exact.log_evidence[n].item(), abs=6e-4)
        assert f["elbo_q"][0] == pytest.approx(exact.elbo[n].item(), abs=6e-4)
        assert f["kl_best"][0] == pytest.approx(exact.approximation[n].item(), abs=2e-3)
        assert f["encoder_now"][0] == pytest.approx(exact.amortization[n].item(), abs=2e-3)
        assert (f["mu_q"][0], f["sigma_q"][0]) == pytest.approx((exact.q.mu[n].item(), exact.q.stddev[n].item()))
        assert (f["mu_best"][0], f["sigma_best"][0]) == pytest.approx((exact.best.mu[n].item(), exact.best.stddev[n].item()), abs=3e-3)


@pytest.mark.parametrize(("width", "step", "readings"), ENCODERS)
def test_both_gaps_are_never_negative_and_add_up_as_printed(definition, width, step, readings):
    for x in gap.X[::3]:
        f = definition.frame(x=x, width=width, step=step, readings=readings)
        family, encoder, whole = (float(f[name][0]) for name in ("family_now", "encoder_now", "whole_now"))
        assert family >= 0 and encoder >= 0 and family + encoder == pytest.approx(whole, abs=1e-9)
        assert (family, whole) == (f["kl_best"][0], f["kl_q"][0])
        assert bool(f["above"].item()) == (max(whole, f["whole_fresh"][0], f["whole_seen"][0]) > gap.GAP_RANGE[1])
    assert (f["whole_grid"] >= np.minimum(f["family_grid"], 9) - 1e-6).all()
    for whose in ("seen", "fresh"):
        family, encoder, whole = (float(f[f"{part}_{whose}"][0]) for part in ("family", "encoder", "whole"))
        assert family > 0 and encoder >= 0 and family + encoder == pytest.approx(whole, abs=1e-9)
    words = f["verdict"].item()
    assert ("overfitted" in words) == (step > 0 and f["encoder_fresh"][0] > max(2 * f["encoder_seen"][0], f["encoder_seen"][0] + 0.05))
    assert ("Nothing has been learnt" in words) == (step == 0)


def test_the_mean_over_fresh_readings_is_an_integral():
    """Ten times finer in x, the encoder's own ELBO against log p(x): the same mean inference gap."""
    from vilib import data_log_evidence

    x = torch.arange(-480, 521, dtype=torch.float64).unsqueeze(-1) / 100
    for width, readings in ((2, 256), (32, 16)):
        vae = sensor_encoder(width, readings)
        evidence = data_log_evidence(vae, x)
        inference = evidence - torch.from_numpy(gap._elbo(vae, vae.encode(x), x))
        mean = (evidence.exp() @ inference).item() * 0.01
        assert gap._encoder(width, 4800, readings)["whole_fresh"] == pytest.approx(mean, abs=3e-3)


def test_the_mean_over_training_readings_is_their_mean():
    x = gap.training_readings(16)
    exact = sensor_gap(sensor_encoder(2, 16), x, num_steps=600)
    of = gap._encoder(2, 4800, 16)
    assert of["family_seen"] == pytest.approx(exact.approximation.mean().item(), abs=2e-3)
    assert of["encoder_seen"] == pytest.approx(exact.amortization.mean().item(), abs=2e-3)


def test_the_posterior_is_one(definition):
    for x in gap.X:
        f = definition.frame(x=x)
        inside = f["posterior"].sum() * (f["z"][1] - f["z"][0])
        assert (f["posterior"] >= 0).all() and f["posterior"].max() < 4.5 and inside == pytest.approx(1, abs=0.05)


def test_every_control_changes_the_picture_and_the_axes_hold_still(definition):
    assert not any(isinstance(axis.domain, str) for panel in definition.panels for axis in (panel.x, panel.y))
    start = definition.frame()
    for name, value in (("x", 0.4), ("width", 32), ("step", 160), ("readings", 16)):
        moved = definition.frame(**{name: value})
        changed = {key for key in start if not np.array_equal(start[key], moved[key], equal_nan=start[key].dtype != object)}
        assert {"encoder_now", "mu_q", "q"} <= changed, name
        assert name == "x" or "mean" in "".join(changed) or "whole_grid" in changed
        assert ("family_grid" not in changed) and ("mu_best_grid" not in changed)
        assert (name == "x") == ("kl_best" in changed), "only x moves the family's part"


def test_what_the_caption_names_is_there(definition):
    for setting in ({"step": 0}, {"readings": 16}, {"readings": 256}):
        assert_every_name_is_there(definition, definition.frame(**setting))


def test_the_recording_is_small_and_says_what_was_computed():
    recording = record(amortization_gap())
    assert len(recording.base64()) < 60_000
    definition = amortization_gap().definition
    for setting in ({"x": 2.0, "width": 32, "step": 4800, "readings": 16}, {"x": -2.4, "width": 0, "step": 0, "readings": 256}):
        kept, exact = recording.frame(**setting), definition.frame(**setting)
        for name in ("kl_q", "kl_best", "encoder_now", "encoder_fresh"):
            assert kept[name][0] == pytest.approx(exact[name][0], abs=1e-6)
