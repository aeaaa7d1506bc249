"""A race of estimators: the same fits for each, from one start on the same noise, so that they differ in nothing else.

What is said of the fits is exact: :func:`vilib.along.along` looks at every q on their way by quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from vilib.along import Along, along, path_or_gaps, steps_to_within
from vilib.examples import Example
from vilib.families import Gaussian, MeanFieldGaussian
from vilib.fit import Optimizer
from vilib.quadrature import Rule, gauss_hermite, trapezoid
from vilib.side_by_side import optimizers_side_by_side, the_same_for_each
from vilib.tables import Table
from vilib.types import Estimator, LogJoint

LOST_ELBO = -1e9  # nats: where the quantiles place a fit that is lost


def race(
    estimators: Mapping[str, Estimator], log_joint: LogJoint, q0: MeanFieldGaussian, *, seed: int, **options: Any
) -> dict[str, tuple[Tensor, Tensor]]:
    """Key -> the path of that estimator's fits, (T, *R, P), and which failed, (*R); every estimator sees the same noise.

    options: those of :func:`vilib.fit.fit` but the generator, with ``record_steps``.  Where all fits of an estimator fail, its
    path is nan.  Raises what ``fit`` raises but AllFitsFailed.

    >>> from vilib import adam, gaussian_target, pathwise, sticking_the_landing
    >>> q0 = MeanFieldGaussian(torch.ones(3, 1), torch.zeros(3, 1))
    >>> paths = race({"path": pathwise, "stl": sticking_the_landing}, gaussian_target(), q0, seed=0, num_samples=2,
    ...              num_steps=20, record_steps=[0, 10, 20], optimizer=adam(0.1))
    >>> paths["stl"][0].shape, bool(paths["path"][1].any())
    (torch.Size([3, 3, 2]), False)
    """
    same_noise = lambda: torch.Generator(q0.mu.device).manual_seed(seed)  # noqa: E731
    return {key: path_or_gaps(estimator, log_joint, q0, **options, generator=same_noise())
            for key, estimator in estimators.items()}


def races(
    estimators: Mapping[str, Estimator], log_joint: LogJoint, q0: MeanFieldGaussian, optimizers: Sequence[Optimizer], *, seed: int,
    **options: Any,
) -> dict[str, tuple[Tensor, Tensor]]:
    """:func:`race` with each of K optimisers, as one program: key -> paths (T, K, *R, P), and which fits failed, (K, *R).

    What an optimiser's fits see and do is what they would alone: its slice is ``race(..., optimizer=optimizers[k])``.

    >>> from vilib import adam, gaussian_target, pathwise, sgd
    >>> q0 = MeanFieldGaussian(torch.ones(3, 1), torch.zeros(3, 1))
    >>> paths, failed = races({"path": pathwise}, gaussian_target(), q0, [adam(0.1), sgd(1e9)], seed=0, num_samples=2,
    ...                       num_steps=20, record_steps=[0, 10, 20])["path"]
    >>> paths.shape, failed.any(-1).tolist(), bool(paths[:, 1].isnan().all())
    (torch.Size([3, 2, 3, 2]), [False, True], True)
    """
    found = race(estimators, log_joint, q0.expand(len(optimizers)), seed=seed, noise=the_same_for_each(),
                 optimizer=optimizers_side_by_side(optimizers), **options)
    all_failed = lambda failed: failed.flatten(1).all(1).reshape(-1, *(1 for _ in q0.batch_shape), 1)  # noqa: E731
    return {key: (path.masked_fill(all_failed(failed), math.nan), failed) for key, (path, failed) in found.items()}


@dataclass(frozen=True, eq=False)
class Field:
    """N fits by one estimator at T recorded steps: the exact state of each, and what they did together.

    fits: each fit at each step, (T, N).
    low, high: the ELBO below which a tenth and nine tenths of the fits are, (T,), in nats; a lost fit counts as the worst.
    variance: the median over the fits of a gradient's variance, summed over λ, (T,); nan where all are lost.
    arrived: the median of the steps at which they come close to the best ELBO; nan where half of them never do.
    """

    fits: Along
    low: Tensor
    high: Tensor
    variance: Tensor
    arrived: float


def coarse(dim: int) -> tuple[Tensor, Tensor]:
    """A rule good enough for a picture: 193 equal steps in one dimension, 8 × 8 Gauss–Hermite nodes in two.

    >>> [len(coarse(dim)[1]) for dim in (1, 2)]
    [193, 64]
    """
    return gauss_hermite(dim, 8) if dim == 2 else trapezoid(dim, 193)


def field_of(
    example: Example, path: Tensor, steps: Sequence[int], estimator: str, num_samples: int, *, nats: float = 0.01,
    rule: Rule = coarse, table: Table | None = None,
) -> Field:
    """The :class:`Field` of a mean-field path (T, N, P) recorded at ``steps`` (T,).

    nats: how near the best ELBO is close.  example, estimator, num_samples, rule, table: as for :func:`vilib.along.along`, which
    says what is raised.

    >>> from vilib import gaussian_target
    >>> path = torch.tensor([[[2.0, 0.0]] * 3, [[0.0, 0.0]] * 3]).double()                # three fits, two steps; KL 2, then 0
    >>> field = field_of(gaussian_target(), path, [0, 10], "pathwise", 4)
    >>> field.low.round(decimals=6) + 0.0, field.arrived
    (tensor([-2.,  0.], dtype=torch.float64), 10.0)
    """
    fits = along(example, MeanFieldGaussian(*path.chunk(2, -1)), estimator, num_samples, rule, table)
    return field_from(fits, steps, fits.elbo, cast(tuple[Gaussian, float], example.best)[1], nats)


def field_from(fits: Along, steps: Sequence[int], height: Tensor, top: float, nats: float) -> Field:
    """The :class:`Field` of fits that have been looked at, which count as arrived where ``height`` (T, N) is within ``nats`` of ``top``."""
    elbo = fits.elbo.nan_to_num(nan=LOST_ELBO)
    low, high = elbo.quantile(torch.tensor([0.1, 0.9], dtype=elbo.dtype), 1)
    arrived = steps_to_within(torch.tensor(steps), height.nan_to_num(nan=LOST_ELBO), top, nats).quantile(0.5).item()
    return Field(fits, low, high, fits.variance.nanquantile(0.5, 1), arrived if math.isfinite(arrived) else math.nan)
