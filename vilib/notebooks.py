"""The chapters as clean notebooks for plain Jupyter, Colab and VS Code, made from the pages that Sphinx has built.

A chapter's source is MyST Markdown: numbered equations, theorems, folded solutions, citations, code quoted from the package.
Plain Jupyter knows none of that. The built page has it all resolved, so the text of a notebook is the page's, turned back into
plain Markdown, and its code is the chapter's own cells, without outputs. ``vilib.book`` writes one beside each page
(the download button); ``make notebooks`` gathers them, with what they need to run, into a folder that can be a repository:

    python -m vilib.notebooks _build/html _build/notebooks
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from vilib.addresses import Repository, parse
from vilib.plain_markdown import CELL_LINE, END, FOLD, markdown

#: What a notebook imports, by the name that Python knows; the extra ``notebooks`` of ``pyproject.toml`` installs them all.
NEEDED = ("vilib", "anywidget", "arviz_stats", "matplotlib", "tqdm")
#: What goes with the notebooks, so that the folder installs and runs by itself, on Binder for one.
BESIDE = ("vilib", "binder", "pyproject.toml", "LICENSE", "LICENSE-text")

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
    "colab": {"provenance": [], "toc_visible": True},
}
#: How a cell's code is kept folded, in Jupyter and in Colab.
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}


def notebook(
    body: str, cells: Sequence[NotebookNode], *, page: str, repository: Repository | None = None, site: str = ""
) -> NotebookNode:
    """A page of the book as a notebook without outputs, whose first code cell installs what is missing.

    body: the page's HTML, as Sphinx wrote it. cells: the page's code cells, in order, tags and all. page: its name, such as
    ``chapters/elbo``. repository: where vilib is installed from. site: the address of the published book; links within the
    book lead there, and are plain words where it is "". Raises ValueError where page and cells do not belong together.
    """
    text, rest = markdown(body, page=page, site=site, runs=_runs(cells))
    if len(rest) != 1:
        raise ValueError(f"{page}: the page does not show the {len(cells)} code cells that it should")
    pieces = [*_pieces(text), *rest[0]]                                             # the last ones: run after all that is shown
    made = _fold_solutions(
        [_code_cell(cells[p]) if isinstance(p, int) else nbformat.v4.new_markdown_cell(p) for p in pieces]
    )
    if site:
        made[0].source += f"\n\n*[This chapter as a page]({site}{page}.html), with every explorable answering at once.*"
    made.insert(1, nbformat.v4.new_code_cell(setup_code(repository)))
    for number, cell in enumerate(made):
        cell["id"] = f"cell-{number}"                                             # the same at every build: a clean diff
    return nbformat.v4.new_notebook(cells=made, metadata=METADATA)


# -- cells -------------------------------------------------------------------------------------------------------------


def setup_code(repository: Repository | None) -> str:
    """The first code cell: installs vilib and what it draws with where something is missing, else does nothing.

    >>> print(setup_code(Repository("github.com", "owner/book")).splitlines()[-1])
        %pip install --quiet "vilib[notebooks] @ git+https://github.com/owner/book"
    """
    names = ", ".join(f'"{name}"' for name in NEEDED)
    if repository is None:
        mend = 'raise ModuleNotFoundError("vilib is missing. In the folder of the book say: pip install \'.[notebooks]\'")'
    else:
        mend = f'%pip install --quiet "vilib[notebooks] @ git+{repository.url}"'
    return (
        "# Installs what this notebook needs where it is missing, as in Colab; elsewhere it does nothing.\n"
        f"from importlib.util import find_spec\n\nif not all(map(find_spec, ({names}))):\n    {mend}"
    )


def _code_cell(cell: NotebookNode) -> NotebookNode:
    tags = cell.metadata.get("tags", ())
    folded = {"hide-input", "hide-cell", "remove-input", "remove-cell"} & set(tags)
    return nbformat.v4.new_code_cell(cell.source, metadata=FOLDED if folded else {})


def _fold_solutions(made: list[NotebookNode]) -> list[NotebookNode]:
    """Take the marks out of the cells, and have each solution start folded, as on the page.

    A folded heading hides all up to the next one: a solution that the chapter's text follows at once stays open.
    """
    heads = [n for n, cell in enumerate(made) if cell.cell_type == "markdown" and cell.source.startswith("#")]
    for start, stop in zip(heads, [*heads[1:], len(made)], strict=True):
        if FOLD in made[start].source:
            end = next((n for n in range(start, stop) if END in made[n].source), stop)
            if end == stop - 1 and not made[end].source.partition(END)[2].strip():
                made[start].metadata["jp-MarkdownHeadingCollapsed"] = True
    for cell in made:
        cell.source = cell.source.replace(FOLD, "").replace(END, "").strip("\n")
    return [cell for cell in made if cell.source]


def _pieces(text: str) -> list[str | int]:
    """A page's Markdown, cut at its headings and code cells: a text, or the number of a cell."""
    pieces: list[str | int] = []
    lines: list[str] = []
    fenced = False

    def close() -> None:
        piece = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
        if piece:
            pieces.append(piece)
        lines.clear()

    for line in text.splitlines():
        cell = CELL_LINE.match(line)
        if cell:
            close()
            pieces.append(int(cell[1]))
            continue
        fenced ^= line.lstrip("> ").startswith("```")
        if re.match(r"#{1,4} ", line) and not fenced:
            close()
        lines.append(line)
        if line.endswith(FOLD):                                                    # the heading alone stays in sight
            close()
    close()
    return pieces


