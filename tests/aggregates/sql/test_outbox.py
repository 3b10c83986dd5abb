"""The outbox: messages that steps send, in the order of commits, and the deletion of those that were published."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from journal_parts import Counter, open_prepared, step
from pydantic import BaseModel

from amends.aggregates.errors import InputError, JournalError, RefusedError, UnitOfWorkError
from amends.aggregates.journal import StepWork, Tx
from amends.aggregates.outbox import ALL_TOPICS, ID_HEADER, OutboxReader, SentMessage
from amends.aggregates.sql.journal import SqlJournal


class Changed(BaseModel):
    """A message."""

    sku: str
    quantity: int


@pytest.fixture
def journal(store_url: str) -> Iterator[SqlJournal]:
    """Yield a journal on an empty store."""
    journal = open_prepared(store_url)
    yield journal
    journal.close_blocking()


def send(journal: SqlJournal, *values: Any, topic: str = "stock", key: str = "k", **options: Any) -> None:  # noqa: ANN401
    """Send messages in one step."""

    def unit(tx: Tx) -> None:
        with tx.unit_of_work(**options) as work:
            for value in values:
                work.send(topic, key=key, value=value)

    journal.commit_blocking(unit)


def values(journal: SqlJournal, **options: Any) -> list[bytes]:  # noqa: ANN401 - those of the method
    """Read the contents of the outbox."""
    return [each.message.value for each in journal.outbox_blocking(**options)]


def test_messages_come_in_the_order_of_the_commits(journal: SqlJournal) -> None:
    """A model and a value are JSON, bytes stay as they are, and each id is greater than the one before."""
    send(journal, Changed(sku="a", quantity=2), {"b": [1, None]}, b"\x00\xff", "text")
    send(journal, 5)
    found = journal.outbox_blocking()
    assert [each.message.value for each in found] == [
        b'{"quantity":2,"sku":"a"}',
        b'{"b":[1,null]}',
        b"\x00\xff",
        b'"text"',
        b"5",
    ]
    ids = [each.id for each in found]
    assert ids == sorted(set(ids))
    assert values(journal, after=ids[2]) == [b'"text"', b"5"]
    assert values(journal, limit=1) == [b'{"quantity":2,"sku":"a"}']


def test_a_message_keeps_its_fields(journal: SqlJournal) -> None:
    """Topic, key, headers and cause come back as they were sent."""

    def unit(tx: Tx) -> None:
        with tx.unit_of_work(cause="run-1") as work:
            work.send("stock.changed", key="", value=1, headers=[("a", "1"), ("a", "é")])

    journal.commit_blocking(unit)
    (found,) = journal.outbox_blocking()
    assert found.message == SentMessage(
        topic="stock.changed", key="", value=b"1", headers=(("a", "1"), ("a", "é")), cause="run-1"
    )
    assert found.recorded_at_ms > 0
    assert found.published_id("s") == f"s/{found.id}"


def send_and_fail(tx: Tx) -> None:
    """Run a step that sends a message and fails."""
    with tx.unit_of_work() as work:
        work.send("stock", key="k", value="lost")
        raise ValueError("no")


def test_a_step_that_raises_sends_nothing(journal: SqlJournal) -> None:
    """Its messages are gone with its changes, and those of the unit's other steps stay."""

    def unit(tx: Tx) -> None:
        with tx.unit_of_work() as work:
            work.send("stock", key="k", value="first")
        with pytest.raises(ValueError, match="no"):
            send_and_fail(tx)
        with tx.unit_of_work() as work:
            work.send("stock", key="k", value="last")

    journal.commit_blocking(unit)
    assert values(journal) == [b'"first"', b'"last"']


def test_messages_and_changes_are_one_commit(journal: SqlJournal) -> None:
    """A unit that fails after its step has sent keeps neither."""

    def unit(tx: Tx) -> None:
        with tx.unit_of_work() as work:
            work.add(Counter(id="c"))
            work.send("stock", key="k", value=1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        journal.commit_blocking(unit)
    assert values(journal) == []
    assert journal.load_blocking(Counter, "c") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"topic": ""}, "topic has 0 characters"),
        ({"topic": "t" * 201}, "topic has 201 characters"),
        ({"topic": 5}, "topic is int; use text"),
        ({"key": "a\0"}, "key 'a.*NUL"),
        ({"key": "\ud800"}, "lone surrogate"),
        ({"value": {1}}, "is set, which JSON cannot represent"),
        ({"value": float("nan")}, "nan is not JSON"),
        ({"value": b"x" * 1_000_001}, "1000001 bytes, the limit is 1000000"),
        ({"value": "x" * 1_000_001}, "the limit is 1000000"),
        ({"headers": [(ID_HEADER.upper(), "1")]}, "carries the id that the relay sets"),
        ({"headers": [("a", 1)]}, "header 'a' is int; use text"),
    ],
)
def test_a_message_that_cannot_be_stored_is_refused(sqlite_url: str, arguments: Any, message: str) -> None:  # noqa: ANN401
    """The message names the argument and the remedy, and the step has sent nothing."""
    journal = open_prepared(sqlite_url)
    given = {"topic": "stock", "key": "k", "value": 1, **arguments}
    with pytest.raises(InputError, match=message):
        journal.commit_blocking(step(lambda uow: uow.send(given.pop("topic"), **given)))
    assert journal.outbox_blocking() == []
    journal.close_blocking()


def test_a_step_that_has_ended_sends_nothing(journal: SqlJournal) -> None:
    """A unit of work that somebody kept refuses."""
    kept: list[StepWork] = []
    journal.commit_blocking(step(kept.append))
    with pytest.raises(UnitOfWorkError):
        kept[0].send("stock", key="k", value=1)


