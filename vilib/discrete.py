"""q over discrete z: a Bernoulli or a categorical for each coordinate, independent of each other.

The same shape law and the same methods as the Gaussians of :mod:`vilib.families`, so every estimator that needs only
log q runs on them.  What they lack is a path: a draw jumps from one value to the next as λ moves, so
``transform`` refuses (NotReparameterizable).

Noise stays an argument.  ε is standard normal, so u = Φ(ε) is uniform, and the draw is the inverse of the cumulative
distribution at u.  λ are logits, free in R^P: every λ is a distribution.  Draws are floats, in the dtype of λ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, one_hot, softplus

from vilib.types import NotReparameterizable, ShapeError, check_noise

#: As many states as a sum over all of them may have.
MOST_STATES = 2**20


@dataclass(frozen=True, eq=False)
class _Discrete:
    """What both families share: all that follows from ``log_factors`` and the logits."""

    logits: Tensor
    reparameterizable = False

    if TYPE_CHECKING:                                    # each says these for itself
        @property
        def dim(self) -> int: ...
        @property
        def batch_shape(self) -> torch.Size: ...
        @property
        def num_classes(self) -> int: ...
        def parameter_names(self) -> tuple[str, ...]: ...
        def log_factors(self, z: Tensor) -> Tensor: ...

    @property
    def num_parameters(self) -> int:
        return len(self.parameter_names())

    def transform(self, eps: Tensor) -> Tensor:
        """There is no differentiable path here: raises NotReparameterizable.  Draw with :meth:`sample`."""
        raise NotReparameterizable(
            f"q: {type(self).__name__} has no differentiable transform(eps), so no gradient can run along its draws. "
            "Use an estimator that needs only log q: score_function, leave_one_out, optimal_coefficient."
        )

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z), (S, *R), differentiable in λ."""
        return self.log_factors(z).sum(-1)

    def states(self) -> Tensor:
        """Every z there is, (N, *R, D), N = K^D: for sums that are exact.  Raises ShapeError beyond 2²⁰ of them."""
        if self.num_classes**self.dim > MOST_STATES:
            raise ShapeError(f"q: {self.num_classes}^{self.dim} states are too many to sum over (at most 2^20). "
                             "Estimate by score_function or leave_one_out instead.")
        values = torch.arange(self.num_classes, dtype=self.logits.dtype, device=self.logits.device)
        states = torch.cartesian_prod(*[values] * self.dim).reshape(-1, *(1 for _ in self.batch_shape), self.dim)
        return states.expand(len(states), *self.batch_shape, self.dim)

    def detach(self) -> Self:
        """λ̄: the same distribution, held fixed."""
        return type(self)(*(getattr(self, field.name).detach() for field in fields(self)))

    def expand(self, *batch: int) -> Self:
        """The same q for a batch: leading axes ``*batch`` are put before *R."""
        return type(self)(*(parameter.expand(*batch, *parameter.shape)
                            for parameter in (getattr(self, field.name) for field in fields(self))))


@dataclass(frozen=True, eq=False)
class FactorizedBernoulli(_Discrete):
    """q(z) = Π_d θ_d^{z_d} (1 − θ_d)^{1 − z_d}, θ_d = sigmoid(logits_d), z_d ∈ {0., 1.}.  λ = logits.

    logits: (*R, D), log odds in nats.  Raises ShapeError when they have no last axis.

    >>> q = FactorizedBernoulli(torch.zeros(2))
    >>> q.sample(torch.tensor([[-1.0, 0.5]])), round(q.entropy().item(), 4)              # z = 1 where Φ(ε) > 1 − θ
    (tensor([[0., 1.]]), 1.3863)
    """

    logits: Tensor
    num_classes = 2

    def __post_init__(self) -> None:
        if self.logits.ndim == 0:
            raise ShapeError("logits: expected (*R, D), got (). For one dimension pass torch.tensor([logit]).")

    @property
    def dim(self) -> int:
        return self.logits.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        return self.logits.shape[:-1]

    @property
    def mean(self) -> Tensor:
        """E z = θ, (*R, D)."""
        return self.logits.sigmoid()

    def sample(self, eps: Tensor) -> Tensor:
        """Draws of 0. and 1., (S, *R, D): z = 1 where Φ(ε) > 1 − θ, that is Φ(−ε) < θ, exact for a small θ too."""
        check_noise(self, eps)
        with torch.no_grad():
            return (_phi(-eps) < self.mean).to(self.logits.dtype)

    def log_factors(self, z: Tensor) -> Tensor:
        """log q_d(z_d) of each coordinate, (S, *R, D): z l − log(1 + e^l), l the logit."""
        return z * self.logits - softplus(self.logits)

    def entropy(self) -> Tensor:
        """H[q], (*R), in nats."""
        return -(self.mean * logsigmoid(self.logits) + (-self.logits).sigmoid() * logsigmoid(-self.logits)).sum(-1)

    def score(self, z: Tensor, coordinates: Sequence[int] | None = None) -> Tensor:
        """∇_λ log q(z), (S, *R, P): z − θ.  (eq:log-derivative)

        coordinates: indices into λ, if only some are wanted.
        """
        return _some(z - self.mean, coordinates)

    def score_variance(self, coordinates: Sequence[int] | None = None) -> Tensor:
        """Var_q of each coordinate of the score, (*R, P): θ(1 − θ).  (eq:score-variance)"""
        return _some(self.mean * (-self.logits).sigmoid(), coordinates)

    def vector(self) -> Tensor:
        """λ, (*R, P), P = D."""
        return self.logits

    def with_vector(self, vector: Tensor) -> FactorizedBernoulli:
        """The member of the same family at λ (*R', P), differentiable in λ; *R' may be another batch."""
        _check_vector(vector, self.dim)
        return FactorizedBernoulli(vector)

    def parameter_names(self) -> tuple[str, ...]:
        return tuple(f"logits[{d}]" for d in range(self.dim))


