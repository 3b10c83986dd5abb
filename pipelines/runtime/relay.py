"""The loop that publishes the outbox, and the retry of messages that it has set aside.

Theory of operation: the relay reads the outbox in order after its position, publishes, and then moves the position and
deletes the messages in one commit. A crash in between makes it publish some messages again, under the same ids. The
position carries the token of its owner, so of two owners only one moves it.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from amends.aggregates.errors import JournalError
from amends.aggregates.intake import BatchRow, Counts, HeldKind, HeldMessage, Position, Token
from amends.aggregates.journal import Journal, Tx
from amends.aggregates.outbox import OutboxMessage
from amends.aggregates.text import one_line
from amends.pipelines.definition.relays import Relay
from amends.pipelines.runtime.partition_work import FencedError
from amends.pipelines.runtime.slice_end import EndKind, SliceEnd
from amends.pipelines.sink import REPEAT_HEADER, Published, Sink, SinkSetupError, SinkUnreachableError

__all__ = ["OUTBOX", "RelayLoop", "retry_held"]

OUTBOX = "outbox"
"""Name of the one partition of a relay."""

_TOPIC_HEADER = "amends-topic"
_KEY_HEADER = "amends-key"
_BATCH = 1_000
_POLL_S = 0.2
_CLAIM_EVERY = 25
_LONGEST_PAUSE_S = 5.0

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """The result of publishing some messages.

    Attributes:
        messages: The messages of the outbox.
        held: Those that are set aside.
    """

    messages: Sequence[OutboxMessage]
    held: Sequence[HeldMessage]


class RelayLoop:
    """Publishes the outbox through a relay; a `PartitionWork` with one partition, `OUTBOX`.

    Args:
        journal: The store.
        relay: The relay.
        sink: An open connection to its destination.
    """

    def __init__(self, journal: Journal, relay: Relay, sink: Sink) -> None:
        self._journal = journal
        self._relay = relay
        self._sink = sink
        self._topics = None if relay.topics is None else sorted(relay.topics)
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Read the outbox at once: a commit has sent messages."""
        self._news.set()

    async def run(
        self,
        partition: str,
        token: Token,
        *,
        stop: asyncio.Event,
        seconds: float | None = None,
        until_end: bool = False,
    ) -> SliceEnd:
        """Claim the outbox, and publish it until the request to stop.

        Args:
            partition: `OUTBOX`.
            token: The claim.
            stop: Set by the owner; the loop then ends its present batch and returns.
            seconds: Time after which the loop returns; `None` for no bound.
            until_end: Whether it returns when it has published every message.

        Raises:
            FencedError: The store has a greater token.
            UnreachableError: The store does not answer.
        """
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        position = await self._claim(partition, token)
        published, idle, failures = 0, 0, 0
        while not stop.is_set():
            if deadline is not None and asyncio.get_running_loop().time() >= deadline:
                return SliceEnd(kind=EndKind.TIME, position=position, messages=published)
            self._news.clear()
            try:
                batch = await self._publish_next(partition, position)
            except SinkUnreachableError as error:
                failures += 1
                _LOG.warning("relay %s waits: %s", self._relay.name, error)
                await _wait(stop, None, min(_POLL_S * 2**failures, _LONGEST_PAUSE_S))
                continue
            except (SinkSetupError, JournalError) as error:
                return SliceEnd(kind=EndKind.PAUSED, reason=str(error), position=position, messages=published)
            failures = 0
            if batch.messages:
                position = await self._advance(partition, position, batch)
                published += len(batch.messages)
                continue
            if until_end:
                return SliceEnd(kind=EndKind.END, position=position, messages=published)
            idle += 1
            if idle % _CLAIM_EVERY == 0:
                position = await self._claim(partition, token)
            await _wait(stop, self._news, _POLL_S)
        return SliceEnd(kind=EndKind.STOPPED, position=position, messages=published)

    async def stored_token(self, partition: str) -> Token | None:
        """Return the token in the store; `None` if the relay has never run."""
        position = await asyncio.to_thread(self._journal.intake.position, self._relay.name, partition)
        return None if position is None else position.token

    async def _claim(self, partition: str, token: Token) -> Position:
        name = self._relay.name

        def claim(tx: Tx) -> Position | None:
            present = tx.intake.position(name, partition)
            if present is None:
                first = Position(first=1, next=1, cursor="", incarnation=tx.store_id, epoch=0, token=token)
                tx.intake.begin(name, partition, first)
                return first
            return present if present.token == token else tx.intake.claim(name, partition, token)

        position = await self._journal.commit(claim)
        if position is None:
            raise FencedError(name, partition)
        return position

    async def _publish_next(self, partition: str, position: Position) -> _Batch:
        rows = await asyncio.to_thread(self._journal.outbox_blocking, position.next - 1, _BATCH, self._topics)
        if not rows:
            return _Batch(messages=(), held=())
        held_keys = await asyncio.to_thread(_held_keys, self._journal, self._relay.name)
        held: dict[int, HeldMessage] = {}
        ready: list[tuple[OutboxMessage, Published]] = []
        for row in rows:
            message = self._published(row)
            key = _key_of(row)
            reason = "an earlier message of its key is held" if key in held_keys else await self._sink.refusal(message)
            if reason is None:
                ready.append((row, message))
                continue
            kind = HeldKind.FOLLOWER if key in held_keys else HeldKind.FAILED
            held[row.id] = _held(partition, row, message, kind, reason)
            held_keys.add(key)
        for refusal in await self._sink.publish([message for _, message in ready]) if ready else ():
            row, message = ready[refusal.index]
            held[row.id] = _held(partition, row, message, HeldKind.FAILED, refusal.reason)
        return _Batch(messages=rows, held=list(held.values()))

    def _published(self, row: OutboxMessage) -> Published:
        sent = row.message
        headers = sent.headers if row.repeats is None else (*sent.headers, (REPEAT_HEADER, str(row.id)))
        topic = self._relay.destination(sent.topic)
        return Published(row.published_id(self._journal.store_id), topic, sent.key, sent.value, headers)

    async def _advance(self, partition: str, position: Position, batch: _Batch) -> Position:
        name, rows = self._relay.name, batch.messages
        topics = sorted({row.message.topic for row in rows})
        counts = Counts(applied=len(rows) - len(batch.held), set_aside=len(batch.held))

        def advance(tx: Tx) -> Position | None:
            present = tx.intake.position(name, partition)
            if present is None or present.token != position.token:
                return None
            if present.next != position.next:
                # The reply of this commit was lost before.
                return present
            after = rows[-1].id + 1
            if batch.held:
                tx.intake.hold(name, batch.held)
            tx.outbox.delete(topics, first=position.next, last=rows[-1].id)
            holes = after - position.next - len(rows)
            return _account(tx, name, partition, present, after=after, holes=holes, counts=counts)

        reached = await self._journal.commit(advance)
        if reached is None:
            raise FencedError(name, partition)
        for message in batch.held:
            if message.kind is HeldKind.FAILED:
                _LOG.error("relay %s has set aside message %s: %s", name, message.id, message.reason)
        return reached


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
        _account(tx, self.name, partition, position, after=position.next, holes=0, counts=counts)


