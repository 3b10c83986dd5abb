"""A call that succeeds after its claim has ended: the success is recorded, opens the closed run, and is undone."""

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import temporalio.client
from bounds import HANG
from hard_parts import ONCE, PATIENT, SAGAS, Ledger, Order, client_of, opened, until, worker_process, working
from runs.driving import comparable
from stores import POSTGRESQL_IN_SOAK

from amends import RunResult, RunStatus
from amends.aggregates.errors import WrongDriverError
from amends.aggregates.journal import Tx
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.run.facts import Fact, FactKind, LateEffectObserved
from amends.aggregates.sql.journal import SqlJournal
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.calls import EffectCall
from amends.sagas.engine.decide import RunStep
from amends.sagas.engine.outcome import Succeeded
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.engine.start import prepare_start
from amends.sagas.runtime.clock import VirtualClock
from amends.sagas.runtime.runner import Runner

# A paused worker still receives a task for each poll that it has open, up to five of a kind. Temporal gives up workflow
# tasks after 2 s, and calls after 5 s and the wait before it delivers them again.


def order_in(folder: Path) -> Order:
    """Create an order whose payment is kept in flight."""
    return Order(folder=str(folder), held=("pay/do",))


def check(ledger: Ledger, run_id: str, facts: list[Fact]) -> None:
    """Check that the participant undid the effect that came after the first undo, under a new key."""
    assert ledger.acted(run_id) == ["pay/undo/0", "pay/do/0", "pay/undo/1"]
    assert ledger.called(run_id).count("pay/do/0") == 1
    late = [fact for fact in facts if isinstance(fact, LateEffectObserved)]
    assert [(fact.node, fact.attempt, fact.result) for fact in late] == [("pay", 1, f"{run_id}/pay/do/0")]
    assert [fact.kind for fact in facts].count(FactKind.SAGA_COMPENSATED) == 2
    assert facts[-1].kind == "SagaCompensated"


async def by_paused_worker(url: str, temporal: temporalio.client.Client, address: str, folder: Path) -> list[Fact]:
    """Pause a worker in its call until another one has closed the run, then resume it."""
    ledger = Ledger(folder)
    async with AsyncExitStack() as parts:
        journal = await parts.enter_async_context(opened(url))
        queue = run_id = f"late-{journal.store_id}"
        client = client_of(temporal, journal, queue)
        async with worker_process(url, address, queue) as paused:
            handle = await client.start(ONCE, order_in(folder), id=run_id)
            await ledger.until_called(run_id, "pay/do/0")
            paused.send_signal(signal.SIGSTOP)
            await parts.enter_async_context(working(temporal, journal, queue))
            assert (await handle.result(timeout=HANG)).status is RunStatus.COMPENSATED
            ledger.open_gate(run_id)
            paused.send_signal(signal.SIGCONT)
            await until(journal, run_id, lambda facts: any(isinstance(fact, LateEffectObserved) for fact in facts))
            assert (await handle.result(timeout=HANG)).status is RunStatus.COMPENSATED
        facts = await handle.history()
    check(ledger, run_id, facts)
    return facts


async def by_runners(journal: SqlJournal, folder: Path) -> list[Fact]:
    """Close a run with another runner after its claim has ended by that one's clock, then resume the first one."""
    ledger, run_id = Ledger(folder), "local"
    first, second = (Runner(journal, Registry(SAGAS), clock=VirtualClock()) for _ in range(2))
    driven: asyncio.Task[RunResult] = asyncio.create_task(first.run(ONCE, order_in(folder), id=run_id))
    await ledger.until_called(run_id, "pay/do/0")
    assert (await second.resume(run_id)).status is RunStatus.COMPENSATED
    ledger.open_gate(run_id)
    assert (await driven).status is RunStatus.COMPENSATED
    facts = await journal.facts(run_id)
    check(ledger, run_id, facts)
    return facts


@POSTGRESQL_IN_SOAK
async def test_a_paused_worker_s_success_is_recorded_and_undone(
    store_url: str, temporal_address: str, tmp_path: Path
) -> None:
    """A success that comes after the run was closed opens it again, and is undone; with both drivers."""
    temporal = await temporalio.client.Client.connect(temporal_address)
    facts = await by_paused_worker(store_url, temporal, temporal_address, tmp_path)
    async with opened(store_url) as journal:
        assert comparable(await by_runners(journal, tmp_path)) == comparable(facts)


