"""The journal on SQLite or PostgreSQL.

Writes go through the process's committer; reads use connections of their own and see committed data. Every failure of
the database becomes an error of `amends.aggregates.errors`.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeVar, cast

from eventsourcing.persistence import Notification, StoredEvent
from sqlalchemy import Connection, Engine, select
from typing_extensions import override

from amends.aggregates.audit import StreamAudit
from amends.aggregates.errors import DamagedRunError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.events.event_codec import EventCodec, changed_error
from amends.aggregates.journal import Journal, OnOpened, RunQuery, Unit
from amends.aggregates.outbox import OutboxMessage, OutboxReader
from amends.aggregates.run.facts import Fact, stream_of_run
from amends.aggregates.run.plan import Plan
from amends.aggregates.run.reading import RunReading, RunRecords
from amends.aggregates.run.record import RunRecord, RunSummary
from amends.aggregates.sql import outbox_rows
from amends.aggregates.sql import rows as event_rows
from amends.aggregates.sql.committer import Committer, OnCommit
from amends.aggregates.sql.engine import check_writable, create_store_engine, snapshot_of
from amends.aggregates.sql.errors import store_errors
from amends.aggregates.sql.id_memory import IdMemory
from amends.aggregates.sql.intake import SqlIntakeReader
from amends.aggregates.sql.loading import Plans, StoreCache, load_aggregate, load_record, load_records, read_run
from amends.aggregates.sql.migrations import ensure_schema
from amends.aggregates.sql.run_index import find_runs
from amends.aggregates.sql.schema import is_text, store_identity
from amends.aggregates.values.checksum import ChangedNotification

__all__ = ["SqlJournal", "open_journal"]

A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")


def open_journal(
    url: str,
    *,
    aggregates: Iterable[type[Aggregate]] = (),
    codec: EventCodec | None = None,
    on_commit: OnCommit | None = None,
) -> "SqlJournal":
    """Open the store at a URL, creating an SQLite file if it is missing.

    Args:
        url: `sqlite:///path`, `sqlite://` or `postgresql://...`.
        aggregates: Classes whose events are readable from the start; other classes become known when a step uses them.
        codec: Codec that writes and reads the events; `None` for a new one.
        on_commit: Called around every commit; for tests.

    Raises:
        InputError: The URL is unusable.
        UnreachableError: The store is unreachable or not writable.
        JournalError: Its schema is not this version's.
    """
    codec = codec or EventCodec()
    for aggregate in aggregates:
        codec.register(aggregate)
    engine = create_store_engine(url)
    try:
        store_id = ensure_schema(engine)
        check_writable(engine)
        return SqlJournal(engine, codec, store_id, on_commit=on_commit)
    except BaseException:
        engine.dispose()
        raise


class SqlJournal(Journal):
    """A `Journal` on an SQL database.

    The methods with `_blocking` are for programs without an event loop, and for threads.

    Args:
        engine: Engine from `create_store_engine`; the journal closes it together with itself.
        codec: Codec that writes and reads events.
        store_id: Identity of the store, from `ensure_schema`.
        on_commit: Called around every commit; for tests.
    """

    def __init__(self, engine: Engine, codec: EventCodec, store_id: str, *, on_commit: OnCommit | None = None) -> None:
        self._engine = engine
        self._codec = codec
        self._store_id = store_id
        self._plans = Plans()
        self._intake = SqlIntakeReader(self._read_snapshot, IdMemory())
        self._committer = Committer(engine, StoreCache(codec, self._plans), store_id, on_commit)

    @property
    @override
    def store_id(self) -> str:
        return self._store_id

    @property
    def codec(self) -> EventCodec:
        """The codec that writes and reads the events; aggregate classes are registered with it."""
        return self._codec

    @property
    def engine(self) -> Engine:
        """The engine of the database, for reading only, because only the committer writes."""
        return self._engine

    # ---- writing

    @override
    async def commit(self, unit: Unit[T], *, runs: Sequence[str] = (), patience: timedelta = timedelta(0)) -> T:
        return cast("T", await self._committer.commit(unit, runs, patience))

    def commit_blocking(self, unit: Unit[T], *, runs: Sequence[str] = ()) -> T:
        """Run `commit` and block the calling thread."""
        return cast("T", self._committer.commit_blocking(unit, runs))

    @override
    def listen(self, on_opened: OnOpened) -> Callable[[], None]:
        return self._committer.listen(on_opened)

    @override
    async def close(self) -> None:
        await asyncio.to_thread(self.close_blocking)

    def close_blocking(self) -> None:
        """Run `close` and block the calling thread."""
        self._committer.close()
        self._engine.dispose()

    # ---- reading

    @override
    async def ping(self) -> None:
        await asyncio.to_thread(self._read, lambda connection: connection.execute(select(store_identity)).first())

    @override
    async def record(self, run_id: str) -> RunRecord | None:
        return await asyncio.to_thread(self.record_blocking, run_id)

    @override
    def record_blocking(self, run_id: str) -> RunRecord | None:
        return self._read(lambda connection: load_record(connection, self._codec, self._plans, run_id))

    @override
    async def records(self, run_ids: Sequence[str]) -> RunRecords:
        return await asyncio.to_thread(self.records_blocking, run_ids)

    @override
    def records_blocking(self, run_ids: Sequence[str]) -> RunRecords:
        known: dict[str, RunRecord | None] = dict.fromkeys(run_ids)
        return self._read(lambda connection: load_records(connection, self._codec, self._plans, known))

    def reading_blocking(self, run_id: str) -> RunReading | None:
        """Read the readable part of a run; `None` when there is no such run."""
        return self._read(lambda connection: read_run(connection, self._codec, self._plans, run_id))

    @override
    async def facts(self, run_id: str, after: int = 0) -> list[Fact]:
        return await asyncio.to_thread(self.facts_blocking, run_id, after)

    @override
    def facts_blocking(self, run_id: str, after: int = 0) -> list[Fact]:
        audit = StreamAudit(stream_of_run(run_id), self._codec, after=after, keep=True)
        for stored in self.events_blocking(audit.stream, after):
            audit.feed(stored)
        if audit.findings:
            raise DamagedRunError(audit.findings[0].damage)
        return audit.events

    @override
    async def runs(self, query: RunQuery) -> list[RunSummary]:
        return await asyncio.to_thread(self.runs_blocking, query)

    @override
    def runs_blocking(self, query: RunQuery) -> list[RunSummary]:
        return self._read(lambda connection: find_runs(connection, query, partial(self._summary, connection)))

    def _summary(self, connection: Connection, run_id: str) -> RunSummary | None:
        reading = read_run(connection, self._codec, self._plans, run_id) if is_text(run_id) else None
        return None if reading is None or reading.damage or reading.record is None else reading.record.summary

    @override
    async def load(self, cls: type[A], id: str) -> A | None:
        return await asyncio.to_thread(self.load_blocking, cls, id)

    @override
    def load_blocking(self, cls: type[A], id: str) -> A | None:
        stream = cls.stream_of(id)
        self._codec.register(cls)
        held = self._read(lambda connection: load_aggregate(connection, self._codec, cls, stream))
        return None if held is None else cast("A", held.aggregate)

    async def plan(self, fingerprint: str) -> Plan | None:
        """Read a plan; `None` when no run in this store ever followed it."""
        return await asyncio.to_thread(self.plan_blocking, fingerprint)

    def plan_blocking(self, fingerprint: str) -> Plan | None:
        """Run `plan` and block the calling thread."""
        return self._read(lambda connection: self._plans.read(connection, fingerprint))

    async def events(self, stream: str, after: int = 0, limit: int | None = None) -> list[StoredEvent]:
        """Read a stream's rows after a position, in order; at most `limit` of them."""
        return await asyncio.to_thread(self.events_blocking, stream, after, limit)

    def events_blocking(self, stream: str, after: int = 0, limit: int | None = None) -> list[StoredEvent]:
        """Run `events` and block the calling thread."""
        return self._read(lambda connection: event_rows.read_stream(connection, stream, after, limit))

    def streams_blocking(self, category: str) -> list[str]:
        """Return the streams of one kind of aggregate; for people, because its time grows with the journal's size."""
        return self._read(lambda connection: event_rows.streams_of(connection, category))

    async def notifications(self, after: int = 0, limit: int = 1_000) -> list[Notification]:
        """Run `notifications_blocking` in a thread."""
        return await asyncio.to_thread(self.notifications_blocking, after, limit)

    @override
    def notifications_blocking(self, after: int = 0, limit: int = 1_000) -> list[Notification]:
        page = self._read(lambda connection: event_rows.read_notifications(connection, after, limit))
        changed = next((index for index, each in enumerate(page) if isinstance(each, ChangedNotification)), None)
        if changed == 0:
            raise changed_error(page[0])
        return page[:changed]

    @property
    @override
    def intake(self) -> SqlIntakeReader:
        return self._intake

    @override
    def outbox_blocking(
        self, after: int = 0, limit: int = 1_000, topics: Sequence[str] | None = None
    ) -> list[OutboxMessage]:
        return self._read(lambda connection: outbox_rows.read_outbox(connection, after, limit, topics))

    @override
    def outbox_topics_blocking(self) -> dict[str, int]:
        return self._read(outbox_rows.count_by_topic)

    @override
    def outbox_readers_blocking(self) -> list[OutboxReader]:
        return self._read(outbox_rows.read_readers)

    @override
    def outbox_size_blocking(self, after: int = 0, topics: Sequence[str] | None = None) -> int:
        return self._read(lambda connection: outbox_rows.count_outbox(connection, after, topics))

    def _read(self, read: Callable[[Connection], T]) -> T:
        with store_errors(), self._engine.connect() as connection:
            return read(connection)

    def _read_snapshot(self, read: Callable[[Connection], T]) -> T:
        """Run several statements that see the store at one moment."""
        with store_errors(), snapshot_of(self._engine) as connection:
            return read(connection)
