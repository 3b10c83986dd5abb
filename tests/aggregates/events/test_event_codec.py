"""Events are stored under fixed names, come back equal, and the codec refuses unknown, newer and damaged ones."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from aggregate_parts import stock
from aggregate_parts.stock import AT, Account, StockItem, Unit, commands, replayed
from aggregate_parts.values import json_values
from eventsourcing.persistence import Mapper, StoredEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from amends.aggregates.errors import DefinitionError, JournalError, UnknownTopicError
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.run.facts import StepSucceeded

codec = stock.codec


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
