"""The facts of a saga run: what its stream in the journal consists of.

Facts are past tense, frozen and versioned. First what becomes of steps and compensations, then of the run; then what
operators decided, which always says who, why and on what evidence. What all facts have in common is in
`amends.aggregates.run.fact`.
"""

from pydantic import JsonValue

from amends.aggregates.run.fact import (
    AttemptFact,
    ClaimFact,
    Fact,
    FailureFact,
    Head,
    NodeFact,
    PostponedFact,
    run_of,
    stream_of_run,
)

__all__ = [
    "FACTS",
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
    """The run was accepted; from here on it is driven to its end.

    Attributes:
        saga: Name of the saga.
        fingerprint: The plan that the run follows.
        input: The validated input, as JSON.
        keys: Declared business keys and their values, as text.
        store_id: The store that accepted the run; a worker on another one refuses it.
        driver: Who advances the run (`temporal` or `in-process`).
        epoch: Raised when another driver takes over.
        guarantees: What is promised of every node's effect, by node.
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
    """An effect is about to be called: durable before the call."""


class StepSucceeded(AttemptFact):
    """The step took effect.

    Attributes:
        attempt: The attempt that succeeded; for a probe's finding the last one that was made.
        result: What the step returned, as JSON.
        probed: Whether the probe found the effect after the reply was lost.
    """

    result: JsonValue
    probed: bool = False


class StepRejected(AttemptFact):
    """The participant said no, and nothing happened: neither by this attempt nor by another one under the same key.

    Attributes:
        attempt: The attempt that was refused.
        reason: The participant's words.
    """

    reason: str


class StepAttemptFailed(FailureFact):
    """An attempt ended without an answer; whether it took effect is not known."""


class StepPostponed(PostponedFact):
    """The step asked for a value that this run cannot give with the deployed code; the run waits for other code.

    A transaction was rolled back; whether an effect took effect is not known.
    """


class ProbeAttemptFailed(FailureFact):
    """Asking "did it happen?" failed."""


class ProbePostponed(PostponedFact):
    """The probe asked for a value that this run cannot give with the deployed code; the run waits for other code."""


class StepFailed(NodeFact):
    """The step was given up, and it is known that it took no effect.

    Attributes:
        reason: How that is known: its transaction was rolled back, the probe found nothing, or it is read-only.
    """

    reason: str


class StepInDoubt(NodeFact):
    """The step was given up, and nobody knows whether it took effect.

    Attributes:
        reason: Why nobody knows.
    """

    reason: str


class CompensationStarted(ClaimFact):
    """The compensation of an effect is about to be called: durable before the call."""


class CompensationSucceeded(AttemptFact):
    """The step is undone.

    Attributes:
        attempt: The attempt that succeeded.
    """


class CompensationRejected(AttemptFact):
    """The participant refused to undo the step: it is not undone, and the other compensations go on.

    It is not asked again automatically. A retry by an operator asks under a new key, because under this one the
    participant would repeat its answer.

    Attributes:
        attempt: The attempt that was refused.
        reason: The participant's words.
    """

    reason: str


class CompensationAttemptFailed(FailureFact):
    """An attempt to undo ended without an answer; the next one carries the same key."""


class CompensationPostponed(PostponedFact):
    """The undo asked for a value that this run cannot give with the deployed code; the run waits for other code."""


class CompensationExhausted(NodeFact):
    """The compensation's attempts are spent; the step is not undone, and the others go on."""


class LateEffectObserved(AttemptFact):
    """A call that was given up took effect after all: its answer came when the step had been settled otherwise.

    It is written once per key, and only while the journal does not hold a success under that key already.
    The run takes the answer as it finds it: going forward the step has succeeded; going back, or closed as compensated,
    the step is undone (again), under a new key where an undo had begun.

    Attributes:
        attempt: The attempt that answered.
        result: What the step returned, as JSON.
    """

    result: JsonValue


class SagaFailed(Fact):
    """The run turned round: what was done is compensated from here on.

    Attributes:
        node: The node that failed.
        reason: Why, as its last fact says.
    """

    node: str
    reason: str


class SagaCompleted(Fact):
    """Every step succeeded."""


class SagaCompensated(Fact):
    """Every step that may have acted is undone, or was declared to stay."""


class AttentionRequested(Fact):
    """The run cannot end by itself; an operator has to decide.

    Attributes:
        nodes: Exactly what is open.
        reason: Why it cannot go on.
    """

    nodes: tuple[str, ...]
    reason: str


class DriverTaken(Fact):
    """Another driver advances the run from here on.

    Attributes:
        driver: Who (`temporal` or `in-process`).
        epoch: One more than before.
        reason: Why.
    """

    driver: str
    epoch: int
    reason: str


class CancelRequested(Fact):
    """Somebody wants the run undone: nothing new is begun, what is in flight settles, then the run turns round.

    If the pivot succeeds meanwhile, the request has come too late and the run goes forward.

    Attributes:
        reason: Why.
    """

    reason: str


class OperatorFact(NodeFact):
    """What an operator decided about a node; `actor` says who.

    Attributes:
        reason: Why.
        evidence: What it rests on, such as a link or a receipt; `None` when none was given.
    """

    reason: str
    evidence: str | None = None


class RetryRequested(OperatorFact):
    """Attempt the step, its probe or its compensation again, at once.

    Attributes:
        attempt: Attempts that count as made; 0 for a new budget.
        generation: The generation from here on; raised when the former attempts had a definite answer.
    """

    attempt: int

    @property
    def head(self) -> Head:
        """The part that decides."""
        return Head(
            self.originator_version,
            type(self).__name__,
            self.as_of_ms,
            self.node,
            self.attempt,
            self.as_of_ms,
            self.generation,
        )


class StepSkipped(OperatorFact):
    """Go on without the step, as if it had returned this.

    Attributes:
        result: What later steps are given as its result, as JSON.
    """

    result: JsonValue


class StepResolved(OperatorFact):
    """An operator found out that the step took effect.

    Attributes:
        result: What it returned, as JSON.
    """

    result: JsonValue


class StepRuledOut(OperatorFact):
    """An operator found out that the step took no effect."""


class CompensationSkipped(OperatorFact):
    """Leave what the step did; it stays by decision."""


class CompensationResolved(OperatorFact):
    """An operator found out that the step is undone, or undid it by other means."""


_COMMON = frozenset({NodeFact, AttemptFact, ClaimFact, FailureFact, PostponedFact, OperatorFact})


def _concrete(cls: type[Fact]) -> list[type[Fact]]:
    below: list[type[Fact]] = []
    for sub in cls.__subclasses__():
        below += [*([] if sub in _COMMON else [sub]), *_concrete(sub)]
    return below


FACTS: dict[str, type[Fact]] = {cls.__name__: cls for cls in _concrete(Fact)}
"""Every kind of fact by its name: the allow-list for run streams."""
