"""Models of one unknown, z ~ N(0, 1), whose evidence is known: a Gaussian mean, a coin, and a sign that nobody can see.

They share their prior, so they differ in nothing but what the data say about z.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from vilib.examples import Example
from vilib.families import LOG_2PI, MeanFieldGaussian
from vilib.quadrature import best_gaussian, log_evidence


def standard_normal_prior(z: Tensor) -> Tensor:
    """log N(z | 0, I), z (..., D) -> (...): the prior of this module's models.

    >>> round(standard_normal_prior(torch.zeros(3, 1))[0].item(), 6)             # −½ log 2π
    -0.918939
    """
    return -0.5 * (z.square() + LOG_2PI).sum(-1)


def gaussian_mean(x: Tensor) -> Example:
    """x_i ~ N(z, 1), z ~ N(0, 1): the posterior is N(Σx/(1+N), 1/(1+N)), and a Gaussian q can be exact.  (eq:elbo-example)

    x: (N,), N ≥ 0, in units of the noise.

    >>> q, elbo = gaussian_mean(torch.tensor([1.0, 2.0, 3.0])).best
    >>> q.mean.item(), round(q.stddev.item(), 6)
    (1.5, 0.5)
    """
    x = x.double()
    n, total, squares = len(x), float(x.sum()), float(x @ x)

    def log_joint(z: Tensor) -> Tensor:
        z1 = z[..., 0]
        return standard_normal_prior(z) - 0.5 * (squares - 2 * z1 * total + n * z1.square()) - 0.5 * n * LOG_2PI

    def slope(z: Tensor) -> Tensor:
        return total - (n + 1) * z

    evidence = -0.5 * (n * LOG_2PI + math.log(1 + n) + squares - total**2 / (1 + n))
    posterior = _gaussian(total / (1 + n), (1 + n) ** -0.5)
    return Example("mean of a Gaussian", 1, log_joint, ((-3.0, 3.0),), evidence, slope=slope,
                   known_best=(posterior, evidence), data={"x": x})


def coin(tosses: Tensor) -> Example:
    """y_i ~ Bernoulli(sigmoid z), z ~ N(0, 1): a coin on the logit scale, nearly Gaussian for any number of tosses.

    tosses: (N,), N ≥ 0, of zeros (tails) and ones (heads).

    >>> round(coin(torch.ones(1)).log_evidence, 6)                               # one head: exactly −log 2
    -0.693147
    """
    tosses = tosses.double()
    n, heads = len(tosses), float(tosses.sum())

    def log_joint(z: Tensor) -> Tensor:
        return standard_normal_prior(z) + heads * z[..., 0] - n * softplus(z[..., 0])

    def slope(z: Tensor) -> Tensor:
        return heads - n * torch.sigmoid(z) - z

    return Example("coin", 1, log_joint, ((-3.0, 3.0),), log_evidence(log_joint, -9.0, 9.0), slope=slope, start=_gaussian(0.0, 1.0),
                   data={"tosses": tosses})


def hidden_sign(x: Tensor) -> Example:
    """x_i ~ N(z², 1), z ~ N(0, 1): the data know z but for its sign, and no single Gaussian can say "either".

    x: (N,), N ≥ 0.  Where the posterior has two modes, ``best`` is a Gaussian on the right one if that is better than a wide
    one over both.

    >>> example = hidden_sign(torch.full((20,), 1.0))
    >>> round(example.log_evidence - example.best[1], 2)                         # just over log 2
    0.71
    """
    x = x.double()
    n, total, squares = len(x), float(x.sum()), float(x @ x)

    def log_joint(z: Tensor) -> Tensor:
        t = z[..., 0].square()
        return standard_normal_prior(z) - 0.5 * (squares - 2 * t * total + n * t.square()) - 0.5 * n * LOG_2PI

    def slope(z: Tensor) -> Tensor:
        return 2 * total * z - 2 * n * z**3 - z

    mode = math.sqrt(max(total - 0.5, 0.0) / n) if n else 0.0
    wide = best_gaussian(log_joint, _gaussian(0.0, 0.7))
    at_mode = best_gaussian(log_joint, _gaussian(mode, (1 + 4 * n * mode**2) ** -0.5))
    return Example("hidden sign", 1, log_joint, ((-3.0, 3.0),), log_evidence(log_joint, -8.0, 8.0), slope=slope,
                   known_best=max(wide, at_mode, key=lambda found: found[1]), data={"x": x}, symmetric=True)


def _gaussian(mean: float, sd: float) -> MeanFieldGaussian:
    return MeanFieldGaussian(*(torch.tensor([v], dtype=torch.float64) for v in (mean, math.log(sd))))
