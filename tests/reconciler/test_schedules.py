"""Test schedules as facts: declarations, automatic schedules, failures, and the changes to Temporal."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amends.aggregates.errors import InputError, NotFoundError, RefusedError
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.events.snapshot import Snapshot, restore_snapshot, take_snapshot
from amends.cli.views.schedule import ScheduleView, row_of
from amends.reconciler.schedules.alignment import (
    Changes,
    TemporalSchedule,
    TemporalScheduleStatus,
    align,
    entries,
    entry_id,
    name_of,
)
from amends.reconciler.schedules.cron import Calendar, Span, parse_cron, shortest_gap_ms
from amends.reconciler.schedules.decide import (
    Schedules,
    after_run,
    declare,
    pause,
    remove,
    resume,
    schedule_of,
    sync_automatic_schedules,
)
from amends.reconciler.schedules.facts import SCHEDULE_FACTS, ScheduleFact, Timetable

MINUTE = 60_000
ALL_DAYS, ALL_MONTHS, ALL_WEEKDAYS = (Span(1, 31),), (Span(1, 12),), (Span(0, 6),)


class Past:
    """The stream of the schedules as it grows."""

    def __init__(self) -> None:
        self.stream = Schedules(id=Schedules.ID, timetable=Timetable())

    @property
    def known(self) -> Timetable:
        """The current timetable."""
        return self.stream.timetable

    def record(self, *facts: ScheduleFact) -> None:
        """Record facts."""
        for fact in facts:
            self.stream.record(fact)

    def declare(self, name: str = "nightly", **fields: Any) -> None:  # noqa: ANN401 - any part of a schedule
        """Declare a schedule as a person."""
        given = {"rules": [], "every_ms": MINUTE, "task_queue": "q", **fields}
        self.record(declare(self.known, name, 0, actor="ann", **given))

    def follow(self, rules: dict[str, int], *, task_queue: str = "q") -> list[ScheduleFact]:
        """Schedule every rule automatically."""
        facts = sync_automatic_schedules(self.known, rules, 0, actor="amends dev", task_queue=task_queue)
        self.record(*facts)
        return facts

    def fail(self, run: str, problem: str | None = "away", name: str = "nightly") -> list[str]:
        """Record the end of a run, a failure or not."""
        facts = after_run(self.known, name, run, problem, 0, actor="schedule")
        self.record(*facts)
        return [type(each).__name__ for each in facts]


# ---- cron


@pytest.mark.parametrize(
    ("text", "minute", "hour", "days", "months", "weekdays"),
    [
        ("0 3 * * *", (Span(0, 0),), (Span(3, 3),), ALL_DAYS, ALL_MONTHS, ALL_WEEKDAYS),
        ("*/15 9-17 * * mon-fri", (Span(0, 45, 15),), (Span(9, 17),), ALL_DAYS, ALL_MONTHS, (Span(1, 5),)),
        (
            "5,6,7,30 0 1 JAN,Feb *",
            (Span(5, 7), Span(30, 30)),
            (Span(0, 0),),
            (Span(1, 1),),
            (Span(1, 2),),
            ALL_WEEKDAYS,
        ),
        ("0 0 * * 5-7", (Span(0, 0),), (Span(0, 0),), ALL_DAYS, ALL_MONTHS, (Span(0, 0), Span(5, 6))),
        ("@hourly", (Span(0, 0),), (Span(0, 23),), ALL_DAYS, ALL_MONTHS, ALL_WEEKDAYS),
        ("10/20 0 29 2 *", (Span(10, 50, 20),), (Span(0, 0),), (Span(29, 29),), (Span(2, 2),), ALL_WEEKDAYS),
    ],
)
def test_a_cron_expression_is_read(text: str, minute: Any, hour: Any, days: Any, months: Any, weekdays: Any) -> None:  # noqa: ANN401, PLR0917 - spans
    """Fields, ranges, steps, lists and names give the times at which cron would run."""
    assert parse_cron(text) == (Calendar(minute, hour, days, months, weekdays),)


def test_either_of_two_restricted_days_suffices() -> None:
    """As in cron, a day of the month and a day of the week mean either of the two."""
    by_day, by_weekday = parse_cron("0 0 13 * fri")
    assert (by_day.day, by_day.weekday) == ((Span(13, 13),), ALL_WEEKDAYS)
    assert (by_weekday.day, by_weekday.weekday) == (ALL_DAYS, (Span(5, 5),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 fields instead of 5"),
        ("0 3 * *", "4 fields instead of 5"),
        ("61 * * * *", "minute '61' is not from 0 to 59"),
        ("0 24 * * *", "hour '24'"),
        ("0 0 0 * *", "day-of-month '0'"),
        ("0 0 * foo *", "month 'foo'"),
        ("0 0 * * 8", "day-of-week '8'"),
        ("0 0 * * mon-", "cannot be read"),
        ("*/0 * * * *", "cannot be read"),
        ("*/x * * * *", "cannot be read"),
        ("1-2-3 * * * *", "cannot be read"),
        ("30-10 * * * *", "runs backwards"),
        ("0 0 31 feb,apr *", "no such day"),
        ("@reboot", "1 field instead"),
        ("٣ * * * *", "cannot be read|is not from"),
    ],
)
def test_what_is_no_cron_expression_is_refused(text: str, said: str) -> None:
    """An expression that cron would refuse is refused in one line, with the valid form."""
    with pytest.raises(InputError, match=said) as refused:
        parse_cron(text)
    assert "such as '0 3 * * mon-fri'" in str(refused.value)


@given(
    minutes=st.sets(st.integers(0, 59), min_size=1),
    hours=st.sets(st.integers(0, 23), min_size=1),
    weekdays=st.sets(st.integers(0, 6), min_size=1),
)
def test_the_same_times_are_the_same_calendar(minutes: set[int], hours: set[int], weekdays: set[int]) -> None:
    """Numbers written one by one, in any order, give spans that hold exactly those numbers, always the same spans."""
    text = f"{','.join(map(str, minutes))} {','.join(map(str, hours))} * * {','.join(map(str, weekdays))}"
    (calendar,) = parse_cron(text)
    for spans, numbers in ((calendar.minute, minutes), (calendar.hour, hours), (calendar.weekday, weekdays)):
        assert {each for span in spans for each in range(span.first, span.last + 1, span.step)} == numbers
    spelt = [",".join(f"{each.first}-{each.last}/{each.step}" for each in spans) for spans in calendar]
    assert parse_cron(" ".join(spelt)) == (calendar,)
    times = sorted(60 * hour + minute for hour in hours for minute in minutes)
    gap = min(after - before for before, after in zip(times, [*times[1:], times[0] + 1440], strict=True))
    assert shortest_gap_ms(text) == gap * MINUTE


# ---- decisions of people


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "Nightly!"}, "lower-case letters"),
        ({"every_ms": None}, "one of --every and --cron"),
        ({"cron": "0 3 * * *"}, "one of --every and --cron"),
        ({"every_ms": None, "cron": "0 3 * *"}, "4 fields"),
        ({"every_ms": None, "cron": "30 3 30 feb *"}, "no such day"),
        ({"every_ms": 999}, "use 1s to 366d"),
        ({"time_zone": "Europe/Berlin"}, "no time zone"),
        ({"jitter_ms": -1}, "jitter is -0.001 s"),
        ({"jitter_ms": MINUTE + 1}, "use 0 s up to the interval, 60 s"),
        ({"pause_after": -1}, "a number from 1, or 0 for never"),
    ],
)
def test_a_schedule_that_could_not_be_kept_is_refused(fields: dict[str, Any], said: str) -> None:
    """A fault of a schedule is reported at its declaration."""
    with pytest.raises(InputError, match=said):
        Past().declare(**fields)


def test_people_can_decide_only_about_what_is_there() -> None:
    """A name is taken once; an absent schedule, or one in that state already, cannot be paused, resumed or removed."""
    past = Past()
    past.declare()
    with pytest.raises(InputError, match="already; remove it first"):
        past.declare()
    for decide in (pause, resume, remove):
        more: Any = {"reason": "r"} if decide is pause else {}
        with pytest.raises(NotFoundError, match="no schedule 'weekly'; there are: nightly"):
            decide(past.known, "weekly", 0, actor="ann", **more)
    with pytest.raises(RefusedError, match="not paused"):
        resume(past.known, "nightly", 0, actor="ann")
    with pytest.raises(InputError, match="a reason"):
        pause(past.known, "nightly", 0, actor="ann", reason=" ")
    past.record(pause(past.known, "nightly", 0, actor="ann", reason="the bank moves"))
    with pytest.raises(RefusedError, match="paused already, by ann: the bank moves"):
        pause(past.known, "nightly", 0, actor="bob", reason="r")
    past.record(resume(past.known, "nightly", 0, actor="ann"), remove(past.known, "nightly", 0, actor="ann"))
    with pytest.raises(NotFoundError, match="there is none yet"):
        schedule_of(past.known, "nightly")


# ---- automatic decisions


def test_every_rule_has_a_schedule_that_follows_it() -> None:
    """A rule's schedule comes with it, changes with its interval, and goes with it; no other fact is written."""
    past = Past()
    assert len(past.follow({"a": MINUTE, "b": 2 * MINUTE})) == 2
    assert past.follow({"a": MINUTE, "b": 2 * MINUTE}) == []
    past.record(pause(past.known, "a", 0, actor="ann", reason="r"))
    (changed,) = past.follow({"a": 3 * MINUTE, "b": 2 * MINUTE})
    assert changed.schedule == "a"
    assert past.known.schedules["a"].paused == "r", "what was paused stays so"
    assert past.known.schedules["a"].declared.every_ms == 3 * MINUTE
    (gone,) = past.follow({"a": 3 * MINUTE})
    assert (type(gone).__name__, gone.schedule) == ("ScheduleRemoved", "b")
    assert len(past.follow({"a": 3 * MINUTE, "b": MINUTE})) == 1, "it comes back with its rule"
    assert past.follow({}, task_queue="other") == [], "workers of the other queue may know the rules"


