"""The book's Sphinx extension: what Jupyter Book's own settings cannot say.

A plain ``jupyter-book build .`` loads it by name (``_config.yml``), so the book comes out the same with or
without make. It does six things:

1. turns recording on for the kernels that execute the chapters, so that explorables leave an island in the page;
2. keys the cache of executed chapters on the contents of ``vilib/``: change a formula and the chapters run again,
   one a core;
3. serves MathJax and the explorables' script from the site itself, and only on the pages that use them;
4. takes out of the pages what they do not need (icon fonts, Thebe, widget state) and draws the icons in CSS;
5. gives an explorable the room beside the text (``book_static/book.css``), the page a lecture view (``lecture.js``),
   and on paper a light one, with the solutions for those who want them there (``page.js``);
6. offers each page as a notebook (``vilib.notebooks``), to download and, where the repository is known, in Binder and
   Colab; and leaves what a host asks for beside the pages (``vilib.hosting``).
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distribution
from pathlib import Path

from docutils import nodes
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.read import create_nb_reader
from pybtex.plugin import register_plugin
from pybtex.style.formatting.plain import Style as PlainStyle
from pybtex.style.labels import BaseLabelStyle
from sphinx.errors import ConfigError
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

from vilib import addresses, hosting, notebooks

LOGGER = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent
BOOK_STATIC = PACKAGE / "book_static"
EXPLORABLE_STATIC = PACKAGE / "explorables" / "static"
#: The class of an explorable's root, and so the mark of a page that needs its script.
EXPLORABLE = "vilib-explorable"
#: The class of what lies below the first of them.
LATER = "vilib-later"
#: The modules that shape the pages and not the numbers in them.
DRESS = tuple(PACKAGE / f"{name}.py" for name in (
    "book", "coverage", "docstrings", "reference_pages", "addresses", "hosting", "notebooks", "plain_markdown"))
#: Written into the built site: the digest of all that it was made of (see `source_digest`).
STAMP = ".made-of"

#: MathJax components, in the order in which they must run. TeX in, CommonHTML out, MathML for screen readers.
#: Rarer TeX macros are fetched from the site when a formula names them.
MATHJAX_PARTS = ("startup", "core", "input/tex", "output/chtml", "output/chtml/fonts/tex", "a11y/assistive-mml")
MATHJAX_FOLDERS = ("input/tex/extensions", "output/chtml/fonts/woff-v2")

#: What other extensions put on the pages and this book does not use.
UNUSED_ASSETS = ("sphinx-thebe.css",)
UNUSED_TYPES = ("application/vnd.jupyter.widget-state+json",)


# -- what a build is made of -----------------------------------------------------------------------------------------


def _digest(paths, root: Path) -> str:
    """A short hash of the names and contents of some files."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def _package_files(package: Path):
    return [p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".pyc"]


def vilib_digest(package: Path = PACKAGE) -> str:
    """Hash of all in ``vilib/`` that can change what a chapter's cells compute.

    The front end and this extension are left out: they shape the page, not the numbers in it.
    """
    aside = (*(package / path.name for path in DRESS), package / "book_static", package / "explorables" / "static")
    files = [p for p in _package_files(package) if not any(p == a or a in p.parents for a in aside)]
    return _digest(files, package)


def source_digest(root: Path) -> str:
    """Hash of all that the book in ``root`` is built from."""
    files = [root / n for n in ("_config.yml", "_toc.yml", "intro.md", "references.bib", "requirements.txt")]
    pages = (p for folder in ("chapters", "reference") for p in (root / folder).rglob("*"))
    files += (p for p in pages if ".ipynb_checkpoints" not in p.parts)
    return _digest((p for p in [*files, *_package_files(root / "vilib")] if p.is_file()), root)


# -- configuration ---------------------------------------------------------------------------------------------------


