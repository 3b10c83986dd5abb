"""The tables of the pipelines and the outbox, as units and readers see them.

Theory of operation: the methods of a unit send their statements at once, inside the unit's savepoint, so that the unit
sees its own writes and a rollback discards them. Rows of batches and messages to send wait in memory for the commit,
because a batch row names events, whose ids the database assigns when they are inserted.

Under the writer's lock, reading a row, comparing it and writing it is one step: no other process comes between.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from sqlalchemy import Connection
from typing_extensions import override

from amends.aggregates.errors import RefusedError
from amends.aggregates.intake import (
    BatchRow,
    Bucket,
    Counts,
    HeldKind,
    HeldMessage,
    Intake,
    IntakeReader,
    Position,
    RememberedId,
    Token,
)
from amends.aggregates.outbox import ALL_TOPICS, Outbox, OutboxReader
from amends.aggregates.sql import id_memory, intake_rows, outbox_rows
from amends.aggregates.sql.batch import Batch
from amends.aggregates.sql.id_memory import IdMemory
from amends.aggregates.text import shorten

__all__ = ["SqlIntake", "SqlIntakeReader", "SqlOutbox"]

T = TypeVar("T")


class Read(Protocol):
    """Runs a reading function with a connection."""

    def __call__(self, read: Callable[[Connection], T], /) -> T:
        """Return the function's answer."""
        ...


class SqlIntakeReader(IntakeReader):
    """The reading part of the tables.

    Args:
        read: Runs a reading function with a connection whose transaction sees the store at one moment.
        memory: Looks ids up.
    """

    def __init__(self, read: Read, memory: IdMemory) -> None:
        self._read = read
        self._memory = memory
        self._lock = threading.Lock()

    @override
    def position(self, pipeline: str, partition: str) -> Position | None:
        return self._read(lambda c: intake_rows.read_positions(c, pipeline, partition)).get(partition)

    @override
    def positions(self, pipeline: str) -> Mapping[str, Position]:
        return self._read(lambda c: intake_rows.read_positions(c, pipeline))

    @override
    def batches(self, pipeline: str, partition: str, *, after: int = 0, limit: int = 1_000) -> Sequence[BatchRow]:
        return self._read(lambda c: intake_rows.read_batches(c, pipeline, partition, after, limit))

    @override
    def known(self, pipeline: str, id_hashes: Sequence[bytes], *, oldest_bucket: int) -> Mapping[bytes, bytes]:
        with self._lock:
            return self._read(lambda c: self._memory.known(c, pipeline, id_hashes, oldest_bucket))

    @override
    def last_numbers(self, pipeline: str, keys: Sequence[str]) -> Mapping[str, int]:
        return self._read(lambda c: intake_rows.read_numbers(c, pipeline, keys)) if keys else {}

    @override
    def horizon(self, pipeline: str) -> int:
        return self._read(lambda c: id_memory.read_horizon(c, pipeline))

    @override
    def held(
        self,
        pipeline: str,
        *,
        partition: str | None = None,
        kinds: frozenset[HeldKind] = frozenset(),
        key: str | None = None,
        limit: int = 1_000,
    ) -> Sequence[HeldMessage]:
        return self._read(
            lambda c: intake_rows.read_held(c, pipeline, partition=partition, kinds=kinds, key=key, limit=limit)
        )

    @override
    def held_counts(self, pipeline: str) -> Mapping[HeldKind, int]:
        return self._read(lambda c: intake_rows.count_held(c, pipeline))

    @override
    def totals(self, pipeline: str) -> Mapping[str, Counts]:
        return self._read(lambda c: intake_rows.total_counts(c, pipeline))

    @override
    def buckets(self, pipeline: str) -> Sequence[Bucket]:
        return self._read(lambda c: id_memory.read_buckets(c, pipeline))


