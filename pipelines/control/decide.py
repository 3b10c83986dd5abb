"""Decisions about a pipeline: by operators, and by the pipeline on its own. Pure.

Each function returns the fact to record. The caller records it in the unit that also changes the tables of the intake,
so that the second of two decisions sees the first.
"""

from collections.abc import Mapping
from dataclasses import replace

from pydantic import JsonValue

from amends.aggregates.errors import InputError, NotFoundError, RefusedError
from amends.aggregates.intake import Position
from amends.aggregates.values.strict_json import difference, digest
from amends.pipelines.control.facts import (
    LossesAccepted,
    MessagesLost,
    ModeChanged,
    PipelineDeclared,
    PipelinePaused,
    PipelineResumed,
    PositionSought,
    SourceReplaced,
    SourceRestored,
)
from amends.pipelines.control.state import ALL, PipelineState
from amends.pipelines.intake.modes import Mode

__all__ = [
    "accept_losses",
    "change_mode",
    "changes_of",
    "check_reason",
    "declare",
    "lose",
    "moved",
    "pause",
    "pause_automatically",
    "replace_source",
    "restore_source",
    "resume",
    "seek",
]

_HANDLES = "handles"


def declare(
    state: PipelineState,
    name: str,
    declaration: dict[str, JsonValue],
    now_ms: int,
    *,
    actor: str,
    mode: Mode = Mode.EXACTLY_ONCE,
    accept: bool = False,
) -> PipelineDeclared | None:
    """Return the fact that declares a definition; `None` if it is declared already.

    Args:
        state: The state of the pipeline.
        name: Its name.
        declaration: The parts of the definition that decide the effect of a message.
        now_ms: The time, in milliseconds since the epoch.
        actor: Name of the person or worker.
        mode: The mode in which a new pipeline begins.
        accept: Whether a definition that differs from the declared one becomes the declared one.

    Raises:
        InputError: The mode is for pipelines that handle messages, and this one does not.
        RefusedError: The definition differs from the declared one, and `accept` is not set.
    """
    if state.declared is None:
        _check_mode(name, declaration, mode)
    elif not (changes := changes_of(state, declaration)):
        return None
    elif not accept:
        raise RefusedError(
            f"the definition of pipeline {name!r} differs from the declared one ({'; '.join(changes)}); "
            f"to declare the change: amends pipeline check {name} --accept"
        )
    return PipelineDeclared(
        as_of_ms=now_ms, actor=actor, declaration=declaration, fingerprint=digest(declaration), mode=mode
    )


def changes_of(state: PipelineState, declaration: dict[str, JsonValue]) -> list[str]:
    """Return the differences between the declared definition and the present one, a line each; none if it is new."""
    if state.declared is None:
        return []
    return difference(state.declared.declaration, declaration, first="declared")


def pause(state: PipelineState, name: str, now_ms: int, *, actor: str, reason: str) -> PipelinePaused:
    """Return the fact that pauses a pipeline by a person's decision.

    Raises:
        NotFoundError: The pipeline has never run.
        RefusedError: A person has paused it already.
        InputError: The reason is empty.
    """
    _declared(state, name)
    if state.paused is not None and not state.paused.automatic:
        raise RefusedError(f"pipeline {name!r} is paused already, by {state.paused.actor}: {state.paused.reason}")
    check_reason(reason, "a pause")
    return PipelinePaused(as_of_ms=now_ms, actor=actor, reason=reason, automatic=False)


def pause_automatically(state: PipelineState, now_ms: int, *, actor: str, reason: str) -> PipelinePaused | None:
    """Return the fact with which a pipeline pauses on its own; `None` if it is paused."""
    if state.paused is not None:
        return None
    return PipelinePaused(as_of_ms=now_ms, actor=actor, reason=reason, automatic=True)


def resume(state: PipelineState, name: str, now_ms: int, *, actor: str) -> PipelineResumed:
    """Return the fact that resumes a pipeline.

    Raises:
        NotFoundError: The pipeline has never run.
        RefusedError: It is not paused.
    """
    _declared(state, name)
    if state.paused is None:
        raise RefusedError(f"pipeline {name!r} is not paused; see: amends pipeline show {name}")
    return PipelineResumed(as_of_ms=now_ms, actor=actor)


def change_mode(
    state: PipelineState,
    name: str,
    mode: Mode,
    now_ms: int,
    *,
    actor: str,
    reason: str,
    share: int = ALL,
    positions: Mapping[str, int],
) -> ModeChanged:
    """Return the fact that changes the mode of a share of the keys.

    Args:
        state: The state of the pipeline.
        name: Its name.
        mode: The mode.
        now_ms: The time, in milliseconds since the epoch.
        actor: Name of the person that decides.
        reason: Reason that the person gave.
        share: The keys that get the mode, in percent, 0 to 100; the others keep their mode.
        positions: The present position of each partition.

    Raises:
        NotFoundError: The pipeline has never run.
        InputError: The share is out of range, the reason is empty, or the pipeline does not handle messages.
        RefusedError: The keys would have three modes; nothing would change; or messages that take effect now would no
            longer do so.
    """
    declared = _declared(state, name)
    _check_mode(name, declared.declaration, mode, changed=True)
    if not 0 <= share <= ALL:
        raise InputError(f"the share is {share}; use 0 to {ALL} percent of the keys")
    check_reason(reason, "a change of mode")
    if mode is Mode.SHADOW and Mode.SHADOW not in state.modes:
        raise RefusedError(
            f"the messages of pipeline {name!r} take effect now, and in mode {Mode.SHADOW} they would have none; "
            "define a second pipeline for the same source, and let that one begin in the mode"
        )
    if state.uniform_mode is None and mode is not state.mode and share != ALL:
        raise RefusedError(
            f"{state.share} % of the keys of pipeline {name!r} have mode {state.mode}, the others {state.former}; "
            f"change the share of {state.mode}, or change to one mode for all keys first"
        )
    fact = ModeChanged(as_of_ms=now_ms, actor=actor, mode=mode, share=share, positions=dict(positions), reason=reason)
    after = state.apply(fact)
    if (after.modes, after.share) == (state.modes, state.share) or after.uniform_mode is state.uniform_mode is not None:
        raise RefusedError(f"pipeline {name!r} has that mode already; see: amends pipeline show {name}")
    return fact


