"""Runs the program `amends` in a process that is forked from one that has already imported everything.

A command spends most of its time on imports, and the tests run several hundred commands. Other tests cover a start of
the program without a fork: those of pages whose shell lines combine commands, of the demo, and of the program itself.
"""

import functools
import json
import multiprocessing
import os
import pty
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from bounds import HANG_S

from amends.cli.app import COMMANDS

__all__ = ["AMENDS", "Forked", "Running", "can_fork", "run_forked", "run_in_terminal", "run_on_terminal"]

AMENDS = Path(sysconfig.get_path("scripts")) / "amends"

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [*sorted({each.module for each in COMMANDS}), "httpx", "psycopg", "sqlalchemy.dialects.sqlite", "temporalio.worker"]
)


class Forked(NamedTuple):
    """The result of a command: its exit status, and its two outputs."""

    code: int
    out: bytes
    err: bytes


class Running:
    """The program in the background, with the part of the interface of `subprocess.Popen` that tests use.

    Args:
        arguments: The arguments after the program's name.
        folder: The working directory.
        environment: The whole environment, which `can_fork` accepts.

    Attributes:
        pid: The process id.
        stdout: Both outputs of the program.
    """

    def __init__(self, arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> None:
        reader, writer = _CONTEXT.Pipe(duplex=False)
        with reader, writer:
            self._arguments = list(arguments)
            self._process = _CONTEXT.Process(
                target=_be_the_program,
                args=(self._arguments, folder, dict(environment), _fresh_path(), writer),
            )
            self._process.start()
            self.stdout = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, where a signal is its negative number; None while the program runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status, or None while the program runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send the program a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send the program SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the program."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the program ends, up to a timeout in seconds, and return its exit status.

        Raises:
            subprocess.TimeoutExpired: The program still runs.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(["amends", *self._arguments], timeout or 0)
        return self._process.exitcode

    def read_rest(self, timeout_s: float) -> str:
        """Read the rest of the output and wait until the program ends; kill it when that takes longer than the timeout.

        Raises:
            subprocess.TimeoutExpired: The program did not end in time, and was killed.
        """
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self.kill()

        guard = threading.Timer(timeout_s, give_up)
        guard.start()
        try:
            rest = self.stdout.read()
            self._process.join()
        finally:
            guard.cancel()
        if late.is_set():
            raise subprocess.TimeoutExpired(["amends", *self._arguments], timeout_s, rest.encode())
        return rest

    def end(self, timeout_s: float) -> None:
        """End the program if it still runs, by force if necessary."""
        self.terminate()
        try:
            self.read_rest(timeout_s)
        finally:
            self.kill()
            self.stdout.close()


def can_fork(environment: Mapping[str, str]) -> bool:
    """Return whether an environment leaves the variables alone that Python reads when it starts."""
    early = {name for name in {*environment, *os.environ} if name.startswith(("PYTHON", "LANG", "LC_", "LD_"))}
    return all(environment.get(name) == os.environ.get(name) for name in early)


def run_forked(
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    stdin: bytes = b"",
    merged: bool = False,
    timeout_s: float,
) -> Forked:
    """Run the program to its end.

    Args:
        arguments: The arguments after the program's name.
        folder: The working directory.
        environment: The whole environment, which `can_fork` accepts.
        stdin: The program's input.
        merged: Whether both outputs are one.
        timeout_s: A bound that guards against hangs, in seconds.

    Raises:
        subprocess.TimeoutExpired: The program did not end in time, and was killed.
    """
    with tempfile.TemporaryDirectory(prefix="amends-run-") as name:
        ends = Path(name)
        (ends / "in").write_bytes(stdin)
        for out in ("out",) if merged else ("out", "err"):
            (ends / out).touch()
        process = _CONTEXT.Process(
            target=_be_the_program, args=(list(arguments), folder, dict(environment), _fresh_path(), ends)
        )
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([AMENDS, *arguments], timeout_s, (ends / "out").read_bytes())
        return Forked(process.exitcode, (ends / "out").read_bytes(), b"" if merged else (ends / "err").read_bytes())


def run_on_terminal(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], answer: str = ""
) -> tuple[int, str]:
    """Run the program on a separate terminal, and type the answer when it asks, which is when a line ends in a colon.

    Returns:
        Its exit status, and the terminal's content.
    """
    ours, theirs = pty.openpty()
    with Connection(theirs) as ends:
        process = _CONTEXT.Process(
            target=_be_the_program,
            args=(list(arguments), folder, dict(environment), _fresh_path(), ends),
            kwargs={"terminal": True},
        )
        process.start()
    printed = _read_terminal(ours, answer)
    process.join()
    assert process.exitcode is not None
    return process.exitcode, printed


def run_in_terminal(
    command: Sequence[str | Path], *, environment: Mapping[str, str], answer: str = ""
) -> tuple[int, str]:
    """Run any other program on a separate terminal, as `run_on_terminal` does."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    printed = _read_terminal(ours, answer)
    return process.wait(HANG_S), printed


def _read_terminal(terminal: int, answer: str) -> str:
    """Return all that a terminal shows until its last writer has closed it; type the answer to each question."""
    printed = b""
    # Linux reports an error at the terminal's end.
    with os.fdopen(terminal, "r+b", buffering=0) as file, suppress(OSError):
        while more := file.read(4096):
            printed += more
            if answer and printed.endswith(b": "):
                file.write(f"{answer}\n".encode())
    return printed.decode().replace("\r\n", "\n")


@functools.cache
def _fresh_path() -> list[str]:
    """Ask a new interpreter for the import path with which it starts."""
    show = "import json, sys; print(json.dumps(sys.path[1:]))"
    said = subprocess.run([sys.executable, "-c", show], stdout=subprocess.PIPE, check=True).stdout
    return [str(AMENDS.parent), *json.loads(said)]


def _be_the_program(
    arguments: list[str],
    folder: Path,
    environment: dict[str, str],
    path: list[str],
    ends: Path | Connection,
    *,
    terminal: bool = False,
) -> None:
    """Become the program in this process.

    Args:
        arguments: The arguments after the program's name.
        folder: The working directory.
        environment: The whole environment.
        path: The import path.
        ends: Folder of the files for input and outputs, in which standard error without a file goes to standard output;
            or the file for both outputs.
        terminal: Whether that file is a terminal, from which the program reads as well.
    """
    if isinstance(ends, Path):
        for number, name, mode in ((0, "in", "rb"), (1, "out", "wb"), (2, "err", "wb")):
            if (ends / name).exists():
                with (ends / name).open(mode) as file:
                    os.dup2(file.fileno(), number)
            else:
                os.dup2(1, number)
    else:
        with ends, Path(os.devnull).open("rb") as nothing:
            os.dup2(ends.fileno() if terminal else nothing.fileno(), 0)
            os.dup2(ends.fileno(), 1)
            os.dup2(ends.fileno(), 2)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = path
    sys.argv = [str(AMENDS), *arguments]
    from amends.cli import main  # noqa: PLC0415 - in the process that becomes the program

    sys.exit(main())
