"""Decide which fact, if any, the answer to a call adds to a run, in time or late.

Theory of operation: an answer is *current* while the run waits for it; then it is the outcome of the attempt, whichever
kind it is. A later answer is recorded if it is definite (the step or its undo took effect, or the participant refused)
and the journal holds no definite outcome under its key. So no answer is lost, and none is recorded twice.

| late answer | no fact is written if | otherwise |
|---|---|---|
| the step took effect | a success is known under the key | `StepSucceeded` or `LateEffectObserved` |
| the step was refused, or its probe found nothing | any outcome is known under the key | `StepRejected`, `StepFailed` |
| the undo took effect | a success is known under the key | `CompensationSucceeded` |
| the undo was refused | any outcome is known under the key | `CompensationRejected` |
| an error, a timeout | always: the journal already counts the outcome as unknown | |

If the run has gone on under another key, or an operator has decided, the fact adds to the knowledge about its key and
changes nothing else (`told_only`).
"""

from typing import NamedTuple, Protocol

from amends.aggregates.errors import TransitionError
from amends.aggregates.run.facts import Fact
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import CLAIMED, Direction, NodeStatus
from amends.sagas.engine.calls import generation_of
from amends.sagas.engine.fact_writer import FactWriter
from amends.sagas.engine.outcome import Failed, Outcome, Succeeded

__all__ = ["Called", "LateAnswer", "Settled", "fact_of_answer"]

_N = NodeStatus
# The step is not over: an answer under its key is its outcome.
_OPEN = frozenset({_N.PENDING, _N.STARTED, _N.WAITING, _N.SPENT, _N.PROBE_WAITING})


class Settled(NamedTuple):
    """The result of recording an answer.

    Attributes:
        record: The run after the answer.
        late: Whether the answer was recorded although the run no longer waited for it. Then the caller must wake the
            driver, because no one else will, and a closed run may be open again.
    """

    record: RunRecord
    late: bool


class Called(Protocol):
    """The part of a call that its answer refers to; an `EffectCall` is one."""

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
        """The generation in the key of the call."""
        ...


class LateAnswer(NamedTuple):
    """The fact to write about an answer.

    Attributes:
        fact: The fact; `None` if the answer adds no knowledge.
        late: Whether the run no longer waited for it.
    """

    fact: Fact | None
    late: bool


def fact_of_answer(record: RunRecord, called: Called, outcome: Outcome, writer: FactWriter) -> LateAnswer:
    """Return the fact that records an answer, in time or late.

    Args:
        record: The run at its head.
        called: The call.
        outcome: Its answer.
        writer: Writes the next fact of the record.
    """
    if _is_current(record, called):
        node = record.state.plan.nodes[called.node]
        return LateAnswer(writer.outcome(node, called.direction, called.attempt, outcome), late=False)
    if isinstance(outcome, Failed) or _is_known(record, called, outcome):
        return LateAnswer(None, late=True)
    return LateAnswer(_late(record, called, outcome, writer), late=True)


def _is_current(record: RunRecord, called: Called) -> bool:
    at = record.state.node(called.node)
    if record.state.closed or generation_of(at, called.direction) != called.generation:
        return False
    match called.direction:
        case Direction.DO | Direction.UNDO:
            return CLAIMED.get(at.status) is called.direction and at.attempt == called.attempt
        case Direction.PROBE:
            return at.status in {_N.WAITING, _N.SPENT, _N.PROBE_WAITING}


def _is_known(record: RunRecord, called: Called, outcome: Outcome) -> bool:
    answers, generation = record.state.node(called.node).answers, called.generation
    undo = called.direction is Direction.UNDO
    if isinstance(outcome, Succeeded):
        return generation in (answers.undone if undo else answers.acted)
    return answers.of(generation, undo=undo)


def _late(record: RunRecord, called: Called, outcome: Outcome, writer: FactWriter) -> Fact | None:
    at = record.state.node(called.node)
    node = record.state.plan.nodes[called.node]
    if called.direction is Direction.PROBE and at.status is _N.STARTED and not isinstance(outcome, Succeeded):
        # The probe asked about the attempts before this one, and this one may still act.
        return None
    fact = writer.outcome(node, called.direction, called.attempt, outcome, generation=called.generation)
    if called.direction is not Direction.UNDO and isinstance(outcome, Succeeded):
        waiting = at.generation == called.generation and at.status in _OPEN and not record.state.closed
        if not waiting:
            fact = writer.late(called.node, called.attempt, called.generation, outcome.result)
    try:
        record.apply(fact)
    except TransitionError:
        # This happens only if the store is an older copy that does not hold the call; such a run is refused and
        # reported.
        return None
    return fact
