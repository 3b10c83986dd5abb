"""Clocks for drivers; a driver reads the time from its clock only."""

import asyncio
import sys
import time
from collections.abc import Collection
from typing import Any, Protocol

__all__ = ["Clock", "SystemClock", "VirtualClock", "elapsed_s"]


def elapsed_s() -> float:
    """Return the seconds since some fixed moment, including suspension of the machine if the system counts it.

    `time.monotonic` excludes suspension on Linux: after a night of sleep, no call would seem late.
    """
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Clock(Protocol):
    """Tells a driver the time, and waits for it."""

    def now_ms(self) -> int:
        """Return the time in milliseconds since the epoch."""
        ...

    async def wait(
        self,
        pending: Collection[asyncio.Future[Any]],
        due_ms: int | None,
        woken: asyncio.Future[Any] | None = None,
    ) -> None:
        """Wait until one of the pending calls has ended, the time `due_ms` has come, or `woken` is done.

        Args:
            pending: Calls in flight.
            due_ms: In milliseconds since the epoch; `None` for no bound. Never `None` if `pending` is empty.
            woken: Done when the driver must read the journal again; `None` if no one wakes this driver.
        """
        ...


class SystemClock:
    """Wall time."""

    def now_ms(self) -> int:
        """Return the time in milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    async def wait(
        self,
        pending: Collection[asyncio.Future[Any]],
        due_ms: int | None,
        woken: asyncio.Future[Any] | None = None,
    ) -> None:
        """Wait until one of the pending calls has ended, the time `due_ms` has come, or `woken` is done."""
        left = None if due_ms is None else max(0, due_ms - self.now_ms()) / 1000
        waited = [*pending, *([] if woken is None else [woken])]
        if waited:
            await asyncio.wait(waited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        elif left is not None:
            await asyncio.sleep(left)


class VirtualClock:
    """A clock that jumps ahead when no call is pending, so that an hour of retries takes no real time.

    Args:
        start_ms: The first time, in milliseconds since the epoch.
    """

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = start_ms

    def now_ms(self) -> int:
        """Return the time in milliseconds since the epoch."""
        return self._now_ms

    async def wait(
        self,
        pending: Collection[asyncio.Future[Any]],
        due_ms: int | None,
        woken: asyncio.Future[Any] | None = None,
    ) -> None:
        """Wait for a call (or for `woken`) if calls are pending; otherwise move on to `due_ms` at once."""
        if pending:
            waited = [*pending, *([] if woken is None else [woken])]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        elif due_ms is not None:
            self._now_ms = max(self._now_ms, due_ms)
            await asyncio.sleep(0)