def test_what_follows_a_rule_follows_the_queue() -> None:
    """A rule's schedule moves once to the queue of the worker that knows the rule; a person's schedule stays."""
    past = Past()
    past.follow({"a": MINUTE, "b": MINUTE, "c": MINUTE})
    past.declare("b")
    past.record(pause(past.known, "a", 0, actor="ann", reason="r"))
    (moved,) = past.follow({"a": MINUTE, "b": MINUTE}, task_queue="new")
    assert moved.schedule == "a"
    queues = {name: each.declared.task_queue for name, each in past.known.schedules.items()}
    assert queues == {"a": "new", "b": "q", "c": "q"}
    assert past.known.schedules["a"].paused == "r", "what was paused stays so"
    assert past.follow({"a": MINUTE, "b": MINUTE}, task_queue="new") == []


def test_what_people_decided_stands() -> None:
    """A person's schedule stays unchanged, and a schedule that a person removed does not come back automatically."""
    past = Past()
    past.follow({"a": MINUTE, "b": MINUTE})
    past.declare("a", every_ms=5 * MINUTE)
    past.record(remove(past.known, "b", 0, actor="ann"))
    assert past.follow({"a": MINUTE, "b": MINUTE}) == []
    assert past.known.schedules["a"].declared.every_ms == 5 * MINUTE
    past.declare("b")
    past.record(remove(past.known, "b", 0, actor="ann"))
    assert past.follow({}) == []
    assert list(past.known.schedules) == ["a"]


