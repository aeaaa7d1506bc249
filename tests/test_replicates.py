"""Many gradients at once, and what they say together."""

import pytest
import torch
from helpers import ESTIMATORS, FAMILIES, gaussian, mean_field, seeded

from vilib import (
    DependentDraws, MissingGenerator, NonFiniteLogJoint, ShapeError, antithetic, correlated_gaussian, gradient_replicates,
    leave_one_out, normal, pathwise, quadratic_cost, sobol, summarize, value_and_gradient,
)

close = torch.testing.assert_close
TARGET = correlated_gaussian(0.5)


def replicates(estimator=pathwise, target=TARGET, q=None, **options):
    options = {"num_samples": 4, "num_replicates": 6, "generator": seeded(), **options}
    return gradient_replicates(estimator, target, mean_field() if q is None else q, **options)


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_replicates_are_one_more_batch(make, batch):
    q = make(*batch)
    found = replicates(q=q)
    assert found.shape == (6, *batch, q.num_parameters)
    eps = normal(4, (6, *batch), 2, generator=seeded(), dtype=torch.float64)
    close(found[2], value_and_gradient(pathwise, TARGET, q, eps[:, 2])[1])


def test_a_chunk_is_a_run_of_its_own():
    generator = seeded()
    chunked = replicates(num_replicates=5, chunk=2)
    close(chunked, torch.cat([replicates(num_replicates=n, generator=generator) for n in (2, 2, 1)]))


@pytest.mark.parametrize("noise", [antithetic, sobol], ids=lambda n: n.__name__)
def test_noise_is_a_choice(noise):
    found = replicates(noise=noise, num_samples=8)
    eps = noise(8, (6,), 2, generator=seeded(), dtype=torch.float64)
    close(found, value_and_gradient(pathwise, TARGET, mean_field().expand(6), eps)[1])


def test_a_summary_says_mean_error_variance_and_signal_to_noise():
    gradients = torch.tensor([[1.0, -2.0], [3.0, -2.0], [5.0, -5.0]])
    summary = summarize(gradients, num_samples=8)
    close(summary.mean, torch.tensor([3.0, -3.0]))
    close(summary.variance, torch.tensor([4.0, 3.0]))
    close(summary.standard_error, (summary.variance / 3).sqrt())
    close(summary.snr, torch.tensor([1.5, 3.0**0.5]))
    close(summary.samples_for_snr(3.0), 8 * (3 / summary.snr) ** 2)
    assert summary.exact is None
    exact = summarize(gradients, torch.tensor([4.0, 0.0]))
    assert exact.snr.tolist() == [2, 0] and exact.samples_for_snr().tolist() == [25, torch.inf]


def test_ten_times_the_noise_needs_the_draws_that_theory_says():
    """At μ = σ = 1 one score-function draw of z² has variance 30 about a gradient of 2: SNR 10 takes 750."""
    q, cost = gaussian(1.0), quadratic_cost()
    variance = cost.variances(q)["score_function"][0].item()
    assert variance == pytest.approx(30) and 100 * variance / cost.gradient(q)[0].item() ** 2 == pytest.approx(750)


def test_what_cannot_be_is_refused():
    with pytest.raises(MissingGenerator, match="generator: expected a torch.Generator, got None"):
        replicates(generator=None)
    with pytest.raises(DependentDraws, match="noise: leave_one_out learns its baseline from the other.*sobol draws are not"):
        replicates(leave_one_out, noise=sobol)
    with pytest.raises(ShapeError, match="num_samples: leave_one_out needs at least 2 draws, got 1"):
        replicates(leave_one_out, num_samples=1)
    with pytest.raises(ShapeError, match="gradients: a variance needs at least 2 replicates, got 1"):
        summarize(torch.zeros(1, 2))
    with pytest.raises(NonFiniteLogJoint, match="log_joint: returned nan"):
        replicates(target=lambda z: z[..., 0].log())


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if getattr(ESTIMATORS[n], "needs_independent_draws", False)])
def test_every_learnt_baseline_refuses_dependent_draws(name):
    for noise in (antithetic, sobol):
        with pytest.raises(DependentDraws, match="Use noise=normal"):
            replicates(ESTIMATORS[name], noise=noise)
