"""g and h together: how much of the noise of g a control variate h can take, and which multiple of it does.

g is what one draw adds to an average, h another function of the same draw whose mean is known.  g − a (h − E h) has
the mean of g for every a (eq:control-variate), and all that its variance asks is in five numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vilib.types import ShapeError


@dataclass(frozen=True)
class JointMoments:
    """Means, variances and the covariance of g and h, all of one shape (*R); of one draw, or of one estimate.

    >>> pair = joint_moments(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 9.0]))
    >>> bool(pair.variance(pair.coefficient) < pair.variance_g)
    True
    """

    mean_g: Tensor
    mean_h: Tensor
    variance_g: Tensor
    variance_h: Tensor
    covariance: Tensor

    @property
    def coefficient(self) -> Tensor:
        """The a with the least variance, Cov(g, h)/Var h; nan where h does not vary.  (eq:optimal-coefficient)"""
        return self.covariance / self.variance_h

    @property
    def correlation(self) -> Tensor:
        """ρ, between −1 and 1; nan where g or h does not vary."""
        return (self.covariance / (self.variance_g * self.variance_h).sqrt()).clamp(-1.0, 1.0)

    @property
    def share_left(self) -> Tensor:
        """1 − ρ², the share of Var g that the best a leaves.  (eq:share-left)"""
        return 1 - self.correlation.square()

    def variance(self, a: float | Tensor) -> Tensor:
        """Var(g − a h), a parabola in a, (*R); divide by S for an average of S independent draws.  (eq:share-left)"""
        return self.variance_g - 2 * a * self.covariance + a**2 * self.variance_h


def joint_moments(g: Tensor, h: Tensor, weights: Tensor | None = None) -> JointMoments:
    """The moments of g and h over their first axis: of the sample, or exact with the ``weights`` of a quadrature rule.

    g, h: (N, *R) each, broadcast against each other.
    weights: (N,), summing to one, as :func:`vilib.quadrature.trapezoid` gives them; by default the sample's own
        moments, with N − 1 in the variances.
    Raises ShapeError (counts that differ; fewer than two draws without weights).

    >>> from vilib import trapezoid
    >>> eps, weights = trapezoid(1)                                  # f = z², q = N(1, 1): g = f s, h = s in mu
    >>> pair = joint_moments((1 + eps) ** 2 * eps, eps, weights)
    >>> round(pair.coefficient.item(), 6), round(pair.variance(pair.coefficient).item(), 6)
    (4.0, 14.0)
    """
    if len(g) != len(h) or (weights is not None and weights.shape != (len(g),)):
        raise ShapeError(
            f"g, h and weights: expected the same number of draws along the first axis, got {tuple(g.shape)}, "
            f"{tuple(h.shape)} and {None if weights is None else tuple(weights.shape)}.")
    if weights is None and len(g) < 2:
        raise ShapeError(f"g: a variance needs at least 2 draws, got {len(g)}.")
    g, h = torch.broadcast_tensors(g, h)
    even = torch.ones(len(g), dtype=g.dtype, device=g.device)
    mass, spread = (even / len(g), even / (len(g) - 1)) if weights is None else (weights.to(g), weights.to(g))
    average = lambda x: torch.tensordot(mass, x - x[0], 1) + x[0]  # noqa: E731      # about x[0]: a constant stays one
    mean_g, mean_h = average(g), average(h)
    g, h = g - mean_g, h - mean_h
    moment = lambda x: torch.tensordot(spread, x, 1)  # noqa: E731
    return JointMoments(mean_g, mean_h, moment(g.square()), moment(h.square()), moment(g * h))
