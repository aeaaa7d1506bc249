"""What an approximation is held against: exact marginals of the book's two hierarchical examples, and a third data set.

``kidiq`` and ``eight_schools`` have no posterior in closed form, but all of their parameters but one or two can be integrated out by
hand. What is left is a density on a grid, without any draws and their noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from vilib.examples import Example, _stored, eight_schools, kidiq
from vilib.families import LOG_2PI
from vilib.models import Model
from vilib.quadrature import trapezoid
from vilib.supports import ordered
from vilib.types import VilibError


def mixture_of_two() -> Example:
    """1,000 numbers from two normals: y_i ~ θ N(μ₁, σ₁²) + (1 − θ) N(μ₂, σ₂²), with μ₁ < μ₂, so that the two have names.

    μ_k ~ N(0, 2²), σ_k ~ half-normal(2), θ ~ Beta(5, 5); z = (μ₁, log(μ₂ − μ₁), log σ₁, log σ₂, logit θ), D = 5.  The label of each
    number is summed out.  ``reference`` is that of posteriordb (low_dim_gauss_mix).

    >>> mixture_of_two().model.coordinate_names()
    ('mu[0]', 'mu[1]', 'sigma[0]', 'sigma[1]', 'theta')
    """
    stored = _stored("low_dim_gauss_mix")
    y = torch.tensor(stored["data"]["y"], dtype=torch.float64)
    powers = torch.stack([torch.ones_like(y), y, y.square()])                            # (3, N): each log N(y | μ, σ²) is linear in them
    constant = 2 * math.log(2) - 4 * math.log(2.0) - 2 * LOG_2PI + math.lgamma(10) - 2 * math.lgamma(5) - 0.5 * len(y) * LOG_2PI

    def log_joint(theta: dict[str, Tensor]) -> Tensor:
        mu, sigma, share = theta["mu"], theta["sigma"], theta["theta"]
        log_shares = torch.stack([share.log(), torch.log1p(-share)], -1)
        prior = -0.125 * (mu.square() + sigma.square()).sum(-1) + 4 * log_shares.sum(-1)
        precision = sigma.square().reciprocal()
        each = torch.stack([log_shares - sigma.log() - 0.5 * mu.square() * precision, mu * precision, -0.5 * precision], -1)     # (S, 2, 3)
        second_over_first = softplus((each[:, 1] - each[:, 0]) @ powers.to(mu)).sum(-1)
        return prior + each[:, 0] @ powers.sum(-1).to(mu) + second_over_first + constant

    supports = {"mu": ordered, "sigma": constraints.positive, "theta": constraints.unit_interval}
    model = Model(log_joint, supports, {"mu": (2,), "sigma": (2,)}, batched=True)
    window = ((-2.95, -2.52), (1.66, 1.79), (-0.15, 0.2), (-0.2, 0.25), (0.25, 0.75))
    return Example("mixture of two", 5, model, window, model=model, reference=stored["reference"], data={"y": y})


def kidiq_marginal(beta: Tensor, centred: bool = False) -> Tensor:
    """log p(β₀, β₁ | data) of :func:`vilib.examples.kidiq` up to a constant, σ summed out on a grid: β (..., 2) -> (...).

    centred: β₀ is the score at the mean of mom_iq.

    >>> at = torch.tensor([[25.9, 0.609], [25.9, 0.709]], dtype=torch.float64)
    >>> (kidiq_marginal(at)[0] > kidiq_marginal(at)[1] + 10).item()
    True
    """
    log_sigma = torch.linspace(2.6, 3.25, 53, dtype=torch.float64)                    # ten standard deviations to either side
    beta = beta.double()
    z = torch.cat([beta.unsqueeze(-2).expand(*beta.shape[:-1], len(log_sigma), 2),
                   log_sigma.expand(*beta.shape[:-1], -1).unsqueeze(-1)], -1)
    return torch.logsumexp(kidiq(centred)(z), -1) + math.log(log_sigma[1] - log_sigma[0])


def eight_schools_marginal(mu: Tensor, tau: Tensor) -> Tensor:
    """log p(mu, tau | y) of :func:`vilib.examples.eight_schools` up to a constant, all eight effects integrated out.

    mu, tau > 0: of shapes that broadcast, on the reader's scale.  Given both, y_j ~ N(mu, tau² + sigma_j²), each on its own.

    >>> one, two = eight_schools_marginal(torch.tensor(4.4), torch.tensor([2.0, 50.0]))
    >>> bool(one > two)
    True
    """
    data = eight_schools().data
    mu, tau = torch.broadcast_tensors(mu.double(), tau.double())
    variance = tau.square().unsqueeze(-1) + data["sigma"].square()
    likelihood = -0.5 * (variance.log() + (data["y"] - mu.unsqueeze(-1)).square() / variance).sum(-1)
    return likelihood - 0.5 * (mu / 5.0).square() - (tau / 5.0).square().log1p()


@dataclass(frozen=True, eq=False)
class Marginal:
    """A density of two parameters on a grid: x (G,), y (H,), probability (H, G), which sums to one."""

    x: Tensor
    y: Tensor
    probability: Tensor

    @property
    def mean(self) -> Tensor:
        """(2,), in the units of x and y."""
        return torch.stack([self.probability.sum(0) @ self.x, self.probability.sum(1) @ self.y])

    @property
    def sd(self) -> Tensor:
        """(2,), in the units of x and y."""
        second = torch.stack([self.probability.sum(0) @ self.x.square(), self.probability.sum(1) @ self.y.square()])
        return (second - self.mean.square()).sqrt()

    def depth(self, mass: float) -> float:
        """−log probability of the edge of the smallest region that holds ``mass``."""
        falling = self.probability.flatten().sort(descending=True).values
        return -math.log(falling[int((falling.cumsum(0) < mass).sum())])


def reference_marginal(name: str) -> Marginal:
    """The reference posterior of the two parameters that the book shows, on the scale of the model.

    name: "kidiq" and "kidiq, centred" (β₀, β₁), exact; "eight schools" (mu, tau), exact; "mixture of two" (μ₁, μ₂), the Gaussian
        with posteriordb's means and sds, and a correlation of 0.05.
    Raises VilibError for another name.

    >>> [round(v, 2) for v in reference_marginal("eight schools").sd.tolist()]
    [3.32, 3.22]
    """
    grid = lambda low, high, count: torch.linspace(low, high, count, dtype=torch.float64)  # noqa: E731
    if name in ("kidiq", "kidiq, centred"):
        centred = name != "kidiq"
        low, high = (82, 91.6) if centred else (-8, 60)
        x, y = grid(low, high, 281), grid(0.28, 0.94, 281)
        log_density = kidiq_marginal(torch.cartesian_prod(x, y), centred).reshape(len(x), len(y)).T
    elif name == "eight schools":
        x, y = grid(-18, 27, 181), grid(0.02, 80, 2000)
        log_density = eight_schools_marginal(x, y.unsqueeze(-1))
    elif name == "mixture of two":
        moments = mixture_of_two().reference or {}
        known = [moments[f"mu[{k}]"] for k in (1, 2)]
        x, y = (grid(k["mean"] - 6 * k["sd"], k["mean"] + 6 * k["sd"], 141) for k in known)
        u, v = ((at - k["mean"]) / k["sd"] for at, k in zip((x, y), known))
        log_density = -0.5 / (1 - 0.05**2) * (u.square() - 2 * 0.05 * u * v.unsqueeze(-1) + v.square().unsqueeze(-1))
    else:
        raise VilibError(f"name: 'kidiq', 'kidiq, centred', 'eight schools' or 'mixture of two', got {name!r}.")
    return Marginal(x, y, torch.softmax(log_density.flatten(), 0).reshape(log_density.shape))


def transformed_moments(through: str, m: Tensor, tril: Tensor) -> tuple[Tensor, Tensor]:
    """Means and sds (T, 2), on the scale of a model, of two coordinates of a Gaussian q in z.

    m (T, 2), tril (T, 2, 2): its means, and L with L Lᵀ its covariance.  through: "" (z₁, z₂); "exp" (z₁, exp z₂); "ordered"
    (z₁, z₁ + exp z₂); "sigmoid" (sigmoid z₁, nothing).  All but the last in closed form, the last by quadrature; nan for nothing.

    >>> mean, sd = transformed_moments("exp", torch.zeros(1, 2), torch.eye(2).unsqueeze(0))
    >>> round(mean[0, 1].item(), 4), round(sd[0, 1].item(), 4)                             # √e and √(e (e − 1))
    (1.6487, 2.1612)
    """
    covariance = tril @ tril.mT
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    if through == "":
        return m, variance.sqrt()
    if through == "sigmoid":
        nodes, weights = trapezoid(1, 257)
        theta = torch.sigmoid(m[:, :1] + variance[:, :1].sqrt() * nodes[:, 0])
        mean = (theta @ weights).unsqueeze(-1)
        sd = ((theta - mean).square() @ weights).sqrt().unsqueeze(-1)
        return torch.cat([mean, mean * math.nan], -1), torch.cat([sd, sd * math.nan], -1)
    step = (m[:, 1] + 0.5 * variance[:, 1]).clamp_max(300.0).exp()                         # the mean of exp z₂
    spread, add = step.square() * variance[:, 1].clamp_max(90.0).expm1(), float(through == "ordered")
    mean = torch.stack([m[:, 0], step + add * m[:, 0]], -1)
    return mean, torch.stack([variance[:, 0], spread + add * (variance[:, 0] + 2 * covariance[:, 0, 1] * step)], -1).sqrt()
