"""Changes of source files that a process has loaded, in one line for people. Pure: it compares texts."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from amends.cli.views.wording import and_more

__all__ = ["SourceCode", "changes_line", "read_source", "read_text"]

_DECORATORS = {"drift_rule": "drift rule", "effect": "step", "transaction": "step"}
_SAGA = "Saga"
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class SourceCode:
    """The meaning of a file: equal for two texts that differ only in comments or layout.

    Attributes:
        meaning: A text that stands for the file's content.
        definitions: Sagas, steps and drift rules that the file defines at its top level, each with its kind.
    """

    meaning: str
    definitions: frozenset[str] = frozenset()


def read_source(text: str) -> SourceCode | None:
    """Read a Python file; return `None` for a text that is no Python, such as a file that is half written."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None
    found = (_definition(node) for node in tree.body)
    return SourceCode(ast.dump(tree), frozenset(name for name in found if name is not None))


def read_text(text: str) -> SourceCode:
    """Read a file in which each character but white space at the end counts."""
    return SourceCode(text.rstrip())


def changes_line(changes: Mapping[str, tuple[SourceCode, SourceCode]]) -> str:
    """Return the line that names changed files and what is new or gone in them, with the remedy.

    Args:
        changes: By the file's name, its content when it was loaded and now; at least one.
    """
    new = [name for before, now in changes.values() for name in sorted(now.definitions - before.definitions)]
    gone = [name for before, now in changes.values() for name in sorted(before.definitions - now.definitions)]
    parts = [f"{word}: {and_more(names, _MOST_NAMED)}" for word, names in (("new", new), ("gone", gone)) if names]
    details = f" ({'; '.join(parts)})" if parts else ""
    verb, pronoun = ("has", "it") if len(changes) == 1 else ("have", "them")
    return f"{and_more(sorted(changes), _MOST_NAMED)} {verb} changed{details}; restart amends dev to use {pronoun}"


def _definition(node: ast.stmt) -> str | None:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            kinds = [_DECORATORS[name] for each in node.decorator_list if (name := _last_name(each)) in _DECORATORS]
            return f"{kinds[0]} {node.name}" if kinds else None
        case ast.Assign(value=ast.Call() as call) | ast.AnnAssign(value=ast.Call() as call):
            return _saga(call)
    return None


def _saga(call: ast.Call) -> str | None:
    if _last_name(call.func) != _SAGA:
        return None
    named = [each.value for each in call.keywords if each.arg == "name"]
    match [*call.args[:1], *named]:
        case [ast.Constant(value=str(name)), *_]:
            return f"saga {name}"
    return None


def _last_name(node: ast.expr) -> str:
    """Return the last part of a dotted name, of the called name for a call; an empty text for anything else."""
    match node:
        case ast.Call(func=func):
            return _last_name(func)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""
