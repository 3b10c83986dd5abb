"""The sink for Kafka publishes every message at least once, in the order of its key, under its id."""

from collections.abc import AsyncIterator

import pytest
from brokers.kafka import Kafka, headers_of

from amends.pipelines.definition.sinks import KafkaSink
from amends.pipelines.kafka.sink import MAX_MESSAGE_BYTES, KafkaPublisher, send_alone
from amends.pipelines.sink import Published


@pytest.fixture
async def publisher(kafka: Kafka, topic: str) -> AsyncIterator[KafkaPublisher]:
    """Yield a sink, whose topic exists."""
    kafka.create(topic)
    opened = KafkaPublisher(KafkaSink(kafka.servers))
    yield opened
    await opened.close()


def published(topic: str, count: int) -> list[Published]:
    """Return messages of three keys."""
    return [Published(f"store/{n}", topic, f"key-{n % 3}", b'{"n":%d}' % n, (("kind", "é"),)) for n in range(count)]


async def test_messages_arrive_in_order_with_id_and_headers(
    kafka: Kafka, topic: str, publisher: KafkaPublisher
) -> None:
    """All messages of a key are in one partition, in order; the id is a header after the message's own headers."""
    batch = published(topic, 200)
    assert await publisher.publish(batch[:150]) == []
    assert await publisher.publish(batch[150:]) == []
    found = [
        (key, dict(headers_of(message))["amends-id"].decode(), message.value())
        for partition, count in kafka.sizes(topic).items()
        for message in kafka.read(topic, partition, count)
        for key in [(message.key() or b"").decode()]
    ]
    for key in ("key-0", "key-1", "key-2"):
        assert [(id_, value) for other, id_, value in found if other == key] == [
            (message.id, message.value) for message in batch if message.key == key
        ]
    [partition, *_] = [partition for partition, count in kafka.sizes(topic).items() if count]
    assert headers_of(kafka.read(topic, partition, 1)[0])[0] == ("kind", "é".encode())


async def test_a_refused_message_is_named_and_all_others_are_published(
    kafka: Kafka, topic: str, publisher: KafkaPublisher
) -> None:
    """A message that is too large is refused by its index, and the messages of other keys in the batch arrive."""
    batch = published(topic, 6)
    batch[2] = batch[2]._replace(value=b"x" * (MAX_MESSAGE_BYTES + 1_000_000))
    [refusal, *held_up] = await publisher.publish(batch)
    assert (refusal.index, refusal.reason) == (2, "the broker refuses it as too large")
    assert all(batch[each.index].key == batch[2].key for each in held_up)
    assert sum(kafka.sizes(topic).values()) == 6 - 1 - len(held_up)
    assert await publisher.publish(published(topic, 2)) == []


async def test_impossible_messages_are_known_before(topic: str, publisher: KafkaPublisher) -> None:
    """The sink refuses names that no topic can have, and messages above the producer's bound, before it sends any."""
    [good] = published(topic, 1)
    assert await publisher.refusal(good) is None
    for name in ("", "..", "a/b", "é", "x" * 250):
        assert await publisher.refusal(good._replace(topic=name)) is not None
    assert str(MAX_MESSAGE_BYTES) in str(await publisher.refusal(good._replace(value=b"x" * MAX_MESSAGE_BYTES)))


def test_messages_that_are_refused_with_a_large_one_are_published_alone() -> None:
    """Only the message that the broker refuses alone is refused; the later ones of its key wait, and all others go."""
    batch = published("orders", 7)
    sent: list[int] = []

    def send(index: int) -> dict[int, str]:
        sent.append(index)
        return {1: "MSG_SIZE_TOO_LARGE"} if index == 1 else {}

    codes = send_alone([4, 0, 1, 2, 3, 5], batch, send)
    assert sent == [0, 1, 2, 3, 5]
    assert sorted(codes) == [1, 4]
