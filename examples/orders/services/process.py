"""Run a service as a process of its own, for demos and tests: start, kill, restart, stop.

Needs only the standard library, so that a demo can import it without the services' own dependencies. It ends
processes by the ids that it started, never by name. A service whose starter dies stops automatically: it follows its
standard input.
"""

import os
import selectors
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Self

__all__ = ["ServiceProcess", "ServiceProcessError"]

GREETING = "listening on "
STOP_SECONDS = 10.0


class ServiceProcessError(Exception):
    """The service did not start, or is not running."""


class ServiceProcess:
    """One service as a child process; a context manager that starts it and stops it.

    Args:
        module: The module to run, as in `python -m`: `services.payment`.
        data: Folder of its ledger; kept, so that a restart finds it. Its stderr goes to `service.err` in there.
        *options: Further command line options.
        project: Folder that the module is imported from; None for the one that holds this package.
        start_timeout: How long it may take until it listens.

    Attributes:
        data: As given, made absolute.

    Example:
        with ServiceProcess("services.payment", Path("data/payment")) as payment:
            httpx.post(f"{payment.base_url}/charge", ...)
            payment.kill()
            payment.restart()
    """

    def __init__(
        self,
        module: str,
        data: Path,
        *options: str,
        project: Path | None = None,
        start_timeout: timedelta = timedelta(seconds=30),
    ) -> None:
        self._module = module
        self._options = options
        self._project = (project or Path(__file__).parent.parent).resolve()
        self._start_timeout_s = start_timeout.total_seconds()
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self.data = data.resolve()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """Where it listens; the same after a restart.

        Raises:
            ServiceProcessError: It was never started.
        """
        if not self._port:
            raise ServiceProcessError(f"{self._module} was never started: call start() first")
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Id of the running process.

        Raises:
            ServiceProcessError: None is running.
        """
        return self._running().pid

    def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            ServiceProcessError: It is running already, ended, or did not listen in time; no process remains.
        """
        if self._process is not None:
            raise ServiceProcessError(f"{self._module} runs already, as process {self.pid}")
        self.data.mkdir(parents=True, exist_ok=True)
        paths = [str(self._project), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, "-m", self._module, "--data", str(self.data), "--port", str(self._port)]
        with (self.data / "service.err").open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [*command, "--follow-stdin", *self._options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=self._project,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )
        try:
            greeting = self._first_line(self._process)
            self._port = int(greeting.rpartition(":")[2])
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End it at once with SIGKILL, as a crash would; nothing happens when it is not running."""
        if self._process is not None:
            self._process.kill()
            self.wait()

    def stop(self) -> None:
        """Ask it to end with SIGTERM, and kill it when it does not; nothing happens when it is not running."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self.wait()
            except ServiceProcessError:
                self.kill()

    def restart(self) -> None:
        """Start it again on the same port and the same data, after stopping it if it runs."""
        self.stop()
        self.start()

    def wait(self) -> int:
        """Wait until it has ended without being asked, at most ten seconds.

        Returns:
            Its exit code; negative for the signal that ended it.

        Raises:
            ServiceProcessError: It is still running, or was not.
        """
        process = self._running()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ServiceProcessError(f"{self._module} has not ended within {STOP_SECONDS:.0f} s") from error
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None
        return code

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServiceProcessError(f"{self._module} is not running: call start() first")
        return self._process

    def _first_line(self, process: subprocess.Popen[bytes]) -> str:
        """Read up to the first line end without waiting longer than allowed."""
        if process.stdout is None:  # the call above requested it
            raise ServiceProcessError(f"{self._module} has no stdout")
        deadline = time.monotonic() + self._start_timeout_s
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise ServiceProcessError(f"{self._module} did not listen within {self._start_timeout_s} s")
                byte = os.read(process.stdout.fileno(), 1)
                if not byte:
                    raise ServiceProcessError(f"{self._module} ended before it listened: {self._last_words()}")
                line += byte
        text = line.decode().rstrip()
        if not text.startswith(GREETING):
            raise ServiceProcessError(f"{self._module} said {text!r} where {GREETING!r} and its address were expected")
        return text

    def _last_words(self) -> str:
        lines = (self.data / "service.err").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"
