"""Take seats and wait for them, in all event loops and threads of a process.

How it can fail: no function here raises. The log reports calls that wait for long, with the steps that hold the seats.
"""

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from amends.aggregates.errors import MissingCodeError
from amends.aggregates.run.plan import PlanNode
from amends.aggregates.run.state import Direction
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.calls import EffectCall
from amends.sagas.engine.seats import Function, Seat, SeatsInUse, blocks, describe_use, may_take

__all__ = ["Request", "Seating", "Seats", "Wanted"]

# A shorter time would report every burst of calls.
_REPORT_AFTER_S = 5.0
_REPORT_EVERY_S = 30.0

_log = logging.getLogger("amends.worker")


@dataclass(eq=False, slots=True)
class Request:
    """A call that waits for a seat.

    Attributes:
        function: The function that will be called.
        run_id: The run for which it will be called.
        granted: Called once, by any thread, with the seat.
        since: The time at which it began to wait, in seconds of `time.monotonic`.
    """

    function: Function
    run_id: str
    granted: Callable[[Seat], None]
    since: float = field(default_factory=time.monotonic)


class Seats:
    """A number of seats, and the calls that wait for one.

    Args:
        size: The number of seats.
        functions: All functions that share them.
    """

    def __init__(self, size: int, functions: Iterable[Function]) -> None:
        self._size = size
        self._functions = frozenset(functions)
        self._lock = threading.Lock()
        self._taken: dict[Seat, None] = {}
        self._held: Counter[Function] = Counter()
        self._waiting: dict[Function, deque[Request]] = {}
        self._report_at = 0.0

    @property
    def size(self) -> int:
        """The number of seats."""
        return self._size

    @property
    def functions(self) -> frozenset[Function]:
        """All functions that share the seats."""
        return self._functions

    def try_take(self, function: Function, run_id: str) -> Seat | None:
        """Return a free seat; `None` if the function may not have one now, or if other calls wait already."""
        with self._lock:
            return None if self._waiting.get(function) else self._take(function, run_id)

    def request(self, request: Request) -> None:
        """Grant a seat as soon as the function may have one: at once, or after earlier requests."""
        with self._lock:
            queue = self._waiting.setdefault(request.function, deque())
            queue.append(request)
            granted = self._grant()
        _tell(granted)

    def withdraw(self, request: Request) -> None:
        """Withdraw the request; do nothing if the seat has been granted already."""
        with self._lock:
            queue = self._waiting.get(request.function, deque())
            if request in queue:
                queue.remove(request)
            if not queue:
                self._waiting.pop(request.function, None)

    def release(self, seat: Seat) -> None:
        """Release a seat to the next waiting call; do nothing if the seat has been released already."""
        with self._lock:
            if seat not in self._taken:
                return
            del self._taken[seat]
            self._held[seat.function] -= 1
            granted = self._grant()
        _tell(granted)

    def in_use(self) -> SeatsInUse:
        """Return the seats that are held and the calls that wait."""
        now = time.monotonic()
        with self._lock:
            waiting = {function: len(queue) for function, queue in self._waiting.items() if queue}
            longest = max((now - queue[0].since for queue in self._waiting.values() if queue), default=0.0)
            return SeatsInUse(self._size, tuple(self._taken), waiting, longest, now)

    def report_due(self) -> bool:
        """Check whether to report now that calls wait; true only once in a while."""
        now = time.monotonic()
        with self._lock:
            if now < self._report_at:
                return False
            self._report_at = now + _REPORT_EVERY_S
            return True

    def waited_s(self, function: Function) -> float:
        """Return how long the oldest waiting call of a function has waited, in seconds; 0 if none waits."""
        with self._lock:
            queue = self._waiting.get(function)
            return time.monotonic() - queue[0].since if queue else 0.0

    def _take(self, function: Function, run_id: str) -> Seat | None:
        if not may_take(self._size, self._held, self._functions, function):
            return None
        seat = Seat(function, run_id, time.monotonic())
        self._taken[seat] = None
        self._held[function] += 1
        return seat

    def _grant(self) -> list[tuple[Request, Seat]]:
        """Grant free seats to the waiting calls, the one that has waited longest first."""
        granted: list[tuple[Request, Seat]] = []
        for function in sorted(self._waiting, key=lambda each: self._waiting[each][0].since):
            queue = self._waiting[function]
            while queue and (seat := self._take(function, queue[0].run_id)) is not None:
                granted.append((queue.popleft(), seat))
            if not queue:
                del self._waiting[function]
        return granted


