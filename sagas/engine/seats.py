"""Seats: the places where calls run, shared so that a participant that hangs never stops the others.

Theory of operation: a call is claimed only once it has a seat, so a call that waits for one has not started: it uses no
attempt, its timeout does not run, and it is never in doubt. A call keeps its seat until the function has really ended,
even after the call's timeout; so a participant that hangs keeps its seats, and must not get all of them:

- while other steps use the same seats, one step never takes all of them, and no function takes the last quarter;
- the last quarter goes to functions that hold no seat yet, one seat each. A step's do, undo and probe are three
  functions. So up to as many functions as a quarter has seats can hang, and each of the others still gets a seat.

`may_take` decides; `amends.sagas.runtime.seats` counts, and serves the waiting calls in turn.
"""

import inspect
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from amends.aggregates.run.plan import StepKind
from amends.aggregates.run.state import Direction
from amends.sagas.definition.step_definition import Operation, StepDefinition

__all__ = [
    "Function",
    "Seat",
    "SeatsInUse",
    "blocks",
    "describe_use",
    "functions_of",
    "may_take",
    "operation_of",
]


class Function(NamedTuple):
    """One of a step's functions.

    Attributes:
        step: Name of the step.
        direction: Which of its functions.
    """

    step: str
    direction: Direction

    def __str__(self) -> str:
        """Return the name for logs; it is also the type of the activity on Temporal's web pages."""
        suffix = {Direction.DO: "", Direction.UNDO: ".compensation", Direction.PROBE: ".probe"}[self.direction]
        return f"{self.step}{suffix}"


def blocks(operation: Operation) -> bool:
    """Check whether a function needs a thread, because it is not `async def`."""
    return not inspect.iscoroutinefunction(operation.function)


def operation_of(step: StepDefinition, direction: Direction) -> Operation | None:
    """Return a function of a step; `None` if the step has none in that direction."""
    return {Direction.DO: step.run, Direction.UNDO: step.undo, Direction.PROBE: step.probe}[direction]


def functions_of(steps: Iterable[StepDefinition], *, in_threads: bool) -> frozenset[Function]:
    """Return the functions of effects that run in threads (plain `def`), or those that run on the event loop."""
    return frozenset(
        Function(step.name, direction)
        for step in steps
        if step.kind is StepKind.EFFECT
        for direction in Direction
        if (operation := operation_of(step, direction)) is not None and blocks(operation) is in_threads
    )


def may_take(size: int, held: Mapping[Function, int], functions: frozenset[Function], wanted: Function) -> bool:
    """Check whether a function may take one more seat.

    Args:
        size: The number of seats.
        held: The number of seats that each function holds.
        functions: All functions that share the seats.
        wanted: The function.
    """
    free, quarter = size - sum(held.values()), max(1, size // 4)
    alone = all(each.step == wanted.step for each in functions)
    of_step = sum(count for each, count in held.items() if each.step == wanted.step)
    if not held.get(wanted, 0):
        return free > 0 and (alone or of_step < max(1, size - 1))
    without = sum(1 for each in functions if each != wanted and not held.get(each, 0))
    return free > min(without, quarter) and (alone or of_step < size - quarter)


@dataclass(eq=False, slots=True)
class Seat:
    """A seat that a call has taken.

    Attributes:
        function: The function that is called.
        run_id: The run for which it is called.
        since: The time at which it was taken, in seconds of `time.monotonic`.
    """

    function: Function
    run_id: str
    since: float


class SeatsInUse(NamedTuple):
    """The use of the seats at one moment.

    Attributes:
        size: The number of seats.
        held: The seats that are taken, the oldest first.
        waiting: The number of calls that wait for a seat, by function.
        longest_s: How long the oldest of those has waited, in seconds; 0 if none waits.
        now: That moment, in seconds of `time.monotonic`.
    """

    size: int
    held: tuple[Seat, ...]
    waiting: Mapping[Function, int]
    longest_s: float
    now: float


def describe_use(use: SeatsInUse) -> str:
    """Return one line for people: the waiting calls, the calls that hold the seats, for how long, and the remedy.

    Args:
        use: The use of the seats.
    """
    oldest: dict[Function, float] = {}
    for seat in use.held:
        oldest.setdefault(seat.function, use.now - seat.since)
    counts = Counter(seat.function for seat in use.held)
    holders = ", ".join(f"{each} holds {count} (longest {oldest[each]:.0f} s)" for each, count in counts.most_common(5))
    waiting = ", ".join(f"{each} {count}" for each, count in sorted(use.waiting.items()))
    return (
        f"calls wait for one of {use.size} threads, the oldest for {use.longest_s:.0f} s: {waiting}; {holders}; "
        f"waiting uses up no attempt; set a timeout in the client of a participant that hangs, or raise worker_threads"
    )