class SqlIntake(SqlIntakeReader, Intake):
    """One unit's view of the tables.

    Args:
        batch: The batch that the unit is part of.
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__(self._in_batch, batch.known.ids)
        self._batch = batch

    def _in_batch(self, read: Callable[[Connection], T], /) -> T:
        with self._batch.reading():
            return read(self._batch.connection)

    @override
    def batches(self, pipeline: str, partition: str, *, after: int = 0, limit: int = 1_000) -> Sequence[BatchRow]:
        stored = super().batches(pipeline, partition, after=after, limit=limit)
        own = (each for each in self._batch.progress if (each.pipeline, each.partition) == (pipeline, partition))
        staged = [each.row for each in own if each.row.number > after]
        return sorted([*stored, *staged], key=lambda row: row.number)[:limit]

    @override
    def known(self, pipeline: str, id_hashes: Sequence[bytes], *, oldest_bucket: int) -> Mapping[bytes, bytes]:
        batch = self._batch
        with batch.reading():
            return batch.known.ids.known(batch.connection, pipeline, id_hashes, oldest_bucket, batch.sealed)

    @override
    def begin(self, pipeline: str, partition: str, position: Position) -> bool:
        if self.position(pipeline, partition) is not None:
            return False
        self._write_position(pipeline, partition, position)
        return True

    @override
    def move(self, pipeline: str, partition: str, *, expected: Position, to: Position) -> bool:
        if self.position(pipeline, partition) != expected:
            return False
        self._write_position(pipeline, partition, to)
        return True

    @override
    def claim(self, pipeline: str, partition: str, token: Token) -> Position | None:
        present = self.position(pipeline, partition)
        if present is None or present.token >= token:
            return None
        claimed = replace(present, token=token)
        self._write_position(pipeline, partition, claimed)
        return claimed

    def _write_position(self, pipeline: str, partition: str, position: Position) -> None:
        with self._batch.writing() as connection:
            intake_rows.write_position(connection, pipeline, partition, position)

    @override
    def remember(self, pipeline: str, bucket: int, ids: Sequence[RememberedId]) -> None:
        if ids:
            with self._batch.writing() as connection:
                id_memory.remember_ids(connection, pipeline, bucket, ids, self._batch.recorded_at_ms)

    @override
    def forget_before(self, pipeline: str, bucket: int) -> int:
        with self._batch.writing() as connection:
            return id_memory.forget_ids(connection, pipeline, bucket)

    @override
    def seal_before(self, pipeline: str, bucket: int, *, limit: int = 1_000) -> int:
        batch = self._batch
        with batch.writing() as connection:
            moved = batch.known.ids.seal(connection, pipeline, bucket, limit, batch.recorded_at_ms)
        batch.sealed.update((pipeline, number) for number in moved)
        return sum(moved.values())

    @override
    def held_keys(self, pipeline: str, keys: Sequence[str]) -> Mapping[str, HeldKind]:
        return self._read(lambda c: intake_rows.read_held_keys(c, pipeline, keys)) if keys else {}

    @override
    def hold(self, pipeline: str, messages: Sequence[HeldMessage]) -> None:
        if messages:
            with self._batch.writing() as connection:
                intake_rows.write_held(connection, pipeline, messages, self._batch.recorded_at_ms)

    @override
    def let_go(self, pipeline: str, partition: str, positions: Sequence[int]) -> None:
        if positions:
            with self._batch.writing() as connection:
                intake_rows.remove_held(connection, pipeline, partition, positions)

    @override
    def set_numbers(self, pipeline: str, numbers: Mapping[str, int]) -> None:
        if numbers:
            with self._batch.writing() as connection:
                intake_rows.write_numbers(connection, pipeline, numbers)

    @override
    def add_batch(self, pipeline: str, partition: str, row: BatchRow) -> None:
        self._batch.stage_progress(pipeline, partition, row)


class SqlOutbox(Outbox):
    """One unit's view of the outbox.

    Args:
        batch: The batch that the unit is part of.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    @override
    def readers(self) -> list[OutboxReader]:
        with self._batch.reading():
            return outbox_rows.read_readers(self._batch.connection)

    @override
    def topics(self) -> list[str]:
        with self._batch.reading():
            return outbox_rows.read_topics(self._batch.connection)

    @override
    def passed(self, reader: str, positions: Mapping[str, int]) -> int:
        rows = [OutboxReader(reader, topic, next_) for topic, next_ in positions.items()]
        return self._write(lambda connection, now_ms: outbox_rows.write_readers(connection, reader, rows, now_ms))

    @override
    def remove_reader(self, reader: str) -> int:
        return self._write(lambda connection, now_ms: outbox_rows.write_readers(connection, reader, (), now_ms))

    @override
    def discard(self, topic: str, *, last: int) -> int:
        return self._write(lambda connection, _: _discard(connection, topic, last))

    def _write(self, write: Callable[[Connection, int], int]) -> int:
        with self._batch.writing() as connection:
            return write(connection, self._batch.recorded_at_ms)

    @override
    def send_again(self, cause: str) -> int:
        batch = self._batch
        with batch.reading():
            kept = outbox_rows.read_kept(batch.connection, cause)
        for each in kept:
            batch.stage_message(each.message, repeats=each.id)
        return len(kept)


def _discard(connection: Connection, topic: str, last: int) -> int:
    readers = [each.reader for each in outbox_rows.read_readers(connection) if each.topic in {topic, ALL_TOPICS}]
    if readers:
        raise RefusedError(
            f"topic {shorten(topic)} of the outbox has readers, which need its messages: {', '.join(readers)}; "
            "remove them first"
        )
    return outbox_rows.discard(connection, topic, last)
