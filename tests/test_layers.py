"""Imports run downward only, and the maths core stands on torch and numpy alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vilib"

#: From the bottom up; modules of one row may import each other (never in a circle), and whatever is below.
ROWS = [
    ["types"], ["noise", "families", "supports", "discrete", "progress", "datasets"],
    ["models", "distribution_functions", "checks"], ["quadrature", "control_variates", "divergences", "networks", "tables", "joint_moments"],
    ["bound", "estimators", "kl_noise"], ["draws", "iwae", "amortized"],
    ["fit", "nested", "replicates", "diagnostics", "laplace", "mcmc", "cavi", "mixture", "vae_gradient"],
    ["training", "amortization_gap"], ["linear_vae", "simulated", "digit_vae", "sensor"], ["slips", "climb"],
    ["checking", "starts"],
    ["elbo_checking", "checking_mcmc", "examples", "checking_transforms", "cavi_checking", "kl_checking",
      "vae_checking", "baseline_checking", "encoder_checking", "checking_model", "checking_slope"],
    ["one_unknown", "advi", "variance_examples", "along", "reference", "side_by_side", "coin_ways"], ["bad_starts"],
    ["gradient_noise", "race", "race_tracks", "own_posterior"], ["own_model"], ["own_noise", "own_race"], ["explorables"],
    ["addresses", "plain_markdown", "docstrings"], ["hosting", "notebooks"], ["book", "coverage", "reference_pages"],
]
HEIGHT = {module: row for row, modules in enumerate(ROWS) for module in modules}
#: Those that a neighbour of the same row may import.
SAME_ROW = {("discrete", "families"), ("divergences", "quadrature"), ("replicates", "fit")}
FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def layer_of(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(file: Path) -> set[str]:
    """The vilib modules that a file imports anywhere, inside functions too; doctests do not count."""
    package = ["vilib", *file.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []              # from . and from ..
            path = [*above, *(node.module.split(".") if node.module else [])]
            if path == ["vilib"]:
                found |= {name.name for name in node.names}
            elif path[0] == "vilib":
                found.add(path[1])
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("vilib.")}
    return found


def test_every_module_has_its_layer():
    assert {layer_of(file) for file in FILES} <= set(HEIGHT)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_module_imports_only_from_below(file):
    own = layer_of(file)
    for other in imported(file):
        if own == "explorables" and other not in HEIGHT:
            continue                                            # a public name of vilib: explorables stand above all of them
        assert other in HEIGHT, f"{own} imports {other!r} from the package; name the module that has it"
        below = HEIGHT[other] < HEIGHT[own] or other == own or (own, other) in SAME_ROW
        assert below, f"{own} imports {other}, which is above it"


def test_the_front_door_imports_nothing_from_above_the_examples():
    assert all(HEIGHT[module] < HEIGHT["explorables"] for module in imported(PACKAGE / "__init__.py"))


def test_importing_vilib_brings_no_widget_plot_or_book():
    heavy = {"ipywidgets", "anywidget", "matplotlib", "sphinx", "IPython", "traitlets", "scipy", "pandas", "xarray",
             "arviz", "arviz_base", "arviz_stats"}
    program = f"import sys, vilib; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
