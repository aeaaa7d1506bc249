"""The laws that every checker keeps: found by name, so that a new one is held to them the day it is added."""

import inspect

import pytest
import torch
from torch.distributions import Exponential, constraints
from torch.nn.functional import softplus

import vilib
from vilib import MeanFieldGaussian, Model, leave_one_out, metropolis_step, monte_carlo_kl, sensor_gap, total_derivative, update_gaussian_factor
from vilib.checks import Estimates, alarm, described, explanation, failed, on_every, unusable, z_scores

#: Every public function that returns a report, ``assert_unbiased`` aside, which raises it.
CHECKERS = {name: check for name in vilib.__all__ if name.startswith("check_")
            if "Report" in inspect.signature(check := getattr(vilib, name)).return_annotation}
RATE = {"rate": constraints.positive}


def of_rate(theta):
    return Exponential(1.0).log_prob(theta["rate"]) + 3 * theta["rate"].log() - 5 * theta["rate"]


def encoder(x, weights, bias, noise_sd):
    m = weights.square().sum(0) + noise_sd**2
    mu = (x - bias) @ weights / m
    return MeanFieldGaussian(mu, (noise_sd.log() - 0.5 * m.log()).expand_as(mu))


def vae_loss(decode, x, mu, omega, eps):
    logits = decode(mu + omega.exp() * eps)
    return (0.5 * ((2 * omega).exp() + mu**2 - 1) - omega).sum(-1).mean() - (x * logits - softplus(logits)).sum(-1).mean()


def gap(vae, x):
    found = sensor_gap(vae, x)
    return found.approximation, found.amortization


RIGHT = {
    "check_unbiased": (leave_one_out,), "check_leave_one_out": (leave_one_out,), "check_elbo": (total_derivative,),
    "check_kl": (monte_carlo_kl,), "check_vae_loss": (vae_loss,), "check_metropolis": (metropolis_step,),
    "check_transform": (torch.exp, torch.log, lambda z, theta: z.sum(-1)), "check_coordinate_update": (update_gaussian_factor,),
    "check_model": (of_rate,), "check_slope": (torch.cos,), "check_encoder": (encoder,), "check_gap": (gap,),
}


def marked(name: str, *functions, **options) -> vilib.Report:
    if name == "check_model":
        return vilib.check_model(Model(functions[0], RATE), {"the log joint": of_rate}, RATE, **options)
    if name == "check_slope":
        return vilib.check_slope(Waves(functions[0]), 1, **options)
    return CHECKERS[name](*functions, **options)


class Waves:
    """log p = sin z, with a slope."""

    def __init__(self, slope):
        self.slope = slope

    def __call__(self, z):
        return z[..., 0].sin()


def test_every_checker_has_something_right_to_mark():
    assert set(CHECKERS) == set(RIGHT)


