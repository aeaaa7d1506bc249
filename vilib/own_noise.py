"""How noisy is one gradient of the ELBO of a reader's own model?  :mod:`vilib.gradient_noise`, for any model.

q stands in units of the model's best mean-field q, u = (z − mean)/sd, and so does the gradient: nats per standard deviation.
What is said beside the estimates is exact up to two unknowns, and measured by more draws beyond.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vilib.families import MeanFieldGaussian
from vilib.gradient_noise import GradientNoise, alike, gradient_noise, score_terms
from vilib.noise import normal
from vilib.own_posterior import OwnModel
from vilib.quadrature import Moments, moments, moments_at
from vilib.types import NonFiniteLogJoint, VilibError


@dataclass(frozen=True, eq=False)
class OwnNoise:
    """The noise of ∂/∂μ of the first coordinate shown, by each estimator, at one q.

    noise: name -> :class:`vilib.gradient_noise.GradientNoise`.  q: where it was looked at, in z.
    z (N, D), added (N,): where the first draws of the first estimate fell, and what each adds to its sum.
    error: the standard error of ``exact``, 0 where it is exact.
    """

    noise: dict[str, GradientNoise]
    q: MeanFieldGaussian
    z: Tensor
    added: Tensor
    error: float

    @property
    def signal(self) -> bool:
        """Whether the gradient is told apart from zero, by four standard errors."""
        exact = next(iter(self.noise.values())).exact
        return abs(exact) > max(1e-6, 4 * self.error)


def own_noise(
    own: OwnModel, mu: float, log_sigma: float, estimators: Sequence[str], *, num_replicates: int, max_samples: int,
    num_measured: int, num_shown: int, seed: int,
) -> OwnNoise:
    """``num_replicates`` gradients by each estimator at S = 1, 2, 4, … ``max_samples``, at the q that is ``mu`` sds off the
    best one in every coordinate and e^``log_sigma`` times as wide.

    num_measured: draws behind ``exact`` and the variances of a model with more than two unknowns.
    Raises what the model raises.

    >>> from vilib import gaussian_target
    >>> from vilib.own_model import own_model
    >>> found = own_noise(own_model(gaussian_target(5.0, 0.1)), 1.0, 0.0, ["pathwise"], num_replicates=200, max_samples=64,
    ...                   num_measured=0, num_shown=8, seed=0)
    >>> round(found.noise["pathwise"].exact, 4), found.error                      # of −(u − 1)²/2, a nat per sd
    (-1.0, 0.0)
    """
    example, q, at = own.in_units, alike(mu, log_sigma, own.dim), own.coordinates[0]
    of_one, error = _moments(own, q, _draws(own, num_measured, (), seed=99) if num_measured else None, at)
    eps = _draws(own, max_samples, (num_replicates,), seed)
    noise = gradient_noise(example, q, eps, estimators, coordinate=at, of_one=of_one)
    first, best = eps[:num_shown, 0], own.units
    z, added = best.transform(q.transform(first)), score_terms(example, q, first, at)[1]
    return OwnNoise(noise, MeanFieldGaussian(best.mu + best.stddev * mu, best.omega + log_sigma), z, added, error)


def _draws(own: OwnModel, num_samples: int, batch: tuple[int, ...], seed: int) -> Tensor:
    return normal(num_samples, batch, own.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _moments(own: OwnModel, q: MeanFieldGaussian, eps: Tensor | None, at: int) -> tuple[Moments, float]:
    """Of the ELBO's integrand under q in units: exact, or measured at ``eps`` (M, D); and the gradient's standard error."""
    if own.best().exact:
        try:
            return moments(own.in_units, q, elbo=True), 0.0
        except NonFiniteLogJoint:                                 # a node far out, where the reader's function has no value
            pass
    if eps is None:
        raise VilibError("num_measured: this gradient has to be measured; give a number of draws, such as 20,000.")
    found = moments_at(own.in_units, q, eps, eps.new_full((len(eps),), 1 / len(eps)), elbo=True)
    variance = (found.path2[at] - found.gradient[at].square()).clamp_min(1e-24)
    return found, (variance / len(eps)).sqrt().item()


def variance_range(
    own: OwnModel, offsets: Sequence[float], log_widths: Sequence[float], max_samples: int, num_draws: int = 256,
) -> tuple[float, float]:
    """Powers of ten between which the variances lie, of one draw's score function and of ``max_samples`` draws' pathwise
    gradient, over all these places of q; measured."""
    mu, omega = (x.reshape(-1, 1).expand(-1, own.dim) for x in torch.meshgrid(
        torch.tensor(offsets).double(), torch.tensor(log_widths).double(), indexing="ij"))
    corners = MeanFieldGaussian(mu, omega)
    eps = _draws(own, num_draws, corners.batch_shape, seed=7)
    found = moments_at(own.in_units, corners, eps, eps.new_full((num_draws,), 1 / num_draws), elbo=True).variances()
    of_one = {name: found[name][:, own.coordinates[0]] for name in ("score_function", "pathwise")}
    high = 10.0 ** math.ceil(math.log10(of_one["score_function"].max().item() + 1e-9))
    low = of_one["pathwise"].min().item() / max_samples
    return 10.0 ** math.floor(math.log10(max(low, high * 1e-12))), high
