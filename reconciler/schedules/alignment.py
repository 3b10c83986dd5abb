"""What has to be changed in Temporal so that it holds the schedules that the facts declare, and no others. Pure.

An `Entry` is a schedule in terms of Temporal, complete: whatever is not said in it is left at a value of ours, so two
entries that are equal behave alike. Entries are read back from Temporal the same way, and what cannot be read back as
one is different from every entry.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from amends.reconciler.schedules.cron import Calendar, parse_cron
from amends.reconciler.schedules.facts import Schedule, Timetable

__all__ = [
    "PREFIX",
    "Changes",
    "Copy",
    "Entry",
    "Reconciled",
    "TakenRun",
    "align",
    "entries",
    "entry_id",
    "entry_of",
    "name_of",
]

PREFIX = "amends-schedule/"
"""How the ids of schedules and of their workflows begin; no run's id has a `/`, so none of these can be one."""

# What Temporal takes at least; for shorter intervals more than one may be caught up with.
_CATCHUP_MS = 10_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A schedule in terms of Temporal.

    Attributes:
        every_ms: Interval, counted from the beginning of 1970; `None` when there are calendars.
        calendars: Times, in `time_zone`.
        time_zone: Time zone of the calendars.
        jitter_ms: Each run is begun so much later at most.
        catchup_ms: How late a run that was missed is still begun.
        paused: Whether nothing is begun.
        note: Where it is said why it is paused; empty when it is not.
        task_queue: Queue of the workers.
        store_id: The store that declares it.
        schedule: Its name there.
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
    """What has to be done in Temporal.

    Attributes:
        create: Entries that are missing, by id.
        update: Entries that are there and differ, by id.
        delete: Ids of what is there and not declared.
    """

    create: Mapping[str, Entry]
    update: Mapping[str, Entry]
    delete: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TakenRun:
    """A run that a schedule has begun.

    Attributes:
        workflow_id: Its workflow.
        due_ms: When it was due, jitter included, in milliseconds since the epoch.
        begun_ms: When it was begun.
    """

    workflow_id: str
    due_ms: int
    begun_ms: int


@dataclass(frozen=True, slots=True)
class Copy:
    """What Temporal says about a schedule, all of it since `created_ms`: it knows nothing of an earlier copy.

    Attributes:
        entry: What it holds; `None` when it cannot be read as one of ours.
        created_ms: When the copy was made, in milliseconds since the epoch.
        taken: How many runs were begun.
        missed: How many were not, because Temporal was away for too long.
        skipped: How many were not, because the one before was still running.
        running: Workflows of runs that are running.
        recent: The last runs, oldest first.
        next_ms: When the next ones are due.
    """

    entry: Entry | None
    created_ms: int
    taken: int
    missed: int
    skipped: int
    running: tuple[str, ...]
    recent: tuple[TakenRun, ...]
    next_ms: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a scheduled run came to; what its workflow returns.

    Attributes:
        looked: Rules that could look.
        blind: Rules that could not.
        seen: Drifts that were found.
        corrected: Drifts that were corrected.
        idle: Why nothing was done; `None` when something was.
        problem: That none of the rules could look, and where it is said why; `None` when one could.
    """

    looked: int = 0
    blind: int = 0
    seen: int = 0
    corrected: int = 0
    idle: str | None = None
    problem: str | None = None


def entry_id(store_id: str, name: str) -> str:
    """Name a schedule in Temporal, where several stores may have one of the same name."""
    return f"{PREFIX}{store_id}/{name}"


def name_of(entry: str, store_id: str) -> str | None:
    """Give the name of a schedule from its id in Temporal; `None` when it is not one of this store."""
    own = entry_id(store_id, "")
    return entry.removeprefix(own) if entry.startswith(own) else None


def entry_of(store_id: str, schedule: Schedule) -> Entry:
    """Say a schedule in terms of Temporal."""
    declared = schedule.declared
    return Entry(
        every_ms=declared.every_ms,
        calendars=() if declared.cron is None else parse_cron(declared.cron),
        time_zone=declared.time_zone,
        jitter_ms=declared.jitter_ms,
        catchup_ms=max(declared.gap_ms, _CATCHUP_MS),
        paused=schedule.paused is not None,
        # The reason may hold user data, which Temporal is not given.
        note="" if schedule.paused is None else f"amends schedule show {declared.schedule} says why",
        task_queue=declared.task_queue,
        store_id=store_id,
        schedule=declared.schedule,
    )


def entries(store_id: str, timetable: Timetable) -> dict[str, Entry]:
    """Say every schedule of a store in terms of Temporal, by id."""
    return {entry_id(store_id, name): entry_of(store_id, schedule) for name, schedule in timetable.schedules.items()}


def align(wanted: Mapping[str, Entry], held: Mapping[str, Entry | None]) -> Changes:
    """Tell what has to be changed.

    Args:
        wanted: What is declared, by id.
        held: What Temporal holds of this store, by id; `None` for what cannot be read as an entry.
    """
    return Changes(
        create={each: entry for each, entry in wanted.items() if each not in held},
        update={each: entry for each, entry in wanted.items() if each in held and held[each] != entry},
        delete=tuple(each for each in held if each not in wanted),
    )
