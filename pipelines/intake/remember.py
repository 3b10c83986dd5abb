"""The memory of messages: whether a message is new, known with the same content, or known with other content. Pure.

There is one class for each kind of memory, with the same two methods: `IdMemory` for ids in buckets of time,
`NumberMemory` for numbers that producers count for each key, `RunMemory` for runs, whose ids come from the messages,
and `NoMemory`. Each begins with the store's answer for the whole batch, and learns the messages that the batch applies.

Buckets are numbered by the minute at which they begin, so that the numbers keep their order when `remember` changes.
A bucket is forgotten `remember` after its end, by the time up to which *every* partition has been read: a pipeline that
was stopped for a month forgets nothing meanwhile, and still knows the ids from before when it reads on.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import Enum
from hashlib import blake2b
from typing import Any, Protocol

from amends.aggregates.intake import RememberedId

__all__ = [
    "GAP_MOST",
    "ID_BYTES",
    "IdMemory",
    "Known",
    "Memory",
    "NoMemory",
    "NumberMemory",
    "Remembered",
    "RunMemory",
    "bucket_of",
    "forget_before",
    "gap_hash",
    "id_hash",
    "number_hash",
    "seal_before",
    "start_ms_of",
]

ID_BYTES = 16
"""Length of the hash of an id. Of 10^12 ids, two have the same hash with a probability of about 10^-15."""

GAP_MOST = 1_000
"""Largest number of sequence numbers that may be missing in a row; a message after a larger gap is set aside."""

_BUCKETS = 8
"""Number of buckets in the time of `remember`; one more has begun to expire."""
_MINUTE_MS = 60_000
_SKEW_MS = 15 * _MINUTE_MS
"""Largest difference between the clocks of a store's workers and sources that the memory allows for."""
_NO_DIGEST = bytes(8)


class Known(Enum):
    """The memory's answer for one message."""

    NEW = "new"
    SAME = "same"
    OTHER = "other"
    JUMP = "jump"
    """Its sequence number leaves out too many numbers."""


class Remembered(Protocol):
    """The parts of a message that a memory uses; see `Arrival`."""

    @property
    def id(self) -> str:
        """Its id."""
        ...

    @property
    def key(self) -> str:
        """Its key."""
        ...

    @property
    def hash(self) -> bytes:
        """The hash of its id."""
        ...

    @property
    def digest(self) -> bytes:
        """The digest of its content."""
        ...

    @property
    def sequence(self) -> int | None:
        """Its sequence number."""
        ...

    @property
    def subject(self) -> Any:  # noqa: ANN401 - a start, for the memory of runs
        """Its content, or the start of its run."""
        ...


class Memory(Protocol):
    """The memory of one kind, for one batch."""

    @property
    def always(self) -> bool:
        """Whether it learns messages even in a mode without memory of ids, because they cost it nothing."""
        ...

    def known(self, message: Remembered, /) -> Known:
        """Return whether the message is known, those of this batch included."""
        ...

    def learn(self, message: Remembered, /) -> None:
        """Add a message that the batch has applied."""
        ...


# ---- hashes and buckets


def id_hash(text: str) -> bytes:
    """Return the hash under which the store remembers an id."""
    return blake2b(text.encode(), digest_size=ID_BYTES).digest()


def number_hash(key: str, number: int) -> bytes:
    """Return the hash that stands for a sequence number that came late."""
    return blake2b(f"{number}/{key}".encode(), digest_size=ID_BYTES, person=b"number").digest()


def gap_hash(key: str, number: int) -> bytes:
    """Return the hash that stands for a sequence number that was left out."""
    return blake2b(f"{number}/{key}".encode(), digest_size=ID_BYTES, person=b"gap").digest()


