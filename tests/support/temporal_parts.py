"""A Temporal development server on a file, which a test may stop, start again, lose or restore."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bounds import HANG_S

from amends.sagas.temporal.server.ports import free_port

__all__ = ["TemporalServer"]


class TemporalServer:
    """A server that keeps its address through stops, losses and restorations.

    Args:
        executable: The program `temporal`.
        folder: The folder of its file and its log.
        settings: Values of its dynamic configuration, as `name=value`.
    """

    def __init__(self, executable: Path, folder: Path, *settings: str) -> None:
        # The first: without it an idle server delays every ordinary activity by some 50 ms.
        self._settings = ("history.transferProcessorMaxPollRPS=2000", *settings)
        self.address = f"127.0.0.1:{free_port()}"
        self._executable = executable
        self._folder = folder

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Run the server on its file, or on a new file when there is none."""
        log_file = self._folder / "server.log"
        with log_file.open("wb") as log:
            server = subprocess.Popen(
                [
                    self._executable,
                    *("server", "start-dev", "--headless", "--log-level", "error"),
                    *("--ip", "127.0.0.1", "--port", self.address.rpartition(":")[2]),
                    *("--db-filename", self._folder / "temporal.db"),
                    *("--sqlite-pragma", "journal_mode=WAL", "--sqlite-pragma", "synchronous=NORMAL"),
                    *(word for each in self._settings for word in ("--dynamic-config-value", each)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait_until_serving(self.address, server, log_file, self._executable)
            yield
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def lose(self) -> None:
        """Delete the server's file while the server is stopped."""
        for file in self._folder.glob("temporal.db*"):
            file.unlink()

    def keep(self, folder: Path) -> None:
        """Copy the server's file while the server is stopped."""
        folder.mkdir()
        for file in self._folder.glob("temporal.db*"):
            shutil.copy(file, folder)

    def put_back(self, folder: Path) -> None:
        """Replace the server's file by the copy while the server is stopped."""
        self.lose()
        for file in folder.iterdir():
            shutil.copy(file, self._folder)


def _wait_until_serving(address: str, server: subprocess.Popen[bytes], log: Path, temporal: Path) -> None:
    """Wait until the server reports that it is healthy and knows the namespace `default`."""
    deadline = time.monotonic() + HANG_S
    while time.monotonic() < deadline:
        assert server.poll() is None, f"the Temporal server ended at once: {log.read_text()}"
        known = subprocess.run(
            [temporal, "operator", "namespace", "describe", "default", "--address", address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if known.returncode == 0:
            return
        time.sleep(0.05)
    msg = f"the Temporal server at {address} did not answer within {HANG_S} s: {log.read_text()}"
    raise TimeoutError(msg)
