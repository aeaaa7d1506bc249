"""latent-map computes what `vilib` computes, and its sentences are true at every setting."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch

from vilib import digit_vae, expectation, gauss_hermite, kl_to_standard_normal
from vilib.digit_vae import BETAS, EPOCHS, NUM_TRAINING
from vilib.explorables import record
from vilib.explorables.gallery import latent_map

lm = sys.modules["vilib.explorables.gallery.latent_map"]
SETTINGS = [(-1.8, 0.6, "3", 1.0), (3.6, -3.6, "0", 0.25), (0.0, 0.0, "9", 6.0), (-3.6, 3.6, "7", 3.0)]


@pytest.fixture(scope="module")
def definition():
    return latent_map().definition


def at(frame: dict, name: str, epoch: int, count: int) -> np.ndarray:
    """A channel's `count` entries at one of the epochs."""
    return frame[name].reshape(count, len(EPOCHS))[:, epoch]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("epoch", [0, 3, 6])
def test_pictures_codes_and_q_are_those_of_the_networks(definition, setting, epoch):
    z1, z2, digit, beta = setting
    frame, vae = definition.frame(z1=z1, z2=z2, digit=digit, beta=beta), digit_vae(beta, EPOCHS[epoch])
    x = lm.CHOSEN[int(digit)].unsqueeze(0)
    q = vae.encode(x)
    place = torch.tensor([[z1, z2]], dtype=torch.float64)
    assert at(frame, "drawn", epoch, 64) == pytest.approx(vae.decoder.mean(place)[0].numpy(), abs=1e-12)
    assert at(frame, "reconstruction", epoch, 64) == pytest.approx(vae.decoder.mean(q.mu)[0].numpy(), abs=1e-12)
    assert at(frame, "q", epoch, 5) == pytest.approx([*q.mu[0].tolist(), q.stddev[0, 0].item(), 0, q.stddev[0, 1].item()], abs=1e-12)
    codes = vae.encode(lm.TRAINING).mu.numpy()
    for c in range(10):
        rows = lm.SHOWN[c]
        assert (lm.LABELS[:NUM_TRAINING][rows] == c).all() and len(rows) == lm.DRAWN
        for j in (0, 1):
            assert at(frame, f"code_{c}_{j + 1}", epoch, lm.DRAWN) == pytest.approx(codes[rows, j], abs=1e-12)
    assert frame["x"].tolist() == x[0].tolist() and set(frame["x"]) == {0.0, 1.0}


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_nearest_are_counted_one_by_one(definition, setting):
    z1, z2, digit, beta = setting
    frame = definition.frame(z1=z1, z2=z2, digit=digit, beta=beta)
    for epoch in (0, 2, 6):
        codes = digit_vae(beta, EPOCHS[epoch]).encode(lm.TRAINING).mu
        distance = (codes - torch.tensor([z1, z2], dtype=torch.float64)).norm(dim=1)
        kinds = lm.LABELS[:NUM_TRAINING][distance.argsort(stable=True)[: lm.NEAREST]].tolist()
        assert frame["votes_z"][epoch] == max(kinds.count(c) for c in range(10)) >= 3
        assert frame["nearest_z"][epoch] in [c for c in range(10) if kinds.count(c) == frame["votes_z"][epoch]]
        assert frame["distance_z"][epoch] == pytest.approx(distance.min().item())


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("digit", ["0", "5"])
def test_nats_are_exact_and_add_up(definition, beta, digit):
    """Against quadrature with 24 nodes a coordinate, to the hundredth that is shown."""
    frame, x = definition.frame(digit=digit, beta=beta), lm.CHOSEN[int(digit)].unsqueeze(0)
    for epoch in (0, 6):
        vae = digit_vae(beta, EPOCHS[epoch])
        q = vae.encode(x)
        assert frame["kl_x"][epoch] == pytest.approx(kl_to_standard_normal(q).item(), abs=0.0051)
        fit = expectation(vae.log_joint(x).log_likelihood, q, lambda dim: gauss_hermite(dim, 24)).item()
        assert frame["reconstruction_x"][epoch] == pytest.approx(fit, abs=0.0151)
    for whose in ("x", "training", "held_out"):
        total = frame[f"reconstruction_{whose}"] - frame[f"kl_{whose}"]
        assert frame[f"elbo_{whose}"] == pytest.approx(total, abs=1e-9)
        assert (frame[f"kl_{whose}"] >= 0).all()
    rule = lambda dim: gauss_hermite(dim, 12)  # noqa: E731
    with_more = expectation(vae.log_joint(lm.HELD_OUT).log_likelihood, vae.encode(lm.HELD_OUT), rule).mean().item()
    assert frame["reconstruction_held_out"][-1] == pytest.approx(with_more, abs=0.0151)


def test_what_does_not_depend_on_a_control_does_not_move(definition):
    one, other = definition.frame(z1=-3.6, z2=0.0, digit="3"), definition.frame(z1=2.4, z2=3.0, digit="8")
    assert {n for n in one if not np.array_equal(one[n], other[n], equal_nan=True)} == {
        "z_1", "z_2", "drawn", "nearest_z", "votes_z", "distance_z", "x", "reconstruction", "q", "mu_1", "mu_2", "class", "reconstruction_x", "kl_x", "elbo_x"}
    assert not any(isinstance(axis.domain, str) for panel in definition.panels for axis in (panel.x, panel.y))


def test_every_code_that_is_drawn_lies_in_the_picture(definition):
    for beta in BETAS:
        frame = definition.frame(beta=beta)
        assert max(np.abs(frame[f"code_{c}_{j}"]).max() for c in range(10) for j in (1, 2)) < 4


def test_the_chosen_pictures_were_held_out_and_are_what_they_are_called():
    for c, x in enumerate(lm.CHOSEN):
        rows = (lm.HELD_OUT == x).all(1).nonzero()[:, 0]
        assert lm.LABELS[NUM_TRAINING + rows[0]] == c


def test_at_a_great_beta_q_is_the_prior_and_z_changes_nothing(definition):
    frames = [definition.frame(z1=z1, z2=z2, beta=6.0) for z1, z2 in itertools.product((-3.6, 0.0, 3.6), repeat=2)]
    last = np.stack([at(f, "drawn", 6, 64) for f in frames])
    assert np.ptp(last, 0).max() < 0.03 and all(f["kl_x"][6] == 0 for f in frames)
    assert at(frames[0], "q", 6, 5) == pytest.approx([0, 0, 1, 0, 1], abs=0.02)


def test_each_picture_says_what_it_shows(definition):
    marks = [m.alt for panel in definition.panels for m in panel.marks if hasattr(m, "alt")]
    assert len(marks) == 3 and all(marks)


def test_the_recording_is_small():
    assert len(record(latent_map()).base64()) < 100_000
