"""Mutants of the order of steps and undos, and of the end of a run."""

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import pytest

from amends.aggregates.run import state as states
from amends.aggregates.run import transitions
from amends.aggregates.run.facts import CancelRequested
from amends.aggregates.run.plan import Plan, Role
from amends.aggregates.run.state import NodeState, NodeStatus, RunState, open_undo, undo_open_nodes, unsettled_effects
from amends.compensations import order
from amends.sagas.engine import decide as decisions
from amends.sagas.engine import interventions
from amends.sagas.engine.decide import CloseCompleted, Decision, RequestAttention
from proving.mutant_parts import Mutant, replace_everywhere
from proving.plan_parts import effect_node, group, ordered, pivot_node, plan_of, retriable_node, transaction_node

__all__ = ["ORDER_MUTANTS"]

A, B, C = effect_node("a"), effect_node("b"), pivot_node("c")
ONE_ATTEMPT = effect_node("a", attempts=1)
TWO_AND_PIVOT = plan_of(A, B, C)


def _none(*_: object) -> None:
    return None


def _empty(*_: object) -> tuple[str, ...]:
    return ()


def without_evidence(patch: pytest.MonkeyPatch, kind: str) -> None:
    """Remove the evidence that the fold asks for before it accepts a fact."""
    patch.setitem(transitions._EVIDENCE, kind, _none)


def doubt_is_settled(patch: pytest.MonkeyPatch) -> None:
    """Count a step in doubt as one that did not act."""
    patch.setattr(states, "_ACTED", states._ACTED - {NodeStatus.IN_DOUBT})


def skip_is_settled(patch: pytest.MonkeyPatch) -> None:
    """Count a skipped effect as one that did not act."""
    patch.setattr(states, "_acted", lambda _, node: node.status in states._ACTED)


def first_stage_first(patch: pytest.MonkeyPatch) -> None:
    """Undo the first stage first."""

    def cursor_of(plan: Plan, nodes: Mapping[str, NodeState], cursor: int) -> int:
        for index, stage in enumerate(plan.stages[: cursor + 1]):
            if any(each.name in nodes and open_undo(each, nodes[each.name]) for each in stage.nodes):
                return index
        return -1

    patch.setattr(transitions, "_undo_cursor", cursor_of)


def first_member_first(patch: pytest.MonkeyPatch) -> None:
    """Undo an ordered group in the order in which its members started."""
    latest_first = order._latest_first
    patch.setattr(order, "_latest_first", lambda *arguments: latest_first(*arguments)[::-1])


def one_member_is_enough(patch: pytest.MonkeyPatch) -> None:
    """Start the next stage when one member of a group has succeeded."""
    moved = transitions._moved_cursor

    def cursor_of(state: RunState, nodes: Mapping[str, NodeState], name: str, status: NodeStatus) -> int:
        if not state.backward and status is NodeStatus.SUCCEEDED:
            return state.plan.stage_of[name] + 1
        return moved(state, nodes, name, status)

    patch.setattr(transitions, "_moved_cursor", cursor_of)


def closes_without_account(patch: pytest.MonkeyPatch) -> None:
    """Close a run as compensated, whatever is open."""
    replace_everywhere(patch, undo_open_nodes, _empty)


def completes_early(patch: pytest.MonkeyPatch) -> None:
    """Close a run as completed when the last stage begins."""
    forward = decisions._forward

    def decide(state: RunState, now_ms: int) -> tuple[Decision, ...]:
        if state.cursor == len(state.plan.stages) - 1 and state.cursor > 0:
            return (CloseCompleted(),)
        return forward(state, now_ms)

    patch.setattr(decisions, "_forward", decide)
    without_evidence(patch, "SagaCompleted")


def doubtful_pivot_turns(patch: pytest.MonkeyPatch) -> None:
    """Compensate a run whose pivot is in doubt."""
    replace_everywhere(patch, states.doubtful_pivots, _empty)


def cancels_behind_pivot(patch: pytest.MonkeyPatch) -> None:
    """Accept a cancel behind the pivot."""
    patch.setattr(interventions, "_cancel", lambda case: case.writer.write(CancelRequested, reason="a mutant"))
    patch.setattr(transitions, "_not_cancellable", _none)
    without_evidence(patch, "CancelRequested")


def cancel_outlives_pivot(patch: pytest.MonkeyPatch) -> None:
    """Keep to a cancel although the pivot has succeeded."""
    followed = transitions._followed

    def status_of(state: RunState, kind: str, cursor: int) -> states.RunStatus:
        return followed(state, kind, cursor) if state.closed else state.status

    patch.setattr(transitions, "_followed", status_of)


def cancelled_run_starts(patch: pytest.MonkeyPatch) -> None:
    """Start the pending steps of a stage although somebody has cancelled the run."""
    cancelling, forward = decisions._cancelling, decisions._forward

    def decide(state: RunState, now_ms: int) -> tuple[Decision, ...]:
        pending = state.cursor < len(state.plan.stages) and any(
            state.node(each.name).status is NodeStatus.PENDING for each in state.plan.stages[state.cursor].nodes
        )
        return (forward if pending else cancelling)(state, now_ms)

    patch.setattr(decisions, "_cancelling", decide)


