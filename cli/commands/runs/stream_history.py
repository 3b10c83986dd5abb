"""`amends history STREAM`: the events of an aggregate or a reconciliation, as they are in the journal.

The command imports no module of the project and shows the stored text, so it can also read events whose class is gone.
"""

import json
from typing import TYPE_CHECKING, Any

from eventsourcing.persistence import StoredEvent

from amends.aggregates.errors import NotFoundError
from amends.aggregates.text import shorten
from amends.aggregates.values.strict_json import readable_json
from amends.cli.output.answer import print_json, screen
from amends.cli.views.table import WHOLE, Column, table

if TYPE_CHECKING:
    from amends.aggregates.sql.journal import SqlJournal

__all__ = ["show_stream"]

_COLUMNS = (
    Column("#", 3, right=True),
    Column("when", 19),
    Column("event", 10),
    Column("what", WHOLE, below=True),
)
_OWN = frozenset({"timestamp", "class_version"})


def show_stream(journal: "SqlJournal", name: str, *, as_json: bool) -> None:
    """Print a stream's events.

    Args:
        journal: The store.
        name: The stream, such as `StockItem/sku-1`; followed by `:3`, only the event at that position.
        as_json: Whether to print JSON.

    Raises:
        NotFoundError: The stream, or the position in it, does not exist.
    """
    rows = journal.events_blocking(name) or _at(journal, name)
    if not rows:
        raise NotFoundError(
            f"no stream is called {shorten(name)} in this store; aggregates are written like StockItem/sku-1, "
            f"and `amends list` lists runs"
        )
    events = [(row, _read(row)) for row in rows]
    if as_json:
        print_json([_as_json(row, fields) for row, fields in events])
    else:
        shown = screen()
        shown.show(table(_COLUMNS, [_row(row, fields) for row, fields in events], shown.width))


def _at(journal: "SqlJournal", name: str) -> list[StoredEvent]:
    """Read one event, by the stream and its position."""
    stream, _, position = name.rpartition(":")
    if not (position.isascii() and position.isdecimal() and len(position) < 10):  # noqa: PLR2004 - no stream is longer
        return []
    rows = journal.events_blocking(stream, int(position) - 1, 1) if int(position) else []
    return [row for row in rows if row.originator_version == int(position)]


def _read(row: StoredEvent) -> dict[str, Any]:
    """Return the fields of an event; a damaged event appears as it is stored."""
    try:
        found = json.loads(row.state)
    except ValueError:
        return {"damaged": row.state.decode(errors="replace")}
    return found if isinstance(found, dict) else {"damaged": found}


def _as_json(row: StoredEvent, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "stream": str(row.originator_id),
        "position": row.originator_version,
        "event": row.topic,
        "timestamp": found.get("timestamp"),
        # In an object of their own, since a field may have any name.
        "fields": _own(found),
    }


def _own(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in _OWN}


def _row(row: StoredEvent, fields: dict[str, Any]) -> tuple[str, ...]:
    when = str(fields.get("timestamp", ""))
    return (
        str(row.originator_version),
        when.partition(".")[0].replace("T", " "),
        row.topic.rpartition(".")[2],
        "  ".join(f"{field}={readable_json(value)}" for field, value in _own(fields).items()),
    )
