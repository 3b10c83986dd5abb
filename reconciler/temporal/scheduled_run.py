"""A scheduled run: the workflow that Temporal's schedules start, and its one activity, which runs the rules.

Theory of operation: the workflow only calls the activity, for as long as that takes. The activity reads the facts
first: when they call the schedule removed or paused, it runs no rule and brings Temporal's copy in line. Then the rules
run one after the other, as `amends reconcile` runs them. After each rule, the heartbeat names the rules that are done,
so another worker that takes the run over continues with the rest. Work that is done twice does no harm, since scans may
be repeated and each drift is corrected once. No user data enters Temporal, only names of rules and numbers.

Failures: while the store is away, Temporal repeats the activity without limit. A worker that stops returns the activity
at once. A rule that cannot scan is recorded and counted (`after_run`), and does not fail the workflow.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from amends.aggregates.errors import AmendsError, JournalError
from amends.aggregates.journal import Journal, Tx
from amends.aggregates.text import one_line
from amends.aggregates.values.strict_json import clean_text
from amends.reconciler.drift.rule import Rule
from amends.reconciler.runtime.check import rule_state_of
from amends.reconciler.runtime.reconciler import Reconciler
from amends.reconciler.schedules.alignment import Reconciled
from amends.reconciler.schedules.decide import Schedules, after_run, schedules_of
from amends.reconciler.schedules.facts import ScheduleFact, Timetable
from amends.reconciler.temporal.schedules import WORKFLOW, ScheduledRun, TemporalSchedules
from amends.sagas.runtime.error_log import ErrorLog
from amends.sagas.temporal.failures import TravellingError, stated, travelling

__all__ = ["RECONCILE", "Equipment", "ReconcileWorkflow", "ScheduledRuns", "timetable_of"]

RECONCILE = "amends/reconcile"
"""Activity type of scheduled runs; no step's name has a `/`."""

_INFRASTRUCTURE = RetryPolicy(
    initial_interval=timedelta(seconds=1), backoff_coefficient=2, maximum_interval=timedelta(minutes=1)
)
_BOUND = timedelta(days=1)
_HEARTBEAT = timedelta(seconds=10)
_BEAT_S = 2.0

_log = logging.getLogger("amends.worker")


@dataclass(frozen=True)
class Equipment:
    """The rules and the reconciler that runs them.

    Attributes:
        rules: Every rule that the worker knows, by name.
        reconciler: Runs them.
    """

    rules: Mapping[str, Rule]
    reconciler: Reconciler


@workflow.defn(name=WORKFLOW, sandboxed=False)
class ReconcileWorkflow:
    """Runs the rules of a schedule once."""

    @workflow.run
    async def run(self, request: ScheduledRun) -> Reconciled:
        """Run the rules in the activity, and return the result."""
        came: Reconciled = await workflow.execute_activity(
            RECONCILE,
            request,
            result_type=Reconciled,
            start_to_close_timeout=_BOUND,
            heartbeat_timeout=_HEARTBEAT,
            retry_policy=_INFRASTRUCTURE,
        )
        return came


async def timetable_of(journal: Journal) -> Timetable:
    """Read the declared schedules.

    Raises:
        UnreachableError: The store cannot be reached.
    """
    found = await journal.load(Schedules, Schedules.ID)
    return Timetable() if found is None else found.timetable


