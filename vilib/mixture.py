"""A mixture of Gaussians by coordinate ascent: global variables that all data share, and a label for each observation.

    π ~ Dirichlet(α0, …, α0)      m_k ~ N(0, σ0² I)      z_i ~ Categorical(π)      x_i | z_i = k ~ N(m_k, s² I)

q(π, m, z) = Dirichlet(π | α) Π_k N(m_k | μ_k, σ_k² I) Π_i φ_{i z_i}.  Assumed is only that the
labels are independent of weights and means; the rest, and each factor's form, follows from it.  (Bishop 2006, section
10.2; Blei, Kucukelbir & McAuliffe 2017)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from vilib.families import LOG_2PI
from vilib.types import ShapeError, VilibError, check_generator

#: So many ways to label the data are summed one by one, and no more.
MOST_LABELLINGS = 2**16


@dataclass(frozen=True, eq=False)
class MixtureFactors:
    """The factors of q: phi (*R, N, K), the probabilities of each label; alpha (*R, K); mu (*R, K, d) and sigma
    (*R, K), the mean and the standard deviation of each component's mean, in the units of x."""

    phi: Tensor
    alpha: Tensor
    mu: Tensor
    sigma: Tensor

    def expected_log_weights(self) -> Tensor:
        """E_q[log π_k] = ψ(α_k) − ψ(Σ_j α_j), (*R, K), in nats."""
        return torch.digamma(self.alpha) - torch.digamma(self.alpha.sum(-1, keepdim=True))


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """K Gaussians of known width s with unknown means and weights.

    x: (N, d), float.  num_components: K.  width: s; prior_width: σ0, both in the units of x; concentration: α0, where 1
        is flat over the weights and a large number makes them equal.
    Raises ShapeError (x), VilibError (a number that is not above zero, fewer than one component).

    >>> from vilib import coordinate_ascent
    >>> model = GaussianMixture(torch.tensor([[-2.1], [-1.9], [2.0], [2.2]]).double(), num_components=2)
    >>> found = coordinate_ascent(model.updates, model.elbo, model.start(8, torch.Generator().manual_seed(0)))
    >>> best = found.elbo[-1].argmax()
    >>> found.q.phi[best].argmax(-1).unique(return_counts=True)[1], bool(found.elbo[-1, best] < model.log_evidence())
    (tensor([2, 2]), True)
    """

    x: Tensor
    num_components: int
    width: float = 1.0
    prior_width: float = 3.0
    concentration: float = 1.0

    def __post_init__(self) -> None:
        if not (isinstance(self.x, Tensor) and self.x.is_floating_point() and self.x.ndim == 2 and len(self.x)):
            is_tensor = isinstance(self.x, Tensor)
            got = f"{self.x.dtype} of shape {tuple(self.x.shape)}" if is_tensor else type(self.x).__name__
            raise ShapeError(f"x: expected floating-point numbers (N, d), got {got}. For one dimension pass "
                             "x.unsqueeze(-1).")
        if self.num_components < 1 or not min(self.width, self.prior_width, self.concentration) > 0:
            raise VilibError("num_components, width, prior_width, concentration: at least 1 and numbers above zero, "
                             f"got {self.num_components}, {self.width}, {self.prior_width}, {self.concentration}.")

    # ---- the three updates, each the optimum of its factors given the others

    def update_labels(self, q: MixtureFactors) -> MixtureFactors:
        """log φ_ik = E[log π_k] + E[log N(x_i | m_k, s² I)] + const.  (eq:update-labels)"""
        log_phi = q.expected_log_weights().unsqueeze(-2) + self._expected_log_density(q)
        return replace(q, phi=log_phi.softmax(-1))

    def update_means(self, q: MixtureFactors) -> MixtureFactors:
        """1/σ_k² = 1/σ0² + n_k/s² and μ_k = σ_k²/s² Σ_i φ_ik x_i.  (eq:update-means)"""
        variance = 1 / (self.prior_width**-2 + q.phi.sum(-2) / self.width**2)      # (*R, K)
        total = q.phi.mT @ self.x                                                  # (*R, K, d)
        mu = (variance / self.width**2).unsqueeze(-1) * total
        return replace(q, mu=mu, sigma=variance.sqrt())

    def update_weights(self, q: MixtureFactors) -> MixtureFactors:
        """α_k = α0 + n_k.  (eq:update-weights)"""
        return replace(q, alpha=self.concentration + q.phi.sum(-2))

    @property
    def updates(self) -> tuple[Callable[[MixtureFactors], MixtureFactors], ...]:
        """One sweep: local factors first, then the global ones."""
        return self.update_labels, self.update_means, self.update_weights

    # ---- what they raise

    def elbo(self, q: MixtureFactors) -> Tensor:
        """E_q[log p(x, z, m, π) − log q], (*R), in nats, exact.  (eq:mixture-elbo)"""
        expected_log_p = q.expected_log_weights().unsqueeze(-2) + self._expected_log_density(q)
        fit = q.phi * expected_log_p + torch.special.entr(q.phi)                   # (*R, N, K)
        ratio = (q.sigma / self.prior_width).square()
        spread = self.x.shape[-1] * (ratio - 1 - ratio.log())
        cost_means = 0.5 * (spread + q.mu.square().sum(-1) / self.prior_width**2)  # (*R, K)
        prior = Dirichlet(torch.full_like(q.alpha, self.concentration))
        cost_weights = kl_divergence(Dirichlet(q.alpha), prior)                    # (*R)
        return fit.sum((-2, -1)) - cost_means.sum(-1) - cost_weights

    def start(self, num_starts: int, generator: torch.Generator) -> MixtureFactors:
        """``num_starts`` places to begin, *R = (num_starts,), each with K observations drawn at random as its means."""
        check_generator(generator, self.x.device)
        n, k = len(self.x), self.num_components
        shuffle = torch.rand(num_starts, max(n, k), generator=generator, dtype=self.x.dtype, device=self.x.device)
        means = self.x[shuffle.argsort(-1)[:, :k] % n]
        full = lambda *shape, value: self.x.new_full((num_starts, *shape), value)  # noqa: E731
        return MixtureFactors(phi=full(n, k, value=1 / k), alpha=full(k, value=self.concentration), mu=means,
                              sigma=full(k, value=self.prior_width))

    def log_density(self, q: MixtureFactors, x: Tensor) -> Tensor:
        """log of the mixture at x (M, d), averaged over q, (*R, M): what q predicts of one more observation."""
        weights = q.alpha / q.alpha.sum(-1, keepdim=True)                                       # E_q[π]
        variance = (self.width**2 + q.sigma.square()).unsqueeze(-2)                             # (*R, 1, K)
        each = -0.5 * _square_distances(x, q.mu) / variance - 0.5 * x.shape[-1] * (LOG_2PI + variance.log())
        return (weights.log().unsqueeze(-2) + each).logsumexp(-1)

    # ---- the exact answer, where the data are few

    def labellings(self) -> tuple[Tensor, Tensor]:
        """Every way to label the data, (K^N, N), and log p(x, z) of each, (K^N,), the means and weights integrated out.

        (eq:mixture-evidence)  Raises VilibError where there are more than 65,536.
        """
        n, k = len(self.x), self.num_components
        if n * math.log(k) > math.log(MOST_LABELLINGS) + 1e-9:
            raise VilibError(f"x: {n} observations can be labelled in {k}^{n} ways; at most {MOST_LABELLINGS:,} are "
                             "summed one by one. Pass fewer observations, or compare ELBOs.")
        labels = torch.cartesian_prod(*[torch.arange(k, device=self.x.device)] * n).reshape(-1, n)
        return labels, self.log_joint_of(torch.nn.functional.one_hot(labels, k).to(self.x))

    def log_joint_of(self, phi: Tensor) -> Tensor:
        """log ∫ p(π) p(m) Π_ik (π_k N(x_i | m_k, s² I))^{φ_ik} dπ dm, phi (*R, N, K) -> (*R).

        For hard labels, φ_ik one or zero, it is log p(x, z).
        """
        d, k, a, ratio = self.x.shape[-1], self.num_components, self.concentration, (self.prior_width / self.width) ** 2
        n, total, squares = phi.sum(-2), phi.mT @ self.x, (phi.mT @ self.x.square()).sum(-1)
        inside = squares - total.square().sum(-1) / (n + 1 / ratio)                             # (*R, K)
        constant = n * d * (LOG_2PI + 2 * math.log(self.width))
        groups = -0.5 * (constant + d * torch.log1p(n * ratio) + inside / self.width**2)
        weights = torch.lgamma(a + n).sum(-1) - torch.lgamma(k * a + n.sum(-1))
        weights = weights - k * math.lgamma(a) + math.lgamma(k * a)
        return groups.sum(-1) + weights

    def log_evidence(self) -> float:
        """log p(x), in nats, exact: the sum over all labellings."""
        return self.labellings()[1].logsumexp(0).item()

    def _expected_log_density(self, q: MixtureFactors) -> Tensor:
        """E_q[log N(x_i | m_k, s² I)], (*R, N, K)."""
        d = self.x.shape[-1]
        square = _square_distances(self.x, q.mu) + d * q.sigma.square().unsqueeze(-2)
        return -0.5 * square / self.width**2 - 0.5 * d * (LOG_2PI + 2 * math.log(self.width))


def _square_distances(x: Tensor, mu: Tensor) -> Tensor:
    """‖x_i − μ_k‖², x (N, d) and mu (*R, K, d) -> (*R, N, K)."""
    return (x.unsqueeze(-2) - mu.unsqueeze(-3)).square().sum(-1)
