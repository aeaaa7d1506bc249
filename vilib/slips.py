"""The problems that :mod:`vilib.checking` sets, and the slips that it knows.

A slip is a function from a problem to the mean gradient that an estimator with this slip has on it, and what to say to its author.
Where the slip can be made in an estimator of several forms, there is one such function for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from vilib.families import MeanFieldGaussian
from vilib.quadrature import exact_elbo, exact_gradient, expectation
from vilib.types import LogJoint


@dataclass(frozen=True)
class Problem:
    """A target, a q and an S, with the exact value and gradient; ``expectation``: of E_q[f] instead of the ELBO."""

    name: str
    target: LogJoint
    q: MeanFieldGaussian
    num_samples: int
    expectation: bool

    @property
    def value(self) -> Tensor:
        return expectation(self.target, self.q) if self.expectation else exact_elbo(self.target, self.q)

    @property
    def gradient(self) -> Tensor:
        return exact_gradient(self.target, self.q, elbo=not self.expectation)

    @property
    def where(self) -> str:
        return f"{self.name}, S = {self.num_samples}"


def cases() -> Iterator[tuple[str, LogJoint, MeanFieldGaussian]]:
    """Three small targets, each with a q that is not its best: (name, log joint, q)."""
    tensor = lambda *x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    yield "a Gaussian target", lambda z: -2 * (z[..., 0] - 1).square() - 0.3, MeanFieldGaussian(tensor(0.4), tensor(-0.3))
    yield ("a skewed target", lambda z: 2 * z[..., 0] - 3 * softplus(z[..., 0]) - 0.5 * z[..., 0].square(),
           MeanFieldGaussian(tensor(-0.5), tensor(0.4)))
    yield ("a correlated target in 2-D", lambda z: -z.square().sum(-1) + 1.2 * z[..., 0] * z[..., 1] - 1.0,
           MeanFieldGaussian(tensor(0.8, -0.5), tensor(-0.2, 0.3)))


def _entropy_gradient(p: Problem) -> Tensor:
    return torch.zeros_like(p.gradient) if p.expectation else p.q.entropy_gradient()


def _total_of_log_q(p: Problem) -> Tensor:
    """E[f · d/dλ log q_λ(T_λ(ε))]: the score function with draws that move.  It is −E f for every omega."""
    return -p.value * p.q.entropy_gradient()


def _all_attached(p: Problem) -> Tensor:
    """∇_λ E[f log q] when nothing is held still: neither the draws nor f."""
    with torch.enable_grad():
        vector = p.q.vector().requires_grad_()
        q = p.q.with_vector(vector)
        f = p.target if p.expectation else lambda z: p.target(z) - q.log_prob(z)
        return torch.autograd.grad(expectation(lambda z: f(z) * q.log_prob(z), q), vector)[0]


def _per_sigma(p: Problem, gradient: Tensor) -> Tensor:
    return gradient / torch.cat([torch.ones_like(p.q.mu), p.q.stddev], -1)


def _without_sigma(p: Problem) -> Tensor:
    """The path of omega by hand, but ∂z/∂ω = ε instead of σ ε; the entropy's +1 is right."""
    return _per_sigma(p, p.gradient - _entropy_gradient(p)) + _entropy_gradient(p)


def _average(p: Problem, of: Callable[[MeanFieldGaussian, Tensor], Tensor]) -> Tensor:
    """∇_λ E_ε[of(q_λ, ε)], ε ~ N(0, I)."""
    with torch.enable_grad():
        vector = p.q.vector().requires_grad_()
        noise = MeanFieldGaussian(torch.zeros_like(p.q.mu), torch.zeros_like(p.q.mu))
        return torch.autograd.grad(expectation(lambda eps: of(p.q.with_vector(vector), eps), noise), vector)[0]


