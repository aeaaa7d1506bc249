"""posterior-three-ways: one coin, its exact posterior, and what each way of approximating it gets wrong.

A grid and a chain spend evaluations of the log joint, and more of them buy accuracy. The Laplace approximation and the best
Gaussian of variational inference, both on the logit scale, have an error that no effort removes. All errors are of
probabilities P(θ ≤ t), the same on every scale.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from vilib import DistributionFunction, Example, coin_toss, posterior_density
from vilib.coin_ways import Way, closed_ways, coin_chains, grid_way, logit_distribution, theta_densities

from ..core import (
    Axis, Choice, Column, Definition, Gaussian, Line, NewNoise, Panel, Point, Precision, Slider, Stems, Switches, Table,
)
from ..widget import Explorable

COUNTS, EVALUATIONS = (0, 1, 2, 4, 6, 12, 24), (10, 40, 160, 640, 2560)
PRIORS = {"fair": ("Beta(10, 10)", (10.0, 10.0)), "flat": ("flat, Beta(1, 1)", (1.0, 1.0)), "edges": ("Beta(½, ½)", (0.5, 0.5))}
CHAINS, SEEDS, BINS, NODES, BOX, TOP = 16, 2, 25, 40, 8.0, 9.0
#: key → (label, ink)
METHODS = {"exact": ("exact", "target"), "grid": ("grid", "muted"), "laplace_theta": ("Laplace in θ", "laplace"),
           "laplace_logit": ("Laplace in logit θ", "laplace"), "mcmc": ("MCMC", "mcmc"), "vi": ("VI", "q")}
THETA, THETA_BINS, LOGIT = np.linspace(-0.12, 1.12, 94), np.linspace(0.0, 1.0, BINS + 1), np.linspace(-6.0, 6.0, 113)
GRIDS = {count: torch.linspace(-BOX, BOX, count, dtype=torch.float64) for count in EVALUATIONS}


@lru_cache(maxsize=256)
def _coin(heads: int, tails: int, prior: str) -> tuple[Example, DistributionFunction]:
    """The example, and the exact distribution function of logit θ."""
    coin = coin_toss(heads, tails, PRIORS[prior][1])
    return coin, logit_distribution(coin)


@lru_cache(maxsize=256)
def _ways(heads: int, tails: int, prior: str) -> tuple[dict[str, Way], list[Way], dict[str, object]]:
    """All but the draws: the ways in closed form, the grid at each number of evaluations, and what of the former is drawn."""
    coin, exact = _coin(heads, tails, prior)
    ways, gaussians = closed_ways(coin, exact)
    curves = theta_densities(coin, gaussians, torch.from_numpy(THETA))
    drawn = {f"curve_{key}": np.minimum(curve.numpy(), TOP) for key, curve in curves.items()} | {
        f"gaussian_{key}": np.array([q.mean.item(), q.stddev.item()]) for key, q in gaussians.items() if key != "laplace_theta"}
    return ways, [grid_way(coin, exact, nodes) for nodes in GRIDS.values()], drawn | {
        "logit_exact": (coin(torch.from_numpy(LOGIT).unsqueeze(-1)) - coin.log_evidence).exp().numpy(),
        "tosses": f"{heads + tails} toss" + "es" * (heads + tails != 1),
        "named": f"Beta({coin.posterior.concentration1:g}, {coin.posterior.concentration0:g})",
        "missed": (exact(torch.tensor(-BOX)) + 1 - exact(torch.tensor(BOX))).item(),
    }


@lru_cache(maxsize=4)
def _chains(prior: str) -> torch.Tensor:
    return coin_chains(COUNTS, PRIORS[prior][1], CHAINS, EVALUATIONS[-1], torch.Generator().manual_seed(5))


@lru_cache(maxsize=256)
def _mcmc(heads: int, tails: int, prior: str) -> tuple[np.ndarray, np.ndarray]:
    """The chains of one coin, (chain, 2560), and each one's largest error of a probability by number of draws: (chain, 5)."""
    chains, exact = _chains(prior)[COUNTS.index(heads), COUNTS.index(tails)], _coin(heads, tails, prior)[1]
    errors = [exact.distance_of_draws(chains[:, :count].T) for count in EVALUATIONS]
    return chains.numpy(), torch.stack(errors, -1).numpy()


def compute(heads: int, tails: int, prior: str, evaluations: int, seed: int) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    (ways, grids, drawn), (chains, errors) = _ways(heads, tails, prior), _mcmc(heads, tails, prior)
    theta, nodes = 1 / (1 + np.exp(-chains[seed, :evaluations])), GRIDS[evaluations]
    ways = ways | {"grid": grids[EVALUATIONS.index(evaluations)], "mcmc": Way(theta.mean(), theta.std(), np.nan, np.nan)}
    shown = np.unique(np.linspace(0, evaluations - 1, min(NODES, evaluations)).round().astype(int))
    pad = lambda values: np.pad(values.numpy()[shown], (0, NODES - len(shown)), constant_values=np.nan)  # noqa: E731
    frame = drawn | {f"{name}_{key}": getattr(way, name) for key, way in ways.items() for name in ("mean", "sd", "evidence")} | {
        f"error_{key}": np.full(len(EVALUATIONS), way.error) for key, way in ways.items()} | {
        "error_grid": np.array([way.error for way in grids]), "error_mcmc": errors[seed], "typical_mcmc": np.median(errors, 0),
        "grid_z": pad(nodes), "grid_p": np.minimum(pad(posterior_density(_coin(heads, tails, prior)[0], nodes)), 2.0),
        "theta_grid": THETA, "counts": np.array(EVALUATIONS), "bins": 0.5 * (THETA_BINS[1:] + THETA_BINS[:-1]),
        "logit_grid": LOGIT, "histogram": np.minimum(np.histogram(theta, THETA_BINS)[0] * (BINS / evaluations), 9.0),
        "drawn": f"{NODES} of {evaluations} grid points drawn" if evaluations > NODES else "",
    }
    return frame | {"verdict": _verdict(frame)}


