"""The worker: runs the workflow and the activities of the loaded sagas.

At start it looks for runs that were accepted and that Temporal does not know of. How it can fail: when Temporal goes
away it keeps trying to reach it; `run` ends only when it is told to, or when Temporal refuses it for good.
"""

import os
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import temporalio.client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from amends.aggregates.journal import Journal
from amends.aggregates.plan import StepKind
from amends.sagas.activities_temporal import Activities
from amends.sagas.registry import Registry
from amends.sagas.starting_temporal import start_unfinished, worker_identity
from amends.sagas.workflow_temporal import SagaWorkflow

__all__ = ["running_worker", "worker_name"]

_GRACE = timedelta(seconds=5)
_THREADS = 32
_AT_ONCE = 200


def worker_name() -> str:
    """Name this process, for people who read the journal."""
    return f"{socket.gethostname()}/{os.getpid()}"


@asynccontextmanager
async def running_worker(
    client: temporalio.client.Client,
    journal: Journal,
    registry: Registry,
    *,
    task_queue: str,
    at_once: int = _AT_ONCE,
    on_open_runs: Callable[[int], None] | None = None,
) -> AsyncIterator[str]:
    """Serve the loaded sagas while the context lasts.

    Args:
        client: Temporal.
        journal: The store.
        registry: The sagas and steps.
        task_queue: Queue for workflows, transactions and effects without a queue of their own.
        at_once: Activities that run at the same time, at most.
        on_open_runs: Called with the number of unfinished runs that were found at start.

    Yields:
        The worker's name.

    Raises:
        DefinitionError: A fault of the catalog; nothing was started.
        UnreachableError: Temporal or the store cannot be reached.
    """
    registry.catalog  # noqa: B018 - faults of the whole catalog are raised before anything runs
    name = worker_name()
    async with AsyncExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(_THREADS, thread_name_prefix="effect"))
        activities = Activities(journal, registry, worker=name, threads=threads).all()
        queues = {task_queue} | {
            step.queue for step in registry.steps.values() if step.kind is StepKind.EFFECT and step.queue
        }
        for queue in sorted(queues):
            options: dict[str, Any] = {}
            if queue == task_queue:
                options = {
                    "workflows": [SagaWorkflow],
                    "workflow_runner": UnsandboxedWorkflowRunner(),
                    # A fault in the workflow ends it, in sight; otherwise it would be tried again silently for ever.
                    "workflow_failure_exception_types": [Exception],
                }
            worker = Worker(
                client,
                task_queue=queue,
                activities=activities,
                identity=worker_identity(name, journal.store_id),
                max_concurrent_activities=at_once,
                max_concurrent_local_activities=at_once,
                max_cached_workflows=1_000,
                graceful_shutdown_timeout=_GRACE,
                **options,
            )
            await stack.enter_async_context(worker)
        found = await start_unfinished(client, journal, task_queue=task_queue, sagas=tuple(registry.sagas))
        if on_open_runs is not None:
            on_open_runs(found)
        yield name
