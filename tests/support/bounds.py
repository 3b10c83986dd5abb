"""The bound for everything that a test waits for. It detects hangs; no test measures time with it.

A busy machine may take a minute for one second's work of an idle machine, so no test has a bound of its own. Where only
the test itself waits, it needs no bound at all: pytest-timeout ends the test after 300 s.
"""

from datetime import timedelta

__all__ = ["HANG", "HANG_S"]

HANG_S = 240
"""Seconds: below the bound of pytest-timeout, so that the failure names the missing event."""

HANG = timedelta(seconds=HANG_S)
