"""The book's costs and models against quadrature, autograd, torch.distributions and long MCMC runs."""

import math

import pytest
import torch
from helpers import full_rank, gaussian, seeded, slope_by_autograd, tensor
from torch.distributions import Bernoulli, Beta, HalfCauchy, Normal

from vilib import (
    VilibError, best_gaussian, coin_toss, correlated_gaussian, cosine_cost, eight_schools, exact_elbo, exact_gradient, expectation,
    exponential_cost,
    gaussian_target, kidiq, log_evidence, logistic_one_coefficient, moments, posterior_density, quadratic_cost,
    two_component_mixture,
)
from vilib.quadrature import trapezoid

close = torch.testing.assert_close

COSTS = {
    "square": quadratic_cost(), "square about 0.7": quadratic_cost(0.7), "cos": cosine_cost(1.0), "cos 2.5": cosine_cost(2.5),
    "exp": exponential_cost(1.0), "exp -0.1": exponential_cost(-0.1), "exp 3": exponential_cost(3.0),
}
MODELS = {
    "gaussian": gaussian_target(0.5, 1.7), "correlated": correlated_gaussian(0.9, (1.0, 0.5)),
    "logistic": logistic_one_coefficient(),
    "logistic, 3 rows": logistic_one_coefficient(tensor(0.5, -1.0, 2.0), tensor(1.0, 0.0, 1.0)),
    "coin": coin_toss(6, 4), "coin, no tails": coin_toss(12, 0, (2.0, 2.0)),
    "mixture": two_component_mixture(), "uneven mixture": two_component_mixture((-1.0, 4.0), (0.5, 2.0), 0.3),
    "kidiq": kidiq(), "kidiq, centred": kidiq(centred=True),
    "eight schools": eight_schools(),
}
every_cost = pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS)
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def those_with(attribute: str):
    have = {name: model for name, model in MODELS.items() if getattr(model, attribute) is not None}
    return pytest.mark.parametrize("model", have.values(), ids=have)


Q = gaussian(0.4, -0.3)


# ---- costs ----------------------------------------------------------------------------------------------------------


@every_cost
@pytest.mark.parametrize("dim", [1, 2])
def test_a_costs_mean_and_gradient_are_those_of_quadrature(cost, dim):
    q = gaussian(0.4, -0.3, dim)
    close(cost.expectation(q), expectation(cost, q), rtol=1e-9, atol=1e-10)
    close(cost.gradient(q), exact_gradient(cost, q), rtol=1e-9, atol=1e-10)


@every_cost
def test_a_costs_slope_is_autograds(cost):
    z = torch.randn(5, 3, 2, generator=seeded(), dtype=torch.float64)
    close(cost.slope(z), slope_by_autograd(cost, z))


@every_cost
def test_a_costs_variances_are_those_of_quadrature(cost):
    for name, variance in moments(cost, Q).variances(8).items():
        close(cost.variances(Q, 8)[name], variance, msg=name)


def test_costs_keep_the_batch_and_the_dtype():
    for cost in COSTS.values():
        q = gaussian(0.4, -0.3, 3).expand(2, 4)
        assert cost.expectation(q).shape == (2, 4) and cost.gradient(q).shape == (2, 4, 6)
        assert cost(torch.zeros(5, 2, 3)).shape == (5, 2) and cost(torch.zeros(2)).dtype == torch.float32


# ---- models ---------------------------------------------------------------------------------------------------------


@every_model
def test_a_model_is_a_log_density_for_each_draw(model):
    for dtype in (torch.float32, torch.float64):
        z = 0.3 * torch.randn(5, 3, model.dim, generator=seeded(), dtype=dtype)
        assert model(z).shape == (5, 3) and model(z).dtype == dtype and len(model.window) == model.dim
        close(model(z)[2, 1], model(z[2, 1]))


@those_with("slope")
def test_a_slope_by_hand_is_autograds(model):
    z = torch.randn(5, 3, model.dim, generator=seeded(), dtype=torch.float64) * 3
    assert model.slope(z).shape == z.shape
    close(model.slope(z), slope_by_autograd(model, z))


@those_with("log_evidence")
def test_the_evidence_is_the_integral(model):
    assert log_evidence(model, [-25.0] * model.dim, [25.0] * model.dim) == pytest.approx(model.log_evidence, abs=1e-9)


@those_with("best")
def test_best_is_a_stationary_point_below_the_evidence(model):
    q, elbo = model.best
    assert exact_gradient(model, q, elbo=True).abs().max() < 1e-8
    assert elbo == pytest.approx(exact_elbo(model, q).item(), abs=1e-9) and elbo < model.log_evidence + 1e-9


