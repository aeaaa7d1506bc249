"""q: the families of densities that we fit.

A family is a frozen dataclass of tensors with any batch shape ``*R``.  It knows how to turn noise into draws, its log
density, its entropy, and its parameters as one flat vector λ (*R, P), in the coordinates in which we climb.

Both families here are Gaussian, z = T_λ(ε), and write each positive number as the exponential of a free one (ω = log σ),
so that every λ in R^P is a density and no step can leave the family.  What is simplest said in ε is said there: the methods
ending in ``_at`` take the noise ε of a draw; those that take z find its ε first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from operator import itemgetter
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from vilib.types import ShapeError, check_noise

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class _Gaussian:
    """What every Gaussian family shares: all that follows from ε = T_λ⁻¹(z)."""

    mu: Tensor
    reparameterizable = True

    if TYPE_CHECKING:                                    # each says these for itself
        @property
        def scale_tril(self) -> Tensor: ...
        def parameter_names(self) -> tuple[str, ...]: ...
        def log_scales(self) -> Tensor: ...
        def transform(self, eps: Tensor) -> Tensor: ...
        def noise_of(self, z: Tensor) -> Tensor: ...
        def score_at(self, eps: Tensor, coordinates: Sequence[int] | None = None) -> Tensor: ...
        def grad_log_prob_at(self, eps: Tensor) -> Tensor: ...

    @property
    def dim(self) -> int:
        return self.mu.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        return self.mu.shape[:-1]

    @property
    def mean(self) -> Tensor:
        return self.mu

    @property
    def covariance(self) -> Tensor:
        """(*R, D, D)."""
        return self.scale_tril @ self.scale_tril.mT

    def sample(self, eps: Tensor) -> Tensor:
        """T_λ(ε) as plain numbers, (S, *R, D): no gradient passes through them."""
        with torch.no_grad():
            return self.transform(eps)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z), (S, *R), differentiable in z and in λ."""
        return self.log_prob_at(self.noise_of(z))

    def log_prob_at(self, eps: Tensor) -> Tensor:
        """log q at z = T_λ(ε), (S, *R): −½ε² − log |det ∂z/∂ε| + const."""
        return -0.5 * eps.square().sum(-1) - (self.log_scales().sum(-1) + 0.5 * self.dim * LOG_2PI)

    def entropy(self) -> Tensor:
        """H[q] = Σ log scales + D/2 (1 + log 2π), (*R), in nats.  (eq:analytic-entropy)"""
        return self.log_scales().sum(-1) + 0.5 * self.dim * (1 + LOG_2PI)

    def score(self, z: Tensor, coordinates: Sequence[int] | None = None) -> Tensor:
        """∇_λ log q(z), (S, *R, P), in closed form.  (eq:log-derivative)

        coordinates: indices into λ, if only some are wanted; then the last axis holds those, in that order.
        """
        return self.score_at(self.noise_of(z), coordinates)

    def grad_log_prob(self, z: Tensor) -> Tensor:
        """∇_z log q(z), (S, *R, D)."""
        return self.grad_log_prob_at(self.noise_of(z))

    def detach(self) -> Self:
        """λ̄: the same density, held fixed.  (eq:stl)"""
        return type(self)(*(getattr(self, field.name).detach() for field in fields(self)))

    def expand(self, *batch: int) -> Self:
        """The same q for a batch: leading axes ``*batch`` are put before *R."""
        parameters = (getattr(self, field.name) for field in fields(self))
        return type(self)(*(parameter.expand(*batch, *parameter.shape) for parameter in parameters))


#: Of a function that takes coordinates from a tensor (..., D): what is made of those.
_Part = Callable[[Callable[[Tensor], Tensor]], Tensor]


