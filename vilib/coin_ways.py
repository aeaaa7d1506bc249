"""The ways to one posterior, each with its answers and its error: a coin, whose posterior is known.

z = logit θ, as in :func:`vilib.examples.coin_toss`. Every error is the largest of a probability P(θ ≤ t), which is the same on
both scales; ``exact`` is the :func:`logit_distribution` of the coin, made once and used by all ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from vilib.distribution_functions import DistributionFunction, gaussian_distribution
from vilib.examples import Example, coin_toss
from vilib.families import Gaussian
from vilib.laplace import laplace
from vilib.mcmc import metropolis
from vilib.models import Model
from vilib.quadrature import expectation, log_evidence, posterior_density
from vilib.types import NoMode


@dataclass(frozen=True)
class Way:
    """What one way says: mean and sd of θ, log evidence in nats (of variational inference the ELBO), and its largest error."""

    mean: float
    sd: float
    evidence: float
    error: float


def logit_distribution(coin: Example) -> DistributionFunction:
    """The exact distribution function of logit θ, at 12,001 points from −60 to 60.

    >>> round(logit_distribution(coin_toss(3, 3))(torch.tensor(0.0)).item(), 6)
    0.5
    """
    grid = torch.linspace(-60.0, 60.0, 12_001, dtype=torch.float64)
    return DistributionFunction.from_density(grid, coin(grid.unsqueeze(-1)).exp())


def exact_way(coin: Example) -> Way:
    """The posterior itself, in closed form.

    >>> round(exact_way(coin_toss(6, 4)).mean, 4)
    0.5333
    """
    exact = cast(Distribution, coin.posterior)
    return Way(exact.mean.item(), exact.stddev.item(), cast(float, coin.log_evidence), 0.0)


def gaussian_way(exact: DistributionFunction, q: Gaussian, evidence: float) -> Way:
    """A Gaussian q of logit θ, moments of θ by quadrature; ``evidence`` is what came with q.

    >>> coin = coin_toss(6, 4)
    >>> vi = gaussian_way(logit_distribution(coin), *coin.best)
    >>> round(vi.mean, 4), vi.evidence < coin.log_evidence
    (0.5333, True)
    """
    mean, square = (expectation(lambda z: torch.sigmoid(z[..., 0]) ** k, q).item() for k in (1, 2))  # noqa: B023
    return Way(mean, (square - mean**2) ** 0.5, evidence, exact.distance(gaussian_distribution(q)))


def laplace_in_theta(coin: Example, exact: DistributionFunction) -> tuple[Way, Gaussian]:
    """The Laplace approximation in θ itself, not its logit, and its Gaussian.  Raises NoMode where no mode is inside (0, 1).

    >>> coin = coin_toss(6, 4)
    >>> round(laplace_in_theta(coin, logit_distribution(coin))[0].mean, 4)                           # 15/28
    0.5357
    """
    model, posterior = cast(Model, coin.model), cast(Distribution, coin.posterior)
    found = laplace(lambda z: model.log_joint({"theta": z[..., 0]}), posterior.mean.reshape(1), max_steps=15)
    of_theta = gaussian_distribution(found.q)
    error = exact.distance(lambda t: of_theta(torch.sigmoid(t)))
    return Way(found.q.mean.item(), found.q.stddev.item(), found.log_evidence.item(), error), found.q


def closed_ways(coin: Example, exact: DistributionFunction) -> tuple[dict[str, Way], dict[str, Gaussian]]:
    """What no more evaluations make better, and the Gaussians among it, "laplace_theta" of θ and the others of logit θ.

    Where Laplace in θ finds no mode, its answers are nan and it has no Gaussian.

    >>> coin = coin_toss(6, 0, (1.0, 1.0))
    >>> ways, gaussians = closed_ways(coin, logit_distribution(coin))
    >>> list(ways), list(gaussians)
    (['exact', 'laplace_logit', 'vi', 'laplace_theta'], ['laplace_logit', 'vi'])
    """
    by_curvature, (best, elbo) = laplace(coin, torch.zeros(1, dtype=torch.float64)), cast(tuple[Gaussian, float], coin.best)
    gaussians = {"laplace_logit": by_curvature.q, "vi": best}
    ways = {"exact": exact_way(coin), "laplace_logit": gaussian_way(exact, by_curvature.q, by_curvature.log_evidence.item()),
            "vi": gaussian_way(exact, best, elbo)}
    try:
        ways["laplace_theta"], gaussians["laplace_theta"] = laplace_in_theta(coin, exact)
    except NoMode:
        ways["laplace_theta"] = Way(*[math.nan] * 4)
    return ways, gaussians


def grid_way(coin: Example, exact: DistributionFunction, nodes: Tensor) -> Way:
    """The posterior that evenly spaced ``nodes`` (G,) of logit θ see, one evaluation of the log joint each.

    >>> coin = coin_toss(6, 4)
    >>> coarse, fine = (grid_way(coin, logit_distribution(coin), torch.linspace(-8, 8, count)) for count in (20, 320))
    >>> fine.error < coarse.error / 100
    True
    """
    density = posterior_density(coin, nodes)
    weights, theta = density * (nodes[1] - nodes[0]), torch.sigmoid(nodes)
    mean = (weights * theta).sum()
    return Way(mean.item(), (weights * (theta - mean).square()).sum().sqrt().item(),
               log_evidence(coin, nodes[0].item(), nodes[-1].item(), len(nodes)),
               exact.distance(DistributionFunction.from_density(nodes, density)))


def coin_chains(
    counts: Sequence[int], prior: tuple[float, float], num_chains: int, num_samples: int, generator: torch.Generator,
) -> Tensor:
    """logit θ along Metropolis chains for every pair of counts: (heads, tails, chain, S). They start at θ = ½; steps have sd 1.

    >>> coin_chains((0, 6), (1.0, 1.0), 3, 5, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 2, 3, 5])
    """
    each = torch.tensor(counts, dtype=torch.float64)
    coins = coin_toss(each.reshape(-1, 1, 1), each.reshape(1, -1, 1), prior)
    start = torch.zeros(len(each), len(each), num_chains, 1, dtype=torch.float64)
    chains = metropolis(coins, start, num_samples=num_samples, step_size=1.0, generator=generator)
    return chains.draws[..., 0].movedim(0, -1).contiguous()


def theta_density(log_density: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """The density of θ (G,), from the log density of logit θ, z (G, 1) -> (G,): zero outside (0, 1).

    >>> coin = coin_toss(0, 0, (1.0, 1.0))
    >>> theta_density(coin, torch.tensor([-0.1, 0.5])).tolist()
    [0.0, 1.0]
    """
    inside = (theta > 0) & (theta < 1)
    at = torch.where(inside, theta, 0.5)
    return torch.where(inside, log_density(torch.logit(at).unsqueeze(-1)).exp() / (at * (1 - at)), 0.0)


def theta_densities(coin: Example, gaussians: dict[str, Gaussian], theta: Tensor) -> dict[str, Tensor]:
    """The densities of θ (G,), exact and by the Gaussians of :func:`closed_ways`; nan for Laplace in θ where it has none.

    >>> coin = coin_toss(6, 4)
    >>> curves = theta_densities(coin, closed_ways(coin, logit_distribution(coin))[1], torch.tensor([0.5]))
    >>> {key: round(curve.item(), 2) for key, curve in curves.items()}
    {'exact': 4.05, 'laplace_logit': 4.08, 'vi': 4.0, 'laplace_theta': 3.94}
    """
    curves = {"exact": theta_density(lambda z: coin(z) - cast(float, coin.log_evidence), theta)}
    curves |= {key: theta_density(gaussians[key].log_prob, theta) for key in ("laplace_logit", "vi")}
    of_theta = gaussians.get("laplace_theta")
    return curves | {"laplace_theta": of_theta.log_prob(theta.unsqueeze(-1)).exp() if of_theta else theta * math.nan}
