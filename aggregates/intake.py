"""Ports of the intake of messages: the position in a source, the memory of ids, and the messages that are set aside.

All of them are tables of the store, so that they change in the commit of what a message does. A pipeline works on many
messages at once, so each method takes and returns sets. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

__all__ = [
    "BatchRow",
    "Bucket",
    "Counts",
    "HeldKind",
    "HeldMessage",
    "Intake",
    "IntakeReader",
    "Position",
    "RememberedId",
    "Token",
]


class Token(NamedTuple):
    """The claim of an owner of a partition: of two owners, the one with the greater token is the present one.

    Attributes:
        slice: Number of the owner's slice of time.
        attempt: Number of the attempt in the slice.
    """

    slice: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The position of a pipeline in one partition of its source.

    Attributes:
        first: Position of the first message that the pipeline was to read.
        next: Position of the next message to read; everything from `first` up to it has been dealt with.
        cursor: Hint with which the source finds `next` fast, such as a byte offset; empty if it needs none.
        incarnation: Identity of the topic, stream or file that the positions belong to.
        epoch: The number of times that an operator moved the position; ranges of one epoch do not overlap.
        token: The claim of the present owner.
        highest: The greatest `next` of all epochs: a message before it has been read earlier.
        reached_ms: Time up to which the source has been read, in milliseconds since the epoch: that of the last
            message, or the store's when the source had no more. Never goes back, and is never in the future.
        batch: Number of the last batch row of the partition; 0 before the first.
    """

    first: int
    next: int
    cursor: str
    incarnation: str
    epoch: int
    token: Token
    highest: int = 0
    reached_ms: int = 0
    batch: int = 0


class RememberedId(NamedTuple):
    """The memory of one message.

    Attributes:
        id_hash: 16 bytes: the hash of its id.
        digest: 8 bytes: the digest of its content.
    """

    id_hash: bytes
    digest: bytes


class Bucket(NamedTuple):
    """A part of a pipeline's memory of ids, for a span of time.

    Attributes:
        number: Its number; a later span of time has a greater one.
        open_ids: The number of ids that are rows of a table.
        sealed_ids: The number of ids in sealed pages.
    """

    number: int
    open_ids: int
    sealed_ids: int


class HeldKind(StrEnum):
    """The reason for which the store holds a message instead of applying it."""

    FAILED = "failed"
    """The handler, or the check of its input, refused it for good."""
    FOLLOWER = "follower"
    """An earlier message of its key is held."""
    UNDECODABLE = "undecodable"
    """It cannot be read. It holds up no other message, because its key is usually unknown."""
    CONFLICT = "conflict"
    """Another message with the same id has other content."""
    TOO_OLD = "too_old"
    """It is older than the pipeline's memory of ids, so the store cannot tell whether it was applied."""
    DEFERRED = "deferred"
    """The pipeline was busy, and takes it later in the order of its key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMessage:
    """A message that the store holds, whole, until an operator or the pipeline deals with it.

    Attributes:
        partition: Partition of the source.
        position: Position in the partition.
        kind: Reason for which it is held.
        key: Its key; empty if it is unknown.
        id: Its id; empty if it is unknown.
        reason: One line for the operator. It quotes no content.
        value: The content, as it came; `None` for a message without any.
        headers: The headers, as they came.
        source_ms: Time of the message by its source, in milliseconds since the epoch; `None` if the source has none.
        attempts: The number of times that its handler has run.
        held_at_ms: Time since which the store holds it, in milliseconds since the epoch; the store fills it in.
    """

    partition: str
    position: int
    kind: HeldKind
    key: str
    id: str
    reason: str
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    source_ms: int | None = None
    attempts: int = 0
    held_at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The number of messages by their fate. Together they are the messages that arrived.

    A later commit may change the fate of a held message, for example when an operator releases it. The counts of that
    commit then have a negative number for the former fate, so that the sums over all commits stay right: those of
    `set_aside` and `deferred` are the messages that are held now.

    Attributes:
        applied: Messages that took effect.
        redelivered: Messages that the source delivered again although the position was past them. They are not part of
            the range of their batch.
        repeated: Messages that the producer sent again: an equal id with equal content at another position.
        replayed: Messages that an operator had read again, and that had been applied before.
        applied_again: In the modes that refuse no duplicate, those among `applied` that exactly-once would have
            refused. They are counted in `applied` as well.
        set_aside: Messages that are held for an operator.
        deferred: Messages that are held until the pipeline is less busy.
        skipped: Messages that an operator's decision made the pipeline pass over.
        gaps: Sequence numbers that producers left out. They are no messages, so no sum includes them.
    """

    applied: int = 0
    redelivered: int = 0
    repeated: int = 0
    replayed: int = 0
    applied_again: int = 0
    set_aside: int = 0
    deferred: int = 0
    skipped: int = 0
    gaps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRow:
    """One commit of one partition: the range of positions that it dealt with, and the result.

    The range of a commit that only deals with held messages is empty: `next` equals `first`.

    Attributes:
        number: Number of the row in its partition, from 1 without gaps; see `Position.batch`.
        token: The claim of the owner that wrote it, or of the present owner if an operator did.
        epoch: As in `Position`.
        first: First position of the range.
        next: Position after the range. The row of the next batch begins there.
        holes: Positions of the range without a message, such as those that a source has compacted.
        counts: The messages of the range, by their fate.
        mode: Mode of the pipeline at that time.
        recorded_at_ms: Time of the commit's batch, in milliseconds since the epoch.
        first_event: Id of the first event of the journal that the messages caused; 0 if there is none.
        last_event: Id of the last one; 0 if there is none.
    """

    number: int
    token: Token
    epoch: int
    first: int
    next: int
    holes: int
    counts: Counts = field(default_factory=Counts)
    mode: str = "exactly-once"
    recorded_at_ms: int = 0
    first_event: int = 0
    last_event: int = 0