def bucket_of(at_ms: int, remember: timedelta) -> int:
    """Return the number of the bucket for ids that are remembered at a time."""
    width = max(1, remember // timedelta(minutes=_BUCKETS))
    return at_ms // _MINUTE_MS // width * width


def start_ms_of(bucket: int) -> int:
    """Return the time at which a bucket begins, in milliseconds since the epoch."""
    return bucket * _MINUTE_MS


def seal_before(now_ms: int, remember: timedelta) -> int:
    """Return the bucket before which all buckets are complete, although the clocks of workers differ."""
    return bucket_of(max(0, now_ms - _SKEW_MS), remember)


def forget_before(reached_ms: int, remember: timedelta) -> int:
    """Return the bucket before which the promise of `remember` needs no bucket any more.

    Args:
        reached_ms: Time up to which every partition has been read.
        remember: The time for which the pipeline remembers ids.
    """
    return bucket_of(max(0, reached_ms - _SKEW_MS - remember // timedelta(milliseconds=1)), remember)


# ---- memories


class NoMemory:
    """The memory of a pipeline that remembers only its position: every message is new."""

    always = False

    def known(self, _: Remembered, /) -> Known:
        """Return that a message is new."""
        return Known.NEW

    def learn(self, _: Remembered, /) -> None:
        """Keep nothing."""


class IdMemory:
    """The memory of ids.

    Args:
        known: The digests of those ids of the batch that the store remembers, by the hash of the id.

    Attributes:
        new: The ids to remember, by hash.
    """

    always = False

    def __init__(self, known: Mapping[bytes, bytes]) -> None:
        self._known = known
        self.new: dict[bytes, RememberedId] = {}

    def known(self, message: Remembered, /) -> Known:
        """Return whether the id is known, and with which content."""
        digest = self._known.get(message.hash)
        if digest is None:
            learnt = self.new.get(message.hash)
            if learnt is None:
                return Known.NEW
            digest = learnt.digest
        return Known.SAME if digest == message.digest else Known.OTHER

    def learn(self, message: Remembered, /) -> None:
        """Add an id, unless it is known."""
        if message.hash not in self._known:
            self.new[message.hash] = RememberedId(message.hash, message.digest)


class NumberMemory:
    """The memory of sequence numbers: the last one of each key, and those that are missing before it.

    A missing number is remembered as an id of its own, so a message that comes late is still applied, once.

    Args:
        last: The last number of each key that the store knows.
        known: The digests of the hashes of `number_hash` and `gap_hash` that the store remembers.

    Attributes:
        new: The ids to remember, by hash: missing numbers, and those that came late.
        numbers: The last numbers to store, by key.
        gaps: Count of numbers that producers have left out.
    """

    always = True

    def __init__(self, last: Mapping[str, int], known: Mapping[bytes, bytes]) -> None:
        self._last = last
        self._known = known
        self.new: dict[bytes, RememberedId] = {}
        self.numbers: dict[str, int] = {}
        self.gaps = 0

    def known(self, message: Remembered, /) -> Known:
        """Return whether the number has been taken."""
        number = message.sequence or 0
        last = self._last_of(message.key)
        if last is None or last < number <= last + GAP_MOST + 1:
            return Known.NEW
        if number > last:
            return Known.JUMP
        late = self._has(gap_hash(message.key, number)) and not self._has(number_hash(message.key, number))
        return Known.NEW if late else Known.SAME

    def learn(self, message: Remembered, /) -> None:
        """Add a number, and the missing ones before it."""
        key, number = message.key, message.sequence or 0
        last = self._last_of(key)
        if last is not None and number <= last:
            self._add(number_hash(key, number))
            return
        self.numbers[key] = number
        if last is not None:
            for missing in range(max(last + 1, number - GAP_MOST), number):
                self.gaps += 1
                self._add(gap_hash(key, missing))

    def _last_of(self, key: str) -> int | None:
        return self.numbers.get(key, self._last.get(key))

    def _has(self, name: bytes) -> bool:
        return name in self.new or name in self._known

    def _add(self, name: bytes) -> None:
        if not self._has(name):
            self.new[name] = RememberedId(name, _NO_DIGEST)


class RunMemory:
    """The memory of runs: a message whose run exists is known.

    Args:
        same: Function that returns whether the run of a message exists with the same request; `None` if there is none.
    """

    always = False

    def __init__(self, same: Callable[[Remembered], bool | None]) -> None:
        self._same = same

    def known(self, message: Remembered, /) -> Known:
        """Return whether the run exists, and with which request."""
        same = self._same(message)
        return Known.NEW if same is None else Known.SAME if same else Known.OTHER

    def learn(self, _: Remembered, /) -> None:
        """Keep nothing, because the store has the run."""
