"""Every mistake in a step raises an error with the remedy when its module is loaded."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from amends import (
    Attempted,
    Call,
    DefinitionError,
    Done,
    NotFoundError,
    Rejected,
    Retry,
    Saga,
    UnitOfWork,
    effect,
    transaction,
)
from amends.aggregates.run.plan import Guarantee, RetryPolicy, StepKind, UndoPolicy
from amends.sagas.definition.steps import Effect, Transaction

MODULE = __name__


class Order(BaseModel):
    """The input of most steps here."""

    number: int


class Receipt(BaseModel):
    """A result."""

    text: str


def book(order: Order, uow: UnitOfWork) -> Receipt:
    """Stand for a transaction."""
    return Receipt(text=f"{order.number} by {uow.key}")


def send(order: Order, call: Call) -> Receipt:
    """Stand for an effect."""
    return Receipt(text=f"{order.number} by {call.key}")


async def send_later(order: Order, call: Call) -> Receipt:
    """Stand for an effect that waits."""
    return send(order, call)


async def book_later(order: Order, uow: UnitOfWork) -> Receipt:
    """Do something that a transaction may not."""
    return book(order, uow)


def unbook(done: Done[Order, Receipt], uow: UnitOfWork) -> None:
    """Stand for a transaction's compensation."""


async def unbook_later(done: Done[Order, Receipt], uow: UnitOfWork) -> None:
    """Do something that a transaction's compensation may not."""


def unsend(tried: Attempted[Order, Receipt], call: Call) -> None:
    """Stand for an effect's compensation."""


def find(order: Order, call: Call) -> Receipt | None:
    """Stand for a probe."""


def alone(order: Order) -> Receipt:
    """Lack a parameter."""
    return Receipt(text=str(order.number))


def crowd(order: Order, call: Call, more: int) -> Receipt:
    """Expect a parameter too many."""
    return Receipt(text=f"{order.number}{call}{more}")


def picky(order: Order, call: Call, *, more: int) -> Receipt:
    """Expect a keyword parameter that no caller passes."""
    return Receipt(text=f"{order.number}{call}{more}")


def nothing() -> Receipt:
    """Expect no parameters at all."""
    return Receipt(text="")


def unannotated(order, call: Call) -> Receipt:  # type: ignore[no-untyped-def]  # the mistake  # noqa: ANN001
    """Lack the annotation of the parameter."""
    return send(order, call)


def unannotated_result(order: Order, call: Call):  # type: ignore[no-untyped-def]  # the mistake  # noqa: ANN201
    """Lack the annotation of the result."""
    return send(order, call)


def misplaced(order: Order, uow: UnitOfWork) -> Receipt:
    """Expect a transaction's context in an effect."""
    return book(order, uow)


def unresolved(order: "Ordr", call: Call) -> Receipt:  # type: ignore[name-defined]  # noqa: F821 - the mistake
    """Name a type that does not exist."""
    return send(order, call)


def to_order(number: int) -> Order:
    """Create a step's input from a saga's."""
    return Order(number=number)


def two(order: Order, more: int) -> Order:
    """Lack the shape of a mapping."""
    return Order(number=order.number + more)


def made(decorator: Any, function: Callable[..., Any], **options: Any) -> Any:  # noqa: ANN401 - also what mypy refuses
    """Create a step as its author would, also one that type checkers refuse."""
    return decorator(**options)(function) if options else decorator(function)


def types_of(decorator: Any, function: Callable[..., Any]) -> Any:  # noqa: ANN401 - as above
    """Read a step's types, as a saga does that contains it."""
    return made(decorator, function).definition.types


ANY_TRANSACTION = "step 'book': compensation 'unbook'"
NAME_RULE = "use 1 to 100 letters, digits, '_', '-' and '.', beginning with a letter or '_'"

MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: Retry(max_attempts=0), "Retry(max_attempts=0): give a whole number from 1, or None for no limit"),
    (lambda: Retry(max_attempts=-3), "Retry(max_attempts=-3): give a whole number from 1, or None for no limit"),
    (
        lambda: Retry(max_attempts=2.5),  # type: ignore[arg-type]
        "Retry(max_attempts=2.5): give a whole number from 1, or None for no limit",
    ),
    (lambda: Retry(factor=0.5), "Retry(factor=0.5): give a factor from 1 to 100"),
    (lambda: Retry(factor=101), "Retry(factor=101): give a factor from 1 to 100"),
    (lambda: Retry(factor=float("nan")), "Retry(factor=nan): give a factor from 1 to 100"),
    (
        lambda: Retry(factor="2"),  # type: ignore[arg-type]
        "Retry(factor='2'): give a factor from 1 to 100",
    ),
    (
        lambda: Retry(first=timedelta(seconds=-1)),
        "Retry(first=-1 day, 23:59:59): give a timedelta of 0 or more",
    ),
    (
        lambda: Retry(first=0.2),  # type: ignore[arg-type]
        "Retry(first=0.2): give a timedelta of 0 or more",
    ),
    (
        lambda: Retry(longest=30),  # type: ignore[arg-type]
        "Retry(longest=30): give a timedelta of 0 or more",
    ),
    (
        lambda: made(transaction, book_later),
        (
            "@transaction 'book_later': 'book_later' is async, but a transaction does no I/O of its own; write a "
            "plain def, "
            "or make the step an @effect"
        ),
    ),
    (
        lambda: made(transaction, alone),
        "@transaction 'alone': takes order, but Amends calls it with 2 arguments; declare as many parameters",
    ),
    (
        lambda: made(effect, crowd),
        "@effect 'crowd': takes order, call, more, but Amends calls it with 2 arguments; declare as many parameters",
    ),
    (
        lambda: made(effect, picky),
        "@effect 'picky': takes order, call, more, but Amends calls it with 2 arguments; declare as many parameters",
    ),
    (
        lambda: made(effect, nothing),
        "@effect 'nothing': takes nothing, but Amends calls it with 2 arguments; declare as many parameters",
    ),
    (lambda: made(transaction, book, name="1st"), f"step name '1st': {NAME_RULE}"),
    (lambda: made(effect, send, name=""), f"step name '': {NAME_RULE}"),
    (lambda: made(effect, send, name="a/b"), f"step name 'a/b': {NAME_RULE}"),
    (lambda: made(effect, send, name="a\x1b[2J"), f"step name 'a\\x1b[2J': {NAME_RULE}"),
    (lambda: made(effect, send, name=7), f"step name 7: {NAME_RULE}"),
    (
        lambda: made(transaction, "book"),  # type: ignore[arg-type]
        "@transaction('book'): pass options by name: name='book'",
    ),
    (
        lambda: made(effect, partial(send, Order(number=1))),
        "@effect of an object of 'partial': decorate a function, written with def",
    ),
    (lambda: made(transaction, Order), "@transaction of 'Order': decorate a function, written with def"),
    (
        lambda: made(effect, lambda order, call: None),  # noqa: ARG005
        "@effect of a lambda: write a def, because a plan refers to functions by name",
    ),
    (lambda: made(transaction, book, retry=3), "@transaction 'book': retry=3; give Retry(max_attempts=...)"),
    (lambda: made(effect, send, retry=3), "@effect 'send': retry=3; give Retry(max_attempts=...)"),
    (
        lambda: made(effect, send, timeout=timedelta(0)),
        "@effect 'send': timeout=0:00:00; give a timedelta of 1 ms or more",
    ),
    (
        lambda: made(effect, send, timeout=timedelta(microseconds=999)),
        "@effect 'send': timeout=0:00:00.000999; give a timedelta of 1 ms or more",
    ),
    (lambda: made(effect, send, timeout=10), "@effect 'send': timeout=10; give a timedelta of 1 ms or more"),
    (lambda: made(effect, send, timeout=None), "@effect 'send': timeout=None; give a timedelta of 1 ms or more"),
    (
        lambda: made(effect, send, local=True, queue="far"),
        "@effect 'send': local=True and queue='far'; remove one, a local effect is not routed",
    ),
    (
        lambda: types_of(effect, unannotated),
        "@effect 'unannotated': annotate 'order', so that Amends can validate it",
    ),
    (
        lambda: types_of(effect, unannotated_result),
        "@effect 'unannotated_result': annotate 'return', so that Amends can validate it",
    ),
    (
        lambda: types_of(effect, misplaced),
        "@effect 'misplaced': its second parameter 'uow' is annotated UnitOfWork; annotate it Call",
    ),
    (
        lambda: types_of(transaction, send),
        "@transaction 'send': its second parameter 'call' is annotated Call; annotate it UnitOfWork",
    ),
    (
        lambda: types_of(effect, unresolved),
        (
            "@effect 'unresolved': an annotation of 'unresolved' cannot be resolved (name 'Ordr' is not defined); "
            "define or import it at the top of the module"
        ),
    ),
    (
        lambda: made(transaction, book).compensation(unbook_later),
        (
            "step 'book': compensation 'unbook_later': 'unbook_later' is async, but a transaction does no I/O of its "
            "own; "
            "write a plain def, or make the step an @effect"
        ),
    ),
    (
        lambda: made(transaction, book).compensation(alone),
        (
            "step 'book': compensation 'alone': takes order, but Amends calls it with 2 arguments; declare as many "
            "parameters"
        ),
    ),
    (
        lambda: made(transaction, book).compensation(retry=3)(unbook),
        f"{ANY_TRANSACTION}: retry=3; give Retry(max_attempts=...)",
    ),
    (
        lambda: made(transaction, book).compensation("unbook"),
        f"{ANY_TRANSACTION}: give a function, written with def",
    ),
    (
        lambda: attached_twice(made(transaction, book), unbook),
        f"{ANY_TRANSACTION}: the step has {MODULE}:unbook already; remove one, a step has one compensation",
    ),
    (
        lambda: attached_twice(made(effect, send), unsend),
        (
            f"step 'send': compensation 'unsend': the step has {MODULE}:unsend already; remove one, a step has one "
            "compensation"
        ),
    ),
    (
        lambda: (step := made(effect, send)).probe(find) and step.probe(find),
        f"step 'send': probe 'find': the step has {MODULE}:find already; remove one, a step has one probe",
    ),
    (
        lambda: made(effect, send).probe(alone),
        "step 'send': probe 'alone': takes order, but Amends calls it with 2 arguments; declare as many parameters",
    ),
    (
        lambda: made(effect, send, read_only=True).compensation(unsend),
        (
            "step 'send': compensation 'unsend': the step is read_only, there is nothing to undo or to find; remove "
            "one of them"
        ),
    ),
    (
        lambda: made(effect, send).compensation(timeout=timedelta(0))(unsend),
        "step 'send': compensation 'unsend': timeout=0:00:00; give a timedelta of 1 ms or more",
    ),
    (
        lambda: made(effect, send).using(lambda number: Order(number=number)),
        "step 'send': using(a lambda): give a named function of a module; a plan must be able to name it",
    ),
    (
        lambda: made(effect, send).using(Order),
        "step 'send': using('Order'): give a named function of a module; a plan must be able to name it",
    ),
    (
        lambda: made(effect, send).using(to_order).using(to_order),
        "step 'send': using('to_order'): the step has a mapping already; write one that does both",
    ),
    (
        lambda: made(effect, send).using(two),
        "step 'send': using('two'): takes order, more, but Amends calls it with 1 argument; declare as many parameters",
    ),
    (
        lambda: made(effect, send).using(to_order).compensation(unsend),
        (
            "step 'send': compensation 'unsend': it is given the step's own input; attach it to the step itself, "
            "before using('to_order')"
        ),
    ),
    (
        lambda: made(effect, send).using(to_order).probe(find),
        (
            "step 'send': probe 'find': it is given the step's own input; attach it to the step itself, before "
            "using('to_order')"
        ),
    ),
    (lambda: made(effect, send).using(to_order, name="a b"), f"node name 'a b': {NAME_RULE}"),
    (lambda: made(effect, send).using(to_order, name=""), f"node name '': {NAME_RULE}"),
]


