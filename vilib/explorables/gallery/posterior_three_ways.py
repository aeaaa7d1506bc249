"""posterior-three-ways: one coin, its exact posterior, and what each way of approximating it gets wrong.

A grid and a chain spend evaluations of the log joint, and more of them buy accuracy. The Laplace approximation and the best
Gaussian of variational inference, both on the logit scale, have an error that no effort removes. All errors are of
probabilities P(θ ≤ t), the same on every scale.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from vilib import (
    DistributionFunction, Example, NoMode, coin_toss, expectation, laplace, log_evidence, metropolis, posterior_density,
)

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
FINE = torch.linspace(-60.0, 60.0, 12_001, dtype=torch.float64)  # logit: where distribution functions are compared
_INSIDE = (THETA > 0) & (THETA < 1)
_AT = torch.logit(torch.from_numpy(np.where(_INSIDE, THETA, 0.5))).unsqueeze(-1)


@lru_cache(maxsize=256)
def _coin(heads: int, tails: int, prior: str) -> tuple[Example, DistributionFunction]:
    """The example, and the exact distribution function of logit θ."""
    coin = coin_toss(heads, tails, PRIORS[prior][1])
    return coin, DistributionFunction.from_density(FINE, coin(FINE.unsqueeze(-1)).exp())


def _on_theta(log_density: torch.Tensor) -> np.ndarray:
    """From a log density of logit θ at the THETA inside (0, 1) to a density of θ, zero outside, cut above the picture."""
    return np.where(_INSIDE, np.minimum(log_density.exp().numpy() / np.where(_INSIDE, THETA * (1 - THETA), 1.0), TOP), 0.0)


@lru_cache(maxsize=256)
def _gaussians(heads: int, tails: int, prior: str) -> dict[str, object]:
    """Exact, Laplace in θ and in logit θ, VI: what depends on the data and the prior alone."""
    coin, cdf = _coin(heads, tails, prior)
    exact, ends = coin.posterior, cdf(torch.tensor([-BOX, BOX]))
    out: dict[str, object] = {
        "tosses": f"{heads + tails} toss" + "es" * (heads + tails != 1), "named": f"Beta({exact.concentration1:g}, {exact.concentration0:g})",
        "curve_exact": _on_theta(coin(_AT) - coin.log_evidence),
        "logit_exact": (coin(torch.from_numpy(LOGIT).unsqueeze(-1)) - coin.log_evidence).exp().numpy(),
        "mean_exact": exact.mean.item(), "sd_exact": exact.stddev.item(), "evidence_exact": coin.log_evidence, "error_exact": 0.0,
        "missed": (ends[0] + 1 - ends[1]).item(),
    }
    by_curvature = laplace(coin, torch.zeros(1, dtype=torch.float64))
    best, elbo = coin.best
    for key, q, evidence in [("laplace_logit", by_curvature.q, by_curvature.log_evidence.item()), ("vi", best, elbo)]:
        mean, square = (expectation(lambda z: torch.sigmoid(z[..., 0]) ** k, q).item() for k in (1, 2))  # noqa: B023
        out |= {f"gaussian_{key}": np.array([q.mean.item(), q.stddev.item()]), f"curve_{key}": _on_theta(q.log_prob(_AT)), f"mean_{key}": mean,
                f"sd_{key}": (square - mean**2) ** 0.5, f"evidence_{key}": evidence, f"error_{key}": cdf.distance(_cdf(q))}
    try:
        found = laplace(lambda z: coin.model.log_joint({"theta": z[..., 0]}), exact.mean.reshape(1), max_steps=15)
    except NoMode:
        values = (np.nan, np.nan, np.nan, np.nan, np.full(len(THETA), np.nan))
    else:
        values = (found.q.mean.item(), found.q.stddev.item(), found.log_evidence.item(), cdf.distance(lambda t: _cdf(found.q)(torch.sigmoid(t))),
                  np.minimum(found.q.log_prob(torch.from_numpy(THETA).unsqueeze(-1)).exp().numpy(), TOP))
    return out | dict(zip([f"{name}_laplace_theta" for name in ("mean", "sd", "evidence", "error", "curve")], values))


def _cdf(q):
    return lambda t: torch.special.ndtr((t - q.mean) / q.stddev)


@lru_cache(maxsize=1024)
def _grid(heads: int, tails: int, prior: str, evaluations: int) -> dict[str, object]:
    """`evaluations` equal steps over the box: the posterior that they see."""
    coin, cdf = _coin(heads, tails, prior)
    nodes = torch.linspace(-BOX, BOX, evaluations, dtype=torch.float64)
    density = posterior_density(coin, nodes)
    weights, theta = density * (nodes[1] - nodes[0]), torch.sigmoid(nodes)
    mean = (weights * theta).sum()
    drawn = np.unique(np.linspace(0, evaluations - 1, min(NODES, evaluations)).round().astype(int))
    pad = lambda values: np.pad(values.numpy()[drawn], (0, NODES - len(drawn)), constant_values=np.nan)  # noqa: E731
    return {"grid_z": pad(nodes), "grid_p": np.minimum(pad(density), 2.0), "mean_grid": mean.item(),
            "sd_grid": (weights * (theta - mean).square()).sum().sqrt().item(), "evidence_grid": log_evidence(coin, -BOX, BOX, evaluations),
            "error_grid": cdf.distance(DistributionFunction.from_density(nodes, density))}


@lru_cache(maxsize=4)
def _chains(prior: str) -> torch.Tensor:
    """logit θ along CHAINS chains for every pair of counts: (heads, tails, chain, 2560). They start at θ = ½; steps have sd 1."""
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    coins = coin_toss(counts.reshape(-1, 1, 1), counts.reshape(1, -1, 1), PRIORS[prior][1])
    start = torch.zeros(len(COUNTS), len(COUNTS), CHAINS, 1, dtype=torch.float64)
    chains = metropolis(coins, start, num_samples=EVALUATIONS[-1], step_size=1.0, generator=torch.Generator().manual_seed(5))
    return chains.draws[..., 0].movedim(0, -1).contiguous()


@lru_cache(maxsize=256)
def _mcmc(heads: int, tails: int, prior: str) -> tuple[np.ndarray, np.ndarray]:
    """The chains of one coin, (chain, 2560), and each one's largest error of a probability after each number of draws: (chain, 5)."""
    chains, cdf = _chains(prior)[COUNTS.index(heads), COUNTS.index(tails)], _coin(heads, tails, prior)[1]
    errors = [cdf.distance_of_draws(chains[:, :count].T) for count in EVALUATIONS]
    return chains.numpy(), torch.stack(errors, -1).numpy()


