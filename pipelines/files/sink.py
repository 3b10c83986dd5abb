"""Sink of JSON lines: appends each message to the file of its topic, and returns when the disk has it."""

import asyncio
import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from amends.pipelines.files.envelope import enveloped
from amends.pipelines.sink import Published, Refusal, SinkSetupError, SinkUnreachableError

__all__ = ["JsonLinesFiles"]

T = TypeVar("T")

_LONGEST_NAME = 200
_BLOCK = 64 * 1024


class JsonLinesFiles:
    """Appends to files in one folder; each line is whole, even after a process was killed while it wrote.

    Args:
        folder: The folder. The sink creates it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def refusal(self, message: Published) -> str | None:
        """Return the reason for which no file can have the name of the topic; `None` if one can."""
        topic = message.topic
        if not topic or "/" in topic or "\0" in topic or topic.startswith(".") or len(topic.encode()) > _LONGEST_NAME:
            return "the topic is no name of a file: it is empty, too long, begins with a point or contains a slash"
        return None

    async def publish(self, messages: Sequence[Published]) -> Sequence[Refusal]:
        """Append the messages, and wait until the disk has them.

        Raises:
            SinkSetupError: Permissions protect the folder or a file.
            SinkUnreachableError: The folder or a file cannot be written at present.
        """
        await asyncio.to_thread(self._publish, messages)
        return ()

    async def close(self) -> None:
        """Do nothing: no file stays open."""

    def _publish(self, messages: Sequence[Published]) -> None:
        lines = defaultdict(list)
        for message in messages:
            lines[message.topic].append(enveloped(message))
        for topic, texts in lines.items():
            path = self._folder / f"{topic}.jsonl"
            _reporting(path, lambda path=path, texts=texts: _append(path, b"".join(texts)))  # type: ignore[misc]


def _append(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    created = not path.exists()
    with _locked(path) as file:
        text = _repair(file) + text
        while text:
            text = text[os.write(file, text) :]
        os.fsync(file)
    if created:
        _sync_folder(path.parent)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open a file for one writer at a time; again if rotation has moved it meanwhile."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            mine = os.fstat(file)
            if path.exists() and os.path.samestat(path.stat(), mine):
                yield file
                return
        finally:
            os.close(file)


def _repair(file: int) -> bytes:
    """Remove the part of a line that a killed process wrote; return the end that a whole last line lacks."""
    size = os.fstat(file).st_size
    start, last = size, b""
    while start and b"\n" not in last:
        block = min(_BLOCK, start)
        start -= block
        last = os.pread(file, block, start) + last
    last = last[last.rfind(b"\n") + 1 :]
    if not last:
        return b""
    try:
        # A reader may have taken the line already, so it must stay.
        json.loads(last)
    except (ValueError, RecursionError):
        os.ftruncate(file, size - len(last))
        return b""
    return b"\n"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reporting(path: Path, function: Callable[[], T]) -> T:
    """Run a function, and raise the errors of the operating system as those of a sink."""
    try:
        return function()
    except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise SinkSetupError(f"cannot write {path}: {error.strerror}") from error
    except OSError as error:
        raise SinkUnreachableError(f"cannot write {path}: {error.strerror or error}") from error
