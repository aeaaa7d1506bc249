"""The marker of Metropolis steps: what is right passes, and each slip is called by its name."""

import math

import pytest
import torch

from vilib import check_metropolis, metropolis_step
from vilib.checking_mcmc import SLIPS


def with_rule(rule):
    def step(log_joint, z, log_p, eps, u):
        there = log_joint(z + eps)
        accepted = rule(u, log_p, there)
        return torch.where(accepted.unsqueeze(-1), z + eps, z), torch.where(accepted, there, log_p), accepted
    return step


def test_what_is_right_passes():
    report = check_metropolis(metropolis_step)
    assert report and "40,000 chains did what the Metropolis rule says" in str(report)
    by_ratio = with_rule(lambda u, here, there: u < (there - here).exp())
    by_minimum = with_rule(lambda u, here, there: u < torch.exp(torch.clamp_max(there - here, 0.0)))
    assert check_metropolis(by_ratio) and check_metropolis(by_minimum)


@pytest.mark.parametrize("slip", SLIPS)
def test_each_slip_is_called_by_its_name(slip):
    report = check_metropolis(with_rule(SLIPS[slip][0]))
    assert not report and report.slip == slip and str(report).startswith("✗ Not yet. ")


@pytest.mark.statistical
def test_another_rule_may_be_right():
    """Barker's: accepted with probability p(there)/(p(here) + p(there)); less often, and just as valid."""
    report = check_metropolis(with_rule(lambda u, here, there: u < torch.sigmoid(there - here)))
    assert report and "not the Metropolis rule, but it leaves both targets as they are" in " ".join(report.findings)


@pytest.mark.statistical
@pytest.mark.parametrize("rule", [lambda u, here, there: u.log() < 0.8 * (there - here), lambda u, here, there: u < 0.5 + 0 * here])
def test_a_rule_that_is_wrong_and_has_no_name(rule):
    report = check_metropolis(with_rule(rule))
    assert not report and report.slip is None and report.largest_z > report.threshold
    assert "does not leave the posterior as it is" in report.findings[0]


def broken(change):
    def step(log_joint, z, log_p, eps, u):
        return change(log_joint, z, eps, u, *metropolis_step(log_joint, z, log_p, eps, u))
    return step


@pytest.mark.parametrize("step, slip, words", [
    (broken(lambda f, z, eps, u, new, log_p, accepted: (new, f(z), accepted)), "stale log_p", "not the log density at the z"),
    (broken(lambda f, z, eps, u, new, log_p, accepted: (new, log_p, ~accepted)), "accepted", "does not say which chains moved"),
    (broken(lambda f, z, eps, u, new, log_p, accepted: (z + eps * (u.unsqueeze(-1) < 0.5) / 2, log_p, accepted)), "half a move", "whole step"),
    (broken(lambda f, z, eps, u, new, log_p, accepted: (new, log_p.mean(), accepted)), "shape", r"shape \(\) as the new log_p, expected \(20000,\)"),
    (lambda f, z, log_p, eps, u: 1 / 0, "raises", "raised ZeroDivisionError on a skewed target"),
], ids=["log_p", "accepted", "half", "shape", "raises"])
def test_what_comes_back_is_checked(step, slip, words):
    report = check_metropolis(step)
    assert report.slip == slip
    with pytest.raises(AssertionError, match=words):
        assert report, report.findings[0]


def test_the_draws_it_starts_from_are_exact():
    """E z of log Exp(1) is −γ, its variance π²/6; the pair has correlation 0.8."""
    from statistical.ztest import assert_mean

    from vilib.checking_mcmc import _cases
    skewed, pair = (case.z for case in _cases(50_000, 1))
    assert_mean(skewed, -0.5772156649)
    assert_mean((skewed + 0.5772156649) ** 2, math.pi**2 / 6)
    assert_mean(pair.prod(-1), 0.8)
    assert_mean(pair.square(), 1.0)
