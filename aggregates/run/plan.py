"""The plan: the compiled, pinned form of a saga, as plain data.

A plan contains everything that decisions need, and nothing that only execution needs: names, roles, retries, timeouts,
and whether there is a compensation and a probe. A run follows the plan that it started with, even when the code has
changed since. `amends.sagas.definition.saga` compiles a `Saga` into a plan; `amends.sagas.engine.decide` uses it.
"""

from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from amends.aggregates.values.strict_json import digest

__all__ = ["Guarantee", "Plan", "PlanNode", "RetryPolicy", "Role", "Stage", "StepKind", "UndoPolicy"]


class StepKind(StrEnum):
    """The place where a step takes effect, which decides how often it may do so."""

    TRANSACTION = "transaction"
    EFFECT = "effect"


class Guarantee(StrEnum):
    """The guarantee for a node's effect, pinned in `SagaStarted`."""

    ONCE = "exactly once, in this store"
    BY_KEY = "at least once, by idempotency key"


class Role(StrEnum):
    """The possible consequences of a step's failure (Richardson's terms)."""

    COMPENSATABLE = "compensatable"
    PIVOT = "pivot"
    RETRIABLE = "retriable"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RetryPolicy(_Frozen):
    """The number of attempts of an operation, and the delay between them.

    After attempt n fails, the next attempt is due `min(first_ms * factor ** (n - 1), longest_ms)` milliseconds later.
    There is no jitter: due times are facts, and decisions are deterministic.

    Attributes:
        max_attempts: Total number of attempts, at least 1; `None` means without limit.
        first_ms: Milliseconds between the first attempt's failure and the second attempt.
        factor: Growth of the delay from one attempt to the next, at least 1.
        longest_ms: Upper bound of one delay, in milliseconds.
    """

    max_attempts: Annotated[int, Field(ge=1)] | None
    first_ms: Annotated[int, Field(ge=0)]
    factor: Annotated[float, Field(ge=1, le=100)]
    longest_ms: Annotated[int, Field(ge=0)]

    def delay_ms(self, attempt: int) -> int | None:
        """Return the delay after a failed attempt.

        Args:
            attempt: The attempt that failed, from 1.

        Returns:
            Milliseconds until the next attempt; `None` when the attempts are spent.
        """
        if self.max_attempts is not None and attempt >= self.max_attempts:
            return None
        # The exponent is bounded because a float overflows long before an unlimited policy stops counting.
        grown = self.first_ms * self.factor ** min(attempt - 1, 64)
        return int(min(grown, self.longest_ms))


class UndoPolicy(_Frozen):
    """The retries and timeout of a node's compensation; its budget is separate from the step's."""

    retry: RetryPolicy
    timeout_ms: int | None


class PlanNode(_Frozen):
    """One step at one place of a plan.

    Attributes:
        name: The node's name, unique in the plan; facts and idempotency keys contain it.
        step: Name of the step in the catalog, by which a worker finds the function.
        kind: Transaction or effect.
        role: Compensatable, pivot or retriable.
        retry: Attempts of the step itself.
        timeout_ms: Bound of one attempt in milliseconds; `None` for transactions, which do no I/O.
        undo: The compensation's policy; `None` when the step has no compensation.
        probe: Whether a probe can find out after a lost reply if the step took effect.
        irreversible: Why the step stays when the rest of the run is undone; `None` when it does not stay.
        read_only: Whether there is nothing to undo because the step changes nothing.
        mapping: Dotted name of the function that derives the step's input from the saga's; `None` for none.
        queue: Task queue of the workers that run the effect; `None` for the saga's own.
        local: Whether the effect runs on the worker that drives the saga.
        overdue_ms: Time in milliseconds after which a step or compensation that is still open is reported as overdue;
            `None` for the time that its policy allows. No decision depends on it.
    """

    name: str
    step: str
    kind: StepKind
    role: Role
    retry: RetryPolicy
    timeout_ms: int | None = None
    undo: UndoPolicy | None = None
    probe: bool = False
    irreversible: str | None = None
    read_only: bool = False
    mapping: str | None = None
    queue: str | None = None
    local: bool = False
    overdue_ms: Annotated[int, Field(ge=1)] | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the dump without absent fields that older plans lack, so that their fingerprints stay the same."""
        written: dict[str, Any] = write(self)
        if self.overdue_ms is None:
            written.pop("overdue_ms", None)
        return written

    @property
    def guarantee(self) -> Guarantee:
        """The guarantee for this node's effect."""
        return Guarantee.ONCE if self.kind is StepKind.TRANSACTION else Guarantee.BY_KEY


class Stage(_Frozen):
    """Nodes that run in parallel; the next stage starts when all of them have succeeded.

    Attributes:
        nodes: The members, at least one, in the order of the saga's definition.
        ordered: Whether their compensations run one after the other, the last started first, instead of together.
    """

    nodes: Annotated[tuple[PlanNode, ...], Field(min_length=1)]
    ordered: bool = False


class Plan(_Frozen):
    """The whole shape of a saga. The store keeps it from the first run on and finds it by its fingerprint.

    Attributes:
        format: Version of this data format.
        saga: Name of the saga.
        input_type: Name of the input's type; for people, not for finding code.
        stages: The stages in order.
        keys: Fields of the input by which runs can be found.
    """

    format: Literal[1] = 1
    saga: str
    input_type: str
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    keys: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the plan's canonical JSON, in hex; equal plans have equal fingerprints."""
        return digest(self.model_dump(mode="json"))

    @cached_property
    def nodes(self) -> dict[str, PlanNode]:
        """Every node by its name."""
        return {node.name: node for stage in self.stages for node in stage.nodes}

    @cached_property
    def guarantees(self) -> dict[str, str]:
        """The guarantee for every node's effect, by node."""
        return {name: node.guarantee.value for name, node in self.nodes.items()}

    @cached_property
    def stage_of(self) -> dict[str, int]:
        """The index of every node's stage, by the node's name."""
        return {node.name: index for index, stage in enumerate(self.stages) for node in stage.nodes}

    @cached_property
    def forward_since(self) -> int | None:
        """Index of the first stage whose failure can no longer lead to compensation; `None` when every stage's can.

        It is the stage after the pivot's; in a plan without a pivot, the first stage with a retriable step.
        """
        for index, stage in enumerate(self.stages):
            if any(node.role is Role.PIVOT for node in stage.nodes):
                return index + 1
        for index, stage in enumerate(self.stages):
            if any(node.role is Role.RETRIABLE for node in stage.nodes):
                return index
        return None

    def forward_only(self, stage: int) -> bool:
        """Check whether a failure in this stage can no longer lead to compensation.

        Args:
            stage: Index of a stage, or the number of stages when all have succeeded.
        """
        return self.forward_since is not None and stage >= self.forward_since