class IntakeReader(Protocol):
    """The reading part: committed state, for commands and audits. Each method blocks until the store answers."""

    def position(self, pipeline: str, partition: str) -> Position | None:
        """Read a position; `None` if the pipeline has never read the partition."""
        ...

    def positions(self, pipeline: str) -> Mapping[str, Position]:
        """Read the positions of all partitions, by partition."""
        ...

    def batches(self, pipeline: str, partition: str, *, after: int = 0, limit: int = 1_000) -> Sequence[BatchRow]:
        """Read the batches of a partition whose number is greater than `after`, in order."""
        ...

    def known(self, pipeline: str, id_hashes: Sequence[bytes], *, oldest_bucket: int) -> Mapping[bytes, bytes]:
        """Return the digests of those ids that the pipeline remembers, by the hash of the id.

        Args:
            pipeline: Name of the pipeline.
            id_hashes: Hashes of ids, 16 bytes each.
            oldest_bucket: Number of the oldest bucket that counts.
        """
        ...

    def last_numbers(self, pipeline: str, keys: Sequence[str]) -> Mapping[str, int]:
        """Return the last sequence number that was taken of each key; a key without one is absent."""
        ...

    def horizon(self, pipeline: str) -> int:
        """Return the number of the oldest bucket that the pipeline has never forgotten; 0 if it has forgotten none."""
        ...

    def held(
        self,
        pipeline: str,
        *,
        partition: str | None = None,
        kinds: frozenset[HeldKind] = frozenset(),
        key: str | None = None,
        limit: int = 1_000,
    ) -> Sequence[HeldMessage]:
        """Read held messages in the order of partition and position; all of them, unless the arguments select some."""
        ...

    def held_counts(self, pipeline: str) -> Mapping[HeldKind, int]:
        """Count the held messages by kind."""
        ...

    def totals(self, pipeline: str) -> Mapping[str, Counts]:
        """Add up the counts of all batches, by partition."""
        ...

    def buckets(self, pipeline: str) -> Sequence["Bucket"]:
        """Return the buckets of the pipeline's memory of ids, in order."""
        ...


class Intake(IntakeReader, Protocol):
    """One unit's view of the tables: it sees its own writes, and those of earlier units of the batch."""

    def begin(self, pipeline: str, partition: str, position: Position) -> bool:
        """Create the row of a partition; return whether there was none."""
        ...

    def move(self, pipeline: str, partition: str, *, expected: Position, to: Position) -> bool:
        """Replace a position if it is the expected one in every field, token included; return whether it was."""
        ...

    def claim(self, pipeline: str, partition: str, token: Token) -> Position | None:
        """Raise the token of a partition to a greater one, and return the position with it.

        Returns:
            `None` if the stored token is not smaller, or the partition has no row.
        """
        ...

    def remember(self, pipeline: str, bucket: int, ids: Sequence[RememberedId]) -> None:
        """Add ids to the memory of a pipeline; none of them may be known.

        Args:
            pipeline: Name of the pipeline.
            bucket: Number of the bucket of time that they belong to.
            ids: The ids.
        """
        ...

    def forget_before(self, pipeline: str, bucket: int) -> int:
        """Drop the buckets before a number, and raise the horizon to it; return how many ids they had."""
        ...

    def seal_before(self, pipeline: str, bucket: int, *, limit: int = 1_000) -> int:
        """Move ids of the buckets before a number from rows into sealed pages; return how many have been moved.

        A part at a time, because all other writers wait for the commit: call it in one unit after the other until it
        returns less than the limit. A bucket that is sealed still takes ids.
        """
        ...

    def held_keys(self, pipeline: str, keys: Sequence[str]) -> Mapping[str, HeldKind]:
        """Return those keys that have a held message, with the kind of the first one in order of position."""
        ...

    def hold(self, pipeline: str, messages: Sequence[HeldMessage]) -> None:
        """Store messages; one that is held already, by partition and position, is replaced."""
        ...

    def let_go(self, pipeline: str, partition: str, positions: Sequence[int]) -> None:
        """Remove held messages."""
        ...

    def set_numbers(self, pipeline: str, numbers: Mapping[str, int]) -> None:
        """Set the last sequence number of keys."""
        ...

    def add_batch(self, pipeline: str, partition: str, row: BatchRow) -> None:
        """Add the row of this unit's batch, after everything else that the unit appends.

        The store fills in the time, and the ids of the events that the unit has appended so far.
        """
        ...
