"""The source for Kafka: a connection to a topic, and the readers of its partitions. Does I/O.

Every reader has a thread of its own, since the client's calls block. A cancelled `read` loses no message: messages wait
in the reader until a later `read` returns them.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from amends.pipelines.definition.access import Access
from amends.pipelines.definition.sources import KafkaSource
from amends.pipelines.kafka.client import Broker, ErrorTypes
from amends.pipelines.kafka.fetch import PartitionFetcher
from amends.pipelines.kafka.threads import run_in
from amends.pipelines.kafka.topics import Topic, Topics
from amends.pipelines.source import (
    Read,
    SourceReplacedError,
    SourceSetupError,
    SourceUnreachableError,
    Start,
)

__all__ = ["KafkaConnection", "KafkaReader"]

CHECK_S = 5.0
"""Seconds after which a reader asks again whether the topic is the same."""

_COMMIT_S = 1.0
_OPEN = Access()
_ERRORS = ErrorTypes(SourceSetupError, SourceUnreachableError)


class KafkaConnection:
    """A connection to a topic; the `SourceConnection` of Kafka.

    Args:
        source: The topic.
        name: Name of the pipeline. The broker shows its committed positions under the group `amends-<name>`.
        access: The credentials and certificates.

    Raises:
        SourceSetupError: The client refuses the settings, such as a file that it cannot read.
    """

    def __init__(self, source: KafkaSource, *, name: str, access: Access = _OPEN) -> None:
        self._topic = source.topic
        self._broker = Broker(source.servers, access, _ERRORS)
        self._group = f"amends-{name}"
        self._topics = Topics(self._broker)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="amends-kafka")
        self._readers: set[KafkaReader] = set()
        self._turn = asyncio.Lock()
        self._known: tuple[float, Topic] | None = None

    async def partitions(self) -> Sequence[str]:
        """Return the numbers of the partitions that exist now, as text.

        Raises:
            SourceSetupError: The topic does not exist, or the broker refuses the client.
            SourceUnreachableError: The broker does not answer.
        """
        return tuple(str(number) for number in (await self.topic(0)).partitions)

    async def open(self, partition: str, start: Start) -> "KafkaReader":
        """Begin to read a partition.

        Raises:
            SourceReplacedError: The topic is another one than `start` names, or ends before the position.
            SourceSetupError: There is no such partition.
            SourceUnreachableError: The broker does not answer.
        """
        topic = await self.topic(0)
        if partition not in {str(number) for number in topic.partitions}:
            raise SourceSetupError(
                f"topic {self._topic!r} has no partition {partition!r}, but {len(topic.partitions)} partitions from 0"
            )
        _check_incarnation(f"topic {self._topic!r}", start.incarnation, topic.incarnation)
        fetcher = PartitionFetcher(self._broker, self._group, self._topic, int(partition))
        reader = KafkaReader(self, fetcher, topic.incarnation, self._readers.discard)
        self._readers.add(reader)
        try:
            await reader.begin(start)
        except BaseException:
            await reader.close()
            raise
        return reader

    async def close(self) -> None:
        """Close the connection and all of its readers."""
        for reader in tuple(self._readers):
            await reader.close()
        await run_in(self._thread, self._topics.close)
        self._thread.shutdown(wait=False)

    async def topic(self, max_age_s: float) -> Topic:
        """Return the topic as it was at most some seconds ago.

        Raises:
            SourceSetupError: The topic does not exist, or the broker refuses the client.
            SourceUnreachableError: The broker does not answer.
        """
        asked = time.monotonic()
        async with self._turn:
            if self._known is None or self._known[0] < asked - max_age_s:
                self._known = (time.monotonic(), await run_in(self._thread, lambda: self._topics.topic(self._topic)))
            return self._known[1]


class KafkaReader:
    """Reads one partition of a topic; the `PartitionReader` of Kafka.

    Args:
        connection: The connection.
        fetcher: The client of the partition.
        incarnation: Identity of the topic.
        on_close: Called when the reader closes.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        fetcher: PartitionFetcher,
        incarnation: str,
        on_close: "Callable[[KafkaReader], None]",
    ) -> None:
        self._connection = connection
        self._fetcher = fetcher
        self._incarnation = incarnation
        self._on_close = on_close
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="amends-kafka-partition")
        self._first = 0
        self._acknowledged: int | None = None
        self._committed_at = 0.0
        self._closed = False

    @property
    def incarnation(self) -> str:
        """Identity of the topic: its id, or that of the cluster if the broker knows no ids of topics."""
        return self._incarnation

    @property
    def first(self) -> int:
        """Position from which the reader began to read."""
        return self._first

    async def begin(self, start: Start) -> None:
        """Begin to read; the connection calls it once."""
        self._first = await run_in(self._thread, lambda: self._fetcher.begin(start))

    async def read(self, limit: int, *, max_bytes: int, wait: timedelta) -> Read:
        """Read the next messages in order; see `PartitionReader.read`.

        Raises:
            SourceReplacedError: The topic is another one than before, or ends before the position.
            SourceSetupError: The topic does not exist any more, or the broker refuses the client.
            SourceUnreachableError: The broker does not answer.
        """
        await self._check(CHECK_S)
        await run_in(self._thread, lambda: self._fill(limit, wait.total_seconds()))
        while self._fetcher.in_doubt:
            await self._check(0)
            await run_in(self._thread, self._fetcher.settle)
        await self._check(CHECK_S)
        return self._fetcher.take(limit, max_bytes)

    async def end(self) -> int:
        """Return the position after the last message that the partition has now.

        Raises:
            SourceSetupError: The topic does not exist any more, or the broker refuses the client.
            SourceUnreachableError: The broker does not answer.
        """
        return await run_in(self._thread, self._fetcher.end)

    async def acknowledge(self, position: int) -> None:
        """Remember a position, which the reader sends to the broker at most once a second, for monitoring tools."""
        self._acknowledged = position

    async def pause(self) -> None:
        """Stop fetching messages ahead, until the next `read`."""
        await run_in(self._thread, self._fetcher.pause)

    async def close(self) -> None:
        """Close the connection of this partition."""
        if self._closed:
            return
        self._closed = True
        self._fetcher.stopping = True
        self._on_close(self)
        await run_in(self._thread, self._end)
        self._thread.shutdown(wait=False)

    async def _check(self, max_age_s: float) -> None:
        topic = await self._connection.topic(max_age_s)
        _check_incarnation(self._fetcher.name, self._incarnation, topic.incarnation)

    def _fill(self, limit: int, wait_s: float) -> None:
        if time.monotonic() >= self._committed_at + _COMMIT_S:
            self._commit()
        self._fetcher.fill(limit, wait_s)

    def _commit(self) -> None:
        if self._acknowledged is not None:
            self._fetcher.commit(self._acknowledged)
            self._acknowledged = None
            self._committed_at = time.monotonic()

    def _end(self) -> None:
        self._commit()
        self._fetcher.close()


def _check_incarnation(name: str, expected: str, found: str) -> None:
    if not expected or expected == found:
        return
    if not found:
        raise SourceUnreachableError(
            f"cannot check the identity of {name}: the cluster has no controller now; try again"
        )
    raise SourceReplacedError(name, expected=expected, found=found)
