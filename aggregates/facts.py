"""The facts of a saga run: what its stream in the journal consists of.

Facts are past tense, frozen and versioned. What decides is in the *head* of a fact (`Head`): kind, node, attempt and
times. User data (input, results, reasons, error texts) stays in the fact and never leaves the journal; that is why
folding and deciding can happen in places that must not see it, such as a Temporal workflow.

A fact's id, `<run id>:<position>`, is deterministic: writing the same fact again is recognised as such.
"""

from typing import ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, JsonValue

__all__ = [
    "FACTS",
    "AttentionRequested",
    "CompensationAttemptFailed",
    "CompensationExhausted",
    "CompensationStarted",
    "CompensationSucceeded",
    "Fact",
    "Head",
    "NodeFact",
    "ProbeAttemptFailed",
    "SagaCompensated",
    "SagaCompleted",
    "SagaFailed",
    "SagaStarted",
    "StepAttemptFailed",
    "StepFailed",
    "StepInDoubt",
    "StepRejected",
    "StepStarted",
    "StepSucceeded",
    "run_of",
    "stream_of_run",
]

_PREFIX = "run/"


def stream_of_run(run_id: str) -> str:
    """Name the stream that holds a run's facts."""
    return _PREFIX + run_id


def run_of(stream: str) -> str | None:
    """Give the run whose facts a stream holds; `None` when it is not a run's stream."""
    return stream.removeprefix(_PREFIX) if stream.startswith(_PREFIX) else None


class Head(NamedTuple):
    """What folding needs of a fact; no user data.

    Attributes:
        position: Position in the run's stream, from 1.
        kind: Name of the fact's class.
        as_of_ms: The driver's time when it happened, in milliseconds since the epoch.
        node: The node it is about; empty for facts about the run.
        attempt: The attempt it is about, from 1; 0 where there is none.
        due_ms: End of the claim (`*Started`) or time of the next attempt (`*AttemptFailed`), in milliseconds since the
            epoch; `None` when there is none, which for `*AttemptFailed` means that the attempts are spent.
        generation: Raised by a redo or by a second undo; part of the idempotency key.
    """

    position: int
    kind: str
    as_of_ms: int
    node: str = ""
    attempt: int = 0
    due_ms: int | None = None
    generation: int = 0


class Fact(BaseModel):
    """What every fact carries.

    Attributes:
        originator_id: The stream.
        originator_version: Position in the stream, from 1.
        as_of_ms: The driver's time, in milliseconds since the epoch; the only time that decides anything.
        recorded_at_ms: Wall time of the append, in milliseconds since the epoch; for people.
        correlation_id: What all facts of one business process share; the run's id unless the caller gave one.
        causation_id: Id of the fact or message that led to this one; `None` for what came from outside without one.
        actor: Who or what brought it about.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    class_version: ClassVar[int] = 1

    originator_id: str
    originator_version: int
    as_of_ms: int
    recorded_at_ms: int
    correlation_id: str
    causation_id: str | None
    actor: str

    @property
    def kind(self) -> str:
        """Name of the fact's class."""
        return type(self).__name__

    @property
    def run_id(self) -> str:
        """Id of the run that the fact belongs to."""
        return self.originator_id[len(_PREFIX) :]

    @property
    def position(self) -> int:
        """Position in the run's stream, from 1."""
        return self.originator_version

    @property
    def id(self) -> str:
        """The fact's deterministic id, `<run id>:<position>`."""
        return f"{self.run_id}:{self.originator_version}"

    @property
    def head(self) -> Head:
        """The part that decides."""
        return Head(self.originator_version, type(self).__name__, self.as_of_ms)


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


class NodeFact(Fact):
    """A fact about one node.

    Attributes:
        node: Name of the node in the run's plan.
        generation: Raised by a redo or a second undo.
    """

    node: str
    generation: int = 0

    @property
    def head(self) -> Head:
        """The part that decides."""
        return Head(self.originator_version, type(self).__name__, self.as_of_ms, self.node, 0, None, self.generation)


