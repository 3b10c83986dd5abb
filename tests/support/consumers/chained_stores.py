"""Two chained stores: processes that publish the outbox of one, or take its messages into the other, and get killed."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import forked  # noqa: F401 - sets the modules that a forked process has imported already
from pipeline_parts import EFFECTS, Counted, record_effect, sku_of
from sqlalchemy import select
from typing_extensions import override

from amends.aggregates.intake import Token
from amends.aggregates.journal import StepWork
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.pipelines.definition.bounds import Bounds
from amends.pipelines.definition.pipeline import Header, Pipeline
from amends.pipelines.definition.relays import Relay
from amends.pipelines.definition.sinks import JsonLinesSink
from amends.pipelines.definition.sources import JsonLinesSource, Source, StoreSource
from amends.pipelines.files.sink import JsonLinesFiles
from amends.pipelines.files.source import JsonLinesConnection
from amends.pipelines.runtime.outbox_feed import OUTBOX
from amends.pipelines.runtime.partition_loop import PartitionLoop
from amends.pipelines.runtime.relay import RelayLoop
from amends.pipelines.sink import Published, Refusal
from amends.pipelines.source import PartitionReader, SourceConnection, Start
from amends.pipelines.sql.outbox_source import OutboxReader, StoreConnection
from amends.sagas.definition.registry import Registry

__all__ = ["TOPIC", "effects_of", "killed_relay", "killed_taker", "relay_all", "send_on", "take_all"]

TOPIC = "counted"
_CONTEXT = multiprocessing.get_context("forkserver")


def send_on(counted: Counted, uow: StepWork) -> None:
    """Handle a message of the first store: send it on to the second one."""
    record_effect(counted, uow)
    uow.send(TOPIC, key=counted.sku, value=counted)


def effects_of(journal: SqlJournal) -> list[str]:
    """Return the id of the message of every effect in a store."""
    with journal.engine.connect() as connection:
        return list(connection.execute(select(EFFECTS.c.message)).scalars())


# ---- the relay


class _FatalSink(JsonLinesFiles):
    """A sink whose process is killed when the lines are on the disk, and before the relay has recorded that."""

    @override
    async def publish(self, messages: Sequence[Published]) -> Sequence[Refusal]:
        await super().publish(messages)
        os.kill(os.getpid(), signal.SIGKILL)
        return ()


def relay_all(url: str, folder: Path, token: Token, *, fatal: bool = False) -> None:
    """Publish the outbox of a store as JSON lines, to its end."""

    async def run() -> None:
        journal = open_journal(url)
        sink = (_FatalSink if fatal else JsonLinesFiles)(folder)
        relay = Relay("out", JsonLinesSink(str(folder)), topics=[TOPIC])
        await RelayLoop(journal, relay, sink).run(OUTBOX, token, stop=asyncio.Event(), until_end=True)
        await sink.close()
        await journal.close()

    asyncio.run(run())


def killed_relay(url: str, folder: Path, token: Token) -> None:
    """Publish the outbox in a process that is killed between publishing and recording."""
    _until_killed(relay_all, url, folder, token)


# ---- the pipeline of the second store


class _FatalReader(OutboxReader):
    """A reader whose process is killed after the commit of the second store, and before the first one knows it."""

    @override
    async def acknowledge(self, position: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class _FatalStore(StoreConnection):
    """A store with such a reader."""

    @override
    async def open(self, partition: str, start: Start) -> PartitionReader:
        reader = await super().open(partition, start)
        reader.__class__ = _FatalReader
        return reader


def take_all(url: str, source: Source, folder: Path, token: Token, *, fatal: bool = False) -> None:
    """Apply all messages of a source to a store; the id that the first store gave them decides.

    Args:
        url: The store.
        source: The lines of a relay, or the first store.
        folder: The folder to which the paths of the source are relative.
        token: The claim.
        fatal: Whether the process is killed after its first commit.
    """

    async def run() -> None:
        journal = open_journal(url)
        connection: SourceConnection
        if isinstance(source, StoreSource):
            kind = _FatalStore if fatal else StoreConnection
            connection = kind(source, folder, reader=f"{journal.store_id}/counts")
        else:
            assert isinstance(source, JsonLinesSource)
            connection = JsonLinesConnection(source, folder)
        pipeline = Pipeline("counts", source, Counted, id=Header("amends-id"), key=sku_of, bounds=Bounds(batch=100))
        pipeline.handles(record_effect)
        loop = PartitionLoop(journal, Registry([]), pipeline, connection)
        for partition in await connection.partitions():
            await loop.run(partition, token, stop=asyncio.Event(), seconds=None, until_end=True)
        await connection.close()
        await journal.close()

    asyncio.run(run())


def killed_taker(url: str, source: Source, folder: Path, token: Token) -> None:
    """Apply messages in a process that is killed between its commit and the acknowledgement."""
    _until_killed(take_all, url, source, folder, token)


def _until_killed(function: Any, *arguments: object) -> None:  # noqa: ANN401 - either of the two above
    process = _CONTEXT.Process(target=function, args=arguments, kwargs={"fatal": True})
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
