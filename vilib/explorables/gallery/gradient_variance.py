"""gradient-variance: how noisy is one gradient, and what do more draws buy?

500 independent estimates of ∂/∂μ at every S from 1 to 4096, by each estimator, from the same draws; beside them the
exact gradient and the exact variance. One evaluation of f at each draw serves them all (`vilib.per_draw`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from vilib import Example, MeanFieldGaussian, cosine_cost, exponential_cost, logistic_one_coefficient, moments, nested_study
from vilib import normal, per_draw, quadratic_cost

from ..core import Axis, Bars, Choice, Column, Definition, Line, NewNoise, Panel, Point, Precision, Rule, Slider, Stems, Switches, Table
from ..threads import one_thread
from ..widget import Explorable

REPLICATES, SHOWN_DRAWS, BINS = 500, 64, 51
SAMPLE_COUNTS = tuple(2**k for k in range(13))
#: Two ordinary draws of noise, then one that holds a draw more than four σ out: the tail that a score function fears.
NOISES = (1, 2, 0)
Z = np.linspace(-7.0, 7.0, 97)

#: key → (what vilib calls it, label); the key is also its ink.
ESTIMATORS = {
    "score": ("score_function", "score function"),
    "control": ("leave_one_out", "score + leave-one-out"),
    "pathwise": ("pathwise", "pathwise"),
    "stl": ("sticking_the_landing", "sticking the landing"),
}
SHORT = {"score": "score function", "control": "leave-one-out", "pathwise": "pathwise", "stl": "sticking"}

#: key → (label, f, number of dimensions, range of f in the picture)
COSTS = {
    "quadratic": ("f(z) = z²", quadratic_cost(0.0), 1, (0.0, 16.0)),
    "quadratic_10": ("f(z) = ‖z‖², ten dimensions", quadratic_cost(0.0), 10, (0.0, 60.0)),
    "cosine": ("f(z) = cos 2z", cosine_cost(2.0), 1, (-1.25, 1.25)),
    "bump": ("f(z) = exp(−z²)", exponential_cost(1.0), 1, (0.0, 1.2)),
    "logistic": ("ELBO of a logistic regression", logistic_one_coefficient(), 1, (-14.0, 4.0)),
}


@lru_cache(maxsize=4)
def _noise(seed: int, dim: int) -> torch.Tensor:
    """ε for every replicate: (4096, 500, dim)."""
    return normal(SAMPLE_COUNTS[-1], (REPLICATES,), dim, generator=torch.Generator().manual_seed(NOISES[seed]))


def _q(mu: float, log_sigma: float, dim: int, dtype: torch.dtype = torch.float64) -> MeanFieldGaussian:
    return MeanFieldGaussian(torch.full((dim,), mu, dtype=dtype), torch.full((dim,), log_sigma, dtype=dtype))


@lru_cache(maxsize=64)
def _measured(cost: str, mu: float, log_sigma: float, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The 500 estimates of ∂/∂μ₁ at every S, a (13, 500) array an estimator; replicate 0's draws and their weights."""
    _, f, dim, _ = COSTS[cost]
    posterior = isinstance(f, Example)
    q, eps = _q(mu, log_sigma, dim, torch.float32), _noise(seed, dim)
    names = [name for name, _ in ESTIMATORS.values() if posterior or name != "sticking_the_landing"]
    study = nested_study(f, q, eps, names, elbo=posterior, coordinates=(0,))
    first = per_draw(f, q, eps[:SHOWN_DRAWS, :1], elbo=posterior, coordinates=(0,))
    weights = first.f[:, 0] * first.score[:, 0, 0]
    gradients = {name: gradient[..., 0].numpy() for name, gradient in study.items()}
    return gradients, first.z[:, 0, 0].double().numpy(), weights.double().numpy()


@lru_cache(maxsize=512)
def _exact(cost: str, mu: float, log_sigma: float) -> tuple[float, dict[str, np.ndarray]]:
    """The exact ∂/∂μ₁ and the exact variance at every S, a (13,) array an estimator."""
    _, f, dim, _ = COSTS[cost]
    q = _q(mu, log_sigma, dim)
    of_one = moments(f, q, elbo=True) if isinstance(f, Example) else f.moments(q)
    return of_one.gradient[0].item(), {name: v[:, 0].numpy() for name, v in of_one.variances_at(SAMPLE_COUNTS).items()}


def _curves(cost: str, mu: float, log_sigma: float) -> dict[str, np.ndarray]:
    """f along z, and q's density scaled to two fifths of the panel."""
    _, f, dim, (low, high) = COSTS[cost]
    z, q = torch.from_numpy(Z).unsqueeze(-1), _q(mu, log_sigma, 1)
    curve = f(z) - q.log_prob(z) if isinstance(f, Example) else f(z) + (dim - 1) * f.expectation(q)
    density = q.log_prob(z).exp()
    return {"z_grid": Z, "f_curve": np.clip(curve.numpy(), low - (high - low), high + (high - low)),
            "f_range": np.array([low, high]), "q_curve": low + 0.4 * (high - low) * (density / density.max()).numpy()}


