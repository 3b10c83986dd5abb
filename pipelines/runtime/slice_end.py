"""The end of a loop's work on a partition."""

from dataclasses import dataclass
from enum import StrEnum

from amends.aggregates.intake import Position

__all__ = ["EndKind", "SliceEnd"]


class EndKind(StrEnum):
    """The reason for which a loop has ended."""

    STOPPED = "stopped"
    """The owner asked it to stop."""
    TIME = "time"
    """Its time has passed."""
    END = "end"
    """It has taken every message that the source had."""
    PAUSED = "paused"
    """The pipeline is paused, or its partition waits for an operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceEnd:
    """The end of a loop's work on a partition.

    Attributes:
        kind: The reason.
        reason: The reason in one line, for a pause; empty otherwise.
        position: The position that the loop reached; `None` if it never had one.
        messages: Number of messages that it has taken.
    """

    kind: EndKind
    reason: str = ""
    position: Position | None = None
    messages: int = 0
