"""Level lines of a field on a grid, as the channels of a `Contour` mark."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vilib import Marginal
from vilib.own_posterior import Grid

from .core import ExplorableError


def level_rings(
    x: np.ndarray, y: np.ndarray, depth: np.ndarray, levels: Sequence[float], *, num_rings: int = 8, num_points: int = 49,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The closed lines {depth = level}, widest first, each as `num_points` points at even distances along it.

    Parameters
    ----------
    x, y : the grid, (G,) and (H,), evenly spaced or not.
    depth : (H, G), smallest at the middle of the rings: for a landscape to be climbed, how far each place is below its top.
    levels : the depths to draw; those that the field does not reach give no ring.
    num_rings, num_points : the sizes of what comes back, the same for every field, as a recording wants it.

    Returns
    -------
    x and y of shape (num_rings · (num_points + 1),), a nan after each ring, and the level of each ring (num_rings,), nan
    where there is none. The grid's edge counts as infinitely deep, so every ring closes, if need be along the edge.

    Raises
    ------
    ExplorableError : more rings than `num_rings`.

    >>> grid = np.linspace(-1, 1, 41)
    >>> u, v, levels = level_rings(grid, grid, np.hypot(*np.meshgrid(grid, grid)), (0.5,), num_rings=2, num_points=9)
    >>> bool(np.allclose(np.hypot(u[:9], v[:9]), 0.5, atol=0.02)), levels.tolist()
    (True, [0.5, nan])
    """
    from contourpy import contour_generator

    walled = np.array(depth, dtype=float)
    walled[[0, -1]], walled[:, [0, -1]] = 1e6, 1e6
    lines = contour_generator(np.asarray(x), np.asarray(y), walled)
    rings = [(level, np.asarray(ring)) for level in sorted(levels, reverse=True) for ring in lines.lines(level)]
    if len(rings) > num_rings:
        raise ExplorableError(f"the field has {len(rings)} level lines; allow num_rings={len(rings)}, or ask for fewer levels")
    u, v = np.full((2, num_rings, num_points + 1), np.nan)
    for k, (_, ring) in enumerate(rings):
        along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(ring, axis=0).T))])
        at = np.linspace(0, along[-1], num_points)
        u[k, :-1], v[k, :-1] = np.interp(at, along, ring[:, 0]), np.interp(at, along, ring[:, 1])
    reached = np.full(num_rings, np.nan)
    reached[: len(rings)] = [level for level, _ in rings]
    return u.ravel(), v.ravel(), reached


def mass_rings(marginal: Marginal, sds: Sequence[float] = (2, 1)) -> tuple[np.ndarray, np.ndarray]:
    """Around a density of two parameters, the rings that hold what an ellipse of so many sds holds of a Gaussian, widest first.

    Two sds are 86 % of the mass, one is 39 %. Returns x and y, as :func:`level_rings` does.

    >>> from vilib import reference_marginal
    >>> x, y = mass_rings(reference_marginal("kidiq, centred"))
    >>> x.shape, y.shape
    ((100,), (100,))
    """
    depth = -marginal.probability.clamp_min(1e-300).log()
    depths = [marginal.depth(1 - math.exp(-r * r / 2)) for r in sds]
    return level_rings(marginal.x.numpy(), marginal.y.numpy(), depth.numpy(), depths, num_rings=len(depths))[:2]


def rings_of(grid: Grid) -> np.ndarray:
    """:func:`mass_rings` of a posterior of two unknowns, x and y in z."""
    assert grid.marginal is not None
    return grid.tril.numpy() @ np.stack(mass_rings(grid.marginal)) + grid.shift.numpy()[:, None]
