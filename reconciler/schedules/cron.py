"""Read cron expressions as Vixie's cron reads them: five fields, or one of the `@` names.

The fields are `minute hour day-of-month month day-of-week`. When day of month and day of week are both restricted,
either suffices. The result is canonical: two ways to write the same times return the same calendars. Pure.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from amends.aggregates.errors import InputError
from amends.aggregates.text import shorten

__all__ = ["Calendar", "Span", "parse_cron", "shortest_gap_ms", "skipped_by_clocks"]

_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS = {name: at for at, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}  # noqa: SIM905 - readable
_WEEKDAYS = {name: at for at, name in enumerate("sun mon tue wed thu fri sat".split())}  # noqa: SIM905 - as above
_LONGEST_MONTHS = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
_FORM = "write minute hour day-of-month month day-of-week, such as '0 3 * * mon-fri'"
_PART = re.compile(r"(?P<all>\*)|(?P<first>\w{1,3})(?:-(?P<last>\w{1,3}))?")
_DAY_MIN, _MINUTE_MS, _FEW = 24 * 60, 60_000, 3


class Span(NamedTuple):
    """Every `step`-th number from `first` to `last`."""

    first: int
    last: int
    step: int = 1


class Calendar(NamedTuple):
    """Times that match in every part.

    Attributes:
        minute: 0 to 59.
        hour: 0 to 23.
        day: Day of the month, 1 to 31.
        month: 1 to 12.
        weekday: 0 to 6, 0 is Sunday.
    """

    minute: tuple[Span, ...]
    hour: tuple[Span, ...]
    day: tuple[Span, ...]
    month: tuple[Span, ...]
    weekday: tuple[Span, ...]


class _Field(NamedTuple):
    name: str
    first: int
    last: int
    names: dict[str, int]


_FIELDS = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day-of-month", 1, 31, {}),
    _Field("month", 1, 12, _MONTHS),
    # Sunday is 0 and 7.
    _Field("day-of-week", 0, 7, _WEEKDAYS),
)
_ANY_DAY, _ANY_WEEKDAY = set(range(1, 32)), set(range(7))


def parse_cron(text: str) -> tuple[Calendar, ...]:
    """Read a cron expression, and return calendars; its times are those of any of them.

    Raises:
        InputError: The expression cannot be read, or names no time at all.
    """
    minute, hour, day, month, weekday = _sets(text)
    wholes = [(day, weekday)]
    if day != _ANY_DAY and weekday != _ANY_WEEKDAY:
        wholes = [(day, _ANY_WEEKDAY), (_ANY_DAY, weekday)]
    return tuple(
        Calendar(_spans(minute), _spans(hour), _spans(days), _spans(month), _spans(weekdays))
        for days, weekdays in wholes
    )


def shortest_gap_ms(text: str) -> int:
    """Return the shortest time between two times of a cron expression, at most a day, in milliseconds.

    Raises:
        InputError: The expression cannot be read, or names no time at all.
    """
    minutes, hours, *_ = _sets(text)
    times = sorted(60 * hour + minute for hour in hours for minute in minutes)
    following = [*times[1:], times[0] + _DAY_MIN]
    return _MINUTE_MS * min(after - before for before, after in zip(times, following, strict=True))


def _words(text: str) -> list[str]:
    given = text.strip().lower()
    return _NAMED.get(given, given).split()


def _sets(text: str) -> list[set[int]]:
    words = _words(text)
    if len(words) != len(_FIELDS):
        count = f"{len(words)} field{'s' * (len(words) != 1)}"
        raise InputError(f"cron expression {shorten(text)} has {count} instead of 5; {_FORM}")
    minute, hour, day, month, weekday = (_numbers(*each, text) for each in zip(_FIELDS, words, strict=True))
    weekday = {each % 7 for each in weekday}
    some_day = any(number <= _LONGEST_MONTHS.get(each, 31) for each in month for number in day)
    if weekday == _ANY_WEEKDAY and not some_day:
        raise InputError(f"cron expression {shorten(text)}: no such day is in any such month; {_FORM}")
    return [minute, hour, day, month, weekday]


def _numbers(field: _Field, word: str, text: str) -> set[int]:
    found: set[int] = set()
    for part in word.split(","):
        base, slash, step_text = part.partition("/")
        match = _PART.fullmatch(base)
        step = int(step_text) if slash and step_text.isdecimal() and step_text.isascii() else 1 if not slash else 0
        if match is None or not 0 < step <= field.last:
            raise InputError(f"cron expression {shorten(text)}: {field.name} {shorten(part)} cannot be read; {_FORM}")
        if match["all"]:
            first, last = field.first, field.last
        else:
            first = _number(field, match["first"], text)
            last = _number(field, match["last"], text) if match["last"] else field.last if slash else first
        if last < first:
            raise InputError(f"cron expression {shorten(text)}: {field.name} {shorten(part)} runs backwards; {_FORM}")
        found |= set(range(first, last + 1, step))
    return found


def _number(field: _Field, word: str, text: str) -> int:
    number = field.names.get(word, int(word) if word.isdecimal() and word.isascii() else -1)
    if not field.first <= number <= field.last:
        raise InputError(
            f"cron expression {shorten(text)}: {field.name} {shorten(word)} is not from {field.first} to {field.last}; "
            f"{_FORM}"
        )
    return number


def _spans(numbers: Iterable[int]) -> tuple[Span, ...]:
    """Write numbers as few spans; the same numbers always return the same spans."""
    ordered = sorted(numbers)
    steps = {after - before for before, after in pairwise(ordered)}
    if len(ordered) >= _FEW and len(steps) == 1:
        return (Span(ordered[0], ordered[-1], steps.pop()),)
    spans: list[Span] = []
    for number in ordered:
        if spans and spans[-1].last == number - 1:
            spans[-1] = Span(spans[-1].first, number)
        else:
            spans.append(Span(number, number))
    return tuple(spans)


def skipped_by_clocks(text: str, time_zone: str, since_ms: int, until_ms: int) -> tuple[int, ...]:
    """Return the times of a cron expression that clocks which go forward leave out.

    Args:
        text: The cron expression.
        time_zone: Its time zone.
        since_ms: Begin of the period, in milliseconds since the epoch.
        until_ms: End of the period.

    Returns:
        For each time left out, the moment at which the clocks went forward, in milliseconds since the epoch.

    Raises:
        InputError: The expression cannot be read, or names no time at all.
    """
    calendars, zone = parse_cron(text), ZoneInfo(time_zone)
    skipped: list[int] = []
    for before_min in range(since_ms // _MINUTE_MS, until_ms // _MINUTE_MS, _DAY_MIN):
        last_min = min(before_min + _DAY_MIN, until_ms // _MINUTE_MS)
        if _offset(last_min, zone) <= _offset(before_min, zone):
            continue
        change_min = bisect_left(
            range(last_min), _offset(last_min, zone), lo=before_min, key=lambda minute: _offset(minute, zone)
        )
        first, end = (_local(change_min, _offset(minute, zone)) for minute in (before_min, change_min))
        left_out = (first + timedelta(minutes=each) for each in range((end - first) // timedelta(minutes=1)))
        matching = sum(any(_matches(calendar, local) for calendar in calendars) for local in left_out)
        skipped += [change_min * _MINUTE_MS] * matching
    return tuple(skipped)


def _offset(minute: int, zone: ZoneInfo) -> timedelta:
    return datetime.fromtimestamp(minute * 60, zone).utcoffset() or timedelta(0)


def _local(minute: int, offset: timedelta) -> datetime:
    return datetime.fromtimestamp(minute * 60, UTC) + offset


def _matches(calendar: Calendar, local: datetime) -> bool:
    parts = (local.minute, local.hour, local.day, local.month, local.isoweekday() % 7)
    return all(
        any(part in range(span.first, span.last + 1, span.step) for span in spans)
        for part, spans in zip(parts, calendar, strict=True)
    )
