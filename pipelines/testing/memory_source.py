"""A source in memory, with the faults of real ones: redelivery, holes, outages, losses and replacement."""

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from datetime import timedelta

from typing_extensions import override

from amends.pipelines.source import (
    Lost,
    PartitionReader,
    RawMessage,
    Read,
    SourceConnection,
    SourceReplacedError,
    SourceSetupError,
    SourceUnreachableError,
    Start,
)

__all__ = ["MemorySource"]


class MemorySource(SourceConnection):
    """A source in memory.

    Args:
        partitions: Names of its partitions.

    Attributes:
        incarnation: Identity of the source; another one makes it another source.
        away: Whether it does not answer.
        redeliver: Number of messages before its position that each read delivers again.
        acknowledged: The last acknowledged position of each partition.
        reads: Number of reads.
    """

    def __init__(self, partitions: Sequence[str] = ("0",)) -> None:
        self._logs: dict[str, list[RawMessage]] = {each: [] for each in partitions}
        self._ends: dict[str, int] = dict.fromkeys(partitions, 0)
        self._kept_from: dict[str, int] = dict.fromkeys(partitions, 0)
        self._waiting: list[asyncio.Future[None]] = []
        self.incarnation = "memory-1"
        self.away = False
        self.redeliver = 0
        self.acknowledged: dict[str, int] = {}
        self.reads = 0

    def put(
        self,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: tuple[tuple[str, bytes], ...] = (),
        source_ms: int | None = None,
        partition: str = "0",
    ) -> int:
        """Append a message, and return its position."""
        position = self._ends[partition]
        self._logs[partition].append(RawMessage(position, key, value, headers, source_ms))
        self._ends[partition] = position + 1
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)
        return position

    def put_all(self, values: Iterable[bytes], *, partition: str = "0") -> None:
        """Append messages."""
        for value in values:
            self.put(value, partition=partition)

    def leave_out(self, positions: int, *, partition: str = "0") -> None:
        """Leave a number of positions without a message, as compaction does."""
        self._ends[partition] += positions

    def lose_before(self, position: int, *, partition: str = "0") -> None:
        """Lose the messages before a position, as retention does."""
        log = self._logs[partition]
        del log[: bisect_left(log, position, key=lambda each: each.position)]
        self._kept_from[partition] = position

    def messages(self, partition: str = "0") -> list[RawMessage]:
        """Return the messages of a partition: the source's own list."""
        return list(self._logs[partition])

    @override
    async def partitions(self) -> Sequence[str]:
        self._check()
        return tuple(self._logs)

    @override
    async def open(self, partition: str, start: Start) -> PartitionReader:
        self._check()
        if partition not in self._logs:
            raise SourceSetupError(f"the source has no partition {partition!r}; it has {', '.join(self._logs)}")
        if start.incarnation and start.incarnation != self.incarnation:
            raise SourceReplacedError(f"partition {partition!r}", expected=start.incarnation, found=self.incarnation)
        first = self._kept_from[partition] if start.next is None else start.next
        return _Reader(self, partition, first)

    @override
    async def close(self) -> None:
        return

    def _check(self) -> None:
        if self.away:
            raise SourceUnreachableError("the source does not answer")


class _Reader(PartitionReader):
    """Reads one partition of a source in memory."""

    def __init__(self, source: MemorySource, partition: str, first: int) -> None:
        self._source = source
        self._partition = partition
        self._first = first
        self._next = first
        self._incarnation = source.incarnation

    @property
    @override
    def incarnation(self) -> str:
        return self._incarnation

    @property
    @override
    def first(self) -> int:
        return self._first

    @override
    async def read(self, limit: int, *, max_bytes: int, wait: timedelta) -> Read:
        source = self._source
        source.reads += 1
        source._check()  # noqa: SLF001 - of this module
        if source.incarnation != self._incarnation:
            raise SourceReplacedError(
                f"partition {self._partition!r}", expected=self._incarnation, found=source.incarnation
            )
        found = self._now(limit)
        if found.next == found.first:
            changed = asyncio.get_running_loop().create_future()
            source._waiting.append(changed)  # noqa: SLF001 - as above
            await asyncio.wait([changed], timeout=wait.total_seconds())
            found = self._now(limit)
        self._next = found.next
        return found

    def _now(self, limit: int) -> Read:
        source, first = self._source, self._next
        log, kept_from = source._logs[self._partition], source._kept_from[self._partition]  # noqa: SLF001 - as above
        lost = Lost(first, kept_from - 1) if first < kept_from else None
        start = max(first, kept_from)
        index = bisect_left(log, start, key=lambda each: each.position)
        messages = log[index : index + limit]
        ended = index + limit >= len(log)
        following = source._ends[self._partition] if ended else log[index + limit].position  # noqa: SLF001 - as above
        again = log[max(0, index - source.redeliver) : index] if messages else []
        return Read(first=first, next=max(following, start), messages=[*again, *messages], lost=lost)

    @override
    async def end(self) -> int:
        self._source._check()  # noqa: SLF001 - as above
        return self._source._ends[self._partition]  # noqa: SLF001 - as above

    @override
    async def acknowledge(self, position: int) -> None:
        self._source.acknowledged[self._partition] = position

    @override
    async def pause(self) -> None:
        return

    @override
    async def close(self) -> None:
        return
