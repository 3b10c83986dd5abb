"""The flow of messages: the size of batches, the breaker, and the bounds of held messages. Pure.

Everything here protects the rest of the store from one pipeline: a batch holds the writer's lock for a bounded time, a
fault that concerns all messages pauses the pipeline instead of setting every message aside, and a pipeline that holds
too many messages pauses, too.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from amends.aggregates.intake import HeldKind
from amends.pipelines.definition.bounds import Bounds

__all__ = ["BatchSize", "Breaker", "Failure", "bound_reached"]

BREAKER_KEYS = 5
"""Number of keys with the same failure that show a fault of the pipeline and not of a message."""
BREAKER_MS = 60_000
"""Time within which these keys must have failed, in milliseconds."""

_FIRST = 100
_GROWTH = 2
_WEIGHT = 0.3
_FLUSH = 1.5
"""Time that the store needs for a message in all, for each unit of time that the work on it takes."""


class BatchSize:
    """The number of messages to take at once, so that a batch holds the writer's lock for about a given time.

    A commit costs a fixed time as well, which smaller batches would only spend more often. So only the time of the
    messages decides: they get the rest of the given time, and at least half of it. Their cost is an average in which
    recent batches weigh more. The size at most doubles from one batch to the next, and falls at once.

    Args:
        most: Largest size.
        lock_ms: Time for which a batch should hold the lock, in milliseconds.

    Attributes:
        size: Number of messages of the next batch, from 1 to `most`.
    """

    def __init__(self, most: int, lock_ms: int) -> None:
        self._most = most
        self._lock_ms = lock_ms
        self._cost_ms = 0.0
        self.size = min(_FIRST, most)

    def learn(self, messages: int, *, work_ms: float, held_ms: float) -> None:
        """Adapt the size to a batch.

        Args:
            messages: Number of messages of the batch; 0 changes nothing.
            work_ms: Time of the work on them, in milliseconds.
            held_ms: Time for which the batch held the lock, in milliseconds; at least `work_ms`.
        """
        if messages <= 0:
            return
        spent_ms = max(min(work_ms * _FLUSH, held_ms), 0.001)
        cost_ms = spent_ms / messages
        self._cost_ms += (_WEIGHT if self._cost_ms else 1.0) * (cost_ms - self._cost_ms)
        if spent_ms > 2 * self._lock_ms:
            self._cost_ms = max(self._cost_ms, cost_ms)
        left_ms = max(self._lock_ms - (held_ms - spent_ms), self._lock_ms / 2)
        self.size = max(1, min(int(left_ms / self._cost_ms), self.size * _GROWTH, self._most))


class Failure(NamedTuple):
    """A message that failed for good.

    Attributes:
        fault: Its fault; two messages with the same fault have equal text.
        key: Its key; empty if it is unknown.
        at_ms: Time of the failure, in milliseconds since the epoch.
    """

    fault: str
    key: str
    at_ms: int


class Breaker:
    """Detects a fault that concerns the whole pipeline: five keys with the same failure within a minute.

    Messages whose key is unknown count as a key each, but only if at least as many messages as were read in that time
    could not be read: a few unreadable ones among many are faults of theirs.
    """

    def __init__(self) -> None:
        self._failures: deque[Failure] = deque()
        self._readable: deque[tuple[int, int]] = deque()

    def fault(self, new: Iterable[Failure], readable: int = 0) -> str | None:
        """Return the fault that trips the breaker; `None` if none does.

        Args:
            new: Failures that have not been recorded, in order of time.
            readable: Number of readable messages that have not been recorded.
        """
        added = list(new)
        if not added:
            return None
        since_ms = added[-1].at_ms - BREAKER_MS
        keys: dict[str, set[str]] = {}
        unknown: dict[str, int] = {}
        for each in (*self._failures, *added):
            if each.at_ms < since_ms:
                continue
            if each.key:
                keys.setdefault(each.fault, set()).add(each.key)
            else:
                unknown[each.fault] = unknown.get(each.fault, 0) + 1
        read = readable + sum(count for at_ms, count in self._readable if at_ms >= since_ms)
        for fault in dict.fromkeys(each.fault for each in added):
            if len(keys.get(fault, ())) >= BREAKER_KEYS or unknown.get(fault, 0) >= max(BREAKER_KEYS, read):
                return fault
        return None

    def record(self, failures: Iterable[Failure], readable: int, now_ms: int) -> None:
        """Record the failures and the number of readable messages of a batch that was committed."""
        self._failures += failures
        self._readable.append((now_ms, readable))
        while self._failures and self._failures[0].at_ms < now_ms - BREAKER_MS:
            self._failures.popleft()
        while self._readable and self._readable[0][0] < now_ms - BREAKER_MS:
            self._readable.popleft()

    def reset(self) -> None:
        """Forget all failures, because an operator has resumed the pipeline."""
        self._failures.clear()
        self._readable.clear()


def bound_reached(bounds: Bounds, held: Mapping[HeldKind, int], largest_key: tuple[str, int] | None = None) -> str:
    """Return the reason for which a pipeline must pause because of the messages that it holds; empty if it need not.

    Args:
        bounds: The bounds of the pipeline.
        held: Number of held messages by kind.
        largest_key: A key and the number of its held messages; `None` if no key matters.
    """
    set_aside = sum(count for kind, count in held.items() if kind is not HeldKind.DEFERRED)
    if set_aside >= bounds.max_held:
        return f"it holds {set_aside} messages, and max_held is {bounds.max_held}; release or skip them"
    if largest_key is not None and largest_key[1] >= bounds.max_held_per_key:
        return (
            f"it holds {largest_key[1]} messages of one key, and max_held_per_key is {bounds.max_held_per_key}; "
            "release or skip them"
        )
    return ""
