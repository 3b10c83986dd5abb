"""Decisions about schedules: by people, by a worker that starts, and after each run. Pure.

This module also owns the stream of those facts: an aggregate, so that the second of two decisions sees the first.
"""

import re
from collections.abc import Mapping, Sequence

from eventsourcing.domain import event

from amends.aggregates.errors import InputError, NotFoundError, RefusedError
from amends.aggregates.events.fact_stream import FactStream
from amends.aggregates.journal import StepWork
from amends.aggregates.text import shorten
from amends.reconciler.schedules.facts import (
    SCHEDULE_FACTS,
    Schedule,
    ScheduleDeclared,
    ScheduleFact,
    ScheduleFailed,
    SchedulePaused,
    ScheduleRecovered,
    ScheduleRemoved,
    ScheduleResumed,
    Timetable,
)

__all__ = [
    "Schedules",
    "after_run",
    "declare",
    "pause",
    "remove",
    "resume",
    "schedule_of",
    "schedules_of",
    "sync_automatic_schedules",
]

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_MAX_NAME_CHARS = 60
_SHORTEST_MS = 1_000
_LONGEST_MS = 366 * 86_400_000
_MOST_FAILURES = 1_000_000
_FAILURES = 10
_HOUR_MS = 3_600_000
_JITTER_MS = 30_000


class Schedules(FactStream, facts=SCHEDULE_FACTS.values(), folds="timetable"):
    """The schedules of a store."""

    CATEGORY = "reconciliation_schedules"
    # Raise it whenever `Timetable` folds differently: snapshots know only the code of this class.
    FOLD = 1
    # A store has one stream of schedules.
    ID = "all"

    @event("SchedulesOpened")
    def __init__(self, id: str, timetable: Timetable) -> None:  # noqa: A002, ARG002 - the signature of aggregates
        # The event carries the empty value so that snapshots know its type.
        self.timetable = timetable


def schedules_of(uow: StepWork) -> Schedules:
    """Load the store's schedules, or create their stream."""
    return uow.find(Schedules, Schedules.ID) or uow.add(Schedules(id=Schedules.ID, timetable=Timetable()))


def schedule_of(timetable: Timetable, name: str) -> Schedule:
    """Return a schedule.

    Raises:
        NotFoundError: No schedule has this name.
    """
    found = timetable.schedules.get(name)
    if found is None:
        there = f"there are: {', '.join(timetable.schedules)}" if timetable.schedules else "there is none yet"
        raise NotFoundError(f"there is no schedule {shorten(name)}; {there}")
    return found


# ---- decisions of people


def declare(
    timetable: Timetable,
    name: str,
    now_ms: int,
    *,
    actor: str,
    rules: Sequence[str],
    every_ms: int | None = None,
    cron: str | None = None,
    time_zone: str | None = None,
    jitter_ms: int = 0,
    pause_after: int | None = None,
    task_queue: str,
) -> ScheduleDeclared:
    """Return the fact that declares a schedule for rules; it replaces an automatic schedule of the same name.

    Args:
        timetable: The schedules of the store.
        name: Name of the schedule.
        now_ms: The time, in milliseconds since the epoch.
        actor: Name of the person that decides.
        rules: Names of the rules; empty for all.
        every_ms: Interval, from a second to a year.
        cron: Cron expression, instead of an interval.
        time_zone: Time zone of the cron expression; `None` for UTC.
        jitter_ms: Largest random delay of a run, from 0 to the interval.
        pause_after: How many failures in a row pause it, 0 for never; as many as an hour has, at least 10, when `None`.
        task_queue: Queue of the workers that run it.

    Raises:
        InputError: The name is taken or invalid, or the times are invalid.
    """
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME_CHARS:
        raise InputError(f"schedule {shorten(name)}: use up to {_MAX_NAME_CHARS} lower-case letters, digits and -")
    known = timetable.schedules.get(name)
    if known is not None and not known.declared.automatic:
        raise InputError(f"there is a schedule {name!r} already; remove it first: amends schedule remove {name}")
    if (every_ms is None) == (cron is None):
        raise InputError(f"schedule {name!r} needs an interval or a cron expression: give one of --every and --cron")
    if time_zone is not None and cron is None:
        raise InputError("an interval has no time zone; use --time-zone with --cron")
    if every_ms is not None and not _SHORTEST_MS <= every_ms <= _LONGEST_MS:
        raise InputError(f"the interval is {every_ms / 1000:g} s; use 1s to 366d")
    fact = ScheduleDeclared(
        as_of_ms=now_ms,
        actor=actor,
        schedule=name,
        rules=tuple(dict.fromkeys(rules)),
        every_ms=every_ms,
        cron=None if cron is None else " ".join(cron.split()),
        time_zone=time_zone or "UTC",
        jitter_ms=jitter_ms,
        pause_after=_failures(every_ms) if pause_after is None else pause_after,
        task_queue=task_queue,
        automatic=False,
    )
    if not 0 <= jitter_ms <= fact.gap_ms:
        raise InputError(f"jitter is {jitter_ms / 1000:g} s; use 0 s up to the interval, {fact.gap_ms / 1000:g} s")
    if not 0 <= fact.pause_after <= _MOST_FAILURES:
        raise InputError(f"--pause-after is {fact.pause_after}; use a number from 1, or 0 for never")
    return fact


