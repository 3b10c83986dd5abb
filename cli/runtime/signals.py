"""The supervisor of a command that serves: after a request to stop, the process ends within a stated bound.

Theory of operation: the supervisor has a thread of its own. The thread hears the signals through Python's wakeup file
descriptor, so neither a blocked event loop nor a blocked main thread can keep it from hearing them. It also watches the
bound.

1. The first signal starts the bound. It cancels a command that is starting up; a command that serves finds
   `Stop.requested` set, and ends its parts one after the other, each within its share of the bound (`StopDeadline`).
2. A further signal shortens the remaining time to five seconds.
3. The bound also counts if a command ends for another reason: its parts may hang just the same. If the command ends
   because its work is done, its parts have half a minute, until a signal arrives.
4. If the bound has passed and the process is still there, the thread names the work under way, runs the last resorts
   (which must not block), flushes the output and ends the process with the exit status of the command.

Limit: code that never releases Python's lock keeps the thread from running, too. Only SIGKILL ends such a process.
"""

import asyncio
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from amends.cli.exit_codes import ExitCode
from amends.cli.output.remarks import note
from amends.sagas.runtime.deadline import REST, StopDeadline

__all__ = ["Stop", "run_stoppable"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TIDY_S = 0.5
_LAST_WORDS_S = 1.0
# How soon the thread notices a bound that another thread has set.
_LOOK_S = 1.0


class Stop:
    """The request to stop, and the bound that counts from then on.

    Args:
        code: The exit status of the command after a request to stop.
        drain: How long calls in flight may take to end.
        rest: How long stopping takes in addition, at most.

    Attributes:
        requested: Set by the first signal.
        deadline: The time by which the process ends.
        under_way: Returns the work under way, one text each; called by another thread.
        last_resorts: Run by another thread before it ends the process; they must not block.
    """

    def __init__(self, code: ExitCode, *, drain: timedelta = timedelta(0), rest: timedelta = REST) -> None:
        self.requested = asyncio.Event()
        self.deadline = StopDeadline(drain=drain, rest=rest)
        self.under_way: Callable[[], list[str]] = list
        self.last_resorts: list[Callable[[], None]] = []
        self._code = code
        self._told = False
        self._starting = True
        self._over = threading.Event()
        self._task: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def told(self) -> bool:
        """Whether a signal asked the process to stop."""
        return self._told

    def request(self) -> None:
        """Request the stop from the event loop, as the first signal does; a further request ends the drain."""
        if self.requested.is_set():
            self.deadline.shorten_drain()
        self.deadline.request()
        self.requested.set()

    def ready(self) -> None:
        """Record that the start-up is over: from now on the command waits for `requested` where it can."""
        self._starting = False

    def ends_with(self, code: ExitCode, *, calm: bool = False) -> None:
        """Record that the command ends with this status: the bound counts from now on.

        Args:
            code: The exit status, also if a part of the command does not end.
            calm: Whether the command ends because its work is done.
        """
        if not self._told:
            self._code = code
        self.deadline.begin(calm=calm)

    def goes_on(self) -> None:
        """Record that only a part of the command has ended, and starts again."""
        self.deadline.reset()
        if self._told:
            self.deadline.begin()

    async def within(self, work: Awaitable[object], reserve_s: float) -> bool:
        """Wait for some work, but no longer than the bound allows; return whether it has ended.

        Args:
            work: The work. Its failure counts as its end.
            reserve_s: Part of the bound to keep for the parts that end later, in seconds.
        """
        task = asyncio.ensure_future(work)
        await self.deadline.wait(task, reserve_s)
        if not task.done():
            task.cancel()
            return False
        if not task.cancelled():
            task.exception()  # otherwise Python reports an exception that was never retrieved
        return True

    # ---- the thread

    @contextmanager
    def hearing(self, task: "asyncio.Task[Any]") -> Iterator[None]:
        """Hear signals, and watch the bound, while the context lasts."""
        self._task = task
        heard = [each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
        former = {each: signal.signal(each, _do_nothing) for each in heard}
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), name="amends-stop", daemon=True).start()
        try:
            yield
        finally:
            self._over.set()
            signal.set_wakeup_fd(wakeup)
            for number, handler in former.items():
                signal.signal(number, handler)
            writer.close()

    def _watch(self, reader: socket.socket) -> None:
        with reader:
            while (left_s := self.deadline.left_s()) > 0:
                readable, _, _ = select.select([reader], [], [], min(left_s, _LOOK_S))
                if self._over.is_set():
                    return
                if readable:
                    for _ in reader.recv(64):
                        self._hear()
            self._cut_off()

    def _hear(self) -> None:
        if self._told:
            self.deadline.shorten_drain()
            return
        self._told = True
        self.deadline.request()
        with suppress(RuntimeError):  # the loop is closed: the command has ended
            self._loop.call_soon_threadsafe(self._request)

    def _request(self) -> None:
        self.requested.set()
        if self._starting and self._task is not None:
            self._task.cancel()

    def _cut_off(self) -> None:
        """End the process, because a part of it does not end."""
        for resort in self.last_resorts:
            with suppress(Exception):
                resort()
        # In a thread: the reader of the output may hang as well.
        words = threading.Thread(target=self._last_words, daemon=True)
        words.start()
        words.join(_LAST_WORDS_S)
        os._exit(self._code)

    def _last_words(self) -> None:
        work = self.under_way()
        note(f"stopped with work in flight: {', '.join(work) if work else 'a part that does not end'}")
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()


def _do_nothing(_number: int, _frame: object) -> None:
    """Leave the signal to the wakeup file descriptor."""


def run_stoppable(
    command: Callable[[Stop], Coroutine[Any, Any, ExitCode]],
    *,
    code: ExitCode,
    drain: timedelta = timedelta(0),
    rest: timedelta = REST,
) -> ExitCode:
    """Run a command in an event loop of its own; after a request to stop it ends within the bound.

    The function does not wait for threads that hang: its caller ends the process with the returned status.

    Args:
        command: The command.
        code: The exit status if a signal stops the command during its start-up, or the command does not end in time.
        drain: How long calls in flight may take to end.
        rest: How long stopping takes in addition, at most.

    Returns:
        The exit status.

    Raises:
        Exception: The command raised it.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_run(command, code, drain, rest))
    finally:
        # A task that ignores its cancellation would complain about a closed loop.
        if all(each.done() for each in asyncio.all_tasks(loop)):
            loop.close()


async def _run(
    command: Callable[[Stop], Coroutine[Any, Any, ExitCode]], code: ExitCode, drain: timedelta, rest: timedelta
) -> ExitCode:
    stop = Stop(code, drain=drain, rest=rest)
    task = asyncio.ensure_future(command(stop))
    with stop.hearing(task):
        await asyncio.wait([task])
        others = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
        for each in others:
            each.cancel()
        if others:
            await asyncio.wait(others, timeout=_TIDY_S)
    if task.cancelled():
        return code
    return task.result()
