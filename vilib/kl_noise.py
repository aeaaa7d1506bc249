"""How noisy is a Monte Carlo KL?  The exact moments of a log ratio of two densities, by quadrature.

One of the two densities draws, the *base*: q for the reverse KL(q ‖ p), p for the forward KL(p ‖ q).  With w the other
density over the base, a term of k1 is −log w and a term of k3 is w − 1 − log w; both have the mean KL(base ‖ other).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vilib.models import evaluate
from vilib.quadrature import box_nodes
from vilib.types import LogJoint

#: By how much, in nats, the integrand of E[w²] must have fallen at the edge of the box for the integral to exist.
FALLEN = 14.0


@dataclass(frozen=True)
class LogRatioMoments:
    """What the noise of k1 and k3 is made of, in nats and nats².

    kl: KL(base ‖ other).  opposite_kl: KL(other ‖ base).  variance: Var[log w] under the base.  chi_squared: Var[w],
    which is inf where the integral diverges, or has not converged within the box.
    """

    kl: float
    opposite_kl: float
    variance: float
    chi_squared: float

    @property
    def sd_k1(self) -> float:
        """The standard deviation of one term of k1."""
        return math.sqrt(self.variance)

    @property
    def sd_k3(self) -> float:
        """The standard deviation of one term of k3; inf where it has none.  (eq:kl-term-variance)"""
        return math.sqrt(max(self.variance + self.chi_squared - 2 * (self.kl + self.opposite_kl), 0.0))

    def times(self, part: LogRatioMoments) -> LogRatioMoments:
        """The moments for products of densities, ``part`` a factor: KLs and variances add, E[w²] multiplies."""
        squares = (1 + self.chi_squared) * (1 + part.chi_squared)
        return LogRatioMoments(self.kl + part.kl, self.opposite_kl + part.opposite_kl, self.variance + part.variance,
                               squares - 1)


def log_ratio_moments(
    log_base: LogJoint, log_other: LogJoint, lower: float | Sequence[float], upper: float | Sequence[float],
    num_nodes: int | None = None,
) -> LogRatioMoments:
    """The moments of log w = log_other − log_base under the base, by quadrature over a box.  (eq:kl-term-variance)

    log_base, log_other: normalised log densities, z (..., D) -> (...), D ≤ 2.  lower, upper, num_nodes: as for
    :func:`vilib.quadrature.box_nodes`; the box must hold the mass of both.
    Raises ShapeError (D), NonScalarLogJoint, NonFiniteLogJoint.

    >>> from vilib import gaussian_target
    >>> one = log_ratio_moments(gaussian_target(), gaussian_target(0.5, 1.0), -30, 30)
    >>> round(one.kl, 6), round(one.sd_k1, 6), round(one.sd_k3, 4)              # m²/2, m, √(e^{m²} − 1 − m²)
    (0.125, 0.5, 0.1845)
    >>> log_ratio_moments(gaussian_target(), gaussian_target(0.0, 1.5), -30, 30).sd_k3      # p more than √2 times wider
    inf
    """
    z, log_cell = box_nodes(lower, upper, num_nodes)
    base, other = evaluate(log_base, z), evaluate(log_other, z)
    log_w, cell = other - base, math.exp(log_cell)
    kl, opposite = (-(base.exp() * log_w).sum() * cell).item(), ((other.exp() * log_w).sum() * cell).item()
    variance = ((base.exp() * log_w.square()).sum() * cell).item() - kl**2
    square = other + log_w                                                                  # log of w² times the base
    edge = max(end.max() for d in range(square.ndim) for end in (square.select(d, 0), square.select(d, -1)))
    fallen = edge < square.max() - FALLEN
    chi = torch.logsumexp(square.flatten(), 0).add(log_cell).expm1().item() if fallen else math.inf
    return LogRatioMoments(kl, opposite, max(variance, 0.0), max(chi, 0.0))
