"""A relay publishes each message of the outbox at least once, in order and under one id, and forgets it then."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest
from journal_parts import open_prepared

from amends.aggregates.intake import HeldKind, Token
from amends.aggregates.journal import Tx
from amends.aggregates.sql.journal import SqlJournal
from amends.pipelines.definition.relays import Relay
from amends.pipelines.definition.sinks import JsonLinesSink
from amends.pipelines.runtime.held_by_relays import retry_held
from amends.pipelines.runtime.outbox_feed import OUTBOX
from amends.pipelines.runtime.partition_work import FencedError
from amends.pipelines.runtime.relay import RelayLoop
from amends.pipelines.runtime.slice_end import EndKind, SliceEnd
from amends.pipelines.sink import Published, Refusal, SinkSetupError, SinkUnreachableError

RELAY = Relay("stock", JsonLinesSink("out"), topics=["stock", "orders"])


class MemorySink:
    """A destination in memory, which fails as often as it is asked to.

    Args:
        refused: Values that it never takes.
        late: Whether it refuses them only when they are published.
    """

    def __init__(self, refused: Sequence[bytes] = (), *, late: bool = False) -> None:
        self.refused = set(refused)
        self.late = late
        self.messages: list[Published] = []
        self.failures: list[Exception] = []
        self.arrived = asyncio.Event()

    async def refusal(self, message: Published) -> str | None:
        """Refuse the values, unless it refuses late."""
        return "the value is refused" if message.value in self.refused and not self.late else None

    async def publish(self, messages: Sequence[Published]) -> Sequence[Refusal]:
        """Store the messages; raise an error after the first if a failure is due."""
        if self.failures:
            self.messages += messages[:1]
            raise self.failures.pop()
        self.messages += [message for message in messages if message.value not in self.refused]
        self.arrived.set()
        return [Refusal(index, "refused late") for index, m in enumerate(messages) if m.value in self.refused]

    async def close(self) -> None:
        """Do nothing."""

    @property
    def values(self) -> list[bytes]:
        """The values that it has taken."""
        return [message.value for message in self.messages]


@pytest.fixture
def journal(store_url: str) -> Iterator[SqlJournal]:
    """Open an empty store."""
    opened = open_prepared(store_url)
    yield opened
    asyncio.run(opened.close())


async def send(journal: SqlJournal, first: int, after: int, topic: str = "stock", key: str = "k") -> None:
    """Send numbers through the outbox."""

    def unit(tx: Tx) -> None:
        with tx.unit_of_work() as work:
            for number in range(first, after):
                work.send(topic, key=key, value=number)

    await journal.commit(unit)


async def relay_all(journal: SqlJournal, sink: MemorySink, token: Token, relay: Relay = RELAY) -> SliceEnd:
    """Publish everything that the outbox has."""
    return await RelayLoop(journal, relay, sink).run(OUTBOX, token, stop=asyncio.Event(), until_end=True)


def numbers(first: int, after: int) -> list[bytes]:
    """Return the values of messages."""
    return [b"%d" % number for number in range(first, after)]


async def test_messages_leave_in_the_order_of_their_commits(journal: SqlJournal) -> None:
    """More than one batch goes out in order; the outbox then has only the topics of other relays."""
    await send(journal, 0, 1_500)
    await send(journal, 0, 3, topic="other")
    await send(journal, 1_500, 2_100)
    sink = MemorySink()
    end = await relay_all(journal, sink, Token(1, 1))
    assert (end.kind, end.messages) == (EndKind.END, 2_100)
    assert sink.values == numbers(0, 2_100)
    assert len({message.id for message in sink.messages}) == 2_100
    assert [row.message.topic for row in journal.outbox_blocking()] == ["other"] * 3


async def test_a_message_that_is_published_again_has_the_same_id(journal: SqlJournal) -> None:
    """After a failure in the middle of a batch, the relay repeats the batch under the ids of the first time."""
    await send(journal, 0, 3)
    sink = MemorySink()
    sink.failures = [SinkUnreachableError("away"), SinkUnreachableError("away")]
    await relay_all(journal, sink, Token(1, 1))
    assert sink.values == [b"0", b"0", b"0", b"1", b"2"]
    assert len({message.id for message in sink.messages}) == 3
    assert sink.messages[0].id.startswith(journal.store_id)


@pytest.mark.parametrize("late", [False, True])
async def test_a_refused_message_holds_up_its_key_only(journal: SqlJournal, *, late: bool) -> None:
    """It is set aside whole, with the later ones of its key, and goes out in order when it is retried."""
    await send(journal, 0, 2, key="bad")
    await send(journal, 2, 4, key="good")
    sink = MemorySink([b"0"], late=late)
    await relay_all(journal, sink, Token(1, 1))
    await send(journal, 4, 5, key="bad")
    await send(journal, 5, 6, key="good")
    await relay_all(journal, sink, Token(2, 1))
    held = {message.value or b"": message.kind for message in journal.intake.held("stock")}
    followers = {b"4": HeldKind.FOLLOWER} if late else {b"1": HeldKind.FOLLOWER, b"4": HeldKind.FOLLOWER}
    assert held == {b"0": HeldKind.FAILED, **followers}
    assert sink.values == ([b"1"] if late else []) + [b"2", b"3", b"5"]
    assert journal.outbox_blocking() == []
    assert [message.value for message in await retry_held(journal, RELAY, sink, "stock/bad")] == sorted(held)
    sink.refused, sink.messages = set(), []
    assert await retry_held(journal, RELAY, sink, "stock/bad") == ()
    assert sink.values == sorted(held)
    assert {message.key for message in sink.messages} == {"bad"}
    assert journal.intake.held_counts("stock") == {} or not any(journal.intake.held_counts("stock").values())


async def test_an_owner_that_was_replaced_is_fenced(journal: SqlJournal) -> None:
    """The older owner may have published, but it neither moves the position nor deletes."""
    await send(journal, 0, 3)
    later = RelayLoop(journal, RELAY, MemorySink())

    class Overtaken(MemorySink):
        async def publish(self, messages: Sequence[Published]) -> Sequence[Refusal]:
            await later._claim(OUTBOX, Token(2, 1), first=True)
            return await super().publish(messages)

    with pytest.raises(FencedError):
        await relay_all(journal, Overtaken(), Token(1, 1))
    assert len(journal.outbox_blocking()) == 3
    position = journal.intake.position("stock", OUTBOX)
    assert position is not None
    assert position.token == Token(2, 1)
    with pytest.raises(FencedError):
        await relay_all(journal, MemorySink(), Token(1, 9))


async def test_a_missing_destination_stops_the_relay(journal: SqlJournal) -> None:
    """Only an operator can help, so the loop ends with the reason and loses nothing."""
    await send(journal, 0, 3)
    sink = MemorySink()
    sink.failures = [SinkSetupError("no stream stores the subject 'stock'")]
    with pytest.raises(SinkSetupError, match="no stream stores"):
        await relay_all(journal, sink, Token(1, 1))
    assert len(journal.outbox_blocking()) == 3


async def test_an_idle_relay_publishes_later_messages_and_stops_when_asked(journal: SqlJournal) -> None:
    """It publishes a message that comes later, and ends at the request."""
    sink, stop = MemorySink(), asyncio.Event()
    loop = RelayLoop(journal, Relay("all", JsonLinesSink("out")), sink)
    running = asyncio.create_task(loop.run(OUTBOX, Token(1, 1), stop=stop))
    await send(journal, 0, 1, topic="anything")
    await sink.arrived.wait()
    stop.set()
    assert (await running).kind is EndKind.STOPPED
    assert sink.values == [b"0"]


async def test_a_changed_message_is_set_aside_and_named(journal: SqlJournal, caplog: pytest.LogCaptureFixture) -> None:
    """Messages of its key wait behind it, all others go out, and a retry does not publish it."""
    await send(journal, 0, 2, key="bad")
    await send(journal, 2, 4, key="good")
    first = journal.outbox_blocking()[0]
    with journal.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE outbox_messages SET cause = 'changed' WHERE id = {first.id}")  # noqa: S608 - a number
    sink = MemorySink()
    await relay_all(journal, sink, Token(1, 1))
    assert sink.values == numbers(2, 4)
    assert [(held.kind, held.key) for held in journal.intake.held("stock")] == [
        (HeldKind.UNDECODABLE, "stock/bad"),
        (HeldKind.FOLLOWER, "stock/bad"),
    ]
    assert f"{journal.store_id}/{first.id}" in caplog.text
    assert "its checksum does not match" in caplog.text
    assert len(await retry_held(journal, RELAY, sink, "stock/bad")) == 2
    assert sink.values == numbers(2, 4)


async def test_a_topic_that_a_relay_gets_later_begins_at_its_oldest_message(journal: SqlJournal) -> None:
    """The messages that were sent before go out first, and those of the other topics do not go out again."""
    await send(journal, 0, 1_100, topic="late")
    await send(journal, 0, 2)
    one, both = (Relay("stock", JsonLinesSink("out"), topics=topics) for topics in (["stock"], ["stock", "late"]))
    sink = MemorySink()
    await relay_all(journal, sink, Token(1, 1), one)
    await send(journal, 2, 3)
    await send(journal, 1_100, 1_101, topic="late")
    await relay_all(journal, sink, Token(2, 1), both)
    assert [m.value for m in sink.messages if m.topic == "late"] == numbers(0, 1_101)
    assert [m.value for m in sink.messages if m.topic == "stock"] == numbers(0, 3)
    assert journal.outbox_blocking() == []
    everything = Relay("stock", JsonLinesSink("out"))
    await send(journal, 5, 6, topic="other")
    await send(journal, 3, 4)
    await relay_all(journal, sink, Token(3, 1), both)
    await relay_all(journal, sink, Token(4, 1), everything)
    assert [m.value for m in sink.messages if m.topic in {"stock", "other"}] == [*numbers(0, 4), b"5"]
    rows = journal.intake.batches("stock", OUTBOX)
    assert sum(row.next - row.first - row.holes for row in rows) == sum(row.counts.applied for row in rows) == 1_106
