"""Start the workflow of an accepted run, wake it, and list the workers that poll its queue."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import temporalio.client
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError

from amends.aggregates.errors import UnreachableError
from amends.aggregates.run.record import RunRecord
from amends.sagas.temporal.messages import WAKE, RunArguments

__all__ = ["Poller", "pollers", "start_workflow", "wake", "worker_identity"]

TASK_TIMEOUT = timedelta(seconds=10)
"""The time after which Temporal counts a silent worker as lost; its transactions wait that long for another worker.

It is no shorter, because on a starved machine a task with many calls takes seconds, and Temporal repeats a late one.
"""

_FRESH = timedelta(seconds=75)  # a worker renews its poll after up to a minute
_IDENTITY = re.compile(r"^(?P<name>.*?)(?: code=(?P<code>[0-9a-f]+))? store=(?P<store>[0-9a-f-]{36})$")


@dataclass(frozen=True, slots=True)
class Poller:
    """A worker that polls a task queue.

    Attributes:
        name: The name in its identity.
        store_id: The store that it writes to; `None` if its identity does not contain it.
        code: The fingerprint of its loaded sagas and steps (`Registry.code`); `None` if its identity does not contain
            it.
    """

    name: str
    store_id: str | None
    code: str | None = None


def worker_identity(name: str, store_id: str, code: str) -> str:
    """Return the identity under which a worker polls; it contains the worker's store and its loaded code."""
    return f"{name} code={code} store={store_id}"


async def pollers(client: temporalio.client.Client, task_queue: str, *, effects: bool = False) -> list[Poller]:
    """List the workers that poll a task queue.

    Args:
        client: The client of Temporal.
        task_queue: The queue.
        effects: Whether to list the workers that take effects, instead of workflows.

    Raises:
        UnreachableError: Temporal does not answer.
    """
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY if effects else TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    try:
        answer = await client.workflow_service.describe_task_queue(request, timeout=timedelta(seconds=5))
    except RPCError as error:
        raise UnreachableError(f"Temporal does not answer about task queue {task_queue!r}: {error}") from None
    now = datetime.now(UTC)
    found: list[Poller] = []
    for each in answer.pollers:
        if now - each.last_access_time.ToDatetime(UTC) < _FRESH:
            match = _IDENTITY.match(each.identity)
            known = Poller(match["name"], match["store"], match["code"]) if match else Poller(each.identity, None)
            found.append(known)
    return found


async def start_workflow(
    client: temporalio.client.Client,
    *,
    saga: str,
    run_id: str,
    store_id: str,
    task_queue: str,
    eager: bool = False,
    wake: bool = False,
) -> temporalio.client.WorkflowHandle[Any, Any]:
    """Start the workflow of an accepted run; do nothing if Temporal drives the run already.

    Args:
        client: The client of Temporal.
        saga: Name of the saga, which is the workflow's type.
        run_id: The run, whose id is the workflow's.
        store_id: The store that accepted it.
        task_queue: Queue of the workers.
        eager: Whether a worker of this process, with the same client, may take the first task at once.
        wake: Whether to wake the workflow if Temporal drives the run already.

    Raises:
        UnreachableError: Temporal cannot be reached; the run stays accepted and is started later.
    """
    try:
        return await client.start_workflow(
            saga,
            RunArguments(run_id, store_id),
            id=run_id,
            task_queue=task_queue,
            task_timeout=TASK_TIMEOUT,
            # The journal makes starts unique, so Temporal need only allow one workflow at a time, and another after a
            # lost one.
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            request_eager_start=eager and not wake,
            start_signal=WAKE if wake else None,
        )
    except RPCError as error:
        raise UnreachableError(
            f"run {run_id!r} is accepted, but Temporal could not start it ({error}); the next worker that starts will "
            "start it"
        ) from None


async def wake(client: temporalio.client.Client, record: RunRecord, *, task_queue: str) -> None:
    """Wake a run in Temporal after another process has written to it; start its workflow if none runs.

    Raises:
        UnreachableError: Temporal cannot be reached; the run goes on when a worker starts.
    """
    await start_workflow(
        client,
        saga=record.started.saga,
        run_id=record.run_id,
        store_id=record.started.store_id,
        task_queue=task_queue,
        wake=True,
    )
