"""The sensor and its kept encoders: the file is what the recipe gives, and the best q are the best of all."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import seeded, tensor
from torch.nn.utils import parameters_to_vector

from vilib import (
    FullRankGaussian, MeanFieldGaussian, MissingGenerator, ShapeError, VilibError, amortization_gap, data_log_evidence, gauss_hermite,
    kl_to_standard_normal, sensor_encoder, sensor_gap, sensor_readings, sensor_vae, train_sensor_encoder,
)

module = sys.modules["vilib.sensor"]
GRID, HILLS, NUM_DATA, STEPS, WIDTHS = module.GRID, module.HILLS, module.NUM_DATA, module.STEPS, module.WIDTHS
close = torch.testing.assert_close


def kept(width: int, num_data: int) -> torch.Tensor:
    return torch.stack([parameters_to_vector(sensor_encoder(width, num_data, step).encoder.parameters()) for step in STEPS])


def elbo_on_grid(x: float, mu: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
    """The ELBO at x of every pair (μ, ω), by an even grid over z: nothing of vilib's quadrature in it."""
    z, dz = torch.linspace(-6, 6, 4001, dtype=torch.float64), 12 / 4000
    f = z + 3 * torch.exp(-4 * (z - 0.5) ** 2)
    log_joint = -0.5 * z**2 - 0.5 * ((x - f) / 0.5) ** 2 - math.log(2 * math.pi * 0.5)
    pairs = torch.cartesian_prod(mu, omega)
    log_q = -0.5 * ((z - pairs[:, :1]) / pairs[:, 1:].exp()) ** 2 - pairs[:, 1:] - 0.5 * math.log(2 * math.pi)
    return (log_q.exp() * (log_joint - log_q)).sum(-1) * dz


def test_the_readings_are_those_of_the_model():
    """Mean and variance of x against quadrature over z, and the evidence integrates to one."""
    z = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    weight = torch.exp(-0.5 * z**2) * (16 / 20_000) / math.sqrt(2 * math.pi)
    f = z + 3 * torch.exp(-4 * (z - 0.5) ** 2)
    mean, variance = (weight @ f).item(), (weight @ f**2 - (weight @ f) ** 2).item() + 0.25
    x = sensor_readings(200_000, generator=seeded(1))[:, 0]
    assert x.mean().item() == pytest.approx(mean, abs=6 * math.sqrt(variance / len(x)))
    assert x.var().item() == pytest.approx(variance, rel=0.02)
    grid = torch.arange(-70, 71, dtype=torch.float64).unsqueeze(-1) / 10
    assert data_log_evidence(sensor_vae(0, generator=seeded()), grid).exp().sum().item() * 0.1 == pytest.approx(1, abs=1e-6)
    with pytest.raises(MissingGenerator):
        sensor_readings(3, generator=None)


def test_the_grid_leaves_out_one_reading_in_ten_thousand():
    evidence = data_log_evidence(sensor_vae(0, generator=seeded()), GRID).exp()
    assert 0 <= 1 - evidence.sum().item() * 0.1 < 1e-4


@pytest.mark.parametrize("x", [-1.0, 0.8, 1.1, 1.3, 1.8, 2.0, 2.4, 2.6, 3.2])
def test_the_kept_best_is_the_best_of_all_gaussians(x):
    """Against every (μ, ω) of a fine grid."""
    grid_x, best = module.sensor_best()
    at = int((grid_x[: len(GRID), 0] - x).abs().argmin())
    mu, omega = torch.linspace(-2.5, 2.5, 126, dtype=torch.float64), torch.linspace(-2.8, 0.3, 63, dtype=torch.float64)
    everywhere = elbo_on_grid(x, mu, omega).max().item()
    ours = elbo_on_grid(x, best.mu[at], best.omega[at]).item()
    assert ours >= everywhere and ours == pytest.approx(everywhere, abs=0.005)


