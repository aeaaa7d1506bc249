"""fit-race for a reader's own model: what does gradient noise do to its fit?

Everything is in units of the model's best mean-field q: all fits start three of its sds off in the first coordinate shown, as wide
as it is, and a step size is in its sds. Up to two unknowns, what is shown at a step is exact; beyond, ELBO and gradient variance
are measured.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from vilib import (
    MeanFieldGaussian, adagrad, adam, leave_one_out, normal, pathwise, rmsprop, robbins_monro, score_function, sgd,
    sticking_the_landing,
)
from vilib.own_posterior import OwnModel
from vilib.own_noise import variance_range
from vilib.own_race import own_field
from vilib.race import Field, race

from ..core import Axis, Band, Choice, Column, Definition, Line, NewNoise, Panel, Play, Precision, Rule, Slider, Switches, Table
from ..threads import one_thread, stage
from ..widget import Explorable
from .own import OwnCompute, basis, no_misspelt, own_models, plane, q_channel, still

FITS, STEPS, STEP_SIZES, OFF, MEASURED = 16, 300, (0.03, 0.1, 0.3), 3.0, 200
KEPT = sorted({round(STEPS * (i / 20) ** 2) for i in range(21)})
CLOSE, FLOOR = 0.1, 200.0  # nats; how far below the best an ELBO is followed down
#: key → (estimator, label); the key is also its ink.
ESTIMATORS = {"score": (score_function, "score function"), "control": (leave_one_out, "score + leave-one-out"),
              "pathwise": (pathwise, "pathwise"), "stl": (sticking_the_landing, "sticking the landing")}
LABELS = {key: label for key, (_, label) in ESTIMATORS.items()}
#: key → (label, factory)
OPTIMIZERS = {"sgd": ("SGD, Robbins–Monro", lambda step_size: sgd(step_size, robbins_monro(0.7, 50.0))),
              "rmsprop": ("RMSProp", rmsprop), "adagrad": ("AdaGrad", adagrad), "adam": ("Adam", adam)}


class Compute(OwnCompute):
    """One frame; see the panels below for what each channel is."""

    @one_thread()
    def __call__(self, sample_count: int, step_size: float, optimizer: str, target: str, seed: int) -> dict[str, object]:
        model, fixed, lost = self.models[target], self.keep(self._still, target), []
        best, bottom = model.best(), fixed["elbo_range"][0] - 1.0
        frame = fixed | {"steps": np.array(KEPT, dtype=float)}
        for key in ESTIMATORS:
            field, failed = self.keep(self._field, target, optimizer, sample_count, step_size, key)
            mean, sd = field.fits.mean[:, seed].clip(-50, 50), field.fits.stddev[:, seed].clip(1e-3, 50)
            error = getattr(field.fits, "error", field.fits.elbo * math.nan)[:, seed]
            frame |= {
                f"q_{key}": q_channel(model, MeanFieldGaussian(best.q.mu + best.q.stddev * mean, best.q.omega + sd.log())),
                f"elbo_{key}": field.fits.elbo[:, seed].clip(best.elbo - FLOOR), f"error_{key}": error.clip(max=FLOOR),
                f"kl_{key}": field.fits.kl[:, seed].clip(0, 1e9), f"low_{key}": field.low.clip(bottom),
                f"high_{key}": field.high.clip(bottom), f"variance_{key}": field.variance.clip(1e-12, 1e12),
                f"close_{key}": field.arrived, f"failed_{key}": failed.sum(),
            }
            lost += [LABELS[key]] * bool(failed[seed])
        thrown_out = f"The bold fit of {' and '.join(lost)} left the finite numbers: at this step size, noise threw it out. "
        return frame | {"verdict": (thrown_out if lost else "") + basis(model, best.exact)}

    def _fits(self, target: str, optimizer: str, sample_count: int, key: str) -> tuple[torch.Tensor, torch.Tensor]:
        """λ in units at the kept steps, (T, 3, 16, P), and which fits failed, (3, 16): every estimator on the same noise."""
        model = self.models[target]
        mu = torch.zeros(len(STEP_SIZES), FITS, model.dim, dtype=torch.float64)
        mu[..., model.coordinates[0]] = -OFF
        stage(f"fitting, {LABELS[key]}", STEPS + 1)
        climb = OPTIMIZERS[optimizer][1](torch.tensor(STEP_SIZES).unsqueeze(-1))
        return race({key: ESTIMATORS[key][0]}, model.in_units, MeanFieldGaussian(mu, torch.zeros_like(mu)), seed=1,
                    num_samples=sample_count, num_steps=STEPS, record_steps=KEPT, optimizer=climb)[key]

    def _field(
        self, target: str, optimizer: str, sample_count: int, step_size: float, key: str,
    ) -> tuple[Field, torch.Tensor]:
        """What is true of the fits of one step size, and which failed."""
        path, failed = self.keep(self._fits, target, optimizer, sample_count, key)
        at, model = STEP_SIZES.index(step_size), self.models[target]
        stage(f"looking along the way, {LABELS[key]}")
        eps = normal(MEASURED, (), model.dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        name = ESTIMATORS[key][0].__name__
        return own_field(model, path[:, at], KEPT, name, sample_count, nats=CLOSE, eps=eps), failed[at]

    def _still(self, target: str) -> dict[str, object]:
        """What depends on the model alone: the posterior's picture, the axes, and the lines that no q can cross."""
        stage("looking for the best q")
        model = self.models[target]
        best, evidence = model.best().elbo, model.grid.log_evidence if model.grid else math.nan
        low, high = variance_range(model, (-OFF, 0.0), (0.0,), 1)
        top = max(best + 0.6, best + 1.3 * (evidence - best) if model.grid else best)
        return still(model, OFF + 2.0, 2.5) | {
            "best_elbo": best, "log_evidence": evidence, "variance_range": [low * 1e-3, high * 10], "elbo_range": [best - 8.0, top]}