@dataclass(frozen=True, eq=False)
class MeanFieldGaussian(_Gaussian):
    """q(z) = Π_d N(z_d | μ_d, σ_d²), σ_d = exp(ω_d).  λ = (mu[0..D-1], omega[0..D-1]).  (eq:reparameterisation)

    mu, omega: (*R, D).  mu is in the units of z, omega in nats: omega + 0.01 is a σ one per cent wider.
    Raises ShapeError when the two shapes differ or have no last axis.

    >>> q = MeanFieldGaussian(torch.zeros(2), torch.zeros(2))
    >>> round(q.entropy().item(), 4), q.parameter_names()
    (2.8379, ('mu[0]', 'mu[1]', 'omega[0]', 'omega[1]'))
    """

    mu: Tensor
    omega: Tensor

    def __post_init__(self) -> None:
        if self.mu.shape != self.omega.shape or self.mu.ndim == 0:
            raise ShapeError(
                f"mu and omega: both of shape (*R, D), got {tuple(self.mu.shape)} and {tuple(self.omega.shape)}. "
                "For one dimension pass torch.tensor([m]), not torch.tensor(m)."
            )

    @property
    def num_parameters(self) -> int:
        return 2 * self.dim

    @property
    def stddev(self) -> Tensor:
        return self.omega.exp()

    @property
    def scale_tril(self) -> Tensor:
        return torch.diag_embed(self.stddev)

    def log_scales(self) -> Tensor:
        return self.omega

    def transform(self, eps: Tensor) -> Tensor:
        """z = μ + σ ε, (S, *R, D), differentiable in λ.  (eq:reparameterisation)"""
        check_noise(self, eps)
        return torch.addcmul(self.mu, self.omega.exp(), eps)

    def noise_of(self, z: Tensor) -> Tensor:
        """ε = (z − μ)/σ, the inverse of :meth:`transform`."""
        return (z - self.mu) * (-self.omega).exp()

    def log_factors(self, z: Tensor) -> Tensor:
        """log q_d(z_d) of each coordinate, (S, *R, D); they sum to log q(z), for the coordinates are independent."""
        return -0.5 * self.noise_of(z).square() - (self.omega + 0.5 * LOG_2PI)

    def score_at(self, eps: Tensor, coordinates: Sequence[int] | None = None) -> Tensor:
        """The score at z = T_λ(ε), (S, *R, P): ε/σ for μ and ε² − 1 for ω.

        (eq:log-derivative)
        """
        return self._by_kind(
            coordinates,
            lambda at: at(eps) * (-at(self.omega)).exp(),     # μ
            lambda at: at(eps).square() - 1,                  # ω
        )

    def pullback(self, eps: Tensor, grad_z: Tensor, coordinates: Sequence[int] | None = None) -> Tensor:
        """(∂z/∂λ)ᵀ g along the path z = T_λ(ε), (S, *R, P): g for μ and g σ ε for ω.  (eq:pathwise)"""
        return self._by_kind(coordinates, lambda at: at(grad_z),
                             lambda at: at(grad_z) * at(eps) * at(self.omega).exp())

    def pullback_sum(self, eps: Tensor, grad_z: Tensor, coordinates: Sequence[int] | None = None) -> Tensor:
        """:meth:`pullback` summed over the S draws, (*R, P)."""
        return self._by_kind(coordinates, lambda at: at(grad_z).sum(0),
                             lambda at: torch.linalg.vecdot(at(grad_z), at(eps), dim=0) * at(self.omega).exp())

    def score_sum(self, eps: Tensor, weight: Tensor) -> Tensor:
        """Σ weight · score over the S draws, weight (S, *R): (*R, P)."""
        weighted = weight.unsqueeze(-1) * eps
        by_omega = (weighted * eps).sum(0) - weight.sum(0).unsqueeze(-1)
        return torch.cat([weighted.sum(0) * (-self.omega).exp(), by_omega], -1)

    def grad_log_prob_at(self, eps: Tensor) -> Tensor:
        """∇_z log q at z = T_λ(ε): −ε/σ."""
        return -eps * (-self.omega).exp()

    def score_variance(self, coordinates: Sequence[int] | None = None) -> Tensor:
        """Var_q of each coordinate of the score, (*R, P): 1/σ² for μ and 2 for ω.  (eq:score-variance)"""
        return self._by_kind(coordinates, lambda at: (-2 * at(self.omega)).exp(),
                             lambda at: torch.full_like(at(self.omega), 2.0))

    def entropy_gradient(self) -> Tensor:
        """∇_λ H, (*R, P): 0 for μ, 1 for ω.  (eq:analytic-entropy)"""
        return torch.cat([torch.zeros_like(self.mu), torch.ones_like(self.mu)], -1)

    def vector(self) -> Tensor:
        """λ, (*R, P)."""
        return torch.cat([self.mu, self.omega], -1)

    def with_vector(self, vector: Tensor) -> MeanFieldGaussian:
        """The member of the same family at λ (*R', P), differentiable in λ; *R' may be another batch."""
        if vector.ndim == 0 or vector.shape[-1] != 2 * self.dim:
            raise ShapeError(f"vector: expected (*R, {2 * self.dim}), got {tuple(vector.shape)}.")
        return MeanFieldGaussian(*vector.chunk(2, -1))

    def parameter_names(self) -> tuple[str, ...]:
        return tuple(f"{name}[{d}]" for name in ("mu", "omega") for d in range(self.dim))

    def _by_kind(self, coordinates: Sequence[int] | None, of_mu: _Part, of_omega: _Part) -> Tensor:
        """of_mu(at) and of_omega(at) side by side, ``at(x)`` being the coordinates of x (..., D) that are wanted."""
        if coordinates is None:
            return torch.cat([of_mu(lambda x: x), of_omega(lambda x: x)], -1)
        split = [(of_mu, c) if c < self.dim else (of_omega, c - self.dim) for c in coordinates]
        return torch.stack([part(itemgetter((..., d))) for part, d in split], -1)


