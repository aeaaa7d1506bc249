"""gradient-variance: how noisy is one gradient, and what do more draws buy?

500 independent estimates of ∂/∂μ at every S from 1 to 4096, by each estimator, from the same draws; beside them the
exact gradient and the exact variance. One evaluation of f at each draw serves them all (`vilib.per_draw`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from vilib import cosine_cost, exponential_cost, logistic_one_coefficient, normal, quadratic_cost
from vilib.gradient_noise import GradientNoise, alike, along_first_coordinate, gradient_noise, score_terms

from ..core import Axis, Bars, Choice, Column, Definition, Line, NewNoise, Panel, Point, Precision, Rule, Slider, Stems, Switches, Table
from ..threads import one_thread
from ..widget import Explorable
from .own import of_the_book
from .own_noise import ESTIMATORS, own_gradient_variance

REPLICATES, SHOWN_DRAWS, BINS = 500, 64, 51
SAMPLE_COUNTS = tuple(2**k for k in range(13))
#: Two ordinary draws of noise, then one that holds a draw more than four σ out: the tail that a score function fears.
NOISES = (1, 2, 0)

#: key → (label, f, number of dimensions, range of f in the picture)
COSTS = {"quadratic": ("f(z) = z²", quadratic_cost(0.0), 1, (0.0, 16.0)),
         "quadratic_10": ("f(z) = ‖z‖², ten dimensions", quadratic_cost(0.0), 10, (0.0, 60.0)),
         "cosine": ("f(z) = cos 2z", cosine_cost(2.0), 1, (-1.25, 1.25)),
         "bump": ("f(z) = exp(−z²)", exponential_cost(1.0), 1, (0.0, 1.2)),
         "logistic": ("ELBO of a logistic regression", logistic_one_coefficient(), 1, (-14.0, 4.0))}
NO_SIGNAL = "The true gradient is zero here, so noise is all there is: no number of draws gives a signal."
NEEDED = ("For a ratio of ten the score function needs {needed_score:,d} draws a step, leave-one-out "
          "{needed_control:,d}, pathwise {needed_pathwise:,d}.")
NOISIER = " Here the pathwise gradient is the noisier one."


@lru_cache(maxsize=4)
def _noise(seed: int, dim: int) -> torch.Tensor:
    """ε for every replicate: (4096, 500, dim)."""
    return normal(SAMPLE_COUNTS[-1], (REPLICATES,), dim, generator=torch.Generator().manual_seed(NOISES[seed]))


@lru_cache(maxsize=64)
def _studied(cost: str, mu: float, log_sigma: float, seed: int) -> tuple[dict[str, GradientNoise], torch.Tensor, torch.Tensor]:
    """What each estimator makes of ∂/∂μ₁ at every S; where replicate 0's draws fell and what each adds to the sum."""
    f, dim = COSTS[cost][1:3]
    q, eps = alike(mu, log_sigma, dim), _noise(seed, dim)
    noise = gradient_noise(f, q, eps, [name for name, *_ in ESTIMATORS.values()])
    return noise, *score_terms(f, q, eps[:SHOWN_DRAWS, 0])


def _curves(cost: str, mu: float, log_sigma: float) -> dict[str, object]:
    """f along z, and q's density scaled to two fifths of the panel."""
    _, f, dim, (low, high) = COSTS[cost]
    z, height = torch.linspace(-7.0, 7.0, 97, dtype=torch.float64), high - low
    density = alike(mu, log_sigma, 1).log_prob(z.unsqueeze(-1)).exp()
    curve = along_first_coordinate(f, alike(mu, log_sigma, dim), z).clip(low - height, high + height)
    return {"z_grid": z, "f_curve": curve, "f_range": [low, high], "q_curve": low + 0.4 * height * (density / density.max())}


@one_thread()
def compute(sample_count: int, cost: str, mu: float, log_sigma: float, seed: int) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    studied, z, weights = _studied(cost, mu, log_sigma, seed)
    score, path = studied["score_function"], studied["pathwise"]
    exact, reach, most = score.exact, 3.0 * score.variance[0].sqrt().item(), 1.08 * weights.abs().max().item()
    at, shown, outside = SAMPLE_COUNTS.index(sample_count), np.arange(SHOWN_DRAWS) < sample_count, 0
    frame: dict[str, object] = _curves(cost, mu, log_sigma) | {
        "draw_z": np.where(shown, z, np.nan), "draw_weight": np.where(shown, weights, np.nan), "weight_range": [-most, most],
        "gradient_range": np.array([exact - reach, exact + reach]), "exact": exact, "counts": np.array(SAMPLE_COUNTS),
    }
    for key, (name, *_) in ESTIMATORS.items():
        one, values = studied[name], studied[name].estimates.numpy()
        bins = np.histogram(values[at], BINS, (exact - reach, exact + reach))[0]
        outside += int(np.isfinite(values[at]).sum() - bins.sum())
        frame |= {
            f"histogram_{key}": bins, f"mean_{key}": values.mean(-1), f"variance_{key}": values.var(-1, ddof=1),
            f"theory_{key}": one.variance, f"error_{key}": one.standard_error, f"snr_{key}": one.signal_to_noise,
            f"needed_{key}": one.draws_for(10.0), f"exact_{key}": one.exact,
        }
    verdict = NO_SIGNAL if abs(exact) < 1e-9 else NEEDED + NOISIER * bool(path.variance[-1] > score.variance[-1])
    return frame | {"outside": f"{outside} beyond the axis" if outside else "", "verdict": verdict}


