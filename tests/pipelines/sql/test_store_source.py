"""A pipeline reads the outbox of another store in order, under the ids that relays would use."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from journal_parts import open_prepared

from amends.aggregates.journal import Tx
from amends.aggregates.outbox import ID_HEADER
from amends.aggregates.sql.journal import SqlJournal
from amends.pipelines.definition.sources import StoreSource
from amends.pipelines.source import FROM_START, SourceReplacedError, SourceSetupError, SourceUnreachableError, Start
from amends.pipelines.sql.outbox_source import StoreConnection

NOW = timedelta(0)
HERE = Path()


@pytest.fixture
def other(store_url: str) -> Iterator[SqlJournal]:
    """Open the store that sends."""
    journal = open_prepared(store_url)
    yield journal
    asyncio.run(journal.close())


async def send(journal: SqlJournal, *numbers: int, topic: str = "stock") -> None:
    """Send numbers through the outbox."""

    def unit(tx: Tx) -> None:
        with tx.unit_of_work() as work:
            for number in numbers:
                work.send(topic, key=f"k{number}", value=number, headers=[("trace", "t")])

    await journal.commit(unit)


async def test_messages_of_a_topic_come_in_order_with_id_and_key(other: SqlJournal, store_url: str) -> None:
    """Messages of other topics are holes, and reading goes on from a position."""
    await send(other, 1, 2)
    await send(other, 9, topic="other")
    await send(other, 3)
    source = StoreConnection(StoreSource(store_url, "stock"), HERE)
    assert await source.partitions() == ["stock"]
    reader = await source.open("stock", FROM_START)
    assert await reader.end() == 4
    read = await reader.read(2, max_bytes=1_000, wait=NOW)
    assert [(message.value, message.key) for message in read.messages] == [(b"1", b"k1"), (b"2", b"k2")]
    first = dict(read.messages[0].headers)
    assert first == {ID_HEADER: f"{other.store_id}/{read.messages[0].position}".encode(), "trace": b"t"}
    again = await source.open("stock", Start(next=read.next, incarnation=reader.incarnation))
    (last,) = (await again.read(10, max_bytes=1, wait=NOW)).messages
    assert last.value == b"3"
    assert (await again.read(10, max_bytes=1, wait=NOW)).messages == []
    await source.close()


async def test_a_read_keeps_its_bound_of_bytes(other: SqlJournal, store_url: str) -> None:
    """At least one message comes, and no more than the bound."""
    await send(other, 111, 222, 333)
    source = StoreConnection(StoreSource(store_url, "stock"), HERE)
    reader = await source.open("stock", FROM_START)
    sizes = [len((await reader.read(10, max_bytes=bound, wait=NOW)).messages) for bound in (1, 6)]
    assert sizes == [1, 2]
    await source.close()


async def test_another_store_stops_the_pipeline(other: SqlJournal, store_url: str) -> None:
    """The identity of the store is the incarnation."""
    source = StoreConnection(StoreSource(store_url, "stock"), HERE)
    with pytest.raises(SourceReplacedError, match=other.store_id):
        await source.open("stock", Start(next=1, incarnation="another"))
    with pytest.raises(SourceSetupError, match="no partition 'orders'"):
        await source.open("orders", FROM_START)
    await source.close()


async def test_a_missing_store_is_not_created(tmp_path: Path) -> None:
    """A wrong path is one clear line, and so is an address that does not answer."""
    file = tmp_path / "events.db"
    with pytest.raises(SourceSetupError, match="there is no such file"):
        await StoreConnection(StoreSource(f"sqlite:///{file}", "stock"), HERE).partitions()
    assert not file.exists()
    with pytest.raises(SourceUnreachableError, match="does not answer"):
        await StoreConnection(StoreSource("postgresql://u@127.0.0.1:1/none", "stock"), HERE).partitions()


async def test_messages_stay_until_every_pipeline_has_acknowledged_them(other: SqlJournal, store_url: str) -> None:
    """The slowest pipeline decides; one that only looks holds nothing back, and close stores the last position."""
    await send(other, 1, 2, 3)
    source = StoreSource(store_url, "stock")
    slow, fast, looking = (StoreConnection(source, HERE, reader=name) for name in ("s/slow", "s/fast", None))
    readers = [await each.open("stock", FROM_START) for each in (slow, fast, looking)]
    reads = [await each.read(2, max_bytes=1_000, wait=NOW) for each in readers]
    await readers[1].acknowledge(reads[1].next)
    await readers[2].acknowledge(reads[2].next)
    assert other.outbox_size_blocking() == 3
    await readers[0].acknowledge(reads[0].next)
    assert other.outbox_size_blocking() == 1
    last = await readers[0].read(2, max_bytes=1_000, wait=NOW)
    await readers[0].acknowledge(last.next)
    again = await readers[1].read(2, max_bytes=1_000, wait=NOW)
    await readers[1].acknowledge(again.next)
    for each in (slow, fast, looking):
        await each.close()
    assert other.outbox_blocking() == []


async def test_a_changed_message_is_a_fault_of_that_message(other: SqlJournal, store_url: str) -> None:
    """The others can be read."""
    await send(other, 1, 2)
    first = other.outbox_blocking()[0]
    with other.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE outbox_messages SET cause = 'changed' WHERE id = {first.id}")  # noqa: S608 - a number
    reader = await StoreConnection(StoreSource(store_url, "stock"), HERE).open("stock", FROM_START)
    read = await reader.read(10, max_bytes=1_000, wait=NOW)
    assert ["its checksum does not match" in message.fault for message in read.messages] == [True, False]


async def test_a_relative_path_starts_from_the_folder(tmp_path: Path) -> None:
    """The current directory does not matter."""
    open_prepared(f"sqlite:///{tmp_path}/shop.db").close_blocking()
    source = StoreConnection(StoreSource("sqlite:///shop.db", "stock"), tmp_path)
    assert await source.partitions() == ["stock"]
    await source.close()
