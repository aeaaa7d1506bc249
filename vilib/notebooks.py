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
from urllib.parse import urljoin

import nbformat
from bs4 import BeautifulSoup, Tag
from markdownify import MarkdownConverter
from nbformat import NotebookNode

from vilib.addresses import Repository

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
#: Marks, in the Markdown of a whole page, of where a code cell stands, of a heading whose section starts folded, and of its end.
_CELL = "\x02cell {}\x03"
_FOLD = "\x02fold\x03"
_END = "\x02end\x03"
_CELL_LINE = re.compile(r"^(?:[> ]*)\x02cell (\d+)\x03$")


def notebook(
    body: str, cells: Sequence[NotebookNode], *, page: str, repository: Repository | None = None, site: str = ""
) -> NotebookNode:
    """A page of the book as a notebook without outputs, whose first code cell installs what is missing.

    body: the page's HTML, as Sphinx wrote it. cells: the page's code cells, in order, tags and all. page: its name, such as
    ``chapters/elbo``. repository: where vilib is installed from. site: the address of the published book; links within the
    book lead there, and are plain words where it is "". Raises ValueError where page and cells do not belong together.
    """
    soup = BeautifulSoup(body, "html.parser")
    writer = _Markdown(page=page, site=site, anchors=_anchors(soup), runs=_runs(cells))
    pieces, rest = _pieces(writer.convert_soup(soup)), list(writer.runs)
    if len(rest) != 1:
        raise ValueError(f"{page}: the page does not show the {len(cells)} code cells that it should")
    pieces += rest[0]                                                               # run after all that is shown
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
        if _FOLD in made[start].source:
            end = next((n for n in range(start, stop) if _END in made[n].source), stop)
            if end == stop - 1 and not made[end].source.partition(_END)[2].strip():
                made[start].metadata["jp-MarkdownHeadingCollapsed"] = True
    for cell in made:
        cell.source = cell.source.replace(_FOLD, "").replace(_END, "").strip("\n")
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
        cell = _CELL_LINE.match(line)
        if cell:
            close()
            pieces.append(int(cell[1]))
            continue
        fenced ^= line.lstrip("> ").startswith("```")
        if re.match(r"#{1,4} ", line) and not fenced:
            close()
        lines.append(line)
        if line.endswith(_FOLD):                                                    # the heading alone stays in sight
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


def _anchors(soup: BeautifulSoup) -> dict[str, str]:
    """HTML id of a section -> the anchor that Jupyter gives its heading, for headings of plain words."""
    found = {}
    for section in soup.find_all("section"):
        heading = section.find(re.compile("^h[1-6]$"), recursive=False)
        if heading is not None and not heading.find(class_="math"):
            title = "".join(heading.find_all(string=lambda s: s.parent.get("class") != ["headerlink"]))
            anchor = re.sub(r"\s", "-", title.strip())
            if re.search(r"[()<>\[\]]", anchor):                                     # these end a link in Markdown
                continue
            spans = [each["id"] for each in section.find_all("span", id=True, recursive=False)]
            found |= dict.fromkeys([section.get("id"), *spans], anchor)
    return found


# -- Markdown ----------------------------------------------------------------------------------------------------------


