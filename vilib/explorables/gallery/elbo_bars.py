"""elbo-bars: how far below log p(x) does the ELBO stay, and what is it made of?

One unknown z ~ N(0, 1) and N observations of it. Move a Gaussian q: ELBO and KL change, their sum does not. Every number is exact
(quadrature), and rounded to a thousandth of a nat in such a way that what is printed adds up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from vilib import Example, MeanFieldGaussian, coin, elbo_terms, gaussian_mean, hidden_sign, standard_normal_prior, trapezoid

from ..contours import level_rings
from ..core import Axis, Bar, Choice, Column, Contour, Definition, Gaussian, Line, Panel, Point, Precision, Rule, Slider, Table
from ..widget import Explorable

MEANS = tuple(round(-2 + 0.2 * k, 1) for k in range(21))
SDS = (0.13, 0.15, 0.18, 0.21, 0.25, 0.3, 0.35, 0.42, 0.5, 0.6, 0.71, 0.84, 1.0, 1.2, 1.4, 1.7, 2.0)
#: Number of observations → how far below log p(x) the bars are followed, in nats.
DEPTH = {0: 4.0, 1: 6.0, 3: 10.0, 15: 26.0}
LEVELS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
X = (1.2, 0.4, 1.6, 2.3, -0.5, 1.9, 0.7, 0.1, 3.0, 1.4, -0.2, 0.9, 1.8, 0.6, 0.8)
TOSSES = (1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1)
Z = np.linspace(-2.4, 2.4, 121)

#: key → (label, model, data)
MODELS = {
    "mean": ("a mean: x ~ N(z, 1)", gaussian_mean, X),
    "coin": ("a coin: heads with probability sigmoid(z)", coin, TOSSES),
    "sign": ("a hidden sign: x ~ N(z², 1)", hidden_sign, X),
}


@lru_cache(maxsize=None)
def _example(model: str, count: int) -> Example:
    _, make, data = MODELS[model]
    return make(torch.tensor(data[:count], dtype=torch.float64))


@lru_cache(maxsize=32)
def _terms(model: str, count: int, mu: tuple[float, ...], omega: tuple[float, ...]) -> dict[str, np.ndarray]:
    """The terms of the ELBO at every (μ, ω) of a grid: name → (μ, ω)."""
    example = _example(model, count)
    grid = torch.cartesian_prod(*(torch.tensor(v, dtype=torch.float64) for v in (mu, omega)))
    terms = elbo_terms(lambda z: example(z) - standard_normal_prior(z), standard_normal_prior,
                       MeanFieldGaussian(grid[:, :1], grid[:, 1:]), lambda dim: trapezoid(dim, 257))
    values = {"elbo": terms.elbo, "cost": terms.kl_to_prior, "entropy": terms.entropy}
    return {name: value.reshape(len(mu), len(omega)).numpy() for name, value in values.items()}


def _ledger(model: str, count: int, whose: str, terms: dict[str, np.ndarray], *at: int) -> dict[str, float]:
    """All that is known of one q, in thousandths of a nat that add up; channels end in `whose`."""
    elbo, cost, entropy = (round(float(terms[name][at]), 3) + 0.0 for name in ("elbo", "cost", "entropy"))
    evidence = round(_example(model, count).log_evidence, 3) + 0.0
    ledger = {"elbo": elbo, "kl": evidence - elbo, "evidence": evidence, "fit": elbo + cost, "cost": cost, "joint": elbo - entropy,
              "entropy": entropy}
    return {f"{name}_{whose}": value for name, value in ledger.items()}


@lru_cache(maxsize=None)
def _still(model: str, count: int) -> dict[str, object]:
    """What does not move with q: the posterior, the landscape, the best Gaussian, the axes."""
    example = _example(model, count)
    evidence, best = example.log_evidence, example.best[0]
    density = (example(torch.from_numpy(Z).unsqueeze(-1)) - evidence).exp().numpy()
    mu, omega = np.arange(-2.6, 2.61, 0.04), np.arange(-3.2, 1.33, 0.04)                 # a little beyond the panel
    rings = level_rings(mu, omega, evidence - _terms(model, count, tuple(mu), tuple(omega))["elbo"].T, LEVELS)
    place = best.mean.item() + 0.0, best.stddev.log().item()
    low = evidence - DEPTH[count]
    return _ledger(model, count, "best", _terms(model, count, place[:1], place[1:]), 0, 0) | {
        **dict(zip(("ring_mu", "ring_omega", "ring_levels"), rings)), "z": Z, "posterior": density, "zero": 0.0,
        "density_range": np.array([0.0, 2.1 * density.max()]), "nats_range": np.array([low, -0.2 * low]),
        "mu_best": place[0], "omega_best": place[1], "sigma_best": best.stddev.item(),
    }


def compute(mu: float, sigma: float, observations: int, model: str) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    terms = _terms(model, observations, MEANS, tuple(np.log(SDS)))
    frame = _still(model, observations) | _ledger(model, observations, "q", terms, MEANS.index(mu), SDS.index(sigma))
    return frame | {
        "q": np.array([mu, sigma]), "mu_q": mu, "sigma_q": sigma, "omega_q": np.log(sigma), "climb": frame["kl_q"] - frame["kl_best"],
        "below": "the ELBO, {elbo_q:.1f}, is below the picture" if frame["elbo_q"] < frame["nats_range"][0] else "",
        "verdict": _verdict(observations, frame["kl_q"], frame["kl_best"]),
    }


def _verdict(count: int, kl: float, least: float) -> str:
    said = "The best Gaussian is {climb:.3f} nats higher, with a KL of {kl_best:.3f}."
    if kl < 0.0005:
        said = "To the digits shown, q is the posterior, and the bound is tight."
    elif least >= 0.0005 and kl < least + 0.01:
        said = "No Gaussian does better by even 0.01 nats: the KL that is left is the price of a Gaussian q."
    return ("Without data log p(x) = log 1 = 0, and the posterior is the prior. " if count == 0 else "") + said


def _panels() -> tuple[Panel, ...]:
    bar = lambda low, high, left, ink, label: Bar(ink, {}, label, low, high, left, left + 0.8)  # noqa: E731
    return (
        Panel("densities", "The posterior, and q", Axis("", (-2.4, 2.4)), Axis("", "density_range"),
              (Line(x="z", y="posterior", ink="target", fill=True, label="p(z | x)"), Gaussian(params="q", ink="q", label="q")), 0, 0.8),
        Panel("landscape", "The ELBO over (μ, log σ)", Axis("z, μ", (-2.4, 2.4)), Axis("log σ", (-2.9, 1.0)),
              (Contour(x="ring_mu", y="ring_omega", levels="ring_levels", ink="target"), Rule(y="omega_best", ink="target"),
               Rule(x="mu_best", ink="target", label="best"), Point(x="mu_q", y="omega_q", ink="q", label="q")), 0, 1.2,
              note="nats below log p(x)"),
        Panel("sum", "ELBO + KL = log p(x)", Axis("", (0, 3), ticks=()), Axis("nats", "nats_range"),
              (Rule(y="evidence_q", ink="target"), bar("elbo_q", "zero", 0.1, "q", "ELBO\n{elbo_q:.2f}"),
               bar("elbo_q", "evidence_q", 1.1, "text", "+ KL\n{kl_q:.2f}"),
               bar("evidence_q", "zero", 2.1, "target", "= log p(x)\n{evidence_q:.2f}")), 1, note="{below}"),
        Panel("terms", "The ELBO, made in two ways", Axis("", (0, 4.3), ticks=()), Axis("nats", "nats_range"),
              (Rule(y="elbo_q", ink="q"), bar("fit_q", "zero", 0.1, "target", "fit\n{fit_q:.2f}"),
               bar("elbo_q", "fit_q", 1.1, "q", "− cost\n{cost_q:.2f}"), bar("joint_q", "zero", 2.4, "target", "joint\n{joint_q:.2f}"),
               bar("elbo_q", "joint_q", 3.4, "q", "+ entropy\n{entropy_q:.2f}")), 2),
    )


def elbo_bars(models: Sequence[str] = tuple(MODELS), **values: object) -> Explorable:
    """How far below log p(x) does the ELBO stay, and what is it made of?

    models : which of `mean`, `coin`, `sign` to offer.
    values : where controls stand at first: `mu`, `sigma`, `observations`, `model`.
    Raises KeyError (an unknown model), ExplorableError and TraitError (a value that is not offered).
    """
    columns = (("μ", "mu", ".2f", ""), ("σ", "sigma", ".2f", ""), ("ELBO", "elbo", ".3f", ""), ("+ KL(q ‖ posterior)", "kl", ".3f", ""),
               ("= log p(x)", "evidence", ".3f", ""), ("fit", "fit", ".3f", "E_q[log p(x | z)]"), ("cost", "cost", ".3f", "KL(q ‖ prior)"),
               ("joint", "joint", ".3f", "E_q[log p(x, z)]"), ("entropy", "entropy", ".3f", "H[q]"))
    definition = Definition(
        name="elbo-bars", title="How far below log p(x) does the ELBO stay?",
        controls=(
            Slider("mu", "q's mean, μ", MEANS, -1.0, ".1f"),
            Slider("sigma", "q's width, σ", SDS, 0.6, ".2f"),
            Slider("observations", "observations, N", tuple(DEPTH), 3, "d"),
            Choice("model", "the data are", {key: MODELS[key][0] for key in models}, models[0]),
        ),
        compute=compute, panels=_panels(),
        caption="log p(x) = {evidence_q:.3f} whatever q is. This q splits it into an ELBO of {elbo_q:.3f} and a KL of {kl_q:.3f} nats. {verdict}",
        table=Table({"q": "this q", "best": "best Gaussian"},
                    tuple(Column(label, f"{name}_{{row}}", form, "", words) for label, name, form, words in columns), {"q": "q", "best": "text"}),
        precision={"ring_levels": Precision(step=0.1), "ring_*": Precision(step=0.01), "posterior": Precision(step=0.001), "z": Precision(step=0.04),
                   "*_range": Precision(), "zero": Precision(), "*": Precision(step=0.001)},
    )
    return Explorable(definition, **values)
