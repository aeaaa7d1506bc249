"""mean-field-ellipse: a Gaussian posterior with correlation ρ, and the closest q: what does independence cost?

The posterior is N(0, Σ) in two dimensions, with both variances 1. Everything but k̂ is in closed form; k̂ is measured on draws, and
stands beside the value that it tends to.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from vilib import (
    FullRankGaussian, closest_mean_field, closest_mean_field_forward, gaussian_kl, gaussian_of, normal, pareto_k, weight_tail,
)

from ..core import Axis, Choice, Column, Definition, Ellipse, Line, NewNoise, Panel, Point, Precision, Rule, Slider, Table
from ..widget import Explorable

RHOS = tuple(round(-0.95 + 0.05 * k, 2) for k in range(39))
DRAWS, SEEDS, TOO_HEAVY = 20_000, 5, 0.7
#: As far as the cost is followed, in nats.
DEPTH = 3.0
FINE = np.linspace(-0.97, 0.97, 195)
#: The densities of z₁ alone stand on the lower edge of the plane, so many units of z₂ high for a density of one.
Z, FLOOR, SCALE = np.linspace(-4.4, 4.4, 133), -3.9, 1.3

#: key → label of each q that the table compares
ROWS = {"reverse": "mean field, reverse KL", "forward": "mean field, forward KL", "full": "full rank"}
DIRECTIONS = {"reverse": "reverse, KL(q ‖ p)", "forward": "forward, KL(p ‖ q)"}
FAMILIES = {"mean_field": "mean field", "full_rank": "full rank"}


def _fits(rho: np.ndarray) -> tuple[FullRankGaussian, dict[str, object]]:
    """The posteriors of these correlations, as one batch, and the closest q of each kind."""
    rho = torch.as_tensor(rho, dtype=torch.float64)
    off = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    p = gaussian_of(torch.zeros(*rho.shape, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64) + rho[..., None, None] * off)
    return p, {"reverse": closest_mean_field(p), "forward": closest_mean_field_forward(p), "full": p}


@lru_cache(maxsize=2)
def _closed_forms(fine: bool) -> dict[str, np.ndarray]:
    """What each q costs at every correlation: name → (correlations)."""
    p, fits = _fits(FINE if fine else np.array(RHOS))
    out = {f"tril_{key}": q.scale_tril.numpy() for key, q in fits.items()}
    for key, q in fits.items():
        found = {"gap": gaussian_kl(q, p), "forward_kl": gaussian_kl(p, q), "law": weight_tail(q, p), "sd": q.stddev[..., 0]}
        out |= {f"{name}_{key}": value.numpy().clip(0.0, None) for name, value in found.items()}
    return out


@lru_cache(maxsize=SEEDS)
def _measured(seed: int) -> dict[str, np.ndarray]:
    """k̂ of DRAWS draws at every correlation, nan where all weights are alike: key → (RHOS).

    The sign of ρ mirrors the second coordinate, and the draws with it, so that ρ and −ρ have the same weights.
    """
    half = [rho for rho in RHOS if rho > 0]
    eps = normal(DRAWS, (), 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    p, fits = _fits(np.array(half))
    out = {"full": np.full(len(RHOS), np.nan)}
    for key in ("reverse", "forward"):
        z = fits[key].transform(eps.unsqueeze(1).expand(-1, len(half), -1))
        k_hat = pareto_k(p.log_prob(z) - fits[key].log_prob(z)).numpy()
        out[key] = np.concatenate([k_hat[::-1], [np.nan], k_hat])
    return out


def compute(rho: float, direction: str, family: str, seed: int) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    key, at = (direction if family == "mean_field" else "full"), RHOS.index(rho)
    values, curves, k_hat = _closed_forms(False), _closed_forms(True), _measured(seed)
    frame: dict[str, object] = {f"{name}_{row}": values[f"{name}_{row}"][at] for name in ("gap", "forward_kl", "law", "sd") for row in ROWS}
    frame |= {f"k_hat_{row}": k_hat[row][at] for row in ROWS} | {f"correlation_{row}": rho if row == "full" else 0.0 for row in ROWS}
    frame |= {f"law_{row}": float("nan") for row in (ROWS if rho == 0 else ["full"])}       # q is p: all weights alike, and no tail
    frame |= {f"{name}_now": frame[f"{name}_{key}"] for name in ("sd", "correlation", "gap", "forward_kl", "law", "k_hat")}
    density = lambda sd: FLOOR + SCALE * np.exp(-0.5 * (Z / sd) ** 2) / (sd * np.sqrt(2 * np.pi))  # noqa: E731
    ellipse = lambda whose: np.append([0.0, 0.0], values[f"tril_{whose}"][at][[0, 1, 1], [0, 0, 1]])  # noqa: E731
    return frame | {
        "ellipse_p": ellipse("full"), "ellipse_q": ellipse(key), "z": Z, "name_x": Z[-2:], "name_y": np.full(2, FLOOR + 0.75), "marginal_p": density(1.0),
        "conditional_p": density(np.sqrt(1 - rho**2)), "marginal_q": density(values[f"sd_{key}"][at]),
        "rho_now": rho, "fine": FINE, "rhos": np.array(RHOS), "too_heavy": TOO_HEAVY,
        "gap_curve": np.minimum(curves[f"gap_{key}"], 2 * DEPTH),
        "law_curve": curves[f"law_{key}"] if key != "full" else np.full(len(FINE), np.nan), "k_hats": k_hat[key],
        "above": "{gap_now:.1f} nats: above the picture" if values[f"gap_{key}"][at] > DEPTH else "",
        "drawn": "all weights are alike: no tail" if key == "full" else f"line: law; dots: {DRAWS:,} draws each",
        "verdict": _verdict(key, rho),
    }


def _verdict(key: str, rho: float) -> str:
    if key == "full":
        return "A full-rank q is the posterior itself, by either divergence: nothing is lost, and there is nothing for k̂ to find."
    if rho == 0:
        return "At ρ = 0 the posterior is independent, and the closest mean-field q, by either divergence, is the posterior."
    tail = " Measured on draws, k̂ is {k_hat_now:.2f}; it tends to {law_now:.2f} as the draws grow."
    if key == "reverse":
        return ("By reverse KL q takes the posterior's conditional width, {sd_reverse:.3f} instead of 1, "
                "and is {gap_now:.3f} nats below log p(x)." + tail)
    return ("By forward KL q keeps the posterior's marginal width, 1, and covers corners where the posterior has next to nothing: "
            "its ELBO is {gap_now:.3f} nats below log p(x), that of the reverse fit {gap_reverse:.3f}." + tail)


def _panels() -> tuple[Panel, ...]:
    of_rho = Axis("correlation, ρ", (-1.0, 1.0), ticks=(-1, -0.5, 0, 0.5, 1))
    plane = [Ellipse(params="ellipse_p", ink="target", fill=True), Ellipse(params="ellipse_q", ink="q")]
    for when, marginal, conditional, of_q in (       # q's density always lies on one of the two others, and its label says on which
            ({"family": "mean_field", "direction": "reverse"}, "p(z₁)", "", "q(z₁) = p(z₁ | z₂ = 0)"),
            ({"family": "mean_field", "direction": "forward"}, "", "p(z₁ | z₂ = 0)", "q(z₁) = p(z₁)"),
            ({"family": "full_rank"}, "", "p(z₁ | z₂ = 0)", "q(z₁) = p(z₁)")):
        plane += [Line("target", when, marginal, "z", "marginal_p", fill=True), Line("target", when, conditional, "z", "conditional_p", fill=True),
                  Line("q", when, "", "z", "marginal_q"), Line("q", when, of_q, "name_x", "name_y", width=0)]
    return (
        Panel("plane", "The posterior and q; below, z₁ alone", Axis("z₁", (-4.9, 4.9), ticks=(-2, -1, 0, 1, 2)),
              Axis("z₂", (FLOOR, 2.15), ticks=(-2, -1, 0, 1, 2)), tuple(plane), 0, note="1 and 2 sd"),
        Panel("gap", "What it costs: log p(x) − ELBO", of_rho, Axis("nats", (0.0, DEPTH)),
              (Line(x="fine", y="gap_curve", ink="q"), Rule(x="rho_now", ink="muted"), Point(x="rho_now", y="gap_now", ink="q")), 1, note="{above}"),
        Panel("tail", "Can weights mend it? k̂", of_rho, Axis("k̂", (0.0, 1.0), ticks=(0, 0.5, 0.7, 1)),
              (Rule(y="too_heavy", ink="text"), Line(x="fine", y="law_curve", ink="q"), Line(x="rhos", y="k_hats", ink="q", width=0, points=True),
               Rule(x="rho_now", ink="muted"), Point(x="rho_now", y="k_hat_now", ink="q")), 1, note="{drawn}"),
    )


def mean_field_ellipse(**values: object) -> Explorable:
    """What does independence cost on a Gaussian posterior of correlation ρ?

    values : where controls stand at first: `rho`, `direction`, `family`, `seed`.
    Raises ExplorableError and TraitError (a value that is not offered).
    """
    definition = Definition(
        name="mean-field-ellipse", title="What does independence cost?",
        controls=(
            Slider("rho", "the posterior's correlation, ρ", RHOS, 0.8, ".2f", wide=True),
            NewNoise("seed", "New draws", SEEDS),
            Choice("direction", "closest by", DIRECTIONS, "reverse"), Choice("family", "family of q", FAMILIES, "mean_field"),
        ),
        compute=compute, panels=_panels(), caption="ρ = {rho_now:.2f}. {verdict}",
        table=Table({"now": "this q", **ROWS}, (
            Column("sd of z₁", "sd_{row}", ".3f", "", "the posterior's is 1"), Column("correlation", "correlation_{row}", ".2f"),
            Column("log p(x) − ELBO", "gap_{row}", ".3f", "", "KL(q ‖ p), in nats"), Column("KL(p ‖ q)", "forward_kl_{row}", ".3f", "", "nats"),
            Column("k̂, in the limit", "law_{row}", ".2f", "", "1 − the smallest eigenvalue of C^½ Λ C^½"),
            Column("k̂, measured", "k_hat_{row}", ".2f", "", f"{DRAWS:,} draws"),
        ), {"now": "q"}),
        precision={"gap_curve": Precision(step=0.005), "law_curve": Precision(step=0.002), "k_hat*": Precision(step=0.001),
                   "*al_[pq]": Precision(step=0.005), "z": Precision(step=0.001), "gap_*": Precision(step=1e-6), "forward_kl_*": Precision(step=1e-6),
                   "sd_*": Precision(step=1e-6), "*": Precision(step=0.0001)},
    )
    return Explorable(definition, **values)
