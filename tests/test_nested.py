"""Every estimator at every S from one set of draws is what the estimator itself returns on the first S of them."""

import pytest
import torch
from helpers import ESTIMATORS, FAMILIES, by_autograd, gaussian, seeded

from vilib import (
    ShapeError, constant_baseline, correlated_gaussian, gradient_from_draws, leave_one_out_mean, nested_gradients,
    nested_study, normal, other_half_mean, pathwise_expectation, per_draw, quadratic_cost, score_function_expectation,
    score_function_with,
)
from vilib.control_variates import cross_fitted_coefficient
from vilib.nested import COMPOSED

close = torch.testing.assert_close
B = -0.7
ELBO = {
    "score_function": ESTIMATORS["score_function"], "constant_baseline": score_function_with(constant_baseline(B)),
    "mean_baseline": ESTIMATORS["score_function_mean_baseline"], "leave_one_out": ESTIMATORS["leave_one_out"],
    "optimal_coefficient": ESTIMATORS["optimal_coefficient"], "pathwise": ESTIMATORS["pathwise"],
    "sticking_the_landing": ESTIMATORS["sticking_the_landing"], "total_derivative": ESTIMATORS["total_derivative"],
}
NEED_TWO = {"mean_baseline", "leave_one_out", "optimal_coefficient"}


def score_with(baseline):
    return lambda f, q, eps: score_function_expectation(f, q, eps, baseline)


COST = {
    "score_function": score_with(None), "constant_baseline": score_with(constant_baseline(B)),
    "mean_baseline": score_with(other_half_mean), "leave_one_out": score_with(leave_one_out_mean),
    "optimal_coefficient": lambda f, q, eps: score_function_expectation(
        f, q, eps, lambda g, s: cross_fitted_coefficient(g, s, q.score_variance().detach())),
    "pathwise": pathwise_expectation,
}


def assert_same(found, estimators, f, q, eps, tolerance):
    counts = [2**k for k in range(len(eps).bit_length())]
    assert found.keys() == estimators.keys()
    for name, estimator in estimators.items():
        for gradient, s in zip(found[name], counts, strict=True):
            if s == 1 and name in NEED_TWO:
                assert gradient.isnan().all()
            else:
                exact = by_autograd(estimator, f, q.expand(eps.shape[1]), eps[:s])[1]
                atol = tolerance * max(1.0, exact.abs().max().item())
                close(gradient, exact, rtol=tolerance, atol=atol, msg=f"{name}, S = {s}")


def test_every_composed_estimator_is_tested_here():
    assert ELBO.keys() == COMPOSED.keys()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_nested_gradients_of_the_elbo(make, dtype, tolerance):
    q, f = make(dtype=dtype), correlated_gaussian(0.6)
    eps = normal(64, (5,), 2, generator=seeded(), dtype=dtype)
    assert_same(nested_gradients(per_draw(f, q, eps, elbo=True), baseline=B), ELBO, f, q, eps, tolerance)
    assert_same(nested_study(f, q, eps, elbo=True, baseline=B), ELBO, f, q, eps, tolerance)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_nested_gradients_of_an_expectation(make, dtype, tolerance):
    q, f = make(dtype=dtype), quadratic_cost(0.3)
    eps = normal(64, (5,), 2, generator=seeded(), dtype=dtype)
    assert_same(nested_study(f, q, eps, baseline=B), COST, f, q, eps, tolerance)


def test_counts_names_coordinates_and_baselines_may_be_chosen():
    q, f = gaussian(0.5, dim=3), quadratic_cost()
    eps = normal(32, (4,), 3, generator=seeded(), dtype=torch.float64)
    every = nested_study(f, q, eps, ("leave_one_out", "constant_baseline"), baseline=torch.full((6,), B, dtype=torch.float64))
    some = nested_study(f, q, eps, ("leave_one_out", "constant_baseline"), sample_counts=(16, 4), coordinates=(3, 0), baseline=B)
    for name in every:
        close(some[name], every[name][[4, 2]][..., [3, 0]])


def test_gradient_from_draws_is_the_last_of_them():
    eps = normal(16, (4,), 2, generator=seeded(), dtype=torch.float64)
    draws = per_draw(correlated_gaussian(0.6), gaussian(0.2, dim=2), eps, elbo=True)
    for name, gradients in nested_gradients(draws).items():
        close(gradient_from_draws(draws, name), gradients[-1])


def test_a_large_constant_does_not_spoil_float32():
    """f is summed about a centre: with f + 10⁴ the leave-one-out gradient keeps its digits."""
    q = gaussian(0.5)
    eps = normal(256, (4,), 1, generator=seeded(), dtype=torch.float64)
    q32 = q.with_vector(q.vector().float())
    single = nested_study(lambda z: quadratic_cost()(z) + 1e4, q32, eps.float(), ("leave_one_out",))
    exact = nested_study(quadratic_cost(), q, eps, ("leave_one_out",))["leave_one_out"][1:]
    close(single["leave_one_out"][1:].double(), exact, rtol=2e-3, atol=2e-3)


def test_what_is_not_available_is_named():
    eps = normal(8, (2,), 1, generator=seeded(), dtype=torch.float64)
    with pytest.raises(KeyError, match="sticking_the_landing.* not available for these draws; choose from .*pathwise"):
        nested_study(quadratic_cost(), gaussian(), eps, ("sticking_the_landing",))
    for counts in [(3,), (16,), (0,)]:
        with pytest.raises(ShapeError, match="sample_counts: powers of two up to the 8 draws there are"):
            nested_study(quadratic_cost(), gaussian(), eps, sample_counts=counts)
