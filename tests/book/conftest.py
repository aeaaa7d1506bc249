"""The built book, served and opened in Chromium.

`site_http` and `site_file` are the two ways a reader has it; `visit(url)` opens a page that keeps a record of all
it asked for and all it complained of. Nothing here sleeps: a test waits on what it is about to use.
"""

from __future__ import annotations

import functools
import gzip
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from book import chromium
from playwright.sync_api import Browser, Page, sync_playwright

from vilib.book import STAMP, source_digest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "_build" / "html"
#: The build that `make book` does, with this Python.
BUILD = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "-W", "-n", "--keep-going"]
#: Longest wait for anything to appear, in milliseconds. Only failures last this long.
PATIENCE = 60_000


def build_is_current() -> bool:
    """Whether ``_build/html`` was made, without a warning, of the sources as they are now."""
    stamp = SITE / STAMP
    return stamp.exists() and stamp.read_text() == source_digest(ROOT)


@pytest.fixture(scope="session")
def built_book() -> Path:
    """The folder of the built book; built first where it is missing or older than its sources."""
    if not build_is_current():
        build = subprocess.run(BUILD, cwd=ROOT, capture_output=True, text=True)
        assert build.returncode == 0, build.stdout[-4000:] + build.stderr[-4000:]
    return SITE


class StaticHost(SimpleHTTPRequestHandler):
    """Files as a static host serves them: text compressed, everything fresh."""

    COMPRESSED = (".html", ".css", ".js", ".json", ".svg", ".ipynb", ".md", ".txt")

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            path /= "index.html"
        if path.suffix not in self.COMPRESSED or not path.is_file():
            return super().do_GET()
        body = gzip.compress(path.read_bytes(), 6, mtime=0)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass  # the page was closed while it loaded

    def log_message(self, *_):
        pass


def serve(folder: Path) -> ThreadingHTTPServer:
    """Serve `folder` on a free port of 127.0.0.1, in a thread, until `.shutdown()`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(StaticHost, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="session")
def site_http(built_book) -> str:
    """The address of the book over http, without the last slash."""
    server = serve(built_book)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def site_file(built_book) -> str:
    """The address of the book as files on the reader's disk."""
    return built_book.as_uri()


@pytest.fixture(params=["http", "file"])
def site(request) -> str:
    """The book in both ways; a test that asks for this runs twice."""
    return request.getfixturevalue(f"site_{request.param}")


@pytest.fixture(scope="session")
def browser() -> Browser:
    """Chromium with the network cut off, but for 127.0.0.1."""
    path = chromium.find()
    assert path, "Chromium is missing: make test fetches one"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=chromium.ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page, and what came to pass on it."""

    page: Page
    requests: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # requests without an answer, or with an error for one
    complaints: list[str] = field(default_factory=list)  # errors in the console, and errors nobody caught

    def settle(self) -> None:
        """Wait until the page is whole: formulas set, explorables drawn, fonts and pictures there, down to its end."""
        self.page.wait_for_function("() => !window.MathJax || (MathJax.startup && MathJax.startup.promise)")
        self.page.evaluate("() => window.MathJax && MathJax.startup.promise.then(() => null)")
        self.page.wait_for_function(
            """() => [...document.querySelectorAll(".vilib-explorable")].every((e) => /true|failed/.test(e.dataset.ready))"""
        )
        self.page.wait_for_function("() => !document.documentElement.classList.contains('vilib-first')")  # all laid out
        self.page.evaluate("() => window.scrollTo(0, document.body.scrollHeight)")
        self.page.evaluate("() => document.fonts.ready.then(() => null)")
        self.page.evaluate(  # a picture is fetched when a reader comes near it
            """async () => {
              for (const image of [...document.images].filter((image) => image.checkVisibility())) {
                image.scrollIntoView({ behavior: "instant" });
                if (!image.complete) await new Promise((done) => { image.onload = image.onerror = done; });
              }
              window.scrollTo({ top: document.body.scrollHeight, behavior: "instant" });
            }"""
        )

    def strangers(self, home: str) -> list[str]:
        """Requests that left the site."""
        return [url for url in self.requests if not url.startswith((home, "data:", "blob:"))]


@pytest.fixture
def visit(browser):
    """``visit(url, **context_options)`` opens a page in a browser of its own and returns its `Visit`.

    The options are Playwright's for a context: ``viewport``, ``color_scheme``, ``java_script_enabled`` …
    With ``formulas=False`` MathJax stays away, which takes longer than all the rest of a page.
    """
    contexts = []

    def open_page(url: str, formulas: bool = True, **options) -> Visit:
        context = browser.new_context(**options)
        contexts.append(context)
        if not formulas:
            context.route("**/mathjax.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        seen = Visit(page)
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("requestfailed", lambda request: seen.failed.append(f"{request.url}: {request.failure}"))
        page.on("response", lambda r: seen.failed.append(f"{r.url}: {r.status}") if r.status >= 400 else None)
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("console", lambda m: seen.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.goto(url, wait_until="load")
        return seen

    yield open_page
    for context in contexts:
        context.close()


HEADER = (
    "---\njupytext: {text_representation: {extension: .md, format_name: myst}}\n"
    "kernelspec: {display_name: Python 3, language: python, name: python3}\n---\n# Probe\n\n"
)


@pytest.fixture
def small_book(tmp_path):
    """A book of one page beside a copy of `vilib`; ``build(body, **settings)`` returns (exit status, log, page).

    The settings are environment variables; none of those that are set outside reaches it.
    """
    shutil.copytree(ROOT / "vilib", tmp_path / "vilib", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "vilib" / "__init__.py").write_text("")
    (tmp_path / "vilib" / "probe.py").write_text("VALUE = 'first'\n")
    (tmp_path / "references.bib").touch()
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: intro\n")

    def build(body: str, **settings: str) -> tuple[int, str, str]:
        if not (tmp_path / "intro.md").exists() or (tmp_path / "intro.md").read_text() != HEADER + body:
            (tmp_path / "intro.md").write_text(HEADER + body)
        own = {key: value for key, value in os.environ.items() if not key.startswith("VILIB_")} | settings
        own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tmp_path), own.get("PYTHONPATH")]))  # its own copy of vilib
        run = subprocess.run(BUILD, cwd=tmp_path, env=own, capture_output=True, text=True)
        page = tmp_path / "_build" / "html" / "intro.html"
        return run.returncode, run.stdout + run.stderr, page.read_text() if page.exists() else ""

    build.root = tmp_path
    return build
