"""advi-lab: what do the choices of an ADVI fit change?

One climb of 300 steps from a start that is bad on purpose, in units of its widths: family, draws a step, optimiser, step size,
tempering. q is drawn on the scale of the model's own parameters, over the reference posterior. Its moments there are exact, to the
digits that the table shows; its ELBO along the way comes from 100 draws at a time, that of the last q and its k̂ from 1,000.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from vilib import Fit
from vilib.bad_starts import bad_starts, beside_reference, in_a_table
from vilib.families import Gaussian as GaussianFamily
from vilib.side_by_side import every_choice

from ..contours import mass_rings
from ..core import Axis, Choice, Column, Contour, Definition, Ellipse, Gaussian, Line, Panel, Play, Precision, Slider, Table
from ..threads import one_thread
from ..widget import Explorable
from .own import of_the_book
from .own_lab import (
    DRAWS, FAMILIES, KEPT, LAST, OPTIMIZERS, SIZES, STEPS, TEMPERING, climbs, labels, own_advi_lab, verdict,
)

LABS = bad_starts()
#: model → label, and the axes of the two parameters shown
MODELS = {
    "raw": ("kidiq, raw", Axis("β₀", (0, 50)), Axis("β₁", (0.35, 0.9))),
    "centred": ("kidiq, centred", Axis("β₀ + β₁ · mean IQ", (73, 92)), Axis("β₁", (0.2, 0.85))),
    "coin": ("a coin, 6 heads in 10", Axis("θ", (0, 1)), Axis("density", (0, 6))),
    "schools": ("eight schools", Axis("mu", (-14, 20)), Axis("tau", (0, 16))),
    "mixture": ("two-component mixture", Axis("mu₁", (-3.0, -2.3)), Axis("mu₂", (2.1, 3.2))),
}


@lru_cache(maxsize=32)
def _fits(model: str, family: str, draws: int) -> Fit[GaussianFamily]:
    """All 18 fits: optimiser, tempering, step size."""
    return every_choice(
        LABS[model].example, LABS[model].q0(FAMILIES[family][1]), optimizers=[make for _, make in OPTIMIZERS.values()],
        powers=[power for _, power in TEMPERING.values()], step_sizes=SIZES, num_samples=draws, num_steps=STEPS,
        record_steps=KEPT, generator=torch.Generator().manual_seed(1))


@lru_cache(maxsize=None)
def _reference(model: str) -> dict[str, object]:
    """The reference posterior: its curve or rings, and means and sds."""
    lab, theta = LABS[model], torch.linspace(0.05, 0.95, 91, dtype=torch.float64)
    rings = mass_rings(lab.marginal) if lab.marginal else np.full((2, 100), np.nan)
    curve = theta * np.nan if lab.marginal else lab.example.posterior.log_prob(theta).exp()
    known = {f"known_{what}_{row}": pair[i].item() for what, pair in zip(("mean", "sd"), lab.known) for i, row in enumerate("xy")}
    return known | {"curve_x": theta.numpy(), "curve_y": curve.numpy(), "ring_x": rings[0], "ring_y": rings[1],
                    "ring_mass": np.array([86.0, 39.0])}


@one_thread()
def compute(model: str, family: str, draws: int, optimizer: str, step_size: float, tempering: str) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    lab, best = LABS[model], LABS[model].best[family]
    at = list(OPTIMIZERS).index(optimizer), list(TEMPERING).index(tempering), SIZES.index(step_size)
    path = _fits(model, family, draws).q_at((slice(None), *at))
    seen = beside_reference(lab, path, best, DRAWS, LAST, torch.Generator().manual_seed(2))
    low, high = ((seen.elbo + sign * 2 * seen.error).clamp_min(best - 99).numpy() for sign in (-1, 1))
    curve, ellipse = (seen.in_z[:, columns].T.flatten().numpy() for columns in ([0, 2], slice(None)))
    curve, ellipse = (curve, ellipse * np.nan) if model == "coin" else (curve * np.nan, ellipse)
    moments = {f"{name}_{row}": values[:, i].numpy() for name, values in in_a_table(lab, seen).items() for i, row in enumerate("xy")}
    return _reference(model) | moments | {
        "q_curve": curve, "q_ellipse": ellipse, "steps": np.array(KEPT, dtype=float), "best": best, "one": 1.0,
        "elbo": seen.elbo.numpy(), "error": seen.error.numpy(), "low": low, "high": high, "gap": seen.gap,
        "gap_error": seen.spread / LAST**0.5, "k_hat": seen.k_hat if abs(seen.k_hat) < 100 else math.nan,
        "elbo_range": np.array([best - 12.0, best + 2.0]).round(), "across": MODELS[model][1].label,
        "up": f"up: {MODELS[model][2].label}", "verdict": verdict(seen),
    }


def _plane(model: str) -> Panel:
    (_, x, y), through = MODELS[model], LABS[model].through
    marks, note = (Contour(x="ring_x", y="ring_y", levels="ring_mass", ink="target"),
                   Ellipse(params="q_ellipse", at="step", ink="q", through=through)), "39 % and 86 % of each"
    if model == "coin":
        marks, note = (Line(x="curve_x", y="curve_y", ink="target", fill=True, label="reference"),
                       Gaussian(params="q_curve", at="step", ink="q", through=through)), ""
    return Panel(model, "q over the reference", x, y, marks, 0, note=note, when={"model": model})


def advi_lab(models: Any = tuple(LABS), **values: Any) -> Explorable:
    """What do the choices of an ADVI fit change?

    models : which of `raw`, `centred`, `schools`, `mixture`, `coin` to offer; or a model of your own: a
        function of named parameters with `supports` (and `shapes`), a function of many z with `dim`, a `vilib.Model`, or a dict of
        several; `coordinates` says which two unknowns are drawn.
    values : where controls stand at first: `model`, `family`, `draws`, `optimizer`, `step_size`, `tempering`, `step`.
    Raises KeyError (an unknown model), ExplorableError and TraitError (a value that is not offered).
    """
    if not of_the_book(models):
        return own_advi_lab(models, **values)
    step, relative = lambda *size: Precision(*size), lambda share: Precision(relative=share)  # noqa: E731
    definition = Definition(
        name="advi-lab", title="What do the choices of an ADVI fit change?",
        controls=(
            Choice("model", "model", labels({key: MODELS[key] for key in models}), models[0]),
            Choice("family", "family", labels(FAMILIES), "mean"), Slider("draws", "draws, M", (1, 10), 10, "d"),
            Choice("optimizer", "optimiser", labels(OPTIMIZERS), "adam"), Slider("step_size", "step size", SIZES, 0.1, ".2f"),
            Choice("tempering", "tempering", labels(TEMPERING), "off"), Play("step", "step", "steps", len(KEPT), len(KEPT) - 1),
        ),
        compute=compute, panels=(*(_plane(model) for model in LABS if model in models), *climbs()),
        caption="Across: {across}, {up}. After {step} steps the ELBO is {elbo@step:.2f} ± {error@step:.2f}. The last q is "
                "{gap:.2f} ± {gap_error:.2f} nats below the best of its family, with k̂ = {k_hat:.2f}. {verdict}",
        table=Table({"x": "across", "y": "up"}, (
            Column("mean of q", "mean_{row}", ".4g", "step"), Column("sd of q", "sd_{row}", ".3g", "step"),
            Column("reference mean", "known_mean_{row}", ".4g"), Column("reference sd", "known_sd_{row}", ".3g"),
            Column("mean off by", "off_{row}", ".1f", "step", "in reference sds"),
            Column("sd ÷ reference sd", "ratio_{row}", ".2f", "step"),
        )),
        precision={
            "q_*": relative(0.0005), "ring_mass": step(1), "ring_*": relative(0.0001), "curve_*": step(0.002),
            "elbo_range": step(), "best": step(), "one": step(), "steps": step(1), "elbo": step(0.02), "low": step(0.1),
            "high": step(0.1), "off_*": step(0.1), "known_*": step(), "error": relative(0.05), "gap": step(0.01),
            "gap_error": relative(0.02), "k_hat": step(0.01), "mean_*": relative(4.9e-5), "sd_*": relative(4.9e-4),
            "ratio_*": step(0.01), "*": relative(0.01),
        },
    )
    return Explorable(definition, **values)
