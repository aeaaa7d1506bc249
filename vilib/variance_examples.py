"""Two models on which the noise of gradient estimators has been compared: a Gamma posterior on the log scale, and a
nonlinear regression with as many coefficients as you like.

The pair is that of Kucukelbir et al. (2017, Automatic Differentiation Variational Inference, JMLR 18).  Data and inputs
of the regression are this module's own.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Gamma, constraints

from vilib.examples import Example
from vilib.families import LOG_2PI, MeanFieldGaussian
from vilib.models import Model
from vilib.types import ShapeError, VilibError, check_generator


def gamma_target(shape: float = 10.0, rate: float = 10.0) -> Example:
    """The posterior of a positive θ is Gamma(shape, rate), normalised: log evidence 0; z = log θ.  (eq:pw-gamma)

    On the log scale the log joint is a z − b e^z + a log b − log Γ(a), a the shape, b the rate, the Jacobian θ included.
    Under q = N(μ, σ²) its mean is in closed form, and the best q has σ² = 1/a and μ = log(a/b) − 1/(2a).

    Raises VilibError for a shape or a rate that is not above zero.

    >>> q, elbo = gamma_target(10.0, 10.0).best
    >>> round(q.mean.item(), 6), round(q.stddev.item() ** 2, 6), round(elbo, 6)
    (-0.05, 0.1, -0.008331)
    """
    if not (shape > 0 and rate > 0):
        raise VilibError(f"shape, rate: two numbers above 0, got {shape} and {rate}.")
    a, b = float(shape), float(rate)
    normaliser = a * math.log(b) - math.lgamma(a)

    def log_joint(z: Tensor) -> Tensor:
        z = z[..., 0]
        return a * z - b * z.exp() + normaliser

    def slope(z: Tensor) -> Tensor:
        return a - b * z.exp()

    def of_theta(theta: dict[str, Tensor]) -> Tensor:
        return (a - 1) * theta["theta"].log() - b * theta["theta"] + normaliser

    mu, sd = math.log(a / b) - 0.5 / a, a**-0.5
    best = MeanFieldGaussian(*(torch.tensor([v], dtype=torch.float64) for v in (mu, math.log(sd))))
    elbo = a * mu - a + normaliser + math.log(sd) + 0.5 * (1 + LOG_2PI)                  # b E[e^z] = a at the best q
    return Example(
        f"Gamma({shape:g}, {rate:g}), log scale", 1, log_joint, ((mu - 5 * sd, mu + 4 * sd),), 0.0, slope=slope,
        known_best=(best, elbo), model=Model(of_theta, {"theta": constraints.positive}, batched=True),
        posterior=Gamma(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)),
    )


def tanh_regression(x: Tensor, y: Tensor) -> Example:
    """Nonlinear regression y_n ~ N(tanh(x_nᵀβ), 1), β ~ N(0, I), z = β.  (eq:pw-tanh)

    x: (N, D).  y: (N,), in units of the noise.  The posterior has no closed form, and its coefficients are correlated as
    the columns of x are.

    Raises ShapeError when x and y do not fit.

    >>> model = tanh_regression(torch.eye(3), torch.zeros(3))
    >>> model.dim, model(torch.zeros(5, 3)).shape
    (3, torch.Size([5]))
    """
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ShapeError(f"x, y: expected (N, D) and (N,), got {tuple(x.shape)} and {tuple(y.shape)}.")
    dim, constant = x.shape[1], -0.5 * (len(y) + x.shape[1]) * LOG_2PI

    def log_joint(z: Tensor) -> Tensor:
        residual = y.to(z) - (z @ x.to(z).mT).tanh()
        return constant - 0.5 * residual.square().sum(-1) - 0.5 * z.square().sum(-1)

    def slope(z: Tensor) -> Tensor:
        fitted = (z @ x.to(z).mT).tanh()
        return ((y.to(z) - fitted) * (1 - fitted.square())) @ x.to(z) - z

    return Example("tanh regression", dim, log_joint, ((-3.0, 3.0),) * dim, slope=slope, data={"x": x, "y": y})


def simulated_tanh_regression(
    num_coefficients: int = 100, num_observations: int = 200, *, generator: torch.Generator
) -> Example:
    """:func:`tanh_regression` on data from the model itself: β ~ N(0, I) and x_n ~ N(0, I/D): x_nᵀβ is of order one.

    The β that made them is ``data["beta"]``, (D,).  All is float64, drawn from the generator, on its device.

    >>> simulated_tanh_regression(generator=torch.Generator().manual_seed(0)).dim
    100
    """
    device = check_generator(generator).device
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64, device=device)  # noqa: E731
    x, beta = draw(num_observations, num_coefficients) / math.sqrt(num_coefficients), draw(num_coefficients)
    example = tanh_regression(x, (x @ beta).tanh() + draw(num_observations))
    return replace(example, data={**example.data, "beta": beta})
