"""The check finds each kind of damage in the tables of the pipelines and the outbox, and none in a sound store."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from journal_parts import Counter, id_of, open_prepared

from amends.aggregates.audit import FindingKind
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.id_pages import FULL
from amends.aggregates.intake import BatchRow, HeldKind, HeldMessage, Position, Token
from amends.aggregates.journal import Tx
from amends.aggregates.sql.check import check
from amends.aggregates.sql.check_intake import MOST_FINDINGS
from amends.aggregates.sql.journal import SqlJournal

Found = list[tuple[FindingKind, str]]


def fill(tx: Tx) -> None:
    """Write rows into each table."""
    intake = tx.intake
    last = Position(first=0, next=9, cursor="", incarnation="i", epoch=0, token=Token(1, 1), highest=9, batch=3)
    intake.begin("orders", "0", last)
    for number in range(1, 4):
        row = BatchRow(number=number, token=Token(1, 1), epoch=0, first=3 * number - 3, next=3 * number, holes=0)
        intake.add_batch("orders", "0", row)
    intake.hold(
        "orders",
        [HeldMessage(partition="0", position=4, kind=HeldKind.FAILED, key="k", id="m", reason="no", value=b"x")],
    )
    intake.remember("orders", 1, [id_of(number) for number in range(FULL + 50)])
    intake.seal_before("orders", 2)
    intake.remember("orders", 1, [id_of(number) for number in range(1_000, 1_010)])
    with tx.unit_of_work(cause="m", keep_sent_for=timedelta(days=1)) as work:
        work.send("stock", key="k", value={"a": 1})


@pytest.fixture
def journal(store_url: str) -> Iterator[SqlJournal]:
    """Yield a journal whose tables all have rows."""
    journal = open_prepared(store_url)
    journal.commit_blocking(fill)
    yield journal
    journal.close_blocking()


def found(journal: SqlJournal, damage: str = "") -> Found:
    """Return the findings of a check after a statement."""
    if damage:
        with journal.engine.begin() as connection:
            connection.exec_driver_sql(damage)
    codec = EventCodec()
    codec.register(Counter)
    return [(each.kind, each.subject) for each in check(journal.engine, codec)]


def test_a_sound_store_has_no_finding(journal: SqlJournal) -> None:
    """Rows, pages and counts that the journal has written agree."""
    assert found(journal) == []


POSITION = "position of pipeline orders, partition 0"
HELD = "held message 4 of pipeline orders, partition 0"
PAGE = "page of ids of pipeline orders, bucket 1"
BUCKET = "bucket 1 of pipeline orders"


@pytest.mark.parametrize(
    ("damage", "findings"),
    [
        ("UPDATE pipeline_positions SET next_position = 3", [(FindingKind.CHANGED, POSITION)]),
        ("DELETE FROM pipeline_positions", [(FindingKind.IMPOSSIBLE, POSITION)]),
        (
            "UPDATE pipeline_batches SET applied = 7 WHERE number = 2",
            [(FindingKind.CHANGED, "batch 2 of pipeline orders, partition 0")],
        ),
        (
            "DELETE FROM pipeline_batches WHERE number = 2",
            [(FindingKind.GAP, "batches of pipeline orders, partition 0")],
        ),
        ("DELETE FROM pipeline_batches WHERE number = 3", [(FindingKind.IMPOSSIBLE, POSITION)]),
        ("UPDATE pipeline_held SET value = NULL", [(FindingKind.CHANGED, HELD)]),
        ("UPDATE outbox_messages SET topic = 'other'", [(FindingKind.CHANGED, "message 1 of the outbox")]),
        ("DELETE FROM pipeline_ids WHERE bucket = 1", [(FindingKind.GAP, BUCKET)]),
        (
            "UPDATE pipeline_ids SET bucket = 7",
            [(FindingKind.GAP, BUCKET), (FindingKind.CHANGED, "bucket 7 of pipeline orders")],
        ),
        ("UPDATE pipeline_id_pages SET filter = ids", [(FindingKind.CHANGED, PAGE)] * 2),
        (
            "DELETE FROM pipeline_id_pages WHERE lower > (SELECT min(lower) FROM pipeline_id_pages)",
            [(FindingKind.GAP, BUCKET)],
        ),
    ],
)
def test_damage_is_found(journal: SqlJournal, damage: str, findings: Found) -> None:
    """The finding has the kind of the damage and the name of its row, and nothing else is found."""
    assert found(journal, damage) == findings


def test_a_table_that_is_damaged_throughout_is_a_page_of_output(journal: SqlJournal) -> None:
    """A check of many changed rows ends after a fixed number of findings of the table."""

    def unit(tx: Tx) -> None:
        with tx.unit_of_work() as work:
            for number in range(MOST_FINDINGS + 10):
                work.send("stock", key="k", value=number)

    journal.commit_blocking(unit)
    assert len(found(journal, "UPDATE outbox_messages SET key = 'x'")) == MOST_FINDINGS
