"""Source of NATS JetStream: a stream is one partition, and the position of a message is its sequence number."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from nats.aio.msg import Msg
from nats.js.api import StreamInfo
from nats.js.errors import NotFoundError

from amends.pipelines.definition.access import Access
from amends.pipelines.definition.sources import NatsSource
from amends.pipelines.nats.consumer import Arrival, Consumer
from amends.pipelines.nats.link import NatsLink
from amends.pipelines.source import (
    Lost,
    PartitionReader,
    RawMessage,
    Read,
    SourceReplacedError,
    SourceSetupError,
    SourceUnreachableError,
    Start,
)

__all__ = ["KEY_HEADER", "SUBJECT_HEADER", "NatsConnection", "NatsReader"]

KEY_HEADER = "amends-key"
"""Header with the key of a message that a relay has published."""

SUBJECT_HEADER = "Nats-Subject"
"""Header by which a message shows its subject."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS_PER_MS = 1_000_000
_NS_PER_US = 1_000


class NatsConnection:
    """Reads a stream.

    Args:
        source: The description of the stream.
        access: Credentials and certificates.
    """

    def __init__(self, source: NatsSource, access: Access | None = None) -> None:
        self._source = source
        self._link = NatsLink(
            source.servers, access or Access(), setup=SourceSetupError, unreachable=SourceUnreachableError
        )
        self._readers: list[NatsReader] = []

    async def partitions(self) -> Sequence[str]:
        """Return the name of the stream.

        Raises:
            SourceSetupError: The stream does not exist, or the server refuses the credentials.
            SourceUnreachableError: The server does not answer.
        """
        await _stream_info(self._link, self._source.stream)
        return [self._source.stream]

    async def open(self, partition: str, start: Start) -> PartitionReader:
        """Begin to read the stream.

        Raises:
            SourceReplacedError: The stream is another one, or has lost its last messages.
            SourceSetupError: The stream does not exist, or the server refuses the credentials.
            SourceUnreachableError: The server does not answer.
        """
        if partition != self._source.stream:
            raise SourceSetupError(f"the source has no partition {partition!r}, only {self._source.stream!r}")
        reader = NatsReader(self._link, self._source, start)
        await reader.connect()
        self._readers.append(reader)
        return reader

    async def close(self) -> None:
        """Close the readers and the connection."""
        for reader in self._readers:
            await reader.close()
        self._readers.clear()
        await self._link.close()


