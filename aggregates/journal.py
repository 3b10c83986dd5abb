"""Ports of the journal: what the layers above use, and what an adapter provides.

The journal is the truth about every run. All writing happens in *units*: functions of a `Tx`, which a committer runs
one after the other inside one database transaction and commits together. A unit must do nothing but look at and write
to its `Tx`: when a commit fails, the units of its batch are run again.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.run.facts import Fact, SagaStarted
from amends.aggregates.run.plan import Plan
from amends.aggregates.run.reading import RunRecords
from amends.aggregates.run.record import RunRecord, RunSummary
from amends.aggregates.run.state import RunStatus

__all__ = ["Journal", "OnOpened", "RunQuery", "StepWork", "Tx", "Unit"]

A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

OnOpened = Callable[[RunRecord], None]
"""Is told of a run that was closed and is open again, with its record."""


class StepWork(Protocol):
    """What a transaction step may touch: aggregates and own tables of our store, all or nothing.

    Users see it as `UnitOfWork`.

    Everything that is read here is still true when the step's events are written, because units run one at a time in
    the writing transaction: two runs that read the same thing and write different ones cannot both be right by accident
    (write skew).
    """

    def get(self, cls: type[A], id: str) -> A:  # noqa: A002 - the word that aggregates use
        """Load an aggregate; what is done to it is saved when the step succeeds.

        Raises:
            NotFoundError: There is no such aggregate.
        """
        ...

    def find(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - the word that aggregates use
        """Load an aggregate, or `None` when there is none."""
        ...

    def add(self, aggregate: A) -> A:
        """Save a new aggregate when the step succeeds.

        Raises:
            InputError: An aggregate of this class and id exists already.
        """
        ...

    def execute(self, statement: object, *, expect_rows: int | None = None) -> Sequence[tuple[Any, ...]]:
        """Run an SQLAlchemy statement on the user's own tables of the same database.

        Args:
            statement: A SQLAlchemy Core statement.
            expect_rows: How many rows it must match (or return); `None` for any number.

        Returns:
            The rows, for a statement that returns rows; otherwise nothing.

        Raises:
            InputError: Another number of rows was matched; the step's changes are undone with it.
        """
        ...


class Tx(Protocol):
    """One unit's view of the writing transaction; it sees its own and all earlier units' writes."""

    @property
    def store_id(self) -> str:
        """Identity of the store, made when its schema was created."""
        ...

    @property
    def recorded_at_ms(self) -> int:
        """Wall time of this batch in milliseconds since the epoch; decides nothing."""
        ...

    def record(self, run_id: str) -> RunRecord | None:
        """Return a run's record at the head of its stream; `None` when there is no such run.

        Raises:
            DamagedRunError: The run's facts cannot all be read.
        """
        ...

    def accept(self, plan: Plan, fact: SagaStarted) -> RunRecord:
        """Begin a run's stream, and keep its plan when it is the first run that follows it.

        Raises:
            AppendConflictError: The stream exists already.
        """
        ...

    def append(self, record: RunRecord, facts: Sequence[Fact]) -> RunRecord:
        """Continue a run's stream at head + 1, and fold what was appended.

        Raises:
            AppendConflictError: `record` is not at the head, or a fact's position is not the next.
            TransitionError: A fact does not follow.
        """
        ...

    def unit_of_work(self) -> AbstractContextManager[StepWork]:
        """Open a savepoint for one transaction step.

        On normal exit the events of the aggregates that were used are appended; on an exception nothing of it remains,
        and what the unit wrote before stays.
        """
        ...


class Unit(Protocol[T_co]):
    """A function that is run by the committer, perhaps more than once, and whose writes are committed once."""

    def __call__(self, tx: Tx, /) -> T_co:
        """Look at the journal, write to it, and give the caller an answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """Which runs to list, newest first.

    Attributes:
        statuses: Only these; empty for all.
        saga: Only runs of this saga.
        since_ms: Only runs accepted at or after this time, in milliseconds since the epoch.
        where: Business keys and the values that they must have, all of them.
        limit: At most so many, at least 1.
        before: Page on: only runs that are listed after this one.
    """

    statuses: frozenset[RunStatus] = frozenset()
    saga: str | None = None
    since_ms: int | None = None
    where: tuple[tuple[str, str], ...] = ()
    limit: int = 50
    before: str | None = None


class Journal(Protocol):
    """The event store of one or many processes.

    Guarantees: an append is all or nothing and gapless per stream; the order of commits is the order of notification
    ids; a unit's answer is given only after its commit is on disk.
    """

    @property
    def store_id(self) -> str:
        """Identity of the store, made when its schema was created."""
        ...

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
            Exception: Whatever the unit raised; nothing of it was written.
        """
        ...

    def listen(self, on_opened: OnOpened) -> Callable[[], None]:
        """Have a function called for every run that a commit of this process has opened again.

        Args:
            on_opened: Called in the committer's thread, after the commit and before its answers are given; it must
                return at once.

        Returns:
            What ends that; it may be called more than once.
        """
        ...

    async def ping(self) -> None:
        """Look whether the store answers.

        Raises:
            UnreachableError: It does not.
        """
        ...

    async def record(self, run_id: str) -> RunRecord | None:
        """Read a run's record as committed; `None` when there is no such run.

        Raises:
            DamagedRunError: The run's facts cannot all be read.
        """
        ...

    async def records(self, run_ids: Sequence[str]) -> RunRecords:
        """Read the records of several runs as committed; a run that cannot be read does not stop the others."""
        ...

    async def facts(self, run_id: str, after: int = 0) -> list[Fact]:
        """Read a run's facts after a position, in order.

        Raises:
            DamagedRunError: One of them is missing or cannot be read.
        """
        ...

    async def runs(self, query: RunQuery) -> list[RunSummary]:
        """List runs from the read model."""
        ...

    async def load(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - the word that aggregates use
        """Read an aggregate as committed; changes to it are not saved."""
        ...

    async def close(self) -> None:
        """Commit what is waiting, then let go of the database."""
        ...
