"""The committer: the one thread of a process that writes to the store.

Theory of operation: callers submit units and wait. The thread takes the waiting units, begins one database transaction
under the writer's lock, runs every unit in its own savepoint, inserts the staged writes, commits once, and gives every
caller its answer.

1. If a unit raises, the thread rolls back its savepoint and passes the error to its caller; it commits the other units.
2. If the transaction fails, the thread discards its knowledge of the store and runs the units again, a few times. If
   the commit itself failed, its outcome is unknown; so the next transaction first checks, under the lock, whether the
   events are stored. If they are, the computed answers are right, and the callers get them. A commit that changes
   tables but has no event leaves a mark instead: the number of the commit.
3. If a batch keeps failing, the thread runs it unit by unit, so that a unit that the database refuses does not hold up
   the others.
4. While the store is unreachable, the thread keeps and retries the units of callers with patience, and refuses the
   others at once. A waiting batch remembers the events that are in doubt, so an outage in the middle of a commit loses
   and doubles nothing.
5. Listeners for reopened runs are called after the commit and before the callers get their answers.
6. Any other error goes to the callers of the units in the batch, and the thread goes on.
"""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Any, Literal

from eventsourcing.persistence import StoredEvent
from sqlalchemy import Connection, Engine, exc

from amends.aggregates.errors import AmendsError, JournalError, UnreachableError
from amends.aggregates.journal import OnOpened, Unit
from amends.aggregates.run.record import RunRecord
from amends.aggregates.sql import rows as event_rows
from amends.aggregates.sql.batch import Batch, BatchLost, StaleAssumptionError
from amends.aggregates.sql.engine import writing
from amends.aggregates.sql.errors import as_amends_error
from amends.aggregates.sql.loading import StoreCache
from amends.aggregates.sql.outbox_rows import Mark, is_marked, write_mark
from amends.aggregates.sql.transaction import SqlTx

__all__ = ["Committer", "OnCommit"]

BATCH_UNITS = 256
"""Largest number of units in one transaction; it bounds the time under the writer's lock and the first unit's wait."""

ATTEMPTS = 4
"""Total number of attempts of a batch before its units run one by one, wait for the store, or fail."""

HOLD_FIRST_S, HOLD_LONGEST_S = 0.05, 1.0
"""Delay before a waiting batch is retried, in seconds: it starts at the first and doubles up to the second."""

# A caller that awaits a future would take these for its own: a cancellation, a Ctrl-C, the end of a generator.
_MISTAKABLE = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, StopAsyncIteration, StopIteration, SystemExit)

_log = logging.getLogger("amends.store")

OnCommit = Callable[[Literal["before", "after"], int], None]
"""A hook for crash tests, called around the n-th commit, from 1.

An `Exception` from it counts as one of the database: before the commit, the commit failed; after it, the commit took
place and the reply was lost. Any other `BaseException` goes to all callers of the batch at once, as if the process had
died.
"""


class _Job:
    """A submitted unit, and the future of its answer."""

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
        """Set this error as the caller's answer, instead of the unit's result."""
        self.value, self.error = None, error


class _Attempt:
    """The progress of one attempt to commit a batch.

    Attributes:
        doubtful: Events, or the mark of a commit without any, that this or an earlier attempt may have committed.
        begun: Whether it had the writer's lock and knew the outcome of earlier attempts.
        committing: Whether it had reached its commit.
        opened: Runs that this or an earlier attempt may have opened again.
        found: Whether an earlier attempt turned out to have committed the batch.
        failure: The error of the attempt; `None` if it did not fail.
        careful: Whether it checks at once that each new aggregate does not exist, because an earlier attempt was wrong
            about one.
    """

    __slots__ = ("begun", "careful", "committing", "doubtful", "failure", "found", "opened")

    def __init__(self, former: "_Attempt | None" = None) -> None:
        self.failure: BaseException | None = None
        self.doubtful: Sequence[StoredEvent] | Mark = () if former is None else former.doubtful
        self.opened: Sequence[RunRecord] = () if former is None else former.opened
        self.careful: bool = former is not None and (former.careful or isinstance(former.failure, StaleAssumptionError))
        self.begun = False
        self.committing = False
        self.found = False

    @property
    def worth_repeating(self) -> bool:
        """Whether the store was reachable, or only a pooled connection was dead."""
        return self.begun or bool(getattr(self.failure, "connection_invalidated", False))


