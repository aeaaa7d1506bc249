"""The marker of ELBO values: right estimates pass, and each slip is called by its name."""

import math

import pytest

from vilib import check_elbo, log_weights_at, pathwise, score_function, total_derivative
from vilib.elbo_checking import ELBO_SLIPS


def both(log_joint, q, eps):
    z = q.sample(eps)
    return log_joint(z), q.log_prob(z)


def weights_at(log_joint, q, z):
    return (log_joint(z) - q.log_prob(z)).mean(0)


RIGHT = {
    "draws": lambda lj, q, eps: log_weights_at(lj, q, eps).mean(0),
    "entropy in closed form": lambda lj, q, eps: lj(q.sample(eps)).mean(0) + q.entropy(),
    "pathwise": pathwise, "score_function": score_function, "total_derivative": total_derivative,
}
WRONG = {
    "loss": lambda lj, q, eps: -log_weights_at(lj, q, eps).mean(0),
    "no entropy": lambda lj, q, eps: both(lj, q, eps)[0].mean(0),
    "entropy subtracted": lambda lj, q, eps: sum(both(lj, q, eps)).mean(0),
    "entropy twice": lambda lj, q, eps: log_weights_at(lj, q, eps).mean(0) + q.entropy(),
    "sum for mean": lambda lj, q, eps: log_weights_at(lj, q, eps).sum(0),
    "q without its constant": lambda lj, q, eps: (both(lj, q, eps)[0] + (0.5 * eps.square() + q.omega).sum(-1)).mean(0),
    "entropy without its constant": lambda lj, q, eps: both(lj, q, eps)[0].mean(0) + q.omega.sum(-1),
    "draws of the noise": lambda lj, q, eps: weights_at(lj, q, eps),
    "variance for standard deviation": lambda lj, q, eps: weights_at(lj, q, q.mu + q.stddev.square() * eps),
    "draws with omega": lambda lj, q, eps: weights_at(lj, q, q.mu + q.omega * eps),
    "log weight squared": lambda lj, q, eps: log_weights_at(lj, q, eps).square().mean(0),
    "weight without a log": lambda lj, q, eps: log_weights_at(lj, q, eps).exp().mean(0),
    "log of the mean": lambda lj, q, eps: log_weights_at(lj, q, eps).logsumexp(0) - math.log(len(eps)),
    "shape": lambda lj, q, eps: log_weights_at(lj, q, eps).mean(),
    "raises": lambda lj, q, eps: lj(q.transform(eps[0])),
    "not finite": lambda lj, q, eps: log_weights_at(lj, q, eps).mean(0) / 0,
    "leak": lambda lj, q, eps: log_weights_at(lj, q, eps).mean(0) + 0.1 * eps.mean(),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_estimate_passes(name):
    report = check_elbo(RIGHT[name])
    assert report and report.slip is None and report.largest_z < report.threshold
    assert str(report).startswith("✓ Right.")


@pytest.mark.parametrize("name", WRONG)
def test_each_slip_is_called_by_its_name(name):
    report = check_elbo(WRONG[name])
    assert not report and report.slip == name
    assert str(report).startswith("✗ Not yet.")


def test_every_slip_that_is_known_has_its_mutant():
    assert set(ELBO_SLIPS) <= set(WRONG)


def test_what_nothing_explains_is_told_with_its_numbers():
    report = check_elbo(lambda lj, q, eps: 0.7 * log_weights_at(lj, q, eps).mean(0))
    assert not report and report.slip is None and "No single slip" in str(report) and "skewed" in str(report)


def test_the_wrong_shape_is_told_what_was_expected():
    message = str(check_elbo(lambda lj, q, eps: log_weights_at(lj, q, eps)))
    assert "returned shape (2, 20000)" in message and ".mean(0)" in message
