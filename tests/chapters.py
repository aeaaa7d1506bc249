"""What the tests of the chapters share: a page's text, its labels and links, and what its cells print."""

from __future__ import annotations

import ast
import contextlib
import html
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from vilib import Report

FOLDER = Path(__file__).parents[1] / "chapters"
#: The chapters that teach: every page that is a notebook.
LESSONS = [page.stem for page in sorted(FOLDER.glob("*.md")) if page.read_text("utf-8").startswith("---\njupytext:")]


def text_of(chapter: str) -> str:
    return (FOLDER / f"{chapter}.md").read_text(encoding="utf-8")


def labels(text: str, kind: str = "eq:") -> list[str]:
    """Every label that starts with ``kind``, without it, in order."""
    return re.findall(rf"^:(?:label|name): {kind}(\S+)$", text, re.M) + re.findall(rf"\$\$ *\({kind}([^)]+)\)", text)


def covered(text: str) -> set[str]:
    """The items of the lectures that a page's headings are marked with."""
    return {item for line in re.findall(r"^#+ .*\n% covers: (.*)$", text, re.M) for item in line.split()}


def links(text: str) -> list[tuple[str, dict[str, str]]]:
    """Every link that sets an explorable, as its address and what it sets."""
    found = re.findall(r'href="(?:[\w-]+\.html(?:\?lecture)?)?#([\w-]+)\?([^"]+)"', text)
    return [(address, dict(parse_qsl(html.unescape(query)))) for address, query in found]


# ---- a chapter that has been run -------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Run:
    """printed: what each cell printed, by its source; space: the names that are left."""

    printed: dict[str, str]
    space: dict

    @property
    def everything(self) -> str:
        return "\n".join(self.printed.values())

    @property
    def marks(self) -> tuple[int, int]:
        """How often a checker said that something is wrong, and right."""
        return self.everything.count("✗ Not yet."), self.everything.count("✓ Right.")

    def outputs(self, part: str) -> list[str]:
        """What each cell with ``part`` in it printed."""
        return [out for source, out in self.printed.items() if part in source]

    def output(self, part: str) -> str:
        """What the one cell with ``part`` in it printed."""
        (out,) = self.outputs(part)
        return out


def run_cells(chapter: str) -> Run:
    """Run its cells, solutions too, in order as the book runs them, all but those that ask for a kernel."""
    import matplotlib

    matplotlib.use("Agg")
    space, printed = {"__name__": "chapter"}, {}
    for source in _cells(chapter):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
            _run(ast.parse(source), space, chapter)
        printed[source] = out.getvalue()
    space["plt"].close("all")
    return Run(printed, space)


def _cells(chapter: str) -> Iterator[str]:
    import jupytext

    for cell in jupytext.read(FOLDER / f"{chapter}.md").cells:
        source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        if cell.cell_type == "code" and not source.startswith("from ipywidgets import interact"):
            yield source


def _run(cell: ast.Module, space: dict, chapter: str) -> None:
    """As a notebook does it: a checker's report that stands on the last line is shown."""
    last = cell.body.pop() if cell.body and isinstance(cell.body[-1], ast.Expr) else None
    exec(compile(cell, chapter, "exec"), space)
    value = eval(compile(ast.Expression(last.value), chapter, "eval"), space) if last else None
    if isinstance(value, Report):
        print(value)


def numbers(line: str) -> list[float]:
    """Every number in a line; a digit that ends a name, as in k3, is none."""
    return [float(n) for n in re.findall(r"(?<![\w.])-?\d+\.?\d*(?:e[+-]?\d+)?", line.replace("−", "-"))]


def decimals(line: str) -> list[float]:
    """Every number in a line that has a decimal point."""
    return [float(n) for n in re.findall(r"-?\d+\.\d+", line)]
