"""The sagas that are measured."""

from functools import cache

from eventsourcing.domain import event
from pydantic import BaseModel

from amends import Aggregate, Attempted, Call, Done, Effect, Saga, Transaction, UnitOfWork, effect, pivot, transaction

__all__ = ["Counter", "Order", "count_once", "many_effects", "many_steps", "mixed_steps", "three_calls", "three_steps"]


class Order(BaseModel):
    """An input of the usual size."""

    order_id: str
    sku: str
    quantity: int


class Done3(BaseModel):
    """A result of the usual size."""

    ok: bool


@transaction
def reserve(_: Order, __: UnitOfWork) -> Done3:
    """Do nothing: only the journal is measured."""
    return Done3(ok=True)


@reserve.compensation
def release(_: Done[Order, Done3], __: UnitOfWork) -> None:
    """Do nothing."""


@transaction
def charge(_: Order, __: UnitOfWork) -> Done3:
    """Do nothing."""
    return Done3(ok=True)


@charge.compensation
def refund(_: Done[Order, Done3], __: UnitOfWork) -> None:
    """Do nothing."""


@transaction
def confirm(_: Order, __: UnitOfWork) -> Done3:
    """Do nothing."""
    return Done3(ok=True)


three_steps = Saga("three-steps", Order, reserve, charge, pivot(confirm), keys=("order_id",))


def _as_it_is(order: Order) -> Order:
    return order


@transaction(read_only=True)
def link(_: Order, __: UnitOfWork) -> Done3:
    """Do nothing."""
    return Done3(ok=True)


@cache
def many_steps(count: int) -> Saga[Order]:
    """Create a saga with a number of equal steps."""
    steps: list[Transaction[Order, Done3]] = [link.using(_as_it_is, name=f"link-{n}") for n in range(count)]
    return Saga(f"steps-{count}", Order, *steps)


@effect
async def call(_: Order, __: Call) -> Done3:
    """Do nothing: only the claim, the call and its settling are measured."""
    return Done3(ok=True)


@call.compensation
async def call_back(_: Attempted[Order, Done3], __: Call) -> None:
    """Do nothing."""


@cache
def many_effects(count: int) -> Saga[Order]:
    """Create a saga with a number of equal effects."""
    steps: list[Effect[Order, Done3]] = [call.using(_as_it_is, name=f"call-{n}") for n in range(count)]
    return Saga(f"effects-{count}", Order, *steps)


@effect
async def book(order: Order, _: Call) -> Done3:
    """Do nothing."""
    return Done3(ok=bool(order.quantity))


@book.compensation
async def cancel(_: Attempted[Order, Done3], __: Call) -> None:
    """Do nothing."""


three_calls = Saga(
    "three-calls",
    Order,
    book,
    book.using(_as_it_is, name="book-again"),
    pivot(book.using(_as_it_is, name="book-last")),
)
mixed_steps = Saga("mixed-steps", Order, reserve, book, pivot(confirm))


class Counter(Aggregate):
    """An aggregate with one event for each count."""

    @event("Opened")
    def __init__(self, id: str) -> None:  # noqa: A002, ARG002 - the word that aggregates use
        self.count = 0

    @event("Counted")
    def increment(self) -> None:
        """Count one more."""
        self.count += 1


@transaction
def count(order: Order, uow: UnitOfWork) -> Done3:
    """Count on the aggregate that the order names."""
    uow.get(Counter, order.sku).increment()
    return Done3(ok=True)


count_once = Saga("count-once", Order, pivot(count))
