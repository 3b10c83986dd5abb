"""Threads for plain `def` functions: one for each seat, and none of them keeps the process from ending.

A thread cannot be stopped. One whose call has timed out goes on, keeps its seat, and still delivers its answer. Threads
are daemons: a process that ends does not wait for them, and loses their answers.

How it can fail: if the event loop ends before the function does, the answer is lost; a line in the log reports that.
"""

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from amends.sagas.engine.seats import Seat
from amends.sagas.runtime.seats import Seats

__all__ = ["Ended", "Running", "Threads"]

_log = logging.getLogger("amends.worker")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a function ended, as data: a user's error is never raised through a future.

    Attributes:
        value: The function's result.
        error: The exception that it raised, of any class; `None` if it returned.
    """

    value: object = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """A function that a thread runs or will run.

    Attributes:
        started: Done when the function starts.
        ended: Done when it has ended.
    """

    started: asyncio.Future[None]
    ended: asyncio.Future[Ended]


class Threads:
    """Runs plain functions in threads of its own.

    Args:
        seats: The seats; they decide which function may use how many threads.
    """

    def __init__(self, seats: Seats) -> None:
        self.seats = seats
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._count = 0
        self._closed = False

    def start(self, seat: Seat, function: Callable[..., object], *arguments: Any) -> Running:  # noqa: ANN401 - the user's
        """Run a function in a thread, and release its seat when it has ended.

        Args:
            seat: The seat that the function has taken.
            function: The function.
            arguments: Its arguments.
        """
        loop = asyncio.get_running_loop()
        running = Running(loop.create_future(), loop.create_future())
        context = contextvars.copy_context()

        def job() -> None:
            _post(loop, seat, running.started, None)
            ended = _guarded(lambda: context.run(function, *arguments))
            self.seats.release(seat)
            _post(loop, seat, running.ended, ended)

        if not self._idle.acquire(blocking=False):
            with self._lock:
                self._count += 1
                name = f"effect-{self._count}"
            threading.Thread(target=self._serve, name=name, daemon=True).start()
        self._jobs.put(job)
        return running

    def close(self) -> None:
        """End idle threads, and report the threads that run a function; those end after it."""
        self._closed = True
        for seat in self.seats.in_use().held:
            _log.warning(
                "%s of run %s has run in its thread for %.0f s; no caller waits for its answer any longer",
                seat.function,
                seat.run_id,
                time.monotonic() - seat.since,
            )
        while self._idle.acquire(blocking=False):
            self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # holds the function's arguments, which would live until the next call
            if self._closed:
                return
            self._idle.release()


def _guarded(call: Callable[[], object]) -> Ended:
    """Return how a function ended; every exception becomes data here, including `SystemExit`."""
    try:
        return Ended(call())
    except BaseException as error:  # noqa: BLE001 - a user's function never ends a thread or a future by raising
        return Ended(error=error)


def _post(loop: asyncio.AbstractEventLoop, seat: Seat, future: asyncio.Future[Any], value: Ended | None) -> None:
    try:
        loop.call_soon_threadsafe(_set, future, value)
    except RuntimeError:  # the loop is closed
        if value is not None:
            _log.warning(
                "%s of run %s ended in its thread after the process had stopped waiting; the answer is lost, and the "
                "step stays in doubt until its next attempt or probe",
                seat.function,
                seat.run_id,
            )


def _set(future: asyncio.Future[Any], value: Ended | None) -> None:
    if not future.done():
        future.set_result(value)
