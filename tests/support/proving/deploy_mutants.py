"""Mutants of runs that the deployed code cannot continue."""

from typing import Any

import pytest

from amends.aggregates.errors import CannotContinueError
from amends.aggregates.run.record import RunRecord
from amends.sagas.engine import protocol
from amends.sagas.engine.calls import EffectCall
from amends.sagas.engine.decide import Work
from amends.sagas.engine.fact_writer import FactWriter
from amends.sagas.engine.outcome import Failed, Outcome
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.engine.transactions import run_transaction
from proving.mutant_parts import Mutant
from proving.order_mutants import A, C
from proving.plan_parts import plan_of, transaction_node

__all__ = ["DEPLOY_MUTANTS"]


def claims_without_code(patch: pytest.MonkeyPatch) -> None:
    """Claim a call before its task is built."""
    original = RunProtocol._declare

    def declare(
        self: RunProtocol,
        tx: Any,  # noqa: ANN401 - as the original
        record: RunRecord,
        due: Work,
        now_ms: int,
        *others: str,
    ) -> tuple[RunRecord, EffectCall]:
        try:
            return original(self, tx, record, due, now_ms, *others)
        except CannotContinueError:
            node = record.state.plan.nodes[due.node]
            writer = FactWriter(record, now_ms, tx.recorded_at_ms)
            tx.append(record, (writer.intent(node, due.direction, due.attempt, self.worker, now_ms + 1),))
            raise

    patch.setattr(RunProtocol, "_declare", declare)


def missing_code_fails(patch: pytest.MonkeyPatch) -> None:
    """Count a transaction whose code is missing as a failed attempt."""

    def run(*arguments: Any) -> Outcome:  # noqa: ANN401 - as the original
        try:
            return run_transaction(*arguments)
        except CannotContinueError as error:
            return Failed("CannotContinueError", error.why)

    patch.setattr(protocol, "run_transaction", run)


DEPLOY_MUTANTS = (
    Mutant(
        fault="A call is claimed before it is known that the code can make it",
        law="missing code changes nothing",
        plan=plan_of(A, C),
        patch=claims_without_code,
    ),
    Mutant(
        fault="A transaction whose code is missing counts as a failed attempt",
        law="missing code changes nothing",
        plan=plan_of(transaction_node("t"), C),
        patch=missing_code_fails,
    ),
)
