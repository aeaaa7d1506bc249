"""What is exactly true along the paths of fits: where a fit saw noisy estimates, quadrature says how things stood.

For one or two unknowns.  The q of any fit at any step are one batch *R, so a race of many fits is looked at in one go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from vilib.examples import Example
from vilib.families import MeanFieldGaussian
from vilib.fit import fit
from vilib.quadrature import Moments, Rule, moments, trapezoid
from vilib.tables import Table
from vilib.types import AllFitsFailed, Estimator, Family, LogJoint, VilibError

#: Beyond these a fit is lost: so far out that float32 is about to give up.
FARTHEST_MEAN, WIDEST_LOG_SD = 1e6, 30.0


@dataclass(frozen=True, eq=False)
class Along:
    """The exact state of a batch of q, float64; nan where q is lost.

    mean, stddev: (*R, D).  elbo and kl, the KL divergence to the best q, in nats: (*R).
    variance: of one gradient estimate, summed over λ, (*R).
    """

    mean: Tensor
    stddev: Tensor
    elbo: Tensor
    kl: Tensor
    variance: Tensor


def along(
    example: Example, q: MeanFieldGaussian, estimator: str, num_samples: int, rule: Rule = trapezoid,
    table: Table | None = None,
) -> Along:
    """What is exactly true of each q (*R), and how noisy ``estimator`` is there with ``num_samples`` draws.

    example: of one or two unknowns, with a ``best`` q.
    estimator: a name of :meth:`vilib.quadrature.Moments.variances`.
    rule: a coarse one will do for a picture, and costs less.
    table: of the log joint, if it is 1-D; it is asked instead wherever it reaches.
    Raises VilibError (estimator), ShapeError (more than two unknowns).

    >>> from vilib import gaussian_target
    >>> q = MeanFieldGaussian(torch.tensor([[1.0], [torch.nan]]), torch.zeros(2, 1))
    >>> there = along(gaussian_target(), q, "pathwise", 4)
    >>> there.kl, there.variance                                                 # KL ½; (1 + 1 + 2)/4
    (tensor([0.5000,    nan], dtype=torch.float64), tensor([1.0000,    nan], dtype=torch.float64))
    """
    mu, omega = q.mu.double(), q.omega.double()
    lost = ~((mu.abs() < FARTHEST_MEAN) & (omega.abs() < WIDEST_LOG_SD)).all(-1)
    q = MeanFieldGaussian(mu.masked_fill(lost[..., None], 0.0), omega.masked_fill(lost[..., None], 0.0))
    found = moments(example, q, rule, elbo=True) if table is None else _by_table(example, table, q, rule)
    variances = found.variances(num_samples)
    if estimator not in variances:
        raise VilibError(f"estimator: expected one of {', '.join(variances)}, got {estimator!r}.")
    there = Along(mu, omega.exp(), found.mean_f[..., 0], example.kl_to_best(q), variances[estimator].sum(-1))
    return Along(*(_blank(getattr(there, field.name), lost) for field in fields(there)))


def _blank(x: Tensor, lost: Tensor) -> Tensor:
    return x.masked_fill(lost.reshape(lost.shape + (1,) * (x.ndim - lost.ndim)), math.nan)


def _by_table(example: Example, table: Table, q: MeanFieldGaussian, rule: Rule) -> Moments:
    """The moments of each q, by the table where all its nodes lie within, by the log joint itself elsewhere."""
    reach = rule(1)[0].abs().max() * q.stddev[..., 0]
    within = (q.mu[..., 0] - reach >= table.lower) & (q.mu[..., 0] + reach <= table.upper)
    vector = q.vector()
    parts: dict[str, Tensor] = {}
    for log_joint, chosen in ((table, within), (example, ~within)):
        if chosen.any():
            part = moments(log_joint, q.with_vector(vector[chosen]), rule, elbo=True)
            for field in fields(Moments):
                value = getattr(part, field.name).expand(int(chosen.sum()), -1)
                parts.setdefault(field.name, value.new_empty(*chosen.shape, value.shape[-1]))[chosen] = value
    return Moments(**parts)


def path_or_gaps(estimator: Estimator, log_joint: LogJoint, q0: Family, **options: Any) -> tuple[Tensor, Tensor]:
    """The path of :func:`vilib.fit.fit`, (T, *R, P), and which fits failed, (*R); where all fail, nan instead of an error.

    options: those of ``fit``, with ``record_steps``, which says what T is.  Raises what ``fit`` raises but AllFitsFailed.

    >>> from vilib import gaussian_target, pathwise, sgd
    >>> q0 = MeanFieldGaussian(torch.zeros(3, 1), torch.zeros(3, 1))
    >>> path, failed = path_or_gaps(pathwise, gaussian_target(), q0, num_samples=1, num_steps=50, record_steps=[0, 50],
    ...                             optimizer=sgd(1e9), generator=torch.Generator().manual_seed(0))
    >>> path.shape, failed
    (torch.Size([2, 3, 2]), tensor([True, True, True]))
    """
    try:
        done = fit(estimator, log_joint, q0, **options)
    except AllFitsFailed as error:
        gaps = torch.full((len(options["record_steps"]), *q0.vector().shape), math.nan)
        return gaps.to(q0.vector()), error.failed_at >= 0
    return done.path, done.failed_at >= 0


def steps_to_within(steps: Tensor, elbo: Tensor, best: float, nats: float = 0.01) -> Tensor:
    """The first recorded step (T,) at which each fit's exact ELBO (T, *R) is within ``nats`` of the best: (*R), inf if
    none is.

    A later step may have left again.  nan counts as not there.

    >>> elbo = torch.tensor([[-3.0, -3.0], [-0.005, -2.0], [-0.001, torch.nan]])
    >>> steps_to_within(torch.tensor([0, 10, 20]), elbo, best=0.0)
    tensor([10., inf])
    """
    there = elbo > best - nats
    first = steps.to(elbo)[there.to(torch.uint8).argmax(0)]
    return first.masked_fill(~there.any(0), math.inf)