@dataclass(frozen=True, eq=False)
class FullRankGaussian(_Gaussian):
    """q(z) = N(z | μ, L Lᵀ), L lower triangular with the log of its diagonal free.  (eq:full-rank)

    mu: (*R, D); raw_tril: (*R, D, D), read below the diagonal as it stands and on it as log L_ii; what is above is ignored.
    λ = (mu, then the lower triangle of raw_tril row by row), P = D + D(D+1)/2.
    Raises ShapeError when the shapes do not fit each other.

    >>> q = FullRankGaussian(torch.zeros(2), torch.zeros(2, 2))
    >>> q.num_parameters, q.covariance.tolist()
    (5, [[1.0, 0.0], [0.0, 1.0]])
    """

    mu: Tensor
    raw_tril: Tensor

    def __post_init__(self) -> None:
        if self.mu.ndim == 0 or self.raw_tril.shape != (*self.mu.shape, self.mu.shape[-1]):
            raise ShapeError(
                "mu and raw_tril: shapes (*R, D) and (*R, D, D), got "
                f"{tuple(self.mu.shape)} and {tuple(self.raw_tril.shape)}."
            )

    @property
    def num_parameters(self) -> int:
        return self.dim + self.dim * (self.dim + 1) // 2

    @property
    def scale_tril(self) -> Tensor:
        """L, (*R, D, D)."""
        return self.raw_tril.tril(-1) + torch.diag_embed(self.log_scales().exp())

    @property
    def stddev(self) -> Tensor:
        return self.scale_tril.square().sum(-1).sqrt()

    @property
    def inverse_tril(self) -> Tensor:
        """L⁻¹, (*R, D, D)."""
        eye = torch.eye(self.dim, dtype=self.mu.dtype, device=self.mu.device)
        return torch.linalg.solve_triangular(self.scale_tril, eye, upper=False)

    def log_scales(self) -> Tensor:
        return self.raw_tril.diagonal(dim1=-2, dim2=-1)

    def transform(self, eps: Tensor) -> Tensor:
        """z = μ + L ε, (S, *R, D), differentiable in λ.  (eq:full-rank)"""
        check_noise(self, eps)
        return self.mu + _apply(self.scale_tril, eps)

    def noise_of(self, z: Tensor) -> Tensor:
        """ε = L⁻¹(z − μ), the inverse of :meth:`transform`."""
        return _apply(self.inverse_tril, z - self.mu)

    def score_at(self, eps: Tensor, coordinates: Sequence[int] | None = None) -> Tensor:
        """The score at z = T_λ(ε), (S, *R, P): a = L⁻ᵀε for μ, a εᵀ for L, and L_ii a_i ε_i − 1 for log L_ii."""
        a = _apply(self.inverse_tril.mT, eps)
        by_tril = self._to_raw(a.unsqueeze(-1) * eps.unsqueeze(-2))
        return self._pack(a, by_tril - torch.eye(self.dim, dtype=eps.dtype, device=eps.device), coordinates)

    def pullback(self, eps: Tensor, grad_z: Tensor, coordinates: Sequence[int] | None = None) -> Tensor:
        """(∂z/∂λ)ᵀ g along the path z = μ + L ε, (S, *R, P): g for μ and g εᵀ for L.  (eq:pathwise)"""
        return self._pack(grad_z, self._to_raw(grad_z.unsqueeze(-1) * eps.unsqueeze(-2)), coordinates)

    def pullback_sum(self, eps: Tensor, grad_z: Tensor, coordinates: Sequence[int] | None = None) -> Tensor:
        """:meth:`pullback` summed over the S draws, (*R, P): Σ g for μ and Σ g εᵀ for L."""
        by_tril = torch.einsum("s...i,s...j->...ij", grad_z, eps)
        return self._pack(grad_z.sum(0), self._to_raw(by_tril), coordinates)

    def score_sum(self, eps: Tensor, weight: Tensor) -> Tensor:
        """Σ weight · score over the S draws, weight (S, *R): (*R, P)."""
        a = _apply(self.inverse_tril.mT, eps) * weight.unsqueeze(-1)
        by_tril = self._to_raw(torch.einsum("s...i,s...j->...ij", a, eps))
        ones = torch.eye(self.dim, dtype=eps.dtype, device=eps.device) * weight.sum(0)[..., None, None]
        return self._pack(a.sum(0), by_tril - ones, None)

    def grad_log_prob_at(self, eps: Tensor) -> Tensor:
        """∇_z log q at z = T_λ(ε): −L⁻ᵀε."""
        return -_apply(self.inverse_tril.mT, eps)

    def score_variance(self, coordinates: Sequence[int] | None = None) -> Tensor:
        """Var_q of each coordinate of the score, (*R, P).  (eq:score-variance)

        Λ_ii for μ_i, Λ = (LLᵀ)⁻¹; Λ_ii for L_ij below the diagonal; 1 + L_ii² Λ_ii for log L_ii.
        """
        precision = self.inverse_tril.square().sum(-2)                                    # Λ_ii, (*R, D)
        below = precision.unsqueeze(-1).expand(*precision.shape, self.dim)
        on = torch.diag_embed(1 + (2 * self.log_scales()).exp() * precision)
        return self._pack(precision, below.tril(-1) + on, coordinates)

    def entropy_gradient(self) -> Tensor:
        """∇_λ H, (*R, P): 1 for each log L_ii, 0 for the rest.  (eq:analytic-entropy)"""
        return self._pack(torch.zeros_like(self.mu), torch.diag_embed(torch.ones_like(self.mu)), None)

    def vector(self) -> Tensor:
        """λ, (*R, P)."""
        return self._pack(self.mu, self.raw_tril, None)

    def with_vector(self, vector: Tensor) -> FullRankGaussian:
        """The member of the same family at λ (*R', P), differentiable in λ; *R' may be another batch."""
        if vector.ndim == 0 or vector.shape[-1] != self.num_parameters:
            raise ShapeError(f"vector: expected (*R, {self.num_parameters}), got {tuple(vector.shape)}.")
        mu, lower = vector[..., : self.dim], vector[..., self.dim :]
        raw_tril = vector.new_zeros(*mu.shape, self.dim)
        rows, columns = torch.tril_indices(self.dim, self.dim, device=vector.device)
        raw_tril[..., rows, columns] = lower
        return FullRankGaussian(mu, raw_tril)

    def parameter_names(self) -> tuple[str, ...]:
        lower = ((i, j) for i in range(self.dim) for j in range(i + 1))
        return (*(f"mu[{d}]" for d in range(self.dim)), *(f"raw_tril[{i},{j}]" for i, j in lower))

    def _to_raw(self, by_tril: Tensor) -> Tensor:
        """From ∂/∂L to ∂/∂raw_tril: the diagonal is an exponential, so it gains the factor L_ii."""
        return by_tril * (torch.ones_like(self.raw_tril).tril(-1) + torch.diag_embed(self.log_scales().exp()))

    def _pack(self, mu: Tensor, square: Tensor, coordinates: Sequence[int] | None) -> Tensor:
        rows, columns = torch.tril_indices(self.dim, self.dim, device=mu.device)
        packed = torch.cat([mu, square[..., rows, columns]], -1)
        return packed if coordinates is None else packed[..., list(coordinates)]


#: Any family of this module.
Gaussian = MeanFieldGaussian | FullRankGaussian


def _apply(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix (*R, D, D) times each x (S, *R, D); any leading axes if *R is empty."""
    if matrix.ndim == 2:
        return x @ matrix.mT
    return (x.movedim(0, -2) @ matrix.mT).movedim(-2, 0)

