"""What is decided about schedules: by people, by a worker that starts, and after each run. Pure.

The stream that the facts are written to is here too: an aggregate, so that who decides second sees what was decided.
"""

import re
from collections.abc import Mapping, Sequence

from eventsourcing.domain import event

from amends.aggregates.errors import InputError, NotFoundError, RefusedError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.journal import StepWork
from amends.aggregates.text import shorten
from amends.reconciler.schedules.facts import (
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
    "by_themselves",
    "declare",
    "pause",
    "remove",
    "resume",
    "schedule_of",
    "schedules_of",
]

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_MAX_NAME_CHARS = 60
_SHORTEST_MS = 1_000
_LONGEST_MS = 366 * 86_400_000
_MOST_FAILURES = 1_000_000
_FAILURES = 10
_HOUR_MS = 3_600_000
_JITTER_MS = 30_000


class Schedules(Aggregate):
    """The schedules of a store."""

    CATEGORY = "reconciliation_schedules"
    # Raise it whenever `Timetable` folds differently: snapshots know only the code of this class.
    FOLD = 1
    # The only one.
    ID = "all"

    @event("SchedulesOpened")
    def __init__(self, id: str, timetable: Timetable) -> None:  # noqa: A002, ARG002 - what aggregates take
        # Part of the event so that its type is known to snapshots; it is always the empty one.
        self.timetable = timetable

    def record(self, fact: ScheduleFact) -> None:
        """Write a fact down; each kind is an event of its own, whose only field is the fact."""
        self.trigger_event(getattr(type(self), type(fact).__name__), fact=fact)

    @event("ScheduleDeclared")
    def _declared(self, fact: ScheduleDeclared) -> None:
        self.timetable = self.timetable.apply(fact)

    @event("SchedulePaused")
    def _paused(self, fact: SchedulePaused) -> None:
        self.timetable = self.timetable.apply(fact)

    @event("ScheduleResumed")
    def _resumed(self, fact: ScheduleResumed) -> None:
        self.timetable = self.timetable.apply(fact)

    @event("ScheduleFailed")
    def _failed(self, fact: ScheduleFailed) -> None:
        self.timetable = self.timetable.apply(fact)

    @event("ScheduleRecovered")
    def _recovered(self, fact: ScheduleRecovered) -> None:
        self.timetable = self.timetable.apply(fact)

    @event("ScheduleRemoved")
    def _removed(self, fact: ScheduleRemoved) -> None:
        self.timetable = self.timetable.apply(fact)


def schedules_of(uow: StepWork) -> Schedules:
    """Load the store's schedules, or begin them."""
    return uow.find(Schedules, Schedules.ID) or uow.add(Schedules(id=Schedules.ID, timetable=Timetable()))


def schedule_of(timetable: Timetable, name: str) -> Schedule:
    """Give a schedule.

    Raises:
        NotFoundError: There is none of this name.
    """
    found = timetable.schedules.get(name)
    if found is None:
        there = f"there are: {', '.join(timetable.schedules)}" if timetable.schedules else "there is none yet"
        raise NotFoundError(f"there is no schedule {shorten(name)}; {there}")
    return found


# ---- what people decide


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
    """Make the fact that rules are to be run by a schedule; it takes the place of one that was there by itself.

    Args:
        timetable: What is known.
        name: Name of the schedule.
        now_ms: The time, in milliseconds since the epoch.
        actor: Who decides.
        rules: Names of the rules; empty for all.
        every_ms: Interval, from a second to a year.
        cron: Cron expression, instead of an interval.
        time_zone: Its time zone; UTC when there is none.
        jitter_ms: How much later a run may be begun, from 0 to the interval.
        pause_after: How many failures in a row pause it, 0 for never; as many as an hour has, at least 10, when `None`.
        task_queue: Queue of the workers that run it.

    Raises:
        InputError: The name is taken or cannot be used, or the times cannot.
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
    """As many failures as an hour has runs, and at least ten: a short outage must not stop reconciliation for good."""
    return _FAILURES if every_ms is None else max(_FAILURES, -(-_HOUR_MS // every_ms))


def pause(timetable: Timetable, name: str, now_ms: int, *, actor: str, reason: str) -> SchedulePaused:
    """Make the fact that nothing is begun by a schedule any more.

    Raises:
        NotFoundError: There is no such schedule.
        RefusedError: It is paused already.
        InputError: There is no reason.
    """
    schedule = schedule_of(timetable, name)
    if schedule.paused is not None:
        raise RefusedError(f"schedule {name!r} is paused already, by {schedule.paused_by}: {schedule.paused}")
    if not reason.strip():
        raise InputError("pausing needs a reason, which the journal keeps; give one with --reason")
    return SchedulePaused(as_of_ms=now_ms, actor=actor, schedule=name, reason=reason)


def resume(timetable: Timetable, name: str, now_ms: int, *, actor: str) -> ScheduleResumed:
    """Make the fact that a schedule goes on.

    Raises:
        NotFoundError: There is no such schedule.
        RefusedError: It is not paused.
    """
    if schedule_of(timetable, name).paused is None:
        raise RefusedError(f"schedule {name!r} is not paused; amends schedule show {name} says how it stands")
    return ScheduleResumed(as_of_ms=now_ms, actor=actor, schedule=name)


def remove(timetable: Timetable, name: str, now_ms: int, *, actor: str) -> ScheduleRemoved:
    """Make the fact that a schedule is there no more, and does not come back by itself.

    Raises:
        NotFoundError: There is no such schedule.
    """
    schedule_of(timetable, name)
    return ScheduleRemoved(as_of_ms=now_ms, actor=actor, schedule=name, automatic=False)


# ---- what happens by itself


def by_themselves(
    timetable: Timetable, rules: Mapping[str, int], now_ms: int, *, actor: str, task_queue: str
) -> list[ScheduleFact]:
    """Make the facts by which every rule has a schedule of its own that follows its `every` and the worker's queue.

    Schedules that people declared are left as they are, and what a person removed does not come back. A rule that is
    known here is scheduled here, whatever queue it was scheduled on: where a project's queue was changed, nobody polls
    the old one. A rule that is not known here may be known to workers of another queue, so only schedules of this
    queue go with their rules.

    Args:
        timetable: What is known.
        rules: The interval of each rule, in milliseconds; none when rules are not to be scheduled by themselves.
        now_ms: The time, in milliseconds since the epoch.
        actor: Who looks after it.
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
    """Make the facts that follow from a scheduled run: none when it went well and those before it did.

    Args:
        timetable: What is known.
        name: Name of the schedule.
        run: Name of the run; one that was counted already is not counted again.
        problem: Why none of its rules could look; `None` when one could.
        now_ms: The time, in milliseconds since the epoch.
        actor: Who ran it.
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
