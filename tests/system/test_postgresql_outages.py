"""A real PostgreSQL server: restarts in the middle, several workers and writers in several processes."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import temporalio.client
from bounds import HANG
from commands import CommandProject
from journal_parts import prepare, step
from outage_parts import OUTAGE, Order, Outage, Shelf, Trace, own_server
from outages.worker_processes import PARTS, check, start, until_said, worker_process

from amends import RunStatus
from amends.aggregates.sql.journal import open_journal
from amends.sagas.definition.registry import Registry
from amends.sagas.temporal.client import Client


@pytest.mark.parametrize(("runs", "gated"), [(10, 4), pytest.param(40, 12, marks=pytest.mark.soak)])
async def test_a_restart_in_the_middle_loses_and_doubles_nothing(
    temporal_address: str, tmp_path: Path, runs: int, gated: int
) -> None:
    """Many runs on two workers: workers keep answers that come while the server is away, and all runs end once."""
    trace = Trace(tmp_path)
    with own_server() as server:
        journal = open_journal(prepare(server.url), aggregates=[Shelf])
        queue = f"restart-{journal.store_id}"
        temporal = await temporalio.client.Client.connect(temporal_address)
        client = Client(journal, temporal, Registry([OUTAGE]), task_queue=queue)
        await journal.commit(step(lambda uow: uow.add(Shelf("shelf"))))
        handles = await start(client, queue, tmp_path, runs, gated)
        async with (
            worker_process(server.url, temporal_address, queue),
            worker_process(server.url, temporal_address, queue),
        ):
            await trace.until("call", 2 * gated)
            await asyncio.to_thread(server.restart)
            await trace.until("paid", runs - gated)
            await asyncio.to_thread(server.stop)
            trace.open_gate()
            await trace.until("paid", runs)
            await asyncio.to_thread(server.start)
            for handle in handles:
                await handle.result(timeout=HANG)
        await check(journal, trace, [handle.id for handle in handles], runs)
        await journal.close()


async def test_polling_pauses_while_the_store_is_away(
    temporal_address: str, postgres_server: str, postgres_url: str, tmp_path: Path
) -> None:
    """A worker reports its pause, waits meanwhile for the calls that it had begun, and continues after the outage."""
    trace, outage = Trace(tmp_path), Outage(postgres_server, postgres_url)
    journal = open_journal(prepare(postgres_url), aggregates=[Shelf])
    queue = f"pause-{journal.store_id}"
    temporal = await temporalio.client.Client.connect(temporal_address)
    client = Client(journal, temporal, Registry([OUTAGE]), task_queue=queue)
    await journal.commit(step(lambda uow: uow.add(Shelf("shelf"))))
    async with worker_process(postgres_url, temporal_address, queue, pause_after_s=0.5) as (_, said):
        handles = await start(client, queue, tmp_path, 5, gated=2)
        await trace.until("paid", 3)
        await trace.until("call", 15)
        outage.begin()
        await until_said(said, "polling pauses until the store answers again")
        project = CommandProject(tmp_path / "project")
        project.write("amends.toml", f'store_url = "{postgres_url}"\ntask_queue = "{queue}"\n')
        found = await asyncio.to_thread(project.run, "doctor", "--json", env={"TEMPORAL_ADDRESS": temporal_address})
        checks = {check["part"]: check for check in json.loads(found.out)["checks"]}
        assert "not currently accepting connections" in checks["store"]["found"]
        assert "workers pause" in checks["workers"]["found"]
        assert checks["workers"]["wrong"]
        outage.end()
        await until_said(said, "the store answers again; polling continues")
        later = await client.start(OUTAGE, Order(trace=str(tmp_path), refused=True), id=f"{queue}-later")
        assert (await later.result(timeout=HANG)).status is RunStatus.COMPENSATED
        trace.open_gate()
        for handle in handles:
            await handle.result(timeout=HANG)
    await check(journal, trace, [*(handle.id for handle in handles), later.id], 6)
    assert not any("Traceback" in line for line in said), said
    await journal.close()


@pytest.mark.parametrize("runs", [5, pytest.param(20, marks=pytest.mark.soak)])
async def test_four_writers_lose_and_double_nothing(postgres_url: str, tmp_path: Path, runs: int) -> None:
    """Four processes share an aggregate; a reader that follows the log sees every fact, in order, while they write."""
    trace = Trace(tmp_path)
    journal = open_journal(prepare(postgres_url), aggregates=[Shelf])
    await journal.commit(step(lambda uow: uow.add(Shelf("shelf"))))
    names = ("one", "two", "three", "four")
    writers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, PARTS, "writer", postgres_url, name, str(runs), tmp_path), stderr=subprocess.PIPE
        )
        for name in names
    ]
    ended = asyncio.gather(*(writer.communicate() for writer in writers))
    seen: list[tuple[int, str, int]] = []
    done = False
    while not done:
        # The check comes before the reading: a reading after all writers have ended is complete.
        done = ended.done()
        page = await journal.notifications(seen[-1][0] if seen else 0, 10_000)
        seen.extend((each.id, str(each.originator_id), each.originator_version) for each in page)
    assert [writer.returncode for writer in writers] == [0] * 4, await ended
    found = await journal.notifications(0, 10_000)
    assert seen == [(each.id, each.originator_id, each.originator_version) for each in found]
    await check(journal, trace, [f"{name}-{number}" for name in names for number in range(runs)], runs)
    await journal.close()