def _verdict(frame: dict[str, object]) -> str:
    words = ("The largest error of a probability P(θ ≤ t) is {error_grid@evaluations:.2g} on the grid, "
             "{error_mcmc@evaluations:.2g} by the draws, {error_laplace_logit:.2g} by Laplace in logit θ and "
             "{error_vi:.2g} by VI.")
    if np.isnan(frame["mean_laplace_theta"]):
        words += " Laplace in θ has nothing to stand on: this density has no mode inside (0, 1)."
    if frame["missed"] > 0.001:
        words += " The grid ends at logit θ = ±8 and misses {missed:.2g} of the posterior, however fine it is."
    return words


def _panels() -> tuple[Panel, ...]:
    style = lambda key, **more: {"ink": METHODS[key][1], "when": {"methods": key}, **more}  # noqa: E731
    curve = lambda key, **more: Line(x="theta_grid", y=f"curve_{key}", **style(key, **more))  # noqa: E731
    error = lambda key, **more: Line(x="counts", y=f"error_{key}", aside=True, **style(key, **more))  # noqa: E731
    bell = lambda key: Gaussian(params=f"gaussian_{key}", **style(key, fill=False))  # noqa: E731
    now = lambda key: Point(x="counts", y=f"error_{key}", at="evaluations", **style(key))  # noqa: E731
    return (
        Panel("theta", "The posterior of θ", Axis("θ, the chance of heads", (-0.12, 1.12), ticks=(0, 0.25, 0.5, 0.75, 1)),
              Axis("density", (0.0, 8.0)),
              (curve("exact", fill=True), Line(x="bins", y="histogram", **style("mcmc", width=1.0, points=True)),
               curve("laplace_theta", dashed=True), curve("laplace_logit"), curve("vi")), 0),
        Panel("logit", "On the logit scale", Axis("logit θ", (-6.0, 6.0)), Axis("density", (0.0, 1.8)),
              (Line(x="logit_grid", y="logit_exact", **style("exact", fill=True)), Stems(x="grid_z", y="grid_p", **style("grid")),
               bell("laplace_logit"), bell("vi")), 1, note="{drawn}"),
        Panel("error", "What more evaluations buy", Axis("evaluations of the log joint", (10, 2560), "log", EVALUATIONS),
              Axis("largest error of a P(θ ≤ t)", (1e-5, 1.0), "log"),
              (error("laplace_theta", label="Laplace, θ", dashed=True), error("laplace_logit", label="Laplace, logit"),
               error("vi", label="VI"), error("grid", label="grid"),
               Line(x="counts", y="typical_mcmc", label="MCMC", aside=True, **style("mcmc")),
               Line(x="counts", y="error_mcmc", **style("mcmc", width=0, points=True)), now("grid"), now("mcmc")), 2),
    )


def posterior_three_ways(**values: object) -> Explorable:
    """One coin: how far off is each way to its posterior?

    values : where controls stand at first: `heads`, `tails`, `prior`, `evaluations`, `seed`, `methods`.
    Raises ExplorableError and TraitError (a value that is not offered).
    """
    step, relative = lambda size: Precision(step=size), lambda share: Precision(relative=share)  # noqa: E731
    labels, inks = ({key: both[i] for key, both in METHODS.items()} for i in (0, 1))
    definition = Definition(
        name="posterior-three-ways", title="One coin: how far off is each way to its posterior?",
        controls=(
            Slider("evaluations", "evaluations", EVALUATIONS, 160, "d"), NewNoise("seed", "New noise", SEEDS),
            Slider("heads", "heads", COUNTS, 6, "d"), Slider("tails", "tails", COUNTS, 1, "d"),
            Choice("prior", "prior of θ", {key: label for key, (label, _) in PRIORS.items()}, "flat"),
            Switches("methods", "methods", labels, tuple(labels), inks),
        ),
        compute=compute, panels=_panels(),
        caption="Heads {heads} times in {tosses}: the posterior is {named}. {verdict}",
        table=Table(labels, (
            Column("mean of θ", "mean_{row}", ".4f"), Column("sd of θ", "sd_{row}", ".4f"),
            Column("log evidence", "evidence_{row}", ".4f", "", "nats; for VI the ELBO, which is a bound; draws give none"),
            Column("largest error of a P(θ ≤ t)", "error_{row}", ".2g", "evaluations", "over all t; the same on every scale"),
        ), inks, "methods"),
        precision={
            "curve_*": step(0.02), "logit_exact": step(0.004), "grid_*": step(0.01), "gaussian_*": step(5e-4),
            "histogram": step(0.02), "mean_*": step(2e-6), "sd_*": step(2e-6), "evidence_*": step(2e-6),
            "error_*": relative(0.005), "typical_mcmc": relative(0.02), "missed": relative(0.005),
        },
    )
    return Explorable(definition, **values)
