"""Random-walk Metropolis: the plainest of the samplers that variational inference is compared with.

It needs the log joint and never the evidence, which cancels in a ratio of two posterior densities.  Its draws depend on each
other, and in the long run they are the posterior's (Metropolis et al. 1953; Hastings 1970).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vilib.models import evaluate
from vilib.noise import normal
from vilib.types import LogJoint, ShapeError, check_generator


@dataclass(frozen=True, eq=False)
class Chains:
    """Where *R chains went.  draws: (S, *R, D).  accepted: (S, *R), whether that step moved."""

    draws: Tensor
    accepted: Tensor

    @property
    def acceptance_rate(self) -> Tensor:
        """The share of proposals that each chain took, (*R)."""
        return self.accepted.to(self.draws.dtype).mean(0)


def metropolis_step(log_joint: LogJoint, z: Tensor, log_p: Tensor, eps: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of random-walk Metropolis in each chain; the posterior is left as it is.  (eq:metropolis)

    z: (*R, D), where the chains stand, with log_p (*R) = log_joint(z).  eps: (*R, D), the step proposed, symmetric about 0.
    u: (*R), uniform on (0, 1).  Returns the new z and log_p, and whether the proposal was accepted, (*R).

    >>> log_joint = lambda z: -z.square().sum(-1)                                             # p(1)/p(0) = e⁻¹ = 0.37
    >>> z, log_p, eps = torch.zeros(2, 1), torch.zeros(2), torch.ones(2, 1)
    >>> metropolis_step(log_joint, z, log_p, eps, u=torch.tensor([0.3, 0.4]))[0].flatten()
    tensor([1., 0.])
    """
    proposal = z + eps
    log_p_there = evaluate(log_joint, proposal.unsqueeze(0), zero_density=True).squeeze(0)
    accepted = u.log() < log_p_there - log_p
    return torch.where(accepted.unsqueeze(-1), proposal, z), torch.where(accepted, log_p_there, log_p), accepted


def metropolis(
    log_joint: LogJoint, start: Tensor, *, num_samples: int, step_size: float | Tensor = 1.0, warmup: int = 0,
    generator: torch.Generator,
) -> Chains:
    """Random-walk Metropolis from ``start``, one chain for each problem of *R, all side by side.  (eq:metropolis)

    log_joint: z (..., D) -> (...), up to any constant.  start: (*R, D), where it is finite.  num_samples: S, the steps kept.
    step_size: sd of a proposed step in the units of z; a number, or a tensor that broadcasts against (*R, D).
    warmup: steps taken first and thrown away.

    Raises ShapeError, MissingGenerator, GeneratorDeviceError, NonFiniteLogJoint (nan or +inf; −inf is a proposal refused).

    >>> generator = torch.Generator().manual_seed(0)
    >>> chains = metropolis(lambda z: -z.square().sum(-1) / 2, torch.zeros(4, 1), num_samples=5, generator=generator)
    >>> chains.draws.shape, chains.acceptance_rate.shape
    (torch.Size([5, 4, 1]), torch.Size([4]))
    """
    if not (isinstance(start, Tensor) and start.is_floating_point() and start.ndim) or num_samples < 1 or warmup < 0:
        got = tuple(start.shape) if isinstance(start, Tensor) else type(start).__name__
        raise ShapeError("start, num_samples, warmup: expected floating-point numbers (*R, D), one step or more kept, none or more "
                         f"thrown away; got {got}, {num_samples}, {warmup}.")
    check_generator(generator, start.device)
    with torch.no_grad():
        z, log_p = start.detach(), evaluate(log_joint, start.detach().unsqueeze(0)).squeeze(0)
        draws = start.new_empty(num_samples, *start.shape)
        accepted = draws.new_empty(draws.shape[:-1], dtype=torch.bool)
        for step in range(-warmup, num_samples):
            eps = step_size * normal(1, start.shape[:-1], start.shape[-1], generator=generator, dtype=start.dtype)[0]
            u = torch.rand(start.shape[:-1], generator=generator, dtype=start.dtype, device=start.device)
            z, log_p, moved = metropolis_step(log_joint, z, log_p, eps, u)
            if step >= 0:
                draws[step], accepted[step] = z, moved
    return Chains(draws, accepted)
