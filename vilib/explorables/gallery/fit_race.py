"""fit-race: what does gradient noise do to the fit?

Estimators climb the same ELBO from the same start on the same noise. 32 fits run side by side for each; one is
drawn bold and all are drawn as a fan. What is shown at a step is exact (quadrature), not the noisy estimate that
the fit itself saw: the ELBO of the q it had reached, and the variance of the gradient there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from vilib import (
    AllFitsFailed,
    Example,
    Fit,
    MeanFieldGaussian,
    adagrad,
    adam,
    correlated_gaussian,
    fit,
    gaussian_kl,
    leave_one_out,
    logistic_one_coefficient,
    moments,
    pathwise,
    rmsprop,
    robbins_monro,
    score_function,
    sgd,
    sticking_the_landing,
    two_component_mixture,
)
from vilib.quadrature import gauss_hermite, trapezoid

from ..core import (
    Axis,
    Band,
    Choice,
    Column,
    Definition,
    Ellipse,
    Gaussian,
    Line,
    NewNoise,
    Panel,
    Play,
    Precision,
    Rule,
    Slider,
    Switches,
    Table,
)
from ..threads import one_thread
from ..widget import Explorable

FITS = 32
STEPS = 400
STEP_SIZES = (0.03, 0.1, 0.3)
#: The steps that are kept: dense at first, where most happens. They lie evenly on a square-root axis.
KEPT = sorted({round(STEPS * (i / 25) ** 2) for i in range(26)})
CLOSE = 0.01  # nats
FLOOR = 200.0  # nats below the best: an ELBO is not followed further down

#: key → (estimator, label); the key is also its ink.
ESTIMATORS = {
    "score": (score_function, "score function"),
    "control": (leave_one_out, "score + leave-one-out"),
    "pathwise": (pathwise, "pathwise"),
    "stl": (sticking_the_landing, "sticking the landing"),
}

#: key → (label, factory)
OPTIMIZERS = {
    "sgd": ("SGD, Robbins–Monro", lambda step_size: sgd(step_size, robbins_monro(0.7, 50.0))),
    "rmsprop": ("RMSProp", rmsprop),
    "adagrad": ("AdaGrad", adagrad),
    "adam": ("Adam", adam),
}

_X = torch.linspace(-2.0, 2.0, 24, dtype=torch.float64)
_Y = torch.bernoulli(torch.sigmoid(1.2 * _X), generator=torch.Generator().manual_seed(3))


@dataclass(frozen=True)
class Target:
    """A posterior to race to: where μ starts (log σ starts at 0), and the ranges of the ELBO and z axes."""

    label: str
    example: Example
    start: tuple[float, ...]
    elbo_range: tuple[float, float]
    z_range: tuple[float, float]


TARGETS = {
    "logistic": Target("logistic regression, 24 points", logistic_one_coefficient(_X, _Y), (-1.0,), (-18.0, -13.6), (-2.0, 3.0)),
    "correlated": Target("correlated Gaussian, ρ = 0.9", correlated_gaussian(0.9), (-2.0, 0.0), (-6.0, 0.6), (-3.0, 3.0)),
    "mixture": Target("two-component mixture", two_component_mixture(), (0.0,), (-4.0, 0.4), (-7.0, 7.0)),
}


@lru_cache(maxsize=64)
def _fits(target: str, optimizer: str, sample_count: int) -> dict[str, Fit | AllFitsFailed]:
    """Every fit of each estimator. All step sizes and all seeds are one batch *R = (3, 32).

    The noise depends on nothing but the seed, so every estimator meets the same.
    """
    example = TARGETS[target].example
    mu = torch.tensor(TARGETS[target].start).expand(len(STEP_SIZES), FITS, example.dim)
    q0 = MeanFieldGaussian(mu, torch.zeros_like(mu))
    sizes = torch.tensor(STEP_SIZES).unsqueeze(-1)
    done = {}
    for key, (estimator, _) in ESTIMATORS.items():
        try:
            done[key] = fit(estimator, example, q0, num_samples=sample_count, num_steps=STEPS, record_steps=KEPT,
                            optimizer=OPTIMIZERS[optimizer][1](sizes), generator=torch.Generator().manual_seed(1))
        except AllFitsFailed as error:
            done[key] = error
    return done


@lru_cache(maxsize=256)
def _race(target: str, optimizer: str, sample_count: int, at: int) -> dict[str, dict[str, np.ndarray]]:
    """For each estimator, what is exactly true of every fit of one step size at the kept steps: arrays (T, fit)."""
    example, out = TARGETS[target].example, {}
    for key, done in _fits(target, optimizer, sample_count).items():
        if isinstance(done, Fit):
            path = done.family.with_vector(done.path[:, at])
            found = _exact(example, key, path, sample_count)
        else:
            found = _nothing((len(KEPT), FITS), example.dim)
        out[key] = found | {"failed": (done.failed_at[at] >= 0).numpy()}
    return out


def _nothing(shape: tuple[int, ...], dim: int) -> dict[str, np.ndarray]:
    """What is known when no fit is left."""
    gap = np.full(shape, np.nan)
    return {"mean": np.full((*shape, dim), np.nan), "sd": np.full((*shape, dim), np.nan), "elbo": gap, "kl": gap,
            "variance": gap}


def _exact(example: Example, key: str, q: MeanFieldGaussian, sample_count: int) -> dict[str, np.ndarray]:
    """What is exactly true at each q of a batch (T, fit)."""
    rule = (lambda dim: gauss_hermite(dim, 8)) if example.dim == 2 else (lambda dim: trapezoid(dim, 193))
    mu, omega = q.mu.double(), q.omega.double()
    lost = ~((mu.abs() < 1e6) & (omega.abs() < 30)).all(-1)  # nan, or so far out that float32 is about to give up
    q = MeanFieldGaussian(mu.masked_fill(lost[..., None], 0.0), omega.masked_fill(lost[..., None], 0.0))
    name = ESTIMATORS[key][0].__name__
    of_one = moments(example, q, rule, elbo=True)
    elbo, variance = of_one.mean_f[..., 0], of_one.variances(sample_count)[name].sum(-1)
    best, _ = example.best
    kl = gaussian_kl(q, best)
    if example.name == "two-component mixture":  # its mirror image is as good
        kl = torch.minimum(kl, gaussian_kl(q, MeanFieldGaussian(-best.mu, best.omega)))
    found = {"elbo": elbo, "kl": kl, "variance": variance, "mean": mu, "sd": omega.exp()}
    return {name: torch.where(lost.reshape(*lost.shape, *(1,) * (x.ndim - lost.ndim)), math.nan, x).numpy()
            for name, x in found.items()}


@lru_cache(maxsize=8)
def _target(target: str) -> dict[str, object]:
    """The posterior's own picture, and the two lines that no q can cross."""
    here = TARGETS[target]
    low, high = here.z_range
    channels: dict[str, object] = {
        "elbo_range": np.array(here.elbo_range), "best_elbo": here.example.best[1], "log_evidence": here.example.log_evidence,
        "p_grid": np.full(121, np.nan), "p_curve": np.full(121, np.nan), "p_ellipse": np.full(5, np.nan),
        "z_range": np.array(here.z_range), "density_range": np.array([0.0, 1.0]),
    }
    if here.example.dim == 1:
        z = torch.linspace(low, high, 121, dtype=torch.float64)
        density = (here.example.log_joint(z.unsqueeze(-1)) - here.example.log_evidence).exp().numpy()
        channels |= {"p_grid": z.numpy(), "p_curve": density, "density_range": np.array([0.0, 2.0 * density.max()])}
    else:
        rho = 0.9
        channels["p_ellipse"] = np.array([0.0, 0.0, 1.0, rho, math.sqrt(1 - rho**2)])
    return channels


