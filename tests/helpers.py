"""Short names for what the tests of the maths core say often."""

import inspect
import math

import pytest
import torch
from torch.distributions import constraints

from vilib import (
    FactorizedBernoulli, FactorizedCategorical, FullRankGaussian, MeanFieldGaussian, Model, NotFactorized,
    NotReparameterizable, constant_baseline, estimators, expectation, normal, score_function_with,
)


def tensor(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(mu=0.0, omega=0.0, dim: int = 1) -> MeanFieldGaussian:
    """The mean-field q whose D coordinates are all alike, float64."""
    full = lambda x: torch.full((dim,), float(x), dtype=torch.float64)  # noqa: E731
    return MeanFieldGaussian(full(mu), full(omega))


def q_of(mu: float, sigma: float) -> MeanFieldGaussian:
    """N(μ, σ²), float64."""
    return gaussian(mu, math.log(sigma))


def of_epsilon(g) -> float:
    """E[g(ε)], ε standard normal."""
    return expectation(lambda z: g(z[..., 0]), gaussian()).item()


def by_mu(variances: dict[str, torch.Tensor]) -> dict[str, float]:
    """Of each estimator, the variance of its first parameter."""
    return {name: value[0].item() for name, value in variances.items()}


def mean_field(*batch: int, dim: int = 2, dtype=torch.float64, seed: int = 1) -> MeanFieldGaussian:
    """Some mean-field q, near the standard normal."""
    draw = lambda: 0.4 * torch.randn((*batch, dim), generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    generator = seeded(seed)
    return MeanFieldGaussian(draw(), draw())


def full_rank(*batch: int, dim: int = 2, dtype=torch.float64, seed: int = 2) -> FullRankGaussian:
    """Some full-rank q; what stands above its diagonal is there to be ignored."""
    generator = seeded(seed)
    draw = lambda *shape: 0.4 * torch.randn((*batch, *shape), generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    return FullRankGaussian(draw(dim), draw(dim, dim))


def bernoulli(*batch: int, dim: int = 2, dtype=torch.float64, seed: int = 3) -> FactorizedBernoulli:
    """Some factorised Bernoulli, away from one half."""
    return FactorizedBernoulli(torch.randn((*batch, dim), generator=seeded(seed), dtype=torch.float64).to(dtype))


def categorical(
    *batch: int, dim: int = 2, dtype=torch.float64, seed: int = 4, num_classes: int = 3
) -> FactorizedCategorical:
    """Some factorised categorical."""
    logits = 0.7 * torch.randn((*batch, dim, num_classes), generator=seeded(seed), dtype=torch.float64)
    return FactorizedCategorical(logits.to(dtype))


#: Gaussians, with a path; discrete ones, without.
FAMILIES = {"mean-field": mean_field, "full-rank": full_rank}
DISCRETE = {"Bernoulli": bernoulli, "categorical": categorical}
EVERY_FAMILY = FAMILIES | DISCRETE

every_family = pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
every_batch = pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]

#: Every public ELBO estimator, found by its signature, so that a new one is tested the day it is added.
ESTIMATORS = {
    name: member for name, member in vars(estimators).items()
    if inspect.isfunction(member) and not name.startswith("_") and member.__module__ == estimators.__name__
    and list(inspect.signature(member).parameters) == ["log_joint", "q", "eps"]
}
ESTIMATORS["constant_baseline"] = score_function_with(constant_baseline(-0.7))
PATHWISE = {"pathwise", "total_derivative", "sticking_the_landing"}
LEARNT = {"score_function_mean_baseline", "leave_one_out", "optimal_coefficient"}
#: Those that work coordinate by coordinate, and those that need independent draws.
LOCAL = {"rao_blackwell", "rao_blackwell_leave_one_out"}
INDEPENDENT = LEARNT | {"rao_blackwell_leave_one_out"}


def refusal(name: str, family: str) -> type[Exception] | None:
    """What this estimator must say to this family, if it cannot serve it."""
    if name in PATHWISE and family in DISCRETE:
        return NotReparameterizable
    return NotFactorized if name in LOCAL and family == "full-rank" else None


def noise_for(q, num_samples: int = 8, seed: int = 0) -> torch.Tensor:
    """ε (S, *R, D) for this q."""
    return normal(num_samples, q.batch_shape, q.dim, generator=seeded(seed), dtype=q.vector().dtype)


def by_autograd(estimator, log_joint, q, eps) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition: an estimator's value (*R) and the gradient (*R, P) that it differentiates to."""
    vector = q.vector().detach().requires_grad_()
    value = estimator(log_joint, q.with_vector(vector), eps)
    return value.detach(), torch.autograd.grad(value.sum(), vector)[0]


def gradient(estimator, log_joint, q, eps) -> torch.Tensor:
    return by_autograd(estimator, log_joint, q, eps)[1]


def slope_by_autograd(f, z: torch.Tensor) -> torch.Tensor:
    """∇_z f(z), for an f (...) of z (..., D)."""
    z = z.requires_grad_()
    return torch.autograd.grad(f(z).sum(), z)[0]


def readers_model() -> Model:
    """What a reader would write: three counts, a positive rate and a real shift; D = 2, one draw at a time."""
    counts = torch.tensor([1.0, 2.0, 4.0])

    def log_joint(theta):
        prior = theta["rate"].log() - theta["rate"] - 0.5 * theta["shift"].square()            # Gamma(2, 1) and N(0, 1)
        log_mean = theta["rate"].log() + 0.3 * theta["shift"]
        return prior + (counts.to(log_mean) * log_mean - log_mean.exp()).sum()

    return Model(log_joint, {"rate": constraints.positive, "shift": constraints.real})


def enumerated(estimator, log_joint, q, num_samples: int = 1, draws_of=None):
    """Exact mean value, mean gradient (P) and its variance (P): the estimator on every possible set of draws, weighed.

    q: discrete, without a batch.  draws_of: whose draws they are, if not q's; then ``estimator(log_joint, q, given, eps)``.
    """
    kind, source = type(q), q if draws_of is None else draws_of

    class Given(kind):
        """The family, drawing what it is told to draw."""

        def sample(self, eps):
            return eps

        def with_vector(self, vector):
            return Given(kind.with_vector(self, vector).logits)

    states = source.states()
    sets = torch.cartesian_prod(*[torch.arange(len(states))] * num_samples).reshape(-1, num_samples)
    draws = states[sets].movedim(1, 0)                                                   # (S, N^S, D)
    weights = source.log_prob(states)[sets].sum(-1).exp()
    if draws_of is not None:
        given = Given(draws_of.expand(len(sets)).logits)
        on_old, estimator = estimator, lambda log_joint, q, eps: on_old(log_joint, q, given, eps)
    value, gradient = by_autograd(estimator, log_joint, Given(q.expand(len(sets)).logits), draws)
    mean = weights @ gradient
    return weights @ value, mean, weights @ (gradient - mean).square()
