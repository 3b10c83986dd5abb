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
import fcntl
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

from amends.sagas.temporal.server.locks import LOOK_S, opened, try_lock, wait_for
from amends.sagas.temporal.server.ports import choose_ports
from amends.sagas.temporal.server.process import (
    STOP_BOUND_S,
    EndedError,
    check_wanted,
    is_server,
    server_alive,
    serves,
    start_server,
    stop_server,
)
from amends.sagas.temporal.server.server_record import ServerRecord, read_record

__all__ = ["EmbeddedServer", "running"]

T = TypeVar("T")

_STARTS = 3


def running(data_dir: Path) -> ServerRecord | None:
    """Return the server of a data directory if it answers, without becoming one of its users."""
    record = read_record(data_dir)
    return record if record is not None and serves(data_dir, record) else None


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
        with opened(data_dir / "server.lock") as share:
            await _in_thread(lambda: fcntl.flock(share, fcntl.LOCK_SH))
            given_up = threading.Event()
            try:
                record = await _in_thread(lambda: _ensure(data_dir, port, ui_port, given_up))
                yield cls(data_dir, record, share, given_up)
            finally:
                given_up.set()
                bound_s = STOP_BOUND_S if patience_s is None else min(STOP_BOUND_S, patience_s())
                await asyncio.shield(_in_thread(lambda: _leave(data_dir, share, bound_s)))

    async def ensure_alive(self) -> bool:
        """Start the server again, on its file and its ports, if it is gone; return whether it was gone.

        Its ports change if another user was faster and the old ports were taken, or that user asked for others.

        Raises:
            UnreachableError: The server cannot be started again.
        """
        if await _in_thread(self._is_the_same):
            return False
        record = self._record
        self._record = await _in_thread(lambda: _ensure(self._data_dir, record.port, record.ui_port, self._given_up))
        return True

    def kill_if_last(self) -> None:
        """Kill the server unless it has another user, without any wait, because this process is about to end."""
        self._given_up.set()
        record = read_record(self._data_dir)
        if record is not None and not self._share.closed and try_lock(self._share, fcntl.LOCK_EX) and is_server(record):
            os.kill(record.pid, signal.SIGKILL)
            (self._data_dir / "server.json").unlink(missing_ok=True)

    def _is_the_same(self) -> bool:
        # Another user may have started the server again meanwhile, and another program may listen on its old port.
        return read_record(self._data_dir) in {None, self._record} and serves(self._data_dir, self._record)


async def _in_thread(work: Callable[[], T]) -> T:
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
    with opened(data_dir / "server.start.lock") as file:
        # Polled rather than bounded, because another process may take long to start or stop a server.
        while not try_lock(file, fcntl.LOCK_EX):
            check_wanted(given_up)
            time.sleep(LOOK_S)
        present = read_record(data_dir)
        if present is not None and serves(data_dir, present):
            return present
        if present is not None:
            stop_server(data_dir, present, STOP_BOUND_S)  # the server may hang
        for _ in range(_STARTS - 1):
            with suppress(EndedError):
                return start_server(data_dir, *choose_ports(port, ui_port, present), given_up)
        return start_server(data_dir, *choose_ports(port, ui_port, present), given_up)


def _leave(data_dir: Path, share: IO[str], bound_s: float) -> None:
    """Release the share, and stop the server if it was the last one.

    Args:
        data_dir: The directory.
        share: The file whose lock is the share.
        bound_s: How long to wait for the server before killing it, in seconds.
    """
    with opened(data_dir / "server.start.lock") as file:
        # A process that holds the lock for longer has a share, and leaves later.
        if wait_for(bound_s, lambda: try_lock(file, fcntl.LOCK_EX)) and try_lock(share, fcntl.LOCK_EX):
            record = read_record(data_dir)
            if record is not None:
                stop_server(data_dir, record, bound_s)
                if not server_alive(data_dir):
                    (data_dir / "server.json").unlink(missing_ok=True)
        fcntl.flock(share, fcntl.LOCK_UN)
