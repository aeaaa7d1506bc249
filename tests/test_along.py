"""What is said of a path is what quadrature, asked on its own, says of each q on it."""

import math

import pytest
import torch
from helpers import gaussian, mean_field, seeded, tensor

from vilib import (
    MeanFieldGaussian, VilibError, adam, along, correlated_gaussian, eight_schools, exact_elbo, fit, gauss_hermite,
    gaussian_kl, gaussian_target, gradient_replicates, hidden_sign, logistic_one_coefficient, moments, path_or_gaps,
    pathwise, score_function, sgd, steps_to_within, tabulate, trapezoid, two_component_mixture,
)

close = torch.testing.assert_close


def test_it_is_quadrature_of_each_q():
    example, q = logistic_one_coefficient(), mean_field(5, 3, dim=1)
    for name in ("score_function", "leave_one_out", "pathwise", "sticking_the_landing"):
        there = along(example, q, name, 8)
        close(there.elbo, exact_elbo(example, q))
        close(there.variance, moments(example, q, elbo=True).variances(8)[name].sum(-1))
        close(there.kl, gaussian_kl(q, example.best[0]))
        close(there.mean, q.mu)
        close(there.stddev, q.stddev)
    assert there.elbo.shape == (5, 3) and (along(example, q, "pathwise", 1).elbo <= example.best[1] + 1e-9).all()


def test_two_unknowns_and_another_rule():
    example, q = correlated_gaussian(0.9), mean_field(4)
    coarse = along(example, q, "pathwise", 2, lambda dim: gauss_hermite(dim, 8))           # exact for a quadratic
    fine = along(example, q, "pathwise", 2)
    close(coarse.elbo, fine.elbo, rtol=1e-9, atol=1e-9)
    close(coarse.variance, fine.variance, rtol=1e-9, atol=1e-9)


def test_the_variance_is_that_of_replicates():
    example, q = logistic_one_coefficient(), gaussian(-1.0, 0.2)
    runs = gradient_replicates(pathwise, example, q, num_samples=4, num_replicates=20_000, generator=seeded(0))
    assert along(example, q, "pathwise", 4).variance.item() == pytest.approx(runs.var(0).sum().item(), rel=0.06)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 2e6, -2e6])
def test_a_lost_q_is_a_gap_and_disturbs_no_other(bad):
    q = MeanFieldGaussian(tensor(0.3, bad, -1.0).unsqueeze(-1), tensor(0.1, 0.0, -0.5).unsqueeze(-1))
    others = MeanFieldGaussian(q.mu[::2], q.omega[::2])
    there, alone = (along(gaussian_target(), each, "pathwise", 2) for each in (q, others))
    for name in ("elbo", "kl", "variance", "mean", "stddev"):
        value = getattr(there, name)
        assert value[1].isnan().all() and value[::2].equal(getattr(alone, name))
    wide = along(gaussian_target(), gaussian(0.0, 31.0), "pathwise", 2)
    assert wide.elbo.isnan() and wide.mean.isnan().all()


def test_float32_is_looked_at_in_float64():
    q = mean_field(3, dim=1, dtype=torch.float32)
    assert along(gaussian_target(), q, "pathwise", 2).elbo.dtype == torch.float64


def test_a_table_changes_nothing_within_and_is_not_asked_without():
    x = torch.linspace(-2, 2, 24, dtype=torch.float64)
    example = logistic_one_coefficient(x, (x > 0.3).double())
    table, rule = tabulate(example, -32.0, 32.0, 4097), lambda dim: trapezoid(dim, 193)
    mu, omega = tensor(0.0, 1.0, 31.0, -300.0), tensor(0.0, -1.0, 0.0, 4.0)                        # two reach out
    q = MeanFieldGaussian(mu.unsqueeze(-1), omega.unsqueeze(-1))
    for name in ("score_function", "pathwise", "sticking_the_landing"):
        by_table, by_model = along(example, q, name, 2, rule, table), along(example, q, name, 2, rule)
        close(by_table.elbo, by_model.elbo, rtol=1e-8, atol=1e-7)
        close(by_table.variance, by_model.variance, rtol=1e-5, atol=1e-6)
        assert by_table.elbo[2:].equal(by_model.elbo[2:])
    one = along(example, gaussian(0.2, 0.1), "pathwise", 2, rule, table)
    close(one.elbo, exact_elbo(example, gaussian(0.2, 0.1)))


