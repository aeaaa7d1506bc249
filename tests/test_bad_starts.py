"""Bad starts, and where a q stands beside the reference; all choices of a fit at once, each as if alone."""

import math

import pytest
import torch
from helpers import seeded, tensor

from vilib import FullRankGaussian, MeanFieldGaussian, adagrad, adam, fit, gaussian_target, normal, sticking_the_landing
from vilib.bad_starts import bad_starts, beside_reference, first_two, thrown_out
from vilib.climb import InUnitsOf, compose, standard
from vilib.side_by_side import every_choice, rising_power

STARTS = bad_starts()


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("family", [MeanFieldGaussian, FullRankGaussian])
def test_a_start_is_bad_and_stands_where_it_says(name, family):
    bad = STARTS[name]
    q0 = bad.q0(family)
    assert type(q0) is family and q0.dim == bad.example.dim
    assert q0.mean.tolist() == list(bad.start[0]) and q0.stddev.tolist() == pytest.approx(bad.start[1])
    at = beside_reference(bad, q0.expand(1), bad.best["mean"], 100, 1000, seeded())
    assert at.gap > 3 and at.off.abs()[~at.off.isnan()].max() > 1 and at.narrowest == at.ratio[~at.ratio.isnan()].min()


def test_the_coin_has_one_parameter_and_the_others_two():
    for name, bad in STARTS.items():
        mean, sd = bad.known
        assert bool(mean[1].isnan() and sd[1].isnan()) == (name == "coin") == (bad.marginal is None)
    mean, tril = first_two(STARTS["coin"].q0(FullRankGaussian).expand(3))
    assert mean[:, 1].tolist() == [0.0] * 3 and tril[:, 0, 0].tolist() == pytest.approx([0.5] * 3)


def test_a_q_that_was_thrown_out_has_no_numbers():
    bad = STARTS["coin"]
    path = MeanFieldGaussian(tensor(0.1, 2e4).reshape(2, 1), tensor(-1.0, 0.0).reshape(2, 1))
    assert thrown_out(path).tolist() == [False, True]
    at = beside_reference(bad, path, bad.best["mean"], 100, 1000, seeded())
    assert math.isnan(at.gap) and math.isnan(at.k_hat) and at.narrowest == 0.0
    for values in (at.mean[:, 0], at.sd[:, 0], at.in_z[:, 0], at.elbo, at.error):
        assert values.isnan().tolist() == [False, True]


def test_every_choice_is_that_fit_alone():
    q0, target = MeanFieldGaussian(tensor(-2.0), tensor(-1.0)), gaussian_target(1.0, 2.0)
    together = every_choice(target, q0, optimizers=[adagrad, adam], powers=[rising_power(0.1, 5), lambda step: 1.0],
                            step_sizes=(0.1, 0.3), num_samples=4, num_steps=20, record_steps=(0, 10, 20), generator=seeded())
    alone = fit(sticking_the_landing, InUnitsOf(q0, target), standard(q0), num_samples=4, num_steps=20, optimizer=adam(0.3),
                record_steps=(0, 10, 20), generator=seeded(),
                noise=lambda s, batch, dim, **o: normal(s, (2, 2, 2), dim, **o)[:, 1, 1, 1])
    torch.testing.assert_close(together.path[:, 1, 1, 1], compose(q0, alone.q_at(slice(None))).vector(), rtol=1e-6, atol=1e-6)
    assert together.path.shape == (3, 2, 2, 2, 2) and not torch.equal(together.path[:, :, 0], together.path[:, :, 1])


def test_a_rising_power_ends_at_one():
    power = rising_power(0.05, 100)
    assert power(0) == pytest.approx(0.05) and power(50) == pytest.approx(0.05**0.5) and power(100) == power(1000) == 1.0
