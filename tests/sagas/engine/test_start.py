"""A start refuses an id or input that some part of the system could not carry."""

from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, PositiveInt

from amends import Call, InputError, NotFoundError, Saga, effect
from amends.aggregates.values.json_codec import Limits
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.start import check_run_id, prepare_start, read_input

RULE = "use 1 to 200 letters, digits and . _ : @ + = - (no '..'), beginning with a letter or digit"


class Order(BaseModel):
    """An input with a field for every kind of fault."""

    number: PositiveInt
    amount: Decimal = Decimal(1)
    weight: float = 1.0
    note: str = ""


@effect(read_only=True)
async def look(order: Order, call: Call) -> None:
    """Stand for a step."""


SAGA = Saga("look-at", Order, look, keys=("number",))
REGISTRY = Registry([SAGA])


@pytest.mark.parametrize("run_id", ["a", "0", "order-7", "a.b_c:d@e+f=g-h", "A" * 200, "2024-01-01T00:00:00+01:00"])
def test_usable_ids_are_given_back(run_id: str) -> None:
    """An id that streams, keys, file names and Temporal can carry is accepted as it is."""
    assert check_run_id(run_id) == run_id


@pytest.mark.parametrize(
    ("run_id", "shown"),
    [
        ("", "''"),
        (" a", "' a'"),
        ("a b", "'a b'"),
        ("a/b", "'a/b'"),
        ("../../etc", "'../../etc'"),
        ("a..b", "'a..b'"),
        (".a", "'.a'"),
        ("-a", "'-a'"),
        ("a\n", "'a\\n'"),
        ("a\x1b[2J", "'a\\x1b[2J'"),
        ("a\x00", "'a\\x00'"),
        ("é", "'é'"),
        ("\ud800", "'\\ud800'"),
        ("a" * 201, f"'{'a' * 50}'... (201 characters)"),
        ("x" * 1_001, f"'{'x' * 50}'... (1001 characters)"),
        (7, "7"),
        (None, "None"),
    ],
)
def test_unusable_ids_are_named(run_id: Any, shown: str) -> None:  # noqa: ANN401 - also what type checkers refuse
    """Any other id is refused in one printable line that shows it and names the rule for ids."""
    with pytest.raises(InputError) as refused:
        check_run_id(run_id)
    assert str(refused.value) == f"run id {shown}: {RULE}"
    assert str(refused.value).isprintable()


def test_a_request_carries_what_the_first_fact_needs() -> None:
    """A request contains plan, canonical input, business keys and actor, and nothing is written."""
    start = prepare_start(REGISTRY, SAGA, Order(number=7), run_id="r", driver="d", actor="ann", causation_id="m-1")
    assert (start.run_id, start.driver, start.actor) == ("r", "d", "ann")
    assert (start.correlation_id, start.causation_id) == (None, "m-1")
    assert start.input == {"number": 7, "amount": "1", "weight": 1.0, "note": ""}
    assert start.keys == {"number": "7"}
    assert start.plan is SAGA.plan


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Order(number=1, weight=float("nan")), "input of saga 'look-at': weight: nan is not JSON; use a finite number"),
        (Order(number=1, note="\ud800"), "input of saga 'look-at': "),
        ({"number": 0}, "input of saga 'look-at': "),
        (7, "input of saga 'look-at': "),
    ],
    ids=["nan", "surrogate", "not a model", "not even an object"],
)
def test_an_input_that_would_not_come_back_is_refused(value: Any, message: str) -> None:  # noqa: ANN401 - as above
    """An input that the journal could not return equal is refused at the start, in one line."""
    with pytest.raises(InputError) as refused:
        prepare_start(REGISTRY, SAGA, value, run_id="r", driver="d", actor="ann")
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_a_saga_that_the_registry_does_not_know_is_refused() -> None:
    """A run of an unknown saga could never be driven."""
    with pytest.raises(NotFoundError, match="no saga is called 'look-at'; defined are: none"):
        prepare_start(Registry([]), SAGA, Order(number=1), run_id="r", driver="d", actor="ann")


def test_an_input_is_read_from_text() -> None:
    """JSON text becomes the saga's input type."""
    assert read_input(REGISTRY, SAGA, '{"number": 7, "amount": "0.10"}') == Order(number=7, amount=Decimal("0.10"))
    assert read_input(REGISTRY, SAGA, b'{"number": 7}') == Order(number=7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"number": 0}', "number: Input should be greater than 0, got 0"),
        ('{"note": "x"}', "number: Field required"),
        ('{"number": "seven"}', "number: Input should be a valid integer"),
        ('{"number": 1, "weight": NaN}', "NaN"),
        ('{"number": 1, "number": 2}', "number"),
        ("{", ""),
        ("", ""),
    ],
)
def test_a_wrong_text_is_refused_with_place_and_value(text: str, message: str) -> None:
    """Each fault of a text is one line that names the saga, the field and the value."""
    with pytest.raises(InputError) as refused:
        read_input(REGISTRY, SAGA, text)
    assert str(refused.value).startswith("input of saga 'look-at'")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_limits_of_the_registry_hold_for_inputs() -> None:
    """A registry with wider limits than the default reads an input that the default refuses, and the reverse."""
    note = "x" * (2 * 1024 * 1024)
    text = f'{{"number": 1, "note": "{note}"}}'
    wide = Registry([SAGA], limits=Limits(max_bytes=8 * 1024 * 1024))
    narrow = Registry([SAGA], limits=Limits(max_bytes=100))
    with pytest.raises(InputError, match="the limit is 100"):
        read_input(narrow, SAGA, text)
    assert read_input(wide, SAGA, text) == Order(number=1, note=note)
