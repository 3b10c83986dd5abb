"""Unit tests of the order: every way that it can end, without services, a server or waiting.

Most tests show one end; the last ones explore every way to fail with two faults.
"""

from decimal import Decimal

import pytest
from storefront import (
    Booking,
    NoAnswerError,
    Payment,
    PlaceOrder,
    StockItem,
    StockUp,
    book_parcel,
    charge_card,
    confirm_order,
    place_order,
    quote_shipping,
    stock_up,
)

from amends import Rejected
from amends.testing import End, LostReply, Scenario, prove

ORDER = PlaceOrder(order_id="o-1", sku="teapot", quantity=2, amount=Decimal("49.80"))
CHARGE = Payment(payment_id="payment-1", amount=ORDER.amount)
PRICE = Decimal("4.90")


def teapots(free: int) -> StockItem:
    """A number of teapots in the warehouse."""
    item = StockItem("teapot")
    item.receive(free)
    return item


@pytest.fixture
def scenario() -> Scenario[PlaceOrder]:
    """Ten teapots, and a carrier that accepts."""
    made = Scenario(place_order).given(teapots(10)).answers(quote_shipping, PRICE)
    return made.answers(book_parcel, Booking(booking_id="booking-1"))


def test_an_order_is_paid_and_sent(scenario: Scenario[PlaceOrder]) -> None:
    """The stock is taken, the card is charged once, the parcel is booked once."""
    with scenario.answers(charge_card, CHARGE):
        then = scenario.when(ORDER).completed()
        assert then.aggregate(StockItem, "teapot").free == 8
        assert len(then.calls(charge_card)) == len(then.calls(book_parcel)) == 1


@pytest.mark.parametrize(
    ("sku", "reason"), [("teapot", "teapot: 2 wanted, 1 free"), ("urn", "there is no article urn")]
)
def test_what_is_not_there_is_not_sold(sku: str, reason: str) -> None:
    """The order is refused before any service is called."""
    with Scenario(place_order) as scenario:
        then = scenario.given(teapots(1)).when(ORDER.model_copy(update={"sku": sku}))
        then.compensated()
        assert then.result.error == f"reserve_stock: {reason}"
        assert then.calls(charge_card) == then.calls(quote_shipping) == ()


def test_a_declined_card_frees_the_stock(scenario: Scenario[PlaceOrder]) -> None:
    """Nothing was paid, so nothing is refunded."""
    with scenario.answers(charge_card, Rejected("card was declined")):
        then = scenario.when(ORDER).compensated("reserve_stock")
        assert then.aggregate(StockItem, "teapot").free == 10
        assert then.compensation_calls(charge_card) == ()


def test_a_parcel_that_nobody_carries_undoes_the_payment() -> None:
    """The refund names the charge by its key, and the stock is free again."""
    with Scenario(place_order) as scenario:
        scenario.given(teapots(10)).answers(charge_card, CHARGE)
        then = scenario.answers(quote_shipping, Rejected("zone is not served")).when(ORDER)
        then.compensated("charge_card", "reserve_stock")
        (refund,) = then.compensation_calls(charge_card)
        assert refund.do_key == then.calls(charge_card)[0].key
        assert then.aggregate(StockItem, "teapot").free == 10


def test_a_lost_reply_of_the_payment_is_asked_for_again(scenario: Scenario[PlaceOrder]) -> None:
    """Both attempts have one key, so the provider charges once."""
    with scenario.answers(charge_card, LostReply(), CHARGE):
        calls = scenario.when(ORDER).completed().calls(charge_card)
        assert [call.key for call in calls] == ["run-1/charge_card/do/0"] * 2


def test_a_payment_that_nobody_knows_of_is_refunded(scenario: Scenario[PlaceOrder]) -> None:
    """Silence is not a refusal: the charge may still arrive, so it is undone like a successful one."""
    with scenario.answers(charge_card, LostReply()).probe_answers(charge_card, NoAnswerError("nothing is known")):
        scenario.when(ORDER).compensated("charge_card", "reserve_stock")


def test_a_carrier_that_is_away_is_waited_for() -> None:
    """After the order is confirmed it only goes forward: the booking is repeated until it succeeds."""
    with Scenario(place_order) as scenario:
        scenario.given(teapots(10)).answers(charge_card, CHARGE).answers(quote_shipping, PRICE)
        scenario.answers(book_parcel, *[LostReply()] * 20, Booking(booking_id="booking-1"))
        then = scenario.when(ORDER).completed()
        assert len(then.calls(book_parcel)) == 21
        assert then.compensation_calls(charge_card) == ()


def test_deliveries_add_up() -> None:
    """The first delivery of an article registers it, later ones add to it."""
    with Scenario(stock_up) as scenario:
        scenario.when(StockUp(sku="teapot", quantity=3)).completed()
        then = scenario.when(StockUp(sku="teapot", quantity=4)).completed()
        assert then.aggregate(StockItem, "teapot").free == 7


@prove(
    place_order,
    ORDER,
    given=[teapots(10)],
    results={charge_card: CHARGE, quote_shipping: PRICE, book_parcel: Booking(booking_id="booking-1")},
    faults=2,
)
def test_no_failure_costs_stock_or_money(end: End) -> None:
    """After any two faults the stock is sold exactly if the order stands, and no customer pays without an order."""
    item = end.aggregate(StockItem, "teapot")
    confirmed = end.result_of(confirm_order) is not None
    assert item.free == (8 if confirmed else 10)
    assert item.held == {}
    if end.compensated:
        assert end.standing(charge_card) == end.standing(book_parcel) == 0


@prove(stock_up, StockUp(sku="teapot", quantity=3), given=[teapots(10)], faults=2)
def test_a_delivery_is_counted_once(end: End) -> None:
    """However often the delivery is tried, its pieces arrive once."""
    assert end.aggregate(StockItem, "teapot").free == (13 if end.completed else 10)
