"""Encoder and decoder together: climbing the ELBO of a data set, a minibatch at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from vilib.amortized import VAE, DataEstimator, analytic_kl, with_model_gradient
from vilib.fit import Optimizer, TorchOptimizer, check_draws
from vilib.noise import normal
from vilib.progress import counted
from vilib.types import Noise, VilibError, check_generator
from vilib.vae_gradient import Gradient, written_out


@dataclass(frozen=True, eq=False)
class Training:
    """How a training went.

    elbo: (num_epochs,), float64, the mean over the data of the noisy ELBO estimates of each epoch, in nats a datum;
    taken on the way, so each minibatch at the parameters of its own step.  seconds: (num_epochs,), float64, the time
    that each epoch took.
    """

    elbo: Tensor
    seconds: Tensor


def train(
    vae: VAE, data: Tensor, *, num_epochs: int, batch_size: int, optimizer: Optimizer | TorchOptimizer,
    generator: torch.Generator, estimator: DataEstimator = analytic_kl, num_samples: int = 1, noise: Noise = normal,
    progress: bool | None = None, on_epoch: Callable[[int, float], None] | None = None,
) -> Training:
    """Climb the mean ELBO per datum in φ and θ together; ``vae`` is changed in place.

    Each epoch shuffles the data and takes one step for each minibatch of ``batch_size`` rows, the last one perhaps
    smaller.  The mean over a minibatch is an unbiased estimate of the mean over the data; times N it is the bound on
    log p(data), so that a step size means the same for every N.  Parameters with ``requires_grad`` False stay as they
    are.

    data: (N, ...), of the dtype and on the device of the parameters.
    estimator: :func:`vilib.amortized.analytic_kl`, or any of :mod:`vilib.estimators` and :mod:`vilib.iwae`, with
    ``num_samples`` draws a datum.
    optimizer: one of :mod:`vilib.fit`, which works on all parameters as one vector, or a ``torch.optim`` factory such
    as ``lambda params: torch.optim.Adam(params, lr=1e-3)``.
    progress: a bar, see :func:`vilib.progress.counted`.  on_epoch: called with the epoch, 0, 1, …, and its ELBO when
    it is over.

    Raises ShapeError and VilibError for data or modules that do not fit, MissingGenerator, GeneratorDeviceError,
    DependentDraws, NonFiniteLogJoint when the training runs away, and what the estimator raises.

    >>> from vilib import adam, digits, mlp_vae
    >>> generator = torch.Generator().manual_seed(0)
    >>> vae, (images, _) = mlp_vae(64, 2, (16,), generator=generator), digits()
    >>> done = train(vae, images, num_epochs=2, batch_size=128, optimizer=adam(0.01), generator=generator)
    >>> done.elbo.shape, bool(done.elbo[1] > done.elbo[0])
    (torch.Size([2]), True)
    """
    if num_epochs < 0 or batch_size < 1 or num_samples < 1:
        raise VilibError(
            "num_epochs at least 0, batch_size and num_samples at least 1, "
            f"got {num_epochs}, {batch_size} and {num_samples}."
        )
    dim = vae.check(data).dim
    check_generator(generator, data.device)
    check_draws(estimator, noise)
    parameters = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    if not parameters:
        raise VilibError("vae: it has no parameter with requires_grad=True, so there is nothing to train.")
    estimate, elbo, seconds = with_model_gradient(estimator), [], []

    def objective(x: Tensor, eps: Tensor) -> Tensor:
        return estimate(vae.log_joint(x), vae.encode(x), eps).mean()

    with _climber(optimizer, parameters, objective, lambda: written_out(vae, estimator, parameters)) as climb:
        for epoch in counted(num_epochs, "epoch", progress):
            begun, total = time.perf_counter(), 0.0
            shuffled = data.index_select(0, torch.randperm(len(data), generator=generator, device=data.device))
            eps = noise(num_samples, (len(data),), dim, generator=generator, dtype=data.dtype)
            for x, eps_x in zip(shuffled.split(batch_size), eps.split(batch_size, 1)):
                total += x.shape[0] * climb(x, eps_x)
            elbo.append(total / len(data))
            seconds.append(time.perf_counter() - begun)
            if on_epoch is not None:
                on_epoch(epoch, elbo[-1])
    return Training(torch.tensor(elbo, dtype=torch.float64), torch.tensor(seconds, dtype=torch.float64))


@contextmanager
def _climber(
    optimizer: Optimizer | TorchOptimizer, parameters: Sequence[Tensor], objective: Callable[[Tensor, Tensor], Tensor],
    shortcut: Callable[[], Gradient | None] = lambda: None,
) -> Iterator[Callable[[Tensor, Tensor], float]]:
    """A function that takes one step up an objective, two tensors -> scalar, and returns the objective's value before it.

    shortcut: makes a function that gives the objective's value and gradient faster than autograd, if there is one; the gradient
    may be the same vector each time, written anew.
    """

    def by_autograd(*data: Tensor) -> tuple[float, Tensor]:
        value = objective(*data)
        gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
        return value.item(), torch.cat([gradient.reshape(-1) for gradient in gradients])

    if isinstance(optimizer, Optimizer):
        with _one_vector(parameters) as vector:
            state, step = optimizer.init(vector), 0
            value_and_gradient = shortcut() or by_autograd

            def climb(*data: Tensor) -> float:
                nonlocal state, step
                value, gradient = value_and_gradient(*data)
                if not math.isfinite(value) and value_and_gradient is not by_autograd:
                    value, gradient = by_autograd(*data)    # let the definition say what is wrong, or go on
                if optimizer.climb is None:
                    gradient = gradient.clone()             # it may keep what it is given
                state = optimizer.step(vector, gradient, state, step)
                step += 1
                return value

            yield climb
        return

    by_torch = optimizer(list(parameters))

    def climb_by_torch(*data: Tensor) -> float:
        def loss() -> float:                                # torch descends, we climb
            by_torch.zero_grad()
            value = -objective(*data)
            value.backward()
            return value.item()

        return -by_torch.step(loss)

    try:
        yield climb_by_torch
    finally:
        by_torch.zero_grad()


@contextmanager
def _one_vector(parameters: Sequence[Tensor]) -> Iterator[Tensor]:
    """All parameters as views of one vector: a step is one addition.  Afterwards each has its own memory again."""
    vector = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    homes = [parameter.data for parameter in parameters]
    for parameter, piece in zip(parameters, vector.split([home.numel() for home in homes])):
        parameter.data = piece.view_as(parameter)
    try:
        yield vector
    finally:
        for parameter, home in zip(parameters, homes):
            home.copy_(parameter.data)
            parameter.data = home
