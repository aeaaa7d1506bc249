"""The reference pages: what the docstrings say, as pages of the book.

A page of ``reference/`` names what it documents, one a line, in a block ``{reference}``; Sphinx's autodoc does the rest.
``module noise`` in such a block sets what stands at the top of that module, ``types.LogJoint`` an alias, and ``{reference-table}
page`` lists the names of another page with their first sentences.  An example indented below a name is added to its docstring, where
that is shown in a chapter and is best kept short, or the example is of a result that another function makes; a test runs it.  In every chapter the name of a public function, set as code,
becomes a link to what is said here.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from functools import cache, cached_property
from pathlib import Path
from textwrap import dedent, indent
from types import FunctionType
from typing import Any, cast

from docutils import nodes
from sphinx import addnodes
from sphinx.domains.python import PythonDomain
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.inspect import stringify_signature
from sphinx.util.nodes import make_refnode

from vilib.docstrings import dressed

_BLOCK = re.compile(r"^```\{(?P<kind>reference|reference-table)\}(?: (?P<of>\S+))?\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)
#: Methods with two underscores at each end that have a place on the page, where something is said of them.
_SPOKEN = ("__call__", "__getitem__")


# -- the pages -------------------------------------------------------------------------------------------------------


def names_of(page: str) -> list[str]:
    """What a page's text documents, by full name and in order; the modules that it sets are left out.

    >>> names_of("```{reference}\\nmodule noise\\nnormal\\nsobol\\n```\\n")
    ['vilib.normal', 'vilib.sobol']
    """
    return [name for name, _ in examples_of(page)]


def examples_of(page: str) -> list[tuple[str, str]]:
    """Each name that a page documents, with the example that the page adds to its docstring, or nothing.

    >>> examples_of("```{reference}\\nnormal\\n    >>> 1 + 1\\n    2\\nsobol\\n```\\n")
    [('vilib.normal', '>>> 1 + 1\\n2'), ('vilib.sobol', '')]
    """
    blocks = [block for block in _BLOCK.finditer(page) if block["kind"] == "reference"]
    entries = [(block["of"] or "vilib", line, example) for block in blocks for line, example in _entries(block["lines"])]
    return [(f"{package}.{line}", example) for package, line, example in entries if " " not in line]


def _entries(lines: str) -> list[tuple[str, str]]:
    """What stands at the margin, each with the text that is indented below it."""
    found = re.findall(r"^(\S.*)\n((?:(?: +.*)?\n)*)", lines, re.MULTILINE)
    return [(line.strip(), dedent(example).strip("\n")) for line, example in found]


def _expand(app, docname: str, source: list[str]) -> None:
    """Before a page is read: each block becomes the directives of autodoc and autosummary that it stands for."""

    def directives(block: re.Match[str]) -> str:
        if block["kind"] == "reference-table":
            path = Path(app.env.doc2path(block["of"]))
            app.env.note_dependency(str(path))
            rows = "".join(f"   ~{name}\n" for name in names_of(path.read_text(encoding="utf8")))
            return f"```{{eval-rst}}\n.. autosummary::\n   :nosignatures:\n\n{rows}```"
        package, text = block["of"] or "vilib", ""
        for line, example in _entries(block["lines"]):
            text += _directive(package, line, _known(app, package)) + "\n" + indent(example, "   ") + "\n" * bool(example)
        return f"```{{eval-rst}}\n{text}```"

    if _BLOCK.search(source[0]):
        app.env.note_dependency(__file__)
        source[0] = _BLOCK.sub(directives, source[0])


def _directive(package: str, line: str, known: dict[str, str]) -> str:
    if line.startswith("module "):
        module = importlib.import_module(f"{package}.{line.removeprefix('module ')}")
        lines = dressed((inspect.getdoc(module) or "").split("\n"), (), known)
        return "\n".join([f".. _{_label(module.__name__)}:", "", *lines])      # no automodule: vilib.fit is a function as well
    name = f"{package}.{line}"
    thing = _thing(name)
    if isinstance(thing, FunctionType):
        return f".. autofunction:: {name}\n"
    if inspect.isclass(thing) and thing.__module__.startswith("vilib"):
        kind = "exception" if issubclass(thing, Exception) else "class"
        options = {"show-inheritance": ""} if all(map(_is_known, thing.__bases__)) else {}
        if members := _members(thing):
            options |= {"members": ", ".join(members), "undoc-members": ""}
        return f".. auto{kind}:: {name}\n" + "".join(f"   :{key}: {value}\n" for key, value in options.items())
    comment, value = _comment_and_value(name)
    said = "".join(f"   {each}\n" for each in dressed(comment, (), known))
    if inspect.isclass(thing) or hasattr(thing, "__args__"):            # an alias: str, Callable[…] or a union
        return f".. py:type:: {name}\n   :canonical: {value}\n\n{said}"
    return f".. py:data:: {name}\n\n{said}"


def _is_known(base: type) -> bool:
    return base is not object and base.__module__ != "typing" and not base.__name__.startswith("_")


def _label(module: str) -> str:
    return "-".join(["module", *module.split(".")[1:]])


def _thing(name: str) -> Any:
    """What a full name stands for.  ``vilib.fit`` is a function, which hides the module of that name."""
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def _known(app, name: str) -> dict[str, str]:
    """Name -> full name of what the pages document in the package of ``name``; vilib has a Table, and explorables another."""
    pages = tuple(sorted(Path(app.srcdir, "reference").glob("*.md")))
    return _documented(pages)[name.startswith("vilib.explorables")]


@cache
def _documented(pages: tuple[Path, ...]) -> tuple[dict[str, str], dict[str, str]]:
    names = [name for page in pages for name in names_of(page.read_text(encoding="utf8"))]
    short = {name: name.rpartition(".")[2] for name in names}
    still, moving = ({short[n]: n for n in names if n.startswith("vilib.explorables") == moves} for moves in (False, True))
    return still, moving


def _members(cls: type) -> list[str]:
    """The public methods and properties of a class, with those of a base of ours that is not public itself.

    What overrides a public base's method, and adds no word to it, is left to that base.
    """
    ours = [base for base in cls.__mro__[1:] if base.__module__.startswith("vilib")]
    private = [base for base in ours if base.__name__.startswith("_")]
    told = {name for base in ours if base not in private for name in dir(base)}
    found: dict[str, None] = {}
    for home in (cls, *private):
        for name, member in vars(home).items():
            is_method = isinstance(member, FunctionType | property | cached_property | staticmethod | classmethod)
            if is_method and (not name.startswith("_") or name in _SPOKEN) and (member.__doc__ or name not in {*told, *_SPOKEN}):
                found[name] = None
    return list(found)


def _comment_and_value(name: str) -> tuple[list[str], str]:
    """The ``#:`` comment above a constant, and its value as it is written, in the module of ours that has both."""
    module, _, constant = name.rpartition(".")
    for home in [module, *(each for each in sys.modules if each.startswith("vilib."))]:
        analyzer = ModuleAnalyzer.for_module(home)
        analyzer.analyze()
        value = re.search(rf"^{constant}(?:: .+?)? = (.+)$", analyzer.code, re.MULTILINE)
        if value and ("", constant) in analyzer.attr_docs and getattr(sys.modules[home], constant) is _thing(name):
            return analyzer.attr_docs["", constant], value[1]
    raise ExtensionError(f"{name} has no comment that begins with '#:'; write one above it")