@one_thread()
def compute(sample_count: int, step_size: float, optimizer: str, target: str, seed: int) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    race = _race(target, optimizer, sample_count, STEP_SIZES.index(step_size))
    here = TARGETS[target]
    frame = dict(_target(target)) | {"steps": np.array(KEPT, dtype=float)}
    width = here.z_range[1] - here.z_range[0]
    lost = []
    for key, run in race.items():
        # a mean is followed as far out as the picture is wide
        mean = np.clip(run["mean"][:, seed], here.z_range[0] - width, here.z_range[1] + width)
        sd = np.clip(run["sd"][:, seed], 0.005, 2 * width)
        empty = np.full(len(KEPT), np.nan)
        one = here.example.dim == 1
        curve = [mean[:, 0], sd[:, 0]] if one else [empty, empty]
        ellipse = [empty] * 5 if one else [mean[:, 0], mean[:, 1], sd[:, 0], 0.0 * sd[:, 0], sd[:, 1]]
        frame |= {
            f"q_{key}": np.concatenate(curve), f"ellipse_{key}": np.concatenate(ellipse),
            f"elbo_{key}": np.maximum(run["elbo"][:, seed], here.example.best[1] - FLOOR), f"kl_{key}": run["kl"][:, seed],
            f"failed_{key}": run["failed"].sum(),
        }
        frame |= {f"{name}_{key}": value for name, value in _fan(run, here).items()}
        if run["failed"][seed]:
            lost.append(ESTIMATORS[key][1])
    return frame | {"verdict": _verdict(lost)}