@dataclass(frozen=True, eq=False)
class FactorizedCategorical(_Discrete):
    """q(z) = Π_d π_d[z_d], π_d = softmax(logits_d), z_d ∈ {0., 1., …, K − 1.}: a draw is the *number* of its class.

    logits: (*R, D, K).  λ = the logits, coordinate by coordinate, P = D K.  A number added to all K logits of a
    coordinate changes nothing, so their gradients sum to zero.  A log joint that wants one-hot vectors takes
    ``torch.nn.functional.one_hot(z.long(), K)``.
    Raises ShapeError when the logits lack an axis, or K < 2.

    >>> q = FactorizedCategorical(torch.zeros(1, 4))
    >>> q.sample(torch.tensor([[-1.0], [0.1], [1.0]]))[:, 0], round(q.entropy().item(), 4)          # Φ(ε): .16 .54 .84
    (tensor([0., 2., 3.]), 1.3863)
    """

    logits: Tensor

    def __post_init__(self) -> None:
        if self.logits.ndim < 2 or self.logits.shape[-1] < 2:
            raise ShapeError(f"logits: expected (*R, D, K) with K at least 2 classes, got {tuple(self.logits.shape)}. "
                             "For one dimension pass logits.unsqueeze(-2).")

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return self.logits.shape[-1]

    @property
    def dim(self) -> int:
        return self.logits.shape[-2]

    @property
    def batch_shape(self) -> torch.Size:
        return self.logits.shape[:-2]

    @property
    def probabilities(self) -> Tensor:
        """π, (*R, D, K)."""
        return self.logits.softmax(-1)

    def sample(self, eps: Tensor) -> Tensor:
        """Draws as class numbers, (S, *R, D): how many of the sums π_0, π_0 + π_1, … Φ(ε) exceeds."""
        check_noise(self, eps)
        with torch.no_grad():
            bounds = self.probabilities.cumsum(-1)[..., :-1]
            return (_phi(eps).unsqueeze(-1) > bounds).sum(-1).to(self.logits.dtype)

    def log_factors(self, z: Tensor) -> Tensor:
        """log q_d(z_d) of each coordinate, (S, *R, D): the log probability of its class."""
        log_pi = log_softmax(self.logits, -1)
        shape = torch.broadcast_shapes(z.shape, log_pi.shape[:-1])
        return log_pi.expand(*shape, self.num_classes).gather(-1, z.long().expand(shape).unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """H[q], (*R), in nats."""
        return -(self.probabilities * log_softmax(self.logits, -1)).sum((-2, -1))

    def score(self, z: Tensor, coordinates: Sequence[int] | None = None) -> Tensor:
        """∇_λ log q(z), (S, *R, P): 1[z = k] − π_k.  (eq:log-derivative)

        coordinates: indices into λ, if only some are wanted.
        """
        return _some((one_hot(z.long(), self.num_classes) - self.probabilities).flatten(-2), coordinates)

    def score_variance(self, coordinates: Sequence[int] | None = None) -> Tensor:
        """Var_q of each coordinate of the score, (*R, P): π(1 − π).  (eq:score-variance)"""
        return _some((self.probabilities * (1 - self.probabilities)).flatten(-2), coordinates)

    def vector(self) -> Tensor:
        """λ, (*R, P), P = D K."""
        return self.logits.flatten(-2)

    def with_vector(self, vector: Tensor) -> FactorizedCategorical:
        """The member of the same family at λ (*R', P), differentiable in λ; *R' may be another batch."""
        _check_vector(vector, self.dim * self.num_classes)
        return FactorizedCategorical(vector.unflatten(-1, (self.dim, self.num_classes)))

    def parameter_names(self) -> tuple[str, ...]:
        return tuple(f"logits[{d},{k}]" for d in range(self.dim) for k in range(self.num_classes))


def _phi(eps: Tensor) -> Tensor:
    """Φ(ε), right to its last digits where it is small; ``torch.special.ndtr`` in float32 is 0 already at ε = −5.7."""
    return 0.5 * torch.erfc(-eps / math.sqrt(2))


def _some(x: Tensor, coordinates: Sequence[int] | None) -> Tensor:
    return x if coordinates is None else x[..., list(coordinates)]


def _check_vector(vector: Tensor, num_parameters: int) -> None:
    if vector.ndim == 0 or vector.shape[-1] != num_parameters:
        raise ShapeError(f"vector: expected (*R, {num_parameters}), got {tuple(vector.shape)}.")
