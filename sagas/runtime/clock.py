"""Clocks that a driver is given: the only place where time comes from."""

import asyncio
import sys
import time
from collections.abc import Collection
from typing import Any, Protocol

__all__ = ["Clock", "SystemClock", "VirtualClock", "elapsed_s"]


def elapsed_s() -> float:
    """Give seconds from some moment on, with those in which the machine was suspended, where the system counts them.

    `time.monotonic` leaves them out on Linux: after a night's sleep nothing would seem to have been late.
    """
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Clock(Protocol):
    """Where a driver's time comes from, and how it waits."""

    def now_ms(self) -> int:
        """Give the time in milliseconds since the epoch."""
        ...

    async def wait(
        self,
        pending: Collection[asyncio.Future[Any]],
        due_ms: int | None,
        woken: asyncio.Future[Any] | None = None,
    ) -> None:
        """Return when one of the pending calls has ended, that time has come, or somebody says so.

        Args:
            pending: Calls in flight.
            due_ms: In milliseconds since the epoch; `None` for no bound. At least one of the two is given.
            woken: Done when there is something else to look at; `None` when nobody says so.
        """
        ...


class SystemClock:
    """Wall time."""

    def now_ms(self) -> int:
        """Give the time in milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    async def wait(
        self,
        pending: Collection[asyncio.Future[Any]],
        due_ms: int | None,
        woken: asyncio.Future[Any] | None = None,
    ) -> None:
        """Return when one of the pending calls has ended, that time has come, or somebody says so."""
        left = None if due_ms is None else max(0, due_ms - self.now_ms()) / 1000
        waited = [*pending, *([] if woken is None else [woken])]
        if waited:
            await asyncio.wait(waited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        elif left is not None:
            await asyncio.sleep(left)


class VirtualClock:
    """Time that passes only when there is nothing else to wait for, so that an hour's retries take no time.

    Args:
        start_ms: Where it begins, in milliseconds since the epoch.
    """

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = start_ms

    def now_ms(self) -> int:
        """Give the time in milliseconds since the epoch."""
        return self._now_ms

    async def wait(
        self,
        pending: Collection[asyncio.Future[Any]],
        due_ms: int | None,
        woken: asyncio.Future[Any] | None = None,
    ) -> None:
        """Wait for a call (or for being woken) as long as there is one; otherwise move on to that time at once."""
        if pending:
            waited = [*pending, *([] if woken is None else [woken])]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        elif due_ms is not None:
            self._now_ms = max(self._now_ms, due_ms)
            await asyncio.sleep(0)
