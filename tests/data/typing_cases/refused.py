"""Wrong uses of the definition API: mypy --strict refuses each, with the error code that is named in its comment.

An `ignore` that is not needed is an error too, so `make types` alone notices a wrong use that has become accepted.
`test_typing.py` removes the ignores and also compares mypy's messages with the words in quotes. No test runs this code.
"""

# ruff: noqa: ARG001, B018, D101, D103, F841 - wrong uses, each as short as can be

from datetime import timedelta

from pydantic import BaseModel

from amends import (
    Attempted,
    Call,
    Done,
    Retry,
    RunResult,
    Saga,
    UnitOfWork,
    effect,
    irreversible,
    parallel,
    pivot,
    retriable,
    transaction,
)


class Order(BaseModel):
    sku: str


class Trip(BaseModel):
    city: str


class Payment(BaseModel):
    id: str


@transaction
def reserve(order: Order, uow: UnitOfWork) -> Payment:
    return Payment(id=order.sku)


@effect
async def charge(order: Order, call: Call) -> Payment:
    return Payment(id=order.sku)


@effect
def ask(order: Order, call: Call) -> int:
    return 1


@effect
async def fly(trip: Trip, call: Call) -> None: ...


def trip_of(order: Order) -> Trip:
    return Trip(city=order.sku)


def plain(order: Order, call: Call) -> int:
    return 1


# A step whose input is not the saga's, in each place of a saga.
Saga("a", Order, fly)  # type: ignore[misc]  # "Cannot infer value of type parameter "I" of "Saga""
Saga("a", Order, reserve, fly)  # type: ignore[misc]  # "Cannot infer value"
Saga("a", Order, reserve, parallel(charge, fly))  # type: ignore[misc]  # "Cannot infer value"
Saga("a", Order, pivot(fly))  # type: ignore[misc]  # "Cannot infer value"
Saga("a", Order, retriable(fly))  # type: ignore[misc]  # "Cannot infer value"
Saga("a", Order, irreversible(fly, "gone"))  # type: ignore[misc]  # "Cannot infer value"
Saga("a", Trip, fly.using(trip_of))  # type: ignore[misc]  # "Cannot infer value"

# Something that is no step, and an input that is no type.
Saga("a", Order, plain)  # type: ignore[arg-type]  # "expected "Part[Order]""
Saga("a", reserve, charge)  # type: ignore[arg-type]  # "incompatible type "Transaction[Order, Payment]"; expected "type["
Saga(Order, reserve)  # type: ignore[arg-type]  # "expected "str""
pivot(parallel(charge))  # type: ignore[arg-type]  # "incompatible type "Group[Order]"; expected "Step["
pivot(retriable(charge))  # type: ignore[arg-type]  # "incompatible type "Placed[Order]"; expected "Step["
retriable(plain)  # type: ignore[arg-type]  # "expected "Step["
parallel(parallel(charge))  # type: ignore[arg-type]  # "incompatible type "Group[Order]"; expected "Step["
irreversible(charge)  # type: ignore[call-arg]  # "Missing positional argument "reason""

# A mapping that makes, or takes, something else.
fly.using(plain)  # type: ignore[arg-type]  # "expected "Callable[["
charge.using(trip_of)  # type: ignore[arg-type]  # "expected "Callable[[Order], Order]""


# A compensation that takes the wrong input, result, kind of argument or context, or is a coroutine in a transaction.
@reserve.compensation  # type: ignore[arg-type]  # "expected "Callable[[Done[Order, Payment], UnitOfWork], None]""
def undo_other_input(done: Done[Trip, Payment], uow: UnitOfWork) -> None: ...


@reserve.compensation  # type: ignore[arg-type]  # "incompatible type "Callable[[Done[Order, int]"
def undo_other_result(done: Done[Order, int], uow: UnitOfWork) -> None: ...


@reserve.compensation  # type: ignore[arg-type]  # "incompatible type "Callable[[Attempted[Order, Payment]"
def undo_attempted(tried: Attempted[Order, Payment], uow: UnitOfWork) -> None: ...


@reserve.compensation(retry=Retry())  # type: ignore[arg-type]  # "expected "Callable[[Done[Order, Payment], UnitOfWork], None]""
def undo_with_call(done: Done[Order, Payment], call: Call) -> None: ...


@reserve.compensation  # type: ignore[arg-type]  # "Coroutine[Any, Any, None]]"; expected "Callable["
async def undo_async(done: Done[Order, Payment], uow: UnitOfWork) -> None: ...


@reserve.compensation  # type: ignore[arg-type]  # "UnitOfWork], Payment]"; expected "Callable["
def undo_with_result(done: Done[Order, Payment], uow: UnitOfWork) -> Payment:
    return done.result


