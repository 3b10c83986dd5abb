"""PostgreSQL in earnest: restarts in the middle, several workers and writers in several processes."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import outage_parts
import temporalio.client
from journal_parts import prepare, step
from outage_parts import OUTAGE, Order, Outage, Shelf, Trace, own_server

from amends import RunResult, RunStatus
from amends.aggregates.facts import CompensationStarted, Fact, StepStarted
from amends.aggregates.journal_sql import SqlJournal, open_journal
from amends.sagas.client_temporal import Client, RunHandle
from amends.sagas.registry import Registry

PARTS = Path(outage_parts.__file__)
FAILED = {"StepAttemptFailed", "CompensationAttemptFailed", "StepInDoubt", "CompensationExhausted"}


@asynccontextmanager
async def worker_process(url: str, address: str, queue: str, pause_after_s: float = 60) -> AsyncIterator[list[str]]:
    """Run a worker in a process of its own; gives the lines that it has said so far."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", PARTS, "worker", url, address, queue, str(pause_after_s)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said: list[str] = []

    async def listen() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            said.append(line.decode().rstrip())

    listening = asyncio.create_task(listen())
    try:
        await until_said(said, "ready")
        yield said
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await listening
        assert process.returncode == 0, said
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until_said(said: list[str], text: str) -> None:
    """Wait until a process has said something; a test that waits in vain is ended by its own bound."""
    while not any(text in line for line in said):
        assert not any(line.startswith("Traceback") for line in said), said
        await asyncio.sleep(0.05)


async def start(client: Client, queue: str, trace: Path, count: int, gated: int) -> list[RunHandle[Order]]:
    """Start runs, one in five of which is refused at its end."""
    orders = [Order(trace=str(trace), gate=n < gated, refused=n % 5 == 0) for n in range(count)]
    return await asyncio.gather(
        *(client.start(OUTAGE, order, id=f"{queue}-{number}") for number, order in enumerate(orders))
    )


async def check(journal: SqlJournal, trace: Trace, runs: list[tuple[RunResult, list[Fact]]]) -> None:
    """Every run has ended as its order says, no attempt was used up, nothing was lost, nothing doubled."""
    expected = [RunStatus.COMPLETED if n % 5 else RunStatus.COMPENSATED for n in range(len(runs))]
    assert [(result.status, [f for f in facts if f.kind in FAILED]) for result, facts in runs] == [
        (status, []) for status in expected
    ]
    for _, facts in runs:
        assert [fact.position for fact in facts] == list(range(1, len(facts) + 1))
    keys = [fact.key for _, facts in runs for fact in facts if isinstance(fact, StepStarted | CompensationStarted)]
    assert trace.calls() == dict.fromkeys(keys, 1)
    shelf = await journal.load(Shelf, "shelf")
    assert shelf is not None
    assert shelf.held == expected.count(RunStatus.COMPLETED)


async def test_a_restart_in_the_middle_loses_and_doubles_nothing(temporal_address: str, tmp_path: Path) -> None:
    """A hundred runs on two workers: answers that come while the server is away are kept, and all runs end once."""
    trace = Trace(tmp_path)
    with own_server() as server:
        journal = open_journal(prepare(server.url), aggregates=[Shelf])
        queue = f"restart-{journal.store_id}"
        temporal = await temporalio.client.Client.connect(temporal_address)
        client = Client(journal, temporal, Registry([OUTAGE]), task_queue=queue)
        await journal.commit(step(lambda uow: uow.add(Shelf("shelf"))))
        handles = await start(client, queue, tmp_path, 100, gated=30)
        async with (
            worker_process(server.url, temporal_address, queue),
            worker_process(server.url, temporal_address, queue),
        ):
            await trace.until("call", 60)
            await asyncio.to_thread(server.restart)
            await trace.until("paid", 70)
            await asyncio.to_thread(server.stop)
            trace.open_gate()
            await trace.until("paid", 100)
            await asyncio.to_thread(server.start)
            results = [await handle.result(timeout=timedelta(seconds=45)) for handle in handles]
        await check(journal, trace, [(r, await h.history()) for r, h in zip(results, handles, strict=True)])
        await journal.close()


async def test_polling_pauses_while_the_store_is_away(
    temporal_address: str, postgres_server: str, postgres_url: str, tmp_path: Path
) -> None:
    """A worker says that it pauses, goes on by itself, and a call that it had begun before is waited for meanwhile."""
    trace, outage = Trace(tmp_path), Outage(postgres_server, postgres_url)
    journal = open_journal(prepare(postgres_url), aggregates=[Shelf])
    queue = f"pause-{journal.store_id}"
    temporal = await temporalio.client.Client.connect(temporal_address)
    client = Client(journal, temporal, Registry([OUTAGE]), task_queue=queue)
    await journal.commit(step(lambda uow: uow.add(Shelf("shelf"))))
    async with worker_process(postgres_url, temporal_address, queue, pause_after_s=0.5) as said:
        handles = await start(client, queue, tmp_path, 5, gated=2)
        await trace.until("paid", 3)
        await trace.until("call", 15)
        outage.begin()
        await until_said(said, "polling pauses until the store answers again")
        outage.end()
        await until_said(said, "the store answers again; polling goes on")
        later = await client.start(OUTAGE, Order(trace=str(tmp_path)), id=f"{queue}-later")
        assert (await later.result(timeout=timedelta(seconds=30))).status is RunStatus.COMPLETED
        trace.open_gate()
        results = [await handle.result(timeout=timedelta(seconds=30)) for handle in handles]
        runs = [(result, await handle.history()) for result, handle in zip(results, handles, strict=True)]
    assert [[fact for fact in facts if fact.kind in FAILED] for _, facts in runs] == [[]] * 5
    assert not any("Traceback" in line for line in said), said
    await journal.close()
