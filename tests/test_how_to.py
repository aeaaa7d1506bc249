"""What `chapters/how-to.md` shows and promises."""

from __future__ import annotations

import re
from pathlib import Path

import vilib
from vilib.explorables.gallery import fit_race

PAGE = (Path(__file__).parents[1] / "chapters" / "how-to.md").read_text(encoding="utf8")


def test_its_code_runs():
    first, second, third = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    space: dict = {}
    exec(first, space)
    race = space["race"]
    assert race.step_size == 0.1 and race.optimizer == "sgd"
    assert set(race.frame()) == set(fit_race(step_size=0.1, optimizer="sgd").frame())
    exec(second, space)
    noise = space["noise"]
    assert noise.wait(60) and "data" in noise._frame
    noise.mend(space["my_model"])
    assert noise.wait(60) and "Exact, by quadrature." in noise.frame()["basis"].item()
    exec(third, space)
    posterior = space["posterior"]
    assert posterior.converged and posterior.draws["mu"].shape == (4000,) and hasattr(posterior, "to_arviz")


def test_its_names_are_in_the_package():
    names = set(re.findall(r"`vilib\.(\w+)`", PAGE))
    assert names == {"Model", "advi", "check_unbiased"}
    assert all(hasattr(vilib, name) for name in names)
