"""Port of sinks: the interface between a relay and an adapter for Kafka, NATS or files. Pure.

A relay publishes the messages of the outbox in the order of their ids. It keeps its position in the store, and moves it
after the sink has acknowledged; a crash in between makes it publish some messages again, under the same ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from amends.aggregates.errors import AmendsError, UnreachableError

__all__ = ["REPEAT_HEADER", "Published", "Refusal", "Sink", "SinkSetupError", "SinkUnreachableError"]


REPEAT_HEADER = "amends-repeat"
"""Header of a message that a relay sends again because its cause came again; it contains the number of this time."""


class Published(NamedTuple):
    """A message to publish.

    Attributes:
        id: Its id, which stays the same when the relay publishes it again.
        topic: Name of the destination: a topic, a subject or a file.
        key: Key that orders it. The adapter keeps the order of the messages of one topic and key.
        value: The content, as JSON text in UTF-8.
        headers: Headers by name. The adapter adds the id, under `amends.aggregates.outbox.ID_HEADER`.
    """

    id: str
    topic: str
    key: str
    value: bytes
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that the destination never takes, whatever the number of attempts.

    Attributes:
        index: Index of the message in the sequence that was to be published.
        reason: One line for the operator. It quotes no content.
    """

    index: int
    reason: str


class Sink(Protocol):
    """An open connection to a destination. One task at a time uses it."""

    async def refusal(self, message: Published) -> str | None:
        """Return the reason for which the destination would refuse a message, as far as the adapter knows it before.

        Such as a message that is too large, or a topic with an impossible name. A relay sets the message aside, with
        the later ones of its key, before it publishes any of them.

        Returns:
            One line that quotes no content; `None` if no reason is known.

        Raises:
            SinkSetupError: As in `publish`.
            SinkUnreachableError: As in `publish`.
        """
        ...

    async def publish(self, messages: Sequence[Published]) -> Sequence[Refusal]:
        """Publish messages in order, and wait until the destination has acknowledged each of them.

        Returns:
            The messages that the destination has refused for good; usually none. It has acknowledged all others, among
            them perhaps later ones of the same key.

        Raises:
            SinkSetupError: The destination does not exist, or refuses the credentials.
            SinkUnreachableError: The destination does not answer. It may have taken some of the messages.
        """
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


class SinkSetupError(AmendsError):
    """The destination does not exist, or the server refuses the credentials; a retry does not help."""


class SinkUnreachableError(UnreachableError):
    """The destination does not answer; a later attempt may succeed."""