def attached_twice(step: Any, function: Callable[..., Any]) -> None:  # noqa: ANN401 - either kind
    """Attach one compensation, and then the same again."""
    step.compensation(function)
    step.compensation(function)


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=[message[:60] for _, message in MISTAKES])
def test_a_mistake_is_named_with_its_remedy(mistake: Callable[[], Any], message: str) -> None:
    """Each mistake in a step raises one line that names the function, the value and the remedy."""
    with pytest.raises(DefinitionError) as refused:
        mistake()
    assert str(refused.value) == message


def test_a_decorated_function_is_a_step() -> None:
    """A bare decorator and one with options give steps that carry the function's name and its defaults."""
    bare: Transaction[Order, Receipt] = transaction(book)
    assert (bare.name, bare.definition.kind, bare.mapping) == ("book", StepKind.TRANSACTION, None)
    assert bare.definition.run.location == f"{MODULE}:book"
    assert bare.definition.run.timeout is None
    assert repr(bare) == "<transaction 'book'>"
    named: Effect[Order, Receipt] = effect(name="dispatch", queue="far", owner="ann", runbook="doc")(send_later)
    known = named.definition
    assert (known.name, known.kind, known.queue, known.owner, known.runbook) == (
        "dispatch",
        StepKind.EFFECT,
        "far",
        "ann",
        "doc",
    )
    assert known.run.timeout == timedelta(seconds=10)
    assert known.types == (Order, Receipt)


