"""Three deploys of one saga: the code of the start, code that cannot continue the run, and code that can."""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from amends import Attempted, Call, Done, Rejected, Retry, RunStatus, Saga, UnitOfWork, effect, pivot, transaction
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.steps import Step

CANARY = "canary-4711"
PAUSES = Retry(None, first=timedelta(milliseconds=50), factor=1)


class Colour(enum.Enum):
    """The colours when the run was started."""

    RED = "red"
    BLUE = "blue"


class FewerColours(enum.Enum):
    """The colours after one of them was renamed."""

    CRIMSON = "crimson"
    BLUE = "blue"


class Order(BaseModel):
    """The input that the run was started with."""

    id: str
    colour: Colour = Colour.RED
    note: str = CANARY


class WithCountry(Order):
    """The input with one more field, which is required."""

    country: str


class Renamed(BaseModel):
    """The input with a renamed member of the enum."""

    id: str
    colour: FewerColours
    note: str = ""


class Removed(BaseModel):
    """The input with one field less, and with others forbidden."""

    model_config = ConfigDict(extra="forbid")
    id: str
    colour: Colour


class Narrowed(BaseModel):
    """The input with a field of another type."""

    id: str
    colour: Colour
    note: int


class Held(BaseModel):
    """The result that the run has recorded."""

    place: str = CANARY


class HeldWithShelf(BaseModel):
    """A result type that the recorded one does not fit."""

    place: str
    shelf: Literal[1, 2]


def to_id(order: Any) -> str:  # noqa: ANN401 - of every version
    """Create the input of a step."""
    return str(order.id)


@dataclass(frozen=True)
class Code:
    """One deploy.

    Attributes:
        model: The saga's input type.
        result: The result type of `hold`.
        mapped: Whether `book` is used with the mapping.
        down: Whether `pay` gets no answer.
        refuse: Whether `confirm` is refused, so that the run turns round.
        book: Whether `book` is loaded.
        free: Whether the compensation of `hold` is loaded.
        weigh: Whether the saga has the new step, whose result `book` and `confirm` may ask for.
        asks: The function that `book` calls with the result of `weigh`, when it asks.
    """

    model: type[BaseModel] = Order
    result: type[BaseModel] = Held
    mapped: bool = False
    down: bool = False
    refuse: bool = False
    book: bool = True
    free: bool = True
    weigh: bool = False
    asks: Callable[[UnitOfWork | Call, Step[Any, Any]], object] | None = None
    book_is_effect: bool = False


class Version(NamedTuple):
    """The code of one process."""

    saga: Saga[Any]
    registry: Registry


def _hold(code: Code) -> Step[Any, Any]:
    def hold(_: object, __: UnitOfWork) -> object:
        return code.result(place=CANARY, **({"shelf": 1} if code.result is HeldWithShelf else {}))

    hold.__annotations__.update({"_": code.model, "return": code.result})
    if not code.free:
        return transaction(name="hold", read_only=True)(hold)
    step = transaction(name="hold")(hold)

    @step.compensation
    def free(_: Done[Any, Any], __: UnitOfWork) -> None: ...

    return step


def _pay(code: Code) -> Step[Any, Any]:
    model = code.model

    @effect(name="pay", retry=PAUSES, timeout=timedelta(seconds=5))
    async def pay(_: model, __: Call) -> str:  # type: ignore[valid-type]  # as above
        if code.down:
            raise ConnectionError("nobody is there")
        return "paid"

    @pay.compensation
    async def refund(_: Attempted[Any, Any], __: Call) -> None: ...

    return pay


def _weigh(code: Code) -> Step[Any, Any]:
    model = code.model

    @transaction(name="weigh", read_only=True)
    def weigh(_: model, __: UnitOfWork) -> int:  # type: ignore[valid-type]  # as above
        return 7

    return weigh


def _book(code: Code, weigh: Step[Any, Any]) -> Step[Any, Any]:
    kind = str if code.mapped else code.model

    if code.book_is_effect:

        @effect(name="book", retry=Retry(2, first=timedelta(milliseconds=1)), timeout=timedelta(seconds=5))
        async def book_there(_: kind, call: Call) -> str:  # type: ignore[valid-type]  # as above
            if code.asks is not None:
                code.asks(call, weigh)
            return "booked"

        @book_there.compensation
        async def unbook_there(_: Attempted[Any, Any], __: Call) -> None: ...

        return book_there.using(to_id) if code.mapped else book_there

    @transaction(name="book", retry=Retry(2, first=timedelta(milliseconds=1)))
    def book(_: kind, uow: UnitOfWork) -> str:  # type: ignore[valid-type]  # as above
        if code.asks is not None:
            code.asks(uow, weigh)
        return "booked"

    @book.compensation
    def unbook(_: Done[Any, Any], __: UnitOfWork) -> None: ...

    return book.using(to_id) if code.mapped else book


