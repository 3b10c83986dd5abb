"""Durations and times in words, for every view. Pure; without rich, which `amends run` needs only on a terminal."""

from datetime import UTC, datetime, tzinfo

__all__ = ["ago", "duration", "moment"]

_SECOND_MS, _MINUTE_MS, _HOUR_MS, _DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000


def duration(ms: int) -> str:
    """Return a duration in its two largest units: `340 ms`, `1.5 s`, `2 min 5 s`, `3 h 4 min`, `2 d 1 h`."""
    if ms < 0:
        return f"-{duration(-ms)}"
    if ms < _SECOND_MS:
        return f"{ms} ms"
    if ms < _MINUTE_MS:
        whole, tenth = divmod(ms // 100, 10)
        return f"{whole}.{tenth} s" if tenth else f"{whole} s"
    if ms < _HOUR_MS:
        return _two_units(ms, _MINUTE_MS, "min", _SECOND_MS, "s")
    if ms < _DAY_MS:
        return _two_units(ms, _HOUR_MS, "h", _MINUTE_MS, "min")
    return _two_units(ms, _DAY_MS, "d", _HOUR_MS, "h")


def _two_units(ms: int, large_ms: int, large: str, small_ms: int, small: str) -> str:
    rest = ms % large_ms // small_ms
    return f"{ms // large_ms} {large}" + (f" {rest} {small}" if rest else "")


def ago(ms: int, now_ms: int) -> str:
    """Return the rough age of a time; clocks differ, so a future time counts as now."""
    past = now_ms - ms
    for unit_ms, unit in ((_DAY_MS, "d"), (_HOUR_MS, "h"), (_MINUTE_MS, "min"), (_SECOND_MS, "s")):
        if past >= unit_ms:
            return f"{past // unit_ms} {unit} ago"
    return "now"


def moment(ms: int, zone: tzinfo | None = UTC) -> str:
    """Return a time to the second with its offset; a time out of the calendar's range as its number."""
    try:
        return datetime.fromtimestamp(ms / 1000, zone).isoformat(sep=" ", timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms since 1970"
