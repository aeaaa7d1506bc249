"""One network for every x: an encoder that predicts q(z | x), and the variational auto-encoder built on it.

A latent z_n (D) for each datum x_n.  Fitting a q of its own to each x_n is the batch R = N of :func:`vilib.fit.fit`.
Amortised inference predicts its parameters instead, λ_n = f_φ(x_n): an encoder is any module whose output is a family
with R = N.  Everything else is as it was.  The log joint of the data is a function z (S, N, D) -> (S, N), so every
estimator of :mod:`vilib.estimators` works on it, and its value (N) is the ELBO of each datum, in nats.  Their mean is
the ELBO of a data set per datum; times N, it is the bound on log p of them all.

p(z) = N(0, I) throughout.  Kingma & Welling (2014), Rezende, Mohamed & Wierstra (2014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from vilib.estimators import _path, value_of
from vilib.families import LOG_2PI, Gaussian, MeanFieldGaussian
from vilib.models import evaluate
from vilib.networks import BernoulliDecoder, Encoder, mlp
from vilib.types import Estimator, LogJoint, ShapeError, VilibError, check_finite

# ---- the variational auto-encoder -----------------------------------------------------------------------------------


class VAE(nn.Module):
    """p(z) p_θ(x | z) with q_φ(z | x): a decoder θ, an encoder φ, and z ~ N(0, I).

    encoder: a module, x (N, ...) -> a family with R = N, such as :class:`vilib.networks.Encoder`.
    decoder: a module with ``log_prob(x, z)``, z (S, N, D) -> (S, N), such as :class:`vilib.networks.BernoulliDecoder`.

    >>> generator = torch.Generator().manual_seed(0)
    >>> vae = mlp_vae(num_inputs=6, num_latent=2, hidden=(8,), generator=generator)
    >>> vae.elbo(torch.ones(5, 6), torch.zeros(3, 5, 2)).shape                    # S = 3 draws for each of N = 5 data
    torch.Size([5])
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Tensor) -> Gaussian:
        """q_φ(z | x_n) for each n: a family with R = N.

        Raises VilibError, ShapeError if the encoder gives anything else.
        """
        q = self.encoder(x)
        if not hasattr(q, "log_prob") or not hasattr(q, "batch_shape"):
            raise VilibError(
                f"encoder: expected a family such as MeanFieldGaussian, got {_described(q)}. Let it return "
                "MeanFieldGaussian(mu, omega), both (N, D), omega = log σ; or wrap a network in vilib.Encoder."
            )
        if q.batch_shape != x.shape[:1]:
            raise ShapeError(
                f"encoder: one q for each of the N = {len(x)} data, that is batch shape ({len(x)},), got "
                f"{tuple(q.batch_shape)}. Its parameters have the shape (N, D)."
            )
        return q

    def log_joint(self, x: Tensor) -> DataLogJoint:
        """log p(x_n, z_n) as a function z (S, N, D) -> (S, N): what every estimator and :func:`vilib.fit.fit` take."""
        return DataLogJoint(self.decoder, x)

    def elbo(self, x: Tensor, eps: Tensor, estimator: DataEstimator | None = None) -> Tensor:
        """An estimate of the ELBO of each datum, (N), in nats, that differentiates to its gradient in φ and in θ.

        x: (N, ...).  eps: (S, N, D).  estimator: any of :mod:`vilib.estimators`, or :func:`analytic_kl` (None).
        See :func:`with_model_gradient` for the gradient in θ.
        """
        return with_model_gradient(estimator or analytic_kl)(self.log_joint(x), self.encode(x), eps)

    def check(self, data: Tensor) -> Gaussian:
        """q of the first two data, if all of the data fit; otherwise ShapeError or VilibError say what does not."""
        if not isinstance(data, Tensor) or data.ndim < 2:
            raise ShapeError(f"data: expected a tensor (N, P), a row each datum, got {_described(data)}.")
        if not data.numel():
            raise ShapeError(f"data: it is empty, of shape {tuple(data.shape)}.")
        for name, parameter in self.named_parameters():
            if (parameter.dtype, parameter.device) != (data.dtype, data.device):
                raise VilibError(
                    f"data: {data.dtype} on '{data.device}', but {name} is {parameter.dtype} on '{parameter.device}'. "
                    f"Move one to the other: data.to({parameter.dtype}), or vae.to(data)."
                )
        check_finite(data)
        if hasattr(self.decoder, "check_data"):
            cast(Any, self.decoder).check_data(data)
        some = data[:2]
        with torch.no_grad():
            try:
                q = self.encode(some)
            except RuntimeError as error:
                raise ShapeError(
                    f"data: the encoder cannot take rows of shape {tuple(data.shape[1:])}. "
                    f"torch says: {str(error).splitlines()[0]}"
                ) from error
            evaluate(self.log_joint(some), q.sample(data.new_zeros((1, len(some), q.dim))))
        return q


