"""Activities: run the units of `amends.sagas.engine.protocol` and the user's calls for the workflow.

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

How they can fail: a run that this process must not touch (another store, no such run) fails the workflow with one line;
Temporal repeats every other failure without limit.
"""

import asyncio
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import activity
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from amends.aggregates.errors import (
    AmendsError,
    CannotContinueError,
    DamagedRunError,
    MissingCodeError,
    NotFoundError,
    RefusedError,
    UnreachableError,
    WrongStoreError,
)
from amends.aggregates.journal import Journal, Tx, Unit
from amends.aggregates.run.plan import StepKind
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import CLAIMED, Direction
from amends.sagas.definition.registry import Registry
from amends.sagas.engine import interventions
from amends.sagas.engine.answers import Settled
from amends.sagas.engine.arguments import arguments_of
from amends.sagas.engine.calls import EffectCall
from amends.sagas.engine.decide import RunCompensation, RunProbe, RunStep, Work
from amends.sagas.engine.interventions import Intervention, InterventionKind
from amends.sagas.engine.outcome import Outcome, Postponed
from amends.sagas.engine.protocol import Followed, RunProtocol
from amends.sagas.engine.seats import Function, Seat, functions_of, operation_of
from amends.sagas.runtime.clock import elapsed_s
from amends.sagas.runtime.effects import Begun, begin_call
from amends.sagas.runtime.error_log import ErrorLog
from amends.sagas.runtime.seats import Seats, Wanted
from amends.sagas.runtime.threads import Threads
from amends.sagas.temporal.failures import TravellingError, stated, travelling
from amends.sagas.temporal.heartbeats import Heartbeats
from amends.sagas.temporal.messages import (
    ADVANCE,
    DRIVER,
    JOIN,
    AdvanceRequest,
    CallRequest,
    JoinRequest,
    Progress,
    check_seen,
)

__all__ = ["Activities", "PendingCall"]

T = TypeVar("T")

_log = logging.getLogger("amends.worker")

_BEAT_S = 1.0
_LOOK_S = 0.5
_HOLD_S = 5.0
# After this time, a call without a seat may occupy a slot that another step needs.
_SCARCE_S = 5.0
_COME_BACK = timedelta(seconds=5)
# A local call has no heartbeats, so Temporal delivers it to another process as soon as a workflow task is late.
_LOCAL_DOUBT_S = 10.0
# An advance can be given up, because Temporal repeats it; a claim or an outcome must wait for as long as it takes.
_ADVANCE_PATIENCE = timedelta(seconds=20)
_CALL_PATIENCE = timedelta(days=365)
_MOST_TOLD = 10_000
_LONGEST_WAIT_S = 60
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


