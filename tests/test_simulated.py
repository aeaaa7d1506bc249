"""A posterior learnt from simulations is the exact one where the family holds it, and matches its moments where not."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import seeded

import vilib
from vilib import Encoder, FullRankGaussian, MeanFieldGaussian, ShapeError, VilibError, adam, mlp, train_on_simulations

NOISE = 0.5


def encoder_of(widths, generator, dim=1, family=MeanFieldGaussian):
    member = MeanFieldGaussian(*torch.zeros(2, dim)) if family is MeanFieldGaussian else family(torch.zeros(dim), torch.zeros(dim, dim))
    return Encoder(mlp([*widths, member.num_parameters], generator=generator, dtype=torch.float64), member)


def straight(count, generator):
    """z ~ N(0, 1), x ~ N(z, ½²)."""
    z, noise = torch.randn(2, count, 1, generator=generator, dtype=torch.float64)
    return z, z + NOISE * noise


def folded(count, generator):
    """The sign is lost: z ~ N(0, 1), x ~ N(|z|, ½²), and the posterior has two equal hills."""
    z, x = straight(count, generator)
    return z, z.abs() + (x - z)


@pytest.mark.statistical
@pytest.mark.covers("1.8")
def test_it_recovers_the_exact_posterior_of_a_conjugate_model():
    generator = seeded(0)
    encoder = encoder_of([1], generator)
    falling = vilib.robbins_monro(kappa=0.9, delay=100)
    reached = train_on_simulations(
        encoder, straight, num_steps=1500, batch_size=500, optimizer=adam(0.03, falling), generator=generator, progress=False
    )
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(-1)
    q, variance = encoder(x), NOISE**2 / (1 + NOISE**2)
    assert (q.mean - x / (1 + NOISE**2)).abs().max() < 0.03 * math.sqrt(variance)
    assert (q.stddev.square() / variance - 1).abs().max() < 0.03
    # what it climbs ends at minus the entropy of the posterior: the KL is gone
    exact = -0.5 * (1 + math.log(2 * math.pi * variance))
    assert abs(reached[-300:].mean() - exact) < 4 * reached[-300:].std() / math.sqrt(300) + 1e-3


@pytest.mark.statistical
@pytest.mark.covers("1.8", "1.9")
def test_where_the_posterior_has_two_hills_it_matches_mean_and_variance_and_the_elbo_takes_one():
    generator = seeded(1)
    encoder = encoder_of([1, 32], generator)
    train_on_simulations(
        encoder, folded, num_steps=1500, batch_size=500, optimizer=adam(0.01, vilib.robbins_monro(0.9, 200)), generator=generator,
        progress=False,
    )
    z = torch.linspace(-7, 7, 2001, dtype=torch.float64)
    for x in (0.5, 1.0, 2.0):
        log_p = -0.5 * (z.square() + ((x - z.abs()) / NOISE).square())
        weight = log_p.softmax(0)
        second = (weight * z.square()).sum()
        q = encoder(torch.tensor([[x]], dtype=torch.float64))
        assert abs(q.mean.item()) < 0.1 and abs(q.stddev.item() / second.sqrt().item() - 1) < 0.06
        log_joint = lambda z, x=x: -0.5 * (z.square() + ((x - z.abs()) / NOISE).square()).sum(-1)  # noqa: E731
        start = MeanFieldGaussian(torch.tensor([1.0]).double(), torch.tensor([-0.5]).double())
        done = vilib.fit(vilib.pathwise, log_joint, start, num_samples=64, num_steps=500, optimizer=adam(0.03), generator=seeded(2))
        if x == 2.0:                                       # the reverse direction settles on a hill
            assert done.q.mean.item() > 1.2 and done.q.stddev.item() < 0.5 * q.stddev.item()


def test_full_rank_and_any_torch_optimiser():
    """Two unknowns of which only the sum is seen: the posterior is correlated."""

    def summed(count, generator):
        z = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        return z, z.sum(-1, keepdim=True) + NOISE * torch.randn(count, 1, generator=generator, dtype=torch.float64)

    generator = seeded(3)
    encoder = encoder_of([1], generator, dim=2, family=FullRankGaussian)
    with torch.no_grad():                                  # q = N(0, I) for every x: a start that is nowhere far off
        for parameter in encoder.parameters():
            parameter.zero_()
    before = torch.get_rng_state()
    train_on_simulations(
        encoder, summed, num_steps=800, batch_size=500, optimizer=lambda p: torch.optim.Adam(p, lr=0.02), generator=generator,
        progress=False,
    )
    assert torch.equal(before, torch.get_rng_state()), "the global seed was touched"
    covariance = encoder(torch.ones(1, 1, dtype=torch.float64)).covariance[0]
    exact = torch.linalg.inv(torch.eye(2).double() + 1 / NOISE**2)
    torch.testing.assert_close(covariance, exact, atol=0.06, rtol=0)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"num_steps": 0}, VilibError, "num_steps and batch_size: at least 1, got 0 and 4"),
        ({"simulate": lambda n, g: (torch.zeros(n), torch.zeros(n, 1))}, ShapeError, r"simulate: expected z \(N, D\).*got \(4,\)"),
        ({"simulate": lambda n, g: (torch.zeros(2, 1), torch.zeros(n, 1))}, ShapeError, "with N = 4"),
        ({"simulate": lambda n, g: (torch.zeros(n, 3).double(), torch.zeros(n, 1).double())}, ShapeError, "one q over D = 3 unknowns"),
        ({"simulate": lambda n, g: (torch.full((n, 1), torch.nan).double(), torch.zeros(n, 1).double())}, VilibError, "log q is nan"),
        ({"generator": None}, vilib.MissingGenerator, "generator"),
    ],
)
def test_what_cannot_be_used_is_refused(changed, error, message):
    arguments = {"simulate": straight, "num_steps": 1, "batch_size": 4, "optimizer": adam(0.01), "generator": seeded(0)} | changed
    simulate = arguments.pop("simulate")
    with pytest.raises(error, match=message):
        train_on_simulations(encoder_of([1], seeded(0)), simulate, progress=False, **arguments)


def test_a_frozen_encoder_is_refused():
    encoder = encoder_of([1], seeded(0)).requires_grad_(False)
    with pytest.raises(VilibError, match="nothing to train"):
        train_on_simulations(encoder, straight, num_steps=1, batch_size=4, optimizer=adam(0.01), generator=seeded(0))
