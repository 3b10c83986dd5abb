"""Each line of a growing, rotated or compressed file is read exactly once, in order, from any place."""

import gzip
import os
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amends.pipelines.definition.sources import JsonLinesSource
from amends.pipelines.files.line_file import LARGEST_LINE
from amends.pipelines.files.source import JsonLinesConnection
from amends.pipelines.files.walker import Place, Walker
from amends.pipelines.source import (
    FROM_START,
    PartitionReader,
    Read,
    SourceReplacedError,
    SourceSetupError,
    SourceUnreachableError,
    Start,
)

NOW = timedelta(0)
ENOUGH = 1_000_000


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[JsonLinesConnection]:
    """Connect to the files of a folder."""
    connection = JsonLinesConnection(JsonLinesSource("*.jsonl*"), tmp_path)
    yield connection
    await connection.close()


async def read_all(reader: PartitionReader, limit: int = 100) -> list[bytes]:
    """Read everything that the partition has now."""
    values: list[bytes] = []
    while True:
        read = await reader.read(limit, max_bytes=ENOUGH, wait=NOW)
        values += [message.value or b"" for message in read.messages]
        if read.next == read.first:
            return values


async def read_one(reader: PartitionReader, limit: int = 100, max_bytes: int = ENOUGH) -> Read:
    """Read once, without a wait."""
    return await reader.read(limit, max_bytes=max_bytes, wait=NOW)


async def test_each_file_with_a_whole_line_is_a_partition(source: JsonLinesConnection, tmp_path: Path) -> None:
    """A file without a whole line has no identity yet, so it is listed later."""
    (tmp_path / "b.jsonl").write_text('{"n": 1}\n')
    (tmp_path / "a.jsonl").write_text('{"n"')
    assert await source.partitions() == ["b.jsonl"]
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n')
    assert await source.partitions() == ["a.jsonl", "b.jsonl"]


async def test_a_line_is_read_when_it_is_whole(source: JsonLinesConnection, tmp_path: Path) -> None:
    """A part of a line is left until its end has been written; positions are the numbers of the lines."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 1}\n\n{"n": 3}\r\n{"n": ')
    reader = await source.open("a.jsonl", FROM_START)
    read = await read_one(reader)
    assert [(message.position, message.value) for message in read.messages] == [(1, b'{"n": 1}'), (3, b'{"n": 3}')]
    assert (read.first, read.next, await reader.end()) == (1, 4, 4)
    with path.open("ab") as file:
        file.write(b'4}\n{"n": 5}\n')
    assert await reader.end() == 6
    assert await read_all(reader) == [b'{"n": 4}', b'{"n": 5}']


async def test_a_last_line_without_an_end_is_read_once(source: JsonLinesConnection, tmp_path: Path) -> None:
    """A whole JSON object cannot be a part of a longer one, so the reader takes it, and not again with its end."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": 2}')
    reader = await source.open("a.jsonl", FROM_START)
    read = await read_one(reader)
    assert [message.value for message in read.messages] == [b'{"n": 1}', b'{"n": 2}']
    with path.open("ab") as file:
        file.write(b' \n{"n": 3}\n')
    again = await source.open("a.jsonl", Start(next=read.next, cursor=read.cursor, incarnation=reader.incarnation))
    for continued in (reader, again):
        rest = await read_one(continued)
        assert [(message.position, message.value) for message in rest.messages] == [(3, b'{"n": 3}')]


async def test_a_read_keeps_its_bounds_and_a_large_line_comes_alone(
    source: JsonLinesConnection, tmp_path: Path
) -> None:
    """The limits of number and size hold, except for one line that is larger than the bound."""
    (tmp_path / "a.jsonl").write_bytes(b"1\n2\n3\n" + b"x" * 50 + b"\n5\n")
    reader = await source.open("a.jsonl", FROM_START)
    reads = [await read_one(reader, limit=2, max_bytes=20) for _ in range(4)]
    assert [[message.position for message in read.messages] for read in reads] == [[1, 2], [3], [4], [5]]