@pytest.mark.soak
async def test_a_success_that_was_known_is_undone_once(sqlite_url: str, temporal_address: str, tmp_path: Path) -> None:
    """A worker paused in attempt 1 answers after attempt 2 succeeded and was undone: nothing follows from it."""
    temporal, ledger = await temporalio.client.Client.connect(temporal_address), Ledger(tmp_path)
    order = Order(folder=str(tmp_path), refused=True, held=("pay/do",))
    async with AsyncExitStack() as parts:
        journal = await parts.enter_async_context(opened(sqlite_url))
        queue = run_id = f"known-{journal.store_id}"
        client = client_of(temporal, journal, queue)
        async with worker_process(sqlite_url, temporal_address, queue) as paused:
            handle = await client.start(PATIENT, order, id=run_id)
            await ledger.until_called(run_id, "pay/do/0")
            paused.send_signal(signal.SIGSTOP)
            ledger.open_gate(run_id)
            await parts.enter_async_context(working(temporal, journal, queue))
            assert (await handle.result(timeout=HANG)).status is RunStatus.COMPENSATED
            assert ledger.acted(run_id) == ["pay/do/0", "pay/undo/0"]
            before = await handle.history()
            paused.send_signal(signal.SIGCONT)
            # Its standard input ends, and it stops after it has recorded its last call.
            assert paused.stdin is not None
            paused.stdin.close()
            await paused.wait()
        assert ledger.acted(run_id) == ["pay/do/0", "pay/undo/0", "pay/do/0"]
        assert await handle.history() == before


async def test_an_answer_after_a_take_over_is_recorded_and_undone(store_url: str, tmp_path: Path) -> None:
    """The process that made a call settles it, whatever drives the run by then; the new driver undoes the effect."""
    clock, registry = VirtualClock(), Registry(SAGAS)
    worker = RunProtocol(registry, "worker", TEMPORAL_DRIVER)
    start = prepare_start(registry, ONCE, Order(folder=str(tmp_path)), run_id="r", driver=TEMPORAL_DRIVER, actor="test")
    async with opened(store_url) as journal:
        runner = Runner(journal, registry, clock=clock)

        def begin(tx: Tx) -> EffectCall | None:
            worker.accept(tx, start, 0)
            worker.advance(tx, "r", clock.now_ms())
            return worker.claim(tx, "r", RunStep("pay", 1), clock.now_ms())[1]

        task = await journal.commit(begin, runs=("r",))
        assert task is not None
        assert (await runner.take_over("r", "Temporal is gone")).status is RunStatus.COMPENSATED
        settled = await journal.commit(
            lambda tx: worker.settle(tx, task, Succeeded("receipt"), clock.now_ms()), runs=("r",)
        )
        assert settled.late
        assert settled.record.state.status is RunStatus.COMPENSATING
        assert (await runner.resume("r")).status is RunStatus.COMPENSATED
    assert Ledger(tmp_path).acted("r") == ["pay/undo/0", "pay/undo/1"]


async def test_a_former_driver_runs_no_transaction(store_url: str, tmp_path: Path) -> None:
    """After a take-over the former driver only records its answer and conclusions; the new driver does the rest."""
    ledger, order = Ledger(tmp_path), Order(folder=str(tmp_path), held=("pay/do",))
    async with opened(store_url) as journal:
        runner = Runner(journal, Registry(SAGAS), clock=VirtualClock())
        driven = asyncio.create_task(runner.run(PATIENT, order, id="r"))
        await ledger.until_called("r", "pay/do/0")
        anybody = RunProtocol(Registry(SAGAS), "operator")
        await journal.commit(
            lambda tx: anybody.take_over(tx, "r", TEMPORAL_DRIVER, 0, actor="op", reason="moved"), runs=("r",)
        )
        ledger.open_gate("r")
        with pytest.raises(WrongDriverError):
            await driven
        facts = await journal.facts("r")
    assert [fact.kind for fact in facts[-2:]] == ["DriverTaken", "StepSucceeded"]
