"""Right uses of the definition API, in every form that its documentation shows; mypy --strict reports no error."""

# ruff: noqa: ARG001 - most of these steps do nothing

from datetime import timedelta
from decimal import Decimal
from typing import assert_type

from pydantic import BaseModel

from amends import (
    Aggregate,
    Attempted,
    Call,
    Done,
    Effect,
    Rejected,
    Retry,
    RunResult,
    Saga,
    Transaction,
    UnitOfWork,
    effect,
    irreversible,
    parallel,
    pivot,
    retriable,
    transaction,
)


class Order(BaseModel):
    """The input."""

    sku: str
    amount: Decimal


class RushOrder(Order):
    """An input that is also an order."""


class Trip(BaseModel):
    """Another input that contains the first."""

    order: Order


class Payment(BaseModel):
    """A result."""

    id: str


class Stock(Aggregate):
    """An aggregate."""


@transaction
def reserve(order: Order, uow: UnitOfWork) -> int:
    """A bare transaction."""
    assert_type(uow.get(Stock, order.sku), Stock)
    assert_type(uow.find(Stock, order.sku), Stock | None)
    return 1


@reserve.compensation
def release(done: Done[Order, int], uow: UnitOfWork) -> None:
    """A bare compensation."""
    assert_type(done.input, Order)
    assert_type(done.result, int)


@transaction(retry=Retry(max_attempts=2), owner="stock", read_only=True)
def check(order: Order, uow: UnitOfWork) -> None:
    """A transaction with options."""
    assert_type(uow.result_of(reserve), int)


@effect(timeout=timedelta(seconds=10), retry=Retry(max_attempts=None), queue="payments")
async def charge(order: Order, call: Call) -> Payment:
    """An asynchronous effect with options."""
    if order.amount > 100:
        raise Rejected("too much")
    return Payment(id=call.key)


@charge.probe
async def find(order: Order, call: Call) -> Payment | None:
    """A probe that waits."""
    return None if order.amount else Payment(id=call.key)


@charge.compensation(retry=Retry(max_attempts=8), timeout=timedelta(seconds=3))
async def refund(tried: Attempted[Order, Payment], call: Call) -> None:
    """A compensation with options, which copes with doubt."""
    assert_type(tried.result, Payment | None)
    if tried.result is not None:
        assert_type(tried.result.id, str)


@effect
def quote(order: Order, call: Call) -> Decimal:
    """A bare effect that is no coroutine."""
    assert_type(call.result_of(charge), Payment)
    return order.amount


@quote.probe
def find_quote(order: Order, call: Call) -> Decimal | None:
    """A probe that is no coroutine."""


@quote.compensation
def cancel_quote(tried: Attempted[Order, Decimal], call: Call) -> None:
    """A bare compensation that is no coroutine."""


@transaction
def confirm(order: Order, uow: UnitOfWork) -> bool:
    """A pivot."""
    return True


@effect(local=True, name="receipt.send")
async def send(order: object, call: Call) -> None:
    """A step that takes any input at all."""


def order_of(trip: Trip) -> Order:
    """A mapping."""
    return trip.order


assert_type(reserve, Transaction[Order, int])
assert_type(check, Transaction[Order, None])
assert_type(charge, Effect[Order, Payment])
assert_type(quote, Effect[Order, Decimal])
assert_type(reserve.using(order_of), Transaction[Trip, int])
assert_type(charge.using(order_of, name="charge_trip"), Effect[Trip, Payment])

place = Saga(
    "place-order",
    Order,
    reserve,
    check,
    parallel(charge, irreversible(quote, "quotes lapse"), ordered=True),
    pivot(confirm, retry=Retry(max_attempts=1)),
    retriable(send),
    keys=("sku",),
)
assert_type(place, Saga[Order])
# A step that takes an order can stand in a saga of a special kind of order.
assert_type(Saga("rush", RushOrder, reserve, parallel(charge, quote), retriable(send)), Saga[RushOrder])
assert_type(Saga("trip", Trip, reserve.using(order_of), pivot(confirm.using(order_of)), retriable(send)), Saga[Trip])


def read(result: RunResult, call: Call, uow: UnitOfWork, order: Order) -> None:
    """Results are read typed, and steps can be called as their functions."""
    assert_type(result.result_of(charge), Payment | None)
    assert_type(call.result_of(reserve.using(order_of)), int)
    assert_type(reserve(order, uow), int)
    release(Done(order, 1), uow)
