"""Mean field: a q of independent factors, the best one for a Gaussian posterior, and coordinate ascent to it for any.

q(z) = Π_j q_j(z_j).  Given all the others, the factor that makes the ELBO highest is known in form,
log q_j(z_j) = E_{−j}[log p(x, z)] + const: set one factor after the other to it, round and round, and the ELBO never
falls (Bishop 2006, section 10.1).  For a Gaussian posterior of precision Λ this ends where σ_j² = 1/Λ_jj.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vilib.families import FullRankGaussian, Gaussian, MeanFieldGaussian
from vilib.types import NotConverged, ShapeError, VilibError


# ---- coordinate ascent ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ascent:
    """What :func:`coordinate_ascent` found.

    q: the factors at the end, as the updates make them, batch shape *R.  elbo: (T + 1, *R), in nats, before the first
    sweep and after each.  converged: (*R), bool.
    """

    q: Any
    elbo: Tensor
    converged: Tensor


def coordinate_ascent(
    updates: Sequence[Callable[[Any], Any]], elbo: Callable[[Any], Tensor], q: Any, *, max_sweeps: int = 1000,
    tolerance: float = 1e-9,
) -> Ascent:
    """CAVI: set one factor after the other to its optimum, until no sweep helps.  (eq:optimal-factor)

    updates: each takes q and returns it with one factor set to its optimum given all the others; a sweep applies them
        in order.  elbo: q -> (*R), in nats.  q: where to begin, of any kind that these functions know.
    tolerance: a member of *R has converged when a sweep raises its ELBO by at most this, in nats, beside rounding; the
        sweeps end when all have.  After max_sweeps a NotConverged warning is given.

    Raises VilibError where an update lowers the ELBO, which the optimum of a factor cannot do, or where the ELBO is not
    finite; ShapeError where there is nothing to update.  (Blei, Kucukelbir & McAuliffe 2017)

    >>> p = gaussian_of(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    >>> from vilib import gaussian_kl
    >>> start = MeanFieldGaussian(torch.ones(2), torch.zeros(2))
    >>> found = coordinate_ascent(gaussian_updates(p), lambda q: -gaussian_kl(q, p), start)
    >>> found.q.stddev, bool((found.elbo.diff() > -1e-6).all())
    (tensor([0.6000, 0.6000]), True)
    """
    if not len(updates):
        raise ShapeError("updates: nothing to update; pass one function q -> q for each factor.")
    trace = [_finite(elbo(q), "at the start")]
    for sweep in range(1, max_sweeps + 1):
        before = q
        for update in updates:
            q = update(q)
        trace.append(_finite(elbo(q), f"after sweep {sweep}"))
        rise, rounding = trace[-1] - trace[-2], _rounding(trace[-2])
        if bool((rise < -_allowed_fall(trace[-2])).any()):
            raise VilibError(_culprit(updates, elbo, before, sweep))
        converged = rise <= tolerance + rounding
        if bool(converged.all()):
            break
    else:
        warnings.warn(
            f"coordinate_ascent: after {max_sweeps} sweeps the ELBO still rises by {rise.max():.2g} nats a "
            f"sweep (tolerance {tolerance:g}). Allow more sweeps (max_sweeps); slow sweeps mean that the "
            "factors depend strongly on each other.", NotConverged, stacklevel=2)
    return Ascent(q, torch.stack(trace), converged)


def _finite(value: Tensor, when: str) -> Tensor:
    if not bool(torch.isfinite(value).all()):
        bad = value[~value.isfinite()].flatten()[0].item()
        raise VilibError(f"elbo: {bad} {when}. Look for a factor without width, or a log of zero.")
    return value.detach()


def _rounding(value: Tensor) -> Tensor:
    return 64 * torch.finfo(value.dtype).eps * (1 + value.abs())


def _allowed_fall(value: Tensor) -> Tensor:
    """Larger than ``_rounding``, for an ELBO is a sum of terms that may be far larger than itself."""
    return torch.finfo(value.dtype).eps ** 0.5 * (1 + value.abs())


def _culprit(updates: Sequence[Callable[[Any], Any]], elbo: Callable[[Any], Tensor], q: Any, sweep: int) -> str:
    """Take the sweep again, one update at a time, and name the one that falls furthest."""
    values = [elbo(q)]
    for update in updates:
        q = update(q)
        values.append(elbo(q))
    rises = torch.stack(values).diff(dim=0).reshape(len(updates), -1).amin(-1)
    worst = int(rises.argmin())
    name = getattr(getattr(updates[worst], "func", updates[worst]), "__name__", "")
    called = f" ({name})" if name else ""
    return (f"updates: number {worst} of {len(updates)}{called} lowered the ELBO by {-rises[worst]:.3g} nats in "
            f"sweep {sweep}. The optimum of one factor, given all the others as they are now, cannot do that: look for "
            "a factor computed from old values of the others, for more than one factor changed at once, or for a term "
            "that the ELBO lacks.")


# ---- a Gaussian posterior -------------------------------------------------------------------------------------------


def gaussian_of(mean: Tensor, covariance: Tensor) -> FullRankGaussian:
    """The Gaussian with this mean (*R, D) and covariance (*R, D, D), as a family.

    Raises ShapeError, and VilibError where the covariance is not positive definite.

    >>> gaussian_of(torch.zeros(2), torch.tensor([[4.0, 1.0], [1.0, 1.0]])).stddev
    tensor([2., 1.])
    """
    if covariance.shape[-2:] != 2 * mean.shape[-1:]:
        raise ShapeError(f"mean and covariance: (*R, D) and (*R, D, D), got {tuple(mean.shape)} and "
                         f"{tuple(covariance.shape)}.")
    tril, failed = torch.linalg.cholesky_ex(covariance)
    if bool(failed.any()):
        raise VilibError("covariance: not positive definite. Is it symmetric, and are all correlations below 1?")
    mean = mean.expand(*covariance.shape[:-1])
    return FullRankGaussian(mean, tril.tril(-1) + torch.diag_embed(tril.diagonal(dim1=-2, dim2=-1).log()))


def precision_of(p: FullRankGaussian) -> Tensor:
    """Λ = Σ⁻¹, (*R, D, D).

    >>> precision_of(gaussian_of(torch.zeros(2), torch.tensor([[0.25, 0.0], [0.0, 0.0625]])))
    tensor([[ 4.,  0.],
            [ 0., 16.]])
    """
    return p.inverse_tril.mT @ p.inverse_tril


def update_gaussian_factor(q: MeanFieldGaussian, i: int, mean: Tensor, precision: Tensor) -> MeanFieldGaussian:
    """q with its factor i at its optimum for N(mean, precision⁻¹), given the others.  (eq:gaussian-factor)

    q: of any batch *R.  mean: (*R, D) or (D,); precision Λ: (*R, D, D) or (D, D).

    >>> start, rho = MeanFieldGaussian(torch.tensor([0.0, 1.0]), torch.zeros(2)), 0.6
    >>> precision = torch.tensor([[1.0, -rho], [-rho, 1.0]]) / (1 - rho**2)
    >>> q = update_gaussian_factor(start, 0, torch.zeros(2), precision)
    >>> q.mean, q.stddev
    (tensor([0.6000, 1.0000]), tensor([0.8000, 1.0000]))
    """
    own = precision[..., i, i]                                       # Λ_ii
    pull = (precision[..., i, :] * (q.mu - mean)).sum(-1)            # over all l, i among them
    mu_i, omega_i = q.mu[..., i] - pull / own, -0.5 * own.log()
    is_i = torch.arange(q.dim, device=q.mu.device) == i
    put = lambda new, old: torch.where(is_i, new.unsqueeze(-1), old)  # noqa: E731
    return MeanFieldGaussian(put(mu_i, q.mu), put(omega_i, q.omega))


def gaussian_updates(p: FullRankGaussian) -> list[Callable[[MeanFieldGaussian], MeanFieldGaussian]]:
    """The D updates of a sweep over the coordinates of p, for :func:`coordinate_ascent`.  (eq:gaussian-factor)

    >>> len(gaussian_updates(gaussian_of(torch.zeros(3), torch.eye(3))))
    3
    """
    precision = precision_of(p)
    return [partial(update_gaussian_factor, i=i, mean=p.mean, precision=precision) for i in range(p.dim)]


def closest_mean_field(p: FullRankGaussian) -> MeanFieldGaussian:
    """The factorised q with the lowest KL(q ‖ p): p's mean, and the *conditional* variances 1/Λ_ii.

    (eq:mean-field-widths)  p: of any batch *R.  No other factorised density is closer, Gaussian or not.

    >>> closest_mean_field(gaussian_of(torch.zeros(2), torch.tensor([[1.0, 0.6], [0.6, 1.0]]))).stddev
    tensor([0.8000, 0.8000])
    """
    return MeanFieldGaussian(p.mean, -0.5 * p.inverse_tril.square().sum(-2).log())


def closest_mean_field_forward(p: Gaussian) -> MeanFieldGaussian:
    """The factorised q with the lowest KL(p ‖ q): p's own marginals.  (eq:forward-marginals)

    >>> closest_mean_field_forward(gaussian_of(torch.zeros(2), torch.tensor([[1.0, 0.6], [0.6, 1.0]]))).stddev
    tensor([1., 1.])
    """
    return MeanFieldGaussian(p.mean, p.stddev.log())


def weight_tail(q: Gaussian, p: FullRankGaussian) -> Tensor:
    """The shape k of the upper tail of the weights p(z)/q(z), z ~ q, (*R).  (eq:weight-tail)

    It is what k̂ estimates: k = 1 − e, e the smallest eigenvalue of C^½ Λ C^½, C the covariance of q,
    whose mean is p's.  Below 1.  Zero or less where q is as wide as p in every direction: then the
    weights are bounded.

    >>> p = gaussian_of(torch.zeros(2), torch.tensor([[1.0, 0.6], [0.6, 1.0]]))
    >>> round(weight_tail(closest_mean_field(p), p).item(), 6)
    0.6
    """
    ratios = torch.linalg.svdvals(p.inverse_tril @ q.scale_tril)     # their squares are the eigenvalues
    return 1 - ratios[..., -1].square()
