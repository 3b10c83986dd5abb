"""The room for calls in a worker: its threads, its places for coroutines, and the slots that Temporal may fill."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from temporalio import activity

from amends.sagas.definition.registry import Registry
from amends.sagas.engine.seats import Function, Seat, functions_of
from amends.sagas.runtime.seats import Seats, Wanted
from amends.sagas.runtime.threads import Threads
from amends.sagas.temporal.activity_failures import given_back
from amends.sagas.temporal.failures import stated

__all__ = ["CallSeats", "check_serving"]

_LOOK_S = 0.5
# After this time, a call without a seat may occupy a slot that another step needs.
_SCARCE_S = 5.0
_COME_BACK = timedelta(seconds=5)


class CallSeats:
    """The seats of a worker's calls.

    Args:
        registry: The code.
        at_once: The most calls of `async def` functions at the same time.
        threads: The most plain `def` functions that run at the same time.

    Attributes:
        threads: The threads for plain functions.
        places: The seats of calls that need no thread.
        slots: The most calls that Temporal may deliver to one queue of this process at the same time. It exceeds the
            number of seats, so that calls that wait for a hanging participant leave room for calls of other steps.
    """

    def __init__(self, registry: Registry, *, at_once: int, threads: int) -> None:
        self.threads = Threads(Seats(threads, functions_of(registry.steps.values(), in_threads=True)))
        self.places = Seats(at_once, functions_of(registry.steps.values(), in_threads=False))
        self.slots = 2 * (at_once + threads)
        self._delivered: Counter[tuple[str, bool]] = Counter()

    @contextmanager
    def occupied_slot(self) -> Iterator[None]:
        """Count the present activity as one of the calls that Temporal has delivered."""
        info = activity.info()
        slot = info.task_queue, info.is_local
        self._delivered[slot] += 1
        try:
            yield
        finally:
            self._delivered[slot] -= 1

    def of(self, function: Function) -> Seats:
        """Return the seats for which the calls of a function compete."""
        return self.threads.seats if function in self.threads.seats.functions else self.places

    async def take(self, function: Function, run_id: str, draining: asyncio.Event) -> Seat:
        """Wait for a seat; hand the slot back to Temporal if slots are scarce and the step has had no seat for long.

        Raises:
            ApplicationError: Temporal will deliver the call again, a little later.
        """
        seats = self.of(function)
        if (seat := seats.try_take(function, run_id)) is not None:
            return seat
        wanted = Wanted(seats, function, run_id)
        try:
            while not wanted.granted.done():
                check_serving(draining)
                self._leave_room(seats, function)
                await asyncio.wait({wanted.granted}, timeout=_LOOK_S)
            return wanted.granted.result()
        except BaseException:
            wanted.withdraw()
            raise

    def _leave_room(self, seats: Seats, function: Function) -> None:
        info = activity.info()
        crowded = self._delivered[info.task_queue, info.is_local] > self.slots - self.slots // 4
        if crowded and seats.waited_s(function) > _SCARCE_S:
            raise stated("WaitsForThread", run_id=info.workflow_id or "", node=str(function), again=_COME_BACK)


def check_serving(draining: asyncio.Event) -> None:
    """Check that the worker still starts calls.

    Raises:
        ApplicationError: The worker drains; Temporal delivers the call to another worker.
    """
    if draining.is_set():
        raise given_back()