def _density_for_its_log(p: Problem) -> Tensor:
    """∇_λ q_λ(z) f(z) at draws that stay: E_q[f q s]."""
    def weighed(q: MeanFieldGaussian, eps: Tensor) -> Tensor:
        z = p.q.sample(eps)
        return (p.target(z) - (0.0 if p.expectation else p.q.log_prob(z))) * q.log_prob(z).exp()
    return _average(p, weighed)


def _drawn(z_of: Callable[[MeanFieldGaussian, Tensor], Tensor]) -> tuple[Callable[[Problem], Tensor], ...]:
    """The draws are z_of(q, ε) and not q's own, and all else is right: the score function, and three forms of the path."""
    def scored(p: Problem) -> Tensor:
        def of(q: MeanFieldGaussian, eps: Tensor) -> Tensor:
            z = z_of(p.q, eps)
            return (p.target(z) - (0.0 if p.expectation else p.q.log_prob(z))) * q.log_prob(z)
        return _average(p, of)

    def moving(log_q: Callable[[MeanFieldGaussian, Tensor], Tensor]) -> Callable[[Problem], Tensor]:
        def of_problem(p: Problem) -> Tensor:
            def of(q: MeanFieldGaussian, eps: Tensor) -> Tensor:
                z = z_of(q, eps)
                return p.target(z) - (0.0 if p.expectation else log_q(q, z))
            return _average(p, of)
        return of_problem

    return (scored, moving(lambda q, z: q.log_prob(z)), moving(lambda q, z: q.detach().log_prob(z)),
            moving(lambda q, z: -q.entropy()))


def _at_half_omega(p: Problem) -> Tensor:
    """The gradient of a q whose σ is e^{ω/2}, in draws and density alike."""
    half = MeanFieldGaussian(p.q.mu, 0.5 * p.q.omega)
    gradient = exact_gradient(p.target, half, elbo=not p.expectation)
    return gradient * torch.cat([torch.ones_like(p.q.mu), torch.full_like(p.q.mu, 0.5)], -1)


