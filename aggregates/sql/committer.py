"""The committer: the one thread of a process that writes to the store.

Theory of operation: callers submit units and wait. The thread takes what is waiting, begins one database transaction
under the writer's lock, runs every unit in its own savepoint, inserts what they staged, commits once, and gives every
caller its answer.

1. A unit that raises loses its own savepoint; its error goes to its caller, and the others are committed.
2. When the transaction fails, everything remembered is forgotten and the units are run again, a few times. If it
   failed while committing, nobody knows whether it took place; so the next transaction first looks, under the lock,
   whether its events are there. If they are, the answers that were computed are true and are given.
3. A batch that keeps failing is run unit by unit, so that one unit that the database refuses does not hold up others.
4. While the store is away, the units of callers who are patient are held and tried again; whoever is not is told at
   once. A held batch keeps what is in doubt about it, so an outage in the middle of a commit loses and doubles nothing.
5. Who listens for runs that are opened again is told of them after the commit, before the callers get their answers.
6. Whatever goes wrong is told to the callers whose units were taken; the thread goes on.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Any, Literal

from eventsourcing.persistence import StoredEvent
from sqlalchemy import Engine, exc

from amends.aggregates.errors import AmendsError, JournalError, UnreachableError
from amends.aggregates.journal import OnOpened, Unit
from amends.aggregates.run.record import RunRecord
from amends.aggregates.sql import rows as event_rows
from amends.aggregates.sql.batch import Batch, BatchLost, Known, MistakenError
from amends.aggregates.sql.engine import writing
from amends.aggregates.sql.errors import as_amends_error
from amends.aggregates.sql.transaction import SqlTx

__all__ = ["Committer", "OnCommit"]

BATCH_UNITS = 256
"""Most units in one transaction; bounds how long the writer's lock is held and how long the first unit waits."""

ATTEMPTS = 4
"""How often a batch is run in all before its units are run one by one, held or given up."""

HOLD_FIRST_S, HOLD_LONGEST_S = 0.05, 1.0
"""How long a held batch waits before it is tried again, in seconds: doubled each time, up to the second."""

# Who waits for a future would take these for its own: a cancellation, a Ctrl-C, the end of a generator.
_MISTAKABLE = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, StopAsyncIteration, StopIteration, SystemExit)

_log = logging.getLogger("amends.store")

OnCommit = Callable[[Literal["before", "after"], int], None]
"""A seam for crash tests: called around the n-th commit, from 1.

An `Exception` that it raises is treated like the database's own: before, the commit failed; after, it took place and
the reply was lost. Any other `BaseException` goes to all callers of the batch at once, as if the process had died.
"""


class _Job:
    """A unit on its way, and where its answer goes."""

    __slots__ = ("error", "future", "loop", "runs", "unit", "until", "value")

    def __init__(
        self,
        unit: Unit[Any],
        runs: Sequence[str],
        future: "asyncio.Future[Any] | Future[Any]",
        loop: asyncio.AbstractEventLoop | None,
        patience: timedelta,
    ) -> None:
        self.unit = unit
        self.runs = runs
        self.future = future
        self.loop = loop
        self.until = time.monotonic() + patience.total_seconds()
        self.value: Any = None
        self.error: BaseException | None = None

    def refuse(self, error: BaseException) -> None:
        """Have the caller get this error, whatever the unit made."""
        self.value, self.error = None, error


class _Attempt:
    """How far one attempt to commit a batch has come.

    Attributes:
        doubtful: Events that this or an earlier attempt may have committed.
        begun: Whether it had the writer's lock and knew what earlier attempts had done.
        committing: Whether it had come to its commit.
        opened: Runs that this or an earlier attempt may have opened again.
        found: Whether an earlier attempt turned out to have committed the batch.
        failure: What it failed with.
        careful: Whether it looks for every new aggregate at once, because an earlier attempt was mistaken about one.
    """

    __slots__ = ("begun", "careful", "committing", "doubtful", "failure", "found", "opened")

    def __init__(self, former: "_Attempt | None" = None) -> None:
        self.failure: BaseException | None = None
        self.doubtful: Sequence[StoredEvent] = () if former is None else former.doubtful
        self.opened: Sequence[RunRecord] = () if former is None else former.opened
        self.careful: bool = former is not None and (former.careful or isinstance(former.failure, MistakenError))
        self.begun = False
        self.committing = False
        self.found = False

    @property
    def worth_repeating(self) -> bool:
        """Whether the store was there, or only a connection had died in the pool."""
        return self.begun or bool(getattr(self.failure, "connection_invalidated", False))


