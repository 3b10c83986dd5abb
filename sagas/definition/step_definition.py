"""The definition of a step, which all its uses share: its function, its options, its compensation and its probe."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

from amends.aggregates.errors import DefinitionError
from amends.aggregates.run.plan import StepKind, UndoPolicy
from amends.aggregates.values.json_codec import JsonCodec
from amends.sagas.definition.context import Call, UnitOfWork
from amends.sagas.definition.participants import Participant
from amends.sagas.definition.retry import UNDO_RETRY, Retry, check_retry, check_timeout, milliseconds
from amends.sagas.definition.signatures import annotations, label, parameters, refuse_async, type_name

__all__ = ["Operation", "StepDefinition"]


@dataclass(frozen=True)
class Operation:
    """A user's function and its retry policy.

    Attributes:
        function: The function.
        retry: The retry policy; `None` for the default of the function's place.
        timeout: Bound of one attempt; `None` for transactions.
    """

    function: Callable[..., Any]
    retry: Retry | None
    timeout: timedelta | None

    @property
    def location(self) -> str:
        """Where the function is defined, as `module:name`."""
        return f"{self.function.__module__}:{self.function.__qualname__}"


@dataclass(eq=False)
class StepDefinition:
    """The definition of a step, shared by all its uses.

    Attributes:
        name: The step's name in the catalog.
        kind: Transaction or effect.
        run: The step itself.
        undo: The compensation, once attached.
        probe: The probe, once attached.
        read_only: Whether the step changes nothing.
        queue: Task queue of the workers that run the effect.
        local: Whether the effect runs on the worker that drives the saga.
        owner: The person or team to ask when it needs attention.
        runbook: Link to the instructions for operators.
        overdue: How long the step may be open before it counts as overdue; `None` for as long as its policy allows.
        participant: The service that the effect calls; `None` for a transaction, or if the effect names none.
        sealed: Whether a plan contains it; then a compensation or probe can no longer be attached.
    """

    name: str
    kind: StepKind
    run: Operation
    read_only: bool = False
    queue: str | None = None
    local: bool = False
    owner: str | None = None
    runbook: str | None = None
    overdue: timedelta | None = None
    participant: Participant | None = None
    undo: Operation | None = None
    probe: Operation | None = None
    sealed: bool = False

    @cached_property
    def types(self) -> tuple[Any, Any]:
        """Types of input and result, from the annotations.

        Raises:
            DefinitionError: A parameter or the result is not annotated, or an annotation cannot be resolved.
        """
        context = UnitOfWork if self.kind is StepKind.TRANSACTION else Call
        names = parameters(self.run.function, 2, f"@{self.kind} {self.name!r}")
        hints = annotations(self.run.function, f"@{self.kind} {self.name!r}")
        for name in (*names, "return"):
            if name not in hints:
                raise DefinitionError(f"@{self.kind} {self.name!r}: annotate {name!r}, so that Amends can validate it")
        if hints[names[1]] is not context:
            raise DefinitionError(
                f"@{self.kind} {self.name!r}: its second parameter {names[1]!r} is annotated "
                f"{type_name(hints[names[1]])}; annotate it {context.__name__}"
            )
        return hints[names[0]], hints["return"]

    @cached_property
    def input_codec(self) -> JsonCodec[Any]:
        """The codec that reads the step's input when its saga is no longer registered."""
        return JsonCodec(self.types[0], what=f"input of step {self.name!r}")

    @cached_property
    def result_codec(self) -> JsonCodec[Any]:
        """The codec that reads the step's results, and writes them within the default limits."""
        return JsonCodec(self.types[1], what=f"result of step {self.name!r}")

    @property
    def undo_policy(self) -> UndoPolicy | None:
        """The compensation's policy as a plan stores it."""
        if self.undo is None:
            return None
        timeout = self.undo.timeout
        return UndoPolicy(
            retry=(self.undo.retry or UNDO_RETRY).policy, timeout_ms=None if timeout is None else milliseconds(timeout)
        )

    def attach(self, what: str, function: Callable[..., Any], retry: Retry | None, timeout: timedelta | None) -> None:
        """Attach the compensation or the probe.

        Raises:
            DefinitionError: The step has one already, the function does not take two parameters, or a plan without it
                exists already.
        """
        field = "undo" if what == "compensation" else "probe"
        where = f"step {self.name!r}: {what} {label(function)}"
        if not inspect.isfunction(function):
            raise DefinitionError(f"{where}: give a function, written with def")
        present: Operation | None = getattr(self, field)
        if present is not None:
            raise DefinitionError(
                f"{where}: the step has {present.location} already; remove one, a step has one {what}"
            )
        if self.sealed:
            raise DefinitionError(
                f"{where}: a plan was compiled without this function; attach the function before the saga is used"
            )
        if self.read_only:
            raise DefinitionError(
                f"{where}: the step is read_only, there is nothing to undo or to find; remove one of them"
            )
        parameters(function, 2, where)
        check_retry(retry, where)
        if self.kind is StepKind.TRANSACTION:
            refuse_async(function, where)
        else:
            check_timeout(timeout, where)
        setattr(self, field, Operation(function, retry, timeout))
