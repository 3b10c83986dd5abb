"""A project with runs of every kind in its store, and the program that reads them, called in this process."""

import asyncio
import json
import os
import shutil
import sqlite3
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from amends.aggregates.journal import Journal
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.cli.app import main
from amends.cli.project.settings import load_settings
from amends.cli.runtime.wiring import Project, load_project
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.engine.start import prepare_start
from amends.sagas.runtime.clock import VirtualClock
from amends.sagas.runtime.runner import Runner

MODULE = "read_shop"
PROGRAM = Path(sysconfig.get_path("scripts"), "amends")
NASTY = "[red]\x1b[31mred[/red]\nnext line\u202e"
LONG = "r" * 200

SHOP = """
import asyncio
from datetime import timedelta

from pydantic import BaseModel

from amends import Attempted, Call, Done, Rejected, Retry, Saga, UnitOfWork
from amends import effect, parallel, pivot, retriable, transaction

print("printed while loading")


class Order(BaseModel):
    order_id: str
    fail: str = ""
    note: str = ""


@transaction(owner="stock team", runbook="https://wiki.example/[stock]")
def reserve_stock(order: Order, uow: UnitOfWork) -> str:
    return order.note


@reserve_stock.compensation(retry=Retry(max_attempts=2))
def release_stock(done: Done[Order, str], uow: UnitOfWork) -> None:
    if done.input.fail == "undo":
        raise RuntimeError("the shelf is locked" + done.input.note)


@effect(retry=Retry(max_attempts=2))
async def charge_card(order: Order, call: Call) -> str:
    if order.fail == "charge":
        raise TimeoutError("no answer" + order.note)
    if order.fail == "hang":
        await asyncio.sleep(3600)
    return call.key


@charge_card.compensation
async def refund_card(tried: Attempted[Order, str], call: Call) -> None:
    if tried.input.fail == "slow undo":
        await asyncio.sleep(3600)


@charge_card.probe
async def find_charge(order: Order, call: Call) -> str | None:
    return None


@effect(read_only=True)
def quote_shipping(order: Order, call: Call) -> int:
    return 7


@transaction
def confirm_order(order: Order, uow: UnitOfWork) -> None:
    if order.fail in {"confirm", "undo", "slow undo"}:
        raise Rejected("sold out" + order.note)


@effect
async def send_receipt(order: Order, call: Call) -> None:
    if order.fail == "receipt":
        raise OSError("mail is down")


place_order = Saga(
    "place-order",
    Order,
    reserve_stock,
    parallel(charge_card, quote_shipping),
    pivot(confirm_order),
    retriable(send_receipt, retry=Retry(max_attempts=1)),
    keys=("order_id",),
)
cancel_order = Saga("cancel-order", Order, retriable(send_receipt))
"""
SHELF = '''
from datetime import timedelta

from eventsourcing.domain import event

from amends import Aggregate, Cause, Command, Drift, DriftKind, Observation, UnitOfWork, drift_rule


class Shelf(Aggregate):
    @event("Built")
    def __init__(self, id: str) -> None:
        self.books = 0

    @event("Filled")
    def fill(self, books: int, drift: str) -> None:
        self.books = books


def fill_shelf(books: int, cause: Cause, uow: UnitOfWork) -> None:
    (uow.find(Shelf, "s") or uow.add(Shelf(id="s"))).fill(books, cause.drift)


@drift_rule("shelf", every=timedelta(minutes=1), mode="propose")
def shelf_is_empty(observation: Observation):
    """The shelf holds three books."""
    shelf = observation.load(Shelf, "s")
    if shelf is None or shelf.books != 3:
        yield Drift(
            subject="Shelf/s",
            kind=DriftKind.MISSING if shelf is None else DriftKind.DIFFERENT,
            expected=3,
            actual=None if shelf is None else shelf.books,
            version=0 if shelf is None else shelf.version,
            correction=Command(fill_shelf, 3, aggregate=(Shelf, "s")),
        )
'''
"""A module with a drift rule that corrects an aggregate after an approval."""


@dataclass(frozen=True)
class Answer:
    """The result of a command line."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON value
        """Read stdout, which must contain JSON and nothing else."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Shop:
    """A project with runs of every kind in its store."""

    folder: Path
    project: Project

    @property
    def store(self) -> Path:
        """The store's file."""
        return self.folder / ".amends" / "events.db"


@contextmanager
def as_it_was() -> Iterator[None]:
    """Restore at the end the state that loading a project changes in this process; begin without terminal settings."""
    path, finders, environment = sys.path[:], sys.meta_path[:], dict(os.environ)
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE"):
        os.environ.pop(name, None)
    try:
        yield
    finally:
        sys.path[:], sys.meta_path[:] = path, finders
        sys.modules.pop(MODULE, None)
        os.environ.clear()
        os.environ.update(environment)


def make_shop(folder: Path) -> Shop:
    """Create a project, with runs that completed, were compensated, need attention, or are open."""
    (folder / "amends.toml").write_text(f'modules = ["{MODULE}"]\n')
    (folder / f"{MODULE}.py").write_text(SHOP)
    (folder / ".amends").mkdir(mode=0o700)
    project = load_project(load_settings(folder))
    asyncio.run(make_runs(project))
    return Shop(folder, project)


