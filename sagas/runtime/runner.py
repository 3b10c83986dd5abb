"""The in-process runner: drives runs inside one process, without Temporal.

It is the reference for every other driver: the same plan, `decide` and journal, an injected clock, and no other layer.
Use it for unit tests, for exhaustive verification, and wherever you do not want a durable scheduler; `resume` continues
a run that its process did not finish.

The runner waits for a claim of another process until the lease ends by the runner's clock. Meanwhile it reads the
journal twice a second, so that it soon notices when another process records the answer. If another driver takes a run
over, the runner settles its calls in flight and then leaves the run.

If the store goes away, the runner waits and keeps the outcomes of its calls, so an outage uses up no attempt of a step.
If the outage lasts longer than the runner's patience, the call ends with `UnreachableError`, and the run stays open.

The runner claims a plain `def` only once it has a thread. While the runner is open, it records an answer after the
timeout as a late one.

A late answer can open a closed run again. If that happens in this process, by this runner or by a worker that records
the answer of a call from before a take-over, a runner that is open on the same journal drives the run to its end. The
runner does not search for such runs: use `resume` for a run that another process opened again.
"""

import asyncio
import logging
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, Literal, NamedTuple, Self, TypeVar
from uuid import uuid4

from amends.aggregates.errors import (
    AmendsError,
    CannotContinueError,
    NotFoundError,
    UnreachableError,
    WrongDriverError,
)
from amends.aggregates.journal import Journal, Tx, Unit
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import CLAIMED, Direction
from amends.aggregates.sql.journal import open_journal
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.saga import Saga
from amends.sagas.engine.calls import EffectCall
from amends.sagas.engine.decide import decide
from amends.sagas.engine.due import next_due_ms, work_due
from amends.sagas.engine.interventions import Intervention, InterventionKind
from amends.sagas.engine.outcome import Postponed
from amends.sagas.engine.protocol import Followed, RunProtocol
from amends.sagas.engine.result import RunResult
from amends.sagas.engine.seats import functions_of
from amends.sagas.engine.start import prepare_start
from amends.sagas.runtime.clock import Clock, SystemClock
from amends.sagas.runtime.effects import Begun, Reply, begin_call
from amends.sagas.runtime.error_log import ErrorDetail, ErrorLog
from amends.sagas.runtime.loop_watch import LoopWatch
from amends.sagas.runtime.seats import Seating, Seats
from amends.sagas.runtime.threads import Threads

__all__ = ["DRIVER", "Runner"]

I = TypeVar("I")  # noqa: E741 - the input, as in every signature here
T = TypeVar("T")

DRIVER = "in-process"
_PATIENCE = timedelta(minutes=2)
# By identity of the journal and id of the run: the runners of this process that write to the run now. Two that drive
# one run would take each other's claims for those of a lost process when their clocks differ.
_BUSY: dict[tuple[int, str], list["Runner"]] = {}
_LOOK_S = 0.5
_THREADS = 100

_log = logging.getLogger("amends.worker")


class _Stepped(NamedTuple):
    """A run after one unit.

    Attributes:
        record: The run.
        tasks: Calls that were claimed.
        waits: The reasons why the deployed code cannot do the rest of the due work.
    """

    record: RunRecord
    tasks: tuple[EffectCall, ...]
    waits: tuple[CannotContinueError, ...] = ()


_Step = Callable[[Tx, Seating], _Stepped]


@dataclass(slots=True)
class _Drive:
    """A run that the runner drives: the event that wakes it, its task, and the number of its waiters."""

    waker: asyncio.Event
    task: asyncio.Task[RunRecord]
    waiting: int = 0


