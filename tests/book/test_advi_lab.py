"""The maps that only `advi-lab` draws through, as a browser draws them: q on the scale of the model, point by point."""

from __future__ import annotations

import math
import re

import pytest
from book.hands import Hands, all_ready

pytestmark = pytest.mark.browser

SETTING = {"family": "full", "draws": 10, "optimizer": "adam", "step_size": 0.1, "tempering": "off", "step": 4}
IMAGE = {"raw": lambda u, v: (u, v), "schools": lambda u, v: (u, math.exp(v)), "mixture": lambda u, v: (u, u + math.exp(v))}

#: The two rings of q, in pixels, and what the panel's axes make of two places.
_RINGS = """(root) => {
  const panel = [...root.querySelectorAll('.vl-panel:not([hidden])')].find(p => p.innerText.startsWith('q over'));
  return [...panel.querySelectorAll('.vl-marks path')].filter(p => p.getAttribute('fill') === 'none').map(p => p.getAttribute('d'));
}"""


@pytest.fixture
def hands(site_http, visit) -> Hands:
    return all_ready(visit(f"{site_http}/chapters/advi.html", formulas=False).page)[0]


def points(path: str) -> list[tuple[float, float]]:
    numbers = [float(n) for n in re.findall(r"-?[\d.]+", path)]
    return list(zip(numbers[::2], numbers[1::2]))


@pytest.mark.parametrize("model", IMAGE)
def test_the_rings_of_q_are_the_image_of_an_ellipse(hands, model):
    """Pixels are an affine map of the model's scale: fitted on the inner ring, it must place the outer one."""
    import numpy as np

    hands.put(SETTING | {"model": model})
    m1, m2, l11, l21, l22 = np.array(hands.channels()["q_ellipse"], dtype=float).reshape(5, -1)[:, SETTING["step"]]
    turn = np.linspace(0, 2 * np.pi, 91)
    inner, outer = (np.array([IMAGE[model](m1 + r * l11 * np.cos(a), m2 + r * (l21 * np.cos(a) + l22 * np.sin(a))) for a in turn]) for r in (1, 2))
    rings = [np.array(points(d)) for d in hands.root.evaluate(_RINGS) if len(points(d)) == 91]
    assert len(rings) == 2
    for axis in (0, 1):
        slope, offset = np.polyfit(inner[:, axis], rings[0][:, axis], 1)
        assert np.abs(slope * outer[:, axis] + offset - rings[1][:, axis]).max() < 1.0, "a pixel"


def test_the_density_of_the_coin_has_mass_one(hands):
    """By the axes' own ticks the curve in pixels becomes a density; half a per cent for the rounding of pixels."""
    import numpy as np

    hands.put(SETTING | {"model": "coin", "step": 12})
    curve = max((np.array(points(d)) for d in hands.root.evaluate(_RINGS)), key=len)
    mean, sd = np.array(hands.channels()["q_curve"], dtype=float).reshape(2, -1)[:, 12]
    u = mean + sd * np.linspace(-4.5, 4.5, 161)
    theta = 1 / (1 + np.exp(-u))
    slope, offset = np.polyfit(theta, curve[:, 0], 1)
    assert np.abs(slope * theta + offset - curve[:, 0]).max() < 0.2
    density = np.exp(-0.5 * ((u - mean) / sd) ** 2) / (sd * math.sqrt(2 * math.pi)) / (theta * (1 - theta))
    slope, offset = np.polyfit(density, curve[:, 1], 1)
    assert np.abs(slope * density + offset - curve[:, 1]).max() < 0.2
