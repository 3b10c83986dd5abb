"""Pipelines served in this process on a real Temporal: partitions come and go, and a worker loses its connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import temporalio.client
from brokers.proxy import proxy_to
from owners.counting_work import Ledger, counting
from owners.owner_process import until
from temporalio.client import WorkflowExecutionStatus

from amends.aggregates.intake import Token
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.pipelines.runtime.partition_work import OwnedKind, OwnedWork
from amends.pipelines.source import SourceSetupError, SourceUnreachableError
from amends.pipelines.temporal.ownership import Ownership
from amends.pipelines.temporal.serving import OwnedNow, running_pipelines
from amends.sagas.temporal.server.ports import free_port

TIMES = Ownership(
    slice=timedelta(minutes=1),
    heartbeat=timedelta(seconds=1.5),
    retry=timedelta(milliseconds=200),
    discover=timedelta(milliseconds=200),
)


@pytest.fixture
async def journal(sqlite_url: str) -> AsyncIterator[SqlJournal]:
    """Yield an empty store."""
    journal = open_journal(sqlite_url)
    yield journal
    await journal.close()


@asynccontextmanager
async def served(address: str, journal: SqlJournal, work: OwnedWork) -> AsyncIterator[OwnedNow]:
    """Serve one pipeline."""
    client = await temporalio.client.Client.connect(address)
    async with running_pipelines(client, journal, [work], task_queue=work.name, ownership=TIMES) as owned:
        yield owned


async def test_a_worker_without_temporal_is_replaced_and_fenced(
    temporal_address: str, journal: SqlJournal, tmp_path: Path
) -> None:
    """A worker that is cut off from Temporal keeps its partition until another one has it, and then commits nothing."""
    ledger = Ledger(tmp_path / "ledger.db")
    work = counting("cut", ledger, ["0"])
    port = free_port()
    async with (
        proxy_to(int(temporal_address.rpartition(":")[2]), port) as proxy,
        served(f"127.0.0.1:{port}", journal, work) as cut,
    ):
        await until(lambda: ledger.last("0") is not None)
        async with served(temporal_address, journal, work) as whole:
            proxy.cut()
            await until(lambda: whole()[OwnedKind.PIPELINE, "cut"])
            await until(lambda: not cut()[OwnedKind.PIPELINE, "cut"])
            token = ledger.token("0")
            assert token is not None
            assert (token.slice, token.attempt > 1) == (1, True)
            await until(lambda: (last := ledger.last("0")) is not None and last.token == token)
            proxy.join()
    ledger.check("0")


async def test_partitions_that_appear_and_vanish_are_owned_and_left(
    temporal_address: str, journal: SqlJournal, tmp_path: Path
) -> None:
    """A new partition is worked on without a restart, and the workflow of one that is gone completes."""
    ledger, names = Ledger(tmp_path / "ledger.db"), ["a"]
    work = counting("grows", ledger, names)
    async with served(temporal_address, journal, work):
        await until(lambda: ledger.last("a") is not None)
        names.append("b")
        await until(lambda: ledger.last("b") is not None)

    class Missing:
        async def run(self, partition: str, _: Token, *, stop: asyncio.Event, seconds: float | None) -> object:
            raise SourceSetupError(f"no partition {partition} {stop} {seconds}")

    names.remove("b")
    gone = OwnedWork(
        kind=work.kind, name="grows", work=Missing(), partitions=work.partitions, stored_token=work.stored_token
    )
    client = await temporalio.client.Client.connect(temporal_address)
    async with served(temporal_address, journal, gone):
        handle = client.get_workflow_handle("amends/pipeline/grows/b")
        while (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:  # noqa: ASYNC110 - Temporal only shows it
            await asyncio.sleep(0.05)
        assert (await handle.describe()).status is WorkflowExecutionStatus.COMPLETED
        other = await client.get_workflow_handle("amends/pipeline/grows/a").describe()
        assert other.status is WorkflowExecutionStatus.RUNNING


async def test_a_source_that_is_away_at_the_start_delays_only_its_pipeline(
    temporal_address: str, journal: SqlJournal, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pipeline whose source does not answer at the start begins when it does, and the log has one line about it."""
    ledger, away = Ledger(tmp_path / "ledger.db"), True
    work = counting("late", ledger, ["0"])
    asked = 0

    async def partitions() -> list[str]:
        nonlocal asked
        asked += 1
        if away:
            raise SourceUnreachableError("the broker does not answer")
        return ["0"]

    late = OwnedWork(kind=work.kind, name="late", work=work.work, partitions=partitions, stored_token=work.stored_token)
    async with served(temporal_address, journal, late):
        await until(lambda: asked > 2)
        away = False
        await until(lambda: ledger.last("0") is not None)
    lines = [each.getMessage() for each in caplog.records if "'late'" in each.getMessage()]
    assert len(lines) == 1
