"""How noisy is one gradient?  Estimates of one coordinate of it at every S, beside the exact gradient and variance.

All estimators see the same draws (:mod:`vilib.nested`); what is exact comes from the moments of f under q.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vilib.draws import per_draw
from vilib.examples import Cost, Example
from vilib.families import MeanFieldGaussian
from vilib.nested import nested_study
from vilib.quadrature import Moments, moments


def alike(mu: float, omega: float, dim: int) -> MeanFieldGaussian:
    """The q whose D coordinates are all N(mu, e^{2 omega}); float64.

    >>> alike(1.0, 0.0, 3).stddev
    tensor([1., 1., 1.], dtype=torch.float64)
    """
    return MeanFieldGaussian(*(torch.full((dim,), value, dtype=torch.float64) for value in (mu, omega)))


@dataclass(frozen=True, eq=False)
class GradientNoise:
    """∂/∂mu[0] by one estimator, C sample counts, R replicates; nan throughout if there is no such estimator of it.

    exact: the gradient itself.  sample_counts: (C,).  estimates: (C, R), in the dtype of the draws.
    variance: the exact variance of one estimate at each S, (C,), float64.
    """

    exact: float
    sample_counts: Tensor
    estimates: Tensor
    variance: Tensor

    @property
    def standard_error(self) -> Tensor:
        """The exact standard error of the mean of the R estimates, (C,)."""
        return (self.variance / self.estimates.shape[-1]).sqrt()

    @property
    def signal_to_noise(self) -> Tensor:
        """|exact| over the exact standard deviation of one estimate, (C,)."""
        return abs(self.exact) / self.variance.sqrt()

    def draws_for(self, ratio: float) -> float:
        """The least S that brings the signal-to-noise ratio to ``ratio``; nan where the gradient is zero.

        From the largest S on, the variance is taken to fall as 1/S; it does so throughout but for leave-one-out at a few draws.
        """
        if not abs(self.exact) > 1e-9:
            return math.nan
        variance_of_one = self.variance[-1].item() * self.sample_counts[-1].item()
        return float(math.ceil(round(ratio**2 * variance_of_one / self.exact**2, 6)))


def gradient_noise(
    f: Cost | Example, q: MeanFieldGaussian, eps: Tensor, estimators: Sequence[str], *, coordinate: int = 0,
    of_one: Moments | None = None,
) -> dict[str, GradientNoise]:
    """Name -> the noise of that estimator of ∂/∂mu[0] E_q[f], or of the ELBO where f is an Example, at S = 1, 2, 4, …

    q: without a batch; the D coordinates alike for a Cost, D at most 2 for an Example.
    eps: (S_max, R, D), as many replicates as R; estimates are made in its dtype, exact numbers in that of q.
    estimators: names of :func:`vilib.nested.nested_gradients`; of a Cost, sticking the landing is nan.
    coordinate: of an Example, the place i of another ∂/∂mu[i].
    of_one: the moments of f under q, P = 2D.  Those that were measured (:func:`vilib.quadrature.moments_at`) free an Example of its
        limit on D; ``exact`` and ``variance`` are then measured too.

    >>> from vilib import normal, quadratic_cost
    >>> eps = normal(64, (500,), 1, generator=torch.Generator().manual_seed(0))
    >>> one = gradient_noise(quadratic_cost(), alike(1.0, 0.0, 1), eps, ["pathwise"])["pathwise"]      # 2z: mean 2, variance 4/S
    >>> round(one.exact, 6), one.estimates.shape, one.signal_to_noise[[0, 2, 4]].float(), one.draws_for(10)
    (2.0, torch.Size([7, 500]), tensor([1., 2., 4.]), 100.0)
    """
    posterior = isinstance(f, Example)
    counts = torch.tensor([2**k for k in range(len(eps).bit_length())])
    known = [name for name in estimators if posterior or name not in ("sticking_the_landing", "total_derivative")]
    drawn = q.with_vector(q.vector().to(eps.dtype))
    estimates = nested_study(f, drawn, eps, known, elbo=posterior, sample_counts=counts.tolist(), coordinates=(coordinate,))
    of_one = of_one or (f.moments(q) if isinstance(f, Cost) else moments(f, q, elbo=True))
    exact, variances = of_one.gradient[coordinate].item(), of_one.variances_at(counts.tolist())
    gap = torch.full((len(counts), eps.shape[1]), math.nan)
    missing = GradientNoise(math.nan, counts, gap.to(eps), gap[:, 0].double())
    return {
        name: GradientNoise(exact, counts, estimates[name][..., 0], variances[name][:, coordinate]) if name in known else missing
        for name in estimators
    }


def score_terms(f: Cost | Example, q: MeanFieldGaussian, eps: Tensor, coordinate: int = 0) -> tuple[Tensor, Tensor]:
    """Where the draws of one estimate fell, z[0], and what each adds to its sum, f ∂ log q/∂mu[0]: (S,) and (S,), float64.

    The score-function estimate is the mean of the latter.  f and q as for :func:`gradient_noise`, of any D; eps: (S, D);
    coordinate: the place i of another z[i] and ∂/∂mu[i].

    >>> from vilib import quadratic_cost
    >>> z, added = score_terms(quadratic_cost(), alike(1.0, 0.0, 1), torch.tensor([[1.0], [-2.0]]))
    >>> z, added                                                                           # (1 + ε)² ε
    (tensor([ 2., -1.], dtype=torch.float64), tensor([ 4., -2.], dtype=torch.float64))
    """
    draws = per_draw(f, q.with_vector(q.vector().to(eps.dtype)), eps, elbo=isinstance(f, Example), coordinates=(coordinate,))
    return draws.z[:, coordinate].double(), (draws.f * draws.score[:, 0]).double()


def along_first_coordinate(f: Cost | Example, q: MeanFieldGaussian, z: Tensor) -> Tensor:
    """What is averaged, as a function of the first coordinate z (N,): f with the other coordinates averaged over q, (N,).

    q: the D coordinates alike.  For an Example, of one unknown, it is log p(x, z) − log q(z), the ELBO's integrand.

    >>> from vilib import quadratic_cost
    >>> along_first_coordinate(quadratic_cost(), alike(0.0, 0.0, 10), torch.tensor([0.0, 2.0]).double())          # z² + 9 E z²
    tensor([ 9., 13.], dtype=torch.float64)
    """
    first, z = MeanFieldGaussian(q.mu[..., :1], q.omega[..., :1]), z.unsqueeze(-1)
    return f(z) - first.log_prob(z) if isinstance(f, Example) else f(z) + (q.dim - 1) * f.expectation(first)
