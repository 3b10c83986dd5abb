"""Feed of the outbox: the messages of a relay's topics.

Theory of operation: the store knows the relay as a reader of its topics, and deletes a message when all readers of its
topic are past it. A topic that a relay gets later begins at its oldest message, which the relay's position is past;
the feed therefore catches up with such topics first, under a position of their own.
"""

from collections.abc import Mapping, Sequence

from amends.aggregates.intake import Position
from amends.aggregates.journal import Journal, Tx
from amends.aggregates.outbox import ALL_TOPICS, OutboxMessage
from amends.pipelines.definition.relays import Relay
from amends.pipelines.runtime.feed import Entry, Page
from amends.pipelines.sink import REPEAT_HEADER, Published

__all__ = ["CHANGED", "OUTBOX", "OutboxFeed", "late_topics"]

OUTBOX = "outbox"
"""Name of the one partition of a relay of the outbox."""

CHANGED = "somebody has changed the message in the store: its checksum does not match"
"""Reason for which a message of the outbox is set aside."""

_BATCH = 1_000


class OutboxFeed:
    """The messages of a relay's topics.

    Args:
        journal: The store.
        relay: The relay.
    """

    def __init__(self, journal: Journal, relay: Relay) -> None:
        self._journal = journal
        self._relay = relay
        self._topics = None if relay.topics is None else sorted(relay.topics)
        self._late: Mapping[str, int] = {}

    @property
    def partition(self) -> str:
        """The name of the relay's one partition."""
        return OUTBOX

    def claimed(self, tx: Tx, position: Position) -> None:
        """Register the relay as a reader of its topics."""
        readers = [each for each in tx.outbox.readers() if each.reader == self._relay.name]
        known = {each.topic: each.next for each in readers}
        topics = self._topics
        if topics is None:
            topics = list(known) if ALL_TOPICS in known else list(tx.outbox.topics())
        self._late = late_topics(known, topics, next=position.next)
        tx.outbox.passed(self._relay.name, self._positions(position.next, self._late))

    def read_blocking(self, position: Position) -> Page | None:
        """Return the next messages: first those of late topics."""
        if self._late:
            return self._read_late(position)
        rows = self._journal.outbox_blocking(position.next - 1, _BATCH, self._topics)
        if not rows:
            return None
        after = rows[-1].id + 1
        return Page(
            entries=[self._entry(row) for row in rows],
            next=after,
            holes=after - position.next - len(rows),
            passed=lambda tx: self._pass(tx, after, {}),
        )

    def _read_late(self, position: Position) -> Page:
        found = self._journal.outbox_blocking(min(self._late.values()) - 1, _BATCH, sorted(self._late))
        found = [row for row in found if row.id < position.next]
        reached = found[-1].id + 1 if found else position.next
        entries = [self._entry(row) for row in found if row.id >= self._late[row.message.topic]]
        late = {topic: max(first, reached) for topic, first in self._late.items() if reached < position.next}
        return Page(
            entries=entries,
            next=position.next,
            holes=-len(entries),
            passed=lambda tx: self._pass(tx, position.next, late),
        )

    def _pass(self, tx: Tx, next_: int, late: Mapping[str, int]) -> None:
        tx.outbox.passed(self._relay.name, self._positions(next_, late))
        self._late = late

    def _positions(self, next_: int, late: Mapping[str, int]) -> dict[str, int]:
        named = [ALL_TOPICS] if self._topics is None else self._topics
        return {**dict.fromkeys(named, next_), **late}

    def _entry(self, row: OutboxMessage) -> Entry:
        sent, relay = row.message, self._relay
        headers = sent.headers if row.repeats is None else (*sent.headers, (REPEAT_HEADER, str(row.id)))
        id_, topic = row.published_id(self._journal.store_id), relay.destination(sent.topic)
        message = Published(id_, topic, sent.key, sent.value, headers)
        return Entry(row.id, f"{sent.topic}/{sent.key}", message, row.recorded_at_ms, "" if row.intact else CHANGED)


def late_topics(known: Mapping[str, int], topics: Sequence[str], *, next: int) -> Mapping[str, int]:  # noqa: A002 - as in positions
    """Return the topics whose messages the relay's position is past although it has not published them.

    Args:
        known: The relay's positions in the store, by topic or `ALL_TOPICS`.
        topics: The topics that the relay has now.
        next: The relay's position.

    Returns:
        The number of the next message of each such topic.
    """
    first = {topic: known.get(topic, known.get(ALL_TOPICS, 1)) for topic in topics}
    return {topic: number for topic, number in first.items() if topic != ALL_TOPICS and number < next}
