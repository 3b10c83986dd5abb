"""Test durations and times as people type them."""

from datetime import UTC, datetime

import pytest

from amends.aggregates.errors import InputError
from amends.cli.durations import since_ms, span_ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [("90s", 90_000), ("5 min", 300_000), ("2h", 7_200_000), ("1h30m", 5_400_000), ("1w", 604_800_000), ("250ms", 250)],
)
def test_a_duration_is_read_as_it_is_typed(text: str, ms: int) -> None:
    """Numbers with units are read as milliseconds."""
    assert span_ms(text, "--for") == ms


@pytest.mark.parametrize("text", ["", "5", "-5s", "5 parsecs", "5.5s", "1e9s", "s", "5minutes", "9999d", "\x1b[2J"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Any other text is refused in one line, which names the valid form."""
    with pytest.raises(InputError, match=r"--for is .*(such as 90s|use )"):
        span_ms(text, "--for")


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("90s", 1_000_000_000_000 - 90_000),
        ("1d12h", 1_000_000_000_000 - 129_600_000),
        ("2 h", 1_000_000_000_000 - 7_200_000),
        ("7D", 1_000_000_000_000 - 604_800_000),
        ("1w", 1_000_000_000_000 - 604_800_000),
        ("5min", 1_000_000_000_000 - 300_000),
        ("1970-01-01T00:00:01Z", 1_000),
        ("1960-01-01T00:00:00+00:00", -315_619_200_000),
        ("2026-01-31", int(datetime(2026, 1, 31).astimezone(UTC).timestamp()) * 1000),
    ],
)
def test_times_are_read_as_people_write_them(text: str, ms: int) -> None:
    """A time is an age or a point in time, in local time unless it names a zone."""
    assert since_ms(text, 1_000_000_000_000) == ms


@pytest.mark.parametrize("text", ["", "2", "h", "2x", "-2h", "2h!", "2026-13-01", "9999999999d", "\x1b"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """Any other text is an error that shows the value."""
    with pytest.raises(InputError, match="is no time"):
        since_ms(text, 0)
