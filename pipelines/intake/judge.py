"""Judge the messages of one batch, in order, and keep its account. Pure.

Theory of operation: the unit of a batch asks `Judge.verdict` for each message. If the verdict is to apply the message,
the unit runs the handler and reports the end with `applied` or `set_aside`; for any other verdict it calls `settle`.
Each message thus ends in exactly one count. The rules, the first that fits decides:

1. A message before the batch's range was delivered again: no effect.
2. A message that an earlier epoch of the position has set aside, and that is still held: replayed, no effect.
3. A message with a fault is set aside.
4. A message with a known id and the same content is repeated, or replayed if the position has been past it: no effect.
   With other content it is a conflict, and set aside.
5. A message whose key is held is held behind it.
6. A message that is older than the memory of ids is set aside, because its id may have been forgotten.
7. While the pipeline defers, the message is deferred.
8. Every other message is applied.

Modes that refuse no duplicates apply the messages of rules 4 and 6, and count them as applied again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from amends.aggregates.intake import Counts, HeldKind, HeldMessage
from amends.pipelines.intake.arrival import Arrival
from amends.pipelines.intake.modes import Mode
from amends.pipelines.intake.remember import GAP_MOST, Known, Memory

__all__ = ["Account", "Judge", "Scene", "Verdict"]


class Verdict(Enum):
    """The treatment of one message."""

    APPLY = "apply"
    APPLY_AGAIN = "apply again"
    REDELIVERED = "redelivered"
    REPEATED = "repeated"
    REPLAYED = "replayed"
    FAULT = "fault"
    JUMP = "jump"
    CONFLICT = "conflict"
    TOO_OLD = "too old"
    FOLLOWER = "follower"
    DEFERRED = "deferred"


_REASONS = {
    Verdict.CONFLICT: (HeldKind.CONFLICT, "an earlier message has the same id and other content"),
    Verdict.TOO_OLD: (HeldKind.TOO_OLD, "the message is older than the memory of ids; it may have been applied"),
    Verdict.FOLLOWER: (HeldKind.FOLLOWER, "an earlier message of its key is held"),
    Verdict.DEFERRED: (HeldKind.DEFERRED, "the pipeline was busy"),
    Verdict.JUMP: (HeldKind.FAILED, f"its sequence number leaves out more than {GAP_MOST} numbers"),
}


_TAKEN = frozenset({Known.SAME, Known.OTHER})


def _exactly_once(_: str) -> Mode:
    return Mode.EXACTLY_ONCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The state of the store and the pipeline in which a batch is judged.

    Attributes:
        partition: The partition.
        first: First position of the batch's range.
        highest: The greatest position that the partition had reached in any epoch.
        held: The kind of the first held message, by key.
        held_positions: Positions of held messages; only needed below `highest`.
        mode_of: Function from a key to the mode of its messages.
        horizon_ms: Time before which ids may have been forgotten, in milliseconds since the epoch; 0 if none was.
        deferring: Whether new messages are to be deferred.
        releasing: Whether the batch consists of held messages, which are no followers of themselves.
        forced: Positions of messages that are applied although their id is known or too old to tell, because an
            operator decided so.
    """

    partition: str
    first: int = 0
    highest: int = 0
    held: Mapping[str, HeldKind] = field(default_factory=dict)
    held_positions: frozenset[int] = frozenset()
    mode_of: Callable[[str], Mode] = _exactly_once
    horizon_ms: int = 0
    deferring: bool = False
    releasing: bool = False
    forced: frozenset[int] = frozenset()


@dataclass(slots=True)
class Account:
    """The messages of a batch by their fate; see `Counts`."""

    applied: int = 0
    redelivered: int = 0
    repeated: int = 0
    replayed: int = 0
    applied_again: int = 0
    set_aside: int = 0
    deferred: int = 0
    skipped: int = 0

    def counts(self, *, gaps: int = 0, released: int = 0, undeferred: int = 0) -> Counts:
        """Return the counts for the batch's row.

        Args:
            gaps: Sequence numbers that were left out.
            released: Messages that were set aside before and that this batch has dealt with.
            undeferred: Messages that were deferred before and that this batch has dealt with.
        """
        return Counts(
            applied=self.applied,
            redelivered=self.redelivered,
            repeated=self.repeated,
            replayed=self.replayed,
            applied_again=self.applied_again,
            set_aside=self.set_aside - released,
            deferred=self.deferred - undeferred,
            skipped=self.skipped,
            gaps=gaps,
        )


