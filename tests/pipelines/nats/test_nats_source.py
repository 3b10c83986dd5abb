"""A stream of NATS is read in order from any position; each loss and each replacement is noticed."""

from datetime import timedelta
from typing import NoReturn

import pytest
from bounds import HANG_S
from brokers.nats import NatsServer

from amends.pipelines.definition.sources import NatsSource
from amends.pipelines.nats.source import NatsConnection
from amends.pipelines.source import (
    FROM_START,
    Lost,
    PartitionReader,
    Read,
    SourceReplacedError,
    SourceUnreachableError,
    Start,
)

SOON = timedelta(milliseconds=300)
LATER = timedelta(seconds=HANG_S)
ENOUGH = 10_000_000


async def connect(nats_server: NatsServer, subject: str | None = None) -> NatsConnection:
    """Connect to the stream of the test."""
    return NatsConnection(NatsSource("ORDERS", subject=subject, servers=nats_server.url))


async def read_to(reader: PartitionReader, end: int, limit: int = 1_000) -> list[Read]:
    """Read until a position."""
    reads = [await reader.read(limit, max_bytes=ENOUGH, wait=LATER)]
    while reads[-1].next < end:
        reads.append(await reader.read(limit, max_bytes=ENOUGH, wait=LATER))
    return reads


async def read_forever(reader: PartitionReader) -> NoReturn:
    """Read until an error."""
    while True:
        await reader.read(10, max_bytes=ENOUGH, wait=SOON)


def values(reads: list[Read]) -> list[bytes]:
    """Return the contents of the messages."""
    return [message.value or b"" for read in reads for message in read.messages]


def numbered(first: int, after: int) -> list[bytes]:
    """Return contents that are different from each other."""
    return [b'{"n": %d}' % number for number in range(first, after)]


async def test_messages_come_in_order_and_dense(nats_server: NatsServer) -> None:
    """Each read begins where the former one ended, and no message is missing or doubled."""
    await nats_server.create("ORDERS")
    await nats_server.publish("ORDERS", numbered(1, 5_001))
    source = await connect(nats_server)
    assert await source.partitions() == ["ORDERS"]
    reader = await source.open("ORDERS", FROM_START)
    assert (reader.first, await reader.end()) == (1, 5_001)
    reads = await read_to(reader, 5_001, limit=700)
    assert values(reads) == numbered(1, 5_001)
    assert [read.first for read in reads] == [1, *(read.next for read in reads[:-1])]
    assert [message.position for read in reads for message in read.messages] == list(range(1, 5_001))
    await source.close()
    assert await nats_server.consumers("ORDERS") == 0


async def test_a_message_brings_key_headers_subject_and_time(nats_server: NatsServer) -> None:
    """A pipeline can use each of them as id or key."""
    await nats_server.create("ORDERS", "orders.>")
    await nats_server.publish("orders.eu", [b"1"], {"trace": "t-1", "amends-key": "ä"})
    source = await connect(nats_server)
    reader = await source.open("ORDERS", FROM_START)
    (message,) = (await read_to(reader, 2))[0].messages
    assert message.key == "ä".encode()
    assert {("trace", b"t-1"), ("Nats-Subject", b"orders.eu")} <= set(message.headers)
    assert (message.source_ms or 0) > 1_700_000_000_000
    await source.close()


async def test_reading_goes_on_after_a_restart_of_either_side(nats_server: NatsServer) -> None:
    """A new reader continues at its position, and a reader outlives a killed nats_server."""
    await nats_server.create("ORDERS")
    await nats_server.publish("ORDERS", numbered(1, 11))
    source = await connect(nats_server)
    reader = await source.open("ORDERS", FROM_START)
    (read,) = await read_to(reader, 6, limit=5)
    again = await source.open("ORDERS", Start(next=read.next, cursor=read.cursor, incarnation=reader.incarnation))
    assert values(await read_to(again, 11)) == numbered(6, 11)
    nats_server.kill()
    with pytest.raises(SourceUnreachableError):
        await read_forever(again)
    await nats_server.start()
    await nats_server.publish("ORDERS", numbered(11, 14))
    assert values(await read_to(again, 14)) == numbered(11, 14)
    await source.close()


async def test_a_read_keeps_its_bounds_and_waits_no_longer_than_asked(nats_server: NatsServer) -> None:
    """The number and the size are bounded, a large message comes alone, and an empty stream gives an empty read."""
    await nats_server.create("ORDERS")
    source = await connect(nats_server)
    reader = await source.open("ORDERS", FROM_START)
    empty = await reader.read(10, max_bytes=100, wait=SOON)
    assert (empty.first, empty.next, empty.messages) == (1, 1, [] if isinstance(empty.messages, list) else ())
    await nats_server.publish("ORDERS", [b"x" * 60, b"x" * 60, b"x" * 600, b"x"])
    reads = [await reader.read(10, max_bytes=100, wait=LATER) for _ in range(4)]
    assert [[message.position for message in read.messages] for read in reads] == [[1], [2], [3], [4]]
    await source.close()


