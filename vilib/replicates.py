"""Many independent gradients at once: how noisy is one, and what does S buy?

:func:`gradient_replicates` runs any estimator many times over as one tensor program: λ expanded to (num_replicates, *R, P) is one more
batch.  To see several estimators on the *same* draws, and at every S at once, see :mod:`vilib.nested`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vilib.draws import value_and_gradient
from vilib.fit import check_draws
from vilib.noise import normal
from vilib.types import Estimator, Family, LogJoint, Noise, ShapeError, check_generator

_CHUNK_ELEMENTS = 2**18


def gradient_replicates(
    estimator: Estimator, log_joint: LogJoint, q: Family, *, num_samples: int, num_replicates: int,
    generator: torch.Generator, noise: Noise = normal, chunk: int | None = None,
) -> Tensor:
    """``num_replicates`` independent gradient estimates of S draws each: (num_replicates, *R, P).

    chunk: replicates at a time; by default as many as keep an intermediate near 2¹⁸ numbers.
    Raises what the estimator raises, GeneratorDeviceError, MissingGenerator, DependentDraws.

    >>> from vilib import MeanFieldGaussian, gaussian_target, pathwise
    >>> q = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> gradient_replicates(pathwise, gaussian_target(1.0, 1.0), q, num_samples=4, num_replicates=500,
    ...                     generator=torch.Generator().manual_seed(0)).shape
    torch.Size([500, 2])
    """
    vector = q.vector()
    check_generator(generator, vector.device)
    check_draws(estimator, noise)
    chunk = chunk or max(1, _CHUNK_ELEMENTS // (num_samples * max(1, q.batch_shape.numel() * q.dim)))
    gradients = []
    for done in range(0, num_replicates, chunk):
        count = min(chunk, num_replicates - done)
        eps = noise(num_samples, (count, *q.batch_shape), q.dim, generator=generator, dtype=vector.dtype)
        gradients.append(value_and_gradient(estimator, log_joint, q.detach().expand(count), eps)[1])
    return torch.cat(gradients)


@dataclass(frozen=True, eq=False)
class GradientSummary:
    """What a set of replicate gradients says; each (*R, P).

    mean and its standard_error; variance of one estimate; snr = |exact or mean| / sd, the signal-to-noise ratio;
    exact: the true gradient, or None.
    """

    mean: Tensor
    standard_error: Tensor
    variance: Tensor
    snr: Tensor
    exact: Tensor | None
    num_samples: int

    def samples_for_snr(self, target: float = 10.0) -> Tensor:
        """The S at which the signal-to-noise ratio would reach ``target``: snr grows like √S.  (eq:noise-variance)

        inf where the gradient is zero.
        """
        return self.num_samples * (target / self.snr) ** 2


def summarize(gradients: Tensor, exact: Tensor | None = None, num_samples: int = 1) -> GradientSummary:
    """Mean, standard error, variance and signal-to-noise of replicates (num_replicates, *R, P), over the first axis.

    num_samples: the S of each replicate; only :meth:`GradientSummary.samples_for_snr` asks for it.
    Raises ShapeError for fewer than two replicates.

    >>> summarize(torch.tensor([[1.0], [3.0]])).mean
    tensor([2.])
    """
    if len(gradients) < 2:
        raise ShapeError(f"gradients: a variance needs at least 2 replicates, got {len(gradients)}.")
    variance, mean = torch.var_mean(gradients, 0)
    signal = mean if exact is None else exact.to(mean)
    return GradientSummary(
        mean, (variance / len(gradients)).sqrt(), variance, signal.abs() / variance.sqrt(), exact, num_samples
    )
