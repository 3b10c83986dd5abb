"""Views of a run while it goes on: a fold of its facts into rows, and one line for each fact.

Nothing here reads, waits or prints. Texts of users stay raw: the caller escapes them before it prints.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import NamedTuple

from amends.aggregates.run.facts import (
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
    PostponedFact,
    ProbeAttemptFailed,
    RetryRequested,
    SagaCompensated,
    SagaCompleted,
    SagaFailed,
    SagaStarted,
    StepAttemptFailed,
    StepFailed,
    StepInDoubt,
    StepRejected,
    StepResolved,
    StepRuledOut,
    StepSkipped,
    StepStarted,
    StepSucceeded,
)
from amends.aggregates.run.plan import Plan, Role
from amends.cli.views.wording import who_and_why

__all__ = ["Board", "Mark", "Row", "describe"]


class Mark(Enum):
    """The state of a row, at a glance."""

    PENDING = "pending"
    BUSY = "busy"
    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Row:
    """A step, or the undo of one.

    Attributes:
        node: The node.
        undo: Whether the row is the undo.
        mark: Its state.
        text: A note about it; raw text of users may be part of it.
        began_ms: When it began, in milliseconds since the epoch; `None` if it has not.
        ended_ms: When it ended; `None` if it has not.
        due_ms: Time of the next attempt; `None` if it is not waiting for one.
    """

    node: str
    undo: bool
    mark: Mark = Mark.PENDING
    text: str = ""
    began_ms: int | None = None
    ended_ms: int | None = None
    due_ms: int | None = None


class _Change(NamedTuple):
    undo: bool
    mark: Mark
    text: str = ""
    due_ms: int | None = None


_REFUSALS = (StepRejected, StepFailed, CompensationRejected)


class Board:
    """The rows of one run: its steps in the order of the plan, then the undos.

    Args:
        plan: The plan that the run follows.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rows = {(node, False): Row(node, undo=False) for node in plan.nodes}
        self._last_ms = 0
        self._turned = False
        self._halted = False

    @property
    def rows(self) -> list[Row]:
        """The present rows, in the order of the display."""
        busy = () if self._turned or self._halted else self._next_nodes()
        return [
            replace(row, mark=Mark.BUSY, began_ms=self._last_ms)
            if row.node in busy and row.mark is Mark.PENDING
            else row
            for row in self._rows.values()
        ]

    def apply(self, fact: Fact) -> None:
        """Fold one more fact into the rows; facts come in order, from the first."""
        match fact:
            case SagaFailed():
                self._turned = True
            case SagaCompleted() | SagaCompensated() | AttentionRequested() | CancelRequested():
                self._halted = True
            case RetryRequested():
                self._halted = False
                self._retry(fact)
            case NodeFact():
                self._apply_to_node(fact)
        self._last_ms = fact.as_of_ms

    def _apply_to_node(self, fact: NodeFact) -> None:
        change = _change(fact)
        if change is None:
            return
        key = (fact.node, change.undo)
        if isinstance(fact, LateEffectObserved) and (undo := self._rows.get((fact.node, True))):
            self._rows[fact.node, True] = replace(undo, mark=Mark.PENDING, text="to be undone again", ended_ms=None)
        if isinstance(fact, OperatorFact) or (change.mark is Mark.DONE and self._is_pivot(fact.node)):
            # An operator opens a run again, and a pivot that succeeds overtakes a cancel.
            self._halted = False
        before = self._rows.get(key) or Row(fact.node, change.undo)
        if isinstance(fact, _REFUSALS) and before.mark is Mark.DONE:
            return  # a late refusal changes no decision
        # A transaction has no fact for its beginning: it begins when its predecessor has ended.
        began_ms = before.began_ms or (fact.as_of_ms if change.mark is Mark.BUSY else self._last_ms)
        ended_ms = fact.as_of_ms if change.mark in {Mark.DONE, Mark.FAILED, Mark.OPEN} else None
        self._rows[key] = Row(fact.node, change.undo, change.mark, change.text, began_ms, ended_ms, change.due_ms)

    def _retry(self, fact: RetryRequested) -> None:
        """Show that a node is attempted again: its undo if that has begun, else the step."""
        key = (fact.node, (fact.node, True) in self._rows)
        before = self._rows.get(key) or Row(*key)
        self._rows[key] = replace(before, mark=Mark.WAITING, text=_decision(fact), ended_ms=None, due_ms=None)

    def _is_pivot(self, name: str) -> bool:
        return self._plan.nodes[name].role is Role.PIVOT

    def _next_nodes(self) -> frozenset[str]:
        """Return the nodes of the first stage that is not done: they are running, with or without a fact about it."""
        for stage in self._plan.stages:
            if any(self._rows[node.name, False].mark is not Mark.DONE for node in stage.nodes):
                return frozenset(node.name for node in stage.nodes)
        return frozenset()


