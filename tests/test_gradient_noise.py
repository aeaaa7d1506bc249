"""The noise of one gradient: closed forms, and the estimators themselves on the same draws."""

import math

import pytest
import torch
from helpers import seeded, tensor

from vilib import Example, MeanFieldGaussian, ShapeError, correlated_gaussian, exact_elbo, logistic_one_coefficient, moments, normal, pathwise_expectation, quadratic_cost
from vilib import score_function_expectation, trapezoid
from vilib.gradient_noise import alike, along_first_coordinate, gradient_noise, score_terms
from vilib.quadrature import moments_at

close = torch.testing.assert_close
NAMES = ("score_function", "leave_one_out", "pathwise", "sticking_the_landing")


def eps(dim: int = 1, dtype=torch.float64) -> torch.Tensor:
    return normal(64, (300,), dim, generator=seeded(3), dtype=dtype)


def test_a_quadratic_in_closed_form():
    """f = z², q = N(1, 1): the path gives 2z, of variance 4; f s has variance 30."""
    noise = gradient_noise(quadratic_cost(), alike(1.0, 0.0, 1), eps(), NAMES)
    counts = torch.tensor([1.0, 2, 4, 8, 16, 32, 64], dtype=torch.float64)
    for name, of_one in (("pathwise", 4.0), ("score_function", 30.0)):
        assert noise[name].exact == pytest.approx(2.0)
        close(noise[name].variance, of_one / counts)
        close(noise[name].signal_to_noise, 2.0 / (of_one / counts).sqrt())
        close(noise[name].standard_error, (of_one / counts / 300).sqrt())
        assert noise[name].draws_for(10.0) == 100 * of_one / 4
    assert noise["leave_one_out"].estimates[0].isnan().all() and noise["leave_one_out"].variance[0].isnan()


def test_a_plain_cost_has_no_landing_to_stick():
    missing = gradient_noise(quadratic_cost(), alike(1.0, 0.0, 1), eps(), NAMES)["sticking_the_landing"]
    assert math.isnan(missing.exact) and missing.estimates.shape == (7, 300) and missing.estimates.isnan().all()
    assert missing.variance.shape == (7,) and missing.variance.isnan().all() and math.isnan(missing.draws_for(10.0))


def test_where_the_gradient_is_zero_no_number_of_draws_will_do():
    assert math.isnan(gradient_noise(quadratic_cost(), alike(0.0, 0.0, 1), eps(), ["pathwise"])["pathwise"].draws_for(10.0))


@pytest.mark.parametrize(("name", "of"), [("score_function", score_function_expectation), ("pathwise", pathwise_expectation)])
def test_estimates_are_those_of_autograd_on_the_same_draws(name, of):
    q, draws = alike(0.5, -0.3, 3), eps(3)
    estimates = gradient_noise(quadratic_cost(), q, draws, [name])[name].estimates
    vector = q.vector().expand(300, -1).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(of(quadratic_cost(), q.with_vector(vector), draws[:16]).sum(), vector)
    close(estimates[4], gradient[:, 0])


def test_a_posterior_has_the_moments_of_its_elbo():
    example, q = logistic_one_coefficient(), alike(1.0, -0.2, 1)
    noise, exact = gradient_noise(example, q, eps(dtype=torch.float32), NAMES), moments(example, q, elbo=True)
    for name in NAMES:
        assert noise[name].exact == exact.gradient[0].item() and noise[name].estimates.dtype == torch.float32
        close(noise[name].variance[3], exact.variances(8)[name][0])
        assert abs(noise[name].estimates[6].mean() - noise[name].exact) < 5 * noise[name].standard_error[6]


@pytest.mark.parametrize("f", [quadratic_cost(), logistic_one_coefficient()])
def test_the_terms_average_to_the_score_function_estimate(f):
    q, draws = alike(0.7, 0.2, 1), eps()
    z, added = score_terms(f, q, draws[:, 5])
    close(z, 0.7 + math.exp(0.2) * draws[:, 5, 0])
    close(added.mean(), gradient_noise(f, q, draws, ["score_function"])["score_function"].estimates[-1, 5])


def test_what_is_drawn_along_z_averages_to_what_is_climbed():
    example, (nodes, weights) = logistic_one_coefficient(), trapezoid(1)
    q = alike(0.4, -0.1, 1)
    z = q.transform(nodes)[:, 0]
    close((weights * along_first_coordinate(example, q, z)).sum(), exact_elbo(example, q))
    ten = alike(0.4, -0.1, 10)
    close((weights * along_first_coordinate(quadratic_cost(), ten, z)).sum(), quadratic_cost().expectation(ten))


def test_another_coordinate_is_that_of_the_model_turned_round():
    """(z₁, z₂) and (z₂, z₁): the noise of ∂/∂μ₂ of one is that of ∂/∂μ₁ of the other."""
    one = correlated_gaussian(0.5, (1.0, 3.0))
    turned = correlated_gaussian(0.5, (3.0, 1.0))
    q, draws = MeanFieldGaussian(tensor(0.3, -0.5), tensor(0.0, 0.7)), eps(2)
    back = MeanFieldGaussian(q.mu.flip(0), q.omega.flip(0))
    second = gradient_noise(one, q, draws, NAMES, coordinate=1)
    first = gradient_noise(turned, back, draws.flip(-1), NAMES)
    for name in NAMES:
        assert second[name].exact == pytest.approx(first[name].exact)
        close(second[name].estimates, first[name].estimates, equal_nan=True)
        close(second[name].variance, first[name].variance, equal_nan=True)
    z, added = score_terms(one, q, draws[:, 0], 1)
    close(z, score_terms(turned, back, draws[:, 0].flip(-1))[0])
    close(added, score_terms(turned, back, draws[:, 0].flip(-1))[1])


def test_measured_moments_free_it_of_two_unknowns():
    def log_joint(z):
        return -0.5 * z.square().sum(-1)

    model = Example("three", 3, log_joint, ((-3.0, 3.0),) * 3)
    q, draws = MeanFieldGaussian(tensor(1.0, 0.0, 0.0), tensor(0.0, 0.0, 0.0)), eps(3)
    nodes = normal(100_000, (), 3, generator=seeded(5), dtype=torch.float64)
    measured = moments_at(log_joint, q, nodes, torch.full((100_000,), 1e-5).double(), elbo=True)
    noise = gradient_noise(model, q, draws, ["pathwise"], of_one=measured)["pathwise"]
    assert noise.exact == pytest.approx(-1, abs=0.03) and noise.variance[0].item() == pytest.approx(1, abs=0.03)
    with pytest.raises(ShapeError, match="quadrature reaches two dimensions"):
        gradient_noise(model, q, draws, ["pathwise"])
