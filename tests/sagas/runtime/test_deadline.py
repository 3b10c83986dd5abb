"""The bound of a stopping process: its parts share it, and it holds however often a stop is requested."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amends import Attempted, Call, UnitOfWork, effect, transaction
from amends.sagas.runtime.deadline import (
    CALLS_RESERVE_S,
    CALM_S,
    CANCEL_RESERVE_S,
    LONGEST_DRAIN,
    SERVER_RESERVE_S,
    STORE_RESERVE_S,
    TASKS_RESERVE_S,
    WORKERS_RESERVE_S,
    StopDeadline,
    default_drain,
)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


def deadline(clock: Clock, drain_s: float = 60, rest_s: float = 5) -> StopDeadline:
    """Create the bound of a process that drains for a minute."""
    return StopDeadline(drain=timedelta(seconds=drain_s), rest=timedelta(seconds=rest_s), now=clock)


def test_nothing_is_bounded_before_stopping_begins() -> None:
    """A process that has not been asked to stop has all the time in the world."""
    bound = deadline(Clock())
    assert not bound.begun
    assert bound.left_s() == bound.left_s(100) == float("inf")


def test_drain_and_rest_count_from_the_first_request() -> None:
    """A second request to begin gives a process no more time."""
    clock = Clock()
    bound = deadline(clock)
    bound.begin()
    clock.now += 20
    bound.begin()
    assert (bound.begun, bound.left_s(), bound.left_s(CALLS_RESERVE_S)) == (True, 45, 42)
    clock.now += 100
    assert bound.left_s() == 0


def test_the_end_of_the_drain_leaves_the_rest() -> None:
    """A second signal ends the drain, which leaves five seconds; it never gives more time than there was."""
    clock = Clock()
    bound = deadline(clock)
    bound.begin()
    clock.now += 10
    bound.shorten_drain()
    assert bound.left_s() == 5
    clock.now += 3
    bound.shorten_drain()
    assert bound.left_s() == 2


def test_ending_the_drain_begins_to_stop() -> None:
    """The bound counts even where nothing asked the process to begin."""
    bound = deadline(Clock())
    bound.shorten_drain()
    assert (bound.begun, bound.left_s()) == (True, 5)


def test_a_process_that_goes_on_has_no_bound() -> None:
    """A part that ended and starts again takes no time from the real stop."""
    clock = Clock()
    bound = deadline(clock)
    bound.begin()
    clock.now += 60
    bound.reset()
    assert bound.left_s() == float("inf")
    bound.begin()
    assert bound.left_s() == 65


def test_an_end_without_a_request_may_take_longer() -> None:
    """Workers, store and server have more time if the work is done; calls that hang have not."""
    bound = deadline(Clock(), drain_s=0)
    bound.begin(calm=True)
    bound.begin()
    assert bound.left_s() == 5 + CALM_S
    assert bound.left_s(STORE_RESERVE_S) == pytest.approx(5 + CALM_S - STORE_RESERVE_S)
    assert bound.left_s(CANCEL_RESERVE_S) == pytest.approx(5 - CANCEL_RESERVE_S)


@pytest.mark.parametrize(("after_s", "left_s"), [(0, 5), (10, 5), (CALM_S + 3, 2)])
def test_a_request_takes_the_additional_time_away(after_s: float, left_s: float) -> None:
    """The five seconds count from the signal, and never beyond the end that was fixed before."""
    clock = Clock()
    bound = deadline(clock, drain_s=0)
    bound.begin(calm=True)
    clock.now += after_s
    bound.request()
    assert bound.left_s() == left_s
    clock.now += 1
    bound.request()
    assert bound.left_s() == left_s - 1


async def test_a_wait_ends_soon_after_the_bound_has_come_nearer() -> None:
    """A part that already waits notices a request to stop."""
    clock = Clock()
    bound = deadline(clock, drain_s=0)
    bound.begin(calm=True)
    wait = asyncio.create_task(bound.wait(asyncio.get_running_loop().create_future(), STORE_RESERVE_S))
    await asyncio.sleep(0)
    clock.now += 5
    assert not wait.done()
    bound.request()
    clock.now += 5
    await wait


def test_each_part_leaves_time_to_the_parts_after_it() -> None:
    """Calls end before transactions, then cancelled calls, workers, the store and the server; each has some time."""
    reserves = [
        CALLS_RESERVE_S,
        TASKS_RESERVE_S,
        CANCEL_RESERVE_S,
        WORKERS_RESERVE_S,
        STORE_RESERVE_S,
        SERVER_RESERVE_S,
        0.0,
    ]
    assert reserves == sorted(reserves, reverse=True)
    assert len(set(reserves)) == len(reserves)
    assert reserves[0] < deadline(Clock())._rest_s


REQUESTS: dict[str, Callable[[StopDeadline], None]] = {
    "begin": StopDeadline.begin,
    "calm": lambda bound: bound.begin(calm=True),
    "request": StopDeadline.request,
    "shorten": StopDeadline.shorten_drain,
}


@given(st.lists(st.tuples(st.sampled_from([*REQUESTS]), st.floats(0, 100)), max_size=10))
def test_no_request_makes_the_bound_later(requests: list[tuple[str, float]]) -> None:
    """Once a process has begun to stop, its end only comes nearer, whatever is requested."""
    clock = Clock()
    bound = deadline(clock)
    end = float("inf")
    for request, later_s in requests:
        REQUESTS[request](bound)
        assert clock.now + bound.left_s() <= max(end, clock.now) + 1e-6
        end = clock.now + bound.left_s()
        clock.now += later_s


@transaction
def note(_: str, __: UnitOfWork) -> None:
    """Do nothing; a transaction has no timeout."""


@note.compensation
def unnote(_: Any, __: UnitOfWork) -> None:  # noqa: ANN401 - unused
    """Do nothing."""


@effect(timeout=timedelta(seconds=7))
async def call(_: str, __: Call) -> None:
    """Do nothing."""


@call.compensation(timeout=timedelta(seconds=90))
async def uncall(_: Attempted[str, None], __: Call) -> None:
    """Do nothing."""


@effect(read_only=True, timeout=timedelta(hours=1))
async def wait_long(_: str, __: Call) -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("steps", "drain"),
    [([], timedelta(0)), ([note], timedelta(0)), ([note, call], timedelta(seconds=90)), ([wait_long], LONGEST_DRAIN)],
)
def test_the_default_drain_is_the_longest_timeout(steps: list[Any], drain: timedelta) -> None:
    """Undos count as well as effects, up to ten minutes."""
    assert default_drain(each.definition for each in steps) == drain
