"""What a drift rule is given: the journal to read, what is new in it, and the time. Nothing in it can write."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Protocol, TypeVar

from eventsourcing.persistence import Notification

from amends.aggregates.damage import Damage
from amends.aggregates.errors import ChangedEventError, DamagedRunError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.journal import RunQuery
from amends.aggregates.run.facts import Fact, run_of, stream_of_run
from amends.aggregates.run.reading import RunRecords
from amends.aggregates.run.record import RunRecord, RunSummary

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

    def records_blocking(self, run_ids: Sequence[str]) -> RunRecords:
        """Read the records of several runs; a run that cannot be read does not stop the others."""
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
        damaged: The runs and other streams that could not be read, by stream. They are reported with the drift that the
            rule finds, so that one of them does not keep the rule from looking at the others.
    """

    _reading: Reading = field(repr=False)
    now_ms: int
    known: tuple[str, ...] = ()
    log_position: int = 0
    sweep: str = ""
    count: int | None = None
    damaged: dict[str, Damage] = field(default_factory=dict)

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
        """Read a run's record; `None` when there is no such run, and for a damaged run, which is then reported."""
        try:
            return self._reading.record_blocking(run_id)
        except DamagedRunError as error:
            self._report(error.damage)
            return None

    def facts(self, run_id: str, after: int = 0) -> Sequence[Fact]:
        """Read a run's facts after a position, in order; none of a damaged run, which is then reported."""
        try:
            return self._reading.facts_blocking(run_id, after)
        except DamagedRunError as error:
            self._report(error.damage)
            return ()

    def records(self, query: RunQuery) -> Iterator[tuple[RunSummary, RunRecord]]:
        """List runs from the read model with their records, page by page; those that cannot be read are reported."""
        rows = self.runs(query)
        while page := [*islice(rows, query.limit)]:
            found = self._reading.records_blocking([row.run_id for row in page])
            for damage in found.damaged.values():
                self._report(damage)
            for row in page:
                if (record := found.records.get(row.run_id)) is not None:
                    yield row, record

    def is_damaged(self, run_id: str) -> bool:
        """Check whether this look has found a run that cannot be read."""
        return stream_of_run(run_id) in self.damaged

    def _report(self, damage: Damage) -> None:
        self.damaged.setdefault(damage.stream, damage)

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
        """Read what was written since the last look that succeeded, in order.

        What a rule has read counts as read once its look is recorded. An event that was changed behind the journal's
        back is left out, and reported.
        """
        while True:
            try:
                page = self._reading.notifications_blocking(self.log_position, _PAGE)
            except ChangedEventError as error:
                if error.notification_id is None:
                    raise
                self._report(Damage(run_of(error.stream), error.stream, error.position, error.problem, error.remedy))
                self.log_position = error.notification_id
                continue
            if not page:
                return
            for each in page:
                self.log_position = each.id
                yield each
