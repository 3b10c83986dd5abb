"""Values that pass the codec come back equal; the codec refuses any other in one line with the remedy."""

import json
import re
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveInt,
    SecretStr,
    computed_field,
    field_validator,
)

from amends.aggregates.errors import DefinitionError, InputError
from amends.aggregates.values.json_codec import (
    JsonCodec,
    Limits,
    canonical_text,
    clean_text,
    difference,
    digest,
    parse_json,
    same_json,
)
from amends.aggregates.values.strict_json import RESERVED_KEYS

ANYTHING: JsonCodec[Any] = JsonCodec(Any)


class Color(StrEnum):
    """A text enum."""

    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    """A number enum."""

    LOW = 1
    HIGH = 2


class Shape(Enum):
    """An enum without a JSON type of its own."""

    ROUND = "round"
    SQUARE = 4


class Line(BaseModel):
    """A nested model."""

    sku: str
    quantity: PositiveInt


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


class Animal(BaseModel):
    """The declared type."""

    name: str


class Dog(Animal):
    """A subclass with a field more than declared."""

    breed: str = "mutt"


class Totals(BaseModel, extra="forbid"):
    """A model with a computed field, which is not an input."""

    a: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        """Return the value computed from `a`."""
        return 2 * self.a


class Plain:
    """A class unknown to pydantic."""

    def __repr__(self) -> str:
        return "Plain()"


@dataclass
class Zoned:
    """An instant, and its zone."""

    at: datetime
    zone: ZoneInfo


@dataclass
class Account:
    """A user's account."""

    number: int
    password: SecretStr


@dataclass
class Forgetful:
    """A model with a field that is written and not read, and that `==` does not see."""

    number: int
    seen: int = field(default=0, init=False, compare=False)

    def remember(self) -> "Forgetful":
        """Change that field."""
        self.seen = 1
        return self


class Alike(BaseModel):
    """A class that equals all with the same id, with any other values."""

    id: int
    hidden: int = Field(default=0, exclude=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike) and self.id == other.id

    def __hash__(self) -> int:
        return self.id


