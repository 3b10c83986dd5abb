"""The prose of the repository: docstrings, comments, help texts and pages, as plain text by package."""

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
        kind: `docstring`, `function docstring`, `comment`, `help` or `page`.
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
    """Return the docstrings, comments and help texts of a Python module."""
    found = [*_docstrings(ast.parse(source)), *_comments(source)]
    return sorted(found)


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
                    if (
                        isinstance(inner, ast.Expr)
                        and isinstance(inner.value, ast.Constant)
                        and isinstance(inner.value.value, str)
                    ):
                        yield Passage(inner.lineno, "docstring", _plain(inner.value.value))
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if (
                    keyword.arg in _HELP
                    and isinstance(keyword.value, ast.Constant)
                    and isinstance(keyword.value.value, str)
                ):
                    yield Passage(keyword.value.lineno, "help", _plain(keyword.value.value))


def _comments(source: str) -> Iterator[Passage]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = _PRAGMA.sub("", token.string).lstrip("#! ")
            if text:
                yield Passage(token.start[0], "comment", _plain(text))
