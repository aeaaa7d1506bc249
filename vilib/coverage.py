"""Which section of the book teaches an item of the lectures, and which test checks it.

A section says so in a comment under its heading, ``% covers: 2.5 2.8``; a test by ``@pytest.mark.covers("2.5")``.  The appendix
``chapters/coverage.md`` is made of what is found, by the directive ``coverage`` of this module.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

_COMMENT = re.compile(r"^% covers:(?P<ids>[ \d.]+)$", re.MULTILINE)
_HEADING = re.compile(r"^#+ +(?P<title>.+?)\s*$")


@dataclass(frozen=True)
class Section:
    """A section that teaches something.  page: its path without suffix; label: where a link to it leads."""

    page: str
    title: str
    label: str


def items(root: Path) -> dict[str, dict[str, str]]:
    """Lecture -> id -> what is taught."""
    return yaml.safe_load((root / "chapters" / "coverage.yml").read_text(encoding="utf8"))


def sections(root: Path) -> dict[str, list[Section]]:
    """id -> the sections that cover it, in the order of the files' names."""
    found = defaultdict(list)
    for path in sorted((root / "chapters").glob("*.md")):
        title, fenced, numbers = "", False, count(1)
        for line in path.read_text(encoding="utf8").splitlines():
            fenced ^= line.startswith("```")
            heading, comment = _HEADING.match(line), _COMMENT.match(line)
            if heading and not fenced:
                title = heading["title"]
            if comment:
                section = Section(f"chapters/{path.stem}", title, _label(path.stem, next(numbers)))
                for each in comment["ids"].split():
                    found[each].append(section)
    return dict(found)


def tests(root: Path) -> dict[str, list[str]]:
    """id -> the tests marked with it, as ``file::name``."""
    found = defaultdict(list)
    for path in sorted((root / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf8")
        if "mark.covers" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            for mark in getattr(node, "decorator_list", ()):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.covers":
                    for each in map(ast.literal_eval, mark.args):
                        found[each].append(f"{path.relative_to(root).as_posix()}::{getattr(node, 'name')}")
    return dict(found)


def _label(page: str, number: int) -> str:
    return f"covers-{page}-{number}"


def _sentence(test: str) -> str:
    """tests/a/test_b.py::test_it_works -> b: it works."""
    file, name = test.split("::")
    return f"{Path(file).stem.removeprefix('test_')}: {name.removeprefix('test_').replace('_', ' ')}"


# -- in the book -----------------------------------------------------------------------------------------------------


def _add_labels(app, docname: str, source: list[str]) -> None:
    """Before a chapter is read: each comment becomes the target that the appendix links to."""
    page, numbers = docname.removeprefix("chapters/"), count(1)
    source[0] = _COMMENT.sub(lambda comment: f"({_label(page, next(numbers))})=", source[0])


class Coverage(SphinxDirective):
    """A table for each lecture: the item, the sections that teach it, the tests that check it."""

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        taught, checked = sections(root), tests(root)
        for path in [root / "chapters" / "coverage.yml", *(root / "chapters").glob("*.md"), *(root / "tests").rglob("test_*.py")]:
            self.env.note_dependency(str(path))
        lines = []
        for lecture, each in items(root).items():
            lines += [f"## {lecture}", "", "| | what | taught in | checked by |", "|---|---|---|---|"]
            for number, what in each.items():
                here = "<br>".join(f"{s.page.split('/')[-1]}: {{ref}}`{s.title.replace('`', '')} <{s.label}>`" for s in taught.get(number, ()))
                by = "<br>".join(map(_sentence, checked.get(number, ())[:3]))
                lines.append(f"| {number} | {what} | {here or '–'} | {by or '–'} |")
            lines.append("")
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def setup(app):
    app.add_directive("coverage", Coverage)
    app.connect("source-read", _add_labels)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
