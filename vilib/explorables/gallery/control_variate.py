"""control-variate: how much of the noise of a gradient does a control variate take, and what do better draws add?

g = f · ∂log q/∂μ is what one draw adds to ∂/∂μ at q = N(1, I), h a control variate of known mean. Both are drawn in units of their own
standard deviation: then the best coefficient is their correlation ρ, and the best that it can do is to leave 1 − ρ² of the variance.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from vilib import JointMoments, MeanFieldGaussian, antithetic, cosine_cost, joint_moments, logistic_one_coefficient, normal
from vilib import quadratic_cost, sobol, trapezoid

from ..core import Axis, Choice, Column, Definition, Line, Panel, Point, Precision, Rule, Slider, Table
from ..threads import one_thread
from ..widget import Explorable

MULTIPLES = tuple(round(-1 + 0.1 * k, 1) for k in range(26))
COUNTS = tuple(2**k for k in range(1, 11))
PER_COUNT = torch.tensor(COUNTS)
REPLICATES, SHOWN = 256, 64
GRID = np.linspace(-1.0, 1.5, 51)
MODEL, Q = logistic_one_coefficient(), MeanFieldGaussian(torch.ones(1).double(), torch.zeros(1).double())

#: key → (label, f as a function of ε, dimensions)
COSTS = {
    "quadratic": ("f(z) = z²", lambda eps: quadratic_cost()(1 + eps), 1),
    "quadratic_10": ("f(z) = ‖z‖², ten dimensions", lambda eps: quadratic_cost()(1 + eps), 10),
    "cosine": ("f(z) = cos 2z", lambda eps: cosine_cost(2.0)(1 + eps), 1),
    "logistic": ("ELBO of a logistic regression", lambda eps: MODEL(1 + eps) - Q.log_prob_at(eps), 1),
}
VARIATES = {"score": "the score of μ", "omega": "the score of ω", "parabola": "a parabola for f, times the score", "sine": "sin 7ε"}
#: key → (label, ink, noise)
NOISES = {"normal": ("pseudo-random", "control", normal), "antithetic": ("antithetic", "muted", antithetic), "sobol": ("Sobol", "text", sobol)}


def _pair(cost: str, variate: str, eps: torch.Tensor, rest: torch.Tensor | float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """g and h at noise ε (..., D), (...) each; ``rest`` is added to f. E h = 0, but for the parabola's, which is its slope."""
    f_of, e, step = COSTS[cost][1], eps[..., 0], 1e-4
    f = f_of(eps) + rest
    if variate != "parabola":
        return f * e, {"score": e, "omega": e**2 - 1, "sine": (7 * e).sin()}[variate]
    low, here, high = f_of(torch.tensor([[-step], [0.0], [step]], dtype=eps.dtype))                 # Taylor's, at the mean of q
    taylor = here + (high - low) / (2 * step) * e + (high - 2 * here + low) / (2 * step**2) * e**2
    return f * e, (f - f_of(e.unsqueeze(-1)) + taylor) * e                                          # other coordinates' squares stay


@lru_cache(maxsize=None)
def _exact(cost: str, variate: str) -> JointMoments:
    """Of one draw. Nine more coordinates add a mean of 2 and a variance of 6 each to f, and two values that have these will do."""
    (eps, weights), others = trapezoid(1), COSTS[cost][2] - 1
    rest = 2 * others + torch.tensor([[-1.0], [1.0]], dtype=torch.float64) * (6 * others) ** 0.5
    g, h = _pair(cost, variate, eps, rest)
    return joint_moments(g.flatten(), h.expand(2, -1).flatten(), weights.repeat(2) / 2)


