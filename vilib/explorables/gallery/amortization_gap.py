"""amortization-gap: what does one network for every x cost, and where?

The sensor with a resonance (`vilib.sensor`): a fixed model, an encoder of some width after some steps of training, and for each reading x
the true posterior, the encoder's q and the best Gaussian of all. Nothing is drawn: every number is by quadrature, and rounded to a
thousandth of a nat in such a way that what is printed adds up.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from vilib import VAE, MeanFieldGaussian, data_log_evidence, gauss_hermite, kl_to_standard_normal
from vilib.sensor import GRID, NUM_DATA, STEPS, WIDTHS, sensor_best, sensor_encoder, training_readings

from ..core import Axis, Band, Bar, Column, Definition, Gaussian, Line, Panel, Precision, Rule, Slider, Table
from ..widget import Explorable

X = tuple(round(-2.4 + 0.2 * k, 1) for k in range(34))
Z = np.linspace(-2.8, 2.8, 141)
#: The part of GRID that is drawn; the means are over all of it.
SHOWN = slice(20, 93)
X_RANGE, GAP_RANGE = (-2.9, 4.5), (0.0, 2.0)


def _elbo(vae: VAE, q: MeanFieldGaussian, x: torch.Tensor) -> np.ndarray:
    """The ELBO of each x under its q, (N), in nats."""
    nodes, weights = gauss_hermite(1, 64)
    reconstruction = vae.log_joint(x).log_likelihood(q.transform(nodes.unsqueeze(1).expand(-1, len(x), -1)))
    return (torch.tensordot(weights, reconstruction, 1) - kl_to_standard_normal(q)).numpy()


@lru_cache(maxsize=None)
def _still() -> dict[str, np.ndarray]:
    """What no encoder changes, at every x of GRID and every training reading: log p(x), the best q and its ELBO."""
    (x, best), vae = sensor_best(), sensor_encoder(0)
    return {"x": x[:, 0].numpy(), "evidence": data_log_evidence(vae, x).numpy(), "mu": best.mu[:, 0].numpy(),
            "sigma": best.stddev[:, 0].numpy(), "elbo": _elbo(vae, best, x)}


@lru_cache(maxsize=None)
def _posterior(x: float) -> np.ndarray:
    log_joint = sensor_encoder(0).log_joint(torch.tensor([[x]]).double())(torch.from_numpy(Z).reshape(-1, 1, 1))[:, 0].numpy()
    return np.exp(log_joint - _still()["evidence"][_place(x)])


@lru_cache(maxsize=None)
def _encoder(width: int, step: int, readings: int) -> dict[str, np.ndarray]:
    """One encoder at every x: its q, its ELBO, and the means of both gaps over its training data and over p(x)."""
    still, vae = _still(), sensor_encoder(width, readings, step)
    x = torch.from_numpy(still["x"]).unsqueeze(-1)
    q = vae.encode(x)
    elbo, size = _elbo(vae, q, x), len(GRID)
    fresh, seen = np.exp(still["evidence"][:size]) * 0.1, np.arange(size, size + readings)
    loss, family = np.maximum(still["elbo"] - elbo, 0.0), still["evidence"] - still["elbo"]
    parts = {"family_fresh": fresh @ family[:size], "encoder_fresh": fresh @ loss[:size], "family_seen": family[seen].mean(),
             "encoder_seen": loss[seen].mean()}
    means = {name: round(float(value), 3) + 0.0 for name, value in parts.items()}
    return means | {"mu": q.mu[:, 0].numpy(), "sigma": q.stddev[:, 0].numpy(), "elbo": elbo, "whole": family + loss,
                    "whole_fresh": means["family_fresh"] + means["encoder_fresh"], "whole_seen": means["family_seen"] + means["encoder_seen"]}


def _place(x: float) -> int:
    return round((x - GRID[0].item()) * 10)


def compute(x: float, width: int, step: int, readings: int) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    still, encoder, at = _still(), _encoder(width, step, readings), _place(x)
    evidence, elbo_best = (round(float(still[name][at]), 3) for name in ("evidence", "elbo"))
    elbo_q = min(round(float(encoder["elbo"][at]), 3), elbo_best)
    mu, sigma = encoder["mu"][SHOWN], encoder["sigma"][SHOWN]
    few = readings == min(NUM_DATA)
    frame = {name: encoder[name] for name in encoder if name.endswith(("_fresh", "_seen"))} | {
        "z": Z, "posterior": _posterior(x), "q": np.array([encoder["mu"][at], encoder["sigma"][at]]),
        "best": np.array([still["mu"][at], still["sigma"][at]]), "x_now": x, "zero": 0.0,
        "curve_x": Z + 3 * np.exp(-4 * (Z - 0.5) ** 2), "grid": still["x"][SHOWN], "dots": still["x"][SHOWN][::2], "mu_best_grid": still["mu"][SHOWN][::2],
        "mu_grid": np.clip(mu, -9, 9), "low_grid": np.clip(mu - sigma, -9, 9), "high_grid": np.clip(mu + sigma, -9, 9),
        "family_grid": (still["evidence"] - still["elbo"])[SHOWN], "whole_grid": np.minimum(encoder["whole"][SHOWN], 9),
        "seen": training_readings(min(NUM_DATA))[:, 0], "seen_y": np.full(min(NUM_DATA), 0.0 if few else np.nan),
        "seen_note": f"dots: the {readings} training readings" if few else f"{readings} training readings, not drawn",
        "mu_q": encoder["mu"][at], "sigma_q": encoder["sigma"][at], "mu_best": still["mu"][at], "sigma_best": still["sigma"][at],
        "elbo_q": elbo_q, "elbo_best": elbo_best, "kl_q": evidence - elbo_q, "kl_best": evidence - elbo_best, "evidence": evidence,
        "family_now": evidence - elbo_best, "encoder_now": elbo_best - elbo_q, "whole_now": evidence - elbo_q,
        "above": "not all ends inside the picture" if max(evidence - elbo_q, encoder["whole_fresh"], encoder["whole_seen"]) > GAP_RANGE[1] else "",
    }
    return frame | {"verdict": _verdict(step, encoder)}


def _verdict(step: int, encoder: dict[str, np.ndarray]) -> str:
    if step == 0:
        return "Nothing has been learnt yet."
    if encoder["encoder_fresh"] > 2 * encoder["encoder_seen"] and encoder["encoder_fresh"] > encoder["encoder_seen"] + 0.05:
        return "It gives away {encoder_fresh:.3f} nats on a fresh reading, more than twice the {encoder_seen:.3f} of its own: it has overfitted."
    return "Averaged over fresh readings the encoder gives away {encoder_fresh:.3f} nats, over its own {encoder_seen:.3f}."


def _panels() -> tuple[Panel, ...]:
    stack = lambda whose, name, left: (  # noqa: E731
        Bar("target", {}, "", "zero", f"family_{whose}", left, left + 0.8),
        Bar("q", {}, f"{name}\n{{family_{whose}:.3f}} + {{encoder_{whose}:.3f}}", f"family_{whose}", f"whole_{whose}", left, left + 0.8))
    now, gap_axis = Rule(x="x_now", ink="text"), Axis("nats", GAP_RANGE)
    return (
        Panel("densities", "The posterior of this x, and two q", Axis("z", (-2.8, 2.8)), Axis("density", (0.0, 4.5)),
              (Line(x="z", y="posterior", ink="target", fill=True, label="p(z | x)"), Gaussian(params="best", ink="text", label="best", fill=False),
               Gaussian(params="q", ink="q", label="encoder")), 0, 1.4),
        Panel("ledger", "What is paid: family + encoder", Axis("", (0, 3), ticks=()), gap_axis,
              (*stack("now", "this x", 0.1), *stack("seen", "its own x, mean", 1.1), *stack("fresh", "fresh x, mean", 2.1)), 0, 1.3, note="{above}"),
        Panel("map", "q for every x", Axis("x", X_RANGE), Axis("z", (-2.8, 2.2)),
              (Line(x="curve_x", y="z", ink="muted", width=1, dashed=True), Band(x="grid", low="low_grid", high="high_grid", ink="q"),
               Line(x="dots", y="mu_best_grid", ink="text", width=0, points=True), Line(x="grid", y="mu_grid", ink="q"), now), 1, 1.7,
              note="band: encoder, dots: best μ, dashes: x = m(z)"),
        Panel("gaps", "What every x pays", Axis("x", X_RANGE), gap_axis,
              (Line(x="grid", y="family_grid", ink="target", fill=True, label="family"), Band(x="grid", low="family_grid", high="whole_grid", ink="q"),
               Line(x="grid", y="whole_grid", ink="q", label="+ encoder"), Line(x="seen", y="seen_y", ink="text", width=0, points=True), now), 1, 1.4,
              note="{seen_note}"),
    )


def amortization_gap(**values: object) -> Explorable:
    """What does one network for every x cost, and where?

    values : where controls stand at first: `x`, `width`, `step`, `readings`.
    Raises ExplorableError and TraitError (a value that is not offered).
    """
    columns = (("μ", "mu", ".3f", ""), ("σ", "sigma", ".3f", ""), ("ELBO", "elbo", ".3f", ""), ("KL", "kl", ".3f", "to p(z | x): log p(x) − ELBO"))
    definition = Definition(
        name="amortization-gap", title="What does one network for every x cost?",
        controls=(
            Slider("x", "the reading, x", X, 2.0, ".1f"),
            Slider("width", "encoder's hidden units", WIDTHS, 2, "d"),
            Slider("step", "training steps", STEPS, STEPS[-1], ",d"),
            Slider("readings", "readings trained on", NUM_DATA, NUM_DATA[-1], "d"),
        ),
        compute=compute, panels=_panels(),
        caption="At x = {x_now:.1f}, log p(x) = {evidence:.3f}. The best Gaussian stays {kl_best:.3f} below it, the encoder's another {encoder_now:.3f}. {verdict}",
        table=Table({"q": "encoder", "best": "best Gaussian"}, tuple(Column(label, f"{name}_{{row}}", form, "", words) for label, name, form, words in columns),
                    {"q": "q", "best": "text"}),
        precision={"posterior": Precision(step=0.01), "z": Precision(step=0.04), "grid": Precision(step=0.1), "dots": Precision(step=0.1), "x_now": Precision(step=0.1),
                   "seen": Precision(step=0.01), "*_grid": Precision(step=0.01), "curve_x": Precision(step=0.01), "zero": Precision(),
                   "q": Precision(step=0.005), "best": Precision(step=0.005), "mu_*": Precision(step=0.001), "sigma_*": Precision(step=0.001),
                   "*": Precision(step=0.001)},
    )
    return Explorable(definition, **values)
