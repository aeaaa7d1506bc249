"""jacobian: what happens to a density when its variable is mapped, and what happens if you forget the factor.

z ~ N(0, 1) and u = T(z). An interval of z goes up to the curve of T and across to an interval of u. Its mass is an area under each
density. With the factor |dz/du| the two areas are one number; without it the area is multiplied by the mean of |du/dz| in the interval.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from vilib import MeanFieldGaussian, expectation, standard_normal_prior

from ..core import Axis, Band, Bar, Choice, Column, Definition, Line, Panel, Precision, Rule, Slider, Table
from ..widget import Explorable

#: key → (label, u = T(z), the range of u that is shown, the height of the density that is shown)
MAPS: dict[str, tuple[str, Callable[[Tensor], Tensor], tuple[float, float], float]] = {
    "double": ("u = 2z", lambda z: 2 * z, (-4.2, 4.2), 0.45),
    "flip": ("u = −z/2", lambda z: -z / 2, (-1.05, 1.05), 0.9),
    "exp": ("u = exp z", torch.exp, (0.0, 7.5), 0.72),
    "sigmoid": ("u = sigmoid z", torch.sigmoid, (0.0, 1.0), 1.8),
    "softplus": ("u = softplus z", softplus, (0.0, 2.3), 1.05),
    "cubic": ("u = z³", lambda z: z**3, (-8.2, 8.2), 0.9),
}
MIDDLES = tuple(round(-1.6 + 0.1 * k, 1) for k in range(33))
WIDTHS = (0.05, 0.1, 0.2, 0.4, 0.8)
EDGE = 3.0                      # the z axis ends here
Z = np.linspace(-4.5, 4.5, 301)
NODES, DRAWN = 401, 9           # points of an interval: to integrate over, and to draw


def _stretch(key: str, z: Tensor) -> Tensor:
    """|du/dz|, elementwise, by autodiff."""
    z = z.detach().requires_grad_()
    return torch.autograd.grad(MAPS[key][1](z).sum(), z)[0].abs()


def _density(key: str, factor: bool, z: Tensor) -> np.ndarray:
    """What is drawn over u = T(z): p(z)/|du/dz|, or p(z) where the factor is left out; cut above the picture."""
    p = standard_normal_prior(z.unsqueeze(-1)).exp()
    return (p / _stretch(key, z) if factor else p).clamp_max(2 * MAPS[key][3]).numpy()


@lru_cache(maxsize=None)
def _curves(key: str) -> dict[str, object]:
    """What depends on the map alone."""
    _, apply, domain, height = MAPS[key]
    z, q = torch.from_numpy(Z), MeanFieldGaussian(*torch.zeros(2, 1, dtype=torch.float64))
    stretch = expectation(lambda z: _stretch(key, z[..., 0]), q)
    return {"z": Z, "u": apply(z).numpy(), "p_z": _density("double", False, z), "right": _density(key, True, z),
            "without": _density(key, False, z), "u_range": np.array(domain), "height_range": np.array([0.0, height]), "stretch": stretch.item()}


@lru_cache(maxsize=None)
def _areas(key: str, width: float) -> tuple[Tensor, Tensor]:
    """The area of the strip at each of MIDDLES, (33,): with the factor, which is the mass in z, and without it."""
    middles = torch.tensor(MIDDLES, dtype=torch.float64)
    mass = torch.special.ndtr(middles + width / 2) - torch.special.ndtr(middles - width / 2)
    z = middles.unsqueeze(-1) + width * torch.linspace(-0.5, 0.5, NODES, dtype=torch.float64)
    return mass, torch.trapezoid(standard_normal_prior(z.unsqueeze(-1)).exp() * _stretch(key, z), z)


@lru_cache(maxsize=None)
def _strip(key: str, factor: bool, middle: float, width: float) -> dict[str, object]:
    """One interval on both sides: its ends, its areas, the two shapes to shade, and the beam from one to the other."""
    mass, without = (areas[MIDDLES.index(middle)].item() for areas in _areas(key, width))
    z = torch.linspace(middle - width / 2, middle + width / 2, DRAWN, dtype=torch.float64).round(decimals=9)
    u, area = MAPS[key][1](z).numpy(), mass if factor else without
    low, high = sorted((u[0], u[-1]))
    return {
        "from_z": z[0].item(), "to_z": z[-1].item(), "width_z": width, "mean_z": mass / width, "area_z": mass, "total_z": 1.0,
        "from_u": low, "to_u": high, "width_u": high - low, "mean_u": area / (high - low), "area_u": area, "ratio": (high - low) / width,
        "strip_z": z.numpy(), "strip_p": _density("double", False, z),
        "ring_p": np.concatenate([[0.0], _density(key, factor, z), [0.0, 0.0]]), "ring_u": np.concatenate([[u[0]], u, [u[-1], u[0]]]),
        "beam_z": np.concatenate([z, [z[-1], EDGE]]), "beam_low": np.concatenate([np.full(DRAWN, MAPS[key][2][0]), [low, low]]),
        "beam_high": np.concatenate([np.maximum(u, u[0]), [high, high]]),
    }


def compute(map: str, factor: str, middle: float, width: float) -> dict[str, object]:
    """One frame; see the panels below for what each channel is."""
    kept, curves = factor == "on", _curves(map)
    strip, tallest = _strip(map, kept, middle, width), max(areas.max().item() for areas in _areas(map, width))
    return {name: values for name, values in (curves | strip).items() if name not in ("without", "stretch")} | {
        "p_u": curves["right" if kept else "without"], "area_range": np.array([0.0, 1.2 * tallest]), "zero": 0.0, "one": 1.0,
        "total_u": 1.0 if kept else curves["stretch"], "verdict": _verdict(map, kept, strip["from_z"] * strip["to_z"] < 1e-9),
    }


def _verdict(key: str, kept: bool, around_zero: bool) -> str:
    said = "Its mean height is divided by that number, and the mass that arrives is the mass that left: {area_u:.4g}."
    if not kept:
        said = ("The heights stay those of z: an area of {area_z:.4g} arrives as {area_u:.4g}, and the total, 1, as {total_u:.3f}. "
                "It is no density.")
    elif key == "cubic" and around_zero:
        said += " At u = 0 the map is flat and the density has no upper limit; the area under it is finite."
    return ("; the map falls, so its ends change places. " if key == "flip" else ". ") + said


def _panels() -> tuple[Panel, ...]:
    z_axis, u_axis = lambda label: Axis(label, (-EDGE, EDGE)), Axis("u", "u_range")  # noqa: E731
    bar = lambda high, left, ink, label: Bar(ink, {}, label, "zero", high, left, left + 0.8)  # noqa: E731
    return (
        Panel("map", "The map, u = T(z)", z_axis("z"), u_axis,
              (Band(x="beam_z", low="beam_low", high="beam_high", ink="q"), Line(x="z", y="u", ink="text")), 0, 1.2),
        Panel("z", "The density of z", z_axis("z"), Axis("p(z)", (0.0, 0.45)),
              (Line(x="strip_z", y="strip_p", ink="q", fill=True, width=1.0), Line(x="z", y="p_z", ink="target")), 0, 0.8, note="total area 1"),
        Panel("u", "What is drawn over u", Axis("height", "height_range"), u_axis,
              (Line(x="right", y="u", ink="muted", dashed=True, when={"factor": "off"}),
               Line(x="ring_p", y="ring_u", ink="q", fill=True, width=1.0), Line(x="p_u", y="u", ink="target")), 1, 1.2,
              note="total area {total_u:.3f}"),
        Panel("mass", "The area of the strip", Axis("", (0, 2), ticks=()), Axis("area", "area_range"),
              (Rule(y="area_z", ink="target"), bar("area_z", 0.1, "q", "in z\n{area_z:.4g}"),
               bar("area_u", 1.1, "q", "in u\n{area_u:.4g}")), 1, 0.8),
        Panel("total", "The total area", Axis("", (0, 2), ticks=()), Axis("area", (0.0, 3.6)),
              (Rule(y="one", ink="target"), bar("total_z", 0.1, "target", "in z\n1"), bar("total_u", 1.1, "target", "in u\n{total_u:.3f}")), 2),
    )


def jacobian(**values: object) -> Explorable:
    """What happens to a density when its variable is mapped?  values: where `map`, `factor`, `middle`, `width` stand at first.

    Raises ExplorableError and TraitError (a value that is not offered).
    """
    columns = (("from", "from", ".3g", ""), ("to", "to", ".3g", ""), ("width", "width", ".3g", ""),
               ("mean height", "mean", ".3g", "area over width"), ("area of the strip", "area", ".4g", "width times mean height"),
               ("total area", "total", ".3f", "over the whole axis, seen or not"))
    definition = Definition(
        name="jacobian", title="What happens to a density when its variable is mapped?",
        controls=(
            Choice("map", "map", {key: label for key, (label, *_) in MAPS.items()}, "exp"),
            Choice("factor", "factor |dz/du|", {"on": "kept", "off": "left out"}, "on"),
            Slider("middle", "the interval's middle", MIDDLES, 0.8, ".1f"),
            Slider("width", "its width, Δz", WIDTHS, 0.4, ".2f"),
        ),
        compute=compute, panels=_panels(),
        caption="The interval {from_z:.2f} to {to_z:.2f} of z becomes {from_u:.3g} to {to_u:.3g} of u, {ratio:.4g} times as wide{verdict}",
        table=Table({"z": "z", "u": "u"}, tuple(Column(label, f"{name}_{{row}}", form, "", words) for label, name, form, words in columns)),
        precision={"z": Precision(step=0.01), "u": Precision(step=0.001), "p_*": Precision(step=5e-4), "right": Precision(step=5e-4),
                   "strip_*": Precision(step=0.002), "ring_*": Precision(step=0.002), "beam_*": Precision(step=0.01),
                   "*_range": Precision(step=0.001), "total_*": Precision(step=1e-5), "*": Precision(relative=1e-5)},
    )
    return Explorable(definition, **values)
