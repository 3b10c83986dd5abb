"""What operators decide about a run: checked against its state, previewed, written as facts.

Theory of operation: an `Intervention` becomes one fact (`fact_of`), or is refused in one line that says why and what
would be possible. `preview` folds that fact into the record as it stands and asks `decide` what would follow, so that
what is shown is what will happen, as long as the run is still at the position that was looked at. The fold itself
refuses whatever the tables and the evidence do not allow; here only the words are better.

While a call is under way nobody decides about its node: its answer may come any moment.
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
from amends.aggregates.run.state import NodeState, NodeStatus, RunState, RunStatus
from amends.compensations.order import undo_order
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.decide import Decision, decide
from amends.sagas.engine.fact_writer import Scribe

__all__ = ["Intervention", "Preview", "Verb", "apply", "fact_of", "open_for_decision", "preview"]

_N = NodeStatus
_UNDOING = frozenset({_N.UNDO_WAITING, _N.UNDO_EXHAUSTED, _N.UNDO_REJECTED})
_RETRIABLE = frozenset({_N.WAITING, _N.PROBE_WAITING, _N.REJECTED, _N.FAILED, _N.IN_DOUBT, *_UNDOING})
_CLAIMED = frozenset({_N.STARTED, _N.UNDO_STARTED})
_ANSWERED = frozenset({_N.REJECTED, _N.FAILED})


class Verb(StrEnum):
    """What an operator can do."""

    RETRY = "retry"
    SKIP = "skip"
    RESOLVE = "resolve"
    RULE_OUT = "rule out"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervention:
    """An operator's decision.

    - `RETRY`: attempt the step, its probe or its compensation again, at once and with a new budget.
    - `SKIP`: go on without the step, as if it had returned `output`; or leave what the step did, undone by nobody.
    - `RESOLVE`: the step took effect, and returned `output`; or it is undone. Somebody found out, or saw to it.
    - `RULE_OUT`: the step took no effect. Somebody found out.
    - `CANCEL`: undo the run.

    Attributes:
        verb: What to do.
        actor: Who decides.
        reason: Why.
        node: The node; `None` for the only one that is open, and for `CANCEL`.
        evidence: What it rests on; `None` when there is none. Needed to resolve and to rule out.
        output: The result, as JSON, for a step that is skipped or resolved.
        causation: Id of the fact that led to it, such as that of a drift; `None` for the head of the run.
    """

    verb: Verb
    actor: str
    reason: str
    node: str | None = None
    evidence: str | None = None
    output: JsonValue = None
    causation: str | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What an intervention would do.

    Attributes:
        fact: What would be written; `None` when there is nothing to write, because it is so already.
        before: The run as it is.
        after: The run right after the fact.
        next: What would be decided then.
        undo: Everything that would be undone from there, in order; each inner tuple together.
        remaining: Nodes that would still be run, when the run goes forward.
    """

    fact: Fact | None
    before: RunRecord
    after: RunRecord
    next: tuple[Decision, ...]
    undo: tuple[tuple[str, ...], ...]
    remaining: tuple[str, ...]


def open_for_decision(state: RunState) -> tuple[str, ...]:
    """Name the nodes that an operator can decide about now."""
    if state.status is RunStatus.COMPLETED:
        return ()
    return tuple(name for name, at in state.nodes.items() if _decidable(state, at))


def _decidable(state: RunState, at: NodeState) -> bool:
    if not state.backward:
        return at.status in _RETRIABLE
    unmendable = at.status in {_N.SUCCEEDED, _N.SKIPPED, _N.IN_DOUBT} and state.status is RunStatus.NEEDS_ATTENTION
    return at.status in _UNDOING or unmendable


def apply(
    tx: Tx, registry: Registry, record: RunRecord, intervention: Intervention, now_ms: int, *, position: int | None
) -> RunRecord:
    """Write an intervention down.

    Args:
        tx: The unit's transaction.
        registry: Where the types of results are found.
        record: The run at its head.
        intervention: What was decided.
        now_ms: The driver's time.
        position: Position of the run that the operator looked at; `None` when it does not matter.

    Raises:
        RefusedError: It does not fit the run, or the run has gone on meanwhile.
        BusyError: The node is being worked on.
        InputError: The output is not of the step's result type.
    """
    if position is not None and record.state.position != position:
        raise RefusedError(
            f"run {record.run_id!r} has gone on from position {position} to {record.state.position} meanwhile; "
            f"look at it again: amends show {record.run_id}"
        )
    fact = fact_of(registry, record, intervention, now_ms, tx.recorded_at_ms)
    return record if fact is None else tx.append(record, (fact,))


def preview(registry: Registry, record: RunRecord, intervention: Intervention, now_ms: int) -> Preview:
    """Tell what an intervention would do, without doing it.

    Raises:
        RefusedError: It does not fit the run.
        BusyError: The node is being worked on.
        InputError: The output is not of the step's result type.
    """
    fact = fact_of(registry, record, intervention, now_ms, now_ms)
    after = record if fact is None else record.apply(fact)
    state = after.state
    turning = state.backward or state.status is RunStatus.CANCELLING
    ahead = () if turning else state.plan.stages[state.cursor :]
    remaining = [node.name for stage in ahead for node in stage.nodes if state.node(node.name).status not in _SETTLED]
    return Preview(fact, record, after, decide(state, now_ms), undo_order(state) if turning else (), tuple(remaining))


_SETTLED = frozenset({_N.SUCCEEDED, _N.SKIPPED})


