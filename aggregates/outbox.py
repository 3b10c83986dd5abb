"""The outbox: messages that a transaction sends, stored in the commit of its changes and published later. Pure.

A relay reads the outbox in the order of its ids, which is the order of the commits, and publishes each message at least
once, with an id that stays the same: `<store id>/<outbox id>`. A reader that remembers ids therefore takes it once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

__all__ = [
    "ALL_TOPICS",
    "ID_HEADER",
    "Outbox",
    "OutboxMessage",
    "OutboxReader",
    "SentMessage",
    "message_id",
    "passed_by_all",
]

ID_HEADER = "amends-id"
"""Name of the header that carries a message's id."""

ALL_TOPICS = ""
"""The topic of a reader that reads every topic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentMessage:
    """A message that a transaction sends.

    Attributes:
        topic: Name of the destination, as the relays know it.
        key: Key that orders it: messages of one topic and key keep their order.
        value: The content: JSON text in UTF-8, or the bytes that the transaction gave.
        headers: Further headers, by name.
        cause: Id of the run or of the message that caused it; empty if there is none.
    """

    topic: str
    key: str
    value: bytes
    headers: tuple[tuple[str, str], ...] = ()
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxMessage:
    """A message in the outbox.

    Attributes:
        id: Its number; a message that was committed later has a greater one.
        message: The message.
        recorded_at_ms: Time of the commit's batch, in milliseconds since the epoch.
        repeats: Number of the message that this one repeats, because its cause has come again; `None` if it is the
            first.
        intact: Whether it is as the transaction sent it. If not, somebody has changed it in the store.
    """

    id: int
    message: SentMessage
    recorded_at_ms: int
    repeats: int | None = None
    intact: bool = True

    def published_id(self, store_id: str) -> str:
        """Return the id under which relays publish it; a repeated message has that of the first one."""
        return message_id(store_id, self.id if self.repeats is None else self.repeats)


class OutboxReader(NamedTuple):
    """The position of a reader in one topic. Messages stay until every reader of their topic is past them.

    Attributes:
        reader: Name of the reader: a relay of this store, or a pipeline of another one.
        topic: Name of the topic; `ALL_TOPICS` for every one.
        next: Number of the next message that it reads.
    """

    reader: str
    topic: str
    next: int


class Outbox(Protocol):
    """One unit's view of the outbox, apart from sending."""

    def readers(self) -> Sequence[OutboxReader]:
        """Return the positions of all readers.

        Raises:
            JournalError: A row does not match its checksum.
        """
        ...

    def topics(self) -> Sequence[str]:
        """Return the topics of the messages."""
        ...

    def passed(self, reader: str, positions: Mapping[str, int]) -> int:
        """Store the positions of a reader, and delete the messages that every reader of their topic is past.

        Messages that are kept for a repetition stay until their time is over.

        Args:
            reader: Name of the reader; a new one is registered.
            positions: Number of the next message that it reads, by topic or `ALL_TOPICS`. Of a topic that is absent it
                is no reader any more.

        Returns:
            The number of messages that were deleted.
        """
        ...

    def remove_reader(self, reader: str) -> int:
        """Forget a reader, and delete the messages that waited for it alone; return their number.

        Messages of a topic that has no other reader stay.
        """
        ...

    def discard(self, topic: str, *, last: int) -> int:
        """Delete the messages of a topic that has no reader; return their number.

        Args:
            topic: Name of the topic.
            last: Number of the last message to delete.

        Raises:
            RefusedError: The topic has a reader.
        """
        ...

    def send_again(self, cause: str) -> int:
        """Send the kept messages of a cause again, under their first ids; return how many there are."""
        ...


def message_id(store_id: str, outbox_id: int) -> str:
    """Return the id under which relays publish a message of the outbox."""
    return f"{store_id}/{outbox_id}"


def passed_by_all(readers: Iterable[OutboxReader], topic: str) -> int | None:
    """Return the number before which every reader has dealt with the messages of a topic; `None` without a reader.

    Args:
        readers: All readers of the store.
        topic: Name of the topic; `ALL_TOPICS` for the topics that no reader names.
    """
    return min((each.next for each in readers if each.topic in {topic, ALL_TOPICS}), default=None)
