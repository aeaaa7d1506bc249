"""kl-directions: which q is closest to p depends on which of them draws, and so does the noise of finding out.

On a ridge q = N((μ, μ), σ² I), and p and q are products of what they are across it and along it, the *parts* of the target.
"""

from __future__ import annotations

from functools import lru_cache, reduce

import numpy as np
import torch

from vilib import LogRatioMoments, MeanFieldGaussian, correlated_gaussian, forward_kl, gaussian_target, gumbel_target
from vilib import log_ratio_moments, moment_matched_gaussian, reverse_kl, stationary_gaussians, trapezoid, two_component_mixture

from ..contours import level_rings
from ..core import Axis, Band, Choice, Column, Contour, Definition, Ellipse, Gaussian, Line, NewNoise, Panel, Point, Precision
from ..core import Rule, Slider, Table
from ..widget import Explorable

MEANS = (-4.0, -3.5, -3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
SDS = (0.65, 0.87, 1.02, 1.3, 1.6, 2.0, 2.56, 2.74, 3.16, 4.0)
COUNTS, LEVELS, RINGS, SD, RHO = (10, 100, 1000, 10_000), (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0), 12, 2.0, 0.9
ACROSS, ALONG, HILLS, SKEWED = SD * (1 - RHO) ** 0.5, SD * (1 + RHO) ** 0.5, two_component_mixture(), gumbel_target(-1.5, 2.0)
Z, LOW, HIGH, GAP = np.linspace(-8.0, 8.0, 81), -0.4, 1.2, np.full(len(COUNTS), np.nan)      # LOW, HIGH: the integrand's picture
REACH, FINE = 90.0, torch.linspace(-90.0, 90.0, 4001, dtype=torch.float64).unsqueeze(-1)

#: key → (label, p, a box around it, its parts as (density, what multiplies μ there, its draws from standard normal ε (S, 2)))
TARGETS = {
    "bimodal": ("two hills, at ±3", HILLS, ([-14.0], [14.0]), ((HILLS, 1.0, lambda e: e[:, 0] + 3 * e[:, 1].sign()),)),
    "skewed": ("skewed (Gumbel)", SKEWED, ([-12.0], [45.0]), ((SKEWED, 1.0, lambda e: -1.5 - 2 * (-torch.special.log_ndtr(e[:, 0])).log()),)),
    "correlated": ("ridge in 2-D, ρ = 0.9", correlated_gaussian(RHO, (SD, SD)), ([-14.0, -14.0], [14.0, 14.0]),
                   ((gaussian_target(0.0, ACROSS), 0.0, lambda e: ACROSS * e[:, 0]), (gaussian_target(0.0, ALONG), 2**0.5, lambda e: ALONG * e[:, 1]))),
}


def _q(mu: object, sigma: object) -> MeanFieldGaussian:
    return MeanFieldGaussian(*(torch.as_tensor(x, dtype=torch.float64).unsqueeze(-1) for x in (mu, np.log(sigma))))


@lru_cache(maxsize=None)
def _still(target: str, direction: str) -> dict[str, object]:
    """What does not move with q: p, the landscape, the Gaussians that are best."""
    _, p, box, parts = TARGETS[target]
    mu, omega = np.arange(-5.4, 5.41, 0.15), np.arange(-1.1, 1.86, 0.05)              # a little beyond the panel
    at = [(part, _q(*np.broadcast_arrays(mu * along, np.exp(omega)[:, None]))) for part, along, _ in parts]
    if direction == "reverse":
        field = sum(reverse_kl(part, q, rule=lambda dim: trapezoid(dim, 129)) for part, q in at)
        found = [(p.best[0], -p.best[1])] if target == "correlated" else [
            (s.q, s.kl) for s in stationary_gaussians(p, _q([-3.0, 3.0, 0.0], [1.0, 1.0, 2.7])) if s.is_minimum]
    else:
        field = sum(forward_kl(part, q, -45.0, 45.0, num_nodes=601) for part, q in at)
        found = [moment_matched_gaussian(p, *box, MeanFieldGaussian)]
    minima = sorted(((q.mean[0].item(), q.stddev[0].item(), kl) for q, kl in found), key=lambda m: (round(m[2], 6), -m[0]))
    rings = level_rings(mu, omega, field.numpy() - minima[0][2], LEVELS, num_rings=RINGS, num_points=73)
    minima_mu, minima_sd, kls = np.pad(np.array(minima).round(9) + 0.0, ((0, 3 - len(minima)), (0, 0)), constant_values=np.nan).T
    return dict(zip(("ring_mu", "ring_omega", "ring_levels"), rings)) | {
        "z": Z, "flat": np.zeros(len(Z)), "p": parts[0][0](torch.from_numpy(Z).unsqueeze(-1)).exp().numpy(), "minima_mu": minima_mu,
        "minima_omega": np.log(minima_sd), "mu_best": minima_mu[0], "sigma_best": minima_sd[0], "value_best": np.full(len(COUNTS), kls[0]),
        "ridge": np.array([0.0, 0.0, SD, RHO * SD, SD * (1 - RHO**2) ** 0.5]), "name": {"reverse": "KL(q ‖ p)", "forward": "KL(p ‖ q)"}[direction],
    }


@lru_cache(maxsize=4096)
def _exact(target: str, direction: str, mu: float, sigma: float) -> tuple[dict[str, object], LogRatioMoments]:
    """Where this q's KL comes from, and what the noise of its estimates is made of."""
    each, curves = [], []
    for p, along, _ in TARGETS[target][3]:
        base, other = (_q(mu * along, sigma).log_prob, p)[:: 1 if direction == "reverse" else -1]
        each.append(log_ratio_moments(base, other, -REACH, REACH, len(FINE)))
        curves.append((base(FINE).exp() * (base(FINE) - other(FINE))).numpy())
    moments, alone = reduce(LogRatioMoments.times, each), len(each) == 1
    exact, peak = round(moments.kl, 3) + 0.0, max(c.max() for c in curves)
    first = round(curves[0].clip(0).sum() * 2 * REACH / (len(FINE) - 1) if alone else each[0].kl, 3)
    curve, second = (*(np.interp(Z, FINE[:, 0].numpy(), curve).clip(LOW, HIGH) for curve in curves), np.full(len(Z), np.nan))[:2]
    return {"curve": curve, "second": second, "value_q": np.full(len(COUNTS), exact), "first": first, "rest": abs(exact - first),
            "split": "Where the curve is above zero it adds {first:.3f}, where it is below it takes away {rest:.3f}." if alone else
                     "Of it {first:.3f} comes from across the ridge and {rest:.3f} from along it.",
            "above": f"up to {peak:.1f}, above the picture" if peak > HIGH else ""}, moments


@lru_cache(maxsize=4096)
def _estimated(target: str, direction: str, mu: float, sigma: float, seed: int) -> dict[str, np.ndarray]:
    """k1 and k3 from the first 10, 100, … of the draws, with the standard errors that the draws tell."""
    eps = torch.randn(COUNTS[-1], 2, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    log_w = torch.zeros(COUNTS[-1], dtype=torch.float64)                     # of the density that does not draw over the one that does
    for j, (p, along, draw) in enumerate(TARGETS[target][3]):
        q = _q(mu * along, sigma)
        z = q.sample(eps[:, j : j + 1]) if direction == "reverse" else draw(eps).unsqueeze(-1)
        log_w += (p(z) - q.log_prob(z)) * (1 if direction == "reverse" else -1)
    terms, of = {"k1": -log_w, "k3": log_w.expm1() - log_w}, {"value": torch.mean, "error": lambda x: x.std() / len(x) ** 0.5}
    return {f"{kind}_{name}": np.array([f(x[:n]).item() for n in COUNTS]) for name, x in terms.items() for kind, f in of.items()}


def compute(mu: float, sigma: float, direction: str, target: str, sample_count: int, seed: int) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    exact, moments = _exact(target, direction, mu, sigma)
    k1, k3 = moments.sd_k1, moments.sd_k3 if moments.sd_k3 < 1e3 else np.nan
    verdict = ("k3 is of no use here: its variance is infinite, or so large that no number of draws tames it." if np.isnan(k3) else
               f"k3 is the {'quieter' if k3 < k1 else 'noisier'} one, by a factor of {max(k1, k3) / min(k1, k3):.3g}.")
    return _still(target, direction) | exact | _estimated(target, direction, mu, sigma, seed) | {
        "counts": np.array(COUNTS), "zero": 0.0, "q": np.array([mu, sigma]), "disc": np.array([mu, mu, sigma, 0.0, sigma]), "mu_q": mu,
        "sigma_q": sigma, "omega_q": np.log(sigma), "theory_k1": k1 / np.sqrt(COUNTS), "theory_k3": k3 / np.sqrt(COUNTS), "verdict": verdict,
        **{f"{n}_{row}": GAP for n in ("error", "theory") for row in ("q", "best")}, **{f"{n}_{row}": np.nan for n in ("mu", "sigma") for row in ("k1", "k3")}}


def _panels() -> tuple[Panel, ...]:
    flat, ridge, y = {"target": ("bimodal", "skewed")}, {"target": "correlated"}, Axis("nats per unit of z", (LOW, HIGH))
    ways, zero = (("reverse", "q", "q · log(q/p)"), ("forward", "target", "p · log(p/q)")), Rule(y="zero", ink="muted", dashed=False)
    shade = tuple(Band(x="z", low="flat", high="curve", ink=ink, when={"direction": way}) for way, ink, _ in ways)
    curve = lambda y, label="", **style: tuple(Line(x="z", y=y, ink=ink, label=label or name, when={"direction": way}, **style) for way, ink, name in ways)  # noqa: E731, E501
    noise = lambda row, ink: (Line(x="counts", y=f"theory_{row}", ink=ink, label=row, aside=True),                                                    # noqa: E731, E501
                              Line(x="counts", y=f"error_{row}", ink=ink, width=0, points=True), Point(x="counts", y=f"error_{row}", ink=ink, at="sample_count"))
    return (
        Panel("densities", "p, and q", Axis("", (-8.0, 8.0)), Axis("", (0.0, 0.63)),
              (Line(x="z", y="p", ink="target", fill=True, label="p"), Gaussian(params="q", ink="q", label="q")), 0, 0.9, when=flat),
        Panel("ridge", "p, and q", Axis("z₁", (-12.0, 12.0)), Axis("z₂", (-6.0, 6.0)),
              (Ellipse(params="ridge", ink="target", fill=True), Ellipse(params="disc", ink="q")), 0, 1.3, when=ridge),
        Panel("integrand", "Where the KL comes from", Axis("z", (-8.0, 8.0)), y, (*shade, zero, *curve("curve")), 0, 1.1, "{above}", flat),
        Panel("parts", "Where the KL comes from", Axis("distance from the centre of the ridge", (-8.0, 8.0)), y,
              (*shade, zero, *curve("curve", "across", aside=True), *curve("second", "along", aside=True, dashed=True)), 0, 0.7, "{above}", ridge),
        Panel("landscape", "The KL over (μ, log σ)", Axis("μ", (-4.8, 4.8)), Axis("log σ", (-0.9, 1.6)),
              (Contour(x="ring_mu", y="ring_omega", levels="ring_levels", ink="target"), Line(x="minima_mu", y="minima_omega", ink="target", width=0, points=True),
               Point(x="mu_q", y="omega_q", ink="q", label="q")), 1, note="nats above the best"),
        Panel("noise", "How noisy is an estimate?", Axis("draws, S", (10, 10_000), "log", COUNTS), Axis("standard error, nats", (1e-3, 1e2), "log"),
              (*noise("k1", "text"), *noise("k3", "control")), 2, note="lines: theory"),
    )


def kl_directions(**values: object) -> Explorable:
    """Which q is closest to p, which way round, and how noisy is it to find out?

    values : where `mu`, `sigma`, `direction`, `target`, `sample_count` and `seed` stand at first; one that is not offered raises TraitError.
    """
    columns = (
        Column("μ", "mu_{row}", ".3f"), Column("σ", "sigma_{row}", ".3f"), Column("KL, nats", "value_{row}", ".3f", "sample_count"),
        Column("its standard error", "error_{row}", ".2g", "sample_count", "as the draws tell it"),
        Column("what theory says", "theory_{row}", ".2g", "sample_count", "the standard deviation of one term over √S"))
    return Explorable(Definition(
        "kl-directions", "Which q is closest to p, and which way round?",
        (Slider("mu", "q's mean, μ", MEANS, 1.0, ".1f"), Slider("sigma", "q's width, σ", SDS, 2.0, ".2f"),
         Choice("direction", "divergence", {"reverse": "reverse, KL(q ‖ p)", "forward": "forward, KL(p ‖ q)"}, "reverse"),
         Choice("target", "target p", {key: target[0] for key, target in TARGETS.items()}, "bimodal"),
         Slider("sample_count", "draws, S", COUNTS, 100, ",d"), NewNoise("seed", "New noise", 2)), compute, _panels(), "{name} = {value_q@sample_count:.3f} nats. {split} {sample_count} draws estimate it as {value_k1@sample_count:.3f} "
        "± {error_k1@sample_count:.2g}. {verdict}",
        Table({"q": "this q", "best": "best q this way round", "k1": "k1, from S draws", "k3": "k3, from S draws"}, columns, {"q": "q", "k3": "control"}),
        {"ring_levels": Precision(step=0.05), "ring_*": Precision(step=0.01), "p": Precision(step=0.001), "curve": Precision(step=0.01),
         "second": Precision(step=0.01), "z": Precision(step=0.2), "error_*": Precision(relative=0.01), "*_best": Precision(step=1e-4),
         "theory_*": Precision(relative=0.01), "value_k*": Precision(step=0.002), "*": Precision(step=0.001)},
    ), **values)
