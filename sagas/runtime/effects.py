"""Call the user's effects, compensations and probes; each call ends with an outcome, in time or late.

Theory of operation:

- *Every end is data.* A wrapper runs with the function, in its thread or on the event loop, and catches every exception
  there. Only the cancellation of our own caller passes, and a `KeyboardInterrupt` that a signal has raised.
- *The timeout starts when the function starts.* A plain `def` gets a thread before its claim (see `engine.seats`).
- *The timeout counts while the process runs.* After a process was suspended, or an event loop stood still, expired
  deadlines and answers wait at the same moment. Then answers come first: the call gets a short grace.
- *A late answer is an answer.* A `def` goes on in its thread after its timeout, and an `async def` may ignore its
  cancellation. `Reply.later` waits for the answer of such a call; a driver settles it when it comes.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from dis import opname
from typing import Any

from amends.aggregates.values.error_report import is_a, raised_at
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.calls import EffectCall, outcome_of_error, outcome_of_result
from amends.sagas.engine.outcome import Failed, Outcome, Refused
from amends.sagas.engine.seats import Seat, blocks
from amends.sagas.runtime.seats import Seats
from amends.sagas.runtime.threads import Ended, Running, Threads

__all__ = ["Begun", "DriverAbort", "Reply", "begin_call", "guard_coroutine", "raised_by_signal"]

_SLICE_S = 1.0
# A timer that is later than this proves that the process was suspended, its loop blocked or the machine starved.
_STILL_S = 0.3
_GRACE_S = 5.0
# A cancelled coroutine that takes longer than this to end counts as one that goes on.
_LEAVE_S = 1.0


class DriverAbort(BaseException):
    """Ends the driver and not the call; only test kits raise it, never user code."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of waiting for a call until its timeout.

    Attributes:
        outcome: The outcome to record now.
        later: The call, if it goes on after its timeout; `None` if it has ended.
    """

    outcome: Outcome
    later: "Begun | None" = None


class Begun:
    """A call that has started.

    Args:
        registry: The registry that has the codec of the result.
        task: The task to call.
        running: The function in its thread; `None` for an `async def`.
        seats: The seats from which an `async def` has its seat; `None` if it has none.
        seat: That seat.
    """

    def __init__(
        self, registry: Registry, task: EffectCall, running: Running | None, seats: Seats | None, seat: Seat | None
    ) -> None:
        self.task = task
        self._registry = registry
        self._running = running
        self._on_loop = running is None
        self._ended: asyncio.Task[Ended] = asyncio.create_task(
            guard_coroutine(task, lambda: task.operation.function(task.argument, task.call))
            if running is None
            else self._in_thread(running)
        )
        if running is None and seats is not None and seat is not None:
            self._ended.add_done_callback(lambda _: seats.release(seat))

    async def _in_thread(self, running: Running) -> Ended:
        ended = await running.ended
        value = ended.value
        if ended.error is None and inspect.isawaitable(value):
            self._on_loop = True
            return await guard_coroutine(self.task, lambda: value)
        return ended

    async def reply(self) -> Reply:
        """Wait for the call, until its timeout at most.

        Returns:
            Its outcome. No exception of the function passes through; only the cancellation of the caller does.
        """
        timeout = self.task.operation.timeout
        try:
            if self._running is not None:
                await asyncio.wait({self._running.started})
            if await self._ends_within(None if timeout is None else timeout.total_seconds()):
                return Reply(self._outcome())
            self.give_up()
            if self._on_loop:
                await asyncio.wait({self._ended}, timeout=_LEAVE_S)
        except asyncio.CancelledError:
            self.give_up()
            if self._on_loop:
                await asyncio.wait({self._ended}, timeout=_LEAVE_S)
            raise
        bound = 0 if timeout is None else timeout.total_seconds()
        expired = Failed("TimeoutError", f"no answer within {bound:g} s")
        if not self._ended.done():
            return Reply(expired, self)
        return Reply(self._late_outcome() or expired)

    async def late_outcome(self) -> Outcome | None:
        """Wait for the end of a call that went on; return `None` if its end does not show whether the step acted."""
        await asyncio.wait({self._ended})
        return self._late_outcome()

    def give_up(self) -> None:
        """Cancel the call if it runs on the event loop; a thread goes on."""
        if self._on_loop:
            self._ended.cancel()

    async def _ends_within(self, bound_s: float | None) -> bool:
        """Wait for the end, in slices that reveal whether this process stood still meanwhile."""
        if bound_s is None:
            await asyncio.wait({self._ended})
            return True
        loop = asyncio.get_running_loop()
        left_s, grace_s = bound_s, min(bound_s, _GRACE_S)
        while left_s > 0:
            slice_s = min(left_s, _SLICE_S)
            began = loop.time()
            await asyncio.wait({self._ended}, timeout=slice_s)
            if self._ended.done():
                return True
            passed_s = loop.time() - began
            left_s -= passed_s
            if passed_s - slice_s > _STILL_S:
                # The process stood still, and answers that arrived meanwhile are not read yet, so the call gets a
                # grace. The grace is halved each time, so that a slow machine does not wait for ever.
                left_s, grace_s = max(left_s, grace_s), grace_s / 2
        return False

    def _outcome(self) -> Outcome:
        if self._ended.cancelled():
            return outcome_of_error(asyncio.CancelledError("the call was cancelled, and not by its driver"))
        ended = self._ended.result()
        if ended.error is None:
            return outcome_of_result(self._registry, self.task.step, self.task.direction, ended.value)
        if is_a(ended.error, DriverAbort) or raised_by_signal(ended.error):
            raise ended.error
        return outcome_of_error(ended.error)

    def _late_outcome(self) -> Outcome | None:
        """Return the outcome of a call after its timeout; `None` if its error may only come from its cancellation."""
        if self._ended.cancelled():
            return None
        outcome = self._outcome()
        if self._on_loop and not isinstance(outcome, Refused) and self._ended.result().error is not None:
            return None
        return outcome


def begin_call(
    registry: Registry, task: EffectCall, threads: Threads, seat: Seat | None, seats: Seats | None = None
) -> Begun:
    """Start to call an effect, its compensation or its probe.

    Args:
        registry: The registry that has the codec of the result.
        task: The task to call.
        threads: The threads for plain functions.
        seat: The seat of the call, which the call releases when it has ended; `None` for an `async def` that needs
            none.
        seats: The seats from which an `async def` has its seat; `None` if it has none.
    """
    if not blocks(task.operation):
        return Begun(registry, task, None, seats, seat)
    if seat is None:
        raise AssertionError(f"{task.key} was claimed without a thread")
    return Begun(registry, task, threads.start(seat, _call, task), None, None)


def _call(task: EffectCall) -> object:
    # The mapping of the argument runs here, because it is the user's code: its exception is an outcome like the
    # function's own.
    return task.operation.function(task.argument, task.call)


async def guard_coroutine(task: EffectCall, work: Callable[[], Awaitable[Any]]) -> Ended:  # noqa: ARG001 - the watch reads it
    """Return how a coroutine ended; every exception becomes data here, including a cancellation.

    `amends.sagas.runtime.loop_watch` finds this frame, and in it the call that keeps the event loop busy.
    """
    try:
        return Ended(await work())
    except BaseException as error:  # noqa: BLE001 - a user's function never ends a task by raising
        return Ended(error=error)


def raised_by_signal(error: BaseException) -> bool:
    """Check whether a signal to this process raised an interrupt, and not a statement in the user's code."""
    place = raised_at(error)
    if not is_a(error, KeyboardInterrupt) or place is None:
        return False
    if place.tb_frame.f_globals.get("__name__") == "asyncio.runners":
        return True
    return not opname[place.tb_frame.f_code.co_code[place.tb_lasti]].startswith(("RAISE", "RERAISE"))
