"""What one student needs on a hub: the memory of a kernel that has run a chapter, and of the server that started it.

    .venv/bin/python benchmarks/memory.py [--write]

Runs every notebook of the built book (make book) from top to bottom, one after the other, each in a kernel of its own, as
"Run all" does, and asks the kernel for the largest amount of memory that it ever held. Then starts JupyterLab as make lab
does, with one kernel that does nothing, and reads the server's. With --write the table goes into chapters/class.md.
Ends with an error if a chapter does not fit into what that page promises.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from book.lab import jupyter_lab  # noqa: E402

SOURCES = ROOT / "_build" / "html" / "_sources"
PAGE = ROOT / "chapters" / "class.md"
TABLE = re.compile(r"(?<=<!-- memory: begin -->\n).*?(?=<!-- memory: end -->)", re.S)
#: Kibibytes on Linux, bytes on a Mac.
ASK = "import resource, sys\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024))"


def of_a_kernel(path: Path) -> tuple[int, float]:
    """Bytes that the kernel held at most, and the seconds from its start to the last cell's end."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(ASK))
    start = time.monotonic()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    return int(notebook.cells[-1].outputs[-1].text), time.monotonic() - start


def of_the_server() -> int:
    """Bytes of a JupyterLab server with one kernel, without the kernel's."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home, jupyter_lab(Path(folder), Path(home)) as address:
        asked = urllib.request.Request(f"{address}/api/kernels", json.dumps({"name": "python3"}).encode(), method="POST")
        urllib.request.urlopen(asked, timeout=60).close()
        server = next(p for p in psutil.Process().children() if "jupyterlab" in " ".join(p.cmdline()))
        return server.memory_info().rss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into chapters/class.md")
    write = parser.parse_args().write
    paths = sorted(SOURCES.rglob("*.ipynb"), key=lambda path: (path.parent != SOURCES, path.name))
    if not paths:
        print(f"no notebook in {SOURCES}: make book", file=sys.stderr)
        return 1
    rows, most = ["| notebook | memory, at most | run from top to bottom |", "|---|---:|---:|"], 0
    for path in paths:
        held, seconds = of_a_kernel(path)
        most = max(most, held)
        rows.append(f"| {path.stem} | {held / 2**20:.0f} MB | {seconds:.0f} s |")
        print(rows[-1], flush=True)
    rows.append(f"| JupyterLab's server, beside the kernel | {of_the_server() / 2**20:.0f} MB | |")
    print(rows[-1])
    if write:
        PAGE.write_text(TABLE.sub("\n".join(rows) + "\n", PAGE.read_text(encoding="utf8")), encoding="utf8")
    promised = int(re.search(r"(\d+(?:\.\d+)?) GB a student", PAGE.read_text(encoding="utf8"))[1]) * 2**30
    return most > promised


if __name__ == "__main__":
    sys.exit(main())