class Activities:
    """The activities of a worker.

    Args:
        journal: The store.
        registry: The code.
        worker: The name under which nodes are claimed.
        at_once: The most calls of `async def` functions at the same time.
        threads: The most plain `def` functions that run at the same time.
        temporal_was_away: Returns whether Temporal's silence about a worker proves nothing.
        wake: Wakes a run in Temporal after an answer for which no delivery waited; `None` to wake none.
        errors: The log of errors.
        heartbeats: Sends heartbeats while the event loop cannot; `None` to send none.

    Attributes:
        threads: The threads for plain functions.
        slots: The most calls that Temporal may deliver to one queue of this process at the same time. It exceeds the
            number of seats, so that calls that wait for a hanging participant leave room for calls of other steps.
    """

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        *,
        worker: str,
        at_once: int = 200,
        threads: int = 200,
        temporal_was_away: Callable[[], bool] = lambda: False,
        wake: Callable[[RunRecord], Awaitable[None]] | None = None,
        errors: ErrorLog | None = None,
        heartbeats: Heartbeats | None = None,
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._errors = errors or ErrorLog()
        self._protocol = RunProtocol(registry, worker, DRIVER, self._errors.failed)
        self.threads = Threads(Seats(threads, functions_of(registry.steps.values(), in_threads=True)))
        self._places = Seats(at_once, functions_of(registry.steps.values(), in_threads=False))
        self.slots = 2 * (at_once + threads)
        self._delivered: Counter[tuple[str, bool]] = Counter()
        self._temporal_was_away = temporal_was_away
        self._calls: dict[tuple[str, str, str], asyncio.Task[RunRecord]] = {}
        self._awaited: Counter[tuple[str, str, str]] = Counter()
        self._began_s: dict[tuple[str, str, str], float] = {}
        self._begun: set[asyncio.Task[Any]] = set()
        self._draining = asyncio.Event()
        self._given_up = False
        self._wake = wake
        self._told: dict[tuple[str, str], str] = {}
        self._heartbeats = heartbeats

    def all(self) -> list[Callable[..., Any]]:
        """Return every activity that this worker can run."""
        fixed = [self._advance_activity(), self._join_activity(), self._missing_activity()]
        return [*fixed, *self._call_activities()]

    def _advance_activity(self) -> Callable[..., Any]:
        async def advance(request: AdvanceRequest) -> Progress:
            if self._given_up:
                raise _given_back()
            return await self._begin(self._answering(self.advance(request)))

        return activity.defn(name=ADVANCE)(advance)

    def _join_activity(self) -> Callable[..., Any]:
        async def join(request: JoinRequest) -> Progress:
            return await self._begin(self._answering(self.join(request)))

        return activity.defn(name=JOIN)(join)

    def _call_activities(self) -> list[Callable[..., Any]]:
        found: list[Callable[..., Any]] = []
        for name, step in self._registry.steps.items():
            if step.kind is StepKind.EFFECT:
                found += [
                    self._call_activity(Function(name, direction))
                    for direction in Direction
                    if operation_of(step, direction) is not None
                ]
        return found

    def _call_activity(self, function: Function) -> Callable[..., Any]:
        async def call(request: CallRequest) -> Progress:
            info = activity.info()
            place = info.task_queue, info.is_local
            self._delivered[place] += 1
            try:
                return await self._answering(self._waiting(self.call(request, function)))
            finally:
                self._delivered[place] -= 1

        return activity.defn(name=str(function))(call)

    def _missing_activity(self) -> Callable[..., Any]:
        """Return the activity for steps that are not loaded; it reports the code for which the run waits."""

        async def missing(args: Sequence[RawValue]) -> Progress:
            request = activity.payload_converter().from_payload(args[0].payload, CallRequest)
            return await self._answering(self._waiting(self._missing(request)))

        return activity.defn(dynamic=True)(missing)

    async def advance(self, request: AdvanceRequest) -> Progress:
        """Append every conclusion, and run the transactions that are due."""
        self._check_store(request.store_id, request.run_id)

        def unit(tx: Tx) -> Followed:
            _check_known(tx, request)
            if request.cancel:
                self._cancel(tx, request)
            return self._protocol.follow(tx, request.run_id, request.as_of_ms)

        record, waits = await self._journal.commit(unit, runs=(request.run_id,), patience=_ADVANCE_PATIENCE)
        for error in waits:
            self._log_once(error)
        return Progress.since(record, request.known, waits=bool(waits))

    def _log_once(self, error: CannotContinueError) -> None:
        """Log why a run waits for other code, but only once, although Temporal asks repeatedly."""
        told = (error.run_id, error.node)
        if self._told.get(told) != str(error):
            if len(self._told) >= _MOST_TOLD:
                self._told.clear()
            self._told[told] = str(error)
            _log.warning("%s", error)

    def _cancel(self, tx: Tx, request: AdvanceRequest) -> None:
        """Append the request to cancel that Temporal received, if the run can still be cancelled."""
        record = tx.record(request.run_id)
        wish = Intervention(kind=InterventionKind.CANCEL, actor=DRIVER, reason="the workflow was cancelled in Temporal")
        if record is not None:
            try:
                interventions.apply(tx, self._registry, record, wish, request.as_of_ms, position=None)
            except RefusedError as error:
                _log.warning("run %r: a cancel of Temporal's was refused: %s", request.run_id, self._errors.line(error))

    async def _waiting(self, work: Awaitable[T]) -> T:
        """Await work; if the deployed code cannot do it, have Temporal ask again, less and less often."""
        try:
            return await work
        except CannotContinueError as error:
            self._log_once(error)
            again_s = min(2.0 ** min(activity.info().attempt - 1, 10), _LONGEST_WAIT_S)
            raise travelling(error, run_id=error.run_id, node=error.node, again=timedelta(seconds=again_s)) from None

    async def _missing(self, request: CallRequest) -> Progress:
        """Raise the error that names the code for which a run waits; this worker has no activity for its step."""
        self._check_store(request.store_id, request.run_id)
        record = await self._journal.record(request.run_id)
        if record is None:
            raise NotFoundError(f"no run has the id {request.run_id!r} in this store; was it started on another one?")
        node = record.state.plan.nodes[request.node]
        arguments_of(self._registry, record, node, Direction(request.direction))
        raise MissingCodeError(f"run {request.run_id!r}: step {request.node!r} is not served here; restart the worker")

    async def call(self, request: CallRequest, function: Function) -> Progress:
        """Claim, call and settle; or join this process's call in flight; or return the recorded outcome."""
        self._check_store(request.store_id, request.run_id)
        key = (request.run_id, request.node, request.direction)
        call = self._calls.get(key)
        if call is None:
            self._check_serving()
            self._began_s[key] = elapsed_s()
            call = self._calls[key] = asyncio.create_task(self._perform(request, function, _clock(request.as_of_ms)))
            call.add_done_callback(lambda ended: self._forget(key, ended))
        beat = None if activity.info().is_local else asyncio.create_task(self._beat())
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
            await _end(beat)

    async def join(self, request: JoinRequest) -> Progress:
        """Wait until a claim is settled or its lease ends; until then its maker does not count as lost."""
        self._check_store(request.store_id, request.run_id)
        now_ms = _clock(request.as_of_ms)
        key = (request.run_id, request.node, request.direction)
        claim = request.direction, request.lease_until_ms
        beat = asyncio.create_task(self._beat())
        try:
            while now_ms() < request.lease_until_ms:
                self._check_serving()
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
        finally:
            await _end(beat)

    async def _beat(self) -> None:
        """Send heartbeats until cancelled; a thread does so while the event loop stands still."""
        token = activity.info().task_token
        if self._heartbeats is not None:
            self._heartbeats.add(token)
        try:
            while True:
                activity.heartbeat()
                await asyncio.sleep(_BEAT_S)
        finally:
            if self._heartbeats is not None:
                self._heartbeats.end(token)

    async def _read_record(self, run_id: str) -> RunRecord | None:
        """Read a run; `None` while the store is away."""
        try:
            return await self._journal.record(run_id)
        except UnreachableError:
            return None

    async def _answering(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for the work of an activity; raise any error without its text, because Temporal would store the text."""
        info = activity.info()
        try:
            return await work
        except ApplicationError as error:
            failure = error if isinstance(error, TravellingError) else travelling(error, run_id=info.workflow_id or "")
        except Exception as error:  # noqa: BLE001 - the text of every error stays here
            # The workflow may end, because `recover` and the rule `driven` start a damaged run again once its facts are
            # restored.
            lost = isinstance(error, DamagedRunError) and not error.damage.version
            failure = travelling(error, run_id=info.workflow_id or "", lasting=lost)
            if isinstance(error, AmendsError):
                _log.warning("run %r, %s: %s", info.workflow_id, info.activity_type, self._errors.line(error))
            else:
                self._errors.raised(f"run {info.workflow_id!r}, {info.activity_type}", error)
        # Raised outside of the `except` block, so that the error does not become the context of the failure.
        raise failure

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that is cancelled when this process ends."""
        task = asyncio.create_task(work)
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        return task

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

    def _check_serving(self) -> None:
        if self._draining.is_set():
            raise _given_back()

    def _forget(self, key: tuple[str, str, str], ended: asyncio.Task[RunRecord]) -> None:
        del self._calls[key]
        del self._began_s[key]
        if not ended.cancelled():
            ended.exception()  # marks the exception as read; the waiter that received it may be gone

    async def _perform(self, request: CallRequest, function: Function, now_ms: Callable[[], int]) -> RunRecord:
        """Wait for a seat, then claim, call and settle."""
        seats = self.threads.seats if function in self.threads.seats.functions else self._places
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
            _check_known(tx, request)
            takeover = time.monotonic() >= believed
            # `now_ms()` is read here, because the commit may have waited and the lease starts only now.
            return self._protocol.claim(tx, request.run_id, work, now_ms(), delivery=delivery, takeover=takeover)

        waits = False
        while True:
            seat = await self._seat(seats, function, request.run_id)
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
                _log.info("%s of run %s is being worked on elsewhere, and is waited for", work.node, request.run_id)
            await asyncio.sleep(_LOOK_S)
        call = begin_call(self._registry, task, self.threads, seat, self._places)
        reply = await call.reply()
        record, late = await self._settle(task, reply.outcome, now_ms())
        if reply.later is not None:
            self._begin(self._settle_late(reply.later, now_ms))
        if (late or not self._awaited[key]) and not record.state.closed and self._protocol.drives(record):
            # Not awaited, because until this method returns another delivery would join the call and get its settled
            # outcome, however long Temporal takes.
            self._begin(self._tell_of(record))
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
                raise _given_back()
            return await commit
        except _GivenBackError:
            raise _given_back() from None
        finally:
            draining.cancel()
            commit.cancel()

    async def _seat(self, seats: Seats, function: Function, run_id: str) -> Seat:
        """Wait for a seat; hand the slot back to Temporal if slots are scarce and the step has had no seat for long.

        Raises:
            ApplicationError: Temporal will deliver the call again, a little later.
        """
        if (seat := seats.try_take(function, run_id)) is not None:
            return seat
        wanted = Wanted(seats, function, run_id)
        try:
            while not wanted.granted.done():
                self._check_serving()
                self._leave_room(seats, function)
                await asyncio.wait({wanted.granted}, timeout=_LOOK_S)
            return wanted.granted.result()
        except BaseException:
            wanted.withdraw()
            raise

    def _leave_room(self, seats: Seats, function: Function) -> None:
        if self._draining.is_set():
            raise _given_back()
        info = activity.info()
        crowded = self._delivered[info.task_queue, info.is_local] > self.slots - self.slots // 4
        if crowded and seats.waited_s(function) > _SCARCE_S:
            raise stated("WaitsForThread", run_id=info.workflow_id or "", node=str(function), again=_COME_BACK)

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
            await self._tell_of(record)

    async def _commit_call(self, unit: Unit[T], run_id: str) -> T:
        return await self._journal.commit(unit, runs=(run_id,), patience=_CALL_PATIENCE)

    async def _tell_of(self, record: RunRecord) -> None:
        """Wake a run in Temporal, which has given up the call whose answer was recorded."""
        if self._wake is not None:
            try:
                await self._wake(record)
            except UnreachableError as error:
                _log.warning("%s", error)

    async def _settle(self, task: EffectCall, outcome: Outcome, now_ms: int) -> Settled:
        """Record an outcome, for as long as it takes, because a lost outcome means another call."""
        if isinstance(outcome, Postponed):
            self._log_once(outcome.error(task.run_id, task.node))
        while True:
            try:
                return await self._commit_call(lambda tx: self._protocol.settle(tx, task, outcome, now_ms), task.run_id)
            except UnreachableError as error:  # the store answers but cannot write: a full disk, for example
                _log.warning("holding the outcome of %s: %s", task.key, self._errors.line(error))
                await asyncio.sleep(_HOLD_S)

    def _check_store(self, store_id: str, run_id: str) -> None:
        if store_id != self._journal.store_id:
            raise WrongStoreError(
                f"run {run_id!r} belongs to store {store_id}, this worker writes to store {self._journal.store_id}; "
                f"give worker and client the same store_url"
            )


def _given_back() -> TravellingError:
    """Return the failure by which this stopping worker hands a call to another one."""
    return stated("GivenBack")


def _check_known(tx: Tx, request: AdvanceRequest | CallRequest) -> None:
    record = tx.record(request.run_id)
    if record is not None:
        seen = max(request.known, request.seen) if isinstance(request, AdvanceRequest) else request.known
        check_seen(request.run_id, record.state.position, seen)


def _clock(as_of_ms: int) -> Callable[[], int]:
    """Return a clock that continues from the workflow's time.

    The server's times measure the wait for a worker, and this process's clock measures the time after it. So wall
    clocks that differ between machines have no influence.
    """
    info = activity.info()
    late_s = max(0.0, (info.started_time - info.scheduled_time).total_seconds())
    began = elapsed_s()
    return lambda: as_of_ms + int((late_s + elapsed_s() - began) * 1000)


async def _end(beat: asyncio.Task[None] | None) -> None:
    if beat is not None:
        beat.cancel()
        with suppress(asyncio.CancelledError):
            await beat