class _Markdown(MarkdownConverter):
    """The HTML of a Sphinx page in Markdown; each converter takes (element, its text in Markdown, the tags around it)."""

    def __init__(self, *, page: str, site: str, anchors: dict[str, str], runs: list[list[int]]) -> None:
        super().__init__(heading_style="atx", bullets="-", autolinks=False, code_language_callback=self._language)
        self.page, self.site, self.anchors = page, site, anchors
        self.runs = iter(runs)

    def escape(self, text, parent_tags):
        text = re.sub(r"([\\`*_$])", r"\\\1", text)
        text = re.sub(r"<(?=[a-zA-Z/!])", "&lt;", text)
        return text.replace("|", r"\|") if "td" in parent_tags or "th" in parent_tags else text

    @staticmethod
    def _language(pre: Tag) -> str:
        outer = pre.find_parent("div", class_=re.compile("^highlight-"))
        name = next((c for c in outer["class"] if c.startswith("highlight-")), "") if outer else ""
        name = name.removeprefix("highlight-")
        return {"ipython3": "python", "default": "", "none": "", "text": ""}.get(name, name)

    def convert_span(self, el, text, parent_tags):
        classes = el.get("class", ())
        if "math" in classes:
            formula = _tex(el, r"\(", r"\)")
            if {"td", "th"} & parent_tags:                                          # a bar would end the table's cell
                formula = formula.replace(r"\|", r"\Vert ").replace("|", r"\vert ")
            return f"${formula}$"
        if "caption-number" in classes and el.find_parent("figcaption"):
            return f"**{text.strip()}** "
        if "label" in classes or "backrefs" in classes:                             # of a reference: its key, and links back
            return ""
        return text

    def convert_a(self, el, text, parent_tags):
        href = el.get("href", "")
        if "headerlink" in el.get("class", ()):
            return ""
        if not re.match(r"[a-z][a-z+.-]*:", href):                                  # within the book
            href = self._within(href)
            if not href:
                return text
        lead, words, trail = re.match(r"(\s*)(.*?)(\s*)$", text, re.S).groups()
        return f"{lead}[{words}]({href}){trail}" if words else text

    def _within(self, href: str) -> str:
        """Where a link from this page to another place of the book leads from a notebook; "" if nowhere."""
        if href.startswith("#") and href[1:] in self.anchors:
            return "#" + self.anchors[href[1:]]
        return urljoin(f"{self.site}{self.page}.html", href) if self.site else ""

    def convert_img(self, el, text, parent_tags):
        source = el.get("src", "")
        if not re.match(r"(https?|data):", source):
            source = urljoin(f"{self.site}{self.page}.html", source) if self.site else ""
        alt = self.escape(el.get("alt", ""), parent_tags)
        return f"![{alt}]({source})" if source else f"*[{alt}]*"

    def convert_details(self, el, text, parent_tags):
        return f"\n\n{text.strip()}\n\n"

    def convert_div(self, el, text, parent_tags):
        classes = set(el.get("class", ()))
        if "cell" in classes:
            captions = [self.process_tag(each, set()).strip() for each in el.find_all("figcaption")]
            return "\n\n" + "\n\n".join([*map(_CELL.format, next(self.runs, ())), *captions]) + "\n\n"
        if "math" in classes:
            number = el.find(class_="eqno")
            tag = ""
            if number is not None:
                tag = " \\tag{" + number.get_text().strip("()#¶ ") + "}"
                number.extract()
            return "\n\n$$\n" + _tex(el, r"\[", r"\]") + tag + "\n$$\n\n"
        if "toctree-wrapper" in classes:
            return ""
        if "citation" in classes:
            return f"\n- {text.strip()}\n"
        if "admonition" not in classes:
            return super().convert_div(el, text, parent_tags)
        head, _, rest = text.strip().partition("\n")
        title = re.sub(r"\s+", " ", head).strip("* ")
        if "dropdown" in classes and _CELL[:5] not in text:
            return f"\n\n<details>\n<summary><b>{title}</b></summary>\n\n{rest.strip()}\n\n</details>\n\n"
        if "dropdown" in classes:                                                   # no HTML goes round a code cell
            return f"\n\n#### {title}{_FOLD}\n\n{rest.strip()}\n\n{_END}\n\n"
        if "exercise" in classes:
            return f"\n\n#### {title}\n\n{rest.strip()}\n\n"
        return _quoted(text)

    def convert_p(self, el, text, parent_tags):
        if "admonition-title" in el.get("class", ()):
            text = "**" + re.sub(r"\s+", " ", text).strip() + "**"
        return super().convert_p(el, text, parent_tags)

    def convert_figcaption(self, el, text, parent_tags):
        return f"\n\n{text.strip()}\n\n"


def _tex(el: Tag, opening: str, closing: str) -> str:
    """The formula in an element, without what Sphinx put around it."""
    formula = el.get_text().strip().removeprefix(opening).removesuffix(closing).strip()
    inside = formula.removeprefix(r"\begin{split}").removesuffix(r"\end{split}").strip()
    return inside if inside != formula and not _has_lines(inside) else formula


def _has_lines(formula: str) -> bool:
    r"""Whether a formula has a line break, ``\\``, outside of all its environments: it needs one around it."""
    shorter = formula
    while True:
        formula, shorter = shorter, re.sub(r"\\begin\{(\w+\*?)\}(?:(?!\\begin\{).)*?\\end\{\1\}", "", shorter, flags=re.S)
        if formula == shorter:
            return r"\\" in formula


def _quoted(text: str) -> str:
    """A block as a quotation; its displayed formulas on one line each, since Jupyter would take the marks for TeX."""
    one_line = re.sub(r"\$\$\n(.*?)\n\$\$", lambda m: "$$" + " ".join(m[1].split("\n")) + "$$", text.strip(), flags=re.S)
    lines = re.sub(r"\n{3,}", "\n\n", one_line).split("\n")
    return "\n\n" + "\n".join(line if _CELL_LINE.match(line) else f"> {line}".rstrip() for line in lines) + "\n\n"


# -- a folder of them --------------------------------------------------------------------------------------------------


def gather(built: Path, target: Path, root: Path) -> list[Path]:
    """Put the notebooks of a built book into the folder `target`, with what they need; returns them, relative to it.

    built: the folder of the built pages. root: the folder of the book's sources. What `target` held before is gone, but
    for its ``.git``. Raises FileNotFoundError where there is no built book.
    """
    found = sorted((built / "_sources").rglob("*.ipynb"))
    if not found:
        raise FileNotFoundError(f"no notebook in {built / '_sources'}; make book writes them")
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        if old.name != ".git":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    made = [path.relative_to(built / "_sources") for path in found]
    for path, name in zip(found, made, strict=True):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / name)
    for name in BESIDE:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(root / name, target / name)
    listing = "\n".join(f"- [{_title(target / name)}]({name.as_posix()})" for name in made)
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
