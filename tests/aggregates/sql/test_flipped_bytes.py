"""The check finds a flipped byte anywhere in a stored row, and no read returns a changed event."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from journal_parts import Counter, accept, common, complete, open_prepared, plan_of, step, succeed
from property_parts import try_out
from sqlalchemy import Connection, Table, exc, literal_column, select, update
from stores import POSTGRESQL_IN_SOAK

from amends.aggregates.errors import AmendsError
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.journal import RunQuery, Tx
from amends.aggregates.run.facts import StepRejected
from amends.aggregates.run.record import RunRecord
from amends.aggregates.sql import transaction
from amends.aggregates.sql.check import check
from amends.aggregates.sql.engine import writing
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.aggregates.sql.schema import plans, run_keys, saga_index, snapshots, stored_events

PLAN = plan_of("reserve", "confirm")
TABLES = (stored_events, snapshots, plans, saga_index, run_keys)
# The database assigns this id when the row is written, so no checksum can cover it.
UNCOVERED = stored_events.c.id
CODEC = EventCodec([Counter])


def refuse(run_id: str) -> Callable[[Tx], RunRecord]:
    """Create a unit that records a refusal, which is the run's error."""

    def unit(tx: Tx) -> RunRecord:
        record = tx.record(run_id)
        assert record is not None
        fields = common(tx, run_id, record.state.position + 1)
        return tx.append(record, [StepRejected(**fields, node="confirm", generation=0, attempt=1, reason="sold out")])

    return unit


@pytest.fixture
def journal(store_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlJournal]:
    """Yield the journal of a store with open and closed runs, with keys and errors, and an aggregate with snapshots."""
    monkeypatch.setattr(transaction, "SNAPSHOT_EVERY", 3)
    opened = open_prepared(store_url)
    for run_id in ("order-1", "ä-2", "order-3"):
        for unit in (accept(run_id, PLAN, order_id=run_id, name="Jürgen"), succeed(run_id, "reserve")):
            opened.commit_blocking(unit)
    for unit in (succeed("order-1", "confirm"), complete("order-1"), refuse("order-3")):
        opened.commit_blocking(unit)
    opened.commit_blocking(step(lambda uow: uow.add(Counter(id="c"))))
    for _ in range(7):
        opened.commit_blocking(step(lambda uow: uow.get(Counter, "c").add_one()))
    yield opened
    opened.close_blocking()


def flipped(connection: Connection, value: object, draw: Callable[[Any], Any]) -> object:
    """Flip one bit of a value; on PostgreSQL, which refuses invalid text, change to another valid text."""
    if isinstance(value, int):
        return value ^ (1 << draw(st.integers(0, 20)))
    raw = bytearray(value.encode() if isinstance(value, str) else bytes(value))  # type: ignore[call-overload]  # bytes
    assume(raw)
    raw[draw(st.integers(0, len(raw) - 1))] ^= 1 << draw(st.integers(0, 7))
    if not isinstance(value, str):
        return bytes(raw)
    assume(b"\0" not in raw)
    if connection.dialect.name == "sqlite":
        return literal_column(f"CAST(x'{raw.hex()}' AS TEXT)")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        assume(False)
        raise


def flip(journal: SqlJournal, table: Table, column: str, draw: Callable[[Any], Any]) -> Callable[[], None]:
    """Flip one bit in a column of some row, and return a function that restores it."""
    with journal.engine.connect() as connection:
        rows = connection.execute(select(table).order_by(*table.primary_key.columns)).mappings().all()
    row = draw(st.sampled_from(range(len(rows))))
    assume(rows[row][column] is not None)

    def rewrite(change: Callable[[Connection], object]) -> None:
        with writing(journal.engine) as connection:
            connection.execute(table.delete())
            connection.execute(table.insert(), [dict(each) for each in rows])
            key = [part == rows[row][part.name] for part in table.primary_key.columns]
            connection.execute(update(table).where(*key).values({column: change(connection)}))

    try:
        rewrite(lambda connection: flipped(connection, rows[row][column], draw))
    except exc.IntegrityError:
        assume(False)
    return lambda: rewrite(lambda _: rows[row][column])


def reads(journal: SqlJournal) -> dict[str, object]:
    """Read everything readable, and leave out the reads that raise."""
    found: dict[str, object] = {}
    for run_id in ("order-1", "ä-2", "order-3"):
        try:
            found |= {fact.id: fact for fact in journal.facts_blocking(run_id)}
        except AmendsError:
            continue
    after = 0
    while True:
        try:
            page = journal.notifications_blocking(after)
        except AmendsError as error:
            after = getattr(error, "notification_id", None) or after + 1
            continue
        if not page:
            return found
        found |= {f"{each.originator_id}:{each.originator_version}": each for each in page}
        after = page[-1].id


@POSTGRESQL_IN_SOAK
@pytest.mark.parametrize("table", TABLES, ids=[table.name for table in TABLES])
def test_every_flipped_bit_is_found_and_no_changed_event_is_read(journal: SqlJournal, table: Table) -> None:
    """After a flip of any bit of a stored column, `db check` finds it, and every value read is as it was written."""
    before = reads(journal)
    assert list(check(journal.engine, CODEC)) == []

    @settings(max_examples=try_out(8), suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
    @given(st.data())
    def flipping(data: st.DataObject) -> None:
        columns = [column.name for column in table.columns if column is not UNCOVERED]
        restore = flip(journal, table, data.draw(st.sampled_from(columns)), data.draw)
        other = open_journal(journal.engine.url.render_as_string(hide_password=False), aggregates=[Counter])
        try:
            assert list(check(other.engine, CODEC)) != []
            for name, read in reads(other).items():
                assert before[name] == read
            # Other readers can still read the rest.
            other.runs_blocking(RunQuery())
            try:
                counter = other.load_blocking(Counter, "c")
            except AmendsError:
                assert table is stored_events
            else:
                # The last event may be one of another stream now.
                assert counter is None or counter.count in {7, 6} or table is stored_events
        finally:
            other.close_blocking()
            restore()

    flipping()
