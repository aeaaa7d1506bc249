"""The image of Binder and of a class, and every notebook in it.

All notebooks together take some two minutes on two cores, and their cells are executed by the book's own build and by the tests of
the chapters. So `make test` runs two of them from top to bottom in the fresh environment and of the others every import; with
VILIB_EVERY_NOTEBOOK=1, as in the workflow, it runs them all.
"""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from book.binder import BIN, HOME, ROOT, image, run, variables
from book.test_publishing import NOTEBOOKS

pytestmark = pytest.mark.browser

REQUIREMENTS = (ROOT / "binder" / "requirements.txt").read_text()
ALWAYS = ("chapters/score-function", "chapters/change-of-variables")
#: What tqdm writes of a bar.
BAR = re.compile(r"\r *\d+%\|[^\r\n]*\]")
CHOSEN = NOTEBOOKS if os.environ.get("VILIB_EVERY_NOTEBOOK") else [name for name in NOTEBOOKS if name in ALWAYS]


@pytest.fixture(scope="session")
def repository(built_book) -> Path:
    return image(built_book)


def pins(text: str) -> dict[str, str]:
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.M)}


# -- the files, by repo2docker's rules -------------------------------------------------------------------------------------


def test_the_runtime_is_one_that_the_package_runs_on():
    runtime = (ROOT / "binder" / "runtime.txt").read_text().strip()
    (minor,) = re.fullmatch(r"python-3\.(\d+)", runtime).groups()
    (least,) = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text()).groups()
    assert int(minor) >= int(least)


def test_the_image_has_the_versions_that_the_book_was_tested_with():
    tested, image = pins((ROOT / "requirements.txt").read_text()), pins(REQUIREMENTS)
    assert {name: version for name, version in image.items() if tested.get(name) != version} == {"nbgitpuller": "1.3.0"}


def test_what_is_installed_does_not_depend_on_the_rest_of_the_repository():
    """A line with -r, -c, -e or a path makes repo2docker install everything again at every commit."""
    options = [line for line in REQUIREMENTS.splitlines() if line and not re.match(r"#|[\w.-]+==\S+$", line)]
    assert options == ["--extra-index-url https://download.pytorch.org/whl/cpu"]


def test_post_build_can_be_executed():
    assert os.access(ROOT / "binder" / "postBuild", os.X_OK)
    assert (ROOT / "binder" / "postBuild").read_text().startswith("#!/bin/bash\n")


# -- the image -------------------------------------------------------------------------------------------------------------


def test_nothing_is_installed_that_is_not_pinned(repository):
    freeze = run(BIN / "python", "-m", "pip", "list", "--format=json").stdout
    installed = {re.sub(r"[-_.]+", "-", each["name"]).lower(): each["version"].partition("+")[0] for each in json.loads(freeze)}
    assert {n: v for n, v in installed.items() if n not in ("pip", "vilib")} == pins(REQUIREMENTS)
    run(BIN / "python", "-m", "pip", "check")


def test_the_image_is_small(repository):
    """No CUDA, and not much over the 1.5 GB that chapters/class.md states. (Where PyTorch's own index does not answer, pip
    may have had no other torch than the one with CUDA: that says nothing of the image.)"""
    version = run(BIN / "python", "-c", "import importlib.metadata as m; print(m.version('torch'))").stdout.strip()
    if not version.endswith("+cpu"):
        pytest.skip(f"torch {version} is not the image's")
    files = [path for path in (HOME / "environment").rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_blocks for path in files) * 512 / 2**20 < 1650
    assert not any(path.name.startswith("nvidia") for path in BIN.parent.glob("lib/python*/site-packages/*"))


def test_chapters_open_as_notebooks(repository):
    """Those in Markdown too: jupytext is in JupyterLab, and is what opens them."""
    share = BIN.parent / "share" / "jupyter"
    viewers = json.loads((share / "lab" / "settings" / "overrides.json").read_text())["@jupyterlab/docmanager-extension:plugin"]
    assert viewers["defaultViewers"]["markdown"] == "Jupytext Notebook"
    assert (share / "labextensions" / "jupyterlab-jupytext" / "package.json").exists()
    server = BIN.parent / "etc" / "jupyter" / "jupyter_server_config.py"
    assert server.read_text() == (ROOT / "binder" / server.name).read_text()
    told = run(BIN / "jupyter", "server", "extension", "list")
    for name in ("jupyterlab", "jupytext", "nbgitpuller"):
        assert re.search(rf"{name}\S*\s+(?:\S+ )?.*(?:OK|enabled)", told.stdout + told.stderr), name


def test_every_import_of_every_notebook_is_there(repository):
    """One process with all imports of all notebooks; the first cell of each finds nothing to install. And vilib is whole, and
    outside of the repository: a hub covers the home folder, in which that lies, with the student's own."""
    imports, first = set(), set()
    for name in NOTEBOOKS:
        cells = [c.source for c in nbformat.read(repository / f"{name}.ipynb", as_version=4).cells if c.cell_type == "code"]
        first.add(cells[0])
        for cell in cells[1:]:
            code = "\n".join(line for line in cell.splitlines() if not line.startswith(("%", "!")))
            imports |= {ast.unparse(n) for n in ast.walk(ast.parse(code)) if isinstance(n, (ast.Import, ast.ImportFrom))}
    assert len(imports) > 20 and len(first) == 1
    (setup,) = first
    program = re.sub(r"^( +)%.*$", r"\1raise SystemExit('installs')", setup, flags=re.M)
    told = run(BIN / "python", "-c", "\n".join([program, *sorted(imports), "import vilib", "print(vilib.__file__)"]), cwd=HOME)
    where = Path(told.stdout.strip()).parent
    assert where.is_relative_to(BIN.parent)
    sources = {p.relative_to(ROOT / "vilib") for p in (ROOT / "vilib").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert {path for path in sources if not (where / path).exists()} == set()
    assert not (repository / "build").exists()


@pytest.mark.parametrize("name", CHOSEN)
def test_a_notebook_runs_as_it_is(repository, name, tmp_path):
    """By nbclient, of the image, from top to bottom, in the folder in which it lies."""
    path = repository / f"{name}.ipynb"
    run(BIN / "jupyter", "execute", "--timeout=600", f"--output={tmp_path / 'ran.ipynb'}", path, cwd=path.parent)
    ran = nbformat.read(tmp_path / "ran.ipynb", as_version=4)
    code = [cell for cell in ran.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    said = "".join(o.text for o in outputs if o.get("name") == "stderr")
    assert not BAR.sub("", said).strip(), "but for the bar of a chapter that shows one, nothing warns"
    views = [o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert views and not any("text/html" in view["data"] for view in views), "explorables are widgets here, not recordings"
    assert "VILIB_RECORD" not in variables()