def test_a_schedule_is_paused_after_repeated_failure_and_not_after_the_first() -> None:
    """Failures in a row are counted, a repeated run once; the last allowed one pauses, a success resets the count."""
    past = Past()
    past.declare(pause_after=3)
    assert past.fail("run-1") == ["ScheduleFailed"]
    assert past.fail("run-1") == []
    assert past.fail("run-2") == ["ScheduleFailed"]
    assert past.fail("run-3", None) == ["ScheduleRecovered"]
    assert past.fail("run-4", None) == []
    assert [past.fail(f"run-{number}") for number in (5, 6, 7)] == [
        ["ScheduleFailed"],
        ["ScheduleFailed"],
        ["ScheduleFailed", "SchedulePaused"],
    ]
    assert past.known.schedules["nightly"].paused == "3 runs in a row failed: away"
    past.record(resume(past.known, "nightly", 0, actor="ann"))
    assert past.fail("run-8") == ["ScheduleFailed"]
    assert past.fail("run-9", name="gone") == []


@pytest.mark.parametrize(("every_ms", "failures"), [(1_000, 3_600), (MINUTE, 60), (60 * MINUTE, 10)])
def test_a_short_outage_does_not_pause(every_ms: int, failures: int) -> None:
    """By default, a pause takes an hour of failures, and at least ten of them."""
    past = Past()
    past.declare(every_ms=every_ms)
    assert past.known.schedules["nightly"].declared.pause_after == failures
    past.declare("never", pause_after=0)
    assert all(past.fail(str(number), name="never") == ["ScheduleFailed"] for number in range(100))


