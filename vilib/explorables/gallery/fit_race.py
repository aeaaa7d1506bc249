"""fit-race: what does gradient noise do to the fit?

Estimators climb the same ELBO from the same start on the same noise. 32 fits run side by side for each; one is drawn bold and
all are drawn as a fan. What is shown at a step is exact (quadrature), not the noisy estimate that the fit itself saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from vilib import (
    Along, Example, MeanFieldGaussian, adagrad, adam, along, correlated_gaussian, gauss_hermite, leave_one_out,
    logistic_one_coefficient, path_or_gaps, pathwise, rmsprop, robbins_monro, score_function, sgd, steps_to_within,
    sticking_the_landing, tables, tabulate, trapezoid, two_component_mixture,
)

from ..core import (
    Axis, Band, Choice, Column, Definition, Ellipse, Gaussian, Line, NewNoise, Panel, Play, Precision, Rule, Slider, Switches, Table,
)
from ..threads import one_thread
from ..widget import Explorable

FITS, STEPS, STEP_SIZES = 32, 400, (0.03, 0.1, 0.3)
#: The steps that are kept: dense at first, where most happens. They lie evenly on a square-root axis.
KEPT = sorted({round(STEPS * (i / 25) ** 2) for i in range(26)})
CLOSE, FLOOR = 0.01, 200.0  # nats; how far below the best an ELBO is followed down
#: key → (estimator, label); the key is also its ink.
ESTIMATORS = {"score": (score_function, "score function"), "control": (leave_one_out, "score + leave-one-out"),
              "pathwise": (pathwise, "pathwise"), "stl": (sticking_the_landing, "sticking the landing")}
LABELS = {key: label for key, (_, label) in ESTIMATORS.items()}
#: key → (label, factory)
OPTIMIZERS = {"sgd": ("SGD, Robbins–Monro", lambda step_size: sgd(step_size, robbins_monro(0.7, 50.0))),
              "rmsprop": ("RMSProp", rmsprop), "adagrad": ("AdaGrad", adagrad), "adam": ("Adam", adam)}
_X = torch.linspace(-2.0, 2.0, 24, dtype=torch.float64)
_Y = torch.bernoulli(torch.sigmoid(1.2 * _X), generator=torch.Generator().manual_seed(3))
RHO = 0.9


@dataclass(frozen=True)
class Target:
    """A posterior to race to: where μ starts (log σ starts at 0), the ranges of two axes, a table if that saves time."""

    label: str
    example: Example
    start: tuple[float, ...]
    elbo_range: tuple[float, float]
    z_range: tuple[float, float]
    table: tables.Table | None = None


_LOGISTIC = logistic_one_coefficient(_X, _Y)
TARGETS = {
    "logistic": Target("logistic regression, 24 points", _LOGISTIC, (-1.0,), (-18.0, -13.6), (-2.0, 3.0),
                       tabulate(_LOGISTIC, -32.0, 32.0, 4097)),
    "correlated": Target(f"correlated Gaussian, ρ = {RHO}", correlated_gaussian(RHO), (-2.0, 0.0), (-6.0, 0.6), (-3.0, 3.0)),
    "mixture": Target("two-component mixture", two_component_mixture(), (0.0,), (-4.0, 0.4), (-7.0, 7.0)),
}


@lru_cache(maxsize=64)
def _fits(target: str, optimizer: str, sample_count: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """λ at the kept steps, (T, 3, 32, P), and which fits failed, (3, 32): step sizes and seeds are one batch, all on the same noise."""
    example = TARGETS[target].example
    mu = torch.tensor(TARGETS[target].start).expand(len(STEP_SIZES), FITS, example.dim)
    options = {"num_samples": sample_count, "num_steps": STEPS, "record_steps": KEPT,
               "optimizer": OPTIMIZERS[optimizer][1](torch.tensor(STEP_SIZES).unsqueeze(-1))}
    return {key: path_or_gaps(estimator, example, MeanFieldGaussian(mu, torch.zeros_like(mu)), **options,
                              generator=torch.Generator().manual_seed(1)) for key, (estimator, _) in ESTIMATORS.items()}


@lru_cache(maxsize=256)
def _race(target: str, optimizer: str, sample_count: int, at: int) -> dict[str, tuple[Along, np.ndarray, dict[str, object]]]:
    """For each estimator, what is exactly true of every fit of one step size, which failed, and what they did together."""
    here, out = TARGETS[target], {}
    rule = (lambda dim: gauss_hermite(dim, 8)) if here.example.dim == 2 else (lambda dim: trapezoid(dim, 193))
    for key, (path, failed) in _fits(target, optimizer, sample_count).items():
        q = MeanFieldGaussian(*path[:, at].chunk(2, -1))
        there = along(here.example, q, ESTIMATORS[key][0].__name__, sample_count, rule, here.table)
        elbo = torch.where(there.elbo.isnan(), -1e9, there.elbo)                 # a lost fit counts as the worst
        low, high = np.maximum(np.quantile(elbo.numpy(), [0.1, 0.9], axis=1), here.elbo_range[0] - 1.0)
        close = steps_to_within(torch.tensor(KEPT), elbo, here.example.best[1], CLOSE).quantile(0.5).item()
        out[key] = there, failed[at].numpy(), {
            "low": low, "high": high, "variance": there.variance.nanquantile(0.5, 1).clip(1e-9, 1e9).numpy(),
            "close": close if close < np.inf else np.nan}
    return out


@lru_cache(maxsize=8)
def _target(target: str) -> dict[str, object]:
    """The posterior's own picture, and the two lines that no q can cross."""
    here, gap = TARGETS[target], np.full(121, np.nan)
    grid, curve, top, ellipse = gap, gap, 1.0, np.array([0.0, 0.0, 1.0, RHO, (1 - RHO**2) ** 0.5])
    if here.example.dim == 1:
        z = torch.linspace(*here.z_range, 121, dtype=torch.float64)
        grid, curve = z.numpy(), (here.example(z.unsqueeze(-1)) - here.example.log_evidence).exp().numpy()
        top, ellipse = 2.0 * curve.max(), np.full(5, np.nan)
    return {"elbo_range": np.array(here.elbo_range), "best_elbo": here.example.best[1], "log_evidence": here.example.log_evidence,
            "p_grid": grid, "p_curve": curve, "p_ellipse": ellipse, "z_range": np.array(here.z_range),
            "density_range": np.array([0.0, top])}