def _panels(models: dict[str, OwnModel]) -> tuple[Panel, ...]:
    each = lambda mark, of: [mark(ink=key, when={"estimators": key}, **of(key)) for key in ESTIMATORS]  # noqa: E731
    drawn = {f"q_{key}": (key, {"estimators": key}) for key in ESTIMATORS}
    ticks, now = (0, 25, 100, 225, 300), Rule(x="steps", at="step", ink="muted")
    bands = each(Band, lambda key: {"x": "steps", "low": f"low_{key}", "high": f"high_{key}"})
    elbo = each(Line, lambda key: {"x": "steps", "y": f"elbo_{key}", "until": "step"})
    variance = each(Line, lambda key: {"x": "steps", "y": f"variance_{key}", "until": "step"})
    return (
        *(plane(name, model, "q moves over the posterior p", "target", drawn, at="step") for name, model in models.items()),
        Panel("elbo", f"ELBO: one fit bold, {FITS} as a fan", Axis("", (0, STEPS), "sqrt", ticks), Axis("nats", "elbo_range"),
              (*bands, *elbo, Rule(y="log_evidence", ink="target", label="log p(x)", dashed=False),
               Rule(y="best_elbo", ink="q", label="best mean-field q"), now), 1, 1.25),
        Panel("variance", "Gradient variance along the path", Axis("step (square-root scale)", (0, STEPS), "sqrt", ticks),
              Axis(f"sum over λ, median of {FITS} fits", "variance_range", "log"), (*variance, now), 1, 1.0),
    )


def own_fit_race(given: Any, *, supports: Any = None, shapes: Any = None, dim: int | None = None, coordinates: Any = None,
                 **values: object) -> Explorable:
    """:func:`fit_race` of a reader's own model; see there."""
    no_misspelt(values)
    ways = {"supports": supports, "shapes": shapes, "dim": dim, "coordinates": coordinates}
    models, own = own_models(given, **ways), {key: key for key in LABELS}
    error = [Column("± s.e.", "error_{row}", ".2g", "step", f"of an ELBO measured with {MEASURED} draws")]
    definition = Definition(
        name="fit-race", title="What does gradient noise do to the fit?", background=True,
        controls=(
            Slider("sample_count", "draws a step, S", (2, 8, 32), 8, "d"),
            Slider("step_size", "step size, sds of the best q", STEP_SIZES, 0.1, ".2f"),
            Choice("optimizer", "optimiser", {key: label for key, (label, _) in OPTIMIZERS.items()}, "adam"),
            Choice("target", "model", {name: name for name in models}, next(iter(models))), NewNoise("seed", "New noise", 3),
            Switches("estimators", "race", LABELS, ("score", "pathwise"), own),
            Play("step", "step", "steps", len(KEPT), len(KEPT) - 1),
        ),
        compute=Compute(models, ways), panels=_panels(models),
        caption="After {step} steps of {optimizer} with {sample_count} draws each, the bold fits have a KL divergence to the best "
                "mean-field q of {kl_score@step:.2g} nats (score function) and {kl_pathwise@step:.2g} nats (pathwise). {verdict}",
        table=Table(LABELS, (
            Column("ELBO now", "elbo_{row}", ".2f", "step",
                   "of the bold fit, in nats; not followed further than 200 nats below the best"),
            *error * any(model.dim > 2 for model in models.values()),
            Column("KL to the best q", "kl_{row}", ".2g", "step", "nats"),
            Column("gradient variance now", "variance_{row}", ".2g", "step",
                   f"summed over λ, in units of the best q, median of {FITS} fits"),
            Column(f"steps to a KL of {CLOSE}", "close_{row}", "d", "",
                   f"median of {FITS} fits; – where half of them never get there"),
            Column("fits that failed", "failed_{row}", "d", "", f"of {FITS}: met a number that is not finite"),
        ), own, "estimators"),
        precision={"close_*": Precision(step=1), "failed_*": Precision(step=1), "elbo*": Precision(step=0.005),
                   "*": Precision(relative=1e-3)},
    )
    return Explorable(definition, **values)