class Runner:
    """Runs sagas in this process.

    Args:
        journal: The store of the facts.
        registry: The sagas and steps.
        clock: The clock that the runner reads.
        worker: The name under which the runner claims nodes.
        actor: The person or program that starts runs, unless a call names another.
        patience: How long to wait for an unreachable store.
        threads: The most plain `def` functions that run at the same time.
        errors: How much of the errors of steps the log shows: their classes and places (`type`), or messages and lines
            of code as well (`text`), which may quote user data.
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
        threads: int = _THREADS,
        errors: Literal["type", "text"] = "type",
    ) -> None:
        registry.catalog  # noqa: B018 - faults of the whole catalog are raised before anything runs
        self._journal = journal
        self._registry = registry
        self._clock = clock or SystemClock()
        self._protocol = RunProtocol(registry, worker, DRIVER, ErrorLog(ErrorDetail(errors)).failed)
        self._actor = actor
        self._patience = patience
        self._drives: dict[str, _Drive] = {}
        self._threads = Threads(Seats(threads, functions_of(registry.steps.values(), in_threads=True)))
        self._late: set[asyncio.Task[None]] = set()
        self._intervening: Counter[str] = Counter()
        self._unlisten: Callable[[], None] = lambda: None
        self._listening: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._watching_loop = ExitStack()

    @classmethod
    def open(
        cls,
        sagas: Iterable[Saga[Any]],
        *,
        store_url: str = "sqlite://",
        clock: Clock | None = None,
        threads: int = _THREADS,
    ) -> Self:
        """Return a runner with a store of its own, for use as `async with Runner.open(...) as runner`.

        Args:
            sagas: The sagas.
            store_url: The store, as an SQLAlchemy URL; by default an in-memory store.
            clock: The clock that the runner reads.
            threads: The most plain `def` functions that run at the same time.

        Raises:
            DefinitionError: The sagas have a fault.
            UnreachableError: The store cannot be reached.
        """
        return cls(open_journal(store_url), Registry(sagas), clock=clock, threads=threads)

    async def __aenter__(self) -> Self:
        self._watching_loop.enter_context(LoopWatch().watching())
        self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        self._unlisten()
        self._watching_loop.close()
        late = list(self._late)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        self._threads.close()
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
            id: Id of the run; a call with the same id and input returns the same run. `None` for a new id.

        Raises:
            InputError: The id or the input is not valid.
            StartConflictError: A run of another saga or with another input has the id.
            CannotContinueError: The loaded code cannot continue the run, which stays open.
            UnreachableError: The store was away for longer than the runner's patience; an accepted run stays open.
        """
        run_id = id or uuid4().hex
        start = prepare_start(self._registry, saga, input, run_id=run_id, driver=DRIVER, actor=self._actor)
        now_ms = self._clock.now_ms()

        def begin(tx: Tx, seating: Seating) -> _Stepped:
            self._protocol.accept(tx, start, now_ms)
            return self._step(tx, run_id, now_ms, seating)

        if run_id in self._drives:  # another call drives this id: check that it is the same start
            await self._commit(lambda tx: self._protocol.accept(tx, start, now_ms), run_id)
        return RunResult(await self._shared(run_id, begin))

    async def resume(self, run_id: str) -> RunResult:
        """Drive a run that was accepted earlier to its end.

        If another process holds a claim and is gone, the runner waits until the claim's lease ends.

        Raises:
            NotFoundError: There is no such run.
            CannotContinueError: The loaded code cannot continue the run, which stays open.
        """
        return RunResult(await self._resumed(run_id))

    async def intervene(self, run_id: str, intervention: Intervention, *, position: int | None = None) -> RunResult:
        """Append the decision of an operator about a run.

        A run that this runner drives now goes on at once; use `resume` for any other run.

        Args:
            run_id: The run.
            intervention: The decision.
            position: Position of the run that the operator saw; `None` to accept any position.

        Raises:
            NotFoundError: There is no such run.
            RefusedError: The decision does not fit the run; nothing was written.
            BusyError: A call of the node is in flight; nothing was written.
            InputError: The reason, the evidence or the output is missing or wrong; nothing was written.
        """
        now_ms = self._clock.now_ms()
        self._intervening[run_id] += 1
        try:
            record = await self._journal.commit(
                lambda tx: self._protocol.intervene(tx, run_id, intervention, now_ms, position=position), runs=(run_id,)
            )
        finally:
            self._intervening[run_id] -= 1
            if not self._intervening[run_id]:
                del self._intervening[run_id]
        if run_id in self._drives:
            self._drives[run_id].waker.set()
        return RunResult(record)

    async def cancel(self, run_id: str, reason: str) -> RunResult:
        """Request the undo of a run; do nothing if the run is being undone or is undone already.

        Raises:
            NotFoundError: There is no such run.
            RefusedError: The run has passed its pivot, or has completed.
        """
        return await self.intervene(
            run_id, Intervention(kind=InterventionKind.CANCEL, actor=self._actor, reason=reason)
        )

    async def take_over(self, run_id: str, reason: str) -> RunResult:
        """Drive a run of another driver to its end; that driver must no longer advance it.

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
        """Read the present state of a run.

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
        self, tx: Tx, run_id: str, now_ms: int, seating: Seating, asked: frozenset[str] = frozenset()
    ) -> _Stepped:
        return self._claim_all(tx, self._protocol.follow(tx, run_id, now_ms), now_ms, seating, asked)

    def _claim_all(self, tx: Tx, followed: Followed, now_ms: int, seating: Seating, asked: frozenset[str]) -> _Stepped:
        record, tasks, waits = self._protocol.claim_all(tx, followed.record, now_ms, asked, can_begin=seating.can_begin)
        return _Stepped(record, tasks, (*followed.waits, *waits))

    async def _resumed(self, run_id: str) -> RunRecord:
        now_ms = self._clock.now_ms()
        return await self._shared(run_id, lambda tx, seating: self._step(tx, run_id, now_ms, seating))

    async def _shared(self, run_id: str, begin: _Step) -> RunRecord:
        """Drive a run to its end, or join its present drive; the last waiter that leaves cancels the drive."""
        self._listen()
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

    async def _drive(self, run_id: str, begin: _Step, waker: asyncio.Event) -> RunRecord:
        with self._busy(run_id):
            return await self._drive_to_end(run_id, begin, waker)

    async def _drive_to_end(self, run_id: str, begin: _Step, waker: asyncio.Event) -> RunRecord:
        seating = Seating(self._registry, self._threads.seats, run_id)
        calls: dict[asyncio.Task[Reply], Begun] = {}
        try:
            step = await self._claim(run_id, begin, seating, calls)
            while calls or not step.record.state.closed:
                if step.waits:
                    await self._settle_calls(calls)
                    raise step.waits[0]
                step = await self._next(step.record, seating, calls, waker)
            return step.record
        finally:
            seating.give_up()
            for reply, call in calls.items():
                reply.cancel()
                call.give_up()
                self._keep(call)

    async def _claim(
        self, run_id: str, unit: _Step, seating: Seating, calls: dict[asyncio.Task[Reply], Begun]
    ) -> _Stepped:
        """Commit a unit, and start the calls that it has claimed."""

        def work(tx: Tx) -> _Stepped:
            seating.begin()
            return unit(tx, seating)

        try:
            step = await self._commit(work, run_id)
        except BaseException:
            seating.begin()
            raise
        for task, seat in seating.seat(step.tasks):
            call = begin_call(self._registry, task, self._threads, seat)
            calls[asyncio.create_task(call.reply())] = call
        return step

    async def _settle_calls(self, calls: dict[asyncio.Task[Reply], Begun]) -> None:
        """Settle the calls in flight, and start no new ones."""
        while calls:
            await self._wait(asyncio.Event(), [*calls], None)
            for each in [each for each in calls if each.done()]:
                task, reply, now_ms = calls.pop(each).task, each.result(), self._clock.now_ms()
                if reply.later is not None:
                    self._keep(reply.later)
                settle = partial(self._protocol.settle, task=task, outcome=reply.outcome, now_ms=now_ms)
                await self._commit(settle, task.run_id)

    async def _next(
        self,
        record: RunRecord,
        seating: Seating,
        calls: dict[asyncio.Task[Reply], Begun],
        waker: asyncio.Event,
    ) -> _Stepped:
        """Wait for the first answer, a free thread or the next due time, and append the facts that follow."""
        now_ms, run_id, asked = self._clock.now_ms(), record.run_id, _asked(calls)
        # The process that made a call settles it, even if the run was closed or taken over without its answer.
        answers_only = bool(calls) and (record.state.closed or not self._protocol.drives(record))
        if answers_only or not work_due(record, now_ms, asked, seating.queued):
            due_ms = None if answers_only else next_due_ms(decide(record.state, now_ms))
            async with self._watching(record, [call.task for call in calls.values()], waker):
                await self._wait(waker, [*calls, *seating.pending], due_ms)
            now_ms = self._clock.now_ms()
            ended = next((each for each in calls if each.done()), None)
            if ended is not None:
                task, reply = calls.pop(ended).task, ended.result()
                still = _asked(calls)

                def settle(tx: Tx, seating: Seating) -> _Stepped:
                    followed = self._protocol.settle_and_follow(tx, task, reply.outcome, now_ms)
                    if isinstance(reply.outcome, Postponed):
                        wait = reply.outcome.error(task.run_id, task.node)
                        followed = followed._replace(waits=(wait, *followed.waits))
                    return self._claim_all(tx, followed, now_ms, seating, still)

                try:
                    return await self._claim(run_id, settle, seating, calls)
                finally:
                    if reply.later is not None:
                        self._keep(reply.later)
        try:
            return await self._claim(
                run_id, lambda tx, seating: self._step(tx, run_id, now_ms, seating, asked), seating, calls
            )
        except WrongDriverError:
            if not calls:
                raise
            return _Stepped(await self._journal.record(run_id) or record, ())

    @asynccontextmanager
    async def _watching(
        self, record: RunRecord, own: Collection[EffectCall], waker: asyncio.Event
    ) -> AsyncIterator[None]:
        """Read the journal repeatedly while the context lasts, if another process may write an answer to the run."""
        claimed = {name for name, at in record.state.nodes.items() if at.status in CLAIMED}
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

    def _listen(self) -> None:
        """Subscribe to runs that are opened again, on first use; the subscription does not keep the runner alive."""
        loop = asyncio.get_running_loop()
        if self._closed or self._listening is loop:
            return
        drives, method = self._protocol.drives, weakref.WeakMethod(self._wake)

        def tell(record: RunRecord) -> None:
            wake = method()
            if wake is not None and drives(record):
                with suppress(RuntimeError):  # the loop was closed, so no call waits there
                    loop.call_soon_threadsafe(wake, record)

        self._unlisten()
        self._unlisten, self._listening = self._journal.listen(tell), loop
        weakref.finalize(self, self._unlisten)

    def _wake(self, record: RunRecord) -> None:
        """Drive a run that was opened again, unless another runner does so.

        If this runner intervened in the run, `resume` drives it.
        """
        others = any(each is not self for each in _BUSY.get((id(self._journal), record.run_id), ()))
        if not self._closed and not others and record.run_id not in self._intervening:
            self._begin(self._drive_again(record))

    @contextmanager
    def _busy(self, run_id: str) -> Iterator[None]:
        """Let the other runners of this process leave a run to this one, which drives it or settles a late answer."""
        key = (id(self._journal), run_id)
        _BUSY.setdefault(key, []).append(self)
        try:
            yield
        finally:
            _BUSY[key].remove(self)
            if not _BUSY[key]:
                del _BUSY[key]

    async def _drive_again(self, record: RunRecord) -> None:
        try:
            while (await self._resumed(record.run_id)).state.position < record.state.position:
                pass  # the drive was about to end without having read the new facts
        except AmendsError as error:
            _log.warning("run %s was opened again, and is not driven: %s", record.run_id, error)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task that is cancelled when the runner closes."""
        task = asyncio.create_task(work)
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def _keep(self, call: Begun) -> None:
        """Settle a call's answer when it comes, although no caller waits for it any more."""
        if self._closed:
            return
        self._begin(self._settle_late(call))

    async def _settle_late(self, call: Begun) -> None:
        task, outcome = call.task, await call.late_outcome()
        if outcome is None:
            return
        now_ms = self._clock.now_ms()

        try:
            with self._busy(task.run_id):
                await self._commit(lambda tx: self._protocol.settle(tx, task, outcome, now_ms), task.run_id)
            drive = self._drives.get(task.run_id)
            if drive is not None:
                drive.waker.set()
        except AmendsError as error:
            _log.warning("the late answer of %s was not recorded: %s", task.key, error)

    async def _wait(self, waker: asyncio.Event, pending: Collection[asyncio.Future[Any]], due_ms: int | None) -> None:
        woken = asyncio.create_task(waker.wait())
        try:
            await self._clock.wait(pending, due_ms, woken)
        finally:
            waker.clear()
            woken.cancel()


def _asked(calls: Mapping[Any, Begun]) -> frozenset[str]:
    """Return the nodes whose probe is in flight."""
    return frozenset(call.task.node for call in calls.values() if call.task.direction is Direction.PROBE)
