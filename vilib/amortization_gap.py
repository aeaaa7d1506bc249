"""What one network for every x costs, datum by datum.

    log p(x) − L(q_φ)  =  [ log p(x) − L(q*) ]  +  [ L(q*) − L(q_φ) ]
     inference gap         approximation gap         amortisation gap

q_φ is the encoder's q, q* the best of its family for that x alone.  The first bracket is what the family cannot do,
the second what the encoder does not; neither is negative.  Cremer, Li & Duvenaud (2018).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from vilib.amortized import VAE, DataLogJoint, analytic_kl, kl_to_standard_normal
from vilib.estimators import sticking_the_landing
from vilib.families import Gaussian
from vilib.fit import Fit, Optimizer, TorchOptimizer, adam, fit
from vilib.iwae import iwae
from vilib.models import evaluate
from vilib.noise import normal
from vilib.quadrature import gauss_hermite
from vilib.types import Estimator, LogJoint, ShapeError, VilibError, check_generator

_CHUNK_ELEMENTS = 2**21


@dataclass(frozen=True, eq=False)
class AmortizationGap:
    """The gap of each datum and its two parts, (N) each, float64, in nats.

    log_evidence: log p(x_n); if ``exact`` is False only a lower bound on it, so that ``approximation`` and
    ``inference`` may be too small.
    elbo: L(q_φ).  best_elbo: L(q*).  q, best: the encoder's q and q*, families with R = N.
    """

    log_evidence: Tensor
    best_elbo: Tensor
    elbo: Tensor
    q: Gaussian
    best: Gaussian
    exact: bool

    @property
    def inference(self) -> Tensor:
        """log p(x) − L(q_φ) = KL(q_φ ‖ p(z | x)): the whole."""
        return self.log_evidence - self.elbo

    @property
    def approximation(self) -> Tensor:
        """log p(x) − L(q*): what the family cannot do."""
        return self.log_evidence - self.best_elbo

    @property
    def amortization(self) -> Tensor:
        """L(q*) − L(q_φ): what the encoder does not do."""
        return self.best_elbo - self.elbo


def amortization_gap(
    vae: VAE, x: Tensor, *, num_steps: int = 200, optimizer: Optimizer | None = None, num_nodes: int | None = None,
    num_samples: int = 8, num_importance: int = 4096, generator: torch.Generator | None = None,
    starts: Sequence[Gaussian] = (),
) -> AmortizationGap:
    """The inference gap of each x_n, (N), split in what the family costs and what the encoder costs.

    x: (N, ...).  Every x_n climbs from the encoder's q to its own q*, all N at once; ``vae`` is not changed.  Works in
    float64.

    A latent of D ≤ 2: nothing is drawn.  ELBOs by Gauss–Hermite quadrature with ``num_nodes`` a dimension (None: 24
    for D = 1, 10 for D = 2), log p(x) by :func:`data_log_evidence`, and the best q on the way up is kept, so the
    amortisation gap is never negative.
    D > 2: needs ``generator``.  The climb uses sticking the landing with ``num_samples`` draws a step; both ELBOs are
    means over the same ``num_importance`` fresh draws, so a gap near zero may come out just below it, and log p(x) is
    replaced by the IWAE bound of that many draws from q*, which lies below it.

    num_steps, optimizer: of the climb; by default Adam, its step falling from 0.05 to 0.
    starts: further q to climb from, of the encoder's family, each with batch shape (N) or none.  A climb finds a hill, not
    always the highest: where a posterior has several modes, start one at each, and the best of all is q*.  The whole
    gap does not depend on it, the split does.
    Raises MissingGenerator (D > 2), what :func:`data_log_evidence` raises, and VilibError and ShapeError for data that
    do not fit.

    >>> from vilib import mlp_vae
    >>> vae = mlp_vae(6, 1, (8,), generator=torch.Generator().manual_seed(0))
    >>> gap = amortization_gap(vae, torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0, 0.0]]), num_steps=50)
    >>> bool(gap.approximation > 0), bool(gap.amortization > 0)
    (True, True)
    """
    vae, x, dim = _in_double(vae, x)
    with torch.no_grad():
        q, log_joint = vae.encode(x), vae.log_joint(x)
    climb = optimizer or adam(0.05, lambda step: 1 - step / max(num_steps, 1))
    q0 = _with_starts(q, starts)                                           # (K, N): the encoder's q, then the others
    if dim > 2:
        generator = check_generator(generator, x.device)
        return _by_sampling(log_joint, q, q0, climb, num_steps, num_samples, num_importance, generator)

    nodes, weights = (rule.to(x.device) for rule in gauss_hermite(dim, num_nodes or {1: 24, 2: 10}[dim]))
    nodes = nodes[:, None, None].expand(-1, *q0.batch_shape, -1)

    def quadrature(log_joint: DataLogJoint, q: Gaussian, eps: Tensor) -> Tensor:                                     # reconstruction − KL, as analytic_kl
        log_likelihood = evaluate(log_joint.log_likelihood, q.transform(eps))
        return torch.tensordot(weights, log_likelihood, 1) - kl_to_standard_normal(q)

    climbed = fit(
        cast(Estimator, quadrature), log_joint, q0, num_samples=len(nodes), num_steps=num_steps, optimizer=climb,
        generator=torch.Generator(x.device), noise=lambda *shape, **options: nodes,
    )
    best, best_elbo = _best_on_the_way(climbed)
    return AmortizationGap(data_log_evidence(vae, x), best_elbo, climbed.elbo[0, 0], q, best, exact=True)


def _with_starts(q: Gaussian, starts: Sequence[Gaussian]) -> Gaussian:
    """q and the other starts as one family with R = (K, N)."""
    vectors = [q.vector()]
    for k, start in enumerate(starts):
        if type(start) is not type(q) or start.dim != q.dim or start.batch_shape not in ((), q.batch_shape):
            raise ShapeError(
                f"starts: each a {type(q).__name__} of D = {q.dim}, batch shape {tuple(q.batch_shape)} or (), as the "
                f"encoder's; number {k} is a {type(start).__name__} of D = {start.dim}, batch shape {tuple(start.batch_shape)}."
            )
        vectors.append(start.vector().to(q.vector()).expand_as(q.vector()))
    return q.with_vector(torch.stack(vectors))


def _best_on_the_way(climbed: Fit[Gaussian]) -> tuple[Gaussian, Tensor]:
    recorded = torch.where(climbed.elbo.isnan(), -math.inf, climbed.elbo)      # nan marks the steps after a failure
    best_elbo, row = recorded.flatten(0, 1).max(0)                             # over the steps of every start
    return climbed.family.with_vector(climbed.path.flatten(0, 1)[row, torch.arange(len(row), device=row.device)]), best_elbo


def _by_sampling(
    log_joint: DataLogJoint, q: Gaussian, q0: Gaussian, climb: Optimizer | TorchOptimizer, num_steps: int, num_samples: int,
    num_importance: int, generator: torch.Generator,
) -> AmortizationGap:
    climbed = fit(
        sticking_the_landing, log_joint, q0, num_samples=num_samples, num_steps=num_steps, optimizer=climb,
        generator=generator, record_steps=(),
    )
    best = climbed.q
    size = max(1, _CHUNK_ELEMENTS // (log_joint.x.numel() * len(best.vector())))
    if len(best.vector()) > 1:                                             # which start is best, on draws of its own
        each: Any = 0.0
        for done in range(0, num_importance, size):
            eps = normal(min(size, num_importance - done), q.batch_shape, q.dim, generator=generator, dtype=torch.float64)
            each = each + len(eps) * analytic_kl(log_joint, best, eps.unsqueeze(1).expand(-1, *best.batch_shape, -1))
        chosen = each.argmax(0)
    else:
        chosen = torch.zeros(len(q.vector()), dtype=torch.int64, device=q.vector().device)
    best = q.with_vector(best.vector()[chosen, torch.arange(len(chosen), device=chosen.device)])
    elbo: Any = 0.0
    best_elbo: Any = 0.0
    log_w = []
    for done in range(0, num_importance, size):
        count = min(size, num_importance - done)
        eps = normal(count, q.batch_shape, q.dim, generator=generator, dtype=torch.float64)
        elbo = elbo + count / num_importance * analytic_kl(log_joint, q, eps)
        best_elbo = best_elbo + count / num_importance * analytic_kl(log_joint, best, eps)
        log_w.append(iwae(log_joint, best, eps) + math.log(count))
    bound = torch.stack(log_w).logsumexp(0) - math.log(num_importance)
    return AmortizationGap(bound, best_elbo, elbo, q, best, exact=False)


def data_log_evidence(
    vae: VAE, x: Tensor, *, reach: float = 8.0, num_nodes: int | None = None, tolerance: float = 1e-3
) -> Tensor:
    """log p(x_n) = log ∫ p(x_n, z) dz for each datum, (N), float64, in nats.

    By the trapezoid rule on [−reach, reach]^D, D ≤ 2; the decoder runs once a node, for all data together.
    x: (N, ...).  num_nodes: a dimension, odd; None for 4001 in one dimension, 401 in two.
    Raises ShapeError for D > 2, and VilibError where the answer cannot be trusted: where every second node gives one
    that differs by more than ``tolerance``, or where a posterior reaches the edge of the box.

    >>> from vilib import LinearVAE
    >>> vae, x = LinearVAE(6, 2, generator=torch.Generator().manual_seed(0)), torch.ones(1, 6)
    >>> bool((data_log_evidence(vae, x) - vae.exact_log_evidence(x)).abs() < 1e-4)
    True
    """
    vae, x, dim = _in_double(vae, x)
    if dim > 2:
        raise ShapeError(f"vae: quadrature reaches two dimensions, this latent has {dim}; see vilib.iwae for a bound.")
    num_nodes = num_nodes or {1: 4001, 2: 401}[dim]
    if num_nodes % 2 == 0:
        raise VilibError(f"num_nodes: an odd number, so that every second node is a grid too, got {num_nodes}.")
    axis, on_axis = torch.linspace(-reach, reach, num_nodes, dtype=x.dtype), torch.arange(num_nodes)
    nodes = torch.cartesian_prod(*[axis] * dim).reshape(-1, 1, dim).to(x.device)               # (G, 1, D)
    where = torch.cartesian_prod(*[on_axis] * dim).reshape(-1, 1, dim).to(x.device)
    second = (where % 2 == 0).all(-1)                                                         # (G, 1)
    at_edge = ((where == 0) | (where == num_nodes - 1)).any(-1)
    parts, chunk = [], max(1, _CHUNK_ELEMENTS // max(x[0].numel(), len(x)))
    with torch.no_grad():
        for z, keep, edge in zip(nodes.split(chunk), second.split(chunk), at_edge.split(chunk)):
            log_p = _on_nodes(vae.log_joint(x), z, len(x))
            on_edge, coarse = log_p.masked_fill(~edge, -math.inf), log_p.masked_fill(~keep, -math.inf)
            parts.append(torch.stack([log_p.logsumexp(0), coarse.logsumexp(0), on_edge.amax(0), log_p.amax(0)]))
    fine, coarse, on_edge, highest = torch.stack(parts).unbind(1)                             # (chunks, N) each
    log_cell = dim * math.log(2 * reach / (num_nodes - 1))
    log_evidence, coarse = fine.logsumexp(0) + log_cell, coarse.logsumexp(0) + log_cell + dim * math.log(2)
    over_the_edge = on_edge.amax(0) > highest.amax(0) + math.log(tolerance)
    if bool(over_the_edge.any()):
        raise VilibError(
            f"reach: the posterior of datum {int(over_the_edge.nonzero()[0])} is not over at the edge of "
            f"[−{reach:g}, {reach:g}]. Take a larger reach."
        )
    off = (log_evidence - coarse).abs()
    too_few = ~(off <= tolerance)
    if bool(too_few.any()):
        raise VilibError(
            f"num_nodes: {num_nodes} a dimension are too few for datum {int(too_few.nonzero()[0])}: every second one "
            f"gives a log p(x) that is {off.max():.2g} nats off. Take more."
        )
    return log_evidence


def _in_double(vae: VAE, x: Tensor) -> tuple[VAE, Tensor, int]:
    """A float64 copy of both, checked, that needs no gradient, and D."""
    vae, x = copy.deepcopy(vae).double().requires_grad_(False), x.double()
    return vae, x, vae.check(x).dim


def _on_nodes(log_joint: LogJoint, z: Tensor, num_data: int) -> Tensor:
    """log p(x_n, z_g), (G, N), for nodes z (G, 1, D)."""
    log_p = log_joint(z)
    if log_p.shape != (len(z), num_data):
        raise ShapeError(
            f"decoder: log_prob(x, z) should broadcast z {tuple(z.shape)} against the {num_data} data, "
            f"to {(len(z), num_data)}, got {tuple(log_p.shape)}."
        )
    return log_p
