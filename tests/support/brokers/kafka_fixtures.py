"""Brokers for the tests of the Kafka adapters. One Tansu and one mock cluster serve all tests of a process."""

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from amends.pipelines.definition.sources import KafkaSource
from amends.pipelines.kafka.source import KafkaConnection
from brokers.kafka import KAFKA, Kafka, mock_cluster

__all__ = ["connection", "kafka", "mock_broker", "tansu_broker", "topic"]


@pytest.fixture(scope="session")
def tansu_broker(kafka_address: str) -> Kafka:
    """Return a Tansu that only this test process uses."""
    return Kafka(kafka_address)


@pytest.fixture(scope="session")
def mock_broker() -> Iterator[Kafka]:
    """Yield a mock cluster that only this test process uses."""
    with mock_cluster() as broker:
        yield broker


@pytest.fixture(params=["tansu", "mock", *(["kafka"] if KAFKA else [])])
def kafka(request: pytest.FixtureRequest) -> Kafka:
    """Return a broker; the test runs once on each kind."""
    if request.param == "kafka":
        assert KAFKA is not None
        return Kafka(KAFKA)
    broker: Kafka = request.getfixturevalue(f"{request.param}_broker")
    return broker


@pytest.fixture
def topic() -> str:
    """Return the name of a topic that does not exist yet."""
    return f"orders-{uuid4().hex[:12]}"


@pytest.fixture
async def connection(kafka: Kafka, topic: str) -> AsyncIterator[KafkaConnection]:
    """Yield a connection to a topic with one partition or more."""
    kafka.create(topic)
    opened = KafkaConnection(KafkaSource(topic, kafka.servers), name="orders")
    yield opened
    await opened.close()
