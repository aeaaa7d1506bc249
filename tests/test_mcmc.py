"""Random-walk Metropolis against exact moments, against its own stationarity, and its mutants."""

import math

import pytest
import torch
from helpers import readers_model, seeded, tensor
from statistical.ztest import assert_mean

from vilib import (
    MissingGenerator, NonFiniteLogJoint, ShapeError, coin_toss, correlated_gaussian, gaussian_target, metropolis,
    metropolis_step, two_component_mixture,
)

NUM_CHAINS = 20_000


def after_one_step(step, target, z, step_size: float):
    """z' (N, D) after one step from each z (N, D), and which moved."""
    generator = seeded(3)
    eps = step_size * torch.randn(z.shape, generator=generator, dtype=z.dtype)
    u = torch.rand(z.shape[:-1], generator=generator, dtype=z.dtype)
    there, log_p, accepted = step(target, z, target(z), eps, u)
    torch.testing.assert_close(log_p, target(there))
    return there, accepted


def assert_leaves_the_target_alone(step) -> None:
    """Chains that start as exact draws are exact draws after a step: the first two moments change by zero on average."""
    generator = seeded(4)
    sign = torch.where(torch.rand(NUM_CHAINS, 1, generator=generator, dtype=torch.float64) < 0.3, -1.0, 1.0)
    noise = torch.randn(NUM_CHAINS, 1, generator=generator, dtype=torch.float64)
    for target, z in [(gaussian_target(1.0, 0.7), 1.0 + 0.7 * noise),
                      (two_component_mixture((-1.0, 1.0), (0.5, 0.5), 0.3), sign + 0.5 * noise)]:
        there, _ = after_one_step(step, target, z, 1.5)
        for power in (1, 2, 3):
            assert_mean(there**power - z**power, 0.0, f"change of moment {power}")


@pytest.mark.statistical
def test_one_step_leaves_the_posterior_as_it_is():
    assert_leaves_the_target_alone(metropolis_step)


def changed(accept):
    def step(log_joint, z, log_p, eps, u):
        there = log_joint(z + eps)
        accepted = accept(u, there - log_p)
        return torch.where(accepted.unsqueeze(-1), z + eps, z), torch.where(accepted, there, log_p), accepted
    return step


@pytest.mark.statistical
@pytest.mark.parametrize("accept", [
    lambda u, log_ratio: torch.ones_like(u, dtype=torch.bool), lambda u, log_ratio: log_ratio > 0,
    lambda u, log_ratio: u.log() < -log_ratio, lambda u, log_ratio: u < log_ratio, lambda u, log_ratio: u.log() < 0.5 * log_ratio,
], ids=["always", "only uphill", "upside down", "no log", "root"])
def test_a_mutant_does_not(accept):
    with pytest.raises(AssertionError, match="z = "):
        assert_leaves_the_target_alone(changed(accept))


def test_the_changes_above_are_the_only_ones():
    right, exact = changed(lambda u, log_ratio: u.log() < log_ratio), gaussian_target()
    z = torch.randn(500, 1, generator=seeded(), dtype=torch.float64)
    for mine, its in zip(after_one_step(right, exact, z, 1.0), after_one_step(metropolis_step, exact, z, 1.0)):
        assert torch.equal(mine, its)


@pytest.mark.statistical
@pytest.mark.parametrize("sigma, step_size", [(1.0, 2.4), (0.3, 0.3), (2.0, 0.5)])
def test_the_acceptance_rate_of_a_gaussian(sigma, step_size):
    """At stationarity it is (2/π) arctan(2σ/s): the angle in which a bivariate normal has both signs right."""
    chains = metropolis(gaussian_target(0.0, sigma), torch.zeros(2000, 1, dtype=torch.float64), num_samples=200, step_size=step_size,
                        warmup=150, generator=seeded(1))
    assert_mean(chains.acceptance_rate, 2 / math.pi * math.atan(2 * sigma / step_size), "acceptance rate")