class _AttemptFact(NodeFact):
    attempt: int

    @property
    def head(self) -> Head:
        return Head(
            self.originator_version,
            type(self).__name__,
            self.as_of_ms,
            self.node,
            self.attempt,
            None,
            self.generation,
        )


class _ClaimFact(_AttemptFact):
    key: str
    worker: str
    lease_until_ms: int

    @property
    def head(self) -> Head:
        return Head(
            self.originator_version,
            type(self).__name__,
            self.as_of_ms,
            self.node,
            self.attempt,
            self.lease_until_ms,
            self.generation,
        )


class _FailureFact(_AttemptFact):
    error_type: str
    error: str
    retry_at_ms: int | None

    @property
    def head(self) -> Head:
        return Head(
            self.originator_version,
            type(self).__name__,
            self.as_of_ms,
            self.node,
            self.attempt,
            self.retry_at_ms,
            self.generation,
        )


class StepStarted(_ClaimFact):
    """An effect is about to be called: durable before the call.

    Attributes:
        attempt: The attempt, from 1.
        key: The idempotency key, the same for every attempt.
        worker: Who claims the node.
        lease_until_ms: When the claim ends by itself, in milliseconds since the epoch.
    """


class StepSucceeded(_AttemptFact):
    """The step took effect.

    Attributes:
        attempt: The attempt that succeeded; for a probe's finding the last one that was made.
        result: What the step returned, as JSON.
        probed: Whether the probe found the effect after the reply was lost.
    """

    result: JsonValue
    probed: bool = False


class StepRejected(_AttemptFact):
    """The participant said no, and nothing happened.

    Attributes:
        attempt: The attempt that was refused.
        reason: The participant's words.
    """

    reason: str


class StepAttemptFailed(_FailureFact):
    """An attempt ended without an answer; whether it took effect is not known.

    Attributes:
        attempt: The attempt that failed.
        error_type: Class of the error.
        error: Its message, shortened.
        retry_at_ms: Due time of the next attempt; `None` when the attempts are spent.
    """


class ProbeAttemptFailed(_FailureFact):
    """Asking "did it happen?" failed.

    Attributes:
        attempt: The attempt to ask, from 1.
        error_type: Class of the error.
        error: Its message, shortened.
        retry_at_ms: When to ask again; `None` when the attempts are spent.
    """


class StepFailed(NodeFact):
    """The step was given up, and it is known that it took no effect.

    Attributes:
        reason: How that is known: its transaction was rolled back, or the probe found nothing.
    """

    reason: str


class StepInDoubt(NodeFact):
    """The step was given up, and nobody knows whether it took effect.

    Attributes:
        reason: Why nobody knows.
    """

    reason: str


class CompensationStarted(_ClaimFact):
    """The compensation of an effect is about to be called: durable before the call.

    Attributes:
        attempt: The attempt, from 1.
        key: The idempotency key, the same for every attempt.
        worker: Who claims the node.
        lease_until_ms: When the claim ends by itself, in milliseconds since the epoch.
    """


class CompensationSucceeded(_AttemptFact):
    """The step is undone.

    Attributes:
        attempt: The attempt that succeeded.
    """


class CompensationAttemptFailed(_FailureFact):
    """An attempt to undo failed.

    Attributes:
        attempt: The attempt that failed.
        error_type: Class of the error.
        error: Its message, shortened.
        retry_at_ms: Due time of the next attempt; `None` when the attempts are spent.
    """


class CompensationExhausted(NodeFact):
    """The compensation's attempts are spent; the step is not undone, and the others go on."""


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


def _concrete(cls: type[Fact]) -> list[type[Fact]]:
    below: list[type[Fact]] = []
    for sub in cls.__subclasses__():
        below += [*([] if sub.__name__.startswith("_") or sub is NodeFact else [sub]), *_concrete(sub)]
    return below


FACTS: dict[str, type[Fact]] = {cls.__name__: cls for cls in _concrete(Fact)}
"""Every kind of fact by its name: the allow-list for run streams."""
