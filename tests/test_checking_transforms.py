"""The marker of transforms: right ones pass, and each slip is called by its name."""

import math
import re

import pytest
import torch
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import CumulativeDistributionTransform, SoftplusTransform
from torch.nn.functional import logsigmoid, softplus

from vilib import OrderedTransform, SimplexTransform, check_transform, ordered
from vilib.checking_transforms import JACOBIAN_SLIPS

MIX = torch.tensor([[1.0, 0.6, 0.0], [-0.4, 1.0, 0.3], [0.2, 0.0, 1.0]], dtype=torch.float64)
INVERSE = torch.linalg.inv(MIX)


def mixed(z):
    """θ = exp(A z): its Jacobian is diag(θ) A, which is not triangular."""
    return (z @ MIX.mT).exp()


def unmixed(theta):
    return theta.log() @ INVERSE.mT


def mixed_log_det(z, theta):
    return theta.log().sum(-1) + torch.linalg.slogdet(MIX)[1]


def mixed_jacobian(z, theta):
    return theta.unsqueeze(-1) * MIX


def mirrored(z):
    """As `mixed`, with the first coordinate falling: det J < 0 everywhere."""
    return mixed(z * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))


def of_torch(transform):
    """A torch transform's three functions; elementwise ones give a log-determinant for each coordinate."""
    summed = lambda z, theta: transform.log_abs_det_jacobian(z, theta).reshape(len(z), -1).sum(-1)  # noqa: E731
    return transform, transform.inv, summed


RIGHT = {
    "real": (of_torch(biject_to(constraints.real_vector)), None),
    "positive": (of_torch(biject_to(constraints.positive)), constraints.positive),
    "softplus": (of_torch(SoftplusTransform()), constraints.positive),
    "unit interval": (of_torch(biject_to(constraints.unit_interval)), constraints.unit_interval),
    "interval": (of_torch(biject_to(constraints.interval(-2.0, 5.0))), constraints.interval(-2.0, 5.0)),
    "less than": (of_torch(biject_to(constraints.less_than(1.0))), constraints.less_than(1.0)),
    "normal cdf": (of_torch(CumulativeDistributionTransform(torch.distributions.Normal(0.0, 2.0))), None),
    "simplex": (of_torch(SimplexTransform()), constraints.simplex),
    "ordered": (of_torch(OrderedTransform()), ordered),
    "mixed": ((mixed, unmixed, mixed_log_det), constraints.positive),
}


@pytest.mark.parametrize("name, dim", [(name, dim) for name in RIGHT for dim in (1, 3, 5) if name != "mixed" or dim == 3])
def test_what_is_right_passes(name, dim):
    functions, support = RIGHT[name]
    report = check_transform(*functions, dim=dim, support=support)
    assert report and report.slip is None and str(report).startswith("✓ Right.")
    assert f"At 64 points in {dim} dimension" in report.findings[0]


@pytest.mark.parametrize("slip", JACOBIAN_SLIPS)
def test_each_slip_of_the_jacobian_is_called_by_its_name(slip):
    predict, words = JACOBIAN_SLIPS[slip]
    constrain, signs = (mirrored, [-1.0, 1.0, 1.0]) if slip == "not the absolute value" else (mixed, [1.0, 1.0, 1.0])
    signs = torch.tensor(signs, dtype=torch.float64)
    report = check_transform(constrain, lambda theta: unmixed(theta) * signs,
                             lambda z, theta: predict(mixed_jacobian(z, theta) * signs), support=constraints.positive)
    assert not report and report.slip == slip and report.findings[0] == words and str(report).startswith("✗ Not yet. ")
    assert "The map and the way back are right" in report.findings[2]


def total(z, theta):
    return z.sum(-1)


