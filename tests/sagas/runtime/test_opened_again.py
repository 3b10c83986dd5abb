"""The runner that is open in a process drives a run that other code of that process opens again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from journal_parts import open_prepared

from amends import Attempted, Call, Retry, Runner, RunStatus, Saga, UnitOfWork, effect, pivot, transaction
from amends.aggregates.run.record import RunRecord
from amends.aggregates.sql.committer import OnCommit
from amends.aggregates.sql.journal import SqlJournal
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.calls import EffectCall
from amends.sagas.engine.decide import RunStep
from amends.sagas.engine.outcome import Succeeded
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.engine.start import prepare_start
from amends.sagas.runtime.clock import VirtualClock

BOOKS: dict[str, str] = {}
"""The participant's effects, by key."""


@effect(retry=Retry(max_attempts=1))
async def charge(_: str, call: Call) -> str:
    """Charge the customer."""
    BOOKS[call.key] = "charged"
    return "receipt"


@charge.compensation
async def refund(_: Attempted[str, str], call: Call) -> None:
    """Refund the charge; a charge that never took place needs none."""
    if call.do_key in BOOKS:
        BOOKS[call.do_key] = "refunded"


@transaction(read_only=True)
def confirm(_: str, __: UnitOfWork) -> None:
    """Do nothing."""


CHARGE = Saga("charge-later", str, charge, pivot(confirm))


class Scene:
    """A run whose driver was replaced before the driver called, and which was then undone and closed.

    Args:
        journal: The store.
        registry: The code.
    """

    def __init__(self, journal: SqlJournal, registry: Registry) -> None:
        self.journal = journal
        self.run_id = f"later-{journal.store_id}"
        self.clock = VirtualClock()
        self.runner = Runner(journal, registry, clock=self.clock)
        self._worker = RunProtocol(registry, "worker", "temporal")
        self._registry = registry
        self._task: EffectCall | None = None

    async def claim(self) -> None:
        """Claim the call for the former driver."""
        start = prepare_start(self._registry, CHARGE, "tea", run_id=self.run_id, driver="temporal", actor="me")
        await self.journal.commit(lambda tx: self._worker.accept(tx, start, self.clock.now_ms()))
        work = RunStep("charge", 1)
        _, self._task = await self.journal.commit(
            lambda tx: self._worker.claim(tx, self.run_id, work, self.clock.now_ms())
        )

    async def answer(self) -> RunRecord:
        """Call as the former driver, and record the answer."""
        task = self._task
        assert task is not None
        outcome: Any = Succeeded(await task.operation.function(task.argument, task.call))
        settled = await self.journal.commit(lambda tx: self._worker.settle(tx, task, outcome, self.clock.now_ms()))
        return settled.record

    async def closed(self) -> RunRecord:
        """Wait until the run is closed."""
        while True:
            record = await self.journal.record(self.run_id)
            if record is not None and record.state.closed:
                return record
            await asyncio.sleep(0.02)


@asynccontextmanager
async def scene(url: str, on_commit: OnCommit | None = None) -> AsyncIterator[Scene]:
    """Yield a run that was taken over while its call was under way, and was undone."""
    journal = open_prepared(url, on_commit=on_commit)
    try:
        made = Scene(journal, Registry([CHARGE]))
        await made.claim()
        assert (await made.runner.take_over(made.run_id, "Temporal is gone")).status is RunStatus.COMPENSATED
        yield made
    finally:
        await journal.close()


async def test_an_answer_to_the_former_driver_has_the_run_undone_again(store_url: str) -> None:
    """The runner that took a run over undoes the effect that the former driver's late answer reveals, unasked."""
    async with scene(store_url) as late, late.runner:
        assert (await late.answer()).state.status is RunStatus.COMPENSATING
        record = await late.closed()
    assert record.state.status is RunStatus.COMPENSATED
    assert BOOKS[f"{late.run_id}/charge/do/0"] == "refunded"


async def test_a_runner_without_a_context_does_so_as_well(store_url: str) -> None:
    """A runner that was used without a context, in a loop that still runs, drives a run that is opened again."""
    async with scene(store_url) as late:
        await late.answer()
        record = await late.closed()
    assert record.state.status is RunStatus.COMPENSATED


async def test_a_runner_that_closes_leaves_no_task_behind(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The work that a runner began because a run was opened again ends with it, and no task is reported as lost."""
    async with scene(store_url) as late:
        before = asyncio.all_tasks()
        async with late.runner:
            await late.answer()
        assert {each for each in asyncio.all_tasks() - before if not each.cancelling()} == set()
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


async def test_a_lost_reply_of_the_store_does_not_lose_the_wake(store_url: str) -> None:
    """A commit whose reply was lost wakes the listeners once, also when one of them fails."""
    told: list[str] = []
    lost: list[int] = []

    def lose(when: str, number: int) -> None:
        if when == "after" and lost and lost[0] == 0:
            lost[0] = number
            raise OSError("the reply was lost")

    def fail(_: RunRecord) -> None:
        raise ValueError("this listener is broken")

    async with scene(store_url, on_commit=lose) as late:
        late.journal.listen(fail)
        late.journal.listen(lambda record: told.append(record.run_id))
        end = late.journal.listen(lambda _: told.append("ended"))
        end()
        lost.append(0)
        await late.answer()
        assert lost[0] > 0
        await late.closed()
    assert told == [late.run_id]
