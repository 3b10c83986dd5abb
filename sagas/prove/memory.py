"""The journal in memory: a `Tx` over frozen records, so that forking a world costs one pointer. Pure.

`MemoryTx` keeps the rules of `SqlTx` that a run can notice: positions without gaps, no append at a stale position, all
or nothing for each transaction step, and aggregates that are new only once. A test compares both.
"""

from collections.abc import Hashable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

from typing_extensions import override

from amends.aggregates.errors import AppendConflictError, JournalError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.intake import Intake
from amends.aggregates.journal import StepWork
from amends.aggregates.outbox import Outbox, SentMessage
from amends.aggregates.run.facts import Fact, Head, SagaStarted, stream_of_run
from amends.aggregates.run.plan import Plan
from amends.aggregates.run.record import RunRecord
from amends.aggregates.unit_of_work import CheckedWork
from amends.sagas.prove.books import Books
from amends.sagas.prove.problem import ProveError
from amends.sagas.prove.values import content_of, fork_aggregate

__all__ = ["STORE", "Appended", "Kept", "MemoryTx", "MemoryWork", "Shelf", "Tables"]

STORE = "prove"
"""Identity of the store in memory."""


class Tables(Protocol):
    """The user's own tables at one moment; it never changes."""

    @property
    def key(self) -> Hashable:
        """The content, for comparison."""
        ...

    def execute(self, statement: object) -> tuple[Sequence[tuple[Any, ...]], int, "Tables"]:
        """Run a statement; return its rows, the number of rows that it matched, and the tables after it."""
        ...


class Kept(NamedTuple):
    """An aggregate on the shelf; no one may change it.

    Attributes:
        aggregate: The aggregate.
        content: Its content, for comparison.
    """

    aggregate: Aggregate
    content: Hashable


class Shelf:
    """Aggregates and own tables of the user at one moment; it never changes.

    Args:
        kept: The aggregates by stream.
        tables: The user's own tables; `None` if there are none.

    Attributes:
        kept: The aggregates by stream.
        tables: The user's own tables.
        key: The content, for comparison.
    """

    __slots__ = ("kept", "key", "tables")

    def __init__(self, kept: Mapping[str, Kept] | None = None, tables: Tables | None = None) -> None:
        self.kept: Mapping[str, Kept] = kept or {}
        self.tables = tables
        self.key = (
            frozenset((stream, each.content) for stream, each in self.kept.items()),
            None if tables is None else tables.key,
        )


class Appended(NamedTuple):
    """One fact with the run before and after it.

    Attributes:
        before: The run before it.
        fact: The fact.
        after: The run after it.
        head: Its head, which a fact computes each time that it is asked.
    """

    before: RunRecord
    fact: Fact
    after: RunRecord
    head: Head


class MemoryWork(CheckedWork):
    """The parts of the store that one transaction step may use; a `StepWork`.

    Args:
        shelf: The aggregates and tables before the step.

    Attributes:
        acts: The key of the step's page in the books, its run, its node and whether the step is an undo; set by the
            function that runs the step, and `None` before.
    """

    def __init__(self, shelf: Shelf) -> None:
        super().__init__()
        self._shelf = shelf
        self._tables = shelf.tables
        self._used: dict[str, Aggregate] = {}
        self.acts: tuple[str, int, str, bool] | None = None

    @override
    def _load(self, cls: type[Aggregate], stream: str) -> Aggregate | None:
        aggregate = self._used.get(stream)
        if aggregate is None:
            kept = self._shelf.kept.get(stream)
            if kept is None:
                return None
            aggregate = self._used[stream] = fork_aggregate(kept.aggregate)
        return aggregate

    @override
    def _exists(self, cls: type[Aggregate], stream: str) -> bool:
        return stream in self._used or stream in self._shelf.kept

    @override
    def _keep(self, stream: str, aggregate: Aggregate) -> None:
        self._used[stream] = aggregate

    def execute(self, statement: object, *, expect_rows: int | None = None) -> Sequence[tuple[Any, ...]]:
        """Run an SQLAlchemy statement on the user's own tables.

        Raises:
            InputError: The statement matched another number of rows; the step's changes are undone.
            ProveError: The search knows no tables.
            UnitOfWorkError: The step has ended, or an earlier statement of it has failed.
        """
        self._check()
        if self._tables is None:
            raise ProveError("it uses your own tables, and the search knows none; pass tables=your MetaData")
        try:
            rows, matched, self._tables = self._tables.execute(statement)
        except Exception as error:
            self._spoiled = error
            raise
        self._check_rows(matched, expect_rows)
        return rows

    @override
    def _send(self, message: SentMessage) -> None:
        """Drop a message: nothing in a run depends on what a relay publishes."""

    def finished(self, codec: EventCodec) -> Shelf:
        """Return the aggregates and tables after the step.

        Args:
            codec: Checks that the new events can be stored.

        Raises:
            InputError: An event cannot be stored.
            UnitOfWorkError: A statement has failed, even if the step caught its error.
        """
        self._check_statements()
        changed: dict[str, Kept] = {}
        for stream, aggregate in self._used.items():
            events = list(aggregate.collect_events())
            if events:
                codec.register(type(aggregate))
                for event in events:
                    codec.to_stored(event)
                changed[stream] = Kept(aggregate, content_of(aggregate))
        if not changed and self._tables is self._shelf.tables:
            return self._shelf
        return Shelf({**self._shelf.kept, **changed}, self._tables)


