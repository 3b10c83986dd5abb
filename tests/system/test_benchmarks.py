"""Checks that the code of `make bench` runs; its numbers mean something only on a quiet machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bounds import HANG_S

BENCH = Path(__file__).parents[2] / "benchmarks" / "run.py"


@pytest.mark.parametrize(
    ("part", "count"),
    [*(pytest.param(*each, marks=pytest.mark.soak) for each in (("store", 6), ("reconcile", 1))), ("prove", 3)],
)
def test_the_rows_without_temporal_are_measured_and_printed(part: str, count: int) -> None:
    """A tiny run prints every row with its ratio and bound, and its exit status reports whether all bounds hold."""
    tiny = {**os.environ, "ONLY": part, "ROUNDS": "1", "SHARE": "0.002"}
    done = subprocess.run(
        [sys.executable, BENCH], env=tiny, capture_output=True, text=True, timeout=HANG_S, check=False
    )
    head, _, *rows = done.stdout.splitlines() or ["", ""]
    assert head.startswith("| Amends | compared with | ratio |"), done.stderr
    assert len(rows) == count
    missed = sum("**NO**" in row for row in rows)
    assert done.returncode == (1 if missed else 0)
    assert done.stderr.count("bench: does not hold: ") == missed
