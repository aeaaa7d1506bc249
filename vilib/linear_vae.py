"""Where a VAE can be solved: probabilistic principal components, and the linear VAE that finds them.

The model is z ~ N(0, I), x | z ~ N(W z + b, σ² I).  Its posterior is Gaussian, with the same covariance σ² M⁻¹ for
every x, M = WᵀW + σ² I, and a mean linear in x: a linear encoder loses nothing.  So the highest ELBO is the highest
log likelihood, known in closed form from the eigenvalues of the data's covariance.  Tipping & Bishop (1999); Lucas,
Tucker, Grosse & Norouzi (2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal

from vilib.amortized import VAE, kl_to_standard_normal
from vilib.families import LOG_2PI, FullRankGaussian, Gaussian, MeanFieldGaussian
from vilib.networks import Encoder, GaussianDecoder, mlp
from vilib.types import ShapeError, VilibError, check_finite


@dataclass(frozen=True, eq=False)
class PPCA:
    """The maximum-likelihood solution for data (N, P) and a latent of D dimensions, see :func:`ppca`.

    mean: b (P).  noise_variance: σ², ().  weights: W (P, D), its columns orthogonal, the longest first; signs are free.
    eigenvalues: all P of the data's covariance (1/N), the largest first.  log_likelihood: log p(data), a sum over N,
    in nats.
    """

    mean: Tensor
    weights: Tensor
    noise_variance: Tensor
    eigenvalues: Tensor
    log_likelihood: float

    def posterior(self, x: Tensor) -> MeanFieldGaussian:
        """p(z | x_n) = N(M⁻¹Wᵀ(x_n − b), σ²M⁻¹), R = N, for x (N, P): W's columns are orthogonal, so M is diagonal."""
        precision = self.weights.square().sum(0) + self.noise_variance                         # M, its diagonal
        mu = (x - self.mean) @ self.weights / precision
        return MeanFieldGaussian(mu, (0.5 * (self.noise_variance / precision).log()).expand_as(mu))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x_n) = log N(x_n | b, WWᵀ + σ²I), (N), in nats."""
        return _log_evidence(x, self.mean, self.weights, self.noise_variance)


def ppca(data: Tensor, num_latent: int) -> PPCA:
    """Maximum likelihood in closed form: W = U (Λ_D − σ²I)^½, σ² the mean of the eigenvalues left out.

    λ_1 ≥ … ≥ λ_P and U are the eigenvalues and eigenvectors of the data's covariance (1/N).  Then
    log p(data) = −N/2 [P log 2π + Σ_{d≤D} log λ_d + (P − D) log σ² + P].  (Tipping & Bishop 1999)

    data: (N, P).  Raises ShapeError unless 1 ≤ num_latent < P, VilibError if D dimensions hold the data without any
    rest.

    >>> exact = ppca(torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), 1)
    >>> exact.eigenvalues, exact.noise_variance, exact.weights.abs().T.round(decimals=3)     # 2² + ½ = 4½
    (tensor([4.5000, 0.5000]), tensor(0.5000), tensor([[2., 0.]]))
    """
    if data.ndim != 2 or not 1 <= num_latent < data.shape[-1]:
        raise ShapeError(
            f"num_latent: expected 1 ≤ num_latent < P for data (N, P), got {num_latent} for data of shape "
            f"{tuple(data.shape)}."
        )
    check_finite(data)
    mean = data.mean(0)
    _, singular, directions = torch.linalg.svd(data - mean, full_matrices=False)
    eigenvalues = data.new_zeros(data.shape[-1])
    eigenvalues[: len(singular)] = singular.square() / len(data)
    kept, left_out = eigenvalues.split([num_latent, len(eigenvalues) - num_latent])
    noise_variance = left_out.mean()
    if not noise_variance > torch.finfo(data.dtype).eps * eigenvalues[0]:
        raise VilibError(
            f"data: {num_latent} dimensions hold all of it, so σ² is 0 and the likelihood has no bound. Take fewer "
            f"than {num_latent}, or more rows than {len(data)}."
        )
    log_determinant = kept.log().sum() + len(left_out) * noise_variance.log()
    log_likelihood = -0.5 * len(data) * (len(eigenvalues) * (LOG_2PI + 1) + log_determinant)
    weights = directions[:num_latent].mT * (kept - noise_variance).clamp_min(0).sqrt()
    return PPCA(mean, weights, noise_variance, eigenvalues, log_likelihood.item())


class LinearVAE(VAE):
    """A VAE with μ(x) = V x + c, σ the same for every x, and x | z ~ N(W z + b, s² I); trained like any other.

    Its ELBO reaches the likelihood of :func:`ppca` if W turns its columns orthogonal, for only then is M, and the
    posterior, of mean field.  Training turns them.  (Lucas et al. 2019)  First weights from ``generator``, on its
    device.
    Raises MissingGenerator, ShapeError (a count below one).

    >>> vae, x = LinearVAE(6, 2, generator=torch.Generator().manual_seed(0)), torch.ones(5, 6)
    >>> bool((vae.exact_elbo(x) < vae.exact_log_evidence(x)).all())
    True
    """

    def __init__(
        self, num_inputs: int, num_latent: int, *, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ):
        like = torch.zeros(num_latent, dtype=dtype, device=getattr(generator, "device", None))
        body = _LinearWithFreeScale(mlp([num_inputs, num_latent], generator=generator, dtype=dtype), like)
        decode = mlp([num_latent, num_inputs], generator=generator, dtype=dtype)
        super().__init__(Encoder(body, MeanFieldGaussian(like, like)), GaussianDecoder(decode))

    @property
    def _linear(self) -> nn.Linear:
        return cast(nn.Linear, cast(nn.Sequential, self.decoder.body)[0])

    @property
    def weights(self) -> Tensor:
        """W, (P, D)."""
        return self._linear.weight

    @property
    def noise_variance(self) -> Tensor:
        """s², ()."""
        return (2 * cast(GaussianDecoder, self.decoder).log_scale).exp()

    def exact_posterior(self, x: Tensor) -> FullRankGaussian:
        """p_θ(z | x_n) = N(M⁻¹Wᵀ(x_n − b), s²M⁻¹), R = N, whatever the encoder says."""
        weights = self.weights
        eye = torch.eye(weights.shape[1], dtype=weights.dtype, device=weights.device)
        m_inverse = torch.linalg.inv(weights.mT @ weights + self.noise_variance * eye)
        tril = torch.linalg.cholesky(self.noise_variance * m_inverse)
        raw_tril = tril.tril(-1) + torch.diag_embed(tril.diagonal().log())
        mu = (x - self._linear.bias) @ weights @ m_inverse
        return FullRankGaussian(mu, raw_tril.expand(len(x), *tril.shape))

    def exact_log_evidence(self, x: Tensor) -> Tensor:
        """log p_θ(x_n), (N), in nats."""
        return _log_evidence(x, self._linear.bias, self.weights, self.noise_variance)

    def exact_elbo(self, x: Tensor, q: Gaussian | None = None) -> Tensor:
        """The ELBO of each datum without any sampling, (N), in nats; q: the encoder's (None) or any other with R = N.

        E_q[log p(x | z)] = −P/2 log 2πs² − (‖x − W μ − b‖² + tr(W Σ Wᵀ)) / 2s² for a q with mean μ and covariance Σ.
        """
        q = self.encode(x) if q is None else q
        spread = (self.weights @ q.scale_tril).square().sum((-2, -1))                          # tr(W Σ Wᵀ)
        squares = (x - cast(GaussianDecoder, self.decoder).mean(q.mean)).square().sum(-1) + spread
        reconstruction = -0.5 * (x.shape[-1] * (LOG_2PI + self.noise_variance.log()) + squares / self.noise_variance)
        return reconstruction - kl_to_standard_normal(q)


class _LinearWithFreeScale(nn.Module):
    """x (N, P) -> (V x + c, ω), ω a free vector that does not look at x."""

    def __init__(self, mean: nn.Module, omega: Tensor):
        super().__init__()
        self.mean, self.omega = mean, nn.Parameter(omega.clone())

    def forward(self, x: Tensor) -> Tensor:
        mu = self.mean(x)
        return torch.cat([mu, self.omega.expand_as(mu)], -1)


def _log_evidence(x: Tensor, mean: Tensor, weights: Tensor, noise_variance: Tensor) -> Tensor:
    return LowRankMultivariateNormal(mean, weights, noise_variance.expand_as(mean)).log_prob(x)