class MemoryTx:
    """The `Tx` of the search.

    Args:
        records: The runs by id.
        books: The participants' books.
        shelf: The aggregates and tables.
        now_ms: The time of the append, in milliseconds.
        codec: Checks that events can be stored.

    Attributes:
        records: The runs by id, as this unit leaves them.
        books: The books, as this unit leaves them.
        shelf: The aggregates and tables, as this unit leaves them.
        appended: The facts that this unit has appended.
        recorded_at_ms: The time of the append, in milliseconds.
    """

    store_id = STORE

    def __init__(
        self, records: dict[str, RunRecord], books: Books, shelf: Shelf, now_ms: int, codec: EventCodec
    ) -> None:
        self.records = records
        self.books = books
        self.shelf = shelf
        self.appended: list[Appended] = []
        self.recorded_at_ms = now_ms
        self._codec = codec

    def record(self, run_id: str) -> RunRecord | None:
        """Return a run's record at the head of its stream; `None` when there is no such run."""
        return self.records.get(run_id)

    def accept(self, plan: Plan, fact: SagaStarted) -> RunRecord:
        """Begin a run's stream.

        Raises:
            AppendConflictError: The stream exists already.
        """
        present = self.records.get(fact.run_id)
        if present is not None:
            raise AppendConflictError(fact.originator_id, expected=0, actual=present.state.position)
        record = self.records[fact.run_id] = RunRecord.begin(plan, fact)
        return record

    def append(self, record: RunRecord, facts: Sequence[Fact]) -> RunRecord:
        """Append facts to a run's stream at head + 1, and return the record after them.

        Raises:
            AppendConflictError: `record` is not at the head, or a fact's position is not the next.
            TransitionError: A fact does not follow.
        """
        run_id, stream = record.run_id, stream_of_run(record.run_id)
        present = self.records[run_id]
        if record.state.position != present.state.position:
            raise AppendConflictError(stream, expected=record.state.position, actual=present.state.position)
        for fact in facts:
            if fact.originator_id != stream:
                raise JournalError(f"fact {fact.id} belongs to stream {fact.originator_id!r}, not to {stream!r}")
            if fact.originator_version != present.state.position + 1:
                raise AppendConflictError(stream, expected=fact.originator_version - 1, actual=present.state.position)
            after = present.apply(fact)
            self.appended.append(Appended(present, fact, after, after.recent[-1]))
            present = after
        self.records[run_id] = present
        return present

    def unit_of_work(self, *, cause: str = "", keep_sent_for: timedelta | None = None) -> "_Savepoint":  # noqa: ARG002 - of `Tx`
        """Open a savepoint for one transaction step; an exception discards the writes of the step."""
        return _Savepoint(self)

    def first_facts(self, run_ids: Sequence[str]) -> Mapping[str, SagaStarted]:
        """Return the first facts of those runs that exist."""
        return {run_id: record.started for run_id in run_ids if (record := self.records.get(run_id)) is not None}

    @property
    def intake(self) -> Intake:
        """Refuse: the search knows no pipelines."""
        raise ProveError("it uses the tables of the pipelines, which the search does not know")

    @property
    def outbox(self) -> Outbox:
        """Refuse: the search knows no relays."""
        raise ProveError("it uses the tables of the outbox, which the search does not know")

    def keep(self, work: MemoryWork) -> None:
        """Keep the writes of a step, and count it in the books.

        Raises:
            InputError: An event cannot be stored.
            UnitOfWorkError: A statement of the step has failed.
        """
        self.shelf = work.finished(self._codec)
        if work.acts is not None:
            key, run, node, undo = work.acts
            page = self.books.page(key, run, node)
            page = page._replace(undone=page.undone + 1) if undo else page._replace(acted=page.acted + 1)
            self.books = self.books.having(key, page)


class _Savepoint:
    """The block of one transaction step."""

    __slots__ = ("_tx", "_work")

    def __init__(self, tx: MemoryTx) -> None:
        self._tx = tx
        self._work = MemoryWork(tx.shelf)

    def __enter__(self) -> StepWork:
        return self._work

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        self._work.end()
        if kind is None:
            self._tx.keep(self._work)