def _fan(run: dict[str, np.ndarray], here: Target) -> dict[str, np.ndarray | float]:
    """What the 32 fits did together: the middle four fifths of their ELBOs, and medians. A lost fit counts as the worst."""
    elbo = np.nan_to_num(run["elbo"], nan=-1e9)
    low, high = np.quantile(elbo, [0.1, 0.9], axis=1)
    floor = here.elbo_range[0] - 1.0  # below the picture
    variance = np.full(len(KEPT), np.nan)
    left = ~np.isnan(run["variance"]).all(1)
    variance[left] = np.clip(np.nanmedian(run["variance"][left], 1), 1e-9, 1e9)
    close = _steps_to(elbo, here.example.best[1])
    return {"low": np.maximum(low, floor), "high": np.maximum(high, floor), "variance": variance, "close": close}


def _verdict(lost: list[str]) -> str:
    if not lost:
        return ""
    names = lost[0] if len(lost) == 1 else ", ".join(lost[:-1]) + " and " + lost[-1]
    return f"The bold fit of {names} left the finite numbers: at this step size, noise threw it out."


def _steps_to(elbo: np.ndarray, best: float) -> float:
    """The median over fits of the first kept step within `CLOSE` nats of the best; nan if half of them never are."""
    there = elbo > best - CLOSE
    first = np.where(there.any(0), np.array(KEPT)[there.argmax(0)], np.inf)
    median = float(np.median(first))
    return median if np.isfinite(median) else float("nan")


def _panels() -> tuple[Panel, ...]:
    one = {"target": ("logistic", "mixture")}
    curves, ellipses, elbo, variance = [], [], [], []
    for key in ESTIMATORS:
        on = {"estimators": key}
        curves.append(Gaussian(params=f"q_{key}", at="step", ink=key, when=on))
        ellipses.append(Ellipse(params=f"ellipse_{key}", at="step", ink=key, when=on, radii=(1.0, 2.0)))
        elbo.append(Band(x="steps", low=f"low_{key}", high=f"high_{key}", ink=key, when=on))
        variance.append(Line(x="steps", y=f"variance_{key}", ink=key, when=on, until="step"))
    elbo += [Line(x="steps", y=f"elbo_{key}", ink=key, when={"estimators": key}, until="step") for key in ESTIMATORS]
    ticks = (0, 25, 100, 225, 400)
    return (
        Panel("fit", "q moves over the posterior p", Axis("z", "z_range"), Axis("density", "density_range"),
              (Line(x="p_grid", y="p_curve", ink="target", fill=True, label="p"), *curves), 0, when=one),
        Panel("fit_2d", "q moves over the posterior p", Axis("z₁", (-3.0, 3.0)), Axis("z₂", (-3.0, 3.0)),
              (Ellipse(params="p_ellipse", ink="target", radii=(1.0, 2.0), fill=True), *ellipses), 0,
              when={"target": "correlated"}),
        Panel("elbo", "ELBO: one fit bold, 32 as a fan", Axis("", (0, STEPS), "sqrt", ticks),
              Axis("nats", "elbo_range"),
              (*elbo, Rule(y="log_evidence", ink="target", label="log p(x)", dashed=False),
               Rule(y="best_elbo", ink="q", label="best q of this family"), Rule(x="steps", at="step", ink="muted")), 1, 1.25),
        Panel("variance", "Gradient variance along the path", Axis("step (square-root scale)", (0, STEPS), "sqrt", ticks),
              Axis("sum over λ, median of 32 fits", (1e-5, 1e3), "log"),
              (*variance, Rule(x="steps", at="step", ink="muted")), 1, 1.0),
    )


