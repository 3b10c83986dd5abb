"""Steps, and the compensations and probes that authors attach to them.

The decorators `transaction` and `effect` create steps. Attach a compensation and (for effects) a probe to a step, and
place it into a `Saga`.
"""

import inspect
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Generic, Self, TypeVar, overload

from pydantic import JsonValue

from amends.aggregates.errors import DefinitionError
from amends.sagas.definition.context import Attempted, Call, Done, UnitOfWork
from amends.sagas.definition.retry import EFFECT_TIMEOUT, Retry
from amends.sagas.definition.signatures import check_name, label, parameters
from amends.sagas.definition.step_definition import StepDefinition

__all__ = ["Effect", "Part", "Step", "Transaction"]

I_contra = TypeVar("I_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
I = TypeVar("I")  # noqa: E741 - the input, as in every signature here
J = TypeVar("J")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class Part(Generic[I_contra]):
    """A part of a saga whose input fits `I`: a step, a marked step, or a parallel group."""


class Step(Part[I_contra], Generic[I_contra, R_co]):
    """A named step: a function of the saga's input, with its compensation.

    Use `transaction` or `effect` to define one.

    Attributes:
        name: Name of its node in a saga.
        definition: The definition that all uses of the step share.
        mapping: The function that computes the step's input from the saga's; `None` if the step takes the saga's input
            unchanged.
    """

    def __init__(
        self, definition: StepDefinition, name: str | None = None, mapping: Callable[[Any], Any] | None = None
    ) -> None:
        self.definition = definition
        self.name = name or definition.name
        self.mapping = mapping

    def __repr__(self) -> str:
        return f"<{self.definition.kind} {self.name!r}>"

    def load_result(self, value: JsonValue) -> R_co:
        """Build the step's result from its JSON."""
        result: R_co = self.definition.result_codec.load(value)
        return result

    def _using(self, mapping: Callable[[Any], Any], name: str | None) -> Self:
        where = f"step {self.name!r}: using({label(mapping)})"
        if not inspect.isfunction(mapping) or "<" in mapping.__qualname__:
            raise DefinitionError(f"{where}: give a named function of a module; a plan must be able to name it")
        if self.mapping is not None:
            raise DefinitionError(f"{where}: the step has a mapping already; write one that does both")
        parameters(mapping, 1, where)
        return type(self)(self.definition, self.name if name is None else check_name(name, "node"), mapping)


class Transaction(Step[I_contra, R_co]):
    """A step that takes effect exactly once, because our store commits its events and its outcome together."""

    def __call__(self, input: I_contra, uow: UnitOfWork) -> R_co:  # noqa: A002 - what it is
        """Call the function itself, as a unit test would."""
        result: R_co = self.definition.run.function(input, uow)
        return result

    def using(self: "Transaction[I, R]", mapping: Callable[[J], I], *, name: str | None = None) -> "Transaction[J, R]":
        """Use the step in a saga with another input type.

        Args:
            mapping: A named, pure function of a module; it computes the step's input from the saga's.
            name: Name of the node, needed if a saga uses the step twice; `None` for the step's own name.

        Raises:
            DefinitionError: The mapping is a lambda or a local function, or the step has a mapping already.
        """
        return self._using(mapping, name)  # type: ignore[return-value]  # the input type is the mapping's from here on

    @overload
    def compensation(
        self: "Transaction[I, R]", function: Callable[[Done[I, R], UnitOfWork], None], /
    ) -> Callable[[Done[I, R], UnitOfWork], None]: ...
    @overload
    def compensation(
        self: "Transaction[I, R]", /, *, retry: Retry = ...
    ) -> Callable[[Callable[[Done[I, R], UnitOfWork], None]], Callable[[Done[I, R], UnitOfWork], None]]: ...
    def compensation(
        self: "Transaction[Any, Any]", function: Callable[..., Any] | None = None, /, *, retry: Retry | None = None
    ) -> Any:
        """Attach the compensation, which is itself a transaction and receives `Done` with input and result.

        Args:
            function: The function; it runs at most once with effect.
            retry: Its own retry policy; by default ten attempts, from 200 ms up to a minute apart.

        Raises:
            DefinitionError: The step has one already, or a plan without it exists already.
        """
        return _attaching(self, "compensation", function, retry, None)


class Effect(Step[I_contra, R_co]):
    """A step that calls somebody else's system at least once, with the same idempotency key every time."""

    def __call__(self, input: I_contra, call: Call) -> Any:  # noqa: A002, ANN401 - result or awaitable, as written
        """Call the function itself, as a unit test would."""
        return self.definition.run.function(input, call)

    def using(self: "Effect[I, R]", mapping: Callable[[J], I], *, name: str | None = None) -> "Effect[J, R]":
        """Use the step in a saga with another input type.

        Args:
            mapping: A named, pure function of a module; it computes the step's input from the saga's.
            name: Name of the node, needed if a saga uses the step twice; `None` for the step's own name.

        Raises:
            DefinitionError: The mapping is a lambda or a local function, or the step has a mapping already.
        """
        return self._using(mapping, name)  # type: ignore[return-value]  # the input type is the mapping's from here on

    @overload
    def compensation(
        self: "Effect[I, R]", function: Callable[[Attempted[I, R], Call], Coroutine[Any, Any, None] | None], /
    ) -> Callable[[Attempted[I, R], Call], Coroutine[Any, Any, None] | None]: ...
    @overload
    def compensation(
        self: "Effect[I, R]", /, *, retry: Retry = ..., timeout: timedelta = ...
    ) -> Callable[
        [Callable[[Attempted[I, R], Call], Coroutine[Any, Any, None] | None]],
        Callable[[Attempted[I, R], Call], Coroutine[Any, Any, None] | None],
    ]: ...
    def compensation(
        self: "Effect[Any, Any]",
        function: Callable[..., Any] | None = None,
        /,
        *,
        retry: Retry | None = None,
        timeout: timedelta = EFFECT_TIMEOUT,
    ) -> Any:
        """Attach the compensation, idempotent by its own key; it receives `Attempted`, whose result may be `None`.

        Args:
            function: The function, `def` or `async def`.
            retry: Its own retry policy; by default ten attempts, from 200 ms up to a minute apart.
            timeout: Bound of one attempt.

        Raises:
            DefinitionError: The step has one already, or a plan without it exists already.
        """
        return _attaching(self, "compensation", function, retry, timeout)

    @overload
    def probe(
        self: "Effect[I, R]", function: Callable[[I, Call], Coroutine[Any, Any, R | None]], /
    ) -> Callable[[I, Call], Coroutine[Any, Any, R | None]]: ...
    @overload
    def probe(self: "Effect[I, R]", function: Callable[[I, Call], R | None], /) -> Callable[[I, Call], R | None]: ...
    def probe(self, function: Callable[..., Any], /) -> Any:
        """Attach the probe, which the driver calls when all attempts have ended without an answer.

        Args:
            function: Returns the effect's result if the participant knows the call under `call.key`. Returns `None`
                only if the participant certainly does not know it: the step then counts as failed and is not undone.
                Raises if the participant cannot answer: the driver then repeats the probe, and in the end the step is
                in doubt. It must change nothing.

        Raises:
            DefinitionError: The step has one already, or a plan without it exists already.
        """
        return _attaching(self, "probe", function, None, self.definition.run.timeout)


def _attaching(
    step: Step[Any, Any],
    what: str,
    function: Callable[..., Any] | None,
    retry: Retry | None,
    timeout: timedelta | None,
) -> Any:  # noqa: ANN401 - the function as given, or a decorator for it
    def attach(target: F) -> F:
        if step.mapping is not None:
            raise DefinitionError(
                f"step {step.name!r}: {what} {label(target)}: it is given the step's own input; attach it to the step "
                f"itself, before using({label(step.mapping)})"
            )
        step.definition.attach(what, target, retry, timeout)
        return target

    return attach if function is None else attach(function)
