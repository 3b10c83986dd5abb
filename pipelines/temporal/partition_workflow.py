"""The workflow of a partition: one slice after the other, with ever greater numbers. No user data enters Temporal.

It does no more than schedule slices. The number of the slice is the first part of the owner's token; the workflow keeps
it through continue-as-new, and raises it above the number in the store whenever a slice finds a greater one. So a new
workflow, which starts at 1, learns the number from the store in its first slice.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

from amends.pipelines.runtime.partition_work import OwnedKind
from amends.pipelines.temporal.ownership import SliceEnded, SliceReason, pause_before_next

__all__ = ["SLICE", "WORKFLOW", "PartitionArguments", "PartitionWorkflow", "SliceRequest"]

WORKFLOW = "amends/partition"
"""Workflow type of partitions."""

SLICE = "amends/slice"
"""Activity type of slices."""

# Far above the longest outage of Temporal: an owner goes on during an outage, and its slice must not time out.
_LONGEST = timedelta(days=30)
_SLICES = 200


@dataclass(frozen=True, slots=True)
class PartitionArguments:
    """The only argument of a partition's workflow.

    Attributes:
        kind: Whether it is a partition of a pipeline or of a relay.
        name: Name of the pipeline or relay.
        partition: The partition.
        store_id: The store; workers on another store refuse the slices.
        heartbeat_s: As `Ownership.heartbeat`, in seconds.
        retry_s: As `Ownership.retry`, in seconds.
        slice: Number of the next slice.
    """

    kind: OwnedKind
    name: str
    partition: str
    store_id: str
    heartbeat_s: float
    retry_s: float
    slice: int = 1


@dataclass(frozen=True, slots=True)
class SliceRequest:
    """The argument of a slice.

    Attributes:
        kind: As in `PartitionArguments`.
        name: As in `PartitionArguments`.
        partition: As in `PartitionArguments`.
        store_id: As in `PartitionArguments`.
        slice: Number of the slice.
    """

    kind: OwnedKind
    name: str
    partition: str
    store_id: str
    slice: int


@workflow.defn(name=WORKFLOW, sandboxed=False)
class PartitionWorkflow:
    """Runs the slices of a partition, for as long as the partition exists."""

    @workflow.run
    async def run(self, arguments: PartitionArguments) -> None:
        """Run slices; return when the source has no such partition any more."""
        number, before = arguments.slice, SliceReason.OVER
        for _ in range(_SLICES):
            ended = await _run_slice(arguments, number)
            if ended.reason is SliceReason.GONE:
                return
            number = max(number, ended.stored_slice) + 1
            pause_s = pause_before_next((before, ended.reason))
            if pause_s:
                await asyncio.sleep(pause_s)
            before = ended.reason
        workflow.continue_as_new(replace(arguments, slice=number))


async def _run_slice(arguments: PartitionArguments, number: int) -> SliceEnded:
    ended: SliceEnded = await workflow.execute_activity(
        SLICE,
        SliceRequest(arguments.kind, arguments.name, arguments.partition, arguments.store_id, number),
        result_type=SliceEnded,
        start_to_close_timeout=_LONGEST,
        heartbeat_timeout=timedelta(seconds=arguments.heartbeat_s),
        # Flat, because attempts are counted until a slice completes: after many lost owners a growing delay would keep
        # the partition without one.
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=arguments.retry_s), backoff_coefficient=1),
    )
    return ended
