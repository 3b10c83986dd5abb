"""Faults of the core that the search found, each with its story."""

from proving.plan_parts import effect_node, pivot_node, plan_of

from amends.aggregates.run.facts import Fact
from amends.sagas.prove.moves import MoveKind
from amends.sagas.prove.plans.plan_only import begin_plan

B_TAKEN_OVER = (MoveKind.DRIVE, MoveKind.SUCCEED, MoveKind.DRIVE, MoveKind.TAKE_OVER_LIVE)
B_UNDONE = (MoveKind.DRIVE, MoveKind.ARRIVE, MoveKind.SUCCEED)
A_UNDO_TAKEN_OVER = (MoveKind.DRIVE, MoveKind.TAKE_OVER_LIVE, MoveKind.ARRIVE)


def test_a_late_undo_is_recorded_after_a_late_effect_moved_the_run() -> None:
    """The undo of the first step is answered late, after a late effect has moved the run back to the second stage."""
    plan = plan_of(effect_node("a", attempts=1), effect_node("b", attempts=1), pivot_node("c"))
    player, world = begin_plan(plan, faults=2)
    facts: tuple[Fact, ...] = ()
    for kind in (*B_TAKEN_OVER, *B_UNDONE, *A_UNDO_TAKEN_OVER, MoveKind.RECORD_LATE, MoveKind.RECORD_LATE):
        played = next(each for each in player.expand(world) if each.move.kind is kind)
        world, facts = played.world, tuple(each.fact for each in played.appended)
    assert [(fact.kind, fact.head.node) for fact in facts] == [("CompensationSucceeded", "a")]
