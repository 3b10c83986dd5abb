"""Ends every process that tests have started, even when a test process or `make` is killed.

Theory of operation: a process that runs tests extends the variable `TEST_LINEAGE` of its environment by a name of its
own, as in `run/controller/worker`. Every descendant inherits the variable, even when its parent changes later: a
database server that detaches, or a Temporal server whose client process was killed. Each test process has a reaper
process in a separate session, with a pipe from the test process as its input. The operating system closes the pipe
when the test process ends, in any way. The reaper then kills all members of the lineage.

A test process that ends in good order writes that to the pipe. Its reaper then leaves a process that a test forgot to
the test process further up; the topmost reports it. Under `make` the topmost is this file as a program, `reaper.py
guard SECONDS COMMAND`: it runs the command, ends everything when `make` is gone, and fails when a process outlives the
command by that number of seconds.

Limit: the reaper does not find a process that replaces its whole environment.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from uuid import uuid4

import psutil

__all__ = ["LINEAGE", "Reaper", "kill", "members"]

LINEAGE = "TEST_LINEAGE"
"""The variable that holds the names of the test processes from which a process descends, with `/` between them."""

_GOOD_ORDER = b"ended in good order"
_LOOK_S = 0.1
# Processes that end automatically after a test process, such as the server that forks commands, end within this time.
_GRACE_S = 60.0
# SIGQUIT comes before SIGKILL here: it lets PostgreSQL remove its shared memory.
_QUIT_S = 5.0


class Reaper:
    """The reaper of this process; all processes started from now on inherit the lineage from this environment.

    Args:
        errors: File descriptor for the reports.

    Attributes:
        lineage: The value that this process has put into its environment.
    """

    def __init__(self, errors: int = 2) -> None:
        above = os.environ.get(LINEAGE)
        self.lineage = f"{above}/{uuid4().hex[:8]}" if above else uuid4().hex[:8]
        # The reaper inherits the lineage above its own: it ends with the process above.
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, "reap", self.lineage],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        os.environ[LINEAGE] = self.lineage
        assert self._process.stdin is not None
        self._pipe = self._process.stdin
        # A forked child would hold the pipe open.
        os.register_at_fork(after_in_child=self._pipe.close)

    def end(self) -> None:
        """Report to the reaper that this process ends in good order."""
        with suppress(BrokenPipeError):
            self._pipe.write(_GOOD_ORDER)
            self._pipe.flush()


def members(lineage: str) -> list[psutil.Process]:
    """List the processes that descend from a test process, without this one."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _descends(process, lineage)]


def _descends(process: psutil.Process, lineage: str) -> bool:
    try:
        found: str = process.environ().get(LINEAGE, "")
    except (psutil.Error, OSError):  # the process has ended, or belongs to another user
        return False
    return f"{found}/".startswith(f"{lineage}/")


def kill(lineage: str) -> list[str]:
    """Kill all members of a lineage, and return their command lines."""
    killed: dict[int, str] = {}
    may_quit_until = time.monotonic() + _QUIT_S
    for process in _until_none(lineage):
        with suppress(psutil.Error):
            killed.setdefault(process.pid, " ".join(process.cmdline()))
            may_quit = process.name() == "postgres" and time.monotonic() < may_quit_until
            process.send_signal(signal.SIGQUIT if may_quit else signal.SIGKILL)
    return list(killed.values())


def _until_none(lineage: str) -> Iterator[psutil.Process]:
    """Yield the members until two scans in a row find none: a process is invisible while it executes a program."""
    found_none = 0
    while found_none < 2:
        found = members(lineage)
        yield from found
        found_none = 0 if found else found_none + 1
        time.sleep(_LOOK_S)


def wait_for_the_end(lineage: str, grace_s: float) -> list[str]:
    """Wait for a while until a lineage has no members; kill the remaining ones, and return their command lines."""
    deadline = time.monotonic() + grace_s
    while members(lineage) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    return kill(lineage)


def reap(lineage: str) -> None:
    """Wait until the test process has ended, and kill its remaining processes, unless a process further up does so."""
    in_good_order = sys.stdin.buffer.read() == _GOOD_ORDER
    if not in_good_order:
        _report("killed together with its test process", kill(lineage))
    elif LINEAGE not in os.environ:
        _report("killed, as a test has left it behind", wait_for_the_end(lineage, _GRACE_S))


def guard(grace_s: float, command: list[str]) -> int:
    """Run a command, and return its exit status; return 1 if it leaves a process behind or `make` is killed."""
    if LINEAGE in os.environ:
        os.execvp(command[0], command)  # noqa: S606 - the command is ours
    parent = os.getppid()
    # Ctrl-C reaches the command too, whose exit status then reports the result.
    signal.signal(signal.SIGINT, lambda *_: None)
    reaper = Reaper()
    # The command may be a `make` that shares file descriptors with the one above.
    process = subprocess.Popen(command, close_fds=False)
    while os.getppid() == parent:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(_LOOK_S)
            left = wait_for_the_end(reaper.lineage, grace_s)
            _report("killed, as a test has left it behind", left)
            return code or (1 if left else 0)
    return 1  # the reaper ends the command


def _report(fate: str, lines: list[str]) -> None:
    for line in lines:
        print(f"{fate}: {line[:300]}", file=sys.stderr, flush=True)  # noqa: T201 - the only output


if __name__ == "__main__":
    if sys.argv[1] == "guard":
        sys.exit(guard(float(sys.argv[2]), sys.argv[3:]))
    reap(sys.argv[2])
