"""jacobian computes what `vilib` and torch compute, and its sentences are true at every setting."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
import torch
from explorables.laws import assert_every_name_is_there
from torch.distributions import AffineTransform, ExpTransform, Normal, SigmoidTransform, SoftplusTransform, TransformedDistribution

from vilib.explorables import record
from vilib.explorables.gallery import jacobian

moved = sys.modules["vilib.explorables.gallery.jacobian"]
TORCH = {"double": AffineTransform(0.0, 2.0), "flip": AffineTransform(0.0, -0.5), "exp": ExpTransform(), "sigmoid": SigmoidTransform(),
         "softplus": SoftplusTransform()}
#: E|du/dz| under N(0, 1); of the sigmoid there is no closed form.
STRETCH = {"double": 2.0, "flip": 0.5, "exp": math.exp(0.5), "softplus": 0.5, "cubic": 3.0}
PLACES = list(itertools.product(moved.MAPS, moved.MIDDLES[::4], moved.WIDTHS[1::2]))


@pytest.fixture(scope="module")
def definition():
    return jacobian().definition


@pytest.mark.parametrize("key", TORCH)
def test_the_density_of_u_is_torchs(definition, key):
    f = definition.frame(map=key)
    z = torch.from_numpy(moved.Z)
    exact = TransformedDistribution(Normal(torch.tensor(0.0).double(), 1.0), TORCH[key]).log_prob(TORCH[key](z)).exp().numpy()
    assert f["p_u"] == pytest.approx(np.minimum(exact, 2 * moved.MAPS[key][3]), rel=1e-6, abs=1e-9)
    assert f["u"] == pytest.approx(TORCH[key](z).numpy(), abs=1e-12)


def test_the_density_of_the_cube_is_that_of_its_distribution_function(definition):
    f = definition.frame(map="cubic")
    u = np.array([-5.0, -0.7, 0.4, 3.0])
    cdf = lambda x: torch.special.ndtr(torch.from_numpy(np.cbrt(x))).numpy()  # noqa: E731
    slope = (cdf(u + 1e-5) - cdf(u - 1e-5)) / 2e-5
    assert np.interp(u, f["u"], f["p_u"]) == pytest.approx(slope, rel=5e-3)


@pytest.mark.parametrize("key", moved.MAPS)
def test_the_total_area_is_one_with_the_factor_and_the_mean_stretch_without(definition, key):
    kept, left_out = (definition.frame(map=key, factor=factor) for factor in ("on", "off"))
    assert kept["total_u"][0] == 1.0 == kept["total_z"][0]
    if key in STRETCH:
        assert left_out["total_u"][0] == pytest.approx(STRETCH[key], abs=1e-6)
    z = np.linspace(-9, 9, 200_001)
    u = moved.MAPS[key][1](torch.from_numpy(z)).numpy()
    by_trapezoid = abs(np.trapezoid(np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi), u))
    assert left_out["total_u"][0] == pytest.approx(by_trapezoid, abs=1e-6)
    assert abs(left_out["total_u"][0] - 1) > 0.3, "'it is no density' is said of every map"


@pytest.mark.parametrize(("key", "middle", "width"), PLACES)
def test_what_is_said_is_true_everywhere(definition, key, middle, width):
    kept, left_out = (definition.frame(map=key, factor=factor, middle=middle, width=width) for factor in ("on", "off"))
    apply = moved.MAPS[key][1]
    a, b = middle - width / 2, middle + width / 2
    ends = sorted(apply(torch.tensor([a, b], dtype=torch.float64)).tolist())
    mass = 0.5 * (math.erf(b / math.sqrt(2)) - math.erf(a / math.sqrt(2)))
    fine = np.linspace(a, b, 4001)
    wrong = abs(np.trapezoid(np.exp(-0.5 * fine**2) / math.sqrt(2 * math.pi), apply(torch.from_numpy(fine)).numpy()))
    for f, area in ((kept, mass), (left_out, wrong)):
        assert (f["from_z"][0], f["to_z"][0]) == pytest.approx((a, b)) and (f["from_u"][0], f["to_u"][0]) == pytest.approx(tuple(ends))
        assert f["area_z"][0] == pytest.approx(mass, abs=1e-9) and f["area_u"][0] == pytest.approx(area, abs=2e-6)
        for side in "zu":
            assert f[f"width_{side}"][0] * f[f"mean_{side}"][0] == pytest.approx(f[f"area_{side}"][0], rel=1e-9)
        assert f["ratio"][0] == pytest.approx(f["width_u"][0] / f["width_z"][0])
        assert ("the map falls" in f["verdict"].item()) == (key == "flip")
        assert f["area_range"][1] > max(f["area_z"][0], f["area_u"][0])
    assert kept["mean_u"][0] == pytest.approx(kept["mean_z"][0] / kept["ratio"][0])
    assert "the mass that arrives is the mass that left" in kept["verdict"].item()
    assert "It is no density" in left_out["verdict"].item()
    assert ("no upper limit" in kept["verdict"].item()) == (key == "cubic" and a < 1e-9 and b > -1e-9)


@pytest.mark.parametrize(("key", "middle", "width"), PLACES[::3])
def test_the_beam_leads_from_one_interval_to_the_other_and_both_stay_in_sight(definition, key, middle, width):
    f = definition.frame(map=key, middle=middle, width=width)
    assert (f["beam_low"] <= f["beam_high"] + 1e-12).all() and f["beam_z"][0] == pytest.approx(f["from_z"][0])
    assert (f["beam_low"][-1], f["beam_high"][-1]) == (f["from_u"][0], f["to_u"][0])
    u = moved.MAPS[key][1](torch.from_numpy(f["beam_z"][:-2])).numpy()
    assert (f["beam_high"][:-2] >= u - 1e-12).all() and (f["beam_low"][:-2] == f["u_range"][0]).all()
    assert f["u_range"][0] <= f["from_u"][0] < f["to_u"][0] <= f["u_range"][1]
    assert f["ring_u"][0] == f["ring_u"][-1] and f["ring_p"][0] == f["ring_p"][-1] == 0, "the shape closes"
    assert sorted(f["ring_u"][[0, -2]]) == pytest.approx([f["from_u"][0], f["to_u"][0]])


def test_a_falling_map_turns_the_interval_round(definition):
    f = definition.frame(map="flip", middle=0.8, width=0.4)
    assert (f["from_u"][0], f["to_u"][0]) == pytest.approx((-0.5, -0.3)) and f["ratio"][0] == pytest.approx(0.5)
    assert f["mean_u"][0] == pytest.approx(2 * f["mean_z"][0])


def test_axes_hold_still_while_the_interval_moves_and_the_factor_changes(definition):
    for key in moved.MAPS:
        settings = [definition.frame(map=key, factor=factor, middle=middle) for factor in ("on", "off") for middle in (-1.6, 0.0, 1.1)]
        for name in ("u_range", "height_range", "area_range", "u", "right"):
            assert all(np.array_equal(f[name], settings[0][name]) for f in settings)
    assert not any(isinstance(p.x.domain, str) and p.name != "u" for p in definition.panels)


def test_curves_fit_their_axes_but_where_there_is_no_upper_limit(definition):
    for key, (_, _, _, height) in moved.MAPS.items():
        f = definition.frame(map=key)
        if key == "cubic":
            assert f["p_u"].max() == 2 * height                     # cut above the picture
        else:
            assert f["p_u"].max() < height
        assert definition.frame(map=key, factor="off")["p_u"].max() < height


def test_every_control_changes_the_picture(definition):
    start = definition.defaults()
    for name, other in (("map", "cubic"), ("factor", "off"), ("middle", -0.4), ("width", 0.1)):
        before, after = definition.frame(), definition.frame(**{name: other})
        assert start[name] != other and any(not np.array_equal(before[channel], after[channel]) for channel in ("p_u", "ring_u", "ring_p"))


def test_what_the_caption_names_is_there(definition):
    for factor in ("on", "off"):
        assert_every_name_is_there(definition, definition.frame(factor=factor))


def test_the_recording_is_small():
    assert len(record(jacobian()).base64()) < 60_000
