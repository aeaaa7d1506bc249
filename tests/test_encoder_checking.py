"""The markers of encoders and of gaps: right answers pass, and each slip is called by its name."""

import pytest
import torch
from torch.distributions import Normal

from vilib import AmortizationGap, FullRankGaussian, MeanFieldGaussian, amortization_gap, check_encoder, check_gap, ppca, sensor_gap
from vilib.encoder_checking import GAP_SLIPS, MEAN_SLIPS, OMEGA_SLIPS, linear_cases


def right(x, weights, bias, noise_sd):
    m = weights.square().sum(0) + noise_sd**2
    mu = (x - bias) @ weights / m
    return MeanFieldGaussian(mu, (noise_sd.log() - 0.5 * m.log()).expand_as(mu))


def exact(x, weights, bias, noise_sd):
    """(mean, omega, M) of the right answer, to be spoilt."""
    q = right(x, weights, bias, noise_sd)
    return q.mu, q.omega, weights.square().sum(0) + noise_sd**2


def spoilt(mu=lambda mu, omega, m, s, x, w, b: mu, omega=lambda mu, omega, m, s, x, w, b: omega):
    def encoder(x, weights, bias, noise_sd):
        all_of = (*exact(x, weights, bias, noise_sd), noise_sd, x, weights, bias)
        mean = mu(*all_of)
        return MeanFieldGaussian(mean, omega(*all_of).expand_as(mean))

    return encoder


WRONG = {
    "sign": spoilt(mu=lambda mu, *_: -mu),
    "no M": spoilt(mu=lambda mu, omega, m, *_: mu * m),
    "no bias": spoilt(mu=lambda mu, omega, m, s, x, w, b: x @ w / m),
    "no prior": spoilt(mu=lambda mu, omega, m, s, x, w, b: (x - b) @ w @ torch.linalg.inv(w.T @ w)),
    "noise not squared": spoilt(mu=lambda mu, omega, m, s, x, w, b: (x - b) @ w / (m - s**2 + s)),
    "noise of one": spoilt(mu=lambda mu, omega, m, s, x, w, b: (x - b) @ w / (m - s**2 + 1)),
    "prior mean": spoilt(mu=lambda mu, *_: 0 * mu),
    "no log": spoilt(omega=lambda mu, omega, *_: omega.exp()),
    "log of the variance": spoilt(omega=lambda mu, omega, *_: 2 * omega),
    "variance without a log": spoilt(omega=lambda mu, omega, m, s, *_: s**2 / m),
    "log of the precision": spoilt(omega=lambda mu, omega, m, s, *_: (m / s**2).log()),
    "sign of omega": spoilt(omega=lambda mu, omega, *_: -omega),
    "no prior in omega": spoilt(omega=lambda mu, omega, m, s, *_: (s / (m - s**2).sqrt()).log()),
    "no noise in omega": spoilt(omega=lambda mu, omega, m, *_: -0.5 * m.log()),
    "noise alone": spoilt(omega=lambda mu, omega, m, s, *_: s.log()),
    "prior width": spoilt(omega=lambda mu, *_: 0 * mu),
    "not finite": spoilt(omega=lambda mu, omega, m, s, *_: (omega - 5).log()),
    "leak": lambda x, *rest: right(x - x.mean(0), *rest),
    "order": lambda x, *rest: MeanFieldGaussian(torch.cat([right(x, *rest).mu[:2], right(x, *rest).mu[2:].roll(1, 0)]), right(x, *rest).omega),
    "shape": lambda x, *rest: MeanFieldGaussian(right(x, *rest).mu[..., :1].expand(-1, 3), right(x, *rest).omega[..., :1].expand(-1, 3)),
    "family": lambda x, *rest: Normal(right(x, *rest).mu, right(x, *rest).stddev),
    "raises": lambda x, *rest: right(x.unsqueeze(0), *rest).nothing,
}


def test_the_posterior_passes():
    report = check_encoder(right)
    assert report and report.slip is None and str(report).startswith("✓ Right.")


@pytest.mark.parametrize("name", WRONG)
def test_each_slip_of_an_encoder_is_called_by_its_name(name):
    report = check_encoder(WRONG[name])
    assert not report and report.slip == name and str(report).startswith("✗ Not yet.")


def test_every_slip_that_is_known_has_its_mutant():
    assert set(MEAN_SLIPS) | set(OMEGA_SLIPS) <= set(WRONG)


def test_both_halves_are_told_and_the_right_half_is_praised():
    both = check_encoder(spoilt(mu=lambda mu, *_: -mu, omega=lambda mu, omega, *_: 2 * omega))
    assert both.slip == "sign" and len(both.findings) == 2 and "halve it" in str(both)
    assert "mu is right" in str(check_encoder(WRONG["no log"])) and "omega is right" in str(check_encoder(WRONG["no M"]))


