"""Sagas whose participant keeps a ledger and ignores keys: each answered call has acted once more.

The order controls each call: the participant delays the call, or is unreachable, until the gate of the call opens.
`worker_process` runs a worker with these sagas in a separate process.
"""

import asyncio
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import temporalio.client
from eventsourcing.domain import event
from pydantic import BaseModel

from amends import Attempted, Call, Done, Rejected, Retry, Saga, UnitOfWork, effect, pivot, retriable, transaction
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.journal import Journal
from amends.aggregates.run.facts import Fact
from amends.aggregates.sql.engine import create_store_engine
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.aggregates.sql.migrations import upgrade
from amends.sagas.definition.registry import Registry
from amends.sagas.temporal.client import Client
from amends.sagas.temporal.worker import running_worker

__all__ = [
    "HOURLY",
    "LOCAL",
    "ONCE",
    "PATIENT",
    "SAGAS",
    "Ledger",
    "Order",
    "Pages",
    "client_of",
    "opened",
    "until",
    "worker_process",
    "working",
]

# The child runs this file as a module, not as a program: a plan names functions by their module.
_PROGRAM = "import asyncio, sys, hard_parts; asyncio.run(hard_parts.work(*sys.argv[1:]))"
BOUND = timedelta(minutes=5)


class Order(BaseModel):
    """The input of a run, which also controls how the participant answers.

    Attributes:
        folder: The ledger's folder.
        refused: Whether the pivot refuses, so that the run is compensated.
        held: Calls that stay in flight until the gate opens, as `pay/do`.
        away: Calls that cannot reach the participant until the gate opens.
    """

    folder: str
    refused: bool = False
    held: tuple[str, ...] = ()
    away: tuple[str, ...] = ()


class Pages(Aggregate):
    """The number of times that each transaction of a run was executed."""

    @event("Opened")
    def __init__(self, id: str) -> None:  # noqa: A002, ARG002 - the word that aggregates use
        self.lines: list[str] = []

    @event("Written")
    def write(self, line: str) -> None:
        """Write a line."""
        self.lines.append(line)


class Ledger:
    """The participant.

    Args:
        folder: The ledger's folder.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)

    def _lines(self, name: str, run_id: str) -> list[str]:
        file = self._folder / name
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.removeprefix(f"{run_id}/") for line in lines if line.startswith(f"{run_id}/")]

    def _write(self, name: str, line: str) -> None:
        with (self._folder / name).open("a") as file:
            file.write(f"{line}\n")

    def called(self, run_id: str) -> list[str]:
        """Return the calls of a run that have arrived, by the rest of their keys."""
        return self._lines("called", run_id)

    def acted(self, run_id: str) -> list[str]:
        """Return the calls of a run that have taken effect, in order."""
        return self._lines("acted", run_id)

    async def until_called(self, run_id: str, key: str) -> None:
        """Wait until a call has arrived; only the test's own bound ends the wait."""
        while key not in self.called(run_id):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)

    def open_gate(self, run_id: str, what: str | None = None) -> None:
        """Let the participant answer a run's calls: one kind of them, as `pay/do`, or all."""
        self._gate(run_id, what).touch()

    def _gate(self, run_id: str, what: str | None) -> Path:
        return self._folder / ".".join([run_id, *([] if what is None else what.split("/")), "gate"])

    async def act(self, order: Order, call: Call) -> str:
        """Receive a call, and act when its gate is open."""
        what = "/".join(call.key.split("/")[1:3])
        gates = self._gate(call.run_id, None), self._gate(call.run_id, what)
        self._write("called", call.key)
        if what in order.away and not any(gate.exists() for gate in gates):
            raise ConnectionError("the participant cannot be reached")
        while what in order.held and not any(gate.exists() for gate in gates):  # noqa: ASYNC110 - others open it
            await asyncio.sleep(0.02)
        self._write("acted", call.key)
        return call.key


def _write(run_id: str, uow: UnitOfWork, line: str) -> None:
    (uow.find(Pages, run_id) or uow.add(Pages(run_id))).write(line)


