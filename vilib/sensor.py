"""A sensor with a resonance: the small nonlinear model on which inference for every x can be watched, and its encoders.

z ~ N(0, 1), x | z ~ N(f(z), ½²) with f(z) = z + 3 exp(−4 (z − ½)²): a straight line, but for a bump near z = ½.  One
number in, one number out, and nothing else known in closed form: the posterior p(z | x) is now nearly Gaussian, now
skewed, now in two or three pieces.  The decoder is fixed; only encoders learn.

:func:`train_sensor_encoder` is the recipe of the book's encoders, and ``vilib/data/sensor_encoders.npz`` holds what it
gives at seven moments, and the best q of every x beside it, so that a picture of a training need not train.  To write
it anew (two minutes):

    python -c "from vilib.sensor import write; write()"
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from vilib.amortization_gap import AmortizationGap, amortization_gap
from vilib.amortized import VAE
from vilib.families import MeanFieldGaussian
from vilib.fit import adam
from vilib.networks import Encoder, GaussianDecoder, mlp
from vilib.noise import normal
from vilib.training import train
from vilib.types import VilibError

#: Hidden units of the encoders that are kept, 0 for a linear one; how many readings they saw; after how many steps.
WIDTHS = (0, 2, 8, 32)
NUM_DATA = (16, 256)
STEPS = (0, 16, 48, 160, 480, 1600, 4800)
#: The x at which the best q is kept, (101, 1): all that the sensor reads but for one reading in ten thousand.
GRID = torch.arange(-48, 53, dtype=torch.float64).unsqueeze(-1) / 10
#: Where climbs for the best q start, (mean, sd): on the near side of the bump, on its top, on its far side, and wide.
HILLS = ((-1.0, 0.3), (0.0, 0.15), (0.5, 0.2), (1.0, 0.5), (1.4, 0.3))
_BATCH = 16
_FILE = "data/sensor_encoders.npz"


class Resonance(nn.Module):
    """f(z) = z + 3 exp(−4 (z − ½)²), entry by entry, of the shape of z.

    >>> Resonance()(torch.tensor([[-3.0], [0.5]])).round(decimals=4)
    tensor([[-3.0000],
            [ 3.5000]])
    """

    def forward(self, z: Tensor) -> Tensor:
        return z + 3 * torch.exp(-4 * (z - 0.5).square())


def sensor_decoder() -> GaussianDecoder:
    """p(x | z) = N(x | f(z), ½²), x and z in one dimension each; nothing in it is learnt.

    >>> sensor_decoder().log_prob(torch.tensor([[3.5]]), torch.tensor([[[0.5]]]))           # −½ log 2π + log 2
    tensor([[-0.2258]])
    """
    return GaussianDecoder(Resonance(), math.log(0.5), learn_scale=False)


def sensor_readings(count: int, *, generator: torch.Generator) -> Tensor:
    """x (count, 1), float64, drawn from the model.  Raises MissingGenerator.

    >>> sensor_readings(5, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([5, 1])
    """
    z = normal(1, (count,), 1, generator=generator, dtype=torch.float64)[0]
    return sensor_decoder().double().sample(z, generator=generator)


def sensor_vae(width: int, *, generator: torch.Generator) -> VAE:
    """The sensor with an untrained encoder of ``width`` hidden tanh units, x -> (μ, ω); 0: linear in x.  float64.

    >>> vae = sensor_vae(8, generator=torch.Generator().manual_seed(0))
    >>> vae.encode(torch.zeros(5, 1).double()).batch_shape
    torch.Size([5])
    """
    body = mlp([1, *([width] if width else []), 2], generator=generator, dtype=torch.float64)
    return VAE(Encoder(body, MeanFieldGaussian(torch.zeros(1), torch.zeros(1))), sensor_decoder().double())


def training_readings(num_data: int) -> Tensor:
    """The first ``num_data`` readings of the book's training set, (num_data, 1), float64.

    >>> bool((training_readings(16) == training_readings(256)[:16]).all())
    True
    """
    return sensor_readings(NUM_DATA[-1], generator=torch.Generator().manual_seed(0))[:num_data]


def train_sensor_encoder(
    width: int, num_data: int = NUM_DATA[-1], *, num_steps: int = STEPS[-1], on_step: Callable[[int, VAE], None] | None = None
) -> VAE:
    """An encoder of ``width`` hidden units, trained on that many readings: Adam, its step falling from 0.02 to 0.

    Minibatches of 16, 8 draws a reading, the KL in closed form.  num_steps: rounded up to whole epochs.
    on_step: called with the number of steps taken and the VAE, before the first epoch and after each.

    >>> x = training_readings(16)
    >>> eps = torch.linspace(-2, 2, 9).double().reshape(9, 1, 1).expand(9, 16, 1)
    >>> start, end = (train_sensor_encoder(2, 16, num_steps=n).elbo(x, eps).mean().item() for n in (0, 50))
    >>> end > start
    True
    """
    generator = torch.Generator().manual_seed(width)
    vae, data = sensor_vae(width, generator=generator), training_readings(num_data)
    a_step = max(1, num_data // _BATCH)
    watch = on_step or (lambda step, vae: None)
    watch(0, vae)
    num_epochs = -(-num_steps // a_step)
    total = max(1, num_epochs * a_step)
    train(
        vae, data, num_epochs=num_epochs, batch_size=_BATCH, optimizer=adam(0.02, lambda step: 1 - step / total),
        generator=generator, num_samples=8, progress=False,
        on_epoch=lambda epoch, elbo: watch((epoch + 1) * a_step, vae),
    )
    return vae.requires_grad_(False)


def sensor_gap(vae: VAE, x: Tensor, *, num_steps: int = 300) -> AmortizationGap:
    """:func:`vilib.amortization_gap` of an encoder of the sensor, by climbs from every hill of HILLS too.

    >>> gap = sensor_gap(sensor_encoder(8), torch.tensor([[2.0]]).double())
    >>> bool(gap.approximation > 0.4), bool(gap.amortization > 0)
    (True, True)
    """
    starts = [_gaussian(mean, math.log(sd)) for mean, sd in HILLS]
    return amortization_gap(vae, x, num_steps=num_steps, num_nodes=64, starts=starts)


def sensor_best() -> tuple[Tensor, MeanFieldGaussian]:
    """x (357, 1), GRID and then the 256 training readings, and the best q of each, R = 357, from the file.

    >>> x, best = sensor_best()
    >>> len(x) == len(GRID) + 256, best.batch_shape
    (True, torch.Size([357]))
    """
    return torch.cat([GRID, training_readings(NUM_DATA[-1])]), MeanFieldGaussian(*_kept()["best"].chunk(2, -1))


def snapshots(width: int, num_data: int) -> Tensor:
    """Train, and keep the parameters at each of STEPS, (step, parameter), float64.

    >>> snapshots(2, 16).shape                                              # doctest: +SKIP
    torch.Size([7, 10])
    """
    kept: list[Tensor] = []

    def keep(step: int, vae: VAE) -> None:
        if step in STEPS:
            kept.append(parameters_to_vector(vae.encoder.parameters()).detach().clone())

    train_sensor_encoder(width, num_data, on_step=keep)
    return torch.stack(kept)


def sensor_encoder(width: int, num_data: int = NUM_DATA[-1], step: int = STEPS[-1]) -> VAE:
    """The VAE of :func:`train_sensor_encoder` after ``step`` steps, from the file, float64, its gradients off.

    Raises VilibError for what was not kept.

    >>> q = sensor_encoder(32).encode(torch.tensor([[-1.0]]).double())
    >>> bool((q.mean + 0.94).abs() < 0.05)
    True
    """
    if width not in WIDTHS or num_data not in NUM_DATA or step not in STEPS:
        raise VilibError(
            f"sensor_encoder: kept are width of {WIDTHS}, num_data of {NUM_DATA} and step of {STEPS}, "
            f"got {width}, {num_data} and {step}."
        )
    vae = sensor_vae(width, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    vector_to_parameters(_kept()[f"{width}_{num_data}"][STEPS.index(step)], vae.encoder.parameters())
    return vae


@cache
def _kept() -> dict[str, Tensor]:
    """All parameters as they stand in the file: width_numdata -> (step, parameter)."""
    with resources.files("vilib").joinpath(_FILE).open("rb") as file:
        return {name: torch.from_numpy(array).double() for name, array in np.load(file).items()}


def write(path: str | Path | None = None) -> None:
    """Train every encoder and write the file.  path: elsewhere than in the package (None).

    >>> write("elsewhere.npz")                                              # doctest: +SKIP
    """
    kept = {f"{width}_{count}": snapshots(width, count) for width in WIDTHS for count in NUM_DATA}
    x = torch.cat([GRID, training_readings(NUM_DATA[-1])])
    kept["best"] = sensor_gap(sensor_vae(0, generator=torch.Generator().manual_seed(0)), x, num_steps=1000).best.vector()
    arrays = {name: tensor.float().numpy() for name, tensor in kept.items()}
    np.savez_compressed(path or Path(str(resources.files("vilib").joinpath(_FILE))), **cast(Any, arrays))


def _gaussian(mu: float, omega: float) -> MeanFieldGaussian:
    return MeanFieldGaussian(*(torch.tensor([v], dtype=torch.float64) for v in (mu, omega)))
