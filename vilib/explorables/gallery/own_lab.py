"""advi-lab for a reader's own model: what do the choices of an ADVI fit change?

One climb of 300 steps from a start that is bad on purpose, four sds of the best q off in the first coordinate shown and half as
wide, by every choice. Pictures are in the model's unconstrained coordinates, where q is Gaussian; the table is on the scale of its
parameters.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from vilib import Fit, FullRankGaussian, MeanFieldGaussian, adagrad, adam, rmsprop
from vilib.bad_starts import Beside
from vilib.own_race import OwnStart, beside_own
from vilib.side_by_side import every_choice, rising_power

from ..core import Axis, Band, Choice, Column, Definition, Line, Panel, Play, Precision, Rule, Slider, Table
from ..threads import one_thread, stage
from ..widget import Explorable
from .own import OwnCompute, basis, no_misspelt, own_models, plane, q_channel, still

STEPS, DRAWS, LAST = 300, 100, 1000                           # draws for an ELBO along the way, and for the last
KEPT = tuple(sorted({round(STEPS * (i / 12) ** 2) for i in range(13)}))
SIZES = (0.03, 0.1, 0.3)
REFERENCE = "exact by quadrature up to two unknowns, else of a long full-rank fit"
FAMILIES = {"mean": ("mean field", MeanFieldGaussian), "full": ("full rank", FullRankGaussian)}
OPTIMIZERS = {"adagrad": ("AdaGrad", adagrad), "rmsprop": ("RMSProp", rmsprop), "adam": ("Adam", adam)}
TEMPERING = {"off": ("off, β = 1", lambda step: 1.0), "on": ("on, β rises to 1", rising_power(0.05, 100))}


def verdict(seen: Beside, error: float = 0.0) -> str:
    """Whether the last q has arrived; error: of the best ELBO that it is held against, in nats."""
    if not seen.gap < min(0.05 + 2 * math.hypot(seen.spread / LAST**0.5, error), 0.5):
        return "It has not arrived." if seen.gap < 100 else "Its steps threw it out."
    narrow = ", and a width is less than half of the reference's all the same: the family's doing, not the fit's."
    alike = " All its weights are much alike, so this k̂ means little."
    return "It has arrived" + (narrow if seen.narrowest < 0.5 else ".") + (alike if seen.spread < 0.3 else "")


def climbs(best: str = "best q of this family") -> tuple[Panel, Panel]:
    """The ELBO along the way, and how wide q is beside the reference."""
    steps = lambda label: Axis(label, (0, STEPS), "sqrt", (0, 25, 100, 225, 300))  # noqa: E731
    so_far = lambda y, **style: Line(x="steps", y=y, ink="q", until="step", **style)  # noqa: E731
    now, top = Rule(x="steps", at="step", ink="muted"), Rule(y="best", ink="target", label=best)
    return (
        Panel("elbo", "ELBO, from 100 draws a time", steps(""), Axis("nats", "elbo_range"),
              (Band(x="steps", low="low", high="high", ink="q"), so_far("elbo"), top, now), 1, 1.2),
        Panel("widths", "sd of q ÷ sd of the reference", steps("step (square-root scale)"), Axis("", (0.05, 20), "log"),
              (Rule(y="one", ink="target"), so_far("ratio_x"), so_far("ratio_y", dashed=True), now), 1,
              note="solid: across, dashed: up"),
    )


def labels(options: dict[str, Any]) -> dict[str, str]:
    """Key → the first of what it stands for."""
    return {key: option[0] for key, option in options.items()}


class Compute(OwnCompute):
    """One frame; see the panels for what each channel is."""

    @one_thread()
    def __call__(
        self, model: str, family: str, draws: int, optimizer: str, step_size: float, tempering: str,
    ) -> dict[str, object]:
        own, fixed, best = self.models[model], self.keep(self._still, model), self.keep(self._best, model, family)
        seen, ellipses = self.keep(self._beside, model, family, draws, optimizer, step_size, tempering)
        low, high = ((seen.elbo + sign * 2 * seen.error).clamp_min(best.elbo - 99).numpy() for sign in (-1, 1))
        moments = {f"{name}_{row}": getattr(seen, name)[:, i].numpy()
                   for name in ("mean", "sd", "off", "ratio") for i, row in enumerate("xy")}
        at = [own.parameters[c] for c in own.coordinates]
        return fixed | moments | {
            "q": ellipses, "steps": np.array(KEPT, dtype=float), "best": best.elbo, "one": 1.0, "elbo": seen.elbo.numpy(),
            "error": seen.error.numpy(), "low": low, "high": high, "gap": seen.gap,
            "gap_error": math.hypot(seen.spread / LAST**0.5, best.error),
            "k_hat": seen.k_hat if abs(seen.k_hat) < 100 else math.nan,
            "elbo_range": np.array([best.elbo - 12.0, best.elbo + 2.0]).round(),
            "verdict": f"{verdict(seen, best.error)} {basis(own, best.exact)}",
            "places": f"Across in the table: {at[0]}, up: {at[1]}." if len(at) > 1 else f"In the table: {at[0]}.",
        }

    def _best(self, model: str, family: str) -> Any:
        stage(f"looking for the best q, {FAMILIES[family][0]}")
        return self.models[model].best(FAMILIES[family][1])

    def _still(self, model: str) -> dict[str, object]:
        """What depends on the model alone: the posterior's picture, and the reference's means and sds."""
        stage("looking for the best q")
        own = self.models[model]
        known = {f"known_{what}_{row}": pair[i].item()
                 for what, pair in zip(("mean", "sd"), OwnStart(own).known) for i, row in enumerate("xy")}
        return still(own, 6.0, 2.5) | known

    def _fits(self, model: str, family: str, draws: int) -> Fit[Any]:
        """All 18 fits: optimiser, tempering, step size."""
        start = OwnStart(self.models[model]).q0(FAMILIES[family][1])
        stage("18 fits side by side", STEPS + 1)
        return every_choice(
            self.models[model], start, optimizers=[make for _, make in OPTIMIZERS.values()],
            powers=[power for _, power in TEMPERING.values()], step_sizes=SIZES, num_samples=draws, num_steps=STEPS,
            record_steps=KEPT, generator=torch.Generator().manual_seed(1))

    def _beside(
        self, model: str, family: str, draws: int, optimizer: str, step_size: float, tempering: str,
    ) -> tuple[Beside, np.ndarray]:
        """Where one fit stands at the kept steps, and its q as they are drawn."""
        own, best = self.models[model], self.keep(self._best, model, family)
        at = list(OPTIMIZERS).index(optimizer), list(TEMPERING).index(tempering), SIZES.index(step_size)
        path = self.keep(self._fits, model, family, draws).q_at((slice(None), *at))
        stage("looking along the way")
        seen = beside_own(OwnStart(own), path, best.elbo, DRAWS, LAST, torch.Generator().manual_seed(2))
        return seen, q_channel(own, path)


def own_advi_lab(given: Any, *, supports: Any = None, shapes: Any = None, dim: int | None = None, coordinates: Any = None,
                 **values: object) -> Explorable:
    """:func:`advi_lab` of a reader's own model; see there."""
    no_misspelt(values)
    ways = {"supports": supports, "shapes": shapes, "dim": dim, "coordinates": coordinates}
    models = own_models(given, **ways)
    definition = Definition(
        name="advi-lab", title="What do the choices of an ADVI fit change?", background=True,
        controls=(
            Choice("model", "model", {name: name for name in models}, next(iter(models))),
            Choice("family", "family", labels(FAMILIES), "mean"), Slider("draws", "draws, M", (1, 10), 10, "d"),
            Choice("optimizer", "optimiser", labels(OPTIMIZERS), "adam"), Slider("step_size", "step size", SIZES, 0.1, ".2f"),
            Choice("tempering", "tempering", labels(TEMPERING), "off"), Play("step", "step", "steps", len(KEPT), len(KEPT) - 1),
        ),
        compute=Compute(models, ways),
        panels=(*(plane(name, own, "q over the reference", "model", {"q": ("q", {})}, at="step")
                  for name, own in models.items()), *climbs("best q of this family that is known")),
        caption="After {step} steps the ELBO is {elbo@step:.2f} ± {error@step:.2f}. The last q is {gap:.2f} ± {gap_error:.2f} "
                "nats below the best of its family that is known, with k̂ = {k_hat:.2f}. {verdict} {places}",
        table=Table({"x": "across", "y": "up"}, (
            Column("mean of q", "mean_{row}", ".4g", "step", "of the parameter on its own scale, from 1,000 draws"),
            Column("sd of q", "sd_{row}", ".3g", "step", "from 1,000 draws"),
            Column("reference mean", "known_mean_{row}", ".4g", "", REFERENCE),
            Column("reference sd", "known_sd_{row}", ".3g", "", REFERENCE),
            Column("mean off by", "off_{row}", ".2f", "step", "in reference sds"),
            Column("sd ÷ reference sd", "ratio_{row}", ".2f", "step"),
        )),
        precision={"*": Precision(relative=5e-4), "elbo_range": Precision()},
    )
    return Explorable(definition, **values)
