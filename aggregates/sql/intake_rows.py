"""Read and write the rows of the pipelines: positions, batches, held messages and sequence numbers.

The functions run on a connection that the caller opened, in the caller's transaction, and raise only SQLAlchemy's
errors and `JournalError`. `sql.id_memory` has the memory of ids.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from typing import Any

from sqlalchemy import Connection

from amends.aggregates.errors import JournalError
from amends.aggregates.intake import BatchRow, Counts, HeldKind, HeldMessage, Position, Token
from amends.aggregates.sql.rows import insert_records, insert_rows, many, query, replacing, write, write_many
from amends.aggregates.values.checksum import row_checksum, row_fits
from amends.aggregates.values.strict_json import ascii_json, clean_text

__all__ = [
    "BATCH_COLUMNS",
    "HELD_COLUMNS",
    "POSITION_COLUMNS",
    "count_held",
    "insert_batches",
    "read_batches",
    "read_held",
    "read_held_keys",
    "read_numbers",
    "read_positions",
    "remove_held",
    "total_counts",
    "write_held",
    "write_numbers",
    "write_position",
]

POSITION_COLUMNS = (
    "pipeline, partition, first_position, next_position, cursor, incarnation, epoch, token_slice, token_attempt, "
    "highest, reached_ms, batch, checksum"
)
_COUNTS = ", ".join(each.name for each in fields(Counts))
BATCH_COLUMNS = (
    "pipeline, partition, number, token_slice, token_attempt, epoch, first_position, next_position, holes, "
    f"{_COUNTS}, mode, recorded_at_ms, first_event, last_event, checksum"
)
HELD_COLUMNS = (
    "pipeline, partition, position, kind, key, message_id, reason, value, headers, source_ms, attempts, held_at_ms, "
    "checksum"
)

# ---- positions


def read_positions(connection: Connection, pipeline: str, partition: str | None = None) -> dict[str, Position]:
    """Read the positions of a pipeline by partition; of one partition only, if it is named.

    Raises:
        JournalError: A row does not match its checksum.
    """
    sql = f"SELECT {POSITION_COLUMNS} FROM pipeline_positions WHERE pipeline = ?"  # noqa: S608 - a constant
    if partition is None:
        rows = query(connection, f"{sql} ORDER BY partition", (pipeline,))
    else:
        rows = query(connection, f"{sql} AND partition = ?", (pipeline, partition))
    return {row[1]: _position(row) for row in rows}


def _position(row: Sequence[Any]) -> Position:
    if not row_fits("pipeline_positions", tuple(row)):
        raise JournalError(
            f"pipeline {clean_text(row[0])!r}: the position of partition {clean_text(row[1])!r} was changed: its "
            "checksum does not match; restore it from a backup, or move it: amends pipeline seek"
        )
    _, _, first, next_, cursor, incarnation, epoch, slice_, attempt, highest, reached_ms, batch, _ = row
    return Position(
        first=first,
        next=next_,
        cursor=cursor,
        incarnation=incarnation,
        epoch=epoch,
        token=Token(slice_, attempt),
        highest=highest,
        reached_ms=reached_ms,
        batch=batch,
    )


def write_position(connection: Connection, pipeline: str, partition: str, position: Position) -> None:
    """Write a position, replacing an existing one."""
    row = (
        pipeline,
        partition,
        position.first,
        position.next,
        position.cursor,
        position.incarnation,
        position.epoch,
        *position.token,
        position.highest,
        position.reached_ms,
        position.batch,
    )
    sql = replacing("pipeline_positions", POSITION_COLUMNS, 2)
    write(connection, sql, (*row, row_checksum("pipeline_positions", row)))


# ---- batches


def insert_batches(connection: Connection, batches: Sequence[tuple[str, str, BatchRow]]) -> None:
    """Append batches: pipeline, partition, row.

    Raises:
        sqlalchemy.exc.IntegrityError: A partition has a batch of this number already.
    """
    rows: list[tuple[object, ...]] = []
    for pipeline, partition, each in batches:
        row = (
            pipeline,
            partition,
            each.number,
            *each.token,
            each.epoch,
            each.first,
            each.next,
            each.holes,
            *astuple(each.counts),
            each.mode,
            each.recorded_at_ms,
            each.first_event,
            each.last_event,
        )
        rows.append((*row, row_checksum("pipeline_batches", row)))
    insert_rows(connection, "pipeline_batches", BATCH_COLUMNS, rows)


def read_batches(connection: Connection, pipeline: str, partition: str, after: int, limit: int) -> list[BatchRow]:
    """Read the batches of a partition whose number is greater than `after`, in order."""
    sql = (
        f"SELECT {BATCH_COLUMNS} FROM pipeline_batches WHERE pipeline = ? AND partition = ? AND number > ? "  # noqa: S608 - a constant
        "ORDER BY number LIMIT ?"
    )
    return [_batch(row) for row in query(connection, sql, (pipeline, partition, after, limit))]


def _batch(row: Sequence[Any]) -> BatchRow:
    (
        _,
        _,
        number,
        slice_,
        attempt,
        epoch,
        first,
        next_,
        holes,
        *counts,
        mode,
        recorded_at_ms,
        first_event,
        last_event,
        _,
    ) = row
    return BatchRow(
        number=number,
        token=Token(slice_, attempt),
        epoch=epoch,
        first=first,
        next=next_,
        holes=holes,
        counts=_counts(counts),
        mode=mode,
        recorded_at_ms=recorded_at_ms,
        first_event=first_event,
        last_event=last_event,
    )


def _counts(numbers: Sequence[int]) -> Counts:
    return Counts(**{each.name: int(number) for each, number in zip(fields(Counts), numbers, strict=True)})


def total_counts(connection: Connection, pipeline: str) -> dict[str, Counts]:
    """Add up the counts of all batches of a pipeline, by partition."""
    sums = ", ".join(f"sum({each.name})" for each in fields(Counts))
    sql = f"SELECT partition, {sums} FROM pipeline_batches WHERE pipeline = ? GROUP BY partition ORDER BY partition"  # noqa: S608 - constants
    return {row[0]: _counts(row[1:]) for row in query(connection, sql, (pipeline,))}


# ---- held messages


def write_held(connection: Connection, pipeline: str, messages: Sequence[HeldMessage], now_ms: int) -> None:
    """Write held messages, replacing those of the same partition and position.

    Args:
        connection: A connection in the caller's transaction.
        pipeline: Name of the pipeline.
        messages: The messages.
        now_ms: Time since which those are held that have no such time yet.
    """
    rows = []
    for each in messages:
        # A text that the database cannot store would hold up all other messages of the batch.
        row = (
            pipeline,
            each.partition,
            each.position,
            each.kind.value,
            clean_text(each.key),
            clean_text(each.id),
            clean_text(each.reason),
            each.value,
            ascii_json([[name, b64encode(raw).decode()] for name, raw in each.headers]),
            each.source_ms,
            each.attempts,
            each.held_at_ms or now_ms,
        )
        rows.append((*row, row_checksum("pipeline_held", row)))
    write_many(connection, replacing("pipeline_held", HELD_COLUMNS, 3), rows)


def remove_held(connection: Connection, pipeline: str, partition: str, positions: Sequence[int]) -> None:
    """Remove held messages."""
    sql = "DELETE FROM pipeline_held WHERE pipeline = ? AND partition = ? AND position = ?"
    write_many(connection, sql, [(pipeline, partition, position) for position in positions])


def read_held(
    connection: Connection,
    pipeline: str,
    *,
    partition: str | None,
    kinds: frozenset[HeldKind],
    key: str | None,
    limit: int,
) -> list[HeldMessage]:
    """Read held messages in the order of partition and position; all of them, unless the arguments select some."""
    where, parameters = "pipeline = ?", [pipeline]
    if partition is not None:
        where += " AND partition = ?"
        parameters.append(partition)
    if kinds:
        where += f" AND kind IN ({', '.join('?' * len(kinds))})"
        parameters += sorted(kind.value for kind in kinds)
    if key is not None:
        where += " AND key = ?"
        parameters.append(clean_text(key))
    sql = f"SELECT {HELD_COLUMNS} FROM pipeline_held WHERE {where} ORDER BY partition, position LIMIT ?"  # noqa: S608 - constants
    return [_held(row) for row in query(connection, sql, (*parameters, limit))]


def _held(row: Sequence[Any]) -> HeldMessage:
    _, partition, position, kind, key, id_, reason, value, headers, source_ms, attempts, held_at_ms, _ = row
    return HeldMessage(
        partition=partition,
        position=position,
        kind=HeldKind(kind),
        key=key,
        id=id_,
        reason=reason,
        value=value,
        headers=tuple((name, b64decode(raw)) for name, raw in json.loads(headers)),
        source_ms=source_ms,
        attempts=attempts,
        held_at_ms=held_at_ms,
    )


def read_held_keys(connection: Connection, pipeline: str, keys: Sequence[str]) -> dict[str, HeldKind]:
    """Return those keys that have a held message, with the kind of the first one in order of position."""
    sql = (
        "SELECT key, kind FROM (SELECT key, kind, row_number() OVER (PARTITION BY key ORDER BY partition, position) "
        "AS place FROM pipeline_held WHERE pipeline = ? AND key <-(?)) AS held WHERE place = 1"
    )
    return {key: HeldKind(kind) for key, kind in query(connection, sql, (pipeline, many(connection, keys)))}


def count_held(connection: Connection, pipeline: str) -> dict[HeldKind, int]:
    """Count the held messages by kind."""
    sql = "SELECT kind, count(*) FROM pipeline_held WHERE pipeline = ? GROUP BY kind"
    return {HeldKind(kind): count for kind, count in query(connection, sql, (pipeline,))}


# ---- sequence numbers

_NUMBER = {"pipeline": "text", "key": "text", "number": "bigint"}


def read_numbers(connection: Connection, pipeline: str, keys: Sequence[str]) -> dict[str, int]:
    """Return the last sequence number of each key; a key without one is absent."""
    sql = "SELECT key, number FROM pipeline_numbers WHERE pipeline = ? AND key <-(?)"
    return dict(query(connection, sql, (pipeline, many(connection, keys))))


def write_numbers(connection: Connection, pipeline: str, numbers: Mapping[str, int]) -> None:
    """Set the last sequence number of keys."""
    conflict = "ON CONFLICT (pipeline, key) DO UPDATE SET number = excluded.number"
    rows = [(pipeline, key, number) for key, number in numbers.items()]
    insert_records(connection, "pipeline_numbers", _NUMBER, conflict, rows)
