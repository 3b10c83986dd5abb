"""A table that stays in place on a terminal and changes; in a pipe or a file, each state of it is printed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live

from amends.cli.output.answer import screen

__all__ = ["live_table"]

Draw = Callable[[Callable[[int], RenderableType]], None]


@contextmanager
def live_table(*, enabled: bool = True) -> Iterator[Draw]:
    """Draw tables while the context lasts.

    Args:
        enabled: Whether to draw at all.

    Yields:
        A function that draws a new state: it gets a function from the width of the screen to the table.
    """
    if not enabled:
        yield lambda _: None
    elif sys.stdout is None or not sys.stdout.isatty():
        yield _print
    else:
        console = Console(markup=False, highlight=False)
        with Live(console=console, auto_refresh=False) as live:
            yield lambda make: live.update(make(console.width), refresh=True)


def _print(make: Callable[[int], RenderableType]) -> None:
    shown = screen()
    shown.show(make(shown.width), "")
