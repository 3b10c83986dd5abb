"""Values that would not come back from JSON are refused, with a remedy."""

import re
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

import pytest
from aggregate_parts.values import ANYTHING, BERLIN, Color, Line, Plain, Shape, Zoned, json_values, text
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, SecretStr

from amends.aggregates.errors import InputError
from amends.aggregates.values.json_codec import JsonCodec, Limits


class Animal(BaseModel):
    """The declared type."""

    name: str


class Dog(Animal):
    """A subclass with a field more than declared."""

    breed: str = "mutt"


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
            "<class 'aggregate_parts.values.Plain'>); "
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
