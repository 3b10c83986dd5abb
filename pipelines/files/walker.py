"""`Walker`: moves through the lines of a file, and of the files that followed it when it was rotated."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from amends.pipelines.files.line_file import LARGEST_LINE, Line, LineFile
from amends.pipelines.files.rotation import rotated_files
from amends.pipelines.source import SourceReplacedError, SourceSetupError

__all__ = ["NumberedLine", "Place", "Walker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place between two lines.

    Attributes:
        number: Number of the next line, counted from the first line of the first file.
        file: Identity of the file.
        offset: Byte offset of the next line in that file.
        tail: Hash of the bytes before the offset; it shows that the file is still the same.
        inside: Whether the offset is before the end of the former line, which had none yet.
    """

    number: int
    file: str
    offset: int = 0
    tail: str = ""
    inside: bool = False

    def cursor(self) -> str:
        """Return the place as text, without the number."""
        return json.dumps({"file": self.file, "offset": self.offset, "tail": self.tail, "inside": self.inside})


class NumberedLine(NamedTuple):
    """A line that is not blank, with its number."""

    number: int
    value: bytes


class Walker:
    """Moves through the lines of a partition. Blocking.

    Args:
        name: Name of the partition, for messages.
        path: Path of the file that grows.
        is_partition: Whether a file is a partition of its own, and so no rotated part of this one.
    """

    def __init__(self, name: str, path: Path, is_partition: Callable[[Path], bool]) -> None:
        self._name = name
        self._path = path
        self._is_partition = is_partition
        self._file: LineFile | None = None
        self._identity = ""

    def first_place(self) -> Place:
        """Return the place before the first line of the present file.

        Raises:
            SourceSetupError: There is no such file, or it has no whole line yet.
        """
        if not self._path.exists():
            raise SourceSetupError(f"there is no file {self._name}")
        self._open(self._path)
        if not self._identity:
            raise SourceSetupError(f"file {self._name} has no whole line yet")
        return Place(number=1, file=self._identity)

    def place_of(self, number: int, cursor: str, incarnation: str) -> Place:
        """Return the place before a line.

        Args:
            number: Number of the line.
            cursor: Text of `Place.cursor`; empty to count the lines from the first one.
            incarnation: Identity of the first file.

        Raises:
            SourceReplacedError: The file is another one.
            SourceSetupError: There is no such line.
        """
        if cursor:
            place = Place(number=number, **json.loads(cursor))
            self._find(place, incarnation)
            return place
        place = Place(number=1, file=incarnation) if incarnation else self.first_place()
        while place.number < number:
            self._find(place, incarnation)
            _, reached = self.read(place, limit=number - place.number, max_bytes=8 * 1024 * 1024)
            if reached.number == place.number:
                raise SourceSetupError(f"file {self._name} has no line {number}: it ends at line {place.number - 1}")
            place = reached
        return place

    def read(self, place: Place, *, limit: int, max_bytes: int) -> tuple[list[NumberedLine], Place]:
        """Read lines from a place, as many as the files have now.

        Args:
            place: The place.
            limit: Largest number of lines.
            max_bytes: Bound of their size in total; a line that is larger comes alone.

        Returns:
            The lines that are not blank, and the place after them.

        Raises:
            SourceReplacedError: The file is another one.
        """
        while True:
            file = self._find(place, place.file)
            lines, reached = _take(file, place, limit, max_bytes)
            if reached != place or file.is_at(self._path):
                return lines, reached
            successor = self._successor(file)
            if successor is None:
                return [], place
            rest = next(file.lines(place.offset), None)
            self._open(successor)
            after = Place(number=place.number, file=self._identity)
            if not self._identity:
                return [], place
            if rest is not None and rest.value.strip():
                # Nobody completes the last line of a file that has a successor. Its message is set aside.
                return [NumberedLine(place.number, rest.value)], replace(after, number=place.number + 1)
            place = after

    def close(self) -> None:
        """Close the open file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, path: Path) -> LineFile:
        self.close()
        self._file = LineFile(path)
        self._identity = self._file.identity()
        return self._file

    def _find(self, place: Place, incarnation: str) -> LineFile:
        """Return the open file that a place belongs to."""
        if self._file is not None and self._identity == place.file and _fits(self._file, place):
            return self._file
        present = ""
        for path in [self._path, *reversed(rotated_files(self._path, self._is_partition))]:
            with suppress(FileNotFoundError):
                file = self._open(path)
                if path == self._path:
                    present = self._identity
                if self._identity == place.file and _fits(file, place):
                    return file
        self.close()
        if not present:
            raise SourceSetupError(f"there is no file {self._name}, and no rotated one that the pipeline has read")
        raise SourceReplacedError(
            f"file {self._name}", expected=incarnation or place.file, found=_changed(place, present)
        )

    def _successor(self, file: LineFile) -> Path | None:
        """Return the file that was begun after a rotated one; `None` if there is none yet."""
        older = rotated_files(self._path, self._is_partition)
        chain = [*older, self._path] if self._path.exists() else older
        places = [index for index, path in enumerate(chain) if file.is_at(path) or self._is_copy(path)]
        if places:
            return chain[places[0] + 1] if places[0] + 1 < len(chain) else None
        # Rotation has removed the open file. The next newer one follows it.
        newer = (path for path in chain if path.stat().st_mtime_ns >= file.changed_ns)
        return next(newer, None)

    def _is_copy(self, path: Path) -> bool:
        """Return whether a file has the first line of the open one, such as after rotation has compressed it."""
        with suppress(FileNotFoundError):
            other = LineFile(path)
            try:
                return other.identity() == self._identity
            finally:
                other.close()
        return False


def _changed(place: Place, present: str) -> str:
    return f"{present} with other lines before byte {place.offset}" if present == place.file else present


def _fits(file: LineFile, place: Place) -> bool:
    return not place.offset or file.tail(place.offset) == place.tail


def _take(file: LineFile, place: Place, limit: int, max_bytes: int) -> tuple[list[NumberedLine], Place]:
    """Return the whole lines from a place on, within the bounds, and the place after them."""
    lines: list[NumberedLine] = []
    taken: list[Line] = []
    number, inside, size = place.number, place.inside, 0
    for line in file.lines(place.offset):
        value = line.value
        if not line.complete or (lines and size + len(value) > max_bytes):
            break
        taken.append(line)
        if not inside or value.strip():
            if value.strip():
                lines.append(NumberedLine(number, value))
            number, size = number + 1, size + len(value)
        # Otherwise it is the end of the former line, which was whole without its end.
        inside = not line.raw.endswith(b"\n") and len(line.raw) <= LARGEST_LINE
        if number - place.number >= limit:
            break
    if not taken:
        return [], place
    end, tail = taken[-1].end, file.tail_after(place.offset, taken)
    return lines, replace(place, number=number, offset=end, tail=tail, inside=inside)
