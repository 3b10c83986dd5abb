"""Which nodes of a run have been open for too long, and since when: what `amends list --stuck` looks for.

Theory of operation: a node that `decide` has something to do about, now or later, is overdue when either

1. it has been open for longer than its threshold: `overdue=` of its step, else what its policy allows (every attempt
   until its claim ends, and every delay), else, where attempts are without limit, `UNLIMITED_MS`; or
2. something has been due at it for longer than `IDLE_MS` and nobody has done it: there is no driver, or no worker for
   its queue.

A run that waits for an operator is stuck from the moment it asked for one. A node is open since its first fact; going
back, since the first fact of its compensation. Before that it is due since the run came to its stage. An operator's
retry with a new budget, and an effect that was seen late, begin anew. Nothing is done to what is overdue: it decides
nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from amends.aggregates.run.fact import Head
from amends.aggregates.run.plan import PlanNode
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import RunState, RunStatus
from amends.sagas.engine.decide import decide
from amends.sagas.engine.protocol import LEASE_GRACE_MS
from amends.sagas.engine.time_limits import backward_ms, forward_ms

__all__ = ["IDLE_MS", "UNLIMITED_MS", "Overdue", "Why", "overdue_nodes", "threshold_ms"]

UNLIMITED_MS = 3_600_000
"""Threshold of what is attempted without limit, unless its step names one: an hour."""

IDLE_MS = 300_000
"""How long something may be due without anybody doing it: five minutes, more than any outage that is waited out."""


class Why(StrEnum):
    """Why a node is overdue."""

    ATTENTION = "attention"
    """It waits for an operator."""
    IDLE = "idle"
    """Something has been due, and nobody has done it."""
    SLOW = "slow"
    """It has been open for longer than its threshold."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """A node that has been open for too long.

    Attributes:
        node: The node; empty when it is about the run.
        since_ms: Since when it is overdue, in milliseconds since the epoch: when the threshold was passed.
        why: In which way.
    """

    node: str
    since_ms: int
    why: Why


def overdue_nodes(record: RunRecord, heads: Sequence[Head], now_ms: int) -> tuple[Overdue, ...]:
    """Name what is overdue in a run, in the order of its decisions; nothing in a run that has ended.

    Args:
        record: The run.
        heads: Heads of all of its facts.
        now_ms: The present time, in milliseconds since the epoch.
    """
    state = record.state
    if state.status is RunStatus.NEEDS_ATTENTION:
        asked_ms = next(head.as_of_ms for head in reversed(heads) if head.kind == "AttentionRequested")
        return tuple(Overdue(name, asked_ms, Why.ATTENTION) for name in record.current)
    names = [getattr(decision, "node", "") for decision in decide(state, now_ms)]
    found = [_limit(state, heads, name) for name in names]
    return tuple(each for each in found if each.since_ms <= now_ms)


def threshold_ms(node: PlanNode, *, undoing: bool) -> int:
    """Tell how long a step, or its compensation, may be open, in milliseconds."""
    if node.overdue_ms is not None:
        return node.overdue_ms
    bound = backward_ms(node) if undoing else forward_ms(node)
    return UNLIMITED_MS if bound is None else bound + LEASE_GRACE_MS


def _limit(state: RunState, heads: Sequence[Head], name: str) -> Overdue:
    """Tell when a node that something is to be done about becomes overdue, and in which way first."""
    if not name:
        # Something is to be written down about the run, which every driver does at once.
        return Overdue("", state.updated_ms + IDLE_MS, Why.IDLE)
    node, own = state.plan.nodes[name], _own(heads, name)
    if not own:  # it is due since its turn came
        patience_ms = min(IDLE_MS, node.overdue_ms or IDLE_MS)
        return Overdue(name, _reached_ms(state, heads, name) + patience_ms, Why.IDLE)
    due_ms = state.node(name).due_ms
    idle = Overdue(name, (own[-1].as_of_ms if due_ms is None else due_ms) + IDLE_MS, Why.IDLE)
    slow = Overdue(name, own[0].as_of_ms + threshold_ms(node, undoing=state.backward), Why.SLOW)
    return min(idle, slow, key=lambda each: each.since_ms)


def _own(heads: Sequence[Head], name: str) -> list[Head]:
    """Give the heads of what the node is at: the step or its compensation, since its attempts were counted anew."""
    own: list[Head] = []
    for head in heads:
        turned = head.kind == "SagaFailed"
        anew = head.node == name and (
            head.kind == "LateEffectObserved" or (head.kind == "RetryRequested" and head.attempt == 0)
        )
        if turned or anew:
            own = []
        if head.node == name:
            own.append(head)
    return own


def _reached_ms(state: RunState, heads: Sequence[Head], name: str) -> int:
    """Give the time of the last fact that is not about the node's own stage: by then the run had come there."""
    stage = state.plan.stage_of[name]
    return next(
        (head.as_of_ms for head in reversed(heads) if state.plan.stage_of.get(head.node) != stage), state.started_ms
    )
