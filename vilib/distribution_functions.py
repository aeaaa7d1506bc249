"""Distribution functions of one unknown, P(z ≤ t), and how far another's probabilities are off.

The largest difference of two distribution functions over all t, the Kolmogorov distance, is the same on every scale: no
increasing map of z changes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vilib.families import Gaussian
from vilib.types import ShapeError


@dataclass(frozen=True, eq=False)
class DistributionFunction:
    """P(z ≤ t) at the points of a grid, and linear between them.

    grid, values: (G,), both increasing, float64.  Below the grid it is the first value, above it the last.
    """

    grid: Tensor
    values: Tensor

    @classmethod
    def from_density(cls, grid: Tensor, density: Tensor) -> DistributionFunction:
        """Of a density at the points of a grid (G,), normalised or not, by the trapezoid rule.

        Raises ShapeError unless there are two points or more, increasing, and a density for each.

        >>> grid = torch.linspace(0.0, 1.0, 1001, dtype=torch.float64)
        >>> round(DistributionFunction.from_density(grid, 5 * grid)(torch.tensor(0.5)).item(), 6)
        0.25
        """
        grid, density = grid.double(), density.double()
        if grid.ndim != 1 or len(grid) < 2 or density.shape != grid.shape or not (grid.diff() > 0).all():
            raise ShapeError("grid, density: expected two points or more, increasing, and a density for each, got "
                             f"{tuple(grid.shape)} and {tuple(density.shape)}.")
        steps = 0.5 * (density[1:] + density[:-1]) * grid.diff()
        total = torch.cat([grid.new_zeros(1), steps.cumsum(0)])
        return cls(grid, total / total[-1])

    def __call__(self, t: Tensor) -> Tensor:
        """P(z ≤ t), t of any shape; float64."""
        values = np.interp(t.double().cpu().numpy(), self.grid.cpu().numpy(), self.values.cpu().numpy())
        return torch.as_tensor(values, device=t.device)

    def distance(self, other: Callable[[Tensor], Tensor]) -> float:
        """The largest difference from ``other``, t (G,) -> P (G,), at the points of this grid.

        >>> uniform = DistributionFunction.from_density(torch.linspace(0, 1, 101), torch.ones(101))
        >>> round(uniform.distance(lambda t: t.square()), 6)                     # t − t² is largest at ½
        0.25
        """
        return (other(self.grid) - self.values).abs().max().item()

    def distance_of_draws(self, draws: Tensor) -> Tensor:
        """The largest difference, over all t, from the share of draws (S, *R) that are ≤ t: (*R).

        It is the Kolmogorov–Smirnov statistic, looked for on both sides of each draw.

        >>> uniform = DistributionFunction.from_density(torch.linspace(0, 1, 101), torch.ones(101))
        >>> round(uniform.distance_of_draws(torch.tensor([0.5, 0.9])).item(), 6)         # just below the first draw
        0.5
        """
        ordered = np.sort(draws.movedim(0, -1).double().cpu().numpy(), -1)
        exact = self(torch.from_numpy(ordered))
        shares = torch.arange(len(draws) + 1, dtype=torch.float64) / len(draws)
        return torch.maximum(shares[1:] - exact, exact - shares[:-1]).amax(-1).to(draws.device)


def gaussian_distribution(q: Gaussian) -> Callable[[Tensor], Tensor]:
    """t -> P(z ≤ t) of a Gaussian q of one unknown, no batch.

    >>> from vilib import MeanFieldGaussian
    >>> gaussian_distribution(MeanFieldGaussian(torch.ones(1), torch.zeros(1)))(torch.tensor([1.0]))
    tensor([0.5000])
    """
    return lambda t: torch.special.ndtr((t - q.mean) / q.stddev)
