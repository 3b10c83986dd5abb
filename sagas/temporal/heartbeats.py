"""Send heartbeats for a call in flight, from a thread while the event loop cannot.

How it can fail: Temporal does not answer, or has given up the call already; then no heartbeat is sent and no error is
raised.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import temporalio.client
from temporalio import activity
from temporalio.client import AsyncActivityCancelledError
from temporalio.service import RPCError

__all__ = ["Heartbeats", "beating"]

_BEAT_S = 1.0
_ANSWER_S = 2.0
# A call needs heartbeats for this long after its end, because its reply may still be on its way to Temporal.
_REPLY_S = 10.0


class Heartbeats:
    """The calls of this process for which Temporal expects heartbeats.

    Args:
        client: The client of Temporal.
    """

    def __init__(self, client: temporalio.client.Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._active: set[bytes] = set()
        self._ended: dict[bytes, float] = {}  # until when its reply may be on its way, in the order of that time

    def add(self, token: bytes) -> None:
        """Start to send heartbeats for a call."""
        with self._lock:
            self._active.add(token)
            self._drop_ended()

    def end(self, token: bytes) -> None:
        """Stop sending heartbeats for a call once its reply has arrived."""
        with self._lock:
            self._active.discard(token)
            self._ended[token] = time.monotonic() + _REPLY_S

    def send(self) -> None:
        """Send a heartbeat for every call, from the calling thread, which must have no event loop."""
        with self._lock:
            self._drop_ended()
            tokens = (*self._active, *self._ended)
        if tokens:
            asyncio.run(self._send_all(tokens))

    def _drop_ended(self) -> None:
        """Drop the calls whose reply has arrived."""
        now = time.monotonic()
        while (token := next(iter(self._ended), None)) is not None and self._ended[token] <= now:
            del self._ended[token]

    async def _send_all(self, tokens: tuple[bytes, ...]) -> None:
        await asyncio.gather(*(self._send(token) for token in tokens))

    async def _send(self, token: bytes) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._client.get_async_activity_handle(task_token=token).heartbeat()
        except (TimeoutError, RPCError, AsyncActivityCancelledError):
            with self._lock:
                self._ended.pop(token, None)


@asynccontextmanager
async def beating(heartbeats: Heartbeats | None) -> AsyncIterator[None]:
    """Send heartbeats for the present activity while the context lasts; a local activity has none.

    Args:
        heartbeats: Sends heartbeats while the event loop cannot; `None` to send none.
    """
    if activity.info().is_local:
        yield
        return
    beat = asyncio.create_task(_beat(heartbeats))
    try:
        yield
    finally:
        beat.cancel()
        with suppress(asyncio.CancelledError):
            await beat


async def _beat(heartbeats: Heartbeats | None) -> None:
    """Send heartbeats until cancelled; a thread does so while the event loop stands still."""
    token = activity.info().task_token
    if heartbeats is not None:
        heartbeats.add(token)
    try:
        while True:
            activity.heartbeat()
            await asyncio.sleep(_BEAT_S)
    finally:
        if heartbeats is not None:
            heartbeats.end(token)
