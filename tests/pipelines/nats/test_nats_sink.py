"""The sink publishes in order, waits for the acknowledgements, and tells a refused message from a lost server."""

import asyncio
from datetime import timedelta

import pytest
from bounds import HANG_S
from brokers.nats import NatsServer

from amends.pipelines.definition.sinks import NatsSink
from amends.pipelines.definition.sources import NatsSource
from amends.pipelines.nats.sink import NatsPublisher
from amends.pipelines.nats.source import NatsConnection
from amends.pipelines.sink import Published, SinkUnreachableError
from amends.pipelines.source import FROM_START, RawMessage


async def stored(nats_server: NatsServer) -> list[RawMessage]:
    """Read the messages of the stream."""
    source = NatsConnection(NatsSource("ORDERS", servers=nats_server.url))
    reader = await source.open("ORDERS", FROM_START)
    messages: list[RawMessage] = []
    while len(messages) < await reader.end() - 1:
        messages += (await reader.read(10_000, max_bytes=10_000_000, wait=timedelta(seconds=HANG_S))).messages
    await source.close()
    return messages


def messages(first: int, after: int) -> list[Published]:
    """Return messages with numbers as ids."""
    return [
        Published(f"store/{number}", "orders.eu", f"k{number % 3}", b"%d" % number, (("trace", "t"),))
        for number in range(first, after)
    ]


async def test_messages_are_stored_in_order_and_once_within_the_window(nats_server: NatsServer) -> None:
    """Messages that are published again have the same ids, so the stream drops them."""
    await nats_server.create("ORDERS", "orders.>")
    sink = NatsPublisher(NatsSink(nats_server.url))
    assert list(await sink.publish(messages(1, 6_001))) == []
    assert list(await sink.publish(messages(5_990, 6_011))) == []
    found = await stored(nats_server)
    assert [message.value for message in found] == [b"%d" % number for number in range(1, 6_011)]
    assert found[0].key == b"k1"
    assert {("amends-id", b"store/1"), ("trace", b"t")} <= set(found[0].headers)
    await sink.close()


@pytest.mark.parametrize(
    "message",
    [
        Published("s/1", "orders..eu", "k", b"1"),
        Published("s/1", "orders.*", "k", b"1"),
        Published("s/1", "or ders", "k", b"1"),
        Published("s/1", "", "k", b"1"),
        Published("s/1", "orders", "a\nb", b"1"),
        Published("s/1", "orders", "k", b"1", (("a:b", "x"),)),
        Published("s/1", "orders", "k", b"x" * 2_000_000),
    ],
    ids=lambda message: message.topic[:9] + message.key[:3] + str(len(message.value)),
)
async def test_an_impossible_message_is_refused_before_any_is_published(
    nats_server: NatsServer, message: Published
) -> None:
    """The reason names the subject, the header or the size, and quotes no content."""
    sink = NatsPublisher(NatsSink(nats_server.url))
    assert await sink.refusal(message)
    assert await sink.refusal(messages(1, 2)[0]) is None
    await sink.close()


async def test_a_message_that_the_stream_refuses_is_named_and_others_are_stored(nats_server: NatsServer) -> None:
    """A stream may bound the size of its messages more than the server does."""
    await nats_server.create("ORDERS", "orders.>", max_msg_size=500)
    sink = NatsPublisher(NatsSink(nats_server.url))
    (refusal,) = await sink.publish([*messages(1, 3), Published("s/3", "orders.eu", "k", b"x" * 900), *messages(4, 5)])
    assert (refusal.index, "maximum" in refusal.reason) == (2, True)
    assert [message.value for message in await stored(nats_server)] == [b"1", b"2", b"4"]
    await sink.close()


async def test_a_lost_server_is_unreachable_and_the_next_call_connects_again(nats_server: NatsServer) -> None:
    """After a kill the messages that were acknowledged are there, and the others go out under the same ids."""
    await nats_server.create("ORDERS", "orders.>")
    sink = NatsPublisher(NatsSink(nats_server.url))
    await sink.publish(messages(1, 100))
    publishing = asyncio.create_task(sink.publish(messages(100, 3_000)))
    await asyncio.sleep(0)
    nats_server.kill()
    with pytest.raises(SinkUnreachableError):
        await publishing
    with pytest.raises(SinkUnreachableError):
        await sink.publish(messages(100, 3_000))
    await nats_server.start()
    assert list(await sink.publish(messages(100, 3_000))) == []
    assert [message.value for message in await stored(nats_server)] == [b"%d" % number for number in range(1, 3_000)]
    await sink.close()
