"""One set of sagas, two drivers: the journal contains the same facts afterwards."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import temporalio.client
from bounds import HANG
from runs.driving import (
    CASES,
    DECIDED,
    SAGA,
    SLOW,
    Case,
    Goods,
    Order,
    comparable,
    decided_by_client,
    decided_by_runner,
)
from stores import POSTGRESQL_IN_SOAK
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner

from amends import Client, Runner, RunResult, RunStatus, StartConflictError
from amends.aggregates.run.facts import Fact
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.sagas.definition.registry import Registry
from amends.sagas.temporal.worker import running_worker
from amends.sagas.temporal.workflow import SagaWorkflow


@pytest.fixture
async def journal(store_url: str) -> AsyncIterator[SqlJournal]:
    """Yield an empty store, of each kind."""
    if store_url.startswith("postgresql"):
        from amends.aggregates.sql.engine import create_store_engine  # noqa: PLC0415 - only here
        from amends.aggregates.sql.migrations import upgrade  # noqa: PLC0415 - only here

        engine = create_store_engine(store_url)
        upgrade(engine)
        engine.dispose()
    opened = open_journal(store_url)
    yield opened
    await opened.close()


@pytest.fixture
async def temporal(temporal_address: str) -> temporalio.client.Client:
    """Connect to a real Temporal."""
    return await temporalio.client.Client.connect(temporal_address)


async def by_runner(journal: SqlJournal, order: Order, run_id: str) -> tuple[RunResult, list[Fact]]:
    """Run an order in this process."""
    runner = Runner(journal, Registry([SAGA]))
    result = await runner.run(SAGA, order, id=run_id)
    return result, await journal.facts(run_id)


@POSTGRESQL_IN_SOAK
async def test_both_drivers_write_the_same_journal(
    journal: SqlJournal, temporal: temporalio.client.Client, store_url: str
) -> None:
    """Every case ends alike and leaves the same facts with both drivers, and its workflow can be replayed."""
    registry = Registry([SAGA])
    queue = f"conformance-{journal.store_id}"
    replayer = Replayer(workflows=[SagaWorkflow], workflow_runner=UnsandboxedWorkflowRunner())
    async with running_worker(temporal, journal, registry, task_queue=queue):
        client = Client(journal, temporal, registry, task_queue=queue, eager=True)
        kind = store_url.split(":", maxsplit=1)[0]

        async def compare(number: int, order: Order, status: RunStatus) -> tuple[str, object, object]:
            run_id = f"{kind}-{number}-{journal.store_id}"
            handle = await client.start(SAGA, order, id=run_id)
            driven = await handle.result(timeout=HANG)
            result, facts = await by_runner(journal, order, f"local-{number}-{journal.store_id}")
            assert (driven.status, result.status) == (status, status)
            history = await temporal.get_workflow_handle(run_id).fetch_history()
            await replayer.replay_workflow(history)
            return order.order_id, comparable(await handle.history()), comparable(facts)

        cases = list(CASES.values())
        compared = await asyncio.gather(*(compare(n, order, status) for n, (order, status) in enumerate(cases)))
        for _, driven, local in compared:
            assert driven == local
    goods = await journal.load(Goods, "goods")
    assert goods is not None
    sold = sum(1 for _, status in cases if status is RunStatus.COMPLETED) + 1  # and the one refused after the pivot
    assert (goods.held, goods.sold) == (0, 2 * sold)


@POSTGRESQL_IN_SOAK
async def test_decisions_of_others_come_to_the_same_with_both_drivers(
    journal: SqlJournal, temporal: temporalio.client.Client
) -> None:
    """Interventions leave the same facts and the same end with both drivers."""
    registry, queue = Registry([SAGA, SLOW]), f"decided-{journal.store_id}"
    client, runner = Client(journal, temporal, registry, task_queue=queue), Runner(journal, registry)
    replayer = Replayer(workflows=[SagaWorkflow], workflow_runner=UnsandboxedWorkflowRunner())

    async def compare(number: int, case: Case) -> tuple[object, object]:
        run_id = f"{queue}-{number}"
        driven, local = await asyncio.gather(
            decided_by_client(client, journal, case, run_id),
            decided_by_runner(runner, case, f"local-{number}-{journal.store_id}"),
        )
        assert (driven, local) == (case.status, case.status)
        await replayer.replay_workflow(await temporal.get_workflow_handle(run_id).fetch_history())
        return comparable(await journal.facts(run_id)), comparable(
            await journal.facts(f"local-{number}-{journal.store_id}")
        )

    async with running_worker(temporal, journal, registry, task_queue=queue):
        compared = await asyncio.gather(*(compare(number, case) for number, case in enumerate(DECIDED.values())))
    for name, (driven, local) in zip(DECIDED, compared, strict=True):
        assert driven == local, name
    goods = await journal.load(Goods, "goods")
    assert goods is not None
    assert goods.held == 0


async def test_the_same_start_gives_the_first_run(journal: SqlJournal) -> None:
    """The same id and input give the first run; another input is refused, and the error shows the difference."""
    first, facts = await by_runner(journal, Order(order_id="a"), "same")
    again, same = await by_runner(journal, Order(order_id="a"), "same")
    assert (again.status, same) == (first.status, facts)
    with pytest.raises(StartConflictError, match=r"order_id"):
        await by_runner(journal, Order(order_id="b"), "same")


async def test_unfinished_runs_are_driven_to_their_end_by_the_next_worker(
    journal: SqlJournal, temporal: temporalio.client.Client
) -> None:
    """A run that was accepted while no worker ran is finished by the first one that starts."""
    registry = Registry([SAGA])
    queue = f"later-{journal.store_id}"
    client = Client(journal, temporal, registry, task_queue=queue)
    handle = await client.start(SAGA, Order(order_id="later"), id=f"later-{journal.store_id}")
    await temporal.get_workflow_handle(handle.id).terminate()  # as if Temporal had lost it
    found: list[int] = []
    async with running_worker(temporal, journal, registry, task_queue=queue, on_open_runs=found.append):
        result = await handle.result(timeout=HANG)
    assert (result.status, found) == (RunStatus.COMPLETED, [1])
