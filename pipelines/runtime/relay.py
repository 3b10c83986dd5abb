"""The loop of a relay: read its feed in order, publish, remember the position.

Theory of operation: the relay reads its feed after its position, publishes, and then moves the position in one commit,
with which the outbox deletes the messages. A crash in between makes it publish some messages again, under the same ids.
The position carries the token of its owner, so of two owners only one moves it.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from amends.aggregates.intake import Counts, HeldKind, HeldMessage, Position, Token
from amends.aggregates.journal import Journal, Tx
from amends.pipelines.definition.relays import Relay, RunRelay
from amends.pipelines.runtime.control_units import begin, claim
from amends.pipelines.runtime.feed import Entry, Feed, Page
from amends.pipelines.runtime.held_by_relays import account, held_message
from amends.pipelines.runtime.intake_unit import present_position
from amends.pipelines.runtime.outbox_feed import OutboxFeed
from amends.pipelines.runtime.run_feed import RunFeed
from amends.pipelines.runtime.slice_end import EndKind, SliceEnd
from amends.pipelines.sink import Sink, SinkUnreachableError

__all__ = ["RelayLoop"]

_FOLLOWS = "an earlier message of its key is held"
_POLL_S = 0.2
_CLAIM_EVERY = 25
_LONGEST_PAUSE_S = 5.0

_LOG = logging.getLogger(__name__)


class RelayLoop:
    """Publishes the feed of a relay; a `PartitionWork` with one partition.

    Args:
        journal: The store.
        relay: The relay.
        sink: An open connection to its destination.
    """

    def __init__(self, journal: Journal, relay: Relay, sink: Sink) -> None:
        self._journal = journal
        self._relay = relay
        self._sink = sink
        self._feed: Feed = RunFeed(journal, relay) if isinstance(relay, RunRelay) else OutboxFeed(journal, relay)

    @property
    def partition(self) -> str:
        """The name of its one partition."""
        return self._feed.partition

    async def run(
        self,
        partition: str,
        token: Token,
        *,
        stop: asyncio.Event,
        seconds: float | None = None,
        until_end: bool = False,
    ) -> SliceEnd:
        """Claim the feed, and publish it until the request to stop.

        Args:
            partition: The relay's one partition.
            token: The claim.
            stop: Set by the owner; the loop then ends its present batch and returns.
            seconds: Time after which the loop returns; `None` for no bound.
            until_end: Whether it returns when it has published every message.

        Raises:
            FencedError: The store has a greater token.
            SinkSetupError: The destination does not exist, or refuses the credentials. Nothing was lost.
            UnreachableError: The store does not answer.
        """
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        position = await self._claim(partition, token, first=True)
        published, idle, failures = 0, 0, 0
        while not stop.is_set():
            if deadline is not None and asyncio.get_running_loop().time() >= deadline:
                return SliceEnd(kind=EndKind.TIME, position=position, messages=published)
            page = await asyncio.to_thread(self._feed.read_blocking, position)
            if page is None:
                if until_end:
                    return SliceEnd(kind=EndKind.END, position=position, messages=published)
                idle += 1
                if idle % _CLAIM_EVERY == 0:
                    position = await self._claim(partition, token, first=False)
                await _wait(stop, _POLL_S)
                continue
            try:
                held = await self._publish(partition, page)
            except SinkUnreachableError as error:
                failures += 1
                if failures == 1:
                    _LOG.warning("relay %r waits: %s", self._relay.name, error)
                await _wait(stop, min(_POLL_S * 2**failures, _LONGEST_PAUSE_S))
                continue
            if failures:
                _LOG.warning("relay %r continues", self._relay.name)
            failures = 0
            position = await self._advance(partition, position, page, held)
            published += len(page.entries)
        return SliceEnd(kind=EndKind.STOPPED, position=position, messages=published)

    async def _claim(self, partition: str, token: Token, *, first: bool) -> Position:
        name = self._relay.name

        def unit(tx: Tx) -> Position:
            present = claim(tx, name, partition, token)
            if present is None:
                start = Position(first=1, next=1, cursor="", incarnation=tx.store_id, epoch=0, token=token)
                present = begin(tx, name, partition, start)
            if first:
                self._feed.claimed(tx, present)
            return present

        return await self._journal.commit(unit)

    async def _publish(self, partition: str, page: Page) -> list[HeldMessage]:
        """Publish messages, and return those that are set aside."""
        held_keys = await asyncio.to_thread(_held_keys, self._journal, self._relay.name)
        held: list[HeldMessage] = []
        ready: list[Entry] = []
        for entry in page.entries:
            reason = entry.fault or (_FOLLOWS if entry.key in held_keys else await self._sink.refusal(entry.message))
            if reason is None:
                ready.append(entry)
                continue
            kind = HeldKind.FOLLOWER if reason is _FOLLOWS else HeldKind.FAILED
            held.append(held_message(partition, entry, HeldKind.UNDECODABLE if entry.fault else kind, reason))
            held_keys.add(entry.key)
        refusals = await self._sink.publish([entry.message for entry in ready]) if ready else ()
        late = [held_message(partition, ready[each.index], HeldKind.FAILED, each.reason) for each in refusals]
        return held + late

    async def _advance(self, partition: str, position: Position, page: Page, held: Sequence[HeldMessage]) -> Position:
        name = self._relay.name
        counts = Counts(applied=len(page.entries) - len(held), set_aside=len(held))

        def advance(tx: Tx) -> Position:
            present = present_position(tx.intake, name, partition, position.token)
            if present.batch != position.batch:
                # The reply of this commit was lost before.
                return present
            if held:
                tx.intake.hold(name, held)
            page.passed(tx)
            return account(tx, name, partition, present, after=page.next, holes=page.holes, counts=counts)

        reached = await self._journal.commit(advance)
        for message in held:
            if message.kind is not HeldKind.FOLLOWER:
                _LOG.error("relay %r has set aside message %s: %s", name, message.id, message.reason)
        return reached


def _held_keys(journal: Journal, name: str) -> set[str]:
    if not sum(journal.intake.held_counts(name).values()):
        return set()
    return {held.key for held in journal.intake.held(name, limit=1_000_000)}


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    """Wait until the request to stop, or for a time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