def passed(journal: SqlJournal, reader: str, **positions: int) -> int:
    """Move a reader, and return the number of messages that the store deletes."""
    deleted: int = journal.commit_blocking(lambda tx: tx.outbox.passed(reader, positions))
    return deleted


def test_messages_go_when_every_reader_of_their_topic_is_past_them(journal: SqlJournal) -> None:
    """The slowest reader decides, other topics stay, and no number comes again."""
    send(journal, 1, 2, 3)
    send(journal, "other", topic="prices")
    ids = [each.id for each in journal.outbox_blocking()]
    assert journal.outbox_size_blocking() == 4
    assert journal.outbox_size_blocking(after=ids[0], topics=["stock"]) == 2
    assert journal.outbox_topics_blocking() == {"prices": 1, "stock": 3}
    assert passed(journal, "fast", stock=ids[0]) == 0
    assert passed(journal, "slow", stock=ids[1]) == 0
    assert passed(journal, "fast", stock=ids[2]) == 1
    assert passed(journal, "slow", stock=ids[3]) == 1
    assert values(journal) == [b"3", b'"other"']
    assert passed(journal, "fast", stock=ids[3]) == 1
    assert values(journal, topics=["prices"]) == [b'"other"']
    assert journal.outbox_readers_blocking() == [
        OutboxReader("fast", "stock", ids[3]),
        OutboxReader("slow", "stock", ids[3]),
    ]
    assert passed(journal, "fast", prices=ids[3] + 1) == 1
    send(journal, "new")
    assert journal.outbox_blocking()[0].id > ids[-1]


def test_a_reader_of_all_topics_also_holds_those_that_others_read(journal: SqlJournal) -> None:
    """Topics that nobody names follow it alone."""
    send(journal, 1)
    send(journal, 2, topic="prices")
    end = journal.outbox_blocking()[-1].id + 1
    passed(journal, "all", **{ALL_TOPICS: 1})
    assert passed(journal, "one", stock=end) == 0
    assert passed(journal, "all", **{ALL_TOPICS: end}) == 2


def test_a_reader_that_is_removed_holds_nothing_back(journal: SqlJournal) -> None:
    """What the others have passed goes; without a reader everything stays until somebody discards it."""
    send(journal, 1, 2)
    first = journal.outbox_blocking()[0].id
    passed(journal, "gone", stock=1)
    passed(journal, "left", stock=first + 1)
    with pytest.raises(RefusedError, match="gone, left"):
        journal.commit_blocking(lambda tx: tx.outbox.discard("stock", last=first + 1))
    assert journal.commit_blocking(lambda tx: tx.outbox.remove_reader("gone")) == 1
    assert journal.commit_blocking(lambda tx: tx.outbox.remove_reader("left")) == 0
    assert values(journal) == [b"2"]
    assert journal.commit_blocking(lambda tx: tx.outbox.discard("stock", last=first + 1)) == 1


def test_kept_messages_stay_until_their_time_is_over(journal: SqlJournal) -> None:
    """The outbox deletes them then, as soon as readers have passed them."""
    send(journal, "expired", keep_sent_for=timedelta(milliseconds=-1))
    send(journal, "kept", keep_sent_for=timedelta(days=1))
    send(journal, "expired and not passed", keep_sent_for=timedelta(milliseconds=-1))
    ids = [each.id for each in journal.outbox_blocking()]
    assert passed(journal, "relay", stock=ids[0]) == 0
    assert passed(journal, "relay", stock=ids[2]) == 1
    assert values(journal) == [b'"kept"', b'"expired and not passed"']


def test_a_changed_reader_deletes_nothing(journal: SqlJournal) -> None:
    """A position that somebody moved in the store could delete messages that nobody has published."""
    send(journal, 1)
    passed(journal, "relay", stock=1)
    passed(journal, "other", stock=100)
    with journal.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE outbox_readers SET next_position = 99 WHERE reader = 'relay'")
    with pytest.raises(JournalError, match="reader 'relay' of the outbox was changed"):
        passed(journal, "other", stock=101)
    assert values(journal) == [b"1"]


def test_kept_messages_are_sent_again_under_their_first_ids(journal: SqlJournal) -> None:
    """A repetition has a new place in the outbox and the id of the first one, however often it comes."""
    send(journal, 1, 2, cause="m1", keep_sent_for=timedelta(days=1))
    send(journal, 3, cause="m2", keep_sent_for=timedelta(days=1))
    send(journal, 4, cause="m1")
    first = journal.outbox_blocking()
    assert journal.commit_blocking(lambda tx: tx.outbox.send_again("m1")) == 2
    assert journal.commit_blocking(lambda tx: tx.outbox.send_again("m1")) == 2
    assert journal.commit_blocking(lambda tx: tx.outbox.send_again("m3")) == 0
    again = journal.outbox_blocking(after=first[-1].id)
    assert [each.message for each in again] == [first[0].message, first[1].message] * 2
    assert [each.published_id("s") for each in again] == [f"s/{first[0].id}", f"s/{first[1].id}"] * 2


def test_a_changed_message_is_marked(journal: SqlJournal) -> None:
    """A reader gets it with the others and can name it; it is never sent again."""
    send(journal, 1, 2, 3, cause="m", keep_sent_for=timedelta(days=1))
    ids = [each.id for each in journal.outbox_blocking()]
    with journal.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE outbox_messages SET headers = 'x' WHERE id = {ids[1]}")  # noqa: S608
    found = journal.outbox_blocking()
    assert [(each.id, each.intact) for each in found] == [(ids[0], True), (ids[1], False), (ids[2], True)]
    assert journal.commit_blocking(lambda tx: tx.outbox.send_again("m")) == 2
