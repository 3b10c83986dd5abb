"""The view of a run while it goes on: a fold of its facts into rows.

Nothing here reads, waits or prints. Texts of users stay raw: the caller escapes them before it prints.
"""

from dataclasses import dataclass, replace

from amends.aggregates.run.facts import (
    AttentionRequested,
    CancelRequested,
    CompensationRejected,
    Fact,
    LateEffectObserved,
    NodeFact,
    OperatorFact,
    RetryRequested,
    SagaCompensated,
    SagaCompleted,
    SagaFailed,
    StepFailed,
    StepRejected,
)
from amends.aggregates.run.plan import Plan, Role
from amends.cli.views.fact_words import Change, Mark, words

__all__ = ["Board", "Row"]


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
        change = words(fact).change
        match fact:
            case SagaFailed():
                self._turned = True
            case SagaCompleted() | SagaCompensated() | AttentionRequested() | CancelRequested():
                self._halted = True
            case RetryRequested() if change is not None:
                self._halted = False
                self._retry(fact.node, change)
            case NodeFact() if change is not None:
                self._apply_to_node(fact, change)
        self._last_ms = fact.as_of_ms

    def _apply_to_node(self, fact: NodeFact, change: Change) -> None:
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

    def _retry(self, node: str, change: Change) -> None:
        """Show that a node is attempted again: its undo if that has begun, else the step."""
        key = (node, (node, True) in self._rows)
        before = self._rows.get(key) or Row(*key)
        self._rows[key] = replace(before, mark=change.mark, text=change.text, ended_ms=None, due_ms=None)

    def _is_pivot(self, name: str) -> bool:
        return self._plan.nodes[name].role is Role.PIVOT

    def _next_nodes(self) -> frozenset[str]:
        """Return the nodes of the first stage that is not done: they are running, with or without a fact about it."""
        for stage in self._plan.stages:
            if any(self._rows[node.name, False].mark is not Mark.DONE for node in stage.nodes):
                return frozenset(node.name for node in stage.nodes)
        return frozenset()
