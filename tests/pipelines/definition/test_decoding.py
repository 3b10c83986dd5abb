"""Test that every message is decoded, or refused with a reason that quotes no content."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, JsonValue, field_validator

from amends.aggregates.errors import DefinitionError, UnreachableError
from amends.pipelines.definition.bounds import Bounds
from amends.pipelines.definition.decoding import Decoded, Refused, decode
from amends.pipelines.definition.pipeline import Header, Pipeline
from amends.pipelines.definition.sources import JsonLinesSource
from amends.pipelines.source import RawMessage

SOURCE = JsonLinesSource("in/*.jsonl")
PRIVATE = "of-the-user"


class Order(BaseModel):
    """A message of version 1."""

    model_config = ConfigDict(extra="forbid")

    order_id: str
    customer: str = "ann"
    total: Decimal = Decimal(1)
    number: int = 0

    @field_validator("customer")
    @classmethod
    def _check_customer(cls, customer: str) -> str:
        if customer == "crash":
            raise KeyError(PRIVATE)
        return customer


class OrderV3(BaseModel):
    """A message of version 3: the amount became a total in cents, and got a currency."""

    class_version: ClassVar[int] = 3

    order_id: str
    cents: int
    currency: str

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Rename the amount."""
        state["cents"] = state.pop("amount") * 100

    @staticmethod
    def upcast_v2_v3(state: dict[str, Any]) -> None:
        """Add the currency."""
        state["currency"] = "EUR"


def id_of(message: Order) -> str:
    """Return the id of an order."""
    return message.order_id


def customer_of(message: Order) -> str:
    """Return the key of an order."""
    return message.customer


def number_of(message: Order) -> int:
    """Return the number of an order."""
    return message.number


def raises(_: object) -> Any:  # noqa: ANN401 - returns nothing
    """Fail with an error that quotes the content."""
    raise LookupError(PRIVATE)


def exits(_: object) -> str:
    """Leave the program."""
    raise SystemExit(PRIVATE)


def returning(value: object) -> Callable[[object], Any]:
    """Return a function of a message that returns a value."""

    def function(_: object) -> Any:  # noqa: ANN401 - any value
        return value

    return function


def orders(**changes: Any) -> Pipeline[Order]:  # noqa: ANN401 - any argument
    """Define a pipeline of orders."""
    return Pipeline("orders", SOURCE, Order, **{"id": id_of, "key": customer_of, **changes})


def raw(value: object, *headers: tuple[str, bytes]) -> RawMessage:
    """Return a message with a value as JSON, or with bytes as they are."""
    content = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return RawMessage(7, None, content, headers)


def read(pipeline: Pipeline[Any], value: object, *headers: tuple[str, bytes]) -> Decoded[Any]:
    """Decode a message that can be read."""
    found = decode(pipeline, raw(value, *headers))
    assert isinstance(found, Decoded), found
    return found


def refused(pipeline: Pipeline[Any], value: object, *headers: tuple[str, bytes]) -> Refused:
    """Decode a message that cannot be read."""
    found = decode(pipeline, raw(value, *headers))
    assert isinstance(found, Refused), found
    return found


# ---- decoded messages


def test_a_message_has_content_id_key_and_sequence_number() -> None:
    """The functions of the pipeline find the parts of a message."""
    found = read(orders(sequence=number_of), {"order_id": "o1", "customer": "bob", "total": "1.50", "number": 4})
    assert (found.id, found.key, found.sequence) == ("o1", "bob", 4)
    assert found.content == Order(order_id="o1", customer="bob", total=Decimal("1.50"), number=4)
    assert len(found.digest) == 8


def test_a_pipeline_without_keys_uses_the_id_as_key() -> None:
    """Each message of a pipeline without a key function is a key of its own."""
    assert read(orders(key=None), {"order_id": "o1"}).key == "o1"


