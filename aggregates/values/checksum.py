"""Checksums of stored rows, which reveal a row that something other than the journal changed. Pure.

A checksum covers every column of an event. The length of each part but the last precedes the part, so that no two
different rows give the same bytes.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b

from eventsourcing.persistence import Notification, StoredEvent

__all__ = [
    "CHECKSUM_BYTES",
    "ChangedEvent",
    "ChangedNotification",
    "event_checksum",
    "plan_checksum",
    "plan_fits",
    "read_event",
    "read_notification",
    "row_checksum",
    "row_fits",
    "snapshot_checksum",
    "snapshot_fits",
]

CHECKSUM_BYTES = 16
"""Length of a checksum in bytes."""


def event_checksum(stream: str, position: int, topic: str, state: bytes) -> bytes:
    """Return the checksum of a stored event."""
    text = f"e{position}:{len(stream)}:{len(topic)}:{stream}{topic}"
    return blake2b(text.encode("utf-8", "surrogatepass") + state, digest_size=CHECKSUM_BYTES).digest()


def snapshot_checksum(stream: str, position: int, key: str, state: bytes) -> bytes:
    """Return the checksum of a snapshot; an event with the same columns has another one."""
    name = stream.encode("utf-8", "surrogatepass")
    code = key.encode("utf-8", "surrogatepass")
    prefix = b"s%d:%d:%d:" % (position, len(name), len(code))
    return blake2b(b"".join((prefix, name, code, state)), digest_size=CHECKSUM_BYTES).digest()


def plan_checksum(fingerprint: str, saga: str, plan: str, recorded_at_ms: int) -> bytes:
    """Return the checksum of a stored plan."""
    parts = [part.encode("utf-8", "surrogatepass") for part in (fingerprint, saga, plan)]
    prefix = b"p%d:%d:%d:" % (recorded_at_ms, len(parts[0]), len(parts[1]))
    return blake2b(b"".join((prefix, *parts)), digest_size=CHECKSUM_BYTES).digest()


def row_checksum(table: str, columns: Sequence[object]) -> bytes:
    """Return the checksum of a row whose columns are texts, bytes, whole numbers, flags or nothing.

    Raises:
        TypeError: A column is something else.
    """
    sums = blake2b(table.encode(), digest_size=CHECKSUM_BYTES)
    for each in columns:
        if isinstance(each, bytes):
            sums.update(b"b%d:" % len(each))
            sums.update(each)
        elif isinstance(each, str):
            raw = each.encode("utf-8", "surrogatepass")
            sums.update(b"t%d:" % len(raw))
            sums.update(raw)
        elif isinstance(each, int):
            sums.update(b"n%d" % each)
        elif each is None:
            sums.update(b"-")
        else:  # SQLite stores a number with a fraction in a column of numbers, if someone writes one
            raise TypeError(type(each).__name__)
    return sums.digest()


def row_fits(table: str, row: Sequence[object]) -> bool:
    """Check whether a row, whose last column is the checksum, matches it."""
    try:
        return row_checksum(table, row[:-1]) == row[-1]
    except TypeError:
        return False


class ChangedEvent(StoredEvent):
    """A stored event that does not match its checksum; no codec reads it."""


class ChangedNotification(Notification):
    """A notification that does not match its checksum; no codec reads it."""


def read_event(stream: str, position: int, topic: str, state: bytes, checksum: bytes) -> StoredEvent:
    """Return a row as a stored event; as a `ChangedEvent` if it does not match its checksum."""
    # Not a call of `_fits`, because every event that is read passes here and the call would cost time.
    try:
        if event_checksum(stream, position, topic, state) == checksum:
            return StoredEvent(stream, position, topic, state)
    except TypeError:  # SQLite stores a text in a column of bytes, if someone writes one
        pass
    return ChangedEvent(stream, position, topic, state)


def read_notification(  # noqa: PLR0917 - the columns of a row
    stream: str, position: int, topic: str, state: bytes, checksum: bytes, id_: int
) -> Notification:
    """Return a row as a notification; as a `ChangedNotification` if it does not match its checksum."""
    sound = _fits(stream, position, topic, state, checksum)
    return (Notification if sound else ChangedNotification)(stream, position, topic, state, id_)


def snapshot_fits(stream: str, position: int, key: str, state: bytes, checksum: bytes) -> bool:
    """Check whether a snapshot's row matches its checksum."""
    return _equal(snapshot_checksum, (stream, position, key, state), checksum)


def plan_fits(fingerprint: str, saga: str, plan: str, recorded_at_ms: int, checksum: bytes) -> bool:
    """Check whether a plan's row matches its checksum."""
    return _equal(plan_checksum, (fingerprint, saga, plan, recorded_at_ms), checksum)


def _fits(stream: str, position: int, topic: str, state: bytes, checksum: bytes) -> bool:
    return _equal(event_checksum, (stream, position, topic, state), checksum)


def _equal(function: Callable[..., bytes], columns: tuple[object, ...], checksum: bytes) -> bool:
    try:
        return function(*columns) == checksum
    except (TypeError, AttributeError):  # SQLite stores a text in a column of numbers or bytes, if someone writes one
        return False