@transaction
def begin(_: Order, uow: UnitOfWork) -> None:
    """Write down that the run began."""
    _write(uow.run_id, uow, "begun")


@begin.compensation
def give_up(_: Done[Order, None], uow: UnitOfWork) -> None:
    """Write down that the run was compensated."""
    _write(uow.run_id, uow, "given up")


@transaction
def settle(order: Order, uow: UnitOfWork) -> None:
    """Accept, or refuse."""
    _write(uow.run_id, uow, "settled")
    if order.refused:
        raise Rejected("not today")


@effect(timeout=BOUND, retry=Retry(max_attempts=None, first=timedelta(milliseconds=100), factor=1))
async def deliver(order: Order, call: Call) -> None:
    """Deliver the goods, in any number of attempts."""
    await Ledger(order.folder).act(order, call)


def same(order: Order) -> Order:
    """Return the same input for the payment of every saga."""
    return order


def _saga(name: str, retry: Retry, *, local: bool = False) -> Saga[Order]:
    """Create a saga with this policy for its payment, and with an undo of unlimited attempts."""

    @effect(name=f"{name}-pay", timeout=BOUND, retry=retry, local=local)
    async def pay(order: Order, call: Call) -> str:
        """Pay."""
        return await Ledger(order.folder).act(order, call)

    @pay.compensation(timeout=BOUND, retry=Retry(max_attempts=None, first=timedelta(milliseconds=100), factor=1))
    async def repay(tried: Attempted[Order, str], call: Call) -> None:
        """Refund the payment."""
        await Ledger(tried.input.folder).act(tried.input, call)

    return Saga(name, Order, begin, pay.using(same, name="pay"), pivot(settle), retriable(deliver))


ONCE = _saga("once", Retry(max_attempts=1))
PATIENT = _saga("patient", Retry(max_attempts=None, first=timedelta(milliseconds=100), factor=1))
HOURLY = _saga("hourly", Retry(max_attempts=3, first=timedelta(hours=1)))
LOCAL = _saga("local", Retry(max_attempts=None, first=timedelta(milliseconds=100), factor=1), local=True)
SAGAS: tuple[Saga[Any], ...] = (ONCE, PATIENT, HOURLY, LOCAL)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlJournal]:
    """Open a store, with its tables."""
    engine = create_store_engine(url)
    upgrade(engine)
    engine.dispose()
    journal = open_journal(url, aggregates=[Pages])
    try:
        yield journal
    finally:
        await journal.close()


def working(temporal: temporalio.client.Client, journal: SqlJournal, queue: str) -> AbstractAsyncContextManager[str]:
    """Run a worker in this process."""
    return running_worker(temporal, journal, Registry(SAGAS), task_queue=queue)


def client_of(temporal: temporalio.client.Client, journal: SqlJournal, queue: str) -> Client:
    """Return a client of the workers on a queue."""
    return Client(journal, temporal, Registry(SAGAS), task_queue=queue)


async def until(journal: Journal, run_id: str, met: Callable[[list[Fact]], bool]) -> list[Fact]:
    """Wait until a run's facts meet a condition, and return them; only the test's own bound ends the wait."""
    while not met(facts := await journal.facts(run_id)):  # noqa: ASYNC110 - another process writes them
        await asyncio.sleep(0.02)
    return facts


@asynccontextmanager
async def worker_process(url: str, address: str, queue: str) -> AsyncIterator[Process]:
    """Run a worker in a separate process, and kill it when the context ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _PROGRAM, url, address, queue),
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert (await process.stdout.readline()).strip() == b"ready"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def work(url: str, address: str, queue: str) -> None:
    """Serve until the input ends."""
    temporal = await temporalio.client.Client.connect(address)
    async with opened(url) as journal, working(temporal, journal, queue):
        print("ready", flush=True)  # noqa: T201 - what the test waits for
        await asyncio.to_thread(sys.stdin.read)
