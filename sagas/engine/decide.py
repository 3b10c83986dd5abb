"""Decide what a run does next; every decision about a run is taken here.

Theory of operation: `decide(state, now_ms)` reads the stage at the cursor and returns decisions. *Conclusions*
(`Conclusion`) need no I/O: the writer of facts turns them into facts in the same transaction, and decides again. *Work*
(`RunStep`, `RunProbe`, `RunCompensation`) is for a driver. `WaitUntil` is the time of the next decision if no fact
arrives before. An open run always yields at least one decision, a closed one none.

A driver may already be busy with work that is decided again. The claim, a fact in the journal, ensures that only one of
them acts. Pure: equal state and `now_ms` give equal decisions, in equal order.
"""

from dataclasses import dataclass
from typing import ClassVar

from amends.aggregates.run.plan import PlanNode, StepKind
from amends.aggregates.run.state import (
    PENDING,
    SETTLED_BADLY,
    Direction,
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

    direction: ClassVar[Direction] = Direction.DO
    node: str
    attempt: int


@dataclass(frozen=True, slots=True)
class RunProbe:
    """Call the probe: did the step take effect?"""

    direction: ClassVar[Direction] = Direction.PROBE
    node: str
    attempt: int


@dataclass(frozen=True, slots=True)
class RunCompensation:
    """Attempt to undo the step."""

    direction: ClassVar[Direction] = Direction.UNDO
    node: str
    attempt: int


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Do nothing for this node before that time, in milliseconds since the epoch."""

    node: str
    due_ms: int


@dataclass(frozen=True, slots=True)
class ExpireClaim:
    """Count the attempt as failed: its claim has ended without an outcome."""

    node: str
    attempt: int
    undo: bool


@dataclass(frozen=True, slots=True)
class FailStep:
    """Stop attempting the step; it certainly took no effect."""

    node: str


@dataclass(frozen=True, slots=True)
class DoubtStep:
    """Stop attempting the step; no one knows whether it took effect."""

    node: str


@dataclass(frozen=True, slots=True)
class ExhaustCompensation:
    """Stop attempting the compensation; the others go on."""

    node: str


@dataclass(frozen=True, slots=True)
class FailSaga:
    """Start to compensate, because of this node; an empty name stands for the request to cancel."""

    node: str


@dataclass(frozen=True, slots=True)
class CloseCompleted:
    """Close the run: every step has succeeded."""


@dataclass(frozen=True, slots=True)
class CloseCompensated:
    """Close the run: every step that may have acted is undone or settled otherwise."""


@dataclass(frozen=True, slots=True)
class RequestAttention:
    """Ask an operator to decide about these nodes."""

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
    """Return the decisions about a run.

    Args:
        state: The run's state.
        now_ms: The driver's time, in milliseconds since the epoch.

    Returns:
        Decisions in the order of the plan (or of undoing); empty only if the run is closed.
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
    """Start no step, bring the steps in flight to an outcome, then start to compensate."""
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
    """Return the next decision about one node of a stage without failures."""
    match at.status:
        case _N.PENDING:
            return RunStep(node.name, 1)
        case _N.WAITING:
            return _when_due(RunStep(node.name, at.attempt + 1), at, now_ms)
        case _:
            return _settle(node, at, now_ms)


def _settle(node: PlanNode, at: NodeState, now_ms: int) -> Decision | None:
    """Return the decision that brings one node to an outcome without another attempt."""
    match at.status:
        case _N.STARTED:
            return _when_due(ExpireClaim(node.name, at.attempt, undo=False), at, now_ms)
        case _N.WAITING | _N.SPENT if node.kind is StepKind.TRANSACTION:
            # The transaction was rolled back, so it certainly took no effect.
            return FailStep(node.name)
        case _N.WAITING | _N.SPENT if node.read_only:
            # A read-only call changes nothing, so it cannot be in doubt.
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
    """Return the decisions about a stage whose members have settled, some of them as failed."""
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
