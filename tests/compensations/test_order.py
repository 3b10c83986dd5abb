"""The order of compensations is the reverse of the journal's, and is announced before it is carried out."""

from dataclasses import replace

from hypothesis import given
from strategies import World, histories, plan_node, plan_of

from amends.aggregates.run.facts import (
    CompensationExhausted,
    CompensationRejected,
    CompensationSucceeded,
    NodeFact,
    SagaFailed,
    StepFailed,
    StepRejected,
)
from amends.aggregates.run.plan import Plan, Stage
from amends.aggregates.run.state import NodeState, NodeStatus, RunState, RunStatus
from amends.aggregates.run.transitions import begin, evolve
from amends.compensations.order import next_undos, undo_order

A, B, C, D = (plan_node(name) for name in "abcd")


def compensating(plan: Plan, cursor: int, names: str, status: NodeStatus = NodeStatus.SUCCEEDED) -> RunState:
    """Create a state in which some nodes have acted, in the order of their names as given."""
    nodes = {name: NodeState(status, 1, None, 0, position) for position, name in enumerate(names, 2)}
    return RunState(plan, RunStatus.COMPENSATING, 9, nodes, cursor, 0, 0)


def test_stages_are_undone_from_the_last_to_the_first() -> None:
    """Each stage waits for the one behind it."""
    state = compensating(plan_of(A, B, C), 2, "abc")
    assert undo_order(state) == (("c",), ("b",), ("a",))
    assert next_undos(state) == ("c",)


def test_a_group_is_undone_together() -> None:
    """The members of a parallel stage may all be undone at once, the latest first."""
    state = compensating(plan_of(A, Stage(nodes=(B, C))), 1, "acb")
    assert undo_order(state) == (("b", "c"), ("a",))
    assert next_undos(state) == ("b", "c")


def test_an_ordered_group_is_undone_one_by_one() -> None:
    """The members of an ordered stage are undone in the reverse order of their first facts."""
    state = compensating(plan_of(A, Stage(nodes=(B, C, D), ordered=True)), 1, "acdb")
    assert undo_order(state) == (("b",), ("d",), ("c",), ("a",))
    assert next_undos(state) == ("b",)


def test_only_what_may_have_acted_is_undone() -> None:
    """Nodes that have not begun, were refused, are undone or have no compensation have no place in the order."""
    bare = plan_node("c", undo=False)
    state = compensating(plan_of(A, B, bare, D, plan_node("e")), 4, "abce")
    nodes = {
        **state.nodes,
        "b": state.node("b")._replace(status=NodeStatus.REJECTED),
        "e": state.node("e")._replace(status=NodeStatus.UNDONE),
    }
    assert undo_order(replace(state, nodes=nodes)) == (("a",),)
    assert undo_order(state) == (("e",), ("b",), ("a",))


def test_a_run_without_anything_to_undo_has_no_order() -> None:
    """The order is empty when no node remains to be undone, and when the run reached no stage."""
    assert undo_order(compensating(plan_of(A, B), -1, "ab", NodeStatus.UNDONE)) == ()
    assert next_undos(compensating(plan_of(A, B), -1, "ab", NodeStatus.UNDONE)) == ()
    assert next_undos(compensating(plan_of(A, B), 2, "ab")) == ()


@given(world=histories())
def test_what_was_told_is_what_happens(world: World) -> None:
    """The order that is announced when a run turns is the order in which its compensations first end.

    A node whose late answer is that it took no effect is not undone.
    """
    state = begin(world.record.state.plan, world.facts[0].head)
    told: tuple[tuple[str, ...], ...] = ()
    ended: list[str] = []
    without_effect: set[str] = set()
    for fact in world.facts[1:]:
        state = evolve(state, fact.head)
        if isinstance(fact, SagaFailed):
            told = undo_order(state)
        if isinstance(fact, CompensationSucceeded | CompensationExhausted | CompensationRejected):
            assert isinstance(fact, NodeFact)
            # The answer of an exhausted call may come late, after others have followed.
            ended += [fact.node] if fact.node not in ended else []
        if isinstance(fact, StepRejected | StepFailed) and told:
            without_effect.add(fact.node)
    left = without_effect - set(ended)
    assert ended == [name for group in told for name in sorted(set(group) - left, key=ended.index)]
