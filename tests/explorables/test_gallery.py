"""The book's own explorables compute what `vilib` computes, and what theory says of it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from explorables.laws import assert_every_name_is_there

from vilib import (
    MeanFieldGaussian,
    exact_elbo,
    fit,
    gradient_replicates,
    leave_one_out,
    normal,
    pathwise,
    pathwise_expectation,
    score_function,
    score_function_expectation,
    sticking_the_landing,
)
from vilib.explorables import gallery
from vilib.explorables.gallery import fit_race, gradient_variance

noise = sys.modules["vilib.explorables.gallery.gradient_variance"]
race = sys.modules["vilib.explorables.gallery.fit_race"]

#: z for a false alarm of 1e-6 over the few thousand comparisons made here (normal, two-sided, Bonferroni).
Z = 6.5
STARTS = [
    ("quadratic", 1.0, 0.0),
    ("quadratic_10", 1.0, 0.0),
    ("cosine", 1.0, 0.0),
    ("bump", 1.0, 0.0),
    ("logistic", -1.0, 0.0),
]


def noise_frame(**values) -> dict[str, np.ndarray]:
    return gradient_variance().definition.frame(**values)


def present(frame: dict[str, np.ndarray]) -> list[str]:
    return [key for key in noise.ESTIMATORS if not np.isnan(frame[f"exact_{key}"]).any()]


# -- gradient-variance -------------------------------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize("seed", range(len(noise.NOISES)))
@pytest.mark.parametrize(("cost", "mu", "log_sigma"), STARTS)
def test_the_500_estimates_are_unbiased_at_every_sample_count(cost, mu, log_sigma, seed):
    frame = noise_frame(cost=cost, mu=mu, log_sigma=log_sigma, seed=seed)
    assert len(present(frame)) == (4 if cost == "logistic" else 3)
    for key in present(frame):
        z = (frame[f"mean_{key}"] - frame["exact"]) / frame[f"error_{key}"]
        defined = ~np.isnan(frame[f"mean_{key}"])  # leave-one-out needs two draws
        assert defined.sum() >= len(noise.SAMPLE_COUNTS) - 1
        # the mean of one score-function gradient of 500 is not yet normal at a few draws: its tails are heavy
        assert np.nanmax(np.abs(z)) < Z, (key, z)


@pytest.mark.statistical
@pytest.mark.parametrize(("cost", "mu", "log_sigma"), STARTS)
def test_measured_variance_lies_on_theory_s_line(cost, mu, log_sigma):
    """At large S an average is nearly normal, and its sample variance over 500 has a relative error of √(2/499)."""
    frame = noise_frame(cost=cost, mu=mu, log_sigma=log_sigma, seed=1)
    for key in present(frame):
        ratio = frame[f"variance_{key}"][-4:] / frame[f"theory_{key}"][-4:]
        assert np.abs(ratio - 1).max() < Z * np.sqrt(2 / 499), (key, ratio)


@pytest.mark.parametrize(("cost", "mu", "log_sigma"), STARTS)
def test_theory_falls_like_one_over_s(cost, mu, log_sigma):
    frame = noise_frame(cost=cost, mu=mu, log_sigma=log_sigma)
    counts = frame["counts"]
    assert counts.tolist() == [2**k for k in range(13)]
    for key in set(present(frame)) - {"control"}:
        theory = frame[f"theory_{key}"] * counts
        assert np.allclose(theory, theory[0], rtol=1e-9)
    assert np.isnan(frame["theory_control"][0]), "one draw leaves none out"
    assert (np.diff(frame["theory_control"][1:]) < 0).all()


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"sample_count": 1},
        {"sample_count": 4096, "cost": "cosine", "mu": -2.0},
        {"cost": "logistic", "mu": -1.0, "seed": 2},
        {"cost": "bump", "mu": 0.0, "log_sigma": 0.7},
        {"cost": "quadratic_10", "mu": 2.0, "sample_count": 2},
    ],
    ids=str,
)
def test_the_histograms_hold_every_estimate(setting):
    frame = noise_frame(**setting)
    words = frame["outside"].item()
    outside = int(words.split()[0]) if words else 0
    counted = sum(int(frame[f"histogram_{key}"].sum()) for key in noise.ESTIMATORS)
    estimated = sum(
        ~np.isnan(frame[f"mean_{key}"][noise.SAMPLE_COUNTS.index(setting.get("sample_count", 16))])
        for key in present(frame)
    )
    assert counted + outside == noise.REPLICATES * estimated
    low, high = frame["gradient_range"]
    assert low < frame["exact"][0] < high


def test_the_axes_depend_on_neither_s_nor_the_noise():
    frames = [noise_frame(sample_count=s, seed=seed) for s in (1, 64, 4096) for seed in range(3)]
    for name in ("gradient_range", "f_range", "f_curve", "q_curve", "exact", "theory_score"):
        assert all(np.array_equal(frame[name], frames[0][name], equal_nan=True) for frame in frames), name


@pytest.mark.parametrize(
    ("key", "estimator"), [("score", score_function_expectation), ("pathwise", pathwise_expectation)]
)
def test_they_are_the_gradients_of_vilib_on_the_same_draws(key, estimator):
    """500 gradients by autograd, through the estimator that the chapters show, on the very noise of the picture."""
    setting = {"sample_count": 8, "cost": "cosine", "mu": 1.0, "log_sigma": 0.0, "seed": 1}
    frame, at = noise_frame(**setting), noise.SAMPLE_COUNTS.index(8)
    f = noise.COSTS["cosine"][1]
    q = noise.alike(1.0, 0.0, 1).expand(noise.REPLICATES)
    mu = q.mu.clone().requires_grad_(True)
    eps = noise._noise(1, 1)[:8].double()
    (gradient,) = torch.autograd.grad(estimator(f, MeanFieldGaussian(mu, q.omega), eps).sum(), mu)
    gradient = gradient[:, 0].numpy()
    assert frame[f"mean_{key}"][at] == pytest.approx(gradient.mean(), rel=1e-4, abs=1e-6)
    assert frame[f"variance_{key}"][at] == pytest.approx(gradient.var(ddof=1), rel=1e-4)
    counts = np.histogram(gradient, noise.BINS, tuple(frame["gradient_range"]))[0]
    assert np.abs(counts - frame[f"histogram_{key}"]).sum() <= 2, (
        "an estimate at the edge of a bin may fall to either side"
    )


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("key", "estimator"),
    [("score", score_function), ("control", leave_one_out), ("pathwise", pathwise), ("stl", sticking_the_landing)],
)
def test_its_variance_is_that_of_fresh_replicates(key, estimator):
    """Not the picture's noise but fresh draws: `gradient_replicates` finds the variance that the line states."""
    frame, f = noise_frame(cost="logistic", mu=1.0, sample_count=256), noise.COSTS["logistic"][1]
    fresh = gradient_replicates(
        estimator,
        f.log_joint,
        noise.alike(1.0, 0.0, 1),
        num_samples=256,
        num_replicates=2000,
        generator=torch.Generator().manual_seed(99),
    )
    values = fresh[:, 0].numpy()  # λ = (μ, ω)
    theory = frame[f"theory_{key}"][noise.SAMPLE_COUNTS.index(256)]
    assert values.var(ddof=1) / theory == pytest.approx(1, abs=Z * np.sqrt(2 / 1999) * 1.5)
    assert abs(values.mean() - frame["exact"][0]) < Z * np.sqrt(theory / 2000)


