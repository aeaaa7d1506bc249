"""The book's costs and models, each with its exact answer where one exists.

A :class:`Cost` is an f for ∇_λ E_q[f(z)], with closed forms.  An :class:`Example` is a log joint with what is known about it:
its evidence, and the best q.  Both are called on z (..., D) and return (...); both run in the dtype of z.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Beta, Distribution, constraints
from torch.nn.functional import softplus

from vilib.divergences import gaussian_kl
from vilib.families import LOG_2PI, Gaussian, MeanFieldGaussian
from vilib.models import Model
from vilib.quadrature import Moments, additive_moments, best_gaussian, log_evidence
from vilib.types import LogJoint, VilibError

# ---- costs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """f(z) = Σ_d f1(z_d) and its exact answers under a mean-field Gaussian q of any dimension and batch."""

    k: float

    def __call__(self, z: Tensor) -> Tensor:
        return self.term(z).sum(-1)

    def term(self, z: Tensor) -> Tensor:
        """f1, elementwise."""
        raise NotImplementedError

    def slope(self, z: Tensor) -> Tensor:
        """f1′, elementwise, which is ∇f, (S, *R, D)."""
        raise NotImplementedError

    def means(self, mu: Tensor, sigma: Tensor) -> Tensor:
        """E f1 in each coordinate, in closed form."""
        raise NotImplementedError

    def slopes(self, mu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """∂/∂μ and ∂/∂σ of E f1 in each coordinate, in closed form."""
        raise NotImplementedError

    def expectation(self, q: MeanFieldGaussian) -> Tensor:
        """E_q[f], (*R), exact."""
        return self.means(q.mean, q.stddev).sum(-1)

    def gradient(self, q: MeanFieldGaussian) -> Tensor:
        """∇_λ E_q[f], (*R, P), exact; ∂ω = σ ∂σ."""
        by_mu, by_sigma = self.slopes(q.mean, q.stddev)
        return torch.cat([by_mu, by_sigma * q.stddev], -1)

    def moments(self, q: MeanFieldGaussian) -> Moments:
        """What the variance of any estimator of ∂/∂(mu[0], omega[0]) is made of, exact, float64.

        All D coordinates of q must be alike.
        """
        return additive_moments(self, MeanFieldGaussian(q.mu[..., :1].double(), q.omega[..., :1].double()), q.dim)

    def variances(self, q: MeanFieldGaussian, num_samples: int = 1) -> dict[str, Tensor]:
        """The exact variance of each estimator of ∂/∂(mu[0], omega[0]) at S draws: name -> (*R, 2), float64.

        All D coordinates of q must be alike.  Names and meaning: :meth:`vilib.quadrature.Moments.variances`.
        """
        return self.moments(q).variances(num_samples)


class quadratic_cost(Cost):
    """f(z) = Σ (z_d − k)²: the mean is (μ−k)² + σ², the gradient 2(μ−k) and 2σ.

    >>> quadratic_cost().gradient(MeanFieldGaussian(torch.ones(1), torch.zeros(1)))
    tensor([2., 2.])
    """

    def __init__(self, k: float = 0.0):
        super().__init__(k)

    def term(self, z: Tensor) -> Tensor:
        return (z - self.k).square()

    def slope(self, z: Tensor) -> Tensor:
        return 2 * (z - self.k)

    def means(self, mu: Tensor, sigma: Tensor) -> Tensor:
        return (mu - self.k).square() + sigma.square()

    def slopes(self, mu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * (mu - self.k), 2 * sigma


class cosine_cost(Cost):
    """f(z) = Σ cos(k z_d): the mean is cos(kμ) e^{−k²σ²/2}.  Beyond some k the pathwise gradient is the noisier one.

    >>> round(cosine_cost(1.0).expectation(MeanFieldGaussian(torch.zeros(1), torch.zeros(1))).item(), 4)       # e^{-1/2}
    0.6065
    """

    def term(self, z: Tensor) -> Tensor:
        return (self.k * z).cos()

    def slope(self, z: Tensor) -> Tensor:
        return -self.k * (self.k * z).sin()

    def means(self, mu: Tensor, sigma: Tensor) -> Tensor:
        return (self.k * mu).cos() * (-0.5 * (self.k * sigma).square()).exp()

    def slopes(self, mu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        damping = (-0.5 * (self.k * sigma).square()).exp()
        return -self.k * (self.k * mu).sin() * damping, -(self.k**2) * sigma * (self.k * mu).cos() * damping


class exponential_cost(Cost):
    """f(z) = Σ exp(−k z_d²), k > −1/(2σ²): with a = 1 + 2kσ² the mean is a^{−1/2} e^{−kμ²/a}.

    >>> round(exponential_cost(1.0).expectation(MeanFieldGaussian(torch.zeros(1), torch.zeros(1))).item(), 4)  # 3^{-1/2}
    0.5774
    """

    def term(self, z: Tensor) -> Tensor:
        return (-self.k * z.square()).exp()

    def slope(self, z: Tensor) -> Tensor:
        return -2 * self.k * z * self.term(z)

    def means(self, mu: Tensor, sigma: Tensor) -> Tensor:
        a = 1 + 2 * self.k * sigma.square()
        return a.rsqrt() * (-self.k * mu.square() / a).exp()

    def slopes(self, mu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        a = 1 + 2 * self.k * sigma.square()
        mean = self.means(mu, sigma)
        return -2 * self.k * mu / a * mean, 2 * self.k * sigma * (2 * self.k * mu.square() / a**2 - 1 / a) * mean


# ---- models ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Example:
    """A log joint and what is known about it.  Calling it calls the log joint.

    dim: D.  window: (lower, upper) for each coordinate, a box to draw it in.
    log_evidence: log p(x) in nats, None where the prior is improper; (*R) for a batch.
    start: where the search for ``best`` begins.  reference: name -> {"mean", "sd", …} of a long MCMC run, or None.
    slope: z (..., D) -> ∇_z log p(x, z) (..., D) by hand, None where autograd does it; a test holds the two equal.
    model: the :class:`vilib.models.Model` behind it, where the parameters have names and supports.
    posterior: the exact posterior on the scale of the model's parameters, where there is one.
    symmetric: whether p(z) = p(−z), so that the mirror image of ``best`` is as good.
    """

    name: str
    dim: int
    log_joint: LogJoint
    window: tuple[tuple[float, float], ...]
    log_evidence: float | Tensor | None = None
    start: Gaussian | None = None
    slope: LogJoint | None = None
    known_best: tuple[Gaussian, float] | None = None
    reference: Mapping[str, Mapping[str, float]] | None = None
    model: Model | None = None
    data: Mapping[str, Tensor] = field(default_factory=dict)
    posterior: Distribution | None = None
    symmetric: bool = False

    def __call__(self, z: Tensor) -> Tensor:
        return self.log_joint(z)

    @cached_property
    def best(self) -> tuple[Gaussian, float] | None:
        """(q*, ELBO*): the best mean-field Gaussian and its ELBO in nats, float64; by quadrature where no closed form exists.

        With several optima, the one that ``start`` leads to.  None beyond two dimensions.
        """
        if self.known_best is not None:
            return self.known_best
        return best_gaussian(self.log_joint, self.start) if self.dim <= 2 and self.start is not None else None

    def kl_to_best(self, q: MeanFieldGaussian) -> Tensor:
        """KL(q ‖ best), (*R), in nats; to the nearer of ``best`` and its mirror image where p is symmetric.

        Raises VilibError where no best q is known.
        """
        if self.best is None:
            raise VilibError(f"example: the best q of {self.name} is not known, so neither is the way there.")
        best = cast(MeanFieldGaussian, self.best[0])
        kl = gaussian_kl(q, best)
        return torch.minimum(kl, gaussian_kl(q, MeanFieldGaussian(-best.mu, best.omega))) if self.symmetric else kl


def gaussian_target(mu0: float = 0.0, sigma0: float = 1.0) -> Example:
    """p(z) = N(mu0, sigma0²), normalised: log evidence 0, and a Gaussian q can be exact.

    >>> round(gaussian_target(2.0, 3.0).best[0].stddev.item(), 6)
    3.0
    """

    def log_joint(z: Tensor) -> Tensor:
        return -0.5 * ((z - mu0) / sigma0).square().sum(-1) - (math.log(sigma0) + 0.5 * LOG_2PI)

    def slope(z: Tensor) -> Tensor:
        return (mu0 - z) / sigma0**2

    window = ((mu0 - 4 * sigma0, mu0 + 4 * sigma0),)
    return Example("Gaussian target", 1, log_joint, window, 0.0, slope=slope, known_best=(_mean_field([mu0], [sigma0]), 0.0))


def correlated_gaussian(rho: float = 0.9, sds: tuple[float, float] = (1.0, 1.0)) -> Example:
    """p(z) = N(0, Σ) in 2-D, correlation rho, normalised.  The best mean-field q has σ_i² = 1/Λ_ii, Λ = Σ⁻¹.

    Its ELBO is ½ log(1 − ρ²) below the evidence 0: what independence costs.

    >>> round(correlated_gaussian(0.6).best[0].stddev[0].item(), 6)             # √(1 − ρ²)
    0.8
    """
    (a, b), r = sds, 1 - rho**2
    log_normaliser = math.log(a * b) + 0.5 * math.log(r) + LOG_2PI

    def log_joint(z: Tensor) -> Tensor:
        x, y = z[..., 0] / a, z[..., 1] / b
        return -0.5 / r * (x * x - 2 * rho * x * y + y * y) - log_normaliser

    def slope(z: Tensor) -> Tensor:
        x, y = z[..., 0] / a, z[..., 1] / b
        return torch.stack([(rho * y - x) / (r * a), (rho * x - y) / (r * b)], -1)

    best = _mean_field([0.0, 0.0], [a * math.sqrt(r), b * math.sqrt(r)])
    window = ((-3.5 * a, 3.5 * a), (-3.5 * b, 3.5 * b))
    return Example("correlated Gaussian", 2, log_joint, window, 0.0, slope=slope, known_best=(best, 0.5 * math.log(r)))


def coin_toss(heads: float | Tensor = 6, tails: float | Tensor = 4, prior: tuple[float, float] = (10.0, 10.0)) -> Example:
    """Tosses of a coin whose probability of heads θ has the prior Beta(a, b), z = logit θ.  (eq:coin-posterior)

    heads, tails: counts, numbers or tensors (*R) for a batch of experiments; then the log joint takes z (..., *R, 1).
    The posterior is Beta(a + heads, b + tails), the evidence of the tosses in their order B(a + heads, b + tails)/B(a, b).  On the
    logit scale the log joint is (a + heads) z − (a + b + heads + tails) softplus(z) − log B(a, b), the Jacobian θ(1 − θ) included.

    Raises VilibError for a negative count or a prior that is not above zero.

    >>> coin = coin_toss(6, 4)
    >>> coin.posterior.concentration1.item(), coin.posterior.concentration0.item(), round(coin.log_evidence, 6)
    (16.0, 14.0, -7.069375)
    """
    heads, tails, a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (heads, tails, *prior))
    if not (bool((heads >= 0).all() and (tails >= 0).all()) and a > 0 and b > 0):
        raise VilibError(f"heads, tails, prior: counts from 0 and a prior above 0, got {heads.tolist()}, {tails.tolist()}, {prior}.")
    a_n, b_n = torch.broadcast_tensors(a + heads, b + tails)
    log_prior_normaliser = _log_beta(a, b)
    evidence = _log_beta(a_n, b_n) - log_prior_normaliser

    def of_theta(theta: dict[str, Tensor]) -> Tensor:
        chance = theta["theta"]
        log_p = (a_n - 1).to(chance) * chance.log() + (b_n - 1).to(chance) * torch.log1p(-chance)
        return log_p - log_prior_normaliser.to(chance)

    def log_joint(z: Tensor) -> Tensor:
        z = z[..., 0]
        return a_n.to(z) * z - (a_n + b_n).to(z) * softplus(z) - log_prior_normaliser.to(z)

    def slope(z: Tensor) -> Tensor:
        return a_n.to(z).unsqueeze(-1) - (a_n + b_n).to(z).unsqueeze(-1) * torch.sigmoid(z)

    centre, width = (a_n / b_n).log(), (1 / a_n + 1 / b_n).sqrt()                       # mode and curvature in z
    single = not a_n.ndim
    window = (((centre - 4 * width).min().item(), (centre + 4 * width).max().item()),)
    return Example(
        "coin toss", 1, log_joint, window, evidence.item() if single else evidence, slope=slope,
        start=_mean_field([centre.item()], [width.item()]) if single else None, data={"heads": heads, "tails": tails},
        model=Model(of_theta, {"theta": constraints.unit_interval}, batched=True) if single else None, posterior=Beta(a_n, b_n),
    )


def logistic_one_coefficient(x: Tensor | None = None, y: Tensor | None = None) -> Example:
    """Logistic regression y ~ Bernoulli(sigmoid(z x)), z ~ N(0, 1), one coefficient.  (eq:logistic-elbo)

    x, y: (N,), y of zeros and ones; by default the single observation x = y = 1, whose evidence is ½ exactly.
    The log joint is z Σ x y − Σ softplus(z x) + log N(z | 0, 1).

    >>> q, elbo = logistic_one_coefficient().best
    >>> round(q.mean.item(), 6), round(q.stddev.item(), 6), round(elbo, 6)
    (0.413127, 0.910422, -0.693225)
    """
    x = torch.ones(1, dtype=torch.float64) if x is None else x.double()
    y = torch.ones(1, dtype=torch.float64) if y is None else y.double()
    x_dot_y, single = float(x @ y), float(x) if len(x) == 1 else None

    def log_joint(z: Tensor) -> Tensor:
        z = z[..., 0]
        logits = softplus(z * single) if single is not None else softplus(z.unsqueeze(-1) * x.to(z)).sum(-1)
        return z * x_dot_y - logits - 0.5 * z.square() - 0.5 * LOG_2PI

    def slope(z: Tensor) -> Tensor:
        expected = torch.sigmoid(z * single) * single if single is not None else torch.sigmoid(z * x.to(z)) @ x.to(z).unsqueeze(-1)
        return x_dot_y - expected - z

    return Example(
        "logistic regression", 1, log_joint, ((-3.5, 4.0),), log_evidence(log_joint, -12.0, 12.0), slope=slope,
        start=_mean_field([0.0], [1.0]), data={"x": x, "y": y},
    )


def two_component_mixture(
    means: tuple[float, float] = (-3.0, 3.0), sds: tuple[float, float] = (1.0, 1.0), weight: float = 0.5
) -> Example:
    """p(z) = weight N(means[0], sds[0]²) + (1 − weight) N(means[1], sds[1]²), normalised.

    A Gaussian q settles on one mode and pays just under −log of its weight.  ``best`` is the one on the right.

    >>> q, elbo = two_component_mixture().best
    >>> round(q.mean.item(), 5), round(q.stddev.item(), 5), round(-elbo, 6)
    (2.98431, 1.02337, 0.688769)
    """
    offsets = [math.log(w / s) - 0.5 * LOG_2PI for w, s in zip((weight, 1 - weight), sds)]

    def log_joint(z: Tensor) -> Tensor:
        z = z[..., 0]
        left, right = (o - 0.5 * ((z - m) / s).square() for o, m, s in zip(offsets, means, sds))
        return torch.logaddexp(left, right)

    def slope(z: Tensor) -> Tensor:
        left, right = (o - 0.5 * ((z - m) / s).square() for o, m, s in zip(offsets, means, sds))
        on_left = torch.sigmoid(left - right)                                             # p(left | z)
        return on_left * (means[0] - z) / sds[0] ** 2 + (1 - on_left) * (means[1] - z) / sds[1] ** 2

    lower, upper = min(m - 4 * s for m, s in zip(means, sds)), max(m + 4 * s for m, s in zip(means, sds))
    side = int(means[1] > means[0])
    symmetric = means[0] == -means[1] and sds[0] == sds[1] and weight == 0.5
    return Example("two-component mixture", 1, log_joint, ((lower, upper),), 0.0, slope=slope,
                   start=_mean_field([means[side]], [sds[side]]), symmetric=symmetric)


def gumbel_target(location: float = 0.0, scale: float = 1.0) -> Example:
    """p(z) = e^{−u − e^{−u}}/scale, u = (z − location)/scale, normalised: one mode, a long tail to the right.

    Its mean is location + γ scale, its variance π² scale²/6.  The best Gaussian, N(location + scale/2, scale²), pays
    3/2 − ½ log 2πe at any scale; the one with p's moments (:func:`vilib.divergences.moment_matched_gaussian`) is wider.

    >>> q, elbo = gumbel_target(-1.5, 2.0).best
    >>> q.mean.item(), round(q.stddev.item(), 6), round(-elbo, 6)
    (-0.5, 2.0, 0.081061)
    """

    def log_joint(z: Tensor) -> Tensor:
        u = (z[..., 0] - location) / scale
        return -u - (-u).exp() - math.log(scale)

    def slope(z: Tensor) -> Tensor:
        return torch.expm1((location - z) / scale) / scale

    best = _mean_field([location + 0.5 * scale], [scale])
    return Example("Gumbel target", 1, log_joint, ((location - 3 * scale, location + 8 * scale),), 0.0, slope=slope,
                   known_best=(best, 0.5 * (1 + LOG_2PI) - 1.5))


def kidiq(centred: bool = False) -> Example:
    """Test scores of 434 children against their mothers' IQ: kid_score ~ N(β₀ + β₁ mom_iq, σ²).  (Gelman & Hill 2007)

    Flat prior on β, σ ~ half-Cauchy(2.5); z = (β₀, β₁, log σ).  Raw, β₀ and β₁ have posterior correlation −0.989, and a
    mean-field q reports their *conditional* sds, 0.876 and 0.00866 for the true 5.92 and 0.0586.  ``centred=True`` subtracts the
    mean of mom_iq, and then they are all but independent.  ``reference`` is for the raw form (posteriordb).

    >>> kidiq().model.constrain(torch.zeros(3))["sigma"]
    tensor(1.)
    """
    stored = _stored("kidiq")
    score = torch.tensor(stored["data"]["kid_score"], dtype=torch.float64)
    iq = torch.tensor(stored["data"]["mom_iq"], dtype=torch.float64)
    x = iq - iq.mean() if centred else iq
    design = torch.stack([torch.ones_like(x), x], -1)
    gram, moment, norm = design.mT @ design, design.mT @ score, float(score @ score)
    scale = 2.5

    def log_joint(theta: dict[str, Tensor]) -> Tensor:
        beta, sigma = theta["beta"], theta["sigma"]
        residual = norm - 2 * (beta @ moment.to(beta)) + ((beta @ gram.to(beta)) * beta).sum(-1)             # Σ (y − Xβ)²
        likelihood = -0.5 * residual / sigma.square() - len(score) * (sigma.log() + 0.5 * LOG_2PI)
        return likelihood + math.log(2 / (math.pi * scale)) - (sigma / scale).square().log1p()

    model = Model(log_joint, {"beta": constraints.real_vector, "sigma": constraints.positive}, {"beta": (2,)}, batched=True)
    windows = {False: ((5.0, 47.0), (0.4, 0.82)), True: ((83.0, 90.6), (0.4, 0.82))}[centred]
    return Example(
        "kidiq, centred" if centred else "kidiq", 3, model, (*windows, (2.78, 3.03)), model=model,
        reference=None if centred else stored["reference"], data={"x": x, "y": score},
    )


def eight_schools() -> Example:
    """Coaching in eight schools, non-centred: y_j ~ N(mu + tau theta_trans_j, sigma_j²), theta_trans_j ~ N(0, 1).  (Rubin 1981)

    mu ~ N(0, 5²), tau ~ half-Cauchy(5); z = (mu, log tau, theta_trans_1, …, theta_trans_8), D = 10.  The effect of school j is
    mu + tau theta_trans_j.  ``reference`` holds mu, tau and the effects theta[1], …, theta[8] (posteriordb).

    >>> eight_schools().model.coordinate_names()[:3]
    ('mu', 'tau', 'theta_trans[0]')
    """
    stored = _stored("eight_schools")
    y, sigma = (torch.tensor(stored["data"][name], dtype=torch.float64) for name in ("y", "sigma"))
    constant = math.log(2 / (math.pi * 5.0)) - math.log(5.0) - float(sigma.log().sum()) - 0.5 * (1 + 2 * len(y)) * LOG_2PI

    def log_joint(theta: dict[str, Tensor]) -> Tensor:
        mu, tau, trans = theta["mu"], theta["tau"], theta["theta_trans"]
        residual = (y.to(trans) - mu.unsqueeze(-1) - tau.unsqueeze(-1) * trans) / sigma.to(trans)
        prior = -0.5 * (mu / 5.0).square() - (tau / 5.0).square().log1p()
        return prior - 0.5 * (trans.square() + residual.square()).sum(-1) + constant

    supports = {"mu": constraints.real, "tau": constraints.positive, "theta_trans": constraints.real_vector}
    model = Model(log_joint, supports, {"theta_trans": (8,)}, batched=True)
    window = ((-6.0, 15.0), (-3.0, 3.5), *((-3.0, 3.0),) * 8)
    return Example("eight schools", 10, model, window, model=model, reference=stored["reference"], data={"y": y, "sigma": sigma})


def _stored(name: str) -> Any:
    return json.loads(resources.files("vilib").joinpath(f"data/{name}.json").read_text(encoding="utf-8"))


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def _mean_field(mean: list[float], sd: list[float]) -> MeanFieldGaussian:
    mu, sigma = torch.tensor(mean, dtype=torch.float64), torch.tensor(sd, dtype=torch.float64)
    return MeanFieldGaussian(mu, sigma.log())
