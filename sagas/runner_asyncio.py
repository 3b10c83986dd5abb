"""The in-process runner: drives runs inside one process, without Temporal.

It is the reference for every other driver: the same plan, `decide` and journal, an injected clock, and nothing in
between. It carries unit tests, exhaustive verification and places where a durable scheduler is not wanted; a run that
its process did not finish goes on with `resume`.

A claim that this runner did not make is waited for until its lease ends by the runner's clock. Meanwhile the runner
looks at the journal twice a second, so that it notices at once when another process records the answer. A run that
another driver takes over is given up when the calls that are under way have been settled.

A store that goes away is waited for, with the outcomes of the calls in hand, so an outage uses up no attempt of a step;
when it lasts longer than the runner's patience, the call ends with `UnreachableError`, and the run stays open.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Self, TypeVar
from uuid import uuid4

from amends.aggregates.errors import NotFoundError, UnreachableError, WrongDriverError
from amends.aggregates.journal import Journal, RunQuery, Tx, Unit
from amends.aggregates.journal_sql import open_journal
from amends.aggregates.record import RunRecord
from amends.aggregates.state import OPEN, NodeStatus
from amends.sagas.advance import Protocol, next_due_ms, work_due
from amends.sagas.clock_asyncio import Clock, SystemClock
from amends.sagas.decide import decide
from amends.sagas.invoke_asyncio import call_effect
from amends.sagas.operate import Intervention, Verb
from amends.sagas.outcome import Outcome
from amends.sagas.registry import Registry
from amends.sagas.result import RunResult
from amends.sagas.saga import Saga
from amends.sagas.start import prepare_start
from amends.sagas.task import Direction, Task

__all__ = ["DRIVER", "Runner"]

I = TypeVar("I")  # noqa: E741 - the input, as in every signature here
T = TypeVar("T")

DRIVER = "in-process"
_PAGE = 200
_PATIENCE = timedelta(minutes=2)
_LOOK_S = 0.5
_CLAIMED = frozenset({NodeStatus.STARTED, NodeStatus.UNDO_STARTED})


@dataclass(slots=True)
class _Drive:
    """A run that is being driven: what makes it look at the journal, its end, and how many wait for it."""

    waker: asyncio.Event
    task: asyncio.Task[RunRecord]
    waiting: int = 0


class Runner:
    """Runs sagas in this process.

    Args:
        journal: Where facts are written.
        registry: The sagas and steps.
        clock: Where time comes from.
        worker: Name under which nodes are claimed.
        actor: Who starts runs, unless said otherwise.
        patience: How long to wait for a store that is away.
    """

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        *,
        clock: Clock | None = None,
        worker: str = DRIVER,
        actor: str = DRIVER,
        patience: timedelta = _PATIENCE,
    ) -> None:
        registry.catalog  # noqa: B018 - faults of the whole catalog are raised before anything runs
        self._journal = journal
        self._registry = registry
        self._clock = clock or SystemClock()
        self._protocol = Protocol(registry, worker, DRIVER)
        self._actor = actor
        self._patience = patience
        self._drives: dict[str, _Drive] = {}

    @classmethod
    def open(cls, sagas: Iterable[Saga[Any]], *, store_url: str = "sqlite://", clock: Clock | None = None) -> Self:
        """Make a runner with a store of its own, to be used as `async with Runner.open(...) as runner`.

        Args:
            sagas: The sagas.
            store_url: The store, as an SQLAlchemy URL; by default one in memory.
            clock: Where time comes from.

        Raises:
            DefinitionError: The sagas have a fault.
            UnreachableError: The store cannot be reached.
        """
        return cls(open_journal(store_url), Registry(sagas), clock=clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._journal.close()

    @property
    def journal(self) -> Journal:
        """The store."""
        return self._journal

    async def run(self, saga: Saga[I], input: I, *, id: str | None = None) -> RunResult:  # noqa: A002
        """Accept a run and drive it to its end.

        Args:
            saga: The saga.
            input: Its input.
            id: Id of the run; the same id and input give the same run. `None` makes a new one.

        Raises:
            InputError: The id or the input cannot be accepted.
            StartConflictError: The id is taken by another saga or another input.
            UnreachableError: The store was away for longer than the runner waits; a run that is accepted stays open.
        """
        run_id = id or uuid4().hex
        start = prepare_start(self._registry, saga, input, run_id=run_id, driver=DRIVER, actor=self._actor)
        now_ms = self._clock.now_ms()

        def begin(tx: Tx) -> tuple[RunRecord, tuple[Task, ...]]:
            self._protocol.accept(tx, start, now_ms)
            return self._step(tx, run_id, now_ms)

        if run_id in self._drives:  # whether it is the same start is still to be seen
            await self._commit(lambda tx: self._protocol.accept(tx, start, now_ms), run_id)
        return RunResult(await self._shared(run_id, begin))

    async def resume(self, run_id: str) -> RunResult:
        """Drive a run that was accepted earlier to its end.

        Claims of a process that is gone are waited for until they end by themselves.

        Raises:
            NotFoundError: There is no such run.
        """
        now_ms = self._clock.now_ms()
        return RunResult(await self._shared(run_id, lambda tx: self._step(tx, run_id, now_ms)))

    async def resume_all(self) -> list[RunResult]:
        """Drive every unfinished run of this driver to its end, one after the other."""
        finished: list[RunResult] = []
        last: str | None = None
        while page := await self._journal.runs(RunQuery(statuses=OPEN, limit=_PAGE, before=last)):
            last = page[-1].run_id
            finished += [await self.resume(row.run_id) for row in page if row.driver == DRIVER]
        return finished

    async def intervene(self, run_id: str, intervention: Intervention, *, position: int | None = None) -> RunResult:
        """Write down what an operator decided about a run.

        A run that this runner drives at the moment takes notice at once; another one goes on with `resume`.

        Args:
            run_id: The run.
            intervention: What was decided.
            position: Position of the run that the operator looked at; `None` when it does not matter.

        Raises:
            NotFoundError: There is no such run.
            RefusedError: It does not fit the run; nothing was written.
            BusyError: The node is being worked on; nothing was written.
            InputError: Reason, evidence or output are missing or wrong; nothing was written.
        """
        now_ms = self._clock.now_ms()
        record = await self._journal.commit(
            lambda tx: self._protocol.intervene(tx, run_id, intervention, now_ms, position=position), runs=(run_id,)
        )
        if run_id in self._drives:
            self._drives[run_id].waker.set()
        return RunResult(record)

    async def cancel(self, run_id: str, reason: str) -> RunResult:
        """Ask for a run to be undone; nothing happens when it is being undone, or was.

        Raises:
            NotFoundError: There is no such run.
            RefusedError: It has passed its pivot, or has completed.
        """
        return await self.intervene(run_id, Intervention(verb=Verb.CANCEL, actor=self._actor, reason=reason))

    async def take_over(self, run_id: str, reason: str) -> RunResult:
        """Drive a run of another driver to its end, which must not advance it any more.

        Raises:
            NotFoundError: There is no such run.
            TransitionError: The run has ended.
        """
        now_ms = self._clock.now_ms()
        anybody = replace(self._protocol, driver=None)
        await self._journal.commit(
            lambda tx: anybody.take_over(tx, run_id, DRIVER, now_ms, actor=self._actor, reason=reason), runs=(run_id,)
        )
        return await self.resume(run_id)

    async def result(self, run_id: str) -> RunResult:
        """Read how a run stands.

        Raises:
            NotFoundError: There is no such run.
        """
        record = await self._journal.record(run_id)
        if record is None:
            raise NotFoundError(f"no run has the id {run_id!r} in this store")
        return RunResult(record)

    async def _commit(self, unit: Unit[T], run_id: str) -> T:
        return await self._journal.commit(unit, runs=(run_id,), patience=self._patience)

    def _step(
        self, tx: Tx, run_id: str, now_ms: int, asked: frozenset[str] = frozenset()
    ) -> tuple[RunRecord, tuple[Task, ...]]:
        return self._protocol.claim_all(tx, self._protocol.advance(tx, run_id, now_ms), now_ms, asked)

    def _settle(
        self, tx: Tx, task: Task, outcome: Outcome, now_ms: int, asked: frozenset[str]
    ) -> tuple[RunRecord, tuple[Task, ...]]:
        record = self._protocol.settle_and_follow(tx, task, outcome, now_ms)
        return self._protocol.claim_all(tx, record, now_ms, asked)

    async def _shared(self, run_id: str, begin: Unit[tuple[RunRecord, tuple[Task, ...]]]) -> RunRecord:
        """Drive a run to its end, together with whoever waits for it already; it is given up with the last of them."""
        drive = self._drives.get(run_id)
        if drive is None:
            waker = asyncio.Event()
            drive = self._drives[run_id] = _Drive(waker, asyncio.create_task(self._drive(run_id, begin, waker)))
        drive.waiting += 1
        try:
            return await asyncio.shield(drive.task)
        finally:
            drive.waiting -= 1
            if self._drives.get(run_id) is drive and (drive.task.done() or not drive.waiting):
                del self._drives[run_id]
            if not drive.waiting and not drive.task.done():
                drive.task.cancel()
                await asyncio.wait([drive.task])

    async def _drive(
        self, run_id: str, begin: Unit[tuple[RunRecord, tuple[Task, ...]]], waker: asyncio.Event
    ) -> RunRecord:
        record, tasks = await self._commit(begin, run_id)
        calls: dict[asyncio.Task[Outcome], Task] = {}
        try:
            while True:
                for task in tasks:
                    calls[asyncio.create_task(call_effect(self._registry, task))] = task
                if record.state.closed and not calls:
                    return record
                record, tasks = await self._next(record, calls, waker)
        finally:
            for call in calls:
                call.cancel()

    async def _next(
        self, record: RunRecord, calls: dict[asyncio.Task[Outcome], Task], waker: asyncio.Event
    ) -> tuple[RunRecord, tuple[Task, ...]]:
        """Wait for the first answer or the next due time, and write down what follows from it."""
        now_ms = self._clock.now_ms()
        asked = frozenset(task.node for task in calls.values() if task.direction is Direction.PROBE)
        # Whoever made a call settles it, also when the run is closed, or taken over, without its answer.
        answers_only = bool(calls) and (record.state.closed or not self._protocol.drives(record))
        if answers_only or not work_due(record, now_ms, asked):
            due_ms = None if answers_only else next_due_ms(decide(record.state, now_ms))
            async with self._watching(record, calls.values(), waker):
                await self._wait(waker, calls, due_ms)
            now_ms = self._clock.now_ms()
            call = next((each for each in calls if each.done()), None)
            if call is not None:
                task, outcome = calls.pop(call), call.result()
                still = frozenset(each.node for each in calls.values() if each.direction is Direction.PROBE)
                return await self._commit(lambda tx: self._settle(tx, task, outcome, now_ms, still), record.run_id)
        try:
            return await self._commit(lambda tx: self._step(tx, record.run_id, now_ms, asked), record.run_id)
        except WrongDriverError:
            if not calls:
                raise
            return await self._journal.record(record.run_id) or record, ()

    @asynccontextmanager
    async def _watching(self, record: RunRecord, own: Collection[Task], waker: asyncio.Event) -> AsyncIterator[None]:
        """Look at the journal meanwhile where somebody else may write an answer to it."""
        claimed = {name for name, at in record.state.nodes.items() if at.status in _CLAIMED}
        if record.epoch == 1 and claimed <= {task.node for task in own}:
            yield
            return
        watch = asyncio.create_task(self._watch(record, waker))
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.wait([watch])

    async def _watch(self, record: RunRecord, waker: asyncio.Event) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            with suppress(UnreachableError):
                present = await self._journal.record(record.run_id)
                if present is not None and present.state.position > record.state.position:
                    waker.set()

    async def _wait(self, waker: asyncio.Event, calls: dict[asyncio.Task[Outcome], Task], due_ms: int | None) -> None:
        woken = asyncio.create_task(waker.wait())
        try:
            await self._clock.wait(calls, due_ms, woken)
        finally:
            waker.clear()
            woken.cancel()
