"""The marks that only `elbo-bars` has, as a browser draws them: bars that add up to the pixel, and all level lines."""

from __future__ import annotations

import re

import pytest
from book.hands import Hands, all_ready

pytestmark = pytest.mark.browser

SETTINGS = [
    {"mu": -1.0, "sigma": 0.6, "observations": 3, "model": "mean"},
    {"mu": 1.0, "sigma": 0.13, "observations": 15, "model": "sign"},
    {"mu": 0.0, "sigma": 1.0, "observations": 0, "model": "coin"},
    {"mu": -0.4, "sigma": 0.84, "observations": 1, "model": "coin"},
]


@pytest.fixture
def bars(site_http, visit) -> Hands:
    return all_ready(visit(f"{site_http}/chapters/elbo.html", formulas=False).page)[0]


def spans(hands: Hands, title: str) -> list[tuple[float, float]]:
    """(foot, top) of every bar of a panel, in pixels from the top of the page."""
    paths = hands.root.evaluate(
        """(root, title) => [...root.querySelectorAll('.vl-panel')].find(p => p.innerText.startsWith(title))
        .querySelectorAll('.vl-marks path[fill-opacity=".82"]').values().map(p => p.getAttribute('d')).toArray()""", title)
    numbers = [[float(n) for n in re.findall(r"-?[\d.]+", path)] for path in paths]
    return [(n[1], n[3]) for n in numbers]                                           # M left foot H right V top H left


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s['model']}-{s['observations']}")
def test_bars_add_up_to_the_pixel(bars, setting):
    bars.put(setting)
    elbo, kl, evidence = spans(bars, "ELBO + KL")
    assert elbo[0] == pytest.approx(kl[0], abs=0.11) and kl[1] == pytest.approx(evidence[0], abs=0.11)
    assert elbo[1] == pytest.approx(evidence[1], abs=0.11), "both hang from zero"
    fit, cost, joint, entropy = spans(bars, "The ELBO, made")
    assert cost[1] == pytest.approx(fit[0], abs=0.11) and cost[0] == pytest.approx(elbo[0], abs=0.11)
    assert sorted(entropy) == pytest.approx(sorted((joint[0], elbo[0])), abs=0.11)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s['model']}-{s['observations']}")
def test_every_level_line_is_drawn_and_the_bars_say_their_numbers(bars, setting):
    bars.put(setting)
    channels = bars.channels()
    levels = [level for level in channels["ring_levels"] if level is not None]
    drawn = bars.root.evaluate("root => root.querySelectorAll('.vl-marks path[fill-opacity=\".1\"]').length")
    assert drawn == len(levels) >= 3
    words = bars.root.evaluate("root => [...root.querySelectorAll('.vl-texts text')].map(t => t.textContent)")
    written = {float(word) for word in words if re.fullmatch(r"[\d.]+", word)} & {0.1, 0.3, 1.0, 3.0, 10.0, 30.0}
    assert written and written <= {round(level, 6) for level in levels}
    for name in ("elbo_q", "kl_q", "evidence_q", "fit_q", "cost_q", "joint_q", "entropy_q"):
        number = f"{abs(channels[name][0]):.2f}"
        assert any(word.replace("−", "") == number for word in words), (name, number, words)


def test_what_lies_below_the_picture_is_said(bars):
    bars.put({"mu": -2.0, "sigma": 2.0, "observations": 15, "model": "mean"})
    notes = bars.root.evaluate("root => [...root.querySelectorAll('.vl-note')].map(n => n.textContent)")
    assert any("is below the picture" in note and "{" not in note for note in notes)
