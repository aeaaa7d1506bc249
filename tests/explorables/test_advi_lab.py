"""advi-lab computes what `vilib` computes, its pictures are drawn where they should be, and its sentences are true at every setting."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from explorables.laws import assert_every_name_is_there

from vilib import FullRankGaussian, MeanFieldGaussian, advi, elbo_estimate, reference_marginal
from vilib.explorables import Axis, Choice, Definition, Ellipse, ExplorableError, Gaussian, Panel, picture, record
from vilib.explorables.gallery import advi_lab

lab = sys.modules["vilib.explorables.gallery.advi_lab"]
SETTINGS = list(itertools.product(lab.LABS, lab.FAMILIES, (1, 10), lab.OPTIMIZERS, lab.SIZES, lab.TEMPERING))
NAMES = ("model", "family", "draws", "optimizer", "step_size", "tempering")


@pytest.fixture(scope="module")
def definition():
    return advi_lab().definition


@pytest.fixture(scope="module")
def frames(definition) -> dict[tuple, dict[str, np.ndarray]]:
    return {setting: definition.frame(**dict(zip(NAMES, setting))) for setting in SETTINGS}


@pytest.mark.parametrize(("model", "family"), list(itertools.product(lab.LABS, lab.FAMILIES)))
def test_the_best_elbo_is_that_of_advi(model, family):
    found = advi(lab.LABS[model].example, family=lab.FAMILIES[family][1], generator=torch.Generator().manual_seed(0), progress=False, tolerance=0.1)
    assert found.elbo.item() == pytest.approx(lab.LABS[model].best[family], abs=0.03 + 4 * found.elbo_standard_error.item())


def test_what_is_said_is_true_at_every_setting(frames):
    for setting, f in frames.items():
        words, gap, error = f["verdict"].item(), f["gap"][0], f["gap_error"][0]
        arrived = bool(gap < min(0.05 + 2 * error, 0.5))
        assert ("It has arrived" in words) == arrived and ("threw it out" in words) == (not arrived and not gap < 100), setting
        if not math.isnan(gap):
            assert gap < 1e5 and gap > -0.05 - 5 * error, (setting, "no q is above the best of its family")
        ratios = [f[f"ratio_{row}"][-1] for row in "xy" if not np.isnan(f[f"ratio_{row}"][-1])]
        assert ("the family's doing" in words) == (arrived and min(ratios, default=1) < 0.5), setting
        if "the family's doing" in words:
            assert setting[:2] == ("raw", "mean")
        assert (np.isnan(f["elbo"]) >= np.isnan(f["mean_x"])).all() and not np.isnan(f["elbo"][:1]).any()
        seen = f["elbo"] > f["elbo_range"][0]                                            # inside the picture
        assert (f["low"][seen] <= f["elbo"][seen]).all() and (f["elbo"][seen] <= f["high"][seen]).all()
        assert not (f["elbo"] <= lab.LABS[setting[0]].best[setting[1]] - 1e5).any(), "no number is shown that is only a limit"


def test_every_control_changes_the_picture(frames):
    here = ("schools", "mean", 10, "adam", 0.1, "off")
    for i, other in enumerate(("mixture", "full", 1, "rmsprop", 0.3, "on")):
        there = (*here[:i], other, *here[i + 1:])
        assert not np.array_equal(frames[here]["q_ellipse"], frames[there]["q_ellipse"], equal_nan=True), NAMES[i]
        assert not np.array_equal(frames[here]["elbo"], frames[there]["elbo"], equal_nan=True), NAMES[i]


def test_axes_and_reference_depend_on_the_model_alone_but_for_the_best_of_the_family(frames):
    for model in lab.LABS:
        of_model = [f for setting, f in frames.items() if setting[0] == model]
        for name in ("ring_x", "ring_y", "curve_y", "known_mean_x", "known_sd_y"):
            assert all(np.array_equal(f[name], of_model[0][name], equal_nan=True) for f in of_model)
        low, high = zip(*(f["elbo_range"] for f in of_model))
        assert max(low) - min(low) <= 2 and max(high) - min(high) <= 2
        for family in lab.FAMILIES:
            assert len({tuple(f["elbo_range"]) for setting, f in frames.items() if setting[:2] == (model, family)}) == 1


@pytest.mark.parametrize("model", [name for name in lab.LABS if name != "coin"])
def test_q_starts_and_the_reference_lies_inside_the_picture(frames, model):
    (left, right), (bottom, top) = (axis.domain for axis in lab.MODELS[model][1:])
    f = frames[model, "mean", 10, "adam", 0.1, "off"]
    x, y = f["ring_x"][~np.isnan(f["ring_x"])], f["ring_y"][~np.isnan(f["ring_y"])]
    assert left < x.min() and x.max() < right and bottom <= y.min() and y.max() < top
    assert left < f["mean_x"][0] < right and bottom < f["mean_y"][0] < top


def test_the_reference_is_the_exact_marginal(frames):
    for model in ("raw", "centred", "schools", "mixture"):
        exact, f = reference_marginal(lab.LABS[model].example.name), frames[model, "mean", 10, "adam", 0.1, "off"]
        assert [f["known_mean_x"][0], f["known_mean_y"][0], f["known_sd_x"][0], f["known_sd_y"][0]] == pytest.approx(
            [*exact.mean.tolist(), *exact.sd.tolist()])
    coin = frames["coin", "mean", 10, "adam", 0.1, "off"]
    assert (coin["known_mean_x"][0], coin["known_sd_x"][0]) == pytest.approx((16 / 30, 0.089603), abs=1e-6)


@pytest.mark.parametrize("family", lab.FAMILIES)
def test_the_elbo_shown_is_that_of_the_q_shown(frames, family):
    done, f = lab._fits("schools", family, 10), frames["schools", family, 10, "adam", 0.1, "off"]
    path = done.family.with_vector(done.path[:, 2, 0, 1])
    assert isinstance(path, MeanFieldGaussian if family == "mean" else FullRankGaussian)
    value, error = elbo_estimate(lab.LABS["schools"].example, path, 4000, torch.Generator().manual_seed(9))
    shown = f["elbo"], f["error"]
    assert (np.abs(shown[0] - value.numpy()) < 5 * np.hypot(shown[1], error.numpy()) + 1e-9).all()
    assert f["gap"][0] == pytest.approx(lab.LABS["schools"].best[family] - value[-1].item(), abs=5 * (f["gap_error"][0] + error[-1].item()))
    m1, m2, l11, l21, l22 = f["q_ellipse"].reshape(5, -1)
    assert m1 == pytest.approx(path.mean[:, 0].numpy()) and l11 == pytest.approx(path.covariance[:, 0, 0].sqrt().numpy())
    assert np.hypot(l21, l22) == pytest.approx(path.covariance[:, 1, 1].sqrt().numpy())


def test_untempered_fits_do_not_know_of_the_tempered_ones_beside_them():
    from vilib import adam, fit, normal, sticking_the_landing
    from vilib.climb import InUnitsOf, compose, standard
    example, (mean, sd) = lab.LABS["coin"].example, lab.LABS["coin"].start
    q0 = MeanFieldGaussian(torch.tensor(mean).double(), torch.tensor(sd).double().log())
    generator = torch.Generator().manual_seed(1)
    alone = fit(sticking_the_landing, InUnitsOf(q0, example), standard(q0), num_samples=10, num_steps=lab.STEPS, optimizer=adam(0.1),
                generator=generator, record_steps=lab.KEPT, noise=lambda s, batch, dim, **o: normal(s, (3, 2, 3), dim, **o)[:, 2, 0, 1])
    torch.testing.assert_close(compose(q0, alone.q_at(slice(None))).vector(), lab._fits("coin", "mean", 10).path[:, 2, 0, 1], rtol=1e-6, atol=1e-6)


def test_tempered_fits_are_wide_while_beta_is_small(frames):
    off, on = (frames["schools", "mean", 10, "adam", 0.3, tempering]["ratio_x"] for tempering in ("off", "on"))
    middle = [i for i, step in enumerate(lab.KEPT) if 30 <= step <= 60]
    assert (on[middle] > 1.3 * off[middle]).all()
    beta = lab.TEMPERING["on"][1]
    assert beta(0) == pytest.approx(0.05) and beta(100) == beta(250) == 1.0


def test_what_the_caption_names_is_there(definition, frames):
    for f in frames.values():
        assert_every_name_is_there(definition, f)


@pytest.fixture(scope="module")
def recording(definition):
    return record(definition)


def test_the_recording_is_small(recording):
    assert len(recording.base64()) < 105_000


def test_who_divides_the_numbers_shown_gets_the_ratio_shown(recording):
    """From the frames as a page has them: mean to four digits and sd to three, as the table's columns say, and what is made of them."""
    shown = lambda x, digits: float(f"{x:.{digits}g}")  # noqa: E731
    for setting in SETTINGS[::7]:
        f = recording.frame(**dict(zip(NAMES, setting)))
        for row, k in itertools.product("xy", range(len(lab.KEPT))):
            mean, sd, off, ratio = (f[f"{name}_{row}"][k] for name in ("mean", "sd", "off", "ratio"))
            known_mean, known_sd = (shown(f[f"known_{name}_{row}"][0], digits) for name, digits in (("mean", 4), ("sd", 3)))
            if not math.isnan(ratio):
                assert f"{ratio:.2f}" == f"{shown(sd, 3) / known_sd + 1e-9:.2f}" or f"{ratio:.2f}" == f"{shown(sd, 3) / known_sd - 1e-9:.2f}"
                assert off == pytest.approx((shown(mean, 4) - known_mean) / known_sd, abs=0.0501)


