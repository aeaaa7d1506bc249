"""Posteriors to race estimators to, each with a start from which there is some way to go: easy, correlated, two-humped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from vilib.examples import Example, correlated_gaussian, logistic_one_coefficient, two_component_mixture
from vilib.families import MeanFieldGaussian
from vilib.tables import Table, tabulate

RHO = 0.9  # of the correlated Gaussian


@dataclass(frozen=True)
class Track:
    """A posterior and the way to it: μ starts at ``start``, log σ at 0.

    elbo_range, z_range: where the race is to be seen, in nats and on each axis of z.  table: of the log joint, if it saves time.
    """

    label: str
    example: Example
    start: tuple[float, ...]
    elbo_range: tuple[float, float]
    z_range: tuple[float, float]
    table: Table | None = None

    def q0(self, *batch: int) -> MeanFieldGaussian:
        """The start, once for each fit of the batch; float32.

        >>> tracks()["correlated"].q0(3, 32).mu.shape
        torch.Size([3, 32, 2])
        """
        mu = torch.tensor(self.start).expand(*batch, self.example.dim)
        return MeanFieldGaussian(mu, torch.zeros_like(mu))

    def density(self, z: Tensor) -> Tensor:
        """p(z | x) at z (N,), exact, for one unknown: the joint over the evidence.

        >>> z = torch.linspace(-9, 9, 601).double()
        >>> round(torch.trapezoid(tracks()["mixture"].density(z), z).item(), 6)
        1.0
        """
        return (self.example(z.unsqueeze(-1)) - cast(float, self.example.log_evidence)).exp()


def tracks() -> dict[str, Track]:
    """Name -> track: a logistic regression on 24 simulated points, a correlated Gaussian, a mixture of two Gaussians.

    >>> [(name, track.example.dim) for name, track in tracks().items()]
    [('logistic', 1), ('correlated', 2), ('mixture', 1)]
    """
    x = torch.linspace(-2.0, 2.0, 24, dtype=torch.float64)
    y = torch.bernoulli(torch.sigmoid(1.2 * x), generator=torch.Generator().manual_seed(3))
    logistic = logistic_one_coefficient(x, y)
    return {
        "logistic": Track("logistic regression, 24 points", logistic, (-1.0,), (-18.0, -13.6), (-2.0, 3.0),
                          tabulate(logistic, -32.0, 32.0, 4097)),
        "correlated": Track(f"correlated Gaussian, ρ = {RHO}", correlated_gaussian(RHO), (-2.0, 0.0), (-6.0, 0.6), (-3.0, 3.0)),
        "mixture": Track("two-component mixture", two_component_mixture(), (0.0,), (-4.0, 0.4), (-7.0, 7.0)),
    }
