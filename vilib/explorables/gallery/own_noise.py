"""gradient-variance for a reader's own model: how noisy is one gradient of its ELBO?

q stands in units of the model's best mean-field q, so that the same sliders suit any model; the gradient is taken in those units
too, in nats per standard deviation. Up to two unknowns, what stands beside the estimates is exact; beyond, it is measured by more
draws.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vilib.own_posterior import OwnModel
from vilib.own_noise import OwnNoise, own_noise, variance_range

from ..core import (
    Axis, Bars, Choice, Column, Definition, Line, NewNoise, Panel, Point, Precision, Rule, Slider, Stems, Switches, Table,
)
from ..threads import one_thread, stage
from ..widget import Explorable
from .own import OwnCompute, basis, no_misspelt, own_models, plane, q_channel, still

REPLICATES, SHOWN_DRAWS, BINS, MEASURED, SEEDS = 200, 64, 51, 20_000, 3
SAMPLE_COUNTS = tuple(2**k for k in range(11))
OFFSETS, WIDTHS = (-2.0, -1.0, 0.0, 1.0, 2.0), (-0.7, 0.0, 0.7)
#: key → (what vilib calls it, label, label where there is little room); the key is also its ink.
ESTIMATORS = {"score": ("score_function", "score function", "score"),
              "control": ("leave_one_out", "score + leave-one-out", "leave-one-out"),
              "pathwise": ("pathwise", "pathwise", "pathwise"),
              "stl": ("sticking_the_landing", "sticking the landing", "sticking")}
NO_SIGNAL = "Here the gradient is zero, or too near it to be told apart: noise is all there is."
NEEDED = ("For a ratio of ten the score function needs {needed_score:,d} draws a step, leave-one-out "
          "{needed_control:,d}, pathwise {needed_pathwise:,d}.")


class Compute(OwnCompute):
    """One frame; see the panels below for what each channel is."""

    @one_thread()
    def __call__(self, sample_count: int, cost: str, mu: float, log_sigma: float, seed: int) -> dict[str, object]:
        model, found = self.models[cost], self.keep(self._studied, cost, mu, log_sigma, seed)
        shown, gap, exact = np.arange(SHOWN_DRAWS) < sample_count, math.nan, found.noise["score_function"].exact
        at, outside, most = SAMPLE_COUNTS.index(sample_count), 0, 1.08 * found.added.abs().max().item()
        places = found.z[:, list(model.coordinates)].T.numpy()
        sds = [found.noise[name].variance[i].sqrt().item() for name, i in (("pathwise", 0), ("leave_one_out", 2))]
        low, high = exact - 4 * max(*sds, 1e-6), exact + 4 * max(*sds, 1e-6)
        frame = self.keep(self._still, cost) | {
            "draw_x": np.where(shown, places[0], gap), "draw_y": np.where(shown, places[-1], gap),
            "draw_weight": np.where(shown, found.added, gap), "weight_range": [-most, most], "counts": np.array(SAMPLE_COUNTS),
            "q": q_channel(model, found.q), "gradient_range": [low, high], "exact": exact,
        }
        for key, (name, *_) in ESTIMATORS.items():
            one, values = found.noise[name], found.noise[name].estimates.numpy()
            bins = np.histogram(values[at], BINS, (low, high))[0]
            outside += int(np.isfinite(values[at]).sum() - bins.sum())
            frame |= {
                f"histogram_{key}": bins, f"mean_{key}": values.mean(-1), f"variance_{key}": values.var(-1, ddof=1),
                f"theory_{key}": one.variance * (gap if found.error else 1.0), f"error_{key}": one.standard_error,
                f"snr_{key}": one.signal_to_noise * (1.0 if found.signal else gap), f"exact_{key}": exact,
                f"needed_{key}": max(one.draws_for(10.0), 1.0) if found.signal else gap,
            }
        return frame | {"outside": f"{outside} beyond the axis" if outside else "",
                        "basis": basis(model, not found.error), "verdict": NEEDED if found.signal else NO_SIGNAL}

    def _studied(self, cost: str, mu: float, log_sigma: float, seed: int) -> OwnNoise:
        self.keep(self._still, cost)
        stage(f"{REPLICATES} gradients of up to {SAMPLE_COUNTS[-1]} draws", 45)
        return own_noise(self.models[cost], mu, log_sigma, [name for name, *_ in ESTIMATORS.values()], num_replicates=REPLICATES,
                         max_samples=SAMPLE_COUNTS[-1], num_measured=MEASURED, num_shown=SHOWN_DRAWS, seed=seed)

    def _still(self, cost: str) -> dict[str, object]:
        """What depends on the model alone: the posterior's picture, and the axes."""
        stage("looking for the best q")
        model = self.models[cost]
        return still(model, 5.0, 2 * math.exp(-WIDTHS[0])) | {
            "variance_range": variance_range(model, OFFSETS, WIDTHS, SAMPLE_COUNTS[-1])}


