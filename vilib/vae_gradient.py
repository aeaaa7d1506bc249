"""The gradient of the commonest VAE, written out: backpropagation layer by layer, without autograd.

``vae.elbo(x, eps).mean()`` and ``torch.autograd.grad`` are the definition.  On the digits half of their time goes into
keeping the books of many small operations.  Where encoder and decoder are plain tanh networks, the decoder is Bernoulli
and the KL is taken in closed form, the chain rule is short enough to write down, and each gradient goes to its place in
one vector.  A test holds the two equal; whatever is not of this kind goes by autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from vilib.amortized import VAE, DataEstimator, analytic_kl
from vilib.families import MeanFieldGaussian
from vilib.networks import BernoulliDecoder, Encoder, _Linear

#: (x (N, P), ε (S, N, D)) -> the mean over N of :func:`vilib.amortized.analytic_kl`, and its gradient in φ and θ: one vector,
#: which the next call writes anew.
Gradient = Callable[[Tensor, Tensor], tuple[float, Tensor]]


def written_out(vae: VAE, estimator: DataEstimator, parameters: Sequence[Tensor]) -> Gradient | None:
    """The gradient of a minibatch's mean ELBO in ``parameters``, one vector; None where it is not written out here.

    It is for an :class:`Encoder` of mean-field q and a :class:`BernoulliDecoder`, their bodies linear layers with tanh
    between, no hooks on them, all of their parameters trained; and for ``analytic_kl``, or
    ``partial(analytic_kl, beta=...)``.  It reads the parameters where they lie, so their memory must stay the same.

    >>> from vilib import mlp_vae
    >>> vae = mlp_vae(6, 2, (8,), generator=torch.Generator().manual_seed(0))
    >>> value, gradient = written_out(vae, analytic_kl, list(vae.parameters()))(torch.ones(5, 6), torch.zeros(1, 5, 2))
    >>> gradient.shape, abs(value - vae.elbo(torch.ones(5, 6), torch.zeros(1, 5, 2)).mean().item()) < 1e-5
    (torch.Size([170]), True)
    """
    beta, encoder, decoder = _beta(estimator), vae.encoder, vae.decoder
    if beta is None or type(vae) is not VAE or type(encoder) is not Encoder or type(decoder) is not BernoulliDecoder:
        return None
    linear = [_linear_layers(encoder.body), _linear_layers(decoder.body)]
    theirs = [id(parameter) for layers in linear for layer in layers for parameter in layer.parameters()]
    trained = sorted(theirs) == sorted(map(id, parameters))                       # all of them, and none of them twice
    if type(encoder.family) is not MeanFieldGaussian or not all(linear) or not trained or _has_hooks(vae):
        return None
    gradient = parameters[0].new_empty(sum(parameter.numel() for parameter in parameters))
    pieces = gradient.split([parameter.numel() for parameter in parameters])
    places = {id(parameter): piece.view_as(parameter) for parameter, piece in zip(parameters, pieces)}
    encode, decode = (_Network([_Layer(layer, places) for layer in layers]) for layers in linear)
    #: (S, N) -> 1/(S N) and β/N.  As tensors: they are multiplied quicker than floats.
    factors: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    @torch.inference_mode()
    def value_and_gradient(x: Tensor, eps: Tensor) -> tuple[float, Tensor]:
        (num_samples, num_data, dim), eps = eps.shape, eps.permute(2, 0, 1)                               # (D, S, N)
        if (num_samples, num_data) not in factors:
            factors[num_samples, num_data] = gradient.new_tensor(1 / (num_samples * num_data)), gradient.new_tensor(beta / num_data)
        share, kl_share = factors[num_samples, num_data]
        code = encode(x.mT)
        mu, omega = code.view(2, dim, 1, num_data).unbind()                                               # (D, 1, N)
        log_det = omega.sum().item()
        sigma = omega.exp_()                                                                              # code is now (μ, σ)
        kl = 0.5 * (_dot(code, code) - num_data * dim) - log_det
        logits = decode(torch.addcmul(mu, sigma, eps).reshape(dim, -1), by_datum=True).mT.view(num_samples, num_data, -1)
        log_likelihood = (_dot(logits, x) if num_samples == 1 else (logits * x).sum().item()) - softplus(logits).sum().item()

        by_logits = torch.sub(x, logits.sigmoid_()).mul_(share).view(num_samples * num_data, -1).mT
        by_z = decode.back(by_logits, to_input=True).view_as(eps)
        by_mu = torch.addcmul(_sum_of_draws(by_z), kl_share, mu, value=-1)                                # −∂KL/∂μ = −μ,
        by_sigma = torch.addcmul(_sum_of_draws(by_z * eps), kl_share, sigma, value=-1)                    # −∂KL/∂σ = 1/σ − σ,
        by_omega = torch.addcmul(kl_share, by_sigma, sigma)                                               # and ∂σ/∂ω = σ
        encode.back(torch.cat([by_mu, by_omega]).view(-1, num_data))
        return (log_likelihood / num_samples - beta * kl) / num_data, gradient

    return value_and_gradient


def _sum_of_draws(x: Tensor) -> Tensor:
    """x (D, S, N) summed over S, (D, 1, N)."""
    return x if x.shape[1] == 1 else x.sum(1, keepdim=True)


def _dot(a: Tensor, b: Tensor) -> float:
    """Σ a b, of as many numbers each."""
    return torch.dot(a.flatten(), b.flatten()).item()


class _Layer:
    """A linear layer, W a + b, and where the gradients in W and b go."""

    def __init__(self, layer: nn.Linear, places: dict[int, Tensor]):
        self.weight, self.bias = layer.weight.detach(), layer.bias.detach()
        self.weight_transposed, self.bias_column = self.weight.mT, self.bias.unsqueeze(-1)
        self.by_weight, self.by_bias = places[id(layer.weight)], places[id(layer.bias)]


class _Network:
    """Linear layers with tanh between, and the chain rule back through them.

    A column is a datum: the product of a narrow matrix and a broad one is up to four times as fast that way round.
    tanh a = 2 sigmoid(2a) − 1, and torch's sigmoid takes a fifth of the time of its tanh.
    """

    def __init__(self, layers: Sequence[_Layer]):
        self.layers, self.minus_one = layers, layers[0].weight.new_tensor(-1.0)
        self.ones = layers[0].weight.new_ones(0)
        self.inputs: list[Tensor] = []

    def __call__(self, x: Tensor, by_datum: bool = False) -> Tensor:
        """x (inputs, N) -> (outputs, N), in memory one datum after the other if ``by_datum``.  What each layer was given is kept."""
        self.inputs = [x]
        for layer in self.layers[:-1]:
            x = torch.addmm(layer.bias_column, layer.weight, x, beta=2, alpha=2).sigmoid_()
            self.inputs.append(torch.add(self.minus_one, x, alpha=2, out=x))
        last = self.layers[-1]
        if by_datum:
            return torch.addmm(last.bias, x.mT, last.weight_transposed).mT
        return torch.addmm(last.bias_column, last.weight, x)

    def back(self, slope: Tensor, to_input: bool = False) -> Tensor:
        """From the output's gradient (outputs, N) those of weights and biases, put in place; returns the input's."""
        if len(self.ones) != slope.shape[1]:
            self.ones = slope.new_ones(slope.shape[1])
        for at in reversed(range(len(self.layers))):
            layer, given = self.layers[at], self.inputs[at]
            torch.mm(slope, given.mT, out=layer.by_weight)
            torch.mv(slope, self.ones, out=layer.by_bias)
            if at or to_input:
                slope = torch.mm(layer.weight_transposed, slope)
            if at:
                torch.ops.aten.tanh_backward.grad_input(slope, given, grad_input=slope)         # (1 − tanh²) slope
        return slope


def _beta(estimator: DataEstimator) -> float | None:
    if estimator is analytic_kl:
        return 1.0
    if not isinstance(estimator, partial) or estimator.func is not analytic_kl or estimator.args:
        return None
    beta = estimator.keywords.get("beta") if len(estimator.keywords) == 1 else None
    return float(beta) if isinstance(beta, (int, float)) else None


def _linear_layers(body: nn.Module) -> list[nn.Linear]:
    """The layers of linear, tanh, linear, …, linear, each with a bias; empty if it is anything else."""
    layers = list(body) if type(body) is nn.Sequential else []
    linear = [layer for layer in layers[::2] if isinstance(layer, nn.Linear) and layer.bias is not None]
    between = [layer for layer in layers[1::2] if type(layer) is nn.Tanh]
    plain = len(linear) == len(between) + 1 and len(linear) + len(between) == len(layers)
    return linear if plain and all(type(layer) in (nn.Linear, _Linear) for layer in linear) else []


def _has_hooks(vae: VAE) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    on_parameters = (parameter._backward_hooks for parameter in vae.parameters())
    return any(chain(on_parameters, (getattr(module, kind) for module in vae.modules() for kind in hooks)))
