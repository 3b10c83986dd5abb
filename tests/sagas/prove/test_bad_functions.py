"""Functions that a search cannot repeat are named in one line, with the step and the remedy."""

import os
import random
import socket
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from runs.proved_shop import ORDER, PlaceOrder, StockItem, charge_card, place_order, reserve_stock

from amends import Attempted, Call, InputError, Saga, UnitOfWork, effect, pivot, transaction
from amends.sagas.prove.experiment import Experiment
from amends.sagas.prove.report import Verdict
from amends.sagas.prove.runtime.explore import explore

GIVEN = [StockItem("teapot", free=10)]


def saga_of(function: Callable[[], str]) -> Saga[PlaceOrder]:
    """Return a saga whose effect calls a function."""

    @effect
    async def ask(_: PlaceOrder, __: Call) -> str:
        return function()

    return Saga("asking", PlaceOrder, pivot(ask))


def refusal(saga: Saga[PlaceOrder], **changes: Any) -> str:  # noqa: ANN401 - any argument of `explore`
    """Return the line with which a search refuses a saga."""
    with pytest.raises(InputError) as caught:
        explore(saga, ORDER, **changes)
    text = str(caught.value)
    assert "\n" not in text
    return text


UNREPEATABLE = {
    "random": lambda: str(random.random()),  # noqa: S311 - as careless code does
    "the time": lambda: str(time.time()),
    "the day": lambda: date.today().isoformat(),  # noqa: DTZ011 - as above
    "the date": lambda: datetime.now(UTC).date().isoformat(),
    "system random": lambda: os.urandom(8).hex(),
}


@pytest.mark.parametrize("name", UNREPEATABLE)
def test_a_function_that_is_not_deterministic_is_named(name: str) -> None:
    """A result that depends on the time or on chance is noticed, even if it changes only once a day."""
    line = refusal(saga_of(UNREPEATABLE[name]))
    assert line.startswith("step 'ask': its function is not deterministic")
    assert "results={ask: a result}" in line


def test_an_undo_that_is_not_deterministic_is_named() -> None:
    """The sample has a story that is undone, so a compensation that writes the time is noticed."""

    @transaction
    def stamp(_: PlaceOrder, uow: UnitOfWork) -> str:
        uow.add(StockItem("cup", free=1))
        return "stamped"

    @stamp.compensation
    def erase(_: object, uow: UnitOfWork) -> None:
        uow.add(StockItem(f"cup {time.time_ns()}", free=1))

    assert "step 'stamp': its function is not deterministic" in refusal(
        Saga("stamping", PlaceOrder, stamp, pivot(charge_card))
    )


def test_clock_and_random_are_as_they_were() -> None:
    """The check leaves the clock of the user's modules and the state of `random` as they were."""
    before = random.getstate()
    explore(saga_of(lambda: "done"), ORDER, faults=0)
    assert random.getstate() == before
    assert globals()["datetime"].__module__ == "datetime"
    assert abs(time.time() - datetime.now(UTC).timestamp()) < 3_600


LEAVING: dict[str, tuple[Callable[[], Any], str]] = {
    "a file": (lambda: Path("/etc/hostname").read_text(), "opens '/etc/hostname'"),
    "a connection": (lambda: socket.create_connection(("127.0.0.1", 9), timeout=1), "127.0.0.1"),
    "a program": (lambda: subprocess.run(["true"], check=True), "starts the program"),
}


@pytest.mark.parametrize("name", LEAVING)
def test_a_function_that_leaves_the_process_is_named(name: str) -> None:
    """A file, a connection or a program is noticed before it is opened."""
    function, words = LEAVING[name]
    line = refusal(saga_of(lambda: str(function())))
    assert line.startswith("step 'ask': its function ")
    assert words in line


def test_an_error_of_the_watch_cannot_be_swallowed() -> None:
    """A function that catches every exception does not hide the file that it opens."""

    def swallow() -> str:
        try:
            return Path("/etc/hostname").read_text()
        except Exception:  # noqa: BLE001 - as careless code does
            return "none"

    assert "opens '/etc/hostname'" in refusal(saga_of(swallow))


def test_a_transaction_is_watched_too() -> None:
    """A transaction that opens a file is named, although its errors are outcomes."""

    @transaction
    def note(_: PlaceOrder, __: UnitOfWork) -> str:
        return Path("/etc/hostname").read_text()

    assert "step 'note'" in refusal(Saga("noting", PlaceOrder, pivot(note)))


def test_imports_and_time_zones_are_no_leaving() -> None:
    """Python's own reading of modules and time zones is allowed."""

    def read() -> str:
        import colorsys  # noqa: PLC0415 - a module that nothing else has imported

        return f"{colorsys.__name__} {ZoneInfo.no_cache('Europe/Berlin').key}"

    assert explore(saga_of(read), ORDER, faults=0).holds


def test_the_watch_sleeps_outside_of_functions() -> None:
    """After a search files open as before."""
    explore(saga_of(lambda: "done"), ORDER, faults=0)
    assert Path(__file__).read_text(encoding="utf-8")


def test_a_budget_that_is_too_small_names_the_slowest_step() -> None:
    """A search that cannot even explore the stories without faults is refused, and never reported as sampled."""
    line = refusal(place_order, given=GIVEN, seconds=1e-5)
    assert line.startswith("seconds=1e-05: the time was over")
    assert "step 'reserve_stock' took" in line or "step 'charge_card' took" in line or "'confirm_order'" in line


def test_an_undo_may_use_the_result() -> None:
    """The check accepts a saga whose functions depend on input, result and key alone."""

    @effect
    async def book(_: PlaceOrder, call: Call) -> str:
        return call.key

    @book.compensation
    async def cancel(done: Attempted[PlaceOrder, str], _: Call) -> None:
        assert done.input == ORDER

    report = explore(Saga("booking", PlaceOrder, book, pivot(reserve_stock)), ORDER, given=GIVEN, faults=1)
    assert report.verdict is Verdict.PROVED
    assert Experiment(saga=place_order, input=ORDER, given=GIVEN).prepare().registry.steps
