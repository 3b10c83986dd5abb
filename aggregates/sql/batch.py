"""One batch of the committer: its units' view of the store, their staged writes, and savepoints around both.

Theory of operation: a batch is one database transaction that begins with the writer's lock. Units stage events in
memory; the batch inserts them just before the commit, so a savepoint is usually only the length of a list. It becomes a
`SAVEPOINT` in the database only when a step runs its own SQL. The knowledge of this process from earlier batches is
exact, because each batch refreshes it under the lock (`StoreCache.refresh`).

A rollback uses a log of the overwritten entries of the batch's dictionaries. Records are immutable, so it puts the
former record back. Aggregates are not, so it drops a changed aggregate, and the next use loads it again.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, NamedTuple

from eventsourcing.persistence import StoredEvent
from sqlalchemy import Connection, exc

from amends.aggregates.damage import Damage
from amends.aggregates.errors import DamagedRunError, JournalError, UnitLost
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.intake import BatchRow
from amends.aggregates.outbox import SentMessage
from amends.aggregates.run.facts import SagaStarted, stream_of_run
from amends.aggregates.run.plan import Plan
from amends.aggregates.run.record import RunRecord, RunSummary
from amends.aggregates.sql import rows as event_rows
from amends.aggregates.sql.intake_rows import insert_batches
from amends.aggregates.sql.loading import LoadedAggregate, StoreCache, load_aggregate, load_records
from amends.aggregates.sql.outbox_rows import Sent, insert_outbox
from amends.aggregates.sql.run_index import move_runs, write_keys, write_runs

__all__ = ["Batch", "BatchLost", "Progress", "StaleAssumptionError"]

_ABSENT: Final = object()


class BatchLost(UnitLost):
    """The batch has lost its transaction: no unit of it may go on, and the committer runs all of them again."""


class StaleAssumptionError(Exception):
    """A stream was assumed to be new but exists. Run the batch again with an existence check before each such step."""


class Progress(NamedTuple):
    """A batch row of a pipeline, before its commit.

    Attributes:
        pipeline: Name of the pipeline.
        partition: Partition of its source.
        row: The row, still without the ids of its events.
        start: Index of the unit's first event among the staged events.
        end: Index after its last event.
    """

    pipeline: str
    partition: str
    row: BatchRow
    start: int
    end: int


class Batch:
    """The view and the staged writes of the units in one database transaction.

    Args:
        connection: A connection in a transaction that holds the writer's lock.
        known: The knowledge of the process.
        recorded_at_ms: Wall time of the batch, in milliseconds since the epoch.
        careful: Whether to check at once that each new aggregate does not exist; see `stream_exists`.

    Attributes:
        connection: The connection, in a transaction that holds the writer's lock.
        known: The knowledge of the process; before the commit the batch changes only entries that a failing batch may
            lose.
        recorded_at_ms: Wall time of the batch, in milliseconds since the epoch.
        events: Staged events, in the order of their notification ids.
        runs: Records at their heads, staged facts included; `None` where there is no such run.
        damaged: The unreadable runs.
        aggregates: Aggregates at their heads, staged events included.
        changed: The runs that have staged facts, with their record before the batch; `None` for new runs.
        heads: The aggregates' streams that have staged events, with their heads.
        sent: Staged messages for the outbox.
        progress: Staged batch rows of pipelines.
        touched: Whether a statement has changed the database, besides the staged writes.
        sealed: Buckets of ids whose pages this transaction has changed: pipeline and number.
        lost: The error that lost the transaction; `None` while the transaction is intact.
    """

    def __init__(
        self, connection: Connection, known: StoreCache, recorded_at_ms: int, *, careful: bool = False
    ) -> None:
        self.connection = connection
        self.known = known
        self.recorded_at_ms = recorded_at_ms
        self.events: list[StoredEvent] = []
        self.snapshots: list[StoredEvent] = []
        self.plans: list[tuple[str, str, str, int]] = []
        self.new_plans: dict[str, Plan] = {}
        self.runs: dict[str, RunRecord | None] = {}
        self.damaged: dict[str, Damage] = {}
        self.aggregates: dict[str, LoadedAggregate] = {}
        self.changed: dict[str, RunRecord | None] = {}
        self.heads: dict[str, int] = {}
        self.sent: list[Sent] = []
        self.progress: list[Progress] = []
        self.touched = False
        self.sealed: set[tuple[str, int]] = set()
        self.undo: list[tuple[dict[str, Any], str, Any]] = []
        self.savepoints: list[Savepoint] = []
        self.lost: exc.SQLAlchemyError | None = None
        self._careful = careful
        self._assumed: set[str] = set()
        self._absent: set[str] = set()

    # ---- reading

    def prefetch(self, run_ids: Iterable[str]) -> None:
        """Read the streams of several unknown runs at once, and record the damage of unreadable ones."""
        wanted: dict[str, RunRecord | None] = {}
        for run_id in run_ids:
            if run_id in self.runs or run_id in self.damaged or run_id in wanted:
                continue
            record = self.known.current_run(run_id)
            if record is not None:
                self.runs[run_id] = record
            else:
                wanted[run_id] = self.known.runs.get(run_id)
        if wanted:
            loaded = load_records(self.connection, self.known.codec, self.known.plans, wanted)
            self.runs.update(loaded.records)
            self.damaged.update(loaded.damaged)

    def record(self, run_id: str) -> RunRecord | None:
        """Return a run's record at its head, staged facts included.

        Raises:
            DamagedRunError: Its stream, or the plan that it names, is unreadable.
        """
        if run_id not in self.runs:
            with self.reading():
                self.prefetch((run_id,))
        if run_id in self.damaged:
            raise DamagedRunError(self.damaged[run_id])
        return self.runs[run_id]

    def first_facts(self, run_ids: Iterable[str]) -> dict[str, SagaStarted]:
        """Return the first facts of those runs that exist, and note that the others do not.

        A run whose first fact is unreadable is missing from the answer, and stays unknown.
        """
        found: dict[str, SagaStarted] = {}
        unknown: dict[str, str] = {}
        for run_id in run_ids:
            record = self.runs.get(run_id) or self.known.current_run(run_id)
            if record is not None:
                found[run_id] = record.started
            elif run_id not in self.runs and run_id not in self.damaged:
                unknown[stream_of_run(run_id)] = run_id
        if not unknown:
            return found
        with self.reading():
            rows = event_rows.read_first_events(self.connection, list(unknown))
        for row in rows:
            run_id = unknown.pop(str(row.originator_id))
            with suppress(JournalError):
                fact = self.known.codec.to_domain(row)
                if isinstance(fact, SagaStarted):
                    found[run_id] = fact
        self.runs.update(dict.fromkeys(unknown.values()))
        return found

    def aggregate(self, cls: type[Aggregate], stream: str) -> LoadedAggregate | None:
        """Return an aggregate at its head, staged events included; `None` when its stream has no events.

        Raises:
            JournalError: An event is unreadable, or does not follow from those before it.
        """
        held = self.aggregates.get(stream) or self.known.aggregates.pop(stream, None)
        if held is None:
            staged = [each for each in self.events if each.originator_id == stream] if stream in self.heads else []
            with self.reading():
                held = load_aggregate(self.connection, self.known.codec, cls, stream, staged)
        if held is not None:
            self.aggregates[stream] = held
        elif stream not in self.heads:
            self._absent.add(stream)
        return held

    def stream_exists(self, stream: str) -> bool:
        """Check whether a stream has any event, staged ones included.

        The batch assumes that an unknown stream is new, and checks all such streams together before the commit. The
        assumption is nearly always right, and a query for each stream would cost a round trip.
        """
        if stream in self.aggregates or stream in self.heads or stream in self.known.aggregates:
            return True
        if stream in self._absent:
            return False
        if not self._careful:
            self._assumed.add(stream)
            return False
        with self.reading():
            return bool(event_rows.streams_that_exist(self.connection, [stream]))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """End the batch if one of Amends' own reads fails, because the transaction is unusable after it."""
        try:
            yield
        except exc.SQLAlchemyError as error:
            raise self.fail(error) from error

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Return a block for Amends' own writes that are not staged, which a rollback discards as well."""
        self.open_savepoints()
        self.touched = True
        with self.reading():
            yield self.connection

    def fail(self, error: exc.SQLAlchemyError) -> BatchLost:
        """Record that the transaction is lost, and return the error to raise."""
        self.lost = self.lost or error
        return BatchLost(str(error))

    # ---- staging

    def put(self, target: dict[str, Any], key: str, value: object) -> None:
        """Set an entry in one of the batch's dictionaries so that a rollback restores it."""
        self.undo.append((target, key, target.get(key, _ABSENT)))
        target[key] = value

    def stage_facts(self, record: RunRecord, facts: Sequence[StoredEvent]) -> None:
        """Stage encoded facts, and the record after them."""
        self.events += facts
        run_id = record.run_id
        if run_id not in self.changed:
            self.put(self.changed, run_id, self.runs[run_id])
        self.put(self.runs, run_id, record)

    def stage_aggregate(self, stream: str, held: LoadedAggregate, events: Sequence[StoredEvent]) -> None:
        """Stage an aggregate's encoded events; after a rollback it is loaded again."""
        self.events += events
        self.put(self.heads, stream, held.version)
        self.undo.append((self.aggregates, stream, _ABSENT))
        self.aggregates[stream] = held

    def stage_plan(self, plan: Plan) -> None:
        """Stage a plan unless the store has it; replace an unreadable one."""
        if plan.fingerprint in self.new_plans:
            return
        with self.reading(), suppress(JournalError):
            if self.known.plans.read(self.connection, plan.fingerprint) is not None:
                return
        self.put(self.new_plans, plan.fingerprint, plan)
        self.plans.append((plan.fingerprint, plan.saga, plan.model_dump_json(), self.recorded_at_ms))

    def stage_message(
        self, message: SentMessage, *, keep_for: timedelta | None = None, repeats: int | None = None
    ) -> None:
        """Stage a message for the outbox."""
        self.sent.append(Sent(message, None if keep_for is None else keep_for // timedelta(milliseconds=1), repeats))

    def stage_progress(self, pipeline: str, partition: str, row: BatchRow) -> None:
        """Stage a batch row about the events that the present unit has staged."""
        start = self.savepoints[0].first_event if self.savepoints else 0
        row = replace(row, recorded_at_ms=self.recorded_at_ms)
        self.progress.append(Progress(pipeline, partition, row, start, len(self.events)))

    # ---- savepoints

    def savepoint(self, clean_up: Callable[[], None] | None = None) -> "Savepoint":
        """Return a block that keeps its staged writes on normal exit, and discards them on an exception.

        Args:
            clean_up: Called before the rollback.
        """
        return Savepoint(self, clean_up)

    def open_savepoints(self) -> None:
        """Create the open savepoints in the database, because a step is about to run its own SQL."""
        for each in self.savepoints:
            if not each.real:
                self.sql(f"SAVEPOINT {each.name}")
                each.real = True

    def sql(self, statement: str) -> None:
        """Run a statement that manages savepoints."""
        with self.reading():
            self.connection.exec_driver_sql(statement)

    # ---- the end

    @property
    def opened_again(self) -> tuple[RunRecord, ...]:
        """The runs that were closed before the batch and are open after it."""
        return tuple(
            record
            for run_id, former in self.changed.items()
            if former is not None
            and former.state.closed
            and (record := self.runs[run_id]) is not None
            and not record.state.closed
        )

    def flush(self) -> None:
        """Write everything that is staged.

        Raises:
            StaleAssumptionError: An aggregate that was assumed to be new exists.
            sqlalchemy.exc.IntegrityError: Another program wrote to one of the streams without the writer's lock.
        """
        if self._assumed and (found := event_rows.streams_that_exist(self.connection, sorted(self._assumed))):
            raise StaleAssumptionError(", ".join(found))
        if self.plans:
            event_rows.insert_plans(self.connection, self.plans)
        if self.events:
            event_rows.insert_events(self.connection, self.events)
        if self.changed:
            self._write_index()
        if self.snapshots:
            event_rows.insert_snapshots(self.connection, self.snapshots)
        if self.sent:
            insert_outbox(self.connection, self.sent, self.recorded_at_ms)
        if self.progress:
            self._write_progress()

    @property
    def eventless(self) -> bool:
        """Whether the batch has written something, but no event that would be the evidence of its commit."""
        return not self.events and (self.touched or bool(self.sent or self.progress))

    def _write_progress(self) -> None:
        # The database has just numbered the events one after the other, because it has one writer.
        before = event_rows.last_notification_id(self.connection) - len(self.events)
        rows = []
        for pipeline, partition, row, start, end in self.progress:
            ids = (before + start + 1, before + end) if start < end else (0, 0)
            rows.append((pipeline, partition, replace(row, first_event=ids[0], last_event=ids[1])))
        insert_batches(self.connection, rows)

    def _write_index(self) -> None:
        moved: list[RunSummary] = []
        other: list[RunSummary] = []
        keys: list[tuple[str, str, str]] = []
        for run_id, former in self.changed.items():
            record = self.runs[run_id]
            if record is None:
                continue
            (moved if former is not None and _stays(former, record) else other).append(record.summary)
            if former is None:
                keys += [(run_id, field, value) for field, value in record.started.keys.items()]
        if other:
            write_runs(self.connection, other)
        if moved:
            move_runs(self.connection, moved)
        if keys:
            write_keys(self.connection, keys)

    def keep(self) -> None:
        """Pass the batch's knowledge to the process, after the commit."""
        for plan in self.new_plans.values():
            self.known.plans.keep(plan)
        self.known.keep(self.runs, self.aggregates, len(self.events))


def _stays(former: RunRecord, record: RunRecord) -> bool:
    """Check whether the columns of a run's row that seldom change are unchanged."""
    return record.state.status is former.state.status and record.driver == former.driver


class Savepoint:
    """A block of a batch whose writes stay all together or not at all.

    Args:
        batch: The batch.
        clean_up: Called before a rollback.

    Attributes:
        first_event: Index of the block's first event among the staged events.
        name: Name of the savepoint in the database.
        real: Whether the database has it.
    """

    __slots__ = (
        "_batch",
        "_clean_up",
        "_plans",
        "_progress",
        "_sent",
        "_snapshots",
        "_undo",
        "first_event",
        "name",
        "real",
    )

    def __init__(self, batch: Batch, clean_up: Callable[[], None] | None) -> None:
        self._batch = batch
        self._clean_up = clean_up

    def __enter__(self) -> None:
        batch = self._batch
        self.first_event = len(batch.events)
        self._snapshots = len(batch.snapshots)
        self._plans = len(batch.plans)
        self._sent = len(batch.sent)
        self._progress = len(batch.progress)
        self._undo = len(batch.undo)
        self.name = f"amends_{len(batch.savepoints)}"
        self.real = False
        batch.savepoints.append(self)

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        batch = self._batch
        if kind is not None:
            if self._clean_up is not None:
                self._clean_up()
            self._roll_back()
        batch.savepoints.pop()
        if self.real and batch.lost is None:
            if kind is not None:
                batch.sql(f"ROLLBACK TO SAVEPOINT {self.name}")
            batch.sql(f"RELEASE SAVEPOINT {self.name}")

    def _roll_back(self) -> None:
        batch = self._batch
        del batch.events[self.first_event :]
        del batch.snapshots[self._snapshots :]
        del batch.plans[self._plans :]
        del batch.sent[self._sent :]
        del batch.progress[self._progress :]
        while len(batch.undo) > self._undo:
            target, key, former = batch.undo.pop()
            if former is _ABSENT:
                target.pop(key, None)
            else:
                target[key] = former
