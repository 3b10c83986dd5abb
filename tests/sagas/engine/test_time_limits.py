"""The time for which a run may go on calling: a participant must remember its keys for longer."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amends import Attempted, Call, Effect, Retry, Saga, effect, max_run_duration, parallel, retriable
from amends.aggregates.run.plan import RetryPolicy
from amends.sagas.definition.steps import Part
from amends.sagas.engine.protocol import LEASE_GRACE_MS
from amends.sagas.engine.time_limits import _operation_ms

SECOND = timedelta(seconds=1)
GRACE = timedelta(milliseconds=LEASE_GRACE_MS)  # a claim outlives its attempt's timeout by this time


def make(name: str, *, undo: Retry | None = None, probe: bool = False, retry: Retry | None = None) -> Effect[int, int]:
    """Create an effect with three attempts of at most 10 s, 1 s apart."""

    async def run(number: int, call: Call) -> int:  # noqa: ARG001
        return number

    async def take_back(tried: Attempted[int, int], call: Call) -> None: ...

    async def find(number: int, call: Call) -> int | None:  # noqa: ARG001
        return None

    policy = retry or Retry(max_attempts=3, first=SECOND, factor=1)
    step: Any = effect(name=name, timeout=10 * SECOND, retry=policy)(run)
    if undo is not None:
        step.compensation(retry=undo, timeout=20 * SECOND)(take_back)
    if probe:
        step.probe(find)
    made: Effect[int, int] = step
    return made


ONE = 3 * (10 * SECOND + GRACE) + 2 * SECOND
UNDO = 2 * (20 * SECOND + GRACE) + SECOND
TWICE = Retry(max_attempts=2, first=SECOND)


@pytest.mark.parametrize(
    ("parts", "span"),
    [
        ((make("a"),), ONE),
        ((make("a", probe=True),), 2 * ONE),
        ((make("a"), make("b", undo=TWICE)), 2 * ONE + UNDO),
        ((parallel(make("a", undo=TWICE), make("b", undo=TWICE)),), ONE + UNDO),
        ((parallel(make("a", undo=TWICE), make("b", undo=TWICE), ordered=True),), ONE + 2 * UNDO),
        ((make("a", undo=Retry(max_attempts=None)),), None),
        ((make("a"), retriable(make("b"), retry=Retry(max_attempts=None))), None),
    ],
    ids=[
        "alone",
        "probed",
        "one after the other",
        "side by side",
        "undone in order",
        "undo without limit",
        "retriable",
    ],
)
def test_the_span_is_the_sum_of_all_that_may_be_attempted(parts: tuple[Part[int], ...], span: timedelta | None) -> None:
    """Stages add up, members of a group overlap, undos count with their own policy, and no limit means no bound."""
    assert max_run_duration(Saga("s", int, *parts)) == span


@given(
    attempts=st.integers(1, 60),
    first_ms=st.integers(0, 5_000),
    factor=st.floats(1, 10),
    longest_ms=st.integers(0, 60_000),
)
def test_the_delays_are_those_of_the_policy(attempts: int, first_ms: int, factor: float, longest_ms: int) -> None:
    """The bound of one operation is the sum of its delays, one by one."""
    policy = RetryPolicy(max_attempts=attempts, first_ms=first_ms, factor=factor, longest_ms=longest_ms)
    assert _operation_ms(policy, None) == sum(policy.delay_ms(n) or 0 for n in range(1, attempts))


def test_a_billion_attempts_are_counted_at_once() -> None:
    """Once the delays have stopped growing, the code multiplies them."""
    policy = RetryPolicy(max_attempts=10**9, first_ms=1, factor=2.0, longest_ms=1000)
    assert _operation_ms(policy, None) == 1023 + (10**9 - 11) * 1000
