"""The view that units have of a batch: `Tx`, and the savepoint of a transaction step.

A step gets the aggregates that the process remembers, so it must not keep them. If a step changes aggregates and then
raises, the process loads them again.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from eventsourcing.persistence import StoredEvent
from sqlalchemy import Executable, exc
from typing_extensions import override

from amends.aggregates.errors import AppendConflictError, InputError, JournalError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.events.snapshot import SnapshotSkipped, take_snapshot
from amends.aggregates.journal import StepWork
from amends.aggregates.outbox import SentMessage
from amends.aggregates.run.facts import Fact, SagaStarted, stream_of_run
from amends.aggregates.run.plan import Plan
from amends.aggregates.run.record import RunRecord
from amends.aggregates.sql.batch import Batch
from amends.aggregates.sql.intake import SqlIntake, SqlOutbox
from amends.aggregates.sql.loading import LoadedAggregate
from amends.aggregates.sql.schema import metadata
from amends.aggregates.unit_of_work import CheckedWork

__all__ = ["SqlStepWork", "SqlTx"]

SNAPSHOT_EVERY = 200
"""The number of events of an aggregate after which a snapshot is taken; it bounds the cost of loading."""

_log = logging.getLogger(__name__)


class SqlStepWork(CheckedWork):
    """The parts of the store that one transaction step may use; a `StepWork`.

    Args:
        batch: The batch that the step's unit is part of.
        cause: Id of the run or of the message that causes the messages that the step sends.
        keep_sent_for: Time for which the outbox keeps these messages also after a relay has published them.
    """

    def __init__(self, batch: Batch, cause: str = "", *, keep_sent_for: timedelta | None = None) -> None:
        super().__init__(cause)
        self._batch = batch
        self._keep_sent_for = keep_sent_for
        self._used: dict[str, LoadedAggregate] = {}
        self._before: dict[str, dict[str, Any]] = {}

    @override
    def _load(self, cls: type[Aggregate], stream: str) -> Aggregate | None:
        held = self._used.get(stream)
        if held is None:
            self._batch.known.codec.register(cls)
            held = self._batch.aggregate(cls, stream)
            if held is None:
                return None
            self._used[stream] = held
            self._before[stream] = _image(held.aggregate)
        return held.aggregate

    @override
    def _exists(self, cls: type[Aggregate], stream: str) -> bool:
        self._batch.known.codec.register(cls)
        return stream in self._used or self._batch.stream_exists(stream)

    @override
    def _keep(self, stream: str, aggregate: Aggregate) -> None:
        self._used[stream] = LoadedAggregate(aggregate, 0, 0)

    @override
    def _send(self, message: SentMessage) -> None:
        self._batch.stage_message(message, keep_for=self._keep_sent_for)

    def execute(self, statement: object, *, expect_rows: int | None = None) -> Sequence[tuple[Any, ...]]:
        """Run an SQLAlchemy statement on the user's own tables of the same database.

        Args:
            statement: A SQLAlchemy Core statement.
            expect_rows: The number of rows that it must match (or return); `None` for any number.

        Returns:
            The rows, for a statement that returns rows; otherwise nothing.

        Raises:
            InputError: The statement matched another number of rows; the step's changes are undone.
            UnitOfWorkError: The step has ended, or an earlier statement of it has failed.
        """
        self._check()
        if not isinstance(statement, Executable):
            raise InputError(f"execute() takes an SQLAlchemy statement, not {type(statement).__name__}; use text()")
        table = getattr(getattr(statement, "table", None), "name", None)
        if table in metadata.tables:
            raise InputError(f"table {table!r} belongs to the journal; steps change aggregates and their own tables")
        self._batch.open_savepoints()
        self._batch.touched = True
        try:
            result = self._batch.connection.execute(statement, execution_options={"preserve_rowcount": True})
            rows = [tuple(row) for row in result] if result.returns_rows else []
        except exc.DBAPIError as error:
            if error.connection_invalidated:
                raise self._batch.fail(error) from error
            self._spoiled = error
            raise
        matched = len(rows) if result.returns_rows else result.rowcount
        self._check_rows(matched, expect_rows)
        return rows

    def finish(self) -> None:
        """Stage the new events of the aggregates.

        Raises:
            InputError: An event cannot be stored.
            UnitOfWorkError: A statement has failed, even if the step caught its error.
        """
        self._check_statements()
        for stream, held in self._used.items():
            if held.aggregate.version != held.version:
                self._stage(stream, held)

    def _stage(self, stream: str, held: LoadedAggregate) -> None:
        codec = self._batch.known.codec
        events: list[StoredEvent] = []
        position = held.version
        for event in held.aggregate.collect_events():
            position += 1
            if event.originator_version != position:
                raise AppendConflictError(stream, expected=event.originator_version - 1, actual=position - 1)
            events.append(codec.to_stored(event))
        held.version = position
        self._batch.stage_aggregate(stream, held, events)
        if position - held.snapshot_version >= SNAPSHOT_EVERY:
            self._snapshot(held)

    def _snapshot(self, held: LoadedAggregate) -> None:
        taken = take_snapshot(held.aggregate)
        held.snapshot_version = held.version
        if isinstance(taken, SnapshotSkipped):
            # No id and no reason, which may quote the state: a log must not contain user data.
            _log.warning(
                "cannot take a snapshot of aggregate %s; Amends folds its events instead", _class_of(held.aggregate)
            )
            return
        self._batch.snapshots.append(StoredEvent(taken.stream, taken.position, taken.key, taken.state))

    def abandon(self) -> None:
        """Drop the aggregates that the step may have changed."""
        for stream in self._used:
            before = self._before.get(stream)
            held = self._batch.aggregates.get(stream)
            if held is not None and (before is None or not _untouched(held.aggregate, before)):
                del self._batch.aggregates[stream]


def _class_of(aggregate: Aggregate) -> str:
    return f"{type(aggregate).__module__}.{type(aggregate).__qualname__}"


# ---- checking whether a step that raised has left an aggregate unchanged

_ATOMS = frozenset({bool, int, float, complex, str, bytes, type(None), Decimal, datetime, date, timedelta, UUID})
_BOXES = frozenset({list, dict, set, tuple, frozenset})
_COMPARED = 64


def _image(aggregate: Aggregate) -> dict[str, Any]:
    """Return a copy of an aggregate's attributes, one level deep, to check later that flat ones are unchanged."""
    image: dict[str, Any] = {}
    for name, value in vars(aggregate).items():
        kind = type(value)
        if kind in _BOXES and len(value) <= _COMPARED:
            image[name] = (kind, tuple(value.items()) if kind is dict else tuple(value))
        else:
            image[name] = value
    return image