def _failures(every_ms: int | None) -> int:
    """Return the number of runs in an hour, at least ten: a short outage must not stop reconciliation for good."""
    return _FAILURES if every_ms is None else max(_FAILURES, -(-_HOUR_MS // every_ms))


def pause(timetable: Timetable, name: str, now_ms: int, *, actor: str, reason: str) -> SchedulePaused:
    """Return the fact that pauses a schedule, so that it starts nothing any more.

    Raises:
        NotFoundError: No schedule has this name.
        RefusedError: It is paused already.
        InputError: The reason is empty.
    """
    schedule = schedule_of(timetable, name)
    if schedule.paused is not None:
        raise RefusedError(f"schedule {name!r} is paused already, by {schedule.paused_by}: {schedule.paused}")
    if not reason.strip():
        raise InputError("a pause needs a reason; pass --reason (it is recorded with the pause)")
    return SchedulePaused(as_of_ms=now_ms, actor=actor, schedule=name, reason=reason)


def resume(timetable: Timetable, name: str, now_ms: int, *, actor: str) -> ScheduleResumed:
    """Return the fact that resumes a schedule.

    Raises:
        NotFoundError: No schedule has this name.
        RefusedError: It is not paused.
    """
    if schedule_of(timetable, name).paused is None:
        raise RefusedError(f"schedule {name!r} is not paused; see: amends schedule show {name}")
    return ScheduleResumed(as_of_ms=now_ms, actor=actor, schedule=name)


def remove(timetable: Timetable, name: str, now_ms: int, *, actor: str) -> ScheduleRemoved:
    """Return the fact that removes a schedule for good; no worker declares it again automatically.

    Raises:
        NotFoundError: No schedule has this name.
    """
    schedule_of(timetable, name)
    return ScheduleRemoved(as_of_ms=now_ms, actor=actor, schedule=name, automatic=False)


# ---- automatic decisions


def sync_automatic_schedules(
    timetable: Timetable, rules: Mapping[str, int], now_ms: int, *, actor: str, task_queue: str
) -> list[ScheduleFact]:
    """Return the facts that schedule each rule on its own, by the rule's `every` and on the worker's queue.

    Schedules that people declared stay unchanged, and a schedule that a person removed does not come back. A rule that
    this worker knows is scheduled on this worker's queue, even if it was scheduled on another one: after a project has
    changed its queue, no worker polls the old one. A rule that this worker does not know may be known to workers of
    another queue, so only the schedules of this queue are removed with their rules.

    Args:
        timetable: The schedules of the store.
        rules: The interval of each rule, in milliseconds; empty when automatic schedules are off.
        now_ms: The time, in milliseconds since the epoch.
        actor: Name of the worker.
        task_queue: Queue of the workers that know the rules.
    """
    facts: list[ScheduleFact] = []
    for name, schedule in timetable.schedules.items():
        declared = schedule.declared
        if declared.automatic and declared.task_queue == task_queue and name not in rules:
            facts.append(ScheduleRemoved(as_of_ms=now_ms, actor=actor, schedule=name, automatic=True))
    for name, wished_ms in rules.items():
        known = timetable.schedules.get(name)
        every_ms = min(max(wished_ms, _SHORTEST_MS), _LONGEST_MS)
        if known is None:
            wanted = name not in timetable.declined
        else:
            declared = known.declared
            as_wished = (declared.every_ms, declared.task_queue) == (every_ms, task_queue)
            wanted = declared.automatic and not as_wished
        if wanted:
            facts.append(
                ScheduleDeclared(
                    as_of_ms=now_ms,
                    actor=actor,
                    schedule=name,
                    rules=(name,),
                    every_ms=every_ms,
                    cron=None,
                    time_zone="UTC",
                    jitter_ms=min(every_ms // 10, _JITTER_MS),
                    pause_after=_failures(every_ms),
                    task_queue=task_queue,
                    automatic=True,
                )
            )
    return facts


def after_run(
    timetable: Timetable, name: str, run: str, problem: str | None, now_ms: int, *, actor: str
) -> list[ScheduleFact]:
    """Return the facts that follow from a scheduled run; none after a success that follows a success.

    Args:
        timetable: The schedules of the store.
        name: Name of the schedule.
        run: Name of the run; a run that was counted already is not counted again.
        problem: Why none of its rules could scan; `None` when one could.
        now_ms: The time, in milliseconds since the epoch.
        actor: Name under which the rules ran.
    """
    schedule = timetable.schedules.get(name)
    if schedule is None or (problem is not None and schedule.failed_run == run):
        return []
    if problem is None:
        if not schedule.failures:
            return []
        return [ScheduleRecovered(as_of_ms=now_ms, actor=actor, schedule=name, run=run)]
    facts: list[ScheduleFact] = [ScheduleFailed(as_of_ms=now_ms, actor=actor, schedule=name, run=run, error=problem)]
    limit = schedule.declared.pause_after
    if schedule.paused is None and limit and schedule.failures + 1 >= limit:
        reason = f"{schedule.failures + 1} runs in a row failed: {problem}"
        facts.append(SchedulePaused(as_of_ms=now_ms, actor=actor, schedule=name, reason=reason))
    return facts
