"""Write facts: turn outcomes and conclusions into the facts that record them."""

from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import JsonValue

from amends.aggregates.errors import JournalError
from amends.aggregates.run.facts import (
    AttentionRequested,
    CompensationAttemptFailed,
    CompensationExhausted,
    CompensationPostponed,
    CompensationRejected,
    CompensationStarted,
    CompensationSucceeded,
    Fact,
    LateEffectObserved,
    NodeFact,
    PostponedFact,
    ProbeAttemptFailed,
    ProbePostponed,
    SagaCompensated,
    SagaCompleted,
    SagaFailed,
    StepAttemptFailed,
    StepFailed,
    StepInDoubt,
    StepPostponed,
    StepRejected,
    StepStarted,
    StepSucceeded,
)
from amends.aggregates.run.plan import PlanNode, RetryPolicy, StepKind
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import Direction, NodeStatus
from amends.sagas.engine.calls import generation_of, key_of
from amends.sagas.engine.decide import (
    CloseCompensated,
    CloseCompleted,
    Conclusion,
    DoubtStep,
    ExhaustCompensation,
    ExpireClaim,
    FailSaga,
    FailStep,
    RequestAttention,
)
from amends.sagas.engine.outcome import Failed, NotFound, Outcome, Postponed, Refused, Succeeded

__all__ = ["FactWriter"]

F = TypeVar("F", bound=Fact)

ENGINE = "amends"

_SHORTEST_WAIT_MS = 2_000
_LONGEST_WAIT_MS = 300_000
_POSTPONED: dict[Direction, type[PostponedFact]] = {
    Direction.DO: StepPostponed,
    Direction.PROBE: ProbePostponed,
    Direction.UNDO: CompensationPostponed,
}
_STILL_POSTPONED = frozenset({StepStarted.kind, CompensationStarted.kind, *(cls.kind for cls in _POSTPONED.values())})


