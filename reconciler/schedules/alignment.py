"""The changes to Temporal after which it holds the declared schedules, and no others. Pure.

A `TemporalSchedule` expresses a schedule in terms of Temporal, completely: every setting that it does not name has a
fixed value of Amends, so two equal ones behave alike. They are read back from Temporal in the same form. A schedule
that cannot be read back in this form differs from every other.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from amends.reconciler.schedules.cron import Calendar, parse_cron
from amends.reconciler.schedules.facts import Schedule, Timetable

__all__ = [
    "PREFIX",
    "Changes",
    "Reconciled",
    "TakenRun",
    "TemporalSchedule",
    "TemporalScheduleStatus",
    "align",
    "entries",
    "entry_id",
    "entry_of",
    "name_of",
]

PREFIX = "amends-schedule/"
"""The prefix of the ids of schedules and of their workflows; no run's id has a `/`, so no run can have such an id."""

# The least that Temporal accepts; with a shorter interval, it may catch up with more than one run.
_CATCHUP_MS = 10_000


@dataclass(frozen=True, slots=True)
class TemporalSchedule:
    """A schedule in terms of Temporal.

    Attributes:
        every_ms: Interval, counted from the beginning of 1970; `None` when the entry has calendars.
        calendars: Times, in `time_zone`.
        time_zone: Time zone of the calendars.
        jitter_ms: Largest random delay of a run.
        catchup_ms: How late a missed run is still started.
        paused: Whether no run is started.
        note: The command that explains the pause; empty when the schedule is not paused.
        task_queue: Queue of the workers.
        store_id: The store that declares the schedule.
        schedule: Name of the schedule in that store.
    """

    every_ms: int | None
    calendars: tuple[Calendar, ...]
    time_zone: str
    jitter_ms: int
    catchup_ms: int
    paused: bool
    note: str
    task_queue: str
    store_id: str
    schedule: str


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes to make in Temporal.

    Attributes:
        create: Entries that are missing, by id.
        update: Entries that differ from those in Temporal, by id.
        delete: Ids of schedules in Temporal that the store does not declare.
    """

    create: Mapping[str, TemporalSchedule]
    update: Mapping[str, TemporalSchedule]
    delete: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TakenRun:
    """A run that a schedule has started.

    Attributes:
        workflow_id: Id of the run's workflow.
        due_ms: When it was due, jitter included, in milliseconds since the epoch.
        started_ms: When it was started, in milliseconds since the epoch.
    """

    workflow_id: str
    due_ms: int
    started_ms: int


@dataclass(frozen=True, slots=True)
class TemporalScheduleStatus:
    """Temporal's report about a schedule since `created_ms`: it knows nothing of an earlier copy.

    Attributes:
        entry: The entry that Temporal holds; `None` when it cannot be read as an entry.
        created_ms: When the copy was created, in milliseconds since the epoch.
        taken: The number of runs that were started.
        missed: The number of runs not started because Temporal was away for too long.
        skipped: The number of runs not started because the run before was still active.
        running: Workflows of the runs that are active.
        recent: The last runs, oldest first.
        next_ms: When the next runs are due, in milliseconds since the epoch.
    """

    entry: TemporalSchedule | None
    created_ms: int
    taken: int
    missed: int
    skipped: int
    running: tuple[str, ...]
    recent: tuple[TakenRun, ...]
    next_ms: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The result of a scheduled run, which its workflow returns.

    Attributes:
        scanned: The number of rules that could scan.
        blind: The number of rules that could not.
        seen: The number of drifts found.
        corrected: The number of drifts corrected.
        idle: Why no rule was run; `None` when the rules were run.
        problem: The rules, none of which could scan, and the command that explains why; `None` when one could.
    """

    scanned: int = 0
    blind: int = 0
    seen: int = 0
    corrected: int = 0
    idle: str | None = None
    problem: str | None = None


def entry_id(store_id: str, name: str) -> str:
    """Return the id of a schedule in Temporal, where several stores may use the same name."""
    return f"{PREFIX}{store_id}/{name}"


def name_of(entry: str, store_id: str) -> str | None:
    """Return the name of a schedule from its id in Temporal; `None` when it does not belong to this store."""
    own = entry_id(store_id, "")
    return entry.removeprefix(own) if entry.startswith(own) else None


def entry_of(store_id: str, schedule: Schedule) -> TemporalSchedule:
    """Return a schedule in terms of Temporal."""
    declared = schedule.declared
    return TemporalSchedule(
        every_ms=declared.every_ms,
        calendars=() if declared.cron is None else parse_cron(declared.cron),
        time_zone=declared.time_zone,
        jitter_ms=declared.jitter_ms,
        catchup_ms=max(declared.gap_ms, _CATCHUP_MS),
        paused=schedule.paused is not None,
        # The reason may hold user data, which must not enter Temporal.
        note="" if schedule.paused is None else f"amends schedule show {declared.schedule} says why",
        task_queue=declared.task_queue,
        store_id=store_id,
        schedule=declared.schedule,
    )


def entries(store_id: str, timetable: Timetable) -> dict[str, TemporalSchedule]:
    """Return every schedule of a store in terms of Temporal, by id."""
    return {entry_id(store_id, name): entry_of(store_id, schedule) for name, schedule in timetable.schedules.items()}


def align(wanted: Mapping[str, TemporalSchedule], held: Mapping[str, TemporalSchedule | None]) -> Changes:
    """Return the changes that bring Temporal in line with the declarations.

    Args:
        wanted: Declared entries, by id.
        held: Entries that Temporal holds for this store, by id; `None` for one that cannot be read as an entry.
    """
    return Changes(
        create={each: entry for each, entry in wanted.items() if each not in held},
        update={each: entry for each, entry in wanted.items() if each in held and held[each] != entry},
        delete=tuple(each for each in held if each not in wanted),
    )
