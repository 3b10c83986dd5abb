"""Handing an accepted run to Temporal, and looking whether anybody is there to take it."""

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
from amends.sagas.temporal.messages import NUDGE, RunArguments

__all__ = ["Poller", "pollers", "rouse", "start_workflow", "worker_identity"]

TASK_TIMEOUT = timedelta(seconds=10)
"""How long the transactions of a killed worker wait for another one: Temporal sees its loss by this.

No shorter: on a starved machine a task with many calls takes seconds, and one that is late is done again.
"""

_FRESH = timedelta(seconds=75)  # a poll lasts up to a minute before it is renewed
_IDENTITY = re.compile(r"^(?P<name>.*?)(?: code=(?P<code>[0-9a-f]+))? store=(?P<store>[0-9a-f-]{36})$")


@dataclass(frozen=True, slots=True)
class Poller:
    """A worker that was seen on a task queue.

    Attributes:
        name: Who it says it is.
        store_id: The store that it writes to; `None` when it does not say.
        code: Names the sagas and steps that it has loaded (`Registry.code`); `None` when it does not say.
    """

    name: str
    store_id: str | None
    code: str | None = None


def worker_identity(name: str, store_id: str, code: str) -> str:
    """Make the identity under which a worker polls; it says which store it writes to, and which code it has loaded."""
    return f"{name} code={code} store={store_id}"


async def pollers(client: temporalio.client.Client, task_queue: str, *, effects: bool = False) -> list[Poller]:
    """Look who polls a task queue.

    Args:
        client: Temporal.
        task_queue: The queue.
        effects: Whether to look who takes effects there, instead of workflows.

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
    nudge: bool = False,
) -> temporalio.client.WorkflowHandle[Any, Any]:
    """Have Temporal drive an accepted run; does nothing when it does so already.

    Args:
        client: Temporal.
        saga: Name of the saga, which is the workflow's type.
        run_id: The run, whose id is the workflow's.
        store_id: The store that accepted it.
        task_queue: Queue of the workers.
        eager: Whether a worker of this process, with the same client, may take the first task at once.
        nudge: Whether to have it look at the journal, if Temporal drives it already.

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
            # The journal makes starts unique; here only: one driver at a time, and again after a lost one.
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            request_eager_start=eager and not nudge,
            start_signal=NUDGE if nudge else None,
        )
    except RPCError as error:
        raise UnreachableError(
            f"run {run_id!r} is accepted, but Temporal could not start it ({error}); it is started when a worker starts"
        ) from None


async def rouse(client: temporalio.client.Client, record: RunRecord, *, task_queue: str) -> None:
    """Have Temporal look at a run that somebody else has written to, starting its workflow if none runs.

    Raises:
        UnreachableError: Temporal cannot be reached; the run goes on when a worker starts.
    """
    await start_workflow(
        client,
        saga=record.started.saga,
        run_id=record.run_id,
        store_id=record.started.store_id,
        task_queue=task_queue,
        nudge=True,
    )
