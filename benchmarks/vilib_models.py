"""The problems as log joints of vilib: plain torch, z (..., D) -> (...), every leading axis a batch.

The likelihood is written as every other library evaluates it, one term for each observation, and autograd differentiates it.  Three other
forms say so in their names, and wherever their times stand: ``linear_by_statistics``, ``logistic_tabulated``, ``EightSchoolsWithSlope``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, mse_loss, softplus

from problems import LOG_2PI, SLOPE, STATISTICS, TABULATED, Problem, statistics_of
from vilib import tabulate


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
    """:func:`linear` to rounding, as one least-squares problem of size D: its cost does not grow with N."""
    r, seen, rest = statistics_of(problem)
    r, seen = torch.as_tensor(r).to(dtype), torch.as_tensor(seen).to(dtype).unsqueeze(-1)
    constant = torch.tensor(-0.5 * (rest + (len(problem.data["y"]) + problem.dim) * LOG_2PI), dtype=dtype)

    def log_joint(z: Tensor) -> Tensor:
        prediction = torch.mm(r, z.reshape(-1, problem.dim).mT)                             # (D, draws): quicker where draws are many
        errors = mse_loss(prediction, seen.expand_as(prediction), reduction="none")
        return torch.sub(constant, errors.sum(0), alpha=0.5).view(z.shape[:-1])

    return log_joint


def logistic(problem: Problem, dtype: torch.dtype = torch.float32):
    x, y = _tensors(problem, dtype)
    signed, constant = (x * (2 * y - 1).unsqueeze(-1)).mT.contiguous(), torch.tensor(0.5 * problem.dim * LOG_2PI, dtype=dtype)

    def log_joint(z: Tensor) -> Tensor:
        likelihood = logsigmoid(z @ signed).sum(-1)                                         # p(y | z) = sigmoid(±z x)
        return likelihood - torch.add(constant, torch.linalg.vecdot(z, z), alpha=0.5)

    return log_joint


def logistic_tabulated(problem: Problem, dtype: torch.dtype = torch.float32):
    """:func:`logistic` of one coefficient, read off a table on [−12, 12]; ``error`` and ``slope_error`` say how well it does."""
    if problem.dim != 1:
        raise ValueError(f"logistic: a table has one coefficient, got {problem.dim}.")
    return tabulate(logistic(problem, torch.float64), -12.0, 12.0)


class EightSchools:
    """Non-centred."""

    def __init__(self, problem: Problem, dtype: torch.dtype = torch.float32):
        y, sigma = _tensors(problem, dtype)
        constant = math.log(2 / (5 * math.pi)) - math.log(5.0) - 8.5 * LOG_2PI
        self.constant = torch.tensor(constant, dtype=dtype) - sigma.log().sum()
        self.y_scaled, self.precision, self.log_five = y / sigma, 1 / sigma, torch.tensor(math.log(5.0), dtype=dtype)
        self.weight = torch.tensor([0.2, 0.0] + 8 * [1.0], dtype=dtype)                     # 1/sd of mu and of the offsets

    def __call__(self, z: Tensor) -> Tensor:
        mu, log_tau, offsets = z.split([1, 1, 8], -1)
        residual = torch.addcmul(self.y_scaled, torch.addcmul(mu, log_tau.exp(), offsets), self.precision, value=-1)
        prior = torch.sub(log_tau, softplus(log_tau - self.log_five, beta=2), alpha=2)       # log tau − log(1 + (tau/5)²)
        errors = torch.cat([residual, z * self.weight], -1)
        return torch.sub(prior.squeeze(-1) + self.constant, torch.linalg.vecdot(errors, errors), alpha=0.5)


class EightSchoolsWithSlope(EightSchools):
    """:class:`EightSchools`, and its gradient by hand, as a log joint of vilib may bring it."""

    def __init__(self, problem: Problem, dtype: torch.dtype = torch.float32):
        super().__init__(problem, dtype)
        self.one, self.precisions = torch.tensor(1.0, dtype=dtype), self.weight.square()

    def value_and_slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_tau, offsets = z[..., :1], z[..., 1:2], z[..., 2:]
        tau, above = log_tau.exp(), log_tau - self.log_five
        residual = torch.addcmul(self.y_scaled, torch.addcmul(mu, tau, offsets), self.precision, value=-1)
        by_school, of_prior = residual * self.precision, z * self.precisions
        by_log_tau = torch.addcmul(self.one, tau, torch.linalg.vecdot(by_school, offsets).unsqueeze(-1)).sub_((above + above).sigmoid(), alpha=2)
        slope = torch.cat([by_school.sum(-1, keepdim=True), by_log_tau, by_school * tau], -1).sub_(of_prior)
        prior = torch.sub(log_tau, softplus(above, beta=2), alpha=2).squeeze(-1)
        squares = torch.linalg.vecdot(residual, residual) + torch.linalg.vecdot(z, of_prior)
        return torch.sub(prior + self.constant, squares, alpha=0.5), slope


#: problem -> form -> its log joint.  "" is the plain one.
FORMS = {
    "linear": {"": linear, STATISTICS: linear_by_statistics},
    "logistic": {"": logistic, TABULATED: logistic_tabulated},
    "eight schools": {"": EightSchools, SLOPE: EightSchoolsWithSlope},
}


def log_joint(problem: Problem, dtype: torch.dtype = torch.float32, form: str = ""):
    """vilib's log joint of ``problem`` in one of its FORMS."""
    if form not in FORMS[problem.name]:
        raise ValueError(f"{problem.name}: it has the forms {list(FORMS[problem.name])}, got {form!r}.")
    return FORMS[problem.name][form](problem, dtype)
