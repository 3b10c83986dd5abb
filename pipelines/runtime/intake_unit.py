"""The unit that takes a batch: its messages, the position and the memory of ids in one commit.

Theory of operation: the unit compares the position and the token with those of its owner, works on each message in
order, and then writes the ids, the held messages, the position and the row of the batch. The committer may run it more
than once, and a handler may change the content that it gets, so each run after the first decodes the messages again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from amends.aggregates.errors import AmendsError
from amends.aggregates.intake import BatchRow, HeldMessage, Intake, IntakeReader, Position, Token
from amends.aggregates.journal import Tx
from amends.pipelines.control.decide import lose
from amends.pipelines.control.state import PipelineControl, PipelineState, control_of, state_in
from amends.pipelines.intake.arrival import Arrival
from amends.pipelines.intake.flow import Breaker, Failure
from amends.pipelines.runtime.message_work import IntakeParts, MessageWork
from amends.pipelines.runtime.partition_work import FencedError
from amends.pipelines.source import Read

__all__ = [
    "ACTOR",
    "Batch",
    "MovedError",
    "PausedError",
    "Taken",
    "mode_label",
    "present_position",
    "present_state",
    "running_state",
    "take",
    "unmoved_position",
]

ACTOR = "amends"
"""The actor of facts that a pipeline records on its own."""

_MOST_HELD = 1_000_000


class PausedError(AmendsError):
    """The pipeline is paused, or its partition waits for an operator; the unit wrote nothing."""


class MovedError(AmendsError):
    """The position is not the one that the owner has read from, because an operator moved it; nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch to take.

    Attributes:
        partition: The partition.
        expected: The position that the owner knows, token included.
        read: The messages as they came, and their range.
        arrivals: Returns the messages, decoded; each call but the first decodes them again.
        breaker: The failures of earlier batches.
        deferring: Whether the pipeline is busy and defers messages.
    """

    partition: str
    expected: Position
    read: Read
    arrivals: Callable[[], Sequence[Arrival]]
    breaker: Breaker
    deferring: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A batch that was committed.

    Attributes:
        position: The position after it.
        row: Its row.
        started: Ids of the runs to drive: those that it started.
        held: The messages that it holds.
        failures: The failures of its messages.
        readable: Number of its readable messages.
        work_ms: Time of the work on its messages, in milliseconds.
    """

    position: Position
    row: BatchRow
    started: Sequence[str] = ()
    held: Sequence[HeldMessage] = ()
    failures: Sequence[Failure] = ()
    readable: int = 0
    work_ms: float = 0.0


def take(tx: Tx, parts: IntakeParts, batch: Batch) -> Taken:
    """Apply a batch and move the position in one unit.

    Raises:
        FencedError: The store has another token for the partition.
        MovedError: An operator has moved the position.
        PausedError: The pipeline is paused, or the partition waits for an operator.
        TrippedError: A fault concerns the whole pipeline.
        JournalError: The store cannot be read or written.
    """
    name, partition = parts.pipeline.name, batch.partition
    present = unmoved_position(tx.intake, name, partition, batch.expected)
    state = running_state(tx, name, partition)
    arrivals = batch.arrivals()
    work = MessageWork(tx, parts, state, arrivals)
    work.judge_in(
        arrivals,
        partition=partition,
        first=present.next,
        highest=present.highest,
        held_positions=_held_positions(tx.intake, name, partition, present),
        deferring=batch.deferring,
    )
    began_s = time.perf_counter()
    for arrival in arrivals:
        work.do(arrival)
        if work.failures:
            work.check(batch.breaker)
    work_ms = (time.perf_counter() - began_s) * 1_000
    _record_loss(tx, parts, batch)
    return replace(_write(tx, work, batch, present), work_ms=work_ms)


def present_position(intake: IntakeReader, name: str, partition: str, token: Token) -> Position:
    """Return the position of a partition.

    Raises:
        FencedError: The store has another token for the partition.
    """
    present = intake.position(name, partition)
    if present is None or present.token != token:
        raise FencedError(name, partition)
    return present


def unmoved_position(intake: IntakeReader, name: str, partition: str, expected: Position) -> Position:
    """Return the position of a partition, which no operator has moved.

    Raises:
        FencedError: The store has another token for the partition.
        MovedError: An operator has moved the position.
    """
    present = present_position(intake, name, partition, expected.token)
    if (present.epoch, present.next) != (expected.epoch, expected.next):
        raise MovedError(f"partition {partition!r} of {name!r} was moved to position {present.next}")
    return present


def present_state(tx: Tx, name: str) -> PipelineState:
    """Return the state of a pipeline."""
    with tx.unit_of_work() as uow:
        return state_in(uow.find(PipelineControl, name))


def running_state(tx: Tx, name: str, partition: str) -> PipelineState:
    """Return the state of a pipeline that may take messages.

    Raises:
        PausedError: The pipeline is paused, or the partition waits for an operator.
    """
    state = present_state(tx, name)
    if state.paused is not None:
        raise PausedError(f"pipeline {name!r} is paused: {state.paused.reason}")
    if partition in state.replaced:
        raise PausedError(f"partition {partition!r} of pipeline {name!r} stopped: its source was replaced")
    return state


def mode_label(state: PipelineState) -> str:
    """Return the mode for the row of a batch; `mixed` if keys have different ones."""
    mode = state.uniform_mode
    return "mixed" if mode is None else mode.value


def _held_positions(intake: Intake, name: str, partition: str, present: Position) -> frozenset[int]:
    if present.next >= present.highest:
        return frozenset()
    return frozenset(each.position for each in intake.held(name, partition=partition, limit=_MOST_HELD))


def _record_loss(tx: Tx, parts: IntakeParts, batch: Batch) -> None:
    lost = batch.read.lost
    if lost is not None:
        fact = lose(batch.partition, parts.now_ms(), actor=ACTOR, first=lost.first, last=lost.last)
        with tx.unit_of_work() as uow:
            control_of(uow, parts.pipeline.name).record(fact)


def _write(tx: Tx, work: MessageWork, batch: Batch, present: Position) -> Taken:
    read, account, name = batch.read, work.judge.account, work.name
    position = replace(
        present,
        next=read.next,
        cursor=read.cursor,
        highest=max(present.highest, read.next),
        reached_ms=max(present.reached_ms, _reached_ms(read, tx.recorded_at_ms)),
        batch=present.batch + 1,
    )
    row = BatchRow(
        number=position.batch,
        token=position.token,
        epoch=position.epoch,
        first=present.next,
        next=read.next,
        holes=read.next - present.next - (len(read.messages) - account.redelivered),
        counts=account.counts(gaps=work.gaps),
        mode=mode_label(work.state),
    )
    work.write()
    if not tx.intake.move(name, batch.partition, expected=present, to=position):
        raise FencedError(name, batch.partition)
    tx.intake.add_batch(name, batch.partition, row)
    return Taken(
        position=position,
        row=row,
        started=work.started,
        held=work.held,
        failures=work.failures,
        readable=work.readable,
    )


def _reached_ms(read: Read, now_ms: int) -> int:
    """Return the time up to which the source has been read; a source's clock may run ahead of the store's."""
    if not read.messages:
        return 0
    source_ms = read.messages[-1].source_ms
    return now_ms if source_ms is None else min(source_ms, now_ms)
