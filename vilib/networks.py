"""Encoders and decoders: the networks of amortised inference, and the densities that they stand for.

An encoder is any module x (N, ...) -> a family with R = N.  A decoder is any module with ``log_prob(x, z)``,
z (S, N, D) -> (S, N).  Those here wrap a body, which is any network at all; :func:`mlp` makes a small one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from vilib.families import LOG_2PI, Gaussian
from vilib.types import ShapeError, VilibError, check_generator


class Encoder(nn.Module):
    """λ_n = body(x_n), read as a member of ``family``: x (N, ...) -> q with R = N.

    body: any module, x (N, ...) -> (N, P), P = family.num_parameters.  family: any member, for its kind and its D.
    Raises ShapeError when the body's output has another shape.

    >>> from vilib import MeanFieldGaussian
    >>> family = MeanFieldGaussian(torch.zeros(2), torch.zeros(2))
    >>> Encoder(mlp([3, 4], generator=torch.Generator().manual_seed(0)), family)(torch.zeros(5, 3)).batch_shape
    torch.Size([5])
    """

    def __init__(self, body: nn.Module, family: Gaussian):
        super().__init__()
        self.body, self.family = body, family

    def forward(self, x: Tensor) -> Gaussian:
        """q(z | x_n), R = N."""
        vector = self.body(x)
        count = self.family.num_parameters
        if vector.shape != (len(x), count):
            raise ShapeError(
                f"encoder: its body returned {tuple(vector.shape)}; a {type(self.family).__name__} of "
                f"D = {self.family.dim} takes (N, {count}) = ({len(x)}, {count})."
            )
        return self.family.with_vector(vector)


class BernoulliDecoder(nn.Module):
    """p(x | z) = Π_p s_p^{x_p} (1 − s_p)^{1 − x_p}, with logit s = body(z).

    body: any module, z (..., D) -> logits (..., P).  x is 0 or 1.  A grey value between them is taken too, as most do,
    but then p(x | z) does not sum to one over x, and log p(x) is no log probability.

    >>> BernoulliDecoder(nn.Identity()).log_prob(torch.ones(1, 2), torch.zeros(3, 1, 2))[0]         # 2 log ½
    tensor([-1.3863])
    """

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x_n | z_n): x (N, P), z (S, *R, N, D) -> (S, *R, N), in nats.  z (S, 1, D) serves all data: (S, N)."""
        logits = _decoded(self.body, x, z)
        return _inner(logits, x, z.ndim) - softplus(logits).flatten(z.ndim - 1).sum(-1)

    def mean(self, z: Tensor) -> Tensor:
        """s = E[x | z], z (..., D) -> (..., P)."""
        return torch.sigmoid(self.body(z))

    def sample(self, z: Tensor, *, generator: torch.Generator) -> Tensor:
        """One x for each z, (..., P), each entry 0 or 1.  Raises MissingGenerator, GeneratorDeviceError."""
        return torch.bernoulli(self.mean(z), generator=check_generator(generator, z.device))

    def check_data(self, x: Tensor) -> None:
        """Raise VilibError if a value lies outside [0, 1]."""
        low, high = (bound.item() for bound in x.aminmax())
        if low < 0 or high > 1:
            raise VilibError(f"data: a BernoulliDecoder takes values in [0, 1], got [{low:g}, {high:g}]. Rescale them.")


