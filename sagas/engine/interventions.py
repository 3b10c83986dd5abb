"""Check, preview and write the decisions of operators about a run.

Theory of operation: an `Intervention` becomes one fact (`fact_of`), or is refused with one line that names the reason
and the possible decisions. `preview` folds that fact into the present record and asks `decide` for the next decisions.
So the preview shows exactly the consequences, as long as the run has not moved past the position that the operator saw.
The fold itself refuses every decision that the transition tables and the evidence do not allow; the checks here only
add better messages.

While a call is in flight, no operator can decide about its node, because the answer may arrive at any moment.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from pydantic import JsonValue

from amends.aggregates.errors import BusyError, InputError, RefusedError, TransitionError
from amends.aggregates.journal import Tx
from amends.aggregates.run.facts import (
    CancelRequested,
    CompensationResolved,
    CompensationSkipped,
    Fact,
    OperatorFact,
    RetryRequested,
    StepResolved,
    StepRuledOut,
    StepSkipped,
)
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import CLAIMED, REFUSED, SETTLED_WELL, NodeState, NodeStatus, RunState, RunStatus
from amends.compensations.order import undo_order
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.decide import Decision, decide
from amends.sagas.engine.fact_writer import FactWriter

__all__ = ["Intervention", "InterventionKind", "Preview", "apply", "fact_of", "open_for_decision", "preview"]

_N = NodeStatus
_UNDOING = frozenset({_N.UNDO_WAITING, _N.UNDO_EXHAUSTED, _N.UNDO_REJECTED})
_RETRIABLE = frozenset({_N.WAITING, _N.PROBE_WAITING, _N.REJECTED, _N.FAILED, _N.IN_DOUBT, *_UNDOING})


class InterventionKind(StrEnum):
    """The decisions that an operator can take."""

    RETRY = "retry"
    SKIP = "skip"
    RESOLVE = "resolve"
    RULE_OUT = "rule out"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervention:
    """An operator's decision.

    - `RETRY`: attempt the step, its probe or its compensation again, now and with a new budget of attempts.
    - `SKIP`: go on without the step, as if it had returned `output`; or skip its compensation and leave its effect in
      place.
    - `RESOLVE`: the step took effect, and returned `output`; or it is undone. Somebody checked this, or did it by hand.
    - `RULE_OUT`: the step took no effect. Somebody checked this.
    - `CANCEL`: undo the run.

    Attributes:
        kind: The decision.
        actor: The person who decides.
        reason: The reason, in the operator's words.
        node: The node; `None` for the only open node, and for `CANCEL`.
        evidence: The proof behind the decision; `None` if there is none. Required to resolve and to rule out.
        output: The result, as JSON, for a step that is skipped or resolved.
        causation: Id of the fact that caused the decision, such as the fact of a drift; `None` for the head of the run.
    """

    kind: InterventionKind
    actor: str
    reason: str
    node: str | None = None
    evidence: str | None = None
    output: JsonValue = None
    causation: str | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """The consequences of an intervention.

    Attributes:
        fact: The fact that would be written; `None` if the run is already in that state.
        before: The run now.
        after: The run right after the fact.
        next: The decisions that would follow.
        undo: All nodes that would then be undone, in order; the nodes of an inner tuple are undone together.
        remaining: Nodes that would still run, if the run goes forward.
    """

    fact: Fact | None
    before: RunRecord
    after: RunRecord
    next: tuple[Decision, ...]
    undo: tuple[tuple[str, ...], ...]
    remaining: tuple[str, ...]


def open_for_decision(state: RunState) -> tuple[str, ...]:
    """Return the names of the nodes that an operator can decide about now."""
    return tuple(name for name, at in state.nodes.items() if _decidable(state, at))


def _decidable(state: RunState, at: NodeState) -> bool:
    if not state.backward:
        return at.status in _RETRIABLE
    unmendable = at.status in {*SETTLED_WELL, _N.IN_DOUBT} and state.status is RunStatus.NEEDS_ATTENTION
    return at.status in _UNDOING or unmendable


def apply(
    tx: Tx, registry: Registry, record: RunRecord, intervention: Intervention, now_ms: int, *, position: int | None
) -> RunRecord:
    """Append the fact of an intervention.

    Args:
        tx: The unit's transaction.
        registry: The registry that knows the types of results.
        record: The run at its head.
        intervention: The decision.
        now_ms: The driver's time.
        position: Position of the run that the operator saw; `None` to accept any position.

    Raises:
        RefusedError: The decision does not fit the run, or the run has moved past `position`.
        BusyError: A call of the node is in flight.
        InputError: The output is not valid for the step's result type.
    """
    if position is not None and record.state.position != position:
        raise RefusedError(
            f"run {record.run_id!r} has moved from position {position} to {record.state.position} in the meantime; "
            f"check it again: amends show {record.run_id}"
        )
    fact = fact_of(registry, record, intervention, now_ms, tx.recorded_at_ms)
    return record if fact is None else tx.append(record, (fact,))


def preview(registry: Registry, record: RunRecord, intervention: Intervention, now_ms: int) -> Preview:
    """Return the consequences of an intervention, without writing it.

    Raises:
        RefusedError: The decision does not fit the run.
        BusyError: A call of the node is in flight.
        InputError: The output is not valid for the step's result type.
    """
    fact = fact_of(registry, record, intervention, now_ms, now_ms)
    after = record if fact is None else record.apply(fact)
    state = after.state
    turning = state.backward or state.status is RunStatus.CANCELLING
    ahead = () if turning else state.plan.stages[state.cursor :]
    names = (node.name for stage in ahead for node in stage.nodes)
    remaining = tuple(name for name in names if state.node(name).status not in SETTLED_WELL)
    return Preview(fact, record, after, decide(state, now_ms), undo_order(state) if turning else (), remaining)


def fact_of(
    registry: Registry, record: RunRecord, intervention: Intervention, now_ms: int, recorded_at_ms: int
) -> Fact | None:
    """Return the fact of an intervention; `None` if the run is already in that state.

    Raises:
        RefusedError: The decision does not fit the run.
        BusyError: A call of the node is in flight.
        InputError: The reason, the evidence or the output is missing or wrong.
    """
    if not intervention.reason.strip():
        raise InputError("an intervention needs a reason; pass --reason (it is recorded with the decision)")
    writer = FactWriter(record, now_ms, recorded_at_ms, actor=intervention.actor, cause=intervention.causation)
    case = _Case(registry, record, intervention, writer)
    if intervention.kind is InterventionKind.CANCEL:
        return _cancel(case)
    name = _node(record, intervention)
    at = record.state.node(name)
    _refuse_live_claim(record, name, at, now_ms)
    fact = _decision(case, name, at)
    try:
        record.apply(fact)
    except TransitionError as error:
        raise RefusedError(
            f"run {record.run_id!r}: cannot {intervention.kind} node {name!r}, which is {at.status} in a run that is "
            f"{record.state.status}: {error}"
        ) from None
    return fact


class _Case(NamedTuple):
    registry: Registry
    record: RunRecord
    intervention: Intervention
    writer: FactWriter


def _cancel(case: _Case) -> Fact | None:
    record, state, run_id = case.record, case.record.state, case.record.run_id
    if state.status is RunStatus.NEEDS_ATTENTION:
        raise RefusedError(
            f"run {run_id!r} waits for a decision about {', '.join(record.current)}, and cannot be cancelled before "
            f"that; see: amends explain {run_id}"
        )
    if state.backward or state.status is RunStatus.CANCELLING:
        return None
    if state.status is RunStatus.COMPLETED:
        raise RefusedError(f"run {run_id!r} is COMPLETED and cannot be cancelled; run another saga that reverses it")
    if state.plan.forward_only(state.cursor):
        raise RefusedError(f"run {run_id!r} has passed its pivot and cannot be cancelled; see: amends explain {run_id}")
    return case.writer.write(CancelRequested, reason=case.intervention.reason)


def _node(record: RunRecord, intervention: Intervention) -> str:
    run_id, wanted = record.run_id, intervention.node
    if wanted is not None and wanted not in record.state.plan.nodes:
        raise InputError(
            f"run {run_id!r} has no step {wanted!r}; it has {', '.join(record.state.plan.nodes)}; name one of them"
        )
    if wanted is not None:
        return wanted
    if record.state.status is RunStatus.COMPLETED:
        raise RefusedError(f"run {run_id!r} is COMPLETED; there is nothing to decide")
    # If only calls are in flight, the reason for the refusal is those calls; "nothing to decide" would be wrong.
    candidates = record.current or open_for_decision(record.state) or _claimed(record.state)
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise RefusedError(f"run {run_id!r} is {record.state.status}; there is nothing to decide")
    raise InputError(f"run {run_id!r} has several open steps; name one of them: {', '.join(candidates)}")


def _claimed(state: RunState) -> tuple[str, ...]:
    return tuple(name for name, at in state.nodes.items() if at.status in CLAIMED)


def _refuse_live_claim(record: RunRecord, name: str, at: NodeState, now_ms: int) -> None:
    if at.status not in CLAIMED:
        return
    until = at.due_ms or now_ms
    left = max(0, until - now_ms) / 1000
    raise BusyError(
        f"run {record.run_id!r}: {name!r} has a call in flight, whose claim ends in {left:.0f} s; wait for the "
        "answer, or pass --after-expiry to act after that time",
        until_ms=until,
    )


def _decision(case: _Case, name: str, at: NodeState) -> OperatorFact:
    writer, intervention, undoing = case.writer, case.intervention, case.record.state.backward
    fields: dict[str, Any] = {"node": name, "reason": intervention.reason, "evidence": intervention.evidence}
    generation = at.undo_generation if undoing else at.generation
    match intervention.kind:
        case InterventionKind.RETRY:
            return _retry(case, name, at, fields)
        case InterventionKind.SKIP if undoing:
            return writer.write(CompensationSkipped, generation=generation, **fields)
        case InterventionKind.SKIP:
            return writer.write(StepSkipped, generation=generation, result=_output(case, name), **fields)
        case InterventionKind.RULE_OUT:
            _need_evidence(intervention)
            return writer.write(StepRuledOut, generation=at.generation, **fields)
        case _:
            _need_evidence(intervention)
            # In a run that compensates, the undo is the open part; but if only the effect is in doubt, no undo has
            # started.
            if undoing and at.status in _UNDOING | SETTLED_WELL:
                return writer.write(CompensationResolved, generation=generation, **fields)
            return writer.write(StepResolved, generation=at.generation, result=_output(case, name), **fields)


def _retry(case: _Case, name: str, at: NodeState, fields: dict[str, Any]) -> OperatorFact:
    record, writer = case.record, case.writer
    if at.status not in _RETRIABLE:
        raise RefusedError(
            f"run {record.run_id!r}: {name!r} is {at.status}, so there is nothing to retry; open steps: "
            f"{', '.join(open_for_decision(record.state)) or 'none'}"
        )
    redo = at.status in REFUSED
    if at.status in _UNDOING:
        # Retry a waiting undo now and keep its attempt count; restart one that was given up at attempt 0. Both reuse
        # the key. Only a refused undo gets a new key: under the old one the participant would repeat its answer.
        made = at.attempt if at.status is _N.UNDO_WAITING else 0
        return writer.write(RetryRequested, generation=at.undo_generation + redo, attempt=made, **fields)
    made = at.attempt if at.status in {_N.WAITING, _N.PROBE_WAITING} else 0
    # A participant that has refused under a key repeats its refusal, so a refused step needs a new key. A step in doubt
    # must keep its key: only the same key is safe.
    return writer.write(RetryRequested, generation=at.generation + redo, attempt=made, **fields)


def _need_evidence(intervention: Intervention) -> None:
    if not (intervention.evidence or "").strip():
        raise InputError(
            f"to {intervention.kind} a step, you need evidence of its outcome; pass --evidence (it is recorded with "
            "the decision)"
        )


def _output(case: _Case, name: str) -> JsonValue:
    codec = case.registry.result_codec(case.record.state.plan.nodes[name].step)
    try:
        return codec.dump(codec.load(case.intervention.output))
    except InputError as error:
        raise InputError(
            f"the output of {name!r} for later steps is not valid: {error}; pass it with --output"
        ) from None
