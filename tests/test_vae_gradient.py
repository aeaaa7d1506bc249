"""The gradient written out is autograd's, wherever it is used; and where it does not hold it is not used."""

import sys
from functools import partial

import pytest
import torch
from helpers import seeded
from torch import nn

from vilib import (
    VAE, BernoulliDecoder, Encoder, FullRankGaussian, GaussianDecoder, MeanFieldGaussian, Optimizer, adam, analytic_kl, mlp, mlp_vae, normal,
    pathwise, sgd, train,
)
from vilib.vae_gradient import written_out

close = torch.testing.assert_close
DATA = torch.bernoulli(torch.full((23, 6), 0.5, dtype=torch.float64), generator=seeded(4))


def make(hidden=(8,), latent=2, dtype=torch.float64, **options):
    return mlp_vae(6, latent, hidden, generator=seeded(1), dtype=dtype, **options)


def by_autograd(vae, estimator, parameters, x, eps):
    value = vae.elbo(x, eps, estimator).mean()
    return value.item(), torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("hidden", [(), (8,), (8, 5), (7, 7, 3)], ids=str)
@pytest.mark.parametrize("latent, beta", [(1, None), (2, 0.25), (3, 6), (6, 0.0)])
def test_it_is_what_autograd_gives(hidden, num_samples, latent, beta, dtype):
    """Grey values too, and networks away from where a training starts; not where logits pass 20, as torch's softplus rounds there."""
    vae, estimator = make(hidden, latent, dtype), analytic_kl if beta is None else partial(analytic_kl, beta=beta)
    parameters = list(vae.parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(1.5).add_(0.1)
    x = torch.cat([DATA, torch.rand(9, 6, generator=seeded(3), dtype=torch.float64)]).to(dtype)
    eps = normal(num_samples, (32,), latent, generator=seeded(2), dtype=dtype)
    value, gradient = written_out(vae, estimator, parameters)(x, eps)
    expected, exact = by_autograd(vae, estimator, parameters, x, eps)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    assert value == pytest.approx(expected, rel=tolerance)
    close(gradient, exact, rtol=0, atol=tolerance * exact.abs().max().item())
    assert gradient.dtype == dtype and not gradient.requires_grad


def test_it_follows_the_parameters_in_the_order_asked_for():
    vae = make()
    parameters = list(vae.parameters())[::-1]
    gradient_of, eps = written_out(vae, analytic_kl, parameters), normal(1, (23,), 2, generator=seeded(2), dtype=torch.float64)
    first = gradient_of(DATA, eps)[1].clone()
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(1.5)
    moved = gradient_of(DATA, eps)[1]
    close(moved, by_autograd(vae, analytic_kl, parameters, DATA, eps)[1])
    assert not torch.allclose(first, moved)


def test_an_optimizer_may_keep_the_gradients_that_it_is_given():
    """They come from one vector that is written anew at each step; each is given away as a copy."""
    given = []

    def remember(gradient, state, step):
        given.append((gradient, gradient.clone()))
        return 0.01 * gradient, state

    train(make(), DATA, num_epochs=2, batch_size=10, optimizer=Optimizer(lambda vector: (), remember), generator=seeded())
    assert len(given) == 6 and all(torch.equal(*pair) for pair in given) and not torch.equal(given[0][0], given[1][0])
    assert not any(gradient.is_inference() for gradient, _ in given)


@pytest.mark.parametrize("options", [{}, {"num_samples": 3}, {"estimator": partial(analytic_kl, beta=3.0)}, {"optimizer": sgd(0.1)}],
                         ids=lambda options: "".join(options) or "as it is")
def test_a_training_is_the_same_by_either_way(options, monkeypatch):
    """Five steps an epoch, the last of three rows."""
    taken = []

    def whole():
        vae = make()
        done = train(vae, DATA, **{"num_epochs": 20, "batch_size": 5, "optimizer": adam(0.02), "generator": seeded(5)} | options)
        return done.elbo, torch.cat([p.detach().flatten() for p in vae.parameters()])

    def watched(*args):
        gradient_of = written_out(*args)
        return lambda x, eps: (taken.append(len(x)), gradient_of(x, eps))[1]

    training = sys.modules["vilib.training"]
    monkeypatch.setattr(training, "written_out", watched)
    fast = whole()
    monkeypatch.setattr(training, "written_out", lambda *args: None)
    assert taken == 20 * [5, 5, 5, 5, 3]
    for ours, definition in zip(fast, whole()):
        close(ours, definition, rtol=1e-9, atol=1e-9)


def mean_field(body):
    return Encoder(body, MeanFieldGaussian(torch.zeros(2), torch.zeros(2)))


def tied():
    square = nn.Linear(6, 6)
    return VAE(mean_field(nn.Sequential(square, nn.Tanh(), square, nn.Tanh(), nn.Linear(6, 4))), make().decoder)


def hooked(register):
    vae = make()
    register(vae)
    return vae


def networks(encode, decode=None):
    return VAE(mean_field(encode), BernoulliDecoder(decode or mlp([2, 6], generator=seeded())))


class Doubled(BernoulliDecoder):
    def log_prob(self, x, z):
        return 2 * super().log_prob(x, z)


OTHERS = {
    "an estimator of another kind": (make, pathwise),
    "a weight of the KL that is learnt": (make, partial(analytic_kl, beta=torch.ones(1, requires_grad=True))),
    "a frozen decoder": (lambda: hooked(lambda vae: vae.decoder.requires_grad_(False)), analytic_kl),
    "a hook on a layer": (lambda: hooked(lambda vae: vae.decoder.body[0].register_forward_hook(lambda *_: None)), analytic_kl),
    "a hook on a parameter": (lambda: hooked(lambda vae: vae.decoder.body[0].weight.register_hook(lambda g: 2 * g)), analytic_kl),
    "a Gaussian decoder": (lambda: make(decoder=GaussianDecoder), analytic_kl),
    "a decoder of the reader's": (lambda: VAE(make().encoder, Doubled(make().decoder.body)), analytic_kl),
    "a full-rank q": (lambda: VAE(Encoder(mlp([6, 5], generator=seeded()), FullRankGaussian(torch.zeros(2), torch.zeros(2, 2))),
                                  BernoulliDecoder(mlp([2, 6], generator=seeded()))), analytic_kl),
    "another activation": (lambda: networks(mlp([6, 8, 4], generator=seeded(), activation=nn.ReLU)), analytic_kl),
    "a layer without a bias": (lambda: networks(nn.Sequential(nn.Linear(6, 4, bias=False))), analytic_kl),
    "tanh at the end": (lambda: networks(nn.Sequential(nn.Linear(6, 4), nn.Tanh())), analytic_kl),
    "one layer in two places": (tied, analytic_kl),
    "a body that is no list of layers": (lambda: networks(nn.Linear(6, 4)), analytic_kl),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_it_is_not_for_goes_by_autograd(name):
    """And none of these is taken for the plain one, whose gradient is not theirs."""
    build, estimator = OTHERS[name]
    vae = build()
    assert written_out(vae, estimator, [p for p in vae.parameters() if p.requires_grad]) is None
    assert written_out(make(), analytic_kl, list(make().parameters())) is None              # another's parameters


def test_values_that_are_not_finite_are_left_to_the_definition(monkeypatch):
    """A value of inf is asked for again, by autograd; here that finds nothing wrong, and the training goes on by it."""
    monkeypatch.setattr(sys.modules["vilib.training"], "written_out", lambda *args: lambda x, eps: (float("inf"), None))
    vae = make()
    assert train(vae, DATA, num_epochs=2, batch_size=23, optimizer=adam(0.02), generator=seeded(5)).elbo.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_cuda():
    vae = mlp_vae(6, 2, (8,), generator=torch.Generator("cuda").manual_seed(0), dtype=torch.float64)
    parameters, x = list(vae.parameters()), DATA.cuda()
    eps = normal(2, (23,), 2, generator=torch.Generator("cuda").manual_seed(1), dtype=torch.float64)
    for found, exact in zip(written_out(vae, analytic_kl, parameters)(x, eps), by_autograd(vae, analytic_kl, parameters, x, eps)):
        close(found, exact, rtol=1e-10, atol=1e-10)
