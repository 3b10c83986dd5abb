"""The facts of a saga run: the events in its stream in the journal.

Facts are past tense, frozen and versioned. The module lists facts about steps and compensations, then facts about the
run, then decisions of operators, which always record the operator, the reason and the evidence. The fields that all
facts share are in `amends.aggregates.run.fact`.
"""

from typing import get_args

from pydantic import JsonValue

from amends.aggregates.run.fact import (
    AttemptFact,
    ClaimFact,
    Fact,
    FactKind,
    FailureFact,
    Head,
    NodeFact,
    PostponedFact,
    run_of,
    stream_of_run,
)

__all__ = [
    "FACTS",
    "AnyFact",
    "AttentionRequested",
    "CancelRequested",
    "CompensationAttemptFailed",
    "CompensationExhausted",
    "CompensationPostponed",
    "CompensationRejected",
    "CompensationResolved",
    "CompensationSkipped",
    "CompensationStarted",
    "CompensationSucceeded",
    "DriverTaken",
    "Fact",
    "FactKind",
    "Head",
    "LateEffectObserved",
    "NodeFact",
    "OperatorFact",
    "PostponedFact",
    "ProbeAttemptFailed",
    "ProbePostponed",
    "RetryRequested",
    "SagaCompensated",
    "SagaCompleted",
    "SagaFailed",
    "SagaStarted",
    "StepAttemptFailed",
    "StepFailed",
    "StepInDoubt",
    "StepPostponed",
    "StepRejected",
    "StepResolved",
    "StepRuledOut",
    "StepSkipped",
    "StepStarted",
    "StepSucceeded",
    "run_of",
    "stream_of_run",
]


class SagaStarted(Fact):
    """The store accepted the run; from here on a driver advances it to its end.

    Attributes:
        saga: Name of the saga.
        fingerprint: The plan that the run follows.
        input: The validated input, as JSON.
        keys: Declared business keys and their values, as text.
        store_id: The store that accepted the run; a worker on another store refuses it.
        driver: The driver that advances the run (`temporal` or `in-process`).
        epoch: Raised when another driver takes over.
        guarantees: The guarantee for every node's effect, by node.
    """

    saga: str
    fingerprint: str
    input: JsonValue
    keys: dict[str, str]
    store_id: str
    driver: str
    epoch: int
    guarantees: dict[str, str]


class StepStarted(ClaimFact):
    """A worker is about to call an effect; the fact is durable before the call starts."""


class StepSucceeded(AttemptFact):
    """The step took effect.

    Attributes:
        attempt: The attempt that succeeded; the last attempt if a probe found the effect.
        result: The value that the step returned, as JSON.
        probed: Whether the probe found the effect after the reply was lost.
    """

    result: JsonValue
    probed: bool = False


class StepRejected(AttemptFact):
    """The participant refused the call: no attempt under this key took effect.

    Attributes:
        attempt: The refused attempt.
        reason: The participant's words.
    """

    reason: str


class StepAttemptFailed(FailureFact):
    """An attempt ended without an answer; it is unknown whether it took effect."""


class StepPostponed(PostponedFact):
    """The step asked for a value that this run cannot supply with the deployed code; the run waits for other code.

    A transaction was rolled back; for an effect it is unknown whether it took effect.
    """


class ProbeAttemptFailed(FailureFact):
    """An attempt to probe a step ("did it happen?") failed."""


class ProbePostponed(PostponedFact):
    """The probe asked for a value that this run cannot supply with the deployed code; the run waits for other code."""


class StepFailed(NodeFact):
    """The run gave up the step, which is known to have had no effect.

    Attributes:
        reason: The evidence: its transaction was rolled back, the probe found nothing, or the step is read-only.
    """

    reason: str


class StepInDoubt(NodeFact):
    """The run gave up the step, and it is unknown whether it took effect.

    Attributes:
        reason: Why that is unknown.
    """

    reason: str


class CompensationStarted(ClaimFact):
    """A worker is about to call the compensation of an effect; the fact is durable before the call starts."""


class CompensationSucceeded(AttemptFact):
    """The step is undone.

    Attributes:
        attempt: The attempt that succeeded.
    """


class CompensationRejected(AttemptFact):
    """The participant refused to undo the step: the step stays, and the other compensations continue.

    There is no automatic retry. A retry by an operator uses a new key, because the participant would repeat its answer
    under this one.

    Attributes:
        attempt: The refused attempt.
        reason: The participant's words.
    """

    reason: str


