"""The fast form of every gradient is the gradient."""

import pytest
import torch
from helpers import (
    ESTIMATORS, FAMILIES, LEARNT, by_autograd, every_family, gaussian, mean_field, readers_model, refusal, seeded,
)

from vilib import (
    NonFiniteLogJoint, ShapeError, correlated_gaussian, cosine_cost, leave_one_out_mean, normal, other_half_mean,
    per_draw, score_function_with, value_and_gradient,
)

close = torch.testing.assert_close
TARGETS = {"by hand": correlated_gaussian(0.6), "by autograd": readers_model()}
TOLERANCE = {torch.float64: dict(rtol=1e-10, atol=1e-10), torch.float32: dict(rtol=1e-4, atol=1e-5)}


def assert_same_as_autograd(estimator, target, q, eps):
    for found, defined in zip(value_and_gradient(estimator, target, q, eps), by_autograd(estimator, target, q, eps)):
        close(found, defined, **TOLERANCE[eps.dtype])
        assert not found.requires_grad


@pytest.mark.parametrize("name, family", [(n, f) for n in ESTIMATORS for f in FAMILIES if not refusal(n, f)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_closed_form_is_autograds_value_and_gradient(name, family, dtype):
    make = FAMILIES[family]
    for batch, num_samples in [((), 8), ((3,), 2), ((2, 3), 5), ((3,), 10)]:
        q = make(*batch, dtype=dtype)
        eps = normal(num_samples, batch, 2, generator=seeded(), dtype=dtype)
        for target in TARGETS.values():
            assert_same_as_autograd(ESTIMATORS[name], target, q, eps)


@pytest.mark.parametrize("baseline", [leave_one_out_mean, other_half_mean, lambda f, score: f.mean(0).unsqueeze(-1)])
def test_a_baseline_of_the_readers_own_is_autograds_too(baseline):
    eps = normal(8, (3,), 2, generator=seeded(), dtype=torch.float64)
    assert_same_as_autograd(score_function_with(baseline), TARGETS["by hand"], mean_field(3), eps)


def test_an_estimator_of_the_readers_own_goes_by_autograd():
    half = lambda log_joint, q, eps: 0.5 * (log_joint(q.transform(eps)).mean(0) + q.entropy())  # noqa: E731
    q, eps = mean_field(3), normal(8, (3,), 2, generator=seeded(), dtype=torch.float64)
    with torch.no_grad():
        found = value_and_gradient(half, TARGETS["by hand"], q, eps)[1]
    close(found, 0.5 * value_and_gradient(ESTIMATORS["pathwise"], TARGETS["by hand"], q, eps)[1])


@pytest.mark.parametrize("name", sorted(LEARNT))
def test_too_few_draws_are_refused_in_the_fast_form_too(name):
    with pytest.raises(ShapeError, match="at least 2 draws, got 1"):
        value_and_gradient(ESTIMATORS[name], TARGETS["by hand"], mean_field(), torch.zeros(1, 2, dtype=torch.float64))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_fast_form_refuses_numbers_that_are_not_finite(name):
    with pytest.raises(NonFiniteLogJoint, match="log_joint: returned nan"):
        eps = torch.zeros(4, 2, dtype=torch.float64)
        value_and_gradient(ESTIMATORS[name], lambda z: z[..., 0] * torch.nan, mean_field(), eps)


# ---- per draw -------------------------------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("elbo", [False, True])
@pytest.mark.parametrize("batch", [(), (6,)], ids=str)
def test_what_each_draw_contributes_is_the_estimator_of_that_one_draw(make, elbo, batch):
    """q without a batch, or with the batch of the noise: the same."""
    f, q = (correlated_gaussian(0.6) if elbo else cosine_cost(1.3)), make()
    eps = normal(4, (6,), 2, generator=seeded(), dtype=torch.float64)
    draws = per_draw(f, q.expand(*batch), eps, elbo=elbo)
    assert len(draws) == 4 and draws.f.shape == (4, 6) and draws.score.shape == draws.path.shape == (4, 6, q.num_parameters)
    many = q.expand(6)
    close(draws.z, many.transform(eps))
    close(draws.score, many.score_at(eps))
    if elbo:
        close(draws.f, f(draws.z) - q.log_prob(draws.z))
        for part, name in [(draws.path, "pathwise"), (draws.stl, "sticking_the_landing")]:
            one = [by_autograd(ESTIMATORS[name], f, many, eps[s:s + 1])[1] for s in range(4)]
            close(part, torch.stack(one))
    else:
        close(draws.f, f(draws.z))
        close(draws.path, many.pullback(eps, f.slope(draws.z)))


@every_family
def test_only_the_coordinates_asked_for_are_computed_and_they_are_the_same(make):
    q, eps = make(), normal(4, (6,), 2, generator=seeded(), dtype=torch.float64)
    some, every = (per_draw(correlated_gaussian(0.6), q, eps, elbo=True, coordinates=c) for c in ((2, 0), None))
    for name in ("score", "path", "stl", "score_variance"):
        close(getattr(some, name), getattr(every, name)[..., [2, 0]])


def test_some_of_the_draws():
    draws = per_draw(cosine_cost(1.0), gaussian(), normal(8, (3,), 1, generator=seeded(), dtype=torch.float64))
    assert len(draws[2:5]) == 3
    close(draws[2:5].path, draws.path[2:5])


@pytest.mark.parametrize("shape", [(4,), (4, 3, 2), (4, 2, 1)], ids=str)
def test_noise_that_does_not_fit_is_refused(shape):
    with pytest.raises(ShapeError, match=r"eps: expected \(S, \*R, 1\) with \*R = \(3,\) or any, got"):
        per_draw(cosine_cost(1.0), gaussian().expand(3), torch.zeros(shape, dtype=torch.float64))
