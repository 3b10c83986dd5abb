"""The fields that all facts of a run share, and the *head*: the part on which decisions depend.

The head of a fact has kind, node, attempt and times. User data (input, results, reasons, error texts) stays in the fact
and never leaves the journal. Code that must not see user data, such as a Temporal workflow, can therefore fold heads
and decide from them.

A fact's id, `<run id>:<position>`, is deterministic, so a second write of the same fact is recognised.
"""

from enum import StrEnum
from typing import Any, ClassVar, Final, NamedTuple

from pydantic import BaseModel, ConfigDict

__all__ = [
    "IN_PROCESS_DRIVER",
    "TEMPORAL_DRIVER",
    "AttemptFact",
    "ClaimFact",
    "Fact",
    "FactKind",
    "FailureFact",
    "Head",
    "NodeFact",
    "PostponedFact",
    "run_of",
    "stream_of_run",
]

IN_PROCESS_DRIVER: Final = "in-process"
"""The driver of runs that the program advances without Temporal, as facts store it."""

TEMPORAL_DRIVER: Final = "temporal"
"""The driver of runs that Temporal advances, as facts store it."""

_PREFIX = "run/"


def stream_of_run(run_id: str) -> str:
    """Return the name of the stream that holds a run's facts."""
    return _PREFIX + run_id


def run_of(stream: str) -> str | None:
    """Return the id of the run whose facts a stream holds; `None` when it is not a run's stream."""
    return stream.removeprefix(_PREFIX) if stream.startswith(_PREFIX) else None


class FactKind(StrEnum):
    """The kinds of facts of a run; each is the name of its class."""

    SAGA_STARTED = "SagaStarted"
    STEP_STARTED = "StepStarted"
    STEP_SUCCEEDED = "StepSucceeded"
    STEP_REJECTED = "StepRejected"
    STEP_ATTEMPT_FAILED = "StepAttemptFailed"
    STEP_POSTPONED = "StepPostponed"
    PROBE_ATTEMPT_FAILED = "ProbeAttemptFailed"
    PROBE_POSTPONED = "ProbePostponed"
    STEP_FAILED = "StepFailed"
    STEP_IN_DOUBT = "StepInDoubt"
    COMPENSATION_STARTED = "CompensationStarted"
    COMPENSATION_SUCCEEDED = "CompensationSucceeded"
    COMPENSATION_REJECTED = "CompensationRejected"
    COMPENSATION_ATTEMPT_FAILED = "CompensationAttemptFailed"
    COMPENSATION_POSTPONED = "CompensationPostponed"
    COMPENSATION_EXHAUSTED = "CompensationExhausted"
    LATE_EFFECT_OBSERVED = "LateEffectObserved"
    SAGA_FAILED = "SagaFailed"
    SAGA_COMPLETED = "SagaCompleted"
    SAGA_COMPENSATED = "SagaCompensated"
    ATTENTION_REQUESTED = "AttentionRequested"
    DRIVER_TAKEN = "DriverTaken"
    CANCEL_REQUESTED = "CancelRequested"
    RETRY_REQUESTED = "RetryRequested"
    STEP_SKIPPED = "StepSkipped"
    STEP_RESOLVED = "StepResolved"
    STEP_RULED_OUT = "StepRuledOut"
    COMPENSATION_SKIPPED = "CompensationSkipped"
    COMPENSATION_RESOLVED = "CompensationResolved"


_KINDS = {kind.value: kind for kind in FactKind}


