"""Views of a run: its facts and its record, as rows for people and as JSON for programs. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import JsonValue

from amends.aggregates.damage import Damage
from amends.aggregates.run.fact import FailureFact
from amends.aggregates.run.facts import (
    AttentionRequested,
    Fact,
    LateEffectObserved,
    NodeFact,
    OperatorFact,
    ProbeAttemptFailed,
    ProbePostponed,
    RetryRequested,
    SagaFailed,
)
from amends.aggregates.run.plan import PlanNode, RetryPolicy
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import NodeState, NodeStatus, RunState, RunStatus
from amends.cli.views.fact_words import FactWords, result_text, words
from amends.cli.views.table import Column, clip
from amends.cli.views.times import duration
from amends.compensations.order import undo_order
from amends.sagas.engine.decide import (
    CloseCompensated,
    CloseCompleted,
    Conclusion,
    Decision,
    DoubtStep,
    ExhaustCompensation,
    ExpireClaim,
    FailSaga,
    FailStep,
    RequestAttention,
    RunCompensation,
    RunProbe,
    RunStep,
    WaitUntil,
    decide,
)

__all__ = [
    "TIMELINE",
    "Next",
    "NodeView",
    "attention_of",
    "damage_json",
    "fact_json",
    "next_steps",
    "node_json",
    "node_views",
    "on_decision",
    "still_to_undo",
    "timeline_row",
    "timeline_widths",
    "trace_of",
]

_DETAIL_CHARS = 80


# ---- runs


def damage_json(damage: Damage) -> dict[str, JsonValue]:
    """Return a damage as JSON."""
    return {
        "run_id": damage.run_id,
        "stream": damage.stream,
        "position": damage.position,
        "problem": damage.problem,
        "remedy": damage.remedy,
    }


# ---- nodes


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node of a run's plan: its definition next to its state.

    Attributes:
        place: Its stage, from 1, and within a parallel group its place there, such as `2.1`.
        node: Its definition in the plan.
        state: Its state.
        attempts: Attempts of the step that began, in its present budget.
        undo_attempts: Attempts to undo it that began, in their present budget.
        begun_ms: The driver's time of its first fact, in milliseconds since the epoch; `None` if it has none.
        last_ms: The driver's time of its last fact, likewise.
        result: The step's result, in a tuple of one; empty if the step has not succeeded.
        error: The last error or refusal in its facts; `None` if there was none.
        decided: The operator who decided its state, and the reason; `None` without such a decision.
    """

    place: str
    node: PlanNode
    state: NodeState
    attempts: int
    undo_attempts: int
    begun_ms: int | None
    last_ms: int | None
    result: tuple[JsonValue, ...]
    error: str | None
    decided: str | None

    @property
    def attempts_text(self) -> str:
        """Attempts made of those allowed, such as `2/5, undo 1/10`; empty if there were none."""
        parts = [_of(self.attempts, self.node.retry, "/")] if self.attempts else []
        if self.undo_attempts and self.node.undo is not None:
            parts.append(f"undo {_of(self.undo_attempts, self.node.undo.retry, '/')}")
        return ", ".join(parts)

    @property
    def said(self) -> str:
        """The result of the node, or the reason why there is none; shortened."""
        if self.decided is not None:
            return clip(self.decided, _DETAIL_CHARS)
        ended_well = self.state.status in {NodeStatus.SUCCEEDED, NodeStatus.UNDONE}
        if self.error is not None and not (self.result and ended_well):
            return clip(self.error, _DETAIL_CHARS)
        return clip(result_text(self.result[0]), _DETAIL_CHARS) if self.result else ""


def _of(made: int, retry: RetryPolicy, separator: str = " of ") -> str:
    return str(made) if retry.max_attempts is None else f"{made}{separator}{retry.max_attempts}"


def node_views(record: RunRecord, facts: Sequence[Fact]) -> tuple[NodeView, ...]:
    """Return every node of the plan, in its order.

    Args:
        record: The run.
        facts: All of its facts.
    """
    of_node: defaultdict[str, list[NodeFact]] = defaultdict(list)
    for fact in facts:
        if isinstance(fact, NodeFact):
            of_node[fact.node].append(fact)
    views: list[NodeView] = []
    for number, stage in enumerate(record.state.plan.stages, 1):
        for member, node in enumerate(stage.nodes, 1):
            place = str(number) if len(stage.nodes) == 1 else f"{number}.{member}"
            views.append(_node_view(place, node, record, of_node[node.name]))
    return tuple(views)


