"""A process that takes the messages of a stream of NATS, and the judgement of its store by the stream's own ids."""

import asyncio
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

import forked  # noqa: F401 - sets the modules that a forked process has imported already
from bounds import HANG_S
from brokers.nats import NatsServer
from nats.js.api import ConsumerConfig, DeliverPolicy
from pipeline_parts import NAME, PLACE_ORDER, Bench, counting, starting

from amends.aggregates.errors import UnreachableError
from amends.aggregates.intake import Position, Token
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.pipelines.definition.bounds import Bounds
from amends.pipelines.definition.pipeline import Pipeline
from amends.pipelines.definition.sources import NatsSource
from amends.pipelines.intake.audit import Comparison, compare_ids
from amends.pipelines.nats.source import NatsConnection
from amends.pipelines.runtime.partition_loop import PartitionLoop
from amends.sagas.definition.registry import Registry

__all__ = ["STREAM", "ConsumerProcess", "Kind", "Stream"]

STREAM = "COUNTS"
Kind = Literal["handles", "starts"]
_CONTEXT = multiprocessing.get_context("forkserver")
_BATCH = 25
_LOOK_S = 0.02


class ConsumerProcess(NamedTuple):
    """A process that takes messages, with every line that it has printed so far."""

    process: Any
    said: list[str]
    listening: threading.Thread

    @property
    def pid(self) -> int:
        """The process id."""
        found = self.process.pid
        assert isinstance(found, int)
        return found

    def kill(self) -> None:
        """Kill the process as `kill -9` does, and read the rest of its output."""
        self.process.kill()
        self.process.join()
        self.listening.join()

    async def until_said(self, text: str) -> None:
        """Wait until a line contains a text."""
        await _until(lambda: any(text in line for line in self.said) or self.process.exitcode is not None)
        assert any(text in line for line in self.said), self.said


class Stream:
    """A stream of NATS, a store, and the processes that take the messages into the store.

    Args:
        server: The server of NATS.
        url: URL of the store.
        kind: The work of the pipeline.
    """

    def __init__(self, server: NatsServer, url: str, kind: Kind) -> None:
        self.server = server
        self.url = url
        self.kind: Kind = kind
        self.journal: SqlJournal = open_journal(url)
        self.bench = Bench(self.journal, pipeline_of(kind))

    @asynccontextmanager
    async def consumer(self) -> AsyncIterator[ConsumerProcess]:
        """Run a process that takes messages; kill it at the end if it still runs."""
        consumer = _start(self.url, self.server.url, self.kind)
        try:
            yield consumer
        finally:
            consumer.kill()

    def position(self) -> Position | None:
        """Return the present position."""
        return self.journal.intake.position(NAME, STREAM)

    async def until_taken(self, last: int) -> None:
        """Wait until the pipeline has dealt with every position up to the last one."""

        def taken() -> bool:
            position = self.position()
            return position is not None and position.next > last

        await _until(taken)

    async def ids(self) -> Sequence[str]:
        """Return the id of every message that the stream of NATS has, in order."""
        client = await self.server.client()
        stream = client.jetstream()
        count = (await stream.stream_info(STREAM)).state.messages
        config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
        subscription = await stream.subscribe("", stream=STREAM, ordered_consumer=True, config=config)
        found = [json.loads((await subscription.next_msg(timeout=HANG_S)).data)["id"] for _ in range(count)]
        await client.close()
        return found

    async def compare(self) -> Comparison:
        """Compare the stream's own list of ids with the effects in the store; held messages need no effect."""
        held = {each.id for each in self.journal.intake.held(NAME, limit=100_000)}
        return compare_ids(await self.ids(), self.bench.effects(), excused=held)


def pipeline_of(kind: Kind) -> Pipeline[Any]:
    """Return the pipeline that all processes of a stream run."""
    bounds = Bounds(batch=_BATCH)
    return counting(bounds=bounds) if kind == "handles" else starting(bounds=bounds)


async def _until(met: Callable[[], object]) -> None:
    async with asyncio.timeout(HANG_S):
        while not met():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(_LOOK_S)


def _start(url: str, server: str, kind: Kind) -> ConsumerProcess:
    reader, writer = _CONTEXT.Pipe(duplex=False)
    with reader, writer:
        process = _CONTEXT.Process(target=_be_a_consumer, args=(url, server, kind, writer))
        process.start()
        output = os.fdopen(os.dup(reader.fileno()))
    said: list[str] = []

    def listen() -> None:
        with output:
            said.extend(line.rstrip() for line in iter(output.readline, ""))

    listening = threading.Thread(target=listen, daemon=True)
    listening.start()
    return ConsumerProcess(process, said, listening)


def _be_a_consumer(url: str, server: str, kind: Kind, output: Connection) -> None:
    with output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(message)s", force=True)
    asyncio.run(_consume(url, server, kind))


async def _consume(url: str, server: str, kind: Kind) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    journal = open_journal(url)
    source = NatsConnection(NatsSource(STREAM, servers=server))
    loop = PartitionLoop(journal, Registry([PLACE_ORDER]), pipeline_of(kind), source)
    while True:
        try:
            position = await asyncio.to_thread(journal.intake.position, NAME, STREAM)
            break
        except UnreachableError:
            await asyncio.sleep(_LOOK_S)
    token = Token(1 if position is None else position.token.slice + 1, 1)
    end = await loop.run(STREAM, token, stop=stop)
    print(f"ended: {end.kind} {end.reason}")  # noqa: T201 - the test reads it
    await source.close()
    await journal.close()
