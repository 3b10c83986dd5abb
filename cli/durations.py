"""Durations and times as people type them.

A duration is `90s`, `5min`, `2h`, `1d`, `1w`, or several of these together. A time is a duration before now, or is in
ISO 8601.
"""

import re
from datetime import UTC, datetime, timedelta

from amends.aggregates.errors import InputError
from amends.aggregates.text import shorten

__all__ = ["FORMS", "since_ms", "span_ms"]

FORMS = "such as 90s, 5min, 2h, 1d, 1w or 1h30min"
"""Examples of durations, for help texts and messages."""

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = re.compile(r"(\d{1,9}) ?(ms|min|s|m|h|d|w)(?![a-z]) ?")
_MAX_MS = 2**53


def span_ms(text: str, option: str, *, least_ms: int = 0, most_ms: int = 3_650 * 86_400_000) -> int:
    """Read a duration, in milliseconds.

    Args:
        text: The text that the user typed.
        option: The option that the text belongs to, for messages.
        least_ms: The shortest accepted duration.
        most_ms: The longest accepted duration.

    Raises:
        InputError: The text is no duration, or the duration is out of these bounds.
    """
    total_ms = _typed_ms(text)
    if total_ms is None:
        raise InputError(f"{option} is {shorten(text)}, which is not a duration; write one {FORMS}")
    if not least_ms <= total_ms <= most_ms:
        raise InputError(f"{option} is {shorten(text)}; use {_written(least_ms)} to {_written(most_ms)}")
    return total_ms


def since_ms(text: str, now_ms: int) -> int:
    """Read a time: how long ago (`90s`, `2h`, `1d12h`), or in ISO 8601, by default in local time.

    Args:
        text: The text that the user typed.
        now_ms: The present time, in milliseconds since the epoch.

    Returns:
        Milliseconds since the epoch.

    Raises:
        InputError: The text is neither.
    """
    past_ms = _typed_ms(text)
    if past_ms is not None:
        return max(now_ms - past_ms, -_MAX_MS)
    try:
        # The difference works for every time: functions of some platforms refuse times before 1970.
        moment = datetime.fromisoformat(text.strip())
        zoned = moment if moment.tzinfo is not None else moment.astimezone()
        return (zoned - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    except (ValueError, OverflowError, OSError):
        raise InputError(
            f"--since {shorten(text)} is no time; write how long ago (90s, 2h, 7d) or when (2026-01-31T12:00)"
        ) from None


def _typed_ms(text: str) -> int | None:
    """Return a duration in milliseconds; `None` if the text is no duration.

    Args:
        text: The text that the user typed.
    """
    given = text.strip().lower()
    parts = _PART.findall(given)
    if not parts or _PART.sub("", given):
        return None
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def _written(ms: int) -> str:
    unit = next(name for name in ("d", "h", "min", "s", "ms") if ms % _UNITS[name] == 0)
    return f"{ms // _UNITS[unit]}{unit}"
