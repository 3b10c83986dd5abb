"""The catalog knows the compensation of every step, and nothing runs while one is unknown."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from pydantic import BaseModel
from strategies import plans

from amends import (
    Attempted,
    Call,
    DefinitionError,
    Done,
    NotFoundError,
    Retry,
    Saga,
    UnitOfWork,
    effect,
    irreversible,
    parallel,
    pivot,
    retriable,
    transaction,
)
from amends.aggregates.run.plan import Guarantee, Plan, Role
from amends.compensations.catalog import Catalog
from amends.sagas.definition.registry import Registry

MODULE = __name__


class Order(BaseModel):
    """The input of all sagas here."""

    number: int


class Socket:
    """A value that is not data."""


@transaction
def book(order: Order, uow: UnitOfWork) -> str:
    """Stand for a transaction that can be undone."""
    return f"{order.number} {uow.key}"


@book.compensation
def unbook(done: Done[Order, str], uow: UnitOfWork) -> None:
    """Undo it."""


@effect(timeout=timedelta(seconds=3), owner="payments", runbook="runbooks/charge.md")
async def charge(order: Order, call: Call) -> int:
    """Stand for an effect with every option."""
    return order.number + call.attempt


@charge.compensation(retry=Retry(max_attempts=2))
async def refund(tried: Attempted[Order, int], call: Call) -> None:
    """Undo it."""


@charge.probe
async def find_charge(order: Order, call: Call) -> int | None:
    """Probe for it."""


@effect
async def print_label(order: Order, call: Call) -> None:
    """Stand for an effect that has no compensation."""


@effect(read_only=True)
async def quote(order: Order, call: Call) -> int:
    """Change nothing."""
    return order.number + call.attempt


@transaction
def go(order: Order, uow: UnitOfWork) -> None:
    """Stand for a decision."""


@effect
async def tell(order: Order, call: Call) -> None:
    """Stand for a step that is repeated until it succeeds."""


@transaction(name="book")
def book_again(order: Order, uow: UnitOfWork) -> str:
    """Use the name of another step."""
    return f"{order.number} {uow.key}"


@effect(read_only=True)
async def connect(order: Order, call: Call) -> Socket:  # noqa: ARG001 - no stub: it could be stored
    """Return a value that cannot be stored."""
    return Socket()


@dataclass
class Closed:
    """An input that holds a value that cannot be stored."""

    socket: Socket


@effect(read_only=True)
async def look(closed: Closed, call: Call) -> None:
    """Receive a value that cannot be stored."""


def saga(*body: Any, name: str = "s", input: Any = Order) -> Saga[Any]:  # noqa: A002, ANN401 - any parts
    """Create a saga of any parts."""
    return Saga(name, input, *body)


def bare(name: str) -> str:
    """Return the catalog's fault for a step without a compensation."""
    return (
        f"saga 's': step {name!r} ({MODULE}:{name}) has no compensation; add @{name}.compensation, or mark it "
        f"pivot(...), retriable(...), irreversible(..., reason) or read_only=True"
    )


def late(name: str, role: str, after: str, before: str) -> str:
    """Return the catalog's fault for a step that comes too late."""
    return (
        f"saga 's': step {name!r} ({MODULE}:{name}) is {role} after the {after} step {before!r}, from which the saga "
        f"only goes forward; mark it retriable(...) or move it before"
    )


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ((book, charge, quote), []),
        ((book, pivot(go), retriable(tell)), []),
        ((book, retriable(tell)), []),
        ((pivot(go),), []),
        ((retriable(tell), retriable(go)), []),
        ((irreversible(print_label, "paper is cheap"), book), []),
        ((print_label,), [bare("print_label")]),
        ((book, print_label, tell), [bare("print_label"), bare("tell")]),
        ((pivot(go), book), [late("book", "compensatable", "pivot", "go")]),
        ((pivot(go), print_label), [late("print_label", "compensatable", "pivot", "go")]),
        ((retriable(tell), pivot(go)), [late("go", "pivot", "retriable", "tell")]),
        ((pivot(go), pivot(tell)), [late("tell", "pivot", "pivot", "go")]),
        (
            (print_label, pivot(go), book),
            [bare("print_label"), late("book", "compensatable", "pivot", "go")],
        ),
    ],
)
def test_the_order_and_the_undo_of_steps_are_checked(body: tuple[Any, ...], faults: list[str]) -> None:
    """A saga is `compensatable* pivot? retriable*`, and each step that a failure can leave names its undo."""
    registry = Registry([saga(*body)])
    if not faults:
        assert registry.catalog.faults() == ()
        return
    with pytest.raises(DefinitionError) as refused:
        _ = registry.catalog
    more = f" (and {len(faults) - 1} more: {' | '.join(faults[1:])})" if faults[1:] else ""
    assert str(refused.value) == faults[0] + more


