"""Temporal is away for a while and comes back on its file: no attempt of a step is used up."""

import asyncio
import os
import signal
import threading
from pathlib import Path

import pytest
import temporalio.client
from bounds import HANG
from journal_parts import prepare, step
from outage_parts import OUTAGE, Shelf, Trace
from outages.worker_processes import Worker, check, start, until_said, worker_process

from amends.aggregates.journal import Journal
from amends.aggregates.run.facts import StepStarted
from amends.aggregates.sql.journal import open_journal
from amends.sagas.definition.registry import Registry
from amends.sagas.temporal.client import Client
from amends.sagas.temporal.connection import TemporalTarget, connect
from amends.sagas.temporal.outages import TemporalWatch
from amends.sagas.temporal.server.embedded_server import EmbeddedServer


async def claimed_by(journal: Journal, worker: Worker, run_ids: list[str]) -> list[str]:
    """Return the runs whose payment a worker has begun."""
    found = []
    for run_id in run_ids:
        claims = [fact for fact in await journal.facts(run_id) if isinstance(fact, StepStarted)]
        if any(fact.node == "pay" and fact.worker.endswith(f"/{worker.process.pid}") for fact in claims):
            found.append(run_id)
    return found


@pytest.mark.soak
async def test_calls_that_temporal_gave_up_are_not_made_again(postgres_url: str, tmp_path: Path) -> None:
    """Calls continue while Temporal is away; attempts that it delivers again join or await them, on either worker."""
    trace = Trace(tmp_path)
    journal = open_journal(prepare(postgres_url), aggregates=[Shelf])
    await journal.commit(step(lambda uow: uow.add(Shelf("shelf"))))
    async with EmbeddedServer.shared(tmp_path) as server:
        temporal = await connect(TemporalTarget(server.address, embedded=True))
        client = Client(journal, temporal, Registry([OUTAGE]), task_queue="away")
        async with (
            worker_process(postgres_url, server.address, "away") as one,
            worker_process(postgres_url, server.address, "away") as other,
        ):
            handles = await start(client, "away", tmp_path, 6, gated=6)
            run_ids = [handle.id for handle in handles]
            await trace.until("told", 12)
            await trace.until("call", 18)
            slow, quick = (one, other) if await claimed_by(journal, one, run_ids[:1]) else (other, one)
            begun = await claimed_by(journal, slow, run_ids)
            assert run_ids[0] in begun
            # A suspended server learns nothing of the calls in progress, and so gives them up.
            slow.process.send_signal(signal.SIGSTOP)
            os.kill(server.pid, signal.SIGKILL)
            await asyncio.to_thread(os.waitpid, server.pid, 0)
            await until_said(quick.said, "Temporal does not answer")
            assert await server.ensure_alive()
            for run_id in begun:
                await until_said(
                    quick.said, f"pay of run {run_id} is in flight elsewhere; this delivery waits for the outcome"
                )
            slow.process.send_signal(signal.SIGCONT)
            trace.open_gate()
            for handle in handles:
                await handle.result(timeout=HANG)
    await check(journal, trace, run_ids, 6)
    await journal.close()


async def test_who_was_suspended_does_not_know_whether_temporal_was_away(temporal_address: str) -> None:
    """For half a minute after a gap in its own time a process takes no silence for a sign of death."""
    now = 1000.0
    watch = TemporalWatch(await temporalio.client.Client.connect(temporal_address), lambda: now)
    now += 5
    assert not watch.was_away()
    now += 3600
    assert watch.was_away()
    for _ in range(7):
        now += 4
        assert watch.was_away()
    now += 4
    assert not watch.was_away()


async def test_a_busy_event_loop_is_no_suspended_process(temporal_address: str) -> None:
    """A long pause of the event loop, during an import for example, does not count as a suspension of the process."""
    now, looks = 1000.0, 0

    def monotonic() -> float:
        nonlocal looks
        looks += threading.current_thread() is not threading.main_thread()
        return now

    watch = TemporalWatch(await temporalio.client.Client.connect(temporal_address), monotonic)
    watching = asyncio.create_task(watch.watch())
    await asyncio.sleep(0)
    for look in (1, 2):
        now += 4
        while looks < look:
            pass
    assert not watch.was_away()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