def test_a_gaussian_target_is_its_own_best():
    q, elbo = gaussian_target(0.5, 1.7).best
    assert (q.mean.item(), q.stddev.item(), elbo) == pytest.approx((0.5, 1.7, 0.0))
    z = torch.linspace(-4, 4, 9, dtype=torch.float64).unsqueeze(-1)
    close(gaussian_target(0.5, 1.7)(z), Normal(0.5, 1.7).log_prob(z[:, 0]))


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.9, -0.99])
def test_mean_field_on_a_correlated_gaussian_has_the_conditional_variances(rho):
    """σ_i² = 1/Λ_ii, and the gap ½(Σ log Λ_ii − log |Λ|) = −½ log(1 − ρ²) in two dimensions."""
    sds = (1.0, 0.5)
    covariance = tensor([sds[0] ** 2, rho * sds[0] * sds[1]], [rho * sds[0] * sds[1], sds[1] ** 2])
    precision = covariance.inverse()
    model = correlated_gaussian(rho, sds)
    q, elbo = model.best
    close(q.stddev.square(), 1 / precision.diagonal())
    assert -elbo == pytest.approx(0.5 * (precision.diagonal().log().sum() - precision.logdet()).item(), abs=1e-9)
    assert elbo == pytest.approx(0.5 * math.log(1 - rho**2), abs=1e-12)
    z = torch.randn(7, 2, generator=seeded(), dtype=torch.float64)
    close(model(z), torch.distributions.MultivariateNormal(tensor(0, 0), covariance).log_prob(z))


def test_one_logistic_observation_is_worth_ln_two():
    """p(y | x) = E[sigmoid(z)] = ½ by symmetry; the best Gaussian loses 8e-5 of its log."""
    model = logistic_one_coefficient()
    assert model.log_evidence == pytest.approx(-math.log(2), abs=1e-9)
    q, elbo = model.best
    assert (q.mean.item(), q.stddev.item(), elbo) == pytest.approx((0.413127, 0.910422, -0.693225), abs=1e-6)
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)
    close(model(z.unsqueeze(-1)), torch.nn.functional.logsigmoid(z) + Normal(0.0, 1.0).log_prob(z))
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    close(posterior_density(model, grid), 2 * torch.sigmoid(grid) * Normal(0.0, 1.0).log_prob(grid).exp(), rtol=1e-8, atol=1e-12)


def test_logistic_rows_add_up():
    x, y = tensor(0.5, -1.0, 2.0), tensor(1.0, 0.0, 1.0)
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)
    by_hand = torch.distributions.Bernoulli(logits=z.unsqueeze(-1) * x).log_prob(y).sum(-1) + Normal(0.0, 1.0).log_prob(z)
    close(MODELS["logistic, 3 rows"](z.unsqueeze(-1)), by_hand)


@pytest.mark.parametrize("heads, tails, prior, evidence", [(6, 4, (10, 10), -7.069375), (17, 13, (5, 3), -21.397242)])
def test_the_coin_is_the_model_on_paper(heads, tails, prior, evidence):
    coin, posterior = coin_toss(heads, tails, prior), Beta(*tensor(prior[0] + heads, prior[1] + tails))
    assert coin.log_evidence == pytest.approx(evidence, abs=1e-6)
    z = torch.linspace(-4, 4, 9, dtype=torch.float64)
    theta = torch.sigmoid(z)
    tosses = tensor(*[1] * heads, *[0] * tails)
    by_hand = Beta(*tensor(*prior)).log_prob(theta) + Bernoulli(theta.unsqueeze(-1)).log_prob(tosses).sum(-1)
    close(coin.model.log_joint({"theta": theta}), by_hand)
    close(coin(z.unsqueeze(-1)), by_hand + theta.log() + torch.log1p(-theta))
    close(coin(z.unsqueeze(-1)), coin.model(z.unsqueeze(-1)))
    close(coin(z.unsqueeze(-1)) - coin.log_evidence, posterior.log_prob(theta) + theta.log() + torch.log1p(-theta))
    close(coin.posterior.mean, posterior.mean)


def test_the_best_gaussian_of_the_coin_has_the_posterior_mean_of_theta():
    """At the optimum E_q[θ] = α/(α+β) and s² = 1/((α+β) E_q[θ(1−θ)])."""
    q, elbo = coin_toss(6, 4).best
    assert (q.mean.item(), q.stddev.item(), elbo) == pytest.approx((0.137999, 0.372017, -7.069509), abs=1e-6)
    assert expectation(lambda z: torch.sigmoid(z[..., 0]), q).item() == pytest.approx(16 / 30, abs=1e-9)
    spread = expectation(lambda z: torch.sigmoid(z[..., 0]) * torch.sigmoid(-z[..., 0]), q).item()
    assert q.stddev.item() ** 2 == pytest.approx(1 / (30 * spread), abs=1e-9)


