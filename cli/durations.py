"""Durations as people type them: `90s`, `5min`, `2h`, `1d`, or several of these together."""

import re

from amends.aggregates.errors import InputError
from amends.aggregates.text import shorten

__all__ = ["FORMS", "span_ms"]

FORMS = "such as 90s, 5min, 2h, 1d or 1h30min"
"""Examples of durations, for help texts and messages."""

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"(\d{1,9}) ?(ms|min|s|m|h|d)(?![a-z]) ?")


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
    given = text.strip().lower()
    parts = _PART.findall(given)
    if not parts or _PART.sub("", given):
        raise InputError(f"{option} is {shorten(text)}, which is no duration; write one {FORMS}")
    total_ms = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if not least_ms <= total_ms <= most_ms:
        raise InputError(f"{option} is {shorten(text)}; use {_written(least_ms)} to {_written(most_ms)}")
    return total_ms


def _written(ms: int) -> str:
    unit = next(name for name in ("d", "h", "min", "s", "ms") if ms % _UNITS[name] == 0)
    return f"{ms // _UNITS[unit]}{unit}"