# -- what autodoc says of each --------------------------------------------------------------------------------------


class _Written:
    """A default value, written as its name."""

    def __init__(self, value: Any) -> None:
        self.text = getattr(value, "__name__", None) or ("..." if repr(value).startswith("<") else repr(value))

    def __repr__(self) -> str:
        return self.text


def _signature(thing: Any) -> inspect.Signature | None:
    """The parameters with their annotations as they are written, ``LogJoint`` and not what it is short for; without ``self``."""
    if inspect.isclass(thing):
        thing = thing.__init__
        if not getattr(thing, "__module__", "").startswith("vilib"):
            return None
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return None
    parameters = [
        each if each.default is each.empty else each.replace(default=_Written(each.default))
        for name, each in signature.parameters.items() if name != "self"
    ]
    returned = signature.empty if signature.return_annotation in (None, "None") else signature.return_annotation
    return signature.replace(parameters=parameters, return_annotation=returned)


def _write_signature(app, what, name, thing, options, signature, returned):
    own = _signature(thing) if what in ("function", "method", "class", "exception") else None
    if own is None:
        return ("", None) if what in ("class", "exception") else None
    known = _known(app, name)
    full = lambda written: re.sub(r"(?<![\w.])[A-Z]\w*", lambda name: "~" + known[name[0]] if name[0] in known else name[0], str(written))  # noqa: E731
    parameters = [
        each if each.annotation is each.empty else each.replace(annotation=full(each.annotation)) for each in own.parameters.values()
    ]
    arrow = "" if own.return_annotation is own.empty else full(own.return_annotation)
    return stringify_signature(own.replace(parameters=parameters, return_annotation=own.empty)), arrow


def _forget_values(app, env) -> None:
    """An alias's value is shown, but it is no name: Sphinx would make of every ``str`` a link to an alias for it."""
    objects = env.get_domain("py").objects
    for name in [name for name, entry in objects.items() if entry.objtype == "type" and not name.startswith("vilib.")]:
        del objects[name]


def _space_names(app, doctree: nodes.document) -> None:
    """Names that share an entry came as one word, mu,omega: Sphinx takes what stands before a space for a type."""
    for name in doctree.findall(addnodes.literal_strong):
        name[:] = [nodes.Text(name.astext().replace(",", ", "))]


def _write_docstring(app, what, name, thing, options, lines: list[str]) -> None:
    own = _signature(thing) if callable(thing) else None
    lines[:] = dressed(lines, list(own.parameters) if own else (), _known(app, name))


