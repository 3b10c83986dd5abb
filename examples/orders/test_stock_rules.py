"""The rule about stock frees it once if no order needs it, and does not touch the stock of an open order."""

import json
from decimal import Decimal

import pytest
from stock_rules import held_stock
from storefront import Booking, Payment, PlaceOrder, StockItem, book_parcel, charge_card, place_order, quote_shipping

from amends import DriftKind, Rejected
from amends.testing import RuleScenario, Scenario

ORDER = PlaceOrder(order_id="o-1", sku="teapot", quantity=2, amount=Decimal("49.80"))


def teapots(**held: int) -> StockItem:
    """Ten teapots in the warehouse, some reserved by hand for orders."""
    item = StockItem("teapot")
    item.receive(10)
    for order_id, quantity in held.items():
        item.reserve(quantity, order_id)
    return item


def free(scenario: Scenario[PlaceOrder]) -> int:
    """The number of free teapots."""
    item = scenario.journal.load_blocking(StockItem, "teapot")
    assert item is not None
    return item.free


def test_stock_held_for_an_order_that_nobody_knows_is_freed_once() -> None:
    """One scan finds it, its correction is an event that names its cause, and no later scan finds anything."""
    with Scenario(place_order) as scenario:
        rule = RuleScenario(held_stock, scenario.given(teapots(ghost=3)))
        (drift,) = rule.scan()
        assert (drift.subject, drift.kind, drift.actual) == ("StockItem/teapot", DriftKind.UNEXPECTED, {"ghost": 3})
        assert drift.evidence == "order ghost is not known to any run"
        (corrected,) = rule.reconcile().corrected
        assert corrected.problem is None
        assert corrected.changed == ("StockItem/teapot:4",)
        released = scenario.journal.events_blocking("StockItem/teapot")[-1]
        assert released.topic == "StockItem.Released"
        assert json.loads(released.state)["cause"] == "reconciliation/held-stock:2"
        assert free(scenario) == 10
        assert not rule.scan()
        assert not rule.reconcile().corrected


def test_stock_held_for_an_order_that_was_compensated_is_freed() -> None:
    """The saga has released its own stock; the rule frees the stock that was reserved by hand for the same order."""
    with Scenario(place_order) as scenario:
        scenario.given(teapots(**{"o-1": 3})).answers(quote_shipping, Decimal("4.90"))
        scenario.answers(charge_card, Rejected("card was declined")).when(ORDER).compensated("reserve_stock")
        rule = RuleScenario(held_stock, scenario)
        (drift,) = rule.scan()
        assert (drift.actual, drift.evidence) == ({"o-1": 3}, "order o-1 is COMPENSATED")
        assert len(rule.reconcile().corrected) == 1
        assert free(scenario) == 10
        assert rule.scan() == ()


def test_stock_of_an_order_that_is_under_way_is_not_touched() -> None:
    """An order with an open payment keeps its stock, while the rule frees the stock that no order needs."""
    with Scenario(place_order) as scenario:
        scenario.given(teapots(ghost=1)).answers(quote_shipping, Decimal("4.90"))
        with pytest.raises(AssertionError, match="'charge_card' has no answer"):
            scenario.when(ORDER)
        rule = RuleScenario(held_stock, scenario)
        (corrected,) = rule.reconcile().corrected
        assert corrected.problem is None
        assert free(scenario) == 8
        assert rule.scan() == ()


def test_orders_that_end_by_themselves_leave_nothing_to_free() -> None:
    """An order holds nothing once it is compensated or completed, however often the rule scans."""
    with Scenario(place_order) as scenario:
        scenario.given(teapots()).answers(quote_shipping, Decimal("4.90"))
        payment = Payment(payment_id="payment-1", amount=ORDER.amount)
        scenario.answers(charge_card, Rejected("card was declined"), payment)
        scenario.answers(book_parcel, Booking(booking_id="booking-1"))
        scenario.when(ORDER).compensated("reserve_stock")
        scenario.when(ORDER.model_copy(update={"order_id": "o-2"})).completed()
        rule = RuleScenario(held_stock, scenario)
        assert not rule.scan()
        assert not rule.reconcile().corrected
        assert free(scenario) == 8