@charge.compensation  # type: ignore[arg-type]  # "incompatible type "Callable[[Done[Order, Payment], Call]"
async def undo_done(done: Done[Order, Payment], call: Call) -> None: ...


@charge.compensation(timeout=timedelta(seconds=3))  # type: ignore[arg-type]  # "incompatible type "Callable[[Attempted[Order, int]"
async def undo_wrong_result(tried: Attempted[Order, int], call: Call) -> None: ...


@charge.compensation  # type: ignore[arg-type]  # "incompatible type "Callable[[Attempted[Order, Payment], UnitOfWork]"
async def undo_with_uow(tried: Attempted[Order, Payment], uow: UnitOfWork) -> None: ...


# An effect in doubt has no result.
@charge.compensation
async def undo_without_doubt(tried: Attempted[Order, Payment], call: Call) -> None:
    tried.result.id  # type: ignore[union-attr]  # "Item "None" of "Payment | None" has no attribute "id""


# A probe that finds something else, cannot say no, or asks with another input; and one where nothing is in doubt.
@charge.probe  # type: ignore[arg-type]  # "incompatible type "Callable[[Order, Call], Coroutine[Any, Any, int | None]]""
async def find_other_result(order: Order, call: Call) -> int | None: ...


@ask.probe  # type: ignore[arg-type]  # "Call], str | None]"; expected "Callable["
def find_text(order: Order, call: Call) -> str | None: ...


@charge.probe  # type: ignore[arg-type]  # "incompatible type "Callable[[Trip, Call]"
async def find_by_trip(trip: Trip, call: Call) -> Payment | None: ...


reserve.probe  # type: ignore[attr-defined]  # ""Transaction[Order, Payment]" has no attribute "probe""


# A step with the other kind's context, with too few or too many parameters.
@transaction  # type: ignore[arg-type]  # "expected "Callable[[Order, UnitOfWork]"
def transaction_with_call(order: Order, call: Call) -> int:
    return 1


@effect  # type: ignore[arg-type]  # "expected "Callable[[Order, Call]"
async def effect_with_uow(order: Order, uow: UnitOfWork) -> int:
    return 1


@effect  # type: ignore[arg-type]  # "incompatible type "Callable[[Order], Coroutine"
async def effect_without_call(order: Order) -> int:
    return 1


@transaction  # type: ignore[arg-type]  # "incompatible type "Callable[[Order, UnitOfWork, int], int]""
def transaction_with_more(order: Order, uow: UnitOfWork, more: int) -> int:
    return more


# A transaction that waits: loading it fails, and type checkers refuse its use.
@transaction
async def reserve_async(order: Order, uow: UnitOfWork) -> int:
    return 1


Saga("a", Order, reserve_async)  # type: ignore[arg-type]  # "incompatible type "TransactionMustNotBeAsync"; expected "Part[Order]""


@transaction(retry=Retry())
async def reserve_async_with_options(order: Order, uow: UnitOfWork) -> int:
    return 1


reserve_async_with_options.compensation  # type: ignore[attr-defined]  # ""TransactionMustNotBeAsync" has no attribute"

# Options of the wrong type.
effect(timeout=10)  # type: ignore[call-overload]  # "No overload variant of "effect" matches argument type "int""
effect(retry=3)  # type: ignore[call-overload]  # "No overload variant"
transaction(timeout=timedelta(seconds=3))  # type: ignore[call-overload]  # "Unexpected keyword argument "timeout""
transaction("reserve")  # type: ignore[call-overload]  # "No overload variant of "transaction" matches argument type "str""
Retry(first=0.2)  # type: ignore[arg-type]  # "expected "timedelta""
pivot(charge, retry=3)  # type: ignore[arg-type]  # "expected "Retry | None""


# Results and inputs of the wrong type.
def read(call: Call, uow: UnitOfWork, result: RunResult, order: Order) -> None:
    number: int = call.result_of(charge)  # type: ignore[assignment]  # "expression has type "Payment", variable has type "int""
    text: str = uow.result_of(ask)  # type: ignore[assignment]  # "expression has type "int", variable has type "str""
    paid: Payment = result.result_of(charge)  # type: ignore[assignment]  # "expression has type "Payment | None""
    call.result_of(plain)  # type: ignore[call-overload]  # "No overload variant of "result_of""
    reserve(Trip(city="x"), uow)  # type: ignore[arg-type]  # "incompatible type "Trip"; expected "Order""
    reserve(order, call)  # type: ignore[arg-type]  # "incompatible type "Call"; expected "UnitOfWork""
    done: Done[Order, int] = Done(order, "x")  # type: ignore[arg-type]  # "expected "int""
    done.result = 2  # type: ignore[misc]  # "read-only"
    charge(order, uow)  # type: ignore[arg-type]  # "incompatible type "UnitOfWork"; expected "Call""
