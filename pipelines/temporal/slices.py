"""The activity that owns a partition for a slice of time.

The work runs in a task of its own, so that a cancellation by Temporal never interrupts a batch; `ownership.py` decides
whether the owner obeys it. How it can fail: while the store or the source is away, the owner waits with growing pauses
and keeps the partition until its slice is over; any other error is logged here, and Temporal repeats the slice after a
short, constant delay, on any worker.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from temporalio import activity
from temporalio.activity import ActivityCancellationDetails

from amends.aggregates.errors import AmendsError
from amends.aggregates.intake import Token
from amends.pipelines.runtime.partition_work import FencedError, OwnedWork
from amends.pipelines.source import SourceSetupError
from amends.pipelines.temporal.ownership import Ownership, SliceEnded, SliceReason, Withdrawal, reason_to_stop
from amends.pipelines.temporal.partition_workflow import SLICE, SliceRequest
from amends.sagas.runtime.error_log import ErrorLog
from amends.sagas.temporal.failures import stated, travelling

__all__ = ["OwnedPartition", "Slices"]

_LOOK_S = 1.0
_IDLE_S = 1.0
_BACK_OFF_S = 0.5
_BACK_OFF_LONGEST_S = 30.0
# Longer than an attempt to reach a source takes, which fails only at its end.
_HEALTHY_S = 30.0

_log = logging.getLogger("amends.worker")


@dataclass(frozen=True, slots=True)
class OwnedPartition:
    """A partition that this process owns now.

    Attributes:
        partition: The partition.
        token: The owner's token.
        since_s: Start of the slice, in seconds of `time.monotonic`.
    """

    partition: str
    token: Token
    since_s: float


class Slices:
    """The activity of the worker of one pipeline or relay.

    Args:
        owned: The pipeline or relay.
        store_id: The store of this process.
        temporal_answers: Returns whether Temporal can accept the end of a workflow's slice now; called with its id.
        temporal_was_away: Returns whether Temporal may have been away in the last half minute.
        ownership: The times.
        errors: The log of errors.
    """

    def __init__(
        self,
        owned: OwnedWork,
        *,
        store_id: str,
        temporal_answers: Callable[[str], Awaitable[bool]],
        temporal_was_away: Callable[[], bool],
        ownership: Ownership,
        errors: ErrorLog,
    ) -> None:
        self.owned = owned
        self.store_id = store_id
        self.temporal_answers = temporal_answers
        self.temporal_was_away = temporal_was_away
        self.ownership = ownership
        self.errors = errors
        self._own: dict[bytes, OwnedPartition] = {}
        self._said: dict[str, str] = {}

    def current(self) -> list[OwnedPartition]:
        """List the partitions that this process owns now."""
        return list(self._own.values())

    def all(self) -> list[Callable[..., Any]]:
        """Return every activity that this worker can run."""

        async def slice_of_time(request: SliceRequest) -> SliceEnded:
            info = activity.info()
            if request.store_id != self.store_id:
                self.report(
                    request.partition,
                    f"its workflow belongs to store {request.store_id}, this worker writes to store {self.store_id}; "
                    f"terminate workflow {info.workflow_id} in Temporal, or use a namespace for each store",
                )
                raise stated("WrongStoreError")
            token = Token(request.slice, info.attempt)
            self._own[info.task_token] = OwnedPartition(request.partition, token, time.monotonic())
            try:
                return await _Slice(self, request.partition, token).run()
            except AmendsError as error:
                failure = travelling(error)
                self.report(request.partition, self.errors.line(error))
            except Exception as error:  # noqa: BLE001 - the text of an error must not leave this process
                failure = travelling(error)
                self.errors.raised(f"{self.owned.kind} {self.owned.name!r} partition {request.partition!r}", error)
            finally:
                del self._own[info.task_token]
            # Raised outside of the block, so that the error is not its context.
            raise failure

        return [activity.defn(name=SLICE)(slice_of_time)]

    def report(self, partition: str, problem: str | None) -> None:
        """Log the problem of a partition once, and its end; `None` is no problem."""
        before = self._said.pop(partition, None)
        where = f"{self.owned.kind} {self.owned.name!r} partition {partition!r}"
        if problem is not None:
            self._said[partition] = problem
            if problem != before:
                _log.warning("%s: %s", where, problem)
        elif before is not None:
            _log.warning("%s continues", where)


class _Slice:
    """One slice.

    Args:
        slices: The parts of the process.
        partition: The partition.
        token: The owner's token.
    """

    def __init__(self, slices: Slices, partition: str, token: Token) -> None:
        self._slices = slices
        self._partition = partition
        self._token = token
        self._info = activity.info()
        self._ends_s = time.monotonic() + slices.ownership.slice.total_seconds()
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()
        self._reason = SliceReason.OVER
        self._withdrawal: Withdrawal | None = None

    async def run(self) -> SliceEnded:
        """Work until the end of the slice, and return its result."""
        work = asyncio.create_task(self._work())
        others = [asyncio.create_task(each()) for each in (self._mind, self._beat, self._notice_shutdown)]
        try:
            await self._outlast(work)
        finally:
            for task in (work, *others):
                task.cancel()
            await asyncio.gather(work, *others, return_exceptions=True)
        if self._reason is SliceReason.CANCELLED:
            raise asyncio.CancelledError
        return work.result()

    async def _outlast(self, work: "asyncio.Task[SliceEnded]") -> None:
        """Wait for the end of the work, whatever Temporal wants; only the end of the process interrupts the wait."""
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError:
                details, task = activity.cancellation_details(), asyncio.current_task()
                if details is None or self._withdrawal is not None or task is None:
                    raise
                task.uncancel()
                self._withdrawal = _withdrawal(details)
                self._changed.set()

    async def _work(self) -> SliceEnded:
        pause_s = _BACK_OFF_S
        while True:
            began_s = time.monotonic()
            try:
                fenced = await self._work_once()
                if fenced is not None or self._stop.is_set():
                    return fenced or SliceEnded(self._reason)
                # The pipeline is paused, for example; a resumed one must not wait for the next slice.
                await _set_within(self._stop, _IDLE_S)
                continue
            except AmendsError as error:
                if isinstance(error, SourceSetupError) and await self._gone():
                    return SliceEnded(SliceReason.GONE)
                self._slices.report(self._partition, self._slices.errors.line(error))
            if time.monotonic() - began_s > _HEALTHY_S:
                pause_s = _BACK_OFF_S
            if await _set_within(self._stop, pause_s):
                return SliceEnded(self._reason)
            pause_s = min(pause_s * 2, _BACK_OFF_LONGEST_S)

    async def _work_once(self) -> SliceEnded | None:
        """Work until the request to stop, or until there is nothing to do; return the end if another owner is found."""
        owned = self._slices.owned
        healthy = asyncio.create_task(self._report_health())
        try:
            await owned.work.run(self._partition, self._token, stop=self._stop, seconds=None)
        except FencedError:
            stored = await owned.stored_token(self._partition)
            return SliceEnded(SliceReason.FENCED, stored.slice if stored is not None else 0)
        finally:
            healthy.cancel()
        return None

    async def _report_health(self) -> None:
        """Report that a partition with a problem continues, once its work has not failed for a while."""
        await asyncio.sleep(_HEALTHY_S)
        self._slices.report(self._partition, None)

    async def _gone(self) -> bool:
        """Check whether the source has no such partition any more."""
        try:
            return self._partition not in await self._slices.owned.partitions()
        except AmendsError:
            return False

    async def _mind(self) -> None:
        """Request the end of the work when the rules want it."""
        while True:
            over = self._withdrawal is None and time.monotonic() >= self._ends_s
            over = over and await self._slices.temporal_answers(self._info.workflow_id or "")
            reason = reason_to_stop(
                self._withdrawal,
                shuts_down=activity.is_worker_shutdown(),
                temporal_was_away=self._slices.temporal_was_away(),
                over=over,
            )
            if reason is not None:
                self._reason = reason
                self._stop.set()
                return
            self._changed.clear()
            left_s = self._ends_s - time.monotonic()
            await _set_within(self._changed, left_s if left_s > 0 and self._withdrawal is None else _LOOK_S)

    async def _beat(self) -> None:
        every_s = self._slices.ownership.heartbeat.total_seconds() / 3
        if self._info.heartbeat_timeout is not None:
            every_s = self._info.heartbeat_timeout.total_seconds() / 3
        while self._withdrawal is None:
            activity.heartbeat()
            await asyncio.sleep(every_s)

    async def _notice_shutdown(self) -> None:
        await activity.wait_for_worker_shutdown()
        self._changed.set()


def _withdrawal(details: ActivityCancellationDetails) -> Withdrawal:
    ordered = details.cancel_requested or details.paused or details.reset or details.worker_shutdown
    return Withdrawal.ORDERED if ordered else Withdrawal.GIVEN_UP


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
