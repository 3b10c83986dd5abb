"""Find the nodes of a run that have been open for too long, and since when, for `amends list --stuck`.

Theory of operation: a node about which `decide` returns a decision, for now or for later, is overdue if either

1. it has been open for longer than its threshold: `overdue=` of its step, else what its policy allows (every attempt
   until its claim ends, and every delay), else, if attempts are unlimited, `UNLIMITED_MS`; or
2. a call or a fact has been due at it for longer than `IDLE_MS` and is still missing: there is no driver, or no worker
   for its queue.

A run that waits for an operator is stuck from the moment it asked for one. A node is open since its first fact; in a
run that compensates, since the first fact of its compensation. Before that fact, the node is due since the run came to
its stage. An operator's retry with a new budget and a late effect restart the count. Nothing acts on an overdue node;
this module only reports it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from amends.aggregates.run.fact import FactKind, Head
from amends.aggregates.run.plan import PlanNode
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import RunState, RunStatus
from amends.sagas.engine.decide import decide
from amends.sagas.engine.protocol import LEASE_GRACE_MS
from amends.sagas.engine.time_limits import backward_ms, forward_ms

__all__ = ["IDLE_MS", "UNLIMITED_MS", "Overdue", "Why", "overdue_nodes", "threshold_ms"]

UNLIMITED_MS = 3_600_000
"""Threshold for calls with unlimited attempts, unless the step has `overdue=`: an hour."""

IDLE_MS = 300_000
"""How long a call or a fact may be due and missing: five minutes, longer than any outage that workers wait out."""


class Why(StrEnum):
    """Why a node is overdue."""

    ATTENTION = "attention"
    """The node waits for an operator."""
    IDLE = "idle"
    """A call or a fact has been due for too long and is still missing."""
    SLOW = "slow"
    """The node has been open for longer than its threshold."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """A node that has been open for too long.

    Attributes:
        node: The node; empty if the whole run is overdue.
        since_ms: The time at which the threshold was passed, in milliseconds since the epoch.
        why: The reason.
    """

    node: str
    since_ms: int
    why: Why


def overdue_nodes(record: RunRecord, heads: Sequence[Head], now_ms: int) -> tuple[Overdue, ...]:
    """Return the overdue nodes of a run, in the order of its decisions; none in a run that has ended.

    Args:
        record: The run.
        heads: Heads of all of its facts.
        now_ms: The present time, in milliseconds since the epoch.
    """
    state = record.state
    if state.status is RunStatus.NEEDS_ATTENTION:
        asked_ms = next(head.as_of_ms for head in reversed(heads) if head.kind == FactKind.ATTENTION_REQUESTED)
        return tuple(Overdue(name, asked_ms, Why.ATTENTION) for name in record.current)
    names = [getattr(decision, "node", "") for decision in decide(state, now_ms)]
    found = [_limit(state, heads, name) for name in names]
    return tuple(each for each in found if each.since_ms <= now_ms)


def threshold_ms(node: PlanNode, *, undoing: bool) -> int:
    """Return how long a step, or its compensation, may be open, in milliseconds."""
    if node.overdue_ms is not None:
        return node.overdue_ms
    bound = backward_ms(node) if undoing else forward_ms(node)
    return UNLIMITED_MS if bound is None else bound + LEASE_GRACE_MS


def _limit(state: RunState, heads: Sequence[Head], name: str) -> Overdue:
    """Return the time at which a node with a pending decision becomes overdue, and the reason that comes first."""
    if not name:
        # The pending decision is a fact about the run, which every driver would write at once.
        return Overdue("", state.updated_ms + IDLE_MS, Why.IDLE)
    node, own = state.plan.nodes[name], _own(heads, name)
    if not own:  # the node is due since the run came to its stage
        patience_ms = min(IDLE_MS, node.overdue_ms or IDLE_MS)
        return Overdue(name, _reached_ms(state, heads, name) + patience_ms, Why.IDLE)
    due_ms = state.node(name).due_ms
    idle = Overdue(name, (own[-1].as_of_ms if due_ms is None else due_ms) + IDLE_MS, Why.IDLE)
    slow = Overdue(name, own[0].as_of_ms + threshold_ms(node, undoing=state.backward), Why.SLOW)
    return min(idle, slow, key=lambda each: each.since_ms)


def _own(heads: Sequence[Head], name: str) -> list[Head]:
    """Return the heads of the node's step, or of its compensation, since the count of its attempts last restarted."""
    own: list[Head] = []
    for head in heads:
        turned = head.kind == FactKind.SAGA_FAILED
        anew = head.node == name and (
            head.kind == FactKind.LATE_EFFECT_OBSERVED or (head.kind == FactKind.RETRY_REQUESTED and head.attempt == 0)
        )
        if turned or anew:
            own = []
        if head.node == name:
            own.append(head)
    return own


def _reached_ms(state: RunState, heads: Sequence[Head], name: str) -> int:
    """Return the time of the last fact about another stage than the node's: by then the run had come to this stage."""
    stage = state.plan.stage_of[name]
    return next(
        (head.as_of_ms for head in reversed(heads) if state.plan.stage_of.get(head.node) != stage), state.started_ms
    )
