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

from amends.aggregates.audit import StreamAudit
from amends.aggregates.errors import DamagedRunError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.events.event_codec import EventCodec, changed_error
from amends.aggregates.journal import OnOpened, RunQuery, Unit
from amends.aggregates.run.facts import Fact, stream_of_run
from amends.aggregates.run.plan import Plan
from amends.aggregates.run.reading import RunReading, RunRecords
from amends.aggregates.run.record import RunRecord, RunSummary
from amends.aggregates.sql import rows as event_rows
from amends.aggregates.sql.batch import StoreCache
from amends.aggregates.sql.committer import Committer, OnCommit
from amends.aggregates.sql.engine import check_writable, create_store_engine
from amends.aggregates.sql.errors import store_errors
from amends.aggregates.sql.loading import Plans, load_aggregate, load_record, load_records, read_run
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


class SqlJournal:
    """A `Journal` on an SQL database.

    The methods without `_blocking` are for event loops and read in threads. The others are for programs without a loop.

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
        self._committer = Committer(engine, StoreCache(codec, self._plans), store_id, on_commit)

    @property
    def store_id(self) -> str:
        """Identity of the store, chosen when its schema was created."""
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

    async def commit(self, unit: Unit[T], *, runs: Sequence[str] = (), patience: timedelta = timedelta(0)) -> T:
        """Run a unit in the committer, and wait until its writes are durable.

        Args:
            unit: The function; it may run more than once, and must have no effect except through its `Tx`.
            runs: Ids of the runs that the unit will read, where the caller knows them: the committer then reads the
                streams of a whole batch at once.
            patience: Longest wait for a store that is unreachable. An outage that ends within it leaves nothing in
                doubt.

        Returns:
            The value that the unit returned.

        Raises:
            UnreachableError: The store is unreachable. Either the unit wrote nothing, or the message states that its
                outcome is unknown.
            JournalError: The journal is closed, or the database refuses the unit's writes.
            Exception: The error that the unit raised; none of its writes remain.
        """
        return cast("T", await self._committer.commit(unit, runs, patience))

    def commit_blocking(self, unit: Unit[T], *, runs: Sequence[str] = ()) -> T:
        """Run `commit` and block the calling thread."""
        return cast("T", self._committer.commit_blocking(unit, runs))

    def listen(self, on_opened: OnOpened) -> Callable[[], None]:
        """Call a function for every run that a commit of this process opens again.

        Args:
            on_opened: The function. The committer's thread calls it after the commit and before the callers get their
                answers, so it must return at once.

        Returns:
            A function that ends the subscription; it may be called more than once.
        """
        return self._committer.listen(on_opened)

    async def close(self) -> None:
        """Commit the waiting units, then close the database."""
        await asyncio.to_thread(self.close_blocking)

    def close_blocking(self) -> None:
        """Run `close` and block the calling thread."""
        self._committer.close()
        self._engine.dispose()

    # ---- reading

    async def ping(self) -> None:
        """Check that the store answers.

        Raises:
            UnreachableError: The store does not answer.
        """
        await asyncio.to_thread(self._read, lambda connection: connection.execute(select(store_identity)).first())

    async def record(self, run_id: str) -> RunRecord | None:
        """Read a run's record as committed; `None` when there is no such run.

        Raises:
            DamagedRunError: Some facts of the run are unreadable.
        """
        return await asyncio.to_thread(self.record_blocking, run_id)

    def record_blocking(self, run_id: str) -> RunRecord | None:
        """Run `record` and block the calling thread."""
        return self._read(lambda connection: load_record(connection, self._codec, self._plans, run_id))

    async def records(self, run_ids: Sequence[str]) -> RunRecords:
        """Read the records of several runs as committed; an unreadable run does not stop the others."""
        return await asyncio.to_thread(self.records_blocking, run_ids)

    def records_blocking(self, run_ids: Sequence[str]) -> RunRecords:
        """Run `records` and block the calling thread."""
        known: dict[str, RunRecord | None] = dict.fromkeys(run_ids)
        return self._read(lambda connection: load_records(connection, self._codec, self._plans, known))

    def reading_blocking(self, run_id: str) -> RunReading | None:
        """Read the readable part of a run; `None` when there is no such run."""
        return self._read(lambda connection: read_run(connection, self._codec, self._plans, run_id))

    async def facts(self, run_id: str, after: int = 0) -> list[Fact]:
        """Read a run's facts after a position, in order.

        Raises:
            DamagedRunError: A fact is missing or unreadable.
        """
        return await asyncio.to_thread(self.facts_blocking, run_id, after)

    def facts_blocking(self, run_id: str, after: int = 0) -> list[Fact]:
        """Run `facts` and block the calling thread."""
        audit = StreamAudit(stream_of_run(run_id), self._codec, after=after, keep=True)
        for stored in self.events_blocking(audit.stream, after):
            audit.feed(stored)
        if audit.findings:
            raise DamagedRunError(audit.findings[0].damage)
        return audit.events

    async def runs(self, query: RunQuery) -> list[RunSummary]:
        """List runs from the read model."""
        return await asyncio.to_thread(self.runs_blocking, query)

    def runs_blocking(self, query: RunQuery) -> list[RunSummary]:
        """Run `runs` and block the calling thread."""
        return self._read(lambda connection: find_runs(connection, query, partial(self._summary, connection)))

    def _summary(self, connection: Connection, run_id: str) -> RunSummary | None:
        reading = read_run(connection, self._codec, self._plans, run_id) if is_text(run_id) else None
        return None if reading is None or reading.damage or reading.record is None else reading.record.summary

    async def load(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - the word that aggregates use
        """Read an aggregate as committed; the journal does not save changes to it."""
        return await asyncio.to_thread(self.load_blocking, cls, id)

    def load_blocking(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - the word that aggregates use
        """Run `load` and block the calling thread."""
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
        """Read the notification log after an id, in order; a reader that has seen an id never finds a new smaller one.

        Raises:
            ChangedEventError: The first notification does not match its checksum. A page ends before such a
                notification.
        """
        return await asyncio.to_thread(self.notifications_blocking, after, limit)

    def notifications_blocking(self, after: int = 0, limit: int = 1_000) -> list[Notification]:
        """Run `notifications` and block the calling thread."""
        page = self._read(lambda connection: event_rows.read_notifications(connection, after, limit))
        changed = next((index for index, each in enumerate(page) if isinstance(each, ChangedNotification)), None)
        if changed == 0:
            raise changed_error(page[0])
        return page[:changed]

    def _read(self, read: Callable[[Connection], T]) -> T:
        with store_errors(), self._engine.connect() as connection:
            return read(connection)
