"""What happens next: the only place where anything about a run is decided.

Theory of operation: `decide(state, now_ms)` looks at the stage at the cursor and answers with decisions. *Conclusions*
(`Conclusion`) need no I/O: whoever appends facts turns them into facts in the same transaction and decides again.
*Work* (`RunStep`, `RunProbe`, `RunCompensation`) is for a driver. `WaitUntil` says when there will be something to
decide although nothing happens. An open run always yields at least one decision, a closed one none.

A driver may already be busy with work that is decided again; the claim, made in a transaction of the journal, is what
makes sure that only one of them acts. Pure: equal state and `now_ms` give equal decisions, in equal order.
"""

from dataclasses import dataclass

from amends.aggregates.run.plan import PlanNode, StepKind
from amends.aggregates.run.state import (
    PENDING,
    SETTLED_BADLY,
    NodeState,
    NodeStatus,
    RunState,
    RunStatus,
    doubtful_pivots,
    undo_open_nodes,
)
from amends.compensations.order import next_undos

__all__ = [
    "CloseCompensated",
    "CloseCompleted",
    "Conclusion",
    "Decision",
    "DoubtStep",
    "ExhaustCompensation",
    "ExpireClaim",
    "FailSaga",
    "FailStep",
    "RequestAttention",
    "RunCompensation",
    "RunProbe",
    "RunStep",
    "WaitUntil",
    "Work",
    "decide",
]


@dataclass(frozen=True, slots=True)
class RunStep:
    """Attempt the step."""

    node: str
    attempt: int


@dataclass(frozen=True, slots=True)
class RunProbe:
    """Ask whether the step took effect."""

    node: str
    attempt: int


@dataclass(frozen=True, slots=True)
class RunCompensation:
    """Attempt to undo the step."""

    node: str
    attempt: int


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing to do for this node before that time, in milliseconds since the epoch."""

    node: str
    due_ms: int


@dataclass(frozen=True, slots=True)
class ExpireClaim:
    """The claim's time is over without an outcome: count the attempt as failed."""

    node: str
    attempt: int
    undo: bool


@dataclass(frozen=True, slots=True)
class FailStep:
    """Give the step up; it is known to have taken no effect."""

    node: str


@dataclass(frozen=True, slots=True)
class DoubtStep:
    """Give the step up; nobody knows whether it took effect."""

    node: str


@dataclass(frozen=True, slots=True)
class ExhaustCompensation:
    """Give the compensation up; the others go on."""

    node: str


@dataclass(frozen=True, slots=True)
class FailSaga:
    """Turn round and compensate, because of this node; an empty name stands for the request to cancel."""

    node: str


@dataclass(frozen=True, slots=True)
class CloseCompleted:
    """Every step has succeeded."""


@dataclass(frozen=True, slots=True)
class CloseCompensated:
    """Everything that may have acted is accounted for."""


@dataclass(frozen=True, slots=True)
class RequestAttention:
    """An operator has to decide about these nodes."""

    nodes: tuple[str, ...]


Work = RunStep | RunProbe | RunCompensation
Conclusion = (
    ExpireClaim
    | FailStep
    | DoubtStep
    | ExhaustCompensation
    | FailSaga
    | CloseCompleted
    | CloseCompensated
    | RequestAttention
)
Decision = Work | WaitUntil | Conclusion

_N = NodeStatus


def decide(state: RunState, now_ms: int) -> tuple[Decision, ...]:
    """Say what happens next in a run.

    Args:
        state: The run's state.
        now_ms: The driver's time, in milliseconds since the epoch.

    Returns:
        Decisions in the order of the plan (or of undoing); empty only when the run is closed.
    """
    if state.status is RunStatus.RUNNING:
        return _forward(state, now_ms)
    if state.status is RunStatus.CANCELLING:
        return _cancelling(state, now_ms)
    if state.status is RunStatus.COMPENSATING:
        return _backward(state, now_ms)
    return ()