@dataclass(frozen=True, slots=True)
class FactWriter:
    """Writes the facts that follow a record, one at a time.

    Attributes:
        record: The run at its head.
        now_ms: The driver's time, in milliseconds since the epoch.
        recorded_at_ms: Wall time of the append.
        actor: The person or program that causes the facts.
        cause: Id of the fact that led here; `None` for the head of the stream.
    """

    record: RunRecord
    now_ms: int
    recorded_at_ms: int
    actor: str = ENGINE
    cause: str | None = None

    def write(self, cls: type[F], **fields: Any) -> F:  # noqa: ANN401 - the fact's own fields
        """Return the fact of this kind that follows the record, with the given fields."""
        record = self.record
        position = record.state.position
        return cls(
            originator_id=record.started.originator_id,
            originator_version=position + 1,
            as_of_ms=max(self.now_ms, record.state.updated_ms),
            recorded_at_ms=self.recorded_at_ms,
            correlation_id=record.started.correlation_id,
            causation_id=self.cause or f"{record.run_id}:{position}",
            actor=self.actor,
            **fields,
        )

    def intent(
        self,
        node: PlanNode,
        direction: Direction,
        attempt: int,
        worker: str,
        lease_until_ms: int,
        *,
        delivery: str = "",
    ) -> Fact:
        """Return the fact that declares the intent to call."""
        generation = generation_of(self.record.state.node(node.name), direction)
        return self.write(
            CompensationStarted if direction is Direction.UNDO else StepStarted,
            node=node.name,
            generation=generation,
            attempt=attempt,
            key=key_of(self.record.run_id, node.name, direction, generation),
            worker=worker,
            lease_until_ms=lease_until_ms,
            delivery=delivery,
        )

    def outcome(
        self, node: PlanNode, direction: Direction, attempt: int, outcome: Outcome, *, generation: int | None = None
    ) -> Fact:
        """Return the fact that records an outcome.

        Args:
            node: The node.
            direction: Which of its functions was called.
            attempt: The attempt, from 1.
            outcome: The outcome of the attempt.
            generation: The generation in the key of the call; `None` for the present one.

        Raises:
            JournalError: The outcome does not belong to that direction.
        """
        if generation is None:
            generation = generation_of(self.record.state.node(node.name), direction)
        fields: dict[str, Any] = {
            "node": node.name,
            "attempt": attempt,
            "generation": generation,
        }
        if isinstance(outcome, Postponed):
            return self._postponed(_POSTPONED[direction], outcome, fields)
        if direction is Direction.UNDO:
            return self._undo_outcome(node, outcome, fields)
        return self._forward_outcome(node, direction, outcome, fields)

    def _forward_outcome(self, node: PlanNode, direction: Direction, outcome: Outcome, fields: dict[str, Any]) -> Fact:
        attempt, generation = fields["attempt"], fields["generation"]
        match direction, outcome:
            case Direction.DO, Succeeded(result):
                return self.write(StepSucceeded, result=result, **fields)
            case Direction.DO, Refused(reason):
                return self.write(StepRejected, reason=reason, **fields)
            case Direction.DO, Failed():
                return self._failure(StepAttemptFailed, node.retry, attempt, outcome, fields)
            case Direction.PROBE, Succeeded(result):
                # The fact names the last attempt of the step, because the probe has attempts of its own.
                return self.write(StepSucceeded, result=result, probed=True, **fields)
            case Direction.PROBE, NotFound():
                key = key_of(self.record.run_id, node.name, direction, generation)
                del fields["attempt"]
                return self.write(StepFailed, reason=f"the probe found nothing under {key}", **fields)
            case Direction.PROBE, Refused(reason):
                del fields["attempt"]
                return self.write(StepFailed, reason=f"the probe says: {reason}", **fields)
            case Direction.PROBE, Failed():
                return self._failure(ProbeAttemptFailed, node.retry, attempt, outcome, fields)
            case _:
                raise JournalError(f"node {node.name!r}: {outcome} is no outcome of {direction}")

    def _undo_outcome(self, node: PlanNode, outcome: Outcome, fields: dict[str, Any]) -> Fact:
        match outcome:
            case Succeeded():
                return self.write(CompensationSucceeded, **fields)
            case Refused(reason):
                return self.write(CompensationRejected, reason=reason, **fields)
            case Failed() if node.undo is not None:
                return self._failure(CompensationAttemptFailed, node.undo.retry, fields["attempt"], outcome, fields)
            case _:
                raise JournalError(f"node {node.name!r}: {outcome} is no outcome of {Direction.UNDO}")

    def late(self, node: str, attempt: int, generation: int, result: JsonValue) -> Fact:
        """Return the fact about an effect that was observed after its step had been settled otherwise."""
        return self.write(LateEffectObserved, node=node, attempt=attempt, generation=generation, result=result)

    def _failure(
        self,
        cls: type[StepAttemptFailed | ProbeAttemptFailed | CompensationAttemptFailed],
        retry: RetryPolicy,
        attempt: int,
        failed: Failed,
        fields: dict[str, Any],
    ) -> Fact:
        delay = None if failed.final else retry.delay_ms(attempt)
        due = None if delay is None else self.now_ms + delay
        trace = tuple(str(link) for link in failed.chain)
        return self.write(cls, error_type=failed.error_type, error=failed.error, trace=trace, retry_at_ms=due, **fields)

    def _postponed(self, cls: type[PostponedFact], postponed: Postponed, fields: dict[str, Any]) -> Fact:
        """Return the fact about a call that used up no attempt; the wait doubles each time."""
        since_ms = self.now_ms
        for head in reversed(self.record.recent):
            if head.node != fields["node"]:
                continue
            if head.kind not in _STILL_POSTPONED:
                break
            if head.kind == cls.kind:
                since_ms = head.as_of_ms
        wait_ms = min(max(_SHORTEST_WAIT_MS, self.now_ms - since_ms), _LONGEST_WAIT_MS)
        fields["attempt"] -= 1
        reason = f"{postponed.why}; {postponed.remedy}"
        return self.write(cls, reason=reason, retry_at_ms=self.now_ms + wait_ms, **fields)

    def conclusion(self, conclusion: Conclusion) -> Fact:
        """Return the fact that records a conclusion."""
        state = self.record.state
        match conclusion:
            case ExpireClaim(name, attempt, undo):
                return self.lost(state.plan.nodes[name], Direction.UNDO if undo else Direction.DO, attempt)
            case FailStep(name):
                rolled_back = state.plan.nodes[name].kind is StepKind.TRANSACTION
                reason = "its transaction was rolled back" if rolled_back else "a read-only effect changes nothing"
                return self._of_node(StepFailed, name, Direction.DO, reason=reason)
            case DoubtStep(name):
                return self._of_node(StepInDoubt, name, Direction.DO, reason=self._doubt(name))
            case ExhaustCompensation(name):
                return self._of_node(CompensationExhausted, name, Direction.UNDO)
            case FailSaga(name):
                return self.write(SagaFailed, node=name, reason=self._reason(name) if name else self._cancelled())
            case CloseCompleted():
                return self.write(SagaCompleted)
            case CloseCompensated():
                return self.write(SagaCompensated)
            case RequestAttention(names):
                reason = f"needs an operator: {', '.join(f'{name} is {state.node(name).status}' for name in names)}"
                return self.write(AttentionRequested, nodes=names, reason=reason)

    def _of_node(self, cls: type[NodeFact], name: str, direction: Direction, **fields: Any) -> Fact:  # noqa: ANN401 - as in `write`
        generation = generation_of(self.record.state.node(name), direction)
        return self.write(cls, node=name, generation=generation, **fields)

    def lost(self, node: PlanNode, direction: Direction, attempt: int) -> Fact:
        """Return the fact that counts an attempt as failed because its worker sent no answer."""
        return self.outcome(node, direction, attempt, Failed("WorkerLost", "the claim ended without an answer"))

    def _doubt(self, name: str) -> str:
        node = self.record.state.plan.nodes[name]
        asked = self.record.state.node(name).status is NodeStatus.PROBE_SPENT
        why = "neither did the probe" if asked else "the step has no probe" if not node.probe else "Amends gave up"
        return f"no attempt received an answer, and {why}"

    def _cancelled(self) -> str:
        return self.record.cancel or "the run was cancelled"

    def _reason(self, name: str) -> str:
        node = self.record.state.plan.nodes[name]
        kind = "transaction" if node.kind is StepKind.TRANSACTION else "effect"
        return f"the {kind} is {self.record.state.node(name).status}"
