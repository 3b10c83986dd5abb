"""Bring unfinished runs back to Temporal after it lost them, failed them, or was restored from an older copy.

The journal is the truth. If Temporal knows less than the journal, `recover` starts the run's workflow again: the
workflow reads the journal and goes on from there, and repeats no recorded step. The opposite case cannot be repaired:
if the *store* is older than Temporal, steps have run that the store does not know of. `recover` refuses such runs and
reports them.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import temporalio.client
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from amends.aggregates.damage import Damage
from amends.aggregates.errors import StoreBehindError, UnreachableError
from amends.aggregates.journal import Journal, RunQuery
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.run.record import RunSummary
from amends.aggregates.run.state import OPEN
from amends.sagas.temporal.messages import RunArguments, RunEnd, check_seen, older_store
from amends.sagas.temporal.start_workflow import start_workflow

__all__ = [
    "Recovery",
    "belongs",
    "damaged_runs",
    "recover",
    "running_workflows",
    "store_behind",
    "unknown_to_store",
    "workflow_status",
]

_PAGE = 200
_AT_ONCE = 20
_LISTED = 1_000
# The states of ended workflows that report how far they have seen their run.
TOLD = frozenset({WorkflowExecutionStatus.COMPLETED, WorkflowExecutionStatus.FAILED})


@dataclass(frozen=True, slots=True)
class Recovery:
    """The result of a recovery.

    Attributes:
        started: Runs whose workflow was started, because Temporal had no running one.
        driven: Runs that Temporal drove already; the recovery only woke them.
        refused: Runs that the recovery did not touch, with the reason.
        damaged: Runs that cannot be read and were not touched, with the damage.
    """

    started: list[str] = field(default_factory=list)
    driven: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, Damage] = field(default_factory=dict)

    @property
    def found(self) -> int:
        """The number of unfinished runs."""
        return len(self.started) + len(self.driven) + len(self.refused) + len(self.damaged)


async def recover(
    client: temporalio.client.Client,
    journal: Journal,
    *,
    task_queue: str,
    sagas: Sequence[str] | None,
    accept_older_store: bool = False,
) -> Recovery:
    """Start or wake the workflow of every unfinished run that Temporal drives.

    Args:
        client: The client of Temporal.
        journal: The store of the open runs.
        task_queue: Queue of the workers.
        sagas: Only runs of these sagas; others belong to other workers. `None` for all.
        accept_older_store: Whether to continue runs of which Temporal has seen more than the store holds. Effects
            that the store does not know of are then repeated, under the same keys.

    Raises:
        UnreachableError: Temporal or the store cannot be reached.
    """
    recovery, last = Recovery(), None
    while page := await journal.runs(RunQuery(statuses=OPEN, limit=_PAGE, before=last)):
        last = page[-1].run_id
        ours = [row for row in page if row.driver == TEMPORAL_DRIVER and (sagas is None or row.saga in sagas)]
        for first in range(0, len(ours), _AT_ONCE):
            group = ours[first : first + _AT_ONCE]
            # A damaged run gets no workflow, because that workflow could only fail.
            damaged = (await journal.records([row.run_id for row in group])).damaged
            recovery.damaged.update(damaged)
            await asyncio.gather(
                *(
                    _recover_one(client, journal, row, task_queue, recovery, accept_older_store=accept_older_store)
                    for row in group
                    if row.run_id not in damaged
                )
            )
    return recovery


async def damaged_runs(journal: Journal, *, sagas: Sequence[str] | None = None) -> dict[str, Damage]:
    """Return the damage of every unfinished run that cannot be read, by run id; needs no Temporal.

    Args:
        journal: The store of the open runs.
        sagas: Only runs of these sagas; `None` for all.

    Raises:
        UnreachableError: The store cannot be reached.
    """
    damaged: dict[str, Damage] = {}
    last = None
    while page := await journal.runs(RunQuery(statuses=OPEN, limit=_PAGE, before=last)):
        last = page[-1].run_id
        ours = [row.run_id for row in page if sagas is None or row.saga in sagas]
        for first in range(0, len(ours), _AT_ONCE):
            damaged.update((await journal.records(ours[first : first + _AT_ONCE])).damaged)
    return damaged


async def _recover_one(
    client: temporalio.client.Client,
    journal: Journal,
    row: RunSummary,
    task_queue: str,
    recovery: Recovery,
    *,
    accept_older_store: bool,
) -> None:
    status = await workflow_status(client, row.run_id)
    if status in TOLD and not accept_older_store:
        # The run is read again, because it may have closed since it was listed, and only a position that was read after
        # Temporal's answer counts.
        records = await journal.records([row.run_id])
        recovery.damaged.update(records.damaged)
        record = records.records.get(row.run_id)
        if record is None or record.state.closed:
            return
        why = await store_behind(client, row.run_id, record.state.position)
        if why is not None:
            recovery.refused[row.run_id] = why
            return
    await start_workflow(
        client, saga=row.saga, run_id=row.run_id, store_id=journal.store_id, task_queue=task_queue, wake=True
    )
    (recovery.driven if status is WorkflowExecutionStatus.RUNNING else recovery.started).append(row.run_id)


async def workflow_status(client: temporalio.client.Client, run_id: str) -> WorkflowExecutionStatus | None:
    """Return the status of a run's workflow in Temporal; `None` if Temporal knows no workflow.

    Raises:
        UnreachableError: Temporal does not answer.
    """
    try:
        return (await client.get_workflow_handle(run_id).describe()).status
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise UnreachableError(f"Temporal does not answer about run {run_id!r}: {error}") from None


async def store_behind(client: temporalio.client.Client, run_id: str, position: int) -> str | None:
    """Return why an ended workflow must not be started again; `None` if it may.

    Args:
        client: The client of Temporal.
        run_id: The run.
        position: The position of the run in the store, read after the workflow was found to have ended.

    Raises:
        UnreachableError: Temporal does not answer.
    """
    try:
        end = await client.get_workflow_handle(run_id, result_type=RunEnd).result()
        check_seen(run_id, position, end.position)
    except StoreBehindError as behind:
        return str(behind)
    except WorkflowFailureError as failure:
        error: BaseException | None = failure
        while error is not None:
            if isinstance(error, ApplicationError) and error.type == StoreBehindError.__name__:
                return older_store(run_id, position, "a later one")
            error = getattr(error, "cause", None)
    except RPCError as error:
        raise UnreachableError(f"Temporal does not answer about run {run_id!r}: {error}") from None
    return None


async def unknown_to_store(client: temporalio.client.Client, journal: Journal, *, task_queue: str) -> list[str]:
    """List the runs that Temporal drives for this store and that the store lacks, because it is an older copy.

    Reads at most a thousand running workflows, in the order in which Temporal lists them.

    Raises:
        UnreachableError: Temporal or the store cannot be reached.
    """
    listed = await running_workflows(client, task_queue, limit=_LISTED)
    records = (await journal.records(listed)).records
    unknown = [each for each in listed if each in records and records[each] is None]
    try:
        return [each for each in unknown if await belongs(client, each, journal.store_id)]
    except RPCError as error:
        raise UnreachableError(f"Temporal does not show its workflows: {error}") from None


async def running_workflows(
    client: temporalio.client.Client, task_queue: str, *, limit: int | None = None
) -> list[str]:
    """List the workflows of runs that are running on a queue, by the ids of their runs.

    The list omits workflows that drive no run: their ids contain a `/`, which no run's id does.

    Raises:
        UnreachableError: Temporal does not answer.
    """
    query = f'ExecutionStatus = "Running" AND TaskQueue = "{task_queue}"'
    try:
        return [each.id async for each in client.list_workflows(query, limit=limit) if "/" not in each.id]
    except RPCError as error:
        raise UnreachableError(f"Temporal does not list its workflows: {error}") from None


async def belongs(client: temporalio.client.Client, run_id: str, store_id: str) -> bool:
    """Check whether a workflow drives a run of this store."""
    async for event in client.get_workflow_handle(run_id).fetch_history_events(page_size=1):
        payloads = event.workflow_execution_started_event_attributes.input.payloads
        if not payloads:
            return False
        arguments: RunArguments = client.data_converter.payload_converter.from_payload(payloads[0], RunArguments)
        return arguments.store_id == store_id
    return False
