"""From a docstring as it is read in an editor to one that Sphinx sets well.

A few habits of the house become what reStructuredText has for them: ``(eq:elbo)`` a link to the equation in its chapter,
``eps: (S, *R, D), …`` an entry in the list of parameters, ``Raises ShapeError (S odd).`` one among the errors, the name of a
class a link to it, and ``*R`` a star and a letter.  Paragraphs that are indented stand line by line: formulas and tables.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

#: What is left as it stands: literals, roles, and words in stars.
_KEPT = re.compile(r"``.+?``|:[a-z:]+:`[^`]+`|`[^`]+`|\*\*[^*\s][^*]*\*\*|(?<![\w*])\*(?!R\b)[^\W_][\w' -]*\*(?![\w*])", re.DOTALL)
_EQUATIONS = re.compile(r"\((?P<labels>eq:[a-z-]+(?:,\s+eq:[a-z-]+)*)(?P<rest>;[^()]*)?\)")
_ROLE = re.compile(r":(?P<role>func|class|data|meth):`(?P<home>vilib\.[\w.]+\.)?(?P<name>\w+)`")
_CLASS = re.compile(r"(?<![\w.])(?:[A-Z]+[a-z]+){2,}(?!\w)")
_NAMED = re.compile(r"(?:^|(?<=\.  )|(?<=;  ))(?P<names>[a-z_]\w*(?:, [a-z_]\w*)*) ?: ", re.MULTILINE)
_RAISES = re.compile(r"(?:^|(?<=\.  ))Raises (?P<text>.+?)(?:\.(?=  |$)|\Z)", re.MULTILINE | re.DOTALL)
_RETURNS = re.compile(r"^Returns (?P<text>.+)", re.MULTILINE | re.DOTALL)
_UNDERLINE = re.compile(r"-{3,}$")
#: Before a letter with a full stop, as in "dim: D.", which would begin a list.
_NO_LIST = re.compile(r"^(?=[A-Za-z]\.(?:\s|$))")
_ITEM = re.compile(r"^(?P<name>\w+) : ", re.MULTILINE)


def dressed(lines: Sequence[str], parameters: Collection[str], known: Mapping[str, str]) -> list[str]:
    """A docstring's lines as reStructuredText.

    parameters: the names that may begin an entry of the list of parameters.  known: name -> full name of what has a place
    in the reference, a link where it is written like a class, or in single backticks.

    >>> known = {"ShapeError": "vilib.ShapeError"}
    >>> for line in dressed(["The mean.  (eq:elbo)", "", "eps: (S, *R, D).  Raises ShapeError (D)."], ["eps"], known):
    ...     print(line)
    The mean.  [equation :eq:`eq:elbo`]
    <BLANKLINE>
    :param eps: (S, \\*R, D).
    :raises: \\ :py:obj:`~vilib.ShapeError`\\  (D).
    <BLANKLINE>
    """
    text, fields, examples = [], [], []
    section = ""
    for paragraph in _paragraphs(lines):
        if len(paragraph) > 1 and _UNDERLINE.match(paragraph[1]):
            section, paragraph = paragraph[0], paragraph[2:]
        if not paragraph:
            continue
        if paragraph[0].lstrip().startswith(">>>"):
            examples += [*paragraph, ""]
        elif paragraph[0].startswith("    ") and all(line.startswith("    ") for line in paragraph):
            text += [".. parsed-literal::", "", *_inline("\n".join(paragraph), known).split("\n"), ""]
        elif section in ("Parameters", "Raises", "Returns"):
            fields += _section(section, "\n".join(paragraph))
        else:
            rest, more = _without_fields("\n".join(paragraph), parameters)
            text += [*_inline(rest, known).split("\n"), ""] if rest.strip() else []
            fields += more
    order = ("param", "returns", "raises")
    fields.sort(key=lambda field: order.index(field[0].split()[0]))
    listed = [f":{kind}: {_entry(what, known)}" for kind, what in fields]
    return [*text, *listed, *([""] if listed else []), *examples]


def _paragraphs(lines: Sequence[str]) -> Iterator[list[str]]:
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield paragraph
            paragraph = []


def _without_fields(text: str, parameters: Collection[str]) -> tuple[str, list[tuple[str, str]]]:
    """What a paragraph says beside its parameters, its result and its errors; and these, as (field, text)."""
    fields: list[tuple[str, str]] = []
    for kind, pattern in (("raises", _RAISES), ("returns", _RETURNS)):
        for match in pattern.finditer(text):
            fields.append((kind, match["text"].rstrip(". ") + "."))
        text = pattern.sub("", text)
    marks = [mark for mark in _NAMED.finditer(text) if set(mark["names"].split(", ")) <= set(parameters)]
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    fields += [(f"param {mark['names'].replace(' ', '')}", text[mark.end() : end]) for mark, end in zip(marks, ends)]
    rest = text[: marks[0].start()] if marks else text
    return re.sub(r"^ {1,3}(?=\S)", "", rest, flags=re.MULTILINE), fields          # what stood in front is a field now


def _section(title: str, text: str) -> list[tuple[str, str]]:
    """A section with an underlined title: ``name : what it is``, a line each, longer ones indented."""
    marks = list(_ITEM.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    items = [(mark["name"], text[mark.end() : end]) for mark, end in zip(marks, ends)]
    if title == "Parameters":
        return [(f"param {name}", what) for name, what in items]
    if title == "Raises":
        return [("raises", f"{name}: {what}") for name, what in items]
    return [("returns", text)]


def _entry(text: str, known: Mapping[str, str]) -> str:
    """What stands behind a name in a list, on one line."""
    return _NO_LIST.sub(r"\\", _inline(" ".join(text.split()), known))


def _inline(text: str, known: Mapping[str, str]) -> str:
    out, end = [], 0
    for kept in _KEPT.finditer(text):
        out += [_plain(text[end : kept.start()], known), _code(kept[0], known)]
        end = kept.end()
    return "".join([*out, _plain(text[end:], known)])


def _plain(text: str, known: Mapping[str, str]) -> str:
    """Text in which a star, a bar and an underscore are just that; equations and classes are links."""
    text = re.sub(r"([*|`])", r"\\\1", text)
    text = re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)
    text = _EQUATIONS.sub(_equations, text)
    return _CLASS.sub(lambda name: rf"\ :py:obj:`~{known[name[0]]}`\ " if name[0] in known else name[0], text)


def _equations(found: re.Match[str]) -> str:
    labels = re.split(r",\s+", found["labels"])
    links = ", ".join(f":eq:`{label}`" for label in labels)
    return f"[equation{'s' if len(labels) > 1 else ''} {links}{found['rest'] or ''}]"


def _code(text: str, known: Mapping[str, str]) -> str:
    """`name` is code, and a link where the name is known; a role that names it says where it is; all else stays as it is."""
    if role := _ROLE.fullmatch(text):
        if role["name"] in known and role["role"] != "meth":
            return f":{role['role']}:`~{known[role['name']]}`"
        return f":{role['role']}:`~{role['home']}{role['name']}`" if role["home"] else text
    if not text.startswith("`") or text.startswith("``"):
        return text
    name = text.strip("`")
    return f":py:obj:`~{known[name]}`" if name in known else f"``{name}``"
