"""Source of JSON lines: each file is a partition, and the position of a line is its number."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from amends.pipelines.definition.sources import JsonLinesSource
from amends.pipelines.files.envelope import message_in
from amends.pipelines.files.walker import NumberedLine, Place, Walker
from amends.pipelines.source import PartitionReader, RawMessage, Read, SourceSetupError, SourceUnreachableError, Start

__all__ = ["JsonLinesConnection", "JsonLinesReader"]

T = TypeVar("T")

_POLL_S = 0.1
_COUNTED_LINES = 10_000
_COUNTED_BYTES = 8 * 1024 * 1024


class JsonLinesConnection:
    """Reads the files that a pattern matches. A file is listed from its first whole line on.

    Args:
        source: The description of the files.
        folder: Folder to which the pattern is relative.
    """

    def __init__(self, source: JsonLinesSource, folder: Path) -> None:
        self._source = source
        pattern = Path(source.pattern)
        self._folder = Path(pattern.anchor) if pattern.is_absolute() else folder
        self._pattern = str(pattern.relative_to(pattern.anchor)) if pattern.is_absolute() else source.pattern
        self._listed: set[str] = set()
        self._readers: list[JsonLinesReader] = []

    async def partitions(self) -> Sequence[str]:
        """Return the paths of the files, relative to the folder.

        Raises:
            SourceSetupError: The pattern is not valid, or permissions protect a folder.
            SourceUnreachableError: A folder cannot be read at present.
        """
        return await asyncio.to_thread(_reporting, self._source.pattern, self._partitions)

    async def open(self, partition: str, start: Start) -> PartitionReader:
        """Begin to read a file.

        Raises:
            SourceReplacedError: The file is another one than the pipeline has read, and no rotated file is that one.
            SourceSetupError: There is no such file.
            SourceUnreachableError: The file cannot be read at present.
        """
        path, known = self._folder / partition, self._matching
        walkers = (Walker(partition, path, known), Walker(partition, path, known))
        place = await asyncio.to_thread(_reporting, partition, lambda: _first_place(walkers[0], start))
        reader = JsonLinesReader(
            partition, walkers, place, start.incarnation or place.file, envelope=self._source.envelope
        )
        self._readers.append(reader)
        return reader

    async def close(self) -> None:
        """Close all readers."""
        for reader in self._readers:
            await reader.close()
        self._readers.clear()

    def _partitions(self) -> list[str]:
        try:
            names = sorted(str(path.relative_to(self._folder)) for path in self._files())
        except (ValueError, NotImplementedError) as error:
            raise SourceSetupError(f"the pattern {self._source.pattern!r} is not valid: {error}") from error
        for name in names:
            if name not in self._listed and self._has_line(name):
                self._listed.add(name)
        return [name for name in names if name in self._listed]

    def _files(self) -> list[Path]:
        return [path for path in self._folder.glob(self._pattern) if path.is_file()]

    def _has_line(self, name: str) -> bool:
        walker = Walker(name, self._folder / name, self._matching)
        try:
            walker.first_place()
        except SourceSetupError:
            return False
        finally:
            walker.close()
        return True

    def _matching(self, path: Path) -> bool:
        return path in self._files()


class JsonLinesReader:
    """Reads one file, and those that follow it when it is rotated.

    Args:
        name: Name of the partition.
        walkers: One to read with, and one to count with.
        place: The place before the first line to read.
        incarnation: Identity of the first file.
        envelope: Whether the lines are those that a relay writes.
    """

    def __init__(
        self, name: str, walkers: tuple[Walker, Walker], place: Place, incarnation: str, *, envelope: bool
    ) -> None:
        self._name = name
        self._walker, self._counter = walkers
        self._place = self._counted = place
        self._incarnation = incarnation
        self._envelope = envelope
        self._first = place.number
        # A call that was cancelled goes on in its thread, so the next one waits for it.
        self._lock = threading.Lock()

    @property
    def incarnation(self) -> str:
        """Hash of the first line of the first file."""
        return self._incarnation

    @property
    def first(self) -> int:
        """Number of the line from which the reader began to read."""
        return self._first

    async def read(self, limit: int, *, max_bytes: int, wait: timedelta) -> Read:
        """Read the next lines; blank ones are holes."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait.total_seconds()
        before = self._place
        while True:
            lines, place = await self._blocking(lambda: self._walker.read(before, limit=limit, max_bytes=max_bytes))
            left = deadline - loop.time()
            if place.number > before.number or left <= 0:
                self._place = place
                messages = [self._message(line) for line in lines]
                return Read(first=before.number, next=place.number, messages=messages, cursor=place.cursor())
            await asyncio.sleep(min(_POLL_S, left))

    async def end(self) -> int:
        """Return the number of the line after the last whole one."""
        return await self._blocking(self._count)

    async def acknowledge(self, position: int) -> None:
        """Do nothing: a file needs no acknowledgement."""

    async def pause(self) -> None:
        """Do nothing: nothing is read ahead."""

    async def close(self) -> None:
        """Close the files."""
        await self._blocking(self._close)

    async def _blocking(self, function: Callable[[], T]) -> T:
        def locked() -> T:
            with self._lock:
                return _reporting(self._name, function)

        return await asyncio.to_thread(locked)

    def _message(self, line: NumberedLine) -> RawMessage:
        return message_in(*line) if self._envelope else RawMessage(line.number, None, line.value)

    def _count(self) -> int:
        if self._counted.number < self._place.number:
            self._counted = self._place
        while True:
            _, place = self._counter.read(self._counted, limit=_COUNTED_LINES, max_bytes=_COUNTED_BYTES)
            if place == self._counted:
                return place.number
            self._counted = place

    def _close(self) -> None:
        self._walker.close()
        self._counter.close()


def _first_place(walker: Walker, start: Start) -> Place:
    if start.next is None:
        return walker.first_place()
    return walker.place_of(start.next, start.cursor, start.incarnation)


def _reporting(name: str, function: Callable[[], T]) -> T:
    """Run a function, and raise the errors of the operating system as those of a source."""
    try:
        return function()
    except PermissionError as error:
        raise SourceSetupError(f"no permission to read {error.filename or name}") from error
    except OSError as error:
        raise SourceUnreachableError(f"cannot read {error.filename or name}: {error.strerror or error}") from error
