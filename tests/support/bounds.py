"""The bound of everything that a test waits for. It finds hangs, and nothing is measured with it.

A busy machine may take a minute for what an idle one does in a second. So no test has a bound of its own. Where nothing
but the test waits, there is no bound at all: pytest-timeout ends the test after 300 s.
"""

from datetime import timedelta

__all__ = ["HANG", "HANG_S"]

HANG_S = 240
"""Seconds: below the bound of pytest-timeout, so that the failure names what did not come."""

HANG = timedelta(seconds=HANG_S)
