"""Late answers: news opens a run again, and a known answer changes nothing."""

from typing import Any

import pytest
from runs.operated import AFTER, PIVOT, do, kinds, open_nodes, operate, status, unanswered
from strategies import World, plan_node, plan_of, undo_policy

from amends.aggregates.run.facts import NodeFact
from amends.aggregates.run.plan import Role
from amends.aggregates.run.state import NodeStatus, RunStatus
from amends.sagas.engine.decide import RunCompensation, RunProbe, RunStep
from amends.sagas.engine.interventions import InterventionKind
from amends.sagas.engine.outcome import Failed, NotFound, Refused, Succeeded

ONCE = plan_node("x").retry.model_copy(update={"max_attempts": 1})


def attempted(*, probe: bool = False, role: Role = Role.COMPENSATABLE) -> tuple[World, Any]:
    """Begin a run whose first attempt has no answer, and may still get one; its attempts are spent."""
    node = plan_node("a", retry=ONCE, probe=probe, role=role, undo=role is Role.COMPENSATABLE)
    world = World.begin(plan_of(node, AFTER if role is Role.PIVOT else PIVOT))
    call = world.call(RunStep("a", 1))
    world.now_ms = 10_000
    world.conclude()
    return world, call


def test_a_success_that_is_known_is_not_news() -> None:
    """The answer to attempt 1 adds nothing after attempt 2 succeeded under the same key: nothing is undone twice."""
    world, first = unanswered()
    world.answer(world.call(RunStep("a", 2)), Succeeded("receipt"))
    do(world, "pivot", Refused("sold out"))
    do(world, "a", Succeeded(None))
    before = kinds(world)
    world.answer(first, Succeeded("receipt"))
    assert (kinds(world), status(world)) == (before, RunStatus.COMPENSATED)


@pytest.mark.parametrize("found_by", ["a probe", "an operator", "an earlier answer"])
def test_a_success_that_was_found_out_otherwise_is_not_news(found_by: str) -> None:
    """A step's own answer adds nothing after another source has confirmed the effect, also when the step is undone."""
    world, call = attempted(probe=found_by == "a probe", role=Role.COMPENSATABLE)
    if found_by == "a probe":
        do(world, "a", Succeeded("receipt"))
        operate(world, InterventionKind.CANCEL)
    elif found_by == "an operator":
        operate(world, InterventionKind.RESOLVE, "a", output="receipt")
    else:
        world.calls.append(call)
        world.answer(call, Succeeded("receipt"))
    while not world.closed:
        do(world, "a", Succeeded(None))
    before = kinds(world)
    world.answer(call, Succeeded("receipt"))
    assert (kinds(world), status(world)) == (before, RunStatus.COMPENSATED)


def test_a_refusal_that_comes_while_the_step_waits_ends_it() -> None:
    """The participant has refused under the key, so no call follows when the wait is over."""
    world, first = unanswered()
    world.answer(first, Refused("sold out"))
    world.conclude()
    assert kinds(world)[-3:] == ["StepRejected", "SagaFailed", "SagaCompensated"]


def test_a_late_refusal_of_the_pivot_settles_the_doubt() -> None:
    """A run that waits for an operator because its pivot is in doubt goes back when the participant refuses."""
    world, call = attempted(role=Role.PIVOT)
    assert (status(world), open_nodes(world)) == (RunStatus.NEEDS_ATTENTION, ("a",))
    world.answer(call, Refused("no"))
    world.conclude()
    assert kinds(world)[-3:] == ["StepRejected", "SagaFailed", "SagaCompensated"]


@pytest.mark.parametrize("late", [Refused("no"), NotFound()])
def test_what_is_told_after_the_undo_changes_no_more_than_the_doubt(late: Refused | NotFound) -> None:
    """A late "it did not happen" is kept although the step was undone: it ends the run's doubt."""
    world, call = attempted(probe=isinstance(late, NotFound))
    if isinstance(late, NotFound):
        call = world.call(RunProbe("a", 1))
        operate(world, InterventionKind.CANCEL)
        do(world, "a", Failed("TimeoutError", "nobody to ask", final=True))
        world.calls.append(call)
    while not world.closed:
        do(world, "a", Succeeded(None))
    assert world.record.in_doubt == ("a",)
    world.answer(call, late)
    assert kinds(world)[-1] == ("StepFailed" if isinstance(late, NotFound) else "StepRejected")
    assert status(world) is RunStatus.COMPENSATED
    assert not world.record.in_doubt


