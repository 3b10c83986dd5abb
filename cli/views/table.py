"""Text, durations and tables for the screen: values in, rich renderables out; nothing here reads or prints.

Whatever comes from users is data, never markup: every cell is a `rich.text.Text` of escaped characters, so that neither
`[red]` nor an escape sequence in an id, a result or an error changes what the terminal shows. Widths are given by the
caller. In a table, what a person copies (ids) is folded and never shortened; other cells are shortened as far as their
column allows. Where that does not suffice, columns go below their row, and where even that does not, all of them do.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from itertools import zip_longest
from typing import Any, NamedTuple

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
    "ago",
    "as_json",
    "clip",
    "duration",
    "escaped",
    "fields",
    "json_text",
    "moment",
    "node_style",
    "styled",
    "table",
    "widths",
]

WIDE = 10_000
"""Columns of an output that is no screen: nothing is shortened for lack of room."""

WHOLE = WIDE
"""The least width of a column that is shown whole: below its row where there is no room beside."""

_GAP = 2
_INDENT = 4
_ELLIPSIS = "…"
_COMFORT = 40
_SECOND_MS, _MINUTE_MS, _HOUR_MS, _DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000

STATUS_STYLES = {
    RunStatus.RUNNING: "cyan",
    RunStatus.CANCELLING: "magenta",
    RunStatus.COMPENSATING: "magenta",
    RunStatus.COMPLETED: "green",
    RunStatus.COMPENSATED: "yellow",
    RunStatus.NEEDS_ATTENTION: "bold red",
}
"""How a run's status looks where there are colours."""

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
"""Foreign text, which is escaped, or text of our own making, which is taken as it is."""


# ---- text


def escaped(text: str) -> str:
    r"""Make foreign text harmless and one line: what cannot be printed is written as Python would, such as `\x1b`.

    Line breaks and marks that change the direction of writing are among it. Nothing is left out.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def clip(text: str, limit: int) -> str:
    """Shorten escaped text to so many columns of a screen, with an ellipsis in place of the rest.

    Args:
        text: Foreign text of any length.
        limit: Columns, at least 2.
    """
    # Only as much is escaped as can be shown: a value may have megabytes.
    begin = escaped(text[: limit + 1])
    if cell_len(begin) <= limit and len(text) <= limit + 1:
        return begin
    shown = Text(begin)
    shown.truncate(limit - 1)
    return f"{shown.plain.rstrip()}{_ELLIPSIS}"


def styled(text: str, style: str = "") -> Text:
    """Make a cell of foreign text."""
    return Text(escaped(text), style=style)


def json_text(value: object) -> str:
    """Write a value as JSON on one line, readable by people: no spaces, no ASCII escapes of letters."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def node_style(status: NodeStatus) -> str:
    """Tell how a node's state looks where there are colours."""
    return _NODE_STYLES.get(status, "cyan")


# ---- time


def duration(ms: int) -> str:
    """Write a duration with the two units that matter: `340 ms`, `1.5 s`, `2 min 5 s`, `3 h 4 min`, `2 d 1 h`."""
    if ms < 0:
        return f"-{duration(-ms)}"
    if ms < _SECOND_MS:
        return f"{ms} ms"
    if ms < _MINUTE_MS:
        whole, tenth = divmod(ms // 100, 10)
        return f"{whole}.{tenth} s" if tenth else f"{whole} s"
    if ms < _HOUR_MS:
        return _two_units(ms, _MINUTE_MS, "min", _SECOND_MS, "s")
    if ms < _DAY_MS:
        return _two_units(ms, _HOUR_MS, "h", _MINUTE_MS, "min")
    return _two_units(ms, _DAY_MS, "d", _HOUR_MS, "h")


def _two_units(ms: int, large_ms: int, large: str, small_ms: int, small: str) -> str:
    rest = ms % large_ms // small_ms
    return f"{ms // large_ms} {large}" + (f" {rest} {small}" if rest else "")


def ago(ms: int, now_ms: int) -> str:
    """Say roughly how long ago a time was; clocks differ, so a time to come counts as now."""
    past = now_ms - ms
    for unit_ms, unit in ((_DAY_MS, "d"), (_HOUR_MS, "h"), (_MINUTE_MS, "min"), (_SECOND_MS, "s")):
        if past >= unit_ms:
            return f"{past // unit_ms} {unit} ago"
    return "now"


def moment(ms: int, zone: tzinfo | None = UTC) -> str:
    """Write a time to the second with its offset; one that no calendar has, as its number."""
    try:
        return datetime.fromtimestamp(ms / 1000, zone).isoformat(sep=" ", timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms since 1970"


# ---- tables


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: Its heading.
        least: To how few columns of the screen it may be reduced; more when all its cells are shorter.
        copied: Whether people copy its cells, so that they are folded and never shortened.
        right: Whether it holds numbers, which are aligned to the right.
        below: Whether it goes below its row, labelled, where there is no room beside.
    """

    title: str
    least: int = 6
    copied: bool = False
    right: bool = False
    below: bool = False


def widths(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int] | None:
    """Share the width of a screen among columns.

    What is copied is folded to 40 columns first, as uncommonly long ids are; then what may be shortened is; and only
    then what is copied is folded further. Of several columns the widest gives.

    Args:
        columns: The columns.
        natural: How wide each would like to be.
        width: What there is.

    Returns:
        The width of each; `None` when they do not fit side by side.
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
    """Lay rows out for a screen of some width.

    Columns but the first in which no row has anything are left out, unless `natural` is given.

    Args:
        columns: The columns.
        rows: Their cells, as many as there are columns.
        width: Columns of the screen; `WIDE` when it is none.
        natural: How wide each column would like to be, for a table that is printed in parts; empty for as wide as its
            cells are.
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
        # What is shown whole is compared with each other, so it goes below together.
        whole = [at for at in movable if min(columns[at].least, columns[moved].least) >= WHOLE]
        movable = [at for at in movable if at not in whole]
        beside = [at for at in beside if at not in {moved, *whole}]


def _lines(
    columns: Sequence[Column], rows: Sequence[Sequence[Text]], shares: Mapping[int, int], *, header: bool
) -> Iterator[RenderableType]:
    """Write the columns that have a share beside each other, and below them the others, labelled."""
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
    """Write cells beside each other, on as many lines as the one needs that is folded most."""
    folded = [_fold(cell, share) if column.copied else [_shorten(cell, share)] for column, cell, share in cells]
    for parts in zip_longest(*folded):
        line = Text(no_wrap=True)
        for (column, _, share), part in zip(cells, parts, strict=True):
            text = part or Text()
            room = " " * (share - cell_len(text.plain))
            line.append(" " * _GAP if line else "")
            line.append_text(Text.assemble(room, text) if column.right else Text.assemble(text, room))
        yield line


def _fold(cell: Text, width: int) -> list[Text]:
    return [Text(part, cell.style) for part in chop_cells(cell.plain, width)] or [Text()]


def _shorten(cell: Text, width: int) -> Text:
    if cell_len(cell.plain) <= width:
        return cell
    short = cell.copy()
    short.truncate(width - 1)
    return short.append(_ELLIPSIS)


def fields(pairs: Sequence[tuple[str, Cell | None]], width: int) -> RenderableType:
    """List named values below each other, the names aligned; a value of `None` or nothing is left out.

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


def as_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Write a command's answer as JSON: pure ASCII, so that no terminal or encoding can be upset by it."""
    return json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False)
