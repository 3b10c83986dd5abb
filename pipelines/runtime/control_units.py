"""Units by which a loop claims a partition, pauses its pipeline, and keeps the memory of ids small."""

from collections.abc import Callable
from dataclasses import replace

from amends.aggregates.intake import Position, Token
from amends.aggregates.journal import Tx
from amends.pipelines.control.decide import pause_automatically, replace_source, restore_source
from amends.pipelines.control.facts import PipelineFact
from amends.pipelines.control.state import PipelineState, control_of
from amends.pipelines.intake.remember import forget_before, seal_before
from amends.pipelines.runtime.intake_unit import ACTOR, present_position
from amends.pipelines.runtime.message_work import IntakeParts
from amends.pipelines.runtime.partition_work import FencedError

__all__ = ["begin", "claim", "pause", "reach", "stop_replaced", "tidy", "use_restored"]

_SEALED_AT_ONCE = 5_000


def claim(tx: Tx, name: str, partition: str, token: Token) -> Position | None:
    """Claim a partition, and return its position; `None` if it has none yet.

    Raises:
        FencedError: The store has a greater token.
    """
    present = tx.intake.position(name, partition)
    if present is None or present.token == token:
        return present
    claimed = tx.intake.claim(name, partition, token)
    if claimed is None:
        raise FencedError(name, partition)
    return claimed


def begin(tx: Tx, name: str, partition: str, position: Position) -> Position:
    """Create the position of a partition, and return it.

    Raises:
        FencedError: Another process has created it, with a greater token.
    """
    if tx.intake.begin(name, partition, position):
        return position
    present = claim(tx, name, partition, position.token)
    if present is None:
        raise FencedError(name, partition)
    return present


def pause(tx: Tx, parts: IntakeParts, reason: str) -> None:
    """Pause a pipeline because of its own observation, unless it is paused."""
    _record(
        tx, parts.pipeline.name, lambda state: pause_automatically(state, parts.now_ms(), actor=ACTOR, reason=reason)
    )


def stop_replaced(tx: Tx, parts: IntakeParts, partition: str, *, expected: str, found: str) -> None:
    """Record that the source of a partition is another one than the pipeline has read."""
    _record(
        tx,
        parts.pipeline.name,
        lambda state: replace_source(state, partition, parts.now_ms(), actor=ACTOR, expected=expected, found=found),
    )


def use_restored(tx: Tx, parts: IntakeParts, partition: str) -> None:
    """Record that the source which the pipeline has read is there again."""
    _record(tx, parts.pipeline.name, lambda state: restore_source(state, partition, parts.now_ms(), actor=ACTOR))


def _record(tx: Tx, name: str, decide: Callable[[PipelineState], PipelineFact | None]) -> None:
    with tx.unit_of_work() as uow:
        control = control_of(uow, name)
        fact = decide(control.state)
        if fact is not None:
            control.record(fact)


def reach(tx: Tx, name: str, partition: str, token: Token) -> Position:
    """Record that a partition has been read up to the present time, because its source has no more messages.

    Raises:
        FencedError: The store has another token.
    """
    present = present_position(tx.intake, name, partition, token)
    reached = replace(present, reached_ms=max(present.reached_ms, tx.recorded_at_ms))
    tx.intake.move(name, partition, expected=present, to=reached)
    return reached


def tidy(tx: Tx, parts: IntakeParts) -> bool:
    """Seal complete buckets of ids and drop expired ones; return whether there is more to seal."""
    name, keep = parts.pipeline.name, parts.pipeline.remember
    moved = tx.intake.seal_before(name, seal_before(tx.recorded_at_ms, keep), limit=_SEALED_AT_ONCE)
    if moved >= _SEALED_AT_ONCE:
        return True
    reached_ms = min((each.reached_ms for each in tx.intake.positions(name).values()), default=0)
    bucket = forget_before(reached_ms, keep)
    if bucket > tx.intake.horizon(name) and any(each.number < bucket for each in tx.intake.buckets(name)):
        tx.intake.forget_before(name, bucket)
    return False