@dataclass(frozen=True, eq=False)
class DataLogJoint:
    """log p(x_n, z_n), its two terms apart: called on z (S, N, D) it returns (S, N).

    decoder: with ``log_prob(x, z)``.  x: (N, ...).

    >>> from vilib import GaussianDecoder
    >>> decoder = GaussianDecoder(nn.Identity())
    >>> DataLogJoint(decoder, torch.zeros(4, 2))(torch.zeros(1, 4, 2))[0, 0].item()         # −½ log 2π, four times
    -3.67575...
    """

    decoder: nn.Module
    x: Tensor

    def log_likelihood(self, z: Tensor) -> Tensor:
        """log p_θ(x_n | z_n), (S, N)."""
        return cast(Any, self.decoder).log_prob(self.x, z)

    def __call__(self, z: Tensor) -> Tensor:
        return self.log_likelihood(z) - 0.5 * (z.square().sum(-1) + z.shape[-1] * LOG_2PI)


#: (log_joint, q, eps) -> an ELBO estimate (N): any estimator, or one that asks the log joint of data for its terms.
DataEstimator = Callable[[DataLogJoint, Any, Tensor], Tensor]


# ---- the closed-form terms ------------------------------------------------------------------------------------------


def expected_log_prior(q: Gaussian) -> Tensor:
    """E_q[log p(z)] = −½ Σ_d (σ_d² + μ_d²) − D/2 log 2π for p(z) = N(0, I), (*R), in nats.

    σ_d² is the marginal variance, so a full-rank q is right too.  (Kingma & Welling 2014, appendix B)

    >>> q = MeanFieldGaussian(torch.ones(1), torch.zeros(1))
    >>> round(expected_log_prior(q).item(), 4)                                       # −1 − ½ log 2π
    -1.9189
    """
    return -0.5 * ((q.stddev.square() + q.mean.square()).sum(-1) + q.dim * LOG_2PI)


def kl_to_standard_normal(q: Gaussian) -> Tensor:
    """KL(q ‖ N(0, I)) = ½ Σ_d (σ_d² + μ_d² − 1 − log σ_d²), (*R), in nats: −H[q] − E_q[log p(z)].

    For a full-rank q, Σ log σ_d² is log |det Σ|.  (Kingma & Welling 2014, appendix B)

    >>> q = MeanFieldGaussian(torch.ones(1), torch.zeros(1))
    >>> kl_to_standard_normal(q).item()
    0.5
    """
    return (0.5 * (q.stddev.square() + q.mean.square() - 1) - q.log_scales()).sum(-1)