def _configure(app, config) -> None:
    build = Path(app.outdir).parent

    # Sphinx gives its warnings about a chapter when it reads it, and reads only what changed: after a build that did
    # not end well, read everything again, or the next would pass in silence.
    stamp = Path(app.outdir) / STAMP
    if not stamp.exists():
        (Path(app.doctreedir) / "environment.pickle").unlink(missing_ok=True)
    stamp.unlink(missing_ok=True)

    # A new hash is a new, empty cache, and a changed "env" setting, on which Sphinx reads every chapter again.
    caches = build / ".jupyter_cache"
    cache = caches / vilib_digest()
    config.nb_execution_cache_path = str(cache)
    for old in caches.glob("*"):
        if old != cache:
            shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)

    # The page's own dress changes without running anything: an "html" setting, on which every page is written again.
    config.vilib_page_digest = _digest([*DRESS, *_package_files(BOOK_STATIC), *_package_files(EXPLORABLE_STATIC)], PACKAGE)

    try:
        found = addresses.repository(Path(app.srcdir), config.html_theme_options.get("repository_url", ""))
        config.vilib_site = config.html_baseurl = addresses.site(config.html_baseurl)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    config.vilib_repository = found.url if found else ""

    # Jupyter Book always loads Thebe, which declares a constant twice: an error on every page.
    for listeners in app.events.listeners.values():
        listeners[:] = [each for each in listeners if each.handler.__module__ != "sphinx_thebe"]

    served = build / ".static"
    _bundle_mathjax(served / "mathjax")
    config.mathjax_path = "mathjax/mathjax.js"
    config.html_search_scorer = str(BOOK_STATIC / "search_order.js")
    config.html_static_path += [str(BOOK_STATIC / "static"), str(EXPLORABLE_STATIC), str(served)]
    config.templates_path.insert(0, str(BOOK_STATIC / "templates"))


def _bundle_mathjax(target: Path) -> None:
    """Write one light MathJax script, and the fonts and rarer extensions it may ask for, to ``target``.

    The stock ``tex-chtml.js`` carries a menu and an expression explorer: 262 kB gzipped where this is 163.
    """
    package = distribution("sphinx-mathjax-offline")
    source = next(Path(str(package.locate_file(f))) for f in package.files or () if f.name == "startup.js").parent
    script = target / "mathjax.js"
    startup, *others = MATHJAX_PARTS
    parts = [
        "/* MathJax 3.2.2, (c) The MathJax Consortium, Apache License 2.0 */",
        (source / f"{startup}.js").read_text(),
        # Said in the same breath as startup, before it looks for components to fetch.
        f"MathJax.loader.preLoad({','.join(repr(p) for p in others)});",
        *((source / f"{part}.js").read_text() for part in others),
    ]
    text = "\n;".join(parts)
    if script.exists() and script.read_text() == text:
        return
    for folder in MATHJAX_FOLDERS:
        shutil.copytree(source / folder, target / folder, dirs_exist_ok=True)
    script.write_text(text)


# -- chapters --------------------------------------------------------------------------------------------------------


def _execute_side_by_side(app, env, docnames) -> None:
    """Execute the chapters that need it, one a core, into the cache in which MyST-NB then finds them.

    MyST-NB alone executes one after the other. A chapter that fails is left to it: it reports the error.
    """
    config = env.mystnb_config
    if config.execution_mode != "cache":
        return
    cache = get_cache(config.execution_cache_path)
    waiting = []
    for docname in docnames:
        path = Path(env.doc2path(docname))
        text = path.read_text(encoding="utf8")
        reader = create_nb_reader(str(path), env.myst_config, config, text)
        if reader is not None:
            notebook = reader.read(text)
            try:
                cache.match_cache_notebook(notebook)
            except KeyError:
                waiting.append((path, notebook, reader.read_fmt))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    kernels = min(cores, len(waiting))
    if kernels < 2:
        return
    LOGGER.info("Executing %d chapters, %d at a time: some minutes, the first time and whenever vilib changes", len(waiting), kernels)

    def execute(path, notebook, _):
        # Kernels talk to this process alone: what they would warn of (a line each, on every build) alarms for nothing.
        result = single_nb_execution(notebook, cwd=str(path.parent), timeout=config.execution_timeout, allow_errors=False,
                                     extra_arguments=["--log-level=ERROR"])
        if result.err is None:
            LOGGER.info("%s: executed in %.0f seconds", path.relative_to(app.srcdir), result.time)
        return result

    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores // kernels))
    try:
        with ThreadPoolExecutor(kernels) as pool:  # of threads: each only waits for its kernel, a process
            results = list(pool.map(execute, *zip(*waiting, strict=True)))
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
    for (path, notebook, read_data), result in zip(waiting, results, strict=True):
        if result.err is None:
            record = cache.add_nb_to_project(str(path), read_data=read_data)
            bundle = CacheBundleIn(notebook, record.uri, data={"execution_seconds": result.time})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


