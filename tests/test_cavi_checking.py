"""The marker of coordinate updates: the right one passes, each slip is called by its name."""

import pytest
import torch

from vilib import MeanFieldGaussian, check_coordinate_update, update_gaussian_factor
from vilib.cavi_checking import MEAN_SLIPS, WIDTH_SLIPS


def put(q, i, mu_i=None, omega_i=None):
    at = torch.arange(q.dim) == i
    choose = lambda new, old: old if new is None else torch.where(at, new, old)  # noqa: E731
    return MeanFieldGaussian(choose(mu_i, q.mu), choose(omega_i, q.omega))


def with_mean(of):
    """The right width, and a mean of its own."""
    return lambda q, i, mean, precision: put(update_gaussian_factor(q, i, mean, precision), i, mu_i=of(q, i, mean, precision))


def with_width(of):
    return lambda q, i, mean, precision: put(update_gaussian_factor(q, i, mean, precision), i, omega_i=of(q, i, precision))


def pull(matrix, away, i):
    return matrix[i] @ away - matrix[i, i] * away[i]


def jump(q, i, mean, precision):
    return MeanFieldGaussian(mean.clone(), -0.5 * precision.diagonal().log())


WRONG = {
    "mean left alone": with_mean(lambda q, i, m, P: q.mu[i]),
    "mean of the target": with_mean(lambda q, i, m, P: m[i]),
    "sign of the pull": with_mean(lambda q, i, m, P: m[i] + pull(P, q.mu - m, i) / P[i, i]),
    "mean of the others forgotten": with_mean(lambda q, i, m, P: m[i] - pull(P, q.mu, i) / P[i, i]),
    "own term counted": with_mean(lambda q, i, m, P: m[i] - P[i] @ (q.mu - m) / P[i, i]),
    "covariance for precision": with_mean(lambda q, i, m, P: m[i] - pull(P.inverse(), q.mu - m, i) / P.inverse()[i, i]),
    "pull not divided": with_mean(lambda q, i, m, P: m[i] - pull(P, q.mu - m, i)),
    "width left alone": with_width(lambda q, i, P: q.omega[i]),
    "marginal width": with_width(lambda q, i, P: 0.5 * P.inverse()[i, i].log()),
    "variance for standard deviation": with_width(lambda q, i, P: -P[i, i].log()),
    "precision for variance": with_width(lambda q, i, P: 0.5 * P[i, i].log()),
    "no logarithm": with_width(lambda q, i, P: P[i, i].rsqrt()),
    "variance without a logarithm": with_width(lambda q, i, P: 1 / P[i, i]),
    "moved others": jump,
    "shape": lambda q, i, m, P: MeanFieldGaussian(m[i : i + 1], q.omega[i : i + 1]),
    "not finite": with_width(lambda q, i, P: (P[i, i] - P[i, i]).log() * 0),
    "raises": lambda q, i, m, P: q.nothing,
}


def test_the_right_one_passes_and_the_report_says_what_was_seen():
    report = check_coordinate_update(update_gaussian_factor)
    assert report and report.slip is None and str(report).startswith("✓ Right.")
    assert "all 9 cases" in str(report) and "sweeps" in str(report)


@pytest.mark.parametrize("name", WRONG)
def test_each_slip_is_called_by_its_name(name):
    report = check_coordinate_update(WRONG[name])
    assert not report and report.slip == name and str(report).startswith("✗ Not yet.")


def test_every_slip_that_is_known_has_its_mutant():
    assert set(MEAN_SLIPS) | set(WIDTH_SLIPS) <= set(WRONG)


def test_two_slips_are_both_told():
    def both(q, i, mean, precision):
        return put(q, i, mean[i], 0.5 * precision.inverse()[i, i].log())

    words = " ".join(check_coordinate_update(both).findings)
    assert MEAN_SLIPS["mean of the target"][1] in words and WIDTH_SLIPS["marginal width"][1] in words


def test_a_fallen_elbo_is_told():
    report = check_coordinate_update(WRONG["sign of the pull"])
    assert "the ELBO fell" in str(report)


def test_what_nothing_explains_is_told_with_its_numbers():
    report = check_coordinate_update(with_mean(lambda q, i, m, P: m[i] + 0.3))
    assert not report and report.slip is None and "no single slip" in str(report) and "the optimum" in str(report)


def test_the_wrong_shape_is_told_what_was_expected():
    assert "shape (1,), expected a MeanFieldGaussian of D = 2 coordinates" in " ".join(check_coordinate_update(WRONG["shape"]).findings)
    assert "returned tuple" in " ".join(check_coordinate_update(lambda q, i, m, P: (q.mu, q.omega)).findings)
