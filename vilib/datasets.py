"""The data that the book brings along."""

from __future__ import annotations

from importlib import resources

import numpy as np
import torch
from torch import Tensor


def digits(binary: bool = False) -> tuple[Tensor, Tensor]:
    """1,797 handwritten digits of 8 × 8 pixels: images (1797, 64), float32 in [0, 1], and labels (1797,), int64.

    A pixel is one of 17 greys, 0 to 16, divided by 16; row by row, ink is 1.  binary: 1 where the grey is 8/16 or
    more, else 0.  ``images[n].reshape(8, 8)`` is one picture.
    Source and licence: ``vilib/data/digits.md``.  (Alpaydin & Kaynak 1998)

    >>> images, labels = digits()
    >>> images.shape, labels[:5].tolist()
    (torch.Size([1797, 64]), [0, 1, 2, 3, 4])
    """
    with resources.files("vilib").joinpath("data/digits.npz").open("rb") as file:
        stored = np.load(file)
        images, labels = torch.from_numpy(stored["images"]), torch.from_numpy(stored["labels"])
    return (images >= 8).float() if binary else images.float() / 16, labels.long()
