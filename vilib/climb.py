"""A climb that finds its own units and knows when it has arrived.

:func:`vilib.fit.fit` climbs with one step size for all of λ.  Here it is run in rounds, and each round measures z in
units of the q that the round before ended with, z = T_q(u): a step of 0.1 is then a tenth of a standard deviation in
every coordinate, whatever the reader's units.  An affine map takes Gaussians to Gaussians and moves the ELBO by
nothing, so the objective is the same in every round.

When to stop: see :class:`Optimality`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vilib.families import FullRankGaussian, Gaussian, MeanFieldGaussian
from vilib.fit import Fit, Schedule, fit
from vilib.models import value_and_slope
from vilib.noise import normal
from vilib.types import AllFitsFailed, Estimator, LogJoint, Noise, NonFiniteLogJoint


# ---- a log joint in units of q --------------------------------------------------------------------------------------


class InUnitsOf:
    """u -> β log p(x, T_q(u)) + log |det ∂T_q/∂u|: the log joint in coordinates in which q is the standard normal.

    A q_u fitted here is the q of ``compose(q, q_u)`` there, with the same ELBO.

    >>> q = MeanFieldGaussian(torch.tensor([3.0]), torch.tensor([0.0]))
    >>> InUnitsOf(q, lambda z: -z.square().sum(-1))(torch.tensor([[-3.0]])).item() == 0
    True
    """

    def __init__(self, q: Gaussian, log_joint: LogJoint, power: float = 1.0):
        self.q, self.log_joint, self.power = q, log_joint, power
        self.log_det = q.log_scales().sum(-1)

    def __call__(self, u: Tensor) -> Tensor:
        return self.power * self.log_joint(self.q.transform(u)) + self.log_det

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """The draw u (D,) as the reader knows it, for an error to show."""
        z = self.q.transform(u.unsqueeze(0))[0]
        return self.log_joint.constrain(z) if hasattr(self.log_joint, "constrain") else {"z": z}


def standard(q: Gaussian) -> Gaussian:
    """The standard normal of q's family, dimension, dtype and device."""
    return q.with_vector(torch.zeros_like(q.vector()))


def compose(q: Gaussian, q_u: Gaussian) -> Gaussian:
    """The density of T_q(u), u ~ q_u; q (no batch), q_u of any batch.

    >>> q = MeanFieldGaussian(torch.tensor([3.0]), torch.tensor([1.0]))
    >>> compose(q, standard(q)).mu
    tensor([3.])
    """
    if isinstance(q, MeanFieldGaussian) and isinstance(q_u, MeanFieldGaussian):
        return MeanFieldGaussian(q.mu + q.stddev * q_u.mu, q.omega + q_u.omega)
    mean = q.mu + (q.scale_tril @ q_u.mu.unsqueeze(-1)).squeeze(-1)
    return FullRankGaussian(mean, _raw(q.scale_tril @ q_u.scale_tril))


def gaussian_like(q: Gaussian, mean: Tensor, precision: Tensor) -> Gaussian:
    """The member of q's family nearest (in reverse KL) to the Gaussian of this mean (D,) and precision (D, D).

    >>> q = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> gaussian_like(q, torch.ones(1), torch.tensor([[4.0]])).stddev
    tensor([0.5000])
    """
    if isinstance(q, MeanFieldGaussian):
        return MeanFieldGaussian(mean, -0.5 * precision.diagonal().log())
    return FullRankGaussian(mean, _raw(torch.linalg.cholesky(torch.linalg.inv(precision))))


def scaled(q: Gaussian, factor: float) -> Gaussian:
    """q with every standard deviation multiplied by ``factor``."""
    if isinstance(q, MeanFieldGaussian):
        return MeanFieldGaussian(q.mu, q.omega + math.log(factor))
    return FullRankGaussian(q.mu, _raw(factor * q.scale_tril))


def _raw(tril: Tensor) -> Tensor:
    return tril.tril(-1) + torch.diag_embed(tril.diagonal(dim1=-2, dim2=-1).log())


