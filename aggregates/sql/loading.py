"""Load records and aggregates from the rows of their streams, and keep those that a process has loaded.

The functions see committed data, or the view of the caller's own transaction. A snapshot only saves time: if it is
unusable, they fold the whole stream. `StoreCache` is the knowledge of the committer from batch to batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from eventsourcing.persistence import StoredEvent
from pydantic import ValidationError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from amends.aggregates.audit import RunAudit
from amends.aggregates.damage import RESTORE, Damage
from amends.aggregates.errors import AmendsError, DamagedRunError, EventError, JournalError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.events.snapshot import Snapshot, restore_snapshot
from amends.aggregates.run.facts import Fact, SagaStarted, run_of, stream_of_run
from amends.aggregates.run.plan import Plan
from amends.aggregates.run.reading import RunReading, RunRecords
from amends.aggregates.run.record import RunRecord
from amends.aggregates.sql import rows as event_rows
from amends.aggregates.sql.id_memory import IdMemory
from amends.aggregates.values.error_report import line_of

__all__ = [
    "LoadedAggregate",
    "Plans",
    "StoreCache",
    "load_aggregate",
    "load_record",
    "load_records",
    "read_run",
    "replay",
]

A = TypeVar("A", bound=Aggregate)

RUNS_KEPT = 10_000
"""The number of open runs that a process remembers."""

AGGREGATES_KEPT = 2_000
"""The number of aggregates that a process remembers."""

CHANGES_READ = 5_000
"""If other processes changed more streams than this, the process forgets everything instead of comparing."""


class Plans:
    """The plans that this process has read or written, by fingerprint; a plan never changes."""

    def __init__(self) -> None:
        self._known: dict[str, Plan] = {}

    def keep(self, plan: Plan) -> None:
        """Remember a plan that is in the store, or will be after the commit of the present transaction."""
        self._known[plan.fingerprint] = plan

    def read(self, connection: Connection, fingerprint: str) -> Plan | None:
        """Return a plan, reading it at most once; `None` when the store has none with this fingerprint.

        Raises:
            JournalError: This version cannot read the stored plan.
        """
        if fingerprint not in self._known:
            text = event_rows.read_plan(connection, fingerprint)
            if text is None:
                return None
            try:
                self._known[fingerprint] = Plan.model_validate_json(text)
            except ValidationError as error:
                raise JournalError(
                    f"plan {fingerprint} cannot be read: {error.error_count()} fields are not valid in this version "
                    "of amends"
                ) from error
        return self._known[fingerprint]


@dataclass(slots=True)
class LoadedAggregate:
    """An aggregate in memory.

    Attributes:
        aggregate: The object that steps work on.
        version: The position up to which its events are stored or staged.
        snapshot_version: Position of the last snapshot or attempted snapshot; 0 for none.
    """

    aggregate: Aggregate
    version: int
    snapshot_version: int


class StoreCache:
    """The knowledge of one process about the store from batch to batch; exact whenever it holds the writer's lock.

    Args:
        codec: Writes and reads events.
        plans: Plans that the process has read or written.

    Attributes:
        ids: The memory of message ids.
    """

    def __init__(self, codec: EventCodec, plans: Plans) -> None:
        self.codec = codec
        self.plans = plans
        self.ids = IdMemory()
        self.runs: dict[str, RunRecord] = {}
        self.aggregates: dict[str, LoadedAggregate] = {}
        self._behind: set[str] = set()
        self._last_id: int | None = None

    def forget(self) -> None:
        """Discard the knowledge, because it may be wrong."""
        self.runs.clear()
        self.aggregates.clear()
        self._behind.clear()
        self.ids.forget()
        self._last_id = None

    def refresh(self, connection: Connection) -> None:
        """Bring the knowledge up to date with the writes of other processes since the last refresh or batch."""
        last_id = event_rows.last_notification_id(connection)
        if last_id == self._last_id:
            return
        # A shorter log means that the store was restored from a backup.
        if self._last_id is None or last_id < self._last_id:
            self.forget()
        elif self.runs or self.aggregates:
            changed = event_rows.changed_streams(connection, self._last_id, CHANGES_READ)
            if changed is None:
                self.forget()
            for stream, head in changed or ():
                self._compare(stream, head)
        self._last_id = last_id

    def _compare(self, stream: str, head: int) -> None:
        run_id = run_of(stream)
        if run_id is None:
            held = self.aggregates.get(stream)
            if held is not None and held.version != head:
                del self.aggregates[stream]
        elif run_id in self.runs and self.runs[run_id].state.position != head:
            self._behind.add(run_id)

    def current_run(self, run_id: str) -> RunRecord | None:
        """Return a run's record if it is known to be at its head."""
        return None if run_id in self._behind else self.runs.get(run_id)

    def keep(
        self, runs: Mapping[str, RunRecord | None], aggregates: Mapping[str, LoadedAggregate], new_events: int
    ) -> None:
        """Add the knowledge of a batch after its commit: its runs, its aggregates and the number of its events."""
        if self._last_id is not None:
            # A lower bound, because the database may have skipped ids. Then the next refresh reports this process's own
            # streams as changed, at the heads that it knows.
            self._last_id += new_events
        for run_id, record in runs.items():
            self._behind.discard(run_id)
            self.runs.pop(run_id, None)
            # A closed run is rarely used again, and its data may be large.
            if record is not None and not record.state.closed:
                self.runs[run_id] = record
        self.aggregates.update(aggregates)
        for run_id in _trim(self.runs, RUNS_KEPT):
            self._behind.discard(run_id)
        _trim(self.aggregates, AGGREGATES_KEPT)