def test_signal_to_noise_and_the_draws_it_takes_agree():
    frame = noise_frame()
    for key in ("score", "pathwise"):
        assert np.allclose(frame[f"snr_{key}"] ** 2 * frame[f"theory_{key}"], frame["exact"] ** 2)
        needed = frame[f"needed_{key}"][0]
        of_one = frame[f"snr_{key}"][0]
        assert needed == np.ceil(round(100 / of_one**2, 6))
    assert frame["needed_pathwise"] < frame["needed_score"]


def test_where_the_gradient_is_zero_no_number_of_draws_is_enough():
    frame = noise_frame(mu=0.0)
    assert frame["exact"][0] == pytest.approx(0, abs=1e-12)
    assert np.isnan(frame["needed_score"]).all()
    assert "zero" in frame["verdict"].item()


def test_only_as_many_draws_are_shown_as_there_are():
    for count in (1, 8, 64, 4096):
        frame = noise_frame(sample_count=count)
        assert (
            (~np.isnan(frame["draw_z"])).sum()
            == (~np.isnan(frame["draw_weight"])).sum()
            == min(count, noise.SHOWN_DRAWS)
        )


# -- fit-race ----------------------------------------------------------------------------------------------------------

SETTING = {"sample_count": 2, "step_size": 0.1, "optimizer": "adam", "seed": 1}


@pytest.fixture(scope="module")
def definition():
    return fit_race().definition


@pytest.fixture(scope="module")
def frames(definition):
    return {target: definition.frame(target=target, **SETTING) for target in race.TARGETS}