@pytest.mark.parametrize("functions, slip, words", [
    ((torch.exp, torch.log, lambda z, theta: z), "not summed", "Then it is right."),
    ((torch.exp, torch.log, lambda z, theta: theta), "not summed", r"sum over the last axis, \.sum\(-1\)\.$"),
    ((torch.exp, torch.log, lambda z, theta: z.sum()), "shape of the log-determinant", r"returned shape \(\).*summed over the points"),
    ((torch.exp, torch.log, lambda z, theta: 0.0), "shape of the log-determinant", "returned float"),
    ((torch.sigmoid, torch.logit, lambda theta, z: (logsigmoid(z) + logsigmoid(-z)).sum(-1)), "arguments", "the wrong way round"),
    ((torch.exp, torch.log, lambda z, theta: z.sum(-1) + math.log(2)), "constant", "off by 0.6931 everywhere"),
    ((torch.exp, torch.log, lambda z, theta: z.square().sum(-1)), None, "At z = .* it is .*autodiff has"),
    ((torch.exp, lambda theta: theta, total), "way back", "^unconstrain is not the way back.$"),
    ((torch.exp, lambda theta: torch.cat([theta[..., :2].log(), theta[..., 2:]], -1), total), "way back",
     r"Of z\[0\] … z\[2\] only z\[0\], z\[1\] come back"),
    ((torch.exp, lambda theta: theta.log().sum(-1), total), "shape of z", r"returned shape \(64,\) .* expected \(64, 3\)"),
    ((lambda z: z.exp().sum(-1), torch.log, total), "shape of theta", r"returned shape \(64,\) for z of shape \(64, 3\)"),
    ((lambda z: torch.cat([z, z], -1), lambda theta: theta[..., :3], total), "shape of theta", "made 6 numbers of 3"),
    ((lambda z: torch.cat([z, z[..., :1]], -1), lambda theta: theta[..., :3], total), "not a simplex", "do not add up to a constant"),
    ((lambda z: z.log(), torch.exp, total), "not finite", "made .*nan"),
    ((lambda z: z / z.sum(), torch.log, total), "leak", "differently alone"),
    ((lambda z: torch.softmax(z, -1), torch.log, total), "flat", "squeezes a volume to nothing"),
    ((lambda z: z.detach().exp(), torch.log, total), "no gradient", "Autodiff cannot follow"),
    ((lambda z: z.reshape(5, 5), torch.log, total), "raises", r"constrain raised RuntimeError"),
    ((torch.exp, lambda theta: 1 / 0, total), "raises", "unconstrain raised ZeroDivisionError"),
    ((torch.exp, torch.log, lambda z: z.sum(-1)), "raises", "log_abs_det_jacobian raised TypeError"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_else_is_found(functions, slip, words):
    report = check_transform(*functions)
    assert not report and report.slip == slip
    assert re.search(words, report.findings[0]), report.findings[0]


def test_a_map_that_leaves_its_support():
    report = check_transform(lambda z: 2 * torch.sigmoid(z), lambda theta: torch.logit(theta / 2), total, support=constraints.unit_interval)
    assert report.slip == "support" and "leaves the support" in report.findings[0]
    falling = check_transform(lambda z: -torch.cat([z[..., :1], z[..., 1:].exp()], -1).cumsum(-1), torch.log, total, support=ordered)
    assert falling.slip == "support" and "vilib.ordered" in falling.findings[0]


def test_rounding_away_from_the_origin_is_no_slip():
    """softplus and its inverse lose digits far out; the check draws from N(0, 1.5²), where both are good."""
    inverse = lambda theta: theta + torch.log(-torch.expm1(-theta))  # noqa: E731
    assert check_transform(softplus, inverse, lambda z, theta: logsigmoid(z).sum(-1), dim=8, num_points=2000)


def test_the_same_seed_gives_the_same_report():
    report = lambda seed: str(check_transform(torch.exp, torch.log, lambda z, theta: z.square().sum(-1), seed=seed))  # noqa: E731
    state = torch.random.get_rng_state()
    assert report(1) == report(1) != report(2)
    assert torch.equal(state, torch.random.get_rng_state())
