"""Seats: a participant that hangs keeps its seats, and the other functions still find one."""

import threading
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amends.aggregates.run.state import Direction
from amends.sagas.engine.seats import Function, Seat, describe_use, may_take
from amends.sagas.runtime.seats import Request, Seats

FUNCTIONS = tuple(Function(step, direction) for step in ("charge", "notify") for direction in Direction)


def fill(size: int, functions: tuple[Function, ...], order: list[int]) -> Counter[Function]:
    """Occupy seats for functions that never release one: first each one's limit, in some order, then all."""
    held: Counter[Function] = Counter()
    wanted = [functions[number % len(functions)] for number in order] + [
        each for each in functions for _ in range(size)
    ]
    for function in wanted:
        if may_take(size, held, frozenset(FUNCTIONS), function):
            held[function] += 1
    return held


@given(
    st.integers(4 * len(FUNCTIONS), 100), st.sets(st.sampled_from(FUNCTIONS)), st.lists(st.integers(0, 50), max_size=80)
)
def test_whatever_hangs_every_other_function_finds_a_seat(size: int, hung: set[Function], order: list[int]) -> None:
    """Functions that keep every seat they can get, in any order, leave one for each function that holds none."""
    held = fill(size, tuple(sorted(hung)), order) if hung else Counter[Function]()
    for function in set(FUNCTIONS) - hung:
        assert may_take(size, held, frozenset(FUNCTIONS), function)
        held[function] += 1
    assert sum(held.values()) <= size


@given(st.integers(2, 100), st.lists(st.integers(0, 50), max_size=80))
def test_one_step_never_takes_all_seats(size: int, order: list[int]) -> None:
    """While another step exists, one step's functions leave a seat, and none of them takes the last quarter."""
    of_charge = tuple(each for each in FUNCTIONS if each.step == "charge")
    held = fill(size, of_charge, order)
    assert sum(held.values()) < size
    assert max(held.values()) <= max(1, size - max(1, size // 4))


@given(st.integers(1, 100))
def test_a_step_that_is_alone_takes_all_seats(size: int) -> None:
    """Nothing is kept for steps that do not exist."""
    alone = FUNCTIONS[0]
    assert may_take(size, {alone: size - 1}, frozenset({alone}), alone)
    assert not may_take(size, {alone: size}, frozenset({alone}), alone)


def test_those_who_wait_take_turns() -> None:
    """A seat that becomes free goes to the longest waiter, and no other function overtakes the waiting ones."""
    charge = FUNCTIONS[0]
    seats = Seats(1, {charge})
    first = seats.try_take(charge, "r-0")
    assert first is not None
    granted: list[Seat] = []
    for number in (1, 2):
        seats.request(Request(charge, f"r-{number}", granted.append))
    assert not granted
    assert seats.try_take(charge, "r-3") is None
    seats.release(first)
    seats.release(first)
    assert [seat.run_id for seat in granted] == ["r-1"]
    assert "charge holds 1" in describe_use(seats.in_use())
    seats.release(granted[0])
    assert [seat.run_id for seat in granted] == ["r-1", "r-2"]


def test_seats_that_threads_take_and_release_are_never_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that take and release seats at the same time hold no more than there are, and leave none taken."""
    charge = FUNCTIONS[0]
    seats = Seats(3, {charge})
    most: list[int] = []

    def slowly(*arguments: Any) -> bool:  # noqa: ANN401 - those of `may_take`
        """Decide, and let other threads go on before the seat is taken."""
        decision = may_take(*arguments)
        time.sleep(0.0001)
        return decision

    monkeypatch.setattr("amends.sagas.runtime.seats.may_take", slowly)

    def work() -> None:
        for _ in range(200):
            seat = seats.try_take(charge, "r")
            if seat is not None:
                time.sleep(0.0001)
                most.append(len(seats.in_use().held))
                seats.release(seat)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 3
    assert not seats.in_use().held
