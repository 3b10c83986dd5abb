"""Values that pass the codec come back equal; the codec refuses any other in one line with the remedy."""

import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from aggregate_parts.values import ANYTHING, BERLIN, Color, Line, Shape, Zoned, json_values, lines, text
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, JsonValue, computed_field

from amends.aggregates.values.json_codec import JsonCodec, canonical_text, difference, digest, parse_json, same_json


class Level(IntEnum):
    """A number enum."""

    LOW = 1
    HIGH = 2


class Order(BaseModel):
    """An input as users write them."""

    order_id: str = Field(alias="orderId")
    amount: Decimal
    lines: list[Line] = []
    color: Color | None = None
    tags: set[str] = set()


@dataclass
class Payment:
    """A dataclass result."""

    id: UUID
    at: datetime
    parts: tuple[int, ...] = ()
    note: str | None = None
    fee: float = 0.0


@dataclass(eq=False)
class Receipt:
    """A class that compares by identity, as it defines no equality."""

    number: int
    hidden: str = field(default="", compare=False)


class Point(NamedTuple):
    """A named tuple."""

    x: int
    y: int


class Totals(BaseModel, extra="forbid"):
    """A model with a computed field, which is not an input."""

    a: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        """Return the value computed from `a`."""
        return 2 * self.a


instants = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001 - Hypothesis adds the zone
    timezones=st.sampled_from([UTC, ZoneInfo("UTC"), timezone(timedelta(hours=5, minutes=30))]),
)
decimals = st.decimals(allow_nan=False, allow_infinity=False, places=2) | st.sampled_from(
    [Decimal("1.0"), Decimal("1.00"), Decimal("1E+3"), Decimal("-0")]
)
orders = st.builds(
    Order,
    orderId=text,
    amount=decimals,
    lines=st.lists(lines, max_size=3),
    color=st.none() | st.sampled_from(Color),
    tags=st.sets(text, max_size=4),
)
payments = st.builds(
    Payment,
    id=st.uuids(),
    at=instants,
    parts=st.lists(st.integers(), max_size=3).map(tuple),
    note=st.none() | text,
    fee=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5),
)
TYPED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Order, orders),
    (Payment, payments),
    (list[Order | Line], st.lists(orders | lines, max_size=2)),
    (dict[int, Decimal], st.dictionaries(st.integers(), decimals, max_size=4)),
    (dict[UUID, Point], st.dictionaries(st.uuids(), st.builds(Point, st.integers(), st.integers()), max_size=3)),
    (frozenset[date], st.frozensets(st.dates(), max_size=4)),
    (datetime | None, st.none() | instants | st.datetimes()),
    (time, st.times()),
    (timedelta, st.timedeltas(timedelta(days=-1000), timedelta(days=1000))),
    (Level | Shape, st.sampled_from([*Level, *Shape])),
    (None, st.none()),
    (bytes, text.map(str.encode)),
    (Any, json_values),
]


@pytest.mark.parametrize(("type_", "values"), TYPED, ids=[str(each[0]) for each in TYPED])
@given(data=st.data())
def test_what_is_written_reads_back_equal(type_: object, values: st.SearchStrategy[Any], data: st.DataObject) -> None:
    """A value of a declared type survives writing and reading, by text and by JSON."""
    codec: JsonCodec[Any] = JsonCodec(type_)
    value = data.draw(values)
    written = codec.dump(value)
    assert repr(codec.load(written)) == repr(codec.load_text(codec.dump_text(value)))
    assert codec.dump(codec.load(written)) == written
    back = codec.load(written)
    if not isinstance(value, datetime | Payment):  # equality across zones fails in the repeated hour
        assert back == value


@given(json_values)
def test_canonical_text_is_canonical(value: JsonValue) -> None:
    """Equal JSON has one text, for any order of keys; the text is JSON without needless characters."""

    def turned(each: JsonValue) -> JsonValue:
        if isinstance(each, dict):
            return {key: turned(each[key]) for key in reversed(list(each))}
        return [turned(part) for part in each] if isinstance(each, list) else each

    written = canonical_text(value)
    assert canonical_text(turned(value)) == written
    assert parse_json(written) == value
    assert digest(turned(value)) == digest(value)
    assert same_json(turned(value), value)
    assert difference(turned(value), value) == []


def test_the_form_of_canonical_text() -> None:
    """Keys are sorted, blanks left out and characters beyond ASCII kept."""
    assert canonical_text({"b": [1, 2.5, None, True], "a": "é\n"}) == '{"a":"é\\n","b":[1,2.5,null,true]}'


def test_the_remedy_for_a_time_with_a_zone_works() -> None:
    """The instant in UTC and the zone in a separate field come back, also within the hour that is repeated."""
    at = datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1)
    codec = JsonCodec(Zoned)
    kept = codec.load(codec.dump(Zoned(at.astimezone(UTC), BERLIN)))
    assert kept.at.timestamp() == at.timestamp()
    assert kept.at.astimezone(kept.zone).replace(tzinfo=None) == at.replace(tzinfo=None)
    assert kept.zone.key == "Europe/Berlin"


def test_what_is_the_same_to_typed_code_is_accepted() -> None:
    """Values that code of the declared type cannot distinguish pass: whole numbers as float, text enums as text."""
    assert JsonCodec(float).dump(3) == 3
    assert JsonCodec(Payment).dump(Payment(UUID(int=1), datetime(2024, 1, 1, tzinfo=UTC), fee=10))
    assert ANYTHING.dump({"color": Color.RED}) == {"color": "red"}
    assert JsonCodec(Receipt).dump(Receipt(3, "x")) == {"number": 3, "hidden": "x"}
    assert JsonCodec(Totals).dump(Totals(a=2)) == {"a": 2}


def test_aliases_are_for_foreign_input() -> None:
    """Input may use alias or field name; the stored form uses the field's name."""
    codec = JsonCodec(Order)
    by_alias = codec.load_text('{"orderId": "o-1", "amount": "1.00"}')
    assert by_alias == codec.load_text('{"order_id": "o-1", "amount": "1.00"}')
    assert codec.dump_text(by_alias) == '{"amount":"1.00","color":null,"lines":[],"order_id":"o-1","tags":[]}'


def test_sets_have_one_text_in_every_process() -> None:
    """The order of a set differs between processes; its canonical text does not."""
    program = (
        "from amends.aggregates.values.json_codec import JsonCodec\n"
        "print(JsonCodec(dict[str, set[str]]).dump_text({'k': {'delta', 'alpha', 'charlie', 'bravo'}}))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert seen == {'{"k":["alpha","bravo","charlie","delta"]}\n'}