class _KeyLabels(BaseLabelStyle):
    """Each reference labelled by its key. The label is not shown: chapters cite by author and year."""

    def format_labels(self, sorted_entries):
        return [entry.key for entry in sorted_entries]


class References(PlainStyle):
    """The bibliography style ``vilib``: pybtex's plain, sorted by author, with labels unique in the whole book.

    Numbers would start at 1 in each chapter's list, and the second "1" is a warning.
    """

    default_label_style = _KeyLabels


# -- pages -----------------------------------------------------------------------------------------------------------


class RoomForExplorables(SphinxPostTransform):
    """Mark each cell that shows an explorable, so that the theme gives it the margin too.

    What follows the first one is marked too (`LATER`): the page lays it out when that one is drawn.
    """

    default_priority = 700  # after MyST-NB has chosen the output's format
    formats = ("html",)

    def run(self, **kwargs) -> None:
        later: list[nodes.Element] = []
        for raw in self.document.findall(nodes.raw):
            if f'class="{EXPLORABLE}' in raw.astext():
                cell = raw.parent
                while cell is not None and "cell" not in cell.get("classes", ()):
                    cell = cell.parent
                if cell is not None and "full-width" not in cell["classes"]:
                    cell["classes"].append("full-width")
                    if not later:
                        later = list(_all_after(cell))
        for node in later:
            node["classes"].append(LATER)


def _all_after(node: nodes.Element) -> Iterator[nodes.Element]:
    """What follows a node in the document, each piece as large as can be."""
    while node.parent is not None:
        siblings = node.parent.children
        yield from (each for each in siblings[siblings.index(node) + 1 :] if isinstance(each, nodes.Element))
        node = node.parent


#: Laying out a long chapter takes half a second, in which nothing answers: what lies below the first explorable waits until
#: that is drawn. Not for a reader who comes by a link into the page, or comes back to where they were.
LAYOUT_LATER = """if (!location.hash && performance.getEntriesByType("navigation")[0]?.type === "navigate") {
  document.documentElement.classList.add("vilib-first");
  const all = () => document.documentElement.classList.remove("vilib-first");
  addEventListener("vilib-drawn", () => requestAnimationFrame(() => setTimeout(all)), { once: true });
  addEventListener("load", () => Promise.resolve(globalThis.vilibExplorables?.ready).then(() => setTimeout(all)));
  addEventListener("beforeprint", all);
}"""

#: Typesetting a chapter takes a second or two, in which nothing else moves: the explorables go first.
FORMULAS_LATER = """addEventListener("DOMContentLoaded", () =>
  Promise.resolve(globalThis.vilibExplorables?.ready).then(() => {
    const script = document.createElement("script");
    script.src = %s;
    document.head.append(script);
  }));"""


def _explorables_before_formulas(app, context) -> None:
    """Have MathJax fetched when the page's explorables are drawn, not before."""
    for asset in [a for a in context["script_files"] if str(getattr(a, "filename", "")).endswith("/mathjax.js")]:
        context["script_files"].remove(asset)
        app.add_js_file(None, body=FORMULAS_LATER % json.dumps(context["pathto"](asset.filename, resource=True)))


def _images_later(app, body: str) -> str:
    """Have each picture fetched and drawn when it comes near the screen, into a place of its own size."""
    sources = {name: Path(app.srcdir) / source for source, (_, name) in app.env.images.items()}

    def lazy(tag: re.Match[str]) -> str:
        return f'<img loading="lazy" decoding="async"{_svg_size(sources.get(Path(tag[2]).name))}{tag[1]}'

    return re.sub(r'<img((?:\s[^>]*?)?\ssrc="([^"]*)")', lazy, body)