def test_what_nothing_explains_is_told_with_its_numbers():
    report = check_encoder(spoilt(mu=lambda mu, *_: 0.7 * mu))
    assert not report and report.slip is None and "the posterior's is" in report.findings[0] and "No single slip" in report.findings[0]


def test_a_wrong_family_is_told_what_an_encoder_returns():
    assert "Normal" in str(check_encoder(WRONG["family"])) and "omega = log σ" in str(check_encoder(WRONG["family"]))
    assert check_encoder(lambda x, *rest: right(x, *rest).mu).slip == "family"
    full = lambda x, *rest: FullRankGaussian(right(x, *rest).mu, torch.diag_embed(right(x, *rest).omega))  # noqa: E731
    assert check_encoder(full).slip == "family"


def test_the_models_it_asks_about_have_a_mean_field_posterior():
    """WᵀW is diagonal, and the marker's own M and ω are the posterior's, by Bayes' rule in matrices."""
    for case in linear_cases():
        precision = torch.eye(case.weights.shape[1], dtype=torch.float64) + case.weights.T @ case.weights / case.noise_sd**2
        covariance = torch.linalg.inv(precision)
        torch.testing.assert_close(covariance, torch.diag((2 * case.omega()).exp()))
        torch.testing.assert_close(case.along() / case.m(), (case.x - case.bias) @ case.weights @ covariance / case.noise_sd**2)
    x = linear_cases()[2].x @ torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    solved = ppca(x, 2)
    torch.testing.assert_close(right(x, solved.weights, solved.mean, solved.noise_variance.sqrt()).vector(), solved.posterior(x).vector())


# ---- gaps -----------------------------------------------------------------------------------------------------------


def both(vae, x) -> tuple[AmortizationGap, torch.Tensor, torch.Tensor]:
    found = sensor_gap(vae, x)
    return found, found.approximation, found.amortization


def one_climb(vae, x):
    found = amortization_gap(vae, x, num_nodes=64)
    return found.approximation, found.amortization


def too_short(vae, x):
    found = amortization_gap(vae, x, num_nodes=64, num_steps=3)
    return found.approximation, found.amortization


def without_cost(vae, x):
    from vilib import kl_to_standard_normal

    found = sensor_gap(vae, x)
    elbo, best = (e + kl_to_standard_normal(q) for e, q in ((found.elbo, found.q), (found.best_elbo, found.best)))
    return found.log_evidence - best, best - elbo


GAPS = {
    "sign": lambda vae, x: tuple(-part for part in both(vae, x)[1:]),
    "swapped": lambda vae, x: both(vae, x)[:0:-1],
    "whole for amortisation": lambda vae, x: (both(vae, x)[1], both(vae, x)[0].inference),
    "whole for approximation": lambda vae, x: (both(vae, x)[0].inference, both(vae, x)[2]),
    "no cost": without_cost,
    "bits": lambda vae, x: tuple(part / 0.6931471805599453 for part in both(vae, x)[1:]),
    "split": one_climb,
    "shape": lambda vae, x: tuple(part.mean() for part in both(vae, x)[1:]),
    "leak": lambda vae, x: (both(vae, x)[0].log_evidence.sum() - both(vae, x)[0].best_elbo, both(vae, x)[2]),
    "not finite": lambda vae, x: tuple(part / 0 for part in both(vae, x)[1:]),
    "raises": lambda vae, x: vae.nothing,
}


def test_the_gaps_of_vilib_pass():
    report = check_gap(lambda vae, x: both(vae, x)[1:])
    assert report and report.slip is None and "6 data on each of 2 models" in str(report)


@pytest.mark.parametrize("name", GAPS)
def test_each_slip_of_a_gap_is_called_by_its_name(name):
    report = check_gap(GAPS[name])
    assert not report and report.slip == name and str(report).startswith("✗ Not yet.")


def test_every_slip_of_a_gap_has_its_mutant():
    assert set(GAP_SLIPS) <= set(GAPS)


def test_a_lower_hill_and_a_short_climb_are_told_apart():
    assert "lower hill" in str(check_gap(one_climb))
    assert "Climb longer" in str(check_gap(too_short))


def test_what_is_no_pair_and_what_nothing_explains():
    assert check_gap(lambda vae, x: both(vae, x)[1]).slip == "shape"
    report = check_gap(lambda vae, x: (both(vae, x)[1] + 0.3, both(vae, x)[2]))
    assert not report and report.slip is None and "No single slip" in str(report)


def test_the_whole_is_recognised_beside_a_second_slip():
    """The whole in the place of the approximation gap, and a split that is wrong too: the first is said first."""
    mixed = lambda vae, x: (both(vae, x)[0].inference, one_climb(vae, x)[1])  # noqa: E731
    assert check_gap(mixed).slip == "whole for approximation"
