"""Answers of reading commands: renderables that fit the screen, and JSON for programs.

On a terminal an answer fits its width, with colours unless `NO_COLOR` is set. In a pipe or a file an answer has neither
colours nor a width, unless `COLUMNS` names one: a row is a line, and no line is cut.
"""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from amends.aggregates.values.strict_json import ascii_json
from amends.cli.views.table import WIDE, escaped

__all__ = ["Screen", "busy", "plain", "print_json", "screen"]


class Screen:
    """Stdout, for people.

    Args:
        console: The console to print on.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    @property
    def width(self) -> int:
        """Columns of the terminal; `WIDE` if stdout is not a terminal."""
        return self._console.width

    def show(self, *renderables: RenderableType) -> None:
        """Print the renderables, one below the other."""
        print(_lines(self._console, renderables), flush=True)  # noqa: T201 - the answer


def _lines(console: Console, renderables: Iterable[RenderableType]) -> str:
    with console.capture() as captured:
        for each in renderables:
            console.print(each)
    # Rich pads the cells of a table to its width; in a file the spaces are only noise.
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def plain(renderables: Iterable[RenderableType], width: int) -> str:
    """Return renderables as plain text, without colours.

    Args:
        renderables: The renderables, one below the other.
        width: Columns of a line.
    """
    return _lines(_console(io.StringIO(), width=width), renderables)


def screen() -> Screen:
    """Return a screen on the present stdout; if the parent process closed it, the output goes nowhere."""
    out = sys.stdout or io.StringIO()
    console = _console(out)
    if not out.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        console.width = WIDE
    return Screen(console)


def _console(out: TextIO, width: int | None = None) -> Console:
    return Console(file=out, width=width, markup=False, highlight=False, emoji=False, legacy_windows=False)


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Print an answer as JSON."""
    print(ascii_json(value, indented=True))  # noqa: T201 - the answer


@contextmanager
def busy(what: str) -> Iterator[Callable[[str], None]]:
    """Show a line on a terminal while the work takes place, and erase it afterwards; elsewhere print nothing.

    Yields:
        A function that replaces the line.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    with Console(stderr=True, markup=False, highlight=False).status(Text(escaped(what))) as status:
        yield lambda line: status.update(Text(escaped(line)))
