"""The calls of a worker: claim, call, settle; joined by every delivery of the same call.

Theory of operation: no outage may use up an attempt of a step, so an attempt counts as lost only on evidence.

- *The store is away.* The worker keeps a claim and an outcome until the store accepts them (`Journal.commit` with
  patience, which also finds out whether a write in doubt has arrived). Heartbeats go on meanwhile, so Temporal leaves
  the call where it is. No other process can write either, and the lease of a claim outlasts an outage of 60 s
  (`LEASE_GRACE_MS`): the first writer after the outage does not find the claims of pending outcomes expired.
- *Temporal is away.* A call belongs to its process, not to the delivery that started it. If Temporal gives up a
  delivery, its call goes on to its outcome, and a further delivery to the same process joins it.
- *A delivery finds a claim of another process.* If an earlier try of the same delivery made the claim, Temporal has
  given that try up: its worker is lost, and this worker takes the claim over at once. There are two exceptions. If
  Temporal itself was away lately, its silence proves nothing about a worker, and this worker waits until the claim has
  an outcome or its lease ends. A local call has no heartbeats, and its worker may only be slow, so this worker first
  waits ten seconds for its outcome.
- *The claim was made by another delivery.* Then the workflow has replaced another one (a reset, a termination, a
  take-over), whose call may go on. This worker waits until the claim has an outcome or its lease ends. A workflow that
  starts with such a claim starts `join` for it.
- *No delivery waits for a call any more*, because Temporal gave up its delivery or its workflow. The call still goes
  on, the worker records its outcome, and wakes the run in Temporal.
- *The worker drains.* A call that has started comes to its outcome. The worker hands back a delivery whose call has not
  started and has no claim: the delivery fails at once, and Temporal delivers it to another worker.

How it can fail: a run that this process must not touch fails the workflow; Temporal repeats every other failure.
"""

import asyncio
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import activity

from amends.aggregates.errors import AmendsError, UnreachableError
from amends.aggregates.journal import Journal, Tx, Unit
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import CLAIMED
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.answers import Settled
from amends.sagas.engine.calls import EffectCall
from amends.sagas.engine.decide import RunCompensation, RunProbe, RunStep, Work
from amends.sagas.engine.outcome import Outcome, Postponed
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.engine.seats import Function
from amends.sagas.runtime.clock import elapsed_s
from amends.sagas.runtime.effects import Begun, begin_call
from amends.sagas.runtime.error_log import ErrorLog
from amends.sagas.temporal.activity_failures import ActivityFailures, given_back
from amends.sagas.temporal.call_seats import CallSeats, check_serving
from amends.sagas.temporal.heartbeats import Heartbeats, beating
from amends.sagas.temporal.messages import CallRequest, JoinRequest, Progress, check_known, check_store

__all__ = ["EffectCalls", "PendingCall"]

T = TypeVar("T")

_log = logging.getLogger("amends.worker")

_LOOK_S = 0.5
_HOLD_S = 5.0
# A local call has no heartbeats, so Temporal delivers it to another process as soon as a workflow task is late.
_LOCAL_DOUBT_S = 10.0
# A claim or an outcome must wait for as long as it takes, because Temporal cannot repeat it.
_CALL_PATIENCE = timedelta(days=365)
_WORK: Mapping[str, type[Work]] = {each.direction: each for each in (RunStep, RunCompensation, RunProbe)}


