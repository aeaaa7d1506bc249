"""The text of a page that Sphinx has built, as plain Markdown: what Jupyter, Colab and VS Code all read alike.

The page has everything resolved, so its numbers, titles and citations are the book's. Where code cells stand, and which parts
start folded, is left in the text as marks (`CELL`, `FOLD`, `END`), for `vilib.notebooks` to cut it by.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urljoin

from bs4 import BeautifulSoup, Tag
from markdownify import MarkdownConverter

#: Where a code cell stands, a heading whose section starts folded, and the end of that section.
CELL, FOLD, END = "\x02cell {}\x03", "\x02fold\x03", "\x02end\x03"
CELL_LINE = re.compile(r"^(?:[> ]*)\x02cell (\d+)\x03$")


def markdown(body: str, *, page: str, site: str, runs: Sequence[Sequence[int]]) -> tuple[str, list[Sequence[int]]]:
    r"""The Markdown of a page with marks in it, and those of `runs` for which the page shows no code cell.

    body: the page's HTML. page: its name, such as ``chapters/elbo``. site: the address of the published book, or "". runs:
    for each code cell that the page shows, the numbers of the cells that stand in its place.

    >>> markdown("<p>Let <span class='math'>\\(q\\)</span> be <em>near</em>.</p>", page="intro", site="", runs=[])
    ('Let $q$ be *near*.', [])
    """
    soup = BeautifulSoup(body, "html.parser")
    writer = _Markdown(page=page, site=site, anchors=_anchors(soup), runs=runs)
    return writer.convert_soup(soup), list(writer.runs)


def _anchors(soup: BeautifulSoup) -> dict[str, str]:
    """HTML id of a section -> the anchor that Jupyter gives its heading, for headings of plain words."""
    found: dict[str, str] = {}
    for section in soup.find_all("section"):
        heading = section.find(re.compile("^h[1-6]$"), recursive=False)
        if heading is not None and not heading.find(class_="math"):
            title = "".join(heading.find_all(string=lambda s: s.parent.get("class") != ["headerlink"]))
            anchor = re.sub(r"\s", "-", title.strip())
            if re.search(r"[()<>\[\]]", anchor):                                     # these end a link in Markdown
                continue
            spans = [each["id"] for each in section.find_all("span", id=True, recursive=False)]
            found |= dict.fromkeys(map(str, [section.get("id"), *spans]), anchor)
    return found


class _Markdown(MarkdownConverter):
    """The HTML of a Sphinx page in Markdown; each converter takes (element, its text in Markdown, the tags around it)."""

    def __init__(self, *, page: str, site: str, anchors: dict[str, str], runs: Sequence[Sequence[int]]) -> None:
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
            return "\n\n" + "\n\n".join([*map(CELL.format, next(self.runs, ())), *captions]) + "\n\n"
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
        if "dropdown" in classes and CELL[:5] not in text:
            return f"\n\n<details>\n<summary><b>{title}</b></summary>\n\n{rest.strip()}\n\n</details>\n\n"
        if "dropdown" in classes:                                                   # no HTML goes round a code cell
            return f"\n\n#### {title}{FOLD}\n\n{rest.strip()}\n\n{END}\n\n"
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
    return "\n\n" + "\n".join(line if CELL_LINE.match(line) else f"> {line}".rstrip() for line in lines) + "\n\n"
