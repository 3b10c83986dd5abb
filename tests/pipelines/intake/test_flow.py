"""The flow of messages: batches fit the writer's lock, and faults of the whole pipeline are told from those of keys."""

from hypothesis import given
from hypothesis import strategies as st

from amends.aggregates.intake import HeldKind
from amends.pipelines.definition.bounds import Bounds
from amends.pipelines.intake.flow import BREAKER_KEYS, BREAKER_MS, BatchSize, Breaker, Failure, bound_reached


@given(st.floats(0.01, 60), st.floats(0, 200), st.integers(1, 2_000))
def test_batches_come_to_fit_the_lock(cost_ms: float, commit_ms: float, most: int) -> None:
    """The messages get the time that the commit leaves, and at least half of the lock's, however slow a commit is."""
    size = BatchSize(most, 50)
    for _ in range(30):
        assert 1 <= size.size <= most
        work_ms = size.size * cost_ms / 1.5
        size.learn(size.size, work_ms=work_ms, held_ms=work_ms * 1.5 + commit_ms)
    left_ms = max(50 - commit_ms, 25)
    assert size.size * cost_ms <= left_ms + 0.1 or size.size == 1
    assert (size.size + 2) * cost_ms > left_ms - 0.1 or size.size == most


def test_a_slow_batch_shrinks_the_next_one_at_once() -> None:
    """A handler that becomes slow holds up other writers once, not for many batches."""
    size = BatchSize(1_000, 50)
    for _ in range(10):
        size.learn(size.size, work_ms=size.size * 0.02, held_ms=size.size * 0.03)
    assert size.size == 1_000
    size.learn(1_000, work_ms=5_000, held_ms=7_500)
    assert size.size <= 10


def test_an_empty_batch_changes_nothing() -> None:
    """An idle pipeline keeps its size."""
    size = BatchSize(1_000, 50)
    size.learn(0, work_ms=0, held_ms=500)
    assert size.size == 100


def failures(*keys: str, fault: str = "KeyError", at_ms: int = 0) -> list[Failure]:
    """Create failures of several keys."""
    return [Failure(fault, key, at_ms) for key in keys]


def test_five_keys_with_one_fault_trip_the_breaker() -> None:
    """The fifth key shows a fault of the pipeline; four do not, and neither do many messages of one key."""
    assert Breaker().fault(failures(*"abcd")) is None
    assert Breaker().fault(failures(*"abcde")) == "KeyError"
    assert Breaker().fault(failures(*"aaaaaaaa")) is None
    assert Breaker().fault([*failures(*"abcd"), *failures("e", fault="ValueError")]) is None


def test_keys_of_several_batches_count_within_a_minute() -> None:
    """Failures of earlier batches count, unless they are older than a minute."""
    breaker = Breaker()
    breaker.record(failures(*"abcd", at_ms=1_000), 0, 1_000)
    assert breaker.fault(failures("e", at_ms=1_000 + BREAKER_MS)) == "KeyError"
    assert breaker.fault(failures("e", at_ms=1_001 + BREAKER_MS)) is None
    breaker.reset()
    assert breaker.fault(failures("e", at_ms=1_000)) is None


@given(st.integers(0, 100), st.integers(0, 100))
def test_unreadable_messages_trip_only_when_they_prevail(unreadable: int, readable: int) -> None:
    """A producer that sends nothing readable stops the pipeline; a broken message among good ones does not."""
    fault = Breaker().fault(failures(*[""] * unreadable), readable)
    assert (fault is not None) == (unreadable >= BREAKER_KEYS and unreadable >= readable)


def test_held_messages_are_bounded() -> None:
    """The reason names the bound that was reached; deferred messages have a bound of their own."""
    bounds = Bounds(max_held=10, max_held_per_key=5)
    assert bound_reached(bounds, {HeldKind.FAILED: 4, HeldKind.FOLLOWER: 5, HeldKind.DEFERRED: 99}) == ""
    assert "max_held is 10" in bound_reached(bounds, {HeldKind.FAILED: 4, HeldKind.FOLLOWER: 6})
    assert "max_held_per_key is 5" in bound_reached(bounds, {HeldKind.FOLLOWER: 5}, ("k", 5))