def fit_race(targets: Sequence[str] = tuple(TARGETS), **values: object) -> Explorable:
    """What does gradient noise do to the fit?

    Parameters
    ----------
    targets : which of `logistic`, `correlated`, `mixture` to offer. Fewer make a smaller page.
    values : where controls stand at first: `sample_count`, `step_size`, `optimizer`, `target`, `seed`,
        `estimators`, `step` (an index into the kept steps).

    Raises
    ------
    KeyError : an unknown target. ExplorableError, TraitError : a value that is not offered.
    """
    labels = {key: label for key, (_, label) in ESTIMATORS.items()}
    definition = Definition(
        name="fit-race",
        title="What does gradient noise do to the fit?",
        controls=(
            Slider("sample_count", "draws a step, S", (2, 8, 32), 8, "d"),
            Slider("step_size", "step size", STEP_SIZES, 0.1, ".2f"),
            Choice("optimizer", "optimiser", {key: label for key, (label, _) in OPTIMIZERS.items()}, "adam"),
            Choice("target", "posterior", {key: TARGETS[key].label for key in targets}, targets[0]),
            NewNoise("seed", "New noise", 3),
            Switches("estimators", "race", labels, ("score", "pathwise"), {key: key for key in labels}),
            Play("step", "step", "steps", len(KEPT), len(KEPT) - 1),
        ),
        compute=compute,
        panels=tuple(panel for panel in _panels() if not panel.when or set(_as_tuple(panel.when["target"])) & set(targets)),
        caption="After {step} steps of {optimizer} with {sample_count} draws each, the bold fits have a KL divergence to the "
                "best q of {kl_score@step:.2g} nats (score function) and {kl_pathwise@step:.2g} nats (pathwise). {verdict}",
        table=Table(labels, (
            Column("ELBO now", "elbo_{row}", ".2f", "step", "the exact ELBO of the bold fit, in nats; not followed further than 200 nats below the best"),
            Column("KL to the best q", "kl_{row}", ".2g", "step", "nats"),
            Column("gradient variance now", "variance_{row}", ".2g", "step", "summed over λ, median of 32 fits"),
            Column("steps to within 0.01 nats", "close_{row}", "d", "", "median of 32 fits; – where half of them never are"),
            Column("fits that failed", "failed_{row}", "d", "", "of 32: met a number that is not finite"),
        ), {key: key for key in labels}, "estimators"),
        precision={
            "q_*": Precision(step=0.02), "ellipse_*": Precision(step=0.02), "elbo_range": Precision(), "elbo_*": Precision(step=0.005),
            "low_*": Precision(step=0.01), "high_*": Precision(step=0.01), "variance_*": Precision(relative=0.03),
            "kl_*": Precision(relative=0.04), "p_curve": Precision(step=0.0005), "close_*": Precision(step=1),
            "failed_*": Precision(step=1), "steps": Precision(step=1),
        },
    )
    return Explorable(definition, **values)


def _as_tuple(wanted: str | tuple[str, ...]) -> tuple[str, ...]:
    return (wanted,) if isinstance(wanted, str) else wanted
