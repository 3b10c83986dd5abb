"""Ports of sources: the interface between a pipeline and an adapter for Kafka, NATS, files or another store. Pure.

A source has partitions, each a list of messages in a fixed order with growing positions. A pipeline keeps its position
in its own store, with the change that the messages made; an adapter therefore never commits a position of its own
accord, and never reads one back from the broker.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, Protocol

from amends.aggregates.errors import AmendsError, UnreachableError

__all__ = [
    "FROM_START",
    "Lost",
    "PartitionReader",
    "RawMessage",
    "Read",
    "SourceConnection",
    "SourceReplacedError",
    "SourceSetupError",
    "SourceUnreachableError",
    "Start",
]


class RawMessage(NamedTuple):
    """A message as it came.

    Attributes:
        position: Its position in its partition.
        key: The key that its producer gave it; `None` if it has none.
        value: The content; `None` for a message without any, such as a deletion marker of Kafka.
        headers: Headers in their order; a name may occur more than once.
        source_ms: Time of the message by its source, in milliseconds since the epoch; `None` if the source has none.
        fault: Reason for which the source cannot read it, in one line without content; empty if it can.
    """

    position: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    source_ms: int | None = None
    fault: str = ""


class Lost(NamedTuple):
    """Positions that the source no longer has, because it kept them for too short a time.

    Attributes:
        first: The first lost position.
        last: The last lost position.
    """

    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Messages that were read from a partition.

    Attributes:
        first: Position from which the pipeline read.
        next: Position from which the next read continues; greater than that of every message. The positions from
            `first` up to it that have no message are holes.
        messages: The messages in order of their positions.
        cursor: Hint with which the adapter finds `next` fast after a restart; empty if it needs none.
        lost: Positions at the beginning of the range that the source has lost; `None` if it has lost none.
    """

    first: int
    next: int
    messages: Sequence[RawMessage] = ()
    cursor: str = ""
    lost: Lost | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The place from which a partition is read.

    Attributes:
        next: Position of the first message to read; `None` for the oldest one that the source has.
        cursor: The hint of the former read.
        incarnation: Identity that the topic, stream or file must have; empty if any is right.
    """

    next: int | None = None
    cursor: str = ""
    incarnation: str = ""


FROM_START = Start()
"""From the oldest message, of any incarnation."""


class PartitionReader(Protocol):
    """Reads one partition. One task at a time uses it."""

    @property
    def incarnation(self) -> str:
        """Identity of the topic, stream or file; it changes when somebody deletes it and creates it again."""
        ...

    @property
    def first(self) -> int:
        """Position from which the reader began to read."""
        ...

    async def read(self, limit: int, *, max_bytes: int, wait: timedelta) -> Read:
        """Read the next messages in order.

        Args:
            limit: Largest number of messages, at least 1.
            max_bytes: Bound of their size in total; a message that is larger comes alone.
            wait: Longest wait for the first message. When it has passed, the answer has no message.

        Raises:
            SourceReplacedError: The topic, stream or file is another one than before, or ends before the position.
            SourceSetupError: The topic or stream does not exist any more, or the credentials are refused.
            SourceUnreachableError: The source does not answer. The next call goes on from the same position.
        """
        ...

    async def end(self) -> int:
        """Return the position after the last message that the partition has now.

        Raises:
            SourceUnreachableError: The source does not answer.
        """
        ...

    async def acknowledge(self, position: int) -> None:
        """Inform the source, as a courtesy, that everything before a position has been committed.

        No part of Amends reads it back. Errors are ignored.
        """
        ...

    async def pause(self) -> None:
        """Stop fetching messages ahead, until the next `read`."""
        ...

    async def close(self) -> None:
        """Release the connection of this partition."""
        ...


class SourceConnection(Protocol):
    """An open connection to a source."""

    async def partitions(self) -> Sequence[str]:
        """Return the names of the partitions that exist now, in order.

        Raises:
            SourceSetupError: The topic or stream does not exist, or the credentials are refused.
            SourceUnreachableError: The source does not answer.
        """
        ...

    async def open(self, partition: str, start: Start) -> PartitionReader:
        """Begin to read a partition.

        Raises:
            SourceReplacedError: The incarnation is another one than `start` names.
            SourceSetupError: There is no such partition.
            SourceUnreachableError: The source does not answer.
        """
        ...

    async def close(self) -> None:
        """Close the connection and all of its readers."""
        ...


class SourceReplacedError(AmendsError):
    """Somebody deleted the topic, stream or file and created it again, so positions no longer mean the same.

    The pipeline stops, and an operator decides: begin again at the start of the new one, or restore the old one.

    Args:
        source: The source and partition, for the message.
        expected: The incarnation that the pipeline has read.
        found: The present incarnation.
    """

    def __init__(self, source: str, *, expected: str, found: str) -> None:
        super().__init__(
            f"{source} is another one than the pipeline has read (it was {expected}, it is {found}); "
            "to read the new one from its start: amends pipeline seek --start"
        )
        self.expected = expected
        self.found = found


class SourceSetupError(AmendsError):
    """The topic or stream does not exist, or the server refuses the credentials; a retry does not help."""


class SourceUnreachableError(UnreachableError):
    """The source does not answer; a later attempt may succeed."""
