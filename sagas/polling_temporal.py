"""Polling for tasks, and pausing while the store is away.

A worker without a store takes tasks only to fail them, from others who may have one. Temporal's worker cannot pause, so
it is shut down and another one is started when the store answers again. What it had begun goes on meanwhile: outcomes
of calls are held until the store takes them.

How it can fail: when Temporal refuses a worker for good, the task that serves is cancelled and the context raises it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from temporalio.worker import Worker

from amends.sagas.outages_temporal import StoreWatch

__all__ = ["PAUSE_AFTER", "Shifts"]

PAUSE_AFTER = timedelta(seconds=60)
"""How long the store is away before workers pause polling."""

_LOOK_S = 1.0
_LOOK_LONGEST_S = 5.0

_log = logging.getLogger("amends.worker")


@dataclass(frozen=True)
class Shifts:
    """How a process polls: one shift of workers after the other, none while the store is away.

    Attributes:
        workers: Makes the workers of one shift.
        store: Looks whether the store answers.
        resumed: Called when a shift has begun after a pause.
        grace: How long what was begun may take to end when serving ends.
        give_up: Cancels what has not ended by then.
        pause_after: How long the store is away before polling pauses.
    """

    workers: Callable[[], Sequence[Worker]]
    store: StoreWatch
    resumed: Callable[[], Awaitable[None]]
    grace: timedelta
    give_up: Callable[[], Awaitable[None]]
    pause_after: timedelta = PAUSE_AFTER

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Poll while the context lasts."""
        stop, caller = asyncio.Event(), asyncio.current_task()
        serve = asyncio.create_task(self._serve(stop))

        def end(_: object) -> None:
            if not stop.is_set() and caller is not None:
                caller.cancel()

        serve.add_done_callback(end)
        try:
            yield
        except asyncio.CancelledError:
            if caller is not None and serve.done() and (error := serve.exception()) is not None:
                caller.uncancel()
                raise error from None
            raise
        finally:
            stop.set()
            await asyncio.wait([serve])

    async def _serve(self, stop: asyncio.Event) -> None:
        shifts = [_Shift(self.workers())]
        try:
            while await self._work(shifts[-1], stop):
                shifts[-1].end()
                if not await self._pause(stop):
                    return
                shifts = [shift for shift in shifts if not shift.over]
                shifts.append(_Shift(self.workers()))
                await self.resumed()
        finally:
            self.store.close()
            await self._end(shifts)

    async def _work(self, shift: "_Shift", stop: asyncio.Event) -> bool:
        """Poll until serving ends, or the store has been away for too long; tell whether it is the latter."""
        away_since: float | None = None
        while not await _set_within(stop, _LOOK_S):
            shift.check()
            trouble = await self.store.trouble()
            now = time.monotonic()
            if trouble is None:
                away_since = None
                continue
            away_since = now if away_since is None else away_since
            if now - away_since >= self.pause_after.total_seconds():
                _log.warning("%s; polling pauses until the store answers again", trouble)
                return True
        return False

    async def _pause(self, stop: asyncio.Event) -> bool:
        """Wait for the store; tell whether it answers, and serving goes on."""
        began, look_s = time.monotonic(), _LOOK_S
        while not await _set_within(stop, look_s):
            if await self.store.trouble() is None:
                _log.warning("the store answers again; polling goes on after %.0f s", time.monotonic() - began)
                return True
            look_s = min(look_s * 2, _LOOK_LONGEST_S)
        return False

    async def _end(self, shifts: Sequence["_Shift"]) -> None:
        for shift in shifts:
            shift.end()
        ending = asyncio.gather(*(shift.wait() for shift in shifts))
        await asyncio.wait([ending], timeout=self.grace.total_seconds())
        await self.give_up()
        await ending


class _Shift:
    """Workers that began together.

    Args:
        workers: They are started.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._runs = [asyncio.create_task(worker.run()) for worker in workers]
        self._ends: list[asyncio.Task[None]] = []

    @property
    def over(self) -> bool:
        """Whether everything that they had begun has ended."""
        return all(run.done() for run in self._runs)

    def check(self) -> None:
        """Raise what a worker failed with."""
        for run in self._runs:
            if run.done():
                run.result()

    def end(self) -> None:
        """Have them take no more tasks."""
        if not self._ends:
            self._ends = [asyncio.create_task(worker.shutdown()) for worker in self._workers]

    async def wait(self) -> None:
        """Wait until everything that they had begun has ended."""
        await asyncio.gather(*self._ends, *self._runs, return_exceptions=True)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