def _svg_size(path: Path | None) -> str:
    """The width and height attributes, in pixels, of an SVG picture that says its own in points; else nothing."""
    if path is None or path.suffix != ".svg" or not path.exists():
        return ""
    with path.open(encoding="utf8") as file:
        size = re.search(r'<svg[^>]*?\swidth="([\d.]+)pt" height="([\d.]+)pt"', file.read(2000))
    return "" if size is None else ' width="{:.0f}" height="{:.0f}"'.format(*(float(x) * 4 / 3 for x in size.groups()))


def _dress_page(app, pagename, templatename, context, doctree) -> None:
    """Decide what this page loads. Runs last."""
    if "body" in context:
        # docutils makes a list of references whose entries are no list items
        context["body"] = _images_later(app, context["body"]).replace('role="doc-biblioentry"', 'role="listitem"')
    moves = EXPLORABLE in context.get("body", "")
    if moves:
        app.add_css_file("explorable.css")
        app.add_js_file("explorable.js", loading_method="async")
        app.add_js_file(None, body=LAYOUT_LATER)
        app.add_css_file("lecture.css")
        app.add_js_file("lecture.js", loading_method="defer")
        _explorables_before_formulas(app, context)
    app.add_js_file("page.js", loading_method="defer")
    if pagename == "search":
        # Excerpts of the hits are fetched, which a browser forbids on file://; the hits themselves are not.
        app.add_js_file(None, body='if(location.protocol==="file:")DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY=false')

    def wanted(asset) -> bool:
        attributes = getattr(asset, "attributes", {})
        name = str(getattr(asset, "filename", asset) or "").removeprefix("_static/")
        return not (
            name in UNUSED_ASSETS
            or attributes.get("type") in UNUSED_TYPES
        )

    for kind in ("script_files", "css_files"):
        context[kind][:] = [asset for asset in context[kind] if wanted(asset)]

    if moves:
        context["script_files"][:] = [_deferred(asset) for asset in context["script_files"]]


def _deferred(asset):
    """The same script, run when the page is read to its end; one that says when it runs, or is inline, as it is.

    An inline script sets one of the options, so those come first.
    """
    name = str(getattr(asset, "filename", None) or "")
    if not name or name.endswith("documentation_options.js") or {"async", "defer"} & set(asset.attributes):
        return asset
    return type(asset)(asset.filename, priority=asset.priority, **asset.attributes, defer="defer")


def _tidy_site(app, exception) -> None:
    """Drop the files that no page names, and leave word of what a clean build was made of."""
    if exception or app.builder.name != "html":
        return
    out = Path(app.outdir)
    shutil.rmtree(out / "_static" / "vendor", ignore_errors=True)
    for unused in [*(out / "_static").rglob("*.map"), *((out / "_static" / name) for name in UNUSED_ASSETS)]:
        unused.unlink(missing_ok=True)
    hosting.write_files(app)
    if app._warncount == 0:  # Sphinx turns it into an exit status only after this event
        (out / STAMP).write_text(source_digest(Path(app.srcdir)))


def setup(app):
    gc.set_threshold(100_000, 50, 100)  # a page is a tree of many nodes: looking for cycles made reading it back six times slower
    os.environ.setdefault("VILIB_RECORD", "1")  # the kernels that execute the chapters inherit it
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # many small tensors: a second thread costs more than it brings
    os.environ.pop("MPLBACKEND", None)  # and draw into the page, whatever the shell draws to
    register_plugin("pybtex.style.formatting", "vilib", References)
    for name in ("vilib_page_digest", "vilib_repository", "vilib_site"):
        app.add_config_value(name, "", "html")
    app.connect("config-inited", _configure)
    app.connect("env-before-read-docs", _execute_side_by_side)
    app.connect("html-page-context", notebooks.offer, priority=100)
    app.connect("html-page-context", hosting.preview, priority=600)
    app.connect("html-page-context", notebooks.offer_kernels, priority=600)
    app.connect("html-page-context", _dress_page, priority=900)
    app.connect("build-finished", _tidy_site, priority=900)
    app.add_post_transform(RoomForExplorables)
    app.add_css_file("book.css", priority=800)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