def _runs(cells: Sequence[NotebookNode]) -> list[list[int]]:
    """The cells' numbers, a list for each that the page shows: those that it leaves out on the way there, and itself."""
    runs: list[list[int]] = [[]]
    for number, cell in enumerate(cells):
        runs[-1].append(number)
        if "remove-cell" not in cell.metadata.get("tags", ()):
            runs.append([])
    return runs


# -- on the pages ------------------------------------------------------------------------------------------------------


def offer(app, pagename, templatename, context, doctree) -> None:
    """Give the page's download button an .ipynb, without outputs: it is there to be run. Before the theme's turn."""
    executed = Path(app.outdir).parent / "jupyter_execute" / f"{pagename}.ipynb"
    if _is_notebook(app, pagename) and executed.exists():
        cells = [cell for cell in nbformat.read(executed, as_version=4).cells if cell.cell_type == "code"]
        repository = parse(app.config.vilib_repository)
        content = notebook(context["body"], cells, page=pagename, repository=repository, site=app.config.vilib_site)
        target = Path(app.outdir) / "_sources" / f"{pagename}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(content, target)
        context["ipynb_source"] = f"{pagename}.ipynb"


def _is_notebook(app, pagename: str) -> bool:
    return app.builder.name == "html" and "kernelspec" in app.env.metadata.get(pagename, {})


def offer_kernels(app, pagename, templatename, context, doctree) -> None:
    """Beside the download button, plain links that open the notebook where it can run; none where no repository is known."""
    repository = parse(app.config.vilib_repository)
    if repository is None or not _is_notebook(app, pagename):
        return
    places = {"Binder": repository.binder(pagename), "Colab": repository.colab(pagename)}
    links = [                                                                       # the icon is drawn: nothing more to load
        {"type": "link", "text": name, "tooltip": f"Open in {name}", "icon": "fas fa-play", "url": url} for name, url in places.items() if url
    ]
    group = {"type": "group", "tooltip": "Run this page", "icon": "fas fa-rocket", "label": "launch-buttons", "buttons": links}
    buttons = context["header_buttons"]
    at = next((n for n, each in enumerate(buttons) if each.get("label") == "download-buttons"), -1)
    buttons.insert(at + 1, group)


# -- a folder of them --------------------------------------------------------------------------------------------------


def of_book(built: Path) -> list[Path]:
    """The notebooks of the built book in a folder. Raises FileNotFoundError where there are none."""
    found = sorted(p for p in (built / "_sources").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    if not found:
        raise FileNotFoundError(f"no notebook in {built / '_sources'}; make book writes them")
    return found


def gather(built: Path, target: Path, root: Path) -> list[Path]:
    """Put the notebooks of a built book into the folder `target`, with what they need; returns them, relative to it.

    built: the folder of the built pages. root: the folder of the book's sources. What `target` held before is gone, but
    for its ``.git``.
    """
    found = of_book(built)
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        if old.name != ".git":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    made = [path.relative_to(built / "_sources") for path in found]
    for path, name in zip(found, made, strict=True):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / name)
    for own in BESIDE:
        if (root / own).is_dir():
            shutil.copytree(root / own, target / own, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(root / own, target / own)
    titles = {name: _title(target / name) for name in made}
    ordered = sorted(made, key=lambda name: [int(n) for n in re.findall(r"^(\d+)\.", titles[name])])  # what has no number comes first
    listing = "\n".join(f"- [{titles[name]}]({name.as_posix()})" for name in ordered)
    (target / "README.md").write_text(README.format(listing=listing), encoding="utf8")
    return made


README = """# Variational Inference, Live: the notebooks

Made from the book's sources by `make notebooks`; whatever is changed here is lost at the next build.

{listing}

They need `vilib`, which lies beside them: `pip install '.[notebooks]'`.
"""


def _title(path: Path) -> str:
    first = nbformat.read(path, as_version=4).cells[0].source
    return first.splitlines()[0].lstrip("# ")


if __name__ == "__main__":
    built, target = map(Path, sys.argv[1:])
    print(f"{len(gather(built, target, Path.cwd()))} notebooks in {target.resolve()}")
