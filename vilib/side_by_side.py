"""Choices side by side: several optimisers, and several temperatures, for the slices of one batch of fits.

Seeds, step sizes and starts are leading axes of q already (:func:`vilib.fit.fit`).  With these two, so are the optimiser and the
tempering, and a whole table of choices is one tensor program: :func:`every_choice`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vilib.climb import InUnitsOf, compose, standard
from vilib.estimators import sticking_the_landing
from vilib.families import Gaussian
from vilib.fit import Fit, Optimizer, fit
from vilib.noise import normal
from vilib.types import LogJoint, Noise, ShapeError


def optimizers_side_by_side(optimizers: Sequence[Optimizer]) -> Optimizer:
    """One optimiser for a batch (len(optimizers), *R): each takes care of its slice of the first axis.

    Raises ShapeError when the first axis has another length.

    >>> from vilib import sgd
    >>> both = optimizers_side_by_side([sgd(0.1), sgd(1.0)])
    >>> both.update(torch.ones(2, 1), both.init(torch.zeros(2, 1)), 0)[0].flatten()
    tensor([0.1000, 1.0000])
    """

    def init(vector: Tensor) -> tuple[Any, ...]:
        if vector.ndim < 2 or len(vector) != len(optimizers):
            raise ShapeError(f"q0: expected a batch ({len(optimizers)}, *R), a slice for each optimiser, "
                             f"got {tuple(vector.shape[:-1])}.")
        return tuple(optimizer.init(part) for optimizer, part in zip(optimizers, vector))

    def update(gradient: Tensor, states: tuple[Any, ...], step: int) -> tuple[Tensor, tuple[Any, ...]]:
        steps, states = zip(*(o.update(g, s, step) for o, g, s in zip(optimizers, gradient, states)))
        return torch.stack(steps), states

    def climb(vector: Tensor, gradient: Tensor, states: tuple[Any, ...], step: int) -> tuple[Any, ...]:
        return tuple(o.step(part, g, s, step) for o, part, g, s in zip(optimizers, vector, gradient, states))

    return Optimizer(init, update, climb)


def the_same_for_each(noise: Noise = normal) -> Noise:
    """Noise for a batch (K, *R) whose K slices see the same draws, those that *R alone would get: so they differ in nothing else.

    >>> eps = the_same_for_each()(5, (2, 3), 1, generator=torch.Generator().manual_seed(0))
    >>> eps.shape, torch.equal(eps[:, 0], eps[:, 1])
    (torch.Size([5, 2, 3, 1]), True)
    """

    def shared(num_samples: int, batch_shape: Sequence[int], dim: int, **options: Any) -> Tensor:
        eps = noise(num_samples, tuple(batch_shape[1:]), dim, **options)
        return eps.unsqueeze(1).expand(num_samples, *batch_shape, dim)

    setattr(shared, "independent_draws", getattr(noise, "independent_draws", True))
    return shared


class Tempered:
    """β_t log p(x, z), with a power β_t of its own for each step t and, where ``power`` gives several, for each fit.

    power: step t -> a number or a tensor that broadcasts to *R.  Give this object to :func:`vilib.fit.fit` as the log joint, and
    its method ``noise`` as the noise: a fit asks for noise once a step, and that turns the clock.

    >>> from vilib import MeanFieldGaussian, adam, fit, gaussian_target, pathwise
    >>> half = Tempered(gaussian_target(), lambda step: 0.25)
    >>> q0 = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> done = fit(pathwise, half, q0, num_samples=64, num_steps=300, optimizer=adam(0.03), noise=half.noise,
    ...            generator=torch.Generator().manual_seed(0))
    >>> bool((done.q.stddev - 2).abs() < 0.1)                               # 1/√β
    True
    """

    def __init__(self, log_joint: LogJoint, power: Callable[[int], float | Tensor], draw: Noise = normal):
        self.log_joint, self.power, self.draw, self.step = log_joint, power, draw, -1

    def noise(self, *shape: Any, **options: Any) -> Tensor:
        """The noise of one more step: the clock turns."""
        self.step += 1
        return self.draw(*shape, **options)

    def __call__(self, z: Tensor) -> Tensor:
        return self.power(max(self.step, 0)) * self.log_joint(z)


def rising_power(first: float, num_steps: int) -> Callable[[int], float]:
    """β_t from ``first`` to 1, where it stays from step ``num_steps`` on; its logarithm rises evenly.

    >>> [round(rising_power(0.01, 100)(step), 2) for step in (0, 50, 100, 300)]
    [0.01, 0.1, 1.0, 1.0]
    """
    return lambda step: first ** max(0.0, 1 - step / num_steps)


def every_choice(
    log_joint: LogJoint, q0: Gaussian, *, optimizers: Sequence[Callable[[Tensor], Optimizer]],
    powers: Sequence[Callable[[int], float]], step_sizes: Sequence[float], num_samples: int, num_steps: int,
    record_steps: Sequence[int], generator: torch.Generator,
) -> Fit[Gaussian]:
    """Fits from q0 (no batch) by every optimiser, with every tempering, at every step size: one program, batch of these three.

    optimizers: step sizes -> optimiser, :func:`vilib.fit.adam` for one.  powers: step t -> β_t, each.  Steps are measured in
    units of q0, and λ is handed back in the coordinates of z.  The gradient is that of sticking the landing.

    >>> from vilib import MeanFieldGaussian, adam, gaussian_target, rmsprop
    >>> q0 = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> done = every_choice(gaussian_target(3.0), q0, optimizers=[adam, rmsprop], powers=[lambda step: 1.0],
    ...                     step_sizes=(0.01, 0.1), num_samples=4, num_steps=60, record_steps=(0, 60),
    ...                     generator=torch.Generator().manual_seed(0))
    >>> done.path.shape, bool(done.q.mean[0, 0, 1] > done.q.mean[0, 0, 0])                         # the larger step got farther
    (torch.Size([2, 2, 1, 2, 2]), True)
    """
    q = q0.expand(len(optimizers), len(powers), len(step_sizes))
    now = lambda step: torch.tensor([[power(step)] for power in powers], dtype=torch.float64)  # noqa: E731
    tempered = Tempered(InUnitsOf(q, log_joint), now)
    optimizer = optimizers_side_by_side([make(torch.tensor(step_sizes)) for make in optimizers])
    done = fit(sticking_the_landing, tempered, standard(q), num_samples=num_samples, num_steps=num_steps, optimizer=optimizer,
               generator=generator, noise=tempered.noise, record_steps=record_steps)
    return Fit(done.steps, compose(q0, done.q_at(slice(None))).vector(), done.elbo, done.failed_at, q0)