@pytest.mark.parametrize("late", [Refused("no"), Succeeded(None)])
def test_a_late_answer_of_an_undo_is_kept(late: Refused | Succeeded) -> None:
    """A late answer of an exhausted undo counts: a refusal needs another key, a success settles the step."""
    world = World.begin(plan_of(plan_node("a", undo=undo_policy(1)), PIVOT))
    do(world, "a", Succeeded(None))
    do(world, "pivot", Refused("no"))
    call = world.call(RunCompensation("a", 1))
    world.now_ms = 10_000
    world.conclude()
    assert world.record.state.node("a").status is NodeStatus.UNDO_EXHAUSTED
    world.answer(call, late)
    world.conclude()
    if isinstance(late, Succeeded):
        assert status(world) is RunStatus.COMPENSATED
        return
    assert (status(world), open_nodes(world)) == (RunStatus.NEEDS_ATTENTION, ("a",))
    retried = operate(world, InterventionKind.RETRY)
    assert isinstance(retried, NodeFact)
    assert retried.generation == 1


def test_an_answer_of_a_former_undo_is_kept_beside_the_present_one() -> None:
    """A late answer of the first undo during the second one is recorded, and changes nothing else."""
    world, call = attempted()
    first = world.call(RunCompensation("a", 1))
    world.answer(call, Succeeded("late"))
    second = world.call(RunCompensation("a", 1))
    world.answer(first, Succeeded(None))
    assert world.record.state.node("a").status is NodeStatus.UNDO_STARTED
    assert world.record.state.node("a").answers.undone == (0,)
    world.answer(second, Succeeded(None))
    world.conclude()
    assert status(world) is RunStatus.COMPENSATED


def test_the_failure_of_a_former_attempt_leaves_the_present_one_in_flight() -> None:
    """A timeout that is reported after the next attempt has begun ends neither that attempt nor its claim."""
    world, first = unanswered()
    second = world.call(RunStep("a", 2))
    before = kinds(world)
    world.answer(first, Failed("TimeoutError", "no answer"))
    assert kinds(world) == before
    world.answer(second, Succeeded("second"))
    assert world.record.results["a"] == "second"


def test_a_probe_of_former_attempts_says_nothing_about_the_present_one() -> None:
    """An attempt that began after the probe may still act, so a probe that found nothing does not fail the step."""
    world, _ = attempted(probe=True, role=Role.PIVOT)
    probe = world.call(RunProbe("a", 1))
    world.answer(probe, Failed("TimeoutError", "no answer", final=True))
    world.conclude()
    operate(world, InterventionKind.RETRY, "a")
    again = world.call(RunStep("a", 1))
    before = kinds(world)
    world.calls.append(probe)
    world.answer(probe, NotFound())
    assert kinds(world) == before
    world.answer(again, Succeeded("again"))
    assert world.record.results["a"] == "again"


def test_a_late_effect_of_a_skipped_step_is_told_and_changes_nothing() -> None:
    """The operator's decision and output stay, and the history shows the effect that was found out."""
    world = World.begin(plan_of(PIVOT, plan_node("after", role=Role.RETRIABLE, undo=False, retry=ONCE)))
    do(world, "pivot", Succeeded(None))
    call = world.call(RunStep("after", 1))
    world.now_ms = 10_000
    world.conclude()
    operate(world, InterventionKind.SKIP, "after", output="by hand")
    assert status(world) is RunStatus.COMPLETED
    world.answer(call, Succeeded("by the service"))
    assert kinds(world)[-1] == "LateEffectObserved"
    assert status(world) is RunStatus.COMPLETED
    assert world.record.results["after"] == "by hand"
    assert world.record.error == "after: took effect although it was skipped or redone"
