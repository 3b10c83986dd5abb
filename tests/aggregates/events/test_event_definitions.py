"""Definitions of events and aggregates that cannot work are refused."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from aggregate_parts.stock import Account, Address, StockItem, Unknown, replayed
from eventsourcing.domain import event

from amends.aggregates.errors import DefinitionError, InputError
from amends.aggregates.events.aggregate import Aggregate, checked_aggregate_id
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.values.json_codec import Limits


class Named(Aggregate):
    """An aggregate that creates its id from its arguments."""

    @staticmethod
    def create_id(name: object) -> str:
        """Return the name as the id, without a check."""
        return name  # type: ignore[return-value]

    @event("Made")
    def __init__(self, name: object) -> None:
        self.name = name

    @classmethod
    def of(cls, name: object) -> "Named":
        """Create one."""
        return cls(name=name)


class Special(StockItem):
    """An aggregate that inherits commands and events."""


def undeclared(value: object) -> Callable[[StockItem], None]:
    """Call the command whose parameter has no type."""
    return lambda item: item.note_anything(value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda item: item.set_price(Decimal("NaN")),
            (
                "cannot be stored and read back (price: Input should be a finite number, got 'NaN'); "
                "pass values of the declared types"
            ),
        ),
        (
            lambda item: item.set_price("1.0"),
            (
                "price: '1.0' (str) would be read back as Decimal('1.0') (Decimal); "
                "declare its actual type, or use plain JSON data"
            ),
        ),
        (
            lambda item: item.set_price("many"),
            (
                "cannot be stored and read back (price: Input should be a valid decimal, got 'many'); "
                "pass values of the declared types"
            ),
        ),
        (undeclared(float("nan")), "anything: nan is not JSON; use a finite number or None"),
        (undeclared("\ud800"), "anything: '\\ud800' has a lone surrogate; use valid Unicode text"),
        (
            undeclared({1: 2}),
            "anything: key 1 would be read back as '1'; use text keys, or declare the type of the keys",
        ),
        (
            undeclared(Address(city="x")),
            (
                "anything: Address(city='x', zip=None) (Address) would be read back as {'city': 'x', 'zip': None} "
                "(dict); declare its actual type, or use plain JSON data"
            ),
        ),
        (
            undeclared(Unknown()),
            (
                "cannot be stored and read back (Unable to serialize unknown type: "
                "<class 'aggregate_parts.stock.Unknown'>); pass values of the declared types"
            ),
        ),
        (undeclared({"_type_": 1}), "key '_type_' is reserved; rename it"),
        (undeclared("x" * 1000), "1057 bytes of JSON, the limit is 1000; keep the data elsewhere and pass a reference"),
    ],
)
def test_an_event_that_would_not_come_back_is_refused(call: Callable[[StockItem], None], message: str) -> None:
    """Every aggregate event is read back before it is accepted; the message names aggregate, field and remedy."""
    codec = EventCodec([StockItem], limits=Limits(max_bytes=1000))
    item = StockItem(id="sku-1", on_hand=5)
    call(item)
    refused = item.collect_events()[1]
    with pytest.raises(InputError) as refusal:
        codec.to_stored(refused)
    assert str(refusal.value) == f"event StockItem.{type(refused).__name__} of 'sku-1': {message}"


def test_definitions_that_cannot_work_are_refused() -> None:
    """A fault in an aggregate's definition raises when the aggregate is defined or registered."""

    class Twin(Aggregate):
        CATEGORY = "StockItem"

    with pytest.raises(DefinitionError) as refusal:
        EventCodec([StockItem, Twin])
    assert str(refusal.value) == (
        f"aggregates {StockItem.__module__}.StockItem and {__name__}.{Twin.__qualname__} "
        "share the category 'StockItem'; set CATEGORY on one of them"
    )

    class Strange(Aggregate):
        @event("Made")
        def make(self, thing: Unknown) -> None: ...

    with pytest.raises(DefinitionError, match=r"^event Strange.Made: thing: type Unknown cannot be stored as JSON"):
        EventCodec([Strange])

    class Versioned(Aggregate):
        class Made(Aggregate.Event):
            class_version: int = 2

    with pytest.raises(DefinitionError, match=r"^event Versioned.Made: the field name class_version is reserved"):
        EventCodec([Versioned])

    for category in ("run", "amends", "a/b", "a.b", ""):
        if category:
            with pytest.raises(DefinitionError, match=f"category '{category}' is reserved or not a plain name"):
                type("Bad", (Aggregate,), {"CATEGORY": category, "__module__": __name__})

    with pytest.raises(DefinitionError, match=r"put @event above @name\.setter"):

        class Faulty(Aggregate):
            @property
            def name(self) -> str:
                return "x"

            @name.setter
            @event("NameSet")
            def name(self, value: str) -> None: ...


def test_a_subclass_has_streams_and_topics_of_its_own() -> None:
    """The category is not inherited, so a base class and its subclass can both be stored."""
    codec = EventCodec([StockItem, Special])
    item = Special(id="s", on_hand=1)
    item.reserve(1, "o")
    rows = [codec.to_stored(each) for each in item.collect_events()]
    assert [row.topic for row in rows] == ["Special.Registered", "Special.Reserved"]
    assert rows[0].originator_id == Special.stream_of("s") == "Special/s"
    assert replayed(codec, rows) == item
    assert type(replayed(codec, rows)) is Special
    with pytest.raises(
        DefinitionError, match=r"Account\.Deposited belongs to another aggregate; define the event within Special"
    ):
        item.trigger_event(Account.Deposited, amount=Decimal(1), currency="EUR")


@pytest.mark.parametrize("bad", ["", "x" * 201, "a\x1b", "a\n", " a", "a ", "\ud800", 7, None])
def test_ids_of_aggregates_are_printable_text(bad: object) -> None:
    """An id that would repaint a terminal, look like another or fit no column is refused, from every source."""
    with pytest.raises(InputError, match="aggregate id"):
        checked_aggregate_id(bad)

    with pytest.raises((InputError, TypeError, NotImplementedError)):
        Named.of(bad)
    if isinstance(bad, str):
        with pytest.raises(InputError):
            StockItem(id=bad, on_hand=1)
    assert checked_aggregate_id("shop/3:Größe 7") == "shop/3:Größe 7"
