"""A reader recognizes another topic of the same name, and reports positions that the broker has deleted."""

import os
from datetime import timedelta
from itertools import pairwise

import pytest
from bounds import HANG, HANG_S
from brokers.kafka import KAFKA, Kafka, mock_cluster
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from amends.pipelines.definition.sources import KafkaSource
from amends.pipelines.kafka import fetch, source
from amends.pipelines.kafka.source import KafkaConnection
from amends.pipelines.source import (
    FROM_START,
    Lost,
    RawMessage,
    Read,
    SourceReplacedError,
    SourceSetupError,
    Start,
)

LARGE = 1 << 30
NOW = timedelta(0)
KEPT_BYTES = 5 << 20  # by the mock cluster


@pytest.fixture(autouse=True)
def short_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let readers check the topic with every read, and wait a shorter time for a position."""
    monkeypatch.setattr(source, "CHECK_S", 0.0)
    monkeypatch.setattr(fetch, "SETTLE_S", 1.0)


async def read_all(servers: str, topic: str, start: Start, count: int) -> tuple[list[RawMessage], Start]:
    """Read a number of messages with a connection of its own, and return them with the place of the next one."""
    connection = KafkaConnection(KafkaSource(topic, servers), name="orders")
    messages: list[RawMessage] = []
    try:
        reader = await connection.open("0", start)
        while len(messages) < count:
            read = await reader.read(count - len(messages), max_bytes=LARGE, wait=HANG)
            messages += read.messages
        return messages, Start(next=read.next, cursor=read.cursor, incarnation=reader.incarnation)
    finally:
        await connection.close()


async def test_a_topic_that_was_created_again_is_another_source(tansu_broker: Kafka, topic: str) -> None:
    """A reader does not begin to read a topic with another id, even if it has the position."""
    tansu_broker.create(topic)
    tansu_broker.produce(topic, [b"old"] * 5)
    _, start = await read_all(tansu_broker.servers, topic, FROM_START, 5)
    tansu_broker.delete(topic)
    tansu_broker.create(topic)
    tansu_broker.produce(topic, [b"old"] * 9)
    with pytest.raises(SourceReplacedError, match=f"topic '{topic}' is another one"):
        await read_all(tansu_broker.servers, topic, start, 1)


async def test_an_open_reader_notices_that_the_topic_was_created_again(tansu_broker: Kafka, topic: str) -> None:
    """A reader that is open while the topic is replaced returns no message of the new one."""
    tansu_broker.create(topic)
    tansu_broker.produce(topic, [b"old"] * 5)
    connection = KafkaConnection(KafkaSource(topic, tansu_broker.servers), name="orders")
    reader = await connection.open("0", FROM_START)
    while (await reader.read(10, max_bytes=LARGE, wait=NOW)).next < 5:
        pass
    await reader.pause()
    await reader.end()  # after the answer to the last fetch: the client crashes if Tansu does not know a fetched topic
    tansu_broker.delete(topic)
    with pytest.raises(SourceSetupError, match=f"has no topic '{topic}'"):
        await reader.read(10, max_bytes=LARGE, wait=NOW)
    tansu_broker.create(topic)
    tansu_broker.produce(topic, [b"new"] * 9)
    with pytest.raises(SourceReplacedError, match="is another one"):
        await reader.read(10, max_bytes=LARGE, wait=HANG)
    await connection.close()


async def test_a_topic_without_an_id_is_recognized_by_its_last_message(mock_broker: Kafka, topic: str) -> None:
    """Without an id of the topic, the message before the position must be the one that the pipeline has."""
    mock_broker.produce(topic, [b"%d" % number for number in range(5)])
    _, start = await read_all(mock_broker.servers, topic, FROM_START, 5)
    with mock_cluster() as other:
        other.produce(topic, [b"%d" % (number + 100) for number in range(9)])
        with pytest.raises(SourceReplacedError, match=f"partition 0 of topic '{topic}' is another one"):
            await read_all(other.servers, topic, Start(next=start.next, cursor=start.cursor), 1)


async def test_a_partition_that_has_lost_its_tail_is_another_source(kafka: Kafka, topic: str) -> None:
    """A reader does not wait until a partition that ends before the position has reached it."""
    kafka.create(topic)
    kafka.produce(topic, [b"kept"] * 5)
    for cursor in ("", "8:abcdef"):
        with pytest.raises(SourceReplacedError, match="is another one"):
            await read_all(kafka.servers, topic, Start(next=9, cursor=cursor), 1)


async def test_positions_that_the_broker_has_deleted_are_lost(mock_broker: Kafka, topic: str) -> None:
    """The first read from a deleted position names the lost positions, and the next ones continue without a gap."""
    mock_broker.produce(topic, _large(KEPT_BYTES // 2))
    _, start = await read_all(mock_broker.servers, topic, FROM_START, 3)
    mock_broker.produce(topic, _large(KEPT_BYTES))
    connection = KafkaConnection(KafkaSource(topic, mock_broker.servers), name="orders")
    reader = await connection.open("0", start)
    end = await reader.end()
    assert reader.first == 3
    await _check_lost(await _read_to(reader, end), first=3)
    await connection.close()


async def test_an_open_reader_reports_positions_that_are_deleted_before_it_reads_them(
    mock_broker: Kafka, topic: str
) -> None:
    """A reader that was paused for too long returns what it has fetched, then the lost positions, then the rest."""
    mock_broker.produce(topic, _large(1 << 20))
    connection = KafkaConnection(KafkaSource(topic, mock_broker.servers), name="orders")
    reader = await connection.open("0", FROM_START)
    reads = [await reader.read(1, max_bytes=LARGE, wait=HANG)]
    await reader.pause()
    mock_broker.produce(topic, _large(2 * KEPT_BYTES))
    end = await reader.end()
    reads += await _read_to(reader, end)
    await _check_lost(reads, first=None)
    await connection.close()


@pytest.mark.skipif(KAFKA is None, reason="neither Tansu nor the mock cluster adds partitions to a topic")
async def test_partitions_that_appear_later_are_listed(topic: str) -> None:
    """An open connection lists a partition that an operator has added, and reads it from its start."""
    kafka = Kafka(os.environ["AMENDS_TEST_KAFKA"])
    kafka.create(topic)
    connection = KafkaConnection(KafkaSource(topic, kafka.servers), name="orders")
    assert await connection.partitions() == ("0",)
    admin = AdminClient({"bootstrap.servers": kafka.servers})
    for done in admin.create_partitions([NewPartitions(topic, 2)]).values():
        done.result(HANG_S)
    while await connection.partitions() != ("0", "1"):
        pass
    kafka.produce(topic, [b"late"], partition=1)
    reader = await connection.open("1", FROM_START)
    assert [message.value for message in (await reader.read(1, max_bytes=LARGE, wait=HANG)).messages] == [b"late"]
    await connection.close()


def _large(total: int) -> list[bytes]:
    return [os.urandom(50_000) for _ in range(total // 50_000)]


async def _read_to(reader: source.KafkaReader, end: int) -> list[Read]:
    reads: list[Read] = []
    while not reads or reads[-1].next < end:
        reads.append(await reader.read(20, max_bytes=LARGE, wait=HANG))
    return reads


async def _check_lost(reads: list[Read], *, first: int | None) -> None:
    """Check that reads touch, that one of them lost positions, and that no other position is missing."""
    [lost] = [read for read in reads if read.lost is not None]
    assert lost.lost == Lost(lost.first, lost.next - 1)
    assert not lost.messages
    if first is not None:
        assert lost.first == first
    assert all(after.first == before.next for before, after in pairwise(reads))
    positions = [message.position for read in reads for message in read.messages]
    holes = set(range(reads[0].first, reads[-1].next)) - set(positions)
    assert holes == set(range(lost.first, lost.next))
