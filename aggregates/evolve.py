"""How facts change the state of a run.

Theory of operation: a run's state is the left fold of `evolve` over the heads of its facts, in order, beginning with
`SagaStarted`. `NODE_TRANSITIONS` says which facts a node accepts in which status and where they lead;
`RUN_TRANSITIONS` says the same of the run. Whatever is not in a table is refused with `TransitionError`, so the tables
are the whole truth, and the diagrams in the documentation are drawn from them.

1. A failed attempt leads to a *waiting* status when the fact carries a due time and to a *spent* one when it does not.
2. A turn or a close must be borne out by evidence: `SagaFailed` is refused while an effect may still act, while nothing
   has failed and behind the pivot; `SagaCompleted` while a node has not succeeded; `SagaCompensated` while a node that
   may have acted is not accounted for. No code path can write them early. Nor can an effect be called failed (which
   means: without effect) unless a probe could say so.
3. `cursor` moves with the facts: forward when a stage has succeeded, backward when a stage has nothing left to undo.
   Cost per fact therefore does not depend on how many stages lie behind. Facts about nodes of other stages are
   refused, so steps and compensations keep their order.

Nothing here looks at user data, a clock or a random number.
"""

from collections.abc import Iterable, Mapping

from amends.aggregates.errors import TransitionError
from amends.aggregates.facts import Head
from amends.aggregates.plan import Plan, PlanNode, StepKind
from amends.aggregates.state import (
    SETTLED_BADLY,
    NodeState,
    NodeStatus,
    RunState,
    RunStatus,
    open_undo,
    undo_open_nodes,
    unsettled_effects,
)

__all__ = ["NODE_TRANSITIONS", "RUN_TRANSITIONS", "begin", "evolve", "fold"]

_N = NodeStatus
_R = RunStatus

_ATTEMPT = {
    "StepStarted": _N.STARTED,
    "StepSucceeded": _N.SUCCEEDED,
    "StepRejected": _N.REJECTED,
    "StepAttemptFailed": _N.WAITING,
}
_GIVEN_UP = {"StepInDoubt": _N.IN_DOUBT, "StepFailed": _N.FAILED}
_UNDO = {
    "CompensationStarted": _N.UNDO_STARTED,
    "CompensationSucceeded": _N.UNDONE,
    "CompensationAttemptFailed": _N.UNDO_WAITING,
}

NODE_TRANSITIONS: Mapping[NodeStatus, Mapping[str, NodeStatus]] = {
    # A transaction goes from pending to its outcome in one fact; an effect declares its intent first.
    _N.PENDING: _ATTEMPT,
    # The same attempt may still answer; a later one may have been claimed meanwhile.
    _N.STARTED: {k: v for k, v in _ATTEMPT.items() if k != "StepStarted"},
    # Given up while waiting: another member of its stage has failed, so it is not attempted again.
    _N.WAITING: {**_ATTEMPT, **_GIVEN_UP},
    # Attempts are spent: the probe, if there is one, says what became of them.
    _N.SPENT: {**_GIVEN_UP, "StepSucceeded": _N.SUCCEEDED, "ProbeAttemptFailed": _N.PROBE_WAITING},
    _N.PROBE_WAITING: {**_GIVEN_UP, "StepSucceeded": _N.SUCCEEDED, "ProbeAttemptFailed": _N.PROBE_WAITING},
    _N.PROBE_SPENT: {"StepInDoubt": _N.IN_DOUBT},
    _N.SUCCEEDED: _UNDO,
    # In doubt is undone like done: the compensation gets no result and must cope with there being no effect.
    _N.IN_DOUBT: _UNDO,
    _N.REJECTED: {},
    _N.FAILED: {},
    _N.UNDO_STARTED: {k: v for k, v in _UNDO.items() if k != "CompensationStarted"},
    _N.UNDO_WAITING: _UNDO,
    _N.UNDO_SPENT: {"CompensationExhausted": _N.UNDO_EXHAUSTED},
    _N.UNDONE: {},
    _N.UNDO_EXHAUSTED: {},
}
"""Status of a node, then kind of fact, then the status that follows."""

SPENT_WITHOUT_DUE: Mapping[NodeStatus, NodeStatus] = {
    _N.WAITING: _N.SPENT,
    _N.PROBE_WAITING: _N.PROBE_SPENT,
    _N.UNDO_WAITING: _N.UNDO_SPENT,
}
"""Where a failed attempt leads when its fact carries no due time."""

RUN_TRANSITIONS: Mapping[RunStatus, Mapping[str, RunStatus]] = {
    _R.RUNNING: {
        "SagaFailed": _R.COMPENSATING,
        "SagaCompleted": _R.COMPLETED,
        "AttentionRequested": _R.NEEDS_ATTENTION,
    },
    _R.COMPENSATING: {"SagaCompensated": _R.COMPENSATED, "AttentionRequested": _R.NEEDS_ATTENTION},
    _R.COMPLETED: {},
    _R.COMPENSATED: {},
    _R.NEEDS_ATTENTION: {},
}
"""Status of a run, then kind of fact about the run, then the status that follows."""

_FORWARD = frozenset({*_ATTEMPT, *_GIVEN_UP, "ProbeAttemptFailed"})
_BACKWARD = frozenset({*_UNDO, "CompensationExhausted"})


