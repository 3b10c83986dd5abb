"""The outbox: messages that a transaction sends, stored in the commit of its changes and published later. Pure.

A relay reads the outbox in the order of its ids, which is the order of the commits, and publishes each message at least
once, with an id that stays the same: `<store id>/<outbox id>`. A reader that remembers ids therefore takes it once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["ID_HEADER", "Outbox", "OutboxMessage", "SentMessage", "message_id"]

ID_HEADER = "amends-id"
"""Name of the header that carries a message's id."""


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
    """

    id: int
    message: SentMessage
    recorded_at_ms: int
    repeats: int | None = None

    def published_id(self, store_id: str) -> str:
        """Return the id under which relays publish it; a repeated message has that of the first one."""
        return message_id(store_id, self.id if self.repeats is None else self.repeats)


class Outbox(Protocol):
    """One unit's view of the outbox, apart from sending: relays delete, and pipelines repeat messages."""

    def delete(self, topics: Sequence[str], *, first: int, last: int) -> int:
        """Delete messages that were published, unless they are kept for a repetition.

        Args:
            topics: Names of their topics.
            first: Number of the first message to delete.
            last: Number of the last message to delete.

        Returns:
            The number of messages that were deleted.
        """
        ...

    def delete_kept(self, topics: Sequence[str], *, last: int, before_ms: int) -> int:
        """Delete kept messages that were published long ago; return their number.

        Args:
            topics: Names of their topics.
            last: Number of the last message that was published.
            before_ms: Time before which they were sent, in milliseconds since the epoch.
        """
        ...

    def send_again(self, cause: str) -> int:
        """Send the kept messages of a cause again, under their first ids; return how many there are."""
        ...


def message_id(store_id: str, outbox_id: int) -> str:
    """Return the id under which relays publish a message of the outbox."""
    return f"{store_id}/{outbox_id}"
