"""Events are stored under fixed names, come back equal, and the codec refuses unknown, newer and damaged ones."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest
from eventsourcing.domain import event
from eventsourcing.persistence import Mapper, StoredEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, JsonValue

from amends.aggregates.errors import DefinitionError, InputError, JournalError, NewerFactError, UnknownTopicError
from amends.aggregates.events.aggregate import Aggregate, checked_aggregate_id
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.events.snapshot import Snapshot, SnapshotSkipped, restore_snapshot, snapshot_key, take_snapshot
from amends.aggregates.run.facts import FACTS, StepSucceeded
from amends.aggregates.values.json_codec import Limits
from amends.aggregates.values.roundtrip import first_difference
from amends.aggregates.values.strict_json import RESERVED_KEYS

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
        """Return any value."""
        self.address, self.lots, self.tags, self.extra = address, lots, tags, extra

    @event("Noted")
    def note_anything(self, anything) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - the case in question
        """Return a value of no declared type."""
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


@pytest.fixture(scope="module")
def codec() -> EventCodec:
    """Return a codec that knows the classes above and all facts."""
    return EventCodec([StockItem, Account], facts={**FACTS, "Noticed": Noticed})


def succeeded(result: JsonValue = None) -> StepSucceeded:
    """Create a fact."""
    return StepSucceeded(
        originator_id="run/r-1",
        originator_version=3,
        as_of_ms=1,
        recorded_at_ms=2,
        correlation_id="r-1",
        causation_id=None,
        actor="worker",
        node="charge_card",
        generation=0,
        attempt=1,
        result=result,
    )


STOCK = EventCodec([StockItem])

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
keys = text.filter(lambda key: key not in RESERVED_KEYS)  # Hypothesis finds them in the source
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
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


def replayed(codec: EventCodec, rows: list[StoredEvent]) -> StockItem:
    """Fold stored events."""
    item: Any = None
    for row in rows:
        item = codec.to_domain(row).mutate(item)
    assert isinstance(item, StockItem)
    return item


@given(st.lists(commands(), max_size=5), st.sampled_from(Unit))
def test_aggregates_come_back_from_their_events(calls: list[Callable[[StockItem], None]], unit: Unit) -> None:
    """Events read back equal and of the same class, and folding them gives the live aggregate."""
    codec = STOCK
    item = StockItem(id="sku/1", on_hand=5, unit=unit)
    for call in calls:
        call(item)
    events = item.collect_events()
    rows = [codec.to_stored(each) for each in events]
    back = [codec.to_domain(row) for row in rows]
    assert [(type(each), repr(each.originator_id), each) for each in back] == [
        (type(each), "'sku/1'", each) for each in events
    ]
    assert [(row.originator_id, row.originator_version) for row in rows] == [
        ("StockItem/sku/1", position) for position in range(1, len(calls) + 2)
    ]
    assert replayed(codec, rows) == item


@given(json_values)
def test_facts_come_back(value: JsonValue) -> None:
    """Facts read back equal, and the columns stay out of the payload."""
    codec = STOCK
    fact = succeeded(value)
    row = codec.to_stored(fact)
    assert (row.originator_id, row.originator_version, row.topic) == ("run/r-1", 3, "amends.StepSucceeded")
    assert not {"originator_id", "originator_version"} & json.loads(row.state).keys()
    assert codec.to_domain(row) == fact


def test_the_stored_form_is_fixed(codec: EventCodec) -> None:
    """Topic and payload have exactly this form, so that tomorrow's program reads today's rows."""
    item = StockItem(id="sku-1", on_hand=5)
    item.trigger_event(StockItem.Reserved, quantity=2, order="o-1", note="é", timestamp=AT)  # type: ignore[attr-defined]
    assert codec.to_stored(item.collect_events()[1]) == StoredEvent(
        originator_id="StockItem/sku-1",
        originator_version=2,
        topic="StockItem.Reserved",
        state='{"timestamp":"2024-05-06T07:08:09.123456Z","quantity":2,"order":"o-1","note":"é"}'.encode(),
    )
    account = Account(id="a")
    account.trigger_event(Account.Deposited, amount=Decimal("1.50"), currency="EUR", timestamp=AT)
    assert codec.to_stored(account.collect_events()[1]) == StoredEvent(
        originator_id="LedgerAccount/a",
        originator_version=2,
        topic="LedgerAccount.Deposited",
        state=b'{"timestamp":"2024-05-06T07:08:09.123456Z","amount":"1.50","currency":"EUR","class_version":3}',
    )


def test_it_is_an_eventsourcing_mapper(codec: EventCodec) -> None:
    """Readers of eventsourcing can use the codec as it is."""
    mapper: Mapper[str] = codec
    fact = succeeded({"a": 1})
    assert mapper.to_domain_event(mapper.to_stored_event(fact)) == fact


def test_an_unknown_topic_imports_nothing(codec: EventCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The codec refuses a planted row that names an importable module, and does not run the module."""
    (tmp_path / "planted_module.py").write_text("class Evil:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for topic in ("planted_module:Evil", "planted_module.Evil", "amends.Evil", "StockItem.Evil", "os:system"):
        with pytest.raises(UnknownTopicError) as refusal:
            codec.to_domain(StoredEvent("StockItem/s", 1, topic, b"{}"))
        assert str(refusal.value) == (
            f"stream 'StockItem/s' position 1: topic {topic!r} is unknown to this program; "
            "load the module that defines the topic, or upgrade this program"
        )
    assert "planted_module" not in sys.modules


def test_a_class_that_is_not_registered_is_refused() -> None:
    """The codec refuses to write an event that it could not read; registering the class later is enough."""
    codec = EventCodec()
    created = StockItem(id="s", on_hand=1).collect_events()[0]
    with pytest.raises(DefinitionError, match=r"StockItem.Registered is not on the allow-list; register"):
        codec.to_stored(created)
    codec.register(StockItem)
    codec.register(StockItem)
    assert codec.to_domain(codec.to_stored(created)) == created


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (("Other/s", 2, "StockItem.Reserved", b"{}"), "the event belongs in a stream StockItem/..."),
        (("StockItem/s", 2, "amends.StepSucceeded", b"{}"), "a fact does not belong in the stream of an aggregate"),
        (("StockItem/s", 2, "StockItem.Reserved", b""), "its payload is not a JSON object"),
        (("StockItem/s", 2, "StockItem.Reserved", b"[]"), "its payload is not a JSON object"),
        (("run/r", 2, "amends.Noticed", b'{"text":12'), "its payload is not a JSON object"),
        (("run/r", 2, "amends.Noticed", b'{"text":{"a":1}'), "EOF while parsing an object at line 1 column 15"),
        (
            ("run/r", 2, "amends.StepSucceeded", b'{"result":{"a":1}'),
            "Invalid JSON: EOF while parsing an object at line 1 column 64",
        ),
        (
            ("run/r", 2, "amends.Noticed", b'{"text":1,"more":2,"class_version":2}'),
            "more: Extra inputs are not permitted",
        ),
        (("run/r", 2, "amends.Noticed", b'{"class_version":"2"}'), "its class_version is '2'"),
        (("run/r", 2, "amends.Noticed", b'{"class_version":true}'), "its class_version is True"),
        (("run/r", 2, "amends.Noticed", b'{"class_version":0}'), "its class_version is 0"),
        (("run/r", 2, "amends.Noticed", b"{}"), "upcast_v1_v2 raised KeyError: 'message'"),
        (
            ("StockItem/s", 2, "StockItem.Reserved", b'{"timestamp":"2024-05-06T07:08:09Z","order":"o"}'),
            "quantity: Field required",
        ),
        (
            ("StockItem/s", 2, "StockItem.Priced", b'{"timestamp":"yesterday","price":"1"}'),
            "timestamp: Input should be a valid datetime",
        ),
    ],
)
def test_a_damaged_row_is_named(codec: EventCodec, row: tuple[str, int, str, bytes], why: str) -> None:
    """The error for an unreadable row names stream and position, the fault and the remedy."""
    with pytest.raises(JournalError) as refusal:
        codec.to_domain(StoredEvent(*row))
    message = str(refusal.value)
    assert message.startswith(f"stream {row[0]!r} position {row[1]}: the stored {row[2]} cannot be read: {why}")
    assert message.endswith("; restore the row, or add an upcaster if the class of the event has changed")
    assert message.isprintable()