def _account(
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


def _again(message: HeldMessage) -> Published:
    headers = [(name, text.decode()) for name, text in message.headers]
    own = dict(headers[:2])
    return Published(message.id, own[_TOPIC_HEADER], own[_KEY_HEADER], message.value or b"", tuple(headers[2:]))


def _held(partition: str, row: OutboxMessage, message: Published, kind: HeldKind, reason: str) -> HeldMessage:
    own = ((_TOPIC_HEADER, message.topic), (_KEY_HEADER, message.key))
    return HeldMessage(
        partition=partition,
        position=row.id,
        kind=kind,
        key=_key_of(row),
        id=message.id,
        reason=one_line(reason),
        value=message.value,
        headers=tuple((name, text.encode()) for name, text in (*own, *message.headers)),
        source_ms=row.recorded_at_ms,
    )


def _key_of(row: OutboxMessage) -> str:
    return f"{row.message.topic}/{row.message.key}"


def _held_keys(journal: Journal, name: str) -> set[str]:
    if not sum(journal.intake.held_counts(name).values()):
        return set()
    return {held.key for held in journal.intake.held(name, limit=1_000_000)}


async def _wait(stop: asyncio.Event, news: asyncio.Event | None, seconds: float) -> None:
    """Wait until the request to stop, until there is news, or for a time."""
    waits = [asyncio.create_task(event.wait()) for event in (stop, news) if event is not None]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
        with suppress(asyncio.CancelledError):
            await wait
