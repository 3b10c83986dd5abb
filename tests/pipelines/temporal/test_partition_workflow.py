"""The workflow of a partition on a real Temporal, with an activity that ends each slice as a test wants."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import temporalio.client
from bounds import HANG
from temporalio import activity
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from amends.pipelines.runtime.partition_work import OwnedKind
from amends.pipelines.temporal import partition_workflow
from amends.pipelines.temporal.ownership import SliceEnded, SliceReason
from amends.pipelines.temporal.partition_workflow import SLICE, PartitionArguments, PartitionWorkflow, SliceRequest
from amends.sagas.temporal.failures import stated

OVER, GONE = SliceEnded(SliceReason.OVER), SliceEnded(SliceReason.GONE)


@asynccontextmanager
async def slices_of(
    address: str, queue: str, end: Callable[[SliceRequest, int], SliceEnded]
) -> AsyncIterator[temporalio.client.Client]:
    """Serve the workflow and an activity that ends a slice by a function of its request and attempt."""
    client = await temporalio.client.Client.connect(address)

    @activity.defn(name=SLICE)
    async def run_slice(request: SliceRequest) -> SliceEnded:
        return end(request, activity.info().attempt)

    async with Worker(
        client,
        task_queue=queue,
        workflows=[PartitionWorkflow],
        activities=[run_slice],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=0,
    ):
        yield client


async def run(client: temporalio.client.Client, queue: str) -> temporalio.client.WorkflowExecutionDescription:
    """Run a partition's workflow to its end, and describe its last run."""
    arguments = PartitionArguments(OwnedKind.PIPELINE, "orders", "0", "store", 10.0, 0.05)
    handle = await client.start_workflow(PartitionWorkflow.run, arguments, id=queue, task_queue=queue)
    await handle.result(rpc_timeout=HANG)
    return await client.get_workflow_handle(queue).describe()


async def test_slices_are_numbered_through_continue_as_new(
    temporal_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each slice has the next number, also in the next run of the workflow; a partition that is gone ends it."""
    monkeypatch.setattr(partition_workflow, "_SLICES", 2)
    numbers: list[int] = []

    def end(request: SliceRequest, _: int) -> SliceEnded:
        numbers.append(request.slice)
        return GONE if request.slice == 5 else OVER

    async with slices_of(temporal_address, "numbered", end) as client:
        description = await run(client, "numbered")
    assert numbers == [1, 2, 3, 4, 5]
    assert description.status is temporalio.client.WorkflowExecutionStatus.COMPLETED
    assert description.history_length < 20


async def test_numbers_continue_above_the_one_in_the_store(temporal_address: str) -> None:
    """A workflow that is new, as after a loss of Temporal's data, learns the number from the first slice."""
    numbers: list[int] = []

    def end(request: SliceRequest, _: int) -> SliceEnded:
        numbers.append(request.slice)
        return SliceEnded(SliceReason.FENCED, 41) if request.slice < 41 else GONE

    async with slices_of(temporal_address, "seeded", end) as client:
        await run(client, "seeded")
    assert numbers == [1, 42]


async def test_a_failed_slice_is_repeated_with_a_greater_token(temporal_address: str) -> None:
    """The repetition of a slice has the same number and the next attempt."""
    tokens: list[tuple[int, int]] = []

    def end(request: SliceRequest, attempt: int) -> SliceEnded:
        tokens.append((request.slice, attempt))
        if attempt < 3:
            raise stated("UnreachableError")
        return GONE

    async with slices_of(temporal_address, "repeated", end) as client:
        await run(client, "repeated")
    assert tokens == [(1, 1), (1, 2), (1, 3)]
