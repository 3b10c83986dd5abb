"""Faults of processes, servers and stores while messages come: each one takes effect once.

The judge is the stream's own list of ids against the effects in the store; no counter and no position of the pipeline
plays a part.
"""

import asyncio
import json
import random
import resource
from collections.abc import Sequence

import psycopg
import pytest
from brokers.nats import NatsServer
from consumers.consumer_process import STREAM, Kind, Stream
from journal_parts import prepare
from outage_parts import own_server
from pipeline_parts import NAME, create_effects, message

from amends.aggregates.intake import HeldKind
from amends.aggregates.journal import Tx
from amends.pipelines.control.decide import change_mode, declare, moved, pause, resume, seek
from amends.pipelines.control.facts import PipelineFact
from amends.pipelines.control.state import PipelineState, control_of
from amends.pipelines.intake.modes import Mode

pytestmark = pytest.mark.soak
MESSAGES = 3_000


def messages(count: int, *, twice: int = 0, keys: int = 10) -> list[bytes]:
    """Return messages, of which each one with a multiple of `twice` comes a second time, thirty messages later."""
    found: list[bytes] = []
    for number in range(count):
        found.append(message(number, keys=keys))
        if twice and number >= 30 and number % twice == 0:
            found.append(message(number - 30, keys=keys))
    return found


async def stream_of(server: NatsServer, url: str, kind: Kind) -> Stream:
    """Return an empty stream and an empty store."""
    stream = Stream(server, prepare(url), kind)
    create_effects(stream.journal)
    await server.create(STREAM)
    return stream


async def check(stream: Stream, sent: Sequence[bytes], *, held: int = 0) -> None:
    """Check that each message of the stream took effect once, and that the account of the pipeline agrees."""
    ids = await stream.ids()
    assert list(ids) == [json.loads(each)["id"] for each in sent]
    found = await stream.compare()
    assert (found.missing, found.doubled, found.unknown) == ([], [], [])
    audit = stream.bench.audit(STREAM)
    assert audit.findings == ()
    assert (audit.counts.applied, audit.counts.set_aside) == (len(set(ids)) - held, held)
    await stream.journal.close()


async def decide(stream: Stream, fact: PipelineFact) -> None:
    """Record a decision about the pipeline."""

    def unit(tx: Tx) -> None:
        with tx.unit_of_work() as uow:
            control_of(uow, NAME).record(fact)

    await stream.journal.commit(unit)


@pytest.mark.parametrize("kind", ["handles", "starts"])
async def test_kills_at_random_moments(nats_server: NatsServer, store_url: str, kind: Kind) -> None:
    """Five kills, and 5 % of the messages come twice: no message is lost, and none takes effect twice."""
    stream = await stream_of(nats_server, store_url, kind)
    sent = messages(MESSAGES, twice=20)
    await nats_server.publish(STREAM, sent)
    for moment in sorted(random.Random(kind).sample(range(1, MESSAGES), 5)):  # noqa: S311 - no secret
        async with stream.consumer():
            await stream.until_taken(moment)
    async with stream.consumer():
        await stream.until_taken(len(sent))
    await check(stream, sent)


@pytest.mark.parametrize("kind", ["handles", "starts"])
async def test_the_broker_is_killed_and_restarted(nats_server: NatsServer, store_url: str, kind: Kind) -> None:
    """The consumer goes on at its position when the broker is back, and each message takes effect once."""
    stream = await stream_of(nats_server, store_url, kind)
    sent = messages(MESSAGES, twice=20)
    await nats_server.publish(STREAM, sent[:2_000])
    async with stream.consumer() as consumer:
        await stream.until_taken(500)
        nats_server.kill()
        await consumer.until_said("waits: ")
        await nats_server.start()
        await nats_server.publish(STREAM, sent[2_000:])
        await stream.until_taken(len(sent))
    await check(stream, sent)


@pytest.mark.parametrize("kind", ["handles", "starts"])
async def test_the_store_is_away_for_a_while(nats_server: NatsServer, kind: Kind) -> None:
    """A stopped PostgreSQL stops the intake and loses nothing; the consumer goes on when the store answers."""
    with own_server() as server:
        stream = await stream_of(nats_server, server.url, kind)
        sent = messages(MESSAGES, twice=20)
        await nats_server.publish(STREAM, sent[:2_000])
        async with stream.consumer() as consumer:
            await stream.until_taken(500)
            await asyncio.to_thread(server.stop)
            await consumer.until_said("waits: ")
            await nats_server.publish(STREAM, sent[2_000:])
            await asyncio.sleep(5)  # the length of the outage
            await asyncio.to_thread(server.start)
            await stream.until_taken(len(sent))
        await check(stream, sent)


@pytest.mark.parametrize("kind", ["handles", "starts"])
async def test_messages_that_are_read_again_have_no_second_effect(
    nats_server: NatsServer, store_url: str, kind: Kind
) -> None:
    """An operator moves the position back to the start: all messages are read again, and none takes effect again."""
    stream = await stream_of(nats_server, store_url, kind)
    sent = messages(1_000)
    await nats_server.publish(STREAM, sent[:600])
    await declare_pipeline(stream, kind)
    async with stream.consumer() as consumer:
        await stream.until_taken(600)
        await decide(stream, pause(await state_of(stream), NAME, 1, actor="ann", reason="repair"))
        await nats_server.publish(STREAM, sent[600:])
        await consumer.until_said("ended: paused")
    state = await state_of(stream)

    def unit(tx: Tx) -> None:
        position = tx.intake.position(NAME, STREAM)
        assert position is not None
        fact = seek(state, NAME, STREAM, position, 2, to=1, actor="ann", reason="repair")
        tx.intake.move(NAME, STREAM, expected=position, to=moved(position, fact))
        with tx.unit_of_work() as uow:
            control_of(uow, NAME).record(fact)

    await stream.journal.commit(unit)
    await decide(stream, resume(await state_of(stream), NAME, 3, actor="ann"))
    async with stream.consumer():
        await stream.until_taken(len(sent))
    audit = stream.bench.audit(STREAM)
    assert audit.counts.replayed >= 600
    await check(stream, sent)