# -- links -----------------------------------------------------------------------------------------------------------


def _resolve(app, env, node, contnode):
    """A link to what only the source calls so: ``vilib.fit.adam``, or the alias ``Noise`` in a signature.

    What is there and has no page of its own, a helper or a module, is named without a link.
    """
    if node.get("refdomain") != "py":
        return None
    if node["reftype"] == "mod" and _label(node["reftarget"]) in (labels := env.get_domain("std").anonlabels):
        return make_refnode(app.builder, node["refdoc"], *labels[_label(node["reftarget"])], contnode)
    objects, target = env.get_domain("py").objects, node["reftarget"]
    found = [target, *(full for full, entry in objects.items() if entry.objtype == "type" and full.rpartition(".")[2] == target)]
    if target.startswith("vilib."):
        parts = target.split(".")
        found += [f"vilib.{'.'.join(parts[at:])}" for at in range(2, len(parts))]
    for full in found:
        if full in objects:
            return _link(app.builder, node["refdoc"], objects[full], full, contnode)
    return contnode if target.startswith("vilib.") and _exists(target) else None


def _link(builder, docname: str, entry, full: str, shown: nodes.Node) -> nodes.Node:
    return make_refnode(builder, docname, entry.docname, entry.node_id, shown, full)


def _exists(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        try:
            _thing(name)
        except (ImportError, AttributeError):
            return False
    return True


#: What a page's own code gives a name to.
_GIVEN = re.compile(r"^(?:def |class |for )?(\w+(?:, *\w+)*) *(?:=(?!=)|\(.*:$| in )", re.MULTILINE)


class LinkNames(SphinxPostTransform):
    """In every page, ``advi`` or ``vilib.advi`` set as code links to what the reference says of it.

    But not in headings and tables, and not what the page's own code calls so.
    """

    default_priority = 400
    formats = ("html",)

    def run(self, **kwargs) -> None:
        objects = cast(PythonDomain, self.env.get_domain("py")).objects
        code = (block.astext() for block in self.document.findall(nodes.literal_block))
        given = {name for text in code for names in _GIVEN.findall(text) for name in re.split(", *", names)}
        for literal in list(self.document.findall(nodes.literal)):
            text = literal.astext()
            full = text if text.startswith("vilib.") else f"vilib.{text}"
            if full in objects and text not in given and not _inside(literal, nodes.reference, nodes.title, nodes.entry):
                place = literal.parent.index(literal)
                literal.parent[place] = _link(self.app.builder, self.env.docname, objects[full], full, literal.deepcopy())


#: Sphinx looks for a hit's place by a selector, in which the dots of ``vilib.fit`` would mean something else.
_PLACES_WITH_DOTS = """addEventListener("DOMContentLoaded", () => {
  const text = Search.htmlToText;
  Search.htmlToText = (page, place) => text(page, place && "#" + CSS.escape(place.slice(1)));
});"""


#: A signature of several lines is a list of descriptions of nothing, which a screen reader stumbles over.
_PARAMETERS = re.compile(r'(<span class="sig-paren">\(</span>)\s*<dl>(.*?)</dl>\s*(<span class="sig-paren">\)</span>)', re.DOTALL)


def _in_lines(found: re.Match[str]) -> str:
    lines = found[2].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return found[1] + lines + found[3]


def _style(app, pagename, templatename, context, doctree) -> None:
    if pagename.startswith("reference/"):
        app.add_css_file("reference.css")
        context["body"] = _PARAMETERS.sub(_in_lines, context["body"])
    if pagename == "search":
        app.add_js_file(None, body=_PLACES_WITH_DOTS)


def _name_toggles(app, pagename, templatename, context, doctree) -> None:
    """The reference has pages below it, and so a toggle in the list of contents, which the theme leaves without a name."""
    make = context.get("generate_toctree_html")

    def with_names(*args: Any, **options: Any) -> Any:
        contents = make(*args, **options)
        for toggle in contents.find_all("summary") if hasattr(contents, "find_all") else ():
            toggle["aria-label"] = f"Pages of {toggle.find_parent('li').a.get_text(strip=True)}"
        return contents

    if make is not None:
        context["generate_toctree_html"] = with_names


def _inside(node: nodes.Node, *kinds: type[nodes.Node]) -> bool:
    while node is not None:
        if isinstance(node, kinds):
            return True
        node = node.parent
    return False


def setup(app):
    for extension in ("sphinx.ext.autodoc", "sphinx.ext.autosummary"):
        app.setup_extension(extension)
    _documented.cache_clear()
    app.connect("source-read", _expand)
    app.connect("autodoc-process-signature", _write_signature)
    app.connect("autodoc-process-docstring", _write_docstring)
    app.connect("doctree-read", _space_names)
    app.connect("env-updated", _forget_values)
    app.connect("missing-reference", _resolve)
    app.connect("html-page-context", _style)
    app.connect("html-page-context", _name_toggles, priority=900)          # after the theme
    app.add_post_transform(LinkNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
