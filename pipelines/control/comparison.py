"""The comparison of a pipeline's effects with the messages of its source. Pure.

An id must have an effect unless it has an excuse: the message is held, or its effect leaves no trace because of its
mode or its age. In the mode exactly-once, the memory of an id shows that it took effect, and the account how often all
of them did.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amends.aggregates.intake import BatchRow
from amends.pipelines.control.state import PipelineState
from amends.pipelines.definition.pipeline import Pipeline, Starts
from amends.pipelines.intake.arrival import Arrival
from amends.pipelines.intake.modes import Mode
from amends.pipelines.intake.remember import bucket_of

__all__ = ["Gathered", "SourceAudit", "judged"]

_MIXED = "mixed"
_FOREIGN = frozenset({Mode.AT_LEAST_ONCE.value, _MIXED})
_AGAIN = frozenset({Mode.AT_LEAST_ONCE.value, Mode.OBSERVED.value})


@dataclass(frozen=True, slots=True)
class SourceAudit:
    """The result of the comparison.

    Attributes:
        messages: The number of messages that the source has, up to the position of the pipeline.
        ids: The number of different ids among them.
        effects: The number of those ids with an effect.
        missing: The ids without an effect and without an excuse, in order of the source.
        doubled: The ids that took effect more than once, in order of the effects.
        held: The number of messages that the pipeline holds.
        unchecked: The number of ids whose effect leaves no trace, or that were taken in the mode `shadow`.
        lost: The number of positions that the source has no longer.
        findings: Other faults, in one line each.
    """

    messages: int
    ids: int
    effects: int
    missing: Sequence[str]
    doubled: Sequence[str]
    held: int
    unchecked: int
    lost: int
    findings: Sequence[str]

    @property
    def exact(self) -> bool:
        """Whether nothing is missing or doubled."""
        return not (self.missing or self.doubled or self.findings)


@dataclass(slots=True)
class Gathered:
    """The messages of all partitions, and the account of their commits.

    Attributes:
        by_place: The messages by partition and position.
        rows: The commits, with their partitions.
        held: The places of held messages.
        lost: The number of positions that the source has no longer.
        findings: Other faults, in one line each.
    """

    by_place: dict[tuple[str, int], Arrival] = field(default_factory=dict)
    rows: list[tuple[str, BatchRow]] = field(default_factory=list)
    held: set[tuple[str, int]] = field(default_factory=set)
    lost: int = 0
    findings: list[str] = field(default_factory=list)


def judged(
    gathered: Gathered, pipeline: Pipeline[Any], state: PipelineState, effects: frozenset[str], horizon: int
) -> SourceAudit:
    """Return the comparison.

    Args:
        gathered: The messages and commits.
        pipeline: The pipeline.
        state: Its state.
        effects: The ids with an effect, as far as the store knows.
        horizon: Number of the oldest bucket of ids that the store has never forgotten.
    """
    messages = gathered.by_place
    due, excused, again = _duties(gathered, pipeline, state, horizon)
    ids = dict.fromkeys(each.id for each in messages.values() if not each.fault)
    missing = [each for each in ids if each in due and each not in effects and each not in excused]
    unchecked = sum(1 for each in ids if each not in effects and each in excused)
    findings = list(gathered.findings)
    return SourceAudit(
        messages=len(messages),
        ids=len(ids),
        effects=sum(1 for each in ids if each in effects),
        missing=missing,
        doubled=list(again),
        held=len(gathered.held),
        unchecked=unchecked,
        lost=gathered.lost,
        findings=findings,
    )


def _duties(
    gathered: Gathered, pipeline: Pipeline[Any], state: PipelineState, horizon: int
) -> tuple[set[str], set[str], Mapping[str, int]]:
    """Return the ids that must have an effect, those with an excuse, and those that took effect again."""
    due: set[str] = set()
    excused: set[str] = set()
    taken: Counter[str] = Counter()
    starts = isinstance(pipeline.work, Starts)
    for partition, row in sorted(gathered.rows, key=lambda each: (each[1].recorded_at_ms, each[0], each[1].number)):
        forgotten = not starts and bucket_of(row.recorded_at_ms, pipeline.remember) < horizon
        for arrival in _of_row(gathered, partition, row):
            id_ = arrival.id
            held = (partition, arrival.raw.position) in gathered.held
            if held or forgotten or row.mode == Mode.SHADOW or (row.mode in _FOREIGN and not starts):
                excused.add(id_)
            else:
                due.add(id_)
            if row.mode != Mode.SHADOW and not held:
                taken[id_] += 1 if _applies(row, arrival, state, taken[id_]) else 0
    return due, excused, {each: count for each, count in taken.items() if count > 1}


def _of_row(gathered: Gathered, partition: str, row: BatchRow) -> Iterable[Arrival]:
    for position in range(row.first, row.next):
        arrival = gathered.by_place.get((partition, position))
        if arrival is not None and not arrival.fault:
            yield arrival


def _applies(row: BatchRow, arrival: Arrival, state: PipelineState, before: int) -> bool:
    """Check whether a message took effect in its commit, although its id may have taken effect before."""
    if not before or row.mode in _AGAIN:
        return True
    return row.mode == _MIXED and not state.mode_of(arrival.key).refuses_duplicates