class _GivenBackError(Exception):
    """The worker drains, and the call had not started."""


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A call that this process makes now.

    Attributes:
        run_id: The run.
        node: The node.
        direction: `do`, `undo` or `probe`.
        seconds: How long the call has been in flight.
    """

    run_id: str
    node: str
    direction: str
    seconds: float

    def __str__(self) -> str:
        """Return the call in words for people."""
        work = self.node if self.direction == "do" else f"{self.direction} of {self.node}"
        return f"{work} of run {self.run_id} ({self.seconds:.0f} s)"


class EffectCalls:
    """The calls of a process: its calls in flight, and the deliveries that wait for them.

    Args:
        journal: The store.
        registry: The code.
        protocol: The writing side of the worker.
        seats: The room for calls.
        failures: Logs the reasons for which a call waits.
        errors: The log of errors.
        temporal_was_away: Returns whether Temporal's silence about a worker proves nothing.
        wake: Wakes a run in Temporal after an answer for which no delivery waited; `None` to wake none.
        heartbeats: Sends heartbeats while the event loop cannot; `None` to send none.
    """

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        protocol: RunProtocol,
        seats: CallSeats,
        failures: ActivityFailures,
        *,
        errors: ErrorLog,
        temporal_was_away: Callable[[], bool],
        wake: Callable[[RunRecord], Awaitable[None]] | None,
        heartbeats: Heartbeats | None,
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._protocol = protocol
        self._seats = seats
        self._failures = failures
        self._errors = errors
        self._temporal_was_away = temporal_was_away
        self._wake = wake
        self._heartbeats = heartbeats
        self._calls: dict[tuple[str, str, str], asyncio.Task[RunRecord]] = {}
        self._awaited: Counter[tuple[str, str, str]] = Counter()
        self._began_s: dict[tuple[str, str, str], float] = {}
        self._begun: set[asyncio.Task[Any]] = set()
        self._draining = asyncio.Event()
        self._given_up = False

    @property
    def given_up(self) -> bool:
        """Whether the worker has cancelled all calls and tasks."""
        return self._given_up

    async def call(self, request: CallRequest, function: Function) -> Progress:
        """Claim, call and settle; or join this process's call in flight; or return the recorded outcome."""
        check_store(request, self._journal.store_id)
        key = (request.run_id, request.node, request.direction)
        call = self._calls.get(key)
        if call is None:
            check_serving(self._draining)
            self._began_s[key] = elapsed_s()
            call = self._calls[key] = asyncio.create_task(self._perform(request, function, _clock(request.as_of_ms)))
            call.add_done_callback(lambda ended: self._forget(key, ended))
        async with beating(self._heartbeats):
            self._awaited[key] += 1
            try:
                record = await asyncio.shield(call)
                if record.state.position < request.known:
                    # The joined call was settled before the workflow asked for this one.
                    record = await self._journal.record(request.run_id) or record
                return Progress.of_call(record, request.known)
            finally:
                self._awaited[key] -= 1
                if not self._awaited[key]:
                    del self._awaited[key]

    async def join(self, request: JoinRequest) -> Progress:
        """Wait until a claim is settled or its lease ends; until then its maker does not count as lost."""
        check_store(request, self._journal.store_id)
        now_ms = _clock(request.as_of_ms)
        key = (request.run_id, request.node, request.direction)
        claim = request.direction, request.lease_until_ms
        async with beating(self._heartbeats):
            while now_ms() < request.lease_until_ms:
                check_serving(self._draining)
                record = await self._read_record(request.run_id)
                if record is not None:
                    at = record.state.node(request.node)
                    if (CLAIMED.get(at.status), at.due_ms) != claim:
                        return Progress.of_call(record, request.known)
                call = self._calls.get(key)
                if call is None:
                    await asyncio.sleep(_LOOK_S)
                else:
                    await asyncio.wait([call], timeout=_LOOK_S)
            record = await self._commit_call(
                lambda tx: self._protocol.conclude(tx, request.run_id, now_ms()), request.run_id
            )
            return Progress.of_call(record, request.known)

    def pending(self) -> list[PendingCall]:
        """List the calls that this process makes now, longest first; any thread may ask."""
        now = elapsed_s()
        began = sorted(self._began_s.copy().items(), key=lambda each: each[1])
        return [PendingCall(*key, seconds=now - began_s) for key, began_s in began]

    def drain(self) -> None:
        """Start no further call, and hand back the deliveries whose call has not started."""
        self._draining.set()

    async def give_up(self, within_s: float) -> None:
        """Cancel all calls and tasks, and wait for their end, but no longer than the bound.

        Args:
            within_s: The bound in seconds. User code may ignore its cancellation.
        """
        self._draining.set()
        self._given_up = True
        tasks = [*self._calls.values(), *self._begun]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that is cancelled when this process ends."""
        task = asyncio.create_task(work)
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        return task

    def _forget(self, key: tuple[str, str, str], ended: asyncio.Task[RunRecord]) -> None:
        del self._calls[key]
        del self._began_s[key]
        if not ended.cancelled():
            ended.exception()  # marks the exception as read; the waiter that received it may be gone

    async def _perform(self, request: CallRequest, function: Function, now_ms: Callable[[], int]) -> RunRecord:
        """Wait for a seat, then claim, call and settle."""
        seats = self._seats.of(function)
        work = _WORK[request.direction](request.node, request.attempt)
        key = (request.run_id, request.node, request.direction)
        delivery = f"{activity.info().workflow_run_id}/{activity.info().activity_id}"
        doubt_s = math.inf if self._temporal_was_away() else _LOCAL_DOUBT_S if activity.info().is_local else 0.0
        believed = time.monotonic() if not doubt_s else math.inf

        # The committer's thread sets it; from then on the claim may be in the store.
        claimed = threading.Event()

        def claim(tx: Tx) -> tuple[RunRecord, EffectCall | None]:
            if self._draining.is_set():
                raise _GivenBackError
            claimed.set()
            check_known(request, tx.record(request.run_id))
            takeover = time.monotonic() >= believed
            # `now_ms()` is read here, because the commit may have waited and the lease starts only now.
            return self._protocol.claim(tx, request.run_id, work, now_ms(), delivery=delivery, takeover=takeover)

        waits = False
        while True:
            seat = await self._seats.take(function, request.run_id, self._draining)
            try:
                claimed.clear()
                record, task = await self._claim(claim, claimed, request.run_id)
            except BaseException:
                seats.release(seat)
                raise
            if task is not None:
                break
            seats.release(seat)
            if CLAIMED.get(record.state.node(work.node).status) is not work.direction:
                return record
            # The doubt counts from the first read, because before it the store may have been away for the other
            # process, too.
            believed = min(believed, time.monotonic() + doubt_s)
            if not waits:
                waits = True
                _log.info(
                    "%s of run %s is in flight elsewhere; this delivery waits for the outcome",
                    work.node,
                    request.run_id,
                )
            await asyncio.sleep(_LOOK_S)
        call = begin_call(self._registry, task, self._seats.threads, seat, self._seats.places)
        reply = await call.reply()
        record, late = await self._settle(task, reply.outcome, now_ms())
        if reply.later is not None:
            self.begin(self._settle_late(reply.later, now_ms))
        if (late or not self._awaited[key]) and not record.state.closed and self._protocol.drives(record):
            # Not awaited, because until this method returns another delivery would join the call and get its settled
            # outcome, however long Temporal takes.
            self.begin(self._wake_up(record))
        return record

    async def _claim(self, claim: Unit[T], claimed: threading.Event, run_id: str) -> T:
        """Commit a claim, unless the worker drains before the claim has reached the store.

        Raises:
            ApplicationError: Nothing was claimed; Temporal delivers the call to another worker.
        """
        commit = asyncio.ensure_future(self._commit_call(claim, run_id))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait([commit, draining], return_when=asyncio.FIRST_COMPLETED)
            if not commit.done() and not claimed.is_set():
                # The store is away, and nothing was claimed: once the worker drains, the unit itself refuses to claim.
                raise given_back()
            return await commit
        except _GivenBackError:
            raise given_back() from None
        finally:
            draining.cancel()
            commit.cancel()

    async def _settle(self, task: EffectCall, outcome: Outcome, now_ms: int) -> Settled:
        """Record an outcome, for as long as it takes, because a lost outcome means another call."""
        if isinstance(outcome, Postponed):
            self._failures.log_once(outcome.error(task.run_id, task.node))
        while True:
            try:
                return await self._commit_call(lambda tx: self._protocol.settle(tx, task, outcome, now_ms), task.run_id)
            except UnreachableError as error:  # the store answers but cannot write: a full disk, for example
                _log.warning("cannot record the outcome of %s yet: %s", task.key, self._errors.line(error))
                await asyncio.sleep(_HOLD_S)

    async def _settle_late(self, call: Begun, now_ms: Callable[[], int]) -> None:
        """Record the answer of a call that went on after its timeout, when it comes."""
        outcome = await call.late_outcome()
        if outcome is None:
            return
        try:
            record, late = await self._settle(call.task, outcome, now_ms())
        except AmendsError as error:
            _log.warning("the late answer of %s was not recorded: %s", call.task.key, error)
            return
        if late and not record.state.closed and self._protocol.drives(record):
            await self._wake_up(record)

    async def _wake_up(self, record: RunRecord) -> None:
        """Wake a run in Temporal, which has given up the call whose answer was recorded."""
        if self._wake is not None:
            try:
                await self._wake(record)
            except UnreachableError as error:
                _log.warning("%s", error)

    async def _commit_call(self, unit: Unit[T], run_id: str) -> T:
        return await self._journal.commit(unit, runs=(run_id,), patience=_CALL_PATIENCE)

    async def _read_record(self, run_id: str) -> RunRecord | None:
        """Read a run; `None` while the store is away."""
        try:
            return await self._journal.record(run_id)
        except UnreachableError:
            return None


def _clock(as_of_ms: int) -> Callable[[], int]:
    """Return a clock that continues from the workflow's time.

    The server's times measure the wait for a worker, and this process's clock measures the time after it. So wall
    clocks that differ between machines have no influence.
    """
    info = activity.info()
    late_s = max(0.0, (info.started_time - info.scheduled_time).total_seconds())
    began = elapsed_s()
    return lambda: as_of_ms + int((late_s + elapsed_s() - began) * 1000)