def turns_in_flight(patch: pytest.MonkeyPatch) -> None:
    """Turn back while another member of the stage is in flight."""
    patch.setattr(decisions, "_settle_stage", _empty)
    replace_everywhere(patch, unsettled_effects, _empty)


def exhausted_undo_ends(patch: pytest.MonkeyPatch) -> None:
    """Ask an operator as soon as one undo is given up, and leave the others."""
    backward = decisions._backward

    def decide(state: RunState, now_ms: int) -> tuple[Decision, ...]:
        if any(at.status is NodeStatus.UNDO_EXHAUSTED for at in state.nodes.values()):
            return (RequestAttention(undo_open_nodes(state)),)
        return backward(state, now_ms)

    patch.setattr(decisions, "_backward", decide)
    without_evidence(patch, "AttentionRequested")


def stays_closed(patch: pytest.MonkeyPatch) -> None:
    """Leave a compensated run closed although an effect has acted after its undo."""
    followed = transitions._followed

    def status_of(state: RunState, kind: str, cursor: int) -> states.RunStatus:
        return state.status if state.closed else followed(state, kind, cursor)

    patch.setattr(transitions, "_followed", status_of)


def fold_changes_its_input(patch: pytest.MonkeyPatch) -> None:
    """Change the state that is folded, which others still read."""
    evolve_node: Callable[..., RunState] = transitions._evolve_node

    def evolve(state: RunState, head: Any) -> RunState:  # noqa: ANN401 - the head of a fact
        after = evolve_node(state, head)
        state.nodes.update(after.nodes)  # type: ignore[attr-defined]  # a dictionary, as the fold makes it
        return after

    patch.setattr(transitions, "_evolve_node", evolve)


def fold_counts_its_calls(patch: pytest.MonkeyPatch) -> None:
    """Fold a fact with the help of a counter of the process, which no journal holds."""
    original, calls = transitions._changed, count(1)

    def changed(node: NodeState, status: NodeStatus, head: Any) -> NodeState:  # noqa: ANN401 - as above
        return original(node, status, head)._replace(first_position=node.first_position or next(calls))

    patch.setattr(transitions, "_changed", changed)


ORDER_MUTANTS = (
    Mutant(
        fault="An effect in doubt is not undone",
        law="compensated means undone",
        plan=plan_of(ONE_ATTEMPT, B),
        patch=doubt_is_settled,
    ),
    Mutant(
        fault="A skipped effect that may have acted is not undone",
        law="compensated means undone",
        plan=plan_of(effect_node("a", undo_attempts=1), transaction_node("t", undo=False, role=Role.PIVOT)),
        patch=skip_is_settled,
        faults=2,
        decisions=1,
    ),
    Mutant(fault="The first stage is undone first", law="undo in reverse", plan=TWO_AND_PIVOT, patch=first_stage_first),
    Mutant(
        fault="The members of an ordered group are undone in the order of their start",
        law="undo in reverse",
        plan=plan_of(ordered(A, B), C),
        patch=first_member_first,
    ),
    Mutant(
        fault="The next stage starts when one member of a group has succeeded",
        law="stages in order",
        plan=plan_of(group(A, B), C),
        patch=one_member_is_enough,
        faults=0,
    ),
    Mutant(
        fault="A run is called compensated without an account of its steps",
        law="compensated means undone",
        plan=plan_of(effect_node("a", undo_attempts=1), C),
        patch=closes_without_account,
        faults=2,
    ),
    Mutant(
        fault="A run is called completed before its last stage",
        law="completed means once",
        plan=TWO_AND_PIVOT,
        patch=completes_early,
        faults=0,
    ),
    Mutant(
        fault="A run whose pivot is in doubt is compensated",
        law="pivot decides",
        plan=plan_of(A, pivot_node("c", attempts=1)),
        patch=doubtful_pivot_turns,
    ),
    Mutant(
        fault="A run is cancelled behind its pivot",
        law="pivot decides",
        plan=plan_of(A, C, retriable_node("d")),
        patch=cancels_behind_pivot,
    ),
    Mutant(
        fault="A cancel outlives the success of the pivot",
        law="never fails",
        plan=plan_of(A, C),
        patch=cancel_outlives_pivot,
    ),
    Mutant(
        fault="A cancelled run starts its next step",
        law="cancelled means no new step",
        plan=plan_of(A, C),
        patch=cancelled_run_starts,
    ),
    Mutant(
        fault="A run turns back while a call is in flight",
        law="settles first",
        plan=plan_of(group(A, B), C),
        patch=turns_in_flight,
    ),
    Mutant(
        fault="The first undo that is given up ends the compensation",
        law="attention names what is open",
        plan=plan_of(ONE_ATTEMPT, effect_node("b", attempts=1, undo_attempts=1), C),
        patch=exhausted_undo_ends,
        faults=2,
    ),
    Mutant(
        fault="A late effect does not open a compensated run again",
        law="compensated means undone",
        plan=plan_of(ONE_ATTEMPT, C),
        patch=stays_closed,
    ),
    Mutant(
        fault="The fold changes the state that it reads",
        law="attempts are counted",
        plan=plan_of(A, C),
        patch=fold_changes_its_input,
    ),
    Mutant(
        fault="The fold depends on a counter of the process",
        law="the journal is the truth",
        plan=plan_of(A, C),
        patch=fold_counts_its_calls,
        faults=0,
    ),
)
