"""Text and tables for the screen: values in, rich renderables out; this module reads and prints nothing.

Text of users is data, never markup: every cell is a `rich.text.Text` of escaped characters, so neither `[red]` nor an
escape sequence in an id, a result or an error changes the terminal. The caller passes the width. In a table, cells that
people copy (ids) are folded and never shortened; other cells are shortened as far as their column allows. If that is
not enough, columns move below their row, and in the end all columns do.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

from rich.cells import cell_len, chop_cells
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from amends.aggregates.run.state import NodeStatus, RunStatus

__all__ = [
    "STATUS_STYLES",
    "WHOLE",
    "WIDE",
    "Cell",
    "Column",
    "clip",
    "escaped",
    "fields",
    "node_style",
    "styled",
    "table",
    "widths",
]

WIDE = 10_000
"""Columns of an output that is no screen: nothing is shortened for lack of room."""

WHOLE = WIDE
"""The least width of a column that is always shown in full: it moves below its row if it does not fit in it."""

_GAP = 2
_INDENT = 4
_ELLIPSIS = "…"
_COMFORT = 40

STATUS_STYLES = {
    RunStatus.RUNNING: "cyan",
    RunStatus.CANCELLING: "magenta",
    RunStatus.COMPENSATING: "magenta",
    RunStatus.COMPLETED: "green",
    RunStatus.COMPENSATED: "yellow",
    RunStatus.NEEDS_ATTENTION: "bold red",
}
"""Colours of a run's status, if the terminal has colours."""

_NODE_STYLES = {
    NodeStatus.PENDING: "dim",
    NodeStatus.SUCCEEDED: "green",
    NodeStatus.SKIPPED: "magenta",
    NodeStatus.UNDONE: "yellow",
    NodeStatus.UNDO_SKIPPED: "magenta",
    NodeStatus.REJECTED: "red",
    NodeStatus.FAILED: "red",
    NodeStatus.IN_DOUBT: "bold red",
    NodeStatus.UNDO_EXHAUSTED: "bold red",
    NodeStatus.UNDO_REJECTED: "bold red",
}

Cell = str | Text
"""A `str` is text of users and gets escaped; a `Text` is text of the program and stays as it is."""


# ---- text


def escaped(text: str) -> str:
    r"""Return text of users on one harmless line: unprintable characters become Python's escapes, such as `\x1b`.

    Line breaks and marks that change the direction of writing count as unprintable. Nothing is left out.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def clip(text: str, limit: int) -> str:
    """Return escaped text, shortened to a number of columns of a screen, with an ellipsis in place of the rest.

    Args:
        text: Text of users, of any length.
        limit: Columns, at least 2.
    """
    # Only the part that fits is escaped: a value may have megabytes.
    begin = escaped(text[: limit + 1])
    if cell_len(begin) <= limit and len(text) <= limit + 1:
        return begin
    shown = Text(begin)
    shown.truncate(limit - 1)
    return f"{shown.plain.rstrip()}{_ELLIPSIS}"


def styled(text: str, style: str = "") -> Text:
    """Return a cell with text of users, escaped."""
    return Text(escaped(text), style=style)


def node_style(status: NodeStatus) -> str:
    """Return the style of a node's status, for a terminal with colours."""
    return _NODE_STYLES.get(status, "cyan")


