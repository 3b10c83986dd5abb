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
    source = StoreConnection(StoreSource(store_url, "stock"))
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
    source = StoreConnection(StoreSource(store_url, "stock"))
    reader = await source.open("stock", FROM_START)
    sizes = [len((await reader.read(10, max_bytes=bound, wait=NOW)).messages) for bound in (1, 6)]
    assert sizes == [1, 2]
    await source.close()


async def test_another_store_stops_the_pipeline(other: SqlJournal, store_url: str) -> None:
    """The identity of the store is the incarnation."""
    source = StoreConnection(StoreSource(store_url, "stock"))
    with pytest.raises(SourceReplacedError, match=other.store_id):
        await source.open("stock", Start(next=1, incarnation="another"))
    with pytest.raises(SourceSetupError, match="no partition 'orders'"):
        await source.open("orders", FROM_START)
    await source.close()


async def test_a_missing_store_is_not_created(tmp_path: Path) -> None:
    """A wrong path is one clear line, and so is an address that does not answer."""
    file = tmp_path / "events.db"
    with pytest.raises(SourceSetupError, match="there is no such file"):
        await StoreConnection(StoreSource(f"sqlite:///{file}", "stock")).partitions()
    assert not file.exists()
    with pytest.raises(SourceUnreachableError, match="does not answer"):
        await StoreConnection(StoreSource("postgresql://u@127.0.0.1:1/none", "stock")).partitions()
