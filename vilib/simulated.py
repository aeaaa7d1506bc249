"""A posterior learnt from simulations: an encoder that climbs E_{p(x, z)}[log q_φ(z | x)], the forward KL.

Nothing is asked of the model but draws of (z, x) together.  No density of it is ever evaluated.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vilib.fit import Optimizer, TorchOptimizer
from vilib.progress import counted
from vilib.training import _climber
from vilib.types import ShapeError, VilibError, check_generator

#: (count, generator) -> z (count, D) and x (count, ...), drawn from p(z) p(x | z).
Simulator = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


def train_on_simulations(
    encoder: nn.Module, simulate: Simulator, *, num_steps: int, batch_size: int, optimizer: Optimizer | TorchOptimizer,
    generator: torch.Generator, progress: bool | None = None,
) -> Tensor:
    """Climb E_{p(x, z)}[log q_φ(z | x)] in φ; ``encoder`` is changed in place.  (Papamakarios & Murray 2016)

    Each step simulates ``batch_size`` fresh pairs, so there is nothing to overfit.  What is maximised is, but for a
    constant, −E_{p(x)}[KL(p(z | x) ‖ q_φ(z | x))].

    encoder: a module, x (N, ...) -> a family with R = N.  simulate: (N, generator) -> z (N, D) and x (N, ...).
    optimizer: one of :mod:`vilib.fit`, or a ``torch.optim`` factory.
    Returns (num_steps,), float64, the mean of log q_φ(z | x) over the pairs of each step, in nats.

    Raises VilibError (counts below 1, nothing to train), ShapeError (z and x that do not fit), MissingGenerator;
    VilibError too where log q is not finite.

    >>> from vilib import Encoder, MeanFieldGaussian, adam, mlp
    >>> generator = torch.Generator().manual_seed(0)
    >>> encoder = Encoder(mlp([1, 2], generator=generator), MeanFieldGaussian(torch.zeros(1), torch.zeros(1)))
    >>> def simulate(count, generator):
    ...     z = torch.randn(count, 1, generator=generator)
    ...     return z, z + torch.randn(count, 1, generator=generator)
    >>> _ = train_on_simulations(encoder, simulate, num_steps=300, batch_size=200, optimizer=adam(0.05),
    ...                          generator=generator, progress=False)
    >>> bool((encoder(torch.ones(1, 1)).mean - 0.5).abs() < 0.1)                             # exact: x/2
    True
    """
    if num_steps < 1 or batch_size < 1:
        raise VilibError(f"num_steps and batch_size: at least 1, got {num_steps} and {batch_size}.")
    check_generator(generator)
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    if not parameters:
        raise VilibError("encoder: it has no parameter with requires_grad=True, so there is nothing to train.")
    reached = []
    with _climber(optimizer, parameters, lambda z, x: _mean_log_q(encoder, z, x)) as climb:
        for _ in counted(num_steps, "step", progress):
            with torch.no_grad():
                z, x = simulate(batch_size, generator)
            if z.ndim != 2 or len(z) != batch_size or len(x) != batch_size:
                raise ShapeError(
                    f"simulate: expected z (N, D) and x (N, ...) with N = {batch_size}, got {tuple(z.shape)} and "
                    f"{tuple(x.shape)}. For one unknown return z.unsqueeze(-1)."
                )
            reached.append(climb(z, x))
    return torch.tensor(reached, dtype=torch.float64)


def _mean_log_q(encoder: nn.Module, z: Tensor, x: Tensor) -> Tensor:
    q = encoder(x)
    if q.batch_shape != x.shape[:1] or q.dim != z.shape[-1]:
        raise ShapeError(
            f"encoder: one q over D = {z.shape[-1]} unknowns for each of the N = {len(x)} data, got batch shape "
            f"{tuple(q.batch_shape)} and D = {q.dim}."
        )
    log_q = q.log_prob(z.unsqueeze(0)).squeeze(0)                   # (N)
    if not bool(log_q.isfinite().all()):
        worst = int((~log_q.isfinite()).nonzero()[0])
        raise VilibError(
            f"encoder: log q is {log_q[worst].item()} at z = {z[worst].tolist()}. Take a smaller step size, or look for nan in "
            "what simulate returns."
        )
    return log_q.mean()
