"""The in-process runner: drives runs inside one process, without Temporal.

It is the reference for every other driver: the same plan, `decide` and journal, an injected clock, and no other layer.
Use it for unit tests, for exhaustive verification, and wherever you do not want a durable scheduler; `resume` continues
a run that its process did not finish.

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
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, Self, TypeVar
from uuid import uuid4

from amends.aggregates.errors import AmendsError, NotFoundError
from amends.aggregates.journal import Journal, Tx
from amends.aggregates.run.fact import IN_PROCESS_DRIVER
from amends.aggregates.run.record import RunRecord
from amends.aggregates.sql.journal import open_journal
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.saga import Saga
from amends.sagas.engine.interventions import Intervention, InterventionKind
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.engine.result import RunResult
from amends.sagas.engine.seats import functions_of
from amends.sagas.engine.start import prepare_start
from amends.sagas.runtime.clock import Clock, SystemClock
from amends.sagas.runtime.effects import Begun
from amends.sagas.runtime.error_log import ErrorDetail, ErrorLog
from amends.sagas.runtime.loop_watch import LoopWatch
from amends.sagas.runtime.run_drive import DriveParts, RunDrive, Step, Stepped
from amends.sagas.runtime.seats import Seating, Seats
from amends.sagas.runtime.threads import Threads

__all__ = ["Runner"]

I = TypeVar("I")  # noqa: E741 - the input, as in every signature here

_PATIENCE = timedelta(minutes=2)
# By identity of the journal and id of the run: the runners of this process that write to the run now. Two that drive
# one run would take each other's claims for those of a lost process when their clocks differ.
_BUSY: dict[tuple[int, str], list["Runner"]] = {}
_THREADS = 100

_log = logging.getLogger("amends.worker")


@dataclass(slots=True)
class _SharedDrive:
    """A run that the runner drives, the task that does so, and the number of its waiters."""

    drive: RunDrive
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
        worker: str = IN_PROCESS_DRIVER,
        actor: str = IN_PROCESS_DRIVER,
        patience: timedelta = _PATIENCE,
        threads: int = _THREADS,
        errors: Literal["type", "text"] = "type",
    ) -> None:
        registry.catalog  # noqa: B018 - faults of the whole catalog are raised before anything runs
        self._journal = journal
        self._registry = registry
        self._clock = clock or SystemClock()
        self._protocol = RunProtocol(registry, worker, IN_PROCESS_DRIVER, ErrorLog(ErrorDetail(errors)).failed)
        self._actor = actor
        self._threads = Threads(Seats(threads, functions_of(registry.steps.values(), in_threads=True)))
        self._parts = DriveParts(journal, registry, self._protocol, self._clock, self._threads, patience)
        self._drives: dict[str, _SharedDrive] = {}
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
        start = prepare_start(self._registry, saga, input, run_id=run_id, driver=IN_PROCESS_DRIVER, actor=self._actor)
        now_ms = self._clock.now_ms()

        def begin(tx: Tx, seating: Seating) -> Stepped:
            self._protocol.accept(tx, start, now_ms)
            return self._parts.step(tx, run_id, now_ms, seating)

        if run_id in self._drives:  # another call drives this id: check that it is the same start
            await self._parts.commit(lambda tx: self._protocol.accept(tx, start, now_ms), run_id)
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
            self._drives[run_id].drive.wake()
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
            lambda tx: anybody.take_over(tx, run_id, IN_PROCESS_DRIVER, now_ms, actor=self._actor, reason=reason),
            runs=(run_id,),
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

    async def _resumed(self, run_id: str) -> RunRecord:
        now_ms = self._clock.now_ms()
        return await self._shared(run_id, lambda tx, seating: self._parts.step(tx, run_id, now_ms, seating))

    async def _shared(self, run_id: str, begin: Step) -> RunRecord:
        """Drive a run to its end, or join its present drive; the last waiter that leaves cancels the drive."""
        self._listen()
        shared = self._drives.get(run_id)
        if shared is None:
            fresh = RunDrive(self._parts, run_id, self._keep)
            shared = self._drives[run_id] = _SharedDrive(fresh, asyncio.create_task(self._drive(fresh, run_id, begin)))
        shared.waiting += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.waiting -= 1
            if self._drives.get(run_id) is shared and (shared.task.done() or not shared.waiting):
                del self._drives[run_id]
            if not shared.waiting and not shared.task.done():
                shared.task.cancel()
                await asyncio.wait([shared.task])

    async def _drive(self, drive: RunDrive, run_id: str, begin: Step) -> RunRecord:
        with self._busy(run_id):
            return await drive.to_end(begin)

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
            _log.warning("run %s was reopened, but this process does not drive it: %s", record.run_id, error)

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
                await self._parts.commit(lambda tx: self._protocol.settle(tx, task, outcome, now_ms), task.run_id)
            shared = self._drives.get(task.run_id)
            if shared is not None:
                shared.drive.wake()
        except AmendsError as error:
            _log.warning("the late answer of %s was not recorded: %s", task.key, error)
