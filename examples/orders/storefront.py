"""An order: stock in our own store, payment and shipping at other companies.

Stock is an aggregate, so reserving it takes effect exactly once. Payment and shipping are services behind HTTP; Amends
calls them at least once, always with the same idempotency key.
"""

import os
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import httpx
from eventsourcing.domain import event
from pydantic import BaseModel, PositiveInt

from amends import (
    Aggregate,
    Attempted,
    Call,
    Contract,
    Done,
    Participant,
    Rejected,
    Retry,
    Saga,
    UnitOfWork,
    effect,
    irreversible,
    parallel,
    pivot,
    retriable,
    transaction,
)

__all__ = ["PlaceOrder", "StockItem", "StockUp", "place_order", "stock_up"]


# The payment provider remembers voids: a charge that comes after its void is refused.
PAYMENT = Participant("payment", contract=Contract.REMEMBERS_UNDO)
# For the carrier less is enough, because no booking is ever undone: it acts once per key.
CARRIER = Participant("carrier", contract=Contract.KEYED)


class PlaceOrder(BaseModel):
    """The customer's order."""

    order_id: str
    sku: str
    quantity: PositiveInt
    amount: Decimal
    card: str = "card-on-file"
    zone: str = "domestic"


class StockUp(BaseModel):
    """A delivery to our warehouse."""

    sku: str
    quantity: PositiveInt


class Reservation(BaseModel):
    """Stock that is reserved for an order."""

    sku: str
    quantity: int


class Payment(BaseModel):
    """A charge."""

    payment_id: str
    amount: Decimal


class Booking(BaseModel):
    """A parcel with a booked pick-up."""

    booking_id: str


class StockItem(Aggregate):
    """The number of free pieces of an article, and of pieces reserved for orders that are not decided yet."""

    @event("Registered")
    def __init__(self, id: str) -> None:  # noqa: A002, ARG002 - the word that aggregates use
        self.free = 0
        self.held: dict[str, int] = {}

    @event("Received")
    def receive(self, quantity: int) -> None:
        """Add a delivery."""
        self.free += quantity

    @event("Reserved")
    def _reserve(self, quantity: int, order_id: str) -> None:
        self.free -= quantity
        self.held[order_id] = self.held.get(order_id, 0) + quantity

    @event("Released")
    def release(self, quantity: int, order_id: str, cause: str = "") -> None:  # noqa: ARG002 - kept in the event
        """Free the stock of an order; `cause` is the fact that led to it, if the order itself did not."""
        self.free += quantity
        self._let_go(quantity, order_id)

    @event("Sold")
    def sell(self, quantity: int, order_id: str) -> None:
        """Remove the stock of an order that is sold."""
        self._let_go(quantity, order_id)

    def _let_go(self, quantity: int, order_id: str) -> None:
        left = self.held.pop(order_id, 0) - quantity
        if left > 0:
            self.held[order_id] = left

    def reserve(self, quantity: int, order_id: str) -> None:
        """Reserve some for an order.

        Raises:
            Rejected: Too little is free.
        """
        if quantity > self.free:
            raise Rejected(f"{self.id}: {quantity} wanted, {self.free} free")
        self._reserve(quantity, order_id)


@transaction
def reserve_stock(order: PlaceOrder, uow: UnitOfWork) -> Reservation:
    """Reserve the stock: exactly once, because it is in our store."""
    item = uow.find(StockItem, order.sku)
    if item is None:
        raise Rejected(f"there is no article {order.sku}")
    item.reserve(order.quantity, order.order_id)
    return Reservation(sku=order.sku, quantity=order.quantity)


@reserve_stock.compensation
def release_stock(done: Done[PlaceOrder, Reservation], uow: UnitOfWork) -> None:
    """Free the stock again."""
    uow.get(StockItem, done.result.sku).release(done.result.quantity, done.input.order_id)


@effect(
    participant=PAYMENT, timeout=timedelta(seconds=5), retry=Retry(max_attempts=4, first=timedelta(milliseconds=100))
)
async def charge_card(order: PlaceOrder, call: Call) -> Payment:
    """Charge the card."""
    body = {"order_id": order.order_id, "amount": str(order.amount), "card": order.card}
    entry = await post(payment_url(), "charge", call.key, body)
    return Payment(payment_id=str(entry["effect"]["payment_id"]), amount=order.amount)


@charge_card.probe
async def find_charge(order: PlaceOrder, call: Call) -> Payment | None:
    """Ask the provider for the outcome of the charge, after every attempt ended without an answer.

    "Nothing so far" is no answer: the charge may still arrive. Then this raises, the charge counts as in doubt, and
    after `refund_card` the provider refuses it if it comes.
    """
    entry = await find(payment_url(), call.key)
    return None if entry is None else Payment(payment_id=str(entry["effect"]["payment_id"]), amount=order.amount)


