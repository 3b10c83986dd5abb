"""The argument of a drift rule: the journal to read, its new facts, and the time. Nothing in it can write."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TypeVar

from eventsourcing.persistence import Notification

from amends.aggregates.damage import Damage
from amends.aggregates.errors import ChangedEventError, DamagedRunError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.intake import IntakeReader
from amends.aggregates.journal import JournalReader, RunQuery
from amends.aggregates.run.facts import Fact, run_of, stream_of_run
from amends.aggregates.run.record import RunRecord, RunSummary

__all__ = ["Observation"]

A = TypeVar("A", bound=Aggregate)

_PAGE = 500


@dataclass
class Observation:
    """The argument of a drift rule.

    Reading blocks for as long as the store takes. A plain `def` rule runs in a thread of its own, where this does no
    harm; an `async def` rule runs on the event loop, so it must read through `asyncio.to_thread`.

    Attributes:
        now_ms: Time of the scan, in milliseconds since the epoch. A rule reads no clock.
        known: Subjects whose drift is open. A rule that reads only new facts must scan these too, because drift that a
            scan does not find again is cleared.
        log_position: Notification id up to which earlier scans of this rule have read.
        sweep: Position of this rule's sweep of everything, in a form that the rule chooses; empty at the beginning. A
            rule that does not scan everything each time scans the part that begins here, and sets this to the start of
            the next part, or to "" after the last one. The scan records it: a part that was swept before a crash is not
            swept again.
        count: The number of subjects scanned; `None` until `scanned` is called.
        damaged: The runs and other streams that could not be read, by stream. They are reported with the drift that the
            rule finds, so that one of them does not stop the scan of the others.
    """

    _journal: JournalReader = field(repr=False)
    now_ms: int
    known: tuple[str, ...] = ()
    log_position: int = 0
    sweep: str = ""
    count: int | None = None
    damaged: dict[str, Damage] = field(default_factory=dict)

    @property
    def now(self) -> datetime:
        """Time of the scan."""
        return datetime.fromtimestamp(self.now_ms / 1000, UTC)

    @property
    def store_id(self) -> str:
        """Identity of the store."""
        return self._journal.store_id

    @property
    def intake(self) -> IntakeReader:
        """The tables of pipelines: positions, commits and held messages."""
        return self._journal.intake

    def scanned(self, subjects: int) -> None:
        """Add to the number of scanned subjects; a rule with a `share` must call this."""
        self.count = (self.count or 0) + subjects

    def record(self, run_id: str) -> RunRecord | None:
        """Read a run's record; return `None` when no such run exists, and for a damaged run, which is then reported."""
        try:
            return self._journal.record_blocking(run_id)
        except DamagedRunError as error:
            self._report(error.damage)
            return None

    def facts(self, run_id: str, after: int = 0) -> Sequence[Fact]:
        """Read a run's facts after a position, in order; none of a damaged run, which is then reported."""
        try:
            return self._journal.facts_blocking(run_id, after)
        except DamagedRunError as error:
            self._report(error.damage)
            return ()

    def records(self, query: RunQuery) -> Iterator[tuple[RunSummary, RunRecord]]:
        """List runs from the read model with their records, page by page; report those that cannot be read."""
        rows = self.runs(query)
        while page := [*islice(rows, query.limit)]:
            found = self._journal.records_blocking([row.run_id for row in page])
            for damage in found.damaged.values():
                self._report(damage)
            for row in page:
                if (record := found.records.get(row.run_id)) is not None:
                    yield row, record

    def is_damaged(self, run_id: str) -> bool:
        """Check whether this scan has met this run and could not read it."""
        return stream_of_run(run_id) in self.damaged

    def _report(self, damage: Damage) -> None:
        self.damaged.setdefault(damage.stream, damage)

    def runs(self, query: RunQuery | None = None) -> Iterator[RunSummary]:
        """List runs from the read model, newest first, in pages of the query's limit, to the last one."""
        query = query or RunQuery(limit=_PAGE)
        while page := self._journal.runs_blocking(query):
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
        """Read an aggregate, or return `None` when there is none; changes to it are not saved."""
        return self._journal.load_blocking(cls, id)

    def new_events(self) -> Iterator[Notification]:
        """Read the events written since the last scan that succeeded, in order.

        An event counts as read after its scan is recorded. An event that was changed without the journal is skipped,
        and reported.
        """
        while True:
            try:
                page = self._journal.notifications_blocking(self.log_position, _PAGE)
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
