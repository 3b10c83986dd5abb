"""`Consumer`: a consumer of a JetStream stream whose messages arrive in order and without a gap, or not at all."""

import asyncio
from collections import deque
from contextlib import suppress
from typing import NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from amends.pipelines.nats.link import REPLY_S

__all__ = ["Arrival", "Consumer"]

_HEARTBEAT_S = 2.0
_MISSED_HEARTBEATS = 3
_INACTIVE_S = 30.0


class Arrival(NamedTuple):
    """A message that has arrived.

    Attributes:
        message: The message.
        position: Its sequence number in the stream.
        time_ns: Its time, in nanoseconds since the epoch.
    """

    message: Msg
    position: int
    time_ns: int


class Consumer:
    """A push consumer without acknowledgements that begins at a position that the reader chooses.

    The server sends ahead as far as flow control lets it; the reply to a message of flow control waits until the
    messages before it have been taken.
    """

    def __init__(self, client: Client, context: JetStreamContext, stream: str) -> None:
        self._client = client
        self._context = context
        self._stream = stream
        self._arrived: deque[Msg] = deque()
        self._news = asyncio.Event()
        self._subscription: Subscription | None = None
        self._name = ""
        self._taken = 0
        self._alive_s = 0.0
        self.broken = False

    async def start(self, position: int, subject: str | None) -> None:
        """Create the consumer at the server.

        Args:
            position: Sequence number of the first message.
            subject: Only messages of this subject; `None` for all.
        """
        inbox = self._client.new_inbox()
        # Flow control bounds the messages, so the client must drop none.
        self._subscription = await self._client.subscribe(
            inbox, cb=self._take_in, pending_msgs_limit=0, pending_bytes_limit=0
        )
        config = ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=position,
            filter_subject=subject,
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            flow_control=True,
            idle_heartbeat=_HEARTBEAT_S,
            inactive_threshold=_INACTIVE_S,
            mem_storage=True,
            num_replicas=1,
        )
        self._name = (await self._context.add_consumer(self._stream, config)).name
        self._alive_s = asyncio.get_running_loop().time()

    async def take(self, limit: int, max_bytes: int) -> list[Arrival]:
        """Return messages that have arrived, without a wait; sets `broken` at a gap."""
        arrivals: list[Arrival] = []
        size = 0
        while self._arrived and len(arrivals) < limit and not self.broken:
            message = self._arrived[0]
            if message.headers is not None and message.headers.get("Status") == "100" and not message.data:
                self._arrived.popleft()
                await self._control(message)
                continue
            if arrivals and size + len(message.data) > max_bytes:
                break
            self._arrived.popleft()
            position, number, time_ns = _sequences(message.reply)
            if number != self._taken + 1:
                self.broken = True
                break
            self._taken = number
            size += len(message.data)
            arrivals.append(Arrival(message, position, time_ns))
        return arrivals

    async def wait(self, seconds: float) -> None:
        """Wait until something arrives; sets `broken` if the server is silent for too long."""
        self._news.clear()
        if self._arrived:
            return
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._news.wait(), min(seconds, _HEARTBEAT_S))
        silent_s = asyncio.get_running_loop().time() - self._alive_s
        if not self._client.is_connected or silent_s > _HEARTBEAT_S * _MISSED_HEARTBEATS:
            self.broken = True

    async def has_all(self) -> bool:
        """Return whether the server has no further message for this consumer at present, and none is on its way.

        Sets `broken` if the server no longer has the consumer.
        """
        try:
            state = await self._context.consumer_info(self._stream, self._name)
        except NotFoundError:
            self.broken = True
            return False
        sent = state.delivered.consumer_seq if state.delivered is not None else 0
        return not state.num_pending and sent == self._taken and not self._arrived

    async def close(self) -> None:
        """Delete the consumer; the server does it after a time if it cannot be reached."""
        if not self._client.is_connected:
            return
        with suppress(Error, asyncio.TimeoutError):
            if self._subscription is not None:
                await self._subscription.unsubscribe()
            if self._name and not self.broken:
                await asyncio.wait_for(self._context.delete_consumer(self._stream, self._name), REPLY_S)

    async def _take_in(self, message: Msg) -> None:
        self._alive_s = asyncio.get_running_loop().time()
        self._arrived.append(message)
        self._news.set()

    async def _control(self, message: Msg) -> None:
        headers = message.headers or {}
        last = headers.get("Nats-Last-Consumer")
        if last is not None and int(last) > self._taken:
            self.broken = True
        reply = message.reply or headers.get("Nats-Consumer-Stalled")
        if reply:
            with suppress(Error):
                await self._client.publish(reply)


def _sequences(reply: str) -> tuple[int, int, int]:
    """Return the number in the stream, the number at the consumer, and the time of a message, from its reply subject.

    Source:
        ADR-15 of NATS: `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, or with
        domain and account in front of the stream, and possibly a token at the end.
    """
    parts = reply.split(".")
    first = 5 if len(parts) == 9 else 7  # noqa: PLR2004 - the parts of the short form
    return int(parts[first]), int(parts[first + 1]), int(parts[first + 2])