def _tell(granted: Iterable[tuple[Request, Seat]]) -> None:
    """Deliver the granted seats; outside of the lock, because the receiver may use the seats at once."""
    for request, seat in granted:
        request.granted(seat)


class Wanted:
    """A seat for which a call waits.

    Args:
        seats: The seats from which it comes.
        function: The function that will be called.
        run_id: The run for which it will be called.

    Attributes:
        function: The function that will be called.
        granted: The future of the seat.
    """

    def __init__(self, seats: Seats, function: Function, run_id: str) -> None:
        self.function = function
        self._seats = seats
        self._loop = asyncio.get_running_loop()
        self.granted: asyncio.Future[Seat] = self._loop.create_future()
        self._request = Request(function, run_id, self._grant)
        seats.request(self._request)
        self._report = None if self.granted.done() else self._loop.call_later(_REPORT_AFTER_S, self._complain)

    def withdraw(self) -> None:
        """Stop waiting; release the seat if it was granted."""
        self._seats.withdraw(self._request)
        if self.granted.done() and not self.granted.cancelled():
            self._seats.release(self.granted.result())
        self.granted.cancel()
        if self._report is not None:
            self._report.cancel()

    def _grant(self, seat: Seat) -> None:
        """Deliver the seat, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._take, seat)
        except RuntimeError:  # the loop has ended, so no call waits
            self._seats.release(seat)

    def _take(self, seat: Seat) -> None:
        if self._report is not None:
            self._report.cancel()
        if self.granted.done():
            self._seats.release(seat)
        else:
            self.granted.set_result(seat)

    def _complain(self) -> None:
        if self._seats.report_due():
            _log.warning("%s", describe_use(self._seats.in_use()))
        self._report = self._loop.call_later(_REPORT_AFTER_S, self._complain)


class Seating:
    """The seats of one run: the unit that claims its calls takes them, or waits for them.

    The committer's thread may execute a unit more than once before it commits; `begin` returns the seats that an
    earlier execution took.

    Args:
        registry: The registry that has the functions.
        seats: The threads of the process.
        run_id: The run.
    """

    def __init__(self, registry: Registry, seats: Seats, run_id: str) -> None:
        self._registry = registry
        self._seats = seats
        self._run_id = run_id
        self._taken: dict[str, Seat] = {}
        self._refused: dict[str, Function] = {}
        self._wanted: dict[str, Wanted] = {}

    @property
    def queued(self) -> frozenset[str]:
        """Nodes whose call waits for a thread."""
        return frozenset(node for node, wanted in self._wanted.items() if not wanted.granted.done())

    @property
    def pending(self) -> tuple["asyncio.Future[Seat]", ...]:
        """Futures of the seats for which calls wait."""
        return tuple(wanted.granted for wanted in self._wanted.values() if not wanted.granted.done())

    def begin(self) -> None:
        """Start a unit, perhaps not for the first time."""
        self._release_taken()
        self._refused.clear()

    def can_begin(self, node: PlanNode, direction: Direction) -> bool:
        """Check whether a call has a seat or needs none; take a free seat for it."""
        try:
            operation = self._registry.operation(
                node.step, undo=direction is Direction.UNDO, probe=direction is Direction.PROBE
            )
        except MissingCodeError:
            return True  # the claim will raise the error about the missing code
        if not blocks(operation):
            return True
        function = Function(node.step, direction)
        wanted = self._wanted.get(node.name)
        if wanted is not None and wanted.function == function and wanted.granted.done():
            return True
        seat = self._seats.try_take(function, self._run_id)
        if seat is None:
            self._refused[node.name] = function
            return False
        self._taken[node.name] = seat
        return True

    def seat(self, tasks: Iterable[EffectCall]) -> list[tuple[EffectCall, Seat | None]]:
        """Assign its seat to each call that the committed unit has claimed, and queue the calls that found none."""
        seated: list[tuple[EffectCall, Seat | None]] = []
        for task in tasks:
            seat = self._taken.pop(task.node, None)
            if seat is None and blocks(task.operation):
                seat = self._wanted.pop(task.node).granted.result()
            seated.append((task, seat))
        self._release_taken()
        for node in list(self._wanted):
            if self._refused.get(node) != self._wanted[node].function:
                self._wanted.pop(node).withdraw()
        for node, function in self._refused.items():
            if node not in self._wanted:
                self._wanted[node] = Wanted(self._seats, function, self._run_id)
        return seated

    def give_up(self) -> None:
        """Release every seat that no call uses, and withdraw all requests."""
        self._release_taken()
        while self._wanted:
            self._wanted.popitem()[1].withdraw()

    def _release_taken(self) -> None:
        while self._taken:
            self._seats.release(self._taken.popitem()[1])
