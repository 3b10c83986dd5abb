"""Schedules of reconciliation: the facts by which they are declared, and what follows from them.

The facts are the truth and Temporal holds a copy, which `align.py` compares with them. One stream for the whole store,
`reconciliation_schedules/all`: a schedule's name is taken or free for everybody. Pure.

Failing: a scheduled run has failed when *none* of its rules could look; one rule that is blind must not stop the
others. After so many failures in a row as the schedule says, it is paused, by a fact, until somebody resumes it. Runs
are counted by their names, so a run that is repeated counts once.
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
    """What every fact about a schedule carries.

    Attributes:
        as_of_ms: When it was decided or seen, in milliseconds since the epoch.
        actor: Who decided or ran it.
        schedule: Name of the schedule.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of_ms: int
    actor: str
    schedule: str


class ScheduleDeclared(ScheduleFact):
    """Rules are to be run by a schedule; declared again, it is changed.

    Attributes:
        rules: Names of the rules; empty for all that a worker knows.
        every_ms: Interval; `None` when there is a cron expression.
        cron: Cron expression; `None` when there is an interval.
        time_zone: Time zone of the cron expression.
        jitter_ms: Each run is begun so much later at most, at random.
        pause_after: How many failures in a row pause it; 0 for never.
        task_queue: Queue of the workers that run it.
        automatic: Whether it follows a rule's own `every`, and not a person.
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
        """The interval; of a cron expression the shortest one, at most a day."""
        return self.every_ms if self.every_ms is not None else shortest_gap_ms(self.cron or "")


class SchedulePaused(ScheduleFact):
    """Nothing is begun by the schedule any more.

    Attributes:
        reason: Why.
    """

    reason: str


class ScheduleResumed(ScheduleFact):
    """The schedule goes on; failures before it do not count any more."""


class ScheduleFailed(ScheduleFact):
    """A scheduled run has failed: none of its rules could look.

    Attributes:
        run: Name of the run.
        error: Why.
    """

    run: str
    error: str


class ScheduleRecovered(ScheduleFact):
    """A scheduled run could look again, after failures.

    Attributes:
        run: Name of the run.
    """

    run: str


class ScheduleRemoved(ScheduleFact):
    """The schedule is there no more.

    Attributes:
        automatic: Whether it went with its rule or by a setting. One that a person removed is not declared again by
            itself.
    """

    automatic: bool


SCHEDULE_FACTS: dict[str, type[ScheduleFact]] = {
    cls.__name__: cls
    for cls in (ScheduleDeclared, SchedulePaused, ScheduleResumed, ScheduleFailed, ScheduleRecovered, ScheduleRemoved)
}
"""Every kind of fact about schedules, by its name."""


class Schedule(BaseModel):
    """A schedule as it stands.

    Attributes:
        declared: The fact that says what it is.
        paused: Why it is paused; `None` when it is not.
        paused_by: Who paused it.
        paused_ms: Since when, in milliseconds since the epoch.
        failures: How many runs have failed in a row.
        failed_run: Name of the last one.
        error: Why it failed.
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
        """Fold one more fact; a fact about a schedule that is not there changes nothing."""
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
    # What follows its rule stays paused when the rule changes; what a person declares begins anew.
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