@one_thread()
def compute(sample_count: int, step_size: float, optimizer: str, target: str, seed: int) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    here, empty, lost = TARGETS[target], np.full(len(KEPT), np.nan), []
    low, high = here.z_range
    width = high - low
    frame = dict(_target(target)) | {"steps": np.array(KEPT, dtype=float)}
    for key, (there, failed, together) in _race(target, optimizer, sample_count, STEP_SIZES.index(step_size)).items():
        mean = np.clip(there.mean[:, seed].numpy(), low - width, high + width).T       # followed as far out as the picture is wide
        sd = np.clip(there.stddev[:, seed].numpy(), 0.005, 2 * width).T
        two = here.example.dim == 2
        frame |= {
            f"q_{key}": np.concatenate([empty, empty] if two else [*mean, *sd]),
            f"ellipse_{key}": np.concatenate([*mean, sd[0], 0.0 * sd[0], sd[1]] if two else [empty] * 5),
            f"elbo_{key}": np.maximum(there.elbo[:, seed].numpy(), here.example.best[1] - FLOOR),
            f"kl_{key}": there.kl[:, seed].numpy(), f"failed_{key}": failed.sum(),
            **{f"{name}_{key}": value for name, value in together.items()},
        }
        lost += [LABELS[key]] * bool(failed[seed])
    names = " and ".join(filter(None, [", ".join(lost[:-1]), *lost[-1:]]))
    verdict = f"The bold fit of {names} left the finite numbers: at this step size, noise threw it out." if lost else ""
    return frame | {"verdict": verdict}


