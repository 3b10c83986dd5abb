"""Heartbeats from a thread, for the time in which the event loop cannot send them.

How it can fail: Temporal does not answer, or has given the call up already; then nothing is sent and nothing is raised.
"""

import asyncio
import threading
import time

import temporalio.client
from temporalio.client import AsyncActivityCancelledError
from temporalio.service import RPCError

__all__ = ["Heartbeats"]

_ANSWER_S = 2.0
# The reply of a call that has ended may still be on its way to Temporal.
_REPLY_S = 10.0


class Heartbeats:
    """The calls of this process that Temporal expects heartbeats of.

    Args:
        client: Temporal.
    """

    def __init__(self, client: temporalio.client.Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._active: set[bytes] = set()
        self._ended: dict[bytes, float] = {}  # until when the reply is on its way, the first to end first

    def add(self, token: bytes) -> None:
        """Begin to expect heartbeats of a call."""
        with self._lock:
            self._active.add(token)
            self._drop_ended()

    def end(self, token: bytes) -> None:
        """Expect no more of them, once its reply has arrived."""
        with self._lock:
            self._active.discard(token)
            self._ended[token] = time.monotonic() + _REPLY_S

    def send(self) -> None:
        """Send a heartbeat for every call, from the thread that asks; it must have no event loop."""
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
