"""Feed of closed runs: the notification log of the journal, of which it keeps the facts that close a run.

Theory of operation: the number of a message is that of its fact in the log, and its content is the run as it was then,
so a message that is published again is the same. A run that cannot be read is set aside, and the others go on. How it
can fail: the position moves only with a message or after many facts, so a restart reads a part of the log again.
"""

from eventsourcing.persistence import Notification

from amends.aggregates.errors import ChangedEventError, JournalError, TransitionError, UnreachableError
from amends.aggregates.intake import Position
from amends.aggregates.journal import Journal, Tx
from amends.aggregates.run.fact import FactKind, run_of
from amends.aggregates.run.record import RunRecord, fold_facts
from amends.aggregates.values.strict_json import canonical_text
from amends.pipelines.definition.relays import RunRelay
from amends.pipelines.runtime.feed import Entry, Page
from amends.pipelines.sink import Published

__all__ = ["RUNS", "RunFeed"]

RUNS = "runs"
"""Name of the one partition of a relay of closed runs."""

_BATCH = 1_000
_WITHOUT_MESSAGE = 10_000
_CLOSING = frozenset(f"amends.{kind}" for kind in (FactKind.SAGA_COMPLETED, FactKind.SAGA_COMPENSATED))


class RunFeed:
    """The closed runs of a store.

    Args:
        journal: The store.
        relay: The relay.
    """

    def __init__(self, journal: Journal, relay: RunRelay) -> None:
        self._journal = journal
        self._relay = relay
        self._read = 0

    @property
    def partition(self) -> str:
        """The name of the relay's one partition."""
        return RUNS

    def claimed(self, tx: Tx, position: Position) -> None:  # noqa: ARG002 - of the port
        """Read from the stored position."""
        self._read = position.next - 1

    def read_blocking(self, position: Position) -> Page | None:
        """Return the next closed runs."""
        entries: list[Entry] = []
        while not entries:
            try:
                log = self._journal.notifications_blocking(self._read, _BATCH)
            except ChangedEventError as error:
                if error.notification_id is None:
                    raise
                entries = self._changed(error, error.notification_id)
                self._read = error.notification_id
                continue
            if not log:
                break
            entries = [entry for each in log if _closes(each) and (entry := self._entry(each)) is not None]
            self._read = log[-1].id
        passed = self._read + 1 - position.next
        if not entries and passed < _WITHOUT_MESSAGE:
            return None
        return Page(entries=entries, next=self._read + 1, holes=passed - len(entries), passed=_nothing)

    def _entry(self, closing: Notification) -> Entry | None:
        run_id, position = run_of(str(closing.originator_id)) or "", int(closing.originator_version)
        fault, value, sent_ms = "", b"", 0
        try:
            record = self._record(run_id, position)
        except UnreachableError:
            raise
        except (JournalError, TransitionError) as error:
            fault = f"run {run_id!r} cannot be read: {error}"
        else:
            if self._relay.sagas is not None and record.started.saga not in self._relay.sagas:
                return None
            value, sent_ms = canonical_text(record.summary.to_json()).encode(), record.summary.updated_ms
        id_ = f"{self._journal.store_id}/{run_id}/{position}"
        return Entry(closing.id, run_id, Published(id_, self._relay.topic, run_id, value), sent_ms, fault)

    def _record(self, run_id: str, position: int) -> RunRecord:
        """Return a run as it was at a position of its stream."""
        record = self._journal.record_blocking(run_id)
        if record is None:
            raise JournalError("its facts are missing")
        if record.state.position == position:
            return record
        facts = [fact for fact in self._journal.facts_blocking(run_id) if fact.originator_version <= position]
        return fold_facts(record.state.plan, facts)

    def _changed(self, error: ChangedEventError, number: int) -> list[Entry]:
        run_id = run_of(error.stream)
        if run_id is None:
            return []
        id_ = f"{self._journal.store_id}/{run_id}/{error.position}"
        return [Entry(number, run_id, Published(id_, self._relay.topic, run_id, b""), 0, str(error))]


def _closes(each: Notification) -> bool:
    return str(each.topic) in _CLOSING and run_of(str(each.originator_id)) is not None


def _nothing(tx: Tx) -> None:
    """Delete nothing: the facts stay."""
