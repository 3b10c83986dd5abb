"""Test durations and times in words."""

from datetime import UTC, timedelta, timezone

import pytest

from amends.cli.views.times import ago, duration, moment


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_000, "1 s"),
        (1_550, "1.5 s"),
        (59_999, "59.9 s"),
        (60_000, "1 min"),
        (125_000, "2 min 5 s"),
        (3_600_000, "1 h"),
        (11_040_000, "3 h 4 min"),
        (86_400_000, "1 d"),
        (176_400_000, "2 d 1 h"),
        (-1_500, "-1.5 s"),
    ],
)
def test_durations_have_two_units_at_most(ms: int, text: str) -> None:
    """A duration is never rounded up: 59.9 s stays below a minute."""
    assert duration(ms) == text


@pytest.mark.parametrize(
    ("past_ms", "text"),
    [
        (-5_000, "now"),
        (999, "now"),
        (1_000, "1 s ago"),
        (90_000, "1 min ago"),
        (7_200_000, "2 h ago"),
        (9**12, "3268 d ago"),
    ],
)
def test_ages_are_rough(past_ms: int, text: str) -> None:
    """An age has one unit, and a time to come counts as now."""
    assert ago(10**15 - past_ms, 10**15) == text


def test_moments_carry_their_offset() -> None:
    """A time has its zone, and a time that no calendar has is not an error."""
    assert moment(0, UTC) == "1970-01-01 00:00:00+00:00"
    assert moment(0, timezone(timedelta(hours=5, minutes=30))) == "1970-01-01 05:30:00+05:30"
    assert moment(10**18, UTC) == f"{10**18} ms since 1970"
