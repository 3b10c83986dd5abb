"""What reading commands answer with: renderables laid out for the screen that there is, JSON for programs.

On a terminal an answer is laid out for its width, with colours unless `NO_COLOR` is set. Elsewhere (a pipe, a file)
there are neither colours nor a width, unless `COLUMNS` names one: a row is a line, and no line is cut.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from amends.cli.views.table import WIDE, as_json, escaped

__all__ = ["Screen", "busy", "print_json", "screen"]


class Screen:
    """Stdout, for people.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    @property
    def width(self) -> int:
        """Columns that there are; `WIDE` when it is no screen."""
        return self._console.width

    def show(self, *renderables: RenderableType) -> None:
        """Print below each other."""
        with self._console.capture() as captured:
            for each in renderables:
                self._console.print(each)
        # The cells of a table are padded to its width; nobody wants that in a file.
        print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)  # noqa: T201 - the answer


def screen() -> Screen:
    """Take stdout as it is now; where it was closed before we started, what is shown goes nowhere."""
    out = sys.stdout or io.StringIO()
    console = Console(file=out, markup=False, highlight=False, emoji=False, legacy_windows=False)
    if not out.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        console.width = WIDE
    return Screen(console)


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Print an answer as JSON."""
    print(as_json(value))  # noqa: T201 - the answer


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Say on a terminal what is being done, for as long as it takes; elsewhere say nothing, and nothing stays of it."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True, markup=False, highlight=False).status(Text(escaped(what))):
        yield
