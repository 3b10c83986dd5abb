"""Wrong addresses, missing topics and refused credentials are one clear line; an outage costs no message."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from bounds import HANG
from brokers.kafka import Kafka, tansu
from brokers.proxy import CA_FILE, proxy_to

from amends.aggregates.errors import AmendsError
from amends.pipelines.definition.access import Access
from amends.pipelines.definition.sinks import KafkaSink
from amends.pipelines.definition.sources import KafkaSource
from amends.pipelines.kafka import sink, topics
from amends.pipelines.kafka.sink import KafkaPublisher
from amends.pipelines.kafka.source import KafkaConnection, KafkaReader
from amends.pipelines.sink import Published, SinkSetupError, SinkUnreachableError
from amends.pipelines.source import FROM_START, SourceSetupError, SourceUnreachableError
from amends.sagas.temporal.server.ports import free_port

LARGE = 1 << 30
MESSAGE = Published("store/1", "orders", "customer", b"{}")
SECRET = Access(username="ann", password="open sesame")  # noqa: S106 - a secret of nothing

Attempt = Callable[[str, Access], Awaitable[object]]


@pytest.fixture
def short_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a shorter time for a broker that cannot answer."""
    monkeypatch.setattr(topics, "CONNECT_S", 1.5)
    monkeypatch.setattr(sink, "PUBLISH_S", 1.5)


async def _read(servers: str, access: Access = Access()) -> object:  # noqa: B008 - it is immutable
    connection = KafkaConnection(KafkaSource("orders", servers), name="orders", access=access)
    try:
        return await connection.partitions()
    finally:
        await connection.close()


async def _publish(servers: str, access: Access = Access()) -> object:  # noqa: B008 - it is immutable
    publisher = KafkaPublisher(KafkaSink(servers), access=access)
    try:
        return await publisher.publish([MESSAGE])
    finally:
        await publisher.close()


async def check_error(attempt: Attempt, servers: str, access: Access, kind: type[AmendsError], *words: str) -> None:
    """Check that an attempt fails with one line of some words, without the password."""
    with pytest.raises(kind) as caught:
        await attempt(servers, access)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    assert "open sesame" not in line
    for word in words:
        assert word in line


UNREACHABLE = [(_read, SourceUnreachableError), (_publish, SinkUnreachableError)]
SETUP = [(_read, SourceSetupError), (_publish, SinkSetupError)]


@pytest.mark.usefixtures("short_bounds")
@pytest.mark.parametrize(("attempt", "kind"), UNREACHABLE)
async def test_a_wrong_address_is_named(attempt: Attempt, kind: type[AmendsError]) -> None:
    """The line names the address and the reason: nothing listens there, or the host does not exist."""
    port = free_port()
    await check_error(attempt, f"127.0.0.1:{port}", Access(), kind, f"127.0.0.1:{port}", "refused", "check the address")
    await check_error(attempt, "no-host.invalid:9092", Access(), kind, "no-host.invalid:9092", "resolve")


@pytest.mark.usefixtures("short_bounds")
@pytest.mark.parametrize(("attempt", "kind"), UNREACHABLE)
async def test_a_server_that_never_answers_is_named(attempt: Attempt, kind: type[AmendsError]) -> None:
    """A server that accepts connections and does not answer is an error as well, not a hang."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await check_error(attempt, f"127.0.0.1:{listener.getsockname()[1]}", Access(), kind, "does not answer")


@pytest.mark.parametrize(("attempt", "kind"), SETUP)
async def test_a_missing_topic_is_named_and_not_created(
    kafka: Kafka, attempt: Attempt, kind: type[AmendsError]
) -> None:
    """A topic that does not exist is an error, and neither source nor sink creates it, even if brokers would."""
    for _ in range(2):
        await check_error(attempt, kafka.servers, Access(), kind, "has no topic 'orders'", "create it")


@pytest.mark.parametrize(("attempt", "kind"), SETUP)
async def test_refused_credentials_are_named(attempt: Attempt, kind: type[AmendsError], tmp_path: Path) -> None:
    """A login that the broker refuses is an error at once; the line has the broker's reason and no password."""
    with tansu(tmp_path, "--authentication") as broker:
        await check_error(attempt, broker.servers, SECRET, kind, "refuses the connection", "check the user")