def test_a_batch_of_coins():
    heads, tails = tensor(6.0, 0.0, 3.0), tensor(4.0)
    batch, z = coin_toss(heads, tails, (2.0, 1.0)), torch.randn(5, 3, 1, generator=seeded(), dtype=torch.float64)
    for i, h in enumerate(heads.tolist()):
        alone = coin_toss(h, 4, (2.0, 1.0))
        close(batch(z)[:, i], alone(z[:, i]))
        close(batch.slope(z)[:, i], alone.slope(z[:, i]))
        assert batch.log_evidence[i].item() == pytest.approx(alone.log_evidence) and batch.posterior.mean[i] == alone.posterior.mean
    assert batch.model is None and batch.best is None


@pytest.mark.parametrize("bad", [dict(heads=-1), dict(tails=tensor(1.0, -2.0)), dict(prior=(0.0, 1.0))], ids=str)
def test_a_coin_that_cannot_be(bad):
    with pytest.raises(VilibError, match="heads, tails, prior: counts from 0 and a prior above 0, got "):
        coin_toss(**bad)


def test_a_gaussian_settles_on_one_mode_of_the_mixture():
    model = two_component_mixture()
    right, elbo = model.best
    assert (right.mean.item(), right.stddev.item(), -elbo) == pytest.approx((2.98431, 1.02337, 0.688769), abs=6e-6)
    assert 0 < math.log(2) + elbo < 0.005
    left, _ = best_gaussian(model, gaussian(-3.0))
    assert left.mean.item() == pytest.approx(-right.mean.item(), abs=1e-7)
    swapped, _ = two_component_mixture((3.0, -3.0)).best
    assert swapped.mean.item() == pytest.approx(right.mean.item(), abs=1e-7)


def test_the_symmetric_stationary_point_of_the_mixture_costs_more():
    model, q = two_component_mixture(), gaussian(0.0, math.log(2.7438))
    assert exact_gradient(model, q, elbo=True).abs().max() < 1e-4
    assert -exact_elbo(model, q).item() == pytest.approx(0.840621, abs=1e-6)


def test_moments_of_the_mixture_are_the_forward_optimum():
    """Forward KL matches moments: mean 0 and variance 1 + 3² = 10."""
    grid = torch.linspace(-15, 15, 3001, dtype=torch.float64)
    p = posterior_density(two_component_mixture(), grid) * 0.01
    assert ((p * grid).sum().item(), (p * grid**2).sum().item()) == pytest.approx((0.0, 10.0), abs=1e-9)


@pytest.mark.parametrize("centred", [False, True])
def test_kidiq_is_the_model_on_paper(centred):
    example = kidiq(centred)
    x, y = example.data["x"], example.data["y"]
    assert len(x) == len(y) == 434 and (abs(x.mean().item()) < 1e-9) == centred
    z = tensor(20.0, 0.5, 2.9)
    theta = example.model.constrain(z)
    beta, sigma = theta["beta"], theta["sigma"]
    by_hand = Normal(beta[0] + beta[1] * x, sigma).log_prob(y).sum() + HalfCauchy(tensor(2.5)[0]).log_prob(sigma) + sigma.log()
    close(example(z), by_hand, rtol=1e-10, atol=1e-8)


def test_kidiqs_least_squares_are_the_reference_means():
    """A flat prior on β: its posterior mean is the least-squares line, up to the MCMC error of the reference."""
    example = kidiq()
    design = torch.stack([torch.ones(434, dtype=torch.float64), example.data["x"]], -1)
    beta = torch.linalg.lstsq(design, example.data["y"].unsqueeze(-1)).solution[:, 0]
    for b, name in zip(beta.tolist(), ("beta[1]", "beta[2]")):
        assert b == pytest.approx(example.reference[name]["mean"], abs=0.05 * example.reference[name]["sd"])
    assert kidiq(centred=True).reference is None


def test_full_rank_has_no_gap_where_mean_field_has_one():
    target = correlated_gaussian(0.9)
    _, elbo = best_gaussian(target, full_rank())
    assert elbo == pytest.approx(0, abs=1e-9) and target.best[1] < -0.8
    assert len(trapezoid(2)[0]) == 201**2
