"""The files of a data directory that processes lock, and the lock of its only `amends dev`."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from amends.aggregates.errors import UnreachableError

__all__ = ["LOOK_S", "dev_lock", "dev_running", "locked", "opened", "try_lock", "unusable", "wait_for"]

LOOK_S = 0.02
_DEV_BOUND_S = 1.0


@contextmanager
def opened(path: Path) -> Iterator[IO[str]]:
    """Open a file of a data directory, and create it if it is missing.

    Raises:
        UnreachableError: The directory cannot be used.
    """
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")
    except OSError as error:
        raise unusable(path.parent, error) from None
    with file:
        file.seek(0)
        yield file


def unusable(data_dir: Path, error: OSError) -> UnreachableError:
    """Return the error that a data directory cannot be used, with its remedy."""
    remedy = "make room there" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "make it writable"
    return UnreachableError(f"data directory {data_dir} cannot be used ({error.strerror}); {remedy}, or set data_dir")


def locked(path: Path) -> bool:
    """Check whether a process holds a lock exclusively; the check blocks other takers of the lock for a moment."""
    with suppress(OSError), path.open() as file:
        return not try_lock(file, fcntl.LOCK_SH)
    return False


def try_lock(file: IO[str], kind: int) -> bool:
    """Try to lock a file; return whether this process holds the lock now."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for(bound_s: float, met: Callable[[], bool]) -> bool:
    """Wait until a condition is met; return whether it was met within the bound, in seconds."""
    end = time.monotonic() + bound_s
    while not met():
        if time.monotonic() > end:
            return False
        time.sleep(LOOK_S)
    return True


@contextmanager
def dev_lock(data_dir: Path) -> Iterator[None]:
    """Hold the lock of the only `amends dev` of a data directory.

    Raises:
        UnreachableError: Another one is running, or the directory cannot be used.
    """
    with opened(data_dir / "dev.lock") as file:
        # A process that only checks the lock holds it for a moment.
        if not wait_for(_DEV_BOUND_S, lambda: try_lock(file, fcntl.LOCK_EX)):
            holder = file.read().strip() or "unknown"
            raise UnreachableError(
                f"another `amends dev` (process {holder}) runs in {data_dir}; stop it, or use its server, as `amends "
                "run` does"
            )
        try:
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise unusable(data_dir, error) from None
        yield


def dev_running(data_dir: Path) -> bool:
    """Check whether an `amends dev`, and with it a worker, serves a data directory now."""
    return locked(data_dir / "dev.lock")
