"""Serve pipelines and relays in this process: a worker of Temporal for each, with a queue of its own.

Slices share no worker with sagas, because they would delay its calls, and each pipeline has a queue of its own, so that
a worker without the code of a pipeline, or with another version of it, takes none of its partitions. How it can fail:
while the store is away, the worker hands its partitions over and polls no more, until the store answers again; a
worker that Temporal refuses for good ends the context with the error.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial

import temporalio.client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import PollerBehaviorSimpleMaximum, UnsandboxedWorkflowRunner, Worker

from amends.aggregates.journal import Journal
from amends.pipelines.runtime.partition_work import OwnedKind, OwnedWork
from amends.pipelines.temporal.discovery import Discovery
from amends.pipelines.temporal.ownership import Ownership
from amends.pipelines.temporal.partition_workflow import PartitionWorkflow
from amends.pipelines.temporal.slices import OwnedPartition, Slices
from amends.sagas.runtime.deadline import TASKS_RESERVE_S, StopDeadline
from amends.sagas.runtime.error_log import ErrorDetail, ErrorLog
from amends.sagas.temporal.effect_calls import PendingCall
from amends.sagas.temporal.failures import closed
from amends.sagas.temporal.outages import StoreWatch, TemporalWatch
from amends.sagas.temporal.polling import PAUSE_AFTER, Shifts
from amends.sagas.temporal.worker import deployment, detect_no_deadlocks, worker_name

__all__ = ["OwnedNow", "queue_of", "running_pipelines"]

# All partitions, and for each the slice of an owner that Temporal has given up and that has not ended yet.
_SLOTS = 2_000
_ANSWER = timedelta(seconds=5)

OwnedNow = Callable[[], Mapping[tuple[OwnedKind, str], Sequence[OwnedPartition]]]
"""Returns the partitions that this process owns now, by kind and name of the work."""


def queue_of(task_queue: str, owned: OwnedWork) -> str:
    """Return the task queue of a pipeline or relay, which begins with that of the sagas."""
    return f"{task_queue}/{owned.kind}/{owned.name}"


@asynccontextmanager
async def running_pipelines(
    client: temporalio.client.Client,
    journal: Journal,
    works: Sequence[OwnedWork],
    *,
    task_queue: str,
    ownership: Ownership | None = None,
    errors: ErrorDetail = ErrorDetail.TYPE,
    pause_after: timedelta = PAUSE_AFTER,
) -> AsyncIterator[OwnedNow]:
    """Serve pipelines and relays while the context lasts; at its end, hand their partitions over.

    Args:
        client: The client of Temporal.
        journal: The store.
        works: The pipelines and relays.
        task_queue: Queue of the sagas, from which the queues of pipelines follow.
        ownership: The times; `None` for the defaults.
        errors: How much of errors the log shows.
        pause_after: The length of an outage of the store after which this process hands its partitions over.

    Yields:
        A function that returns the partitions that this process owns now.

    Raises:
        UnreachableError: Temporal cannot be reached.
    """
    client, log, times = closed(client), ErrorLog(errors), ownership or Ownership()
    watch = TemporalWatch(client, consequence="this worker keeps the partitions that it owns, and takes no others")
    watching = asyncio.create_task(watch.watch()) if works else None
    slices: dict[tuple[OwnedKind, str], Slices] = {
        (each.kind, each.name): Slices(
            each,
            store_id=journal.store_id,
            temporal_answers=partial(_answers, client),
            temporal_was_away=watch.was_away,
            ownership=times,
            errors=log,
        )
        for each in works
    }
    discoveries: list[asyncio.Task[None]] = []
    try:
        async with AsyncExitStack() as stack:
            if works:
                shifts = Shifts(
                    lambda: [_worker(client, each, journal, task_queue, times) for each in slices.values()],
                    StoreWatch(journal),
                    resumed=_nothing,
                    calls=_NoCalls(),
                    deadline=StopDeadline(rest=times.drain + timedelta(seconds=TASKS_RESERVE_S)),
                    pause_after=pause_after,
                )
                await stack.enter_async_context(shifts.serving())
            for each in works:
                discovery = Discovery(
                    each,
                    client,
                    task_queue=queue_of(task_queue, each),
                    store_id=journal.store_id,
                    ownership=times,
                    errors=log,
                )
                discoveries.append(asyncio.create_task(discovery.keep_started()))
            yield lambda: {key: each.current() for key, each in slices.items()}
            for task in discoveries:
                task.cancel()
    finally:
        tasks = [*discoveries, *([watching] if watching else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _worker(
    client: temporalio.client.Client, slices: Slices, journal: Journal, task_queue: str, ownership: Ownership
) -> Worker:
    worker = Worker(
        client,
        task_queue=queue_of(task_queue, slices.owned),
        workflows=[PartitionWorkflow],
        activities=slices.all(),
        workflow_runner=UnsandboxedWorkflowRunner(),
        workflow_failure_exception_types=[Exception],
        identity=f"{worker_name()} store={journal.store_id}",
        deployment_config=deployment(),
        max_concurrent_activities=_SLOTS,
        # An open poll of a suspended process swallows a slice for the length of a heartbeat timeout.
        activity_task_poller_behavior=PollerBehaviorSimpleMaximum(1),
        # Without a cache, the workflow of a lost worker goes on at once on another one; its history is short.
        max_cached_workflows=0,
        # Otherwise the worker that runs the workflow would keep its partitions for ever.
        disable_eager_activity_execution=True,
        max_heartbeat_throttle_interval=ownership.heartbeat / 4,
        default_heartbeat_throttle_interval=ownership.heartbeat / 4,
        graceful_shutdown_timeout=ownership.drain,
    )
    detect_no_deadlocks(worker)
    return worker


async def _answers(client: temporalio.client.Client, workflow_id: str) -> bool:
    """Check whether Temporal can accept the end of a slice; it can if it does not know the workflow any more."""
    try:
        await client.get_workflow_handle(workflow_id).describe(rpc_timeout=_ANSWER)
    except RPCError as error:
        return error.status is RPCStatusCode.NOT_FOUND
    return True


async def _nothing() -> None:
    """Do nothing when polling continues; each discovery repeats automatically."""


class _NoCalls:
    """The calls of sagas in this process, of which the workers of pipelines have none."""

    def pending(self) -> list[PendingCall]:
        return []

    def drain(self) -> None:
        pass

    async def give_up(self, within_s: float) -> None:
        pass
