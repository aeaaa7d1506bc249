"""Is my Metropolis step right?  A marker for the exercises.

Given where chains stand, what they propose and the uniforms, the Metropolis rule leaves nothing to chance: it says which proposals
are accepted.  So a step is compared with it chain by chain, and each well-known slip is a rule of its own that we look for.  A step
with some other rule may be right too: then chains that start as exact draws must be exact draws after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from dataclasses import dataclass

import torch
from torch import Tensor

from vilib.checks import Report, alarm, described, explanation, failed, raised, z_scores
from vilib.types import LogJoint

#: name -> (which proposals are accepted, given u, log p where it stands and log p there; what to say about it)
SLIPS: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], str]] = {
    "never moves": (lambda u, here, there: u < 0, "No chain ever moves: every proposal is refused."),
    "always accepts": (lambda u, here, there: u >= 0,
        "It accepts every proposal: a random walk that never looks at the density and spreads without end (eq:metropolis)."),
    "only uphill": (lambda u, here, there: there > here,
        "It accepts what is higher and nothing else: a search for the mode. A lower place is accepted with probability "
        "p(there)/p(here), and u decides."),
    "upside down": (lambda u, here, there: u.log() < here - there,
        "The ratio is upside down: it prefers where the density is low. It is the density of the proposal over that of the present place."),
    "wrong way": (lambda u, here, there: u.log() > there - here,
        "The inequality points the wrong way: accept if u is *below* the ratio, which then happens with just that probability."),
    "no log": (lambda u, here, there: u < there - here,
        "u is compared with the log of the ratio: take u.log(), or the exponential of the other side."),
    "no exponential": (lambda u, here, there: u < there / here,
        "It divides log densities. The log of a ratio is the difference of the logs."),
    "proposal alone": (lambda u, here, there: u.log() < there,
        "It looks at the density of the proposal alone, as if it were normalised and stood for a probability: divide by that where it stands."),
}


@dataclass(frozen=True)
class _Case:
    name: str
    log_joint: LogJoint
    z: Tensor            # exact draws, (R, D)
    eps: Tensor
    u: Tensor


def check_metropolis(step: Callable[..., Any], *, num_chains: int = 20_000, false_alarm: float = 1e-6, seed: int = 0) -> Report:
    """Test ``step(log_joint, z, log_p, eps, u) -> (z, log_p, accepted)``, and say in words what is wrong.

    step: one step of random-walk Metropolis, or of another rule, with the arguments of :func:`vilib.mcmc.metropolis_step`.
    num_chains: chains on each of two targets.  false_alarm: the chance that a right step of another rule fails.

    >>> from vilib import metropolis_step
    >>> check_metropolis(metropolis_step).passed
    True
    """
    moves = []
    for case in _cases(num_chains, seed):
        here = case.log_joint(case.z)
        try:
            z, log_p, accepted = step(case.log_joint, case.z, here, case.eps, case.u)
        except Exception as error:
            return raised(error, f"on {case.name}, z of shape {tuple(case.z.shape)}")
        for name, got, like in [("z", z, case.z), ("log_p", log_p, here), ("accepted", accepted, here)]:
            if not isinstance(got, Tensor) or got.shape != like.shape:
                return failed("shape", f"It returned {described(got)} as the new {name}, expected {tuple(like.shape)} for z of shape {tuple(case.z.shape)} = "
                              "(*R, D): each chain of *R decides for itself, and for all its D coordinates at once.")
        moved, stayed = (z == case.z + case.eps).all(-1), (z == case.z).all(-1)
        if not (moved | stayed).all():
            return failed("half a move", f"On {case.name}, {(~(moved | stayed)).sum()} chains are neither where they stood nor where they "
                          "proposed to go. A chain takes the whole step or none of it: torch.where(accepted.unsqueeze(-1), z + eps, z).")
        if not torch.allclose(log_p, case.log_joint(z)):
            return failed("stale log_p", "The log_p that comes back is not the log density at the z that comes back: the next ratio will be "
                          "wrong. Choose both with the same accepted.")
        if not torch.equal(accepted.bool(), moved):
            return failed("accepted", "accepted does not say which chains moved, and the acceptance rate will be wrong.")
        moves.append((case, here, case.log_joint(case.z + case.eps), moved))
    obeys = lambda rule: all(bool((rule(c.u, here, there) == moved).all()) for c, here, there, moved in moves)  # noqa: E731
    rate = ", ".join(f"{moved.double().mean():.0%} on {case.name}" for case, _, _, moved in moves)
    if obeys(lambda u, here, there: u.log() < there - here):
        return Report(True, (f"Every one of {2 * num_chains:,} chains did what the Metropolis rule says. It accepted {rate}.",))
    found = explanation(SLIPS, obeys)
    return _invariance(moves, rate, false_alarm) if found is None else failed(*found, f"It accepted {rate}.")


def _invariance(moves: list[tuple[_Case, Any, Any, Tensor]], rate: str, false_alarm: float) -> Report:
    """Exact draws must be exact draws after a step: moments change by zero on average."""
    worst, largest = "", 0.0
    threshold = alarm(false_alarm, 3 * sum(case.z.shape[-1] for case, *_ in moves))
    for case, _, _, moved in moves:
        there = torch.where(moved.unsqueeze(-1), case.z + case.eps, case.z)
        for power in (1, 2, 3):
            change = there**power - case.z**power
            score = z_scores(change, torch.zeros_like(change[0]))
            if score.abs().max() > largest:
                at, largest = int(score.abs().argmax()), score.abs().max().item()
                worst = f"On {case.name}, a step from exact draws changes the mean of z^{power} by {change.mean(0)[at]:.2g}, where it should be 0"
    if largest > threshold:
        return Report(False, (f"It does not leave the posterior as it is. {worst}: {largest:.0f} standard errors away.",
                              f"No slip that we know explains it. It accepted {rate}."), None, largest, threshold)
    return Report(True, (f"It is not the Metropolis rule, but it leaves both targets as they are, up to {largest:.1f} standard errors. "
                         f"It accepted {rate}.",), None, largest, threshold)


def _cases(num_chains: int, seed: int) -> Iterator[_Case]:
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(num_chains, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    uniform = lambda: torch.rand(num_chains, generator=generator, dtype=torch.float64)  # noqa: E731
    yield _Case("a skewed target", lambda z: z[..., 0] - z[..., 0].exp() - 2.0, (-uniform().log()).log().unsqueeze(-1), 1.5 * normal(1), uniform())
    white = normal(2)
    z = torch.stack([white[:, 0], 0.8 * white[:, 0] + 0.6 * white[:, 1]], -1)
    correlated = lambda z: -(z.square().sum(-1) - 1.6 * z.prod(-1)) / (2 * 0.36) + 0.7  # noqa: E731
    yield _Case("a correlated target in 2-D", correlated, z, normal(2), uniform())
