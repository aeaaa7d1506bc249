"""The two models of the variance figure against torch.distributions, quadrature and autograd."""

import math

import pytest
import torch
from helpers import gaussian, seeded, slope_by_autograd, tensor
from torch.distributions import Gamma, Normal

from vilib import (
    MissingGenerator, ShapeError, VilibError, best_gaussian, exact_elbo, exact_gradient, expectation, gamma_target, log_evidence, moments,
    simulated_tanh_regression, tanh_regression,
)

close = torch.testing.assert_close
GAMMAS = [(10.0, 10.0), (3.0, 0.5), (0.7, 4.0)]
every_gamma = pytest.mark.parametrize(("shape", "rate"), GAMMAS)


# ---- Gamma on the log scale ------------------------------------------------------------------------------------------


@every_gamma
def test_it_is_the_gamma_density_with_its_jacobian(shape, rate):
    model, z = gamma_target(shape, rate), torch.linspace(-4, 2, 13, dtype=torch.float64).unsqueeze(-1)
    theta = z[:, 0].exp()
    expected = Gamma(tensor(shape), tensor(rate)).log_prob(theta) + theta.log()
    close(model(z), expected)
    close(model.model(z), expected)                                      # the reader's way: supports, Jacobian by autograd
    close(model.posterior.log_prob(theta), Gamma(tensor(shape), tensor(rate)).log_prob(theta).reshape(-1))
    close(model.slope(z), slope_by_autograd(model, z.clone()))
    assert model(torch.zeros(5, 3, 1)).shape == (5, 3) and model(torch.zeros(1)).dtype == torch.float32


@every_gamma
def test_its_evidence_is_one_and_its_best_q_is_in_closed_form(shape, rate):
    model = gamma_target(shape, rate)
    q, elbo = model.best
    assert log_evidence(model, -60.0, 12.0, 40_001) == pytest.approx(0, abs=1e-9)
    assert elbo == pytest.approx(exact_elbo(model, q).item(), abs=1e-9) and elbo < 0
    assert exact_gradient(model, q, elbo=True).abs().max() < 1e-8
    found, value = best_gaussian(model.log_joint, gaussian(q.mean.item() + 0.1, 0.2 - 0.5 * math.log(shape)))
    close(found.vector(), q.vector(), rtol=0, atol=1e-6)
    assert value == pytest.approx(elbo, abs=1e-9)
    assert q.stddev.item() ** 2 == pytest.approx(1 / shape)
    assert expectation(lambda z: z[..., 0].exp(), q).item() == pytest.approx(shape / rate)     # the mean of θ is exact


def test_noise_at_the_best_q_in_closed_form():
    """The path's slope there is a (1 − e^{σε − σ²/2}): variance a² (e^{1/a} − 1) for ∂/∂μ, whatever the rate."""
    for shape, rate in GAMMAS:
        model = gamma_target(shape, rate)
        path = moments(model, model.best[0], elbo=True).variances()["pathwise"][0].item()
        assert path == pytest.approx(shape**2 * math.expm1(1 / shape), rel=1e-6)


@pytest.mark.parametrize("bad", [(0.0, 1.0), (1.0, -2.0), (math.nan, 1.0)])
def test_a_gamma_needs_numbers_above_zero(bad):
    with pytest.raises(VilibError, match="shape, rate: two numbers above 0"):
        gamma_target(*bad)


# ---- nonlinear regression --------------------------------------------------------------------------------------------


def some(num_observations=7, dim=3, dtype=torch.float64):
    draw = seeded(1)
    return (torch.randn(num_observations, dim, generator=draw, dtype=torch.float64).to(dtype),
            torch.randn(num_observations, generator=draw, dtype=torch.float64).to(dtype))


def test_it_is_the_normal_likelihood_of_tanh_and_the_standard_normal_prior():
    x, y = some()
    model, beta = tanh_regression(x, y), torch.randn(5, 2, 3, generator=seeded(2), dtype=torch.float64)
    expected = Normal((beta @ x.mT).tanh(), 1.0).log_prob(y).sum(-1) + Normal(0.0, 1.0).log_prob(beta).sum(-1)
    close(model(beta), expected)
    close(model.slope(beta), slope_by_autograd(model, beta.clone()))
    assert model(beta.float()).dtype == torch.float32 and model.slope(beta.float()).dtype == torch.float32


def test_with_one_coefficient_quadrature_finds_its_best_q():
    model = tanh_regression(*some(dim=1))
    q, elbo = best_gaussian(model.log_joint, gaussian())
    assert elbo < log_evidence(model, -12.0, 12.0) + 1e-12 and exact_gradient(model, q, elbo=True).abs().max() < 1e-8


def test_simulated_data_are_of_the_model():
    model = simulated_tanh_regression(100, 20_000, generator=seeded(3))
    x, y, beta = (model.data[name] for name in ("x", "y", "beta"))
    assert x.shape == (20_000, 100) and model.dim == 100 and y.dtype == torch.float64
    noise, n = y - (x @ beta).tanh(), len(y)
    assert abs(noise.mean().item()) < 5 / n**0.5 and abs(noise.var().item() - 1) < 5 * (2 / n) ** 0.5
    of_order_one = beta.square().mean().item()
    assert (x @ beta).var().item() == pytest.approx(of_order_one, rel=5 * (2 / n) ** 0.5)
    same, other = (simulated_tanh_regression(100, 20_000, generator=seeded(k)) for k in (3, 4))
    assert torch.equal(same.data["y"], y) and not torch.equal(other.data["y"], y)
    with pytest.raises(MissingGenerator, match="generator: expected a torch.Generator, got None"):
        simulated_tanh_regression(generator=None)


@pytest.mark.parametrize(("x", "y"), [((7,), (7,)), ((7, 3), (3,)), ((7, 3), (7, 1))])
def test_data_that_do_not_fit_are_refused(x, y):
    with pytest.raises(ShapeError, match=r"x, y: expected \(N, D\) and \(N,\)"):
        tanh_regression(torch.zeros(x), torch.zeros(y))