@pytest.mark.parametrize("key", race.ESTIMATORS)
def test_the_path_is_that_of_fit_with_the_same_noise(frames, key):
    """32 fits at one step size, run on their own, on their share of the noise."""
    target, at = race.TARGETS["logistic"], race.STEP_SIZES.index(SETTING["step_size"])

    def share(num_samples, batch_shape, dim, **how):
        return normal(num_samples, (len(race.STEP_SIZES), *batch_shape), dim, **how)[:, at]

    mu = torch.tensor(target.start).expand(race.FITS, 1)
    done = fit(
        race.ESTIMATORS[key][0],
        target.example.log_joint,
        MeanFieldGaussian(mu, torch.zeros_like(mu)),
        num_samples=SETTING["sample_count"],
        num_steps=race.STEPS,
        record_steps=race.KEPT,
        noise=share,
        optimizer=race.OPTIMIZERS["adam"][1](SETTING["step_size"]),
        generator=torch.Generator().manual_seed(1),
    )
    q, frame = done.q_at(slice(None)), frames["logistic"]
    bold = MeanFieldGaussian(q.mu[:, SETTING["seed"]].double(), q.omega[:, SETTING["seed"]].double())
    mean, sd = frame[f"q_{key}"].reshape(2, -1)
    assert np.allclose(mean, bold.mean[:, 0].numpy(), atol=1e-3)
    assert np.allclose(sd, bold.stddev[:, 0].numpy(), atol=1e-3)
    assert frame[f"failed_{key}"] == (done.failed_at >= 0).sum()
    exact = exact_elbo(target.example.log_joint, bold)
    assert np.allclose(frame[f"elbo_{key}"], exact.numpy(), atol=1e-3)


@pytest.mark.parametrize("target", race.TARGETS)
def test_no_q_passes_the_best(frames, target):
    frame = frames[target]
    best, evidence = frame["best_elbo"][0], frame["log_evidence"][0]
    assert best <= evidence + 1e-6
    for key in race.ESTIMATORS:
        assert np.nanmax(frame[f"elbo_{key}"]) <= best + 1e-4
        assert np.nanmax(frame[f"high_{key}"]) <= best + 1e-4
        assert (frame[f"low_{key}"] <= frame[f"high_{key}"] + 1e-12).all()
        assert (frame[f"kl_{key}"] >= -1e-9).all()
        assert (frame[f"variance_{key}"] > 0).all()


@pytest.mark.parametrize("target", race.TARGETS)
def test_all_start_at_the_same_place_and_end_higher(frames, target):
    frame = frames[target]
    starts = {tuple(np.round(frame[f"elbo_{key}"][:1], 9)) for key in race.ESTIMATORS}
    assert len(starts) == 1
    assert frame["steps"][0] == 0 and frame["steps"][-1] == race.STEPS and (np.diff(frame["steps"]) > 0).all()
    for key in ("pathwise", "stl"):
        assert frame[f"elbo_{key}"][-1] > frame[f"elbo_{key}"][0] + 0.1


def test_a_fit_arrives_where_its_kl_is_small(frames):
    """At the end Adam on sticking the landing is near the best q, by ELBO and by KL."""
    frame = frames["logistic"]
    assert frame["best_elbo"][0] - frame["elbo_stl"][-1] < race.CLOSE
    assert frame["kl_stl"][-1] < race.CLOSE
    assert 0 < frame["close_stl"][0] <= race.STEPS
    assert frame["variance_stl"][-1] < frame["variance_pathwise"][-1] < frame["variance_score"][-1]


def test_a_seed_is_another_of_the_same_fits(definition, frames):
    other = definition.frame(target="logistic", **(SETTING | {"seed": 0}))
    for key in race.ESTIMATORS:
        assert not np.array_equal(other[f"elbo_{key}"], frames["logistic"][f"elbo_{key}"])
        for name in ("low", "high", "variance", "close", "failed"):
            assert np.array_equal(other[f"{name}_{key}"], frames["logistic"][f"{name}_{key}"], equal_nan=True)


def test_fits_that_fail_are_counted_and_leave_gaps(definition):
    frame = definition.frame(target="logistic", sample_count=2, step_size=0.3, optimizer="sgd", seed=0)
    assert frame["failed_score"][0] > 0
    assert frame["failed_pathwise"][0] == 0
    for key in race.ESTIMATORS:
        if frame[f"failed_{key}"][0] == race.FITS:
            assert (
                np.isnan(frame[f"elbo_{key}"][-1])
                and np.isnan(frame[f"q_{key}"]).any()
                and np.isnan(frame[f"close_{key}"][0])
            )
            assert frame[f"high_{key}"][-1] < frame["elbo_range"][0], "the fan has left the picture"
        assert not np.isinf(
            np.concatenate([frame[f"{name}_{key}"] for name in ("elbo", "kl", "variance", "low", "high")])
        ).any()
    assert "score function" in frame["verdict"].item()


def test_the_target_is_a_density(frames):
    for target in ("logistic", "mixture"):
        z, p = frames[target]["p_grid"], frames[target]["p_curve"]
        assert np.trapezoid(p, z) == pytest.approx(1, abs=0.01)
    assert np.isnan(frames["correlated"]["p_curve"]).all()


@pytest.mark.parametrize("name", gallery.__all__)
def test_what_the_caption_names_is_there(name):
    explorable = getattr(gallery, name)()
    assert_every_name_is_there(explorable.definition, explorable.frame())