def _change(fact: NodeFact) -> _Change | None:
    match fact:
        case StepStarted(attempt=attempt):
            return _Change(undo=False, mark=Mark.BUSY, text=_attempt(attempt))
        case StepSucceeded(probed=probed):
            return _Change(undo=False, mark=Mark.DONE, text="found by its probe" if probed else "")
        case StepRejected(reason=reason):
            return _Change(undo=False, mark=Mark.FAILED, text=f"refused: {reason}")
        case StepAttemptFailed() | ProbeAttemptFailed():
            return _Change(undo=False, mark=Mark.WAITING, text=_failure(fact), due_ms=fact.retry_at_ms)
        case StepFailed(reason=reason):
            return _Change(undo=False, mark=Mark.FAILED, text=f"failed: {reason}")
        case StepInDoubt(reason=reason):
            return _Change(undo=False, mark=Mark.OPEN, text=f"in doubt: {reason}")
        case LateEffectObserved():
            return _Change(undo=False, mark=Mark.DONE, text="took effect late")
        case StepSkipped() | StepResolved():
            return _Change(undo=False, mark=Mark.DONE, text=_decision(fact))
        case StepRuledOut():
            return _Change(undo=False, mark=Mark.FAILED, text=_decision(fact))
        case _:
            return _undo_change(fact)


def _undo_change(fact: NodeFact) -> _Change | None:
    match fact:
        case CompensationStarted(attempt=attempt):
            return _Change(undo=True, mark=Mark.BUSY, text=_attempt(attempt))
        case CompensationSucceeded():
            return _Change(undo=True, mark=Mark.DONE)
        case CompensationAttemptFailed():
            return _Change(undo=True, mark=Mark.WAITING, text=_failure(fact), due_ms=fact.retry_at_ms)
        case CompensationRejected(reason=reason):
            return _Change(undo=True, mark=Mark.OPEN, text=f"not undone: refused: {reason}")
        case PostponedFact():
            undo = isinstance(fact, CompensationPostponed)
            return _Change(undo=undo, mark=Mark.WAITING, text=f"waits: {fact.reason}", due_ms=fact.retry_at_ms)
        case CompensationExhausted():
            return _Change(undo=True, mark=Mark.OPEN, text="not undone: no attempts are left")
        case CompensationSkipped() | CompensationResolved():
            return _Change(undo=True, mark=Mark.DONE, text=_decision(fact))
        case _:
            return None


_DECISIONS: dict[type[OperatorFact], str] = {
    RetryRequested: "to be retried",
    StepSkipped: "skipped",
    StepResolved: "found to have taken effect",
    StepRuledOut: "found to have taken no effect",
    CompensationSkipped: "effect kept",
    CompensationResolved: "found to be undone",
}


def _decision(fact: OperatorFact) -> str:
    return f"{_DECISIONS[type(fact)]}, {who_and_why(fact)}"


def _attempt(attempt: int) -> str:
    return "" if attempt == 1 else f"attempt {attempt}"


def _failure(fact: StepAttemptFailed | ProbeAttemptFailed | CompensationAttemptFailed) -> str:
    asked = "asking, " if isinstance(fact, ProbeAttemptFailed) else ""
    return f"{asked}attempt {fact.attempt} failed: {fact.error_type}: {fact.error}"


def describe(fact: Fact) -> str:
    """Return one fact in words, as a line of its own; raw text of users may be part of it."""
    match fact:
        case SagaStarted():
            return f"run {fact.run_id} of {fact.saga} accepted"
        case SagaFailed():
            return "turning back: undoing the steps that may have acted"
        case SagaCompleted():
            return "completed"
        case SagaCompensated():
            return "compensated"
        case AttentionRequested():
            return f"needs attention ({', '.join(fact.nodes)}): {fact.reason}"
        case CancelRequested():
            return f"cancel requested, {who_and_why(fact)}"
        case DriverTaken():
            return f"now driven by {fact.driver}, {who_and_why(fact)}"
        case RetryRequested():
            return f"{fact.node}: {_decision(fact)}"
        case NodeFact():
            return _describe_node(fact)
        case _:
            return fact.kind


def _describe_node(fact: NodeFact) -> str:
    change = _change(fact)
    if change is None:
        return f"{fact.node}: {fact.kind}"
    subject = f"undo of {fact.node}" if change.undo else fact.node
    if isinstance(fact, OperatorFact | LateEffectObserved):
        return f"{subject}: {change.text}"
    if change.mark is Mark.BUSY:
        return f"{subject}: {change.text or 'attempt 1'} started"
    if change.mark is Mark.WAITING:
        again = "" if change.due_ms is None else f"; again in {max(0, change.due_ms - fact.as_of_ms) / 1000:.1f} s"
        return f"{subject}: {change.text}{again}"
    done = "undone" if change.undo else "succeeded"
    note = f" ({change.text})" if change.text else ""
    return f"{subject}: {done}{note}" if change.mark is Mark.DONE else f"{subject}: {change.text}"
