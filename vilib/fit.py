"""Climbing the ELBO: λ_{t+1} = λ_t + ρ_t g_t, for any number of fits side by side.

Every leading axis *R of q0 is one fit: seeds, step sizes, starting points.  All of them are one tensor program.
An :class:`Optimizer` is a pair of small functions; they equal ``torch.optim`` to rounding, work on (*R, P), and
start at once.  A ``torch.optim`` factory may be given instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Tensor

from vilib.draws import Step, step_of
from vilib.noise import normal
from vilib.types import (
    AllFitsFailed, DependentDraws, Estimator, LogJoint, Noise, NonFiniteLogJoint, Q, VilibError, check_generator,
)

#: step 0, 1, … -> the factor on the step size.
Schedule = Callable[[int], float]

#: A factory of ``torch.optim``, such as ``lambda params: torch.optim.Adam(params, lr=0.1)``.
TorchOptimizer = Callable[[Any], torch.optim.Optimizer]


# ---- step sizes and optimisers --------------------------------------------------------------------------------------


def robbins_monro(kappa: float = 0.7, delay: float = 100.0) -> Schedule:
    """t -> (1 + t/delay)^(−kappa), the factor on the step size: Σρ = ∞, Σρ² < ∞.

    (eq:robbins-monro; Robbins & Monro 1951)

    delay: in steps; after about that many the steps begin to shrink.
    Raises VilibError unless ½ < kappa ≤ 1 and delay > 0.

    >>> robbins_monro(kappa=1.0, delay=10.0)(10)
    0.5
    """
    if not 0.5 < kappa <= 1:
        raise VilibError(
            f"kappa: expected ½ < kappa ≤ 1, got {kappa}. At ½ or below the steps "
            "shrink too slowly for the noise to die out (Σρ² = ∞); above 1 too fast "
            "to get anywhere (Σρ < ∞)."
        )
    if delay <= 0:
        raise VilibError(f"delay: a positive number of steps, got {delay}.")
    return lambda step: (1 + step / delay) ** -kappa


@dataclass(frozen=True)
class Optimizer:
    """How a gradient becomes a step.

    init: λ (*R, P) -> state.
    update: (gradient (*R, P), state, step 0, 1, …) -> (increment (*R, P) to *add* to λ, state).
    climb: (λ, gradient, state, step) -> state, the same step taken in place, λ and the state changed: an optimiser may bring
    it where it has a quicker way, and a climb that owns both then goes by it.  The gradient is lent to it: it may not keep it.
    """

    init: Callable[[Tensor], Any]
    update: Callable[[Tensor, Any, int], tuple[Tensor, Any]]
    climb: Callable[[Tensor, Tensor, Any, int], Any] | None = None

    def step(self, vector: Tensor, gradient: Tensor, state: Any, step: int) -> Any:
        """The step taken in place, λ changed, by whichever way there is; returns the state."""
        if self.climb is not None:
            return self.climb(vector, gradient, state, step)
        increment, state = self.update(gradient, state, step)
        vector.add_(increment)
        return state


def sgd(step_size: float | Tensor, schedule: Schedule | None = None) -> Optimizer:
    """ρ_t g_t with ρ_t = step_size · schedule(t).  (eq:robbins-monro)

    step_size, here and below: a number, or a tensor that broadcasts to *R, one a fit.

    >>> step, _ = sgd(0.1).update(torch.tensor([2.0]), (), 0); step
    tensor([0.2000])
    """
    rate = _rate(step_size, schedule)
    return Optimizer(lambda vector: (), lambda gradient, state, step: (rate(step, gradient) * gradient, state))


def rmsprop(step_size: float | Tensor, schedule: Schedule | None = None, decay: float = 0.99, eps: float = 1e-8) -> Optimizer:
    """ρ_t g/(√v + eps), v a running mean of g².  (Tieleman & Hinton 2012; as torch.optim.RMSprop)"""
    rate = _rate(step_size, schedule)

    def update(gradient: Tensor, v: Tensor, step: int) -> tuple[Tensor, Tensor]:
        v = torch.lerp(gradient.square(), v, decay)
        return rate(step, gradient) * gradient / (v.sqrt() + eps), v

    return Optimizer(torch.zeros_like, update)


def adagrad(step_size: float | Tensor, schedule: Schedule | None = None, eps: float = 1e-10) -> Optimizer:
    """ρ_t g/(√Σg² + eps).  (Duchi, Hazan & Singer 2011; as torch.optim.Adagrad)"""
    rate = _rate(step_size, schedule)

    def update(gradient: Tensor, total: Tensor, step: int) -> tuple[Tensor, Tensor]:
        total = total + gradient.square()
        return rate(step, gradient) * gradient / (total.sqrt() + eps), total

    return Optimizer(torch.zeros_like, update)


def adam(
    step_size: float | Tensor, schedule: Schedule | None = None, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Optimizer:
    """ρ_t m̂/(√v̂ + eps), m̂ and v̂ unbiased running means of g and g².  (Kingma & Ba 2015; as torch.optim.Adam)"""
    rate = _rate(step_size, schedule)

    def init(vector: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(vector), torch.zeros_like(vector)

    def update(gradient: Tensor, state: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        m, v = torch.lerp(gradient, state[0], betas[0]), gradient.square().lerp_(state[1], betas[1])
        root = (1 - betas[1] ** (step + 1)) ** 0.5                         # √v̂ = √v / root; root is moved to the front, a pass less
        return (m * (rate(step, gradient) * root / (1 - betas[0] ** (step + 1)))).div_(v.sqrt().add_(eps * root)), (m, v)

    def climb(vector: Tensor, gradient: Tensor, state: tuple[Tensor, Tensor], step: int) -> tuple[Tensor, Tensor]:
        if vector.device.type != "cpu":
            return Optimizer(init, update).step(vector, gradient, state, step)
        (m, v), count = state, torch.full((), step + 1.0)
        torch._fused_adam_([vector], [gradient], [m], [v], [], [count], lr=-float(rate(step, gradient)), beta1=betas[0], beta2=betas[1],
                           weight_decay=0.0, eps=eps, amsgrad=False, maximize=False)           # lr < 0: torch descends, we climb
        return state

    one_kernel = hasattr(torch, "_fused_adam_") and not _per_fit(step_size)    # torch.optim.Adam(fused=True) imports for over a second
    return Optimizer(init, update, climb if one_kernel else None)


def _per_fit(step_size: float | Tensor) -> bool:
    return isinstance(step_size, Tensor) and step_size.ndim > 0


def _rate(step_size: float | Tensor, schedule: Schedule | None) -> Callable[[int, Tensor], float | Tensor]:
    per_fit = _per_fit(step_size)
    size: Any = step_size.unsqueeze(-1) if isinstance(step_size, Tensor) and per_fit else float(step_size)

    def rate(step: int, gradient: Tensor) -> float | Tensor:
        now = size.to(gradient) if per_fit else size
        return now if schedule is None else now * schedule(step)

    return rate


# ---- the fit --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Fit(Generic[Q]):
    """Where the fits went.

    steps: (T,), the steps recorded, first 0 and last num_steps.  path: (T, *R, P), λ before that step's update.
    elbo: (T, *R), the noisy ELBO estimate at that λ, in nats; nan from a failure on.
    failed_at: (*R), the step at which a fit met a number that is not finite, −1 if it never did; its path rests at the last good λ.
    """

    steps: Tensor
    path: Tensor
    elbo: Tensor
    failed_at: Tensor
    family: Q

    @property
    def q(self) -> Q:
        """The last q of each fit, batch *R."""
        return self.q_at(-1)

    def q_at(self, index: int | slice | Tensor) -> Q:
        """q at record ``index`` (of ``steps``); a slice or an index tensor gives a batch (T', *R)."""
        return self.family.with_vector(self.path[index])


def fit(
    estimator: Estimator, log_joint: LogJoint, q0: Q, *, num_samples: int, num_steps: int,
    optimizer: Optimizer | TorchOptimizer, generator: torch.Generator, noise: Noise = normal,
    record_every: int = 1, record_steps: Sequence[int] | None = None,
) -> Fit[Q]:
    """Climb the ELBO from q0 for ``num_steps`` steps with ``num_samples`` draws each, every fit of q0's batch at once.

    The noise of step t depends on the generator, S, *R and D only: the same seed gives every estimator the same ε.
    optimizer: one of this module's, or a factory such as ``lambda params: torch.optim.Adam(params, lr=0.1)``.
    record_every, record_steps: which steps to keep; 0 and num_steps always are.

    A fit that meets nan or an infinity is frozen at its last good λ and marked; the others go on.
    Raises AllFitsFailed when none is left, GeneratorDeviceError, MissingGenerator, DependentDraws, and what the estimator raises.

    >>> from vilib import MeanFieldGaussian, adam, gaussian_target, pathwise
    >>> q0 = MeanFieldGaussian(torch.zeros(5, 1), torch.zeros(5, 1))                             # five seeds
    >>> done = fit(pathwise, gaussian_target(2.0, 0.5), q0, num_samples=4, num_steps=200,
    ...            optimizer=adam(0.05), generator=torch.Generator().manual_seed(0))
    >>> done.path.shape, bool((done.q.mean - 2).abs().max() < 0.2)
    (torch.Size([201, 5, 2]), True)
    """
    start, family = q0.vector().detach(), q0.detach()
    check_generator(generator, start.device)
    check_draws(estimator, noise)
    records = _records(num_steps, record_every, record_steps)
    path, elbo = _Rows(start.new_empty(len(records), *start.shape)), _Rows(start.new_empty(len(records), *start.shape[:-1]))
    failed_at = torch.full(start.shape[:-1], -1, device=start.device)
    evaluate, climb = step_of(estimator, log_joint, family), _climber(optimizer, start)
    vector, last_good, any_failed, row = start, start, False, 0
    for step in range(num_steps + 1):
        eps = noise(num_samples, q0.batch_shape, q0.dim, generator=generator, dtype=start.dtype)
        value, gradient, bad, why = _evaluate(evaluate, vector, eps, failed_at >= 0 if any_failed else None)
        if bad is not None:
            failed_at, any_failed = torch.where(bad & (failed_at < 0), step, failed_at), True
            if bool((failed_at >= 0).all()):
                raise AllFitsFailed(f"All {failed_at.numel()} fits failed, the last at step {step}. {why}", failed_at)
            vector = torch.where(bad.unsqueeze(-1), last_good, vector)
        last_good = vector
        if records[row] == step:
            path.append(vector)
            elbo.append(value if not any_failed else value.masked_fill(failed_at >= 0, torch.nan))
            row += 1
        if step < num_steps:
            moved = climb(vector, gradient, step)
            vector = moved if not any_failed else torch.where((failed_at >= 0).unsqueeze(-1), vector, moved)
    return Fit(torch.tensor(records), path.whole(), elbo.whole(), failed_at, family)


class _Rows:
    """The rows of a tensor, put in a block at a time, which costs less than one by one."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.done = tensor, 0
        self.waiting: list[Tensor] = []

    def append(self, row: Tensor) -> None:
        self.waiting.append(row)
        if len(self.waiting) == 100:
            self.whole()

    def whole(self) -> Tensor:
        """The tensor, with every row so far."""
        if self.waiting:
            block = self.tensor[self.done : self.done + len(self.waiting)]
            torch.stack(self.waiting, out=block)
            self.done, self.waiting = self.done + len(self.waiting), []
        return self.tensor


def check_draws(estimator: Callable[..., Any], noise: Noise) -> None:
    """Raise DependentDraws if the estimator learns from the other draws and the noise ties the draws together."""
    if getattr(estimator, "needs_independent_draws", False) and not getattr(noise, "independent_draws", True):
        raise DependentDraws(
            f"noise: {estimator.__name__} learns its baseline from the other draws, which is unbiased only if they are "
            f"independent; {noise.__name__} draws are not. Use noise=normal, or an estimator without a learnt baseline."
        )


def _evaluate(evaluate: Step, vector: Tensor, eps: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, str]:
    """value (*R), gradient (*R, P), the fits that just met a non-finite number (*R) or None, and why.

    ``out`` (*R) or None: fits that have failed already.  They ride along on a healthy one, and nothing of it is recorded.
    """
    bad, why, value = None, "", None
    while value is None:                                 # a log joint may name those that are nan, and only then those that are −∞
        vector, eps = _ride_along(vector, eps, out)
        try:
            value, gradient = evaluate(vector, eps)
        except NonFiniteLogJoint as error:
            bad, why = error.replicates if bad is None else bad | error.replicates, why or str(error)
            out = bad if out is None else bad | out
            if bool(out.all()):
                return vector[..., 0], vector, out, why
    if not math.isfinite(value.sum().item() + gradient.sum().item()):
        not_finite = ~torch.isfinite(value + gradient.sum(-1))
        bad = not_finite if bad is None else bad | not_finite
        why = why or "The ELBO or its gradient is not finite: try a smaller step size, or start nearer."
    return value, gradient, bad, why


def _ride_along(vector: Tensor, eps: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor]:
    """λ and ε with those of the fits that are ``out`` replaced by a healthy one's."""
    if out is None:
        return vector, eps
    healthy = tuple((~out).nonzero()[0].tolist())
    spare = eps[(slice(None), *healthy)].reshape(len(eps), *(1 for _ in healthy), -1)
    return torch.where(out.unsqueeze(-1), vector[healthy], vector), torch.where(out.unsqueeze(-1), spare, eps)


def _climber(optimizer: Optimizer | TorchOptimizer, start: Tensor) -> Callable[[Tensor, Tensor, int], Tensor]:
    """(λ, gradient, step) -> the next λ."""
    if isinstance(optimizer, Optimizer):
        state = optimizer.init(start)

        def climb(vector: Tensor, gradient: Tensor, step: int) -> Tensor:
            nonlocal state
            vector = vector.clone()
            state = optimizer.step(vector, gradient, state, step)
            return vector

        return climb

    parameter = start.clone().requires_grad_()
    by_torch = optimizer([parameter])

    def climb_by_torch(vector: Tensor, gradient: Tensor, step: int) -> Tensor:
        with torch.no_grad():
            parameter.copy_(vector)
        parameter.grad = -gradient                       # torch descends, we climb
        by_torch.step()
        return parameter.detach().clone()

    return climb_by_torch


def _records(num_steps: int, every: int, steps: Sequence[int] | None) -> list[int]:
    if num_steps < 0 or every < 1:
        raise VilibError(f"num_steps at least 0 and record_every at least 1, got {num_steps} and {every}.")
    wanted = range(0, num_steps, every) if steps is None else steps
    outside = [step for step in wanted if not 0 <= step <= num_steps]
    if outside:
        raise VilibError(f"record_steps: all between 0 and num_steps = {num_steps}, got {outside}.")
    return sorted({0, num_steps, *map(int, wanted)})
