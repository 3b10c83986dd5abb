"""Rows and progress bars of `amends run` on a terminal, drawn with rich.

Text of users enters `Text` as plain characters: neither rich's markup nor control characters in it have an effect.
"""

from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.spinner import Spinner
from rich.text import Text

from amends.aggregates.run.state import RunStatus
from amends.aggregates.text import one_line
from amends.cli.output.remarks import printable
from amends.cli.views.fact_words import Mark
from amends.cli.views.progress import Board, Row
from amends.cli.views.table import STATUS_STYLES

__all__ = ["progress_bar", "render", "result_line"]

_SPINNERS = {True: Spinner("dots"), False: Spinner("line")}
_SIGNS = {
    True: {Mark.PENDING: "·", Mark.WAITING: "↻", Mark.DONE: "✓", Mark.FAILED: "✗", Mark.OPEN: "!"},
    False: {Mark.PENDING: ".", Mark.WAITING: "~", Mark.DONE: "+", Mark.FAILED: "x", Mark.OPEN: "!"},
}
_STYLES = {
    Mark.PENDING: "dim",
    Mark.BUSY: "cyan",
    Mark.WAITING: "yellow",
    Mark.DONE: "green",
    Mark.FAILED: "red",
    Mark.OPEN: "bold red",
}


def render(board: Board, now_ms: int, *, encoding: str) -> RenderableType:
    """Return the drawing of a run.

    Args:
        board: The run.
        now_ms: The time, in milliseconds since the epoch; moves spinners and clocks.
        encoding: The terminal's encoding; for one that is not Unicode the drawing uses plain ASCII.
    """
    rows = board.rows
    width = max((len(_name(row)) for row in rows), default=0)
    fancy = encoding.lower().startswith("utf")
    return Group(*(_line(row, now_ms, width=width, fancy=fancy) for row in rows))


def _name(row: Row) -> str:
    return one_line(f"undo of {row.node}" if row.undo else row.node)


def _line(row: Row, now_ms: int, *, width: int, fancy: bool) -> Text:
    style = "yellow" if row.undo and row.mark is Mark.DONE else _STYLES[row.mark]
    sign = _frame(_SPINNERS[fancy], now_ms) if row.mark is Mark.BUSY else _SIGNS[fancy][row.mark]
    took = "" if row.began_ms is None else f"{max(0, (row.ended_ms or now_ms) - row.began_ms) / 1000:.2f} s"
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{sign} ", style)
    line.append(_name(row).ljust(width), "dim" if row.mark is Mark.PENDING else "")
    line.append(f"  {took:>8}", "dim")
    if row.due_ms is not None:
        line.append(f"  again in {max(0, row.due_ms - now_ms) / 1000:.1f} s", style)
    if row.text:
        line.append(f"  {one_line(row.text)}", style)
    return line


def _frame(spinner: Spinner, now_ms: int) -> str:
    return spinner.frames[int(now_ms / spinner.interval) % len(spinner.frames)]


def result_line(line: str, status: RunStatus | None) -> Text:
    """Return the line of a run that has ended, in the colour of its status; `None` for a run that could not start."""
    return Text(printable(line), style="red" if status is None else STATUS_STYLES[status])


def progress_bar() -> Progress:
    """Create the progress bar for a file of runs."""
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
