"""The decisions about compensations."""

from collections import Counter

import pytest
from runs.decided import LOST, SUCCEEDED
from strategies import World, plan_node, plan_of, undo_policy

from amends.aggregates.run.facts import CompensationStarted
from amends.aggregates.run.plan import Plan, Stage
from amends.aggregates.run.state import Direction, NodeStatus, RunStatus
from amends.sagas.engine.decide import RunCompensation, decide
from amends.sagas.engine.outcome import Refused


def compensating(plan: Plan, refuse: str, fails: set[str]) -> World:
    """Drive a run whose step `refuse` is refused, and where the compensations of some nodes always fail."""
    world = World.begin(plan)
    while not world.closed:
        world.conclude()
        if world.calls:
            call = world.calls[0]
            if call.direction is Direction.DO:
                world.answer(call, Refused("no") if call.node == refuse else SUCCEEDED)
            else:
                world.answer(call, LOST if call.node in fails else SUCCEEDED)
        elif work := world.work():
            world.call(work[0])
        elif due := world.due_times():
            world.now_ms = min(due)
    return world


@pytest.mark.parametrize("fails", [{"a"}, {"b"}, {"c"}, {"a", "c"}, {"a", "b", "c"}])
@pytest.mark.parametrize("stage_ordered", [False, True])
def test_an_exhausted_compensation_does_not_stop_the_others(fails: set[str], stage_ordered: bool) -> None:  # noqa: FBT001
    """Every other node is undone, and the run asks for attention for exactly the nodes whose undo is exhausted."""
    group = Stage(nodes=(plan_node("b"), plan_node("c")), ordered=stage_ordered)
    world = compensating(plan_of(plan_node("a"), group, plan_node("d")), "d", fails)
    assert world.record.state.status is RunStatus.NEEDS_ATTENTION
    assert set(world.record.current) == fails
    for name in "abc":
        expected = NodeStatus.UNDO_EXHAUSTED if name in fails else NodeStatus.UNDONE
        assert world.record.state.node(name).status is expected
    budget = Counter(fact.node for fact in world.facts if isinstance(fact, CompensationStarted))
    assert budget == {name: 2 if name in fails else 1 for name in "abc"}


def test_members_of_a_group_are_undone_together() -> None:
    """The compensations of an unordered group are all due at once, before any stage in front of it."""
    plan = plan_of(plan_node("a"), Stage(nodes=(plan_node("b"), plan_node("c"))), plan_node("d"))
    world = World.begin(plan)
    for name in "abc":
        world.append(world.writer.outcome(plan.nodes[name], Direction.DO, 1, SUCCEEDED))
    world.append(world.writer.outcome(plan.nodes["d"], Direction.DO, 1, Refused("no")))
    world.conclude()
    assert decide(world.record.state, 0) == (RunCompensation("c", 1), RunCompensation("b", 1))
    world.append(world.writer.outcome(plan.nodes["c"], Direction.UNDO, 1, SUCCEEDED))
    assert decide(world.record.state, 0) == (RunCompensation("b", 1),)
    world.append(world.writer.outcome(plan.nodes["b"], Direction.UNDO, 1, SUCCEEDED))
    assert decide(world.record.state, 0) == (RunCompensation("a", 1),)


def test_a_refused_compensation_waits_for_an_operator_at_once() -> None:
    """A participant that refuses to undo gets no further call: the node waits for an operator."""
    world = World.begin(plan_of(plan_node("a", undo=undo_policy(None)), plan_node("b")))
    nodes = world.record.state.plan.nodes
    world.append(world.writer.outcome(nodes["a"], Direction.DO, 1, SUCCEEDED))
    world.append(world.writer.outcome(nodes["b"], Direction.DO, 1, Refused("no")))
    world.conclude()
    world.answer(world.call(RunCompensation("a", 1)), Refused("too late"))
    world.conclude()
    assert world.record.current == ("a",)
    assert world.record.state.node("a").status is NodeStatus.UNDO_REJECTED
    assert [fact.kind for fact in world.facts[-2:]] == ["CompensationRejected", "AttentionRequested"]
    assert world.record.error == "b: no; then a: its undo was refused: too late"