def compute(heads: int, tails: int, prior: str, evaluations: int, seed: int) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    frame, (chains, errors) = dict(_gaussians(heads, tails, prior)), _mcmc(heads, tails, prior)
    grids = [_grid(heads, tails, prior, count) for count in EVALUATIONS]
    theta = 1 / (1 + np.exp(-chains[seed, :evaluations]))
    frame |= {name: value for name, value in grids[EVALUATIONS.index(evaluations)].items() if name != "error_grid"} | {
        "theta_grid": THETA, "logit_grid": LOGIT, "counts": np.array(EVALUATIONS), "bins": 0.5 * (THETA_BINS[1:] + THETA_BINS[:-1]),
        "histogram": np.minimum(np.histogram(theta, THETA_BINS)[0] * (BINS / evaluations), 9.0),
        "drawn": f"{NODES} of {evaluations} grid points drawn" if evaluations > NODES else "",
        "mean_mcmc": theta.mean(), "sd_mcmc": theta.std(), "evidence_mcmc": float("nan"),
        "error_grid": np.array([grid["error_grid"] for grid in grids]), "error_mcmc": errors[seed], "typical_mcmc": np.median(errors, 0),
    }
    for key in ("exact", "laplace_theta", "laplace_logit", "vi"):  # the same at every number of evaluations
        frame[f"error_{key}"] = np.full(len(EVALUATIONS), frame[f"error_{key}"])
    return frame | {"verdict": _verdict(frame, evaluations)}


def _verdict(frame: dict[str, object], evaluations: int) -> str:
    words = ("The largest error of a probability P(θ ≤ t) is {error_grid@evaluations:.2g} on the grid, {error_mcmc@evaluations:.2g} by the draws, "
             "{error_laplace_logit:.2g} by Laplace in logit θ and {error_vi:.2g} by VI.")
    if np.isnan(frame["mean_laplace_theta"]):
        words += " Laplace in θ has nothing to stand on: this density has no mode inside (0, 1)."
    if frame["missed"] > 0.001:
        words += " The grid ends at logit θ = ±8 and misses {missed:.2g} of the posterior, however fine it is."
    return words


def _panels() -> tuple[Panel, ...]:
    on = lambda key: {"methods": key}  # noqa: E731
    marked = lambda kind, key, y="", **style: kind(y=y or f"error_{key}", ink=METHODS[key][1], when=on(key), **style)  # noqa: E731
    curve = lambda key, **style: marked(Line, key, f"curve_{key}", x="theta_grid", **style)  # noqa: E731
    error = lambda key, label="", **style: marked(Line, key, x="counts", label=label or METHODS[key][0], aside=True, **style)  # noqa: E731
    bell = lambda key: Gaussian(params=f"gaussian_{key}", ink=METHODS[key][1], when=on(key), fill=False)  # noqa: E731
    now = lambda key: marked(Point, key, x="counts", at="evaluations")  # noqa: E731
    return (
        Panel("theta", "The posterior of θ", Axis("θ, the chance of heads", (-0.12, 1.12), ticks=(0, 0.25, 0.5, 0.75, 1)),
              Axis("density", (0.0, 8.0)),
              (curve("exact", fill=True), marked(Line, "mcmc", "histogram", x="bins", width=1.0, points=True),
               curve("laplace_theta", dashed=True), curve("laplace_logit"), curve("vi")), 0),
        Panel("logit", "On the logit scale", Axis("logit θ", (-6.0, 6.0)), Axis("density", (0.0, 1.8)),
              (marked(Line, "exact", "logit_exact", x="logit_grid", fill=True), marked(Stems, "grid", "grid_p", x="grid_z"),
               bell("laplace_logit"), bell("vi")), 1, note="{drawn}"),
        Panel("error", "What more evaluations buy", Axis("evaluations of the log joint", (10, 2560), "log", EVALUATIONS),
              Axis("largest error of a P(θ ≤ t)", (1e-5, 1.0), "log"),
              (error("laplace_theta", "Laplace, θ", dashed=True), error("laplace_logit", "Laplace, logit"), error("vi"), error("grid"),
               marked(Line, "mcmc", "typical_mcmc", x="counts", label="MCMC", aside=True),
               marked(Line, "mcmc", x="counts", width=0, points=True), now("grid"), now("mcmc")), 2),
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
            "curve_*": step(0.02), "logit_exact": step(0.004), "grid_*": step(0.01), "gaussian_*": step(5e-4), "histogram": step(0.02),
            "mean_*": step(2e-6), "sd_*": step(2e-6), "evidence_*": step(2e-6), "error_*": relative(0.005), "typical_mcmc": relative(0.02),
            "missed": relative(0.005),
        },
    )
    return Explorable(definition, **values)