@given(plan=plans())
def test_random_plans_are_legal(plan: Plan) -> None:
    """The random plans of the core's property tests are plans that the catalog accepts."""
    assert Catalog(entries=(), plans=(plan,)).faults() == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Registry([saga(book), saga(charge)]),
            "saga name 's' is used twice; rename one of the two",
        ),
        (
            lambda: Registry([saga(book), saga(book_again, name="t")]),
            (
                f"step name 'book' is used twice: {MODULE}:book and {MODULE}:book_again; give one of them a name: "
                "@transaction(name=...)"
            ),
        ),
        (
            lambda: Registry([saga(book)], steps=[book_again]),
            (
                f"step name 'book' is used twice: {MODULE}:book and {MODULE}:book_again; give one of them a name: "
                "@transaction(name=...)"
            ),
        ),
        (
            lambda: Registry([saga(connect)]).catalog,
            (
                "result of step 'connect': type Socket cannot be stored as JSON (Unable to generate pydantic-core "
                f"schema for <class '{MODULE}.Socket'>); use a pydantic model, a dataclass or plain types"
            ),
        ),
        (
            lambda: Registry([saga(look, input=Closed)]).catalog,
            (
                "input of saga 's': type Closed cannot be stored as JSON (Unable to generate pydantic-core "
                f"schema for <class '{MODULE}.Socket'>); use a pydantic model, a dataclass or plain types"
            ),
        ),
    ],
)
def test_faults_of_all_modules_together_are_named(make: Any, message: str) -> None:  # noqa: ANN401 - a lambda
    """The check over all modules finds the faults that only show together: names used twice, and unstorable types."""
    with pytest.raises(DefinitionError) as refused:
        make()
    assert str(refused.value) == message


REGISTRY = Registry(
    [
        saga(book, parallel(charge, quote), irreversible(print_label, "paper is cheap"), pivot(go), retriable(tell)),
        saga(charge, retriable(book), name="t"),
    ],
    steps=[look],
)


def test_an_entry_says_how_a_step_is_undone() -> None:
    """An entry has step, location, uses, roles, compensation, probe, policies, owner and runbook."""
    entries = {entry.step: entry for entry in REGISTRY.catalog.entries}
    assert list(entries) == ["book", "charge", "quote", "print_label", "go", "tell", "look"]
    paid = entries["charge"]
    assert (paid.location, paid.sagas, paid.roles) == (f"{MODULE}:charge", ("s", "t"), (Role.COMPENSATABLE,))
    assert (paid.compensation, paid.probe) == (f"{MODULE}:refund", f"{MODULE}:find_charge")
    assert (paid.timeout_ms, paid.owner, paid.runbook) == (3_000, "payments", "runbooks/charge.md")
    assert paid.undo is not None
    assert paid.undo.retry.max_attempts == 2
    assert paid.guarantee is Guarantee.BY_KEY
    assert entries["book"].roles == (Role.COMPENSATABLE, Role.RETRIABLE)
    assert entries["book"].guarantee is Guarantee.ONCE


def test_how_a_step_is_undone_is_said_in_a_few_words() -> None:
    """The short form names the step's compensation, or the reason why it has none."""
    assert {entry.step: entry.undone_by for entry in REGISTRY.catalog.entries} == {
        "book": f"{MODULE}:unbook",
        "charge": f"{MODULE}:refund",
        "quote": "nothing to undo: read-only",
        "print_label": "irreversible: paper is cheap",
        "go": "not undone: pivot",
        "tell": "not undone: retriable",
        "look": "nothing to undo: read-only",
    }


def test_a_catalog_survives_json() -> None:
    """A catalog read back from the command line's JSON is equal to the original."""
    catalog = REGISTRY.catalog
    assert Catalog.model_validate_json(catalog.model_dump_json()) == catalog


def other_order(order: Order) -> Order:
    """Map an input."""
    return order


@pytest.mark.parametrize(
    ("find", "message"),
    [
        (lambda: REGISTRY.saga("u"), "no saga is called 'u'; defined are: s, t"),
        (lambda: Registry([]).saga("u"), "no saga is called 'u'; defined are: none"),
        (
            lambda: REGISTRY.step("gone"),
            "no step is called 'gone' here, but an open run needs it; deploy the module that defines it",
        ),
        (
            lambda: REGISTRY.result_codec("gone"),
            "no step is called 'gone' here, but an open run needs it; deploy the module that defines it",
        ),
        (
            lambda: REGISTRY.mapping("m:f"),
            "no step uses the mapping 'm:f' here, but an open run needs it; deploy its module",
        ),
        (
            lambda: REGISTRY.operation("go", undo=True),
            "step 'go' has no compensation here, but an open run needs it; deploy its module",
        ),
        (
            lambda: REGISTRY.operation("go", probe=True),
            "step 'go' has no probe here, but an open run needs it; deploy its module",
        ),
    ],
)
def test_what_is_not_there_is_named(find: Any, message: str) -> None:  # noqa: ANN401 - a lambda
    """The error for a missing saga or a missing piece of code is one line with the name and the remedy."""
    with pytest.raises(NotFoundError) as missing:
        find()
    assert str(missing.value) == message


def test_functions_are_found_by_name() -> None:
    """The registry returns the step's function, its compensation, its probe and its mapping."""
    registry = Registry([saga(charge.using(other_order))])
    assert registry.operation("charge").function is charge.definition.run.function
    assert registry.operation("charge", undo=True).function is refund
    assert registry.operation("charge", probe=True).function is find_charge
    assert registry.mapping(f"{MODULE}:other_order") is other_order