def begin(plan: Plan, head: Head) -> RunState:
    """Make the state of a run that was just accepted.

    Args:
        plan: The plan that `SagaStarted` names.
        head: The head of `SagaStarted`, at position 1.

    Raises:
        TransitionError: The head is not that of a `SagaStarted` at position 1.
    """
    if head.kind != "SagaStarted" or head.position != 1:
        raise TransitionError(f"a run begins with SagaStarted at position 1, not with {head.kind} at {head.position}")
    return RunState(plan, RunStatus.RUNNING, 1, {}, 0, head.as_of_ms, head.as_of_ms)


def evolve(state: RunState, head: Head) -> RunState:
    """Fold one fact into a run's state.

    Args:
        state: The state at position n.
        head: The head of the fact at position n + 1.

    Raises:
        TransitionError: The position is not the next, the node is not in the plan, or the transition is not in the
            tables or not borne out by evidence.
    """
    if head.position != state.position + 1:
        raise TransitionError(f"expected the fact at position {state.position + 1}, got {head.kind} at {head.position}")
    if head.kind in _FORWARD or head.kind in _BACKWARD:
        return _evolve_node(state, head)
    return _evolve_run(state, head)


def fold(state: RunState, heads: Iterable[Head]) -> RunState:
    """Fold the heads that follow a state, skipping those that it contains already."""
    for head in heads:
        if head.position > state.position:
            state = evolve(state, head)
    return state


def _evolve_node(state: RunState, head: Head) -> RunState:
    phase = RunStatus.RUNNING if head.kind in _FORWARD else RunStatus.COMPENSATING
    plan = state.plan.nodes.get(head.node)
    if plan is None:
        raise TransitionError(f"{head.kind} at {head.position}: the plan has no node {head.node!r}")
    node = state.node(head.node)
    status = NODE_TRANSITIONS[node.status].get(head.kind)
    if status is None or state.status is not phase:
        raise TransitionError(
            f"{head.kind} at {head.position} does not follow: node {head.node!r} is {node.status}, "
            f"the run is {state.status}"
        )
    if why_not := _against_plan(state, plan, node, head.kind):
        raise TransitionError(f"{head.kind} at {head.position} does not follow: node {head.node!r} {why_not}")
    if head.due_ms is None:
        status = SPENT_WITHOUT_DUE.get(status, status)
    changed = NodeState(status, head.attempt, head.due_ms, head.generation, node.first_position or head.position)
    nodes = {**state.nodes, head.node: changed}
    cursor = _moved_cursor(state, nodes, head.node, status)
    return RunState(state.plan, state.status, head.position, nodes, cursor, state.started_ms, head.as_of_ms)


def _against_plan(state: RunState, plan: PlanNode, node: NodeState, kind: str) -> str | None:
    """Say what in the plan speaks against a fact that the table allows."""
    stage = state.plan.stage_of[plan.name]
    if stage != state.cursor:
        return f"belongs to stage {stage}, the run is at stage {state.cursor}"
    if kind in _BACKWARD and plan.undo is None:
        return "has no compensation"
    if kind == "ProbeAttemptFailed" and not plan.probe:
        return "has no probe"
    unasked = not plan.probe or node.status is NodeStatus.WAITING
    if kind == "StepFailed" and plan.kind is StepKind.EFFECT and unasked:
        return "is an effect that may have acted; only a probe can tell that it did not"
    return None


def _moved_cursor(state: RunState, nodes: Mapping[str, NodeState], name: str, status: NodeStatus) -> int:
    if status is NodeStatus.SUCCEEDED and state.plan.stage_of[name] == state.cursor:
        stage = state.plan.stages[state.cursor]
        if all(member.name in nodes and nodes[member.name].status is status for member in stage.nodes):
            return state.cursor + 1
    if status in {NodeStatus.UNDONE, NodeStatus.UNDO_EXHAUSTED}:
        return _undo_cursor(state.plan, nodes, state.cursor)
    return state.cursor


def _undo_cursor(plan: Plan, nodes: Mapping[str, NodeState], cursor: int) -> int:
    """Step back over the stages that have nothing left to undo."""
    while cursor >= 0 and not any(
        member.name in nodes and open_undo(member, nodes[member.name]) for member in plan.stages[cursor].nodes
    ):
        cursor -= 1
    return cursor


def _evolve_run(state: RunState, head: Head) -> RunState:
    status = RUN_TRANSITIONS[state.status].get(head.kind)
    if status is None:
        raise TransitionError(f"{head.kind} at {head.position} does not follow: the run is {state.status}")
    cursor = state.cursor
    if status is RunStatus.COMPLETED and cursor < len(state.plan.stages):
        raise TransitionError(f"SagaCompleted at {head.position}: stage {cursor} has not succeeded")
    if status is RunStatus.COMPENSATING:
        _refuse_early_turn(state, head)
        cursor = _undo_cursor(state.plan, state.nodes, cursor)
    if status is RunStatus.COMPENSATED and (left := undo_open_nodes(state)):
        raise TransitionError(f"SagaCompensated at {head.position}: not accounted for: {', '.join(left)}")
    return RunState(state.plan, status, head.position, state.nodes, cursor, state.started_ms, head.as_of_ms)


def _refuse_early_turn(state: RunState, head: Head) -> None:
    if unsettled := unsettled_effects(state):
        raise TransitionError(f"SagaFailed at {head.position}: may still act: {', '.join(unsettled)}")
    stage = state.plan.stages[state.cursor].nodes if state.cursor < len(state.plan.stages) else ()
    if not any(state.node(member.name).status in SETTLED_BADLY for member in stage):
        raise TransitionError(f"SagaFailed at {head.position}: no node of stage {state.cursor} has failed")
    if state.plan.forward_only(state.cursor):
        raise TransitionError(f"SagaFailed at {head.position}: stage {state.cursor} lies behind the pivot")