def _panels(targets: Sequence[str]) -> tuple[Panel, ...]:
    each = lambda mark, of: [mark(ink=key, when={"estimators": key}, **of(key)) for key in ESTIMATORS]  # noqa: E731
    ticks = (0, 25, 100, 225, 400)
    curves = each(Gaussian, lambda key: {"params": f"q_{key}", "at": "step"})
    ellipses = each(Ellipse, lambda key: {"params": f"ellipse_{key}", "at": "step", "radii": (1.0, 2.0)})
    bands = each(Band, lambda key: {"x": "steps", "low": f"low_{key}", "high": f"high_{key}"})
    elbo = each(Line, lambda key: {"x": "steps", "y": f"elbo_{key}", "until": "step"})
    variance = each(Line, lambda key: {"x": "steps", "y": f"variance_{key}", "until": "step"})
    now = Rule(x="steps", at="step", ink="muted")
    one = Panel("fit", "q moves over the posterior p", Axis("z", "z_range"), Axis("density", "density_range"),
                (Line(x="p_grid", y="p_curve", ink="target", fill=True, label="p"), *curves), 0, when={"target": ("logistic", "mixture")})
    two = Panel("fit_2d", "q moves over the posterior p", Axis("z₁", (-3.0, 3.0)), Axis("z₂", (-3.0, 3.0)),
                (Ellipse(params="p_ellipse", ink="target", radii=(1.0, 2.0), fill=True), *ellipses), 0, when={"target": "correlated"})
    return (
        *([one] if {"logistic", "mixture"} & set(targets) else []), *([two] if "correlated" in targets else []),
        Panel("elbo", "ELBO: one fit bold, 32 as a fan", Axis("", (0, STEPS), "sqrt", ticks), Axis("nats", "elbo_range"),
              (*bands, *elbo, Rule(y="log_evidence", ink="target", label="log p(x)", dashed=False),
               Rule(y="best_elbo", ink="q", label="best q of this family"), now), 1, 1.25),
        Panel("variance", "Gradient variance along the path", Axis("step (square-root scale)", (0, STEPS), "sqrt", ticks),
              Axis("sum over λ, median of 32 fits", (1e-5, 1e3), "log"), (*variance, now), 1, 1.0),
    )


def fit_race(targets: Sequence[str] = tuple(TARGETS), **values: object) -> Explorable:
    """What does gradient noise do to the fit?

    targets : which of `logistic`, `correlated`, `mixture` to offer. Fewer make a smaller page.
    values : where controls stand at first: `sample_count`, `step_size`, `optimizer`, `target`, `seed`, `estimators`, `step` (an index
        into the kept steps).
    Raises KeyError (an unknown target), ExplorableError and TraitError (a value that is not offered).
    """
    own, step = {key: key for key in LABELS}, lambda size: Precision(step=size)
    definition = Definition(
        name="fit-race", title="What does gradient noise do to the fit?",
        controls=(
            Slider("sample_count", "draws a step, S", (2, 8, 32), 8, "d"), Slider("step_size", "step size", STEP_SIZES, 0.1, ".2f"),
            Choice("optimizer", "optimiser", {key: label for key, (label, _) in OPTIMIZERS.items()}, "adam"),
            Choice("target", "posterior", {key: TARGETS[key].label for key in targets}, targets[0]), NewNoise("seed", "New noise", 3),
            Switches("estimators", "race", LABELS, ("score", "pathwise"), own), Play("step", "step", "steps", len(KEPT), len(KEPT) - 1),
        ),
        compute=compute, panels=_panels(targets),
        caption="After {step} steps of {optimizer} with {sample_count} draws each, the bold fits have a KL divergence to the best q of "
                "{kl_score@step:.2g} nats (score function) and {kl_pathwise@step:.2g} nats (pathwise). {verdict}",
        table=Table(LABELS, (
            Column("ELBO now", "elbo_{row}", ".2f", "step",
                   "the exact ELBO of the bold fit, in nats; not followed further than 200 nats below the best"),
            Column("KL to the best q", "kl_{row}", ".2g", "step", "nats"),
            Column("gradient variance now", "variance_{row}", ".2g", "step", "summed over λ, median of 32 fits"),
            Column("steps to within 0.01 nats", "close_{row}", "d", "", "median of 32 fits; – where half of them never are"),
            Column("fits that failed", "failed_{row}", "d", "", "of 32: met a number that is not finite"),
        ), own, "estimators"),
        precision={
            "q_*": step(0.02), "ellipse_*": step(0.02), "elbo_range": Precision(), "elbo_*": step(0.005), "low_*": step(0.01),
            "high_*": step(0.01), "variance_*": Precision(relative=0.03), "kl_*": Precision(relative=0.04), "p_curve": step(0.0005),
            "close_*": step(1), "failed_*": step(1), "steps": step(1),
        },
    )
    return Explorable(definition, **values)
