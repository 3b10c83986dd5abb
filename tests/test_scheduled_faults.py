"""Reconciliation on schedule beside running sagas: what is damaged behind its back is put right, once each."""

import asyncio
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import temporalio.client
from journal_parts import step
from reading_shop import as_it_was, project_at
from reconcile_parts import Account, Bank, account_names, corrections

from amends.aggregates.journal import StepWork
from amends.aggregates.journal_sql import SqlJournal
from amends.aggregates.state import RunStatus
from amends.cli.reconciling import now_ms
from amends.cli.scheduling import decide_on_schedules
from amends.cli.serving import serve
from amends.cli.settings import load_settings
from amends.cli.wiring import Project, Temporal, load_project, open_store
from amends.reconciler.looking_asyncio import standing_of
from amends.reconciler.schedules_temporal import TemporalSchedules
from amends.reconciler.scheduling import declare
from amends.sagas.client_temporal import Client

# With 500 sagas it is the same, and takes the suite three times as long.
SAGAS, DAMAGES, AT_ONCE = 100, 20, 20

MODULE = """
from dataclasses import replace
from pathlib import Path

from eventsourcing.domain import event
from pydantic import BaseModel

from amends import Aggregate, Done, Saga, UnitOfWork, pivot, transaction
from reconcile_parts import Account, bank_rule


class Page(Aggregate):
    @event("Written")
    def __init__(self, id: str) -> None:
        self.read = False

    @event("Read")
    def turn(self) -> None:
        self.read = True


class Order(BaseModel):
    pass


@transaction
def write(order: Order, uow: UnitOfWork) -> None:
    uow.add(Page(uow.run_id))


@write.compensation
def tear_out(done: Done[Order, None], uow: UnitOfWork) -> None:
    raise NotImplementedError


@transaction
def read(order: Order, uow: UnitOfWork) -> None:
    uow.get(Page, uow.run_id).turn()


fill = Saga("fill", Order, write, pivot(read))
bank_agrees = bank_rule(Path(__file__).with_name("bank.json"))
# However busy the machine is; what one of two scheduled looks sees is not enough.
bank_agrees = replace(bank_agrees, policy=replace(bank_agrees.policy, apart_ms=1_000, timeout_ms=60_000))
"""


async def run_and_damage(project: Project, journal: SqlJournal, client: temporalio.client.Client, bank: Bank) -> None:
    """Run many sagas, and have the bank change an account whenever some of them have ended."""
    runs = Client(journal, client, project.registry, task_queue=project.settings.task_queue, eager=True)
    saga: Any = project.registry.sagas["fill"]
    places, ended, names = asyncio.Semaphore(AT_ONCE), 0, iter(account_names(DAMAGES))

    async def run(number: int) -> None:
        nonlocal ended
        async with places:
            handle = await runs.start(saga, saga.input_type(), id=f"run-{number}")
            assert (await handle.result()).status is RunStatus.COMPLETED
        ended += 1
        if ended % (SAGAS // DAMAGES) == 0:
            bank.says(**{next(names): ended})

    await asyncio.gather(*(run(number) for number in range(SAGAS)))


async def looked(journal: SqlJournal, times: int) -> None:
    """Wait until the rule has looked so many times more."""
    before = (await standing_of(journal, "bank")).looks
    while (await standing_of(journal, "bank")).looks < before + times:  # noqa: ASYNC110 - a worker writes them
        await asyncio.sleep(0.05)


async def test_each_damage_beside_running_sagas_is_corrected_once(
    tmp_path: Path, temporal_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty damages during running sagas, with a schedule of two seconds: exactly twenty corrections."""
    folder = project_at(tmp_path, '["filling"]')
    (folder / "filling.py").write_text(MODULE)
    bank = Bank(folder / "bank.json")
    bank.says(**dict.fromkeys(account_names(DAMAGES), 0))

    def open_accounts(uow: StepWork) -> None:
        for name in account_names(DAMAGES):
            uow.add(Account(name))

    with as_it_was():
        monkeypatch.setenv("AMENDS_TASK_QUEUE", f"q-{uuid.uuid4().hex}")
        project = load_project(load_settings(folder))
        journal = open_store(project.settings, project.aggregates)
        client = await temporalio.client.Client.connect(temporal_address)
        schedules = TemporalSchedules(client, journal.store_id)
        try:
            await journal.commit(step(open_accounts))
            async with serve(project, journal, Temporal(client, temporal_address, None)):
                queue = project.settings.task_queue
                timetable = await decide_on_schedules(
                    journal,
                    lambda known: [
                        declare(known, "bank", now_ms(), actor="ann", rules=["bank"], every_ms=2_000, task_queue=queue)
                    ],
                )
                await schedules.align(timetable)
                await run_and_damage(project, journal, client, bank)
                while len(corrections(journal)) < DAMAGES:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.05)
                await looked(journal, 2)
            assert len(corrections(journal)) == DAMAGES
            accounts = [await journal.load(Account, name) for name in account_names(DAMAGES)]
            assert [(each.balance, each.corrected) for each in accounts if each] == [
                (SAGAS // DAMAGES * number, 1) for number in range(1, DAMAGES + 1)
            ]
        finally:
            await schedules.align(type(timetable)(), gone=["bank"])
            await journal.close()
            sys.modules.pop("filling", None)