def fact_of(
    registry: Registry, record: RunRecord, intervention: Intervention, now_ms: int, recorded_at_ms: int
) -> Fact | None:
    """Make the fact that an intervention comes to; `None` when the run is so already.

    Raises:
        RefusedError: It does not fit the run.
        BusyError: The node is being worked on.
        InputError: Reason, evidence or output are missing or wrong.
    """
    if not intervention.reason.strip():
        raise InputError("an intervention needs a reason, which the journal keeps; give one: --reason")
    scribe = Scribe(record, now_ms, recorded_at_ms, actor=intervention.actor, cause=intervention.causation)
    case = _Case(registry, record, intervention, scribe)
    if intervention.verb is Verb.CANCEL:
        return _cancel(case)
    name = _node(record, intervention)
    at = record.state.node(name)
    _refuse_live_claim(record, name, at, now_ms)
    fact = _decision(case, name, at)
    try:
        record.apply(fact)
    except TransitionError as error:
        raise RefusedError(
            f"run {record.run_id!r}: node {name!r} is {at.status} and the run is {record.state.status}; "
            f"{intervention.verb} does not fit: {error}"
        ) from None
    return fact


class _Case(NamedTuple):
    registry: Registry
    record: RunRecord
    intervention: Intervention
    scribe: Scribe


def _cancel(case: _Case) -> Fact | None:
    record, state, run_id = case.record, case.record.state, case.record.run_id
    if state.status is RunStatus.NEEDS_ATTENTION:
        raise RefusedError(
            f"run {run_id!r} waits for a decision about {', '.join(record.current)}, and cannot be cancelled before; "
            f"see amends explain {run_id}"
        )
    if state.backward or state.status is RunStatus.CANCELLING:
        return None
    if state.status is RunStatus.COMPLETED:
        raise RefusedError(f"run {run_id!r} is COMPLETED and cannot be cancelled; run a saga that takes it back")
    if state.plan.forward_only(state.cursor):
        raise RefusedError(
            f"run {run_id!r} has passed its pivot and only goes forward; it cannot be cancelled; "
            f"see amends explain {run_id}"
        )
    return case.scribe.write(CancelRequested, reason=case.intervention.reason)


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
    # Where only calls are under way, what is wrong is that they are, not that there is nothing to decide.
    candidates = record.current or open_for_decision(record.state) or _claimed(record.state)
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise RefusedError(f"run {run_id!r} is {record.state.status}; there is nothing to decide")
    raise InputError(f"run {run_id!r} has several open steps; name one of them: {', '.join(candidates)}")


def _claimed(state: RunState) -> tuple[str, ...]:
    return tuple(name for name, at in state.nodes.items() if at.status in _CLAIMED)


def _refuse_live_claim(record: RunRecord, name: str, at: NodeState, now_ms: int) -> None:
    if at.status not in _CLAIMED:
        return
    until = at.due_ms or now_ms
    left = max(0, until - now_ms) / 1000
    raise BusyError(
        f"run {record.run_id!r}: {name!r} is being worked on, and its claim ends in {left:.0f} s; "
        f"wait for its answer, or until then: --after-expiry",
        until_ms=until,
    )


def _decision(case: _Case, name: str, at: NodeState) -> OperatorFact:
    scribe, intervention, undoing = case.scribe, case.intervention, case.record.state.backward
    fields: dict[str, Any] = {"node": name, "reason": intervention.reason, "evidence": intervention.evidence}
    generation = at.undo_generation if undoing else at.generation
    match intervention.verb:
        case Verb.RETRY:
            return _retry(case, name, at, fields)
        case Verb.SKIP if undoing:
            return scribe.write(CompensationSkipped, generation=generation, **fields)
        case Verb.SKIP:
            return scribe.write(StepSkipped, generation=generation, result=_output(case, name), **fields)
        case Verb.RULE_OUT:
            _need_evidence(intervention)
            return scribe.write(StepRuledOut, generation=at.generation, **fields)
        case _:
            _need_evidence(intervention)
            # Going back, what is open is the undo; but where only the effect is in doubt, none was begun.
            if undoing and at.status in {*_UNDOING, _N.SUCCEEDED, _N.SKIPPED}:
                return scribe.write(CompensationResolved, generation=generation, **fields)
            return scribe.write(StepResolved, generation=at.generation, result=_output(case, name), **fields)


def _retry(case: _Case, name: str, at: NodeState, fields: dict[str, Any]) -> OperatorFact:
    record, scribe = case.record, case.scribe
    if at.status not in _RETRIABLE:
        raise RefusedError(
            f"run {record.run_id!r}: {name!r} is {at.status}, there is nothing to try again; "
            f"open are: {', '.join(open_for_decision(record.state)) or 'none'}"
        )
    if at.status in _UNDOING:
        # Retry a waiting undo now and keep its attempt count; restart one that was given up at attempt 0. Both reuse
        # the key. Only a refused undo gets a new key: under the old one the participant would repeat its answer.
        made = at.attempt if at.status is _N.UNDO_WAITING else 0
        redo = at.status is _N.UNDO_REJECTED
        return scribe.write(RetryRequested, generation=at.undo_generation + redo, attempt=made, **fields)
    made = at.attempt if at.status in {_N.WAITING, _N.PROBE_WAITING} else 0
    # A participant that has said no under a key goes on saying it. In doubt, only the same key is safe.
    return scribe.write(RetryRequested, generation=at.generation + (at.status in _ANSWERED), attempt=made, **fields)


def _need_evidence(intervention: Intervention) -> None:
    if not (intervention.evidence or "").strip():
        raise InputError(
            f"to {intervention.verb} is to say what happened, so it needs evidence, which the journal keeps; "
            f"give it: --evidence"
        )


def _output(case: _Case, name: str) -> JsonValue:
    codec = case.registry.result_codec(case.record.state.plan.nodes[name].step)
    try:
        return codec.dump(codec.load(case.intervention.output))
    except InputError as error:
        raise InputError(f"the output that later steps of {name!r} get is not valid: {error}; use --output") from None
