"""Snapshots: a snapshot restores the state exactly, or the journal has none."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import pytest
from aggregate_parts.stock import AT, Address, Lot, StockItem, Unit, Unknown, commands
from eventsourcing.domain import event
from hypothesis import given
from hypothesis import strategies as st

from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.events.snapshot import Snapshot, SnapshotSkipped, restore_snapshot, snapshot_key, take_snapshot
from amends.aggregates.values.roundtrip import first_difference


@given(st.lists(commands(), max_size=5))
def test_a_snapshot_restores_exactly_or_is_not_taken(calls: list[Callable[[StockItem], None]]) -> None:
    """A restored aggregate equals the live one in every attribute and type, and continues like it."""
    item = StockItem(id="sku/1", on_hand=5)
    for call in calls:
        call(item)
    item.collect_events()
    snapshot = take_snapshot(item)
    if isinstance(snapshot, SnapshotSkipped):
        assert snapshot.reason.startswith("aggregate StockItem 'sku/1': no snapshot: ")
        return
    restored = restore_snapshot(StockItem, snapshot)
    assert restored == item
    assert restored is not None
    was, now = (dict(sorted(vars(each).items())) for each in (item, restored))
    assert first_difference(was, now, exact=True) is None
    restored.reserve(1, "later")
    item.reserve(1, "later")
    assert restored.collect_events()[0].originator_version == item.collect_events()[0].originator_version
    assert restored.reserved == item.reserved
    assert list(restored.reserved) == list(item.reserved)


def test_typed_state_gets_a_snapshot() -> None:
    """Attributes named like event fields have the fields' types, so models, enums and decimals are restored."""
    item = StockItem(id="s", on_hand=3, unit=Unit.BOX)
    item.reserve(1, "z")
    item.reserve(1, "a")
    item.set_price(Decimal("1.00"), AT)
    item.describe(Address(city="x"), [Lot(UUID(int=3), Decimal("0.10"))], {"t"}, {"z": 1, "a": [None]})
    snapshot = take_snapshot(item)
    assert isinstance(snapshot, Snapshot)
    item.collect_events()
    restored = restore_snapshot(StockItem, snapshot)
    assert restored == item
    assert restored is not None
    assert (restored.unit, str(restored.price), list(restored.reserved)) == (Unit.BOX, "1.00", ["z", "a"])
    assert (snapshot.stream, snapshot.position) == ("StockItem/s", 5)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (
            (1, 2),
            (
                "anything: (1, 2) (tuple) would be read back as [1, 2] (list); declare its actual type, or use "
                "plain JSON data"
            ),
        ),
        (
            Decimal(1),
            (
                "anything: Decimal('1') (Decimal) would be read back as '1' (str); declare its actual type, or "
                "use plain JSON data"
            ),
        ),
        ({3: 1}, "anything: key 3 would be read back as '3'; use text keys, or declare the type of the keys"),
        (Unknown(), "Unable to serialize unknown type: <class 'aggregate_parts.stock.Unknown'>"),
        (float("nan"), "anything: nan is not JSON; use a finite number or None"),
    ],
)
def test_state_that_would_change_gets_no_snapshot(value: object, reason: str) -> None:
    """State that JSON would change is not captured, and the reason is available."""
    item = StockItem(id="s", on_hand=3)
    item.anything = value
    assert take_snapshot(item) == SnapshotSkipped(f"aggregate StockItem 's': no snapshot: {reason}")


def test_equal_is_not_enough_for_a_snapshot() -> None:
    """State that would come back equal but of another type is not captured: it would behave otherwise later."""
    item = StockItem(id="s", on_hand=3)
    item.on_hand = Decimal(2)  # type: ignore[assignment]  # as `2 * Decimal(1)` would make it
    assert take_snapshot(item) == SnapshotSkipped(
        "aggregate StockItem 's': no snapshot: on_hand: Decimal('2') (Decimal) would be read back as 2 (int); "
        "declare its actual type, or use plain JSON data"
    )


def test_shared_objects_get_no_snapshot() -> None:
    """Two attributes that share one list would refer to two lists afterwards."""
    item = StockItem(id="s", on_hand=3)
    item.anything = item.extra = [1]
    skipped = take_snapshot(item)
    assert isinstance(skipped, SnapshotSkipped)
    assert skipped.reason.endswith("shares an object with another part of the state; store a copy")


def test_a_snapshot_of_other_code_is_not_used() -> None:
    """A corrected aggregate does not continue with the state that the faulty one computed."""

    def made(step: int) -> type[Aggregate]:
        class Counter(Aggregate):
            STEP = step

            @staticmethod
            def create_id() -> str:
                return "c"

            @event("Started")
            def __init__(self) -> None:
                self.total = self.STEP

        return Counter

    first = made(1)
    snapshot = take_snapshot(first())
    assert isinstance(snapshot, Snapshot)
    assert restore_snapshot(first, snapshot) is not None
    assert snapshot_key(made(1)) == snapshot.key
    assert snapshot_key(made(2)) != snapshot.key
    assert restore_snapshot(made(2), snapshot) is None
    assert restore_snapshot(first, replace(snapshot, state=b'{"total":')) is None
    assert restore_snapshot(first, replace(snapshot, stream="Other/c")) is None
