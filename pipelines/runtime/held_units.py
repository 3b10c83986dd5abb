"""Units that deal with held messages: apply them in order, apply them by an operator's decision, or skip them.

A held message keeps its place: its key is blocked until it has been dealt with, and the later ones of its key are tried
after it, in order. Each unit writes a row of each partition that it touches, whose range is empty and whose counts move
the messages from one fate to another, so the account of the pipeline stays right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from amends.aggregates.errors import NotFoundError
from amends.aggregates.intake import BatchRow, HeldKind, HeldMessage, Position
from amends.aggregates.journal import Tx
from amends.pipelines.control.decide import check_reason
from amends.pipelines.control.facts import MessageSkipped, MessagesReleased
from amends.pipelines.control.state import control_of
from amends.pipelines.intake.arrival import Arrival
from amends.pipelines.runtime.intake_unit import mode_label, present_state
from amends.pipelines.runtime.message_work import IntakeParts, MessageWork
from amends.pipelines.source import RawMessage

__all__ = ["Released", "raw_of", "release", "retry", "skip", "work_off"]

MOST_AT_ONCE = 500
"""Largest number of held messages that one unit deals with."""

Arrive = Callable[[Sequence[RawMessage]], Sequence[Arrival]]
"""Function that decodes messages and prepares their work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The result of dealing with held messages.

    Attributes:
        applied: Number of messages that took effect.
        known: Number of messages that had taken effect before, or repeat others.
        held: The messages that are held still, with their present reasons.
        started: Ids of the runs to drive.
        more: Whether there are further messages to deal with.
    """

    applied: int = 0
    known: int = 0
    held: Sequence[HeldMessage] = ()
    started: Sequence[str] = ()
    more: bool = False


def raw_of(held: HeldMessage) -> RawMessage:
    """Return a held message as it came."""
    return RawMessage(held.position, None, held.value, held.headers, held.source_ms)


def retry(tx: Tx, parts: IntakeParts, arrive: Arrive, *, key: str, actor: str, reason: str) -> Released:
    """Apply the held messages of a key in order; the first that fails again holds up the later ones.

    Raises:
        NotFoundError: The key has no held message.
    """
    held = _of_key(tx, parts, key)
    return _release(tx, parts, arrive, held, frozenset(), key=key, actor=actor, reason=reason)


def release(tx: Tx, parts: IntakeParts, arrive: Arrive, *, key: str, actor: str, reason: str) -> Released:
    """Apply the held messages of a key in order, the first one even if its id is known or too old to tell.

    Raises:
        NotFoundError: The key has no held message.
    """
    held = _of_key(tx, parts, key)
    forced = frozenset({(held[0].partition, held[0].position)})
    return _release(tx, parts, arrive, held, forced, key=key, actor=actor, reason=reason)


def skip(
    tx: Tx, parts: IntakeParts, arrive: Arrive, *, partition: str, position: int, actor: str, reason: str
) -> HeldMessage:
    """Decide that a held message has no effect, and that no later message with its id has one.

    The later messages of its key stay held until somebody retries them.

    Raises:
        NotFoundError: No message is held at that place.
    """
    check_reason(reason, "a decision to skip a message")
    name = parts.pipeline.name
    found = [each for each in tx.intake.held(name, partition=partition, limit=_ALL) if each.position == position]
    if not found:
        raise NotFoundError(f"pipeline {name!r} holds no message at position {position} of partition {partition!r}")
    (held,) = found
    (arrival,) = arrive([raw_of(held)])
    work = MessageWork(tx, parts, present_state(tx, name), [arrival])
    work.judge_in([arrival], partition=partition, releasing=True)
    work.judge.skipped(arrival, learn=not arrival.fault)
    tx.intake.let_go(name, partition, [position])
    work.write()
    _account(tx, work, partition, [held])
    fact = MessageSkipped(
        as_of_ms=parts.now_ms(),
        actor=actor,
        partition=partition,
        position=position,
        key=held.key,
        message_id=held.id,
        reason=reason,
    )
    with tx.unit_of_work() as uow:
        control_of(uow, name).record(fact)
    return held


def work_off(tx: Tx, parts: IntakeParts, arrive: Arrive, *, partition: str, limit: int) -> Released:
    """Apply deferred messages of a partition in order."""
    name = parts.pipeline.name
    most = min(limit, MOST_AT_ONCE)
    held = list(tx.intake.held(name, partition=partition, kinds=frozenset({HeldKind.DEFERRED}), limit=most))
    blocked = {
        each.key
        for each in tx.intake.held(name, partition=partition, limit=_ALL)
        if each.kind not in (HeldKind.DEFERRED, HeldKind.UNDECODABLE)
    }
    result = _redo(tx, parts, arrive, [each for each in held if each.key not in blocked], frozenset())
    return replace(result, more=len(held) == most)


_ALL = 1_000_000


def _of_key(tx: Tx, parts: IntakeParts, key: str) -> list[HeldMessage]:
    name = parts.pipeline.name
    held = list(tx.intake.held(name, key=key, limit=MOST_AT_ONCE))
    if not held:
        raise NotFoundError(
            f"pipeline {name!r} holds no message of key {key!r}; see: amends pipeline quarantine list {name}"
        )
    return held


def _release(
    tx: Tx,
    parts: IntakeParts,
    arrive: Arrive,
    held: Sequence[HeldMessage],
    forced: frozenset[tuple[str, int]],
    *,
    key: str,
    actor: str,
    reason: str,
) -> Released:
    result = _redo(tx, parts, arrive, held, forced)
    left = len(result.held)
    fact = MessagesReleased(
        as_of_ms=parts.now_ms(), actor=actor, key=key, applied=result.applied, held=left, reason=reason
    )
    with tx.unit_of_work() as uow:
        control_of(uow, parts.pipeline.name).record(fact)
    return replace(result, more=len(held) == MOST_AT_ONCE and not left)


def _redo(
    tx: Tx,
    parts: IntakeParts,
    arrive: Arrive,
    held: Sequence[HeldMessage],
    forced: frozenset[tuple[str, int]],
) -> Released:
    """Work on held messages again, partition by partition."""
    state = present_state(tx, parts.pipeline.name)
    applied, known = 0, 0
    again: list[HeldMessage] = []
    started: list[str] = []
    for partition in dict.fromkeys(each.partition for each in held):
        own = [each for each in held if each.partition == partition]
        arrivals = list(arrive([raw_of(each) for each in own]))
        work = MessageWork(tx, parts, state, arrivals)
        work.judge_in(
            arrivals,
            partition=partition,
            releasing=True,
            forced=frozenset(position for name, position in forced if name == partition),
        )
        for message, arrival in zip(own, arrivals, strict=True):
            work.do(arrival, attempts=message.attempts)
        kept = {each.position for each in work.held}
        tx.intake.let_go(parts.pipeline.name, partition, [each.position for each in own if each.position not in kept])
        work.write()
        _account(tx, work, partition, own)
        applied += work.judge.account.applied
        known += work.judge.account.repeated
        again += work.held
        started += work.started
    return Released(applied=applied, known=known, held=again, started=started)


def _account(tx: Tx, work: MessageWork, partition: str, held: Sequence[HeldMessage]) -> None:
    """Write the row that moves held messages to their new fates."""
    present = tx.intake.position(work.name, partition)
    if present is None:
        raise NotFoundError(f"pipeline {work.name!r} has never read partition {partition!r}")
    deferred = sum(1 for each in held if each.kind is HeldKind.DEFERRED)
    row = BatchRow(
        number=present.batch + 1,
        token=present.token,
        epoch=present.epoch,
        first=present.next,
        next=present.next,
        holes=0,
        counts=work.judge.account.counts(gaps=work.gaps, released=len(held) - deferred, undeferred=deferred),
        mode=mode_label(work.state),
    )
    after: Position = replace(present, batch=row.number)
    tx.intake.move(work.name, partition, expected=present, to=after)
    tx.intake.add_batch(work.name, partition, row)
