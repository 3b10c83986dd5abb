"""Find faults in a stream, and in the data that is derived from the stream, by folding the stream again. Pure.

An audit receives all rows of one stream in order and keeps at most one finding of each kind, so that a damaged stream
of a million events is one line of output. `sql.check` reads the rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from eventsourcing.persistence import StoredEvent

from amends.aggregates.damage import RESTORE, Damage
from amends.aggregates.errors import (
    AmendsError,
    ChangedEventError,
    EventError,
    NewerFactError,
    TransitionError,
    UnknownTopicError,
)
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.events.snapshot import Snapshot, restore_snapshot
from amends.aggregates.run.facts import SagaStarted, run_of
from amends.aggregates.run.plan import Plan
from amends.aggregates.run.record import RunRecord, RunSummary
from amends.aggregates.values.error_report import line_of
from amends.aggregates.values.roundtrip import first_difference
from amends.aggregates.values.strict_json import ascii_json, clean_text

__all__ = [
    "DELETE_SNAPSHOTS",
    "REBUILD",
    "RESTORE_PLAN",
    "AggregateAudit",
    "Finding",
    "FindingKind",
    "RunAudit",
    "StreamAudit",
]

DELETE_SNAPSHOTS = "delete the stream's snapshots"
"""The remedy for a wrong snapshot: the next load takes a new one."""

REBUILD = "rebuild the read model"
"""The remedy for a wrong row of the read model."""

RESTORE_PLAN = "restore the plan from a backup, or start a run of the same definition, which stores its plan again"
"""The remedy for a plan that is missing or changed."""


class FindingKind(StrEnum):
    """The kind of a fault."""

    DATABASE = "database"
    """The database itself is damaged."""
    GAP = "gap"
    """Positions of a stream are missing."""
    CHANGED = "changed"
    """A row does not match its checksum."""
    DAMAGED = "damaged"
    """An event or plan is unreadable."""
    UNKNOWN_TOPIC = "unknown topic"
    """No loaded module defines the event."""
    NEWER = "newer"
    """A newer version of the program wrote the event."""
    IMPOSSIBLE = "impossible"
    """An event does not follow from those before it."""
    NO_PLAN = "no plan"
    """A run follows a plan that is not in the store."""
    SNAPSHOT = "snapshot"
    """A snapshot differs from the state that folding the events gives."""
    READ_MODEL = "read model"
    """A run's row or business keys differ from the result of folding its facts."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of a store.

    Attributes:
        kind: The kind of the fault.
        subject: The stream, plan or table.
        position: Position in the stream; `None` when the fault is not at an event.
        problem: The fault, in one line without a remedy.
        remedy: The steps that an operator can take.
    """

    kind: FindingKind
    subject: str
    position: int | None
    problem: str
    remedy: str

    @property
    def message(self) -> str:
        """The problem and the remedy, in one line."""
        return f"{self.problem}; {self.remedy}"

    @property
    def damage(self) -> Damage:
        """The finding as a `Damage`, for readers of runs."""
        version = self.kind in {FindingKind.NEWER, FindingKind.UNKNOWN_TOPIC}
        return Damage(run_of(self.subject), self.subject, self.position, self.problem, self.remedy, version)

    @property
    def fixed_by_rebuild(self) -> bool:
        """Whether rebuilding the read model from the journal fixes it."""
        return self.kind is FindingKind.READ_MODEL


class StreamAudit:
    """Folds one stream and collects its faults.

    Args:
        stream: Its name.
        codec: Reads the events.
        after: Position after which the rows begin; above 0 nothing can be folded, because the start is missing.
        keep: Whether to keep all events and all findings.

    Attributes:
        stream: Its name.
        findings: The faults so far.
        last: Position of the last row; 0 before the first one.
        count: The number of rows read.
        events: Every readable event, also those after a damage; empty unless `keep` is set.
    """

    def __init__(self, stream: str, codec: EventCodec, *, after: int = 0, keep: bool = False) -> None:
        self.stream = stream
        self.events: list[Any] = []
        self._keep = keep
        self.findings: list[Finding] = []
        self.last = after
        self.count = 0
        self._codec = codec
        self._sound = True

    @property
    def sound(self) -> bool:
        """Whether every row so far was readable and could be folded."""
        return self._sound

    def feed(self, stored: StoredEvent) -> None:
        """Check the next row."""
        position = stored.originator_version
        self.count += 1
        if position != self.last + 1:
            self._broken(FindingKind.GAP, *_gap(self.last, position), RESTORE)
        self.last = position
        try:
            event = self._codec.to_domain(stored)
        except EventError as error:
            self._broken(_KINDS.get(type(error), FindingKind.DAMAGED), position, error.problem, error.remedy)
        except Exception as error:  # noqa: BLE001 - a row may contain anything, and a user's upcaster may raise anything
            self._broken(FindingKind.DAMAGED, position, f"cannot be read: {line_of(error)}", RESTORE)
        else:
            if self._keep:
                self.events.append(event)
            if self._sound:
                self._fold(event, stored)

    def _fold(self, event: Any, stored: StoredEvent) -> None:  # noqa: ANN401 - a fact or a user's event
        """Fold the event into the state of the stream; this base class keeps no state."""

    def _broken(self, kind: FindingKind, position: int, problem: str, remedy: str) -> None:
        """Record a fault after which the stream cannot be folded further."""
        self._sound = False
        self._found(kind, position, problem, remedy)

    def _found(self, kind: FindingKind, position: int | None, problem: str, remedy: str) -> None:
        if self._keep or all(finding.kind is not kind for finding in self.findings):
            self.findings.append(Finding(kind, clean_text(self.stream), position, problem, remedy))


_KINDS: dict[type[EventError], FindingKind] = {
    ChangedEventError: FindingKind.CHANGED,
    UnknownTopicError: FindingKind.UNKNOWN_TOPIC,
    NewerFactError: FindingKind.NEWER,
}


def _gap(last: int, position: int) -> tuple[int, str]:
    """Return the wrong position in a stream that does not continue with the next one, and the problem."""
    if position <= last:
        return position, f"position {position} cannot follow position {last}"
    if position == last + 2:
        return last + 1, "the event is missing"
    return last + 1, f"the events from here to position {position - 1} are missing"


class RunAudit(StreamAudit):
    """Folds a run's facts, and compares its row and keys in the read model with the result.

    Args:
        stream: The run's stream.
        codec: Reads the facts.
        plan_of: Returns a plan by its fingerprint, `None` when there is none; may raise `JournalError`.
        keep: Whether to keep all facts and all findings.

    Attributes:
        record: The run's record up to the first damage; `None` before the first fact.
    """

    def __init__(
        self, stream: str, codec: EventCodec, plan_of: Callable[[str], Plan | None], *, keep: bool = False
    ) -> None:
        super().__init__(stream, codec, keep=keep)
        self._plan_of = plan_of
        self.record: RunRecord | None = None

    def _fold(self, event: Any, stored: StoredEvent) -> None:  # noqa: ANN401 - as above
        try:
            if self.record is not None:
                self.record = self.record.apply(event)
            else:
                self._begin(event)
        except TransitionError as error:
            self._broken(FindingKind.IMPOSSIBLE, stored.originator_version, str(error), RESTORE)
        except Exception as error:  # noqa: BLE001 - a fact that someone wrote by hand may contain anything
            self._broken(FindingKind.IMPOSSIBLE, stored.originator_version, line_of(error), RESTORE)

    def _begin(self, event: Any) -> None:  # noqa: ANN401 - as above
        if not isinstance(event, SagaStarted):
            found = type(event).__name__
            self._broken(FindingKind.IMPOSSIBLE, 1, f"begins with {found}, not SagaStarted", RESTORE)
            return
        try:
            plan = self._plan_of(event.fingerprint)
        except AmendsError as error:
            self._broken(FindingKind.DAMAGED, 1, str(error), RESTORE_PLAN)
            return
        if plan is None:
            self._broken(FindingKind.NO_PLAN, 1, f"plan {event.fingerprint} is not in the store", RESTORE_PLAN)
            return
        self.record = RunRecord.begin(plan, event)

    def compare(self, row: Mapping[str, Any] | None, keys: frozenset[tuple[str, str]]) -> None:
        """Compare the run with the read model; a run that cannot be folded is not compared.

        Args:
            row: The columns of the run's row; `None` when the run has no row.
            keys: The business keys that the read model has for the run, as field and value.
        """
        if not self._sound or self.record is None:
            return
        summary = self.record.summary
        if row is None:
            self._found(FindingKind.READ_MODEL, None, "the run has no row", REBUILD)
            return
        wrong = [
            f"{name} is {found!r}, the journal says {expected!r}"
            for name, expected in _columns(summary).items()
            if (found := row[name]) != expected
        ]
        if keys != frozenset((clean_text(field), clean_text(value)) for field, value in summary.keys.items()):
            wrong.append("its business keys differ")
        if wrong:
            self._found(FindingKind.READ_MODEL, None, "; ".join(wrong), REBUILD)


def _columns(summary: RunSummary) -> dict[str, Any]:
    columns = summary._asdict()
    columns["status"] = summary.status.value
    # As text: JSON can be written in several ways, and only one of them was written.
    columns["keys"] = ascii_json(dict(summary.keys))
    columns["error"] = None if summary.error is None else clean_text(summary.error)
    return columns


class AggregateAudit(StreamAudit):
    """Folds an aggregate's events, and compares its newest snapshot with the result at that position.

    Args:
        stream: The aggregate's stream.
        codec: Reads the events.
        snapshot: The newest snapshot; `None` when there is none.
    """

    def __init__(self, stream: str, codec: EventCodec, snapshot: Snapshot | None) -> None:
        super().__init__(stream, codec)
        self._snapshot = snapshot
        self._aggregate: Aggregate | None = None

    def _fold(self, event: Any, stored: StoredEvent) -> None:  # noqa: ANN401 - as above
        position = stored.originator_version
        try:
            self._aggregate = event.mutate(self._aggregate)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - users' methods may raise anything
            problem = f"{stored.topic} cannot be applied: {line_of(error)}"
            self._broken(FindingKind.IMPOSSIBLE, position, problem, "correct the event's method")
            return
        if self._snapshot is not None and self._snapshot.position == position and self._aggregate is not None:
            self._compare(self._aggregate, self._snapshot)

    def _compare(self, folded: Aggregate, snapshot: Snapshot) -> None:
        restored = restore_snapshot(type(folded), snapshot)
        if restored is None:
            # A snapshot of other code is never used, so a difference does no harm.
            return
        lost = first_difference(_state(folded), _state(restored))
        if lost is not None:
            self._found(
                FindingKind.SNAPSHOT,
                snapshot.position,
                f"the snapshot and the events differ in {lost.path or 'the state'}",
                DELETE_SNAPSHOTS,
            )

    def finish(self) -> None:
        """Check the conditions that only the last row decides."""
        if self._snapshot is not None and self._snapshot.position > self.last:
            self._found(
                FindingKind.SNAPSHOT,
                self._snapshot.position,
                f"the snapshot is ahead of the last event, at {self.last}",
                DELETE_SNAPSHOTS,
            )


def _state(aggregate: Aggregate) -> dict[str, Any]:
    return {name: value for name, value in vars(aggregate).items() if name != "_pending_events"}