async def test_an_oversized_line_is_cut_and_the_next_one_is_read(source: JsonLinesConnection, tmp_path: Path) -> None:
    """A line over the largest size becomes a message that is too large, and costs no more memory than that."""
    (tmp_path / "a.jsonl").write_bytes(b"x" * (LARGEST_LINE + 5_000_000) + b"\n2\n")
    reader = await source.open("a.jsonl", FROM_START)
    large, small = [(await read_one(reader, max_bytes=100)).messages[0] for _ in range(2)]
    assert (large.position, len(large.value or b"")) == (1, LARGEST_LINE + 1)
    assert (small.position, small.value) == (2, b"2")


@pytest.mark.parametrize("compressed", [False, True])
async def test_reading_goes_on_from_any_cursor_and_any_number(
    source: JsonLinesConnection, tmp_path: Path, *, compressed: bool
) -> None:
    """After a restart the reader continues with the next line, whether it has the cursor or only the number."""
    lines = [f'{{"n": {number}}}'.encode() for number in range(1, 30)]
    content = b"".join(line + b"\n" for line in lines)
    name = "a.jsonl.gz" if compressed else "a.jsonl"
    (tmp_path / name).write_bytes(gzip.compress(content) if compressed else content)
    reader = await source.open(name, FROM_START)
    for _ in range(6):
        read = await read_one(reader, limit=5)
        for cursor in ("", read.cursor):
            again = await source.open(name, Start(next=read.next, cursor=cursor, incarnation=reader.incarnation))
            assert await read_all(again, limit=3) == lines[read.next - 1 :]
            assert await again.end() == 30
    with pytest.raises(SourceSetupError, match="has no line 99: it ends at line 29"):
        await source.open(name, Start(next=99, incarnation=reader.incarnation))


