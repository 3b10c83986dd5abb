"""Read and write the rows of the outbox, and the marks of commits without events."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from amends.aggregates.errors import JournalError
from amends.aggregates.outbox import OutboxMessage, SentMessage
from amends.aggregates.sql.rows import insert_rows, many, query, write
from amends.aggregates.values.checksum import row_checksum, row_fits
from amends.aggregates.values.strict_json import ascii_json

__all__ = [
    "OUTBOX_COLUMNS",
    "Mark",
    "Sent",
    "count_outbox",
    "delete_outbox",
    "insert_outbox",
    "is_marked",
    "read_kept",
    "read_outbox",
    "write_mark",
]

OUTBOX_COLUMNS = "topic, key, value, headers, cause, kept, repeats, recorded_at_ms, checksum"
MARKS_KEPT_MS = 7 * 24 * 3_600_000
"""Age in milliseconds after which the mark of a process is deleted; a lost reply is settled within minutes."""


class Sent(NamedTuple):
    """A message that a unit has sent, before its commit.

    Attributes:
        message: The message.
        kept: Whether the outbox keeps it after a relay has published it.
        repeats: Number of the message that it repeats; `None` if it is the first.
    """

    message: SentMessage
    kept: bool
    repeats: int | None = None


def insert_outbox(connection: Connection, sent: Sequence[Sent], recorded_at_ms: int) -> None:
    """Append messages; their ids follow their order."""
    rows: list[tuple[object, ...]] = []
    for message, kept, repeats in sent:
        headers = ascii_json(message.headers)
        row = (message.topic, message.key, message.value, headers, message.cause, kept, repeats, recorded_at_ms)
        rows.append((*row, row_checksum("outbox_messages", row)))
    insert_rows(connection, "outbox_messages", OUTBOX_COLUMNS, rows)


def read_outbox(
    connection: Connection, after: int, limit: int, topics: Sequence[str] | None = None
) -> list[OutboxMessage]:
    """Read the outbox after an id, in order; of all topics, unless some are named.

    Raises:
        JournalError: The first message does not match its checksum. The answer ends before such a message.
    """
    which, parameters = _topics(connection, topics)
    sql = f"SELECT id, {OUTBOX_COLUMNS} FROM outbox_messages WHERE id > ?{which} ORDER BY id LIMIT ?"  # noqa: S608 - constants
    found: list[OutboxMessage] = []
    for row in query(connection, sql, (after, *parameters, limit)):
        if not row_fits("outbox_messages", tuple(row[1:])):
            if not found:
                raise JournalError(
                    f"message {row[0]} of the outbox was changed: its checksum does not match; restore it from a "
                    "backup, or delete it"
                )
            break
        found.append(_message(row))
    return found


def _topics(connection: Connection, topics: Sequence[str] | None) -> tuple[str, tuple[object, ...]]:
    return ("", ()) if topics is None else (" AND topic <-(?)", (many(connection, topics),))


def _message(row: Sequence[Any]) -> OutboxMessage:
    id_, topic, key, value, headers, cause, _, repeats, recorded_at_ms, _ = row
    named = tuple((name, text) for name, text in json.loads(headers))
    message = SentMessage(topic=topic, key=key, value=value, headers=named, cause=cause)
    return OutboxMessage(id=id_, message=message, recorded_at_ms=recorded_at_ms, repeats=repeats)


def count_outbox(connection: Connection, after: int, topics: Sequence[str] | None = None) -> int:
    """Count the messages of the outbox after an id."""
    which, parameters = _topics(connection, topics)
    count: int = query(connection, f"SELECT count(*) FROM outbox_messages WHERE id > ?{which}", (after, *parameters))[  # noqa: S608 - constants
        0
    ][0]
    return count


def read_kept(connection: Connection, cause: str) -> list[OutboxMessage]:
    """Read the kept messages of a cause, without repetitions, in order."""
    sql = f"SELECT id, {OUTBOX_COLUMNS} FROM outbox_messages WHERE kept AND cause = ? AND repeats IS NULL ORDER BY id"  # noqa: S608 - a constant
    return [_message(row) for row in query(connection, sql, (cause,))]


def delete_outbox(
    connection: Connection, topics: Sequence[str], *, first: int, last: int, kept_before_ms: int | None = None
) -> int:
    """Delete messages of a range of ids; return their number.

    Args:
        connection: A connection in the caller's transaction.
        topics: Names of their topics.
        first: Id of the first message.
        last: Id of the last message.
        kept_before_ms: `None` to spare kept messages; otherwise only kept ones that were sent before this time, in
            milliseconds since the epoch.
    """
    where, parameters = _topics(connection, topics)
    if kept_before_ms is None:
        where += " AND NOT kept"
    else:
        where += " AND kept AND recorded_at_ms < ?"
        parameters = (*parameters, kept_before_ms)
    sql = f"DELETE FROM outbox_messages WHERE id BETWEEN ? AND ?{where}"  # noqa: S608 - constants
    return write(connection, sql, (first, last, *parameters))


# ---- marks


class Mark(NamedTuple):
    """The number of a commit without events, of one process.

    Attributes:
        writer: Identity of the process' committer.
        number: Number of the commit.
    """

    writer: str
    number: int


def write_mark(connection: Connection, mark: Mark, now_ms: int) -> None:
    """Store the number of a process' last commit without events; delete the marks of processes that ended long ago."""
    sql = (
        "INSERT INTO commit_marks (writer, number, marked_at_ms) VALUES (?, ?, ?) ON CONFLICT (writer) "
        "DO UPDATE SET number = excluded.number, marked_at_ms = excluded.marked_at_ms"
    )
    write(connection, sql, (*mark, now_ms))
    if mark.number == 1:
        write(connection, "DELETE FROM commit_marks WHERE marked_at_ms < ?", (now_ms - MARKS_KEPT_MS,))


def is_marked(connection: Connection, mark: Mark) -> bool:
    """Check whether a commit without events took place."""
    return bool(query(connection, "SELECT 1 FROM commit_marks WHERE writer = ? AND number = ?", mark))
