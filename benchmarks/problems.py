"""The models, data and settings that every library is given, and the judge of what it returns.  numpy alone.

A problem's z (D,) is unconstrained, and ``log_joint(z)`` is the definition in plain numpy that all the others are held against.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

LOG_2PI = math.log(2 * math.pi)

#: Coaching effects and their standard errors in eight schools (Rubin 1981).
SCHOOLS_Y = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
SCHOOLS_SIGMA = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


@dataclass(frozen=True)
class Problem:
    """log_joint: z (..., D) -> (...), float64.  data: what the model conditions on."""

    name: str
    dim: int
    log_joint: Callable[[np.ndarray], np.ndarray]
    data: dict[str, np.ndarray] = field(default_factory=dict)


def linear(num_data: int = 500, dim: int = 10) -> Problem:
    """y ~ N(X β, 1), β ~ N(0, I)."""
    random = np.random.default_rng(1)
    x = random.standard_normal((num_data, dim)) / math.sqrt(max(1, dim / 10))
    y = x @ random.standard_normal(dim) + random.standard_normal(num_data)
    gram, moment, norm = x.T @ x, x.T @ y, y @ y

    def log_joint(z):
        residual = norm - 2 * z @ moment + ((z @ gram) * z).sum(-1)
        return -0.5 * (residual + (z**2).sum(-1) + (num_data + dim) * LOG_2PI)

    return Problem("linear", dim, log_joint, {"x": x, "y": y})


#: How a log joint may be written but for the plain way, a term for each observation and autograd.
STATISTICS, TABULATED, SLOPE = "by sufficient statistics", "tabulated", "slope by hand"


def statistics_of(linear: Problem) -> tuple[np.ndarray, np.ndarray, float]:
    """(R, s, rest), R (D, D): ‖y − X β‖² + ‖β‖² = ‖s − R β‖² + rest, so that D numbers stand for N observations and the prior.

    The prior β ~ N(0, I) is D more observations, of value 0 and design I; then QR.  Exact, and as good as X itself in float32,
    for R is as well conditioned as the design (XᵀX is not).
    """
    x, y = linear.data["x"], linear.data["y"]
    design, observed = np.vstack([x, np.eye(linear.dim)]), np.concatenate([y, np.zeros(linear.dim)])
    q, r = np.linalg.qr(design)
    seen = q.T @ observed
    return r, seen, float(((observed - q @ seen) ** 2).sum())


def logistic(num_data: int = 100, dim: int = 1) -> Problem:
    """y ~ Bernoulli(sigmoid(X β)), β ~ N(0, I)."""
    random = np.random.default_rng(2)
    x = random.standard_normal((num_data, dim))
    y = (random.random(num_data) < 1 / (1 + np.exp(-x @ random.standard_normal(dim) * 1.5))).astype(float)

    def log_joint(z):
        logits = z @ x.T
        return z @ (x.T @ y) - np.logaddexp(0, logits).sum(-1) - 0.5 * ((z**2).sum(-1) + dim * LOG_2PI)

    return Problem("logistic", dim, log_joint, {"x": x, "y": y})


def eight_schools() -> Problem:
    """y ~ N(mu + tau θ̃, sigma), mu ~ N(0, 5), tau ~ half-Cauchy(5), θ̃ ~ N(0, 1).  z = (mu, log tau, θ̃)."""
    y, sigma = np.array(SCHOOLS_Y), np.array(SCHOOLS_SIGMA)

    def normal(x, scale):
        return -0.5 * (x / scale) ** 2 - np.log(scale) - 0.5 * LOG_2PI

    def log_joint(z):
        mu, log_tau, offsets = z[..., 0], z[..., 1], z[..., 2:]
        tau = np.exp(log_tau)
        prior = normal(mu, 5.0) + math.log(2 / (5 * math.pi)) - np.log1p((tau / 5) ** 2) + log_tau
        school = mu[..., None] + tau[..., None] * offsets
        return prior + normal(offsets, 1.0).sum(-1) + normal(y - school, sigma).sum(-1)

    return Problem("eight schools", 10, log_joint, {"y": y, "sigma": sigma})


PROBLEMS = {"linear": linear, "logistic": logistic, "eight schools": eight_schools}


def make(name: str, **sizes: int) -> Problem:
    """The problem ``name``, of the sizes given."""
    return PROBLEMS[name](**sizes)


def elbo(problem: Problem, mean: np.ndarray, sd: np.ndarray, num_samples: int = 20_000) -> float:
    """The ELBO of a mean-field Gaussian, in nats; on the same draws for everyone."""
    mean, sd = np.asarray(mean, float), np.asarray(sd, float)
    eps = np.random.default_rng(3).standard_normal((num_samples // 2, problem.dim))
    z = mean + sd * np.concatenate([eps, -eps])
    entropy = np.log(sd).sum() + 0.5 * problem.dim * (1 + LOG_2PI)
    return float(problem.log_joint(z).mean() + entropy)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The first 1,792 = 14 × 128 of scikit-learn's 8 × 8 digits, a pixel black or white: (1792, 64) of zeros and ones, and labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images[:1792] >= 8).astype(np.float32), labels[:1792]
