"""Lock a file in the data directory for as long as a worker lives, so that `amends doctor` sees which workers ended.

Temporal lists a worker for up to 75 s after its last poll, also one that was killed; the kernel frees a lock at once. A
file without a lock therefore proves that its worker has ended. A worker without a file may be alive: it uses another
data directory or another machine, or the directory is not writable. A worker that starts removes old files.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

__all__ = ["ended_workers", "marked_alive"]

_PATTERN = "worker-*.lock"
# It is longer than Temporal lists a worker after its last poll.
_KEPT_S = 600.0


@contextmanager
def marked_alive(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of a worker while the context lasts.

    Args:
        folder: The data directory.
        name: Name of the worker, as it is part of its identity in Temporal.
    """
    descriptor = None
    with suppress(OSError):
        _remove_old(folder)
        # The file's name does not contain the process id, because another process may get the same one later.
        file = folder / _PATTERN.replace("*", uuid4().hex)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        # The worker locks the file before it writes its name, because readers ignore a file without a name.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, name.encode())
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def ended_workers(folder: Path) -> frozenset[str]:
    """Return the names of workers of a data directory that have certainly ended."""
    alive: set[str] = set()
    ended: set[str] = set()
    for file in folder.glob(_PATTERN):
        with suppress(OSError):
            name = file.read_text(errors="replace")
            (alive if _locked(file) else ended).add(name)
    return frozenset(ended - alive)


def _remove_old(folder: Path) -> None:
    for file in folder.glob(_PATTERN):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > _KEPT_S and not _locked(file):
                file.unlink()


def _locked(file: Path) -> bool:
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
