"""Source of another store's outbox: one partition, and the position of a message is its number in the outbox.

The other store knows the pipeline as a reader of the topic, and deletes a message when every reader has acknowledged
it. How it can fail: while that store does not take an acknowledgement, messages stay there longer; nothing else.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from amends.aggregates.errors import InputError, JournalError, UnreachableError
from amends.aggregates.outbox import ID_HEADER, OutboxMessage
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.aggregates.store_url import parse_store_url
from amends.pipelines.definition.sources import StoreSource
from amends.pipelines.sink import REPEAT_HEADER
from amends.pipelines.source import (
    PartitionReader,
    RawMessage,
    Read,
    SourceReplacedError,
    SourceSetupError,
    SourceUnreachableError,
    Start,
)

__all__ = ["OutboxReader", "StoreConnection"]

T = TypeVar("T")

_POLL_S = 0.2
_STORE_EVERY_S = 1.0


class StoreConnection:
    """Reads one topic of the outbox of another store.

    Args:
        source: The description of the store and the topic.
        folder: The folder from which the relative path of a SQLite file starts.
        reader: Name under which the other store knows the pipeline; `None` to look only, so that the other store may
            delete messages that this connection has not read.
    """

    def __init__(self, source: StoreSource, folder: Path, *, reader: str | None = None) -> None:
        self._source = source
        self._folder = folder
        self._reader = reader
        self._journal: SqlJournal | None = None
        self._opened_reader: OutboxReader | None = None

    async def partitions(self) -> Sequence[str]:
        """Return the topic, which is the one partition.

        Raises:
            SourceSetupError: There is no such store, or this version cannot read it.
            SourceUnreachableError: The store does not answer.
        """
        await self._opened()
        return [self._source.topic]

    async def open(self, partition: str, start: Start) -> PartitionReader:
        """Begin to read the outbox.

        Raises:
            SourceReplacedError: The store is another one.
            SourceSetupError: There is no such store or topic.
            SourceUnreachableError: The store does not answer.
        """
        if partition != self._source.topic:
            raise SourceSetupError(f"the source has no partition {partition!r}, only {self._source.topic!r}")
        journal = await self._opened()
        if start.incarnation and start.incarnation != journal.store_id:
            raise SourceReplacedError(str(self._source), expected=start.incarnation, found=journal.store_id)
        reader = OutboxReader(journal, self._source, start.next or 1, reader=self._reader)
        await reader.register()
        self._opened_reader = reader
        return reader

    async def close(self) -> None:
        """Close the connection to the store."""
        if self._opened_reader is not None:
            await self._opened_reader.close()
        journal, self._journal = self._journal, None
        if journal is not None:
            await journal.close()

    async def _opened(self) -> SqlJournal:
        if self._journal is None:
            self._journal = await asyncio.to_thread(_reporting, self._source, lambda: _open(self._source, self._folder))
        return self._journal


class OutboxReader:
    """Reads one topic of an outbox.

    Args:
        journal: The other store.
        source: The description of the store and the topic.
        position: Number of the first message to read.
        reader: Name under which the other store knows the pipeline; `None` to look only.
    """

    def __init__(self, journal: SqlJournal, source: StoreSource, position: int, *, reader: str | None = None) -> None:
        self._journal = journal
        self._source = source
        self._first = self._next = position
        self._reader = reader
        self._acknowledged = self._stored = position
        self._stored_s = 0.0

    async def register(self) -> None:
        """Store the position of the pipeline in the other store, which keeps what comes after it from now on.

        Raises:
            SourceSetupError: The other store cannot be written.
            SourceUnreachableError: The other store does not answer.
        """
        if self._reader is not None:
            reader, positions = self._reader, {self._source.topic: self._first}
            await self._blocking(lambda: self._journal.commit_blocking(lambda tx: tx.outbox.passed(reader, positions)))

    @property
    def incarnation(self) -> str:
        """Identity of the store."""
        return self._journal.store_id

    @property
    def first(self) -> int:
        """Number of the message from which the reader began to read."""
        return self._first

    async def read(self, limit: int, *, max_bytes: int, wait: timedelta) -> Read:
        """Read the next messages; messages of other topics are holes."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait.total_seconds()
        before = self._next
        while True:
            rows = await self._blocking(lambda: self._journal.outbox_blocking(before - 1, limit, [self._source.topic]))
            left = deadline - loop.time()
            if rows or left <= 0:
                break
            await self._store_position()
            await asyncio.sleep(min(_POLL_S, left))
        rows = _within(rows, max_bytes)
        self._next = rows[-1].id + 1 if rows else before
        messages = [_raw(row, self._journal.store_id) for row in rows]
        return Read(first=before, next=self._next, messages=messages)

    async def end(self) -> int:
        """Return the number after the last message of the topic, as if there were no other topics."""
        left = await self._blocking(lambda: self._journal.outbox_size_blocking(self._next - 1, [self._source.topic]))
        return self._next + left

    async def acknowledge(self, position: int) -> None:
        """Store the position in the other store, at most once a second, and when there is no message to read."""
        self._acknowledged = position
        if asyncio.get_running_loop().time() - self._stored_s >= _STORE_EVERY_S:
            await self._store_position()

    async def pause(self) -> None:
        """Do nothing: nothing is read ahead."""

    async def close(self) -> None:
        """Store the position in the other store; the connection is that of the source."""
        await self._store_position()

    async def _store_position(self) -> None:
        reader, position = self._reader, self._acknowledged
        if reader is None or position == self._stored:
            return
        self._stored_s = asyncio.get_running_loop().time()
        topic = self._source.topic
        # The messages stay a while longer, until another acknowledgement succeeds.
        with suppress(UnreachableError, JournalError):
            await self._journal.commit(lambda tx: tx.outbox.passed(reader, {topic: position}))
            self._stored = position

    async def _blocking(self, function: Callable[[], T]) -> T:
        return await asyncio.to_thread(_reporting, self._source, function)


def _open(source: StoreSource, folder: Path) -> SqlJournal:
    parsed = parse_store_url(source.url)
    if parsed is None or not parsed.scheme.startswith("sqlite"):
        return open_journal(source.url)
    file = folder / parsed.path
    if not file.exists():
        # Opening would create it.
        raise SourceSetupError(f"{source}: there is no such file")
    return open_journal(f"sqlite:///{file}")


def _within(rows: Sequence[OutboxMessage], max_bytes: int) -> list[OutboxMessage]:
    """Return the first rows whose size together is within a bound, and at least one."""
    size = 0
    kept: list[OutboxMessage] = []
    for row in rows:
        size += len(row.message.value)
        if kept and size > max_bytes:
            break
        kept.append(row)
    return kept


def _raw(row: OutboxMessage, store_id: str) -> RawMessage:
    headers = [(ID_HEADER, row.published_id(store_id)), *row.message.headers]
    if row.repeats is not None:
        headers.append((REPEAT_HEADER, str(row.id)))
    encoded = tuple((name, text.encode()) for name, text in headers)
    fault = "" if row.intact else "somebody has changed the message in the sending store: its checksum does not match"
    return RawMessage(
        row.id, row.message.key.encode(), row.message.value, encoded, row.recorded_at_ms or None, fault=fault
    )


def _reporting(source: StoreSource, function: Callable[[], T]) -> T:
    """Run a function, and raise the errors of the store as those of a source."""
    try:
        return function()
    except UnreachableError as error:
        raise SourceUnreachableError(f"{source} does not answer: {error}") from error
    except (InputError, JournalError) as error:
        raise SourceSetupError(f"{source}: {error}") from error
