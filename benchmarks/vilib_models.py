"""The problems as log joints of vilib: plain torch, z (..., D) -> (...), every leading axis a batch.

The likelihood is written as every other library evaluates it, one term for each observation; but for ``linear_by_statistics``, which says
so in its name and wherever its times stand.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, mse_loss, softplus

from problems import LOG_2PI, Problem, statistics_of


def _tensors(problem: Problem, dtype: torch.dtype) -> list[Tensor]:
    return [torch.as_tensor(a).to(dtype) for a in problem.data.values()]


def linear(problem: Problem, dtype: torch.dtype = torch.float32):
    x, y = _tensors(problem, dtype)
    xt, constant = x.mT.contiguous(), torch.tensor(-0.5 * (len(y) + problem.dim) * LOG_2PI, dtype=dtype)

    def log_joint(z: Tensor) -> Tensor:
        prediction = z @ xt
        errors = mse_loss(prediction, y.expand_as(prediction), reduction="none")            # the squares, one pass forward, one back
        return torch.sub(constant, errors.sum(-1) + (z * z).sum(-1), alpha=0.5)

    return log_joint


def linear_by_statistics(problem: Problem, dtype: torch.dtype = torch.float32):
    """:func:`linear` to rounding, from X = QR alone: its cost does not grow with N."""
    r, seen, rest = statistics_of(problem)
    rt, seen = torch.as_tensor(r).mT.to(dtype).contiguous(), torch.as_tensor(seen).to(dtype)
    constant = torch.tensor(-0.5 * (rest + (len(problem.data["y"]) + problem.dim) * LOG_2PI), dtype=dtype)

    def log_joint(z: Tensor) -> Tensor:
        errors = seen - z @ rt
        return torch.sub(constant, (errors * errors).sum(-1) + (z * z).sum(-1), alpha=0.5)

    return log_joint


def logistic(problem: Problem, dtype: torch.dtype = torch.float32):
    x, y = _tensors(problem, dtype)
    signed, constant = (x * (2 * y - 1).unsqueeze(-1)).mT.contiguous(), torch.tensor(0.5 * problem.dim * LOG_2PI, dtype=dtype)

    def log_joint(z: Tensor) -> Tensor:
        likelihood = logsigmoid(z @ signed).sum(-1)                                         # p(y | z) = sigmoid(±z x)
        return likelihood - torch.add(constant, torch.linalg.vecdot(z, z), alpha=0.5)

    return log_joint


def eight_schools(problem: Problem, dtype: torch.dtype = torch.float32):
    y, sigma = _tensors(problem, dtype)
    constant = torch.tensor(math.log(2 / (5 * math.pi)) - math.log(5.0) - 8.5 * LOG_2PI, dtype=dtype) - sigma.log().sum()
    y_scaled, precision, log_five = y / sigma, 1 / sigma, torch.tensor(math.log(5.0), dtype=dtype)
    of_normals = torch.tensor([1 / 25, 0.0] + 8 * [1.0], dtype=dtype)               # 1/variance of mu and of the offsets

    def log_joint(z: Tensor) -> Tensor:
        mu, log_tau, offsets = z.split([1, 1, 8], -1)
        schools = torch.addcmul(mu, log_tau.exp(), offsets)
        residual = torch.addcmul(y_scaled, schools, precision, value=-1)
        prior = torch.sub(log_tau, softplus(log_tau - log_five, beta=2), alpha=2)            # log tau − log(1 + (tau/5)²)
        squares = (residual * residual).sum(-1) + (z * z) @ of_normals
        return torch.sub(prior.squeeze(-1) + constant, squares, alpha=0.5)

    return log_joint


LOG_JOINTS = {"linear": linear, "logistic": logistic, "eight schools": eight_schools}


def log_joint(problem: Problem, dtype: torch.dtype = torch.float32, by_statistics: bool = False):
    """vilib's form of ``problem``; by_statistics: its likelihood through sufficient statistics, of linear regression only."""
    if by_statistics and problem.name != "linear":
        raise ValueError(f"{problem.name}: only linear regression has sufficient statistics here.")
    return (linear_by_statistics if by_statistics else LOG_JOINTS[problem.name])(problem, dtype)