class NatsReader:
    """Reads a stream in order from a position.

    Args:
        link: The connection.
        source: The description of the stream.
        start: The place from which to read.
    """

    def __init__(self, link: NatsLink, source: NatsSource, start: Start) -> None:
        self._link = link
        self._source = source
        self._name = f"stream {source.stream!r}"
        self._incarnation = start.incarnation
        self._first = self._next = start.next or 0
        # Position and time of the last message that was read: they show whether the server still has the same one.
        self._cursor = start.cursor
        self._consumer: Consumer | None = None

    @property
    def incarnation(self) -> str:
        """Time at which the stream was created."""
        return self._incarnation

    @property
    def first(self) -> int:
        """Sequence number from which the reader began to read."""
        return self._first

    async def connect(self) -> Consumer:
        """Check that the stream is the same one, and begin to receive; do nothing if the reader receives already.

        Raises:
            SourceReplacedError: The stream is another one, or has lost its last messages.
            SourceSetupError: The stream does not exist, or the server refuses the credentials.
            SourceUnreachableError: The server does not answer.
        """
        if self._consumer is not None and not self._consumer.broken and self._link.connected:
            return self._consumer
        await self.pause()
        info = await _stream_info(self._link, self._source.stream)
        self._check(info)
        await self._check_last_read()
        if not self._next:
            self._first = self._next = max(1, info.state.first_seq)
        async with self._link.reporting(f"a consumer of {self._name}"):
            consumer = Consumer(await self._link.client(), await self._link.jetstream(), self._source.stream)
            self._consumer = consumer
            await consumer.start(self._next, self._source.subject)
        return consumer

    async def read(self, limit: int, *, max_bytes: int, wait: timedelta) -> Read:
        """Read the next messages; messages of other subjects, and deleted ones, are holes."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait.total_seconds()
        while True:
            consumer = await self.connect()
            arrivals = await consumer.take(limit, max_bytes)
            if arrivals:
                return await self._read(arrivals)
            left = deadline - loop.time()
            if consumer.broken:
                await self._give_up()
            elif left <= 0:
                return await self._read_holes(consumer)
            else:
                await consumer.wait(left)

    async def end(self) -> int:
        """Return the number after the last message of the stream."""
        info = await _stream_info(self._link, self._source.stream)
        return max(info.state.last_seq + 1, self._next)

    async def acknowledge(self, position: int) -> None:
        """Do nothing: the consumer needs no acknowledgement."""

    async def pause(self) -> None:
        """Delete the consumer; the next read creates one at the same position."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.close()

    async def close(self) -> None:
        """Delete the consumer."""
        await self.pause()

    async def _read(self, arrivals: Sequence[Arrival]) -> Read:
        before, last = self._next, arrivals[-1]
        lost = None
        if last.position - before >= len(arrivals):
            # Some positions have no message: other subjects and deleted messages, or ones that the stream has lost.
            lost = self._lost((await _stream_info(self._link, self._source.stream)).state.first_seq, arrivals[0])
        self._next = last.position + 1
        self._cursor = f"{last.position}:{last.time_ns // _NS_PER_US}"
        messages = [_raw(arrival) for arrival in arrivals]
        return Read(first=before, next=self._next, messages=messages, cursor=self._cursor, lost=lost)

    def _lost(self, first_seq: int, arrival: Arrival) -> Lost | None:
        after = min(first_seq, arrival.position)
        return Lost(self._next, after - 1) if after > self._next else None

    async def _read_holes(self, consumer: Consumer) -> Read:
        """Return a read without a message: up to the end of the stream if nothing before it is for this consumer."""
        before = self._next
        info = await _stream_info(self._link, self._source.stream)
        self._check(info)
        lost = None
        if info.state.last_seq >= before:
            async with self._link.reporting(f"the consumer of {self._name}"):
                has_all = await consumer.has_all()
            if has_all:
                self._next = info.state.last_seq + 1
                lost_to = min(info.state.first_seq, self._next)
                lost = Lost(before, lost_to - 1) if lost_to > before else None
        return Read(first=before, next=self._next, cursor=self._cursor, lost=lost)

    async def _give_up(self) -> None:
        """Raise an error if the server is gone; after a mere gap, the loop creates another consumer."""
        connected = self._link.connected
        await self.pause()
        if not connected:
            raise SourceUnreachableError(f"{self._link.name} has closed the connection")

    def _check(self, info: StreamInfo) -> None:
        created = info.created.isoformat() if isinstance(info.created, datetime) else ""
        if self._incarnation and created != self._incarnation:
            raise SourceReplacedError(self._name, expected=self._incarnation, found=created)
        self._incarnation = created
        if self._next > info.state.last_seq + 1:
            raise SourceReplacedError(
                self._name,
                expected=f"{created} with {self._next - 1} messages",
                found=f"{created} with {info.state.last_seq}",
            )

    async def _check_last_read(self) -> None:
        """Raise an error if the last message that was read is now another one: the stream has lost its end."""
        if not self._cursor:
            return
        position, expected_us = (int(part) for part in self._cursor.split(":"))
        async with self._link.reporting(self._name):
            context = await self._link.jetstream()
            with suppress(NotFoundError):
                time = (await context.get_msg(self._source.stream, position)).time
                found_us = (time - _EPOCH) // timedelta(microseconds=1) if isinstance(time, datetime) else expected_us
                if found_us != expected_us:
                    raise SourceReplacedError(
                        self._name,
                        expected=f"{self._incarnation} with message {position} of {expected_us} us",
                        found=f"{self._incarnation} with message {position} of {found_us} us",
                    )


async def _stream_info(link: NatsLink, stream: str) -> StreamInfo:
    async with link.reporting(f"stream {stream!r}"):
        try:
            return await (await link.jetstream()).stream_info(stream)
        except ValueError as error:
            raise SourceSetupError(f"{stream!r} is no name of a stream: {error}") from error


def _raw(arrival: Arrival) -> RawMessage:
    message: Msg = arrival.message
    found = message.headers or {}
    headers = [(name, text.encode()) for name, text in found.items()]
    headers.append((SUBJECT_HEADER, message.subject.encode()))
    key = found.get(KEY_HEADER)
    return RawMessage(
        arrival.position,
        None if key is None else key.encode(),
        message.data,
        tuple(headers),
        arrival.time_ns // _NS_PER_MS,
    )