class Head(NamedTuple):
    """The part of a fact that folding needs; it contains no user data.

    Attributes:
        position: Position in the run's stream, from 1.
        kind: The kind of the fact, a value of `FactKind`.
        as_of_ms: The driver's time of the fact, in milliseconds since the epoch.
        node: The node; empty for facts about the run.
        attempt: The attempt, from 1; 0 where there is none.
        due_ms: End of the claim (`*Started`) or time of the next attempt (`*AttemptFailed`, `*Postponed`), in
            milliseconds since the epoch; `None` when there is none, which for `*AttemptFailed` means that the attempts
            are spent.
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
    """The fields that every fact has.

    Attributes:
        originator_id: The stream.
        originator_version: Position in the stream, from 1.
        as_of_ms: The driver's time, in milliseconds since the epoch; the only time that decisions depend on.
        recorded_at_ms: Wall time of the append, in milliseconds since the epoch; for people only.
        correlation_id: Id that all facts of one business process share; the run's id unless the caller sets one.
        causation_id: Id of the fact or message that caused this one; `None` for a cause outside that has no id.
        actor: The person or component that caused it.
        kind: The kind of the fact; a class that facts share has none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    class_version: ClassVar[int] = 1
    kind: ClassVar[FactKind]

    originator_id: str
    originator_version: int
    as_of_ms: int
    recorded_at_ms: int
    correlation_id: str
    causation_id: str | None
    actor: str

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - as pydantic passes them
        super().__init_subclass__(**kwargs)
        if (kind := _KINDS.get(cls.__name__)) is not None:
            cls.kind = kind

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
        """The part on which decisions depend."""
        return Head(self.originator_version, self.kind, self.as_of_ms)


class NodeFact(Fact):
    """A fact about one node.

    Attributes:
        node: Name of the node in the run's plan.
        generation: Raised by a redo or a second undo.
    """

    node: str
    generation: int

    @property
    def head(self) -> Head:
        """The part on which decisions depend."""
        return Head(self.originator_version, self.kind, self.as_of_ms, self.node, 0, None, self.generation)


class AttemptFact(NodeFact):
    """A fact about one attempt.

    Attributes:
        attempt: The attempt, from 1.
    """

    attempt: int

    @property
    def due_ms(self) -> int | None:
        """Time at which the run has to be decided again, in milliseconds since the epoch; `None` for never."""
        return None

    @property
    def head(self) -> Head:
        """The part on which decisions depend."""
        return Head(
            self.originator_version,
            self.kind,
            self.as_of_ms,
            self.node,
            self.attempt,
            self.due_ms,
            self.generation,
        )


class ClaimFact(AttemptFact):
    """The intent to make a call; it is durable before the call starts.

    Attributes:
        key: The idempotency key, the same for every attempt.
        worker: The worker that claims the node.
        lease_until_ms: Time at which the claim expires, in milliseconds since the epoch.
        delivery: Id of the driver's delivery of the call. When the same delivery comes again, the worker that made the
            claim is lost. Empty for a driver that does not deliver calls.
    """

    key: str
    worker: str
    lease_until_ms: int
    delivery: str = ""

    @property
    def due_ms(self) -> int | None:
        """Time at which the run has to be decided again, in milliseconds since the epoch."""
        return self.lease_until_ms


class PostponedFact(AttemptFact):
    """A call that the deployed code could not complete for this run; it uses up no attempt.

    Attributes:
        attempt: The number of attempts used before it, from 0.
        reason: The cause and the remedy; it contains no user data.
        retry_at_ms: Due time of the next call, in milliseconds since the epoch.
    """

    reason: str
    retry_at_ms: int

    @property
    def due_ms(self) -> int | None:
        """Time at which the run has to be decided again, in milliseconds since the epoch."""
        return self.retry_at_ms


class FailureFact(AttemptFact):
    """An attempt that ended without an answer.

    Attributes:
        error_type: Class of the error.
        error: Its message, shortened.
        trace: A line for the error and for each of its causes, the nearest first: the class and the places in code,
            without the message; empty when no exception was raised.
        retry_at_ms: Due time of the next attempt, in milliseconds since the epoch; `None` when the attempts are spent.
    """

    error_type: str
    error: str
    trace: tuple[str, ...] = ()
    retry_at_ms: int | None

    @property
    def due_ms(self) -> int | None:
        """Time at which the run has to be decided again, in milliseconds since the epoch."""
        return self.retry_at_ms
