"""The worker: runs the workflow and the activities of the loaded sagas.

At start it recovers accepted runs that Temporal does not know. How it can fail: while Temporal is away, the worker
keeps trying to reach it; while the store stays away, it pauses polling, and continues automatically
(`amends.sagas.temporal.polling`). It ends only on request, or if Temporal refuses it for good.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import temporalio.client
from temporalio.common import WorkerDeploymentVersion
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkerDeploymentConfig

from amends.aggregates.errors import DamagedRunError, UnreachableError
from amends.aggregates.journal import Journal
from amends.aggregates.run.plan import StepKind
from amends.sagas.definition.registry import Registry
from amends.sagas.runtime.alive import marked_alive
from amends.sagas.runtime.deadline import StopDeadline
from amends.sagas.runtime.error_log import ErrorDetail, ErrorLog
from amends.sagas.runtime.loop_watch import LoopWatch
from amends.sagas.runtime.thread_report import keep_report
from amends.sagas.temporal.activities import Activities
from amends.sagas.temporal.effect_calls import PendingCall
from amends.sagas.temporal.failures import closed
from amends.sagas.temporal.heartbeats import Heartbeats
from amends.sagas.temporal.outages import StoreWatch, TemporalWatch
from amends.sagas.temporal.polling import PAUSE_AFTER, Shifts
from amends.sagas.temporal.recovery import recover
from amends.sagas.temporal.start_workflow import wake, worker_identity
from amends.sagas.temporal.workflow import SagaWorkflow

__all__ = ["AlsoServed", "deployment", "detect_no_deadlocks", "running_worker", "worker_name"]

# Practically no limit, because the calls of a paused worker go on and keep their outcomes. When serving ends, the
# `StopDeadline` counts.
_PAUSED = timedelta(days=365)
_AT_ONCE = 200
_CACHE_AWAITED = timedelta(seconds=5)

_log = logging.getLogger("amends.worker")


@dataclass(frozen=True)
class AlsoServed:
    """The workflows and activities that a worker serves in addition to sagas.

    An activity must hand its work back at once when the worker shuts down (`activity.wait_for_worker_shutdown`),
    because the end of the worker waits for it.

    Attributes:
        workflows: Classes of workflows with a type of their own.
        activities: Activities for them.
    """

    workflows: Sequence[type] = ()
    activities: Sequence[Callable[..., Any]] = ()


def worker_name() -> str:
    """Return the name of this process, for people who read the journal."""
    return f"{socket.gethostname()}/{os.getpid()}"


@asynccontextmanager
async def running_worker(
    client: temporalio.client.Client,
    journal: Journal,
    registry: Registry,
    *,
    task_queue: str,
    at_once: int = _AT_ONCE,
    threads: int | None = None,
    report_in: Path | None = None,
    also: AlsoServed | None = None,
    on_open_runs: Callable[[int], None] | None = None,
    pause_after: timedelta = PAUSE_AFTER,
    deadline: StopDeadline | None = None,
    on_calls: Callable[[Callable[[], list[PendingCall]]], None] | None = None,
    errors: ErrorDetail = ErrorDetail.TYPE,
) -> AsyncIterator[str]:
    """Serve the loaded sagas while the context lasts.

    Args:
        client: The client of Temporal.
        journal: The store.
        registry: The sagas and steps.
        task_queue: Queue for workflows, transactions and effects without a queue of their own.
        at_once: The most calls of `async def` functions at the same time.
        threads: The most plain `def` functions that run at the same time; `None` for the same as `at_once`.
        report_in: The data directory for the files that tell `amends doctor` that the worker is alive and that calls
            wait for threads; `None` for no files.
        also: Other workflows and activities to serve on that queue.
        on_open_runs: Called with the number of unfinished runs at start.
        pause_after: The length of an outage of the store after which polling pauses.
        deadline: The bound for the end of all work after the context is left; `None` for 5 s, without a drain.
        on_calls: Called with a function that lists the calls in flight, from any thread.
        errors: How much of the errors of user code the log shows.

    Yields:
        The worker's name.

    Raises:
        DefinitionError: The catalog has a fault; nothing was started.
        UnreachableError: Temporal or the store cannot be reached.
    """
    registry.catalog  # noqa: B018 - faults of the whole catalog are raised before anything runs
    name, client, log = worker_name(), closed(client), ErrorLog(errors)
    temporal, sagas = TemporalWatch(client), tuple(registry.sagas)
    heartbeats = Heartbeats(client)
    activities = Activities(
        journal,
        registry,
        worker=name,
        at_once=at_once,
        threads=at_once if threads is None else threads,
        temporal_was_away=temporal.was_away,
        wake=partial(wake, client, task_queue=task_queue),
        errors=log,
        heartbeats=heartbeats,
    )
    if on_calls is not None:
        on_calls(activities.calls.pending)
    identity = worker_identity(name, journal.store_id, registry.code)

    async def recovered() -> int:
        recovery = await recover(client, journal, task_queue=task_queue, sagas=sagas)
        for why in recovery.refused.values():
            _log.error("skipped: %s", why)
        for damage in recovery.damaged.values():
            _log.error("skipped: %s", log.line(DamagedRunError(damage)))
        return recovery.found - len(recovery.refused) - len(recovery.damaged)

    async def resume() -> None:
        try:
            await recovered()
        except UnreachableError as error:
            _log.warning("could not look for open runs: %s", error)

    shifts = Shifts(
        lambda: _workers(
            client,
            registry,
            activities,
            task_queue=task_queue,
            identity=identity,
            also=also or AlsoServed(),
        ),
        StoreWatch(journal),
        resumed=resume,
        calls=activities.calls,
        deadline=deadline or StopDeadline(),
        pause_after=pause_after,
    )
    watches = [asyncio.create_task(temporal.watch())]
    if report_in is not None:
        watches.append(asyncio.create_task(keep_report(report_in, os.getpid(), activities.seats.threads.seats.in_use)))
    alive = nullcontext() if report_in is None else marked_alive(report_in, name)
    try:
        with alive, LoopWatch(heartbeats.send).watching():
            async with shifts.serving():
                found = await recovered()
                if on_open_runs is not None:
                    on_open_runs(found)
                yield name
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        activities.seats.threads.close()


@cache
def deployment() -> WorkerDeploymentConfig:
    """Return a name for the loaded code; without a name the SDK reads every loaded module, which takes seconds."""
    return WorkerDeploymentConfig(
        version=WorkerDeploymentVersion("amends", version("amends")), use_worker_versioning=False
    )


def _workers(
    client: temporalio.client.Client,
    registry: Registry,
    activities: Activities,
    *,
    task_queue: str,
    identity: str,
    also: AlsoServed,
) -> list[Worker]:
    """Return a worker for every queue that a step names; the worker of the sagas' own queue also runs the workflows."""
    queues = {task_queue} | {
        step.queue for step in registry.steps.values() if step.kind is StepKind.EFFECT and step.queue
    }
    workers: list[Worker] = []
    for queue in sorted(queues):
        options: dict[str, Any] = {}
        if queue == task_queue:
            options = {
                "workflows": [SagaWorkflow, *also.workflows],
                "workflow_runner": UnsandboxedWorkflowRunner(),
                # Runs in the cache of a killed worker wait only this long; then another worker replays them.
                "sticky_queue_schedule_to_start_timeout": _CACHE_AWAITED,
                # A fault in the workflow must end it visibly; otherwise Temporal would retry it silently for ever.
                "workflow_failure_exception_types": [Exception],
            }
        worker = Worker(
            client,
            task_queue=queue,
            activities=[*activities.all(), *(also.activities if queue == task_queue else ())],
            identity=identity,
            deployment_config=deployment(),
            max_concurrent_activities=activities.seats.slots,
            max_concurrent_local_activities=activities.seats.slots,
            max_cached_workflows=1_000,
            graceful_shutdown_timeout=_PAUSED,
            **options,
        )
        detect_no_deadlocks(worker)
        workers.append(worker)
    return workers


def detect_no_deadlocks(worker: Worker) -> None:
    """Let a workflow task take as long as it needs.

    The SDK's deadlock detection interrupts workflow code after 2 s, because user code may hang. Our workflow contains
    no user code, so only a starved machine is slow, and interruptions make it slower. The public switch, `debug_mode`,
    would run workflows on the event loop.
    """
    workflows = getattr(worker, "_workflow_worker", None)
    if workflows is not None:
        workflows._deadlock_timeout_seconds = None  # noqa: SLF001 - a test notices when the SDK renames it
