"""JSON text of others is read strictly, and its faults are named."""

import json
from decimal import Decimal

import pytest
from aggregate_parts.values import Line, Plain
from pydantic import BaseModel, JsonValue, field_validator

from amends.aggregates.errors import DefinitionError, InputError
from amends.aggregates.values.json_codec import JsonCodec, Limits, clean_text, difference, parse_json, same_json

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
                "<class 'aggregate_parts.values.Plain'>); use a pydantic model, a dataclass or plain types"
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