@charge_card.compensation
async def refund_card(_: Attempted[PlaceOrder, Payment], call: Call) -> None:
    """Refund the charge if it took place; the provider then refuses it if it comes late.

    The attempt may have no result: then only the provider knows whether the charge took place, by the key
    of the charge.
    """
    await post(payment_url(), "void", call.key, {"key": call.do_key})


@effect(participant=CARRIER, timeout=timedelta(seconds=5), read_only=True)
async def quote_shipping(order: PlaceOrder, call: Call) -> Decimal:
    """Ask for the price of the parcel; asking changes nothing."""
    body = {"order_id": order.order_id, "quantity": order.quantity, "zone": order.zone}
    entry = await post(shipping_url(), "quote", call.key, body)
    return Decimal(str(entry["effect"]["price"]))


@transaction
def confirm_order(order: PlaceOrder, uow: UnitOfWork) -> str:
    """Decide: from here on the order stands, and its stock is sold."""
    uow.get(StockItem, order.sku).sell(order.quantity, order.order_id)
    paid = uow.result_of(charge_card).amount
    return f"{order.order_id}: {paid} paid, {uow.result_of(quote_shipping)} of it for the parcel"


@effect(participant=CARRIER, timeout=timedelta(seconds=5))
async def book_parcel(order: PlaceOrder, call: Call) -> Booking:
    """Book the pick-up of the parcel; repeated until it succeeds."""
    body = {"order_id": order.order_id, "quantity": order.quantity, "zone": order.zone}
    entry = await post(shipping_url(), "book", call.key, body)
    return Booking(booking_id=str(entry["effect"]["booking_id"]))


@transaction
def receive_delivery(delivery: StockUp, uow: UnitOfWork) -> int:
    """Add a delivery to the warehouse."""
    item = uow.find(StockItem, delivery.sku) or uow.add(StockItem(delivery.sku))
    item.receive(delivery.quantity)
    return item.free


place_order = Saga(
    "place-order",
    PlaceOrder,
    reserve_stock,
    parallel(charge_card, quote_shipping),
    pivot(confirm_order),
    retriable(book_parcel),
    keys=("order_id", "sku"),
)

stock_up = Saga(
    "stock-up",
    StockUp,
    irreversible(receive_delivery, "delivered goods stay in the warehouse"),
    keys=("sku",),
)


def payment_url() -> str:
    """Return the payment service's address: `PAYMENT_URL`, or the port of the README."""
    return os.environ.get("PAYMENT_URL", "http://127.0.0.1:8701")


def shipping_url() -> str:
    """Return the shipping service's address: `SHIPPING_URL`, or the port of the README."""
    return os.environ.get("SHIPPING_URL", "http://127.0.0.1:8702")


class NoAnswerError(Exception):
    """A service did not answer with the outcome of a call; Amends calls again under the same key."""


async def post(base: str, operation: str, key: str, body: dict[str, Any]) -> dict[str, Any]:
    """Call an operation under a key, and return the service's ledger entry.

    Raises:
        Rejected: The service refused.
        NoAnswerError: The outcome is unknown.
    """
    answer = await ask(base, "POST", f"/{operation}", json=body, headers={"Idempotency-Key": key})
    entry: dict[str, Any] = answer.json()
    if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        raise Rejected(entry["reason"])
    if answer.status_code != httpx.codes.OK:
        raise NoAnswerError(f"{operation}: {answer.status_code} {entry['error']}: {entry['reason']}")
    return entry


async def find(base: str, key: str) -> dict[str, Any] | None:
    """Ask for the effect under a key; `None` if nothing took effect and nothing will.

    Raises:
        Rejected: The service had refused.
        NoAnswerError: Nothing happened so far, which may change: the call may still be on its way.
    """
    answer = await ask(base, "GET", f"/operations/{quote(key, safe='')}")
    if answer.status_code != httpx.codes.OK:
        raise NoAnswerError(f"nothing is known of key {key}; its call may still be on its way")
    entry: dict[str, Any] = answer.json()
    if entry["outcome"] == "refused":
        raise Rejected(entry["reason"])
    return None if entry["outcome"] == "voided" or entry["voided_by"] else entry


async def ask(base: str, method: str, path: str, **request: Any) -> httpx.Response:  # noqa: ANN401 - as httpx has them
    """Call a service.

    Raises:
        NoAnswerError: There was no reply.
    """
    async with httpx.AsyncClient(base_url=base) as http:
        try:
            return await http.request(method, path, **request)
        except httpx.TransportError as error:
            raise NoAnswerError(f"no reply to {path} of {base}: {str(error) or type(error).__name__}") from error
