"""Temporal's copy of the schedules: read it, bring it in line with the facts, trigger it. It decides nothing.

Failures: while Temporal is away, every call raises `UnreachableError`, and the next alignment finishes the work that
was half done. Two alignments may run at once: a change that the other one has already made is no fault.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import temporalio.client
from temporalio.client import (
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleCalendarSpec,
    ScheduleDescription,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleRange,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    WorkflowFailureError,
)
from temporalio.service import RPCError, RPCStatusCode

from amends.aggregates.errors import InputError, NotFoundError, UnreachableError
from amends.aggregates.text import one_line
from amends.reconciler.schedules.alignment import (
    Changes,
    Reconciled,
    TakenRun,
    TemporalSchedule,
    TemporalScheduleStatus,
    align,
    entries,
    entry_id,
    name_of,
)
from amends.reconciler.schedules.cron import Calendar, Span
from amends.reconciler.schedules.facts import Timetable
from amends.sagas.temporal.start_workflow import TASK_TIMEOUT

__all__ = ["WORKFLOW", "ScheduledRun", "TemporalSchedules"]

WORKFLOW = "amends/reconcile"
"""Workflow type of scheduled runs; no saga's name has a `/`."""

_MS = timedelta(milliseconds=1)
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class ScheduledRun:
    """The only argument of a scheduled run's workflow.

    Attributes:
        schedule: Name of the schedule.
        store_id: The store that declares it; a worker on another store refuses the run.
    """

    schedule: str
    store_id: str


class TemporalSchedules:
    """The schedules of one store, in Temporal.

    Args:
        client: Temporal.
        store_id: The store.
    """

    def __init__(self, client: temporalio.client.Client, store_id: str) -> None:
        self._client = client
        self._store_id = store_id

    async def copies(self, names: Iterable[str]) -> dict[str, TemporalScheduleStatus]:
        """Read Temporal's copies of these schedules; skip schedules that Temporal does not have.

        Raises:
            UnreachableError: Temporal does not answer.
        """
        wanted = list(names)
        found = await asyncio.gather(*(self._copy(name) for name in wanted))
        return {name: copy for name, copy in zip(wanted, found, strict=True) if copy is not None}

    async def align(self, timetable: Timetable, *, gone: Iterable[str] = ()) -> Changes:
        """Change Temporal so that it holds the declared schedules of this store and no others; return the changes.

        Args:
            timetable: The declared schedules.
            gone: Names of schedules that were just removed; Temporal's list lags behind.

        Raises:
            UnreachableError: Temporal does not answer.
            InputError: Temporal refuses a schedule.
        """
        names = {*timetable.schedules, *gone, *await self._listed()}
        copies = await self.copies(sorted(names))
        held = {entry_id(self._store_id, name): copy.entry for name, copy in copies.items()}
        changes = align(entries(self._store_id, timetable), held)
        done = await asyncio.gather(
            *(self._create(each, entry) for each, entry in changes.create.items()),
            *(self._update(each, entry) for each, entry in changes.update.items()),
            *(self._delete(each) for each in changes.delete),
            return_exceptions=True,
        )
        # One refused schedule must not keep out the others.
        for error in done:
            if error is not None:
                raise error
        return changes

    async def trigger(self, name: str) -> str | None:
        """Start a run now, and return its workflow; return `None` when a run was under way already.

        Raises:
            UnreachableError: Temporal does not answer.
            NotFoundError: Temporal does not have the schedule.
        """
        each = entry_id(self._store_id, name)
        before = (await self.copies([name])).get(name)
        await _answered(self._client.get_schedule_handle(each).trigger(), each)
        while before is not None and (after := (await self.copies([name])).get(name)) is not None:
            if after.taken > before.taken:
                return after.recent[-1].workflow_id
            if after.skipped > before.skipped:
                break
            await asyncio.sleep(_LOOK_S)
        return None

    async def outcome(self, workflow_id: str) -> Reconciled:
        """Wait for a run and return its result.

        Raises:
            UnreachableError: Temporal does not answer, or the run was ended by force.
        """
        try:
            came: Reconciled = await self._client.get_workflow_handle(workflow_id, result_type=Reconciled).result()
        except (RPCError, WorkflowFailureError) as error:
            raise UnreachableError(f"the outcome of {workflow_id!r} is unknown: {one_line(str(error))}") from None
        return came

    async def _listed(self) -> list[str]:
        """List the names of this store's schedules; one that was just created may be missing."""
        try:
            found = [name_of(each.id, self._store_id) async for each in await self._client.list_schedules()]
        except RPCError as error:
            raise UnreachableError(f"Temporal does not list its schedules: {one_line(error.message)}") from None
        return [name for name in found if name]

    async def _copy(self, name: str) -> TemporalScheduleStatus | None:
        each = entry_id(self._store_id, name)
        with suppress(NotFoundError):
            return self._read(await _answered(self._client.get_schedule_handle(each).describe(), each))
        return None

    async def _create(self, each: str, entry: TemporalSchedule) -> None:
        with suppress(ScheduleAlreadyRunningError):
            await _answered(self._client.create_schedule(each, _schedule(entry)), each)

    async def _delete(self, each: str) -> None:
        with suppress(NotFoundError):
            await _answered(self._client.get_schedule_handle(each).delete(), each)

    async def _update(self, each: str, entry: TemporalSchedule) -> None:
        schedule = _schedule(entry)
        with suppress(NotFoundError):
            await _answered(
                self._client.get_schedule_handle(each).update(lambda _: ScheduleUpdate(schedule=schedule)), each
            )

    def _read(self, description: ScheduleDescription) -> TemporalScheduleStatus:
        info = description.info
        return TemporalScheduleStatus(
            entry=self._entry(description.schedule),
            created_ms=_epoch_ms(info.created_at),
            taken=info.num_actions,
            missed=info.num_actions_missed_catchup_window,
            skipped=info.num_actions_skipped_overlap,
            running=tuple(
                each.workflow_id
                for each in info.running_actions
                if isinstance(each, ScheduleActionExecutionStartWorkflow)
            ),
            recent=tuple(
                TakenRun(each.action.workflow_id, _epoch_ms(each.scheduled_at), _epoch_ms(each.started_at))
                for each in info.recent_actions
                if isinstance(each.action, ScheduleActionExecutionStartWorkflow)
            ),
            next_ms=tuple(map(_epoch_ms, info.next_action_times)),
        )

    def _entry(self, schedule: Schedule) -> TemporalSchedule | None:
        """Read a schedule back as an entry; return `None` for a schedule that an entry cannot express."""
        action, spec = schedule.action, schedule.spec
        if not isinstance(action, ScheduleActionStartWorkflow) or len(action.args) != 1:
            return None
        try:
            run = self._client.data_converter.payload_converter.from_payload(action.args[0], ScheduledRun)
        except Exception:  # noqa: BLE001 - any error means that we did not write it
            return None
        entry = TemporalSchedule(
            every_ms=spec.intervals[0].every // _MS if spec.intervals else None,
            calendars=tuple(map(_calendar, spec.calendars)),
            time_zone=spec.time_zone_name or "UTC",
            jitter_ms=(spec.jitter or timedelta(0)) // _MS,
            catchup_ms=(schedule.policy.catchup_window or timedelta(0)) // _MS,
            paused=schedule.state.paused,
            note=schedule.state.note or "",
            task_queue=action.task_queue,
            store_id=run.store_id,
            schedule=run.schedule,
        )
        return entry if _plain(_schedule(entry)) == _plain(schedule) else None