def _untouched(aggregate: Aggregate, before: dict[str, Any]) -> bool:
    """Check whether an aggregate is certainly unchanged; `False` if a cheap check cannot decide."""
    now = _image(aggregate)
    return now.keys() == before.keys() and all(_same(value, before[name]) for name, value in now.items())


def _same(now: Any, before: Any) -> bool:  # noqa: ANN401 - a user's attributes
    """Compare by identity, which is exact for immutable values."""
    if type(now) in _ATOMS or isinstance(now, Enum):
        return now is before
    if type(now) is tuple and type(before) is tuple:
        return len(now) == len(before) and all(_same(a, b) for a, b in zip(now, before, strict=True))
    return isinstance(now, type) and now is before


class SqlTx:
    """The `Tx` that units get.

    Args:
        batch: The batch that the unit is part of.
        store_id: Identity of the store.
    """

    def __init__(self, batch: Batch, store_id: str) -> None:
        self._batch = batch
        self._store_id = store_id

    @property
    def store_id(self) -> str:
        """Identity of the store, chosen when its schema was created."""
        return self._store_id

    @property
    def recorded_at_ms(self) -> int:
        """Wall time of this batch in milliseconds since the epoch; no decision depends on it."""
        return self._batch.recorded_at_ms

    def record(self, run_id: str) -> RunRecord | None:
        """Return a run's record at the head of its stream; `None` when there is no such run."""
        return self._batch.record(run_id)

    def accept(self, plan: Plan, fact: SagaStarted) -> RunRecord:
        """Begin a run's stream, and store its plan unless an earlier run has stored it.

        Raises:
            AppendConflictError: The stream exists already.
            JournalError: The fact names another plan.
        """
        batch = self._batch
        present = batch.record(fact.run_id)
        if present is not None:
            raise AppendConflictError(fact.originator_id, expected=0, actual=present.state.position)
        if fact.fingerprint != plan.fingerprint:
            raise JournalError(
                f"run {fact.run_id!r}: SagaStarted names plan {fact.fingerprint}, not {plan.fingerprint}"
            )
        record = RunRecord.begin(plan, fact)
        stored = batch.known.codec.to_stored(fact)
        batch.stage_plan(plan)
        batch.stage_facts(record, [stored])
        return record

    def append(self, record: RunRecord, facts: Sequence[Fact]) -> RunRecord:
        """Append facts to a run's stream at head + 1, and return the record after them.

        Raises:
            AppendConflictError: `record` is not at the head, or a fact's position is not the next.
            TransitionError: A fact does not follow.
        """
        batch = self._batch
        stream = stream_of_run(record.run_id)
        present = batch.record(record.run_id)
        head = present.state.position if present is not None else 0
        if present is None or record.state.position != head:
            raise AppendConflictError(stream, expected=record.state.position, actual=head)
        to_stored = batch.known.codec.to_stored
        stored = []
        for fact in facts:
            if fact.originator_id != stream:
                raise JournalError(f"fact {fact.id} belongs to stream {fact.originator_id!r}, not to {stream!r}")
            if fact.originator_version != head + 1:
                raise AppendConflictError(stream, expected=fact.originator_version - 1, actual=head)
            present = present.apply(fact)
            stored.append(to_stored(fact))
            head += 1
        if stored:
            batch.stage_facts(present, stored)
        return present

    def first_facts(self, run_ids: Sequence[str]) -> Mapping[str, SagaStarted]:
        """Return the first facts of those runs that exist, one row each; `accept` of the others then reads nothing."""
        return self._batch.first_facts(run_ids)

    @property
    def intake(self) -> SqlIntake:
        """The tables of the pipelines."""
        return SqlIntake(self._batch)

    @property
    def outbox(self) -> SqlOutbox:
        """The messages that wait for a relay."""
        return SqlOutbox(self._batch)

    def unit_of_work(self, *, cause: str = "", keep_sent_for: timedelta | None = None) -> "_Step":
        """Open a savepoint for one transaction step.

        On normal exit the batch stages the events of the step's aggregates. On an exception it discards all writes of
        the step, and keeps the earlier writes of the unit.

        Args:
            cause: Id of the run or of the message that causes the messages that the step sends; empty if there is none.
            keep_sent_for: Time for which the outbox keeps these messages also after a relay has published them.

        Raises:
            JournalError: Another step of the same unit has not ended yet.
        """
        if len(self._batch.savepoints) > 1:
            raise JournalError("a step is running in this unit; run the steps of one unit one after the other")
        return _Step(self._batch, SqlStepWork(self._batch, cause, keep_sent_for=keep_sent_for))


class _Step:
    """The block of one transaction step."""

    __slots__ = ("_savepoint", "_work")

    def __init__(self, batch: Batch, work: SqlStepWork) -> None:
        self._work = work
        self._savepoint = batch.savepoint(self._work.abandon)

    def __enter__(self) -> StepWork:
        self._savepoint.__enter__()
        return self._work

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._work.end()
        if kind is None:
            try:
                self._work.finish()
            except BaseException as failure:
                self._savepoint.__exit__(type(failure), failure, None)
                raise
        self._savepoint.__exit__(kind, error, traceback)
