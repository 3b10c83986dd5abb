"""Test scheduled reconciliation while sagas run: every damaged entry is corrected once, and nothing else."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from bounds import HANG_S
from commands import CommandProject
from reading_shop import as_it_was

from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.sql.journal import SqlJournal
from amends.cli.project.settings import load_settings
from amends.cli.runtime.wiring import load_project, open_store
from amends.reconciler.drift.facts import DriftCorrected, DriftDetected, RuleScanned
from amends.reconciler.drift.stream import Reconciliation
from amends.sagas.runtime.runner import Runner

DAMAGED = 20

MODULE = """
import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from eventsourcing.domain import event
from pydantic import BaseModel

from amends import (
    Aggregate, Attempted, Call, Cause, Command, Drift, DriftKind, Observation, RunQuery, RunStatus, Saga, UnitOfWork,
    drift_rule, effect, pivot, transaction,
)

BANK = Path(__file__).parent / "bank.db"
GATE = asyncio.Event()
OPEN = frozenset({RunStatus.RUNNING, RunStatus.CANCELLING, RunStatus.COMPENSATING})


class Payment(BaseModel):
    id: str
    amount: int
    held: bool = False


class Ledger(Aggregate):
    @event("Opened")
    def __init__(self, id: str) -> None:
        self.paid = {}

    @event("Paid")
    def pay(self, payment: str, amount: int) -> None:
        self.paid[payment] = amount

    @event("Corrected")
    def correct(self, payment: str, amount: int, drift: str) -> None:
        self.paid[payment] = amount


def ledger_of(payment: str) -> str:
    return "ledger-" + payment[-1]


def bank():
    connection = sqlite3.connect(BANK, timeout=60, isolation_level=None)
    connection.execute("CREATE TABLE IF NOT EXISTS entries (payment TEXT PRIMARY KEY, amount INTEGER NOT NULL)")
    return closing(connection)


@effect(timeout=timedelta(minutes=5))
async def charge(payment: Payment, call: Call) -> int:
    with bank() as books:
        books.execute("INSERT OR IGNORE INTO entries VALUES (?, ?)", (payment.id, payment.amount))
    if payment.held:
        await GATE.wait()
    return payment.amount


@charge.compensation
def refund(tried: Attempted[Payment, int], call: Call) -> None:
    with bank() as books:
        books.execute("DELETE FROM entries WHERE payment = ?", (tried.input.id,))


@transaction
def book(payment: Payment, uow: UnitOfWork) -> None:
    name = ledger_of(payment.id)
    ledger = uow.find(Ledger, name) or uow.add(Ledger(name))
    ledger.pay(payment.id, uow.result_of(charge))


pay = Saga("pay", Payment, charge, pivot(book))


def take_over(found: tuple[str, int], cause: Cause, uow: UnitOfWork) -> None:
    payment, amount = found
    uow.get(Ledger, ledger_of(payment)).correct(payment, amount, cause.drift)


@drift_rule("books", every=timedelta(seconds=2), mode="apply", confirm_after=timedelta(seconds=1), cap=30)
def books_agree(observation: Observation):
    \"\"\"The bank has what we have.\"\"\"
    on_their_way = {run.run_id for run in observation.runs(RunQuery(statuses=OPEN, limit=200))}
    ours = {}
    for digit in range(10):
        ledger = observation.load(Ledger, f"ledger-{digit}")
        ours |= {} if ledger is None else ledger.paid
    with bank() as books:
        theirs = dict(books.execute("SELECT payment, amount FROM entries"))
    for payment in sorted((theirs.keys() | ours.keys()) - on_their_way):
        observation.scanned(1)
        if theirs.get(payment) != ours.get(payment):
            yield Drift(
                subject=f"payment/{payment}",
                kind=DriftKind.DIFFERENT,
                expected=ours.get(payment),
                actual=theirs.get(payment),
                correction=Command(take_over, (payment, theirs[payment])) if payment in theirs else None,
            )
