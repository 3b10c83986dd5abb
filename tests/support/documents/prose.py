"""The prose of the repository: docstrings, comments, help texts, messages and pages, as plain text."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Passage", "passages_of_page", "passages_of_python", "words"]

_FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`+[^`\n]+`+")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_HTML = re.compile(r"<!--.*?-->|<[^>\n]+>", re.DOTALL)
_EXAMPLE = re.compile(r"^\s*(>>>|\.\.\.).*$", re.MULTILINE)
_PRAGMA = re.compile(r"#\s*(noqa|type:|pragma:|fmt:|ruff:|skip:)[^-]*(-\s*)?")
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_HELP = frozenset({"help", "short_help", "epilog"})


class Passage(NamedTuple):
    """A piece of prose and where it stands.

    Attributes:
        line: Its first line in the file, from 1.
        kind: `docstring`, `function docstring`, `comment`, `help`, `message` or `page`.
        text: The words, without code.
    """

    line: int
    kind: str
    text: str


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return [word.lower() for word in _WORD.findall(text)]


def passages_of_page(text: str) -> list[Passage]:
    """Return the prose of a Markdown page, without code blocks, code spans and addresses of links."""
    return [Passage(1, "page", _plain(_FENCE.sub(lambda found: "\n" * found[0].count("\n"), text)))]


def passages_of_python(source: str) -> list[Passage]:
    """Return the docstrings, comments, help texts and messages of a Python module."""
    tree = ast.parse(source)
    return sorted([*_docstrings(tree), *_messages(tree), *_comments(source)])


def _plain(text: str) -> str:
    return _LINK.sub(r"\1", _HTML.sub(" ", _CODE.sub("code", text)))


def _docstrings(tree: ast.Module) -> Iterator[Passage]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                kind = "function docstring" if function else "docstring"
                yield Passage(node.body[0].lineno, kind, _plain(_EXAMPLE.sub("", text)))
                for inner in node.body[1:]:
                    if isinstance(inner, ast.Expr) and (below := _constant(inner.value)) is not None:
                        yield Passage(inner.lineno, "docstring", _plain(below))
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in _HELP and (text := _constant(keyword.value)) is not None:
                    yield Passage(keyword.value.lineno, "help", _plain(text))


def _messages(tree: ast.Module) -> Iterator[Passage]:
    """Yield the other string literals with a space in them: messages, notes, headings and log lines."""
    others = {id(inner) for node in ast.walk(tree) for inner in _no_messages(node)}
    for node in ast.walk(tree):
        if id(node) not in others and (text := _literal(node)) and " " in text.strip():
            yield Passage(node.lineno, "message", _plain(text))  # type: ignore[attr-defined]  # a literal has a line


def _no_messages(node: ast.AST) -> Iterator[ast.AST]:
    """Yield docstrings, help texts and the parts of f-strings below a node."""
    if isinstance(node, ast.Expr):
        yield node.value
    elif isinstance(node, ast.keyword) and node.arg in _HELP:
        yield from ast.walk(node.value)
    elif isinstance(node, ast.JoinedStr):
        yield from (inner for inner in ast.walk(node) if inner is not node)


def _literal(node: ast.AST) -> str | None:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "code" for part in node.values)
    return _constant(node)


def _constant(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _comments(source: str) -> Iterator[Passage]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = _PRAGMA.sub("", token.string).lstrip("#! ")
            if text:
                yield Passage(token.start[0], "comment", _plain(text))
