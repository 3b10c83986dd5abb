"""The state of a saga run, folded from its facts.

Only `amends.aggregates.run.transitions` derives status values, and it does so from evidence. A state contains its plan
but no user data, so code that must not see user data may have it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from amends.aggregates.run.plan import Plan, PlanNode, Role, StepKind

__all__ = [
    "CLAIMED",
    "CLOSED",
    "NO_ANSWERS",
    "OPEN",
    "PENDING",
    "REFUSED",
    "SETTLED_BADLY",
    "SETTLED_WELL",
    "UNDO_STATUSES",
    "Answers",
    "Direction",
    "NodeState",
    "NodeStatus",
    "RunState",
    "RunStatus",
    "doubtful_pivots",
    "dump_state",
    "load_state",
    "open_undo",
    "undo_open_nodes",
    "unsettled_effects",
]


class RunStatus(StrEnum):
    """The state of a run."""

    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    COMPENSATING = "COMPENSATING"
    COMPLETED = "COMPLETED"
    COMPENSATED = "COMPENSATED"
    NEEDS_ATTENTION = "NEEDS_ATTENTION"


CLOSED = frozenset({RunStatus.COMPLETED, RunStatus.COMPENSATED, RunStatus.NEEDS_ATTENTION})
"""Statuses in which a driver has no work left."""

OPEN = frozenset(RunStatus) - CLOSED
"""Statuses in which a driver has work, now or later."""


class NodeStatus(StrEnum):
    """The state of one node."""

    PENDING = "pending"
    STARTED = "started"
    WAITING = "waiting"
    SPENT = "spent"
    PROBE_WAITING = "probe waiting"
    PROBE_SPENT = "probe spent"
    SUCCEEDED = "succeeded"
    SKIPPED = "skipped"
    REJECTED = "rejected"
    FAILED = "failed"
    IN_DOUBT = "in doubt"
    UNDO_STARTED = "undo started"
    UNDO_WAITING = "undo waiting"
    UNDO_SPENT = "undo spent"
    UNDONE = "undone"
    UNDO_EXHAUSTED = "undo exhausted"
    UNDO_REJECTED = "undo rejected"
    UNDO_SKIPPED = "undo skipped"


class Direction(StrEnum):
    """Which of a step's functions is called."""

    DO = "do"
    UNDO = "undo"
    PROBE = "probe"


CLAIMED: Mapping[NodeStatus, Direction] = {
    NodeStatus.STARTED: Direction.DO,
    NodeStatus.UNDO_STARTED: Direction.UNDO,
}
"""Statuses in which a worker holds a claim on the node, with the direction of its call. A probe needs no claim."""

SETTLED_BADLY = frozenset({NodeStatus.REJECTED, NodeStatus.FAILED, NodeStatus.IN_DOUBT})
"""Statuses in which a step has ended and did not certainly succeed."""

SETTLED_WELL = frozenset({NodeStatus.SUCCEEDED, NodeStatus.SKIPPED})
"""Statuses in which the next stage does not wait for the step."""

REFUSED = frozenset({NodeStatus.REJECTED, NodeStatus.FAILED, NodeStatus.UNDO_REJECTED})
"""Statuses in which a key has a definite refusal: another attempt needs a new key, or it gets the same answer."""

UNDO_STATUSES = frozenset(
    {
        NodeStatus.UNDO_STARTED,
        NodeStatus.UNDO_WAITING,
        NodeStatus.UNDO_SPENT,
        NodeStatus.UNDO_EXHAUSTED,
        NodeStatus.UNDO_REJECTED,
        NodeStatus.UNDONE,
        NodeStatus.UNDO_SKIPPED,
    }
)
"""Statuses that describe the undo of a step; the step itself has ended."""


class Answers(NamedTuple):
    """Generations of a node's keys under which the journal holds a definite outcome.

    The run makes no further call under such a key, and `evolve` refuses a second success under it.

    Attributes:
        acted: The step took effect.
        refused: The step took no effect.
        undone: The step is undone.
        undo_refused: The participant refused to undo the step.
    """

    acted: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()
    undone: tuple[int, ...] = ()
    undo_refused: tuple[int, ...] = ()

    def of(self, generation: int, *, undo: bool) -> bool:
        """Check whether a key has a definite outcome.

        Args:
            generation: The generation in the key.
            undo: Whether the key is the compensation's.
        """
        yes, no = (self.undone, self.undo_refused) if undo else (self.acted, self.refused)
        return generation in yes or generation in no


NO_ANSWERS = Answers()
"""The answers of a node whose keys have no definite outcome."""


class NodeState(NamedTuple):
    """One node's part of a run's state.

    Attributes:
        status: The state of the node.
        attempt: The number of attempts in the present phase (do, probe or undo).
        due_ms: End of the live claim or time of the next attempt, in milliseconds since the epoch.
        generation: Part of the step's idempotency key; raised by a redo.
        first_position: Position of the node's first fact; compensations run in reverse order of it.
        undo_generation: Part of the compensation's idempotency key; raised when the step took effect after its undo,
            and by a retry of a refused undo.
        answers: Which of the node's keys have a definite outcome.
    """

    status: NodeStatus
    attempt: int
    due_ms: int | None
    generation: int
    first_position: int
    undo_generation: int = 0
    answers: Answers = NO_ANSWERS