"""


def recorded(journal: SqlJournal) -> list[Any]:
    """Return the facts of the rule's stream."""
    codec = EventCodec([Reconciliation])
    events = [codec.to_domain(each) for each in journal.events_blocking("reconciliation/books")]
    return [each.fact for each in events[1:]]


async def until(journal: SqlJournal, enough: Callable[[list[Any]], bool]) -> None:
    """Wait until the rule's stream satisfies a condition; the test's own timeout ends a wait in vain."""
    while not enough(await asyncio.to_thread(recorded, journal)):  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.1)


def scans(facts: list[Any]) -> int:
    """Count the scans."""
    return sum(isinstance(each, RuleScanned) for each in facts)


def corrections(facts: list[Any]) -> list[DriftCorrected]:
    """Return the corrections."""
    return [each for each in facts if isinstance(each, DriftCorrected)]


@pytest.mark.parametrize("runs", [100, pytest.param(500, marks=pytest.mark.soak)])
async def test_what_is_damaged_while_sagas_run_is_corrected_once(tmp_path: Path, runs: int) -> None:
    """While payments run, 20 others are changed at the bank: these are corrected, once each."""
    project = CommandProject(tmp_path)
    module = f"load_shop_{runs}"  # Python keeps the module of an earlier test
    project.write("amends.toml", f'modules = ["{module}"]\n')
    project.write(f"{module}.py", MODULE)
    with project.started("dev") as dev, as_it_was():
        dev.read_until("Ready")
        assert project.run("schedule", "add", "books", "books", "--every", "2s").code == 0
        loaded = load_project(load_settings(tmp_path))
        saga = loaded.registry.sagas["pay"]
        payment: Any = saga.input_type
        journal = open_store(loaded.settings, loaded.aggregates)
        async with Runner(journal, loaded.registry) as runner:
            for n in range(DAMAGED):
                await runner.run(saga, payment(id=f"p-{n}", amount=n), id=f"p-{n}")
            held = [payment(id=f"p-{n}", amount=n, held=True) for n in range(DAMAGED, DAMAGED + runs)]
            running = [asyncio.create_task(runner.run(saga, each, id=each.id)) for each in held]
            while entries(tmp_path) < DAMAGED + runs:  # noqa: ASYNC110 - the bank is a file
                await asyncio.sleep(0.05)
            damage(tmp_path)
            await until(journal, lambda facts: len(corrections(facts)) == DAMAGED)
            seen = scans(recorded(journal))
            await until(journal, lambda facts: scans(facts) >= seen + 2)
            loaded.loaded.modules[0].GATE.set()
            assert {each.status.value for each in await asyncio.gather(*running)} == {"COMPLETED"}
            seen = scans(recorded(journal))
            await until(journal, lambda facts: scans(facts) >= seen + 2)
            facts = recorded(journal)
    found = {each.drift: each.subject for each in facts if isinstance(each, DriftDetected)}
    assert sorted(found[each.drift] for each in corrections(facts)) == sorted(f"payment/p-{n}" for n in range(DAMAGED))
    assert {len(each.changed) for each in corrections(facts)} == {1}


def entries(folder: Path) -> int:
    """Count the entries of the bank."""
    with closing(sqlite3.connect(folder / "bank.db", timeout=HANG_S)) as books:
        return int(books.execute("SELECT count(*) FROM entries").fetchone()[0])


def damage(folder: Path) -> None:
    """Change payments that the bank has finished."""
    with closing(sqlite3.connect(folder / "bank.db", timeout=HANG_S)) as books:
        through = "CAST(substr(payment, 3) AS INTEGER) < ?"
        changed = books.execute(f"UPDATE entries SET amount = amount + 1000 WHERE {through}", (DAMAGED,))  # noqa: S608 - a constant
        assert changed.rowcount == DAMAGED
        books.commit()