@pytest.mark.parametrize("kind", ["handles", "starts"])
async def test_a_poisoned_key_stops_itself_only(nats_server: NatsServer, store_url: str, kind: Kind) -> None:
    """Of 1,000 keys one has a bad message: its three messages are held, and all others take effect."""
    stream = await stream_of(nats_server, store_url, kind)
    sent = messages(MESSAGES, keys=1_000)
    sent[7] = message(7, keys=1_000, quantity=-1)
    await nats_server.publish(STREAM, sent)
    async with stream.consumer():
        await stream.until_taken(1_500)
    async with stream.consumer():
        await stream.until_taken(len(sent))
    held = stream.journal.intake.held(NAME)
    assert [(each.id, each.key, each.kind) for each in held] == [
        ("m-7", "sku-7", HeldKind.FAILED),
        ("m-1007", "sku-7", HeldKind.FOLLOWER),
        ("m-2007", "sku-7", HeldKind.FOLLOWER),
    ]
    await check(stream, sent, held=3)


@pytest.mark.parametrize("kind", ["handles", "starts"])
async def test_a_full_disk_stops_the_intake(nats_server: NatsServer, sqlite_url: str, kind: Kind) -> None:
    """The consumer cannot write any more: it takes nothing, reports that, and goes on when there is room."""
    stream = await stream_of(nats_server, sqlite_url, kind)
    sent = messages(MESSAGES, twice=20)
    await nats_server.publish(STREAM, sent)
    async with stream.consumer() as consumer:
        await stream.until_taken(500)
        limits = resource.prlimit(consumer.pid, resource.RLIMIT_FSIZE)
        # No file of this process may grow: the same error as on a disk without room.
        resource.prlimit(consumer.pid, resource.RLIMIT_FSIZE, (100_000, limits[1]))
        await consumer.until_said("waits: ")
        resource.prlimit(consumer.pid, resource.RLIMIT_FSIZE, limits)
        await stream.until_taken(len(sent))
    await check(stream, sent)


@pytest.mark.parametrize("kind", ["handles", "starts"])
async def test_a_store_that_refuses_writes_stops_the_intake(
    nats_server: NatsServer, postgres_server: str, postgres_url: str, kind: Kind
) -> None:
    """PostgreSQL is read-only for a while: the consumer takes nothing, reports that, and goes on afterwards."""
    stream = await stream_of(nats_server, postgres_url, kind)
    sent = messages(MESSAGES, twice=20)
    await nats_server.publish(STREAM, sent)
    async with stream.consumer() as consumer:
        await stream.until_taken(500)
        set_read_only(postgres_server, postgres_url, "on")
        await consumer.until_said("waits: ")
        set_read_only(postgres_server, postgres_url, "off")
        await stream.until_taken(len(sent))
    await check(stream, sent)


async def test_the_mode_is_switched_under_load(nats_server: NatsServer, store_url: str) -> None:
    """Only duplicates within the range of the mode `observed` take effect again, and the account has each of them."""
    stream = await stream_of(nats_server, store_url, "handles")
    sent = messages(MESSAGES, twice=20)
    await declare_pipeline(stream, "handles")
    edges: list[int] = []
    async with stream.consumer():
        for first, mode in ((0, Mode.OBSERVED), (1_000, Mode.EXACTLY_ONCE)):
            await nats_server.publish(STREAM, sent[first : first + 1_000])
            await stream.until_taken(first + 700)
            edges.append(await switch(stream, mode))
        await nats_server.publish(STREAM, sent[2_000:])
        await stream.until_taken(len(sent))
    found = await stream.compare()
    ids = await stream.ids()
    expected = [each for place, each in enumerate(ids, 1) if edges[0] <= place < edges[1] and each in ids[: place - 1]]
    assert expected
    assert (found.missing, sorted(found.doubled), found.unknown) == ([], sorted(expected), [])
    audit = stream.bench.audit(STREAM)
    assert (audit.findings, audit.counts.applied_again) == ((), len(expected))
    await stream.journal.close()


async def switch(stream: Stream, mode: Mode) -> int:
    """Change the mode, and return the position from which it holds."""

    def unit(tx: Tx) -> int:
        positions = {name: each.next for name, each in tx.intake.positions(NAME).items()}
        with tx.unit_of_work() as uow:
            control = control_of(uow, NAME)
            control.record(change_mode(control.state, NAME, mode, 1, actor="ann", reason="trial", positions=positions))
        return positions[STREAM]

    return await stream.journal.commit(unit)


async def state_of(stream: Stream) -> PipelineState:
    """Return the present state of the pipeline."""

    def unit(tx: Tx) -> PipelineState:
        with tx.unit_of_work() as uow:
            return control_of(uow, NAME).state

    return await stream.journal.commit(unit)


async def declare_pipeline(stream: Stream, kind: Kind) -> None:
    """Declare the pipeline, as a worker does."""
    fact = declare(PipelineState(), NAME, {"work": {"kind": kind}}, 0, actor="worker")
    assert fact is not None
    await decide(stream, fact)


def set_read_only(server: str, url: str, value: str) -> None:
    """Set whether a database refuses writes, and end its connections."""
    name = url.partition("?")[0].rpartition("/")[2]
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}".encode())
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
