"""A small shop: a saga with a transaction on an aggregate, an effect and a pivot, as the README has it."""

from eventsourcing.domain import event
from pydantic import BaseModel

from amends import (
    Aggregate,
    Attempted,
    Call,
    Contract,
    Done,
    Participant,
    Rejected,
    Saga,
    UnitOfWork,
    effect,
    pivot,
    transaction,
)

__all__ = ["ORDER", "PAYMENT", "PlaceOrder", "StockItem", "charge_card", "place_order", "reserve_stock"]

PAYMENT = Participant("payment", contract=Contract.REMEMBERS_UNDO)


class PlaceOrder(BaseModel):
    """An order."""

    order_id: str
    sku: str


class StockItem(Aggregate):
    """A product in the shop's stock."""

    @event("Registered")
    def __init__(self, id: str, free: int) -> None:  # noqa: A002, ARG002 - the word that aggregates use
        self.free = free

    @event("Reserved")
    def reserve(self) -> None:
        """Reserve one piece."""
        self.free -= 1

    @event("Released")
    def release(self) -> None:
        """Put one piece back."""
        self.free += 1


@transaction
def reserve_stock(order: PlaceOrder, uow: UnitOfWork) -> int:
    """Reserve one piece."""
    item = uow.get(StockItem, order.sku)
    if item.free == 0:
        raise Rejected(f"{order.sku} is sold out")
    item.reserve()
    return item.free


@reserve_stock.compensation
def release_stock(done: Done[PlaceOrder, int], uow: UnitOfWork) -> None:
    """Release the piece."""
    uow.get(StockItem, done.input.sku).release()


@effect(participant=PAYMENT)
async def charge_card(_: PlaceOrder, call: Call) -> str:
    """Charge the card."""
    return f"charged under {call.key}"


@charge_card.compensation
async def refund_card(_: Attempted[PlaceOrder, str], __: Call) -> None:
    """Refund the card."""


@transaction
def confirm_order(_: PlaceOrder, uow: UnitOfWork) -> str:
    """Confirm the order."""
    return uow.result_of(charge_card)


place_order = Saga("place-order", PlaceOrder, reserve_stock, charge_card, pivot(confirm_order))
ORDER = PlaceOrder(order_id="o-1", sku="teapot")
