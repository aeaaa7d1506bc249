"""The digits' own VAE: how the book trains it, and what came of it, kept at seven moments for four β.

A latent plane, D = 2, so that all of it can be drawn.  :func:`train_digit_vae` is the recipe.  The file
``vilib/data/digit_vae.npz`` holds what it gives, in half precision, so that a picture of a training need not train.  To
write it anew (20 s):

    python -c "from vilib.digit_vae import write; write()"

All is float64: rounding on another machine stays small on the way, where float32 would end in another map.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from vilib.amortized import VAE, analytic_kl, mlp_vae
from vilib.datasets import digits
from vilib.fit import adam
from vilib.training import Training, train
from vilib.types import VilibError

#: The weights of the KL and the epochs that are kept.
BETAS = (0.25, 1.0, 3.0, 6.0)
EPOCHS = (0, 1, 3, 10, 30, 100, 300)
#: The first so many digits are trained on, the other 297 are held out.
NUM_TRAINING = 1500
_FILE = "data/digit_vae.npz"


def binary_digits() -> tuple[Tensor, Tensor]:
    """The 1,500 digits to train on and the 297 held out, black and white: (1500, 64) and (297, 64), float64.

    >>> [part.shape for part in binary_digits()]
    [torch.Size([1500, 64]), torch.Size([297, 64])]
    """
    images = digits(binary=True)[0].double()
    return images[:NUM_TRAINING], images[NUM_TRAINING:]


def train_digit_vae(
    beta: float = 1.0, *, num_epochs: int = EPOCHS[-1], seed: int = 0, progress: bool | None = None,
    on_epoch: Callable[[int, VAE], None] | None = None,
) -> tuple[VAE, Training]:
    """A VAE of the 1,500 digits: 64 pixels, 32 hidden units, 2 latent ones; Adam, its step falling from 0.01 to 0.

    beta: the weight of the KL; 1 for the ELBO.  on_epoch: called with 0 and the VAE before the first epoch, and with
    1, 2, … after each.  progress: a bar, see :func:`vilib.progress.counted`.

    >>> vae, done = train_digit_vae(num_epochs=2, progress=False)
    >>> bool(done.elbo[1] > done.elbo[0])
    True
    """
    images, batch_size, generator = binary_digits()[0], 128, torch.Generator().manual_seed(seed)
    vae = mlp_vae(64, 2, (32,), generator=generator, dtype=torch.float64)
    watch = on_epoch or (lambda epoch, vae: None)
    watch(0, vae)
    num_steps = max(1, num_epochs * -(-len(images) // batch_size))
    done = train(
        vae, images, num_epochs=num_epochs, batch_size=batch_size, generator=generator,
        optimizer=adam(0.01, lambda step: 1 - step / num_steps), estimator=partial(analytic_kl, beta=beta),
        progress=progress, on_epoch=lambda epoch, elbo: watch(epoch + 1, vae),
    )
    return vae, done


def digit_vae(beta: float = 1.0, epoch: int = EPOCHS[-1]) -> VAE:
    """The VAE of :func:`train_digit_vae` after ``epoch`` epochs, from the file, float64, its gradients off.

    Raises VilibError for a beta or an epoch that was not kept.

    >>> vae = digit_vae()
    >>> vae.decoder.mean(torch.zeros(1, 2).double()).shape
    torch.Size([1, 64])
    """
    if beta not in BETAS or epoch not in EPOCHS:
        raise VilibError(f"digit_vae: kept are beta of {BETAS} and epoch of {EPOCHS}, got {beta} and {epoch}.")
    vae = mlp_vae(64, 2, (32,), generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_(False)
    vector_to_parameters(_kept()[BETAS.index(beta), EPOCHS.index(epoch)], vae.parameters())
    return vae


@cache
def _kept() -> Tensor:
    """All parameters as they stand in the file, (β, epoch, parameter)."""
    with resources.files("vilib").joinpath(_FILE).open("rb") as file:
        return torch.from_numpy(np.load(file)["parameters"]).double()


def snapshots(beta: float, **options: Any) -> Tensor:
    """Train, and keep the parameters at each of EPOCHS, (epoch, parameter), float64.

    >>> snapshots(1.0, num_epochs=1, progress=False).shape                                  # epochs 0 and 1
    torch.Size([2, 4420])
    """
    kept: list[Tensor] = []

    def keep(epoch: int, vae: VAE) -> None:
        if epoch in EPOCHS:
            kept.append(parameters_to_vector(vae.parameters()).detach().clone())

    train_digit_vae(beta, on_epoch=keep, **options)
    return torch.stack(kept)


def write(path: str | Path | None = None) -> None:
    """Train for every β and write the file.  path: elsewhere than in the package (None).

    >>> write("elsewhere.npz")                                                  # doctest: +SKIP
    """
    parameters = torch.stack([snapshots(beta) for beta in BETAS]).half().numpy()
    np.savez_compressed(path or Path(str(resources.files("vilib").joinpath(_FILE))), parameters=parameters)
