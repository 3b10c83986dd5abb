"""The time within which a stopping process ends, and how its parts share it.

Each part asks how much time it has left, and keeps a reserve for the parts that end after it: calls end first, then
Temporal's workers, then the store, then the embedded server. So no part can use up the time of the others, and the
total is bounded in every state.

An end that no one requested (the work is done) may take longer: the workers, the store and the server may then use
`CALM_S` in addition, because on a busy machine an ordinary end takes more than some seconds. Calls that hang get no
additional time, and a request to stop takes it away.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from threading import Lock
from typing import Any

from amends.aggregates.run.plan import StepKind
from amends.sagas.definition.step_definition import StepDefinition

__all__ = [
    "CALLS_RESERVE_S",
    "CALM_S",
    "CANCEL_RESERVE_S",
    "LONGEST_DRAIN",
    "REST",
    "SERVER_RESERVE_S",
    "STORE_RESERVE_S",
    "TASKS_RESERVE_S",
    "WORKERS_RESERVE_S",
    "StopDeadline",
    "default_drain",
]

REST = timedelta(seconds=5)
"""The most time that stopping takes, in addition to the drain."""

LONGEST_DRAIN = timedelta(minutes=10)
"""The longest default drain."""

CALM_S = 25.0
"""Seconds that an end without a request to stop may take in addition."""

CALLS_RESERVE_S = 3.0
"""Calls in flight may end until this many seconds before the bound."""

TASKS_RESERVE_S = 2.6
"""Transactions in flight, and answers on their way to Temporal, may end until this many seconds before the bound."""

CANCEL_RESERVE_S = 2.2
"""Cancelled calls may end until this many seconds before the bound."""

WORKERS_RESERVE_S = 2.0
"""Temporal's workers may end until this many seconds before the bound."""

STORE_RESERVE_S = 1.3
"""The store may close until this many seconds before the bound."""

SERVER_RESERVE_S = 0.3
"""The embedded server may end until this many seconds before the bound."""


# How soon a wait notices that the bound has come nearer.
_LOOK_S = 0.2


def default_drain(steps: Iterable[StepDefinition]) -> timedelta:
    """Return the longest timeout of any effect, compensation or probe, at most `LONGEST_DRAIN`."""
    timeouts = [
        operation.timeout
        for step in steps
        if step.kind is StepKind.EFFECT
        for operation in (step.run, step.undo, step.probe)
        if operation is not None and operation.timeout is not None
    ]
    return min(max(timeouts, default=timedelta(0)), LONGEST_DRAIN)


class StopDeadline:
    """The time at which a stopping process has ended. All threads may use it.

    Args:
        drain: How long calls in flight may take to end before the process begins to end them.
        rest: How long stopping takes in addition, at most.
        now: Returns the time in seconds.
    """

    def __init__(
        self, *, drain: timedelta = timedelta(0), rest: timedelta = REST, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._drain_s = drain.total_seconds()
        self._rest_s = rest.total_seconds()
        self._now = now
        self._lock = Lock()
        self._at: float | None = None
        self._calm_s = 0.0

    @property
    def begun(self) -> bool:
        """Whether stopping has begun."""
        return self._at is not None

    @property
    def drain_s(self) -> float:
        """How long calls in flight may take, in seconds."""
        return self._drain_s

    def begin(self, *, calm: bool = False) -> None:
        """Start to count; do nothing if counting has started already.

        Args:
            calm: Whether the process ends because its work is done, so that its parts have `CALM_S` in addition.
        """
        with self._lock:
            if self._at is None:
                self._at = self._now() + self._drain_s + self._rest_s
                self._calm_s = CALM_S if calm else 0.0

    def request(self) -> None:
        """Start to count because of a request to stop: from now on there is no additional time."""
        with self._lock:
            at = self._now() + self._drain_s + self._rest_s
            self._at = at if self._at is None else min(self._at + self._calm_s, at)
            self._calm_s = 0.0

    def shorten_drain(self) -> None:
        """End the drain now."""
        with self._lock:
            at = self._now() + self._rest_s
            self._at = at if self._at is None else min(self._at, at)

    def reset(self) -> None:
        """Stop counting, because only a part had to end and the process goes on."""
        with self._lock:
            self._at = None
            self._calm_s = 0.0

    def left_s(self, reserve_s: float = 0.0) -> float:
        """Return the seconds until the bound less a reserve, at least 0; infinity before stopping has begun."""
        with self._lock:
            at, calm_s = self._at, self._calm_s
        if at is None:
            return float("inf")
        return max(0.0, at + (calm_s if reserve_s <= WORKERS_RESERVE_S else 0.0) - reserve_s - self._now())

    async def wait(self, work: "asyncio.Future[Any]", reserve_s: float) -> None:
        """Wait for some work, but not beyond the bound less a reserve, even if the bound comes nearer meanwhile."""
        while not work.done():
            left_s = self.left_s(reserve_s)
            await asyncio.wait([work], timeout=min(left_s, _LOOK_S))
            if left_s <= 0:
                return
