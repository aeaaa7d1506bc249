"""check_model: a right model passes, and each slip is named."""

import math

import pytest
import torch
from helpers import tensor
from torch.distributions import Exponential, Normal, constraints

from vilib import Model, check_model

Y = tensor(1.2, 0.4, 3.1, 2.2, -0.7, 1.9)
SUPPORTS = {"mu": constraints.real, "sigma": constraints.positive}
TERMS = {
    "the prior of mu": lambda t: Normal(0.0, 10.0).log_prob(t["mu"]),
    "the prior of sigma": lambda t: Exponential(1.0, validate_args=False).log_prob(t["sigma"]),
    "the likelihood": lambda t: Normal(t["mu"], t["sigma"], validate_args=False).log_prob(Y).sum(),
}


def right(t):
    return sum(term(t) for term in TERMS.values())


def check(log_joint, supports=SUPPORTS, shapes=None):
    return check_model(Model(log_joint, supports, shapes), TERMS, SUPPORTS, num_observations=len(Y))


def test_the_right_model_passes_however_it_is_written():
    assert check(right).passed and check(right).slip is None
    by_hand = lambda t: (-0.5 * (t["mu"] / 10) ** 2 - math.log(10) - 0.5 * math.log(2 * math.pi) - t["sigma"]                  # noqa: E731
                         - 0.5 * (((Y - t["mu"]) / t["sigma"]) ** 2).sum() - len(Y) * (t["sigma"].log() + 0.5 * math.log(2 * math.pi)))
    assert check(by_hand).passed


def test_a_constant_passes_and_is_said():
    report = check(lambda t: right(t) + 2.5)
    assert report.passed and report.slip == "constant" and "2.5000 nats too high" in str(report).replace("\n ", "")


@pytest.mark.parametrize("log_joint, slip, words", [
    (lambda t: right(t) + t["sigma"].log(), "Jacobian twice", "Model does that itself"),
    (lambda t: right(t) - t["sigma"].log(), "Jacobian taken out", "Leave it to Model"),
    (lambda t: right(t) - TERMS["the prior of sigma"](t), "the prior of sigma missing", "The prior of sigma is missing"),
    (lambda t: right(t) + TERMS["the likelihood"](t), "the likelihood twice", "counted twice"),
    (lambda t: right(t) + (1 / 6 - 1) * TERMS["the likelihood"](t), "mean for sum", "counts 1/6"),
    (lambda t: right(t) - 0.5 * TERMS["the likelihood"](t), "weights", "0.5 × the likelihood"),
    (lambda t: torch.where(t["mu"] > 0, right(t), -math.inf), "zero density", "returns −inf at"),
    (lambda t: TERMS["the prior of sigma"](t) + Normal(0.0, t["sigma"]).log_prob(Y).sum(), "unused", "mu is declared"),
    (lambda t: Normal(t["mu"], t["sigma"]).log_prob(Y), "raises", "expected one number a draw"),
    (lambda t: right(t) * (t["nu"] if "nu" in t else t["mue"]), "raises", "KeyError"),
    (lambda t: Normal(0.0, 10.0).log_prob(t["mu"]) - t["sigma"] + Normal(t["mu"], t["sigma"] ** 2).log_prob(Y).sum(), None, "no slip that we know"),
])
def test_each_slip_is_named(log_joint, slip, words):
    def free(t):                                                                        # torch's argument checks do not run under vmap
        return log_joint(t)

    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        report = check(free)
    finally:
        torch.distributions.Distribution.set_default_validate_args(True)
    assert not report.passed and report.slip == slip and words in " ".join(str(report).split())


@pytest.mark.parametrize("log_joint, slip, words", [
    (lambda t: right(t) - TERMS["the prior of mu"](t), "the prior of mu missing", "The prior of mu is missing"),
    (lambda t: right(t) - TERMS["the prior of mu"](t) + Normal(0.0, 100.0).log_prob(t["mu"]), "weights", "0.01 × the prior of mu"),
])
def test_a_small_term_is_missed_beside_a_likelihood_that_is_huge_at_some_places(log_joint, slip, words):
    """Where sigma is tiny the likelihood has hundreds of millions of nats: round-off there must not cover a prior elsewhere."""
    report = check(log_joint)
    assert not report.passed and report.slip == slip and words in " ".join(str(report).split())


def test_names_shapes_and_supports():
    assert check(right, {"mu": constraints.real}).slip == "names"
    assert "with an unknown tau" in str(check(right, SUPPORTS | {"tau": constraints.real}))
    assert check(right, SUPPORTS, {"mu": (2,)}).slip == "shape"
    report = check(right, SUPPORTS | {"sigma": constraints.real})
    assert report.slip == "support" and "sigma lives on GreaterThan(lower_bound=0.0)" in " ".join(str(report).split())
    assert check_model(right, TERMS, SUPPORTS).slip == "no Model"