def analytic_kl(log_joint: DataLogJoint, q: Gaussian, eps: Tensor, beta: float = 1.0) -> Tensor:
    """E_ε[log p_θ(x | T_λ(ε))] − KL(q ‖ N(0, I)), the KL in closed form: reconstruction minus regularisation, (N).

    An estimator like those of :mod:`vilib.estimators`, for a log joint with ``log_likelihood`` and the prior N(0, I).
    Its gradient is the pathwise one.  beta weighs the KL (Higgins et al. 2017); the value is an ELBO at 1 only.

    >>> q, eps = MeanFieldGaussian(torch.zeros(1, 1), torch.zeros(1, 1)), torch.zeros(2, 1, 1)
    >>> from vilib import GaussianDecoder
    >>> decoder = GaussianDecoder(nn.Identity(), learn_scale=False)
    >>> analytic_kl(DataLogJoint(decoder, torch.zeros(1, 1)), q, eps)                      # −½ log 2π − 0
    tensor([-0.9189])
    """
    return evaluate(log_joint.log_likelihood, _path(q, eps)).mean(0) - beta * kl_to_standard_normal(q)


# ---- the gradient in the model's own parameters ---------------------------------------------------------------------


def with_model_gradient(estimator: DataEstimator) -> Estimator:
    """The same estimator, which now differentiates in θ as well: ∇_θ ELBO = E_q[∇_θ log p_θ(x, z)].

    q does not depend on θ, so this gradient goes inside the expectation whatever the estimator does for λ.  A pathwise
    estimator has it already.  One by the score function uses log p_θ as a plain number, so the mean of log p_θ over
    its own draws is added, with the value zero.  The two are told apart by the draws: those of a path move with λ, the
    others are plain numbers.

    >>> from vilib import score_function
    >>> theta, q = torch.ones(1, requires_grad=True), MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> value = with_model_gradient(score_function)(lambda z: (theta * z).sum(-1), q, torch.full((4, 1), 2.0))
    >>> torch.autograd.grad(value, theta)[0]                                         # ∂(θ z)/∂θ = z = 2
    tensor([2.])
    """

    def with_both_gradients(log_joint: LogJoint, q: Any, eps: Tensor) -> Tensor:
        watched: Any = _Watched(log_joint)
        value = estimator(watched, q, eps)
        if not watched.plain:
            return value
        return value_of(value, gradient_of=value + torch.cat(watched.plain).mean(0))

    with_both_gradients.__name__ = getattr(estimator, "__name__", "estimator")
    setattr(with_both_gradients, "needs_independent_draws", getattr(estimator, "needs_independent_draws", False))
    return with_both_gradients


class _Watched:
    """A log joint that keeps log p_θ of plain draws for θ, and hands it on without its gradient."""

    def __init__(self, log_joint: LogJoint):
        self.log_joint = log_joint
        self.plain: list[Tensor] = []

    def __call__(self, z: Tensor) -> Tensor:
        if z.requires_grad:
            return self.log_joint(z)
        with torch.enable_grad():                                # an estimator may want plain numbers; θ wants more
            log_p = self.log_joint(z)
        if not isinstance(log_p, Tensor):
            return log_p
        self.plain.append(log_p)
        return log_p.detach()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log_joint, name)


# ---- a small one, ready made ----------------------------------------------------------------------------------------


def mlp_vae(
    num_inputs: int, num_latent: int, hidden: Sequence[int] = (64,), *, generator: torch.Generator,
    decoder: type[nn.Module] = BernoulliDecoder, dtype: torch.dtype = torch.float32,
) -> VAE:
    """A VAE for x (N, num_inputs): mean-field encoder and decoder, each a network with these hidden widths, mirrored.

    decoder: a class that takes a body, z -> (..., num_inputs).  On the generator's device.  Raises MissingGenerator.

    >>> vae = mlp_vae(64, 2, (32,), generator=torch.Generator().manual_seed(0))
    >>> vae.decoder.mean(torch.zeros(1, 2)).shape
    torch.Size([1, 64])
    """
    widths = [num_inputs, *hidden]
    encoder = mlp([*widths, 2 * num_latent], generator=generator, dtype=dtype)
    decode = mlp([num_latent, *reversed(widths)], generator=generator, dtype=dtype)
    return VAE(Encoder(encoder, MeanFieldGaussian(torch.zeros(num_latent), torch.zeros(num_latent))), decoder(decode))


def _described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
