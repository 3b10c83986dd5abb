"""An append-only file of JSON lines that survives `kill -9` and power loss.

A line is on disk before `append` returns. A write that was cut short leaves a torn last line, which no caller has
relied on; opening the file drops it with a warning. Any other foreign content is an error.
"""

import fcntl
import os
import sys
from pathlib import Path

__all__ = ["LineLog", "LineLogError"]


class LineLogError(Exception):
    """The file cannot be used: it is locked, damaged, or could not be written."""


class LineLog:
    """Holds the file open and locked, so that one process at a time appends to it.

    Args:
        path: The file; made with mode 0600 where it is missing, its folder as well.

    Attributes:
        lines: Every complete line, oldest first, without line ends.

    Raises:
        LineLogError: Another process has the file open.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._broken: str | None = None
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise LineLogError(f"{path} is in use by another process: stop that one or use another folder") from error
        self._sync_folder()
        self.lines = self._read()

    def append(self, line: str) -> None:
        """Write one line; it is on disk when this returns.

        After a failed write the content of the disk is unknown, so every later call fails too: a restart reads the file
        again and finds out.

        Args:
            line: Text without line ends.

        Raises:
            LineLogError: The line may or may not have been written; the caller must not report either.
        """
        if self._broken is not None:
            raise LineLogError(self._broken)
        data = line.encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            self._broken = f"{self.path} could not be written ({error}): make room and start the service again"
            raise LineLogError(self._broken) from error
        self.lines.append(line)

    def close(self) -> None:
        """Release the file for other processes."""
        os.close(self._file)

    def _read(self) -> list[str]:
        with self.path.open("rb") as file:
            data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._file, whole)
            os.fsync(self._file)
            torn = len(data) - whole
            print(f"note: dropped a torn last line of {torn} bytes from {self.path}", file=sys.stderr, flush=True)
        try:
            return data[:whole].decode().splitlines()
        except UnicodeDecodeError as error:
            raise LineLogError(f"{self.path} is damaged at byte {error.start}: restore it from a copy") from error

    def _sync_folder(self) -> None:
        """Write the file's name to disk as well: without this a new file may vanish with the power."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
