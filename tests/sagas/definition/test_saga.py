"""A saga compiles into a plan; a mistake in its shape raises an error with its place and the remedy."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, NewType

import pytest
from pydantic import BaseModel, Field

from amends import (
    Attempted,
    Call,
    DefinitionError,
    Done,
    InputError,
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
from amends.aggregates.run.plan import Role
from amends.sagas.definition.signatures import fits, type_name

MODULE = __name__
Number = NewType("Number", int)


class Order(BaseModel):
    """The input of most sagas here."""

    number: int
    sku: str = "s"
    tags: list[str] = []


class RushOrder(Order):
    """An order that can replace another."""


class Trip(BaseModel):
    """Another input."""

    order: Order


@transaction
def book(order: Order, uow: UnitOfWork) -> str:
    """Stand for a transaction."""
    return f"{order.number} {uow.key}"


@book.compensation
def unbook(done: Done[Order, str], uow: UnitOfWork) -> None:
    """Undo it."""


@effect(retry=Retry(max_attempts=4), timeout=timedelta(seconds=3))
async def charge(order: Order, call: Call) -> int:
    """Stand for an effect."""
    return order.number + call.attempt


@charge.compensation(retry=Retry(max_attempts=2))
async def refund(tried: Attempted[Order, int], call: Call) -> None:
    """Undo it."""


@charge.probe
async def find_charge(order: Order, call: Call) -> int | None:
    """Probe for it."""


@effect(read_only=True, queue="quotes")
async def quote(order: Order, call: Call) -> int:
    """Change nothing."""
    return order.number + call.attempt


@effect(name="mail.send", local=True)
async def send(order: Order, call: Call) -> None:
    """Stand for a step that is repeated."""


@transaction
def go(order: Order, uow: UnitOfWork) -> None:
    """Stand for a decision."""


@transaction
def whole(trip: Trip, uow: UnitOfWork) -> None:
    """Receive another input."""


def order_of(trip: Trip) -> Order:
    """Create an order of a trip."""
    return trip.order


def vague(trip) -> Order:  # type: ignore[no-untyped-def]  # the mistake  # noqa: ANN001
    """Lack the annotation of the parameter."""
    result: Order = trip.order
    return result


def vaguer(trip: Trip):  # type: ignore[no-untyped-def]  # the mistake  # noqa: ANN201
    """Lack the annotation of the result."""
    return trip.order


def plain(order: Order, call: Call) -> None:
    """Lack the decorator of a step."""


def saga(*body: Any, name: Any = "s", input: Any = Order, keys: Any = ()) -> Saga[Any]:  # noqa: A002, ANN401
    """Create a saga as its author would, also one that type checkers refuse."""
    return Saga(name, input, *body, keys=keys)


SAGA_NAME = "use 1 to 100 lower-case letters, digits, '-', '_' and '.', beginning with a letter or digit"
ANY: Any = None

MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: saga(book, name="Place Order"), f"saga name 'Place Order': {SAGA_NAME}"),
    (lambda: saga(book, name=""), f"saga name '': {SAGA_NAME}"),
    (
        lambda: saga(book, name="a" * 101),
        f"saga name 'aaaaaaaaaaaaaaaaaaaaaaaaaaa...aaaaaaaaaaaaaaaaaaaaaaaaaaaa': {SAGA_NAME}",
    ),
    (lambda: saga(book, name=Order), f"saga name <class '{MODULE}.Order'>: {SAGA_NAME}"),
    (saga, "saga 's': the saga has no steps; pass at least one"),
    (
        lambda: saga(charge, input=book),
        (
            "saga 's': the second argument is <transaction 'book'> instead of the type of the input; write Saga(name, "
            "Input, step, ...)"
        ),
    ),
    (lambda: saga(plain), "saga 's': 'plain' is not a step; decorate it with @transaction or @effect"),
    (lambda: saga(7), "saga 's': 7 is not a step; pass steps made by @transaction or @effect"),
    (
        lambda: saga([book]),
        "saga 's': [<transaction 'book'>] is not a step; pass steps made by @transaction or @effect",
    ),
    (
        lambda: saga(book, charge, book),
        "saga 's': the node 'book' occurs twice; give one of the two a name: .using(mapping, name=...)",
    ),
    (
        lambda: saga(parallel(book, charge), book),
        "saga 's': the node 'book' occurs twice; give one of the two a name: .using(mapping, name=...)",
    ),
    (
        lambda: saga(*[book] * 10_001),
        "saga 's': 10001 steps, the limit is 10000; use several sagas",
    ),
    (
        lambda: saga(whole),
        "saga 's': step 'whole' takes Trip, but would receive Order; use whole.using(a function from Order to Trip)",
    ),
    (
        lambda: saga(send, input=dict[str, int]),
        (
            "saga 's': step 'mail.send' takes Order, but would receive dict[str, int]; use mail.send.using(a function "
            "from "
            "dict[str, int] to Order)"
        ),
    ),
    (
        lambda: saga(book.using(order_of)),
        "saga 's': mapping 'order_of' of step 'book': takes Trip, the saga's input is Order; change one of them",
    ),
    (
        lambda: saga(made(whole.using, order_of), input=Trip),
        "saga 's': step 'whole' takes Trip, but would receive Order; use whole.using(a function from Trip to Trip)",
    ),
    (
        lambda: saga(book.using(vague), input=Trip),
        "saga 's': mapping 'vague' of step 'book': annotate 'trip', so that Amends can check it against saga and step",
    ),
    (
        lambda: saga(book.using(vaguer), input=Trip),
        (
            "saga 's': mapping 'vaguer' of step 'book': annotate 'return', so that Amends can check it against saga "
            "and "
            "step"
        ),
    ),
    (lambda: saga(book, keys="number"), "saga 's': keys='number'; give a tuple of field names, ('number',)"),
    (
        lambda: saga(book, keys=("nmber",)),
        "saga 's': key 'nmber' is not a field of Order; use one of number, sku, tags",
    ),
    (lambda: saga(book, keys=(7,)), "saga 's': key 7 is not a field of Order; use one of number, sku, tags"),
    (parallel, "parallel() has no members; pass at least one step"),
    (lambda: parallel(ANY), "parallel(): None is not a step; pass steps made by @transaction or @effect"),
    (lambda: made(parallel, plain), "parallel(): 'plain' is not a step; decorate it with @transaction or @effect"),
    (
        lambda: made(parallel, parallel(book)),
        "parallel(): a parallel group cannot contain another; list all steps in one parallel(...)",
    ),
    (
        lambda: parallel(book, pivot(go)),
        "parallel('go'): a pivot decides for the whole run and cannot run in a group; put it after the group",
    ),
    (
        lambda: parallel(book, retriable(charge)),
        "parallel('book', 'charge'): one is compensatable, the other retriable; mark all members retriable, or none",
    ),
    (lambda: made(pivot, plain), "pivot(): 'plain' is not a step; decorate it with @transaction or @effect"),
    (lambda: made(retriable, plain), "retriable(): 'plain' is not a step; decorate it with @transaction or @effect"),
    (
        lambda: made(irreversible, plain, "so"),
        "irreversible(): 'plain' is not a step; decorate it with @transaction or @effect",
    ),
    (lambda: made(pivot, parallel(book)), "pivot(): a parallel group cannot be marked; mark its members"),
    (
        lambda: made(pivot, retriable(book)),
        "pivot(): step 'book' has a mark already; remove one of the two",
    ),
    (lambda: made(pivot, go, retry=3), "pivot('go'): retry=3; give Retry(max_attempts=...)"),
    (lambda: made(retriable, go, retry=3), "retriable('go'): retry=3; give Retry(max_attempts=...)"),
    (lambda: irreversible(book, ""), "irreversible('book', ''): write the reason in words; operators read it"),
    (lambda: irreversible(book, "  "), "irreversible('book', '  '): write the reason in words; operators read it"),
    (lambda: irreversible(book, ANY), "irreversible('book', None): write the reason in words; operators read it"),
]


def made(mark: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - what mypy refuses
    """Mark a step as its author would, also in a way that type checkers refuse."""
    return mark(*args, **options)


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=[message[:60] for _, message in MISTAKES])
def test_a_mistake_is_named_with_its_remedy(mistake: Callable[[], Any], message: str) -> None:
    """Each mistake in a saga raises one line that names the place, the value and the remedy."""
    with pytest.raises(DefinitionError) as refused:
        mistake()
    assert str(refused.value) == message


place = Saga(
    "place-order",
    Order,
    book,
    parallel(charge, quote, ordered=True),
    pivot(go, retry=Retry(max_attempts=1)),
    retriable(send),
    keys=("number", "sku"),
)


def test_a_saga_compiles_into_its_plan() -> None:
    """Stages, roles, policies, timeouts, probes, queues and keys have their written values in the plan."""
    plan = place.plan
    assert (plan.saga, plan.input_type, plan.keys) == ("place-order", "Order", ("number", "sku"))
    assert [[node.name for node in stage.nodes] for stage in plan.stages] == [
        ["book"],
        ["charge", "quote"],
        ["go"],
        ["mail.send"],
    ]
    assert [stage.ordered for stage in plan.stages] == [False, True, False, False]
    assert [node.role for node in plan.nodes.values()] == [
        Role.COMPENSATABLE,
        Role.COMPENSATABLE,
        Role.COMPENSATABLE,
        Role.PIVOT,
        Role.RETRIABLE,
    ]
    paid = plan.nodes["charge"]
    assert (paid.retry.max_attempts, paid.timeout_ms, paid.probe, paid.queue) == (4, 3_000, True, None)
    assert paid.undo is not None
    assert (paid.undo.retry.max_attempts, paid.undo.timeout_ms) == (2, 10_000)
    assert (plan.nodes["quote"].read_only, plan.nodes["quote"].queue) == (True, "quotes")
    assert plan.nodes["mail.send"].local


def test_the_role_of_a_step_decides_its_default_retry() -> None:
    """By default a transaction has 3 attempts, an effect 5, and a retriable step no limit."""
    found = {name: node.retry.max_attempts for name, node in place.plan.nodes.items()}
    assert found == {"book": 3, "charge": 4, "quote": 5, "go": 1, "mail.send": None}
    other = saga(retriable(charge), retriable(go, retry=Retry(max_attempts=9)))
    assert {name: node.retry.max_attempts for name, node in other.plan.nodes.items()} == {"charge": 4, "go": 9}


def test_an_irreversible_step_stays_although_it_could_be_undone() -> None:
    """An `irreversible` step has no undo in this saga, although it has a compensation for other sagas."""
    node = saga(irreversible(book, "the customer keeps it")).plan.nodes["book"]
    assert (node.irreversible, node.undo, node.role) == ("the customer keeps it", None, Role.COMPENSATABLE)
    assert saga(book).plan.nodes["book"].undo is not None


def test_steps_are_shared_by_sagas() -> None:
    """Several sagas use one step, in other roles, under other names and with other inputs."""
    trip = Saga("trip", Trip, book.using(order_of), book.using(order_of, name="book_back"), whole)
    nodes = trip.plan.nodes
    assert list(nodes) == ["book", "book_back", "whole"]
    assert {nodes["book"].step, nodes["book_back"].step, place.plan.nodes["book"].step} == {"book"}
    assert nodes["book"].mapping == nodes["book_back"].mapping == f"{MODULE}:order_of"
    assert place.plan.nodes["book"].mapping is None


def test_a_plan_does_not_depend_on_the_module_being_loaded_twice() -> None:
    """Compiling the same definition again gives the same fingerprint."""
    again = Saga("place-order", Order, *[book, parallel(charge, quote, ordered=True)], keys=("number", "sku"))
    twice = Saga("place-order", Order, *[book, parallel(charge, quote, ordered=True)], keys=("number", "sku"))
    assert again.plan.fingerprint == twice.plan.fingerprint != place.plan.fingerprint


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Order, Order),
        (RushOrder, Order),
        (Order, Any),
        (Order, object),
        (Any, Order),
        (Order, Order | None),
        (Order | RushOrder, Order),
        (Order, Trip | Order),
        (Annotated[Order, Field(description="x")], Order),
        (Order, Annotated[Order, Field(description="x")]),
        (dict[str, int], Mapping[str, int]),
        (dict[str, int], dict[str, int]),
        (Number, int),
        (None, type(None)),
    ],
    ids=str,
)
def test_what_fits_is_accepted(given: Any, expected: Any) -> None:  # noqa: ANN401 - type forms
    """A step accepts a saga's input where a type checker would, or where only a type checker could decide."""
    assert fits(given, expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(Order, RushOrder), (Order, Trip), (Order | None, Order), (dict[str, int], list[int]), (str, int), (Order, None)],
    ids=str,
)
def test_what_cannot_fit_is_refused(given: Any, expected: Any) -> None:  # noqa: ANN401 - type forms
    """An input that a step cannot accept raises an error before anything runs."""
    assert not fits(given, expected)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Order, "Order"), (dict[str, int], "dict[str, int]"), (Any, "Any"), (int | None, "int | None")],
)
def test_types_are_named_as_written(kind: Any, name: str) -> None:  # noqa: ANN401 - type forms
    """Messages and plans name a type as its author would."""
    assert type_name(kind) == name


def test_business_keys_are_read_from_the_input() -> None:
    """Declared fields become text by which runs are found; absent fields have no key."""
    keyed = saga(book, keys=("number", "sku", "tags"))
    assert keyed.key_values({"number": 7, "sku": "x", "tags": None}) == {"number": "7", "sku": "x"}
    assert place.key_values({}) == {}


@pytest.mark.parametrize("value", [["a"], {"a": 1}])
def test_a_business_key_is_a_single_value(value: Any) -> None:  # noqa: ANN401 - JSON
    """A list or an object cannot be a search key, and is refused with its value."""
    with pytest.raises(InputError) as refused:
        saga(book, keys=("tags",)).key_values({"tags": value})
    assert str(refused.value) == (
        f"saga 's': business key 'tags' is {value!r}; use a single value, because Amends cannot look up a list or an "
        "object"
    )


def test_a_saga_shows_its_name() -> None:
    """A saga and its parts are recognisable in a message or a debugger."""
    assert repr(place) == "<saga 'place-order'>"
    assert [repr(part) for part in (book, pivot(go), parallel(book, charge))] == [
        "<transaction 'book'>",
        "<pivot 'go'>",
        "<parallel 'book', 'charge'>",
    ]
