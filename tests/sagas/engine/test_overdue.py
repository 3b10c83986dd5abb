"""Overdue nodes: open for longer than their threshold, or without any progress."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from strategies import LEASE_MS, World, eventful_histories, plan_node, plan_of, retry_policy

from amends import Call, Saga, UnitOfWork, effect, transaction
from amends.aggregates.errors import DefinitionError
from amends.aggregates.run.facts import RetryRequested
from amends.aggregates.run.plan import Plan, RetryPolicy, Role, Stage
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import CLOSED, RunStatus
from amends.sagas.engine.outcome import Failed, Refused, Succeeded
from amends.sagas.engine.overdue import IDLE_MS, UNLIMITED_MS, Overdue, Why, overdue_nodes, threshold_ms
from amends.sagas.engine.protocol import LEASE_GRACE_MS

LOST = Failed("TimeoutError", "no answer")
FOREVER = retry_policy(None)


def overdue(world: World, now_ms: int) -> tuple[Overdue, ...]:
    """Return the overdue nodes of a run at a time."""
    return overdue_nodes(world.record, [fact.head for fact in world.facts], now_ms)


def at(plan: Plan, now_ms: int = 0) -> World:
    """Accept a run, and let time pass."""
    world = World.begin(plan)
    world.now_ms = now_ms
    return world


def answer(world: World, outcome: Any) -> None:  # noqa: ANN401 - any outcome
    """Answer the first call that is due."""
    if not world.work():
        world.now_ms = min(world.due_times())
        world.conclude()
    world.answer(world.call(world.work()[0]), outcome)
    world.conclude()


def test_a_run_that_nobody_began_is_overdue_after_five_minutes() -> None:
    """An accepted run without any further fact is idle: nothing drives it."""
    world = at(plan_of(plan_node("a", retry=FOREVER)))
    assert overdue(world, IDLE_MS - 1) == ()
    assert overdue(world, IDLE_MS) == (Overdue("a", IDLE_MS, Why.IDLE),)


def test_a_claim_is_idle_only_after_its_end() -> None:
    """A run is not idle while a call may still answer; five minutes after the claim's end it is."""
    world = at(plan_of(plan_node("a", retry=FOREVER)), 50)
    world.call(world.work()[0])
    end = 50 + LEASE_MS
    assert overdue(world, end + IDLE_MS - 1) == ()
    assert overdue(world, end + IDLE_MS) == (Overdue("a", end + IDLE_MS, Why.IDLE),)


def test_attempts_without_limit_are_slow_after_an_hour() -> None:
    """A step with unlimited attempts is due again and again, and yet overdue an hour after its first attempt."""
    slowly = RetryPolicy(max_attempts=None, first_ms=600_000, factor=1, longest_ms=600_000)
    world = at(plan_of(plan_node("a", retry=slowly)), 50)
    while world.now_ms < 50 + UNLIMITED_MS:
        assert overdue(world, world.now_ms) == ()
        answer(world, LOST)
    assert overdue(world, world.now_ms) == (Overdue("a", 50 + UNLIMITED_MS, Why.SLOW),)


def test_a_threshold_counts_for_the_step_and_for_its_compensation_apart() -> None:
    """A threshold is measured from the first attempt of the step, and again from the first one of its compensation."""
    world = at(plan_of(plan_node("a", overdue_ms=100), plan_node("b")))
    answer(world, LOST)
    assert overdue(world, 99) == ()
    assert overdue(world, 100) == (Overdue("a", 100, Why.SLOW),)
    answer(world, Succeeded(None))
    world.now_ms = 1_000
    answer(world, Refused("no"))
    answer(world, LOST)
    assert world.record.state.status is RunStatus.COMPENSATING
    assert overdue(world, 1_099) == ()
    assert overdue(world, 1_100) == (Overdue("a", 1_100, Why.SLOW),)


