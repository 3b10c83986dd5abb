"""Mutants of claims, attempts, keys and transactions."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from amends.aggregates.run import transitions
from amends.aggregates.run.plan import PlanNode, RetryPolicy, Role
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import REFUSED, Direction, NodeState, NodeStatus
from amends.sagas.engine import decide as decisions
from amends.sagas.engine import interventions, protocol
from amends.sagas.engine.calls import EffectCall, task_for
from amends.sagas.engine.decide import Decision, DoubtStep, ExpireClaim, FailStep, RunStep, WaitUntil, Work
from amends.sagas.engine.fact_writer import FactWriter
from amends.sagas.engine.outcome import Failed, NotFound, Outcome, Succeeded
from amends.sagas.engine.protocol import LEASE_GRACE_MS, RunProtocol
from amends.sagas.engine.transactions import run_transaction
from proving.mutant_parts import Mutant, replace_everywhere
from proving.order_mutants import A, C
from proving.plan_parts import effect_node, group, pivot_node, plan_of, retriable_node, transaction_node

__all__ = ["CALL_MUTANTS"]


def attempt_in_key(patch: pytest.MonkeyPatch) -> None:
    """Write the attempt into the idempotency key."""

    def task(*arguments: Any, attempt: int, **others: Any) -> EffectCall:  # noqa: ANN401 - as the original
        made = task_for(*arguments, attempt=attempt, **others)
        if made.direction is Direction.UNDO:
            return replace(made, call=replace(made.call, do_key=f"{made.call.do_key}/1"))
        key = f"{made.key}/{attempt}"
        return replace(made, key=key, call=replace(made.call, key=key, do_key=key))

    patch.setattr(protocol, "task_for", task)


def doubt_under_new_key(patch: pytest.MonkeyPatch) -> None:
    """Redo a step in doubt under a new key."""
    patch.setattr(interventions, "REFUSED", REFUSED | {NodeStatus.IN_DOUBT})


def refused_under_old_key(patch: pytest.MonkeyPatch) -> None:
    """Redo a refused step, or a refused undo, under its old key."""
    patch.setattr(interventions, "REFUSED", frozenset[NodeStatus]())


def refused_undo_under_old_key(patch: pytest.MonkeyPatch) -> None:
    """Retry a refused undo under its old key, and have the fold accept that."""
    patch.setattr(interventions, "REFUSED", REFUSED - {NodeStatus.UNDO_REJECTED})
    patch.setattr(transitions, "_known", lambda *_: None)


def without_limit(patch: pytest.MonkeyPatch) -> None:
    """Attempt a step without a limit."""
    patch.setattr(RetryPolicy, "delay_ms", lambda *_: 1_000)


def without_delay(patch: pytest.MonkeyPatch) -> None:
    """Attempt a step again before it is due."""
    when_due = decisions._when_due

    def decide(decision: Any, at: NodeState, now_ms: int) -> Decision:  # noqa: ANN401 - work of any kind
        return decision if isinstance(decision, RunStep) else when_due(decision, at, now_ms)

    patch.setattr(decisions, "_when_due", decide)


def lease_without_grace(patch: pytest.MonkeyPatch) -> None:
    """End a claim with the timeout of its call, while the worker may still record the answer."""
    when_due = decisions._when_due

    def decide(decision: Any, at: NodeState, now_ms: int) -> Decision:  # noqa: ANN401 - as above
        if isinstance(decision, ExpireClaim) and at.due_ms is not None:
            due_ms = at.due_ms - LEASE_GRACE_MS
            return decision if due_ms <= now_ms else WaitUntil(decision.node, due_ms)
        return when_due(decision, at, now_ms)

    patch.setattr(decisions, "_when_due", decide)


def lost_call_uncounted(patch: pytest.MonkeyPatch) -> None:
    """Start the call of a lost worker again without counting the attempt."""

    def lost(writer: FactWriter, node: PlanNode, direction: Direction, attempt: int) -> object:
        return writer.outcome(node, direction, attempt - 1, Failed("WorkerLost", "the claim ended without an answer"))

    patch.setattr(FactWriter, "lost", lost)


def spent_step_waits(patch: pytest.MonkeyPatch) -> None:
    """Leave a step whose attempts are spent as it is."""
    original = decisions._settle

    def settle(node: PlanNode, at: NodeState, now_ms: int) -> Decision | None:
        return None if at.status is NodeStatus.SPENT else original(node, at, now_ms)

    patch.setattr(decisions, "_settle", settle)


def lost_undo_is_done(patch: pytest.MonkeyPatch) -> None:
    """Count the undo of a lost worker as done."""
    original = FactWriter.lost

    def lost(writer: FactWriter, node: PlanNode, direction: Direction, attempt: int) -> object:
        if direction is Direction.UNDO:
            return writer.outcome(node, direction, attempt, Succeeded(None))
        return original(writer, node, direction, attempt)

    patch.setattr(FactWriter, "lost", lost)


def claims_without_thread(patch: pytest.MonkeyPatch) -> None:
    """Claim a call although no thread is free for it."""
    original = RunProtocol.claim_all

    def claim_all(self: RunProtocol, tx: Any, record: RunRecord, now_ms: int, *asked: Any, **_: Any) -> object:  # noqa: ANN401 - as the original
        return original(self, tx, record, now_ms, *asked)

    patch.setattr(RunProtocol, "claim_all", claim_all)


class _KeepingTx:
    """A `Tx` whose savepoints keep the writes of a step that fails."""

    def __init__(self, tx: Any) -> None:  # noqa: ANN401 - any `Tx`
        self._tx = tx

    @contextmanager
    def unit_of_work(self, **options: Any) -> Iterator[Any]:  # noqa: ANN401 - those of the original
        """Open a savepoint that no exception discards."""
        savepoint = self._tx.unit_of_work(**options)
        try:
            yield savepoint.__enter__()
        finally:
            savepoint.__exit__(None, None, None)


def keeps_failed_writes(patch: pytest.MonkeyPatch) -> None:
    """Keep the writes of a transaction that fails."""
    original = run_transaction

    def run(tx: Any, registry: Any, record: RunRecord, due: Work) -> Outcome:  # noqa: ANN401 - as the original
        return original(_KeepingTx(tx), registry, record, due)  # type: ignore[arg-type]  # it needs no more than this

    replace_everywhere(patch, original, run)


def nothing_found_is_success(patch: pytest.MonkeyPatch) -> None:
    """Count a probe that found nothing as a success."""
    original = FactWriter._forward_outcome

    def outcome(writer: FactWriter, node: PlanNode, direction: Direction, given: Outcome, fields: Any) -> object:  # noqa: ANN401 - as the original
        missing = direction is Direction.PROBE and isinstance(given, NotFound)
        return original(writer, node, direction, Succeeded(None) if missing else given, fields)

    patch.setattr(FactWriter, "_forward_outcome", outcome)


def _settling(patch: pytest.MonkeyPatch, kind: type[FailStep | DoubtStep], *, read_only: bool) -> None:
    original = decisions._settle

    def settle(node: PlanNode, at: NodeState, now_ms: int) -> Decision | None:
        if at.status in {NodeStatus.SPENT, NodeStatus.WAITING} and (node.read_only or not read_only):
            return kind(node.name)
        return original(node, at, now_ms)

    patch.setattr(decisions, "_settle", settle)


def silence_is_failure(patch: pytest.MonkeyPatch) -> None:
    """Count a step without an answer as one that did not act, and ask no probe."""
    _settling(patch, FailStep, read_only=False)


def reading_is_in_doubt(patch: pytest.MonkeyPatch) -> None:
    """Count an effect that only reads as in doubt."""
    _settling(patch, DoubtStep, read_only=True)


CALL_MUTANTS = (
    Mutant(
        fault="The idempotency key contains the attempt",
        law="never acts twice",
        plan=plan_of(A, C),
        patch=attempt_in_key,
    ),
    Mutant(
        fault="A step in doubt is redone under a new key",
        law="never acts twice",
        plan=plan_of(C, retriable_node("d", attempts=1)),
        patch=doubt_under_new_key,
        decisions=1,
    ),
    Mutant(
        fault="A refused step is redone under its old key",
        law="never fails",
        plan=plan_of(C, retriable_node("d", attempts=1)),
        patch=refused_under_old_key,
        decisions=1,
    ),
    Mutant(
        fault="A refused undo is retried under its old key, and the fold accepts that",
        law="answered keys rest",
        plan=plan_of(effect_node("a", attempts=1, undo_attempts=1), transaction_node("t", undo=False, role=Role.PIVOT)),
        patch=refused_undo_under_old_key,
        faults=2,
        decisions=1,
    ),
    Mutant(
        fault="A step is attempted without a limit",
        law="attempts are counted",
        plan=plan_of(effect_node("a", attempts=1), C),
        patch=without_limit,
    ),
    Mutant(
        fault="A step is attempted again before it is due",
        law="attempts are counted",
        plan=plan_of(A, C),
        patch=without_delay,
    ),
    Mutant(
        fault="A claim ends while its worker may still record the answer",
        law="claims are respected",
        plan=plan_of(A, C),
        patch=lease_without_grace,
    ),
    Mutant(
        fault="The call of a lost worker starts again uncounted",
        law="attempts are counted",
        plan=plan_of(A, C),
        patch=lost_call_uncounted,
    ),
    Mutant(
        fault="A step whose attempts are spent waits for ever",
        law="ends",
        plan=plan_of(effect_node("a", attempts=1), C),
        patch=spent_step_waits,
    ),
    Mutant(
        fault="The undo of a lost worker counts as done",
        law="compensated means undone",
        plan=plan_of(A, C),
        patch=lost_undo_is_done,
        faults=2,
    ),
    Mutant(
        fault="A call that waits for a thread counts as started",
        law="waits for threads",
        plan=plan_of(A, C),
        patch=claims_without_thread,
        faults=0,
    ),
    Mutant(
        fault="A transaction that fails keeps its writes",
        law="transactions are atomic",
        plan=plan_of(transaction_node("t"), C),
        patch=keeps_failed_writes,
    ),
    Mutant(
        fault="A probe that finds nothing is taken for a success",
        law="completed means once",
        plan=plan_of(effect_node("a", attempts=1, probe=True), C),
        patch=nothing_found_is_success,
    ),
    Mutant(
        fault="A step without an answer counts as one that did not act",
        law="compensated means undone",
        plan=plan_of(effect_node("a", attempts=1, probe=True), C),
        patch=silence_is_failure,
    ),
    Mutant(
        fault="An effect that only reads counts as in doubt",
        law="never fails",
        plan=plan_of(group(effect_node("a", attempts=1, read_only=True)), pivot_node("c")),
        patch=reading_is_in_doubt,
    ),
)