class GaussianDecoder(nn.Module):
    """p(x | z) = N(x | body(z), σ² I), σ = exp(log_scale), learnt with the rest or fixed.

    body: any module, z (..., D) -> means (..., P).  log_scale: log σ, a number, or a tensor that broadcasts to (P).

    >>> decoder = GaussianDecoder(nn.Identity(), learn_scale=False)
    >>> decoder.log_prob(torch.ones(1, 2), torch.zeros(1, 1, 2))                             # −log 2π − ½ (1 + 1)
    tensor([[-2.8379]])
    """

    def __init__(self, body: nn.Module, log_scale: float | Tensor = 0.0, learn_scale: bool = True):
        super().__init__()
        self.body = body
        like = next(body.parameters(), torch.empty(0))
        log_scale = torch.as_tensor(log_scale, dtype=like.dtype, device=like.device).clone()
        self.log_scale = nn.Parameter(log_scale, requires_grad=learn_scale)

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x_n | z_n): x (N, P), z (S, *R, N, D) -> (S, *R, N), in nats.  z (S, 1, D) serves all data: (S, N)."""
        mean, precision = _decoded(self.body, x, z), (-2 * self.log_scale).exp()
        if _one_for_all(mean, x, z.ndim):                          # ‖x − m‖² = ‖x‖² − 2 x·m + ‖m‖²
            squares = (precision * x.square()).flatten(1).sum(-1) - 2 * _inner(precision * mean, x, z.ndim)
            squares = squares + (precision * mean.square()).flatten(z.ndim - 1).sum(-1)
        else:
            squares = (precision * (x - mean).square()).flatten(z.ndim - 1).sum(-1)
        return -0.5 * (squares + math.prod(x.shape[1:]) * LOG_2PI) - self.log_scale.expand(x.shape[1:]).sum()

    def mean(self, z: Tensor) -> Tensor:
        """E[x | z], z (..., D) -> (..., P)."""
        return self.body(z)

    def sample(self, z: Tensor, *, generator: torch.Generator) -> Tensor:
        """One x for each z, (..., P).  Raises MissingGenerator, GeneratorDeviceError."""
        mean = self.mean(z)
        generator = check_generator(generator, z.device)
        eps = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + self.log_scale.exp() * eps


def mlp(
    widths: Sequence[int], *, generator: torch.Generator, activation: type[nn.Module] = nn.Tanh,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """Linear layers from widths[0] to widths[-1], an activation between; (..., widths[0]) -> (..., widths[-1]).

    The first weights and biases are uniform on ±1/√inputs, as torch's own, but drawn from ``generator``, on its device.
    Raises MissingGenerator, ShapeError (fewer than two widths).

    >>> mlp([3, 8, 2], generator=torch.Generator().manual_seed(0))(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ShapeError(f"widths: at least the number of inputs and of outputs, each 1 or more, got {list(widths)}.")
    device = check_generator(generator).device
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:]):
        layer = _Linear(inputs, outputs, device=device, dtype=dtype)
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1])


class _Linear(nn.Linear):
    """torch's own, without the first weights that it draws from the global seed."""

    def reset_parameters(self) -> None:
        pass


def _decoded(body: nn.Module, x: Tensor, z: Tensor) -> Tensor:
    """body(z), (S, *R, N, *event), of a shape that fits x (N, *event)."""
    decoded, expected = body(z), (*z.shape[:-1], *x.shape[1:])
    if decoded.shape != expected:
        raise ShapeError(
            f"decoder: for z of shape {tuple(z.shape)} and x of shape {tuple(x.shape)} its body should return "
            f"{expected}, got {tuple(decoded.shape)}. Its last axis counts the entries of one x."
        )
    return decoded


def _one_for_all(decoded: Tensor, x: Tensor, z_ndim: int) -> bool:
    """True for z (S, *R, 1, D) and several data: each z serves them all, as the nodes of a quadrature do."""
    return decoded.shape[z_ndim - 2] == 1 and len(x) > 1


def _inner(decoded: Tensor, x: Tensor, z_ndim: int) -> Tensor:
    """Σ_p decoded_p x_p, (S, *R, N); one matrix product where one z serves all data."""
    if _one_for_all(decoded, x, z_ndim):
        return (decoded.flatten(z_ndim - 1) @ x.flatten(1).mT).squeeze(-2)
    return (decoded * x).flatten(z_ndim - 1).sum(-1)
