"""The source for Kafka reads every message once and in order, from the position that the pipeline has."""

import asyncio
from datetime import timedelta

import pytest
from bounds import HANG
from brokers.kafka import Kafka

from amends.pipelines.definition.sources import KafkaSource
from amends.pipelines.kafka.source import KafkaConnection, KafkaReader
from amends.pipelines.source import FROM_START, RawMessage, Read, SourceSetupError, Start

LARGE = 1 << 30
NOW = timedelta(0)


async def read_until(reader: KafkaReader, position: int, *, limit: int = 1000, max_bytes: int = LARGE) -> list[Read]:
    """Read until a position."""
    reads: list[Read] = []
    while not reads or reads[-1].next < position:
        reads.append(await reader.read(limit, max_bytes=max_bytes, wait=HANG))
    return reads


def messages_of(reads: list[Read]) -> list[RawMessage]:
    """Return the messages of several reads."""
    return [message for read in reads for message in read.messages]


def numbered(first: int, after: int) -> list[bytes]:
    """Return contents that differ."""
    return [b"%d" % number for number in range(first, after)]


async def test_reads_return_every_message_in_order(kafka: Kafka, topic: str, connection: KafkaConnection) -> None:
    """Reads touch without gaps, and return position, key, content, headers and time of every message."""
    kafka.produce(topic, numbered(0, 500), key=b"customer")
    reader = await connection.open("0", FROM_START)
    reads = await read_until(reader, 500, limit=70)
    assert [read.first for read in reads] == [0, *(read.next for read in reads[:-1])]
    assert max(len(read.messages) for read in reads) <= 70
    found = messages_of(reads)
    assert [(message.position, message.value) for message in found] == list(enumerate(numbered(0, 500)))
    assert {message.key for message in found} == {b"customer"}
    assert {message.headers for message in found[100:]} == {(("size", b"3"),)}
    assert all(message.source_ms is not None for message in found)


async def test_a_message_without_key_and_content_is_a_message(
    kafka: Kafka, topic: str, connection: KafkaConnection
) -> None:
    """A missing key is `None`, and an empty content is empty."""
    kafka.produce(topic, [b""])
    reader = await connection.open("0", FROM_START)
    [message] = messages_of(await read_until(reader, 1))
    assert message.key is None
    assert message.value == b""


async def test_a_new_reader_continues_where_the_former_one_ended(
    kafka: Kafka, topic: str, connection: KafkaConnection
) -> None:
    """Position, cursor and incarnation of a read are enough to continue, without a gap or a repeated message."""
    kafka.produce(topic, numbered(0, 50))
    start = FROM_START
    values: list[bytes | None] = []
    while len(values) < 50:
        reader = await connection.open("0", start)
        read = await reader.read(20, max_bytes=LARGE, wait=HANG)
        values += [message.value for message in read.messages]
        start = Start(next=read.next, cursor=read.cursor, incarnation=reader.incarnation)
        await reader.close()
    assert values == numbered(0, 50)
    reader = await connection.open("0", start)
    assert reader.first == 50
    assert not (await reader.read(10, max_bytes=LARGE, wait=NOW)).messages
    kafka.produce(topic, numbered(50, 60))
    assert [message.value for message in messages_of(await read_until(reader, 60))] == numbered(50, 60)


async def test_an_operator_may_seek_without_a_cursor(kafka: Kafka, topic: str, connection: KafkaConnection) -> None:
    """A start at any position reads from that position; a cursor of a later message does not matter."""
    kafka.produce(topic, numbered(0, 50))
    for start in (Start(next=30), Start(next=30, cursor="47:abcdef"), Start(next=30, cursor="no cursor")):
        reader = await connection.open("0", start)
        assert [message.value for message in messages_of(await read_until(reader, 50))] == numbered(30, 50)
        await reader.close()


async def test_the_size_of_a_read_is_bounded(kafka: Kafka, topic: str, connection: KafkaConnection) -> None:
    """A read stays below the bound of bytes, and a message above the bound comes alone."""
    sizes = [10, 10, 900, 10, 10]
    kafka.produce(topic, [b"x" * size for size in sizes])
    reader = await connection.open("0", FROM_START)
    await reader.end()
    reads = await read_until(reader, 5, max_bytes=100)
    assert [message.position for message in messages_of(reads)] == list(range(5))
    assert [2] in [[message.position for message in read.messages] for read in reads]


async def test_a_cancelled_read_loses_no_message(kafka: Kafka, topic: str, connection: KafkaConnection) -> None:
    """A read that is cancelled while it waits leaves its messages to the next read."""
    reader = await connection.open("0", FROM_START)
    waiting = asyncio.create_task(reader.read(100, max_bytes=LARGE, wait=HANG))
    await asyncio.sleep(0)
    waiting.cancel()
    kafka.produce(topic, numbered(0, 10))
    assert [message.value for message in messages_of(await read_until(reader, 10))] == numbered(0, 10)


async def test_a_paused_reader_continues_in_order(kafka: Kafka, topic: str, connection: KafkaConnection) -> None:
    """A pause between two reads neither loses nor repeats a message."""
    kafka.produce(topic, numbered(0, 100))
    reader = await connection.open("0", FROM_START)
    reads = [await reader.read(30, max_bytes=LARGE, wait=HANG)]
    await reader.pause()
    reads += await read_until(reader, 100)
    assert [message.value for message in messages_of(reads)] == numbered(0, 100)


async def test_the_end_is_the_position_after_the_last_message(
    kafka: Kafka, topic: str, connection: KafkaConnection
) -> None:
    """The end is known before the first read, and grows with new messages that the reader has fetched."""
    reader = await connection.open("0", FROM_START)
    assert await reader.end() == 0
    kafka.produce(topic, numbered(0, 5))
    await read_until(reader, 5)
    assert await reader.end() == 5
    await reader.close()
    assert await (await connection.open("0", Start(next=2))).end() == 5


async def test_partitions_are_read_apart(kafka: Kafka, topic: str) -> None:
    """Each partition is a list of its own, and a partition that does not exist is refused."""
    kafka.create(topic, 3)
    connection = KafkaConnection(KafkaSource(topic, kafka.servers), name="orders")
    names = await connection.partitions()
    assert names[:3] == ("0", "1", "2")
    for name in names[:3]:
        kafka.produce(topic, [name.encode() * 2], partition=int(name))
    readers = [await connection.open(name, FROM_START) for name in names[:3]]
    values = [messages_of(await read_until(reader, 1))[0].value for reader in readers]
    assert values == [b"00", b"11", b"22"]
    with pytest.raises(SourceSetupError, match="has no partition '77'"):
        await connection.open("77", FROM_START)
    await connection.close()


async def test_the_position_of_the_group_is_a_courtesy(kafka: Kafka, topic: str, connection: KafkaConnection) -> None:
    """The broker shows the acknowledged position, and no reader starts from it."""
    kafka.produce(topic, numbered(0, 10))
    reader = await connection.open("0", FROM_START)
    await read_until(reader, 10)
    await reader.acknowledge(7)
    async with asyncio.timeout(HANG.total_seconds()):
        while await asyncio.to_thread(kafka.committed, "amends-orders", topic) != 7:
            await reader.read(1, max_bytes=LARGE, wait=NOW)
    await reader.close()
    reader = await connection.open("0", FROM_START)
    assert reader.first == 0
    assert messages_of(await read_until(reader, 10))[0].position == 0