@pytest.mark.parametrize(
    "content", [b"other\n2\n3\n4\n", b"1\n2\n", b"1\n2\n3x\n4\n"], ids=["begins anew", "shorter", "rewritten"]
)
async def test_another_file_of_the_same_name_stops_the_pipeline(
    source: JsonLinesConnection, tmp_path: Path, content: bytes
) -> None:
    """A file that was written again is noticed by its first line, its size or the lines before the position."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n2\n3\n")
    reader = await source.open("a.jsonl", FROM_START)
    read = await read_one(reader)
    path.write_bytes(content)
    with pytest.raises(SourceReplacedError, match=r"file a.jsonl is another one"):
        await read_one(reader)
    with pytest.raises(SourceReplacedError, match=r"file a.jsonl is another one"):
        await source.open("a.jsonl", Start(next=read.next, cursor=read.cursor, incarnation=reader.incarnation))


async def test_a_compressed_file_is_read_while_it_is_written(source: JsonLinesConnection, tmp_path: Path) -> None:
    """A truncated compressed file gives its whole lines, and the rest when it is complete."""
    lines = [os.urandom(30).hex().encode() for _ in range(2_000)]
    content = gzip.compress(b"\n".join(lines))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content[: len(content) // 2])
    reader = await source.open("a.jsonl.gz", FROM_START)
    half = await read_all(reader)
    assert half == lines[: len(half)]
    assert len(half) > 500
    with path.open("ab") as file:
        file.write(content[len(content) // 2 :])
    assert half + await read_all(reader) == lines


async def test_damaged_compression_is_one_clear_error(source: JsonLinesConnection, tmp_path: Path) -> None:
    """Bytes that are not gzip any more stop the pipeline at the line before them."""
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"1\n2\n") + b"no gzip")
    reader = await source.open("a.jsonl.gz", FROM_START)
    with pytest.raises(SourceSetupError, match=r"a.jsonl.gz is damaged after byte 4 of its content"):
        await read_all(reader)


async def test_a_missing_file_and_a_folder_that_cannot_be_read_are_clear(
    source: JsonLinesConnection, tmp_path: Path
) -> None:
    """A missing file needs an operator; an error of the disk may pass."""
    with pytest.raises(SourceSetupError, match=r"there is no file a.jsonl"):
        await source.open("a.jsonl", FROM_START)
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    with pytest.raises((SourceUnreachableError, SourceSetupError)):
        await source.open("loop.jsonl", FROM_START)


async def test_a_rotated_file_that_was_cut_gives_its_last_part(source: JsonLinesConnection, tmp_path: Path) -> None:
    """Nobody completes the last line of a rotated file, so the reader delivers it instead of losing it."""
    source = JsonLinesConnection(JsonLinesSource("*.jsonl"), tmp_path)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": ')
    reader = await source.open("a.jsonl", FROM_START)
    assert await read_all(reader) == [b'{"n": 1}']
    path.rename(tmp_path / "a.jsonl.1")
    path.write_bytes(b'{"n": 3}\n')
    assert await read_all(reader) == [b'{"n": ', b'{"n": 3}']
    await source.close()


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("rotate"), st.just(0)),
        st.tuples(st.just("compress"), st.just(0)),
        st.tuples(st.just("read"), st.integers(1, 5)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=25,
)


class RotatedFile:
    """A file that a program writes and rotates, and the lines that it has written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.jsonl"
        self.lines: list[bytes] = []
        self._rotations = 0

    def append(self, number: int) -> None:
        """Write lines."""
        with self.path.open("ab") as file:
            for _ in range(number):
                self.lines.append(b'{"n": %d}' % len(self.lines))
                file.write(self.lines[-1] + b"\n")

    def rotate(self, _: int = 0) -> None:
        """Rename the file and those before it, and begin a new one."""
        for number in range(self._rotations, 0, -1):
            for ending in ("", ".gz"):
                old = self.path.with_name(f"a.jsonl.{number}{ending}")
                if old.exists():
                    old.rename(self.path.with_name(f"a.jsonl.{number + 1}{ending}"))
        self._rotations += 1
        rotated = self.path.rename(self.path.with_name("a.jsonl.1"))
        os.utime(rotated, (self._rotations, self._rotations))
        self.append(1)

    def compress(self, _: int = 0) -> None:
        """Compress the newest rotated file."""
        plain = self.path.with_name("a.jsonl.1")
        if plain.exists():
            compressed = self.path.with_name("a.jsonl.1.gz")
            compressed.write_bytes(gzip.compress(plain.read_bytes()))
            os.utime(compressed, (self._rotations, self._rotations))
            plain.unlink()


@given(ACTIONS)
def test_rotation_loses_and_repeats_no_line(actions: list[tuple[str, int]]) -> None:
    """However the file grows, is rotated and is compressed between reads and restarts, each line comes once."""
    with tempfile.TemporaryDirectory() as folder:
        file = RotatedFile(Path(folder))
        file.append(1)

        def walker() -> Walker:
            return Walker("a.jsonl", file.path, lambda path: path.suffix == ".jsonl")

        reading = walker()
        place = reading.first_place()
        incarnation, numbers, values = place.file, list[int](), list[bytes]()

        def read(limit: int) -> Place:
            lines, reached = reading.read(place, limit=limit, max_bytes=ENOUGH)
            numbers.extend(line.number for line in lines)
            values.extend(line.value for line in lines)
            return reached

        for name, argument in [*actions, *[("read", 100)] * (len(actions) + 2)]:
            if name == "read":
                place = read(argument)
            elif name == "reopen":
                reading.close()
                reading = walker()
                place = reading.place_of(place.number, place.cursor(), incarnation)
            else:
                getattr(file, name)(argument)
        assert values == file.lines
        assert numbers == list(range(1, len(values) + 1))
        counted = walker()
        assert counted.place_of(len(values), "", incarnation).number == len(values)
        reading.close()
        counted.close()
