"""Is my coordinate update right?  A marker for one step of coordinate ascent on a Gaussian posterior.

:func:`check_coordinate_update` puts the update before posteriors of two, three and four dimensions, and asks of each
result: is it a q of the right shape, are the other factors as they were, is factor i at the highest ELBO that it can
reach? If not, it looks for the slip that explains all the results at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vilib.cavi import gaussian_of, precision_of, update_gaussian_factor
from vilib.checks import Report, described, explanation, failed, raised
from vilib.divergences import gaussian_kl
from vilib.families import FullRankGaussian, MeanFieldGaussian


@dataclass(frozen=True)
class _Case:
    p: FullRankGaussian
    q: MeanFieldGaussian
    i: int

    @property
    def precision(self) -> Tensor:
        return precision_of(self.p)

    @property
    def away(self) -> Tensor:
        """μ − μ0."""
        return self.q.mu - self.p.mean

    def regression(self, matrix: Tensor, away: Tensor) -> float:
        """μ0_i − Σ_{l ≠ i} M_il away_l / M_ii."""
        others = (matrix[self.i] * away).sum() - matrix[self.i, self.i] * away[self.i]
        return (self.p.mean[self.i] - others / matrix[self.i, self.i]).item()

    @property
    def own(self) -> Tensor:
        return self.precision[self.i, self.i]

    def elbo(self, q: MeanFieldGaussian) -> float:
        return -gaussian_kl(q, self.p).item()

    @property
    def where(self) -> str:
        return f"the posterior of {self.p.dim} dimensions, factor i = {self.i}"


#: name -> (the μ_i that the slip leads to, what to say about it)
MEAN_SLIPS: dict[str, tuple[Callable[[_Case], float], str]] = {
    "mean left alone": (lambda c: c.q.mu[c.i].item(),
        "mu_i is as it was. It has an optimum of its own, which the others decide (eq:gaussian-factor)."),
    "mean of the target": (lambda c: c.p.mean[c.i].item(),
        "mu_i is the target's mean. That is where the sweeps end, but while the others are elsewhere it is not the "
        "optimum of this factor."),
    "sign of the pull": (lambda c: 2 * c.p.mean[c.i].item() - c.regression(c.precision, c.away),
        "mu_i moves the wrong way: the pull of the others is subtracted, mu0_i − Σ_{l≠i} Λ_il (μ_l − mu0_l)/Λ_ii."),
    "mean of the others forgotten": (lambda c: c.regression(c.precision, c.q.mu),
        "The pull uses mu_l where it needs the distance mu_l − mean_l: it is right only for a target with mean zero."),
    "own term counted": (lambda c: (c.p.mean[c.i] - (c.precision[c.i] * c.away).sum() / c.own).item(),
        "The sum runs over l = i too, so that the new mu_i depends on the old one. Leave l = i out, or start from mu_i "
        "instead of mean_i."),
    "covariance for precision": (lambda c: c.regression(c.p.covariance, c.away),
        "The pull is made with the covariance, Σ_il/Σ_ii; it takes the precision, Λ_il/Λ_ii."),
    "pull not divided": (lambda c: (c.p.mean[c.i] - (c.precision[c.i] * c.away).sum() + c.own * c.away[c.i]).item(),
        "The pull Σ_{l≠i} Λ_il (μ_l − mu0_l) is not divided by Λ_ii."),
}
#: name -> (the ω_i that the slip leads to, what to say about it)
WIDTH_SLIPS: dict[str, tuple[Callable[[_Case], float], str]] = {
    "width left alone": (lambda c: c.q.omega[c.i].item(),
        "omega_i is as it was. The factor's width has an optimum too, σ_i² = 1/Λ_ii."),
    "marginal width": (lambda c: c.p.stddev[c.i].log().item(),
        "The width is that of the marginal, √Σ_ii. With the others fixed, what is left is the *conditional* width, "
        "1/√Λ_ii (eq:mean-field-widths)."),
    "variance for standard deviation": (lambda c: -c.own.log().item(),
        "omega_i is log σ_i². It is the log of the standard deviation: −½ log Λ_ii."),
    "precision for variance": (lambda c: 0.5 * c.own.log().item(),
        "omega_i is +½ log Λ_ii: Λ_ii is a precision, one over the variance."),
    "no logarithm": (lambda c: c.own.rsqrt().item(), "omega_i is σ_i itself: take its logarithm."),
    "variance without a logarithm": (lambda c: (1 / c.own).item(),
        "omega_i is σ_i²: it should be log σ_i = −½ log Λ_ii."),
}


def _cases() -> list[_Case]:
    draw = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(shape, generator=draw, dtype=torch.float64)  # noqa: E731
    cases = []
    for dim in (2, 3, 4):
        factor = randn(dim, dim) + torch.eye(dim, dtype=torch.float64)
        p = gaussian_of(2 * randn(dim), factor @ factor.mT + 0.3 * torch.eye(dim, dtype=torch.float64))
        cases += [_Case(p, MeanFieldGaussian(2 * randn(dim), randn(dim)), i) for i in range(dim)]
    return cases


def check_coordinate_update(update: Callable[..., Any]) -> Report:
    """Test ``update(q, i, mean, precision)``: q with factor i at its optimum for the posterior N(mean, precision⁻¹).

    update: q is a MeanFieldGaussian of D coordinates without a batch, float64; mean (D,), precision (D, D).  It returns
        a MeanFieldGaussian.  One that raises is reported, not raised.
    Nothing is random: the ELBO of a Gaussian posterior is in closed form.  (eq:gaussian-factor)

    >>> check_coordinate_update(update_gaussian_factor).passed
    True
    >>> def marginal(q, i, mean, precision):
    ...     right, wide = update_gaussian_factor(q, i, mean, precision), torch.linalg.inv(precision).diagonal()
    ...     return MeanFieldGaussian(right.mu, torch.where(torch.arange(q.dim) == i, 0.5 * wide.log(), q.omega))
    >>> check_coordinate_update(marginal).slip
    'marginal width'
    """
    results = []
    for case in _cases():
        try:
            result = update(case.q, case.i, case.p.mean, case.precision)
        except Exception as error:
            return raised(error, f"on {case.where}")
        complaint = _unusable(case, result)
        if complaint is not None:
            return complaint
        results.append((case, result))
    complaint = _explained(results)
    return _praise(update, results) if complaint is None else complaint


def _unusable(case: _Case, result: Any) -> Report | None:
    if not isinstance(result, MeanFieldGaussian) or result.mu.shape != case.q.mu.shape:
        got = described(result.mu if isinstance(result, MeanFieldGaussian) else result)
        return failed("shape", f"It returned {got}, expected a MeanFieldGaussian of D = {case.p.dim} coordinates, all of them: factor i is new, "
                      "the others are as they were.")
    if not bool(torch.isfinite(result.vector()).all()):
        return failed("not finite", f"mu or omega is not finite on {case.where}.")
    others = torch.arange(case.p.dim) != case.i
    same = lambda name: _close(getattr(result, name)[others], getattr(case.q, name)[others])  # noqa: E731
    moved = [name for name in ("mu", "omega") if not same(name)]
    if moved:
        words = (f"On {case.where} it changed {' and '.join(moved)} of other factors too. Each factor is optimal "
                 "*given the others as they are*; change several at once, and the ELBO can fall.")
        return failed("moved others", words, _elbo_words(case, result))
    return None


def _explained(results: list[tuple[_Case, MeanFieldGaussian]]) -> Report | None:
    """What is wrong with factor i, if anything: the mean, the width, or both."""
    right = lambda case: update_gaussian_factor(case.q, case.i, case.p.mean, case.precision)  # noqa: E731
    at = {"mu": lambda case, q: q.mu[case.i], "omega": lambda case, q: q.omega[case.i]}
    words, names = [], []
    for name, slips in (("mu", MEAN_SLIPS), ("omega", WIDTH_SLIPS)):
        if all(_close(at[name](case, q), at[name](case, right(case))) for case, q in results):
            continue
        explains = lambda lead: all(_close(at[name](c, q), lead(c)) for c, q in results)  # noqa: B023, E731
        unknown = None, f"{name}_i is not at its optimum, and no single slip that we know explains it."
        slip, said = explanation(slips, explains) or unknown
        case, q = max(results, key=lambda both: abs(at[name](*both) - at[name](both[0], right(both[0]))).item())
        fact = f"On {case.where} {name}_i is {at[name](case, q):.4f}, the optimum {at[name](case, right(case)):.4f}."
        words += [said, fact]
        names.append(slip)
    if not words:
        return None
    fallen = min(results, key=lambda both: both[0].elbo(both[1]) - both[0].elbo(both[0].q))
    return failed(next((name for name in names if name), None), *words, _elbo_words(*fallen))


def _elbo_words(case: _Case, q: MeanFieldGaussian) -> str:
    before, after = case.elbo(case.q), case.elbo(q)
    verb = "fell" if after < before - 1e-9 else "rose" if after > before + 1e-9 else "stood still"
    best = case.elbo(update_gaussian_factor(case.q, case.i, case.p.mean, case.precision))
    return (f"There the ELBO {verb}: it was {-before:.3f} nats below log p(x) and is now {-after:.3f}; the best that "
            f"this one factor can reach is {-best:.3f}.")


def _praise(update: Callable[..., Any], results: list[tuple[_Case, MeanFieldGaussian]]) -> Report:
    gain = min(case.elbo(q) - case.elbo(case.q) for case, q in results)
    case = results[-1][0]
    q, sweeps, before = case.q, 0, -torch.inf
    while sweeps < 500 and case.elbo(q) - before > 1e-12:
        before = case.elbo(q)
        for i in range(case.p.dim):
            q = update(q, i, case.p.mean, case.precision)
        sweeps += 1
    return Report(True, (
        f"Factor i is at its optimum in all {len(results)} cases, and the others are untouched. The ELBO rose every "
        f"time, by {gain:.2g} nats or more.",
        f"Swept round and round in {case.p.dim} dimensions it comes to rest after {sweeps} sweeps, {-case.elbo(q):.4f} "
        "nats below log p(x)."))


def _close(a: Any, b: Any) -> bool:
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    return torch.allclose(a, b, rtol=1e-6, atol=1e-8)
