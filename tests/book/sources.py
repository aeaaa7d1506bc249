"""The explorables of a chapter as Python objects, made from the chapter's own code."""

from __future__ import annotations

import ast
import re
import symtable
from functools import cache
from pathlib import Path

import jupytext

from vilib.explorables import Explorable

#: A chapter whose source matches shows an explorable.
SHOWS = re.compile(r"from vilib\.explorables(\.gallery import| import gallery\b)|\bExplorable\(")


@cache
def explorables_of(chapter: Path) -> list[Explorable]:
    """What each cell shows that ends in an explorable, in order.

    Only the statements that the explorable rests on are run: a chapter's long cells are none of its business.
    """
    shown, statements = [], []
    for cell in jupytext.read(chapter).cells:
        if cell.cell_type != "code":
            continue
        lines = [line for line in cell.source.splitlines() if not line.startswith(("%", "!"))]
        own = ast.parse("\n".join(lines)).body
        last = own[-1] if own else None
        statements += own
        if isinstance(last, ast.Expr):
            needed = _needed(last, statements)
            if SHOWS.search("\n".join(map(ast.unparse, [*needed, last]))):
                space: dict = {"__name__": "chapter"}
                exec(compile(ast.Module([*needed], []), str(chapter), "exec"), space)
                value = eval(compile(ast.Expression(last.value), str(chapter), "eval"), space)
                if isinstance(value, Explorable):
                    shown.append(value)
    return shown


def _needed(target: ast.stmt, statements: list[ast.stmt]) -> list[ast.stmt]:
    """The earlier statements that bind a name which `target` uses, and those that they use in turn."""
    wanted, found = _used(target), []
    for statement in reversed([s for s in statements if s is not target]):
        if _bound(statement) & wanted:
            found.append(statement)
            wanted |= _used(statement)
    return found[::-1]


def _used(statement: ast.stmt) -> set[str]:
    """The names of the chapter that a statement reads, in functions it defines too."""

    def walk(table: symtable.SymbolTable, top: bool) -> set[str]:
        own = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
        return own.union(*(walk(child, False) for child in table.get_children()))

    return walk(_table(statement), True)


def _bound(statement: ast.stmt) -> set[str]:
    """The names that a statement leaves behind in the chapter."""
    return {s.get_name() for s in _table(statement).get_symbols() if s.is_assigned() or s.is_imported()}


def _table(statement: ast.stmt) -> symtable.SymbolTable:
    return symtable.symtable(ast.unparse(statement), "chapter", "exec")
