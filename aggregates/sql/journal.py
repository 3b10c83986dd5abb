"""The journal on SQLite or PostgreSQL.

Writing goes through the process's committer; reading uses connections of its own and sees what is committed. Every
failure of the database arrives as one of `amends.aggregates.errors`.
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
from amends.aggregates.sql.batch import Known
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
    """Open the store at a URL, creating an SQLite file that is not there.

    Args:
        url: `sqlite:///path`, `sqlite://` or `postgresql://...`.
        aggregates: Classes whose events can be read from the start; a class that a step uses is known from then on.
        codec: Writes and reads the events; `None` for a new one.
        on_commit: Called around every commit; for tests.

    Raises:
        InputError: The URL cannot be used.
        UnreachableError: The store cannot be reached or written.
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

    The methods without `_blocking` are for event loops and read in threads; the others are for programs without a loop.

    Args:
        engine: From `create_store_engine`; closed together with the journal.
        codec: Writes and reads events.
        store_id: Identity of the store, as `ensure_schema` gives it.
        on_commit: Called around every commit; for tests.
    """

    def __init__(self, engine: Engine, codec: EventCodec, store_id: str, *, on_commit: OnCommit | None = None) -> None:
        self._engine = engine
        self._codec = codec
        self._store_id = store_id
        self._plans = Plans()
        self._committer = Committer(engine, Known(codec, self._plans), store_id, on_commit)

    @property
    def store_id(self) -> str:
        """Identity of the store, made when its schema was created."""
        return self._store_id

    @property
    def codec(self) -> EventCodec:
        """What writes and reads the events; aggregate classes are registered here."""
        return self._codec

    @property
    def engine(self) -> Engine:
        """The database, for reading only: writing is the committer's."""
        return self._engine

    # ---- writing

    async def commit(self, unit: Unit[T], *, runs: Sequence[str] = (), patience: timedelta = timedelta(0)) -> T:
        """Have the committer run a unit and wait until its writes are durable.

        Args:
            unit: May be run more than once; must have no effect but through its `Tx`.
            runs: Ids of the runs that it will look at, when known: their streams are read for the whole batch at once.
            patience: How long to wait for a store that is away; in that time nothing is left in doubt.

        Returns:
            What the unit returned.

        Raises:
            UnreachableError: The store cannot be reached. Nothing was written, or the message says that nobody knows.
            JournalError: The journal is closed, or the database refuses what the unit writes.
            Exception: Whatever the unit raised; nothing of it was written.
        """
        return cast("T", await self._committer.commit(unit, runs, patience))

    def commit_blocking(self, unit: Unit[T], *, runs: Sequence[str] = ()) -> T:
        """Do as `commit` does, blocking the calling thread."""
        return cast("T", self._committer.commit_blocking(unit, runs))

    def listen(self, on_opened: OnOpened) -> Callable[[], None]:
        """Have a function called for every run that a commit of this process has opened again.

        Args:
            on_opened: Called in the committer's thread, after the commit and before its answers are given; it must
                return at once.

        Returns:
            What ends that; it may be called more than once.
        """
        return self._committer.listen(on_opened)

    async def close(self) -> None:
        """Commit what is waiting, then let go of the database."""
        await asyncio.to_thread(self.close_blocking)

    def close_blocking(self) -> None:
        """Do as `close` does, blocking the calling thread."""
        self._committer.close()
        self._engine.dispose()

    # ---- reading

    async def ping(self) -> None:
        """Look whether the store answers.

        Raises:
            UnreachableError: It does not.
        """
        await asyncio.to_thread(self._read, lambda connection: connection.execute(select(store_identity)).first())

    async def record(self, run_id: str) -> RunRecord | None:
        """Read a run's record as committed; `None` when there is no such run.

        Raises:
            DamagedRunError: The run's facts cannot all be read.
        """
        return await asyncio.to_thread(self.record_blocking, run_id)

    def record_blocking(self, run_id: str) -> RunRecord | None:
        """Do as `record` does, blocking the calling thread."""
        return self._read(lambda connection: load_record(connection, self._codec, self._plans, run_id))

    async def records(self, run_ids: Sequence[str]) -> RunRecords:
        """Read the records of several runs as committed; a run that cannot be read does not stop the others."""
        return await asyncio.to_thread(self.records_blocking, run_ids)

    def records_blocking(self, run_ids: Sequence[str]) -> RunRecords:
        """Do as `records` does, blocking the calling thread."""
        known: dict[str, RunRecord | None] = dict.fromkeys(run_ids)
        return self._read(lambda connection: load_records(connection, self._codec, self._plans, known))

    def reading_blocking(self, run_id: str) -> RunReading | None:
        """Read as much of a run as can be read; `None` when there is no such run."""
        return self._read(lambda connection: read_run(connection, self._codec, self._plans, run_id))

    async def facts(self, run_id: str, after: int = 0) -> list[Fact]:
        """Read a run's facts after a position, in order.

        Raises:
            DamagedRunError: One of them is missing or cannot be read.
        """
        return await asyncio.to_thread(self.facts_blocking, run_id, after)

    def facts_blocking(self, run_id: str, after: int = 0) -> list[Fact]:
        """Do as `facts` does, blocking the calling thread."""
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
        """Do as `runs` does, blocking the calling thread."""
        return self._read(lambda connection: find_runs(connection, query, partial(self._summary, connection)))

    def _summary(self, connection: Connection, run_id: str) -> RunSummary | None:
        reading = read_run(connection, self._codec, self._plans, run_id) if is_text(run_id) else None
        return None if reading is None or reading.damage or reading.record is None else reading.record.summary

    async def load(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - the word that aggregates use
        """Read an aggregate as committed; changes to it are not saved."""
        return await asyncio.to_thread(self.load_blocking, cls, id)

    def load_blocking(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - the word that aggregates use
        """Do as `load` does, blocking the calling thread."""
        stream = cls.stream_of(id)
        self._codec.register(cls)
        held = self._read(lambda connection: load_aggregate(connection, self._codec, cls, stream))
        return None if held is None else cast("A", held.aggregate)

    async def plan(self, fingerprint: str) -> Plan | None:
        """Read a plan; `None` when no run in this store ever followed it."""
        return await asyncio.to_thread(self.plan_blocking, fingerprint)

    def plan_blocking(self, fingerprint: str) -> Plan | None:
        """Do as `plan` does, blocking the calling thread."""
        return self._read(lambda connection: self._plans.read(connection, fingerprint))

    async def events(self, stream: str, after: int = 0, limit: int | None = None) -> list[StoredEvent]:
        """Read a stream's rows after a position, in order; at most `limit` of them."""
        return await asyncio.to_thread(self.events_blocking, stream, after, limit)

    def events_blocking(self, stream: str, after: int = 0, limit: int | None = None) -> list[StoredEvent]:
        """Do as `events` does, blocking the calling thread."""
        return self._read(lambda connection: event_rows.read_stream(connection, stream, after, limit))

    def streams_blocking(self, category: str) -> list[str]:
        """List the streams of one kind of aggregate; a question for people, as it takes as long as the journal is."""
        return self._read(lambda connection: event_rows.streams_of(connection, category))

    async def notifications(self, after: int = 0, limit: int = 1_000) -> list[Notification]:
        """Read the notification log after an id, in order; who has seen an id never finds a smaller one that is new.

        Raises:
            ChangedEventError: The first notification does not fit its checksum. Before such a one the page ends.
        """
        return await asyncio.to_thread(self.notifications_blocking, after, limit)

    def notifications_blocking(self, after: int = 0, limit: int = 1_000) -> list[Notification]:
        """Do as `notifications` does, blocking the calling thread."""
        page = self._read(lambda connection: event_rows.read_notifications(connection, after, limit))
        changed = next((index for index, each in enumerate(page) if isinstance(each, ChangedNotification)), None)
        if changed == 0:
            raise changed_error(page[0])
        return page[:changed]

    def _read(self, read: Callable[[Connection], T]) -> T:
        with store_errors(), self._engine.connect() as connection:
            return read(connection)
