"""The work of one owner on one partition, from its claim to the end of its slice of time.

It takes as many messages at once as fit the time for which a batch may hold the writer's lock. It takes none while the
pipeline is paused, while too many runs are open, and while the store or the source does not answer.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from amends.aggregates.errors import UnreachableError
from amends.aggregates.intake import Position, Token
from amends.aggregates.journal import Journal, Tx
from amends.aggregates.run.facts import run_of
from amends.pipelines.control.state import PipelineControl, PipelineState, state_in
from amends.pipelines.intake.arrival import Arrival, Prepare, arrive
from amends.pipelines.intake.flow import BatchSize, Breaker
from amends.pipelines.intake.remember import bucket_of, seal_before
from amends.pipelines.runtime import control_units
from amends.pipelines.runtime.capacity import Room, held_too_many
from amends.pipelines.runtime.held_units import Released, work_off
from amends.pipelines.runtime.intake_unit import (
    Batch,
    MovedError,
    PausedError,
    Taken,
    present_position,
    running_state,
    take,
    unmoved_position,
)
from amends.pipelines.runtime.message_work import IntakeParts, TrippedError
from amends.pipelines.runtime.slice_end import EndKind, SliceEnd
from amends.pipelines.source import (
    FROM_START,
    PartitionReader,
    RawMessage,
    Read,
    SourceConnection,
    SourceReplacedError,
    SourceSetupError,
    Start,
)

__all__ = ["OnStarted", "PartitionSlice", "SliceParts"]

T = TypeVar("T")

OnStarted = Callable[[Sequence[str]], Awaitable[None]]
"""Function that drives the runs with these ids, or has their driver do so; a run may come more than once."""

MAX_BYTES = 16 * 1024 * 1024
"""Largest content of one batch in total."""
_READ_WAIT = timedelta(milliseconds=200)
_IDLE_CHECK_S = 5.0
_BUSY_WAIT_S = 0.2
_RETRY_FIRST_S, _RETRY_LONGEST_S = 0.1, 5.0

_log = logging.getLogger("amends.pipelines")


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceParts:
    """The parts that all slices of a pipeline share.

    Attributes:
        journal: The store.
        source: The open connection to the source.
        intake: The parts of its units.
        prepare: Prepares the work of a message; `None` if handlers take the content as it is.
        on_started: Drives started runs.
        breaker: The failures of all partitions.
    """

    journal: Journal
    source: SourceConnection
    intake: IntakeParts
    prepare: Prepare | None
    on_started: OnStarted
    breaker: Breaker

    def arrive(self, messages: Sequence[RawMessage]) -> list[Arrival]:
        """Return messages, decoded and prepared."""
        pipeline, prepare = self.intake.pipeline, self.prepare
        return [arrive(pipeline, each, prepare) for each in messages]


class PartitionSlice:
    """Works on one partition for one owner.

    Args:
        parts: The parts of the pipeline.
        partition: The partition.
        token: The claim.
        size: The size of batches, which the slice adapts.
        stop: Set by the owner to end the slice.
        seconds: Time after which it ends; `None` for no bound.
        until_end: Whether it ends when it has taken every message of the source.
    """

    def __init__(
        self,
        parts: SliceParts,
        partition: str,
        token: Token,
        size: BatchSize,
        *,
        stop: asyncio.Event,
        seconds: float | None,
        until_end: bool,
    ) -> None:
        self._parts = parts
        self._journal = parts.journal
        self._pipeline = parts.intake.pipeline
        self._name = parts.intake.pipeline.name
        self._partition = partition
        self._token = token
        self._size = size
        self._stop = stop
        self._until_s = None if seconds is None else time.monotonic() + seconds
        self._until_end = until_end
        self._room = Room(parts.journal, self._pipeline)
        self._position: Position | None = None
        self._messages = 0
        self._retry_s = _RETRY_FIRST_S
        self._checked_s = time.monotonic()
        # After the breaker has tripped: the number of messages before the fault, which are still taken.
        self._rest: tuple[int, str] | None = None
        self._tidy_bucket = 0
        # Whether the partition may have deferred messages that wait for their turn.
        self._deferred = self._pipeline.when_busy == "defer"

    async def run(self) -> SliceEnd:
        """Read and commit messages until the end of the slice.

        Raises:
            FencedError: The store has another token for the partition.
            SourceSetupError: The source has no such partition, or refuses the credentials.
        """
        while True:
            try:
                return await self._attempt()
            except MovedError:
                continue
            except UnreachableError as error:
                if self._retry_s == _RETRY_FIRST_S:
                    _log.warning("pipeline %s partition %s waits: %s", self._name, self._partition, error)
                await self._sleep(self._retry_s)
                self._retry_s = min(self._retry_s * 2, _RETRY_LONGEST_S)
                if (kind := self._over()) is not None:
                    return self._end(kind)

    async def _attempt(self) -> SliceEnd:
        """Claim the partition, and take messages until the end of the slice or the first surprise."""
        state = await self._state()
        if state.paused is not None:
            return self._end(EndKind.PAUSED, state.paused.reason)
        position = await self._commit(lambda tx: control_units.claim(tx, self._name, self._partition, self._token))
        try:
            reader = await self._open(position)
        except SourceReplacedError as error:
            return await self._replaced(error)
        try:
            self._position = position or await self._begin(reader)
            if self._partition in state.replaced:
                await self._commit(lambda tx: control_units.use_restored(tx, self._parts.intake, self._partition))
            await self._drive_last(self._position)
            return await self._take_all(reader)
        except SourceReplacedError as error:
            return await self._replaced(error)
        except PausedError as error:
            return self._end(EndKind.PAUSED, str(error))
        finally:
            await reader.close()

    # ---- beginning

    async def _state(self) -> PipelineState:
        return state_in(await self._journal.load(PipelineControl, self._name))

    async def _open(self, position: Position | None) -> PartitionReader:
        start = FROM_START
        if position is not None:
            start = Start(next=position.next, cursor=position.cursor, incarnation=position.incarnation)
        return await self._parts.source.open(self._partition, start)

    async def _begin(self, reader: PartitionReader) -> Position:
        first = reader.first
        position = Position(
            first=first,
            next=first,
            cursor="",
            incarnation=reader.incarnation,
            epoch=0,
            token=self._token,
            highest=first,
        )
        begun = await self._commit(lambda tx: control_units.begin(tx, self._name, self._partition, position))
        if begun.next != first:
            raise MovedError(f"partition {self._partition!r} of {self._name!r} was begun at position {begun.next}")
        return begun

    async def _replaced(self, error: SourceReplacedError) -> SliceEnd:
        parts, partition = self._parts.intake, self._partition
        await self._commit(
            lambda tx: control_units.stop_replaced(tx, parts, partition, expected=error.expected, found=error.found)
        )
        return self._end(EndKind.PAUSED, str(error))

    async def _drive_last(self, position: Position) -> None:
        """Drive the runs of the last batch, because its owner may have ended between its commit and this call."""
        if self._parts.prepare is None or not position.batch:
            return
        started = await asyncio.to_thread(self._started_last, position.batch)
        if started:
            await self._parts.on_started(started)

    def _started_last(self, number: int) -> list[str]:
        rows = self._journal.intake.batches(self._name, self._partition, after=number - 1, limit=1)
        if not rows or not rows[0].first_event:
            return []
        first, last = rows[0].first_event, rows[0].last_event
        events = self._journal.notifications_blocking(first - 1, last - first + 1)
        runs = [run_of(str(each.originator_id)) for each in events if each.originator_version == 1 and each.id <= last]
        return [each for each in runs if each is not None]

    # ---- taking messages

    async def _take_all(self, reader: PartitionReader) -> SliceEnd:
        while (kind := self._over()) is None:
            limit, deferring = await self._limit()
            if self._deferred and not deferring and limit:
                await self._work_off(limit)
                continue
            if not limit:
                await reader.pause()
                await self._sleep(_BUSY_WAIT_S)
                await self._check_claim()
                continue
            wait = timedelta(0) if self._until_end else _READ_WAIT
            read = await reader.read(limit, max_bytes=MAX_BYTES, wait=wait)
            if read.next > self._at.next:
                await self._take(read, reader, deferring=deferring)
            elif self._until_end and await reader.end() <= self._at.next:
                kind = EndKind.END
                break
            else:
                await self._check_claim(idle=True)
        return self._end(kind)

    async def _limit(self) -> tuple[int, bool]:
        """Return the number of messages to take next, and whether to defer them."""
        most, deferring = self._size.size, False
        if self._rest is not None:
            rest, reason = self._rest
            if not rest:
                await self._pause(reason)
            most = min(most, rest)
        room = await self._room.left()
        if room is not None and room < most:
            if self._pipeline.when_busy == "defer" and not room:
                deferring = True
                most = min(most, await self._room.deferrable())
            else:
                most = room
        return most, deferring

    async def _take(self, read: Read, reader: PartitionReader, *, deferring: bool) -> None:
        if read.first != self._at.next and read.lost is None:
            raise SourceSetupError(
                f"the source of pipeline {self._name!r} returned position {read.first} of partition "
                f"{self._partition!r}, but {self._at.next} was asked for; report this as a fault of the source"
            )
        arrivals = _Arrivals(self._parts, read.messages, await asyncio.to_thread(self._parts.arrive, read.messages))
        batch = Batch(
            partition=self._partition,
            expected=self._at,
            read=read,
            arrivals=arrivals,
            breaker=self._parts.breaker,
            deferring=deferring,
        )
        began = 0.0

        def unit(tx: Tx) -> Taken:
            nonlocal began
            began = time.perf_counter()
            return take(tx, self._parts.intake, batch)

        try:
            taken = await self._commit(unit)
        except TrippedError as error:
            before = sum(1 for each in read.messages if each.position < error.position)
            self._rest = (before, str(error))
            raise MovedError(str(error)) from None
        held_ms = (time.perf_counter() - began) * 1000
        await self._after(taken, len(read.messages), held_ms, reader)

    async def _after(self, taken: Taken, messages: int, held_ms: float, reader: PartitionReader) -> None:
        self._position = taken.position
        self._messages += messages
        self._retry_s = _RETRY_FIRST_S
        self._size.learn(messages, work_ms=taken.work_ms, held_ms=held_ms)
        self._deferred = self._deferred or taken.row.counts.deferred > 0
        self._parts.breaker.record(taken.failures, taken.readable, self._parts.intake.now_ms())
        if self._rest is not None:
            self._rest = (max(0, self._rest[0] - messages), self._rest[1])
        if taken.started:
            self._room.used(len(taken.started))
            await self._parts.on_started(taken.started)
        await reader.acknowledge(taken.position.next)
        if taken.row.counts.set_aside:
            reason = await asyncio.to_thread(held_too_many, self._journal, self._pipeline, taken.held)
            if reason:
                await self._pause(reason)
        await self._tidy(taken.row.recorded_at_ms)

    async def _work_off(self, limit: int) -> None:
        """Apply deferred messages of the partition, in order, before new ones are read."""
        parts, partition = self._parts, self._partition

        def unit(tx: Tx) -> tuple[Released, Position]:
            present_position(tx.intake, self._name, partition, self._token)
            running_state(tx, self._name, partition)
            released = work_off(tx, parts.intake, parts.arrive, partition=partition, limit=limit)
            return released, present_position(tx.intake, self._name, partition, self._token)

        released, self._position = await self._commit(unit)
        self._deferred = released.more
        if released.started:
            self._room.used(len(released.started))
            await parts.on_started(released.started)

    async def _pause(self, reason: str) -> None:
        """Pause the pipeline, and end the slice.

        Raises:
            PausedError: Always.
        """
        await self._commit(lambda tx: control_units.pause(tx, self._parts.intake, reason))
        self._parts.breaker.reset()
        _log.warning("pipeline %s is paused: %s", self._name, reason)
        raise PausedError(reason)

    async def _check_claim(self, *, idle: bool = False) -> None:
        """Check now and then that the partition is still this owner's, because an idle one commits nothing.

        Raises:
            FencedError: The store has another token.
            MovedError: An operator has moved the position.
        """
        if time.monotonic() - self._checked_s < _IDLE_CHECK_S:
            return
        self._checked_s = time.monotonic()
        present = await asyncio.to_thread(unmoved_position, self._journal.intake, self._name, self._partition, self._at)
        if idle and self._pipeline_remembers:
            keep = self._pipeline.remember
            if bucket_of(self._parts.intake.now_ms(), keep) > bucket_of(present.reached_ms, keep):
                self._position = await self._commit(
                    lambda tx: control_units.reach(tx, self._name, self._partition, self._token)
                )
                await self._tidy(self._at.reached_ms)

    async def _tidy(self, now_ms: int) -> None:
        """Seal and drop buckets of ids, a part after each batch, until the present bucket is the only open one."""
        if not self._pipeline_remembers:
            return
        bucket = seal_before(now_ms or self._parts.intake.now_ms(), self._pipeline.remember)
        if bucket == self._tidy_bucket:
            return
        if not await self._commit(lambda tx: control_units.tidy(tx, self._parts.intake)):
            self._tidy_bucket = bucket

    # ---- helpers

    @property
    def _at(self) -> Position:
        """The position that this owner knows."""
        assert self._position is not None  # noqa: S101 - set before any message is taken
        return self._position

    @property
    def _pipeline_remembers(self) -> bool:
        return self._parts.prepare is None

    async def _commit(self, unit: Callable[[Tx], T]) -> T:
        return await self._journal.commit(unit)

    def _over(self) -> EndKind | None:
        if self._stop.is_set():
            return EndKind.STOPPED
        if self._until_s is not None and time.monotonic() >= self._until_s:
            return EndKind.TIME
        return None

    async def _sleep(self, seconds: float) -> None:
        """Wait, but no longer than to the request to stop or the end of the slice."""
        if self._until_s is not None:
            seconds = max(0.0, min(seconds, self._until_s - time.monotonic()))
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    def _end(self, kind: EndKind, reason: str = "") -> SliceEnd:
        return SliceEnd(kind=kind, reason=reason, position=self._position, messages=self._messages)


class _Arrivals:
    """The messages of a batch: those that are decoded already, then, if the unit runs again, decoded again."""

    def __init__(self, parts: SliceParts, messages: Sequence[RawMessage], first: list[Arrival]) -> None:
        self._parts = parts
        self._messages = messages
        self._first: list[Arrival] | None = first

    def __call__(self) -> Sequence[Arrival]:
        if self._first is None:
            return self._parts.arrive(self._messages)
        first, self._first = self._first, None
        return first
