"""Port of the work on one partition, which an owner does for a slice of time.

A pipeline and a relay have the same port, so that one component assigns the partitions of both. The port does no I/O;
its implementations do.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from amends.aggregates.errors import AmendsError
from amends.aggregates.intake import Token

__all__ = ["FencedError", "OwnedKind", "OwnedWork", "PartitionWork"]


class FencedError(AmendsError):
    """Another owner of the partition has a greater token, so nothing of this owner's last batch was committed.

    Args:
        work: The pipeline or relay, for the message.
        partition: The partition.
    """

    def __init__(self, work: str, partition: str) -> None:
        super().__init__(
            f"another process owns partition {partition!r} of {work!r} now; this one has stopped reading it"
        )


class PartitionWork(Protocol):
    """Works on the partitions of one pipeline or relay; each call on one of them."""

    async def run(self, partition: str, token: Token, *, stop: asyncio.Event, seconds: float | None) -> object:
        """Claim a partition, and work on it until the request to stop.

        Args:
            partition: The partition.
            token: The claim. Every commit compares it, and so does an idle owner now and then.
            stop: Set by the owner; the work then ends its present batch and returns.
            seconds: Time after which the work returns automatically; `None` for no bound.

        Returns:
            The reason for the end. If the owner did not set `stop`, the work can do nothing at present, such as in a
            paused pipeline; the owner calls again after a while, with the same token.

        Raises:
            FencedError: The store has another token for the partition, which is greater.
            UnreachableError: The store or the source does not answer; a later call may succeed.
        """
        ...


class OwnedKind(StrEnum):
    """The kind of work that a partition belongs to."""

    PIPELINE = "pipeline"
    RELAY = "relay"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedWork:
    """A pipeline or relay whose partitions are assigned to the workers.

    Attributes:
        kind: Whether it is a pipeline or a relay.
        name: Its name.
        work: Works on a partition.
        partitions: Returns the partitions that exist now. It raises `UnreachableError` while they cannot be listed, and
            any other `AmendsError` if only an operator can help.
        stored_token: Returns the token in the store for a partition; `None` if it has none.
    """

    kind: OwnedKind
    name: str
    work: PartitionWork
    partitions: Callable[[], Awaitable[Sequence[str]]]
    stored_token: Callable[[str], Awaitable[Token | None]]
