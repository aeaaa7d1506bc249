"""What the checkers share: the report, results that cannot be judged, z-tests, and the search for slips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from textwrap import fill
from typing import Any

import torch
from torch import Tensor

from vilib.noise import normal
from vilib.types import LogJoint


@dataclass(frozen=True)
class Report:
    """What the check found.  Printing it says so in words.

    passed; findings: one line each, the most telling first; slip: the name of the slip that fits, or None;
    largest_z and threshold, in standard errors.

    >>> report = Report(False, ("It is −ELBO.",), "wrong sign")
    >>> print(report, bool(report))
    ✗ Not yet. It is −ELBO. False
    """

    passed: bool
    findings: tuple[str, ...]
    slip: str | None = None
    largest_z: float = float("nan")
    threshold: float = float("nan")

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        verdict = "✓ Right. " if self.passed else "✗ Not yet. "
        first, *others = self.findings
        wrap = partial(fill, width=80, break_on_hyphens=False, break_long_words=False)
        lines = [wrap(verdict + first, subsequent_indent="  ")]
        return "\n".join([*lines, *(wrap(line, initial_indent="  ", subsequent_indent="    ") for line in others)])

    __repr__ = __str__


def failed(
    slip: str | None, *findings: str, largest_z: float = float("nan"), threshold: float = float("nan"),
) -> Report:
    """The report that something is wrong; statistics that found it have a largest z and a threshold."""
    return Report(False, findings, slip, largest_z, threshold)


# ---- results that cannot be judged -----------------------------------------------------------------------------------

LEAK = (
    "Replicates leak into each other, or it draws noise of its own: replicates 0 and 1 come out differently alone than "
    "among the rest. Average over the first axis only, .mean(0); all randomness must come from eps."
)


def raised(error: Exception, where: str, what: str = "It") -> Report:
    """The report of a function that raised; ``where`` as in "on a Gaussian target, eps of shape (2, 3, 1)"."""
    return failed("raises", f"{what} raised {type(error).__name__} {where}: {error}")


def described(result: Any) -> str:
    """The shape of a tensor, or the type of what is none.

    >>> described(torch.zeros(2, 3)), described(None)
    ('shape (2, 3)', 'NoneType')
    """
    return f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__


def axis_advice(result: Any) -> str:
    """What to do so that one number a replicate is left."""
    whole = isinstance(result, Tensor) and result.ndim == 0
    return "It averaged over the replicates too. " * whole + "Average over the S draws, the first axis: .mean(0)."


def all_and_alone(
    estimate: Callable[..., Any], log_joint: LogJoint, q: Any, eps: Tensor, where: str,
) -> tuple[Any, Any] | Report:
    """``estimate(log_joint, q, eps)`` on all replicates, and on the first two without the others; or that it raised."""
    try:
        return estimate(log_joint, q.expand(eps.shape[1]), eps), estimate(log_joint, q.expand(2), eps[:, :2])
    except Exception as error:
        return raised(error, f"on {where}, eps of shape {tuple(eps.shape)}")


def unusable(result: Any, alone: Any, eps: Tensor, where: str, name: str = "") -> Report | None:
    """Why an estimate is not one finite number for each replicate of eps (S, R, D), or None if it is.

    alone: the result for the first two replicates, without the others.
    """
    if not isinstance(result, Tensor) or result.shape != eps.shape[1:2]:
        return failed("shape", f"It returned {name}{described(result)}, expected one number a replicate, (*R) = "
                      f"{tuple(eps.shape[1:2])}, for eps {tuple(eps.shape)} = (S, *R, D). {axis_advice(result)}")
    if not torch.isfinite(result).all():
        return failed("not finite", f"Some results are not finite on {where}.")
    if not torch.allclose(alone.detach().double(), result.detach().double()[:2], rtol=1e-8, atol=1e-8):
        return failed("leak", LEAK)
    return None


# ---- tests and slips -------------------------------------------------------------------------------------------------


def on_every(
    cases: Iterable[tuple[str, LogJoint, Any]], sample_counts: tuple[int, ...], num_replicates: int, seed: int,
    run: Callable[..., Any],
) -> list[Any] | Report:
    """``run(name, log_joint, q, S, eps)`` for each case (name, log joint, q) and each S; or its first Report.

    eps: (S, R, D), float64, R = num_replicates; the same seed gives the same noise.
    """
    results: list[Any] = []
    generator = torch.Generator().manual_seed(seed)
    for name, log_joint, q in cases:
        for num_samples in sample_counts:
            eps = normal(num_samples, (num_replicates,), q.dim, generator=generator, dtype=torch.float64)
            result = run(name, log_joint, q, num_samples, eps)
            if isinstance(result, Report):
                return result
            results.append(result)
    return results


@dataclass(frozen=True, eq=False)
class Estimates:
    """Independent estimates (R) of one number on a problem."""

    problem: Any
    values: Tensor

    @property
    def mean(self) -> float:
        return self.values.mean().item()

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return (self.values.std() / len(self.values) ** 0.5).item()

    def z_score(self, predicted: Tensor | float) -> float:
        """How many standard errors the mean is from ``predicted``."""
        return z_scores(self.values, torch.as_tensor(predicted, dtype=self.values.dtype)).abs().item()


def z_scores(samples: Tensor, predicted: Tensor) -> Tensor:
    """(mean − predicted) / standard error over the first axis; the error has a floor, for what has no noise."""
    error = samples.std(0) / len(samples) ** 0.5
    return (samples.mean(0) - predicted) / (error + 1e-9 * (1 + predicted.abs()))


def alarm(false_alarm: float, num_tests: int) -> float:
    """How many standard errors each of ``num_tests`` z-tests allows, if together they fail a right answer this seldom.

    Two-sided, by Bonferroni.

    >>> round(alarm(0.05, 1), 2)
    1.96
    """
    return NormalDist().inv_cdf(1 - false_alarm / (2 * num_tests))


def explanation(
    slips: Mapping[str, tuple[Callable[..., Any] | tuple[Callable[..., Any], ...], str]],
    fits: Callable[[Callable[..., Any]], bool],
) -> tuple[str, str] | None:
    """The first slip of which a prediction fits, as (its name, what to say about it); None if none does.

    slips: name -> (what the slip leads to, or a tuple of it for each form that the slip can have; what to say about it).

    >>> slips = {"twice": (lambda x: 2 * x, "It is there twice."), "sign": (lambda x: -x, "Turn the sign.")}
    >>> explanation(slips, lambda predict: predict(3) == -3)
    ('sign', 'Turn the sign.')
    """
    for name, (predicts, words) in slips.items():
        if any(fits(predict) for predict in (predicts if isinstance(predicts, tuple) else (predicts,))):
            return name, words
    return None
