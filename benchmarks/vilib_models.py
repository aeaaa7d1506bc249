"""The problems as log joints of vilib: plain torch, z (..., D) -> (...), every leading axis a batch.

The likelihood is written as every other library evaluates it, one term for each observation; no sufficient statistics.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from problems import LOG_2PI, Problem


def _tensors(problem: Problem, dtype: torch.dtype) -> list[Tensor]:
    return [torch.as_tensor(a).to(dtype) for a in problem.data.values()]


def linear(problem: Problem, dtype: torch.dtype = torch.float32):
    x, y = _tensors(problem, dtype)
    xt, constant = x.mT.contiguous(), 0.5 * (len(y) + problem.dim) * LOG_2PI

    def log_joint(z: Tensor) -> Tensor:
        return -0.5 * ((y - z @ xt).square().sum(-1) + z.square().sum(-1)) - constant

    return log_joint


def logistic(problem: Problem, dtype: torch.dtype = torch.float32):
    x, y = _tensors(problem, dtype)
    xt, xty, constant = x.mT.contiguous(), y @ x, 0.5 * problem.dim * LOG_2PI

    def log_joint(z: Tensor) -> Tensor:
        return z @ xty - softplus(z @ xt).sum(-1) - 0.5 * z.square().sum(-1) - constant

    return log_joint


def eight_schools(problem: Problem, dtype: torch.dtype = torch.float32):
    y, sigma = _tensors(problem, dtype)
    constant = math.log(2 / (5 * math.pi)) - math.log(5.0) - 8.5 * LOG_2PI - float(sigma.log().sum())

    def log_joint(z: Tensor) -> Tensor:
        mu, log_tau, offsets = z.split([1, 1, 8], -1)
        tau = log_tau.exp()
        misfit = ((y - mu - tau * offsets) / sigma).square() + offsets.square()
        prior = log_tau - 0.5 * (mu / 5).square() - (tau / 5).square().log1p()
        return prior.squeeze(-1) - 0.5 * misfit.sum(-1) + constant

    return log_joint


LOG_JOINTS = {"linear": linear, "logistic": logistic, "eight schools": eight_schools}


def log_joint(problem: Problem, dtype: torch.dtype = torch.float32):
    """vilib's form of ``problem``."""
    return LOG_JOINTS[problem.name](problem, dtype)
