"""Units, the optimality check and starts, each against what is known exactly."""

import math

import pytest
import torch
from helpers import FAMILIES, full_rank, gaussian, mean_field, readers_model, seeded, tensor
from torch.distributions import constraints

from vilib import (
    FullRankGaussian, MeanFieldGaussian, Model, NonFiniteLogJoint, correlated_gaussian, exact_elbo, gaussian_target, kidiq,
    logistic_one_coefficient, normal, two_component_mixture,
)
from vilib.climb import InUnitsOf, compose, gaussian_like, optimality, scaled, standard
from vilib.models import evaluate
from vilib.starts import find_mode, find_start, values_where_finite

close = torch.testing.assert_close


# ---- units ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_elbo_is_the_same_in_every_units(family):
    """log p − log q at T_q(u) equals the log joint in units of q less log q_u, draw by draw."""
    q, q_u = FAMILIES[family](seed=4), FAMILIES[family](seed=5)
    eps = normal(50, (), 2, generator=seeded(), dtype=torch.float64)
    u, whole = q_u.transform(eps), compose(q, q_u)
    close(whole.transform(eps), q.transform(u))
    close(InUnitsOf(q, readers_model())(u) - q_u.log_prob(u), readers_model()(whole.transform(eps)) - whole.log_prob(whole.transform(eps)))
    close(compose(q, standard(q)).covariance, q.covariance)
    path = FAMILIES[family](7, seed=6)
    assert compose(q, path).batch_shape == (7,)
    close(compose(q, path).mean[3], compose(q, path.with_vector(path.vector()[3])).mean)


def test_an_error_in_units_of_q_speaks_of_the_readers_theta():
    model = Model(lambda t: torch.where(t["s"] > 1, -t["s"], -math.inf), {"s": constraints.positive})
    for log_joint, where in ((model, r"theta = \{'s': 0.5\}"), (lambda z: model(z), r"theta = \{'z': tensor\(\[-0.69")):
        with pytest.raises(NonFiniteLogJoint, match=f"returned -inf at {where}"):
            evaluate(InUnitsOf(gaussian(math.log(2.0), 0.0), log_joint), torch.full((1, 1), -2 * math.log(2.0), dtype=torch.float64))


@pytest.mark.parametrize("family", FAMILIES)
def test_widths_and_curvatures_make_the_gaussian_they_should(family):
    q, precision = FAMILIES[family](), tensor([2.0, 0.9], [0.9, 1.0])
    close(scaled(q, 3.0).covariance, 9 * q.covariance)
    like = gaussian_like(q, tensor(1.0, 2.0), precision)
    expected = torch.linalg.inv(precision) if family == "full-rank" else torch.diag(1 / precision.diagonal())
    close(like.covariance, expected)
    close(like.mean, tensor(1.0, 2.0))


# ---- has it arrived? ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.95])
def test_on_a_gaussian_the_distance_is_exact(rho):
    """A slope that is linear leaves the regression no noise: q off by known amounts is told by exactly those."""
    target, sds = correlated_gaussian(rho, (1.0, 3.0)), tensor(1.0, 3.0)
    best = target.best[0]
    off = MeanFieldGaussian(best.mu + tensor(0.5, -1.0) * sds, best.omega + tensor(0.2, -0.3))
    at = optimality(target, off, 50, seeded())
    close(at.shift, tensor(-0.5, 1.0))
    close(at.widen, tensor(-0.2, 0.3))
    assert at.concave and at.distance == pytest.approx(1.0) and optimality(target, best, 50, seeded()).distance < 1e-8
    covariance = tensor([1.0, 3 * rho], [3 * rho, 9.0])
    exact = gaussian_like(full_rank(), torch.zeros(2, dtype=torch.float64), torch.linalg.inv(covariance))
    assert optimality(target, exact, 50, seeded()).distance < 1e-8
    assert optimality(target, scaled(exact, 1.1), 50, seeded()).widen.tolist() == pytest.approx([-math.log(1.1)] * 2)


def test_at_the_best_q_of_a_model_that_is_no_gaussian_it_is_small_and_elsewhere_not():
    for target in (logistic_one_coefficient(), two_component_mixture()):
        best = target.best[0]
        assert optimality(target, best, 20_000, seeded()).distance < 0.03
        moved = MeanFieldGaussian(best.mu + 0.3 * best.stddev, best.omega)
        assert optimality(target, moved, 20_000, seeded()).distance > 0.2
        assert exact_elbo(target, moved) < exact_elbo(target, best)


