"""advi-lab: what do the choices of an ADVI fit change?

One climb of 300 steps from a start that is bad on purpose, in units of the start's widths: family, draws a step, optimiser, step size,
tempering. q is drawn on the scale of the model's own parameters, over the reference posterior. Its moments there are exact; its ELBO
along the way comes from 100 draws at a time, that of the last q and its k̂ from 1,000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from vilib import (
    Example, Fit, FullRankGaussian, MeanFieldGaussian, adagrad, adam, coin_toss, eight_schools, elbo_estimate, fit, kidiq,
    log_weights, pareto_k, rmsprop, sticking_the_landing,
)
from vilib.climb import InUnitsOf, compose, standard
from vilib.reference import mixture_of_two, reference_marginal, transformed_moments
from vilib.side_by_side import Tempered, optimizers_side_by_side

from ..contours import level_rings
from ..core import Axis, Band, Choice, Column, Contour, Definition, Ellipse, Gaussian, Line, Panel, Play, Precision, Rule, Slider, Table
from ..threads import one_thread
from ..widget import Explorable

STEPS, LADDER, FLOOR = 300, 100, 1e5                          # of which LADDER are tempered; nats that an ELBO is followed down
KEPT = tuple(sorted({round(STEPS * (i / 12) ** 2) for i in range(13)}))
SIZES = (0.03, 0.1, 0.3)
FAMILIES = {"mean": ("mean field", MeanFieldGaussian), "full": ("full rank", FullRankGaussian)}
OPTIMIZERS = {"adagrad": ("AdaGrad", adagrad), "rmsprop": ("RMSProp", rmsprop), "adam": ("Adam", adam)}
TEMPERING = {"off": "off, β = 1", "on": "on, β rises to 1"}


@dataclass(frozen=True)
class Lab:
    """A model, and where its fit begins in z: means and sds.  ``axes``: the parameters shown, label and range each; ``through``: the map
    from z to them; ``best``: the ELBO that ``vilib.advi`` reaches, by family."""

    label: str
    example: Example
    start: tuple[tuple[float, ...], tuple[float, ...]]
    axes: tuple[tuple[str, tuple[float, float]], ...]
    through: str
    best: dict[str, float]


LABS = {
    "raw": Lab("kidiq, raw", kidiq(), ((14.0, 0.65, 3.2), (3.0, 0.03, 0.1)), (("β₀", (0, 50)), ("β₁", (0.35, 0.9))), "",
               {"mean": -1883.573, "full": -1881.665}),
    "centred": Lab("kidiq, centred", kidiq(True), ((80.0, 0.4, 3.2), (3.0, 0.1, 0.1)), (("β₀ + β₁ · mean IQ", (73, 92)), ("β₁", (0.2, 0.85))), "",
                   {"mean": -1881.665, "full": -1881.665}),
    "coin": Lab("a coin, 6 heads in 10", coin_toss(6, 4), ((-2.0,), (0.5,)), (("θ", (0, 1)), ("density", (0, 6))), "sigmoid",
                {"mean": -7.0695, "full": -7.0695}),
    "schools": Lab("eight schools", eight_schools(), ((-6.0, *[0.0] * 9), (2.0, *[0.5] * 9)), (("mu", (-14, 20)), ("tau", (0, 16))), "exp",
                   {"mean": -31.62, "full": -31.53}),
    "mixture": Lab("two-component mixture", mixture_of_two(), ((-2.5, 1.55, 0.1, 0.1, 0.3), (0.1, 0.02, 0.1, 0.1, 0.1)),
                   (("μ₁", (-3.0, -2.3)), ("μ₂", (2.1, 3.2))), "ordered", {"mean": -2115.927, "full": -2115.687}),
}


def _beta(step: int) -> torch.Tensor:
    """Without and with tempering, one above the other, for all step sizes."""
    return torch.tensor([[1.0], [0.05 ** max(0.0, 1 - step / LADDER)]], dtype=torch.float64)


@lru_cache(maxsize=32)
def _fits(model: str, family: str, draws: int) -> Fit:
    """All 18 fits of three optimisers, with and without tempering, at three step sizes: one program. λ in coordinates of z."""
    mean, sd = (torch.tensor(x, dtype=torch.float64) for x in LABS[model].start)
    q0 = MeanFieldGaussian(mean, sd.log()) if family == "mean" else FullRankGaussian(mean, torch.diag(sd.log()))
    q = q0.expand(len(OPTIMIZERS), len(TEMPERING), len(SIZES))
    log_joint = Tempered(InUnitsOf(q, LABS[model].example), _beta)
    optimizer = optimizers_side_by_side([make(torch.tensor(SIZES)) for _, make in OPTIMIZERS.values()])
    done = fit(sticking_the_landing, log_joint, standard(q), num_samples=draws, num_steps=STEPS, optimizer=optimizer,
               generator=torch.Generator().manual_seed(1), noise=log_joint.noise, record_steps=KEPT)
    return Fit(done.steps, compose(q0, done.q_at(slice(None))).vector(), done.elbo, done.failed_at, q0)


@lru_cache(maxsize=None)
def _reference(model: str) -> dict[str, object]:
    """The reference posterior: its curve or rings, and means and sds."""
    lab, x = LABS[model], torch.linspace(0.05, 0.95, 91, dtype=torch.float64)
    coin = lab.example.posterior
    exact = coin or reference_marginal(lab.example.name)
    frame = {"curve_x": x.numpy(), "curve_y": coin.log_prob(x).exp().numpy() if coin else np.full(91, np.nan), "ring_mass": np.array([86.0, 39.0])}
    frame["ring_x"], frame["ring_y"] = np.full((2, 100), np.nan)
    if not coin:
        depths = [exact.depth(1 - math.exp(-r * r / 2)) for r in (1, 2)]
        depth = -exact.probability.clamp_min(1e-300).log()
        frame["ring_x"], frame["ring_y"], _ = level_rings(exact.x.numpy(), exact.y.numpy(), depth.numpy(), depths, num_rings=2)
    known = {"mean": exact.mean, "sd": exact.stddev if coin else exact.sd}
    return frame | {f"known_{what}_{row}": both[i] for what, v in known.items() for both in [(*v.reshape(-1).tolist(), np.nan)]
                    for i, row in enumerate("xy")}


@one_thread()
def compute(model: str, family: str, draws: int, optimizer: str, step_size: float, tempering: str) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    lab, done, frame = LABS[model], _fits(model, family, draws), dict(_reference(model))
    at = list(OPTIMIZERS).index(optimizer), list(TEMPERING).index(tempering), SIZES.index(step_size)
    path, one, best = done.family.with_vector(done.path[(slice(None), *at)]), lab.through == "sigmoid", lab.best[family]
    lost = ~((path.mean.abs() < 1e4) & (path.log_scales().abs() < 20)).all(-1)                      # thrown out, beyond all use
    path = path.with_vector(torch.where(lost.unsqueeze(-1), path.vector()[:1], path.vector()))
    m, tril = path.mean[:, :2], path.scale_tril[:, :2, :2]
    if one:
        m, tril = torch.cat([m, 0 * m], -1), tril * torch.eye(2)
    mean, sd = transformed_moments(lab.through, m, tril)
    params = [m[:, 0], tril[:, 0, 0]] if one else [m[:, 0], m[:, 1], tril[:, 0, 0], tril[:, 1, 0], tril[:, 1, 1]]
    generator = torch.Generator().manual_seed(2)
    elbo, error = elbo_estimate(lab.example, path, 100, generator)
    last = log_weights(lab.example, path.with_vector(path.vector()[-1]), 1000, generator)
    gap, spread, k_hat = (math.nan,) * 3 if lost[-1] else (best - last.mean().item(), last.std().item(), pareto_k(last).item())
    gap, spread = (gap, spread) if gap < FLOOR else (math.nan, math.nan)
    elbo = elbo.masked_fill(elbo < best - FLOOR, math.nan)
    there = lambda value: np.where(lost.numpy() | ~(value.abs() < FLOOR).numpy(), np.nan, value.numpy())  # noqa: E731
    for i, row in enumerate("xy"):
        known, width = frame[f"known_mean_{row}"], frame[f"known_sd_{row}"]
        frame |= {f"mean_{row}": there(mean[:, i]), f"sd_{row}": there(sd[:, i]), f"off_{row}": there((mean[:, i] - known) / width),
                  f"ratio_{row}": there(sd[:, i] / width)}
    return frame | {
        "q_curve": np.concatenate([there(v) for v in params]) if one else np.full(2 * len(KEPT), np.nan),
        "q_ellipse": np.full(5 * len(KEPT), np.nan) if one else np.concatenate([there(v) for v in params]),
        "steps": np.array(KEPT, dtype=float), "elbo": there(elbo), "low": there((elbo - 2 * error).clamp_min(best - 99)),
        "high": there((elbo + 2 * error).clamp_min(best - 99)), "error": there(error + 0 * elbo), "best": best, "one": 1.0, "gap": gap,
        "k_hat": k_hat if abs(k_hat) < 100 else math.nan, "gap_error": spread / 1000**0.5,
        "elbo_range": np.array([best - 12.0, best + 2.0]).round(), "across": lab.axes[0][0], "up": f"up: {lab.axes[1][0]}",
        "verdict": _verdict(gap, spread, min(r for r in (frame["ratio_x"][-1], frame["ratio_y"][-1]) if r == r) if gap == gap else 0.0),
    }


def _verdict(gap: float, spread: float, narrowest: float) -> str:
    if not gap < min(0.05 + 2 * spread / 1000**0.5, 0.5):
        return "It has not arrived." if gap < 100 else "Its steps threw it out."
    said = "It has arrived."
    if narrowest < 0.5:
        said = "It has arrived, and a width is less than half of the reference's all the same: the family's doing, not the fit's."
    return said + (" All its weights are much alike, so this k̂ means little." if spread < 0.3 else "")


def _panels() -> tuple[Panel, ...]:
    ticks = (0, 25, 100, 225, 300)
    planes = []
    for key, lab in LABS.items():
        (x, x_range), (y, y_range) = lab.axes
        if lab.through == "sigmoid":
            marks = (Line(x="curve_x", y="curve_y", ink="target", fill=True, label="reference"),
                     Gaussian(params="q_curve", at="step", ink="q", through="sigmoid"))
        else:
            marks = (Contour(x="ring_x", y="ring_y", levels="ring_mass", ink="target"),
                     Ellipse(params="q_ellipse", at="step", ink="q", through=lab.through))
        note = "" if lab.through == "sigmoid" else "39 % and 86 % of each"
        planes.append(Panel(key, "q over the reference", Axis(x, x_range), Axis(y, y_range), marks, 0, note=note, when={"model": key}))
    return (
        *planes,
        Panel("elbo", "ELBO, from 100 draws a time", Axis("", (0, STEPS), "sqrt", ticks), Axis("nats", "elbo_range"),
              (Band(x="steps", low="low", high="high", ink="q"), Line(x="steps", y="elbo", ink="q", until="step"),
               Rule(y="best", ink="target", label="best q of this family"), Rule(x="steps", at="step", ink="muted")), 1, 1.2),
        Panel("widths", "sd of q ÷ sd of the reference", Axis("step (square-root scale)", (0, STEPS), "sqrt", ticks), Axis("", (0.05, 20), "log"),
              (Rule(y="one", ink="target"), Line(x="steps", y="ratio_x", ink="q", until="step"),
               Line(x="steps", y="ratio_y", ink="q", until="step", dashed=True),
               Rule(x="steps", at="step", ink="muted")), 1, note="solid: across, dashed: up"),
    )


def advi_lab(models: Sequence[str] = tuple(LABS), **values: object) -> Explorable:
    """What do the choices of an ADVI fit change?

    models : which of `raw`, `centred`, `schools`, `mixture`, `coin` to offer.
    values : where controls stand at first: `model`, `family`, `draws`, `optimizer`, `step_size`, `tempering`, `step`.
    Raises KeyError (an unknown model), ExplorableError and TraitError (a value that is not offered).
    """
    columns = (("mean of q", "mean_{row}", ".4g", "step", ""), ("sd of q", "sd_{row}", ".3g", "step", ""),
               ("reference mean", "known_mean_{row}", ".4g", "", ""), ("reference sd", "known_sd_{row}", ".3g", "", ""),
               ("mean off by", "off_{row}", ".2f", "step", "in reference sds"), ("sd ÷ reference sd", "ratio_{row}", ".2f", "step", ""))
    choice = lambda name, label, options, value: Choice(name, label, options, value)  # noqa: E731
    definition = Definition(
        name="advi-lab", title="What do the choices of an ADVI fit change?",
        controls=(
            choice("model", "model", {key: LABS[key].label for key in models}, models[0]),
            choice("family", "family", {key: label for key, (label, _) in FAMILIES.items()}, "mean"),
            Slider("draws", "draws, M", (1, 10), 10, "d"),
            choice("optimizer", "optimiser", {key: label for key, (label, _) in OPTIMIZERS.items()}, "adam"),
            Slider("step_size", "step size", SIZES, 0.1, ".2f"),
            choice("tempering", "tempering", TEMPERING, "off"),
            Play("step", "step", "steps", len(KEPT), len(KEPT) - 1),
        ),
        compute=compute, panels=tuple(panel for panel in _panels() if not panel.when or panel.when["model"] in models),
        caption="Across: {across}, {up}. After {step} steps the ELBO is {elbo@step:.2f} ± {error@step:.2f}. The last q is {gap:.2f} ± {gap_error:.2f} "
                "nats below the best of its family, with k̂ = {k_hat:.2f}. {verdict}",
        table=Table({"x": "across", "y": "up"}, tuple(Column(*column) for column in columns)),
        precision={"q_*": Precision(relative=0.0005), "ring_mass": Precision(step=1), "ring_*": Precision(relative=0.0001), "curve_*": Precision(step=0.002),
                   "elbo_range": Precision(), "best": Precision(), "one": Precision(), "steps": Precision(step=1), "elbo": Precision(step=0.02),
                   "low": Precision(step=0.1), "high": Precision(step=0.1), "off_*": Precision(step=0.02), "known_*": Precision(),
                   "error": Precision(relative=0.05), "gap": Precision(step=0.01), "gap_error": Precision(relative=0.02),
                   "k_hat": Precision(step=0.01), "mean_*": Precision(relative=0.0005), "*": Precision(relative=0.01)},
    )
    return Explorable(definition, **values)
