"""Exceptions as data: every exception of user code can be described, and a refusal stays a refusal."""

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from amends import Rejected
from amends.aggregates.values.error_report import describe
from amends.sagas.engine.calls import outcome_of_error
from amends.sagas.engine.outcome import Failed, Refused


class UnshownError(Exception):
    """An error whose message needs an attribute that was never set."""

    def __str__(self) -> str:
        return str(self.detail)  # type: ignore[attr-defined]  # that is the fault


class NumberedError(Exception):
    """An error whose message is no text."""

    def __str__(self) -> str:
        return 4031  # type: ignore[return-value]  # noqa: PLE0307 - that is the fault


class DisguisedError(Exception):
    """An error that hides all readable attributes of an exception."""

    def __getattribute__(self, name: str) -> NoReturn:
        raise SystemExit(name)

    def __repr__(self) -> str:
        raise KeyboardInterrupt

    __str__ = __repr__


class CodedRejected(Rejected):
    """A refusal by number, whose author forgot `super().__init__`."""

    def __init__(self, code: int) -> None:
        self.code = code


class MovedRejected(Rejected):
    """A refusal whose reason cannot be read."""

    def __init__(self) -> None:
        pass

    @property
    def reason(self) -> str:  # type: ignore[override]  # as a user may write it
        """Fail."""
        raise KeyError("reason")


def caught(function: Callable[[], Any]) -> BaseException:
    """Return the exception of a function."""
    try:
        function()
    except BaseException as error:  # noqa: BLE001 - that is what is asked
        return error
    raise AssertionError("nothing was raised")


def throw(error: BaseException) -> NoReturn:
    """Raise an exception."""
    raise error


def thrown(error: BaseException) -> BaseException:
    """Return an exception as it is after it was raised."""
    return caught(lambda: throw(error))


DESCRIBED: list[tuple[BaseException, str, str]] = [
    (ValueError("too\nlong"), "ValueError", "too\nlong"),
    (ValueError(), "ValueError", "no message"),
    (UnshownError(), "UnshownError", "no message: its __str__ raised AttributeError"),
    (NumberedError(), "NumberedError", "no message: its __str__ raised TypeError"),
    (DisguisedError(), "DisguisedError", "no message: its __str__ raised KeyboardInterrupt"),
    (StopIteration(3), "StopIteration", "3"),
    (asyncio.CancelledError(), "CancelledError", "no message"),
    (GeneratorExit(), "GeneratorExit", "no message"),
    (SystemExit(2), "SystemExit", "2"),
    (ValueError("\ud800 \0"), "ValueError", "? \ufffd"),
    (type("Stolen", (Exception,), {"__module__": 5})("x"), "Stolen", "x"),
]


@pytest.mark.parametrize("number", range(len(DESCRIBED)), ids=[error_type for _, error_type, _ in DESCRIBED])
def test_any_exception_is_described(number: int) -> None:
    """The report has class and message of every exception, however it behaves."""
    error, error_type, message = DESCRIBED[number]
    outcome = outcome_of_error(thrown(error))
    assert isinstance(outcome, Failed)
    assert (outcome.error_type, outcome.error) == (error_type, message)
    assert outcome.chain[0].frames[-1].function.endswith("throw")


def test_a_huge_message_is_cut() -> None:
    """A message of any size becomes a bounded line."""
    assert len(describe(ValueError("x" * 10_000_000)).message) == 2_000


def test_causes_are_named_with_their_places() -> None:
    """A report names causes and contexts, nearest first, with class and place, and without their messages."""

    def low() -> NoReturn:
        raise KeyError("secret")

    def high() -> None:
        try:
            low()
        except KeyError as error:
            raise UnshownError("secret") from error

    trace = describe(caught(high)).trace
    assert [line.split(" at ")[0] for line in trace] == [f"raised {__name__}.UnshownError", "caused by KeyError"]
    assert all("test_error_report.py:" in line for line in trace)
    assert trace[1].split(" at ")[1].split(" in ")[1].startswith("test_causes_are_named_with_their_places.<locals>.low")
    assert "secret" not in " ".join(trace)


def test_a_circle_of_causes_ends() -> None:
    """A chain that leads back to itself is reported once."""
    one, two = ValueError("1"), KeyError("2")
    one.__cause__, two.__cause__ = two, one
    assert [link.relation for link in describe(one).chain] == ["raised", "caused by"]


def test_a_long_chain_and_a_deep_stack_are_bounded() -> None:
    """A report has eight exceptions and six places of each, at most."""

    def deeper(depth: int) -> None:
        if depth:
            deeper(depth - 1)
        error: Exception = ValueError("0")
        for _ in range(100):
            error.__cause__, error = error, KeyError()
        raise error

    error = caught(lambda: deeper(200))
    before: BaseException = error
    for _ in range(100):
        before.__cause__ = after = ValueError()
        before = after
    chain = describe(error).chain
    assert len(chain) == 8
    assert len(chain[0].frames) == 6


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Rejected("no"), "no"),
        (Rejected(None), "no reason was given"),  # type: ignore[arg-type]  # as users do
        (Rejected(4031), "4031"),  # type: ignore[arg-type]  # as users do
        (Rejected(""), "no reason was given"),
        (Rejected(UnshownError()), "no message: its __str__ raised AttributeError"),  # type: ignore[arg-type]  # as users do
        (CodedRejected(4031), "4031"),
        (MovedRejected(), "no reason was given"),
        (ExceptionGroup("g", [Rejected("no")]), "no"),
        (ExceptionGroup("g", [ExceptionGroup("h", [Rejected("no"), Rejected("never")]), Rejected("no")]), "no; never"),
        (BaseExceptionGroup("g", [Rejected("no"), asyncio.CancelledError()]), "no"),
    ],
    ids=[
        "text",
        "None",
        "number",
        "empty",
        "unshown",
        "subclass without init",
        "reason that raises",
        "group",
        "nested group",
        "group with a cancelled sibling",
    ],
)
def test_a_refusal_stays_a_refusal(error: BaseException, reason: str) -> None:
    """A refusal of any shape is a refusal, with a reason in words."""
    assert outcome_of_error(thrown(error)) == Refused(reason)


def test_a_task_group_passes_a_refusal_on() -> None:
    """A refusal that a TaskGroup wraps is a refusal."""

    async def refuse() -> None:
        raise Rejected("no")

    async def step() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(refuse())
            group.create_task(asyncio.sleep(60))

    assert outcome_of_error(caught(lambda: asyncio.run(step()))) == Refused("no")


@pytest.mark.parametrize(
    "members",
    [[Rejected("no"), ValueError("lost")], [asyncio.CancelledError()], [ValueError("lost")]],
    ids=["refusal and error", "only cancelled", "only an error"],
)
def test_a_group_with_a_real_error_is_a_failed_attempt(members: list[BaseException]) -> None:
    """A group is no refusal when one of its members may have left an effect behind; the report names the members."""
    outcome = outcome_of_error(thrown(BaseExceptionGroup("g", members)))
    assert isinstance(outcome, Failed)
    assert outcome.error_type in {"ExceptionGroup", "BaseExceptionGroup"}
    assert [link.relation for link in outcome.chain] == ["raised", *["in the group"] * len(members)]


def test_a_refusal_that_is_only_the_cause_of_an_error_is_no_refusal() -> None:
    """An error that a step raises because of a refusal is an error."""

    def step() -> None:
        try:
            throw(Rejected("no"))
        except Rejected as error:
            raise ValueError("lost") from error

    assert isinstance(outcome_of_error(caught(step)), Failed)
