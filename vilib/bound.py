"""The ELBO taken apart, and estimated: what it is made of and what one draw says of it.

Everything here is about one number, ELBO(q) = E_q[log p(x, z) − log q(z)] ≤ log p(x), in nats.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vilib.models import evaluate
from vilib.quadrature import Rule, expectation, trapezoid
from vilib.types import Family, LogJoint


@dataclass(frozen=True)
class ElboTerms:
    """The four numbers of which the ELBO is made, two at a time; each (*R), in nats.

    elbo = expected_log_joint + entropy                    (eq:elbo-energy-entropy)
         = expected_log_likelihood − kl_to_prior           (eq:elbo-fit-cost)
    """

    expected_log_joint: Tensor
    entropy: Tensor
    expected_log_likelihood: Tensor
    kl_to_prior: Tensor

    @property
    def elbo(self) -> Tensor:
        """The ELBO, (*R)."""
        return self.expected_log_joint + self.entropy


def elbo_terms(
    log_likelihood: LogJoint, log_prior: LogJoint, q: Family, rule: Rule = trapezoid
) -> ElboTerms:
    """The terms of the ELBO by quadrature, float64, differentiable in λ; D ≤ 2.

    (eq:elbo-energy-entropy, eq:elbo-fit-cost)

    log_likelihood, log_prior: z (..., D) -> log p(x | z) and log p(z), (...).
    q: a Gaussian with any batch *R.

    >>> import torch; from vilib import MeanFieldGaussian
    >>> prior, q = (MeanFieldGaussian(torch.tensor([m]), torch.zeros(1)) for m in (0.0, 1.0))
    >>> no_data = lambda z: 0 * z[..., 0]
    >>> round(elbo_terms(no_data, prior.log_prob, q).kl_to_prior.item(), 6)
    0.5
    """
    likelihood = expectation(log_likelihood, q, rule)
    prior = expectation(log_prior, q, rule)
    entropy = q.entropy().double()
    return ElboTerms(
        expected_log_joint=likelihood + prior, entropy=entropy,
        expected_log_likelihood=likelihood, kl_to_prior=-entropy - prior,
    )


def log_weights_at(log_joint: LogJoint, q: Family, eps: Tensor) -> Tensor:
    """log w(z) = log p(x, z) − log q(z) at draws of q, (S, *R), in nats.  (eq:elbo-weight)

    Their mean over the draws estimates the ELBO (eq:elbo-monte-carlo); where q is the
    posterior each of them is log p(x).
    Raises NonScalarLogJoint, NonFiniteLogJoint, ShapeError (eps).

    >>> import torch; from vilib import MeanFieldGaussian, gaussian_target, normal
    >>> q, eps = MeanFieldGaussian(torch.zeros(1), torch.zeros(1)), torch.tensor([[-1.0], [2.0]])
    >>> log_weights_at(gaussian_target(), q, eps)
    tensor([0., 0.])
    """
    z = q.sample(eps)
    return evaluate(log_joint, z) - q.log_prob(z)
