"""A reader's own model raced to, and climbed from a bad start: the pictures of :mod:`vilib.race` and :mod:`vilib.bad_starts`.

Everything is in units of the model's best mean-field q, u = (z − mean)/sd, so that starts and step sizes suit any model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import cast

import torch
from torch import Tensor

from vilib.along import FARTHEST_MEAN, WIDEST_LOG_SD, Along, along
from vilib.bad_starts import BadStart, Beside, beside_reference
from vilib.examples import Example
from vilib.families import FullRankGaussian, Gaussian, MeanFieldGaussian
from vilib.own_posterior import OwnModel
from vilib.quadrature import moments_at
from vilib.race import Field, coarse, field_from
from vilib.types import NonFiniteLogJoint, VilibError


@dataclass(frozen=True, eq=False)
class MeasuredAlong(Along):
    """The state of a batch of q, of which ELBO and variance are measured; error: the ELBO's standard error in nats, (*R)."""

    error: Tensor


def measured_along(example: Example, q: MeanFieldGaussian, estimator: str, num_samples: int, eps: Tensor) -> MeasuredAlong:
    """:func:`vilib.along.along` for any number of unknowns: ELBO and variance from the draws at ``eps`` (M, D), the same for
    every q.

    The mean, sd and KL to ``example.best`` are in closed form still.

    >>> from vilib import gaussian_target, normal
    >>> eps = normal(20_000, (), 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> there = measured_along(gaussian_target(), MeanFieldGaussian(torch.ones(1, 1), torch.zeros(1, 1)), "pathwise", 4, eps)
    >>> there.kl.item(), abs(there.elbo.item() + 0.5) < 0.05, abs(there.variance.item() - 1) < 0.1
    (0.5, True, True)
    """
    mu, omega = q.mu.double(), q.omega.double()
    lost = ~((mu.abs() < FARTHEST_MEAN) & (omega.abs() < WIDEST_LOG_SD)).all(-1)
    q = MeanFieldGaussian(mu.masked_fill(lost[..., None], 0.0), omega.masked_fill(lost[..., None], 0.0))
    nodes = eps.reshape(len(eps), *(1 for _ in q.batch_shape), q.dim).expand(len(eps), *q.batch_shape, q.dim)
    found = moments_at(example, q, nodes, eps.new_full((len(eps),), 1 / len(eps)), elbo=True)
    there = MeasuredAlong(mu, omega.exp(), found.mean_f[..., 0], example.kl_to_best(q),
                          found.variances(num_samples)[estimator].sum(-1), (found.variance_f[..., 0] / len(eps)).sqrt())
    blank = lambda x: x.masked_fill(lost.reshape(lost.shape + (1,) * (x.ndim - lost.ndim)), math.nan)  # noqa: E731
    return MeasuredAlong(*(blank(getattr(there, field.name)) for field in fields(there)))


def where_defined(look: Callable[[MeanFieldGaussian], Along], path: Tensor) -> Along:
    """``look`` at the q of a mean-field path (T, N, P); a q under which the log joint has no value counts as lost."""
    path = path.clone()
    while True:
        try:
            return look(MeanFieldGaussian(*path.chunk(2, -1)))
        except NonFiniteLogJoint as error:
            path[error.replicates] = math.nan


def own_field(
    own: OwnModel, path: Tensor, steps: Sequence[int], estimator: str, num_samples: int, *, nats: float, eps: Tensor | None,
) -> Field:
    """The :class:`vilib.race.Field` of a mean-field path (T, N, P) in units of ``own.best()``; close is a KL below ``nats``
    to that.

    Exact where ``own.best()`` is; otherwise ELBO and variance are measured at the draws ``eps`` (M, D).
    """
    example = own.in_units
    if own.best().exact:
        fits = where_defined(lambda q: along(example, q, estimator, num_samples, coarse), path)
    else:
        if eps is None:
            raise VilibError(f"eps: {own.name} has to be measured; give draws of noise, (M, {own.dim}).")
        draws = eps
        fits = where_defined(lambda q: measured_along(example, q, estimator, num_samples, draws), path)
    return field_from(fits, steps, -fits.kl, 0.0, nats)


# ---- a start that is bad on purpose ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class OwnStart:
    """A reader's model as :func:`vilib.bad_starts.beside_reference` looks at it, four widths off in the first coordinate
    shown."""

    example: OwnModel
    num_draws: int = 1000

    def q0(self, family: type[Gaussian]) -> Gaussian:
        """The start: the best mean-field q, moved by four of its sds, and half as wide."""
        best = self.example.units
        mean, omega = best.mu.clone(), best.omega - math.log(2)
        mean[self.example.coordinates[0]] -= 4 * best.stddev[self.example.coordinates[0]]
        return MeanFieldGaussian(mean, omega) if family is MeanFieldGaussian else FullRankGaussian(mean, torch.diag(omega))

    def plane(self, q: Gaussian) -> tuple[Tensor, Tensor]:
        """As ``example.plane`` has it."""
        return self.example.plane(q)

    def moments(self, q: Gaussian) -> tuple[Tensor, Tensor]:
        """Means and sds (T, 2) of the parameters shown, on the reader's scale, from ``num_draws`` draws; nan for a second
        that there is not."""
        eps = torch.randn(self.num_draws, 1, q.dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        theta = self.example.parameter_values(q.transform(eps.expand(-1, *q.batch_shape, -1)))
        at = list(self.example.coordinates)
        return _two(theta.mean(0)[..., at]), _two(theta.std(0)[..., at])

    @property
    def known(self) -> tuple[Tensor, Tensor]:
        """Means and sds (2,) of the parameters shown, as ``example.reference`` has them."""
        (mean, sd), at = self.example.reference, list(self.example.coordinates)
        return _two(mean[at]), _two(sd[at])


def beside_own(
    start: OwnStart, path: Gaussian, best: float, num_draws: int, num_last: int, generator: torch.Generator,
) -> Beside:
    """:func:`vilib.bad_starts.beside_reference`; a q under which the log joint has no value counts as thrown out."""
    vector = path.vector().clone()
    while True:
        try:
            return beside_reference(cast(BadStart, start), path.with_vector(vector), best, num_draws, num_last, generator)
        except NonFiniteLogJoint as error:
            hit = error.replicates if error.replicates.ndim else torch.arange(len(vector)) == len(vector) - 1
            if bool(hit[0]):
                raise
            vector[hit] = math.nan


def _two(x: Tensor) -> Tensor:
    return x if x.shape[-1] == 2 else torch.cat([x, x * math.nan], -1)