def test_members_of_a_stage_are_overdue_apart() -> None:
    """A member that waits for its turn counts from the run's arrival at the stage, whatever the others do."""
    stage = Stage(nodes=(plan_node("b", overdue_ms=100), plan_node("c", overdue_ms=500)))
    world = at(plan_of(plan_node("a"), stage), 20)
    answer(world, Succeeded(None))
    world.now_ms = 60
    answer(world, LOST)
    assert overdue(world, 160) == (Overdue("b", 160, Why.SLOW),)
    assert overdue(world, 520) == (Overdue("b", 160, Why.SLOW), Overdue("c", 520, Why.IDLE))


def test_a_new_budget_begins_anew() -> None:
    """After an operator's retry with a new budget the threshold is measured from there."""
    world = at(plan_of(plan_node("a", retry=retry_policy(1), role=Role.RETRIABLE, undo=False, overdue_ms=100)))
    answer(world, LOST)
    assert overdue(world, 0) == (Overdue("a", 0, Why.ATTENTION),)
    world.now_ms = 1_000
    world.append(world.writer.write(RetryRequested, node="a", reason="r", evidence=None, attempt=0, generation=0))
    assert overdue(world, 1_099) == ()
    assert overdue(world, 1_100) == (Overdue("a", 1_100, Why.SLOW),)


def test_default_thresholds_are_what_the_policy_allows() -> None:
    """The default is the time of every attempt, every delay and the probe; an hour where attempts have no limit."""
    one = LEASE_MS + LEASE_GRACE_MS
    assert threshold_ms(plan_node("a"), undoing=False) == 3 * one + 10 + 20 + LEASE_GRACE_MS
    assert threshold_ms(plan_node("a", probe=True), undoing=False) == 2 * (3 * one + 10 + 20) + LEASE_GRACE_MS
    assert threshold_ms(plan_node("a"), undoing=True) == 2 * one + 10 + LEASE_GRACE_MS
    assert threshold_ms(plan_node("a", retry=FOREVER), undoing=False) == UNLIMITED_MS
    assert threshold_ms(plan_node("a", overdue_ms=7), undoing=True) == 7


@given(world=eventful_histories())
def test_open_runs_become_overdue_and_ended_ones_do_not(world: World) -> None:
    """At every position an open run becomes overdue after some time, not before it began; an ended run never does."""
    heads = [fact.head for fact in world.facts]
    plan = world.record.state.plan
    record = RunRecord.begin(plan, world.record.started)
    for position, fact in enumerate(world.facts, 1):
        record = record if position == 1 else record.apply(fact)
        found = overdue_nodes(record, heads[:position], 10**12)
        ended = record.state.status in CLOSED - {RunStatus.NEEDS_ATTENTION}
        assert bool(found) is not ended
        assert {each.node for each in found} <= {"", *plan.nodes}
        if record.state.status is RunStatus.NEEDS_ATTENTION:
            assert tuple(each.node for each in found) == record.current
        else:
            assert overdue_nodes(record, heads[:position], record.state.started_ms) == ()


def test_steps_name_their_thresholds() -> None:
    """A step's threshold is part of its plan; a plan without one is as it was before thresholds existed."""

    @effect(overdue=timedelta(minutes=2))
    def send(number: int, call: Call) -> None: ...

    @transaction(overdue=timedelta(seconds=3), read_only=True)
    def look(number: int, uow: UnitOfWork) -> None: ...

    @transaction(read_only=True)
    def see(number: int, uow: UnitOfWork) -> None: ...

    plan = Saga("s", int, look, see, send).plan
    assert [node.overdue_ms for node in plan.nodes.values()] == [3_000, None, 120_000]
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert "overdue_ms" not in plan.nodes["see"].model_dump()


@pytest.mark.parametrize("value", [timedelta(0), timedelta(microseconds=999), 5, "1h"])
def test_a_threshold_is_a_duration(value: Any) -> None:  # noqa: ANN401 - what nobody should give
    """Anything but a duration of at least a millisecond is refused with its value."""

    def send(number: int, call: Call) -> None: ...

    def look(number: int, uow: UnitOfWork) -> None: ...

    with pytest.raises(DefinitionError, match=r"@effect 'send': overdue=.*; give a timedelta of 1 ms or more"):
        effect(overdue=value)(send)
    with pytest.raises(DefinitionError, match=r"@transaction 'look': overdue=.*; give a timedelta of 1 ms or more"):
        transaction(overdue=value)(look)