# ---- has it arrived? ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Optimality:
    """How far q is from the optimum of the ELBO, by the two equations that hold there (Opper & Archambeau 2009).

    At the optimum E_q[∇ log p] = 0, and the precision of q is E_q[−∇² log p] (its diagonal, for a mean-field q).
    Both expectations are estimated at fresh draws; then
    shift (D,): how far one step of Newton's method would move each mean, in units of the standard deviation that
        E_q[−∇² log p] implies, all coordinates taken together;
    widen (D,): by how much the standard deviation that the second equation asks for differs from each of q's (full
        rank: from each principal one), as a logarithm, 0.05 for 5 %;
    concave: whether E_q[−∇² log p] is positive definite, without which there is no maximum in the means here.

    They are estimates, as noisy as the draws they were made of, and exact only for a log joint that is quadratic.  They
    say nothing of other maxima of the ELBO, and nothing of how far the best q is from the posterior.
    """

    shift: Tensor
    widen: Tensor
    concave: bool

    @property
    def distance(self) -> float:
        """The largest of all of them, which a tolerance is compared with: at 0.05 no mean is *estimated* to be off by more
        than 0.05 sd and no sd by more than about 5 %.  Infinite where not concave."""
        if not self.concave:
            return math.inf
        worst = max(self.shift.abs().max().item(), self.widen.abs().max().item())
        return worst if math.isfinite(worst) else math.inf


def optimality(log_joint: LogJoint, q: Gaussian, num_samples: int, generator: torch.Generator) -> Optimality:
    """How far q (no batch) is from the best of its family: see :class:`Optimality`.

    Regresses ∇_u log p(x, T_q(u)) on u at ``num_samples`` draws, more than D + 1 of them: the intercept estimates the
    mean slope, free of the noise that a linear slope makes, and the coefficients the mean curvature (Stein's lemma).

    >>> from vilib import gaussian_target
    >>> q = MeanFieldGaussian(torch.ones(1), torch.zeros(1))                  # one sd off, and the right sd
    >>> at = optimality(gaussian_target(), q, 100, torch.Generator().manual_seed(0))
    >>> round(at.shift.item(), 4), abs(round(at.widen.item(), 4))
    (-1.0, 0.0)
    """
    u = normal(num_samples, (), q.dim, generator=generator, dtype=q.mean.dtype)
    slopes = value_and_slope(InUnitsOf(q, log_joint), u)[1]
    design = torch.cat([torch.ones_like(u[:, :1]), u], -1).double()
    solution = torch.linalg.lstsq(design, slopes.double()).solution
    slope, curvature = solution[0], -0.5 * (solution[1:] + solution[1:].mT)              # E[∇], E[−∇²] in units of q
    concave = bool(torch.linalg.eigvalsh(curvature)[0] > 0)
    if not concave:
        return _nowhere(q)
    tril = q.scale_tril.double()
    covariance = tril @ torch.linalg.inv(curvature) @ tril.mT                             # what the curvature implies
    shift = (tril @ torch.linalg.solve(curvature, slope)) / covariance.diagonal().sqrt()
    own = curvature.diagonal() if isinstance(q, MeanFieldGaussian) else torch.linalg.eigvalsh(curvature)
    return Optimality(shift, -0.5 * own.log(), True)


def _nowhere(q: Gaussian) -> Optimality:
    """No optimum in sight."""
    return Optimality(torch.full_like(q.mean, math.inf), torch.full_like(q.mean, math.inf), False)


# ---- the climb ------------------------------------------------------------------------------------------------------

_MAX_FALLS, _NEAR, _MAX_RECORD = 8, 10.0, 2**25


@dataclass(frozen=True, eq=False)
class Climb:
    """Where a climb ended: q, how far from the optimum it was estimated to be, and every step of the way.

    arrived: whether that last estimate was at most the tolerance.  num_looked: the draws that it was made of.
    falls: what each round that had to be begun again said.
    """

    q: Gaussian
    at: Optimality
    fit: Fit[Gaussian]
    arrived: bool
    num_looked: int
    falls: list[str]


