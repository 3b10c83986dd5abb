"""What a drift rule is given: the journal to read, what is new in it, and the time. Nothing in it can write."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from eventsourcing.persistence import Notification

from amends.aggregates.domain import Aggregate
from amends.aggregates.facts import Fact
from amends.aggregates.journal import RunQuery
from amends.aggregates.record import RunRecord, RunSummary

__all__ = ["Observation", "Reading"]

A = TypeVar("A", bound=Aggregate)

_PAGE = 500


class Reading(Protocol):
    """The part of the journal that reads; as committed, each answer at its own moment."""

    @property
    def store_id(self) -> str:
        """Identity of the store."""
        ...

    def record_blocking(self, run_id: str) -> RunRecord | None:
        """Read a run's record; `None` when there is no such run."""
        ...

    def facts_blocking(self, run_id: str, after: int = 0) -> list[Fact]:
        """Read a run's facts after a position, in order."""
        ...

    def runs_blocking(self, query: RunQuery) -> list[RunSummary]:
        """List runs from the read model."""
        ...

    def load_blocking(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - the word that aggregates use
        """Read an aggregate; changes to it are not saved."""
        ...

    def notifications_blocking(self, after: int = 0, limit: int = 1_000) -> list[Notification]:
        """Read the notification log after an id, in order."""
        ...


@dataclass
class Observation:
    """What a drift rule looks with.

    Reading blocks for as long as the store takes. A plain `def` rule runs in a thread of its own, where nothing minds;
    an `async def` rule runs on the event loop, so it reads by `asyncio.to_thread`.

    Attributes:
        now_ms: Time of the look, in milliseconds since the epoch. A rule reads no clock.
        known: Subjects whose drift is open. A rule that reads only what is new must look at these as well: what a look
            does not find any more is cleared.
        log_position: Notification id up to which earlier looks of this rule have read.
        sweep: Where this rule's sweep of everything stands, in its own words; empty at the beginning. A rule that does
            not look at everything each time looks at the part that begins here, and sets it to where the next look goes
            on, or to "" when it is through. It is recorded with the look: what was swept before a crash is not swept
            again.
        count: How many subjects were looked at; `None` until `looked_at` is called.
    """

    _reading: Reading = field(repr=False)
    now_ms: int
    known: tuple[str, ...] = ()
    log_position: int = 0
    sweep: str = ""
    count: int | None = None

    @property
    def now(self) -> datetime:
        """Time of the look."""
        return datetime.fromtimestamp(self.now_ms / 1000, UTC)

    @property
    def store_id(self) -> str:
        """Identity of the store."""
        return self._reading.store_id

    def looked_at(self, subjects: int) -> None:
        """Say that so many more subjects were looked at; a rule with a `share` must."""
        self.count = (self.count or 0) + subjects

    def record(self, run_id: str) -> RunRecord | None:
        """Read a run's record; `None` when there is no such run."""
        return self._reading.record_blocking(run_id)

    def facts(self, run_id: str, after: int = 0) -> Sequence[Fact]:
        """Read a run's facts after a position, in order."""
        return self._reading.facts_blocking(run_id, after)

    def runs(self, query: RunQuery | None = None) -> Iterator[RunSummary]:
        """List runs from the read model, newest first, in pages of the query's limit, to the last one."""
        query = query or RunQuery(limit=_PAGE)
        while page := self._reading.runs_blocking(query):
            yield from page
            query = RunQuery(
                statuses=query.statuses,
                saga=query.saga,
                since_ms=query.since_ms,
                where=query.where,
                limit=query.limit,
                before=page[-1].run_id,
            )

    def load(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - the word that aggregates use
        """Read an aggregate, or `None` when there is none; changes to it are not saved."""
        return self._reading.load_blocking(cls, id)

    def news(self) -> Iterator[Notification]:
        """Read what was written since the last look that succeeded, in order, all of it.

        What a rule has read counts as read once its look is recorded.
        """
        while page := self._reading.notifications_blocking(self.log_position, _PAGE):
            for each in page:
                self.log_position = each.id
                yield each
