"""Mutants of answers: late ones, repeated ones, refusals, and those that meet an operator's decision."""

from typing import Any

import pytest

from amends.aggregates.run import transitions
from amends.aggregates.run.fact import Head
from amends.aggregates.run.plan import PlanNode
from amends.aggregates.run.state import NodeState, NodeStatus
from amends.sagas.engine import answers
from amends.sagas.engine.answers import LateAnswer, Settled, fact_of_answer
from amends.sagas.engine.decide import RequestAttention
from amends.sagas.engine.fact_writer import FactWriter
from amends.sagas.engine.outcome import Failed, Outcome, Refused
from amends.sagas.engine.protocol import RunProtocol
from proving.mutant_parts import Mutant, replace_everywhere
from proving.order_mutants import ONE_ATTEMPT, A, C
from proving.plan_parts import effect_node, plan_of, retriable_node

__all__ = ["ANSWER_MUTANTS"]


def drops_late_answers(patch: pytest.MonkeyPatch) -> None:
    """Drop an answer that the run no longer waits for."""

    def fact_of(*arguments: Any) -> LateAnswer:  # noqa: ANN401 - as the original
        answer = fact_of_answer(*arguments)
        return LateAnswer(None, late=True) if answer.late else answer

    replace_everywhere(patch, fact_of_answer, fact_of)


def drops_answers_of_former_driver(patch: pytest.MonkeyPatch) -> None:
    """Drop the answer to a call of a driver that no longer has the run."""
    original = RunProtocol.settle

    def settle(self: RunProtocol, tx: Any, task: Any, outcome: Outcome, now_ms: int) -> Settled:  # noqa: ANN401 - as the original
        record = tx.record(task.run_id)
        return original(self, tx, task, outcome, now_ms) if self.drives(record) else Settled(record, late=False)

    patch.setattr(RunProtocol, "settle", settle)


def known_effect_is_news(patch: pytest.MonkeyPatch) -> None:
    """Count the answer of a known effect as a late effect, and let the fold accept that."""
    patch.setattr(answers, "_is_known", lambda *_: False)
    patch.setattr(transitions, "_known", lambda *_: None)


def late_effect_keeps_undo_key(patch: pytest.MonkeyPatch) -> None:
    """Undo a late effect under the key of the undo before it."""
    original = transitions._changed

    def changed(node: NodeState, status: NodeStatus, head: Head) -> NodeState:
        return original(node, status, head)._replace(undo_generation=node.undo_generation)

    patch.setattr(transitions, "_changed", changed)


def decision_hides_answers(patch: pytest.MonkeyPatch) -> None:
    """Drop an answer about a step that an operator has skipped."""
    patch.setattr(transitions, "TOLD_ONLY", {})


def _as_failure(given: Outcome) -> Outcome:
    return Failed("Refused", given.reason) if isinstance(given, Refused) else given


def refusal_is_failure(patch: pytest.MonkeyPatch) -> None:
    """Count a refusal as an attempt without an answer."""
    original = FactWriter._forward_outcome

    def outcome(writer: FactWriter, node: PlanNode, direction: Any, given: Outcome, fields: Any) -> object:  # noqa: ANN401 - as the original
        return original(writer, node, direction, _as_failure(given), fields)

    patch.setattr(FactWriter, "_forward_outcome", outcome)


def refused_undo_is_failure(patch: pytest.MonkeyPatch) -> None:
    """Count a refused undo as an attempt without an answer, so that the driver retries it under its key."""
    original = FactWriter._undo_outcome

    def outcome(writer: FactWriter, node: PlanNode, given: Outcome, fields: Any) -> object:  # noqa: ANN401 - as the original
        return original(writer, node, _as_failure(given), fields)

    patch.setattr(FactWriter, "_undo_outcome", outcome)


def names_every_node(patch: pytest.MonkeyPatch) -> None:
    """Ask an operator about every node, and not about the open ones."""
    original = FactWriter.conclusion

    def conclusion(writer: FactWriter, given: Any) -> object:  # noqa: ANN401 - as the original
        if isinstance(given, RequestAttention):
            given = RequestAttention(tuple(writer.record.state.nodes))
        return original(writer, given)

    patch.setattr(FactWriter, "conclusion", conclusion)


def records_every_answer(patch: pytest.MonkeyPatch) -> None:
    """Record a refused undo as often as its answer comes."""
    original = answers._is_known

    def is_known(record: Any, called: Any, outcome: Outcome) -> bool:  # noqa: ANN401 - as the original
        return not isinstance(outcome, Refused) and original(record, called, outcome)

    patch.setattr(answers, "_is_known", is_known)
    patch.setattr(transitions, "_known", lambda *_: None)


ANSWER_MUTANTS = (
    Mutant(
        fault="A late answer is dropped",
        law="answers are kept",
        plan=plan_of(ONE_ATTEMPT, C),
        patch=drops_late_answers,
    ),
    Mutant(
        fault="The answer to a call of the former driver is dropped",
        law="answers are kept",
        plan=plan_of(A, C),
        patch=drops_answers_of_former_driver,
        faults=0,
        decisions=1,
    ),
    Mutant(
        fault="An effect that is known to have acted is recorded, and undone, again",
        law="known effects are no news",
        plan=plan_of(A, C),
        patch=known_effect_is_news,
        faults=2,
    ),
    Mutant(
        fault="A late effect is undone under the key of the undo before it",
        law="never fails",
        plan=plan_of(ONE_ATTEMPT, C),
        patch=late_effect_keeps_undo_key,
    ),
    Mutant(
        fault="An answer about a step that an operator has skipped is dropped",
        law="answers are kept",
        plan=plan_of(C, retriable_node("d", attempts=1)),
        patch=decision_hides_answers,
        decisions=1,
    ),
    Mutant(
        fault="A refusal counts as an attempt without an answer",
        law="repeats",
        plan=plan_of(A, C),
        patch=refusal_is_failure,
    ),
    Mutant(
        fault="A refused undo counts as an attempt without an answer",
        law="repeats",
        plan=plan_of(A, C),
        patch=refused_undo_is_failure,
        faults=2,
    ),
    Mutant(
        fault="A run that needs attention names every step",
        law="attention names what is open",
        plan=plan_of(A, C, retriable_node("d")),
        patch=names_every_node,
    ),
    Mutant(
        fault="A refusal is recorded as often as its answer comes",
        law="repeats",
        plan=plan_of(effect_node("a", attempts=1), C),
        patch=records_every_answer,
    ),
)