PENDING = NodeState(NodeStatus.PENDING, 0, None, 0, 0)
"""The state of a node that has no facts yet."""


@dataclass(frozen=True, slots=True)
class RunState:
    """The fold of a run's heads.

    Attributes:
        plan: The plan that the run follows.
        status: The state of the run.
        position: Position of the last folded fact.
        nodes: The nodes that have facts, by name; the others are pending.
        cursor: Index of the stage that the run is at: the one it runs or, when compensating, undoes. The number of
            stages when all have succeeded; -1 when nothing is left to undo.
        started_ms: The driver's time when the run was accepted, in milliseconds since the epoch.
        updated_ms: The driver's time of the last fact.
    """

    plan: Plan
    status: RunStatus
    position: int
    nodes: Mapping[str, NodeState]
    cursor: int
    started_ms: int
    updated_ms: int

    def node(self, name: str) -> NodeState:
        """Return a node's state; a node without facts is pending."""
        return self.nodes.get(name, PENDING)

    @property
    def closed(self) -> bool:
        """Whether a driver has no work left."""
        return self.status in CLOSED

    @property
    def backward(self) -> bool:
        """Whether the run has turned round: its steps are being undone, or have been undone.

        A run that needs attention has turned round exactly when no stage is left to undo.
        """
        turned = self.status in {RunStatus.COMPENSATING, RunStatus.COMPENSATED}
        return turned or (self.status is RunStatus.NEEDS_ATTENTION and self.cursor < 0)


_ACTED = frozenset(
    {
        NodeStatus.SUCCEEDED,
        NodeStatus.IN_DOUBT,
        NodeStatus.UNDO_STARTED,
        NodeStatus.UNDO_WAITING,
        NodeStatus.UNDO_SPENT,
    }
)


def _acted(plan: PlanNode, node: NodeState) -> bool:
    """Check whether the step took effect, or may have, and no undo of it has ended.

    A skipped effect was called before and may have acted; a skipped transaction was rolled back.
    """
    return node.status in _ACTED or (node.status is NodeStatus.SKIPPED and plan.kind is StepKind.EFFECT)


def open_undo(plan: PlanNode, node: NodeState) -> bool:
    """Check whether the node's compensation still has to run."""
    return plan.undo is not None and _acted(plan, node)


_UNSETTLED = frozenset(
    {
        NodeStatus.STARTED,
        NodeStatus.WAITING,
        NodeStatus.SPENT,
        NodeStatus.PROBE_WAITING,
        NodeStatus.PROBE_SPENT,
    }
)


def unsettled_effects(state: RunState) -> tuple[str, ...]:
    """Return the effects that were called and have no outcome yet: they may act, or have acted.

    A transaction is never among them: without an outcome it was rolled back.
    """
    return tuple(
        name
        for name, node in state.nodes.items()
        if node.status in _UNSETTLED and state.plan.nodes[name].kind is StepKind.EFFECT
    )


def undo_open_nodes(state: RunState) -> tuple[str, ...]:
    """Return the nodes because of which the run does not count as compensated.

    These are the nodes that may have acted and are not undone. An irreversible step that succeeded does not count,
    because it stays by declaration; one in doubt does. A read-only step never counts.
    """
    return tuple(name for name, node in state.nodes.items() if _unaccounted(state.plan.nodes[name], node))


def _unaccounted(plan: PlanNode, node: NodeState) -> bool:
    if node.status in {NodeStatus.UNDO_EXHAUSTED, NodeStatus.UNDO_REJECTED} or open_undo(plan, node):
        return True
    stays = plan.read_only or (plan.irreversible is not None and node.status is NodeStatus.SUCCEEDED)
    return _acted(plan, node) and not stays


def doubtful_pivots(state: RunState) -> tuple[str, ...]:
    """Return the pivots at the cursor that are in doubt and have no undo.

    The run cannot choose its direction, because the outcome of the pivot decides it.
    """
    if not 0 <= state.cursor < len(state.plan.stages):
        return ()
    return tuple(
        node.name
        for node in state.plan.stages[state.cursor].nodes
        if node.role is Role.PIVOT and node.undo is None and state.node(node.name).status is NodeStatus.IN_DOUBT
    )


def dump_state(state: RunState) -> dict[str, Any]:
    """Return a state as JSON; it contains no user data."""
    return {
        "plan": state.plan.model_dump(mode="json"),
        "status": state.status.value,
        "position": state.position,
        "nodes": {name: [node.status.value, *node[1:]] for name, node in state.nodes.items()},
        "cursor": state.cursor,
        "started_ms": state.started_ms,
        "updated_ms": state.updated_ms,
    }


def load_state(value: Mapping[str, Any]) -> RunState:
    """Return the state that `dump_state` wrote."""
    return RunState(
        plan=Plan.model_validate(value["plan"]),
        status=RunStatus(value["status"]),
        position=value["position"],
        nodes={name: _load_node(node) for name, node in value["nodes"].items()},
        cursor=value["cursor"],
        started_ms=value["started_ms"],
        updated_ms=value["updated_ms"],
    )


def _load_node(row: list[Any]) -> NodeState:
    *fields, answers = row[1:]
    known = Answers(*(tuple(generations) for generations in answers))
    return NodeState(NodeStatus(row[0]), *fields)._replace(answers=known)