class Committer:
    """Runs units and commits them in batches; its thread lives until `close`.

    Args:
        engine: The store.
        known: What the process remembers; from now on the thread's own.
        store_id: Identity of the store.
        on_commit: Called around every commit; for tests.
    """

    def __init__(self, engine: Engine, known: Known, store_id: str, on_commit: OnCommit | None = None) -> None:
        self._engine = engine
        self._known = known
        self._store_id = store_id
        self._on_commit = on_commit
        self._commits = 0
        self._waiting: SimpleQueue[_Job | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        # Without a lock, so that a listener can be dropped by whoever collects garbage: each use is atomic.
        self._listeners: dict[object, OnOpened] = {}
        # The thread's own: what came while it held a batch, and whether nothing more will come.
        self._kept: list[_Job] = []
        self._ending = False
        # A daemon, so that a program that forgets to close the journal can still end.
        self._thread = threading.Thread(target=self._work, name="amends-committer", daemon=True)
        self._thread.start()

    async def commit(self, unit: Unit[Any], runs: Sequence[str] = (), patience: timedelta = timedelta(0)) -> Any:  # noqa: ANN401 - the unit's answer
        """Submit a unit and wait for its answer without blocking the event loop.

        A caller that is cancelled while it waits does not learn whether the unit was committed; one that was cancelled
        before it was run is passed over.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._submit(_Job(unit, runs, future, loop, patience))
        return await future

    def commit_blocking(self, unit: Unit[Any], runs: Sequence[str] = ()) -> Any:  # noqa: ANN401 - the unit's answer
        """Submit a unit and block until its answer is there; never to be called from within a unit."""
        future: Future[Any] = Future()
        self._submit(_Job(unit, runs, future, None, timedelta(0)))
        return future.result()

    def listen(self, on_opened: OnOpened) -> Callable[[], None]:
        """Call a function, in the committer's thread, for every run that a commit of this process has opened again.

        Returns:
            What ends that; it may be called more than once.
        """
        key = object()
        self._listeners[key] = on_opened
        return lambda: self._drop(key)

    def _drop(self, listener: object) -> None:
        self._listeners.pop(listener, None)

    def close(self) -> None:
        """Commit what is waiting, then end the thread; further units are refused, and what is held is given up."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def _submit(self, job: _Job) -> None:
        if threading.current_thread() is self._thread:
            raise JournalError("a unit may not wait for another one; submit it after this one has ended")
        with self._closing:
            if self._closed:
                raise JournalError("the journal is closed; open it again before writing")
            self._waiting.put(job)

    # ---- the thread

    def _work(self) -> None:
        while jobs := self._take():
            try:
                self._commit_batch(jobs)
            except BaseException as error:  # noqa: BLE001 - the thread must outlive everything, and say it
                self._known.forget()
                for each in jobs:
                    each.refuse(error)
            _deliver(jobs)
            # Not kept while waiting: answers may be large.
            del jobs

    def _take(self) -> list[_Job]:
        """Wait for work and take what is there, up to a full batch; nothing when the end has come."""
        jobs, self._kept = self._kept[:BATCH_UNITS], self._kept[BATCH_UNITS:]
        with suppress(Empty):
            while not self._ending and len(jobs) < BATCH_UNITS:
                job = self._waiting.get(block=not jobs)
                if job is None:
                    self._ending = True
                else:
                    jobs.append(job)
        return jobs

    def _commit_batch(self, jobs: Sequence[_Job]) -> None:
        """Commit a batch, or leave in each job why it was not."""
        attempt, pause = _Attempt(), HOLD_FIRST_S
        while jobs:
            attempt = self._repeat(jobs, attempt)
            if attempt.failure is None:
                self._tell(attempt.opened)
                return
            failure, refused = attempt.failure, attempt.begun
            if attempt.doubtful:
                attempt = self._try((), attempt)
                if attempt.found:
                    self._tell(attempt.opened)
                    return
            if refused and attempt.begun:
                for job in jobs:
                    self._commit_alone(job) if len(jobs) > 1 else job.refuse(_unreachable(failure))
                return
            jobs = self._hold(jobs, failure, pause, doubtful=bool(attempt.doubtful))
            pause = min(pause * 2, HOLD_LONGEST_S)

    def _repeat(self, jobs: Sequence[_Job], attempt: _Attempt) -> _Attempt:
        """Attempt to commit a batch as often as it is worth it."""
        for _ in range(ATTEMPTS):
            attempt = self._try(jobs, attempt)
            if attempt.failure is None or not attempt.worth_repeating:
                break
        return attempt

    def _hold(self, jobs: Sequence[_Job], failure: BaseException, pause: float, *, doubtful: bool) -> list[_Job]:
        """Wait for the store to come back, and give the jobs whose callers wait as well; the others are told."""
        error = _unreachable(failure)
        patient = isinstance(error, UnreachableError) and any(job.until > time.monotonic() for job in jobs)
        if patient and pause == HOLD_FIRST_S:
            _log.warning("%s; what is to be written is held until it answers", _said(failure))
        end = time.monotonic() + pause
        while patient and not self._ending and (left := end - time.monotonic()) > 0:
            with suppress(Empty):
                job = self._waiting.get(timeout=left)
                if job is None:
                    self._ending = True
                elif job.until > time.monotonic():
                    self._kept.append(job)
                else:
                    job.refuse(error)
                    _deliver([job])
        now = time.monotonic()
        held = [job for job in jobs if patient and not self._ending and job.until > now]
        for job in jobs:
            if job not in held:
                job.refuse(_unreachable(failure, doubtful=doubtful))
        _deliver([job for job in jobs if job not in held])
        return held

    def _commit_alone(self, job: _Job) -> None:
        try:
            self._commit_batch([job])
        except Exception as error:  # noqa: BLE001 - it is this unit's, and the others must go on
            job.refuse(error)

    def _try(self, jobs: Sequence[_Job], former: _Attempt) -> _Attempt:
        """Attempt to commit a batch; no jobs: only find out whether an earlier attempt did.

        Args:
            jobs: The batch; values and errors of the units are left in it.
            former: The attempt before.
        """
        attempt = _Attempt(former)
        try:
            self._attempt(jobs, attempt)
        except MistakenError as error:
            attempt.failure = error
        except (Exception, BatchLost) as error:
            self._known.forget()
            if not (attempt.committing or isinstance(error, exc.SQLAlchemyError | BatchLost)):
                raise
            attempt.failure = error.__cause__ if isinstance(error, BatchLost) and error.__cause__ else error
        return attempt

    def _attempt(self, jobs: Sequence[_Job], attempt: _Attempt) -> None:
        with writing(self._engine) as connection:
            if attempt.doubtful and event_rows.all_stored(connection, attempt.doubtful):
                attempt.found = True
                return
            attempt.doubtful = attempt.opened = ()
            attempt.begun = True
            if not jobs:
                return
            batch = Batch(connection, self._known, time.time_ns() // 1_000_000, careful=attempt.careful)
            self._known.refresh(connection)
            # A run that cannot be read is an error of the units that ask for it, not of the batch.
            batch.prefetch(run_id for job in jobs for run_id in job.runs)
            for job in jobs:
                # Who has been cancelled meanwhile would never learn of it: a claim of his would bind nobody.
                if not job.future.done():
                    self._run(job, batch)
            batch.flush()
            attempt.doubtful = batch.events
            if self._listeners:
                attempt.opened = batch.opened_again
            attempt.committing = True
            self._commits += 1
            if self._on_commit is not None:
                self._on_commit("before", self._commits)
        if self._on_commit is not None:
            self._on_commit("after", self._commits)
        batch.keep()

    def _tell(self, opened: Sequence[RunRecord]) -> None:
        """Tell the listeners of runs that were opened again; an error of theirs must not be taken for the commit's."""
        for record in opened:
            for on_opened in self._listeners.copy().values():
                try:
                    on_opened(record)
                except Exception:  # noqa: BLE001 - the commit took place, and its callers must learn so
                    _log.exception("a listener failed on run %s, which was opened again", record.run_id)

    def _run(self, job: _Job, batch: Batch) -> None:
        job.value, job.error = None, None
        try:
            with batch.savepoint():
                job.value = job.unit(SqlTx(batch, self._store_id))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is this unit's alone
            job.error = error
        if batch.lost is not None:
            raise BatchLost(str(batch.lost)) from batch.lost


def _said(error: BaseException) -> AmendsError:
    return as_amends_error(error) if isinstance(error, exc.SQLAlchemyError) else UnreachableError(str(error))


def _unreachable(error: BaseException, *, doubtful: bool = False) -> Exception:
    known = _said(error)
    if doubtful:
        return UnreachableError(f"{known}; whether the last write arrived is not known, so read before repeating it")
    if isinstance(known, UnreachableError) and "nothing was written" not in str(known):
        return UnreachableError(f"{known}; nothing was written")
    return known


def _deliver(jobs: Sequence[_Job]) -> None:
    """Give every caller its answer, with one call per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in jobs:
        if job.loop is None:
            _settle([job])
        else:
            by_loop.setdefault(job.loop, []).append(job)
    for loop, settled in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, settled)
        except RuntimeError:
            # The loop was closed, and with it everybody who waited there.
            continue


def _settle(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        error = job.error
        if isinstance(error, _MISTAKABLE):
            error = RuntimeError(f"the unit raised {type(error).__name__}")
        if error is None:
            job.future.set_result(job.value)
        else:
            job.future.set_exception(error)
