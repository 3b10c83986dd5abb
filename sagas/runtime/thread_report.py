"""Report in a file that calls of a worker wait for threads, so that `amends doctor` sees it.

The worker renews the file while calls wait and removes it afterwards. A file older than half a minute comes from a
killed worker, and readers ignore it. How it can fail: the directory is missing or cannot be written; then only the log
reports the waiting.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from amends.sagas.engine.seats import SeatsInUse, describe_use

__all__ = ["keep_report", "reports"]

_EVERY_S = 2.0
_WAITING_S = 5.0
_FRESH_S = 30.0
_PATTERN = "threads-*.txt"


def reports(folder: Path) -> dict[str, str]:
    """Read the reports of the workers of a data directory, by the process id of the worker."""
    found: dict[str, str] = {}
    for file in sorted(folder.glob(_PATTERN)):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime < _FRESH_S:
                found[file.stem.removeprefix("threads-")] = file.read_text()
    return found


async def keep_report(folder: Path, pid: int, in_use: Callable[[], SeatsInUse]) -> None:
    """Write the report while calls wait for threads, until cancelled.

    Args:
        folder: The data directory.
        pid: The id of this process.
        in_use: Returns how the threads are used.
    """
    file = folder / _PATTERN.replace("*", str(pid))
    try:
        while True:
            use = in_use()
            with suppress(OSError):
                if use.longest_s >= _WAITING_S:
                    file.write_text(describe_use(use))
                else:
                    file.unlink(missing_ok=True)
            await asyncio.sleep(_EVERY_S)
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)
