"""The decisions about calls whose outcome is unknown."""

import pytest
from runs.decided import EFFECT, LOST, SUCCEEDED
from strategies import LEASE_MS, World, plan_node, plan_of, retry_policy

from amends.aggregates.errors import JournalError
from amends.aggregates.run.facts import StepAttemptFailed, StepSucceeded
from amends.aggregates.run.state import Direction
from amends.sagas.engine.decide import CloseCompleted, DoubtStep, RunCompensation, RunProbe, RunStep, decide
from amends.sagas.engine.outcome import Failed, NotFound, Succeeded


def spent(*, probe: bool = False) -> World:
    """Create a run whose only effect had one attempt, without an answer."""
    plan = plan_of(plan_node("a", retry=retry_policy(1), probe=probe))
    world = World.begin(plan)
    world.call(RunStep("a", 1))
    world.answer(world.calls[0], LOST)
    return world


def test_a_probe_that_finds_the_effect_makes_it_succeed() -> None:
    """The value that the probe found is the result, marked as probed, and the run continues."""
    world = spent(probe=True)
    world.answer(world.call(RunProbe("a", 1)), Succeeded({"id": 7}))
    fact = world.facts[-1]
    assert isinstance(fact, StepSucceeded)
    assert (fact.result, fact.probed) == ({"id": 7}, True)
    assert decide(world.record.state, 0) == (CloseCompleted(),)


def test_a_probe_that_finds_nothing_makes_it_fail_without_undo() -> None:
    """An effect that is known not to have happened is not compensated."""
    world = spent(probe=True)
    world.answer(world.call(RunProbe("a", 1)), NotFound())
    world.conclude()
    assert [fact.kind for fact in world.facts[-3:]] == ["StepFailed", "SagaFailed", "SagaCompensated"]
    assert world.record.error == "a: TimeoutError: no answer; the probe found nothing under run-1/a/do/0"


def test_an_effect_in_doubt_is_compensated() -> None:
    """Without a probe the effect may have happened, so its compensation runs."""
    world = spent()
    world.conclude()
    assert decide(world.record.state, 0) == (RunCompensation("a", 1),)


def test_an_answer_that_comes_late_still_counts() -> None:
    """A claim whose time ran out counts as failed; an answer that comes after all is accepted."""
    world = World.begin(plan_of(EFFECT))
    call = world.call(RunStep("a", 1))
    world.now_ms = LEASE_MS
    world.conclude()
    failed = world.facts[-1]
    assert isinstance(failed, StepAttemptFailed)
    assert (failed.error_type, failed.retry_at_ms) == ("WorkerLost", LEASE_MS + 10)
    world.answer(call, SUCCEEDED)
    assert decide(world.record.state, world.now_ms) == (CloseCompleted(),)


def test_a_result_that_cannot_be_stored_is_not_attempted_again() -> None:
    """A final failure spends all attempts at once."""
    world = World.begin(plan_of(plan_node("a", retry=retry_policy(None))))
    world.answer(world.call(RunStep("a", 1)), Failed("InputError", "too large", final=True))
    assert decide(world.record.state, 0) == (DoubtStep("a"),)


@pytest.mark.parametrize(
    ("direction", "outcome"), [(Direction.DO, NotFound()), (Direction.UNDO, NotFound())], ids=["do", "undo"]
)
def test_an_outcome_of_the_wrong_direction_is_refused(direction: Direction, outcome: NotFound) -> None:
    """Only a probe can find nothing; anything else is the driver's error, and the message names it."""
    world = World.begin(plan_of(EFFECT))
    with pytest.raises(JournalError, match=r"node 'a': NotFound\(\) is no outcome of (do|undo)"):
        world.writer.outcome(EFFECT, direction, 1, outcome)
