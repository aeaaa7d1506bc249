"""What can be known of the posterior of a reader's own model: where it lies, how wide it is, and the best q.

With one or two unknowns all that is said is exact, by quadrature.  With more it comes from long fits and many draws, and
says so.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from torch import Tensor

from vilib.advi import _dtype_that_runs, advi
from vilib.climb import InUnitsOf, standard
from vilib.examples import Example
from vilib.families import FullRankGaussian, Gaussian, MeanFieldGaussian
from vilib.models import Model
from vilib.quadrature import best_gaussian, box_nodes, exact_elbo, gauss_hermite
from vilib.reference import Marginal
from vilib.starts import find_start
from vilib.supports import Bijection, OrderedTransform, SimplexTransform
from vilib.types import NonFiniteLogJoint, NotConverged

_LONG = 6000                                                      # steps of a long fit, at most
_FARTHEST = 80.0                                                  # units to which a posterior's tails are followed


@dataclass(frozen=True, eq=False)
class Known:
    """The best q of a family that is known, float64, and its ELBO in nats.

    exact: whether both come from quadrature; otherwise from a long fit, and ``error`` is the standard error of the ELBO.
    converged: whether that fit met its stopping rule.
    """

    q: Gaussian
    elbo: float
    error: float
    exact: bool
    converged: bool


@dataclass(frozen=True, eq=False)
class Grid:
    """The exact posterior of one or two unknowns on an even grid: z (G, D), probability (G,), which sums to one.

    log_evidence: log p(x) in nats.  marginal: of two unknowns, in the coordinates u of z = shift + tril u; None of one.
    """

    z: Tensor
    probability: Tensor
    log_evidence: float
    shift: Tensor
    tril: Tensor
    marginal: Marginal | None

    def quantiles(self, coordinate: int, *probabilities: float) -> list[float]:
        """Of one coordinate of z."""
        order = self.z[:, coordinate].argsort()
        reached = self.probability[order].cumsum(0)
        last = len(order) - 1
        return [self.z[order[min(int((reached < p).sum()), last)], coordinate].item() for p in probabilities]


@dataclass(frozen=True, eq=False)
class OwnModel:
    """A log joint on R^D with a name; called on z (..., D) it returns (...), in the dtype of z.  Made by
    :func:`vilib.own_model.own_model`.

    coordinates: the one or two of the D that are shown.

    >>> from vilib.own_model import own_model
    >>> own = own_model(lambda z: -z.square().sum(-1) / 2, dim=1)
    >>> own.labels, round(own.best().elbo, 4), round(own.grid.log_evidence, 4)                   # ½ log 2π
    (('z',), 0.9189, 0.9189)
    """

    name: str
    model: Model
    coordinates: tuple[int, ...]
    _best: dict[type[Gaussian], Known] = field(default_factory=dict, repr=False)

    @property
    def dim(self) -> int:
        """D, the number of unconstrained coordinates."""
        return self.model.dim

    def __call__(self, z: Tensor) -> Tensor:
        return self.model(z.to(self.dtype)).to(z.dtype)

    def constrain(self, z: Tensor) -> dict[str, Tensor]:
        """θ on the reader's own scale: z (..., D) -> {name: (..., *shape)}."""
        return self.model.constrain(z)

    @cached_property
    def dtype(self) -> torch.dtype:
        """float64, or float32 where only that suits the reader's data."""
        return _dtype_that_runs(self.model, torch.device("cpu"))

    @property
    def labels(self) -> tuple[str, ...]:
        """What each unconstrained coordinate is, as an axis says it: mu, log tau, logit p."""
        return tuple(label for part in self.model._bijections for label in _labels(part))

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameter that each coordinate moves first, on the reader's scale."""
        return self.model.coordinate_names()

    def parameter_values(self, z: Tensor) -> Tensor:
        """The values of :attr:`parameters`: z (..., D) -> (..., D)."""
        theta, columns = self.model.constrain(z), []
        for part in self.model._bijections:
            value = theta[part.name]
            value = value[..., :-1] if isinstance(part.transform, SimplexTransform) else value
            columns.append(value.reshape(*z.shape[:-1], part.size))
        return torch.cat(columns, -1)

    def best(self, family: type[Gaussian] = MeanFieldGaussian) -> Known:
        """The best q of ``family``: by Newton's method on the exact ELBO up to two unknowns, else by a long fit.

        Raises what the model raises.
        """
        if family not in self._best:
            self._best[family] = self._by_quadrature(family) if self.dim <= 2 else self._by_long_fit(family)
        return self._best[family]

    def _by_quadrature(self, family: type[Gaussian]) -> Known:
        start = find_start(self.model, family, None, torch.Generator().manual_seed(0), self.dtype)
        start = start.with_vector(start.vector().double())
        try:
            q, _ = best_gaussian(self, start, tolerance=1e-8, rule=partial(gauss_hermite, num_nodes=32))
            return Known(q, exact_elbo(self, q).item(), 0.0, True, True)
        except NonFiniteLogJoint:                                  # a node far out, where the reader's function has no value
            return self._by_long_fit(family)

    def _by_long_fit(self, family: type[Gaussian]) -> Known:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConverged)
            found = advi(self.model, family=family, generator=torch.Generator().manual_seed(0), dtype=self.dtype,
                         max_steps=_LONG, tolerance=0.05, num_draws=4000, progress=False)
        q = found.q.with_vector(found.q.vector().double())
        return Known(q, found.elbo.item(), found.elbo_standard_error.item(), False, found.converged)

    @property
    def units(self) -> MeanFieldGaussian:
        """The best mean-field q."""
        q = self.best().q
        assert isinstance(q, MeanFieldGaussian)
        return q

    @cached_property
    def in_units(self) -> Example:
        """The same model in units of its best mean-field q: u = (z − mean)/sd, where that q is the standard normal."""
        best = self.best()
        evidence = None if self.grid is None else self.grid.log_evidence
        return Example(self.name, self.dim, _InUnits(self.units, self), ((-4.0, 4.0),) * self.dim, evidence,
                       known_best=(standard(best.q), best.elbo))

    @cached_property
    def grid(self) -> Grid | None:
        """The exact posterior of one or two unknowns, followed to where its density is 10⁻⁹ of its top; None of more.

        None also where the log joint has no value on the way there.
        """
        if self.dim > 2:
            return None
        wide, reach = self.best(FullRankGaussian).q, 10.0
        units = InUnitsOf(wide, self)
        while True:
            u, log_cell = box_nodes((-reach,) * self.dim, (reach,) * self.dim, {1: 4001, 2: 201}[self.dim])
            try:
                log_p = units(u.reshape(-1, self.dim)).detach()
            except NonFiniteLogJoint:
                return None
            box = log_p.reshape(u.shape[:-1])
            edge = max(side.max().item() for axis in range(self.dim) for side in (box.select(axis, 0), box.select(axis, -1)))
            if edge < box.max().item() + math.log(1e-9) or reach >= _FARTHEST:
                break
            reach *= 2
        probability = torch.softmax(log_p, 0)
        marginal = Marginal(u[:, 0, 0], u[0, :, 1], probability.reshape(box.shape).T) if self.dim == 2 else None
        return Grid(wide.transform(u.reshape(-1, self.dim)), probability, torch.logsumexp(log_p, 0).item() + log_cell, wide.mean,
                    wide.scale_tril, marginal)

    @cached_property
    def reference(self) -> tuple[Tensor, Tensor]:
        """Means and sds (D,) of :attr:`parameters`: exact where there is a :attr:`grid`, else those of a long full-rank fit."""
        if self.grid is not None:
            theta, weights = self.parameter_values(self.grid.z), self.grid.probability
            mean = weights @ theta
            return mean, (weights @ (theta - mean).square()).sqrt()
        q = self.best(FullRankGaussian).q
        eps = torch.randn(20_000, self.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        theta = self.parameter_values(q.transform(eps))
        return theta.mean(0), theta.std(0)

    def windows(self, sds: float) -> tuple[tuple[float, float], ...]:
        """For each coordinate shown, a range of z that holds :meth:`span` and so many sds of the best q to either side."""
        q = self.best().q
        ranges = [(*self.span(c), q.mean[c].item(), q.stddev[c].item()) for c in self.coordinates]
        return tuple((min(low, m - sds * s), max(high, m + sds * s)) for low, high, m, s in ranges)

    def density(self, z: Tensor) -> Tensor:
        """p(z | x) at z (N,) of one unknown, exact where the evidence is, else by the best ELBO in its place."""
        evidence = self.best().elbo if self.grid is None else self.grid.log_evidence
        return (self(z.unsqueeze(-1)) - evidence).exp().detach()

    def plane(self, q: Gaussian) -> tuple[Tensor, Tensor]:
        """Mean (*R, 2) and Cholesky factor (*R, 2, 2) of the coordinates shown under q; of one, with an idle second one."""
        at = list(self.coordinates)
        mean, covariance = q.mean[..., at], q.covariance[..., at, :][..., at]
        if len(at) == 1:
            return torch.cat([mean, 0 * mean], -1), covariance.sqrt() * torch.eye(2, dtype=mean.dtype)
        return mean, torch.linalg.cholesky_ex(covariance)[0]

    def ellipse(self, q: Gaussian) -> Tensor:
        """m₁, m₂, L₁₁, L₂₁, L₂₂ of :meth:`plane`, (5, *R)."""
        mean, tril = self.plane(q)
        return torch.stack([mean[..., 0], mean[..., 1], tril[..., 0, 0], tril[..., 1, 0], tril[..., 1, 1]])

    def span(self, coordinate: int) -> tuple[float, float]:
        """The range of one coordinate of z that holds all but a thousandth of the posterior, as far as it is known."""
        if self.grid is not None:
            low, high = self.grid.quantiles(coordinate, 0.0005, 0.9995)
            return low, high
        q = self.best(FullRankGaussian).q
        mean, sd = q.mean[coordinate].item(), q.covariance[coordinate, coordinate].sqrt().item()
        return mean - 3.3 * sd, mean + 3.3 * sd


class _InUnits:
    """u (..., D) -> log p(x, mean + sd u) + Σ log sd, for any batch."""

    def __init__(self, q: MeanFieldGaussian, own: OwnModel) -> None:
        self.q, self.own, self.log_det = q, own, q.omega.sum()

    def __call__(self, u: Tensor) -> Tensor:
        return self.own(torch.addcmul(self.q.mu, self.q.stddev, u)) + self.log_det

    def constrain(self, u: Tensor) -> dict[str, Tensor]:
        """The draw u (D,) as the reader knows it, for an error to show."""
        return self.own.constrain(self.q.mu + self.q.stddev * u)


def _labels(part: Bijection) -> list[str]:
    """What the coordinates of one parameter are called on the unconstrained scale."""
    names = [part.name] if part.size == 1 else [f"{part.name}[{i}]" for i in range(part.size)]
    if isinstance(part.transform, SimplexTransform):
        return [f"logit of {name} in what is left" for name in names]
    if isinstance(part.transform, OrderedTransform):
        return [name if i % part.shape[-1] == 0 else f"log step to {name}" for i, name in enumerate(names)]
    lower, upper = (getattr(part.support, end, None) for end in ("lower_bound", "upper_bound"))
    if lower is None and upper is None:
        return names
    if lower is None:
        return [f"log of {name} below its bound" for name in names]
    zero = not isinstance(lower, Tensor) and lower == 0
    if upper is None:
        return [f"log {name}" if zero else f"log of {name} above its bound" for name in names]
    unit = zero and not isinstance(upper, Tensor) and upper == 1
    return [f"logit {name}" if unit else f"logit of {name} between its bounds" for name in names]