class Committer:
    """Runs units and commits them in batches; its thread lives until `close`.

    Args:
        engine: Engine of the store.
        known: The knowledge of the process; from now on only the thread uses it.
        store_id: Identity of the store.
        on_commit: Called around every commit; for tests.
    """

    def __init__(self, engine: Engine, known: StoreCache, store_id: str, on_commit: OnCommit | None = None) -> None:
        self._engine = engine
        self._known = known
        self._store_id = store_id
        self._on_commit = on_commit
        self._commits = 0
        self._writer = uuid.uuid4().hex
        self._marks = 0
        self._waiting: SimpleQueue[_Job | None] = SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        # No lock, so that the garbage collector can remove a listener in any thread; each use is atomic.
        self._listeners: dict[object, OnOpened] = {}
        # Used by the thread only: units that came while a batch waited, and whether the queue has ended.
        self._kept: list[_Job] = []
        self._ending = False
        # A daemon, so that a program that forgets to close the journal can still end.
        self._thread = threading.Thread(target=self._work, name="amends-committer", daemon=True)
        self._thread.start()

    async def commit(self, unit: Unit[Any], runs: Sequence[str] = (), patience: timedelta = timedelta(0)) -> Any:  # noqa: ANN401 - the unit's answer
        """Submit a unit and wait for its answer without blocking the event loop.

        A caller that is cancelled while it waits does not learn whether the unit was committed. The thread skips a unit
        whose caller was cancelled before the unit ran.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._submit(_Job(unit, runs, future, loop, patience))
        return await future

    def commit_blocking(self, unit: Unit[Any], runs: Sequence[str] = ()) -> Any:  # noqa: ANN401 - the unit's answer
        """Submit a unit and block until its answer is ready; a unit must never call this."""
        future: Future[Any] = Future()
        self._submit(_Job(unit, runs, future, None, timedelta(0)))
        return future.result()

    def listen(self, on_opened: OnOpened) -> Callable[[], None]:
        """Call a function, in the committer's thread, for every run that a commit of this process opens again.

        Returns:
            A function that ends the subscription; it may be called more than once.
        """
        key = object()
        self._listeners[key] = on_opened
        return lambda: self._drop(key)

    def _drop(self, listener: object) -> None:
        self._listeners.pop(listener, None)

    def close(self) -> None:
        """Commit the waiting units, then end the thread; refuse further units, and those that wait for the store."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def _submit(self, job: _Job) -> None:
        if threading.current_thread() is self._thread:
            raise JournalError("a unit cannot wait for another unit; submit the second one after the first has ended")
        with self._closing:
            if self._closed:
                raise JournalError("the journal is closed; open it again before writing")
            self._waiting.put(job)

    # ---- the thread

    def _work(self) -> None:
        while jobs := self._take():
            try:
                self._commit_batch(jobs)
            except BaseException as error:  # noqa: BLE001 - the thread must outlive every error, and log it
                self._known.forget()
                for each in jobs:
                    each.refuse(error)
            _deliver(jobs)
            # The thread must not keep answers while it waits, because they may be large.
            del jobs

    def _take(self) -> list[_Job]:
        """Wait for work and return the waiting jobs, up to a full batch; return none at the end."""
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
        """Commit a batch, or set in each job the reason why it was not committed."""
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
        """Attempt to commit a batch until it succeeds or another attempt is pointless; return the last attempt."""
        for _ in range(ATTEMPTS):
            attempt = self._try(jobs, attempt)
            if attempt.failure is None or not attempt.worth_repeating:
                break
        return attempt

    def _hold(self, jobs: Sequence[_Job], failure: BaseException, pause: float, *, doubtful: bool) -> list[_Job]:
        """Wait for the store to return; return the jobs whose callers still wait, and refuse the others."""
        error = _unreachable(failure)
        patient = isinstance(error, UnreachableError) and any(job.until > time.monotonic() for job in jobs)
        if patient and pause == HOLD_FIRST_S:
            _log.warning("%s; the journal keeps pending writes until the store answers", _said(failure))
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
        except Exception as error:  # noqa: BLE001 - the error is this unit's, and the others must go on
            job.refuse(error)

    def _try(self, jobs: Sequence[_Job], former: _Attempt) -> _Attempt:
        """Attempt to commit a batch; without jobs, only find out whether an earlier attempt did.

        Args:
            jobs: The batch; the method sets the values and errors of the units in it.
            former: The attempt before.
        """
        attempt = _Attempt(former)
        try:
            self._attempt(jobs, attempt)
        except StaleAssumptionError as error:
            attempt.failure = error
        except (Exception, BatchLost) as error:
            self._known.forget()
            if not (attempt.committing or isinstance(error, exc.SQLAlchemyError | BatchLost)):
                raise
            attempt.failure = error.__cause__ if isinstance(error, BatchLost) and error.__cause__ else error
        return attempt

    def _attempt(self, jobs: Sequence[_Job], attempt: _Attempt) -> None:
        with writing(self._engine) as connection:
            if attempt.doubtful and _took_place(connection, attempt.doubtful):
                attempt.found = True
                return
            attempt.doubtful = attempt.opened = ()
            attempt.begun = True
            if not jobs:
                return
            batch = Batch(connection, self._known, time.time_ns() // 1_000_000, careful=attempt.careful)
            self._known.refresh(connection)
            # An unreadable run is an error of the units that ask for it, not of the batch.
            batch.prefetch(run_id for job in jobs for run_id in job.runs)
            for job in jobs:
                # Skip units whose caller was cancelled: no one would use a claim that they make.
                if not job.future.done():
                    self._run(job, batch)
            batch.flush()
            attempt.doubtful = self._mark(batch) if batch.eventless else batch.events
            if self._listeners:
                attempt.opened = batch.opened_again
            attempt.committing = True
            self._commits += 1
            if self._on_commit is not None:
                self._on_commit("before", self._commits)
        if self._on_commit is not None:
            self._on_commit("after", self._commits)
        batch.keep()

    def _mark(self, batch: Batch) -> Mark:
        """Write the evidence of a commit without events."""
        self._marks += 1
        mark = Mark(self._writer, self._marks)
        write_mark(batch.connection, mark, batch.recorded_at_ms)
        return mark

    def _tell(self, opened: Sequence[RunRecord]) -> None:
        """Call the listeners for reopened runs; an error of a listener must not count as an error of the commit."""
        for record in opened:
            for on_opened in self._listeners.copy().values():
                try:
                    on_opened(record)
                except Exception:  # noqa: BLE001 - the commit took place, and its callers must learn so
                    _log.exception("a listener failed after run %s was reopened", record.run_id)

    def _run(self, job: _Job, batch: Batch) -> None:
        job.value, job.error = None, None
        try:
            with batch.savepoint():
                job.value = job.unit(SqlTx(batch, self._store_id))
        except BaseException as error:  # noqa: BLE001 - any error of a unit concerns only that unit
            job.error = error
        if batch.lost is not None:
            raise BatchLost(str(batch.lost)) from batch.lost


def _took_place(connection: Connection, doubtful: Sequence[StoredEvent] | Mark) -> bool:
    if isinstance(doubtful, Mark):
        return is_marked(connection, doubtful)
    return event_rows.all_stored(connection, doubtful)


def _said(error: BaseException) -> AmendsError:
    return as_amends_error(error) if isinstance(error, exc.SQLAlchemyError) else UnreachableError(str(error))


def _unreachable(error: BaseException, *, doubtful: bool = False) -> Exception:
    known = _said(error)
    if doubtful:
        return UnreachableError(f"{known}; the last write may have arrived: read before you repeat it")
    if isinstance(known, UnreachableError) and "nothing was written" not in str(known):
        return UnreachableError(f"{known}; nothing was written")
    return known


def _deliver(jobs: Sequence[_Job]) -> None:
    """Deliver every caller's answer, with one call per event loop."""
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
            # The loop was closed, so no caller waits there any more.
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
