"""Views of running pipelines: their status as rows, fields and JSON. Pure.

The values of a status come from the store, the source and Temporal; a value that could not be read is `None`, and the
row leaves it out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pydantic import JsonValue

from amends.aggregates.intake import BatchRow, Counts, HeldKind, Position
from amends.cli.views.table import Column
from amends.cli.views.times import duration, moment
from amends.pipelines.control.state import ALL, PipelineState
from amends.pipelines.intake.modes import Mode

__all__ = [
    "PARTITIONS",
    "STATUS",
    "PartitionStatus",
    "PipelineStatus",
    "Rate",
    "mode_text",
    "partition_row",
    "rate_of",
    "status_fields",
    "status_json",
    "status_row",
]

_WINDOW_MS = 60_000

STATUS = (
    Column("name", 8, copied=True),
    Column("state", 7),
    Column("rate/s", 6, right=True),
    Column("backlog", 7, right=True),
    Column("behind", 6, right=True),
    Column("held", 4, right=True),
    Column("deferred", 8, right=True),
    Column("repeated", 8, right=True),
    Column("redelivered", 11, right=True),
    Column("replayed", 8, right=True),
    Column("again", 5, right=True),
    Column("mode", 12),
    Column("owner", 10, below=True),
    Column("attention", 20, below=True, prose=True),
)
"""Columns of the list of pipelines."""

PARTITIONS = (
    Column("partition", 9, copied=True),
    Column("position", 8, right=True),
    Column("end", 6, right=True),
    Column("backlog", 7, right=True),
    Column("behind", 6, right=True),
    Column("applied", 7, right=True),
    Column("held", 4, right=True),
    Column("token", 5),
    Column("owner", 10, below=True),
)
"""Columns of the partitions of a pipeline."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Messages that were taken lately.

    Attributes:
        messages: Their number.
        over_ms: The time in which they were taken, in milliseconds.
    """

    messages: int
    over_ms: int

    @property
    def per_second(self) -> float:
        """Messages a second."""
        return self.messages * 1000 / max(1, self.over_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionStatus:
    """The status of one partition.

    Attributes:
        name: The partition.
        position: Its position; `None` if it has never been read.
        counts: The sums of its commits.
        rate: The messages of the last minute.
        first: The position from which it would be read, if it has never been read.
        end: The position after the last message that the source has; `None` if it is unknown.
        behind_ms: The time by which it is behind, in milliseconds; `None` if it is unknown.
        owner: The worker that owns it; empty if none is known.
    """

    name: str
    position: Position | None
    counts: Counts = field(default_factory=Counts)
    rate: Rate = field(default_factory=lambda: Rate(0, _WINDOW_MS))
    first: int = 0
    end: int | None = None
    behind_ms: int | None = None
    owner: str = ""

    @property
    def backlog(self) -> int | None:
        """The number of positions that have not been read; `None` if it is unknown."""
        if self.end is None:
            return None
        return max(0, self.end - (self.first if self.position is None else self.position.next))


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStatus:
    """The status of a pipeline or relay.

    Attributes:
        kind: `pipeline` or `relay`.
        name: Its name.
        state: The fold of its facts; that of a relay is empty.
        partitions: Its partitions.
        held: The number of held messages by kind.
        changes: The differences between the declared and the present definition.
        problem: The reason for which its source cannot be asked; empty if it answered or was not asked.
        defined: Whether the project defines it.
    """

    kind: str
    name: str
    state: PipelineState
    partitions: Sequence[PartitionStatus] = ()
    held: Mapping[HeldKind, int] = field(default_factory=dict)
    changes: Sequence[str] = ()
    problem: str = ""
    defined: bool = True

    @property
    def word(self) -> str:
        """Its state in one word."""
        if self.state.paused is not None:
            return "paused"
        if self.state.replaced:
            return "stopped"
        if self.changes:
            return "changed"
        if not any(each.position for each in self.partitions):
            return "new"
        return "running" if any(each.owner or each.rate.messages for each in self.partitions) else "idle"

    @property
    def counts(self) -> Counts:
        """The sums over all partitions."""
        names = [each.name for each in fields(Counts)]
        return Counts(**{name: sum(getattr(each.counts, name) for each in self.partitions) for name in names})

    @property
    def rate(self) -> float:
        """Messages a second, of all partitions."""
        return sum(each.rate.per_second for each in self.partitions)

    @property
    def backlog(self) -> int | None:
        """The number of positions that have not been read; `None` if one is unknown."""
        known = [each.backlog for each in self.partitions if each.backlog is not None]
        return sum(known) if known and len(known) == len(self.partitions) else None

    @property
    def behind_ms(self) -> int | None:
        """The time by which the last partition is behind, in milliseconds; `None` if it is unknown."""
        return max((each.behind_ms for each in self.partitions if each.behind_ms is not None), default=None)

    @property
    def set_aside(self) -> int:
        """The number of held messages, without those that are deferred."""
        return sum(count for kind, count in self.held.items() if kind is not HeldKind.DEFERRED)

    @property
    def owners(self) -> tuple[str, ...]:
        """The workers that own its partitions."""
        return tuple(sorted({each.owner for each in self.partitions if each.owner}))

    @property
    def attention(self) -> tuple[str, ...]:
        """The conditions that a person has to deal with, a line each."""
        lines = list(self.state.attention)
        if self.changes:
            lines.append(f"its definition differs from the declared one: {'; '.join(self.changes)}")
        if self.set_aside:
            noun = "message is" if self.set_aside == 1 else "messages are"
            lines.append(f"{self.set_aside} {noun} set aside: amends pipeline quarantine list {self.name}")
        return tuple(lines)


def rate_of(rows: Sequence[BatchRow], now_ms: int, *, all_read: bool) -> Rate:
    """Return the messages of the last minute.

    Args:
        rows: The last commits of a partition, in order.
        now_ms: The time, in milliseconds since the epoch.
        all_read: Whether `rows` has every commit of the last minute; otherwise the rate is over the time of the rows.
    """
    late = [row for row in rows if row.recorded_at_ms > now_ms - _WINDOW_MS]
    over_ms = _WINDOW_MS
    if late and not all_read and len(late) == len(rows):
        over_ms = max(1, now_ms - late[0].recorded_at_ms)
    return Rate(sum(row.next - row.first - row.holes for row in late), over_ms)


def mode_text(state: PipelineState) -> str:
    """Return the mode in words, with the share if keys have two."""
    if state.uniform_mode is not None:
        return state.uniform_mode.value
    return f"{state.mode.value} {state.share} %, {state.former.value} {ALL - state.share} %"


def status_row(status: PipelineStatus) -> tuple[str, ...]:
    """Return a status as a row of `STATUS`."""
    counts = status.counts
    relay = status.kind == "relay"
    return (
        status.name,
        status.word,
        f"{status.rate:.1f}" if status.rate else "0",
        _number(status.backlog),
        _behind(status.behind_ms),
        _some(status.set_aside),
        _some(status.held.get(HeldKind.DEFERRED, 0)),
        _some(counts.repeated),
        _some(counts.redelivered),
        _some(counts.replayed),
        _some(counts.applied_again),
        "at-least-once" if relay else mode_text(status.state),
        ", ".join(status.owners),
        "; ".join(status.attention),
    )


def partition_row(status: PartitionStatus) -> tuple[str, ...]:
    """Return a partition as a row of `PARTITIONS`."""
    position, counts = status.position, status.counts
    return (
        status.name,
        "" if position is None else str(position.next),
        _number(status.end),
        _number(status.backlog),
        _behind(status.behind_ms),
        str(counts.applied),
        _some(counts.set_aside),
        "" if position is None else f"{position.token.slice}.{position.token.attempt}",
        status.owner,
    )


def status_fields(status: PipelineStatus) -> list[tuple[str, str]]:
    """Return a status as named fields."""
    state, counts = status.state, status.counts
    paused, changed = state.paused, state.mode_changed
    given = [
        ("state", status.word),
        ("mode", "at-least-once" if status.kind == "relay" else mode_text(state)),
        ("exactly once", _exactly_once(status)),
        ("mode since", _decided(changed.as_of_ms, changed.actor, changed.reason) if changed else ""),
        ("paused", _decided(paused.as_of_ms, paused.actor, paused.reason) if paused else ""),
        ("declared", f"{state.declared.fingerprint} by {state.declared.actor}" if state.declared else ""),
        ("rate", f"{status.rate:.1f} messages/s"),
        ("backlog", _backlog(status)),
        ("applied", str(counts.applied)),
        ("duplicates", _duplicates(counts)),
        ("held", ", ".join(f"{count} {kind.value}" for kind, count in status.held.items() if count)),
        ("skipped", _some(counts.skipped)),
        ("gaps", _some(counts.gaps)),
        ("lost", _some(state.lost)),
        ("owner", ", ".join(status.owners)),
        *(("attention", line) for line in status.attention),
    ]
    return [(name, value) for name, value in given if value]


def status_json(status: PipelineStatus) -> dict[str, JsonValue]:
    """Return a status as JSON."""
    state = status.state
    return {
        status.kind: status.name,
        "state": status.word,
        "defined": status.defined,
        "mode": "at-least-once" if status.kind == "relay" else mode_text(state),
        "share": None if state.uniform_mode is not None else state.share,
        "rate": round(status.rate, 3),
        "backlog": status.backlog,
        "behind_ms": status.behind_ms,
        "counts": asdict(status.counts),
        "held": {kind.value: count for kind, count in status.held.items()},
        "owners": list(status.owners),
        "paused": None if state.paused is None else state.paused.model_dump(mode="json"),
        "attention": list(status.attention),
        "problem": status.problem or None,
        "partitions": [_partition_json(each, state) for each in status.partitions],
    }


def _partition_json(status: PartitionStatus, state: PipelineState) -> dict[str, JsonValue]:
    position = status.position
    own: dict[str, Any] = {
        "partition": status.name,
        "position": None if position is None else position.next,
        "end": status.end,
        "backlog": status.backlog,
        "behind_ms": status.behind_ms,
        "mode_since": state.mode_since(status.name),
        "incarnation": None if position is None else position.incarnation,
        "token": None if position is None else list(position.token),
        "owner": status.owner or None,
        "counts": asdict(status.counts),
    }
    return own


def _exactly_once(status: PipelineStatus) -> str:
    """Return the position of each partition since which its messages take effect exactly once."""
    if status.kind == "relay" or status.state.uniform_mode is not Mode.EXACTLY_ONCE:
        return ""
    since = (
        (each.name, status.state.mode_since(each.name) or each.position.first)
        for each in status.partitions
        if each.position is not None
    )
    return ", ".join(f"{name} since position {at}" for name, at in since)


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _some(value: int) -> str:
    return str(value) if value else ""


def _behind(ms: int | None) -> str:
    return "" if ms is None else duration(ms)


def _backlog(status: PipelineStatus) -> str:
    if status.backlog is None:
        return f"unknown: {status.problem}" if status.problem else "unknown"
    behind = f", {duration(status.behind_ms)} behind" if status.behind_ms else ""
    return f"{status.backlog} messages{behind}"


def _duplicates(counts: Counts) -> str:
    named = (
        (counts.repeated, "repeated by producers"),
        (counts.redelivered, "delivered again"),
        (counts.replayed, "replayed"),
        (counts.applied_again, "applied again"),
    )
    return ", ".join(f"{count} {word}" for count, word in named if count) or "none"


def _decided(as_of_ms: int, actor: str, reason: str) -> str:
    return f"{moment(as_of_ms)} by {actor}: {reason}"