async def test_messages_of_other_subjects_are_holes(nats_server: NatsServer) -> None:
    """The position passes them, also at the end of the stream, so that their later removal is no loss."""
    await nats_server.create("ORDERS", "orders.*")
    await nats_server.publish("orders.us", numbered(1, 4))
    await nats_server.publish("orders.eu", [b"eu"])
    await nats_server.publish("orders.us", numbered(4, 8))
    source = await connect(nats_server, "orders.eu")
    reader = await source.open("ORDERS", FROM_START)
    (read,) = await read_to(reader, 5)
    assert (read.first, read.next, values([read]), read.lost) == (1, 5, [b"eu"], None)
    (holes,) = await read_to_holes(reader, 9)
    assert (holes.first, holes.next, list(holes.messages), holes.lost) == (5, 9, [], None)
    await source.close()


async def read_to_holes(reader: PartitionReader, end: int) -> list[Read]:
    """Read until a read without a message reaches a position."""
    while True:
        read = await reader.read(10, max_bytes=ENOUGH, wait=SOON)
        if read.next >= end:
            return [read]


@pytest.mark.parametrize("reopened", [False, True])
async def test_messages_that_the_stream_no_longer_has_are_reported(nats_server: NatsServer, *, reopened: bool) -> None:
    """A stream that keeps ten messages loses the older ones; the read names their positions."""
    await nats_server.create("ORDERS", max_msgs=10)
    await nats_server.publish("ORDERS", numbered(1, 4))
    source = await connect(nats_server)
    reader = await source.open("ORDERS", FROM_START)
    (read,) = await read_to(reader, 4)
    await reader.pause()
    await nats_server.publish("ORDERS", numbered(4, 31))
    if reopened:
        reader = await source.open("ORDERS", Start(next=read.next, cursor=read.cursor, incarnation=reader.incarnation))
    reads = await read_to(reader, 31)
    assert reads[0].lost == Lost(4, 20)
    assert values(reads) == numbered(21, 31)
    assert [read.lost for read in reads[1:]] == [None] * len(reads[1:])
    await source.close()


async def test_a_purged_stream_is_a_loss_and_not_a_new_stream(nats_server: NatsServer) -> None:
    """Purging keeps the numbers, so the positions are lost and the pipeline goes on."""
    await nats_server.create("ORDERS")
    await nats_server.publish("ORDERS", numbered(1, 4))
    source = await connect(nats_server)
    reader = await source.open("ORDERS", FROM_START)
    await reader.read(1, max_bytes=ENOUGH, wait=LATER)
    await reader.pause()
    client = await nats_server.client()
    await client.jetstream().purge_stream("ORDERS")
    await client.close()
    (read,) = await read_to_holes(reader, 4)
    assert (read.first, read.next, read.lost) == (2, 4, Lost(2, 3))
    await source.close()


async def test_a_stream_that_was_created_again_stops_the_pipeline(nats_server: NatsServer) -> None:
    """Its numbers mean other messages, for a reader that is open as for one that begins."""
    await nats_server.create("ORDERS")
    await nats_server.publish("ORDERS", numbered(1, 4))
    source = await connect(nats_server)
    reader = await source.open("ORDERS", FROM_START)
    (read,) = await read_to(reader, 4)
    await nats_server.delete("ORDERS")
    await nats_server.create("ORDERS")
    await nats_server.publish("ORDERS", numbered(1, 9))
    with pytest.raises(SourceReplacedError, match="stream 'ORDERS' is another one"):
        await read_forever(reader)
    with pytest.raises(SourceReplacedError, match="stream 'ORDERS' is another one"):
        await source.open("ORDERS", Start(next=read.next, cursor=read.cursor, incarnation=reader.incarnation))
    await source.close()


@pytest.mark.parametrize("again", [0, 5], ids=["its end is gone", "other messages have the numbers"])
async def test_a_stream_that_lost_its_end_stops_the_pipeline(nats_server: NatsServer, again: int) -> None:
    """A server that comes back with an older state gives numbers again, to other messages."""
    await nats_server.create("ORDERS")
    await nats_server.publish("ORDERS", numbered(1, 3))
    source = await connect(nats_server)
    reader = await source.open("ORDERS", FROM_START)
    (read,) = await read_to(reader, 3)
    # As if the last two messages had been read before the server lost them.
    position, time_us = read.cursor.split(":")
    await nats_server.publish("ORDERS", numbered(3, 3 + again))
    cursor = f"4:{int(time_us) + 1}"
    with pytest.raises(SourceReplacedError, match=r"is another one .*with (2|message 4)"):
        await source.open("ORDERS", Start(next=5, cursor=cursor, incarnation=reader.incarnation))
    assert position == "2"
    await source.close()


@pytest.mark.soak
async def test_a_silent_server_is_noticed(nats_server: NatsServer) -> None:
    """A frozen server sends no heartbeat, so the reader reports it, and goes on when it is back."""
    await nats_server.create("ORDERS")
    await nats_server.publish("ORDERS", numbered(1, 3))
    source = await connect(nats_server)
    reader = await source.open("ORDERS", FROM_START)
    await read_to(reader, 3)
    nats_server.freeze()
    with pytest.raises(SourceUnreachableError):
        await read_forever(reader)
    nats_server.thaw()
    await nats_server.publish("ORDERS", numbered(3, 6))
    reads: list[Read] = []
    while not reads:
        try:
            reads = await read_to(reader, 6)
        except SourceUnreachableError:
            continue
    assert values(reads) == numbered(3, 6)
    await source.close()
