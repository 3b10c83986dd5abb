"""Port of feeds: the messages that a relay publishes, in the order of their numbers. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from amends.aggregates.intake import Position
from amends.aggregates.journal import Tx
from amends.pipelines.sink import Published

__all__ = ["Entry", "Feed", "Page"]


class Entry(NamedTuple):
    """A message to publish.

    Attributes:
        number: Its number in the feed.
        key: Key that orders it: if it is set aside, so are the later ones of this key.
        message: The message, under the name that its topic has at the destination.
        sent_ms: Time of its commit, in milliseconds since the epoch; 0 if it is unknown.
        fault: Reason for which it must not be published, in one line; empty if there is none.
    """

    number: int
    key: str
    message: Published
    sent_ms: int
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The next messages of a feed.

    Attributes:
        entries: The messages, in order.
        next: The relay's position after them.
        holes: Numbers of the range that have no message of the relay. Negative for messages that earlier ranges counted
            as holes.
        passed: Called in the unit that moves the position.
    """

    entries: Sequence[Entry]
    next: int
    holes: int
    passed: Callable[[Tx], None]


class Feed(Protocol):
    """The messages of one relay."""

    @property
    def partition(self) -> str:
        """The name of the relay's one partition."""
        ...

    def claimed(self, tx: Tx, position: Position) -> None:
        """Prepare reading from a position, in the unit in which an owner claims it or confirms its claim."""
        ...

    def read_blocking(self, position: Position) -> Page | None:
        """Return the next messages after a position; `None` if there are none.

        Raises:
            JournalError: The store cannot be read.
        """
        ...