def _panels(models: dict[str, OwnModel]) -> tuple[Panel, ...]:
    planes, weights, lanes, variance = [], [], [], []
    draws = Line(x="draw_x", y="draw_y", width=0, points=True, ink="score")
    for name, model in models.items():
        across = Axis(model.labels[model.coordinates[0]], "x_range")
        planes.append(plane(name, model, "q over the posterior", "cost", {"q": ("q", {})}, (draws,)))
        weights.append(Panel(f"{name}: weights", "What each draw adds to the sum", across,
                             Axis("(log p − log q) · ∂ log q/∂μ", "weight_range"),
                             (Stems(x="draw_x", y="draw_weight", ink="score"),), 0, when={"cost": name}))
    for row, (key, (_, _, short)) in enumerate(ESTIMATORS.items()):
        how = {"ink": key, "when": {"estimators": key}}
        lanes.append(Bars(heights=f"histogram_{key}", row=row, rows=len(ESTIMATORS), label=short, **how))
        variance += [
            Line(x="counts", y=f"theory_{key}", width=1.6, label=short, aside=True, **how),
            Line(x="counts", y=f"variance_{key}", width=0, points=True, **how),
            Point(x="counts", y=f"variance_{key}", at="sample_count", **how),
        ]
    return (*planes, *weights,
            Panel("estimates", f"{REPLICATES} gradient estimates", Axis("estimate of ∂/∂μ, nats per sd", "gradient_range"),
                  Axis("", (0, 1), ticks=()), (*lanes, Rule(x="exact", ink="text", label="reference")), 1, note="{outside}"),
            Panel("variance", "Variance of one estimate against S",
                  Axis("draws a gradient, S", (1, SAMPLE_COUNTS[-1]), "log", SAMPLE_COUNTS[::2]),
                  Axis("points measured, a line exact", "variance_range", "log"), tuple(variance), 2))


def own_gradient_variance(
    given: Any, *, supports: Any = None, shapes: Any = None, dim: int | None = None, coordinates: Any = None, **values: object,
) -> Explorable:
    """:func:`gradient_variance` of a reader's own model; see there."""
    no_misspelt(values)
    ways = {"supports": supports, "shapes": shapes, "dim": dim, "coordinates": coordinates}
    models, labels = own_models(given, **ways), {key: label for key, (_, label, _) in ESTIMATORS.items()}
    theory = [Column("in theory", "theory_{row}", ".3g", "sample_count", "the exact variance")]
    definition = Definition(
        name="gradient-variance", title="How noisy is one gradient, and what do more draws buy?", background=True,
        controls=(
            Slider("sample_count", "draws a gradient, S", SAMPLE_COUNTS, 16, "d", wide=True),
            Slider("mu", "q's mean, sds from the best q", OFFSETS, 1.0, ".1f"),
            Slider("log_sigma", "q's log σ, from the best q's", WIDTHS, 0.0, ".1f"),
            Choice("cost", "model", {name: name for name in models}, next(iter(models))), NewNoise(count=SEEDS),
            Switches("estimators", "estimators", labels, tuple(labels), {key: key for key in labels}),
        ),
        compute=Compute(models, ways), panels=_panels(models),
        caption="With {sample_count} draws, one score-function gradient has a signal-to-noise ratio of "
                "{snr_score@sample_count:.2g}, a pathwise one {snr_pathwise@sample_count:.2g}. {verdict} {basis}",
        table=Table(labels, (
            Column(f"mean of {REPLICATES}", "mean_{row}", ".3g", "sample_count", f"the mean of the {REPLICATES} estimates"),
            Column("±\u00a0s.e.", "error_{row}", ".2g", "sample_count", "standard error of that mean"),
            Column("reference", "exact_{row}", ".3g", "",
                   f"the true gradient, or the mean of {MEASURED} pathwise draws: see the last sentence"),
            Column("variance", "variance_{row}", ".3g", "sample_count", f"measured over the {REPLICATES} estimates"),
            *theory * any(model.dim <= 2 for model in models.values()),
            Column("signal-to-noise", "snr_{row}", ".2g", "sample_count",
                   "|reference| over the standard deviation of one estimate"),
            Column("S for a ratio of 10", "needed_{row}", ",d", "", "draws a gradient that bring the ratio to ten"),
        ), {key: key for key in labels}, "estimators"),
        precision={"histogram_*": Precision(step=1), "needed_*": Precision(step=1), "*": Precision(relative=5e-4)},
    )
    return Explorable(definition, **values)