class Judge:
    """Judges the messages of one batch and keeps its account.

    Args:
        scene: The state of the store and the pipeline.
        memory: The memory of messages.

    Attributes:
        account: The messages so far, by their fate.
        held: The messages to hold.
    """

    def __init__(self, scene: Scene, memory: Memory) -> None:
        self._scene = scene
        self._memory = memory
        self._blocked: dict[str, HeldKind] = dict(scene.held)
        self.account = Account()
        self.held: list[HeldMessage] = []

    def verdict(self, message: Arrival) -> Verdict:
        """Return the treatment of the next message."""
        scene, position = self._scene, message.raw.position
        if position < scene.highest and not scene.releasing:
            if position < scene.first:
                return Verdict.REDELIVERED
            if position in scene.held_positions:
                return Verdict.REPLAYED
        if message.fault:
            return Verdict.FAULT
        mode = scene.mode_of(message.key)
        known = self._memory.known(message) if mode.remembers_ids else Known.NEW
        if known in _TAKEN and mode is not Mode.OBSERVED and position not in scene.forced:
            return self._of_known(known, position)
        obstacle = None if position in scene.forced else self._obstacle(message, mode, known)
        return obstacle or (Verdict.APPLY if known is Known.NEW else Verdict.APPLY_AGAIN)

    def _obstacle(self, message: Arrival, mode: Mode, known: Known) -> Verdict | None:
        """Return the reason for which a message that is due cannot be applied now; `None` if it can."""
        blocked = self._blocked.get(message.key)
        if blocked is not None:
            return Verdict.DEFERRED if blocked is HeldKind.DEFERRED else Verdict.FOLLOWER
        if known is Known.JUMP:
            return Verdict.JUMP
        if self._too_old(message, mode):
            return Verdict.TOO_OLD
        return Verdict.DEFERRED if self._scene.deferring else None

    def _of_known(self, known: Known, position: int) -> Verdict:
        if known is Known.OTHER:
            return Verdict.CONFLICT
        replayed = position < self._scene.highest and not self._scene.releasing
        return Verdict.REPLAYED if replayed else Verdict.REPEATED

    def _too_old(self, message: Arrival, mode: Mode) -> bool:
        horizon_ms = self._scene.horizon_ms
        if not horizon_ms or not mode.refuses_duplicates:
            return False
        source_ms = message.raw.source_ms
        if source_ms is None:
            return message.raw.position < self._scene.highest and not self._scene.releasing
        return source_ms < horizon_ms

    def applied(self, message: Arrival, *, again: bool = False) -> None:
        """Record that a message took effect.

        Args:
            message: The message.
            again: Whether exactly-once would have refused it.
        """
        self.account.applied += 1
        if again:
            self.account.applied_again += 1
        if self._memory.always or self._scene.mode_of(message.key).remembers_ids:
            self._memory.learn(message)

    def skipped(self, message: Arrival, *, learn: bool) -> None:
        """Record that a message had no effect because an operator decided so.

        Args:
            message: The message.
            learn: Whether a message with the same id is to have no effect either.
        """
        self.account.skipped += 1
        if learn:
            self._memory.learn(message)

    def settle(self, message: Arrival, verdict: Verdict) -> None:
        """Record a message that is not applied."""
        match verdict:
            case Verdict.REDELIVERED:
                self.account.redelivered += 1
            case Verdict.REPEATED:
                self.account.repeated += 1
            case Verdict.REPLAYED:
                self.account.replayed += 1
            case Verdict.FAULT:
                self.set_aside(message, message.kind, message.fault)
            case _:
                self.set_aside(message, *_REASONS[verdict])

    def set_aside(self, message: Arrival, kind: HeldKind, reason: str, *, attempts: int = 0) -> None:
        """Hold a message, and from now on the later ones of its key; an undecodable one holds up no other."""
        if kind is HeldKind.DEFERRED:
            self.account.deferred += 1
        else:
            self.account.set_aside += 1
        if message.key and kind is not HeldKind.UNDECODABLE:
            self._blocked.setdefault(message.key, kind)
        raw = message.raw
        self.held.append(
            HeldMessage(
                partition=self._scene.partition,
                position=raw.position,
                kind=kind,
                key=message.key,
                id=message.id,
                reason=reason,
                value=raw.value,
                headers=raw.headers,
                source_ms=raw.source_ms,
                attempts=attempts,
            )
        )