def test_an_id_and_a_key_may_come_from_headers() -> None:
    """A header is found without regard to case, and an equal second one does no harm."""
    pipeline = orders(id=Header("Order-Id"), key=Header("customer"))
    headers = (("order-id", b"h1"), ("ORDER-ID", b"h1"), ("Customer", "ö".encode()))
    found = read(pipeline, {"order_id": "o1"}, *headers)
    assert (found.id, found.key) == ("h1", "ö")


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.integers() | st.booleans()),
    st.randoms(),
)
def test_the_order_of_members_and_blanks_do_not_change_the_digest(value: dict[str, JsonValue], random: Any) -> None:  # noqa: ANN401
    """A producer that writes the same content in another form sends the same message."""

    class Anything(BaseModel):
        model_config = ConfigDict(extra="allow")

    pipeline: Pipeline[Anything] = Pipeline("any", SOURCE, Anything, id=Header("id"))
    members = list(value.items())
    random.shuffle(members)
    first = decode(pipeline, raw(value, ("id", b"1")))
    again = decode(pipeline, raw(json.dumps(dict(members), indent=3).encode(), ("id", b"2")))
    changed = decode(pipeline, raw({**value, "more": 1.5}, ("id", b"3")))
    if isinstance(first, Refused):
        assert isinstance(again, Refused)
    else:
        assert isinstance(again, Decoded)
        assert isinstance(changed, Decoded)
        assert first.digest == again.digest != changed.digest


def test_another_model_does_not_change_the_digest() -> None:
    """A deploy that changes the model leaves the digests as they are, with and without a user's decoder."""

    def parse(message: RawMessage) -> Any:  # noqa: ANN401 - JSON
        return json.loads(message.value or b"")

    value = {"order_id": "o1", "amount": 5}
    later: Pipeline[OrderV3] = Pipeline("orders", SOURCE, OrderV3, id=Header("id"), decode=parse)
    plain: Pipeline[OrderV3] = Pipeline("orders", SOURCE, OrderV3, id=Header("id"))
    assert read(later, value, ("id", b"1")).digest == read(plain, value, ("id", b"1")).digest
    written = read(plain, {"order_id": "o1", "cents": 500, "currency": "EUR", "class_version": 3}, ("id", b"1"))
    assert written.content == read(plain, value, ("id", b"1")).content


@pytest.mark.parametrize(
    "value",
    [
        {"order_id": "o1", "amount": 5},
        {"order_id": "o1", "cents": 500, "class_version": 2},
        {"order_id": "o1", "cents": 500, "currency": "EUR", "class_version": 3},
    ],
)
def test_upcasters_bring_older_messages_up_to_date(value: dict[str, JsonValue]) -> None:
    """Every version of a message is read as an instance of the present model."""
    pipeline: Pipeline[OrderV3] = Pipeline("orders", SOURCE, OrderV3, id=Header("id"))
    assert read(pipeline, value, ("id", b"1")).content == OrderV3(order_id="o1", cents=500, currency="EUR")


def test_a_decoder_turns_bytes_into_content() -> None:
    """A user's decoder gets the message as it came, and its value passes the model."""

    def words(message: RawMessage) -> object:
        order_id, customer = (message.value or b"").decode().split()
        return {"order_id": order_id, "customer": customer}

    found = read(orders(decode=words), b"o1 bob")
    assert (found.id, found.key) == ("o1", "bob")


def test_a_decoder_may_read_a_message_without_content() -> None:
    """A deletion marker has a meaning if the user's decoder gives it one."""

    def deletion(message: RawMessage) -> object:
        return {"order_id": f"deleted-{message.position}"}

    assert read(orders(decode=deletion), None).id == "deleted-7"


def test_a_schema_registry_that_is_away_refuses_no_message() -> None:
    """The error that promises success of a later attempt reaches the caller."""

    def away(_: RawMessage) -> object:
        raise UnreachableError("the registry does not answer")

    with pytest.raises(UnreachableError):
        decode(orders(decode=away), raw({"order_id": "o1"}))


