"""A race is the fits one by one on the same noise, and what is said of them together is counted by hand."""

import math

import pytest
import torch
from helpers import seeded, tensor

from vilib import MeanFieldGaussian, adam, along, fit, gaussian_target, log_evidence, pathwise, score_function, sgd, trapezoid
from vilib.race import LOST_ELBO, coarse, field_of, race, races
from vilib.race_tracks import tracks

close = torch.testing.assert_close
OPTIONS = {"num_samples": 4, "num_steps": 30, "record_steps": [0, 10, 30]}


def test_each_estimator_runs_as_it_would_alone():
    track, estimators = tracks()["logistic"], {"a": pathwise, "b": score_function, "c": pathwise}
    paths = race(estimators, track.example, track.q0(5), seed=2, optimizer=adam(0.1), **OPTIONS)
    for key, estimator in estimators.items():
        alone = fit(estimator, track.example, track.q0(5), optimizer=adam(0.1), generator=seeded(2), **OPTIONS)
        assert paths[key][0].equal(alone.path) and not paths[key][1].any()
    assert paths["a"][0].equal(paths["c"][0]) and not paths["a"][0].equal(paths["b"][0])


def test_where_all_fail_there_is_a_gap():
    track = tracks()["mixture"]
    path, failed = race({"a": score_function}, track.example, track.q0(2), seed=0, optimizer=sgd(1e30), **OPTIONS)["a"]
    assert failed.all() and path.shape == (3, 2, 2) and path.isnan().all()
    field = field_of(track.example, path, OPTIONS["record_steps"], "score_function", 4)
    assert (field.low == LOST_ELBO).all() and field.variance.isnan().all() and math.isnan(field.arrived)


def test_quantiles_medians_and_arrival_by_hand():
    """p = N(0, 1), q = N(m, 1): the ELBO is −m²/2, the variance of a pathwise gradient (1 + m² + 2)/1 with one draw."""
    means = torch.stack([torch.arange(11.0), 0.1 * torch.arange(11.0)]).double().unsqueeze(-1)
    field = field_of(gaussian_target(), torch.cat([means, 0 * means], -1), [0, 7], "pathwise", 1, rule=trapezoid, nats=0.13)
    close(field.high, tensor(-0.5, -0.005))                                        # second best of eleven
    close(field.low, tensor(-40.5, -0.405))
    close(field.variance, tensor(1 + 25 + 2, 1 + 0.25 + 2))
    assert field.arrived == 7.0                                                    # six of eleven are within 0.5²/2 = 0.125
    assert math.isnan(field_of(gaussian_target(), torch.cat([means, 0 * means], -1), [0, 7], "pathwise", 1, nats=0.12).arrived)


def test_a_lost_fit_counts_as_the_worst_and_has_no_variance():
    path = torch.zeros(1, 3, 2).double()
    path[0, 0] = math.nan
    field = field_of(gaussian_target(), path, [0], "pathwise", 2)
    assert field.low.item() < -1e8 and abs(field.high.item()) < 1e-9
    close(field.variance, tensor(1.5))                                             # (1 + 0 + 2)/2


@pytest.mark.parametrize("name", tracks())
def test_the_coarse_rule_is_good_enough(name):
    track = tracks()[name]
    q = MeanFieldGaussian(track.q0(1).mu.double(), track.q0(1).omega.double())
    for estimator in ("score_function", "pathwise"):
        rough, fine = (along(track.example, q, estimator, 8, rule) for rule in (coarse, trapezoid))
        close(rough.elbo, fine.elbo, rtol=1e-8, atol=1e-8)
        close(rough.variance, fine.variance, rtol=1e-6, atol=1e-8)


# ---- the tracks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tracks())
def test_a_track_has_its_evidence_and_some_way_to_go(name):
    track = tracks()[name]
    q0 = track.q0(2, 3)
    assert q0.batch_shape == (2, 3) and q0.mu[1, 2].tolist() == list(track.start) and not q0.omega.any()
    assert track.elbo_range[0] < track.example.best[1] <= track.example.log_evidence + 1e-9 < track.elbo_range[1] + 1e-9
    assert (track.example.kl_to_best(q0) > 0.1).all()
    if track.example.dim == 1:
        assert log_evidence(track.example, -12.0, 12.0) == pytest.approx(track.example.log_evidence, abs=1e-8)
        z = torch.linspace(-12, 12, 2001, dtype=torch.float64)
        assert torch.trapezoid(track.density(z), z).item() == pytest.approx(1.0, abs=1e-6)


def test_its_table_is_its_log_joint():
    track = tracks()["logistic"]
    z = torch.linspace(-5, 5, 333, dtype=torch.float64).unsqueeze(-1)
    close(track.table(z), track.example(z), rtol=0, atol=1e-8)


def test_with_several_optimisers_each_races_as_it_would_alone():
    """The one that throws all its fits out has a gap, as it has alone, and disturbs nobody."""
    track, estimators, optimizers = tracks()["logistic"], {"a": pathwise, "b": score_function}, [adam(0.1), sgd(1e30), sgd(0.02)]
    together = races(estimators, track.example, track.q0(2, 5), optimizers, seed=2, **OPTIONS)
    for k, optimizer in enumerate(optimizers):
        alone = race(estimators, track.example, track.q0(2, 5), seed=2, optimizer=optimizer, **OPTIONS)
        for key in estimators:
            close(together[key][0][:, k], alone[key][0], rtol=1e-6, atol=1e-6, equal_nan=True)
            assert together[key][1][k].equal(alone[key][1])
    assert together["a"][0][:, 1].isnan().all() and not together["a"][0][:, 0].isnan().any()