def _schedule(entry: TemporalSchedule) -> Schedule:
    each = entry_id(entry.store_id, entry.schedule)
    return Schedule(
        action=ScheduleActionStartWorkflow(
            WORKFLOW,
            ScheduledRun(entry.schedule, entry.store_id),
            id=each,
            task_queue=entry.task_queue,
            task_timeout=TASK_TIMEOUT,
        ),
        spec=ScheduleSpec(
            intervals=[] if entry.every_ms is None else [ScheduleIntervalSpec(timedelta(milliseconds=entry.every_ms))],
            calendars=[_calendar_spec(calendar) for calendar in entry.calendars],
            time_zone_name=entry.time_zone if entry.calendars else None,
            jitter=timedelta(milliseconds=entry.jitter_ms) or None,
        ),
        policy=SchedulePolicy(
            overlap=ScheduleOverlapPolicy.SKIP, catchup_window=timedelta(milliseconds=entry.catchup_ms)
        ),
        state=ScheduleState(paused=entry.paused, note=entry.note or None),
    )


def _plain(schedule: Schedule) -> tuple[Any, ...]:
    """Return every value that affects a schedule's behaviour, in a form that can be compared."""
    spec, policy, state = schedule.spec, schedule.policy, schedule.state
    action: Any = schedule.action
    return (
        (action.workflow, action.id, action.task_queue, action.task_timeout, action.execution_timeout),
        (action.run_timeout, action.retry_policy),
        [(each.every, each.offset or timedelta(0)) for each in spec.intervals],
        [(_calendar(each), tuple(each.second), tuple(each.year)) for each in spec.calendars],
        (list(spec.cron_expressions), list(spec.skip), spec.start_at, spec.end_at),
        (policy.overlap, policy.pause_on_failure, state.limited_actions),
    )


def _calendar_spec(calendar: Calendar) -> ScheduleCalendarSpec:
    def ranges(spans: tuple[Span, ...]) -> tuple[ScheduleRange, ...]:
        return tuple(ScheduleRange(each.first, each.last, each.step) for each in spans)

    return ScheduleCalendarSpec(
        minute=ranges(calendar.minute),
        hour=ranges(calendar.hour),
        day_of_month=ranges(calendar.day),
        month=ranges(calendar.month),
        day_of_week=ranges(calendar.weekday),
    )


def _calendar(spec: ScheduleCalendarSpec) -> Calendar:
    def spans(ranges: Iterable[ScheduleRange]) -> tuple[Span, ...]:
        return tuple(Span(each.start, each.end, each.step) for each in ranges)

    return Calendar(
        minute=spans(spec.minute),
        hour=spans(spec.hour),
        day=spans(spec.day_of_month),
        month=spans(spec.month),
        weekday=spans(spec.day_of_week),
    )


def _epoch_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


async def _answered(call: Any, schedule: str) -> Any:  # noqa: ANN401 - any awaitable, and its result
    """Await a call, and convert Temporal's errors into ours."""
    try:
        return await call
    except RPCError as error:
        said = one_line(error.message)
        if error.status is RPCStatusCode.NOT_FOUND:
            raise NotFoundError(f"Temporal has no schedule {schedule!r}") from None
        if error.status is RPCStatusCode.INVALID_ARGUMENT:
            raise InputError(f"Temporal refuses schedule {schedule!r}: {said}; change the schedule") from None
        raise UnreachableError(f"Temporal does not answer about schedule {schedule!r}: {said}") from None
