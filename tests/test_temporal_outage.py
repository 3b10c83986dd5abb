"""Temporal is away for a while and comes back on its file: no attempt of a step is used up."""

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest
import temporalio.client
from journal_parts import prepare, step
from outage_parts import OUTAGE, Shelf, Trace
from temporalio.api.enums.v1 import PendingActivityState
from test_postgresql_outages import check, start, worker_process

from amends.aggregates.journal_sql import open_journal
from amends.sagas.client_temporal import Client
from amends.sagas.connection_temporal import TemporalTarget, connect
from amends.sagas.registry import Registry
from amends.sagas.server_temporal import EmbeddedServer

STARTED = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
# Temporal gives a call up when it has heard nothing of it for 5 s.
AWAY_S = 7


async def until_given_up(temporal: temporalio.client.Client, run_ids: list[str]) -> None:
    """Return when Temporal has delivered a call of every run again."""
    for run_id in run_ids:
        again = False
        while not again:
            description = await temporal.get_workflow_handle(run_id).describe()
            pending = description.raw_description.pending_activities
            again = any(each.attempt > 1 and each.state == STARTED for each in pending)
            await asyncio.sleep(0.05)


@pytest.mark.timeout(180)  # an outage takes its time, and what was given up is delivered again some seconds later
async def test_calls_that_temporal_gave_up_are_not_made_again(postgres_url: str, tmp_path: Path) -> None:
    """Calls go on while Temporal is away; what it delivers again joins them or waits for them, on either worker."""
    trace = Trace(tmp_path)
    journal = open_journal(prepare(postgres_url), aggregates=[Shelf])
    await journal.commit(step(lambda uow: uow.add(Shelf("shelf"))))
    async with EmbeddedServer.shared(tmp_path) as server:
        temporal = await connect(TemporalTarget(server.address, embedded=True))
        client = Client(journal, temporal, Registry([OUTAGE]), task_queue="away")
        async with (
            worker_process(postgres_url, server.address, "away"),
            worker_process(postgres_url, server.address, "away"),
        ):
            handles = await start(client, "away", tmp_path, 6, gated=6)
            await trace.until("call", 18)
            os.kill(server.pid, signal.SIGKILL)
            await asyncio.to_thread(os.waitpid, server.pid, 0)
            await asyncio.sleep(AWAY_S)
            assert await server.ensure_alive()
            await until_given_up(temporal, [handle.id for handle in handles])
            trace.open_gate()
            for handle in handles:
                await handle.result(timeout=timedelta(seconds=60))
    await check(journal, trace, [handle.id for handle in handles], 6)
    await journal.close()
