"""Choices side by side: several optimisers, and several temperatures, for the slices of one batch of fits.

Seeds, step sizes and starts are leading axes of q already (:func:`vilib.fit.fit`).  With these two, so are the optimiser and the
tempering, and a whole table of choices is one tensor program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vilib.fit import Optimizer
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

    def init(vector: Tensor) -> tuple:
        if vector.ndim < 2 or len(vector) != len(optimizers):
            raise ShapeError(f"q0: expected a batch ({len(optimizers)}, *R), a slice for each optimiser, got {tuple(vector.shape[:-1])}.")
        return tuple(optimizer.init(part) for optimizer, part in zip(optimizers, vector))

    def update(gradient: Tensor, states: tuple, step: int) -> tuple[Tensor, tuple]:
        steps, states = zip(*(o.update(g, s, step) for o, g, s in zip(optimizers, gradient, states)))
        return torch.stack(steps), states

    return Optimizer(init, update)


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

    def noise(self, *shape, **options) -> Tensor:
        """``draw``, which is asked once a step: so the steps are counted."""
        self.step += 1
        return self.draw(*shape, **options)

    def __call__(self, z: Tensor) -> Tensor:
        return self.power(max(self.step, 0)) * self.log_joint(z)