def _node_view(place: str, node: PlanNode, record: RunRecord, facts: Sequence[NodeFact]) -> NodeView:
    told = [words(fact) for fact in facts]
    attempts, undo_attempts = _attempts(facts, told)
    errors = [each.error for each in told if each.error is not None]
    return NodeView(
        place=place,
        node=node,
        state=record.state.node(node.name),
        attempts=attempts,
        undo_attempts=undo_attempts,
        begun_ms=facts[0].as_of_ms if facts else None,
        last_ms=facts[-1].as_of_ms if facts else None,
        result=(record.results[node.name],) if node.name in record.results else (),
        error=errors[-1] if errors else None,
        decided=told[-1].decided if told else None,
    )


def _attempts(facts: Sequence[NodeFact], told: Sequence[FactWords]) -> tuple[int, int]:
    """Count the attempts of a node's step, and those to undo it, since their last new budget."""
    done = undone = 0
    for fact, each in zip(facts, told, strict=True):
        match fact:
            case RetryRequested(attempt=0):
                # Only the attempts that began last can be tried again.
                done, undone = (done, 0) if undone else (0, 0)
            case LateEffectObserved():
                undone = 0
            case OperatorFact() | ProbeAttemptFailed() | ProbePostponed():
                pass
            case _ if each.change is not None and each.change.undo:
                undone = max(undone, fact.head.attempt)
            case _:
                done = max(done, fact.head.attempt)
    return done, undone


def node_json(view: NodeView) -> dict[str, JsonValue]:
    """Return a node as JSON: its definition and its state."""
    return {
        "place": view.place,
        "name": view.node.name,
        "step": view.node.step,
        "kind": view.node.kind.value,
        "role": view.node.role.value,
        "undoable": view.node.undo is not None,
        "status": view.state.status.value,
        "attempts": view.attempts,
        "max_attempts": view.node.retry.max_attempts,
        "undo_attempts": view.undo_attempts,
        "max_undo_attempts": view.node.undo.retry.max_attempts if view.node.undo else None,
        "due_ms": view.state.due_ms,
        "begun_ms": view.begun_ms,
        "last_ms": view.last_ms,
        "has_result": bool(view.result),
        "result": view.result[0] if view.result else None,
        "error": view.error,
        "decided": view.decided,
    }


# ---- what comes next


class Next(NamedTuple):
    """The next action of a run, at one node or for the run itself.

    Attributes:
        node: The node; empty if the action concerns the run.
        what: The action, in a few words.
        due_ms: Its time, in milliseconds since the epoch; `None` for at once.
    """

    node: str
    what: str
    due_ms: int | None


def next_steps(state: RunState, now_ms: int) -> tuple[Next, ...]:
    """Return the next actions of a run; none for a closed one.

    Args:
        state: The run's state.
        now_ms: The present time, in milliseconds since the epoch.
    """
    return tuple(on_decision(state, decision) for decision in decide(state, now_ms))


def on_decision(state: RunState, decision: Decision) -> Next:
    """Return the consequence of a decision about a run, in words."""
    match decision:
        case RunStep(node, attempt):
            return Next(node, f"attempt {_of(attempt, state.plan.nodes[node].retry)}", None)
        case RunProbe(node, attempt):
            return Next(node, f"probe attempt {attempt}", None)
        case RunCompensation(node, attempt):
            undo = state.plan.nodes[node].undo
            return Next(node, f"undo attempt {_of(attempt, undo.retry) if undo else attempt}", None)
        case WaitUntil(node, due_ms):
            return Next(node, _waiting(state.plan.nodes[node], state.node(node)), due_ms)
        case _:
            return _on_conclusion(decision)


def _on_conclusion(decision: Conclusion) -> Next:
    match decision:
        case FailSaga():
            return Next("", "the run turns back and undoes the steps that may have acted", None)
        case CloseCompleted():
            return Next("", "the run is closed as completed", None)
        case CloseCompensated():
            return Next("", "the run is closed as compensated", None)
        case RequestAttention(nodes):
            return Next("", f"the run waits for an operator's decision about {', '.join(nodes)}", None)
        case FailStep(node):
            return Next(node, "given up; the step took no effect", None)
        case DoubtStep(node):
            return Next(node, "given up; no one knows whether the step took effect", None)
        case ExhaustCompensation(node):
            return Next(node, "not undone: no attempts are left", None)
        case ExpireClaim(node, attempt, undo):
            return Next(node, f"{'undo ' * undo}attempt {attempt} gave no answer in time and counts as failed", None)


