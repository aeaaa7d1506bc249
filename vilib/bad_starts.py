"""Five fits that begin badly on purpose, and where their q stand beside the reference posterior.

Each start is several of its own widths away from the posterior. Two parameters of each model are looked at, on the model's own
scale, where both q and the reference have exact moments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from vilib.diagnostics import elbo_estimate, log_weights, pareto_k
from vilib.examples import Example, coin_toss, eight_schools, kidiq
from vilib.families import FullRankGaussian, Gaussian, MeanFieldGaussian
from vilib.reference import Marginal, mixture_of_two, reference_marginal, transformed_moments


@dataclass(frozen=True)
class BadStart:
    """A model, and where its fit begins in z.

    start: means and sds of q0.  through: the map from the first coordinates of z to the parameters looked at, as
    :func:`vilib.reference.transformed_moments` has it.  best: the ELBO in nats that :func:`vilib.advi.advi` reaches, with a
    mean-field ("mean") and with a full-rank q ("full").
    """

    example: Example
    start: tuple[tuple[float, ...], tuple[float, ...]]
    through: str
    best: dict[str, float]

    def q0(self, family: type[Gaussian]) -> Gaussian:
        """The start, of this family, float64."""
        mean, sd = (torch.tensor(x, dtype=torch.float64) for x in self.start)
        return MeanFieldGaussian(mean, sd.log()) if family is MeanFieldGaussian else FullRankGaussian(mean, torch.diag(sd.log()))

    def plane(self, q: Gaussian) -> tuple[Tensor, Tensor]:
        """Mean (T, 2) and Cholesky factor (T, 2, 2) of the two coordinates of z that are looked at, under q, batch (T,)."""
        return first_two(q)

    def moments(self, q: Gaussian) -> tuple[Tensor, Tensor]:
        """Means and sds (T, 2) of the parameters under q, batch (T,); nan for a second that there is not."""
        return transformed_moments(self.through, *first_two(q))

    @cached_property
    def marginal(self) -> Marginal | None:
        """The reference posterior of both parameters, None where there is only one."""
        return reference_marginal(self.example.name) if self.example.dim > 1 else None

    @property
    def known(self) -> tuple[Tensor, Tensor]:
        """Means and sds (2,) of the parameters under the reference posterior; nan for a second that there is not."""
        if self.marginal:
            return self.marginal.mean, self.marginal.sd
        exact, nothing = cast(Distribution, self.example.posterior), torch.tensor([math.nan], dtype=torch.float64)
        return torch.cat([exact.mean.reshape(1), nothing]), torch.cat([exact.stddev.reshape(1), nothing])


def first_two(q: Gaussian) -> tuple[Tensor, Tensor]:
    """Mean (T, 2) and Cholesky factor (T, 2, 2) of the first two coordinates of q, batch (T,); of one, with an idle second one.

    >>> m, tril = first_two(MeanFieldGaussian(torch.ones(1, 3), torch.zeros(1, 3)))
    >>> m.shape, tril.shape
    (torch.Size([1, 2]), torch.Size([1, 2, 2]))
    """
    if q.dim == 1:
        return torch.cat([q.mean, 0 * q.mean], -1), q.scale_tril * torch.eye(2)
    return q.mean[:, :2], q.scale_tril[:, :2, :2]


def thrown_out(q: Gaussian) -> Tensor:
    """Which q of a batch are beyond all use: a mean not within 10⁴, or a log scale not within 20; (*R).

    >>> thrown_out(MeanFieldGaussian(torch.tensor([[0.0], [1e5]]), torch.zeros(2, 1)))
    tensor([False,  True])
    """
    return ~((q.mean.abs() < 1e4) & (q.log_scales().abs() < 20)).all(-1)


@dataclass(frozen=True, eq=False)
class Beside:
    """A path of q beside the reference posterior; nan where it was thrown out, and where a number is 10⁵ or more.

    mean, sd (T, 2): of the two parameters.  off: how far the mean is from the reference's, in its sds.  ratio: sd over the
    reference's.  in_z (T, 5): m₁, m₂, L₁₁, L₂₁, L₂₂ of the first two coordinates of z.  elbo, error (T,): in nats, nan
    further than 10⁵ below ``best``.  gap, spread: how far the last q is below ``best``, and the sd of its log weights, in nats;
    k_hat: theirs.
    """

    mean: Tensor
    sd: Tensor
    off: Tensor
    ratio: Tensor
    in_z: Tensor
    elbo: Tensor
    error: Tensor
    gap: float
    spread: float
    k_hat: float

    @property
    def narrowest(self) -> float:
        """The smaller ``ratio`` of the last q, 0 if there is none."""
        return min((ratio for ratio in self.ratio[-1].tolist() if not math.isnan(ratio)), default=0.0)


def beside_reference(
    bad: BadStart, path: Gaussian, best: float, num_draws: int, num_last: int, generator: torch.Generator,
) -> Beside:
    """Where each q of a path, batch (T,), stands; ELBOs from ``num_draws`` draws each, gap and k̂ of the last from ``num_last``.

    >>> bad = bad_starts()["coin"]
    >>> at = beside_reference(bad, bad.q0(MeanFieldGaussian).expand(2), -7.0695, 100, 1000, torch.Generator().manual_seed(0))
    >>> at.gap > 5, round(at.off[0, 0].item(), 1)
    (True, -4.5)
    """
    lost, far = thrown_out(path), 1e5
    path = path.with_vector(torch.where(lost.unsqueeze(-1), path.vector()[:1], path.vector()))
    elbo, error = elbo_estimate(bad.example, path, num_draws, generator)
    last = log_weights(bad.example, path.with_vector(path.vector()[-1]), num_last, generator)
    gap, spread, k_hat = (math.nan,) * 3 if lost[-1] else (best - last.mean().item(), last.std().item(), pareto_k(last).item())
    gap, spread = (gap, spread) if gap < far else (math.nan, math.nan)
    elbo = elbo.masked_fill(elbo < best - far, math.nan)
    (m, tril), (mean, sd), (known, width) = bad.plane(path), bad.moments(path), bad.known
    in_z = torch.stack([m[:, 0], m[:, 1], tril[:, 0, 0], tril[:, 1, 0], tril[:, 1, 1]], -1)
    there = lambda x: x.masked_fill(lost.reshape(-1, *[1] * (x.ndim - 1)) | ~(x.abs() < far), math.nan)  # noqa: E731
    arrays = (mean, sd, (mean - known) / width, sd / width, in_z, elbo, error + 0 * elbo)
    mean, sd, off, ratio, in_z, elbo, error = map(there, arrays)
    return Beside(mean, sd, off, ratio, in_z, elbo, error, gap, spread, k_hat)


def significant(x: Tensor, digits: int) -> Tensor:
    """x to so many significant digits; 0, nan and infinities as they are.

    >>> significant(torch.tensor([0.87654, -123.456, 0.0], dtype=torch.float64), 3)
    tensor([   0.8770, -123.0000,    0.0000], dtype=torch.float64)
    """
    places = digits - 1 - x.abs().nan_to_num(1.0, 1.0).clamp_min(1e-300).log10().floor()
    return (x * 10**places).round() / 10**places


def in_a_table(bad: BadStart, seen: Beside, digits: tuple[int, int] = (4, 3)) -> dict[str, Tensor]:
    """mean and sd (T, 2) to the digits that a table shows, and off, to one decimal, and ratio, to two, *of these*.

    So who divides, or subtracts and divides, the numbers of the table gets the table's own answer.  (What is known is taken as a
    page holds it, in float32, lest a digit be rounded another way there.)

    >>> bad, q = bad_starts()["coin"], MeanFieldGaussian(torch.tensor([[0.138]]).double(), torch.tensor([[-1.5]]).double())
    >>> row = in_a_table(bad, beside_reference(bad, q, -7.0695, 100, 1000, torch.Generator().manual_seed(0)))
    >>> row["sd"][0, 0].item(), row["ratio"][0, 0].item()                            # 0.0549/0.0896
    (0.0549, 0.61)
    """
    mean, sd = (significant(x, n) for x, n in zip((seen.mean, seen.sd), digits))
    known_mean, known_sd = (significant(x.float().double(), n) for x, n in zip(bad.known, digits))
    off, ratio = (mean - known_mean) / known_sd, sd / known_sd
    return {"mean": mean, "sd": sd, "off": off.round(decimals=1), "ratio": ratio.round(decimals=2)}


def bad_starts() -> dict[str, BadStart]:
    """All five, by short names.

    >>> {name: bad.example.dim for name, bad in bad_starts().items()}
    {'raw': 3, 'centred': 3, 'coin': 1, 'schools': 10, 'mixture': 5}
    """
    return {
        "raw": BadStart(kidiq(), ((14.0, 0.65, 3.2), (3.0, 0.03, 0.1)), "", {"mean": -1883.573, "full": -1881.665}),
        "centred": BadStart(kidiq(True), ((80.0, 0.4, 3.2), (3.0, 0.1, 0.1)), "", {"mean": -1881.665, "full": -1881.665}),
        "coin": BadStart(coin_toss(6, 4), ((-2.0,), (0.5,)), "sigmoid", {"mean": -7.0695, "full": -7.0695}),
        "schools": BadStart(eight_schools(), ((-6.0, *[0.0] * 9), (2.0, *[0.5] * 9)), "exp", {"mean": -31.62, "full": -31.53}),
        "mixture": BadStart(mixture_of_two(), ((-2.5, 1.55, 0.1, 0.1, 0.3), (0.1, 0.02, 0.1, 0.1, 0.1)), "ordered",
                            {"mean": -2115.927, "full": -2115.687}),
    }