def test_the_file_holds_what_the_recipe_gives():
    trained, stored = module.snapshots(2, 16), kept(2, 16)
    close(trained, stored, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width, num_data", [(0, 16), (8, 256), (32, 256)])
def test_the_others_start_as_the_recipe_does(width, num_data):
    """160 steps; the step size falls with the length of the run, so it is given the length of the whole."""
    done = []

    class Enough(Exception):
        pass

    def keep(step, vae):
        if step in STEPS:
            done.append(parameters_to_vector(vae.encoder.parameters()).detach().clone())
        if step == 160:
            raise Enough

    with pytest.raises(Enough):
        train_sensor_encoder(width, num_data, on_step=keep)
    close(torch.stack(done), kept(width, num_data)[:4], rtol=1e-4, atol=1e-4)


def test_the_kept_best_is_what_the_climbs_give():
    x, best = module.sensor_best()
    some = slice(3, None, 29)
    gap = sensor_gap(sensor_encoder(8), x[some], num_steps=600)
    close(best.mu[some], gap.best.mu, rtol=0, atol=2e-3)
    close(best.omega[some], gap.best.omega, rtol=0, atol=2e-3)


def test_what_was_not_kept_is_refused():
    with pytest.raises(VilibError, match=r"kept are width of \(0, 2, 8, 32\), num_data of \(16, 256\) and step of .*got 3, 256 and 4800"):
        sensor_encoder(3)


def test_it_is_written_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "snapshots", lambda width, count: torch.full((2, 3), width + count, dtype=torch.float64))
    monkeypatch.setattr(module, "sensor_gap", lambda vae, x, num_steps: type("Gap", (), {"best": MeanFieldGaussian(x, x)}))
    module.write(tmp_path / "kept.npz")
    stored = np.load(tmp_path / "kept.npz")
    assert stored["8_256"].dtype == np.float32 and stored["8_256"][0, 0] == 264 and stored["best"].shape == (len(GRID) + 256, 2)
    assert Path(module.__file__).with_name("data").joinpath("sensor_encoders.npz").stat().st_size < 20_000


# ---- what the starts of amortization_gap are for --------------------------------------------------------------------


def test_one_climb_may_end_on_a_lower_hill_and_starts_find_the_highest():
    vae, x = sensor_encoder(2), tensor(1.9, 2.6).unsqueeze(-1)
    alone, started = amortization_gap(vae, x, num_nodes=64), sensor_gap(vae, x)
    assert (alone.approximation > started.approximation + 0.3).all()
    close(alone.inference, started.inference)                                        # the whole does not care
    close(alone.elbo, started.elbo)
    assert (started.amortization >= alone.amortization).all() and started.best.batch_shape == (2,)


def test_starts_may_be_one_for_all_or_one_each_and_must_fit():
    vae, x = sensor_encoder(2), tensor(1.9, 2.6).unsqueeze(-1)
    one = MeanFieldGaussian(tensor(1.0), tensor(-0.7))
    for start in (one, one.expand(2)):
        gap = amortization_gap(vae, x, num_steps=300, starts=[start])
        close(gap.best_elbo, sensor_gap(vae, x).best_elbo, rtol=0, atol=1e-4)
    with pytest.raises(ShapeError, match=r"starts: each a MeanFieldGaussian of D = 1, batch shape \(2,\) or \(\).*number 1 is a FullRankGaussian"):
        amortization_gap(vae, x, starts=[one, FullRankGaussian(tensor(0.0), tensor([0.0]))])
    with pytest.raises(ShapeError, match=r"number 0 is a MeanFieldGaussian of D = 1, batch shape \(3,\)"):
        amortization_gap(vae, x, starts=[one.expand(3)])


def test_starts_work_by_sampling_too():
    """D = 3: from a hopeless encoder a short climb stays far off, and a start at the posterior is the one that is kept."""
    from test_linear_vae import data, linear

    vae, x = linear(num_latent=3), data(4)
    exact = vae.exact_posterior(x)
    at = MeanFieldGaussian(exact.mean, exact.stddev.log()).detach()
    at = MeanFieldGaussian(at.mu, at.omega)
    options = dict(num_steps=2, num_importance=2000)
    far = amortization_gap(vae, x, generator=seeded(), **options)
    near = amortization_gap(vae, x, generator=seeded(), starts=[at], **options)
    assert (near.best_elbo > far.best_elbo + 0.05).any() and (near.best_elbo > far.best_elbo - 0.1).all()
    assert near.best.batch_shape == (4,)


def test_the_mean_gap_shrinks_with_width():
    """Over fresh readings, weighed by p(x): what the chapter says of the kept encoders."""
    x, best = module.sensor_best()
    x, best = x[: len(GRID)], MeanFieldGaussian(best.mu[: len(GRID)], best.omega[: len(GRID)])
    nodes, weights = gauss_hermite(1, 64)
    nodes = nodes.unsqueeze(1).expand(-1, len(x), -1)
    gaps = []
    for width in WIDTHS:
        vae = sensor_encoder(width)
        elbo = lambda q: torch.tensordot(weights, vae.log_joint(x).log_likelihood(q.transform(nodes)), 1) - kl_to_standard_normal(q)  # noqa: B023, E731
        loss = elbo(best) - elbo(vae.encode(x))
        assert (loss > -1e-6).all()
        gaps.append((data_log_evidence(vae, x).exp() @ loss * 0.1).item())
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > 2 * gaps[-1]