def _waiting(node: PlanNode, at: NodeState) -> str:
    undo = node.undo.retry if node.undo else node.retry
    match at.status:
        case NodeStatus.STARTED:
            return f"attempt {_of(at.attempt, node.retry)} is in flight until its claim ends"
        case NodeStatus.UNDO_STARTED:
            return f"undo attempt {_of(at.attempt, undo)} is in flight until its claim ends"
        case NodeStatus.UNDO_WAITING:
            return f"undo attempt {_of(at.attempt + 1, undo)}"
        case NodeStatus.PROBE_WAITING:
            return f"probe attempt {at.attempt + 1}"
        case _:
            return f"attempt {_of(at.attempt + 1, node.retry)}"


def still_to_undo(state: RunState) -> tuple[tuple[str, ...], ...]:
    """Return the nodes that a compensating run still has to undo, in order; each inner tuple runs together."""
    return undo_order(state) if state.status in {RunStatus.CANCELLING, RunStatus.COMPENSATING} else ()


def attention_of(record: RunRecord, facts: Sequence[Fact]) -> AttentionRequested | None:
    """Return the fact that names the decisions an operator has to make; `None` if there are none."""
    if record.state.status is not RunStatus.NEEDS_ATTENTION:
        return None
    return next((fact for fact in reversed(facts) if isinstance(fact, AttentionRequested)), None)


def trace_of(facts: Sequence[Fact]) -> tuple[str, ...]:
    """Return the places and causes of the last failed attempt; an empty tuple if no code raised an error."""
    failures = (fact for fact in reversed(facts) if isinstance(fact, FailureFact))
    last = next(failures, None)
    return () if last is None else last.trace


# ---- the timeline


TIMELINE = (
    Column("#", 5, right=True),
    Column("since start", 13, right=True),
    Column("fact", 21),
    Column("node", 12),
    Column("attempt", 7, right=True),
    Column("key", 20, copied=True, below=True),
    Column("cause", 5, right=True),
    Column("detail", 24, below=True),
)
"""Columns of a run's history."""


def timeline_row(fact: Fact, started_ms: int, *, whole: bool) -> tuple[str, ...]:
    """Return a fact as a row of `TIMELINE`.

    Args:
        fact: The fact.
        started_ms: Time when the run was accepted, in milliseconds since the epoch.
        whole: Whether keys keep the run's id that all of them begin with.
    """
    head = fact.head
    key = getattr(fact, "key", "")
    cause = fact.causation_id or ""
    return (
        str(fact.position),
        f"+{duration(fact.as_of_ms - started_ms)}",
        fact.kind,
        _nodes(fact),
        str(head.attempt) if head.attempt else "",
        key if whole else key.removeprefix(fact.run_id),
        # The facts of a run cause each other; then the position is enough.
        cause.removeprefix(f"{fact.run_id}:") if cause.startswith(f"{fact.run_id}:") else cause,
        clip(words(fact).detail, _DETAIL_CHARS),
    )


def timeline_widths(nodes: Sequence[str], run_id: str, *, whole: bool) -> tuple[int, ...]:
    """Return the largest possible widths of the columns of `TIMELINE`, for a timeline printed as facts arrive.

    Args:
        nodes: The nodes of the plan.
        run_id: The run.
        whole: As for `timeline_row`.
    """
    node = max(map(len, nodes))
    key = len("//undo/0") + node + (len(run_id) if whole else 0)
    return (5, 13, 25, max(4, node), 7, key, 5, _DETAIL_CHARS)


def fact_json(fact: Fact) -> dict[str, Any]:
    """Return a fact as JSON, with every field that the journal holds."""
    return {"position": fact.position, "fact": fact.kind, "id": fact.id, **fact.model_dump(mode="json")}


def _nodes(fact: Fact) -> str:
    if isinstance(fact, AttentionRequested):
        return ",".join(fact.nodes)
    return fact.node if isinstance(fact, NodeFact | SagaFailed) else ""