names = st.sampled_from("abc")
decisions = st.lists(
    st.one_of(
        st.tuples(st.just("declare"), names, st.integers(1, 3)),
        st.tuples(st.sampled_from(["pause", "resume", "remove", "fail", "well"]), names, st.integers(0, 99)),
        st.tuples(st.just("follow"), st.sets(names), st.integers(1, 3)),
    ),
    max_size=25,
)


def played(steps: list[tuple[str, Any, int]]) -> Past:
    """Record any valid decisions of people and rules."""
    past = Past()
    for verb, what, number in steps:
        try:
            match verb:
                case "declare":
                    past.declare(what, every_ms=number * MINUTE, pause_after=2)
                case "pause":
                    past.record(pause(past.known, what, 0, actor="ann", reason="r"))
                case "resume":
                    past.record(resume(past.known, what, 0, actor="ann"))
                case "remove":
                    past.record(remove(past.known, what, 0, actor="ann"))
                case "follow":
                    past.follow(dict.fromkeys(what, number * MINUTE))
                case _:
                    past.fail(str(number), "away" if verb == "fail" else None, what)
        except (InputError, NotFoundError, RefusedError):
            pass
    return past


@given(steps=decisions)
def test_the_stream_folds_to_what_was_decided_on(steps: list[tuple[str, Any, int]]) -> None:
    """After any decisions, the facts read back fold to the same schedules; so do snapshots."""
    past = played(steps)
    codec, read = EventCodec([Schedules]), None
    taken = take_snapshot(past.stream)
    for each in past.stream.collect_events():
        read = codec.to_domain(codec.to_stored(each)).mutate(read)
    assert read is not None
    assert read.timetable == past.known
    assert isinstance(taken, Snapshot), taken
    restored = restore_snapshot(Schedules, taken)
    assert restored is not None
    assert restored.timetable == past.known


@given(steps=decisions, rules=st.dictionaries(names, st.integers(1, 3).map(MINUTE.__mul__)))
def test_following_rules_twice_changes_nothing(steps: list[tuple[str, Any, int]], rules: dict[str, int]) -> None:
    """After any decisions, each rule is scheduled unless a person removed it; a second pass writes nothing."""
    past = played(steps)
    past.follow(rules)
    assert past.follow(rules) == []
    for name in rules:
        assert (name in past.known.schedules) != (name in past.known.declined)
    automatic = {name for name, each in past.known.schedules.items() if each.declared.automatic}
    assert automatic <= set(rules)


def test_every_kind_of_fact_can_be_recorded() -> None:
    """Each fact about schedules has its event, under its own name."""
    assert set(SCHEDULE_FACTS) <= {each.__name__ for each in vars(Schedules).values() if isinstance(each, type)}