def test_a_step_can_be_called_like_its_function() -> None:
    """Unit tests of users call steps directly, without the engine."""
    call = Call(run_id="r", node="n", key="k", attempt=1, results={}, do_key="k")
    assert effect(send)(Order(number=1), call) == Receipt(text="1 by k")


def test_attaching_gives_the_function_back() -> None:
    """A compensation and a probe stay plain functions, which their author may call and test."""
    step = effect(send)
    assert step.compensation(unsend) is unsend
    assert step.probe(find) is find
    assert transaction(book).compensation(retry=Retry())(unbook) is unbook


def test_a_compensation_has_its_own_policy() -> None:
    """Retry and timeout of the undo are apart from the step's, with their own defaults."""
    default, own = effect(retry=Retry(max_attempts=1))(send), effect(send)
    default.compensation(unsend)
    own.compensation(retry=Retry(max_attempts=2), timeout=timedelta(seconds=3))(unsend)
    assert default.definition.undo_policy == UndoPolicy(
        retry=RetryPolicy(max_attempts=10, first_ms=200, factor=2.0, longest_ms=60_000), timeout_ms=10_000
    )
    policy = own.definition.undo_policy
    assert policy is not None
    assert (policy.retry.max_attempts, policy.timeout_ms) == (2, 3_000)
    assert transaction(book).definition.undo_policy is None


def test_a_retry_is_stored_in_milliseconds() -> None:
    """The policy of a plan is the author's, in whole milliseconds."""
    retry = Retry(max_attempts=None, first=timedelta(microseconds=1_500), factor=1.5, longest=timedelta(hours=1))
    assert retry.policy == RetryPolicy(max_attempts=None, first_ms=1, factor=1.5, longest_ms=3_600_000)


def test_nothing_is_attached_after_a_plan_was_made() -> None:
    """A compensation that a pinned plan does not know would never run, so attaching it late is refused."""
    step = effect(send)
    saga = Saga("late", Order, step)
    step.compensation(unsend)
    assert saga.plan.stages[0].nodes[0].undo is not None
    with pytest.raises(DefinitionError) as refused:
        step.probe(find)
    assert str(refused.value) == (
        "step 'send': probe 'find': a plan was compiled without this function; attach the function before the saga is "
        "used"
    )


def test_a_step_used_under_another_name_shares_its_definition() -> None:
    """`using` makes another node of the same step: a compensation attached to one is attached to both."""
    step = effect(send)
    other = step.using(to_order, name="send_again")
    assert other.definition is step.definition
    assert (step.name, other.name, other.definition.name) == ("send", "send_again", "send")
    assert other.mapping is to_order
    step.compensation(unsend)
    assert other.definition.undo is not None


def test_annotations_keep_their_constraints() -> None:
    """A constraint in `Annotated` is validated when the result is read."""

    def count(order: Order, call: Call) -> Annotated[int, Field(ge=0)]:
        return order.number + call.attempt

    codec = effect(count).definition.result_codec
    assert codec.load(3) == 3
    with pytest.raises(Exception, match="greater than or equal to 0"):
        codec.load(-1)


def test_a_result_is_read_as_its_type() -> None:
    """`load_result` returns the step's result, typed."""
    receipt: Receipt = effect(send).load_result({"text": "x"})
    assert receipt == Receipt(text="x")


def test_results_of_earlier_steps_are_read_by_node() -> None:
    """`result_of` returns the result of a step's node, also under another name, or reports that it is early."""
    step = effect(send)
    other = step.using(to_order, name="again")
    call = Call(run_id="r", node="n", key="k", attempt=1, results={"again": {"text": "2nd"}}, do_key="k")
    again: Receipt = call.result_of(other)
    assert again == Receipt(text="2nd")
    with pytest.raises(NotFoundError) as early:
        call.result_of(step)
    assert str(early.value) == (
        "run 'r': 'n' asks for the result of 'send', which has not succeeded before it; put that step into an earlier "
        "stage "
        "of the saga"
    )


def test_the_kind_of_a_step_says_what_is_promised() -> None:
    """A transaction takes effect once, an effect at least once, by key; plans pin that."""
    saga = Saga("kinds", Order, transaction(book), effect(send))
    nodes = saga.plan.nodes
    assert [nodes[name].guarantee for name in ("book", "send")] == [Guarantee.ONCE, Guarantee.BY_KEY]


def test_a_rejection_carries_its_reason() -> None:
    """The journal keeps the participant's words."""
    assert Rejected("sold out").reason == "sold out"