@pytest.mark.statistical
def test_the_moments_of_the_coin():
    """Each chain is independent of the others: the means of 200 chains are a sample that a z-test may have."""
    coin = coin_toss(6, 4)
    chains = metropolis(coin, torch.zeros(200, 1, dtype=torch.float64), num_samples=2000, step_size=0.9, warmup=200, generator=seeded(2))
    theta = torch.sigmoid(chains.draws[..., 0])
    exact = coin.posterior
    assert_mean(theta.mean(0), exact.mean, "mean")
    assert_mean((theta - exact.mean).square().mean(0), exact.variance, "variance")


@pytest.mark.statistical
def test_the_moments_of_a_correlated_gaussian():
    target = correlated_gaussian(0.8, (1.0, 0.5))
    chains = metropolis(target, torch.zeros(300, 2, dtype=torch.float64), num_samples=1500, step_size=tensor(1.2, 0.6), warmup=300,
                        generator=seeded(5))
    z = chains.draws
    assert_mean(z.mean(0), 0.0, "means")
    assert_mean((z[..., 0] * z[..., 1]).mean(0), 0.4, "covariance")
    assert_mean(z.square().mean(0), tensor(1.0, 0.25), "variances")


# ---- shapes and noise -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))])
def test_a_batch_of_chains_keeps_its_shape(batch, dtype, device):
    start = torch.zeros(*batch, 2, dtype=dtype, device=device)
    run = lambda: metropolis(readers_model(), start, num_samples=50, step_size=0.8, generator=torch.Generator(device).manual_seed(0))  # noqa: E731
    chains, again = run(), run()
    assert chains.draws.shape == (50, *batch, 2) and chains.accepted.shape == (50, *batch) and chains.acceptance_rate.shape == batch
    assert chains.draws.dtype == chains.acceptance_rate.dtype == dtype and chains.draws.device.type == device
    assert torch.equal(chains.draws, again.draws)
    moved = (chains.draws.diff(dim=0) != 0).any(-1)
    assert torch.equal(moved, chains.accepted[1:])


def test_warmup_is_the_beginning_thrown_away():
    run = lambda **keep: metropolis(gaussian_target(), torch.full((2, 1), 9.0), generator=seeded(), **keep)  # noqa: E731
    assert torch.equal(run(num_samples=30).draws[10:], run(num_samples=20, warmup=10).draws)


def test_the_evidence_cancels():
    run = lambda shift: metropolis(lambda z: gaussian_target()(z) + shift, torch.zeros(1, dtype=torch.float64), num_samples=200,  # noqa: E731
                                   generator=seeded()).draws
    torch.testing.assert_close(run(0.0), run(-700.0))


def test_a_proposal_outside_the_support_is_refused():
    def half(z):
        return torch.where(z[..., 0] > 0, -z[..., 0], -math.inf)

    chains = metropolis(half, torch.ones(8, 1), num_samples=300, generator=seeded())
    assert (chains.draws > 0).all() and (chains.acceptance_rate < 1).all()


def test_bad_arguments():
    target, start = gaussian_target(), torch.zeros(1)
    with pytest.raises(MissingGenerator):
        metropolis(target, start, num_samples=3, generator=None)
    with pytest.raises(ShapeError, match="start, num_samples, warmup: .* got list, 3, 0"):
        metropolis(target, [0.0], num_samples=3, generator=seeded())
    with pytest.raises(ShapeError, match=r"got \(1,\), 0, 0"):
        metropolis(target, start, num_samples=0, generator=seeded())
    with pytest.raises(NonFiniteLogJoint, match="returned nan .* Look for a log"):
        metropolis(lambda z: z[..., 0].log(), torch.full((50, 1), 0.1), num_samples=5, generator=seeded())
    with pytest.raises(NonFiniteLogJoint, match="returned -inf .* give the parameter its support"):
        metropolis(lambda z: z[..., 0].log(), start, num_samples=50, generator=seeded())
