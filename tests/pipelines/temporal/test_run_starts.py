"""Runs that a pipeline accepts are started in Temporal, also when it was away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import temporalio.client
from brokers.proxy import Proxy, proxy_to
from temporalio.client import WorkflowExecutionStatus

from amends.pipelines.temporal.run_starts import RunStarts
from amends.sagas.temporal.recovery import workflow_status
from amends.sagas.temporal.server.ports import free_port


@asynccontextmanager
async def client_behind_proxy(address: str) -> AsyncIterator[tuple[temporalio.client.Client, Proxy]]:
    """Yield a client, and the proxy between it and Temporal."""
    port = free_port()
    async with proxy_to(int(address.rpartition(":")[2]), port) as proxy:
        yield await temporalio.client.Client.connect(f"127.0.0.1:{port}"), proxy


async def test_runs_are_started_after_an_outage_of_temporal(temporal_address: str) -> None:
    """While Temporal is away, the pipeline goes on at once; every run is started when Temporal answers."""
    async with client_behind_proxy(temporal_address) as (client, proxy):
        starts = RunStarts(client, saga="order", store_id="store", task_queue="started")
        run_ids = [f"started-{number}" for number in range(70)]
        async with starts.running():
            proxy.cut()
            await starts(run_ids[:1])
            await starts(run_ids[1:])
            proxy.join()
            for run_id in run_ids:
                while await workflow_status(client, run_id) is None:  # noqa: ASYNC110 - Temporal only shows it
                    await asyncio.sleep(0.05)


async def test_runs_are_started_before_the_next_batch(temporal_address: str) -> None:
    """A pipeline takes its next batch when Temporal drives the runs of the one before."""
    client = await temporalio.client.Client.connect(temporal_address)
    starts = RunStarts(client, saga="order", store_id="store", task_queue="direct")
    await starts(["direct-1", "direct-2"])
    assert {await workflow_status(client, each) for each in ("direct-1", "direct-2")} == {
        WorkflowExecutionStatus.RUNNING
    }


async def test_a_pipeline_waits_while_too_many_runs_wait_for_temporal(temporal_address: str) -> None:
    """The number of ids in memory is bounded; the end of the worker ends the wait."""
    async with client_behind_proxy(temporal_address) as (client, proxy):
        proxy.cut()
        starts = RunStarts(client, saga="order", store_id="store", task_queue="bounded", most_waiting=2)
        async with starts.running():
            await starts(["bounded-1", "bounded-2"])
            blocked = asyncio.create_task(starts(["bounded-3"]))
            await asyncio.wait([blocked], timeout=0.3)
            assert not blocked.done()
        await blocked
