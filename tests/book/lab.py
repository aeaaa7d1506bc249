"""JupyterLab and Notebook 7 on this machine, and a notebook in it, for the tests and for `benchmarks/latency.py`."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from book.hands import Hands, all_ready
from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]
#: Seconds until JupyterLab must be up, and a notebook's cells must have run.
PATIENCE = 120
#: What JupyterLab prints when it listens: its address.
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(address: str) -> bool:
    """Whether somebody listens at an http address."""
    try:
        with urllib.request.urlopen(f"{address}/api", timeout=PATIENCE):
            return True
    except OSError:
        return False


@contextmanager
def jupyter_lab(folder: Path, home: Path) -> Iterator[str]:
    """Serve `folder` in a JupyterLab with default settings and the book's own; gives its address.

    `home` is an empty folder: nothing of the user's configuration is read or written.
    """
    own = {key: value for key, value in os.environ.items() if not key.startswith(("VILIB_", "JUPYTER", "IPYTHON"))}
    own |= {
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            "--allow-root",
            "--ip=127.0.0.1",
            f"--port={free_port()}",  # or one near it, if another process takes it meanwhile
            "--IdentityProvider.token=",
            "--ServerApp.password=",
            f"--ServerApp.root_dir={folder}",
            "--LabApp.news_url=None",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.expose_app_in_browser=True",
            "--JupyterNotebookApp.expose_app_in_browser=True",  # the same server shows Notebook 7, at /notebooks/
            f"--LabApp.app_settings_dir={ROOT / 'binder'}",
        ],
        env=own,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log: list[str] = []
    addresses: list[str] = []  # what it says of where it listens

    def listen() -> None:
        for line in server.stderr:
            log.append(line)
            if found := ADDRESS.search(line):
                addresses.append(found[0])

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        end = time.monotonic() + PATIENCE
        while not (addresses and answers(addresses[0])):  # it names its address before it listens there
            assert server.poll() is None and time.monotonic() < end, "JupyterLab did not start:\n" + "".join(log[-20:])
            time.sleep(0.05)
        yield addresses[0]
    finally:
        server.terminate()  # and it ends its kernels
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        listener.join()
        server.stderr.close()


def write_notebook(path: Path, *cells: str) -> None:
    """A notebook of code cells."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)


class Notebook:
    """A notebook that is open in JupyterLab in `page`, and its kernel."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.set_default_timeout(1000 * PATIENCE)
        page.wait_for_function("() => window.jupyterapp && jupyterapp.restored.then(() => true)")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.wait_for_function(
            "() => jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )

    def run_all(self) -> list[Hands]:
        """Run every cell; the explorables that they show, in order."""
        self.page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells').then(() => null)")
        return all_ready(self.page)

    def python(self, code: str) -> str:
        """Run code in the notebook's kernel; what it printed. An error there is an error here."""
        told = self.page.evaluate(
            """async (code) => {
          const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
          const asked = kernel.requestExecute({ code, store_history: false });
          let printed = "";
          asked.onIOPub = ({ header, content }) => { if (header.msg_type === "stream") printed += content.text; };
          const { content } = await asked.done;
          return { printed, error: content.status === "ok" ? "" : `${content.ename}: ${content.evalue}` };
        }""",
            code,
        )
        assert not told["error"], told["error"]
        return told["printed"].strip()

    def value(self, expression: str):
        """A JSON-ready value out of the kernel."""
        return json.loads(self.python(f"import json; print(json.dumps({expression}))"))

    def place(self) -> tuple[int, str]:
        """Which cell is active, and whether keys go to it or to the notebook."""
        return tuple(
            self.page.evaluate(
                "() => { const n = jupyterapp.shell.currentWidget.content; return [n.activeCellIndex, n.mode]; }"
            )
        )
