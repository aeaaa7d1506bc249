"""What the docstrings promise: they exist, their examples run, their equations stand in a chapter."""

import inspect
import re
from pathlib import Path

import pytest

import vilib

ROOT = Path(__file__).parents[1]
PUBLIC = {name: getattr(vilib, name) for name in vilib.__all__}
CORE = sorted(file for file in (ROOT / "vilib").glob("*.py") if file.name not in ("book.py", "coverage.py", "reference_pages.py", "__init__.py"))
LABEL = re.compile(r"eq:[a-z][a-z-]*")


def labels_in_chapters() -> set[str]:
    pages = [ROOT / "intro.md", *sorted((ROOT / "chapters").glob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    of_directives, of_dollars = r"^\s*:(?:label|name): *(eq:\S+)\s*$", r"\$\$ *\((eq:[^)]+)\)"
    return set(re.findall(of_directives, text, re.M)) | set(re.findall(of_dollars, text))


def test_all_lists_every_public_name_once_and_nothing_else():
    imported = {name for name, value in vars(vilib).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert len(vilib.__all__) == len(set(vilib.__all__)) and set(vilib.__all__) == imported


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_docstring(name):
    doc = inspect.getdoc(PUBLIC[name]) or ""
    assert len(doc) > 20 and not doc.startswith(f"{name}(")          # a dataclass without one gets its signature


@pytest.mark.parametrize("name", [n for n, f in PUBLIC.items() if inspect.isclass(f) and not issubclass(f, Exception)])
def test_every_public_method_has_a_docstring(name):
    """But for what a name says by itself, and for what overrides a method that has one."""
    spoken = {"dim", "batch_shape", "num_parameters", "mean", "stddev", "scale_tril", "parameter_names", "log_scales"}
    for method, member in vars(PUBLIC[name]).items():
        is_method = inspect.isfunction(member) or isinstance(member, property)
        if is_method and not method.startswith("_") and method not in spoken:
            assert inspect.getdoc(getattr(PUBLIC[name], method)), f"{name}.{method}"


@pytest.mark.parametrize("file", CORE, ids=lambda f: f.stem)
def test_every_equation_that_a_docstring_names_stands_in_a_chapter(file):
    named = set(LABEL.findall(file.read_text(encoding="utf-8")))
    assert named <= labels_in_chapters(), f"no chapter has {sorted(named - labels_in_chapters())}"


@pytest.mark.parametrize("name", [n for n, f in PUBLIC.items() if f.__module__ == "vilib.estimators" and n != "value_of"])
def test_every_estimator_names_its_equation(name):
    assert LABEL.search(inspect.getdoc(PUBLIC[name]))


def test_the_examples_of_docstrings_are_run_by_this_suite(pytestconfig):
    """By pytest itself: --doctest-modules, over tests and vilib."""
    assert pytestconfig.getoption("doctestmodules") and "vilib" in pytestconfig.getini("testpaths")
    for file in CORE:
        assert ">>>" in file.read_text(encoding="utf-8") or file.stem == "slips", f"{file.name} has no example"
