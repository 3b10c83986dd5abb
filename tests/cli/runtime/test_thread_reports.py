"""Test the report of a worker about its threads, which `amends doctor` shows."""

import asyncio
import os
from pathlib import Path

from amends.aggregates.run.state import Direction
from amends.sagas.engine.seats import Function, Seat, SeatsInUse
from amends.sagas.runtime.thread_report import keep_report, reports


async def test_waiting_calls_are_reported_while_they_wait(tmp_path: Path) -> None:
    """The report names the step that holds the threads; it is gone with the worker, and an old one is not shown."""
    charge, notify = (Function(name, Direction.DO) for name in ("charge", "notify"))
    use = SeatsInUse(2, (Seat(charge, "r-1", 10.0),), {notify: 3}, 9.0, 40.0)
    keeping = asyncio.create_task(keep_report(tmp_path, 7, lambda: use))
    while not (found := reports(tmp_path)):  # noqa: ASYNC110 - the other task writes it
        await asyncio.sleep(0.01)
    assert "notify 3" in found["7"]
    assert "charge holds 1 (longest 30 s)" in found["7"]
    os.utime(tmp_path / "threads-7.txt", (0, 0))
    assert reports(tmp_path) == {}
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert not list(tmp_path.iterdir())  # noqa: ASYNC240 - nothing else runs
