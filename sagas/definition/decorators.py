"""The decorators that define steps: `@transaction` and `@effect`.

`@transaction` marks a function that takes effect exactly once, in our store. `@effect` marks one that calls somebody
else's system and may be called more than once, by an idempotency key. Both return a typed step; see `steps.py`.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar, overload

from amends.aggregates.errors import DefinitionError
from amends.aggregates.run.plan import StepKind
from amends.sagas.definition.context import Call, UnitOfWork
from amends.sagas.definition.participants import Participant, check_participant
from amends.sagas.definition.retry import EFFECT_TIMEOUT, Retry, check_overdue, check_retry, check_timeout
from amends.sagas.definition.signatures import check_name, check_target, parameters, refuse_async
from amends.sagas.definition.step_definition import Operation, StepDefinition
from amends.sagas.definition.steps import Effect, Transaction

__all__ = ["effect", "transaction"]

I = TypeVar("I")  # noqa: E741 - the input, as in every signature here
R = TypeVar("R")


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


@dataclass(frozen=True, kw_only=True)
class _TransactionOptions:
    name: str | None = None
    retry: Retry | None = None
    read_only: bool = False
    owner: str | None = None
    runbook: str | None = None
    overdue: timedelta | None = None

    def define(
        self,
        kind: StepKind,
        target: Callable[..., Any],
        *,
        timeout: timedelta | None = None,
        queue: str | None = None,
        local: bool = False,
        participant: Participant | None = None,
    ) -> StepDefinition:
        check_target(kind, target)
        step = check_name(target.__name__ if self.name is None else self.name, "step")
        where = f"@{kind} {step!r}"
        if kind is StepKind.TRANSACTION:
            refuse_async(target, where)
        else:
            check_timeout(timeout, where)
        parameters(target, 2, where)
        check_retry(self.retry, where)
        check_overdue(self.overdue, where)
        check_participant(participant, where)
        if local and queue is not None:
            raise DefinitionError(f"{where}: local=True and queue={queue!r}; remove one, a local effect is not routed")
        return StepDefinition(
            step,
            kind,
            Operation(target, self.retry, timeout),
            self.read_only,
            queue,
            local,
            self.owner,
            self.runbook,
            self.overdue,
            participant,
        )


@dataclass(frozen=True, kw_only=True)
class _EffectOptions(_TransactionOptions):
    timeout: timedelta = EFFECT_TIMEOUT
    queue: str | None = None
    local: bool = False
    participant: Participant | None = None


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
def transaction(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Define a step whose function works on our own store and takes effect exactly once.

    Args:
        function: `def f(input, uow: UnitOfWork) -> Result`, short and without I/O of its own: the driver runs it inside
            the writing transaction, and again if that fails.
        **options: Any of the following, by name.
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
    chosen = _TransactionOptions(**options)

    def decorate(target: Callable[..., Any]) -> Transaction[Any, Any]:
        return Transaction(chosen.define(StepKind.TRANSACTION, target))

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
    participant: Participant | None = None,
) -> _EffectDecorator: ...
def effect(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Define a step whose function calls somebody else's system, at least once and by idempotency key.

    Args:
        function: `def` or `async def f(input, call: Call) -> Result`; passes `call.key` to the participant.
        **options: Any of the following, by name.
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
        participant: The service that it calls, with the contract that `amends prove` relies on; `None` for none.

    Raises:
        DefinitionError: The function does not take two parameters, or an option is not valid.
    """
    chosen = _EffectOptions(**options)

    def decorate(target: Callable[..., Any]) -> Effect[Any, Any]:
        return Effect(
            chosen.define(
                StepKind.EFFECT,
                target,
                timeout=chosen.timeout,
                queue=chosen.queue,
                local=chosen.local,
                participant=chosen.participant,
            )
        )

    return decorate if function is None else decorate(function)
