"""Queries to Temporal from outside: whether it answers, which workers poll there, and the workflow of a run.

The functions start nothing. Every query is bounded in time, and a part that cannot be reached is an answer, not an
error.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import temporalio.client
from temporalio.api.failure.v1 import Failure
from temporalio.client import WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from amends.aggregates.errors import AmendsError, InputError
from amends.aggregates.text import one_line
from amends.cli.project.settings import Settings
from amends.cli.runtime.wiring import connect_located, locate_temporal
from amends.cli.views.driver_status import DriverStatus
from amends.sagas.runtime.alive import ended_workers
from amends.sagas.temporal.connection import TemporalTarget
from amends.sagas.temporal.server.server_record import ServerRecord
from amends.sagas.temporal.start_workflow import Poller, pollers

__all__ = ["NOTHING_RUNS", "TemporalProbe", "alive_pollers", "driving_of", "probe_temporal"]

QUICK = timedelta(seconds=1)
"""How long `amends show` waits for Temporal."""

NOTHING_RUNS = "no Temporal is configured and no embedded one runs; start one: amends dev"
"""Message for a command that would use the embedded server if it ran."""


@dataclass(frozen=True, slots=True)
class TemporalProbe:
    """A Temporal, as seen by this process.

    Attributes:
        target: Its address and namespace; `None` if none is configured and no embedded one runs.
        server: The embedded server; `None` if it is another one, or none.
        client: Connected to it; `None` if it does not answer.
        problem: Why there is no client, with the remedy; `None` if there is one.
        workers: The workers that poll the task queue.
    """

    target: TemporalTarget | None
    server: ServerRecord | None = None
    client: temporalio.client.Client | None = None
    problem: str | None = None
    workers: tuple[Poller, ...] = ()


async def probe_temporal(settings: Settings, bound: timedelta) -> TemporalProbe:
    """Find the Temporal that commands would use, without starting one, and list its workers.

    Args:
        settings: The settings.
        bound: How long to wait for it, at most.
    """
    try:
        target, server = await asyncio.to_thread(locate_temporal, settings)
    except InputError as error:
        return TemporalProbe(None, problem=str(error))
    if target is None:
        return TemporalProbe(None, problem=NOTHING_RUNS)
    try:
        async with asyncio.timeout(bound.total_seconds()):
            client = await connect_located(target)
            workers = await alive_pollers(client, settings, settings.task_queue)
    except TimeoutError:
        limit = f"{bound.total_seconds():g} s"
        return TemporalProbe(
            target, server, problem=f"Temporal at {target.address} does not answer within {limit}; start it"
        )
    except AmendsError as error:
        return TemporalProbe(target, server, problem=str(error))
    return TemporalProbe(target, server, client, workers=workers)


async def alive_pollers(
    client: temporalio.client.Client, settings: Settings, task_queue: str, *, effects: bool = False
) -> tuple[Poller, ...]:
    """Return the pollers of a queue, without those known to have ended since their last poll.

    Args:
        client: Temporal.
        settings: The settings, with the data directory; the end of a worker that uses another one is noticed later.
        task_queue: The queue.
        effects: Whether to return pollers for effects, instead of those for workflows.

    Raises:
        UnreachableError: Temporal does not answer.
    """
    seen = await pollers(client, task_queue, effects=effects)
    ended = await asyncio.to_thread(ended_workers, settings.data_dir)
    return tuple(poller for poller in seen if poller.name not in ended)


async def driving_of(settings: Settings, run_id: str, store_id: str, *, bound: timedelta = QUICK) -> DriverStatus:
    """Check whether anything drives an open run.

    Args:
        settings: The settings.
        run_id: The run.
        store_id: The store that holds it.
        bound: How long to wait for Temporal, at most.
    """
    reach = await probe_temporal(settings, bound)
    address = reach.target.address if reach.target else None
    if reach.client is None:
        return DriverStatus(f"unknown: {reach.problem}", temporal=address)
    try:
        description = await reach.client.get_workflow_handle(run_id).describe(rpc_timeout=bound)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            return DriverStatus(f"Temporal at {address} does not answer: {one_line(error.message)}", temporal=address)
        description = None
    return _judge(settings, reach, description, store_id)


def _judge(
    settings: Settings, reach: TemporalProbe, description: WorkflowExecutionDescription | None, store_id: str
) -> DriverStatus:
    """Return the verdict about the workflow and the workers."""
    ours = [worker for worker in reach.workers if worker.store_id in {store_id, None}]
    status = None if description is None or description.status is None else description.status
    runs = status is WorkflowExecutionStatus.RUNNING
    pending = _pending(description) if description is not None else ()
    if not ours and reach.workers:
        text = f"nobody: the workers of queue {settings.task_queue!r} write to another store; start one: amends worker"
    elif not ours:
        text = f"nobody: no worker polls queue {settings.task_queue!r}; start one: amends worker (or amends dev)"
    elif status is None:
        text = "nobody: Temporal does not know the run; the next worker that starts will start it"
    elif not runs:
        text = f"nobody: its workflow is {status.name}; the next worker that starts will start it again"
    else:
        text = f"Temporal, with {len(ours)} worker{'s' * (len(ours) != 1)}"
    text += "".join(f"; {activity}: attempt {attempt} failed: {error}" for activity, attempt, error in pending)
    return DriverStatus(
        text,
        driven=bool(ours) and runs,
        temporal=reach.target.address if reach.target else None,
        workflow=status.name if status is not None else None,
        workers=len(ours),
        pending=pending,
    )


def _pending(description: WorkflowExecutionDescription) -> tuple[tuple[str, int, str], ...]:
    """Return the activities that Temporal retries: name, attempts made, and the innermost error of the last one."""
    raw = description.raw_description
    found = [
        (each.activity_type.name, max(1, each.attempt - 1), _innermost(each.last_failure))
        for each in raw.pending_activities
        if each.HasField("last_failure")
    ]
    if raw.HasField("pending_workflow_task") and raw.pending_workflow_task.attempt > 1:
        found.append(("workflow task", raw.pending_workflow_task.attempt - 1, "see the worker's log"))
    return tuple(found)


def _innermost(failure: Failure) -> str:
    while failure.HasField("cause"):
        failure = failure.cause
    return one_line(failure.message)
