"""Views of schedules: values in, rows and JSON out. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amends.cli.views.table import Column
from amends.cli.views.times import ago, duration, moment
from amends.reconciler.schedules.alignment import TemporalSchedule, TemporalScheduleStatus
from amends.reconciler.schedules.cron import skipped_by_clocks
from amends.reconciler.schedules.facts import Schedule

__all__ = ["COLUMNS", "ScheduleView", "fields_of", "json_of", "row_of", "when"]

COLUMNS = (
    Column("schedule", 10, copied=True),
    Column("rules", 10),
    Column("when", 10),
    Column("last", 6),
    Column("next", 19),
    Column("missed", 6, right=True),
    Column("skipped", 7, right=True),
    Column("state", 20, below=True),
)
_NEXT = 3
_RECENT = 5


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """A schedule, with Temporal's copy of it.

    Attributes:
        schedule: The declared schedule.
        wanted: The copy that Temporal should hold.
        held: The copy that Temporal holds; `None` if it has none, or was not queried.
        asked: Whether Temporal answered the query.
    """

    schedule: Schedule
    wanted: TemporalSchedule
    held: TemporalScheduleStatus | None
    asked: bool

    @property
    def problem(self) -> str | None:
        """The fault of Temporal's copy, with the remedy; `None` if it has none, or if that is unknown."""
        if not self.asked:
            return None
        if self.held is None:
            return (
                "Temporal does not have the schedule; start a worker, which creates it: amends worker (or amends dev)"
            )
        if self.held.entry != self.wanted:
            return "Temporal has a different copy; start a worker, which corrects it: amends worker (or amends dev)"
        return None

    @property
    def state(self) -> str:
        """The state of the schedule, in words."""
        stands = self.schedule
        said = []
        if stands.paused is not None:
            said.append(f"paused by {stands.paused_by}: {stands.paused}")
        elif stands.failures:
            said.append(f"failures in a row: {stands.failures}; the last: {stands.error}")
        if self.problem is not None:
            said.append(self.problem)
        return "; ".join(said) or "on"


def when(schedule: Schedule) -> str:
    """Return the times of a schedule, in words."""
    declared = schedule.declared
    if declared.every_ms is not None:
        return f"every {duration(declared.every_ms)}"
    return f"{declared.cron} in {declared.time_zone}"


def row_of(shown: ScheduleView, now_ms: int) -> tuple[str, ...]:
    """Return a schedule as a row of the list."""
    held = shown.held
    return (
        shown.schedule.declared.schedule,
        ", ".join(shown.schedule.declared.rules) or "all",
        when(shown.schedule),
        _last(held, now_ms),
        moment(held.next_ms[0]) if held and held.next_ms and shown.schedule.paused is None else "",
        str(held.missed + _skipped_by_clocks(shown, now_ms)) if held else "",
        str(held.skipped) if held else "",
        shown.state,
    )


def _skipped_by_clocks(shown: ScheduleView, now_ms: int) -> int:
    """Return the number of times, since the declaration, that a clock going forward has left out."""
    declared = shown.schedule.declared
    if declared.cron is None:
        return 0
    return len(skipped_by_clocks(declared.cron, declared.time_zone, declared.as_of_ms, now_ms))


def _last(held: TemporalScheduleStatus | None, now_ms: int) -> str:
    if held is None:
        return ""
    return ago(held.recent[-1].started_ms, now_ms) if held.recent else "never"


def fields_of(shown: ScheduleView, now_ms: int) -> Sequence[tuple[str, str | None]]:
    """Return all known values of a schedule, by name."""
    declared, held = shown.schedule.declared, shown.held
    by_itself = ", automatic: the rule declares it" if declared.automatic else ""
    known: list[tuple[str, str | None]] = [
        ("schedule", declared.schedule),
        ("state", shown.state),
        ("rules", ", ".join(declared.rules) or "all rules that its worker knows"),
        ("when", when(shown.schedule)),
        ("jitter", f"up to {duration(declared.jitter_ms)}" if declared.jitter_ms else None),
        ("late", f"a missed run starts late, within {duration(shown.wanted.catchup_ms)}"),
        (
            "pauses",
            f"after {declared.pause_after} failures in a row" if declared.pause_after else "never automatically",
        ),
        ("queue", declared.task_queue),
        ("declared", f"{moment(declared.as_of_ms)} by {declared.actor}{by_itself}"),
    ]
    if held is None:
        return known
    since = f", since {moment(held.created_ms)}"
    running = f", {len(held.running)} running now" if held.running else ""
    paused = shown.schedule.paused is not None
    clocks = _skipped_by_clocks(shown, now_ms)
    return [
        *known,
        ("runs", f"{held.taken}{running}{since}"),
        ("missed", f"{held.missed}, while Temporal was down{since}"),
        ("no such time", f"{clocks} times, when the clocks went forward" if clocks else None),
        ("skipped", f"{held.skipped}, while the previous run was active{since}"),
        ("last", ", ".join(moment(each.started_ms) for each in held.recent[-_RECENT:])),
        ("next", None if paused else ", ".join(moment(each) for each in held.next_ms[:_NEXT])),
    ]


def json_of(shown: ScheduleView, now_ms: int) -> dict[str, Any]:
    """Return a schedule as JSON; times are in milliseconds since the epoch."""
    schedule, held = shown.schedule, shown.held
    declared = schedule.declared.model_dump(mode="json")
    return {
        "schedule": declared.pop("schedule"),
        "declared": declared,
        **schedule.model_dump(mode="json", exclude={"declared"}),
        "catchup_ms": shown.wanted.catchup_ms,
        "problem": shown.problem,
        "skipped_by_clocks": _skipped_by_clocks(shown, now_ms),
        "temporal": None
        if held is None
        else {
            "as_declared": held.entry == shown.wanted,
            "created_ms": held.created_ms,
            "taken": held.taken,
            "missed": held.missed,
            "skipped": held.skipped,
            "running": len(held.running),
            "recent": [{"due_ms": each.due_ms, "begun_ms": each.started_ms} for each in held.recent],
            "next_ms": list(held.next_ms),
        },
    }