# ---- tables


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: Its heading.
        least: The smallest width that it may shrink to; less if all its cells are shorter.
        copied: Whether people copy its cells, so that they are folded and never shortened.
        right: Whether it holds numbers, which are aligned to the right.
        below: Whether it moves below its row, with a label, if it does not fit in the row.
        prose: Whether it holds sentences, which are folded between words.
    """

    title: str
    least: int = 6
    copied: bool = False
    right: bool = False
    below: bool = False
    prose: bool = False


def widths(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int] | None:
    """Divide the width of a screen among columns.

    Copied columns first shrink to 40, since longer ids are rare; then the columns that may be shortened shrink; and
    only then copied columns shrink further. Among several columns the widest shrinks first.

    Args:
        columns: The columns.
        natural: The width that each column needs for its longest cell.
        width: The width of the screen.

    Returns:
        The width of each column; `None` if they do not fit in a row.
    """
    shares = list(natural)
    over = sum(shares) + _GAP * (len(shares) - 1) - width
    for copied, comfort in ((True, _COMFORT), (False, 0), (True, 0)):
        floors = [max(column.least, comfort) for column in columns]
        givers = [at for at, column in enumerate(columns) if column.copied is copied and shares[at] > floors[at]]
        while over > 0 and givers:
            giver = max(givers, key=lambda at: shares[at])
            shares[giver] -= 1
            over -= 1
            if shares[giver] <= floors[giver]:
                givers.remove(giver)
    return shares if over <= 0 else None


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    width: int,
    *,
    natural: Sequence[int] = (),
    header: bool = True,
) -> RenderableType:
    """Return the layout of rows for a screen of some width.

    The table leaves out columns without any text, except the first, unless `natural` is set.

    Args:
        columns: The columns.
        rows: Their cells, one for each column.
        width: Columns of the screen; `WIDE` if the output is no screen.
        natural: The wanted width of each column, for a table that is printed in parts; empty for the width of its
            cells.
        header: Whether to print the titles.
    """
    cells = [[cell if isinstance(cell, Text) else styled(cell) for cell in row] for row in rows]
    if not natural:
        kept = [at for at in range(len(columns)) if at == 0 or any(row[at].plain for row in cells)]
        columns = [columns[at] for at in kept]
        cells = [[row[at] for at in kept] for row in cells]
        natural = [max((cell_len(row[at].plain) for row in cells), default=0) for at in range(len(kept))]
    natural = [max(cell_len(column.title), wish) for column, wish in zip(columns, natural, strict=True)]
    beside = list(range(len(columns)))
    movable = [at for at in beside if columns[at].below]
    while True:
        shares = widths([columns[at] for at in beside], [natural[at] for at in beside], width)
        if shares is not None:
            return Group(*_lines(columns, cells, dict(zip(beside, shares, strict=True)), header=header))
        if not movable:
            return Group(*_lines(columns, cells, {}, header=False))
        moved = movable.pop()
        # Readers compare the columns that are shown in full, so these move below the row together.
        whole = [at for at in movable if min(columns[at].least, columns[moved].least) >= WHOLE]
        movable = [at for at in movable if at not in whole]
        beside = [at for at in beside if at not in {moved, *whole}]


def _lines(
    columns: Sequence[Column], rows: Sequence[Sequence[Text]], shares: Mapping[int, int], *, header: bool
) -> Iterator[RenderableType]:
    """Yield the columns that have a share in one row, and below it the others, each with its label."""
    if header:
        yield from _row([(columns[at], Text(columns[at].title, "bold"), share) for at, share in shares.items()])
    for row in rows:
        below = [at for at in range(len(columns)) if at not in shares]
        if not shares:
            yield Text(row[0].plain, "bold", overflow="fold")
            below = below[1:]
        yield from _row([(columns[at], row[at], share) for at, share in shares.items()])
        for at in below:
            if row[at].plain:
                labelled = Text.assemble((f"{columns[at].title}: ", "dim"), row[at], overflow="fold")
                yield Padding(labelled, (0, 0, 0, _INDENT), expand=False)


def _row(cells: Sequence[tuple[Column, Text, int]]) -> Iterator[Text]:
    """Yield the lines of one row: as many as its most folded cell needs."""
    folded = [_parts(column, cell, share) for column, cell, share in cells]
    for parts in zip_longest(*folded):
        line = Text(no_wrap=True)
        for (column, _, share), part in zip(cells, parts, strict=True):
            text = part or Text()
            room = " " * (share - cell_len(text.plain))
            line.append(" " * _GAP if line else "")
            line.append_text(Text.assemble(room, text) if column.right else Text.assemble(text, room))
        yield line


def _parts(column: Column, cell: Text, width: int) -> list[Text]:
    """Return the lines of a cell."""
    if column.prose:
        return [Text(line, cell.style) for line in _between_words(cell.plain, width)]
    return _fold(cell, width) if column.copied else [_shorten(cell, width)]


def _between_words(text: str, width: int) -> list[str]:
    """Break text between words; break a word only if it is longer than a line."""
    lines = [""]
    for word in text.split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(joined) <= width:
            lines[-1] = joined
        else:
            lines += chop_cells(word, width)
    return [line for line in lines if line] or [""]


def _fold(cell: Text, width: int) -> list[Text]:
    return [Text(part, cell.style) for part in chop_cells(cell.plain, width)] or [Text()]


def _shorten(cell: Text, width: int) -> Text:
    if cell_len(cell.plain) <= width:
        return cell
    short = cell.copy()
    short.truncate(width - 1)
    return short.append(_ELLIPSIS)


def fields(pairs: Sequence[tuple[str, Cell | None]], width: int) -> RenderableType:
    """Return named values one below the other, with aligned names; leave out a value that is `None` or empty.

    Args:
        pairs: Names and values.
        width: Columns of the screen.
    """
    given = [(name, value if isinstance(value, Text) else styled(value)) for name, value in pairs if value is not None]
    given = [(name, value) for name, value in given if value.plain]
    longest = max((len(name) for name, _ in given), default=0)
    laid_out = Table(box=None, show_header=False, pad_edge=False, padding=(0, _GAP, 0, 0))
    laid_out.add_column(width=longest)
    laid_out.add_column(overflow="fold", max_width=max(8, width - longest - _GAP))
    for name, value in given:
        laid_out.add_row(Text(name, style="dim"), value)
    return laid_out