# ---- refused messages

CONTENTS: list[tuple[object, str]] = [
    (None, "the message has no content, as a deletion marker has; decode= can give it a meaning"),
    (b"", "content: not JSON at line 1 column 1"),
    (b"\xff\xfe", "content: not UTF-8 text"),
    (b'{"order_id": "of-the-user"', "content: not JSON at line 1 column 27"),
    (b'{"order_id":"a\0b"}', "content: not JSON at line 1 column 15"),
    (b'{"order_id":"a","order_id":"b"}', "content: a key appears twice"),
    (b'{"order_id":"a","total":NaN}', "content: NaN is not JSON; use a finite number or null"),
    (b'{"order_id":"\\ud800"}', "content: a part of it cannot be written as JSON"),
    (b"[" * 70 + b"]" * 70, "content: nested deeper than 64 levels, or refers to itself; flatten it"),
    ([PRIVATE], "content: the value does not fit its type (model_type)"),
    ({"customer": PRIVATE}, "content: order_id is required but absent"),
    ({"order_id": 5}, "content: order_id does not fit its type (string_type)"),
    ({"order_id": "o1", "total": PRIVATE}, "content: total does not fit its type (decimal_parsing)"),
    ({"order_id": "o1", "customer": "crash"}, "content: a validator raised KeyError"),
    (
        {"order_id": "o1", "class_version": 2},
        "content: it has version 2, this program reads versions up to 1; upgrade it",
    ),
    ({"order_id": "o1", "class_version": PRIVATE}, "content: its class_version is not a whole number from 1"),
    ({"order_id": ""}, "the id is empty"),
    ({"order_id": "x" * 201}, "the id has 201 characters; use at most 200"),
    ({"order_id": "a\0b"}, "the id has a NUL character; use text without NUL"),
]


@pytest.mark.parametrize(("content", "reason"), CONTENTS)
def test_a_bad_message_is_refused_with_its_fault(content: object, reason: str) -> None:
    """Every fault of content or id has a reason of one line that quotes no content."""
    assert refused(orders(), content).reason == reason


def test_a_message_that_is_too_large_is_refused_before_it_is_read() -> None:
    """The bound on the size also holds for a user's decoder, which is not called."""
    small = Bounds(max_message_bytes=20)
    for decoder in (None, raises):
        found = refused(orders(bounds=small, decode=decoder), {"order_id": "o" * 30})
        assert found.reason == "the content has 46 bytes, the limit is 20; raise max_message_bytes"


FUNCTIONS: list[tuple[dict[str, Any], str]] = [
    ({"id": raises}, "the function for id raised LookupError"),
    ({"id": exits}, "the function for id raised SystemExit"),
    ({"id": returning(5)}, "the id is int; return text"),
    ({"id": returning(None)}, "the id is NoneType; return text"),
    ({"id": returning("\ud800")}, "the id has a lone surrogate; use valid Unicode text"),
    ({"key": raises}, "the function for key raised LookupError"),
    ({"key": returning(b"k")}, "the key is bytes; return text"),
    ({"sequence": raises}, "the function for sequence raised LookupError"),
    ({"sequence": returning(True)}, "the sequence number is bool; return a whole number"),
    ({"sequence": returning(-1)}, "the sequence number is out of range; use 0 to 2**63 - 1"),
    ({"sequence": returning(2**63)}, "the sequence number is out of range; use 0 to 2**63 - 1"),
    ({"decode": raises}, "the function for decode raised LookupError"),
    ({"decode": exits}, "the function for decode raised SystemExit"),
    ({"decode": returning(object())}, "content: the value does not fit its type (model_type)"),
    ({"id": Header("id")}, "the message has no header 'id', which its id is read from"),
    ({"id": Header("twice")}, "the message has 2 different headers 'twice', which its id is read from"),
    ({"id": Header("bytes")}, "the id in header 'bytes' is not UTF-8 text"),
]
HEADERS = (("twice", b"a"), ("twice", b"b"), ("bytes", b"\xff"))


