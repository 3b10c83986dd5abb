"""Messages that a relay has set aside, and the row about each step of a relay.

A held message keeps the name of its destination and its key in headers in front of its own.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from amends.aggregates.intake import BatchRow, Counts, HeldKind, HeldMessage, Position
from amends.aggregates.journal import Journal, Tx
from amends.aggregates.text import one_line
from amends.pipelines.definition.relays import Relay
from amends.pipelines.runtime.feed import Entry
from amends.pipelines.sink import Published, Sink

__all__ = ["account", "held_message", "retry_held"]

_TOPIC_HEADER = "amends-topic"
_KEY_HEADER = "amends-key"
_BATCH = 1_000


def account(
    tx: Tx, name: str, partition: str, present: Position, *, after: int, holes: int, counts: Counts
) -> Position:
    """Move the position, and write the row about it."""
    reached = replace(
        present, next=after, highest=max(present.highest, after), reached_ms=tx.recorded_at_ms, batch=present.batch + 1
    )
    row = BatchRow(
        number=reached.batch,
        token=reached.token,
        epoch=reached.epoch,
        first=present.next,
        next=after,
        holes=holes,
        counts=counts,
        mode="at-least-once",
    )
    tx.intake.move(name, partition, expected=present, to=reached)
    tx.intake.add_batch(name, partition, row)
    return reached


def held_message(partition: str, entry: Entry, kind: HeldKind, reason: str) -> HeldMessage:
    """Return the message of a feed as one that is set aside."""
    message = entry.message
    own = ((_TOPIC_HEADER, message.topic), (_KEY_HEADER, message.key))
    return HeldMessage(
        partition=partition,
        position=entry.number,
        kind=kind,
        key=entry.key,
        id=message.id,
        reason=one_line(reason),
        value=message.value,
        headers=tuple((name, text.encode()) for name, text in (*own, *message.headers)),
        source_ms=entry.sent_ms or None,
    )


async def retry_held(journal: Journal, relay: Relay, sink: Sink, key: str) -> Sequence[HeldMessage]:
    """Publish the messages of a key that the relay has set aside, in their order, up to the first that is refused.

    Args:
        journal: The store.
        relay: The relay.
        sink: An open connection to its destination.
        key: The key as the held messages show it: `<topic>/<key>`.

    Returns:
        The messages that are still set aside.

    Raises:
        SinkSetupError: The destination does not exist, or refuses the credentials.
        SinkUnreachableError: The destination does not answer.
    """
    while held := await asyncio.to_thread(lambda: journal.intake.held(relay.name, key=key, limit=_BATCH)):
        for message in held:
            published = _again(message)
            if message.kind is HeldKind.UNDECODABLE:
                # Nobody knows what its transaction has sent.
                return held
            refused = await sink.refusal(published) or next(
                (refusal.reason for refusal in await sink.publish([published])), None
            )
            if refused is not None:
                return [replace(message, reason=one_line(refused)), *held[held.index(message) + 1 :]]
            await journal.commit(_LetGo(relay.name, message))
    return ()


@dataclass(frozen=True, slots=True)
class _LetGo:
    """Unit that removes a held message, and counts it as published."""

    name: str
    message: HeldMessage

    def __call__(self, tx: Tx) -> None:
        partition = self.message.partition
        position = tx.intake.position(self.name, partition)
        if position is None or not any(
            held.position == self.message.position for held in tx.intake.held(self.name, limit=_BATCH)
        ):
            return
        tx.intake.let_go(self.name, partition, [self.message.position])
        counts = Counts(applied=1, set_aside=-1)
        account(tx, self.name, partition, position, after=position.next, holes=0, counts=counts)


def _again(message: HeldMessage) -> Published:
    headers = [(name, text.decode()) for name, text in message.headers]
    own = dict(headers[:2])
    return Published(message.id, own[_TOPIC_HEADER], own[_KEY_HEADER], message.value or b"", tuple(headers[2:]))