# ---- Temporal's copy


@given(before=decisions, after=decisions, spoilt=st.sets(names), foreign=st.booleans())
def test_aligned_once_temporal_holds_what_is_declared(
    before: list[tuple[str, Any, int]],
    after: list[tuple[str, Any, int]],
    spoilt: set[str],
    foreign: bool,  # noqa: FBT001 - drawn
) -> None:
    """For any content of Temporal, the changes lead to exactly the declarations; then nothing is left to change."""
    held: dict[str, TemporalSchedule | None] = dict(entries("s", played(before).known))
    held |= {entry_id("s", name): None for name in spoilt}
    held |= {entry_id("s", "foreign"): None} if foreign else {}
    wanted = entries("s", played(after).known)
    changes = align(wanted, held)
    assert not set(changes.create) & set(held)
    assert set(changes.update) | set(changes.delete) <= set(held)
    result = {**held, **changes.create, **changes.update}
    for each in changes.delete:
        del result[each]
    assert result == wanted
    again = align(wanted, result)
    assert again == Changes({}, {}, ())


def test_stores_are_told_apart() -> None:
    """A schedule's id in Temporal names its store; schedules of another store are skipped."""
    assert name_of(entry_id("s-1", "nightly"), "s-1") == "nightly"
    assert name_of(entry_id("s-2", "nightly"), "s-1") is None
    assert name_of("of-somebody-else", "s-1") is None


def test_reasons_do_not_enter_temporal() -> None:
    """The reason of a pause may quote a participant: Temporal receives only the command that shows it."""
    past = Past()
    past.declare()
    past.record(pause(past.known, "nightly", 0, actor="ann", reason="account 4711 is blocked"))
    (entry,) = entries("s", past.known).values()
    assert entry.paused
    assert "4711" not in repr(entry)
    assert "amends schedule show nightly" in entry.note


def test_what_is_wrong_with_a_schedule_is_shown_with_its_remedy() -> None:
    """A missing or different copy is reported, and so are failures and pauses; without an answer, nothing is."""
    past = Past()
    past.declare(pause_after=2)

    def shown(*copies: TemporalScheduleStatus) -> ScheduleView:
        (schedule,), (entry,) = past.known.schedules.values(), entries("s", past.known).values()
        return ScheduleView(schedule, entry, copies[0] if copies else None, asked=True)

    def copy(entry: TemporalSchedule | None) -> TemporalScheduleStatus:
        return TemporalScheduleStatus(entry, 0, taken=0, missed=3, skipped=4, running=(), recent=(), next_ms=(MINUTE,))

    (wanted,) = entries("s", past.known).values()
    assert replace(shown(), asked=False).problem is None
    assert "does not have the schedule" in shown().state
    assert "has a different copy" in shown(copy(None)).state
    assert shown(copy(wanted)).state == "on"
    assert row_of(shown(copy(wanted)), 0)[5:7] == ("3", "4")
    past.fail("run-1")
    assert shown(copy(wanted)).state == "failures in a row: 1; the last: away"
    past.fail("run-2")
    assert shown(copy(*entries("s", past.known).values())).state == "paused by schedule: 2 runs in a row failed: away"


@pytest.mark.parametrize(
    ("fields", "catchup_ms"),
    [
        ({"every_ms": 5 * MINUTE}, 5 * MINUTE),
        ({"every_ms": 2_000}, 10_000),
        ({"every_ms": None, "cron": "0 3 * * *"}, 24 * 60 * MINUTE),
        ({"every_ms": None, "cron": "0,10 9 * * *"}, 10 * MINUTE),
    ],
)
def test_at_most_one_interval_is_caught_up(fields: dict[str, Any], catchup_ms: int) -> None:
    """A missed run is made up for within the interval, or within Temporal's minimum of ten seconds."""
    past = Past()
    past.declare(**fields)
    assert entries("s", past.known)[entry_id("s", "nightly")].catchup_ms == catchup_ms
