"""How good is a fitted q?  Its ELBO with a standard error, and how heavy the tail of its importance weights is.

The weights are w = p(x, z)/q(z), z ~ q: all alike where q is the posterior, and heavy-tailed where q misses some of
it.  Their tail, fitted by a generalised Pareto distribution, has a shape k̂: below 0.5 the weights have a finite
variance, above 0.7 neither q nor a correction by its weights can be relied upon (Yao, Vehtari, Simpson & Gelman 2018).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vilib.families import Gaussian
from vilib.models import evaluate
from vilib.noise import normal
from vilib.types import LogJoint, MissingPackage, NonFiniteLogJoint, ShapeError, check_generator

_CHUNK_ELEMENTS = 2**22


def log_weights(log_joint: LogJoint, q: Gaussian, num_samples: int, generator: torch.Generator) -> Tensor:
    """log p(x, z) − log q(z) at ``num_samples`` draws z ~ q: (S, *R), in nats, as plain numbers.

    Its mean is the ELBO.  Raises NonScalarLogJoint, NonFiniteLogJoint, ShapeError, MissingGenerator,
    GeneratorDeviceError.

    >>> from vilib import MeanFieldGaussian, gaussian_target
    >>> q = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> log_weights(gaussian_target(), q, 3, torch.Generator().manual_seed(0)).abs().max() < 1e-6       # q is p
    tensor(True)
    """
    if num_samples < 1:
        raise ShapeError(f"num_samples: at least 1, got {num_samples}.")
    check_generator(generator, q.mean.device)
    q, parts = q.detach(), []
    chunk = max(1, _CHUNK_ELEMENTS // max(1, q.mean.numel()))
    with torch.no_grad():
        for done in range(0, num_samples, chunk):
            eps = normal(min(chunk, num_samples - done), q.batch_shape, q.dim, generator=generator, dtype=q.mean.dtype)
            parts.append(evaluate(log_joint, q.transform(eps)) - q.log_prob_at(eps))
    return torch.cat(parts)


def elbo_estimate(
    log_joint: LogJoint, q: Gaussian, num_samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The ELBO of q, E_q[log p(x, z) − log q(z)], and the standard error of this estimate of it: (*R) and (*R), in
    nats.

    (eq:elbo)  num_samples: at least 2; the standard error falls as 1/√S, and is 0 where q is the posterior.
    Raises ShapeError for fewer than two draws, and what :func:`log_weights` raises.

    >>> from vilib import MeanFieldGaussian, gaussian_target
    >>> q = MeanFieldGaussian(torch.ones(1), torch.zeros(1))                                 # KL(q ‖ p) = ½
    >>> value, standard_error = elbo_estimate(gaussian_target(), q, 1000, torch.Generator().manual_seed(0))
    >>> bool((value + 0.5).abs() < 4 * standard_error), round(standard_error.item(), 2)
    (True, 0.03)
    """
    if num_samples < 2:
        raise ShapeError(f"num_samples: a standard error needs at least 2 draws, got {num_samples}.")
    variance, mean = torch.var_mean(log_weights(log_joint, q, num_samples, generator), 0)
    return mean, (variance / num_samples).sqrt()


def pareto_k(log_weights: Tensor) -> Tensor:
    """k̂, the Pareto shape of the upper tail of importance weights, by ArviZ: log weights (S, *R) -> (*R), float64.

    A constant may be added to the log weights.  −inf where all the weights are alike, +inf where a few outweigh all
    others e^700-fold.  At least 100 draws; from 10⁵ draws k̂ has a standard deviation of 0.05, and comes out low near
    1.
    It is the shape of the tail, not its size: of weights that differ by less than a nat from each other it says
    nothing. (Vehtari, Simpson, Gelman, Yao & Gabry 2024)
    Raises ShapeError for fewer, NonFiniteLogJoint for nan or +inf, MissingPackage without arviz-stats.

    >>> exponential = torch.empty(20_000, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(0))
    >>> bool((pareto_k(0.5 * exponential) - 0.5).abs() < 0.1)           # exp(k · exponential) is Pareto of shape k
    True
    """
    if log_weights.ndim == 0 or len(log_weights) < 100:
        got = len(log_weights) if log_weights.ndim else 0
        raise ShapeError(f"log_weights: expected (S, *R) with at least 100 draws, for a tail of 20, got {got}.")
    if not bool((log_weights < math.inf).all()):
        bad = ~(log_weights < math.inf)
        raise NonFiniteLogJoint("log_weights: some are nan or +inf. Look at the log joint at the draws that gave them.",
                                bad.nonzero()[0], None, float(log_weights[bad][0]), bad.any(0))
    try:
        from arviz_stats.base import array_stats  # type: ignore[attr-defined]  # public, and not in its __all__
    except ImportError as error:
        raise MissingPackage("pareto_k fits the tail with ArviZ, which is not installed: python -m pip install arviz-stats"
                             ) from error
    columns = log_weights.detach().double().cpu().reshape(len(log_weights), -1)
    # psislw takes log *likelihoods*, whose negatives are the log weights; pareto_khat (0.8.0) forgets the exponential.
    shapes = []
    for row in columns.T.contiguous():
        tail = row.sort().values[-max(20, math.ceil(3 * len(row) ** 0.5)) :]
        alike, beyond = tail[-1] - tail[0] < 1e-9, tail[-1] - tail[len(tail) // 4] > 700     # e^{−700} is all but zero
        shapes.append(-math.inf if alike else math.inf if beyond else float(array_stats.psislw(-row.numpy())[1]))
    return torch.tensor(shapes, dtype=torch.float64, device=log_weights.device).reshape(log_weights.shape[1:])


def pareto_k_of(log_joint: LogJoint, q: Gaussian, num_samples: int, generator: torch.Generator) -> Tensor:
    """k̂ of q's importance weights for this log joint: (*R), float64.  Below 0.7 q is close enough to be corrected by
    its weights.

    For a Gaussian q of covariance C on a Gaussian posterior of precision Λ it tends to 1 − λ_min(C^½ Λ C^½).
    Raises what :func:`log_weights` and :func:`pareto_k` raise.

    >>> from vilib import correlated_gaussian
    >>> q, _ = correlated_gaussian(0.5).best                                         # k = |ρ| for the best mean-field q
    >>> k_hat = pareto_k_of(correlated_gaussian(0.5), q.expand(10), 20_000, torch.Generator().manual_seed(0))
    >>> bool((k_hat.mean() - 0.5).abs() < 0.1)
    True
    """
    return pareto_k(log_weights(log_joint, q, num_samples, generator))