@lru_cache(maxsize=None)
def _measured(cost: str, variate: str, noise: str) -> tuple[JointMoments, torch.Tensor, torch.Tensor]:
    """At every S, (10,), the moments over 256 estimates, each of the first S draws; and g and h at the first draws of one of them."""
    eps = NOISES[noise][2](COUNTS[-1], (REPLICATES,), COSTS[cost][2], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    pair = _pair(cost, variate, eps)
    means = [x.cumsum(0)[PER_COUNT - 1].mT / PER_COUNT for x in pair]                               # (256, 10)
    return joint_moments(*means), *(x[:SHOWN, 0] for x in pair)


@one_thread()
def compute(multiple: float, sample_count: int, variate: str, cost: str, noise: str) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    exact, (_, g, h) = _exact(cost, variate), _measured(cost, variate, noise)
    variance, unit, rho = exact.variance_g.item(), (exact.variance_g / exact.variance_h).sqrt().item(), round(exact.correlation.item(), 9) + 0.0
    x, y = ((h - exact.mean_h) / exact.variance_h.sqrt()).numpy(), ((g - exact.mean_g) / exact.variance_g.sqrt()).numpy()
    shown = np.arange(SHOWN) < sample_count
    missed = int((shown & ((abs(x - 1) > 4) | (abs(y - 1) > 4))).sum())
    share = lambda a: 1 - 2 * a * rho + a**2  # noqa: E731
    frame = {
        "draw_h": np.where(shown, x, np.nan), "draw_g": np.where(shown, y, np.nan), "ends": np.array([-3.0, 5.0]),
        "slope": multiple * np.array([-3.0, 5.0]), "grid": GRID, "parabola": share(GRID), "multiple_now": multiple, "left": share(multiple),
        "best": rho, "best_left": share(rho), "a": multiple * unit, "counts": np.array(COUNTS), "plain": variance / np.array(COUNTS),
        "beyond": f"{missed} beyond the picture" if missed else "", "verdict": _verdict(multiple, rho),
    }
    for key in NOISES:
        measured = _measured(cost, variate, key)[0].variance(multiple * unit).numpy()
        measured[measured < 1e-9 * variance / np.array(COUNTS)] = np.nan                            # rounding, and in truth nothing
        seen = round(x[shown].mean(), 6) + 0.0 if key == noise else np.nan
        frame |= {f"variance_{key}": measured, f"worth_{key}": variance / measured, f"seen_{key}": seen}
    return frame


def _verdict(multiple: float, rho: float) -> str:
    best = "the best a leaves {best_left:.2f}"
    if abs(rho) < 0.005:
        return "This h knows nothing of g: whatever a is, there is no less noise."
    if abs(multiple - rho) <= 0.05:
        return f"No other step of the slider does better; {best}." if rho**2 < 1 - 1e-6 else "This h is g, times a constant, and takes it all."
    return f"That is {'less' if multiple * (multiple - 2 * rho) < -1e-9 else 'no less'} noise than without h; {best}."


def _panels() -> tuple[Panel, ...]:
    variance = tuple(Line(x="counts", y=f"variance_{key}", ink=ink, label=label, aside=True, points=True, width=1.4, dashed=False)
                     for key, (label, ink, _) in NOISES.items())
    return (
        Panel("scatter", "g against h, each in standard deviations", Axis("h", (-3, 5)), Axis("g", (-3, 5)),
              (Line(x="draw_h", y="draw_g", ink="score", width=0, points=True), Line(x="ends", y="slope", ink="control", label="a h")), 0, note="{beyond}"),
        Panel("parabola", "The share of the variance that is left", Axis("coefficient a", (-1, 1.5)), Axis("share", (0, 5.6)),
              (Line(x="grid", y="parabola", ink="control"), Rule(x="best", ink="text", label="ρ"), Rule(y="best_left", ink="text", label="1 − ρ²"),
               Point(x="multiple_now", y="left", ink="control", label="a")), 1),
        Panel("variance", "Variance of one estimate against S", Axis("draws, S", (2, 1024), "log", (2, 8, 32, 128, 512)), Axis("", (1e-8, 1e4), "log"),
              (Line(x="counts", y="plain", ink="score", label="plain", aside=True), *variance,
               *(Point(x="counts", y=f"variance_{key}", at="sample_count", ink=ink) for key, (_, ink, _) in NOISES.items())), 2),
    )


def control_variate(**values: object) -> Explorable:
    """How much of the noise of a gradient does a control variate take?

    values : where controls stand at first: `multiple`, `sample_count`, `variate`, `cost`, `noise`.
    Raises ExplorableError and TraitError (a value that is not offered).
    """
    definition = Definition(
        name="control-variate", title="How much noise does a control variate take?",
        controls=(
            Slider("multiple", "coefficient a, in sd(g)/sd(h)", MULTIPLES, 0.3, ".1f", wide=True),
            Slider("sample_count", "draws, S", COUNTS, 64, "d"),
            Choice("variate", "control variate h", VARIATES, "score"),
            Choice("cost", "cost or model", {key: label for key, (label, *_) in COSTS.items()}, "quadratic"),
            Choice("noise", "draws shown", {key: label for key, (label, *_) in NOISES.items()}, "normal"),
        ),
        compute=compute, panels=_panels(),
        caption="With this a, a draw's g − a h has {left:.2f} of the variance of g. {verdict}",
        table=Table({key: label for key, (label, *_) in NOISES.items()}, (
            Column("h on average, draws shown", "seen_{row}", ".3f", "", "its exact mean is 0; in its standard deviations"),
            Column("variance of an estimate of S draws", "variance_{row}", ".2g", "sample_count", "measured over 256 estimates"),
            Column("as good as so many plain draws", "worth_{row}", ".2g", "sample_count", "pseudo-random, without h"),
        ), {key: ink for key, (_, ink, _) in NOISES.items()}),
        precision={"draw_*": Precision(step=0.05), "ends": Precision(), "slope": Precision(step=0.01), "grid": Precision(step=0.05),
                   "counts": Precision(step=1), "variance_*": Precision(relative=0.005), "worth_*": Precision(relative=0.005),
                   "plain": Precision(relative=0.001), "*": Precision(step=0.0005)},
    )
    return Explorable(definition, **values)