async def make_runs(project: Project) -> None:
    """Create the runs, some time ago, in virtual time."""
    saga = project.registry.sagas["place-order"]
    order = saga.input_type
    clock = VirtualClock(time.time_ns() // 1_000_000 - 600_000)
    async with Runner(journal_of(project), project.registry, clock=clock) as runner:
        for name, fail in [("done", ""), ("lost", "charge"), ("refused", "confirm"), ("mail", "receipt")]:
            await runner.run(saga, order(order_id=name, fail=fail), id=f"order-{name}")
            await pass_a_second(clock)
        await runner.run(saga, order(order_id="stuck", fail="undo", note=NASTY), id="order-stuck")
        await pass_a_second(clock)
        await runner.run(saga, order(order_id=NASTY, note=NASTY), id=LONG)
        await pass_a_second(clock)
        for fail in ("hang", "slow undo"):
            run_id = f"order-{fail.replace(' ', '-')}"
            call = asyncio.create_task(runner.run(saga, order(order_id=fail, fail=fail), id=run_id))
            while not await is_waiting(runner, run_id):  # noqa: ASYNC110 - the journal is all that can be asked
                await asyncio.sleep(0.01)
            call.cancel()
            await pass_a_second(clock)
        await accept(runner.journal, project, "order-accepted", clock.now_ms())


async def pass_a_second(clock: VirtualClock) -> None:
    """Advance the clock, so that the next run begins later than the last one and their order is certain."""
    await clock.wait((), clock.now_ms() + 1_000)


def journal_of(project: Project) -> SqlJournal:
    """Open the project's store for writing."""
    return open_journal(project.settings.store_url)


async def is_waiting(runner: Runner, run_id: str) -> bool:
    """Return whether the run has come to the call that never returns."""
    record = await runner.journal.record(run_id)
    started = {"started", "undo started"}
    return record is not None and any(
        name == "charge_card" and node.status in started and "quote_shipping" in record.results
        for name, node in record.state.nodes.items()
    )


async def accept(
    journal: Journal, project: Project, run_id: str, now_ms: int, *, driver: str = "temporal", fail: str = "hang"
) -> None:
    """Accept a run, without driving it."""
    saga = project.registry.sagas["place-order"]
    given = saga.input_type(order_id="accepted", fail=fail)
    request = prepare_start(project.registry, saga, given, run_id=run_id, driver=driver, actor="test")
    await journal.commit(lambda tx: RunProtocol(project.registry, "test").accept(tx, request, now_ms), runs=(run_id,))


async def accept_in(url: str, project: Project, run_id: str, *, driver: str, fail: str) -> None:
    """Accept a run in a store."""
    journal = open_journal(url)
    await accept(journal, project, run_id, time.time_ns() // 1_000_000, driver=driver, fail=fail)
    await journal.close()


async def resume(url: str, project: Project, run_id: str) -> None:
    """Drive a run to its end, as another process would."""
    async with Runner(open_journal(url), project.registry) as runner:
        await runner.resume(run_id)


@dataclass(frozen=True)
class Amends:
    """The program, called in this process on one project."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> Answer:
        """Run a command line."""
        self.capsys.readouterr()
        code = main(["-C", str(self.folder), *arguments])
        captured = self.capsys.readouterr()
        return Answer(code, captured.out, captured.err)


def project_at(folder: Path, modules: str = "[]") -> Path:
    """Create a project without runs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "amends.toml").write_text(f"modules = {modules}\n")
    return folder


def empty_store(folder: Path) -> str:
    """Create a project without modules, and return the URL of its store."""
    project_at(folder)
    (folder / ".amends").mkdir(mode=0o700)
    return f"sqlite:///{folder}/.amends/events.db"


def copy_of(shop: Shop, folder: Path, *, store: bool = True) -> Path:
    """Copy the project to another folder, where a test may damage it."""
    shutil.copy(shop.folder / "amends.toml", folder)
    shutil.copy(shop.folder / f"{MODULE}.py", folder)
    if store:
        (folder / ".amends").mkdir(mode=0o700)
        with sqlite3.connect(shop.store) as ours, sqlite3.connect(folder / ".amends" / "events.db") as theirs:
            ours.backup(theirs)
        (folder / ".amends" / "events.db").chmod(0o600)
    return folder


def change(folder: Path, statement: str) -> None:
    """Change a store without the journal."""
    with sqlite3.connect(folder / ".amends" / "events.db") as connection:
        connection.execute(statement)


def one_line(answer: Answer) -> str:
    """Return the only line on stderr, without the program's name; stdout must be empty."""
    assert answer.out == ""
    assert answer.err.startswith("amends: ")
    assert answer.err.count("\n") == 1
    return answer.err.removeprefix("amends: ").rstrip("\n")


def environment(**changes: str) -> dict[str, str]:
    """Create a program's environment."""
    return {**os.environ, "TERM": "xterm-256color", **changes}