def test_an_estimator_it_does_not_know():
    with pytest.raises(VilibError, match="estimator: expected one of score_function, .*, got 'reinforce'"):
        along(gaussian_target(), gaussian(), "reinforce", 2)


# ---- the distance to the best q --------------------------------------------------------------------------------------


def test_a_mirror_image_is_as_good_where_p_is_symmetric():
    mixture = two_component_mixture()
    left = MeanFieldGaussian(-mixture.best[0].mu, mixture.best[0].omega)
    assert mixture.symmetric and mixture.kl_to_best(left).item() == pytest.approx(0, abs=1e-12)
    close(exact_elbo(mixture, left), exact_elbo(mixture, mixture.best[0]))
    uneven = two_component_mixture((-3.0, 3.0), weight=0.4)
    assert not uneven.symmetric and uneven.kl_to_best(left).item() > 1
    sign = hidden_sign(torch.full((20,), 1.0))
    z = torch.linspace(-3, 3, 31, dtype=torch.float64).unsqueeze(-1)
    assert sign.symmetric
    for example in (mixture, sign):
        close(example(z), example(-z))


def test_without_a_best_q_there_is_no_distance():
    with pytest.raises(VilibError, match="the best q of eight schools is not known"):
        eight_schools().kl_to_best(gaussian(dim=10))


# ---- arriving --------------------------------------------------------------------------------------------------------


def test_the_step_at_which_a_fit_arrives():
    elbo = tensor(-5.0, -0.02, -0.009, -0.5, -0.001).unsqueeze(-1).expand(5, 2).clone()
    elbo[:, 1] = math.nan
    assert steps_to_within(torch.tensor([0, 1, 5, 7, 9]), elbo, 0.0).tolist() == [5, math.inf]
    assert steps_to_within(torch.tensor([0, 1, 5, 7, 9]), elbo, 0.0, nats=10.0).tolist() == [0, math.inf]


def test_a_fit_looked_at_from_its_start_to_its_end():
    example = logistic_one_coefficient()
    done = fit(pathwise, example, gaussian(-2.0).expand(6), num_samples=16, num_steps=300, optimizer=adam(0.05),
               generator=seeded(1), record_every=20)
    there = along(example, done.q_at(slice(None)), "pathwise", 16)
    first = steps_to_within(done.steps, there.elbo, example.best[1], 0.05)
    assert there.elbo.shape == (16, 6) and (first > 0).all() and (first <= 300).all()
    for k, step in enumerate(first.tolist()):
        before = there.elbo[done.steps < step, k]
        assert (before <= example.best[1] - 0.05).all()
        assert there.elbo[done.steps == step, k].item() > example.best[1] - 0.05


def test_a_path_is_that_of_fit_and_a_gap_where_all_fail():
    example, q0 = logistic_one_coefficient(), gaussian(-2.0).expand(4)
    options = {"num_samples": 2, "num_steps": 30, "record_steps": [0, 10, 30]}
    done = fit(pathwise, example, q0, optimizer=sgd(0.05), generator=seeded(1), **options)
    path, failed = path_or_gaps(pathwise, example, q0, optimizer=sgd(0.05), generator=seeded(1), **options)
    assert path.equal(done.path) and not failed.any()
    path, failed = path_or_gaps(score_function, example, q0, optimizer=sgd(1e12), generator=seeded(1), **options)
    assert path.shape == (3, 4, 2) and path.isnan().all() and failed.all() and path.dtype == torch.float64
    assert along(example, q0.with_vector(path), "score_function", 2).elbo.isnan().all()
