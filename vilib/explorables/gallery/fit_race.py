"""fit-race: what does gradient noise do to the fit?

Estimators climb the same ELBO from the same start on the same noise. 32 fits run side by side for each; one is drawn bold and
all are drawn as a fan. What is shown at a step is exact (quadrature), not the noisy estimate that the fit itself saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from vilib.race import Field, field_of, races
from vilib.race_tracks import RHO, tracks

from ..core import (
    Axis, Band, Choice, Column, Definition, Ellipse, Gaussian, Line, NewNoise, Panel, Play, Precision, Rule, Slider, Switches, Table,
)
from ..threads import one_thread
from ..widget import Explorable, recording_wanted
from .own import of_the_book
from .own_race import ESTIMATORS, LABELS, OPTIMIZERS, own_fit_race

FITS, STEPS, STEP_SIZES = 32, 400, (0.03, 0.1, 0.3)
#: The steps that are kept: dense at first, where most happens. They lie evenly on a square-root axis.
KEPT = sorted({round(STEPS * (i / 25) ** 2) for i in range(26)})
CLOSE, FLOOR = 0.01, 200.0  # nats; how far below the best an ELBO is followed down
TARGETS = tracks()


@lru_cache(maxsize=64)
def _fits(target: str, optimizers: tuple[str, ...], sample_count: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """λ at the kept steps, (T, K, 3, 32, P), and which fits failed: optimisers, step sizes and seeds in one batch, on the same noise."""
    here, climbs = TARGETS[target], [OPTIMIZERS[name][1](torch.tensor(STEP_SIZES).unsqueeze(-1)) for name in optimizers]
    return races({key: estimator for key, (estimator, _) in ESTIMATORS.items()}, here.example, here.q0(len(STEP_SIZES), FITS),
                 climbs, seed=1, num_samples=sample_count, num_steps=STEPS, record_steps=KEPT)


@lru_cache(maxsize=256)
def _fields(target: str, optimizer: str, sample_count: int, at: int) -> dict[str, tuple[Field, torch.Tensor]]:
    """For each estimator, what is exactly true of the fits of one step size, and which failed."""
    here, which = TARGETS[target], (*OPTIMIZERS,) if recording_wanted() else (optimizer,)  # a recording asks for all, a reader for one
    place, look = (which.index(optimizer), at), {"num_samples": sample_count, "nats": CLOSE, "table": here.table}
    return {key: (field_of(here.example, path[(slice(None), *place)], KEPT, ESTIMATORS[key][0].__name__, **look), failed[place])
            for key, (path, failed) in _fits(target, which, sample_count).items()}


@lru_cache(maxsize=8)
def _target(target: str) -> dict[str, object]:
    """The posterior's own picture, and the two lines that no q can cross."""
    here, gap = TARGETS[target], np.full(121, np.nan)
    grid, curve, top, ellipse = gap, gap, 1.0, np.array([0.0, 0.0, 1.0, RHO, (1 - RHO**2) ** 0.5])
    if here.example.dim == 1:
        grid, ellipse = torch.linspace(*here.z_range, 121, dtype=torch.float64), np.full(5, np.nan)
        curve = here.density(grid)
        top = 2.0 * curve.max().item()
    return {"elbo_range": np.array(here.elbo_range), "best_elbo": here.example.best[1], "log_evidence": here.example.log_evidence,
            "p_grid": grid, "p_curve": curve, "p_ellipse": ellipse, "z_range": np.array(here.z_range),
            "density_range": np.array([0.0, top])}


@one_thread()
def compute(sample_count: int, step_size: float, optimizer: str, target: str, seed: int) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    here, empty, lost = TARGETS[target], np.full(len(KEPT), np.nan), []
    (low, high), two = here.z_range, here.example.dim == 2
    width = high - low
    frame = _target(target) | {"steps": np.array(KEPT, dtype=float)}
    for key, (field, failed) in _fields(target, optimizer, sample_count, STEP_SIZES.index(step_size)).items():
        mean = field.fits.mean[:, seed].clip(low - width, high + width).T         # followed as far out as the picture is wide
        sd = field.fits.stddev[:, seed].clip(0.005, 2 * width).T
        frame |= {
            f"q_{key}": np.concatenate([empty, empty] if two else [*mean, *sd]),
            f"ellipse_{key}": np.concatenate([*mean, sd[0], 0.0 * sd[0], sd[1]] if two else [empty] * 5),
            f"elbo_{key}": field.fits.elbo[:, seed].clip(here.example.best[1] - FLOOR), f"kl_{key}": field.fits.kl[:, seed],
            f"failed_{key}": failed.sum(), f"low_{key}": field.low.clip(here.elbo_range[0] - 1.0),
            f"high_{key}": field.high.clip(here.elbo_range[0] - 1.0), f"variance_{key}": field.variance.clip(1e-9, 1e9),
            f"close_{key}": field.arrived,
        }
        lost += [LABELS[key]] * bool(failed[seed])
    names = " and ".join(filter(None, [", ".join(lost[:-1]), *lost[-1:]]))
    thrown_out = f"The bold fit of {names} left the finite numbers: at this step size, noise threw it out."
    return frame | {"verdict": thrown_out if lost else ""}


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


def fit_race(targets: Any = tuple(TARGETS), **values: Any) -> Explorable:
    """What does gradient noise do to the fit?

    targets : which of `logistic`, `correlated`, `mixture` to offer, fewer make a smaller page; or a model of your own: a
        function of named parameters with `supports` (and `shapes`), a function of many z with `dim`, a `vilib.Model`, or a dict of
        several; `coordinates` says which two unknowns are drawn.
    values : where controls stand at first: `sample_count`, `step_size`, `optimizer`, `target`, `seed`, `estimators`, `step` (an index
        into the kept steps).
    Raises KeyError (an unknown target), ExplorableError and TraitError (a value that is not offered).
    """
    if not of_the_book(targets):
        return own_fit_race(targets, **values)
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