# ---- marks drawn through a map ---------------------------------------------------------------------------------------


def toy(mark) -> Definition:
    axis = Axis("", (-3, 3))
    return Definition("toy", "?", (Choice("c", "c", {"a": "a"}, "a"),),
                      lambda c: {"g": [0.4, 0.5], "e": [0.3, -0.2, 0.5, 0.1, 0.4]}, (Panel("p", "", axis, axis, (mark,)),))


def test_an_unknown_map_is_refused():
    with pytest.raises(ExplorableError, match=r"no map through 'exp'; choose one of \['', 'sigmoid'\]"):
        toy(Gaussian(params="g", through="exp"))
    with pytest.raises(ExplorableError, match="no map through 'sine'"):
        toy(Ellipse(params="e", through="sine"))


def drawn(mark) -> np.ndarray:
    import matplotlib.pyplot as plt
    here = toy(mark)
    figure = picture(here, here.frame(), {"c": "a"})
    line = figure.axes[0].lines[-1].get_xydata()
    plt.close(figure)
    return line


def test_the_still_picture_draws_the_density_of_a_sigmoid_and_the_image_of_an_ellipse():
    x, y = drawn(Gaussian(params="g", through="sigmoid")).T
    assert np.trapezoid(y, x) == pytest.approx(1, abs=1e-3) and x.min() > 0 and x.max() < 1
    u, v = drawn(Ellipse(params="e")).T
    for through, image in (("exp", np.exp(v)), ("ordered", u + np.exp(v))):
        a, b = drawn(Ellipse(params="e", through=through)).T
        assert a == pytest.approx(u) and b == pytest.approx(image)
