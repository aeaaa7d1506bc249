"""ε: where all randomness enters.

A ``Noise`` is a function ``(num_samples, batch_shape, dim, *, generator, dtype) -> eps (S, *R, D)`` whose draws are
standard normal one by one.  Estimators take ε as an argument, so common random numbers mean passing the same
tensor twice, and quasi-Monte Carlo is a choice of noise and not another estimator.

Each replicate of ``*R`` is independent of the others under every noise.  Within one replicate only ``normal`` gives
independent draws; the attribute ``independent_draws`` says so, and estimators that learn a baseline from the other draws
refuse the rest.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from vilib.types import ShapeError, check_generator


def normal(
    num_samples: int, batch_shape: tuple[int, ...], dim: int, *, generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Independent standard normal draws, (S, *R, D), on the generator's device.

    Raises ShapeError (a count below one), MissingGenerator.

    >>> normal(3, (2,), 1, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([3, 2, 1])
    """
    _check_counts(num_samples, dim)
    device = check_generator(generator).device
    return torch.randn((num_samples, *batch_shape, dim), generator=generator, dtype=dtype, device=device)


def antithetic(
    num_samples: int, batch_shape: tuple[int, ...], dim: int, *, generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draws in pairs ε, −ε, next to each other: (S, *R, D), S even.

    Whatever is odd in ε cancels exactly, whatever is even is seen only S/2 times.  (eq:antithetic; Owen 2013,
    chapter 8)

    Raises ShapeError (S odd), MissingGenerator.

    >>> antithetic(4, (), 1, generator=torch.Generator().manual_seed(0)).sum().item()
    0.0
    """
    _check_counts(num_samples, dim)
    if num_samples % 2:
        raise ShapeError(f"num_samples: antithetic draws come in pairs, so an even number is needed, got {num_samples}.")
    half = normal(num_samples // 2, batch_shape, dim, generator=generator, dtype=dtype)
    return torch.stack([half, -half], 1).flatten(0, 1)


def sobol(
    num_samples: int, batch_shape: tuple[int, ...], dim: int, *, generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Scrambled Sobol points through Φ⁻¹, (S, *R, D), S a power of two; one scramble a replicate.

    The points fill the cube evenly, so a mean over them settles faster than 1/√S; the scramble keeps each point
    uniform, so it stays unbiased, and independent between replicates, so its error can be measured (Owen 1997).
    A Sobol point is a multiple of 2⁻³⁰ and may be 0: we take the middle of its cell, in float64, before Φ⁻¹.

    Raises ShapeError (S no power of two), MissingGenerator.

    >>> eps = sobol(8, (), 1, generator=torch.Generator().manual_seed(0))
    >>> (eps > 0).sum().item()                                  # four of eight, always
    4
    """
    _check_counts(num_samples, dim)
    if num_samples & (num_samples - 1):
        raise ShapeError(
            f"num_samples: Sobol points are balanced only in powers of two, got {num_samples}; "
            f"take {1 << (num_samples.bit_length() - 1)} or {1 << num_samples.bit_length()}."
        )
    device = check_generator(generator).device
    seeds = torch.randint(2**62, (prod(batch_shape),), generator=generator, device=device).tolist()
    points = [
        torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(num_samples, dtype=torch.float64)
        for seed in seeds
    ]
    uniform = torch.stack(points, 1).reshape(num_samples, *batch_shape, dim) + 2.0**-31
    return torch.special.ndtri(uniform).to(device=device, dtype=dtype)


setattr(normal, "independent_draws", True)
setattr(antithetic, "independent_draws", False)
setattr(sobol, "independent_draws", False)


def _check_counts(num_samples: int, dim: int) -> None:
    if num_samples < 1 or dim < 1:
        raise ShapeError(f"num_samples and dim: both at least 1, got num_samples={num_samples}, dim={dim}.")
