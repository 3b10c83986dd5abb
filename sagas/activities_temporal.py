"""Activities: the protocol of `amends.sagas.advance`, one unit of the journal at a time, plus the calls themselves.

How they can fail: when the store cannot be reached, Temporal repeats them without limit and no attempt of a step is
used up; an outcome that was reached is held until the store takes it. A run that this process must not touch (another
store, no such run) fails the workflow in one line.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

from amends.aggregates.errors import (
    AmendsError,
    MissingCodeError,
    NotFoundError,
    TransitionError,
    UnreachableError,
    WrongStoreError,
)
from amends.aggregates.journal import Journal, Tx
from amends.aggregates.plan import StepKind
from amends.aggregates.record import RunRecord
from amends.sagas.advance import Protocol
from amends.sagas.decide import RunCompensation, RunProbe, RunStep, Work
from amends.sagas.invoke_asyncio import call_effect
from amends.sagas.messages_temporal import ADVANCE, AdvanceRequest, CallRequest, Progress, activity_name
from amends.sagas.outcome import Outcome
from amends.sagas.registry import Registry
from amends.sagas.task import Task

__all__ = ["Activities"]

T = TypeVar("T")

_log = logging.getLogger("amends.worker")

_BEAT_S = 1.0
_HOLD_FIRST_S, _HOLD_LONGEST_S = 0.1, 5.0
_WORK: dict[str, type[Work]] = {"do": RunStep, "undo": RunCompensation, "probe": RunProbe}


class Activities:
    """What a worker can do for the workflow.

    Args:
        journal: The store.
        registry: The code.
        worker: Who claims nodes.
        threads: Where plain functions run; `None` for the loop's own pool.
    """

    def __init__(
        self, journal: Journal, registry: Registry, *, worker: str, threads: ThreadPoolExecutor | None = None
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._protocol = Protocol(registry, worker)
        self._threads = threads

    def all(self) -> list[Callable[..., Any]]:
        """Give every activity that this worker can run."""
        return [self._advance_activity(), *self._call_activities()]

    def _advance_activity(self) -> Callable[..., Any]:
        async def advance(request: AdvanceRequest) -> Progress:
            return await _answering(self.advance(request))

        return activity.defn(name=ADVANCE)(advance)

    def _call_activities(self) -> list[Callable[..., Any]]:
        found: list[Callable[..., Any]] = []
        for name, step in self._registry.steps.items():
            if step.kind is StepKind.EFFECT:
                known = {"do": step.run, "undo": step.undo, "probe": step.probe}
                found += [
                    self._call_activity(activity_name(name, key)) for key, operation in known.items() if operation
                ]
        return found

    def _call_activity(self, name: str) -> Callable[..., Any]:
        async def call(request: CallRequest) -> Progress:
            return await _answering(self.call(request))

        return activity.defn(name=name)(call)

    async def advance(self, request: AdvanceRequest) -> Progress:
        """Append what follows without a call, and run the transactions that are due."""
        self._check_store(request.store_id, request.run_id)
        record = await self._journal.commit(
            lambda tx: self._protocol.advance(tx, request.run_id, request.as_of_ms), runs=(request.run_id,)
        )
        return Progress.since(record, request.known)

    async def call(self, request: CallRequest) -> Progress:
        """Claim, call, settle; or only tell what is recorded already."""
        self._check_store(request.store_id, request.run_id)
        info = activity.info()
        began = time.monotonic()
        # Both times are the server's: how much later than first planned this delivery is.
        late = (info.current_attempt_scheduled_time - info.scheduled_time).total_seconds()
        as_of_ms = request.as_of_ms + max(0, int(late * 1000))
        beat = None if info.is_local else asyncio.create_task(_beat())
        try:
            work = _WORK[request.direction](request.node, request.attempt)
            # Temporal delivers again only when it has given the earlier delivery up.
            takeover = info.attempt > 1

            def claim(tx: Tx) -> tuple[RunRecord, Task | None]:
                return self._protocol.claim(tx, request.run_id, work, as_of_ms, takeover=takeover)

            record, task = await self._journal.commit(claim, runs=(request.run_id,))
            if task is not None:
                outcome = await call_effect(self._registry, task, self._threads)
                now_ms = as_of_ms + int((time.monotonic() - began) * 1000)
                record = await self._settle(task, outcome, now_ms)
            return Progress.since(record, request.known)
        finally:
            if beat is not None:
                beat.cancel()
                with suppress(asyncio.CancelledError):
                    await beat

    async def _settle(self, task: Task, outcome: Outcome, now_ms: int) -> RunRecord:
        """Record an outcome, for as long as it takes: losing it would mean calling again."""
        hold = _HOLD_FIRST_S
        while True:
            try:
                return await self._journal.commit(
                    lambda tx: self._protocol.settle(tx, task, outcome, now_ms), runs=(task.run_id,)
                )
            except UnreachableError as error:
                _log.warning("holding the outcome of %s: %s", task.key, error)
                await asyncio.sleep(hold)
                hold = min(hold * 2, _HOLD_LONGEST_S)

    def _check_store(self, store_id: str, run_id: str) -> None:
        if store_id != self._journal.store_id:
            raise WrongStoreError(
                f"run {run_id!r} belongs to store {store_id}, this worker writes to store {self._journal.store_id}; "
                f"give worker and client the same store_url"
            )


async def _beat() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(_BEAT_S)


async def _answering(work: Coroutine[Any, Any, T]) -> T:
    """Turn our errors into Temporal's: those that another delivery cannot mend end the workflow."""
    try:
        return await work
    except AmendsError as error:
        lasting = isinstance(error, WrongStoreError | TransitionError) or (
            isinstance(error, NotFoundError) and not isinstance(error, MissingCodeError)
        )
        _log.warning("%s", error)
        raise ApplicationError(str(error), type=type(error).__name__, non_retryable=lasting) from None