def climb(
    log_joint: LogJoint, q0: Gaussian, *, estimator: Estimator, num_samples: int, max_steps: int,
    optimizer: Callable[..., Any], step_size: float, schedule: Schedule | None, tempering: Sequence[float],
    tolerance: float, generator: torch.Generator, noise: Noise = normal, round_steps: int = 100,
    after_round: Callable[[int], None] = lambda steps: None,
) -> Climb:
    """Rounds of :func:`vilib.fit.fit` from q0 (no batch), each in units of the q before it, until one ends where
    :func:`optimality` estimates a distance of at most ``tolerance``, or ``max_steps`` are used up.  The options are
    those of :func:`vilib.advi.advi`.

    The estimate is made after each round (but those of tempering) from fresh draws, 10 × ``round_steps`` or 10 D of
    them, whichever is more; ``round_steps`` grows as below.  So the true distance at the end may exceed ``tolerance``:
    the estimate has noise of its own, and the first low one ends the climb.

    A round ends with the average of λ over its last half.  One that is near (within ten standard deviations) and did
    not raise the ELBO beyond its noise has reached what its step size can reach: the next has half the step size and
    twice the steps (unless there is a ``schedule``).

    >>> from vilib import adam, gaussian_target, pathwise
    >>> q0 = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> end = climb(gaussian_target(5.0, 0.1), q0, estimator=pathwise, num_samples=16, max_steps=5000,
    ...             optimizer=adam, step_size=0.1, schedule=None, tempering=(), tolerance=0.05,
    ...             generator=torch.Generator().manual_seed(0))
    >>> end.arrived, bool((end.q.mean - 5).abs() < 0.01)
    (True, True)
    """
    q, steps_done, unseen, looked, powers, best, at = q0, 0, 0, 0, [*tempering], -math.inf, None
    rounds: list[tuple[Gaussian, Fit[Gaussian]]] = []
    falls: list[str] = []
    while at is None or (at.distance > tolerance and steps_done < max_steps):
        power = powers.pop(0) if powers else 1.0
        ahead = partial(_later, schedule, steps_done) if schedule is not None else None
        q, done, step_size = _round(log_joint, q, power, step_size, falls, optimizer, ahead, dict(
            estimator=estimator, num_samples=num_samples, num_steps=max(1, min(round_steps, max_steps - steps_done)),
            generator=generator, noise=noise, record_every=1 + q.num_parameters * max_steps // _MAX_RECORD))
        rounds.append((q, done))
        steps_done += int(done.steps[-1])
        half = len(done.steps) // 2
        q = compose(q, done.family.with_vector(done.path[half:].mean(0)))
        after_round(steps_done)
        if power != 1.0:
            continue
        try:
            looked = max(10 * round_steps, 10 * q.dim)
            at, unseen = optimality(log_joint, q, looked, generator), 0
        except NonFiniteLogJoint:                              # some draws of a q that is still too wide; not for ever
            at, unseen = _nowhere(q), unseen + 1
            if unseen > 2 or steps_done >= max_steps:
                raise
        values = done.elbo[half:]
        elbo, standard_error = values.mean().item(), values.std(correction=0).item() / len(values) ** 0.5
        if schedule is None and at.distance < _NEAR and not elbo > best + max(2 * standard_error, 0.01):
            step_size, round_steps = step_size / 2, 2 * round_steps
        best = max(best, elbo)
    return Climb(q, at, _joined(rounds), at.distance <= tolerance, looked, falls)


def _round(
    log_joint: LogJoint, q: Gaussian, power: float, step_size: float, falls: list[str], optimizer: Callable[..., Any],
    schedule: Schedule | None, options: dict[str, Any],
) -> tuple[Gaussian, Fit[Gaussian], float]:
    """One fit in units of q, begun again with a quarter of the step size, and half of q's width, if it falls."""
    while True:
        try:
            done = fit(log_joint=InUnitsOf(q, log_joint, power), q0=standard(q),
                       optimizer=optimizer(step_size, schedule), **options)
            return q, done, step_size
        except AllFitsFailed as fall:
            falls.append(str(fall))
            if len(falls) > _MAX_FALLS:
                message = f"The climb fell {len(falls)} times, with ever smaller steps. {fall}"
                raise AllFitsFailed(message, fall.failed_at) from fall
            step_size, q = step_size / 4, scaled(q, 0.5)


def _later(schedule: Schedule, begun: int, step: int) -> float:
    return schedule(begun + step)


def _joined(rounds: Sequence[tuple[Gaussian, Fit[Gaussian]]]) -> Fit[Gaussian]:
    """The rounds as one fit, λ in the coordinates of z; where one ended and the next begins, the beginning stands."""
    paths, steps, elbos, begun = [], [], [], 0
    for i, (q, done) in enumerate(rounds):
        keep = slice(None) if i == len(rounds) - 1 else slice(-1)
        paths.append(compose(q, done.q_at(keep)).vector())
        steps.append(done.steps[keep] + begun)
        elbos.append(done.elbo[keep])
        begun += int(done.steps[-1])
    return Fit(torch.cat(steps), torch.cat(paths), torch.cat(elbos), rounds[-1][1].failed_at, rounds[-1][0])