def _forward(state: RunState, now_ms: int) -> tuple[Decision, ...]:
    if state.cursor >= len(state.plan.stages):
        return (CloseCompleted(),)
    stage = state.plan.stages[state.cursor]
    members = [(node, state.nodes.get(node.name, PENDING)) for node in stage.nodes]
    bad = [node for node, at in members if at.status in SETTLED_BADLY]
    if not bad:
        return tuple(decision for node, at in members if (decision := _advance(node, at, now_ms)) is not None)
    return _settle_stage(state, now_ms) or (_turn(state, bad),)


def _cancelling(state: RunState, now_ms: int) -> tuple[Decision, ...]:
    """Begin nothing, bring what is in flight to an outcome, then turn."""
    if settling := _settle_stage(state, now_ms):
        return settling
    pivots = doubtful_pivots(state)
    return (RequestAttention(pivots) if pivots else FailSaga(""),)


def _settle_stage(state: RunState, now_ms: int) -> tuple[Decision, ...]:
    if state.cursor >= len(state.plan.stages):
        return ()
    members = state.plan.stages[state.cursor].nodes
    settling = (_settle(node, state.node(node.name), now_ms) for node in members)
    return tuple(decision for decision in settling if decision is not None)


def _advance(node: PlanNode, at: NodeState, now_ms: int) -> Decision | None:
    """Bring one node of a healthy stage forward."""
    match at.status:
        case _N.PENDING:
            return RunStep(node.name, 1)
        case _N.WAITING:
            return _when_due(RunStep(node.name, at.attempt + 1), at, now_ms)
        case _:
            return _settle(node, at, now_ms)


def _settle(node: PlanNode, at: NodeState, now_ms: int) -> Decision | None:
    """Bring one node to an outcome without attempting it again."""
    match at.status:
        case _N.STARTED:
            return _when_due(ExpireClaim(node.name, at.attempt, undo=False), at, now_ms)
        case _N.WAITING | _N.SPENT if node.kind is StepKind.TRANSACTION:
            # Rolled back, so it is certain that nothing happened.
            return FailStep(node.name)
        case _N.WAITING | _N.SPENT if node.read_only:
            # The call changes nothing, so there is nothing to be in doubt about.
            return FailStep(node.name)
        case _N.PROBE_SPENT:
            return DoubtStep(node.name)
        case _N.WAITING | _N.SPENT:
            return RunProbe(node.name, 1) if node.probe else DoubtStep(node.name)
        case _N.PROBE_WAITING:
            return _when_due(RunProbe(node.name, at.attempt + 1), at, now_ms)
        case _:
            return None


def _turn(state: RunState, bad: list[PlanNode]) -> Decision:
    """Answer a stage whose members have settled and some of which have failed."""
    if state.plan.forward_only(state.cursor):
        return RequestAttention(tuple(node.name for node in bad))
    if pivots := doubtful_pivots(state):
        return RequestAttention(pivots)
    first = min(
        bad,
        key=lambda node: (state.node(node.name).status is _N.FAILED, state.node(node.name).first_position),
    )
    return FailSaga(first.name)


def _backward(state: RunState, now_ms: int) -> tuple[Decision, ...]:
    names = next_undos(state)
    if names:
        return tuple(_undo(name, state.nodes[name], now_ms) for name in names)
    left = undo_open_nodes(state)
    return (RequestAttention(left),) if left else (CloseCompensated(),)


def _undo(name: str, at: NodeState, now_ms: int) -> Decision:
    match at.status:
        case _N.UNDO_STARTED:
            return _when_due(ExpireClaim(name, at.attempt, undo=True), at, now_ms)
        case _N.UNDO_WAITING:
            return _when_due(RunCompensation(name, at.attempt + 1), at, now_ms)
        case _N.UNDO_SPENT:
            return ExhaustCompensation(name)
        case _:
            return RunCompensation(name, 1)


def _when_due(decision: RunStep | RunProbe | RunCompensation | ExpireClaim, at: NodeState, now_ms: int) -> Decision:
    return decision if at.due_ms is None or at.due_ms <= now_ms else WaitUntil(decision.node, at.due_ms)
