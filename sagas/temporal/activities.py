"""Activities: run the units of `amends.sagas.engine.protocol` and the user's calls for the workflow.

An advance appends every conclusion and runs the transactions that are due; the calls are in `effect_calls.py`.

How they can fail: a run that this process must not touch (another store, no such run) fails the workflow with one line;
Temporal repeats every other failure without limit.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.common import RawValue

from amends.aggregates.errors import MissingCodeError, NotFoundError, RefusedError
from amends.aggregates.journal import Journal, Tx
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.run.plan import StepKind
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import Direction
from amends.sagas.definition.registry import Registry
from amends.sagas.engine import interventions
from amends.sagas.engine.arguments import arguments_of
from amends.sagas.engine.interventions import Intervention, InterventionKind
from amends.sagas.engine.protocol import Followed, RunProtocol
from amends.sagas.engine.seats import Function, operation_of
from amends.sagas.runtime.error_log import ErrorLog
from amends.sagas.temporal.activity_failures import ActivityFailures, given_back
from amends.sagas.temporal.call_seats import CallSeats
from amends.sagas.temporal.effect_calls import EffectCalls
from amends.sagas.temporal.heartbeats import Heartbeats
from amends.sagas.temporal.messages import (
    ADVANCE,
    JOIN,
    AdvanceRequest,
    CallRequest,
    JoinRequest,
    Progress,
    check_known,
    check_store,
)

__all__ = ["Activities"]

_log = logging.getLogger("amends.worker")

# An advance can be given up, because Temporal repeats it.
_ADVANCE_PATIENCE = timedelta(seconds=20)


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
        seats: The room for calls.
        calls: The calls in flight.
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
        self._protocol = RunProtocol(registry, worker, TEMPORAL_DRIVER, self._errors.failed)
        self._failures = ActivityFailures(self._errors)
        self.seats = CallSeats(registry, at_once=at_once, threads=threads)
        self.calls = EffectCalls(
            journal,
            registry,
            self._protocol,
            self.seats,
            self._failures,
            errors=self._errors,
            temporal_was_away=temporal_was_away,
            wake=wake,
            heartbeats=heartbeats,
        )

    def all(self) -> list[Callable[..., Any]]:
        """Return every activity that this worker can run."""
        fixed = [self._advance_activity(), self._join_activity(), self._missing_activity()]
        return [*fixed, *self._call_activities()]

    def _advance_activity(self) -> Callable[..., Any]:
        async def advance(request: AdvanceRequest) -> Progress:
            if self.calls.given_up:
                raise given_back()
            return await self.calls.begin(self._failures.without_text(self.advance(request)))

        return activity.defn(name=ADVANCE)(advance)

    def _join_activity(self) -> Callable[..., Any]:
        async def join(request: JoinRequest) -> Progress:
            return await self.calls.begin(self._failures.without_text(self.calls.join(request)))

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
            with self.seats.occupied_slot():
                return await self._failures.without_text(
                    self._failures.retrying_later(self.calls.call(request, function))
                )

        return activity.defn(name=str(function))(call)

    def _missing_activity(self) -> Callable[..., Any]:
        """Return the activity for steps that are not loaded; it reports the code for which the run waits."""

        async def missing(args: Sequence[RawValue]) -> Progress:
            request = activity.payload_converter().from_payload(args[0].payload, CallRequest)
            return await self._failures.without_text(self._failures.retrying_later(self._missing(request)))

        return activity.defn(dynamic=True)(missing)

    async def advance(self, request: AdvanceRequest) -> Progress:
        """Append every conclusion, and run the transactions that are due."""
        check_store(request, self._journal.store_id)

        def unit(tx: Tx) -> Followed:
            check_known(request, tx.record(request.run_id))
            if request.cancel:
                self._cancel(tx, request)
            return self._protocol.follow(tx, request.run_id, request.as_of_ms)

        record, waits = await self._journal.commit(unit, runs=(request.run_id,), patience=_ADVANCE_PATIENCE)
        for error in waits:
            self._failures.log_once(error)
        return Progress.since(record, request.known, waits=bool(waits))

    def _cancel(self, tx: Tx, request: AdvanceRequest) -> None:
        """Append the request to cancel that Temporal received, if the run can still be cancelled."""
        record = tx.record(request.run_id)
        wish = Intervention(
            kind=InterventionKind.CANCEL, actor=TEMPORAL_DRIVER, reason="the workflow was cancelled in Temporal"
        )
        if record is not None:
            try:
                interventions.apply(tx, self._registry, record, wish, request.as_of_ms, position=None)
            except RefusedError as error:
                _log.warning(
                    "run %r: Amends refused a cancel from Temporal: %s", request.run_id, self._errors.line(error)
                )

    async def _missing(self, request: CallRequest) -> Progress:
        """Raise the error that names the code for which a run waits; this worker has no activity for its step."""
        check_store(request, self._journal.store_id)
        record = await self._journal.record(request.run_id)
        if record is None:
            raise NotFoundError(f"no run has the id {request.run_id!r} in this store; was it started on another one?")
        node = record.state.plan.nodes[request.node]
        arguments_of(self._registry, record, node, Direction(request.direction))
        raise MissingCodeError(
            f"run {request.run_id!r}: step {request.node!r} is not served by this worker; restart it"
        )
