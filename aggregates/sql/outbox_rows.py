"""Read and write the rows of the outbox and of its readers, and the marks of commits without events."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from amends.aggregates.errors import JournalError
from amends.aggregates.outbox import ALL_TOPICS, OutboxMessage, OutboxReader, SentMessage, passed_by_all
from amends.aggregates.sql.rows import insert_rows, many, query, replacing, write
from amends.aggregates.values.checksum import row_checksum, row_fits
from amends.aggregates.values.strict_json import ascii_json, clean_text

__all__ = [
    "OUTBOX_COLUMNS",
    "READER_COLUMNS",
    "Mark",
    "Sent",
    "count_by_topic",
    "count_outbox",
    "discard",
    "insert_outbox",
    "is_marked",
    "read_kept",
    "read_outbox",
    "read_readers",
    "read_topics",
    "write_mark",
    "write_readers",
]

OUTBOX_COLUMNS = "topic, key, value, headers, cause, kept_until_ms, repeats, recorded_at_ms, checksum"
READER_COLUMNS = "reader, topic, next_position, checksum"
_EXPIRED = 5_000
MARKS_KEPT_MS = 7 * 24 * 3_600_000
"""Age in milliseconds after which the mark of a process is deleted; a lost reply is settled within minutes."""


class Sent(NamedTuple):
    """A message that a unit has sent, before its commit.

    Attributes:
        message: The message.
        keep_ms: Time for which the outbox keeps it also after a relay has published it, in milliseconds; `None` to
            delete it then.
        repeats: Number of the message that it repeats; `None` if it is the first.
    """

    message: SentMessage
    keep_ms: int | None
    repeats: int | None = None


def insert_outbox(connection: Connection, sent: Sequence[Sent], recorded_at_ms: int) -> None:
    """Append messages; their ids follow their order."""
    rows: list[tuple[object, ...]] = []
    for message, keep_ms, repeats in sent:
        headers, kept_until_ms = ascii_json(message.headers), None if keep_ms is None else recorded_at_ms + keep_ms
        fields = (message.topic, message.key, message.value, headers, message.cause)
        row = (*fields, kept_until_ms, repeats, recorded_at_ms)
        rows.append((*row, row_checksum("outbox_messages", row)))
    insert_rows(connection, "outbox_messages", OUTBOX_COLUMNS, rows)


def read_outbox(
    connection: Connection, after: int, limit: int, topics: Sequence[str] | None = None
) -> list[OutboxMessage]:
    """Read the outbox after an id, in order; of all topics, unless some are named."""
    which, parameters = _topics(connection, topics)
    sql = f"SELECT id, {OUTBOX_COLUMNS} FROM outbox_messages WHERE id > ?{which} ORDER BY id LIMIT ?"  # noqa: S608 - constants
    return [_message(row) for row in query(connection, sql, (after, *parameters, limit))]


def _topics(connection: Connection, topics: Sequence[str] | None) -> tuple[str, tuple[object, ...]]:
    return ("", ()) if topics is None else (" AND topic <-(?)", (many(connection, topics),))


def _message(row: Sequence[Any]) -> OutboxMessage:
    id_, topic, key, value, headers, cause, _, repeats, recorded_at_ms, _ = row
    if not row_fits("outbox_messages", tuple(row[1:])):
        # Its fields may have any content, also of another type.
        shown = [clean_text(text) if isinstance(text, str) else "" for text in (topic, key, cause)]
        content = value if isinstance(value, bytes) else b""
        message = SentMessage(topic=shown[0], key=shown[1], value=content, cause=shown[2])
        return OutboxMessage(id=id_, message=message, recorded_at_ms=0, intact=False)
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
    """Read the kept messages of a cause, without repetitions and damaged ones, in order."""
    sql = (
        f"SELECT id, {OUTBOX_COLUMNS} FROM outbox_messages WHERE kept_until_ms IS NOT NULL AND cause = ? "  # noqa: S608 - a constant
        "AND repeats IS NULL ORDER BY id"
    )
    return [found for row in query(connection, sql, (cause,)) if (found := _message(row)).intact]


def count_by_topic(connection: Connection) -> dict[str, int]:
    """Count the messages of the outbox by topic, without kept ones, which may have been published."""
    sql = "SELECT topic, count(*) FROM outbox_messages WHERE kept_until_ms IS NULL GROUP BY topic ORDER BY topic"
    return dict(query(connection, sql))


def read_topics(connection: Connection) -> list[str]:
    """Return the topics of the outbox."""
    return [topic for (topic,) in query(connection, "SELECT DISTINCT topic FROM outbox_messages ORDER BY topic")]


def discard(connection: Connection, topic: str, last: int) -> int:
    """Delete the messages of a topic up to an id; return their number."""
    return write(connection, "DELETE FROM outbox_messages WHERE topic = ? AND id <= ?", (topic, last))


# ---- readers


def read_readers(connection: Connection) -> list[OutboxReader]:
    """Read the readers of the outbox.

    Raises:
        JournalError: A row does not match its checksum.
    """
    found: list[OutboxReader] = []
    for row in query(connection, f"SELECT {READER_COLUMNS} FROM outbox_readers ORDER BY reader, topic"):  # noqa: S608 - a constant
        if not row_fits("outbox_readers", tuple(row)):
            raise JournalError(
                f"reader {clean_text(row[0])!r} of the outbox was changed: its checksum does not match; restore it "
                "from a backup"
            )
        found.append(OutboxReader(*row[:3]))
    return found


def write_readers(connection: Connection, reader: str, rows: Sequence[OutboxReader], now_ms: int) -> int:
    """Replace the rows of a reader, and delete the messages that every reader of their topic is past.

    Returns:
        The number of messages that were deleted.

    Raises:
        JournalError: A row does not match its checksum.
    """
    before = read_readers(connection)
    after = [each for each in before if each.reader != reader] + list(rows)
    if sorted(before) != sorted(after):
        write(connection, "DELETE FROM outbox_readers WHERE reader = ?", (reader,))
        stored = [(*each, row_checksum("outbox_readers", tuple(each))) for each in rows]
        if stored:
            insert_rows(connection, "outbox_readers", READER_COLUMNS, stored)
    named = sorted({each.topic for each in (*before, *after)} - {ALL_TOPICS})
    count = 0
    for topic in [*named, ALL_TOPICS]:
        last = passed_by_all(after, topic)
        if last is not None:
            which = _Which("topic = ?", topic) if topic else _Which("NOT (topic <-(?))", many(connection, named))
            count += _delete(connection, which, passed_by_all(before, topic) or 0, last)
            count += _delete_expired(connection, which, last, now_ms)
    return count


class _Which(NamedTuple):
    """A condition for the topics of messages, with its parameter."""

    sql: str
    parameter: object


def _delete(connection: Connection, which: _Which, first: int, last: int) -> int:
    """Delete the messages of a range, without kept ones."""
    if first >= last:
        return 0
    sql = f"DELETE FROM outbox_messages WHERE id >= ? AND id < ? AND {which.sql} AND kept_until_ms IS NULL"  # noqa: S608 - constants
    return write(connection, sql, (first, last, which.parameter))


def _delete_expired(connection: Connection, which: _Which, last: int, now_ms: int) -> int:
    """Delete kept messages whose time is over, at a time no more than other writers can wait for."""
    sql = (
        f"DELETE FROM outbox_messages WHERE id IN (SELECT id FROM outbox_messages WHERE kept_until_ms < ? AND id < ? "  # noqa: S608 - constants
        f"AND {which.sql} ORDER BY kept_until_ms LIMIT {_EXPIRED})"
    )
    return write(connection, sql, (now_ms, last, which.parameter))


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
    write(connection, replacing("commit_marks", "writer, number, marked_at_ms", 1), (*mark, now_ms))
    if mark.number == 1:
        write(connection, "DELETE FROM commit_marks WHERE marked_at_ms < ?", (now_ms - MARKS_KEPT_MS,))


def is_marked(connection: Connection, mark: Mark) -> bool:
    """Check whether a commit without events took place."""
    return bool(query(connection, "SELECT 1 FROM commit_marks WHERE writer = ? AND number = ?", mark))
