"""The outbox: messages that a transaction sends, stored in the commit of its changes and published later. Pure.

A relay reads the outbox in the order of its ids, which is the order of the commits, and publishes each message at least
once, with an id that stays the same: `<store id>/<outbox id>`. A reader that remembers ids therefore takes it once.
"""

from dataclasses import dataclass

__all__ = ["ID_HEADER", "OutboxMessage", "SentMessage", "message_id"]

ID_HEADER = "amends-id"
"""Name of the header that carries a message's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentMessage:
    """A message that a transaction sends.

    Attributes:
        topic: Name of the destination, as the relays know it.
        key: Key that orders it: messages of one topic and key keep their order.
        value: The content, as JSON text in UTF-8.
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
    """

    id: int
    message: SentMessage
    recorded_at_ms: int


def message_id(store_id: str, outbox_id: int) -> str:
    """Return the id under which relays publish a message of the outbox."""
    return f"{store_id}/{outbox_id}"
