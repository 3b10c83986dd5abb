"""Ports of the journal: the interface that the layers above use and an adapter provides.

The journal is the truth about every run. Only *units* write to it. A unit is a function of a `Tx`; a committer runs
several units one after the other inside one database transaction and commits them together. A unit must read and write
nothing but its `Tx`, because the committer runs all units of a batch again when a commit fails.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import BaseModel, JsonValue

from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.intake import Intake, IntakeReader
from amends.aggregates.outbox import Outbox, OutboxMessage, OutboxReader
from amends.aggregates.run.facts import Fact, SagaStarted
from amends.aggregates.run.plan import Plan
from amends.aggregates.run.reading import RunRecords
from amends.aggregates.run.record import RunRecord, RunSummary
from amends.aggregates.run.state import RunStatus

if TYPE_CHECKING:
    from eventsourcing.persistence import Notification

__all__ = ["Journal", "JournalReader", "OnOpened", "RunQuery", "StepWork", "Tx", "Unit"]

A = TypeVar("A", bound=Aggregate)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

OnOpened = Callable[[RunRecord], None]
"""Function that receives the record of a run that was closed and is open again."""


class StepWork(Protocol):
    """The parts of the store that a transaction step may use: aggregates and the user's own tables, all or nothing.

    A handler of messages receives it as it is, and a transaction step as a part of its `UnitOfWork`.

    Everything that the step reads here is still true when its events are written, because units run one at a time in
    the writing transaction. There is no write skew: of two runs that read the same data and write different data, the
    second reads the writes of the first.
    """

    def get(self, cls: type[A], id: str) -> A:  # noqa: A002 - the word that aggregates use
        """Load an aggregate; its changes are saved when the step succeeds.

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
            expect_rows: The number of rows that it must match (or return); `None` for any number.

        Returns:
            The rows, for a statement that returns rows; otherwise nothing.

        Raises:
            InputError: The statement matched another number of rows; the step's changes are undone.
        """
        ...

    def send(
        self, topic: str, *, key: str, value: BaseModel | JsonValue | bytes, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Send a message when the step succeeds: the outbox stores it in the commit, and a relay publishes it.

        Args:
            topic: Name of the destination, as the relays know it.
            key: Key that orders it: messages of one topic and key keep their order.
            value: A pydantic model or JSON value, which is written as JSON, or the bytes to publish.
            headers: Further headers, by name.

        Raises:
            InputError: An argument cannot be stored.
        """
        ...


class Tx(Protocol):
    """One unit's view of the writing transaction; it sees its own and all earlier units' writes."""

    @property
    def store_id(self) -> str:
        """Identity of the store, chosen when its schema was created."""
        ...

    @property
    def recorded_at_ms(self) -> int:
        """Wall time of this batch in milliseconds since the epoch; no decision depends on it."""
        ...

    def record(self, run_id: str) -> RunRecord | None:
        """Return a run's record at the head of its stream; `None` when there is no such run.

        Raises:
            DamagedRunError: Some facts of the run are unreadable.
        """
        ...

    def accept(self, plan: Plan, fact: SagaStarted) -> RunRecord:
        """Begin a run's stream, and store its plan unless an earlier run has stored it.

        Raises:
            AppendConflictError: The stream exists already.
        """
        ...

    def append(self, record: RunRecord, facts: Sequence[Fact]) -> RunRecord:
        """Append facts to a run's stream at head + 1, and return the record after them.

        Raises:
            AppendConflictError: `record` is not at the head, or a fact's position is not the next.
            TransitionError: A fact does not follow.
        """
        ...

    def first_facts(self, run_ids: Sequence[str]) -> Mapping[str, SagaStarted]:
        """Return the first facts of those runs that exist, one row each; `accept` of the others then reads nothing.

        A run whose first fact is unreadable is missing from the answer, and `accept` raises `DamagedRunError` for it.
        """
        ...

    def unit_of_work(
        self, *, cause: str = "", keep_sent_for: timedelta | None = None
    ) -> AbstractContextManager[StepWork]:
        """Open a savepoint for one transaction step.

        On normal exit the journal appends the events of the step's aggregates. On an exception it discards all writes
        of the step, and keeps the earlier writes of the unit.

        Args:
            cause: Id of the run or of the message that causes the messages that the step sends; empty if there is none.
            keep_sent_for: Time for which the outbox keeps these messages also after a relay has published them, for
                `send_again`; `None` to delete them then.
        """
        ...

    @property
    def intake(self) -> Intake:
        """The tables of the pipelines."""
        ...

    @property
    def outbox(self) -> Outbox:
        """The messages that wait for a relay."""
        ...


