"""Poll for tasks, and pause while the store is away.

A worker without a store would only fail the tasks that it takes, while another worker may reach the store. Temporal's
worker cannot pause, so the process shuts it down, and starts another one when the store answers again. Calls in flight
go on meanwhile, and keep their outcomes until the store accepts them.

When serving ends, the workers take no more tasks, and the calls in flight end within the drain. Then the process
cancels all remaining work. Temporal's worker may still not end: it waits for a unit that cannot commit, and for a call
that ignores its cancellation. The process abandons such a worker, so the bound of `StopDeadline` holds in every state,
and Temporal delivers its work to another worker.

How it can fail: if Temporal refuses a worker for good, the serving task is cancelled and the context raises the error.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from temporalio.worker import Worker

from amends.sagas.runtime.deadline import (
    CALLS_RESERVE_S,
    CANCEL_RESERVE_S,
    TASKS_RESERVE_S,
    WORKERS_RESERVE_S,
    StopDeadline,
)
from amends.sagas.temporal.effect_calls import PendingCall
from amends.sagas.temporal.outages import StoreWatch

__all__ = ["PAUSE_AFTER", "Calls", "Shifts", "pending_line"]

PAUSE_AFTER = timedelta(seconds=60)
"""The length of an outage of the store after which workers pause polling."""

REPORT_S = 5.0
"""The interval at which a draining worker reports the calls for which it waits, in seconds."""

_LOOK_S = 1.0
_LOOK_LONGEST_S = 5.0
_DRAIN_LOOK_S = 0.1
_ACCEPTED_LOOK_S = 0.01
_ABANDON_S = 0.2
_NAMED = 5

_log = logging.getLogger("amends.worker")


class Calls(Protocol):
    """The calls of a process; `EffectCalls` implements it."""

    def pending(self) -> list[PendingCall]:
        """List the calls in flight."""
        ...

    def drain(self) -> None:
        """Start no further call."""
        ...

    async def give_up(self, within_s: float) -> None:
        """Cancel all calls and tasks, and wait for their end, but no longer than the bound."""
        ...


def pending_line(pending: Sequence[PendingCall]) -> str:
    """Return one line that names the calls; if there are many, only the longest of them."""
    named = ", ".join(str(each) for each in pending[:_NAMED])
    more = f" and {len(pending) - _NAMED} more" if len(pending) > _NAMED else ""
    return f"{len(pending)} {'call' if len(pending) == 1 else 'calls'}: {named}{more}"


@dataclass(frozen=True)
class Shifts:
    """The polling of a process: one shift of workers after the other, none while the store is away.

    Attributes:
        workers: Creates the workers of one shift.
        store: Checks whether the store answers.
        resumed: Called when a shift has started after a pause.
        calls: The calls of the process.
        deadline: The bound for the end of all work after serving ends.
        pause_after: The length of an outage of the store after which polling pauses.
    """

    workers: Callable[[], Sequence[Worker]]
    store: StoreWatch
    resumed: Callable[[], Awaitable[None]]
    calls: Calls
    deadline: StopDeadline
    pause_after: timedelta = PAUSE_AFTER

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Poll while the context lasts, which starts when Temporal has accepted the workers."""
        stop, caller = asyncio.Event(), asyncio.current_task()
        first = _Shift(self.workers())
        serve = asyncio.create_task(self._serve(first, stop))

        def end(_: object) -> None:
            if not stop.is_set() and caller is not None:
                caller.cancel()

        serve.add_done_callback(end)
        try:
            await first.accepted()
            yield
        except asyncio.CancelledError:
            if caller is not None and serve.done() and (error := serve.exception()) is not None:
                caller.uncancel()
                raise error from None
            raise
        finally:
            stop.set()
            await asyncio.wait([serve])

    async def _serve(self, first: "_Shift", stop: asyncio.Event) -> None:
        shifts = [first]
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
        """Poll until serving ends or the store has been away for too long; return whether it was the store."""
        away_since: float | None = None
        while not await _set_within(stop, _LOOK_S):
            shift.check()
            answered, trouble = await self._trouble(stop)
            if not answered:
                return False
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
        """Wait for the store; return whether it answers and serving goes on."""
        began, look_s = time.monotonic(), _LOOK_S
        while not await _set_within(stop, look_s):
            if await self._trouble(stop) == (True, None):
                _log.warning("the store answers again; polling continues after %.0f s", time.monotonic() - began)
                return True
            look_s = min(look_s * 2, _LOOK_LONGEST_S)
        return False

    async def _trouble(self, stop: asyncio.Event) -> tuple[bool, str | None]:
        """Check the store unless serving ends first; return whether the check was done, and the store's trouble."""
        asked, stopped = asyncio.ensure_future(self.store.trouble()), asyncio.ensure_future(stop.wait())
        await asyncio.wait([asked, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if asked.done():
            return True, asked.result()
        asked.cancel()
        return False, None

    async def _end(self, shifts: Sequence["_Shift"]) -> None:
        deadline = self.deadline
        deadline.begin()
        self.calls.drain()
        for shift in shifts:
            shift.end()
        ending = asyncio.gather(*(shift.wait() for shift in shifts))
        await self._drain()
        deadline.shorten_drain()
        # The reserve is for transactions in flight, and for answers on their way to Temporal.
        await asyncio.wait([ending], timeout=deadline.left_s(TASKS_RESERVE_S))
        await self.calls.give_up(deadline.left_s(CANCEL_RESERVE_S))
        # Calls that hang would use up the additional time of an end that no one requested.
        reserve_s = CANCEL_RESERVE_S if self.calls.pending() else WORKERS_RESERVE_S
        await deadline.wait(ending, reserve_s)
        if not ending.done():
            pending = self.calls.pending()
            left = (
                pending_line(pending)
                if pending
                else "units that cannot commit, or answers that Temporal has not received"
            )
            _log.warning("the worker stops with work in flight, which another worker takes over: %s", left)
            for shift in shifts:
                shift.abandon()
            await asyncio.wait([ending], timeout=_ABANDON_S)

    async def _drain(self) -> None:
        """Wait until no call is in flight, but not beyond the drain; report the pending calls meanwhile."""
        report = time.monotonic() + REPORT_S
        while (pending := self.calls.pending()) and (left_s := self.deadline.left_s(CALLS_RESERVE_S)) > 0:
            now = time.monotonic()
            if now >= report:
                _log.warning("waiting up to %.0f s for %s", left_s, pending_line(pending))
                report = now + REPORT_S
            await asyncio.sleep(min(left_s, _DRAIN_LOOK_S))


class _Shift:
    """Workers that started together.

    Args:
        workers: The workers; the constructor starts them.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._runs = [asyncio.create_task(worker.run()) for worker in workers]
        self._ends: list[asyncio.Task[None]] = []

    @property
    def over(self) -> bool:
        """Whether all work of the workers has ended."""
        return all(run.done() for run in self._runs)

    async def accepted(self) -> None:
        """Wait until Temporal has accepted the workers, or has refused one."""
        while not all(worker.is_running for worker in self._workers) and not any(run.done() for run in self._runs):  # noqa: ASYNC110 - Temporal only shows it
            await asyncio.sleep(_ACCEPTED_LOOK_S)
        self.check()

    def check(self) -> None:
        """Raise the error with which a worker failed."""
        for run in self._runs:
            if run.done():
                run.result()

    def end(self) -> None:
        """Stop the workers from taking tasks."""
        if not self._ends:
            self._ends = [asyncio.create_task(worker.shutdown()) for worker in self._workers]

    def abandon(self) -> None:
        """Abandon the workers, because they wait for work that does not end."""
        for task in (*self._ends, *self._runs):
            task.cancel()

    async def wait(self) -> None:
        """Wait until all work of the workers has ended."""
        await asyncio.gather(*self._ends, *self._runs, return_exceptions=True)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