def seek(
    state: PipelineState,
    name: str,
    partition: str,
    position: Position | None,
    now_ms: int,
    *,
    to: int,
    actor: str,
    reason: str,
    incarnation: str | None = None,
) -> PositionSought:
    """Return the fact that moves the position of a partition, or accepts another source.

    The pipeline must be paused, unless the partition has stopped because its source was replaced.

    Args:
        state: The state of the pipeline.
        name: Its name.
        partition: The partition.
        position: Its present position; `None` if it has never been read.
        now_ms: The time, in milliseconds since the epoch.
        to: The position from which the pipeline is to read on, at least 0.
        actor: Name of the person that decides.
        reason: Reason that the person gave.
        incarnation: Identity of the source that `to` belongs to; `None` for the one that replaced the former one, or
            else the present one.

    Raises:
        NotFoundError: The pipeline or the partition has never been read.
        RefusedError: The pipeline is not paused, or the position is there already.
        InputError: The position is negative, or the reason is empty.
    """
    _declared(state, name)
    if position is None:
        raise NotFoundError(f"pipeline {name!r} has not read partition {partition!r}; see: amends pipeline show {name}")
    replaced = state.replaced.get(partition)
    if state.paused is None and replaced is None:
        raise RefusedError(f"pipeline {name!r} is running; pause it first: amends pipeline pause {name}")
    if to < 0:
        raise InputError(f"the position is {to}; use a number from 0")
    check_reason(reason, "a seek")
    chosen = incarnation or (position.incarnation if replaced is None else replaced.found)
    if (to, chosen) == (position.next, position.incarnation):
        raise RefusedError(f"partition {partition!r} of pipeline {name!r} is at position {to} already")
    return PositionSought(
        as_of_ms=now_ms,
        actor=actor,
        partition=partition,
        former=position.next,
        to=to,
        epoch=position.epoch + 1,
        incarnation=chosen,
        reason=reason,
    )


def moved(position: Position, sought: PositionSought) -> Position:
    """Return the position after a person has moved it; the token stays, so that the owner goes on from there."""
    return replace(
        position,
        first=sought.to,
        next=sought.to,
        cursor="",
        incarnation=sought.incarnation,
        epoch=sought.epoch,
    )


def replace_source(
    state: PipelineState, partition: str, now_ms: int, *, actor: str, expected: str, found: str
) -> SourceReplaced | None:
    """Return the fact that a partition's source is another one; `None` if that is recorded already."""
    known = state.replaced.get(partition)
    if known is not None and (known.expected, known.found) == (expected, found):
        return None
    return SourceReplaced(as_of_ms=now_ms, actor=actor, partition=partition, expected=expected, found=found)


def restore_source(state: PipelineState, partition: str, now_ms: int, *, actor: str) -> SourceRestored | None:
    """Return the fact that the source which the pipeline has read is there again; `None` if it was never away."""
    if partition not in state.replaced:
        return None
    return SourceRestored(as_of_ms=now_ms, actor=actor, partition=partition)


def lose(partition: str, now_ms: int, *, actor: str, first: int, last: int) -> MessagesLost:
    """Return the fact that the source has lost messages which the pipeline has not read."""
    return MessagesLost(as_of_ms=now_ms, actor=actor, partition=partition, first=first, last=last)


def accept_losses(
    state: PipelineState, name: str, partition: str, now_ms: int, *, actor: str, reason: str
) -> LossesAccepted:
    """Return the fact that a person has dealt with the lost messages of a partition.

    Raises:
        NotFoundError: The partition has none.
        InputError: The reason is empty.
    """
    if partition not in state.losses:
        raise NotFoundError(f"partition {partition!r} of pipeline {name!r} has no lost messages to deal with")
    check_reason(reason, "the acceptance of a loss")
    return LossesAccepted(as_of_ms=now_ms, actor=actor, partition=partition, reason=reason)


# ---- checks


def _declared(state: PipelineState, name: str) -> PipelineDeclared:
    if state.declared is None:
        raise NotFoundError(f"pipeline {name!r} has never run in this store; to run it: amends pipeline run {name}")
    return state.declared


def _check_mode(name: str, declaration: dict[str, JsonValue], mode: Mode, *, changed: bool = False) -> None:
    work = declaration.get("work")
    handles = isinstance(work, dict) and work.get("kind") == _HANDLES
    if not handles and (changed or mode is not Mode.EXACTLY_ONCE):
        raise InputError(
            f"pipeline {name!r} starts runs, and the id of a run makes that {Mode.EXACTLY_ONCE} in every case; "
            "modes are for pipelines that handle messages"
        )


def check_reason(reason: str, decision: str) -> None:
    """Check that a person gave a reason for a decision.

    Args:
        reason: The reason.
        decision: The decision, for the message.

    Raises:
        InputError: The reason is empty.
    """
    if not reason.strip():
        raise InputError(f"{decision} needs a reason; pass --reason (it is recorded)")
