"""`LineFile`: an open file, plain or compressed with gzip, whose lines can be read from a byte offset."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import IO, NamedTuple

from amends.pipelines.source import SourceSetupError

__all__ = ["LARGEST_LINE", "Line", "LineFile"]

LARGEST_LINE = 16 * 1024 * 1024
"""Largest size of a line in bytes. Of a larger one the source delivers this many bytes and one more, so that its
message is refused as too large."""

_IDENTITY_BYTES = 64 * 1024
_TAIL_BYTES = 64
_SKIP_BYTES = 1024 * 1024

# Values of `_broken_at_size` that are no size: the content is read again from its beginning, or as it is.
_DAMAGED = -2
_WHOLE = -1


class Line(NamedTuple):
    """A line of a file.

    Attributes:
        raw: Its bytes, with the end of the line; of an oversized line the first bytes.
        end: Byte offset of the next line, in the content as it is uncompressed.
        complete: Whether the line is whole. If not, the line is the last one.
    """

    raw: bytes
    end: int
    complete: bool

    @property
    def value(self) -> bytes:
        """The bytes without the end of the line."""
        return self.raw.removesuffix(b"\n").removesuffix(b"\r")


class LineFile:
    """An open file whose lines can be read from a byte offset.

    Args:
        path: Path of the file; a name that ends in `.gz` is compressed.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._raw: IO[bytes] = path.open("rb")
        self._compressed = path.suffix == ".gz"
        self._file: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=self._raw) if self._compressed else self._raw
        self._broken_at_size = _WHOLE
        # A compressed file is only read forwards: these are the bytes before the last place, and a line after it.
        self._before: tuple[int, bytes] = (0, b"")
        self._ahead: tuple[int, Line] | None = None

    @property
    def changed_ns(self) -> int:
        """Time of the last change, in nanoseconds since the epoch."""
        return os.fstat(self._raw.fileno()).st_mtime_ns

    def identity(self) -> str:
        """Return the hash of the first line, which stays the same while the file grows; empty if there is none yet.

        Of a long first line, the first 64 KiB count.
        """
        head = self._read(0, _IDENTITY_BYTES, line=True)
        end = head.find(b"\n") + 1
        if not end and len(head) < _IDENTITY_BYTES and not _is_json(head):
            return ""
        return _hash(head[:end].rstrip() if end else head.rstrip())

    def tail(self, offset: int) -> str:
        """Return the hash of the bytes before an offset; empty if the file has no such offset."""
        tail = self._bytes_before(offset)
        return _hash(tail) if len(tail) == min(offset, _TAIL_BYTES) else ""

    def tail_after(self, offset: int, lines: Sequence[Line]) -> str:
        """Return the hash of the bytes before the end of lines that were read from an offset on."""
        end = lines[-1].end
        if self._compressed and end - offset == sum(len(line.raw) for line in lines):
            last = b"".join(line.raw for line in lines[-_TAIL_BYTES:])
            self._before = (end, (self._bytes_before(offset) + last)[-_TAIL_BYTES:])
        return self.tail(end)

    def is_at(self, path: Path) -> bool:
        """Return whether a path leads to this file."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        mine = os.fstat(self._raw.fileno())
        return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)

    def lines(self, offset: int) -> Iterator[Line]:
        """Yield the lines from an offset on, the last of them possibly not complete.

        Raises:
            SourceSetupError: The compressed content is damaged.
        """
        if not self._ready():
            return
        try:
            if self._ahead is not None and self._ahead[0] == offset:
                line = self._ahead[1]
                offset = line.end
                yield line
            self._file.seek(offset)
            while raw := self._file.readline(LARGEST_LINE + 1):
                start, line = offset, self._line(raw, offset)
                offset = line.end
                self._ahead = (start, line) if self._compressed and line.complete else None
                yield line
        except EOFError:
            # The program that compresses the file has not written all of it yet.
            self._broken_at_size = os.fstat(self._raw.fileno()).st_size
        except (zlib.error, gzip.BadGzipFile) as error:
            self._broken_at_size = _DAMAGED
            raise SourceSetupError(f"{self.path} is damaged after byte {offset} of its content: {error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._raw.close()

    def _line(self, raw: bytes, offset: int) -> Line:
        end = offset + len(raw)
        if raw.endswith(b"\n"):
            return Line(raw, end, complete=True)
        if len(raw) > LARGEST_LINE:
            skipped, complete = self._skip()
            return Line(raw, end + skipped, complete=complete)
        return Line(raw, end, complete=self._compressed or _is_json(raw))

    def _skip(self) -> tuple[int, bool]:
        """Read to the end of an oversized line; return the bytes that were skipped, and whether it has an end."""
        skipped = 0
        while part := self._file.readline(_SKIP_BYTES):
            skipped += len(part)
            if part.endswith(b"\n"):
                return skipped, True
        return skipped, False

    def _bytes_before(self, offset: int) -> bytes:
        if not self._compressed or self._before[0] != offset:
            start = max(0, offset - _TAIL_BYTES)
            self._before = (offset, self._read(start, offset - start))
        return self._before[1]

    def _read(self, start: int, size: int, *, line: bool = False) -> bytes:
        if not self._ready():
            return b""
        try:
            self._file.seek(start)
            # Reading no more than the line leaves the error of truncated or damaged content to the lines behind it.
            return self._file.readline(size) if line else self._file.read(size)
        except EOFError:
            self._broken_at_size = os.fstat(self._raw.fileno()).st_size
        except (zlib.error, gzip.BadGzipFile):
            self._broken_at_size = _DAMAGED
        return b""

    def _ready(self) -> bool:
        """Return whether there is something to read, and open a compressed file again that has grown since."""
        if self._broken_at_size != _WHOLE:
            if os.fstat(self._raw.fileno()).st_size == self._broken_at_size:
                return False
            self._raw.seek(0)
            self._file, self._ahead = gzip.GzipFile(fileobj=self._raw), None
            self._broken_at_size = _WHOLE
        return True


def _hash(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]


def _is_json(value: bytes) -> bool:
    """Return whether a line without an end is complete: no beginning of a JSON object is a JSON object."""
    if not value.startswith(b"{") or not value.rstrip().endswith(b"}"):
        return False
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return False
    return True
