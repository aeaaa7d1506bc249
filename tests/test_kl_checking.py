"""The marker of Monte Carlo KLs: right estimates pass, and each slip, of the value or of its error, is called by its name."""

import pytest
import torch

from vilib import check_kl, monte_carlo_kl, monte_carlo_kl_k3
from vilib.kl_checking import ERROR_SLIPS, KL_SLIPS, NO_ERROR


def log_weight(log_p, q, eps):
    z = q.sample(eps)
    return log_p(z) - q.log_prob(z)


def at(log_p, q, z):
    return (q.log_prob(z) - log_p(z)).mean(0)


def with_error(error_of):
    """k1, and an error made of its terms (S, R)."""
    def estimate(log_p, q, eps):
        terms = -log_weight(log_p, q, eps)
        return terms.mean(0), error_of(terms)
    return estimate


def of(f):
    """The mean of f(log w)."""
    return lambda log_p, q, eps: f(log_weight(log_p, q, eps)).mean(0)


RIGHT = {
    "k1": of(lambda log_w: -log_w), "k3": of(lambda log_w: log_w.expm1() - log_w),
    "half a control variate": of(lambda log_w: 0.5 * log_w.expm1() - log_w),
    "entropy in closed form": lambda log_p, q, eps: -q.entropy() - log_p(q.sample(eps)).mean(0),
    "monte_carlo_kl": monte_carlo_kl, "monte_carlo_kl_k3": monte_carlo_kl_k3,
}
WRONG = {
    "sign": of(lambda log_w: log_w),
    "other direction": of(lambda log_w: log_w.exp() * log_w),
    "sum for mean": lambda log_p, q, eps: -log_weight(log_p, q, eps).sum(0),
    "entropy alone": lambda log_p, q, eps: q.log_prob(q.sample(eps)).mean(0),
    "cross-entropy alone": lambda log_p, q, eps: -log_p(q.sample(eps)).mean(0),
    "q without its constant": lambda log_p, q, eps: -((0.5 * eps.square() + q.omega).sum(-1) + log_p(q.sample(eps))).mean(0),
    "absolute value": of(torch.abs),
    "clipped at zero": of(lambda log_w: (-log_w).clamp_min(0)),
    "half the square": of(lambda log_w: 0.5 * log_w.square()),
    "k3 without −1": of(lambda log_w: log_w.exp() - log_w),
    "k3 upside down": of(lambda log_w: (-log_w).expm1() + log_w),
    "too noisy": lambda log_p, q, eps: (eps[..., 0] ** 9 - log_weight(log_p, q, eps)).mean(0),
    "draws of the noise": lambda log_p, q, eps: at(log_p, q, eps),
    "variance for standard deviation": lambda log_p, q, eps: at(log_p, q, q.mu + q.stddev.square() * eps),
    "draws with omega": lambda log_p, q, eps: at(log_p, q, q.mu + q.omega * eps),
    "not divided by √S": with_error(lambda terms: terms.std(0)),
    "divided by S": with_error(lambda terms: terms.std(0) / len(terms)),
    "divided by S, not S−1": with_error(lambda terms: terms.std(0, unbiased=False) / len(terms) ** 0.5),
    "no root": with_error(lambda terms: terms.var(0) / len(terms)),
    "no root, not divided": with_error(lambda terms: terms.var(0)),
    "shape": lambda log_p, q, eps: log_weight(log_p, q, eps).mean(),
    "raises": lambda log_p, q, eps: log_p(q.transform(eps[0])),
    "not finite": lambda log_p, q, eps: log_weight(log_p, q, eps).mean(0) / 0,
    "leak": lambda log_p, q, eps: -log_weight(log_p, q, eps).mean(0) + 0.1 * eps.mean(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_estimate_passes(name):
    report = check_kl(RIGHT[name])
    assert report and report.slip is None and report.largest_z < report.threshold
    assert str(report).startswith("✓ Right.")
    assert ("standard errors. So are the squares" in str(report)) <= name.startswith("monte_carlo")


@pytest.mark.parametrize("name", ["monte_carlo_kl", "monte_carlo_kl_k3"])
def test_a_right_standard_error_is_said_to_be_right(name):
    assert "So are the squares of its standard errors" in " ".join(str(check_kl(RIGHT[name])).split())


@pytest.mark.parametrize("name", RIGHT)
def test_a_missing_standard_error_is_missed(name):
    report = check_kl(RIGHT[name])
    assert (NO_ERROR in report.findings) == (not name.startswith("monte_carlo"))


@pytest.mark.parametrize("name", WRONG)
def test_each_slip_is_called_by_its_name(name):
    report = check_kl(WRONG[name])
    assert not report and report.slip == name, report
    assert str(report).startswith("✗ Not yet.")


def test_every_slip_that_is_known_has_its_mutant():
    assert set(KL_SLIPS) | set(ERROR_SLIPS) <= set(WRONG)


def test_what_nothing_explains_is_told_with_its_numbers():
    report = check_kl(of(lambda log_w: -0.7 * log_w))
    assert not report and report.slip is None and "No single slip" in str(report) and "skewed" in str(report)
    odd = check_kl(with_error(lambda terms: 1.3 * terms.std(0) / len(terms) ** 0.5))
    assert not odd and odd.slip is None and "standard error is not" in " ".join(str(odd).split())


def test_the_wrong_shape_is_told_what_was_expected():
    message = " ".join(str(check_kl(log_weight)).split())
    assert "an estimate of shape (2, 20000)" in message and ".mean(0)" in message
    message = " ".join(str(check_kl(with_error(lambda terms: terms.std()))).split())
    assert "a standard error of shape ()" in message and "averaged over the replicates too" in message
    assert "returned 3 things" in str(check_kl(lambda log_p, q, eps: (eps[0, :, 0],) * 3))