#: name -> (the mean gradient that the slip leads to, or one for each form that it can have; what to say about it)
SLIPS: dict[str, tuple[Callable[[Problem], Tensor] | tuple[Callable[[Problem], Tensor], ...], str]] = {
    "zero mean": (lambda p: 0 * p.gradient,
        "Its mean is zero: only ∇log q is left, whose mean is zero (eq:score-zero-mean). z is plain numbers here, so the "
        "gradient of log p never sees λ: either let z = q.transform(eps) move, or multiply log q(z) by f."),
    "wrong sign": (lambda p: -p.gradient,
        "It is minus the true gradient: this is a loss. In vilib every estimator climbs: return the ELBO, not −ELBO."),
    "sum for mean": (lambda p: p.num_samples * p.gradient, "It is S times the true gradient: you sum over the draws; take the mean."),
    "own sample": (lambda p: p.gradient * (p.num_samples - 1) / p.num_samples,
        "It is (S−1)/S times the true gradient: your baseline includes its own sample. Leave that one out "
        "(eq:leave-one-out), or multiply by S/(S−1)."),
    "divided by S twice": (lambda p: p.gradient / p.num_samples,
        "It is 1/S of the true gradient: you divide by S twice, or multiply the mean of f by the mean of the score. f and the score "
        "must meet draw by draw, (f * log_q).mean(0) (eq:score-function-estimate)."),
    "divided by S-1": (lambda p: p.gradient * p.num_samples / (p.num_samples - 1),
        "It is S/(S−1) times the true gradient: you divide by S − 1 where the mean over S draws is needed."),
    "no entropy": (lambda p: p.gradient - _entropy_gradient(p),
        "It is short of the entropy's gradient, the +1 of each omega (eq:analytic-entropy): add q.entropy(), or subtract log q(z)."),
    "entropy twice": (lambda p: p.gradient + _entropy_gradient(p),
        "It has the entropy's gradient twice, +2 for each omega: either q.entropy() is added although −log q(z) is there, or "
        "f = log p − log q was not detached before it multiplied log q."),
    "entropy subtracted": (lambda p: p.gradient - 2 * _entropy_gradient(p),
        "The entropy has the wrong sign: the ELBO is E[log p] + H[q] (eq:elbo)."),
    "draws that move": (_total_of_log_q,
        "If you multiply log q(z) by f: the draws move with λ inside log q(z), and there the two effects cancel (eq:total-derivative). "
        "The score needs draws that are plain numbers: z = q.sample(eps), or q.transform(eps).detach()."),
    "nothing detached": (_all_attached,
        "You differentiate the product f log q with nothing held still. In the score function only log q carries a gradient: z = q.sample(eps), "
        "and detach f."),
    "sigma for omega": (lambda p: _per_sigma(p, p.gradient), "mu is right and omega is off by 1/σ: this is the gradient by σ. λ holds omega = log σ, so ∂ω = σ ∂σ."),
    "path without its sigma": (_without_sigma,
        "mu is right, and so is the +1 of omega; the rest of omega lacks a factor σ: z moves with omega by σ ε, not by ε (eq:gaussian-by-hand)."),
    "entropy averaged": (lambda p: p.gradient - (1 - 1 / p.q.dim) * _entropy_gradient(p),
        "It is right in one dimension and short of the entropy in two: the entropy is a sum over coordinates, and you take their mean "
        "(eq:mean-field-entropy)."),
    "density for its logarithm": (_density_for_its_log,
        "f multiplies q(z) where it should multiply log q(z): the score is the gradient of the *logarithm* (eq:log-derivative)."),
    "variance for standard deviation": (_drawn(lambda q, eps: q.mu + (2 * q.omega).exp() * eps),
        "z is μ + σ² ε, which is no draw of q: multiply the noise by the standard deviation, μ + σ ε (eq:reparameterisation)."),
    "draws with omega": (_drawn(lambda q, eps: q.mu + q.omega * eps),
        "z is μ + ω ε, which is no draw of q: omega is log σ, so multiply the noise by omega.exp() (eq:reparameterisation)."),
    "omega as log variance": ((_at_half_omega, *_drawn(lambda q, eps: q.mu + (0.5 * q.omega).exp() * eps)),
        "You take omega for log σ². λ holds omega = log σ: σ is omega.exp(), and the entropy gains 1 with omega, not ½."),
    "draws of the noise": (_drawn(lambda q, eps: eps)[0],
        "z is ε itself, a draw of N(0, I) and not of q: use z = q.sample(eps), which is μ + σ ε."),
}

#: The same for the mean of the value.
VALUE_SLIPS: dict[str, tuple[Callable[[Problem], Tensor], str]] = {
    "value is a loss": (lambda p: -p.value, "it is −ELBO. Return the ELBO itself."),
    "value sums": (lambda p: p.num_samples * p.value, "it is S times the ELBO. Take the mean over the draws."),
    "value without entropy": (lambda p: p.value - p.q.entropy(), "it is E[log p] alone. Add the entropy, or subtract log q(z) (eq:elbo)."),
    "value is zero": (lambda p: 0 * p.value, "it is zero. value_of(v, gradient_of=s) puts the number v on the surrogate s."),
}

#: Draws of another q of the family, where all else is right: name -> (its λ, given q; what to say about it).
WRONG_DRAWS: dict[str, tuple[Callable[[MeanFieldGaussian], Tensor], str]] = {
    "draws of the noise": (lambda q: torch.zeros_like(q.vector()),
        "z is ε itself, a draw from N(0, I) and not from q: use z = q.sample(eps), which is μ + σ ε."),
    "variance for standard deviation": (lambda q: torch.cat([q.mu, 2 * q.omega], -1),
        "z is μ + σ² ε, whose variance is σ⁴: the noise is multiplied by the standard deviation, z = μ + σ ε."),
    "draws with omega": (lambda q: torch.cat([q.mu, q.omega.abs().log()], -1),
        "z is μ + ω ε: omega is log σ, so the noise is multiplied by omega.exp()."),
}
