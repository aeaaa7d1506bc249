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
        self.constant, self.minus_two = torch.tensor(constant, dtype=dtype) - sigma.log().sum(), torch.tensor(-2.0, dtype=dtype)
        self.log_25, root = torch.tensor(math.log(25.0), dtype=dtype), math.sqrt(0.5)        # root: half of the squares, at no cost
        self.minus_y = torch.cat([-y / sigma, torch.zeros(10, dtype=dtype)]) * root
        self.weight = torch.tensor([0.2, 0.0] + 8 * [1.0], dtype=dtype) * root              # 1/sd of mu and of the offsets
        self.precision = torch.cat([root / sigma, self.weight])

    def __call__(self, z: Tensor) -> Tensor:
        mu, log_tau, offsets = z.split([1, 1, 8], -1)
        errors = torch.cat([mu + log_tau.exp() * offsets, z], -1) * self.precision + self.minus_y
        prior = log_tau + logsigmoid(log_tau * self.minus_two + self.log_25)                # log tau − log(1 + (tau/5)²)
        return prior.squeeze(-1) + (self.constant - torch.linalg.vecdot(errors, errors))


class EightSchoolsWithSlope(EightSchools):
    """:class:`EightSchools`, and its gradient by hand, as a log joint of vilib may bring it."""

    def __init__(self, problem: Problem, dtype: torch.dtype = torch.float32):
        super().__init__(problem, dtype)
        self.of_data, self.minus_effects = self.precision[:8], self.minus_y[:8]
        self.by_errors, self.precisions = -2 * self.of_data, 2 * self.weight.square()
        self.one = torch.tensor(1.0, dtype=dtype)

    def value_and_slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_tau, offsets = z[..., :1], z[..., 1:2], z[..., 2:]
        tau, ratio = log_tau.exp(), torch.sub(log_tau + log_tau, self.log_25)           # log (tau/5)²
        errors = torch.addcmul(self.minus_effects, torch.addcmul(mu, tau, offsets), self.of_data)
        by_effect, of_prior = errors * self.by_errors, z * self.precisions
        by_tau = torch.linalg.vecdot(by_effect, offsets).unsqueeze(-1)
        by_log_tau = torch.addcmul(self.one, tau, by_tau).sub_(ratio.sigmoid(), alpha=2)
        slope = torch.cat([by_effect.sum(-1, keepdim=True), by_log_tau, by_effect * tau], -1).sub_(of_prior)
        prior = (log_tau - softplus(ratio)).squeeze(-1) + self.constant
        return prior - torch.add(torch.linalg.vecdot(errors, errors), torch.linalg.vecdot(z, of_prior), alpha=0.5), slope


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