def test_the_columns_overrule_the_payload(codec: EventCodec) -> None:
    """A payload cannot claim to be of another stream or position than its row."""
    row = codec.to_stored(succeeded())
    forged = replace(row, state=b'{"originator_id":"run/other","originator_version":9,' + row.state[1:])
    assert codec.to_domain(forged) == succeeded()
    reserved = StoredEvent(
        "StockItem/s",
        2,
        "StockItem.Reserved",
        b'{"originator_id":"x","originator_topic":"os:system","timestamp":"2024-05-06T07:08:09Z","quantity":1,"order":"o"}',
    )
    assert vars(codec.to_domain(reserved)) == {
        "timestamp": datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC),
        "quantity": 1,
        "order": "o",
        "note": "none",
        "originator_id": "s",
        "originator_version": 2,
    }


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
    codec.check()
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
        EventCodec([Gap]).check()
    assert str(refusal.value) == (
        "Gap.Happened: class_version is 3 without upcast_v2_v3; add a static method upcast_v2_v3(state)"
    )
    with pytest.raises(DefinitionError, match=r"upcast_v1_v2 returned .*; change the state in place"):
        EventCodec([Returning]).to_domain(StoredEvent("Returning/r", 2, "Returning.Happened", b'{"a":1}'))


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


class Unknown:
    """A class without a schema."""

    def __repr__(self) -> str:
        return "Unknown()"


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
                "<class 'test_event_codec.Unknown'>); pass values of the declared types"
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
        f"aggregates {__name__}.StockItem and {__name__}.{Twin.__qualname__} "
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
        (Unknown(), "Unable to serialize unknown type: <class 'test_event_codec.Unknown'>"),
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
