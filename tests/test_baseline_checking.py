"""The marker of leave-one-out names what is wrong, biased or only noisy, and passes what is right however it is written."""

import pytest
import torch

from vilib import check_leave_one_out, leave_one_out, optimal_coefficient, score_function, score_function_mean_baseline, value_of


def with_baseline(baseline, sign=1.0):
    def estimator(log_joint, q, eps):
        z = q.sample(eps)
        log_q = q.log_prob(z)
        log_p = log_joint(z)
        f = (log_p - log_q).detach()
        return value_of(f.mean(0), gradient_of=((f - sign * baseline(f, log_p)) * log_q).mean(0))

    return estimator


def others(x):
    return (x.sum(0) - x) / (len(x) - 1)


RIGHT = {
    "vilib's": leave_one_out,
    "by the formula": with_baseline(lambda f, log_p: others(f)),
    "by a loop": with_baseline(lambda f, log_p: torch.stack([torch.cat([f[:i], f[i + 1:]]).mean(0) for i in range(len(f))])),
    "by the covariance": lambda log_joint, q, eps: _covariance(log_joint, q, eps),
}


def _covariance(log_joint, q, eps):
    """S/(S − 1) times the mean of (f − f̄) s: returns the gradient itself, (*R, P)."""
    z = q.sample(eps)
    f = (log_joint(z) - q.log_prob(z)).detach().unsqueeze(-1)
    return ((f - f.mean(0)) * q.score(z).detach()).sum(0) / (len(eps) - 1)


WRONG = {
    "no baseline": score_function,
    "own sample": with_baseline(lambda f, log_p: f.mean(0)),
    "divided by S": with_baseline(lambda f, log_p: (f.sum(0) - f) / len(f)),
    "one other draw": with_baseline(lambda f, log_p: f.roll(-1, 0)),
    "one other draw, before": with_baseline(lambda f, log_p: f.roll(1, 0)),
    "other half": score_function_mean_baseline,
    "log p alone": with_baseline(lambda f, log_p: others(log_p)),
    "upside down": with_baseline(lambda f, log_p: others(f), sign=-1.0),
    "leak": with_baseline(lambda f, log_p: (f.sum() - f) / (f.numel() - 1)),
    "wrong sign": lambda log_joint, q, eps: -leave_one_out(log_joint, q, eps),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name):
    report = check_leave_one_out(RIGHT[name])
    assert report.passed and "Draw by draw it is the leave-one-out gradient" in str(report)


@pytest.mark.parametrize("slip", WRONG)
def test_what_is_wrong_is_named(slip):
    report = check_leave_one_out(WRONG[slip])
    assert not report.passed and report.slip == slip


@pytest.mark.parametrize("slip", ["no baseline", "divided by S", "one other draw", "other half", "log p alone", "upside down"])
def test_what_is_unbiased_is_told_so_and_what_it_costs(slip):
    assert "It is unbiased. Beside leave-one-out its variance is mu" in " ".join(str(check_leave_one_out(WRONG[slip])).split())


def test_another_unbiased_estimator_is_not_taken_for_a_slip():
    report = check_leave_one_out(optimal_coefficient)
    assert not report.passed and report.slip is None and "not leave-one-out" in str(report)


def test_what_raises_is_reported():
    report = check_leave_one_out(lambda log_joint, q, eps: 1 / 0)
    assert not report.passed and report.slip == "raises" and "ZeroDivisionError" in str(report)