@pytest.mark.parametrize(("attempt", "kind"), SETUP)
async def test_an_untrusted_certificate_is_named(
    tansu_broker: Kafka, attempt: Attempt, kind: type[AmendsError]
) -> None:
    """A certificate of an authority that the client does not trust is refused, and so is a file that does not exist."""
    port = free_port()
    async with proxy_to(tansu_broker.port, port, tls=True):
        await check_error(attempt, f"127.0.0.1:{port}", Access(tls=True), kind, "refuses the connection", "certificate")
    missing = Access(ca_file="/nowhere/ca.pem")
    await check_error(attempt, tansu_broker.servers, missing, kind, "/nowhere/ca.pem", "check the TLS settings")


async def test_messages_are_read_and_published_over_tls(tmp_path: Path) -> None:
    """With the right authority, source and sink work through an encrypted connection."""
    port = free_port()
    access = Access(ca_file=str(CA_FILE))
    with tansu(tmp_path, advertised_port=port) as broker:
        async with proxy_to(broker.port, port, tls=True):
            servers = f"127.0.0.1:{port}"
            with pytest.raises(SinkSetupError, match="has no topic 'orders'"):
                await _publish(servers, access)
            await _create_through(servers, access)
            assert await _publish(servers, access) == []
            connection = KafkaConnection(KafkaSource("orders", servers), name="orders", access=access)
            reader = await connection.open("0", FROM_START)
            assert len((await reader.read(1, max_bytes=LARGE, wait=HANG)).messages) == 1
            await connection.close()


async def test_a_broker_that_is_away_costs_no_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A read without a broker is an error that names it; afterwards the same reader continues at its position."""
    monkeypatch.setattr(topics, "CONNECT_S", 1.5)
    port = free_port()
    with tansu(tmp_path, advertised_port=port) as broker:
        async with proxy_to(broker.port, port) as proxy:
            servers = f"127.0.0.1:{port}"
            await _create_through(servers, Access())
            publisher = KafkaPublisher(KafkaSink(servers))
            batch = [MESSAGE._replace(id=f"store/{number}") for number in range(20)]
            await publisher.publish(batch)
            connection = KafkaConnection(KafkaSource("orders", servers), name="orders")
            reader = await connection.open("0", FROM_START)
            messages = [*(await reader.read(5, max_bytes=LARGE, wait=HANG)).messages]
            while len(messages) < 20:
                messages += (await reader.read(5, max_bytes=LARGE, wait=HANG)).messages
            proxy.cut()
            with pytest.raises(SourceUnreachableError, match="does not answer"):
                await _read_on(reader)
            proxy.join()
            while True:
                try:
                    await publisher.publish([MESSAGE._replace(id=f"store/{number}") for number in range(20, 30)])
                except SinkUnreachableError:
                    continue
                break
            while len(messages) < 30:
                try:
                    messages += (await reader.read(5, max_bytes=LARGE, wait=HANG)).messages
                except SourceUnreachableError:
                    continue
            assert [message.position for message in messages[:30]] == list(range(30))
            ids = [dict(message.headers)["amends-id"].decode() for message in messages]
            assert list(dict.fromkeys(ids)) == [f"store/{number}" for number in range(30)]
            await connection.close()
            await publisher.close()


async def _read_on(reader: KafkaReader) -> None:
    while True:
        await reader.read(5, max_bytes=LARGE, wait=timedelta(seconds=1))


async def _create_through(servers: str, access: Access) -> None:
    """Create the topic through the proxy, which serves in the loop of this thread."""
    tls = {"security.protocol": "SSL", "ssl.ca.location": access.ca_file} if access.ca_file else {}
    await asyncio.to_thread(Kafka(servers, settings=tls).create, "orders")
