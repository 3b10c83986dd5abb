"""Each wrong setting of a connection to NATS is one clear line, and no secret is a part of it."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from brokers.nats import NatsServer
from repository import ROOT

from amends.aggregates.errors import AmendsError
from amends.pipelines.definition.access import Access
from amends.pipelines.definition.sinks import NatsSink
from amends.pipelines.definition.sources import NatsSource
from amends.pipelines.nats.sink import NatsPublisher
from amends.pipelines.nats.source import NatsConnection
from amends.pipelines.sink import Published, SinkSetupError, SinkUnreachableError
from amends.pipelines.source import FROM_START, SourceSetupError, SourceUnreachableError
from amends.sagas.temporal.server.ports import free_port

TLS = ROOT / "tests/data/tls"
USERS = 'authorization { users: [ { user: "reader", password: "right" } ] }'
HIDDEN = "hidden"


async def error_of(call: Callable[[], Awaitable[object]], kind: type[AmendsError]) -> str:
    """Return the message of the error, which must be one line."""
    with pytest.raises(kind) as raised:
        await call()
    message = str(raised.value)
    assert "\n" not in message
    assert HIDDEN not in message
    return message


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
async def test_a_wrong_address_is_unreachable(host: str) -> None:
    """The message names the address."""
    servers = f"nats://{host}:{free_port()}"
    source = NatsConnection(NatsSource("ORDERS", servers=servers))
    assert f"NATS at nats://{host}" in await error_of(source.partitions, SourceUnreachableError)
    sink = NatsPublisher(NatsSink(servers))
    assert "check the address" in await error_of(lambda: sink.publish([MESSAGE]), SinkUnreachableError)


MESSAGE = Published("s/1", "orders", "k", b"1")


async def test_a_missing_stream_needs_an_operator(nats_server: NatsServer) -> None:
    """The message names the stream, or the subject that no stream stores."""
    source = NatsConnection(NatsSource("ORDERS", servers=nats_server.url))
    assert "stream 'ORDERS' does not exist" in await error_of(source.partitions, SourceSetupError)
    sink = NatsPublisher(NatsSink(nats_server.url))
    assert "stores the subject 'orders'" in await error_of(lambda: sink.publish([MESSAGE]), SinkSetupError)
    await source.close()
    await sink.close()


async def test_a_name_that_no_stream_can_have_and_a_partition_that_is_missing_are_refused(
    nats_server: NatsServer,
) -> None:
    """Both need another definition."""
    source = NatsConnection(NatsSource("a.b", servers=nats_server.url))
    assert "'a.b' is no name of a stream" in await error_of(source.partitions, SourceSetupError)
    await error_of(lambda: source.open("other", FROM_START), SourceSetupError)
    await source.close()


async def test_refused_credentials_need_an_operator(tmp_path: Path) -> None:
    """A wrong password, and none at all, are refused with a hint; the right one reads."""
    server = NatsServer(tmp_path, USERS)
    await server.start()
    for access in (Access(), Access(username="reader", password=HIDDEN)):
        source = NatsConnection(NatsSource("ORDERS", servers=server.url), access)
        assert "refuses the credentials" in await error_of(source.partitions, SourceSetupError)
    source = NatsConnection(NatsSource("ORDERS", servers=server.url), Access(username="reader", password="right"))  # noqa: S106
    assert "does not exist" in await error_of(source.partitions, SourceSetupError)
    await source.close()
    server.close()


async def test_a_forbidden_stream_needs_an_operator(tmp_path: Path) -> None:
    """A user who may not read about streams gets the reason of the server, not a timeout."""
    server = NatsServer(
        tmp_path, 'authorization { users: [ { user: a, password: a, permissions: { publish: "none" } } ] }'
    )
    await server.start()
    source = NatsConnection(NatsSource("ORDERS", servers=server.url), Access(username="a", password="a"))  # noqa: S106
    assert "permissions violation" in (await error_of(source.partitions, SourceSetupError)).lower()
    await source.close()
    server.close()


async def test_encryption_is_checked(tmp_path: Path) -> None:
    """A trusted certificate connects; an unknown one, and a missing file, are one clear line each."""
    server = NatsServer(tmp_path, f'tls {{ cert_file: "{TLS / "server.crt"}", key_file: "{TLS / "server.key"}" }}')
    await server.start()

    def source(access: Access) -> NatsConnection:
        return NatsConnection(NatsSource("ORDERS", servers=server.url.replace("nats:", "tls:")), access)

    assert "no encrypted connection" in await error_of(source(Access(tls=True)).partitions, SourceSetupError)
    missing = source(Access(ca_file=str(tmp_path / "no.pem")))
    assert "cannot read the certificates" in await error_of(missing.partitions, SourceSetupError)
    trusted = source(Access(ca_file=str(TLS / "server.crt")))
    assert "does not exist" in await error_of(trusted.partitions, SourceSetupError)
    await trusted.close()
    server.close()


async def test_jetstream_that_is_off_is_named(tmp_path: Path) -> None:
    """A server without JetStream answers, and the message names the setting."""
    server = NatsServer(tmp_path, "", jetstream=False)
    await server.start()
    source = NatsConnection(NatsSource("ORDERS", servers=server.url))
    assert "--jetstream" in await error_of(source.partitions, SourceUnreachableError)
    await source.close()
    server.close()
