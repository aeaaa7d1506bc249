"""Is the slope that a log joint brings its own?  Right ones pass, each slip is called by its name."""

import re

import pytest
import torch

from vilib import (
    adam, check_slope, coin_toss, correlated_gaussian, fit, gaussian_target, gumbel_target, logistic_one_coefficient, pathwise, tabulate,
    two_component_mixture,
)
from vilib.families import MeanFieldGaussian

A = torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, -0.4], [0.0, -0.4, 0.5]], dtype=torch.float64)


class Mine:
    """log p = −½ zᵀAz + sin z₀, and a slope that a test may spoil."""

    def __init__(self, spoil=lambda slope, z: slope, value=lambda value: value):
        self.spoil, self.value = spoil, value

    def __call__(self, z):
        return -0.5 * ((z @ A.to(z)) * z).sum(-1) + z[..., 0].sin()

    def value_and_slope(self, z):
        slope = -z @ A.to(z)
        slope[..., 0] += z[..., 0].cos()
        return self.value(self(z)), self.spoil(slope, z)


@pytest.mark.parametrize("log_joint, dim", [
    (Mine(), 3), (gaussian_target(2.0, 0.5), 1), (correlated_gaussian(0.8), 2), (coin_toss(), 1), (logistic_one_coefficient(), 1),
    (two_component_mixture(), 1), (gumbel_target(), 1), (tabulate(lambda z: z[..., 0].sin(), -9.0, 9.0), 1),
], ids=["mine", "gaussian", "correlated", "coin", "logistic", "mixture", "gumbel", "table"])
def test_right_slopes_pass(log_joint, dim):
    report = check_slope(log_joint, dim)
    assert report.passed and report.slip is None and "At 120 draws its slope is autograd's" in str(report)


def times(d, factor):
    return lambda slope, z: torch.cat([slope[..., :d], factor * slope[..., d : d + 1], slope[..., d + 1 :]], -1)


@pytest.mark.parametrize("mine, slip, words", [
    (Mine(lambda slope, z: -slope), "wrong sign", "It is minus the gradient of the log joint."),
    (Mine(times(1, 2.0)), "coordinates", r"1 of 3 coordinates .*z\[1\]: it is 2 times what it should be"),
    (Mine(times(2, 0.0)), "coordinates", r"z\[2\]: it is zero, and should not be"),
    (Mine(lambda slope, z: slope + torch.tensor([0.0, 0.0, 0.25]).to(z)), "coordinates", r"z\[2\]: it is 0.25 too high everywhere"),
    (Mine(lambda slope, z: -z @ A.to(z)), "coordinates", r"z\[0\]: for example .* where it should be"),
    (Mine(lambda slope, z: slope.sum(-1)), "shape", r"the slope came as shape \(60, 2\), expected \(60, 2, 3\)"),
    (Mine(lambda slope, z: slope.tolist()), "shape", "the slope came as list"),
    (Mine(lambda slope, z: slope.float()), "dtype", "For z in torch.float64 the slope came in torch.float32"),
    (Mine(lambda slope, z: slope / 0), "not finite", "The slope is not finite at z = "),
    (Mine(lambda slope, z: slope - slope.mean(0)), "leak", "Draws leak into each other"),
    (Mine(value=lambda value: value + 1), "value", "by up to 1 nats"),
    (Mine(value=lambda value: value.sum()), "shape", r"the value of value_and_slope came as shape \(\), expected \(60, 2\)"),
    (Mine(lambda slope, z: slope @ torch.ones(2).to(z)), "raises", r"It raised RuntimeError on z of shape \(60, 2, 3\)"),
    (lambda z: -z.square().sum(-1), "no slope", "there is nothing to check"),
], ids=lambda each: each if isinstance(each, str) and len(each) < 12 else "")
def test_each_slip_has_its_name(mine, slip, words):
    report = check_slope(mine, 3)
    said = " ".join(str(report).split())
    assert not report and report.slip == slip
    assert re.search(words, said), said


def test_many_wrong_coordinates_are_counted_and_five_are_shown():
    class Wide:
        def __call__(self, z):
            return -z.square().sum(-1)

        def slope(self, z):
            return -3 * z

    report = check_slope(Wide(), 8)
    assert report.slip == "coordinates" and "in 8 of 8" in str(report) and "z[4]: it is 1.5 times" in str(report)
    assert "z[5]" not in str(report) and "And 3 more." in str(report)


def test_a_constant_log_joint_has_slope_zero():
    class Flat:
        def __call__(self, z):
            return torch.zeros(z.shape[:-1]).to(z)

        def slope(self, z):
            return torch.zeros_like(z)

    assert check_slope(Flat(), 2)


def test_what_it_warns_of_is_what_a_fit_would_take():
    """The wrong slope passes unseen through a fit, and the fit ends elsewhere: so the check is needed."""
    def ends(mine):
        q0 = MeanFieldGaussian(torch.zeros(3).double(), torch.zeros(3).double())
        return fit(pathwise, mine, q0, num_samples=8, num_steps=300, optimizer=adam(0.05), generator=torch.Generator().manual_seed(0)).q

    right, wrong = ends(Mine()), ends(Mine(times(1, 2.0)))
    torch.testing.assert_close(right.stddev[1], torch.tensor(1.0).double(), rtol=0.1, atol=0)           # 1/√A₁₁
    assert wrong.stddev[1] < 0.8
