"""What one student needs on a hub: the memory of a kernel that has run a chapter, and of the server that started it.

    .venv/bin/python benchmarks/memory.py [--write] [CHAPTER ...]

Runs every notebook of the built book (make book), or those named, from top to bottom, one after the other, each in a kernel of
its own, as "Run all" does, and asks the kernel for the largest amount of memory that it ever held. Then starts JupyterLab as make
lab does, with one kernel that does nothing, and reads the server's. With --write the numbers go into chapters/class.md.
Ends with an error if a kernel and its server do not fit into what that page promises.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import urllib.request
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from book.lab import jupyter_lab  # noqa: E402

from vilib.notebooks import of_book  # noqa: E402

SITE = ROOT / "_build" / "html"
PAGE = ROOT / "chapters" / "class.md"
TABLE = re.compile(r"(?<=<!-- memory: begin -->\n).*?(?=<!-- memory: end -->)", re.S)
ROW = re.compile(r"^\| (\S.*?) \| (\d+) MB \|$", re.M)
SERVER = "JupyterLab's server, beside the kernel"
#: Kibibytes on Linux, bytes on a Mac.
ASK = "import resource, sys\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024))"


def of_a_kernel(path: Path) -> int:
    """Bytes that the kernel held at most."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(ASK))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    return int(notebook.cells[-1].outputs[-1].text)


def of_the_server() -> int:
    """Bytes of a JupyterLab server with one kernel, without the kernel's."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home, jupyter_lab(Path(folder), Path(home)) as address:
        asked = urllib.request.Request(f"{address}/api/kernels", json.dumps({"name": "python3"}).encode(), method="POST")
        urllib.request.urlopen(asked, timeout=60).close()
        server = next(p for p in psutil.Process().children() if "jupyterlab" in " ".join(p.cmdline()))
        return server.memory_info().rss


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the numbers into chapters/class.md")
    parser.add_argument("chapters", nargs="*", help="such as elbo; all of them where none is named")
    asked = parser.parse_args()
    page = PAGE.read_text(encoding="utf8")
    rows = {name: int(held) for name, held in ROW.findall(TABLE.search(page)[0])} if asked.chapters else {}
    for path in sorted(of_book(SITE), key=lambda path: (path.parent.name == "chapters", path.name)):
        if not asked.chapters or path.stem in asked.chapters:
            rows[path.stem] = of_a_kernel(path) >> 20
            print(f"{path.stem}: {rows[path.stem]} MB", flush=True)
    rows.pop(SERVER, None)
    most, server = max(rows.values()), of_the_server() >> 20
    rows[SERVER] = server
    print(f"{SERVER}: {server} MB")
    if asked.write:
        lines = ["| notebook | memory, at most |", "|---|---:|", *(f"| {name} | {held} MB |" for name, held in rows.items()), ""]
        PAGE.write_text(TABLE.sub("\n".join(lines), page), encoding="utf8")
    promised = int(re.search(r"(\d+) GB a student as the limit", page)[1]) * 1024
    return most + server > promised


if __name__ == "__main__":
    sys.exit(main())