class Binary(BaseModel):
    """Bytes that are no text."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    content: bytes


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
keys = text.filter(lambda key: key not in RESERVED_KEYS)  # Hypothesis finds them in the source
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
instants = st.datetimes(
    min_value=datetime(1970, 1, 2),  # noqa: DTZ001 - Hypothesis adds the zone
    timezones=st.sampled_from([UTC, ZoneInfo("UTC"), timezone(timedelta(hours=5, minutes=30))]),
)
decimals = st.decimals(allow_nan=False, allow_infinity=False, places=2) | st.sampled_from(
    [Decimal("1.0"), Decimal("1.00"), Decimal("1E+3"), Decimal("-0")]
)
lines = st.builds(Line, sku=text, quantity=st.integers(1, 10**9))
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


BERLIN = ZoneInfo("Europe/Berlin")
LATE = datetime(2024, 7, 1, tzinfo=BERLIN)
TO_UTC = "convert it with .astimezone(UTC), and keep the zone in a field of its own, declared ZoneInfo"
ZONES = st.sampled_from(sorted(available_timezones() - {"UTC", "localtime"})).map(ZoneInfo)
LOST: list[tuple[Any, Any, str]] = [
    (datetime, LATE, TO_UTC),
    (Zoned, Zoned(LATE, BERLIN), TO_UTC),
    (list[datetime], [LATE], TO_UTC),
    (tuple[datetime | None, int], (LATE, 1), TO_UTC),
    (set[datetime], {LATE}, TO_UTC),
    (frozenset[tuple[datetime, int]], frozenset({(LATE, 1)}), TO_UTC),
    (deque[datetime], deque([LATE]), TO_UTC),
    (dict[str, datetime], {"a": LATE}, TO_UTC),
    (dict[datetime, int], {LATE: 1}, "use text keys, or declare the type of the keys"),
    (datetime, LATE.astimezone(timezone(timedelta(seconds=1))), "convert it with .astimezone(UTC)"),
    (time, time(1, tzinfo=BERLIN), "use a time of day without tzinfo, and keep the zone in a field of its own"),
    (deque[int], deque([1], maxlen=2), "use a deque without maxlen, and keep maxlen in a field of its own"),
    (re.Pattern[str], re.compile("a", re.IGNORECASE), "write the flags into the pattern, such as (?i)"),
    (SecretStr, SecretStr("x"), "keep the secret elsewhere and pass its name, or declare str or bytes"),
    (Account, Account(1, SecretStr("x")), "keep the secret elsewhere and pass its name, or declare str or bytes"),
    (Forgetful, Forgetful(1).remember(), "no init=False, no exclude, no custom serializer"),
    (Alike, Alike(id=1, hidden=2), "no init=False, no exclude, no custom serializer"),
    (bytes, b"\xff", "set ser_json_bytes='base64' and val_json_bytes='base64' in the model's config"),
]


@pytest.mark.parametrize(("type_", "value", "remedy"), LOST, ids=[f"{each[0]}-{each[1]!r}"[:50] for each in LOST])
def test_what_equality_does_not_see_is_refused(type_: object, value: object, remedy: str) -> None:
    """A loss is found although `==` takes the values for equal, and the remedy fits the loss."""
    codec: JsonCodec[Any] = JsonCodec(type_)
    with pytest.raises(InputError) as refusal:
        codec.dump(value)
    assert remedy in str(refusal.value)
    assert "\n" not in str(refusal.value)


@given(zone=ZONES, at=st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)))  # noqa: DTZ001 - the zone is added
def test_a_zone_keeps_its_name_or_is_refused(zone: ZoneInfo, at: datetime) -> None:
    """As a value of its own a zone comes back with its name; as the zone of a time it is refused."""
    codec = JsonCodec(ZoneInfo)
    assert codec.load(codec.dump(zone)).key == zone.key
    with pytest.raises(InputError, match="keep the zone in a field of its own"):
        JsonCodec(datetime).dump(at.replace(tzinfo=zone))


LOSSY: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (datetime, st.datetimes(timezones=st.timezones() | st.just(UTC))),
    (dict[Color, int], st.dictionaries(st.sampled_from(Color), st.integers())),
    (dict[Shape, int], st.dictionaries(st.sampled_from(Shape), st.integers())),
    (deque[int], st.builds(deque, st.lists(st.integers()), st.none() | st.integers(1, 3))),
    (Fraction, st.fractions()),
    (complex, st.complex_numbers()),
    (Path, text.map(Path)),
    (IPv4Address | IPv6Address, st.ip_addresses()),
    (timedelta, st.timedeltas()),
    (time, st.times(timezones=st.timezones() | st.just(UTC))),
    (str | date | UUID, text | st.dates() | st.uuids() | st.dates().map(str) | st.uuids().map(str)),
    (bytes, st.binary(max_size=5)),
    (Any, json_values | st.tuples(st.integers()) | st.dates() | st.dictionaries(st.integers(), st.none())),
]


@pytest.mark.parametrize(("type_", "values"), LOSSY, ids=[str(each[0]) for each in LOSSY])
@given(data=st.data())
def test_a_value_comes_back_or_is_refused(type_: object, values: st.SearchStrategy[Any], data: st.DataObject) -> None:
    """For every type, the codec reads the written value back or refuses it."""
    codec: JsonCodec[Any] = JsonCodec(type_)
    value = data.draw(values)
    try:
        written = codec.dump_text(value)
    except InputError:
        return
    back = codec.load_text(written)
    assert type(back) is type(value)
    assert back == value
    assert getattr(back, "maxlen", None) == getattr(value, "maxlen", None)
    if isinstance(value, datetime) and value.year < 9_999:
        assert back + timedelta(days=200) == value + timedelta(days=200)


def test_the_remedies_for_bytes_and_secrets_work() -> None:
    """Bytes that are no text come back by both ways that the refusal names; a secret is stored as text."""
    binary = JsonCodec(Binary)
    assert binary.load_text(binary.dump_text(Binary(content=b"\xff\x00"))).content == b"\xff\x00"
    result: JsonCodec[Any] = JsonCodec(Base64Bytes)
    assert result.load_text(result.dump_text(b"\xff\x00")) == b"\xff\x00"
    assert JsonCodec(str).dump(SecretStr("x").get_secret_value()) == "x"
    pattern = JsonCodec(re.Pattern[str])
    assert pattern.load(pattern.dump(re.compile("(?i)a"))).match("A")


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


deep: Any = "bottom"
for _ in range(65):
    deep = [deep]
endless: list[Any] = []
endless.append(endless)

REFUSED: list[tuple[Any, Any, str]] = [
    (float, float("nan"), "nan is not JSON; use a finite number or None"),
    (dict[str, list[float]], {"a": [1.0, float("inf")]}, "a[1]: inf is not JSON; use a finite number or None"),
    (Any, {"a": float("-inf")}, "a: -inf is not JSON; use a finite number or None"),
    (Any, {"a": "x\ud800"}, "a: 'x\\ud800' has a lone surrogate; use valid Unicode text"),
    (str, "\udfff", "'\\udfff' has a lone surrogate; use valid Unicode text"),
    (
        Any,
        {"a": {1: "x"}},
        "a: key 1 would be read back as '1'; use text keys, or declare the type of the keys",
    ),
    (
        dict,
        {1: "x", "1": "y"},
        "key 1 would be read back as '1'; use text keys, or declare the type of the keys",
    ),
    (
        Any,
        {"a": {7}},
        "a: {7} (set) would be read back as [7] (list); declare its actual type, or use plain JSON data",
    ),
    (
        Any,
        (1, 2),
        "(1, 2) (tuple) would be read back as [1, 2] (list); declare its actual type, or use plain JSON data",
    ),
    (
        Any,
        Decimal("1.0"),
        ("Decimal('1.0') (Decimal) would be read back as '1.0' (str); declare its actual type, or use plain JSON data"),
    ),
    (
        Any,
        Line(sku="s", quantity=1),
        (
            "Line(sku='s', quantity=1) (Line) would be read back as {'quantity': 1, 'sku': 's'} (dict); "
            "declare its actual type, or use plain JSON data"
        ),
    ),
    (
        list[Animal],
        [Animal(name="a"), Dog(name="rex")],
        (
            "[1]: Dog(name='rex', breed='mutt') (Dog) would be read back as Animal(name='rex') (Animal); "
            "declare its actual type, or use plain JSON data"
        ),
    ),
    (
        Any,
        {"a": Plain()},
        (
            "{'a': Plain()} cannot be written as JSON (Unable to serialize unknown type: "
            "<class 'test_json_codec.Plain'>); "
            "return plain data, a dataclass or a pydantic model, with its type declared"
        ),
    ),
    (
        bytes,
        b"\xff",
        (
            "b'\\xff' cannot be written as JSON ('utf-8' codec can't decode byte 0xff in position 0: invalid utf-8); "
            "for bytes that are not text, set ser_json_bytes='base64' and val_json_bytes='base64' in the model's "
            "config, "
            "or declare a result pydantic.Base64Bytes"
        ),
    ),
    (
        int,
        "12",
        "'12' (str) would be read back as 12 (int); declare its actual type, or use plain JSON data",
    ),
    (
        Line,
        {"sku": "s"},
        "{'sku': 's'} could not be read back (quantity: Field required); return a value of the declared type",
    ),
    (Any, {"a": [{"_type_": 1}]}, "key '_type_' is reserved; rename it"),
    (Any, {"_type_": "x", "_data_": 1}, "key '_data_' is reserved; rename it"),
    (Any, "x" * 1000, "1002 bytes of JSON, the limit is 1000; keep the data elsewhere and pass a reference"),
    (Any, "é" * 500, "1002 bytes of JSON, the limit is 1000; keep the data elsewhere and pass a reference"),
    (Any, deep, "nested deeper than 64 levels, or refers to itself; flatten it"),
    (Any, endless, "nested deeper than 64 levels, or refers to itself; flatten it"),
]


@pytest.mark.parametrize(("type_", "value", "message"), REFUSED, ids=[each[2][:40] for each in REFUSED])
def test_what_would_not_come_back_is_refused(type_: object, value: object, message: str) -> None:
    """The codec refuses each value that the journal would lose, with place, value and remedy in one line."""
    codec: JsonCodec[Any] = JsonCodec(type_, what="result of step 'charge_card'", limits=Limits(max_bytes=1000))
    with pytest.raises(InputError) as refusal:
        codec.dump(value)
    assert str(refusal.value) == f"result of step 'charge_card': {message}"


def test_reserved_names_are_allowed_as_values() -> None:
    """Only keys are reserved: the same words may be values."""
    value = {"a": "_type_", "b": ['"_data_"']}
    assert ANYTHING.dump(value) == value


def test_the_deepest_allowed_value_passes() -> None:
    """The limit of depth is inclusive."""
    value: Any = 1
    for _ in range(64):
        value = [value]
    assert ANYTHING.dump(value) == value
    with pytest.raises(InputError, match="nested deeper than 64 levels"):
        ANYTHING.dump([value])


UNREADABLE: list[tuple[str | bytes, str]] = [
    ("", "not JSON: Expecting value at line 1 column 1, near ''"),
    (
        '{"sku": "a" "quantity": 1}',
        'not JSON: Expecting \',\' delimiter at line 1 column 13, near \'sku": "a" "quantity": 1}\'',
    ),
    ('{"sku": NaN}', "NaN is not JSON; use a finite number or null"),
    ("[-Infinity]", "-Infinity is not JSON; use a finite number or null"),
    ("[1e400]", "number 1e400 loses digits as a double; write it as text in quotes"),
    (
        "[1234567890123456789.25]",
        "number 1234567890123456789.25 loses digits as a double; write it as text in quotes",
    ),
    ("[" + "1" * 5000 + "]", "a number of 5000 digits is too long; write it as text in quotes"),
    ('{"a": {"sku": 1, "sku": 2}}', "key 'sku' appears twice; keep one"),
    ('{"a": "\\ud800"}', "a: '\\ud800' has a lone surrogate; use valid Unicode text"),
    (
        b'"\xff"',
        "not UTF-8 text ('utf-8' codec can't decode byte 0xff in position 1: invalid start byte); send JSON as UTF-8",
    ),
    ('{"_type_": 1}', "key '_type_' is reserved; rename it"),
    ("[" * 65 + "]" * 65, "nested deeper than 64 levels, or refers to itself; flatten it"),
    ("[" * 100_000, "nested deeper than 64 levels, or refers to itself; flatten it"),
    (
        '"' + "x" * 200_000 + '"',
        "200002 bytes of JSON, the limit is 150000; keep the data elsewhere and pass a reference",
    ),
    ("{}", "sku: Field required; quantity: Field required"),
    (
        '{"quantity": "x"}',
        "sku: Field required; quantity: Input should be a valid integer, unable to parse string as an integer, got 'x'",
    ),
    ('{"sku": "a", "quantity": 0}', "quantity: Input should be greater than 0, got 0"),
    ('["a\\u001b[31m"]', "Input should be an object, got ['a\\x1b[31m']"),
]


@pytest.mark.parametrize(("given_text", "message"), UNREADABLE, ids=[each[1][:40] for each in UNREADABLE])
def test_foreign_text_is_read_strictly(given_text: str | bytes, message: str) -> None:
    """Every fault in input gives one line, and nothing doubtful is accepted."""
    codec = JsonCodec(Line, what="input of saga 'place-order'", limits=Limits(max_bytes=150_000))
    with pytest.raises(InputError) as refusal:
        codec.load_text(given_text)
    assert str(refusal.value) == f"input of saga 'place-order': {message}"


def test_only_the_first_fields_are_listed() -> None:
    """A message stays one line for any number of wrong fields."""
    with pytest.raises(InputError, match=r"\[0\].sku: Field required; .*; and 3 more$"):
        JsonCodec(list[Line]).load([{}, {}, {}])


@pytest.mark.parametrize(
    "number", ["0.1", "12.10", "1e22", "0.10000000000000001", "-0.0", "5e-324", "0.30000000000000004"]
)
def test_numbers_that_doubles_identify_are_taken(number: str) -> None:
    """The strict reading of numbers accepts all that other programs print for a double."""
    assert parse_json(number) == float(number)


def test_a_failing_validator_is_an_input_error() -> None:
    """A validator that raises something unusual still ends in one clear line."""

    class Fussy(BaseModel):
        a: int

        @field_validator("a")
        @classmethod
        def look_up(cls, value: int) -> int:
            raise KeyError(value)

    with pytest.raises(InputError, match=r"^input: a validator raised KeyError: 3$"):
        JsonCodec(Fussy, what="input").load({"a": 3})


@pytest.mark.parametrize(
    ("type_", "message"),
    [
        (
            Plain,
            (
                "result of step 'x': type Plain cannot be stored as JSON (Unable to generate pydantic-core schema for "
                "<class 'test_json_codec.Plain'>); use a pydantic model, a dataclass or plain types"
            ),
        ),
        (
            list["Nowhere"],  # type: ignore[name-defined]  # noqa: F821 - that is the point
            (
                "result of step 'x': type list['Nowhere'] cannot be stored as JSON (name 'Nowhere' is not defined); "
                "use a pydantic model, a dataclass or plain types"
            ),
        ),
    ],
)
def test_a_type_without_schema_is_a_definition_error(type_: object, message: str) -> None:
    """A type that cannot be stored is found when the codec is built, not when the first value arrives."""
    with pytest.raises(DefinitionError) as refusal:
        JsonCodec(type_, what="result of step 'x'")
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("first", "now", "lines"),
    [
        (1, 1.0, []),
        (True, 1, ["value: first run True, now 1"]),
        ({"amount": 10}, {"amount": 12}, ["amount: first run 10, now 12"]),
        (
            {"a": {"b": [1, 2]}},
            {"a": {"b": [1, 3, 4]}},
            ["a.b[1]: first run 2, now 3", "a.b[2]: first run absent, now 4"],
        ),
        ({"a": None}, {}, ["a: first run None, now absent"]),
        ({"a\x1b": "x" * 500}, {}, ["a\\x1b: first run '" + "x" * 27 + "..." + "x" * 28 + "', now absent"]),
        (list(range(9)), [], [*(f"[{n}]: first run {n}, now absent" for n in range(4)), "and 5 more"]),
    ],
)
def test_differences_are_shown(first: JsonValue, now: JsonValue, lines: list[str]) -> None:
    """The error for another input of the same run has at most five lines, each with the place and both values."""
    assert difference(first, now) == lines
    assert same_json(first, now) is (not lines)


def test_same_compares_by_meaning() -> None:
    """Inputs that mean the same value of the type are the same, in every spelling."""
    codec = JsonCodec(Decimal)
    assert codec.same("1.0", "1.00")
    assert codec.same(1, "1")
    assert not codec.same("1", "2")


def test_foreign_text_is_made_storable() -> None:
    """Messages of foreign exceptions lose the characters that no store accepts, and are cut at the end."""
    assert clean_text("a\ud800b\0c") == "a?b\ufffdc"
    assert clean_text("x" * 100, max_chars=10) == "xxxxxxx..."
    assert json.dumps(clean_text("\udfff")).isascii()


@pytest.mark.parametrize(("field_name", "value"), [("max_bytes", 0), ("max_depth", 0), ("max_depth", 129)])
def test_limits_have_bounds(field_name: str, value: int) -> None:
    """A limit that could not work is refused where it is set."""
    with pytest.raises(InputError, match=f"{field_name} is {value}"):
        Limits(**{field_name: value})
