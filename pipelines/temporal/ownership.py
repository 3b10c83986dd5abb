"""Rules of ownership: when an owner stops, and how soon the next slice begins. Pure.

Theory: Temporal's silence never ends a slice. An owner stops when it is told to, or when its slice is over and Temporal
answers; while Temporal is away it goes on, since nobody could take over. An owner that Temporal has given up goes on as
well for a while, because the server that was away gives up every owner whose heartbeats it missed; the token in the
store ends it as soon as there is another owner.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from hashlib import sha256
from urllib.parse import quote

from amends.pipelines.runtime.partition_work import OwnedKind

__all__ = ["Ownership", "SliceEnded", "SliceReason", "Withdrawal", "pause_before_next", "reason_to_stop", "workflow_id"]

_NAME_CHARS = 300
_CONTESTED_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """The times of ownership.

    Attributes:
        slice: The length of a slice. When it ends, any worker may take the partition.
        heartbeat: The time without a heartbeat after which Temporal gives an owner up; it sends three in that time.
        retry: The delay before Temporal repeats a slice that failed, or whose owner is lost.
        discover: The interval at which workers list the partitions of a source.
        drain: The longest time for the present batches when the process stops.
    """

    slice: timedelta = timedelta(minutes=1)
    heartbeat: timedelta = timedelta(seconds=10)
    retry: timedelta = timedelta(milliseconds=500)
    discover: timedelta = timedelta(seconds=30)
    drain: timedelta = timedelta(seconds=2)


class SliceReason(StrEnum):
    """The reason for which a slice ended."""

    OVER = "over"
    """Its time is over."""
    HANDED_OVER = "handed over"
    """The worker shuts down."""
    CANCELLED = "cancelled"
    """Somebody cancelled, paused or reset the activity in Temporal."""
    SUPERSEDED = "superseded"
    """Temporal gave the owner up, and has answered for long enough to start another one."""
    FENCED = "fenced"
    """The store has a greater token."""
    GONE = "gone"
    """The source has no such partition any more."""


class Withdrawal(StrEnum):
    """The way in which Temporal withdrew the activity."""

    ORDERED = "ordered"
    """On request."""
    GIVEN_UP = "given up"
    """Temporal missed heartbeats, or does not know the activity any more."""


@dataclass(frozen=True, slots=True)
class SliceEnded:
    """The result of a slice.

    Attributes:
        reason: The reason for its end.
        stored_slice: The slice's number of the token in the store if the store has a greater one; otherwise 0.
    """

    reason: SliceReason
    stored_slice: int = 0


def reason_to_stop(
    withdrawal: Withdrawal | None, *, shuts_down: bool, temporal_was_away: bool, over: bool
) -> SliceReason | None:
    """Return why an owner is to end its slice now; `None` if it goes on.

    Args:
        withdrawal: The way in which Temporal withdrew the activity; `None` if it did not.
        shuts_down: Whether the worker shuts down.
        temporal_was_away: Whether Temporal may have been away in the last half minute.
        over: Whether the slice's time is over and Temporal answers, so that the next slice can begin.
    """
    if shuts_down:
        return SliceReason.HANDED_OVER
    if withdrawal is Withdrawal.ORDERED:
        return SliceReason.CANCELLED
    if withdrawal is Withdrawal.GIVEN_UP:
        return None if temporal_was_away else SliceReason.SUPERSEDED
    return SliceReason.OVER if over else None


def pause_before_next(reasons: tuple[SliceReason, SliceReason]) -> float:
    """Return the pause before the next slice of a partition, in seconds.

    If two slices in a row find a greater token, then another
    Temporal drives the same partition, and two owners would otherwise take it from each other as fast as they can.

    Args:
        reasons: The reasons of the last slice but one, and of the last one.
    """
    return _CONTESTED_S if reasons == (SliceReason.FENCED, SliceReason.FENCED) else 0.0


def workflow_id(kind: OwnedKind, name: str, partition: str) -> str:
    """Return the id of a partition's workflow, `amends/<kind>/<name>/<partition>`.

    Characters that are unsafe on a terminal are escaped, and a long name of a partition is cut and ends in a hash.
    """
    text = quote(partition, safe="/._-:@+=", errors="surrogatepass")
    if len(text) > _NAME_CHARS:
        text = f"{text[:_NAME_CHARS]}~{sha256(partition.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    return f"amends/{kind}/{name}/{text}"
