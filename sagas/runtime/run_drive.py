"""Drive one run to its end in this process: claim, call, settle, wait.

A drive waits for a claim of another process until the lease ends by the clock. Meanwhile it reads the journal twice a
second, so that it soon notices when another process records the answer. If another driver takes the run over, the drive
settles its calls in flight and ends.

How it can fail: the store is away for longer than the runner's patience, or the loaded code cannot continue the run.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar

from amends.aggregates.errors import CannotContinueError, UnreachableError, WrongDriverError
from amends.aggregates.journal import Journal, Tx, Unit
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import CLAIMED, Direction
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.calls import EffectCall
from amends.sagas.engine.decide import decide
from amends.sagas.engine.due import next_due_ms, work_due
from amends.sagas.engine.outcome import Postponed
from amends.sagas.engine.protocol import Followed, RunProtocol
from amends.sagas.runtime.clock import Clock
from amends.sagas.runtime.effects import Begun, Reply, begin_call
from amends.sagas.runtime.seats import Seating
from amends.sagas.runtime.threads import Threads

__all__ = ["DriveParts", "RunDrive", "Step", "Stepped"]

T = TypeVar("T")

_LOOK_S = 0.5


class Stepped(NamedTuple):
    """A run after one unit.

    Attributes:
        record: The run.
        tasks: Calls that were claimed.
        waits: The reasons why the deployed code cannot do the rest of the due work.
    """

    record: RunRecord
    tasks: tuple[EffectCall, ...]
    waits: tuple[CannotContinueError, ...] = ()


Step = Callable[[Tx, Seating], Stepped]


@dataclass(frozen=True, slots=True)
class DriveParts:
    """The parts of a runner that all its drives share.

    Attributes:
        journal: The store of the facts.
        registry: The sagas and steps.
        protocol: The writing side of the runner.
        clock: The clock that the runner reads.
        threads: The threads for plain functions.
        patience: How long to wait for an unreachable store.
    """

    journal: Journal
    registry: Registry
    protocol: RunProtocol
    clock: Clock
    threads: Threads
    patience: timedelta

    async def commit(self, unit: Unit[T], run_id: str) -> T:
        """Commit a unit that writes to a run."""
        return await self.journal.commit(unit, runs=(run_id,), patience=self.patience)

    def step(self, tx: Tx, run_id: str, now_ms: int, seating: Seating, asked: frozenset[str] = frozenset()) -> Stepped:
        """Append all progress that needs no call, and claim the calls that are due.

        Args:
            tx: The unit's transaction.
            run_id: The run.
            now_ms: The runner's time.
            seating: The threads of the drive.
            asked: Nodes whose probe is in flight.
        """
        return self.claim_all(tx, self.protocol.follow(tx, run_id, now_ms), now_ms, seating, asked)

    def claim_all(self, tx: Tx, followed: Followed, now_ms: int, seating: Seating, asked: frozenset[str]) -> Stepped:
        """Claim the calls that are due; the arguments are those of `step`, after the progress."""
        record, tasks, waits = self.protocol.claim_all(tx, followed.record, now_ms, asked, can_begin=seating.can_begin)
        return Stepped(record, tasks, (*followed.waits, *waits))


class RunDrive:
    """One run on its way to its end.

    Args:
        parts: The parts of the runner.
        run_id: The run.
        keep: Settles the answer of a call when it comes, although the drive has ended.
    """

    def __init__(self, parts: DriveParts, run_id: str, keep: Callable[[Begun], None]) -> None:
        self._parts = parts
        self._keep = keep
        self._run_id = run_id
        self._waker = asyncio.Event()
        self._seating = Seating(parts.registry, parts.threads.seats, run_id)
        self._calls: dict[asyncio.Task[Reply], Begun] = {}

    def wake(self) -> None:
        """Wake the drive, so that it reads the journal now."""
        self._waker.set()

    async def to_end(self, begin: Step) -> RunRecord:
        """Drive the run to its end.

        Args:
            begin: The first unit of the drive.

        Raises:
            CannotContinueError: The loaded code cannot continue the run; all its calls are settled.
        """
        try:
            step = await self._claim(begin)
            while self._calls or not step.record.state.closed:
                if step.waits:
                    await self._settle_calls()
                    raise step.waits[0]
                step = await self._next(step.record)
            return step.record
        finally:
            self._seating.give_up()
            for reply, call in self._calls.items():
                reply.cancel()
                call.give_up()
                self._keep(call)

    async def _claim(self, unit: Step) -> Stepped:
        """Commit a unit, and start the calls that it has claimed."""

        def work(tx: Tx) -> Stepped:
            self._seating.begin()
            return unit(tx, self._seating)

        try:
            step = await self._parts.commit(work, self._run_id)
        except BaseException:
            self._seating.begin()
            raise
        for task, seat in self._seating.seat(step.tasks):
            call = begin_call(self._parts.registry, task, self._parts.threads, seat)
            self._calls[asyncio.create_task(call.reply())] = call
        return step

    async def _settle_calls(self) -> None:
        """Settle the calls in flight, and start no new ones."""
        while self._calls:
            await self._wait([*self._calls], None)
            for each in [each for each in self._calls if each.done()]:
                task, reply, now_ms = self._calls.pop(each).task, each.result(), self._parts.clock.now_ms()
                if reply.later is not None:
                    self._keep(reply.later)
                settle = partial(self._parts.protocol.settle, task=task, outcome=reply.outcome, now_ms=now_ms)
                await self._parts.commit(settle, task.run_id)

    async def _next(self, record: RunRecord) -> Stepped:
        """Wait for the first answer, a free thread or the next due time, and append the facts that follow."""
        now_ms, asked = self._parts.clock.now_ms(), self._asked()
        # The process that made a call settles it, even if the run was closed or taken over without its answer.
        answers_only = bool(self._calls) and (record.state.closed or not self._parts.protocol.drives(record))
        if answers_only or not work_due(record, now_ms, asked, self._seating.queued):
            due_ms = None if answers_only else next_due_ms(decide(record.state, now_ms))
            async with self._watching(record):
                await self._wait([*self._calls, *self._seating.pending], due_ms)
            now_ms = self._parts.clock.now_ms()
            ended = next((each for each in self._calls if each.done()), None)
            if ended is not None:
                return await self._settle(self._calls.pop(ended).task, ended.result(), now_ms)
        try:
            return await self._claim(lambda tx, seating: self._parts.step(tx, self._run_id, now_ms, seating, asked))
        except WrongDriverError:
            if not self._calls:
                raise
            return Stepped(await self._parts.journal.record(self._run_id) or record, ())

    async def _settle(self, task: EffectCall, reply: Reply, now_ms: int) -> Stepped:
        """Settle an answer, and claim the calls that are due now."""
        asked = self._asked()

        def settle(tx: Tx, seating: Seating) -> Stepped:
            followed = self._parts.protocol.settle_and_follow(tx, task, reply.outcome, now_ms)
            if isinstance(reply.outcome, Postponed):
                wait = reply.outcome.error(task.run_id, task.node)
                followed = followed._replace(waits=(wait, *followed.waits))
            return self._parts.claim_all(tx, followed, now_ms, seating, asked)

        try:
            return await self._claim(settle)
        finally:
            if reply.later is not None:
                self._keep(reply.later)

    def _asked(self) -> frozenset[str]:
        """Return the nodes whose probe is in flight."""
        return frozenset(call.task.node for call in self._calls.values() if call.task.direction is Direction.PROBE)

    @asynccontextmanager
    async def _watching(self, record: RunRecord) -> AsyncIterator[None]:
        """Read the journal repeatedly while the context lasts, if another process may write an answer to the run."""
        claimed = {name for name, at in record.state.nodes.items() if at.status in CLAIMED}
        if record.epoch == 1 and claimed <= {call.task.node for call in self._calls.values()}:
            yield
            return
        watch = asyncio.create_task(self._watch(record))
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.wait([watch])

    async def _watch(self, record: RunRecord) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            with suppress(UnreachableError):
                present = await self._parts.journal.record(record.run_id)
                if present is not None and present.state.position > record.state.position:
                    self._waker.set()

    async def _wait(self, pending: Collection[asyncio.Future[Any]], due_ms: int | None) -> None:
        woken = asyncio.create_task(self._waker.wait())
        try:
            await self._parts.clock.wait(pending, due_ms, woken)
        finally:
            self._waker.clear()
            woken.cancel()
