"""The words for every kind of fact: the one home of them, for every view that shows facts. Pure.

`words` matches all classes of facts, so the type checker names this module when a new kind of fact has no words. Texts
of users stay raw: the caller escapes them before it prints.
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from pydantic import JsonValue

from amends.aggregates.run.fact import ClaimFact, FailureFact, PostponedFact
from amends.aggregates.run.facts import (
    AnyFact,
    AttentionRequested,
    CancelRequested,
    CompensationAttemptFailed,
    CompensationExhausted,
    CompensationPostponed,
    CompensationRejected,
    CompensationResolved,
    CompensationSkipped,
    CompensationStarted,
    CompensationSucceeded,
    DriverTaken,
    Fact,
    LateEffectObserved,
    NodeFact,
    OperatorFact,
    ProbeAttemptFailed,
    ProbePostponed,
    RetryRequested,
    SagaCompensated,
    SagaCompleted,
    SagaFailed,
    SagaStarted,
    StepAttemptFailed,
    StepFailed,
    StepInDoubt,
    StepPostponed,
    StepRejected,
    StepResolved,
    StepRuledOut,
    StepSkipped,
    StepStarted,
    StepSucceeded,
)
from amends.aggregates.values.strict_json import readable_json
from amends.cli.views.times import duration

__all__ = ["Change", "FactWords", "Mark", "result_text", "words"]


class Mark(Enum):
    """The state of a step, or of its undo, at a glance."""

    PENDING = "pending"
    BUSY = "busy"
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    OPEN = "open"


class Change(NamedTuple):
    """The state of a step, or of its undo, after a fact.

    Attributes:
        undo: Whether the fact changes the undo.
        mark: The state.
        text: A note about it; empty if the mark is enough.
        due_ms: Time of the next attempt, in milliseconds since the epoch; `None` if it is not waiting for one.
    """

    undo: bool
    mark: Mark
    text: str = ""
    due_ms: int | None = None


@dataclass(frozen=True, slots=True)
class FactWords:
    """One fact in words.

    Attributes:
        line: The fact as a line of its own.
        detail: The part of it that a table has no other column for; empty if there is none.
        why: The reason or the error in the fact; `None` if it has neither.
        error: The error or the refusal of a node; `None` if the fact records none.
        change: The new state of the node, or of its undo; `None` for a fact about the run.
        decided: The actor, the reason and the evidence of a decision; `None` for any other fact.
        result: The result of the step, as JSON text; `None` if the fact has none.
    """

    line: str
    detail: str = ""
    why: str | None = None
    error: str | None = None
    change: Change | None = None
    decided: str | None = None
    result: str | None = None


def words(fact: Fact) -> FactWords:
    """Return a fact in words.

    Args:
        fact: A fact of one of the kinds that the journal holds.

    Raises:
        TypeError: The class of the fact is not the class of a kind.
    """
    if not isinstance(fact, AnyFact):
        msg = f"{type(fact).__name__} is no kind of fact; add it to AnyFact"
        raise TypeError(msg)
    match fact:
        case ClaimFact():
            return _claim(fact)
        case FailureFact():
            return _failure(fact)
        case PostponedFact():
            return _postponed(fact)
        case StepSucceeded() | StepRejected() | StepFailed() | StepInDoubt() | LateEffectObserved():
            return _step(fact)
        case CompensationSucceeded() | CompensationRejected() | CompensationExhausted():
            return _undo(fact)
        case OperatorFact():
            return _operator(fact)
        case _:
            return _run(fact)


# ---- attempts


def _claim(fact: StepStarted | CompensationStarted) -> FactWords:
    attempt = f"attempt {fact.attempt}"
    undo = isinstance(fact, CompensationStarted)
    change = Change(undo, Mark.BUSY, "" if fact.attempt == 1 else attempt)
    return FactWords(_line(fact, change, f"{attempt} started"), f"by {fact.worker}", change=change)


def _failure(fact: StepAttemptFailed | ProbeAttemptFailed | CompensationAttemptFailed) -> FactWords:
    error = f"{fact.error_type}: {fact.error}"
    asked = "asking, " if isinstance(fact, ProbeAttemptFailed) else ""
    undo = isinstance(fact, CompensationAttemptFailed)
    change = Change(undo, Mark.WAITING, f"{asked}attempt {fact.attempt} failed: {error}", fact.retry_at_ms)
    detail = f"{_again(fact.retry_at_ms, fact)}; {error}"
    return FactWords(_waiting_line(fact, change), detail, error, error, change)


def _postponed(fact: StepPostponed | ProbePostponed | CompensationPostponed) -> FactWords:
    undo = isinstance(fact, CompensationPostponed)
    change = Change(undo, Mark.WAITING, f"waits: {fact.reason}", fact.retry_at_ms)
    detail = f"no attempt used, {_again(fact.retry_at_ms, fact)}; {fact.reason}"
    return FactWords(_waiting_line(fact, change), detail, fact.reason, fact.reason, change)


def _again(due_ms: int | None, fact: Fact) -> str:
    return "no more attempts" if due_ms is None else f"again in {duration(max(0, due_ms - fact.as_of_ms))}"


def _waiting_line(fact: NodeFact, change: Change) -> str:
    due_ms = change.due_ms
    again = "" if due_ms is None else f"; again in {max(0, due_ms - fact.as_of_ms) / 1000:.1f} s"
    return _line(fact, change, change.text + again)


# ---- ends of steps and of undos


def _step(fact: StepSucceeded | StepRejected | StepFailed | StepInDoubt | LateEffectObserved) -> FactWords:
    match fact:
        case StepSucceeded(probed=probed):
            change = Change(undo=False, mark=Mark.DONE, text="found by its probe" if probed else "")
            line = _line(fact, change, f"succeeded{' (found by its probe)' * probed}")
            return _with_result(fact, line, "found by the probe" * probed, change)
        case LateEffectObserved():
            change = Change(undo=False, mark=Mark.DONE, text="took effect late")
            return _with_result(fact, _line(fact, change), "late answer", change)
        case StepRejected():
            return _no_success(fact, Change(undo=False, mark=Mark.FAILED, text=f"refused: {fact.reason}"))
        case StepFailed():
            return _no_success(fact, Change(undo=False, mark=Mark.FAILED, text=f"failed: {fact.reason}"))
        case StepInDoubt():
            return _no_success(fact, Change(undo=False, mark=Mark.OPEN, text=f"in doubt: {fact.reason}"))


def _no_success(fact: StepRejected | StepFailed | StepInDoubt, change: Change) -> FactWords:
    return FactWords(_line(fact, change), fact.reason, fact.reason, fact.reason, change)


def _with_result(fact: StepSucceeded | LateEffectObserved, line: str, note: str, change: Change) -> FactWords:
    detail = ": ".join(filter(None, (note, result_text(fact.result))))
    return FactWords(line, detail, change=change, result=readable_json(fact.result))


def _undo(fact: CompensationSucceeded | CompensationRejected | CompensationExhausted) -> FactWords:
    match fact:
        case CompensationSucceeded():
            change = Change(undo=True, mark=Mark.DONE)
            return FactWords(_line(fact, change, "undone"), change=change)
        case CompensationRejected(reason=reason):
            change = Change(undo=True, mark=Mark.OPEN, text=f"not undone: refused: {reason}")
            return FactWords(_line(fact, change), reason, reason, f"its undo was refused: {reason}", change)
        case CompensationExhausted():
            change = Change(undo=True, mark=Mark.OPEN, text="not undone: no attempts are left")
            return FactWords(_line(fact, change), change=change)


def _line(fact: NodeFact, change: Change, text: str | None = None) -> str:
    """Return a line about the node or its undo; without a text of its own it has the change's."""
    subject = f"undo of {fact.node}" if change.undo else fact.node
    return f"{subject}: {change.text if text is None else text}"