def load(code: Code) -> Version:
    """Load the code, as a process that starts does: it shares nothing with other versions."""
    model, weigh = code.model, _weigh(code)

    @transaction(name="confirm", read_only=True)
    def confirm(_: model, __: UnitOfWork) -> None:  # type: ignore[valid-type]  # as above
        if code.refuse:
            raise Rejected("not today")

    parts = [_hold(code), _pay(code)]
    parts += [weigh] if code.weigh else []
    parts += [_book(code, weigh)] if code.book else []
    saga = Saga("order", model, *parts, pivot(confirm))
    return Version(saga, Registry([saga]))


def ask(context: UnitOfWork | Call, weigh: Step[Any, Any]) -> object:
    """Ask for the result of the new step."""
    return context.result_of(weigh)


def ask_or_default(context: UnitOfWork | Call, weigh: Step[Any, Any]) -> object:
    """Ask for the result of the new step, with a default in runs of the former plan."""
    assert context.result_of(weigh, default=None) is None
    return None


def ask_and_wrap(context: UnitOfWork | Call, weigh: Step[Any, Any]) -> object:
    """Raise an exception of the step's own instead."""
    try:
        return context.result_of(weigh)
    except Exception as error:
        raise RuntimeError("no weight") from error


def ask_and_refuse(context: UnitOfWork | Call, weigh: Step[Any, Any]) -> object:
    """Turn every error into a refusal, as hasty code does."""
    try:
        return context.result_of(weigh)
    except Exception:  # noqa: BLE001 - hasty code
        raise Rejected("no weight")  # noqa: B904 - as above


def ask_in_a_group(context: UnitOfWork | Call, weigh: Step[Any, Any]) -> object:
    """Raise the error as a task group does."""
    try:
        return context.result_of(weigh)
    except Exception as error:  # noqa: BLE001 - a task group takes all
        raise ExceptionGroup("tasks", [ValueError("other"), ExceptionGroup("inner", [error])]) from None


@dataclass(frozen=True)
class Case:
    """Three deploys.

    Attributes:
        first: The code that the run is started with; `pay` gets no answer in it.
        second: The code that cannot continue the run.
        third: The code that can.
        node: The node where the run waits.
        kind: The kind of the missing or mismatched part.
        says: Words of the message.
        end: The status that the run closes in.
        undone: Nodes that are undone by then.
    """

    second: Code
    node: str
    kind: str
    says: tuple[str, ...]
    first: Code = Code()
    third: Code = Code()
    end: RunStatus = RunStatus.COMPLETED
    undone: tuple[str, ...] = ()
    facts: Mapping[str, int] = field(default_factory=dict)


MAPPED = Code(mapped=True)
ASKING = Code(weigh=True, asks=ask)
ASKED = Code(weigh=True, asks=ask_or_default)
THERE = Code(book_is_effect=True)
CASES = {
    "mapping": Case(
        Code(), "book", "mapping", ("mapping 'runs.waiting_for_code:to_id'", ".using(to_id)"), MAPPED, MAPPED
    ),
    "mapping of an effect": Case(
        THERE,
        "book",
        "mapping",
        ("to_id",),
        replace(THERE, mapped=True),
        replace(THERE, mapped=True),
    ),
    "required": Case(Code(model=WithCountry), "pay", "input", ("country is required",)),
    "renamed": Case(Code(model=Renamed), "pay", "input", ("colour is no longer a member of its enum",)),
    "removed": Case(Code(model=Removed), "pay", "input", ("note was stored but is no longer a field",)),
    "narrowed": Case(Code(model=Narrowed), "pay", "input", ("note does not fit its type (int_parsing)",)),
    "step": Case(Code(book=False), "book", "step", ("no step is called 'book'",)),
    "step of an effect": Case(Code(book=False), "book", "step", ("'book'",), THERE, THERE),
    "result": Case(
        Code(result=HeldWithShelf, refuse=True),
        "hold",
        "result",
        ("shelf is required", "'hold'"),
        third=Code(refuse=True),
        end=RunStatus.COMPENSATED,
        undone=("book", "pay", "hold"),
    ),
    "compensation": Case(
        Code(free=False, refuse=True),
        "hold",
        "compensation",
        ("'hold' has no compensation",),
        third=Code(refuse=True),
        end=RunStatus.COMPENSATED,
        undone=("book", "pay", "hold"),
    ),
    "plan": Case(ASKING, "book", "plan", ("result of 'weigh'", "default=", "saga 'order', plan "), third=ASKED),
    "plan, wrapped": Case(replace(ASKING, asks=ask_and_wrap), "book", "plan", ("'weigh'",), third=ASKED),
    "plan, refused": Case(replace(ASKING, asks=ask_and_refuse), "book", "plan", ("'weigh'",), third=ASKED),
    "plan, in a group": Case(replace(ASKING, asks=ask_in_a_group), "book", "plan", ("'weigh'",), third=ASKED),
    "plan, of an effect": Case(
        replace(ASKING, book_is_effect=True),
        "book",
        "plan",
        ("'weigh'",),
        THERE,
        replace(ASKED, book_is_effect=True),
    ),
    "plan, of an effect, refused": Case(
        replace(ASKING, book_is_effect=True, asks=ask_and_refuse),
        "book",
        "plan",
        ("'weigh'",),
        THERE,
        replace(ASKED, book_is_effect=True),
    ),
}