@pytest.mark.parametrize("name", CHECKERS)
def test_what_is_right_passes_with_the_same_report_each_time_and_the_global_seed_is_left_alone(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = (marked(name, *RIGHT[name]) for _ in range(2))
    assert one.passed and one.slip is None and str(one).startswith("✓ Right. ") and str(one) == str(two)
    assert torch.equal(before, torch.get_rng_state())
    if one.threshold == one.threshold:                                                       # there were statistics
        assert 0 <= one.largest_z <= one.threshold


@pytest.mark.parametrize("name", CHECKERS)
def test_what_raises_is_reported_and_not_raised(name):
    def broken(*arguments):
        raise ZeroDivisionError("by hand")

    report = marked(name, *[broken] * len(RIGHT[name]))
    assert not report and report.slip == "raises" and str(report).startswith("✗ Not yet. ")
    assert "raised ZeroDivisionError " in report.findings[0] and report.findings[0].endswith(": by hand")
    assert " of shape (" in report.findings[0] or "the posterior of 2 dimensions" in report.findings[0]


@pytest.mark.parametrize("name", sorted(CHECKERS.keys() - {"check_model"}))
def test_what_returns_nothing_is_told_so(name):
    report = marked(name, *[lambda *arguments: None] * len(RIGHT[name]))
    assert not report and report.slip in ("shape", "shape of theta", "family", "raises") and "NoneType" in report.findings[0]


# ---- the pieces ------------------------------------------------------------------------------------------------------


def test_a_report_is_as_true_as_it_passed_and_wraps_its_findings():
    report = failed("sign", "First " + "word " * 30, "second", largest_z=9.0, threshold=5.0)
    assert not report and (report.largest_z, report.threshold) == (9.0, 5.0)
    lines = str(report).splitlines()
    assert max(map(len, lines)) <= 80 and lines[-1] == "  second" and len(lines) == 4 and repr(report) == str(report)


def test_z_scores_count_standard_errors_and_have_a_floor():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    error = values.std() / 2
    torch.testing.assert_close(z_scores(values, torch.tensor(2.0).double()), 0.5 / error, rtol=1e-8, atol=0)
    estimates = Estimates("a problem", values)
    assert (estimates.mean, estimates.error) == (2.5, pytest.approx(error.item()))
    assert [estimates.z_score(at) for at in (3.0, 2.0)] == pytest.approx([0.5 / error.item()] * 2, rel=1e-8)
    still = Estimates("without noise", torch.full((5,), 0.1, dtype=torch.float64))
    assert still.z_score(0.1) == 0 and still.z_score(0.1 + 1e-6) > 100


@pytest.mark.parametrize("num_tests", [1, 20])
def test_together_the_tests_alarm_as_seldom_as_is_said(num_tests):
    each = 2 * torch.special.ndtr(torch.tensor(-alarm(1e-3, num_tests), dtype=torch.float64)).item()
    assert num_tests * each == pytest.approx(1e-3, rel=1e-9)


@pytest.mark.parametrize("result, slip, words", [
    (torch.zeros(4), None, ""), (torch.zeros(3, 4), "shape", "It returned shape (3, 4), expected one number a replicate, (*R) = (4,)"),
    (torch.zeros(()), "shape", "It averaged over the replicates too."), (1.0, "shape", "It returned float"),
    (torch.tensor([0.0, 1.0, torch.nan, 0.0]), "not finite", "not finite on a problem"), (torch.ones(4), "leak", "all randomness must come from eps"),
])
def test_what_cannot_be_judged_is_told_apart(result, slip, words):
    complaint = unusable(result, torch.zeros(2), torch.zeros(3, 4, 1), "a problem")
    assert complaint is None if slip is None else complaint.slip == slip and words in complaint.findings[0]
    assert described(result).startswith("shape (") == isinstance(result, torch.Tensor)


def test_every_case_is_run_at_every_number_of_draws_until_one_is_reported():
    cases = [("one", None, MeanFieldGaussian(torch.zeros(1), torch.zeros(1))), ("two", None, MeanFieldGaussian(torch.zeros(2), torch.zeros(2)))]
    shapes = on_every(cases, (2, 8), 5, 0, lambda name, log_joint, q, num_samples, eps: (name, num_samples, tuple(eps.shape)))
    assert shapes == [("one", 2, (2, 5, 1)), ("one", 8, (8, 5, 1)), ("two", 2, (2, 5, 2)), ("two", 8, (8, 5, 2))]
    report = failed("shape", "no")
    assert on_every(cases, (2, 8), 5, 0, lambda name, *rest: report if name == "two" else name) is report


def test_the_first_slip_that_fits_in_one_of_its_forms_is_the_explanation():
    slips = {"twice": (lambda x: 2 * x, "A."), "sign": ((lambda x: -x, lambda x: abs(x)), "B."), "same": (lambda x: x, "C.")}
    named = [explanation(slips, lambda predict: predict(3) == result) for result in (6, -3, 3, 4)]
    assert named == [("twice", "A."), ("sign", "B."), ("sign", "B."), None]