# ---- decisions

_Operator = RetryRequested | StepSkipped | StepResolved | StepRuledOut | CompensationSkipped | CompensationResolved


def _operator(fact: _Operator) -> FactWords:
    match fact:
        case RetryRequested():
            return _decision(fact, Mark.WAITING, "to be retried")
        case StepSkipped():
            return _decision(fact, Mark.DONE, "skipped", result=(fact.result,))
        case StepResolved():
            return _decision(fact, Mark.DONE, "found to have taken effect", result=(fact.result,))
        case StepRuledOut():
            return _decision(fact, Mark.FAILED, "found to have taken no effect")
        case CompensationSkipped():
            return _decision(fact, Mark.DONE, "effect kept", undo=True)
        case CompensationResolved():
            return _decision(fact, Mark.DONE, "found to be undone", undo=True)


def _decision(
    fact: OperatorFact, mark: Mark, text: str, *, undo: bool = False, result: tuple[JsonValue, ...] = ()
) -> FactWords:
    decided = _who_and_why(fact)
    change = Change(undo, mark, f"{text}, {decided}")
    shown = result_text(result[0]) if result else ""
    return FactWords(
        _line(fact, change),
        decided + (f"; result: {shown}" if shown else ""),
        fact.reason,
        change=change,
        decided=decided,
        result=readable_json(result[0]) if result else None,
    )


def _who_and_why(fact: OperatorFact | CancelRequested | DriverTaken) -> str:
    """Return the actor, reason and evidence of a decision, such as `by op: seen in the ledger; evidence: TX-7`."""
    evidence = fact.evidence if isinstance(fact, OperatorFact) else None
    return f"by {fact.actor}: {fact.reason}" + (f"; evidence: {evidence}" if evidence else "")


# ---- the run

_Run = SagaStarted | SagaFailed | SagaCompleted | SagaCompensated | AttentionRequested | CancelRequested | DriverTaken


def _run(fact: _Run) -> FactWords:
    match fact:
        case SagaStarted():
            return FactWords(f"run {fact.run_id} of {fact.saga} accepted", f"{fact.saga} {readable_json(fact.input)}")
        case SagaFailed(reason=reason):
            return FactWords("turning back: undoing the steps that may have acted", reason, reason)
        case SagaCompleted():
            return FactWords("completed")
        case SagaCompensated():
            return FactWords("compensated")
        case AttentionRequested(reason=reason):
            return FactWords(f"needs attention ({', '.join(fact.nodes)}): {reason}", reason, reason)
        case CancelRequested():
            decided = _who_and_why(fact)
            return FactWords(f"cancel requested, {decided}", decided, fact.reason, decided=decided)
        case DriverTaken():
            decided = _who_and_why(fact)
            detail = f"{fact.driver}, {decided}"
            return FactWords(f"now driven by {detail}", detail, fact.reason, decided=decided)


def result_text(value: JsonValue) -> str:
    """Return a step's result as text; empty for a step without one."""
    return "" if value is None else readable_json(value)
