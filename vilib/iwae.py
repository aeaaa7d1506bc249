"""Bounds on log p(x) that rise with the number of draws: the importance-weighted ELBO.

Both functions are estimators with the contract of :mod:`vilib.estimators`, but for one thing: all S draws stand inside
one logarithm, so their value estimates the bound L_S, and not the ELBO, which is L_1.  L_1 ≤ L_2 ≤ … → log p(x).
Several estimates of the same bound are one more batch: ``iwae(log_joint, q.expand(100), eps)``, eps (S, 100, *R, D).
"""

from __future__ import annotations

import math

from torch import Tensor

from vilib.estimators import _path, value_of
from vilib.models import evaluate
from vilib.types import Family, LogJoint


def iwae(log_joint: LogJoint, q: Family, eps: Tensor) -> Tensor:
    """log (1/S) Σ_s w_s, w = p(x, z)/q(z), along the path: an estimate of L_S, (*R), in nats.

    (Burda, Grosse & Salakhutdinov 2016.)  Unbiased for L_S, and so is its gradient.  At S = 1 it is
    :func:`vilib.estimators.total_derivative`.  eps: (S, *R, D).

    Raises what the pathwise estimators raise.

    >>> import torch; from vilib import MeanFieldGaussian, gaussian_target
    >>> q = MeanFieldGaussian(torch.zeros(1), torch.zeros(1))
    >>> abs(iwae(gaussian_target(0.0, 1.0), q, torch.ones(8, 1)).item()) < 1e-6      # q is the posterior: log p(x) = 0
    True
    """
    z = _path(q, eps)
    log_w = evaluate(log_joint, z) - q.log_prob(z)                          # (S, *R)
    return log_w.logsumexp(0) - math.log(len(log_w))


def doubly_reparameterized(log_joint: LogJoint, q: Family, eps: Tensor) -> Tensor:
    """The value of :func:`iwae`, with the gradient Σ_s w̄_s² (∂ log w_s/∂z) ∂z/∂λ, w̄ = w/Σw; (*R).

    (Tucker, Lawson, Gu & Maddison 2019.)  The gradient of :func:`iwae` holds scores w̄_s ∇_λ log q; written along the
    path in their turn, they leave this.  It too is unbiased, it is zero where q is the posterior, and its signal does
    not drown as S grows.  In the parameters of log_joint the gradient is that of :func:`iwae`, Σ w̄_s ∇_θ log p.
    At S = 1 it is :func:`vilib.estimators.sticking_the_landing`.

    Raises what the pathwise estimators raise.

    >>> import torch; from vilib import MeanFieldGaussian, gaussian_target
    >>> mu = torch.zeros(1, requires_grad=True)
    >>> q = MeanFieldGaussian(mu, torch.zeros(1))
    >>> value = doubly_reparameterized(gaussian_target(0.0, 1.0), q, torch.tensor([[1.0], [-2.0]]))
    >>> torch.autograd.grad(value, mu)[0].abs()                                              # q is the posterior
    tensor([0.])
    """
    z = _path(q, eps)
    log_w = evaluate(log_joint, z) - q.detach().log_prob(z)
    weights = log_w.detach().softmax(0)                                     # w̄, (S, *R)
    if z.requires_grad:                                                     # what runs into λ is weighted once more
        z.register_hook(lambda gradient: gradient * weights.unsqueeze(-1))
    return value_of(log_w.logsumexp(0) - math.log(len(log_w)), gradient_of=(weights * log_w).sum(0))
