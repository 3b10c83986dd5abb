"""Aggregates with events of every form."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar
from uuid import UUID

import pytest
from eventsourcing.domain import event
from eventsourcing.persistence import StoredEvent
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, JsonValue

from aggregate_parts.values import json_values, text
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.run.facts import FACTS

AT = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)


class Unit(Enum):
    """An enum as a parameter."""

    PIECE = "piece"
    BOX = "box"


class Address(BaseModel):
    """A model as a parameter."""

    city: str
    zip: str | None = None


@dataclass(frozen=True)
class Lot:
    """A dataclass as a parameter."""

    id: UUID
    weight: Decimal


class StockItem(Aggregate):
    """An aggregate as users write them."""

    @event("Registered")
    def __init__(self, id: str, on_hand: int, unit: Unit = Unit.PIECE) -> None:  # noqa: A002 - the aggregate's id
        self.id_seen = id
        self.on_hand = on_hand
        self.unit = unit
        self.reserved: dict[str, int] = {}
        self.price = Decimal(0)

    @event("Reserved")
    def reserve(self, quantity: int, order: str, note: str = "none") -> None:
        """Reserve a quantity."""
        self.on_hand -= quantity
        self.reserved[order] = quantity
        self.note = note

    @event("Priced")
    def set_price(self, price: Decimal, at: datetime | None = None) -> None:
        """Set the price."""
        self.price = price
        self.at = at

    @event("Described")
    def describe(self, address: Address, lots: list[Lot], tags: set[str], extra: JsonValue) -> None:
        """Set values of every form."""
        self.address, self.lots, self.tags, self.extra = address, lots, tags, extra

    @event("Noted")
    def note_anything(self, anything) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - the case in question
        """Set a value of no declared type."""
        self.anything = anything


class Account(Aggregate):
    """An aggregate whose events have changed twice."""

    CATEGORY = "LedgerAccount"

    class Deposited(Aggregate.Event):
        """The event with `cents` in version 1, `amount` in version 2, and a currency in version 3."""

        class_version = 3
        amount: Decimal
        currency: str

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            """Convert cents to an amount."""
            state["amount"] = str(Decimal(state.pop("cents")) / 100)

        @staticmethod
        def upcast_v2_v3(state: dict[str, Any]) -> None:
            """Add the only currency of that time."""
            state["currency"] = "EUR"

    @event("Opened")
    def __init__(self, id: str) -> None:  # noqa: A002 - the aggregate's id
        self.balance = Decimal(0)
        self.owner = id

    @event(Deposited)
    def deposit(self, amount: Decimal, currency: str) -> None:
        """Add money."""
        self.balance += amount
        self.currency = currency


class Noticed(BaseModel):
    """A fact that has had two versions."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    class_version: ClassVar[int] = 2

    originator_id: str
    originator_version: int
    text: JsonValue

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Rename a field."""
        state["text"] = state.pop("message")


amounts = st.decimals(allow_nan=False, allow_infinity=False, places=2)


def commands() -> st.SearchStrategy[Callable[[StockItem], None]]:
    """Draw calls of every command."""
    described = st.tuples(
        st.builds(Address, city=text, zip=st.none() | text),
        st.lists(st.builds(Lot, st.uuids(), amounts), max_size=2),
        st.sets(text, max_size=3),
        json_values,
    )
    return (
        st.tuples(st.integers(), text, text).map(lambda given: lambda item: item.reserve(*given))
        | st.tuples(amounts, st.none() | st.datetimes(timezones=st.just(UTC))).map(
            lambda given: lambda item: item.set_price(*given)
        )
        | described.map(lambda given: lambda item: item.describe(*given))
        | json_values.map(lambda given: lambda item: item.note_anything(given))
    )


@pytest.fixture(scope="module")
def codec() -> EventCodec:
    """Return a codec that knows the classes above and all facts."""
    return EventCodec([StockItem, Account], facts={**FACTS, "Noticed": Noticed})


def replayed(codec: EventCodec, rows: list[StoredEvent]) -> StockItem:
    """Fold stored events."""
    item: Any = None
    for row in rows:
        item = codec.to_domain(row).mutate(item)
    assert isinstance(item, StockItem)
    return item


class Unknown:
    """A class without a schema."""

    def __repr__(self) -> str:
        return "Unknown()"
