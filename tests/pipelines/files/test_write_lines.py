"""The sink appends whole lines, whatever a killed process has left, and the source reads them as they were."""

from datetime import timedelta
from pathlib import Path

import pytest

from amends.aggregates.outbox import ID_HEADER
from amends.pipelines.definition.sources import JsonLinesSource
from amends.pipelines.files.sink import JsonLinesFiles
from amends.pipelines.files.source import JsonLinesConnection
from amends.pipelines.sink import Published, SinkSetupError
from amends.pipelines.source import FROM_START, RawMessage

MESSAGES = [
    Published("store/1", "stock", "sku-1", b'{"n": 1.50, "text": "\xc3\xa4"}', (("trace", "t1"),)),
    Published("store/2", "orders", "o-1", b"[1,\n2]"),
    Published("store/3", "stock", "sku-2", b"\xff\x00 bytes"),
]


async def read_back(folder: Path, name: str) -> list[RawMessage]:
    """Read the messages of a file."""
    source = JsonLinesConnection(JsonLinesSource("*.jsonl", envelope=True), folder)
    reader = await source.open(name, FROM_START)
    read = await reader.read(100, max_bytes=1_000_000, wait=timedelta(0))
    await source.close()
    return list(read.messages)


async def test_messages_come_back_with_id_key_headers_and_value(tmp_path: Path) -> None:
    """Each topic has a file; JSON stays JSON, and other bytes survive as well."""
    assert await JsonLinesFiles(tmp_path / "out").publish(MESSAGES) == ()
    stock = await read_back(tmp_path / "out", "stock.jsonl")
    assert stock == [
        RawMessage(1, b"sku-1", '{"n":1.5,"text":"ä"}'.encode(), ((ID_HEADER, b"store/1"), ("trace", b"t1"))),
        RawMessage(2, b"sku-2", b"\xff\x00 bytes", ((ID_HEADER, b"store/3"),)),
    ]
    (orders,) = await read_back(tmp_path / "out", "orders.jsonl")
    assert orders.value == b"[1,2]"


@pytest.mark.parametrize("kept", [-1, 30], ids=["only the end is missing", "a part is missing"])
async def test_a_part_of_a_line_is_repaired(tmp_path: Path, kept: int) -> None:
    """After a kill in the middle of a line, each later line is whole, and so are the earlier ones."""
    sink = JsonLinesFiles(tmp_path)
    await sink.publish(MESSAGES[:1])
    path = tmp_path / "stock.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:kept])
    await sink.publish([MESSAGES[2]])
    ids = [dict(message.headers)[ID_HEADER] for message in await read_back(tmp_path, "stock.jsonl")]
    assert ids == ([b"store/1"] * 2 if kept == -1 else [b"store/1"]) + [b"store/3"]


async def test_a_long_part_of_a_line_is_removed(tmp_path: Path) -> None:
    """The search for the end of the last whole line goes on over any distance."""
    path = tmp_path / "stock.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n": "' + b"x" * 300_000)
    await JsonLinesFiles(tmp_path).publish(MESSAGES[:1])
    assert path.read_bytes().startswith(b'{"n": 1}\n{"id":"store/1"')


@pytest.mark.parametrize("topic", ["", "a/b", "..", ".hidden", "x" * 201, "nul\0"])
async def test_a_topic_that_is_no_file_name_is_refused(tmp_path: Path, topic: str) -> None:
    """No message leaves the folder of the sink."""
    sink = JsonLinesFiles(tmp_path)
    assert "no name of a file" in (await sink.refusal(MESSAGES[0]._replace(topic=topic)) or "")
    assert await sink.refusal(MESSAGES[0]) is None


async def test_a_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    """An operator must repair the path, so a retry is of no use."""
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SinkSetupError, match=r"cannot write .*stock.jsonl"):
        await JsonLinesFiles(tmp_path / "out").publish(MESSAGES)


async def test_a_line_that_no_relay_has_written_has_no_id(tmp_path: Path) -> None:
    """Such a line reaches the pipeline as it is, and the pipeline refuses it."""
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 1}\n[]\nno json\n')
    assert await read_back(tmp_path, "a.jsonl") == [
        RawMessage(1, None, b'{"id": 1}'),
        RawMessage(2, None, b"[]"),
        RawMessage(3, None, b"no json"),
    ]
