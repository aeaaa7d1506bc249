"""The image that `binder/` describes, replayed without a container: a fresh virtual environment, and the folder of notebooks.

The steps are repo2docker's: an interpreter of the version in ``runtime.txt``, ``pip install -r binder/requirements.txt``, then the
repository, in it ``binder/postBuild``. The repository is what the workflow publishes as the branch of notebooks.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from filelock import FileLock

from vilib import notebooks
from vilib.book import source_digest

ROOT = Path(__file__).parents[2]
HOME = ROOT / "_build" / "binder"
BIN, REPOSITORY = HOME / "environment" / "bin", HOME / "repository"
INDEX = re.compile(r"^--extra-index-url +(\S+)$", re.M)


def variables() -> dict[str, str]:
    """The environment variables of a program in the image: nothing of this project's own environment, nor of the user's."""
    foreign = ("VILIB_", "JUPYTER", "IPYTHON", "PYTHON", "VIRTUAL_ENV", "CONDA")
    own = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return own | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(HOME / "home"), "OMP_NUM_THREADS": "1"}


def run(*command: str | Path, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess:
    """Run a program in the image, to a good end."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=variables(), capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done


def requirements() -> str:
    """``binder/requirements.txt``, without PyTorch's own index where that does not answer within three seconds (as in make)."""
    text = (ROOT / "binder" / "requirements.txt").read_text()
    try:
        urllib.request.urlopen(f"{INDEX.search(text)[1]}/torch/", timeout=3).close()
    except OSError:
        text = INDEX.sub("", text)
    return text


def image(built_book: Path) -> Path:
    """The folder of notebooks in a built image.

    What pip installed is kept from one run of the tests to the next, until ``binder/`` changes; the repository is not.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    files = [*sorted((ROOT / "binder").iterdir()), ROOT / "pyproject.toml", Path(__file__)]
    wanted = hashlib.sha256(sys.version.encode() + b"".join(path.read_bytes() for path in files if path.is_file())).hexdigest()
    installed, ready = HOME / "installed", HOME / "ready"
    with FileLock(HOME / "lock"):                                                   # tests run side by side
        if not installed.exists() or installed.read_text() != wanted:
            shutil.rmtree(HOME / "environment", ignore_errors=True)
            installed.unlink(missing_ok=True)
            (HOME / "home").mkdir(exist_ok=True)
            (HOME / "requirements.txt").write_text(requirements())
            run(sys.executable, "-m", "venv", HOME / "environment", cwd=HOME)
            run(BIN / "python", "-m", "pip", "install", "--quiet", "--no-compile", "-r", HOME / "requirements.txt", cwd=HOME)
            ready.unlink(missing_ok=True)
            installed.write_text(wanted)
        state = wanted + source_digest(ROOT) + "".join(
            hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((built_book / "_sources").rglob("*.ipynb"))
        )
        if not ready.exists() or ready.read_text() != state:
            ready.unlink(missing_ok=True)
            notebooks.gather(built_book, REPOSITORY, ROOT)
            run("./binder/postBuild")
            ready.write_text(state)
    return REPOSITORY
