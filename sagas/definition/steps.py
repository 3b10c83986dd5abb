"""Steps, and the two decorators that define them: `@transaction` and `@effect`.

`@transaction` marks a function that takes effect exactly once, in our store. `@effect` marks one that calls somebody
else's system and may be called more than once, by an idempotency key. Both return a typed step. Attach a compensation
and (for effects) a probe to it, and place it into a `Saga`.
"""

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any, Generic, Protocol, Self, TypeVar, overload

from pydantic import JsonValue

from amends.aggregates.errors import DefinitionError
from amends.aggregates.run.plan import RetryPolicy, StepKind, UndoPolicy
from amends.aggregates.values.json_codec import JsonCodec
from amends.sagas.definition.context import Attempted, Call, Done, UnitOfWork
from amends.sagas.definition.signatures import (
    annotations,
    check_name,
    check_target,
    label,
    parameters,
    refuse_async,
    type_name,
)

__all__ = ["Effect", "Operation", "Part", "Retry", "Step", "Transaction", "effect", "transaction"]

I_contra = TypeVar("I_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
I = TypeVar("I")  # noqa: E741 - the input, as in every signature here
J = TypeVar("J")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Retry:
    """How often a call is attempted, and the delays between the attempts.

    After attempt n fails, the next is due `min(first * factor ** (n - 1), longest)` later. All attempts of an effect
    carry the same idempotency key. `Rejected` is never retried.

    Attributes:
        max_attempts: The total number of attempts, at least 1; `None` for no limit.
        first: Delay after the first attempt.
        factor: Growth of the delay, from 1 to 100.
        longest: Upper bound of one delay.

    Raises:
        DefinitionError: A value is out of its bounds.
    """

    max_attempts: int | None = 5
    first: timedelta = timedelta(milliseconds=200)
    factor: float = 2.0
    longest: timedelta = timedelta(seconds=30)

    def __post_init__(self) -> None:
        _check_attempts(self.max_attempts)
        _check_factor(self.factor)
        for name, delay in (("first", self.first), ("longest", self.longest)):
            if _as_duration(delay) < timedelta(0):
                raise DefinitionError(f"Retry({name}={_shown(delay)}): give a timedelta of 0 or more")

    @property
    def policy(self) -> RetryPolicy:
        """The policy as a plan stores it."""
        return RetryPolicy(
            max_attempts=self.max_attempts,
            first_ms=milliseconds(self.first),
            factor=self.factor,
            longest_ms=milliseconds(self.longest),
        )


def milliseconds(duration: timedelta) -> int:
    """Return a duration in whole milliseconds."""
    return duration // timedelta(milliseconds=1)


def _shown(duration: object) -> str:
    return str(duration) if isinstance(duration, timedelta) else repr(duration)


def _as_duration(value: object) -> timedelta:
    """Return `value` if it is a timedelta, else `timedelta.min`, which every caller rejects."""
    return value if isinstance(value, timedelta) else timedelta.min


def _check_attempts(attempts: object) -> None:
    if attempts is not None and (not isinstance(attempts, int) or attempts < 1):
        raise DefinitionError(f"Retry(max_attempts={attempts!r}): give a whole number from 1, or None for no limit")


def _check_factor(factor: object) -> None:
    if not isinstance(factor, int | float) or not 1 <= factor <= 100:  # noqa: PLR2004 - as documented
        raise DefinitionError(f"Retry(factor={factor!r}): give a factor from 1 to 100")


def check_retry(retry: object, where: str) -> None:
    """Refuse a number where a policy is needed.

    Raises:
        DefinitionError: The value is neither a `Retry` nor `None`.
    """
    if retry is not None and not isinstance(retry, Retry):
        raise DefinitionError(f"{where}: retry={label(retry)}; give Retry(max_attempts=...)")


def _check_timeout(timeout: object, where: str) -> None:
    if _as_duration(timeout) < timedelta(milliseconds=1):
        raise DefinitionError(f"{where}: timeout={_shown(timeout)}; give a timedelta of 1 ms or more")


def _check_overdue(overdue: object, where: str) -> None:
    if overdue is not None and _as_duration(overdue) < timedelta(milliseconds=1):
        raise DefinitionError(f"{where}: overdue={_shown(overdue)}; give a timedelta of 1 ms or more")


TRANSACTION_RETRY = Retry(max_attempts=3, first=timedelta(milliseconds=100))
EFFECT_RETRY = Retry()
UNDO_RETRY = Retry(max_attempts=10, longest=timedelta(minutes=1))
EFFECT_TIMEOUT = timedelta(seconds=10)


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
                raise DefinitionError(f"@{self.kind} {self.name!r}: annotate {name!r}, its type is what is validated")
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
            raise DefinitionError(f"{where}: a plan was made without it; attach it before the saga is used")
        if self.read_only:
            raise DefinitionError(
                f"{where}: the step is read_only, there is nothing to undo or to find; remove one of them"
            )
        parameters(function, 2, where)
        check_retry(retry, where)
        if self.kind is StepKind.TRANSACTION:
            refuse_async(function, where)
        else:
            _check_timeout(timeout, where)
        setattr(self, field, Operation(function, retry, timeout))


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


class TransactionMustNotBeAsync:
    """The type of an `async def` transaction, so that type checkers refuse its use; loading its module fails."""


class _TransactionDecorator(Protocol):
    # The overloads overlap, because a coroutine is also a result; the first one exists to catch it.
    @overload
    def __call__(  # type: ignore[overload-overlap]  # as said above
        self, function: Callable[[I, UnitOfWork], Coroutine[Any, Any, R]], /
    ) -> TransactionMustNotBeAsync: ...
    @overload
    def __call__(self, function: Callable[[I, UnitOfWork], R], /) -> Transaction[I, R]: ...


class _EffectDecorator(Protocol):
    @overload
    def __call__(self, function: Callable[[I, Call], Coroutine[Any, Any, R]], /) -> Effect[I, R]: ...
    @overload
    def __call__(self, function: Callable[[I, Call], R], /) -> Effect[I, R]: ...


@overload
def transaction(  # type: ignore[overload-overlap]  # as for the decorator above
    function: Callable[[I, UnitOfWork], Coroutine[Any, Any, R]], /
) -> TransactionMustNotBeAsync: ...
@overload
def transaction(function: Callable[[I, UnitOfWork], R], /) -> Transaction[I, R]: ...
@overload
def transaction(
    *,
    name: str | None = None,
    retry: Retry | None = None,
    read_only: bool = False,
    owner: str | None = None,
    runbook: str | None = None,
    overdue: timedelta | None = None,
) -> _TransactionDecorator: ...
def transaction(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retry: Retry | None = None,
    read_only: bool = False,
    owner: str | None = None,
    runbook: str | None = None,
    overdue: timedelta | None = None,
) -> Any:
    """Define a step whose function works on our own store and takes effect exactly once.

    Args:
        function: `def f(input, uow: UnitOfWork) -> Result`, short and without I/O of its own: the driver runs it inside
            the writing transaction, and again if that fails.
        name: Name in the catalog; `None` for the function's name.
        retry: Policy for attempts that raise anything but `Rejected`; by default three attempts.
        read_only: Whether it changes nothing and needs no compensation.
        owner: The person or team to ask when it needs attention.
        runbook: Link to the instructions for operators.
        overdue: How long the step, or its compensation, may be open before `amends list --stuck` names the run, at
            least 1 ms; by default the sum of its attempts and delays, or an hour if its attempts are unlimited.

    Raises:
        DefinitionError: The function is `async`, does not take two parameters, or the name is not valid.
    """

    def decorate(target: Callable[..., Any]) -> Transaction[Any, Any]:
        check_target("transaction", target)
        step = check_name(target.__name__ if name is None else name, "step")
        where = f"@transaction {step!r}"
        refuse_async(target, where)
        parameters(target, 2, where)
        check_retry(retry, where)
        _check_overdue(overdue, where)
        return Transaction(
            StepDefinition(
                step,
                StepKind.TRANSACTION,
                Operation(target, retry, None),
                read_only,
                owner=owner,
                runbook=runbook,
                overdue=overdue,
            )
        )

    return decorate if function is None else decorate(function)


@overload
def effect(function: Callable[[I, Call], Coroutine[Any, Any, R]], /) -> Effect[I, R]: ...
@overload
def effect(function: Callable[[I, Call], R], /) -> Effect[I, R]: ...
@overload
def effect(
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: timedelta = EFFECT_TIMEOUT,
    read_only: bool = False,
    queue: str | None = None,
    local: bool = False,
    owner: str | None = None,
    runbook: str | None = None,
    overdue: timedelta | None = None,
) -> _EffectDecorator: ...
def effect(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: timedelta = EFFECT_TIMEOUT,
    read_only: bool = False,
    queue: str | None = None,
    local: bool = False,
    owner: str | None = None,
    runbook: str | None = None,
    overdue: timedelta | None = None,
) -> Any:
    """Define a step whose function calls somebody else's system, at least once and by idempotency key.

    Args:
        function: `def` or `async def f(input, call: Call) -> Result`; passes `call.key` to the participant.
        name: Name in the catalog; `None` for the function's name.
        retry: Policy for attempts that raise anything but `Rejected`, all with the same key; by default five attempts,
            from 200 ms apart.
        timeout: Bound of one attempt, at least 1 ms.
        read_only: Whether it changes nothing and needs no compensation.
        queue: Task queue of the workers that run it; `None` for the saga's own. Not allowed together with `local`.
        local: Whether the worker that drives the saga runs it, which is faster but cannot be routed to a queue.
        owner: The person or team to ask when it needs attention.
        runbook: Link to the instructions for operators.
        overdue: How long the step, or its compensation, may be open before `amends list --stuck` names the run, at
            least 1 ms; by default the sum of its attempts and delays, or an hour if its attempts are unlimited.

    Raises:
        DefinitionError: The function does not take two parameters, or an option is not valid.
    """

    def decorate(target: Callable[..., Any]) -> Effect[Any, Any]:
        check_target("effect", target)
        step = check_name(target.__name__ if name is None else name, "step")
        where = f"@effect {step!r}"
        parameters(target, 2, where)
        check_retry(retry, where)
        _check_timeout(timeout, where)
        _check_overdue(overdue, where)
        if local and queue is not None:
            raise DefinitionError(f"{where}: local=True and queue={queue!r}; remove one, a local effect is not routed")
        return Effect(
            StepDefinition(
                step,
                StepKind.EFFECT,
                Operation(target, retry, timeout),
                read_only,
                queue,
                local,
                owner,
                runbook,
                overdue,
            )
        )

    return decorate if function is None else decorate(function)


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