@pytest.mark.parametrize(("functions", "reason"), FUNCTIONS)
def test_every_end_of_a_users_function_is_a_value(functions: dict[str, Any], reason: str) -> None:
    """A function that raises, exits or returns another type refuses the message, and never ends the pipeline."""
    assert refused(orders(**functions), {"order_id": "o1"}, *HEADERS).reason == reason


def test_a_refused_message_keeps_the_key_and_id_that_can_be_read() -> None:
    """Headers are known without the content, and the key without the id."""
    by_header = orders(id=Header("id"), key=Header("key"))
    unread = refused(by_header, b"nonsense", ("id", b"m1"), ("key", b"bob"))
    assert (unread.key, unread.id) == ("bob", "m1")
    assert refused(orders(), {"order_id": "", "customer": "bob"}).key == "bob"
    assert refused(orders(key=raises), {"order_id": "o1"}).key == ""


def test_an_interrupt_by_the_user_passes_through() -> None:
    """Ctrl-C within a user's function ends the program as anywhere else."""

    def interrupts(_: Order) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(orders(id=interrupts), raw({"order_id": "o1"}))


@given(
    st.binary(max_size=40) | st.recursive(st.none() | st.text() | st.floats(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_bytes_are_decoded_or_refused(content: bytes) -> None:
    """No content raises an error, and a refusal is one short line."""
    found = decode(orders(), raw(content))
    if isinstance(found, Refused):
        assert found.reason.isprintable()
        assert len(found.reason) < 300


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_an_id_is_kept_exactly_or_refused(text: str) -> None:
    """An id of 1 to 200 characters without NUL is kept as it is; any other refuses the message."""
    found = decode(orders(), raw({"order_id": text}))
    assert isinstance(found, Decoded) is (0 < len(text) <= 200 and "\0" not in text)
    if isinstance(found, Decoded):
        assert found.id == text


# ---- models


class MissingUpcaster(BaseModel):
    """A model whose upcaster is missing."""

    class_version: ClassVar[int] = 2


class VersionField(BaseModel):
    """A model with a field that has the reserved name."""

    class_version: int = 2


class WrongVersion(BaseModel):
    """A model with a version that is no number."""

    class_version: ClassVar[str] = "2"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (MissingUpcaster, "has no upcast_v1_v2, which its class_version needs"),
        (VersionField, "the field name class_version of VersionField is reserved"),
        (WrongVersion, "class_version of WrongVersion is '2'; use a whole number from 1"),
    ],
)
def test_a_model_with_a_wrong_version_is_refused(model: type[BaseModel], message: str) -> None:
    """The faults of a model are found before a message is read."""
    pipeline: Pipeline[Any] = Pipeline("orders", SOURCE, model, id=Header("id"))
    with pytest.raises(DefinitionError, match=message):
        _ = pipeline.message_model


class BadUpcasters(BaseModel):
    """A model whose upcasters fail."""

    class_version: ClassVar[int] = 3

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        """Fail with an error that quotes the content."""
        raise LookupError(state)

    @staticmethod
    def upcast_v2_v3(state: dict[str, Any]) -> object:
        """Return the new state instead of changing it."""
        return state


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "content: upcast_v1_v2 raised LookupError"),
        (
            {"class_version": 2},
            "content: upcast_v2_v3 returned a value; change the state in place and return nothing",
        ),
    ],
)
def test_an_upcaster_that_fails_refuses_the_message(value: dict[str, JsonValue], reason: str) -> None:
    """An upcaster that raises, or returns a value, ends in a reason like any other function of the user."""
    pipeline: Pipeline[BadUpcasters] = Pipeline("orders", SOURCE, BadUpcasters, id=Header("id"))
    assert refused(pipeline, value, ("id", b"1")).reason == reason
