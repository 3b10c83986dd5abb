"""Test that times of a cron expression are counted when a change of the clocks skips them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st
from property_parts import try_out

from amends.cli.views.schedule import ScheduleView, fields_of, json_of, row_of
from amends.reconciler.schedules.alignment import TemporalScheduleStatus, entries
from amends.reconciler.schedules.cron import skipped_by_clocks
from amends.reconciler.schedules.facts import ScheduleDeclared, Timetable

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Tehran", "America/Santiago"]


@settings(max_examples=try_out(5))
@given(
    zone=st.sampled_from(ZONES),
    year=st.integers(2005, 2026),
    month=st.sampled_from([3, 3, 4, 9, 10, 11]),
    minute=st.integers(0, 59),
    hour=st.integers(0, 3) | st.just(None),
)
def test_what_clocks_leave_out_is_what_no_real_minute_shows(
    zone: str, year: int, month: int, minute: int, hour: int | None
) -> None:
    """The number of skipped times equals the matching wall times of four weeks that no real minute has."""
    first = datetime(year, month, 1, tzinfo=UTC)
    last = first + timedelta(days=28)
    at, shown = first, set[datetime]()
    while at < last:
        shown.add(at.astimezone(ZoneInfo(zone)).replace(tzinfo=None))
        at += timedelta(minutes=1)
    wall, end, missing = min(shown), max(shown), 0
    while wall < end:
        missing += wall not in shown and wall.minute == minute and hour in {None, wall.hour}
        wall += timedelta(minutes=1)
    cron = f"{minute} {'*' if hour is None else hour} * * *"
    since_ms, until_ms = (round(each.timestamp() * 1000) for each in (first, last))
    assert len(skipped_by_clocks(cron, zone, since_ms, until_ms)) == missing


def test_the_missing_hour_of_berlin_is_found() -> None:
    """2:30 does not exist on 29 March 2026 in Berlin; 3:30 does."""
    since, until = (round(datetime(2026, 3, day, tzinfo=UTC).timestamp() * 1000) for day in (28, 30))
    change = round(datetime(2026, 3, 29, 1, tzinfo=UTC).timestamp() * 1000)
    assert skipped_by_clocks("30 2 * * *", "Europe/Berlin", since, until) == (change,)
    assert skipped_by_clocks("30 3 * * *", "Europe/Berlin", since, until) == ()


def test_a_time_that_clocks_leave_out_counts_as_missed() -> None:
    """The list counts it as missed, the page of the schedule names it, and JSON has the number."""
    since, until = (round(datetime(2026, 3, day, tzinfo=UTC).timestamp() * 1000) for day in (28, 30))
    declared = ScheduleDeclared(
        as_of_ms=since,
        actor="op",
        schedule="nightly",
        rules=(),
        every_ms=None,
        cron="30 2 * * *",
        time_zone="Europe/Berlin",
        jitter_ms=0,
        pause_after=0,
        task_queue="q",
        automatic=False,
    )
    timetable = Timetable().apply(declared)
    (entry,) = entries("s", timetable).values()
    copy = TemporalScheduleStatus(entry, since, taken=1, missed=3, skipped=0, running=(), recent=(), next_ms=(until,))
    shown = ScheduleView(timetable.schedules["nightly"], entry, copy, asked=True)
    assert row_of(shown, since)[5] == "3"
    assert row_of(shown, until)[5] == "4"
    assert dict(fields_of(shown, until))["no such time"] == "1 times, when the clocks went forward"
    assert (json_of(shown, since)["skipped_by_clocks"], json_of(shown, until)["skipped_by_clocks"]) == (0, 1)