@one_thread()
def compute(sample_count: int, cost: str, mu: float, log_sigma: float, seed: int) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    mu, log_sigma = float(mu), float(log_sigma)
    gradients, z, weights = _measured(cost, mu, log_sigma, seed)
    exact, theory = _exact(cost, mu, log_sigma)
    reach, most = 3.0 * np.sqrt(theory["score_function"][0]), 1.08 * np.abs(weights).max()
    at, shown, outside = SAMPLE_COUNTS.index(sample_count), np.arange(SHOWN_DRAWS) < sample_count, 0
    frame: dict[str, object] = _curves(cost, mu, log_sigma) | {
        "draw_z": np.where(shown, z, np.nan), "draw_weight": np.where(shown, weights, np.nan), "weight_range": np.array([-most, most]),
        "gradient_range": np.array([exact - reach, exact + reach]), "exact": exact, "counts": np.array(SAMPLE_COUNTS),
    }
    for key, (name, _) in ESTIMATORS.items():
        values = gradients.get(name, np.full((len(SAMPLE_COUNTS), REPLICATES), np.nan))           # a plain cost has no landing to stick
        variance = theory.get(name, np.full(len(SAMPLE_COUNTS), np.nan))
        bins = np.histogram(values[at], BINS, (exact - reach, exact + reach))[0]
        outside += int(np.isfinite(values[at]).sum() - bins.sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            frame |= {
                f"histogram_{key}": bins, f"mean_{key}": values.mean(-1), f"variance_{key}": values.var(-1, ddof=1), f"theory_{key}": variance,
                f"error_{key}": np.sqrt(variance / REPLICATES), f"snr_{key}": abs(exact) / np.sqrt(variance),
                f"needed_{key}": _needed(exact, variance), f"exact_{key}": exact if name in gradients else np.nan,
            }
    beyond = f"{outside} of the estimates lie beyond the axis" if outside else ""
    return frame | {"outside": beyond, "verdict": _verdict(exact, theory)}


def _needed(exact: float, variance: np.ndarray) -> float:
    """How many draws bring the signal-to-noise ratio to ten; nan where the gradient is zero."""
    return float(np.ceil(round(100 * variance[-1] * SAMPLE_COUNTS[-1] / exact**2, 6))) if abs(exact) > 1e-9 else float("nan")


def _verdict(exact: float, theory: dict[str, np.ndarray]) -> str:
    if abs(exact) < 1e-9:
        return "The true gradient is zero here, so noise is all there is: no number of draws gives a signal."
    noisier = " Here the pathwise gradient is the noisier one." if theory["pathwise"][-1] > theory["score_function"][-1] else ""
    return ("For a ratio of ten the score function needs {needed_score:,d} draws a step, leave-one-out "
            "{needed_control:,d}, pathwise {needed_pathwise:,d}." + noisier)


def _panels() -> tuple[Panel, ...]:
    lanes, variance = [], []
    for row, key in enumerate(ESTIMATORS):
        how = {"ink": key, "when": {"estimators": key} | ({"cost": "logistic"} if key == "stl" else {})}
        lanes.append(Bars(heights=f"histogram_{key}", row=row, rows=len(ESTIMATORS), label=SHORT[key], **how))
        variance += [
            Line(x="counts", y=f"theory_{key}", width=1.6, label=SHORT[key].split()[0], aside=True, **how),
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
        Panel("variance", "Variance of one estimate against S",
              Axis("draws a gradient, S", (1, 4096), "log", (1, 4, 16, 64, 256, 1024, 4096)),
              Axis("line exact, points measured", (1e-6, 1e4), "log"), tuple(variance), 2),
    )


def gradient_variance(costs: Sequence[str] = tuple(COSTS), **values: object) -> Explorable:
    """How noisy is one gradient, and what do more draws buy?

    costs : which of `quadratic`, `quadratic_10`, `cosine`, `bump`, `logistic` to offer. Fewer make a smaller page.
    values : where controls stand at first: `sample_count`, `cost`, `mu`, `log_sigma`, `seed`, `estimators`.
    Raises KeyError (an unknown cost), ExplorableError and TraitError (a value that is not offered).
    """
    labels = {key: label for key, (_, label) in ESTIMATORS.items() if key != "stl" or "logistic" in costs}
    definition = Definition(
        name="gradient-variance", title="How noisy is one gradient, and what do more draws buy?",
        controls=(
            Slider("sample_count", "draws a gradient, S", SAMPLE_COUNTS, 16, "d", wide=True),
            Slider("mu", "q's mean, μ", (-2.0, -1.0, 0.0, 1.0, 2.0), 1.0, ".1f"),
            Slider("log_sigma", "q's log σ", (-0.7, 0.0, 0.7), 0.0, ".1f"),
            Choice("cost", "cost or model", {key: COSTS[key][0] for key in costs}, costs[0]),
            NewNoise("seed", "New noise", len(NOISES)),
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
            "q_curve": Precision(step=0.005), "theory_*": Precision(relative=5e-4), "error_*": Precision(relative=5e-4),
            "snr_*": Precision(relative=5e-4), "needed_*": Precision(step=1),
        },
    )
    return Explorable(definition, **values)
