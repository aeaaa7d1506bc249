"""The marks that only `latent-map` has, as a browser draws them: pictures of pixels, and numerals that travel."""

from __future__ import annotations

import re

import pytest
from book.hands import Hands, all_ready

pytestmark = pytest.mark.browser

SETTINGS = [
    {"z1": -1.8, "z2": 0.6, "digit": "3", "beta": 1.0, "epoch": 6},
    {"z1": 3.6, "z2": -3.6, "digit": "0", "beta": 0.25, "epoch": 2},
    {"z1": 0.0, "z2": 0.0, "digit": "7", "beta": 6.0, "epoch": 0},
]
TITLES = {"The picture x": "x", "Drawn at the mean of its q": "reconstruction", "Drawn at z": "drawn"}


@pytest.fixture
def latent(site_http, visit) -> Hands:
    return all_ready(visit(f"{site_http}/chapters/vae.html", formulas=False).page)[0]


def panel(hands: Hands, title: str) -> dict:
    """A panel's words for those who do not see it, its pixels (place, side, ink) and its frame."""
    return hands.root.evaluate(
        """(root, title) => {
          const svg = [...root.querySelectorAll('.vl-panel')].find(p => p.querySelector('.vl-panel-title').textContent === title).querySelector('svg');
          const cells = [...svg.querySelectorAll('.vl-marks g[shape-rendering] path')];
          return { said: svg.getAttribute('aria-label'), ink: cells.map(c => Number(c.getAttribute('fill-opacity'))), d: cells.map(c => c.getAttribute('d')) };
        }""", title)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"beta-{s['beta']}")
def test_every_pixel_is_drawn_in_its_place_with_its_ink_and_said(latent, setting):
    latent.put(setting)
    channels = latent.channels()
    for title, name in TITLES.items():
        seen, pixels = panel(latent, title), channels[name]
        at = [pixels[i] if len(pixels) == 64 else pixels[7 * i + setting["epoch"]] for i in range(64)]
        assert seen["ink"] == pytest.approx(at, abs=0.006)
        places = [tuple(map(float, re.match(r"M([-\d.]+) ([-\d.]+)h", d).groups())) for d in seen["d"]]
        side = places[1][0] - places[0][0]
        assert side > 5
        for i, (x, y) in enumerate(places):                                             # row by row, from the top
            assert x - places[0][0] == pytest.approx((i % 8) * side, abs=0.5)
            assert y - places[0][1] == pytest.approx((i // 8) * side, abs=0.5)
        rows = re.search(r"full ink: (.*)\.$", seen["said"]).group(1).split(", ")
        assert [len(row) for row in rows] == [8] * 8 and seen["said"].startswith(f"{title}. ")
        assert "".join(rows) == "".join(str(min(9, int(10 * v + 1e-9))) for v in at)
    assert f"A held-out {setting['digit']}." in panel(latent, "The picture x")["said"]


def test_numerals_stand_where_their_codes_are_and_travel_with_the_training(latent):
    def numerals() -> dict[str, list[tuple[float, float]]]:
        found = latent.root.evaluate(
            "root => [...root.querySelectorAll('.vl-letters text')].map(t => [t.textContent, Number(t.getAttribute('x')), Number(t.getAttribute('y'))])")
        return {str(c): [(x, y) for letter, x, y in found if letter == str(c)] for c in range(10)}

    latent.put({"beta": 1.0, "epoch": 6})
    late, channels = numerals(), latent.channels()
    latent.put({"epoch": 0})
    early = numerals()
    assert all(len(places) == 20 for places in [*late.values(), *early.values()])
    for c in range(10):
        codes = [channels[f"code_{c}_1"][7 * i + 6] for i in range(20)]
        xs = [x for x, _ in late[str(c)]]
        far, near = codes.index(max(codes)), codes.index(min(codes))
        scale = (xs[far] - xs[near]) / (codes[far] - codes[near])
        assert [x - xs[near] for x in xs] == pytest.approx([scale * (v - codes[near]) for v in codes], abs=0.3)
        assert early[str(c)] != late[str(c)]


def test_q_is_an_ellipse_and_z_a_point_that_a_key_moves(latent):
    latent.put({"z1": 0.0, "z2": 0.0})
    marks = "root => root.querySelector('.vl-marks').innerHTML"
    before = latent.root.evaluate(marks)
    latent.press("input[name=z1]", "ArrowRight")
    assert latent.values()["z1"] == "0.6" and latent.root.evaluate(marks) != before
    assert latent.root.evaluate("root => root.querySelectorAll('.vl-marks path[fill-opacity=\".16\"]').length") == 2
