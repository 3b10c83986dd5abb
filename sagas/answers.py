"""What an answer to a call means for a run, in time or late.

An answer is *current* while the run waits for it. One that comes later still matters when it tells of an effect, or of
an undo, that the journal does not know of: a worker that was paused and resumes, a call that was given up. It is never
lost and never hidden. Any other late answer says nothing that matters any more.
"""

from typing import NamedTuple, Protocol

from amends.aggregates.evolve import NODE_TRANSITIONS, WHILE
from amends.aggregates.facts import Fact
from amends.aggregates.record import RunRecord
from amends.aggregates.state import NodeStatus
from amends.sagas.outcome import Outcome, Succeeded
from amends.sagas.scribe import Scribe
from amends.sagas.task import Direction, generation_of

__all__ = ["Answer", "Called", "Settled", "fact_of_answer"]

_UNDO_BEGUN = frozenset(
    {NodeStatus.UNDO_STARTED, NodeStatus.UNDO_WAITING, NodeStatus.UNDO_SPENT, NodeStatus.UNDO_EXHAUSTED}
)


class Settled(NamedTuple):
    """What became of an answer.

    Attributes:
        record: The run after it.
        late: Whether the answer was taken although nobody waited for it any more: then nobody else will tell the
            driver, and a run that was closed may be open again.
    """

    record: RunRecord
    late: bool


class Called(Protocol):
    """A call that was made, as far as its answer goes; a `Task` is one."""

    @property
    def node(self) -> str:
        """The node."""
        ...

    @property
    def direction(self) -> Direction:
        """Which of the step's functions."""
        ...

    @property
    def attempt(self) -> int:
        """The attempt, from 1."""
        ...

    @property
    def generation(self) -> int:
        """Part of the key that it carried."""
        ...


class Answer(NamedTuple):
    """What to write down about an answer.

    Attributes:
        fact: The fact; `None` when the answer says nothing that matters any more.
        late: Whether nobody waited for it any more.
    """

    fact: Fact | None
    late: bool


def fact_of_answer(record: RunRecord, called: Called, outcome: Outcome, scribe: Scribe) -> Answer:
    """Put an answer into the past tense, whenever it comes.

    Args:
        record: The run at its head.
        called: The call.
        outcome: Its answer.
        scribe: What writes the next fact of the record.
    """
    if _is_current(record, called):
        node = record.state.plan.nodes[called.node]
        return Answer(scribe.outcome(node, called.direction, called.attempt, outcome), late=False)
    if isinstance(outcome, Succeeded) and called.direction is Direction.UNDO:
        return Answer(_late_undo(record, called, outcome, scribe), late=True)
    if isinstance(outcome, Succeeded) and called.direction is Direction.DO:
        return Answer(_late_effect(record, called, outcome, scribe), late=True)
    return Answer(None, late=True)


def _is_current(record: RunRecord, called: Called) -> bool:
    at = record.state.node(called.node)
    if record.state.closed or generation_of(at, called.direction) != called.generation:
        return False
    match called.direction:
        case Direction.DO:
            return at.status is NodeStatus.STARTED and at.attempt == called.attempt
        case Direction.UNDO:
            return at.status is NodeStatus.UNDO_STARTED and at.attempt == called.attempt
        case Direction.PROBE:
            return at.status in {NodeStatus.WAITING, NodeStatus.SPENT, NodeStatus.PROBE_WAITING}


def _late_effect(record: RunRecord, called: Called, outcome: Succeeded, scribe: Scribe) -> Fact | None:
    at = record.state.node(called.node)
    follows = NODE_TRANSITIONS[at.status]
    open_forward = record.state.status in WHILE["StepSucceeded"]
    if at.generation == called.generation and "StepSucceeded" in follows and open_forward:
        return scribe.outcome(record.state.plan.nodes[called.node], called.direction, called.attempt, outcome)
    if called.generation < at.generation or "LateEffectObserved" in follows:
        return scribe.late(called.node, called.attempt, called.generation, outcome.result)
    return None


def _late_undo(record: RunRecord, called: Called, outcome: Succeeded, scribe: Scribe) -> Fact | None:
    at = record.state.node(called.node)
    if at.undo_generation != called.generation or at.status not in _UNDO_BEGUN:
        return None
    if record.state.status not in WHILE["CompensationSucceeded"]:
        return None
    return scribe.outcome(record.state.plan.nodes[called.node], called.direction, called.attempt, outcome)