def _trim(kept: dict[str, Any], bound: int) -> list[str]:
    """Drop the entries that were unused for longest (a dictionary keeps the order of insertion); return their keys."""
    dropped = list(islice(kept, max(0, len(kept) - bound)))
    for key in dropped:
        del kept[key]
    return dropped


def load_record(connection: Connection, codec: EventCodec, plans: Plans, run_id: str) -> RunRecord | None:
    """Return the record of a run by folding its stream; `None` when there is no such run.

    Raises:
        DamagedRunError: The stream, or the plan that it names, is unreadable.
    """
    loaded = load_records(connection, codec, plans, {run_id: None})
    if run_id in loaded.damaged:
        raise DamagedRunError(loaded.damaged[run_id])
    return loaded.records[run_id]


def load_records(
    connection: Connection, codec: EventCodec, plans: Plans, known: Mapping[str, RunRecord | None]
) -> RunRecords:
    """Bring the records of several runs to the heads of their streams, reading only the unknown facts.

    An unreadable run raises no error: the function returns its damage, and reads the others.

    Args:
        connection: Any connection to the store.
        codec: Codec that reads the facts.
        plans: Plans in memory; the function adds the plans that it reads.
        known: By run id, the record to continue from; `None` to start at the beginning.
    """
    loaded = RunRecords(dict(known), {})
    cold = [run_id for run_id, record in known.items() if record is None]
    behind = {run_id: record for run_id, record in known.items() if record is not None}
    lowest = min((record.state.position for record in behind.values()), default=0)
    for run_ids, after in ((cold, 0), (list(behind), lowest)):
        if not run_ids:
            continue
        by_stream = {stream_of_run(run_id): run_id for run_id in run_ids}
        for stream, events in event_rows.read_streams(connection, list(by_stream), after).items():
            run_id = by_stream[stream]
            try:
                facts = map(codec.to_domain, events)
                loaded.records[run_id] = _fold(connection, plans, loaded.records[run_id], facts)
            except SQLAlchemyError:
                raise
            except Exception as error:  # noqa: BLE001 - a fault of one run must not stop the others
                del loaded.records[run_id]
                loaded.damaged[run_id] = _damage(connection, codec, plans, run_id, error)
    return loaded


def _fold(connection: Connection, plans: Plans, record: RunRecord | None, facts: Iterable[Fact]) -> RunRecord | None:
    for fact in facts:
        if record is None:
            if not isinstance(fact, SagaStarted):
                raise JournalError(f"stream {fact.originator_id!r} begins with {fact.kind}")
            plan = plans.read(connection, fact.fingerprint)
            if plan is None:
                raise JournalError(f"run {fact.run_id!r} follows plan {fact.fingerprint}, which is not in the store")
            record = RunRecord.begin(plan, fact)
        elif fact.position > record.state.position:
            record = record.apply(fact)
    return record


def _damage(connection: Connection, codec: EventCodec, plans: Plans, run_id: str, error: Exception) -> Damage:
    """Return the first unreadable place, as `amends db check` finds it."""
    reading = read_run(connection, codec, plans, run_id)
    if reading is not None and reading.damage:
        return reading.damage[0]
    return Damage(run_id, stream_of_run(run_id), None, line_of(error), RESTORE)


def read_run(connection: Connection, codec: EventCodec, plans: Plans, run_id: str) -> RunReading | None:
    """Read the readable part of a run; `None` when there is no such run."""
    audit = RunAudit(stream_of_run(run_id), codec, lambda fingerprint: plans.read(connection, fingerprint), keep=True)
    for stored in event_rows.read_stream(connection, audit.stream):
        audit.feed(stored)
    if not audit.count:
        return None
    return RunReading(audit.record, tuple(audit.events), tuple(finding.damage for finding in audit.findings))


def load_aggregate(
    connection: Connection, codec: EventCodec, cls: type[A], stream: str, staged: Sequence[StoredEvent] = ()
) -> LoadedAggregate | None:
    """Return an aggregate, folded from its latest snapshot, the events after it, and events that are not stored yet.

    Returns:
        `None` when the stream has no events.

    Raises:
        JournalError: An event is unreadable, or does not follow from those before it.
    """
    row, tail = event_rows.read_snapshot_and_tail(connection, stream)
    aggregate: Aggregate | None = None
    if row is not None:
        aggregate = restore_snapshot(cls, Snapshot(stream, row.originator_version, row.topic, row.state))
    if aggregate is None and (row is not None or not tail or tail[0].originator_version != 1):
        tail = event_rows.read_stream(connection, stream)
    snapshot_version = aggregate.version if aggregate is not None else 0
    aggregate = replay(codec, aggregate, [*tail, *staged])
    return None if aggregate is None else LoadedAggregate(aggregate, aggregate.version, snapshot_version)


def replay(codec: EventCodec, aggregate: Aggregate | None, events: Iterable[StoredEvent]) -> Aggregate | None:
    """Apply stored events to an aggregate, or to `None` if they start with the first event.

    Raises:
        JournalError: An event is unreadable, or does not follow from those before it.
    """
    for stored in events:
        event = codec.to_domain(stored)
        try:
            aggregate = event.mutate(aggregate)
        except (AmendsError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise EventError(
                str(stored.originator_id),
                stored.originator_version,
                f"{stored.topic} cannot be applied: {line_of(error)}",
                "correct the event's method",
            ) from error
    return aggregate
