"""The facts that declare schedules of reconciliation, and their fold.

The facts are authoritative. Temporal holds a copy, which `alignment.py` compares with them. A store has one stream of
schedules, `reconciliation_schedules/all`, so a name is taken or free for everybody. Pure.

Failures: a scheduled run has failed when *none* of its rules could scan; one rule that cannot scan must not stop the
others. After `pause_after` failures in a row, a fact pauses the schedule until somebody resumes it. Runs are counted by
their names, so a run that is repeated counts once.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from amends.reconciler.schedules.cron import shortest_gap_ms

__all__ = [
    "SCHEDULE_FACTS",
    "Schedule",
    "ScheduleDeclared",
    "ScheduleFact",
    "ScheduleFailed",
    "SchedulePaused",
    "ScheduleRecovered",
    "ScheduleRemoved",
    "ScheduleResumed",
    "Timetable",
]


class ScheduleFact(BaseModel):
    """The fields of every fact about a schedule.

    Attributes:
        as_of_ms: Time of the decision or the run, in milliseconds since the epoch.
        actor: Name of the person or program that decided or ran it.
        schedule: Name of the schedule.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of_ms: int
    actor: str
    schedule: str


class ScheduleDeclared(ScheduleFact):
    """Rules run by a schedule; a second declaration of the same name changes the schedule.

    Attributes:
        rules: Names of the rules; empty for all that a worker knows.
        every_ms: Interval; `None` when there is a cron expression.
        cron: Cron expression; `None` when there is an interval.
        time_zone: Time zone of the cron expression.
        jitter_ms: Largest random delay of a run.
        pause_after: How many failures in a row pause it; 0 for never.
        task_queue: Queue of the workers that run it.
        automatic: Whether it follows a rule's own `every`, rather than a person's decision.
    """

    rules: tuple[str, ...]
    every_ms: int | None
    cron: str | None
    time_zone: str
    jitter_ms: int
    pause_after: int
    task_queue: str
    automatic: bool

    @property
    def gap_ms(self) -> int:
        """The interval; for a cron expression, the shortest one, at most a day."""
        return self.every_ms if self.every_ms is not None else shortest_gap_ms(self.cron or "")


class SchedulePaused(ScheduleFact):
    """The schedule starts nothing any more.

    Attributes:
        reason: Reason of the pause.
    """

    reason: str


class ScheduleResumed(ScheduleFact):
    """The schedule starts runs again; failures before that no longer count."""


class ScheduleFailed(ScheduleFact):
    """A scheduled run has failed: none of its rules could scan.

    Attributes:
        run: Name of the run.
        error: Why they could not scan.
    """

    run: str
    error: str


class ScheduleRecovered(ScheduleFact):
    """A scheduled run could scan again, after failures.

    Attributes:
        run: Name of the run.
    """

    run: str


class ScheduleRemoved(ScheduleFact):
    """The schedule no longer exists.

    Attributes:
        automatic: Whether it was removed with its rule or by a setting. A schedule that a person removed is not
            declared again automatically.
    """

    automatic: bool


SCHEDULE_FACTS: dict[str, type[ScheduleFact]] = {
    cls.__name__: cls
    for cls in (ScheduleDeclared, SchedulePaused, ScheduleResumed, ScheduleFailed, ScheduleRecovered, ScheduleRemoved)
}
"""Every kind of fact about schedules, by its name."""


class Schedule(BaseModel):
    """The current state of a schedule.

    Attributes:
        declared: The fact that declares it.
        paused: Why it is paused; `None` when it is not.
        paused_by: Name of the person or program that paused it.
        paused_ms: Since when, in milliseconds since the epoch.
        failures: The number of failed runs in a row.
        failed_run: Name of the last failed run.
        error: Why that run failed.
    """

    model_config = ConfigDict(frozen=True)

    declared: ScheduleDeclared
    paused: str | None = None
    paused_by: str | None = None
    paused_ms: int | None = None
    failures: int = 0
    failed_run: str | None = None
    error: str | None = None


_GOING_ON: dict[str, Any] = {
    "paused": None,
    "paused_by": None,
    "paused_ms": None,
    "failures": 0,
    "failed_run": None,
    "error": None,
}


class Timetable(BaseModel):
    """Every schedule of a store: the fold of their stream.

    Attributes:
        schedules: By name, in the order in which they were declared.
        declined: Names of schedules that a person removed.
    """

    model_config = ConfigDict(frozen=True)

    schedules: dict[str, Schedule] = {}
    declined: tuple[str, ...] = ()

    def apply(self, fact: ScheduleFact) -> "Timetable":
        """Fold one more fact; a fact about an unknown schedule changes nothing."""
        name, known = fact.schedule, self.schedules.get(fact.schedule)
        if isinstance(fact, ScheduleDeclared):
            changed = _declared(fact, known)
            declined = tuple(each for each in self.declined if each != name)
            return Timetable(schedules={**self.schedules, name: changed}, declined=declined)
        if known is None:
            return self
        if isinstance(fact, ScheduleRemoved):
            left = {each: schedule for each, schedule in self.schedules.items() if each != name}
            return Timetable(schedules=left, declined=self.declined if fact.automatic else (*self.declined, name))
        changed = known.model_copy(update=_changes(fact, known))
        return Timetable(schedules={**self.schedules, name: changed}, declined=self.declined)


def _declared(fact: ScheduleDeclared, known: Schedule | None) -> Schedule:
    # An automatic schedule stays paused when its rule changes; a declaration by a person resets the state.
    if known is None or not fact.automatic:
        return Schedule(declared=fact)
    return known.model_copy(update={"declared": fact})


def _changes(fact: ScheduleFact, known: Schedule) -> dict[str, Any]:
    match fact:
        case SchedulePaused():
            return {"paused": fact.reason, "paused_by": fact.actor, "paused_ms": fact.as_of_ms}
        case ScheduleFailed():
            return {"failures": known.failures + 1, "failed_run": fact.run, "error": fact.error}
        case ScheduleRecovered():
            return {"failures": 0, "failed_run": None, "error": None}
        case ScheduleResumed():
            return _GOING_ON
        case _:
            return {}