def test_a_saddle_or_a_slope_is_never_an_arrival():
    """Between the two hills of a mixture the mean slope is zero, and still it is no optimum."""
    at = optimality(two_component_mixture(), gaussian(0.0, 0.0), 2000, seeded())
    assert not at.concave and at.distance == math.inf
    assert optimality(lambda z: z.sum(-1), mean_field(), 50, seeded()).distance == math.inf


# ---- starts ---------------------------------------------------------------------------------------------------------


def test_the_mode_of_kidiq_is_least_squares_from_near_and_far():
    example = kidiq()
    x, y = example.data["x"], example.data["y"]
    beta = torch.linalg.lstsq(torch.stack([torch.ones_like(x), x], -1), y.unsqueeze(-1)).solution[:, 0]
    for start in ([0.0, 0.0, 0.0], [100.0, -3.0, 5.0], [-20.0, 4.0, -1.0]):
        mode = find_mode(example, tensor(*start))
        assert mode.found and ((mode.z[:2] - beta).abs() < 0.05 * tensor(5.97, 0.059)).all()
        assert find_mode(example, mode.z).found
    hessian = torch.autograd.functional.hessian(example, mode.z)
    close(mode.precision, -hessian)


def test_a_gaussians_mode_is_its_mean_and_its_laplace_evidence_its_own():
    mode = find_mode(correlated_gaussian(0.95, (0.01, 100.0)), tensor(3.0, -400.0))
    assert mode.found and (mode.z.abs() < tensor(1e-3, 10.0)).all() and mode.laplace_evidence == pytest.approx(0, abs=2e-3)


def test_where_there_is_no_mode_none_is_found():
    assert not find_mode(lambda z: z.sum(-1), torch.zeros(2)).found
    assert find_mode(Model(lambda t: t["x"] * math.nan, {"x": constraints.real}), torch.zeros(1)) is None
    assert values_where_finite(Model(lambda t: torch.where(t["x"] > 0, t["x"], math.nan), {"x": constraints.real}),
                               tensor([1.0], [-1.0], [2.0])).tolist() == [1.0, -math.inf, 2.0]


@pytest.mark.parametrize("family", [MeanFieldGaussian, FullRankGaussian], ids=lambda f: f.__name__)
def test_a_start_at_a_mode_is_as_wide_as_the_curvature_says(family):
    model = Model(lambda t: -0.5 * ((t["x"] - tensor(50.0, -3.0)) / tensor(0.01, 20.0)).square().sum(), {"x": constraints.real_vector}, {"x": (2,)})
    q = find_start(model, family, None, seeded(), torch.float64)
    close(q.mean, tensor(50.0, -3.0), rtol=0, atol=1e-3)
    close(q.covariance.diagonal().sqrt(), tensor(0.01, 20.0), rtol=1e-3, atol=0)


def test_a_start_where_log_p_is_not_finite_says_where():
    model = Model(lambda t: -t["x"].log(), {"x": constraints.real})
    with pytest.raises(NonFiniteLogJoint, match=r"returned inf at theta = \{'x'"):
        find_start(model, MeanFieldGaussian, None, seeded(), torch.float64)
    model = Model(lambda t: t["x"].sqrt(), {"x": constraints.real})
    with pytest.raises(NonFiniteLogJoint, match=r"returned nan at theta = \{'x'.*square root of a negative number"):
        find_start(model, MeanFieldGaussian, {"x": -1.0}, seeded(), torch.float64)


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_a_width_a_hundred_times_wrong_is_mended_before_the_first_step(factor):
    model = Model(lambda t: gaussian_target()(t["x"].unsqueeze(-1)), {"x": constraints.real})
    q = find_start(model, MeanFieldGaussian, MeanFieldGaussian(tensor(0.1), tensor(math.log(factor))), seeded(), torch.float64)
    assert 0.25 <= q.stddev.item() <= 4
    good = MeanFieldGaussian(tensor(0.1), tensor(0.2))
    close(find_start(model, MeanFieldGaussian, good, seeded(), torch.float64).vector(), good.vector())