class Unit(Protocol[T_co]):
    """A function that the committer may run more than once; its writes are committed once."""

    def __call__(self, tx: Tx, /) -> T_co:
        """Read the journal, write to it, and return an answer for the caller."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """A selection of runs to list, newest first.

    Attributes:
        statuses: Only these; empty for all.
        saga: Only runs of this saga.
        since_ms: Only runs accepted at or after this time, in milliseconds since the epoch.
        where: Business keys and their values; a run must match all of them.
        limit: Largest number of runs to list, at least 1.
        before: Only runs that are listed after this one, for the next page; `None` for the first page.
    """

    statuses: frozenset[RunStatus] = frozenset()
    saga: str | None = None
    since_ms: int | None = None
    where: tuple[tuple[str, str], ...] = ()
    limit: int = 50
    before: str | None = None


class JournalReader(Protocol):
    """The reading part of the journal: nothing in it can write.

    Each method blocks the calling thread until the store answers, and its answer shows the committed state at that
    moment.
    """

    @property
    def store_id(self) -> str:
        """Identity of the store, chosen when its schema was created."""
        ...

    def record_blocking(self, run_id: str) -> RunRecord | None:
        """Read a run's record; `None` when there is no such run.

        Raises:
            DamagedRunError: Some facts of the run are unreadable.
        """
        ...

    def records_blocking(self, run_ids: Sequence[str]) -> RunRecords:
        """Read the records of several runs; an unreadable run does not stop the others."""
        ...

    def facts_blocking(self, run_id: str, after: int = 0) -> list[Fact]:
        """Read a run's facts after a position, in order.

        Raises:
            DamagedRunError: A fact is missing or unreadable.
        """
        ...

    def runs_blocking(self, query: RunQuery) -> list[RunSummary]:
        """List runs from the read model."""
        ...

    def load_blocking(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - the word that aggregates use
        """Read an aggregate; `None` when there is none. The journal does not save changes to it."""
        ...

    def notifications_blocking(self, after: int = 0, limit: int = 1_000) -> "list[Notification]":
        """Read the notification log after an id, in order; a reader that has seen an id never finds a new smaller one.

        Raises:
            ChangedEventError: The first notification does not match its checksum. A page ends before such a
                notification.
        """
        ...

    @property
    def intake(self) -> IntakeReader:
        """The tables of the pipelines, as committed."""
        ...

    def outbox_blocking(
        self, after: int = 0, limit: int = 1_000, topics: Sequence[str] | None = None
    ) -> list[OutboxMessage]:
        """Read the outbox after an id, in order; a reader that has seen an id never finds a new smaller one.

        Args:
            after: Id of the last message that was read.
            limit: Largest number of messages.
            topics: Only messages of these topics; `None` for all.

        Returns:
            The messages, among them those that somebody has changed in the store; see `OutboxMessage.intact`.
        """
        ...

    def outbox_topics_blocking(self) -> Mapping[str, int]:
        """Count the messages of the outbox by topic, without those that are kept for a repetition."""
        ...

    def outbox_readers_blocking(self) -> list[OutboxReader]:
        """Read the positions of the readers of the outbox, in the order of their names.

        Raises:
            JournalError: A row does not match its checksum.
        """
        ...

    def outbox_size_blocking(self, after: int = 0, topics: Sequence[str] | None = None) -> int:
        """Count the messages of the outbox after an id; arguments as for `outbox_blocking`."""
        ...


class Journal(JournalReader, Protocol):
    """The event store, which one or many processes use.

    Guarantees: an append is all or nothing, and gapless per stream. The order of commits is the order of notification
    ids. A caller gets the answer of its unit only after the commit is on disk.

    The methods without `_blocking` are for event loops: they read in threads.
    """

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
        ...

    def listen(self, on_opened: OnOpened) -> Callable[[], None]:
        """Call a function for every run that a commit of this process opens again.

        Args:
            on_opened: The function. The committer's thread calls it after the commit and before the callers get their
                answers, so it must return at once.

        Returns:
            A function that ends the subscription; it may be called more than once.
        """
        ...

    async def ping(self) -> None:
        """Check that the store answers.

        Raises:
            UnreachableError: The store does not answer.
        """
        ...

    async def record(self, run_id: str) -> RunRecord | None:
        """Run `record_blocking` in a thread."""
        ...

    async def records(self, run_ids: Sequence[str]) -> RunRecords:
        """Run `records_blocking` in a thread."""
        ...

    async def facts(self, run_id: str, after: int = 0) -> list[Fact]:
        """Run `facts_blocking` in a thread."""
        ...

    async def runs(self, query: RunQuery) -> list[RunSummary]:
        """Run `runs_blocking` in a thread."""
        ...

    async def load(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - the word that aggregates use
        """Run `load_blocking` in a thread."""
        ...

    async def close(self) -> None:
        """Commit the waiting units, then close the database."""
        ...