class ScheduledRuns:
    """The activities of a worker for scheduled runs.

    Args:
        journal: The store.
        schedules: Temporal's copy of the schedules.
        equip: Loads the rules and their reconciler, again for each run; called with the run's actor.
        clock: Returns the time in milliseconds since the epoch.
        errors: The log of errors.
    """

    def __init__(
        self,
        journal: Journal,
        schedules: TemporalSchedules,
        equip: Callable[[str], Awaitable[Equipment]],
        *,
        clock: Callable[[], int],
        errors: ErrorLog | None = None,
    ) -> None:
        self._journal = journal
        self._schedules = schedules
        self._equip = equip
        self._clock = clock
        self._errors = errors or ErrorLog()

    def all(self) -> list[Callable[..., Any]]:
        """Return every activity that this worker can run for scheduled runs."""

        async def reconcile(request: ScheduledRun) -> Reconciled:
            info = activity.info()
            done = _Done(*info.heartbeat_details)
            # Not the workflow's id: it holds the time to the second, so two triggers within a second share it.
            run = asyncio.create_task(self._run(request, info.workflow_run_id or "", done))
            stop = asyncio.create_task(activity.wait_for_worker_shutdown())
            beat = asyncio.create_task(_beat(done))
            try:
                await asyncio.wait([run, stop], return_when=asyncio.FIRST_COMPLETED)
                if run.done():
                    return run.result()
                failure = stated("WorkerStops", schedule=request.schedule)
            except TravellingError as error:
                failure = error
            except Exception as error:  # noqa: BLE001 - the text of an error must not leave this process
                failure = travelling(error, schedule=request.schedule)
                if isinstance(error, AmendsError):
                    _log.warning("schedule %s: %s", request.schedule, self._errors.line(error))
                else:
                    self._errors.raised(f"schedule {request.schedule}", error)
            finally:
                for task in (run, stop, beat):
                    task.cancel()
                await asyncio.gather(run, stop, beat, return_exceptions=True)
            # Raised outside of the block, so that the error is not its context.
            raise failure

        return [activity.defn(name=RECONCILE)(reconcile)]

    async def run(self, request: ScheduledRun, run: str, done: Sequence[Sequence[Any]] = ()) -> Reconciled:
        """Run the rules of a schedule that are not done yet, outside of Temporal.

        Args:
            request: The schedule and its store.
            run: Name of the run.
            done: Details of the heartbeat of an earlier delivery.

        Raises:
            UnreachableError: Store or Temporal cannot be reached.
        """
        return await self._run(request, run, _Done(done))

    async def _run(self, request: ScheduledRun, run: str, done: "_Done") -> Reconciled:
        if request.store_id != self._journal.store_id:
            _log.warning(
                "schedule %s belongs to store %s, this worker writes to store %s; give both the same store_url",
                request.schedule,
                request.store_id,
                self._journal.store_id,
            )
            raise stated("WrongStoreError", schedule=request.schedule, lasting=True)
        timetable = await timetable_of(self._journal)
        schedule = timetable.schedules.get(request.schedule)
        if schedule is None or schedule.paused is not None:
            await self._schedules.align(timetable, gone=[request.schedule])
            return Reconciled(idle="the schedule was removed" if schedule is None else "the schedule is paused")
        actor = f"schedule {request.schedule}"
        with_ = await self._equip(actor)
        for name in schedule.declared.rules or tuple(with_.rules):
            if name not in done.rules:
                await _run_rule(with_, name, done)
        problem = await self._problem(done)
        await self._conclude(request.schedule, run, problem, actor)
        # The reason stays in the journal: it may quote an error that the rule raised.
        return done.sum(blind=problem is not None)

    async def _problem(self, done: "_Done") -> str | None:
        """Return why none of the rules could scan; `None` when one could, or there is no rule."""
        if not done.rules or any(not blind for blind, _, _ in done.rules.values()):
            return None
        said = []
        for name in done.rules:
            try:
                why = (await rule_state_of(self._journal, name)).unobservable
            except JournalError as error:
                why = str(error)
            unknown = f"the worker knows no drift rule {name!r}; restart it if the rule is new"
            said.append(f"rule {name} could not scan: {why}" if why else unknown)
        return clean_text(one_line("; ".join(said)))

    async def _conclude(self, name: str, run: str, problem: str | None, actor: str) -> None:
        """Count the run when it failed, or when the runs before it failed."""

        def follows(timetable: Timetable) -> list[ScheduleFact]:
            return after_run(timetable, name, run, problem, self._clock(), actor=actor)

        def unit(tx: Tx) -> Timetable:
            with tx.unit_of_work() as uow:
                stream = schedules_of(uow)
                for fact in follows(stream.timetable):
                    stream.record(fact)
                return stream.timetable

        if not follows(await timetable_of(self._journal)):
            return
        timetable = await self._journal.commit(unit)
        schedule = timetable.schedules.get(name)
        if schedule is not None and schedule.paused is not None:
            _log.warning("schedule %s is paused; amends schedule show %s says why", name, name)
            await self._schedules.align(timetable)


async def _run_rule(with_: Equipment, name: str, done: "_Done") -> None:
    """Scan by one rule, and correct the drift that is due."""
    rule = with_.rules.get(name)
    if rule is None:
        done.rules[name] = (True, 0, 0)
        return
    try:
        verdict = await with_.reconciler.scan(rule)
    except JournalError:  # the rule's own stream is damaged: the other rules still run
        _log.error("rule %s could not scan: its own stream cannot be read; amends db check shows the fault", name)
        done.rules[name] = (True, 0, 0)
        return
    corrected = 0
    for drift in verdict.due:
        made = await with_.reconciler.correct(rule, drift, verdict.seen[drift])
        corrected += made.problem is None
    done.rules[name] = (verdict.rule_state.unobservable is not None, len(verdict.seen), corrected)
    with suppress(RuntimeError):  # outside of Temporal, in tests
        activity.heartbeat(done.details())


class _Done:
    """The rules that are done: whether each was unable to scan, and how many drifts it saw and corrected.

    Args:
        said: Details of the heartbeat of an earlier delivery.
    """

    def __init__(self, said: Sequence[Sequence[Any]] = ()) -> None:
        self.rules: dict[str, tuple[bool, int, int]] = {
            name: (blind, seen, corrected) for name, blind, seen, corrected in said
        }

    def details(self) -> list[list[Any]]:
        """Return the details for the next delivery."""
        return [[name, *each] for name, each in self.rules.items()]

    def sum(self, *, blind: bool) -> Reconciled:
        """Add up the rules, and state whether none of them could scan."""
        problem = f"{', '.join(self.rules)}; amends reconciliations says why" if blind else None
        unable = sum(each for each, _, _ in self.rules.values())
        return Reconciled(
            scanned=len(self.rules) - unable,
            blind=unable,
            seen=sum(each for _, each, _ in self.rules.values()),
            corrected=sum(each for _, _, each in self.rules.values()),
            problem=problem,
        )


async def _beat(done: _Done) -> None:
    while True:
        activity.heartbeat(done.details())
        await asyncio.sleep(_BEAT_S)