def _panels() -> tuple[Panel, ...]:
    lanes, variance = [], []
    for row, (key, (_, _, short)) in enumerate(ESTIMATORS.items()):
        how = {"ink": key, "when": {"estimators": key} | ({"cost": "logistic"} if key == "stl" else {})}
        lanes.append(Bars(heights=f"histogram_{key}", row=row, rows=len(ESTIMATORS), label=short, **how))
        variance += [
            Line(x="counts", y=f"theory_{key}", width=1.6, label=short.split()[0], aside=True, **how),
            Line(x="counts", y=f"variance_{key}", width=0, points=True, **how), Point(x="counts", y=f"variance_{key}", at="sample_count", **how),
        ]
    return (
        Panel("cost", "The function f, and q", Axis("", (-7, 7)), Axis("f(z)", "f_range"),
              (Line(x="z_grid", y="q_curve", ink="q", fill=True, width=1.4, label="q"),
               Line(x="z_grid", y="f_curve", ink="target", label="f")), 0, 1.0),
        Panel("weights", "What each draw adds to the sum", Axis("z", (-7, 7)),
              Axis("f(z) · ∂ log q(z)/∂μ", "weight_range"), (Stems(x="draw_z", y="draw_weight", ink="score"),), 0, 1.1),
        Panel("estimates", "500 gradient estimates", Axis("estimate of ∂/∂μ", "gradient_range"), Axis("", (0, 1), ticks=()),
              (*lanes, Rule(x="exact", ink="text", label="exact")), 1, note="{outside}"),
        Panel("variance", "Variance of one estimate against S", Axis("draws a gradient, S", (1, 4096), "log", SAMPLE_COUNTS[::2]),
              Axis("line exact, points measured", (1e-6, 1e4), "log"), tuple(variance), 2),
    )


def gradient_variance(costs: Any = tuple(COSTS), **values: Any) -> Explorable:
    """How noisy is one gradient, and what do more draws buy?

    costs : which of `quadratic`, `quadratic_10`, `cosine`, `bump`, `logistic` to offer; or a model of your own: a
        function of named parameters with `supports` (and `shapes`), a function of many z with `dim`, a `vilib.Model`, or a dict of
        several; `coordinates` says which two unknowns are drawn.
    values : where controls stand at first: `sample_count`, `cost`, `mu`, `log_sigma`, `seed`, `estimators`.
    Raises KeyError (an unknown cost), ExplorableError and TraitError (a value that is not offered), VilibError (what is no model).
    """
    if not of_the_book(costs):
        return own_gradient_variance(costs, **values)
    labels = {key: label for key, (_, label, _) in ESTIMATORS.items() if key != "stl" or "logistic" in costs}
    definition = Definition(
        name="gradient-variance", title="How noisy is one gradient, and what do more draws buy?",
        controls=(
            Slider("sample_count", "draws a gradient, S", SAMPLE_COUNTS, 16, "d", wide=True),
            Slider("mu", "q's mean, μ", (-2.0, -1.0, 0.0, 1.0, 2.0), 1.0, ".1f"),
            Slider("log_sigma", "q's log σ", (-0.7, 0.0, 0.7), 0.0, ".1f"),
            Choice("cost", "cost or model", {key: COSTS[key][0] for key in costs}, costs[0]), NewNoise(count=len(NOISES)),
            Switches("estimators", "estimators", labels, tuple(labels), {key: key for key in labels}),
        ),
        compute=compute, panels=_panels(),
        caption="With {sample_count} draws, one score-function gradient has a signal-to-noise ratio of "
                "{snr_score@sample_count:.2g}, a pathwise one {snr_pathwise@sample_count:.2g}. {verdict}",
        table=Table(labels, (
            Column("mean of 500", "mean_{row}", ".3g", "sample_count", "the mean of the 500 estimates"),
            Column("±\u00a0s.e.", "error_{row}", ".2g", "sample_count", "standard error of that mean"),
            Column("exact", "exact_{row}", ".3g", "", "the true gradient"),
            Column("variance", "variance_{row}", ".3g", "sample_count", "measured over the 500 estimates"),
            Column("in theory", "theory_{row}", ".3g", "sample_count", "the exact variance"),
            Column("signal-to-noise", "snr_{row}", ".2g", "sample_count", "|exact gradient| over the exact standard deviation"),
            Column("S for a ratio of 10", "needed_{row}", ",d", "", "draws a gradient that bring the ratio to ten"),
        ), {key: key for key in labels}, "estimators"),
        precision={
            "histogram_*": Precision(step=1), "mean_*": Precision(relative=2e-3), "variance_*": Precision(relative=2e-3),
            "draw_z": Precision(step=0.03), "draw_weight": Precision(relative=0.05), "f_curve": Precision(step=0.01),
            "q_curve": Precision(step=0.005), **{name: Precision(relative=5e-4) for name in ("theory_*", "error_*", "snr_*")},
            "needed_*": Precision(step=1),
        },
    )
    return Explorable(definition, **values)