class CompensationAttemptFailed(FailureFact):
    """An attempt to undo ended without an answer; the next attempt uses the same key."""


class CompensationPostponed(PostponedFact):
    """The undo asked for a value that this run cannot supply with the deployed code; the run waits for other code."""


class CompensationExhausted(NodeFact):
    """The compensation's attempts are spent: the step is not undone, and the other compensations continue."""


class LateEffectObserved(AttemptFact):
    """A call that the run had given up took effect after all; its answer came when the step had another outcome.

    The journal holds it at most once per key, and only if it holds no success under that key. In a run that goes
    forward the step counts as succeeded. In a run that goes back, or is closed as compensated, the step is undone
    (again); if an undo had begun, the next one uses a new key.

    Attributes:
        attempt: The attempt that answered.
        result: The value that the step returned, as JSON.
    """

    result: JsonValue


class SagaFailed(Fact):
    """The run turned round: from here on it compensates its steps.

    Attributes:
        node: The node that failed.
        reason: The reason, from the node's last fact.
    """

    node: str
    reason: str


class SagaCompleted(Fact):
    """Every step succeeded."""


class SagaCompensated(Fact):
    """Every step that may have taken effect is undone, or is declared to stay."""


class AttentionRequested(Fact):
    """The run cannot end automatically; an operator has to decide.

    Attributes:
        nodes: Exactly the open nodes.
        reason: Why the run cannot go on.
    """

    nodes: tuple[str, ...]
    reason: str


class DriverTaken(Fact):
    """Another driver advances the run from here on.

    Attributes:
        driver: The new driver (`temporal` or `in-process`).
        epoch: The previous epoch plus 1.
        reason: The reason for the change.
    """

    driver: str
    epoch: int
    reason: str


class CancelRequested(Fact):
    """Someone asked for the run to be undone: it begins no step, waits for the calls in flight, then turns round.

    If the pivot succeeds meanwhile, the request has come too late and the run goes forward.

    Attributes:
        reason: The reason for the request.
    """

    reason: str


class OperatorFact(NodeFact):
    """A decision of an operator about a node; `actor` names the operator.

    Attributes:
        reason: The reason for the decision.
        evidence: The evidence for it, such as a link or a receipt; `None` when the operator gave none.
    """

    reason: str
    evidence: str | None = None


class RetryRequested(OperatorFact):
    """Attempt the step, its probe or its compensation again, at once.

    Attributes:
        attempt: The number of attempts that count as used; 0 for a new budget.
        generation: The generation from here on; higher than before when the former attempts had a definite answer.
    """

    attempt: int

    @property
    def head(self) -> Head:
        """The part on which decisions depend: the attempts used, and that the next one is due at once."""
        return super().head._replace(attempt=self.attempt, due_ms=self.as_of_ms)


class StepSkipped(OperatorFact):
    """Continue without the step, as if it had returned this result.

    Attributes:
        result: The result that later steps get, as JSON.
    """

    result: JsonValue


class StepResolved(OperatorFact):
    """An operator found out that the step took effect.

    Attributes:
        result: The value that it returned, as JSON.
    """

    result: JsonValue


class StepRuledOut(OperatorFact):
    """An operator found out that the step took no effect."""


class CompensationSkipped(OperatorFact):
    """Keep the effect of the step: it stays by the operator's decision."""


class CompensationResolved(OperatorFact):
    """An operator found out that the step is undone, or undid it by other means."""


AnyFact = (
    SagaStarted
    | StepStarted
    | StepSucceeded
    | StepRejected
    | StepAttemptFailed
    | StepPostponed
    | ProbeAttemptFailed
    | ProbePostponed
    | StepFailed
    | StepInDoubt
    | CompensationStarted
    | CompensationSucceeded
    | CompensationRejected
    | CompensationAttemptFailed
    | CompensationPostponed
    | CompensationExhausted
    | LateEffectObserved
    | SagaFailed
    | SagaCompleted
    | SagaCompensated
    | AttentionRequested
    | DriverTaken
    | CancelRequested
    | RetryRequested
    | StepSkipped
    | StepResolved
    | StepRuledOut
    | CompensationSkipped
    | CompensationResolved
)
"""A fact of any kind: with it, the type checker finds a `match` that omits a kind."""


FACTS: dict[str, type[Fact]] = {cls.kind: cls for cls in get_args(AnyFact)}
"""Every kind of fact by its name: the allow-list for run streams."""
