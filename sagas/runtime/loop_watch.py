"""Notice that the event loop stands still, name the call that blocks it, and send heartbeats meanwhile.

Theory of operation: the loop notes the time several times a second, and a thread compares. If the loop is late, the
thread reads the frame that the loop's thread executes and finds the user's call in it (`guard_coroutine`). While the
loop is late, and for a while after, the thread sends heartbeats, so that healthy calls of this process do not count as
lost. After the loop has stood still for 60 s the thread stops sending, because the process may be stuck for good.

How it can fail: for a child task that a call has created, only file and line are known. A process that was suspended as
a whole has not blocked its loop, so the watch does not report it.
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from amends.sagas.engine.calls import EffectCall
from amends.sagas.engine.seats import Function
from amends.sagas.runtime.effects import guard_coroutine

__all__ = ["BusyCall", "LoopWatch", "busy_call"]

_TICK_S = 0.25
_LATE_S = 1.0
_REPORT_S = 2.0
_BEAT_EVERY_S = 2.0
_BEAT_AFTER_S = 10.0
_BEAT_AT_MOST_S = 60.0

_log = logging.getLogger("amends.worker")


@dataclass(frozen=True, slots=True)
class BusyCall:
    """A call that executes code on the event loop now.

    Attributes:
        function: The function.
        run_id: The run.
        place: File and line of the user's code.
    """

    function: Function
    run_id: str
    place: str

    def __str__(self) -> str:
        """Return the call in words for people."""
        return f"step {self.function} of run {self.run_id} ({self.place})"


def busy_call(frame: FrameType | None) -> BusyCall | None:
    """Find the user's call in a stack; return `None` if the stack has none.

    Args:
        frame: The innermost frame of the event loop's thread.
    """
    frames: list[FrameType] = []
    while frame is not None and frame.f_code is not guard_coroutine.__code__:
        frames.append(frame)
        frame = frame.f_back
    task = None if frame is None else frame.f_locals.get("task")
    if not isinstance(task, EffectCall) or not frames:
        return None
    own_file = task.operation.function.__code__.co_filename
    place = next((each for each in frames if each.f_code.co_filename == own_file), frames[-1])
    return BusyCall(Function(task.step, task.direction), task.run_id, f"{place.f_code.co_filename}:{place.f_lineno}")


class LoopWatch:
    """Watches the event loop in which it is entered.

    Args:
        beat: Sends the heartbeats of this process, in the watching thread; `None` if there are none to send.
    """

    def __init__(self, beat: Callable[[], None] | None = None) -> None:
        self._beat = beat
        self._ticked = time.monotonic()
        self._ended = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the running loop while the context lasts."""
        loop, thread_id = asyncio.get_running_loop(), threading.get_ident()
        self._ended = threading.Event()
        self._ticked = time.monotonic()
        tick = asyncio.ensure_future(self._tick(), loop=loop)
        threading.Thread(target=self._watch, args=(thread_id,), name="amends-loop-watch", daemon=True).start()
        try:
            yield
        finally:
            self._ended.set()
            tick.cancel()

    async def _tick(self) -> None:
        while True:
            self._ticked = time.monotonic()
            await asyncio.sleep(_TICK_S)

    def _watch(self, thread_id: int) -> None:
        looked, beaten, late_until = time.monotonic(), 0.0, 0.0
        busy: BusyCall | None = None
        reported_s = still_s = 0.0
        while not self._ended.wait(_TICK_S):
            now = time.monotonic()
            if now - looked > _LATE_S:  # this thread stood still, too: a suspended process or a slow machine
                self._ticked = max(self._ticked, now - _LATE_S)
            looked = now
            silent_s = now - self._ticked
            if silent_s > _LATE_S:
                late_until = now + _BEAT_AFTER_S
                still_s = silent_s
                busy = busy_call(sys._current_frames().get(thread_id)) or busy  # noqa: SLF001 - made for this
                if busy is not None and still_s >= max(_REPORT_S, reported_s * 2):
                    reported_s = still_s
                    _log.warning("the event loop has been blocked for %.0f s in %s", still_s, busy)
            elif busy is not None:
                _log.warning(
                    "the event loop was blocked for %.1f s in %s; blocking code delays every other call: write "
                    "the step as a plain def, or use asyncio.to_thread",
                    still_s,
                    busy,
                )
                busy, reported_s = None, 0.0
            due = now < late_until and silent_s < _BEAT_AT_MOST_S and now > beaten + _BEAT_EVERY_S
            if self._beat is not None and due:
                beaten = now
                self._beat()
                looked = time.monotonic()
