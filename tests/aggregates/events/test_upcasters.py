"""Events of older code are brought up to date, and those of newer code are refused."""

from decimal import Decimal
from typing import Any

import pytest
from aggregate_parts import stock
from aggregate_parts.stock import Noticed
from eventsourcing.persistence import StoredEvent

from amends.aggregates.errors import DefinitionError, NewerFactError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.events.event_codec import EventCodec

codec = stock.codec


def test_old_versions_are_brought_up_to_date(codec: EventCodec) -> None:
    """Each older version passes all upcasters between it and the class."""
    for state in (
        b'{"timestamp":"2024-05-06T07:08:09Z","cents":150}',
        b'{"timestamp":"2024-05-06T07:08:09Z","amount":"1.5","class_version":2}',
        b'{"timestamp":"2024-05-06T07:08:09Z","amount":"1.5","currency":"EUR","class_version":3}',
    ):
        deposited = codec.to_domain(StoredEvent("LedgerAccount/a", 2, "LedgerAccount.Deposited", state))
        assert (deposited.amount, deposited.currency) == (Decimal("1.5"), "EUR")
        assert not hasattr(deposited, "class_version") or deposited.class_version == 3
    old = codec.to_domain(StoredEvent("run/r", 1, "amends.Noticed", b'{"message":{"class_version":7}}'))
    assert old == Noticed(originator_id="run/r", originator_version=1, text={"class_version": 7})
    new = codec.to_stored(old)
    assert new.state == b'{"text":{"class_version":7},"class_version":2}'
    assert codec.to_domain(new) == old


@pytest.mark.parametrize(
    ("row", "known"),
    [
        (StoredEvent("LedgerAccount/a", 2, "LedgerAccount.Deposited", b'{"class_version":4}'), 3),
        (StoredEvent("StockItem/a", 2, "StockItem.Reserved", b'{"class_version":2,"quantity":1}'), 1),
        (StoredEvent("run/r", 2, "amends.StepSucceeded", b'{"class_version":2}'), 1),
    ],
)
def test_a_newer_version_is_refused(codec: EventCodec, row: StoredEvent, known: int) -> None:
    """The codec refuses an event that a newer program wrote."""
    with pytest.raises(NewerFactError) as refusal:
        codec.to_domain(row)
    assert str(refusal.value) == (
        f"stream '{row.originator_id}' position 2: {row.topic} has version {known + 1}, "
        f"this program reads versions up to {known}; upgrade this program"
    )


class Gap(Aggregate):
    """An aggregate without the upcaster from 2 to 3."""

    class Happened(Aggregate.Event):
        """An event that changed twice and has one upcaster."""

        class_version = 3
        what: str

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """Change nothing."""


class Returning(Aggregate):
    """An aggregate with an upcaster that returns a value instead of changing its argument."""

    class Happened(Aggregate.Event):
        """An event that changed once."""

        class_version = 2
        what: str

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> dict[str, Any]:
            """Return a new state."""
            return {**state, "what": "x"}


def test_upcasters_are_complete_at_start_up() -> None:
    """A missing upcaster is found before any row is read, and an upcaster of the wrong form at its first use."""
    with pytest.raises(DefinitionError) as refusal:
        EventCodec([Gap])
    assert str(refusal.value) == (
        "Gap.Happened: class_version is 3 without upcast_v2_v3; add a static method upcast_v2_v3(state)"
    )
    with pytest.raises(DefinitionError, match=r"upcast_v1_v2 returned .*; change the state in place"):
        EventCodec([Returning]).to_domain(StoredEvent("Returning/r", 2, "Returning.Happened", b'{"a":1}'))
