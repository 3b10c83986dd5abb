"""A transaction step: aggregates and own tables, all or nothing, and every value read is still true at the commit."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest
from journal_parts import PLAN, Counter, Stock, accept, common, open_prepared, started, step
from sqlalchemy import Column, Integer, MetaData, String, Table, delete, exc, insert, select, text, update

from amends.aggregates.errors import InputError, JournalError, NotFoundError, UnitOfWorkError
from amends.aggregates.journal import StepWork, Tx
from amends.aggregates.run.facts import StepAttemptFailed
from amends.aggregates.sql.journal import SqlJournal
from amends.aggregates.sql.rows import read_snapshot_and_tail
from amends.aggregates.sql.schema import saga_index
from amends.aggregates.sql.transaction import SNAPSHOT_EVERY

SHIFTS = Table("shifts", MetaData(), Column("doctor", String(20), primary_key=True), Column("on_call", Integer))


@pytest.fixture
async def journal(store_url: str) -> AsyncIterator[SqlJournal]:
    """Yield a journal on an empty store that also has a table of the user's."""
    journal = open_prepared(store_url)
    SHIFTS.metadata.create_all(journal.engine)
    yield journal
    await journal.close()


async def rows(journal: SqlJournal) -> list[tuple[Any, ...]]:
    """Read the user's table."""
    with journal.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(select(SHIFTS).order_by(SHIFTS.c.doctor))]


async def test_what_a_step_did_is_saved_when_it_succeeds(journal: SqlJournal) -> None:
    """Events of a new and of a loaded aggregate are in its stream, in order, after the step."""
    await journal.commit(step(lambda uow: uow.add(Stock(id="sku", on_hand=5)).reserve(2, "a")))
    await journal.commit(step(lambda uow: uow.get(Stock, "sku").reserve(1, "b")))
    found = await journal.load(Stock, "sku")
    assert found is not None
    assert (found.on_hand, found.reserved, found.version) == (2, {"a": 2, "b": 1}, 3)
    assert [event.topic for event in await journal.events("Stock/sku")] == [
        "Stock.Registered",
        "Stock.Reserved",
        "Stock.Reserved",
    ]


async def test_missing_and_doubled_aggregates_are_refused(journal: SqlJournal) -> None:
    """The errors of `get` without an aggregate, and of `add` with an existing one, name it; `find` returns `None`."""
    with pytest.raises(NotFoundError, match="there is no Stock 'sku'"):
        await journal.commit(step(lambda uow: uow.get(Stock, "sku")))
    assert await journal.commit(step(lambda uow: uow.find(Stock, "sku"))) is None
    await journal.commit(step(lambda uow: uow.add(Stock(id="sku", on_hand=5))))
    with pytest.raises(InputError, match="Stock 'sku' exists already"):
        await journal.commit(step(lambda uow: uow.add(Stock(id="sku", on_hand=6))))

    def twice(uow: StepWork) -> None:
        uow.add(Stock(id="other", on_hand=1))
        uow.add(Stock(id="other", on_hand=2))

    with pytest.raises(InputError, match="Stock 'other' exists already"):
        await journal.commit(step(twice))
    assert await journal.load(Stock, "other") is None


async def test_new_aggregates_are_new_whoever_made_the_old_ones(store_url: str) -> None:
    """A process that has never seen an aggregate cannot add it again, alone or among others in one batch."""
    one, two = open_prepared(store_url), open_prepared(store_url)
    try:
        await one.commit(step(lambda uow: uow.add(Stock(id="old", on_hand=5))))
        add_old = step(lambda uow: uow.add(Stock(id="old", on_hand=6)))
        add_new = step(lambda uow: uow.add(Stock(id="new", on_hand=7)))
        use_old = _reserve("a", 1, "old")
        answers = await asyncio.gather(
            *(two.commit(unit) for unit in (add_old, add_new, use_old, add_new)), return_exceptions=True
        )
        assert [type(answer).__name__ for answer in answers] == ["InputError", "Stock", "NoneType", "InputError"]
        found = await one.load(Stock, "old")
    finally:
        await one.close()
        await two.close()
    assert found is not None
    assert (found.on_hand, found.version) == (4, 2)


async def test_the_same_aggregate_is_the_same_object_within_a_step(journal: SqlJournal) -> None:
    """A step that asks twice works on one object, so that none of its changes is overwritten."""

    def work(uow: StepWork) -> bool:
        new = uow.add(Counter(id="c"))
        return uow.get(Counter, "c") is new and uow.find(Counter, "c") is new

    assert await journal.commit(step(work))


async def test_a_step_that_raises_leaves_nothing_and_the_unit_goes_on(journal: SqlJournal) -> None:
    """Aggregates and own tables are as before, and the failure can be recorded in the same unit."""
    await journal.commit(step(lambda uow: uow.add(Stock(id="sku", on_hand=5))))

    def work(uow: StepWork) -> None:
        uow.execute(insert(SHIFTS).values(doctor="ann", on_call=1))
        uow.add(Counter(id="c"))
        uow.get(Stock, "sku").reserve(7, "a")

    def unit(tx: Tx) -> None:
        record = tx.accept(PLAN, started(tx, "r"))
        with pytest.raises(ValueError, match="only 5 left"):
            step(work)(tx)
        failed = StepAttemptFailed(
            **common(tx, "r", 2),
            node="reserve",
            generation=0,
            attempt=1,
            error_type="ValueError",
            error="no",
            retry_at_ms=2_000,
        )
        tx.append(record, [failed])

    await journal.commit(unit)
    assert [fact.kind for fact in await journal.facts("r")] == ["SagaStarted", "StepAttemptFailed"]
    assert await rows(journal) == []
    assert await journal.load(Counter, "c") is None
    assert await journal.commit(step(lambda uow: (uow.get(Stock, "sku").on_hand, uow.get(Stock, "sku").reserved))) == (
        5,
        {},
    )


async def test_a_spoiled_aggregate_is_seen_by_no_other_unit_of_its_batch(journal: SqlJournal) -> None:
    """Among concurrent steps on one aggregate, those that raise after changing it do not disturb the others."""
    await journal.commit(step(lambda uow: uow.add(Stock(id="sku", on_hand=10))))
    orders = [asyncio.ensure_future(journal.commit(_reserve(f"o{n}", 3 if n % 2 else 100))) for n in range(8)]
    answers = await asyncio.gather(*orders, return_exceptions=True)
    assert [isinstance(answer, ValueError) for answer in answers] == [True, False] * 3 + [True, True]
    found = await journal.load(Stock, "sku")
    assert found is not None
    assert (found.on_hand, found.reserved) == (1, {"o1": 3, "o3": 3, "o5": 3})


def _reserve(order: str, quantity: int, sku: str = "sku") -> Any:  # noqa: ANN401 - a unit
    return step(lambda uow: uow.get(Stock, sku).reserve(quantity, order))


async def test_a_unit_that_fails_after_its_step_takes_the_step_back(journal: SqlJournal) -> None:
    """The aggregate that the failed unit's step had saved is loaded again for the next unit."""
    await journal.commit(step(lambda uow: uow.add(Counter(id="c"))))

    def unit(tx: Tx) -> None:
        with tx.unit_of_work() as uow:
            uow.get(Counter, "c").add_one()
        msg = "after the step"
        raise RuntimeError(msg)

    count = step(lambda uow: uow.get(Counter, "c").add_one())
    answers = await asyncio.gather(
        journal.commit(count), journal.commit(unit), journal.commit(count), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [type(None), RuntimeError, type(None)]
    found = await journal.load(Counter, "c")
    assert found is not None
    assert found.count == 2


async def test_own_tables_are_all_or_nothing_with_the_step(journal: SqlJournal) -> None:
    """The user's rows are committed with the step; the result of a statement comes back as tuples."""

    def work(uow: StepWork) -> Any:  # noqa: ANN401 - rows
        uow.execute(insert(SHIFTS).values(doctor="ann", on_call=1), expect_rows=1)
        return uow.execute(select(SHIFTS), expect_rows=1)

    assert await journal.commit(step(work)) == [("ann", 1)]
    with pytest.raises(InputError, match="matched 0 rows instead of 1"):
        await journal.commit(
            step(
                lambda uow: (
                    uow.execute(delete(SHIFTS)),
                    uow.execute(update(SHIFTS).values(on_call=2).where(SHIFTS.c.doctor == "bob"), expect_rows=1),
                )
            )
        )
    assert await rows(journal) == [("ann", 1)]


async def test_a_swallowed_sql_error_still_fails_the_step(journal: SqlJournal) -> None:
    """A step cannot go on after a failed statement, on either database, and nothing of it stays."""

    def work(uow: StepWork) -> None:
        uow.execute(insert(SHIFTS).values(doctor="ann", on_call=1))
        with pytest.raises(exc.IntegrityError):
            uow.execute(insert(SHIFTS).values(doctor="ann", on_call=2))

    with pytest.raises(UnitOfWorkError, match="a statement of this step failed"):
        await journal.commit(step(work))
    assert await rows(journal) == []


async def test_steps_keep_their_hands_off_the_journal(journal: SqlJournal) -> None:
    """Statements that write the journal's own tables, and text that is no statement, are refused."""
    with pytest.raises(InputError, match="table 'saga_index' belongs to the journal"):
        await journal.commit(step(lambda uow: uow.execute(delete(saga_index))))
    with pytest.raises(InputError, match=r"not str; use text\(\)"):
        await journal.commit(step(lambda uow: uow.execute("DELETE FROM shifts")))


async def test_write_skew_is_impossible(journal: SqlJournal) -> None:
    """Of two doctors who both want to leave because the other one is there, exactly one leaves."""
    await journal.commit(
        step(lambda uow: uow.execute(insert(SHIFTS).values([("ann", 1), ("bob", 1)])))  # the classic example
    )

    def leave(doctor: str) -> Any:  # noqa: ANN401 - a unit
        def work(uow: StepWork) -> None:
            if len(uow.execute(select(SHIFTS).where(SHIFTS.c.on_call == 1))) < 2:
                msg = "somebody has to stay"
                raise ValueError(msg)
            uow.execute(update(SHIFTS).values(on_call=0).where(SHIFTS.c.doctor == doctor), expect_rows=1)

        return step(work)

    other = open_prepared(str(journal.engine.url.render_as_string(hide_password=False)))
    try:
        answers = await asyncio.gather(journal.commit(leave("ann")), other.commit(leave("bob")), return_exceptions=True)
    finally:
        await other.close()
    assert sorted(str(answer) for answer in answers) == ["None", "somebody has to stay"]
    assert sum(row[1] for row in await rows(journal)) == 1


async def test_write_skew_between_aggregates_is_impossible(store_url: str) -> None:
    """Two processes that each read one aggregate and write the other one do not both succeed by accident."""
    one, two = open_prepared(store_url), open_prepared(store_url)

    def setting(uow: StepWork) -> None:
        uow.add(Counter(id="ann"))
        uow.add(Counter(id="bob"))

    def leave(me: str, other: str) -> Any:  # noqa: ANN401 - a unit
        def work(uow: StepWork) -> None:
            if uow.get(Counter, other).count:
                msg = "somebody has to stay"
                raise ValueError(msg)
            uow.get(Counter, me).add_one()

        return step(work)

    try:
        await one.commit(step(setting))
        # Both remember both aggregates as they were.
        for journal in (one, two):
            await journal.commit(step(lambda uow: (uow.get(Counter, "ann"), uow.get(Counter, "bob"))))
        answers = await asyncio.gather(
            one.commit(leave("ann", "bob")), two.commit(leave("bob", "ann")), return_exceptions=True
        )
    finally:
        await one.close()
        await two.close()
    assert sorted(str(answer) for answer in answers) == ["None", "somebody has to stay"]


def _on_stock(change: Callable[[Stock], None]) -> Callable[[StepWork], None]:
    return lambda uow: change(uow.get(Stock, "sku"))


async def test_what_cannot_be_read_back_is_refused_at_the_door(journal: SqlJournal) -> None:
    """NaN, lone surrogates and oversized values do not enter the journal, and the aggregate is as before."""
    await journal.commit(step(lambda uow: uow.add(Stock(id="sku", on_hand=5))))
    spoils: list[Callable[[Stock], None]] = [
        lambda stock: stock.price(math.nan),
        lambda stock: stock.reserve(1, "\ud800"),
        lambda stock: stock.reserve(1, "x" * 20_000_000),
    ]
    for spoil in spoils:
        with pytest.raises(InputError):
            await journal.commit(step(_on_stock(spoil)))
    await journal.commit(step(lambda uow: uow.get(Stock, "sku").price(Decimal("1.50"))))
    found = await journal.load(Stock, "sku")
    assert found is not None
    assert (found.amount, found.on_hand, found.version) == (Decimal("1.50"), 5, 2)


async def test_a_unit_of_work_ends_with_its_step(journal: SqlJournal) -> None:
    """The unit of work refuses every call after the step, and a second step inside the first."""
    kept: list[StepWork] = []
    await journal.commit(step(kept.append))
    with pytest.raises(UnitOfWorkError, match="ended with its step"):
        kept[0].find(Stock, "sku")

    def nested(tx: Tx) -> None:
        with tx.unit_of_work(), tx.unit_of_work():
            pass

    with pytest.raises(JournalError, match="a step is running in this unit"):
        await journal.commit(nested)


async def test_loading_reads_a_snapshot_and_few_events(journal: SqlJournal) -> None:
    """A cold load of a stream of any length reads fewer events than there are between two snapshots."""

    def count(uow: StepWork) -> None:
        counter = uow.find(Counter, "c") or uow.add(Counter(id="c"))
        for _ in range(70):
            counter.add_one()

    for _ in range(20):
        await journal.commit(step(count))
    with journal.engine.connect() as connection:
        snapshot, tail = read_snapshot_and_tail(connection, "Counter/c")
    assert snapshot is not None
    assert snapshot.originator_version + len(tail) == 1401
    assert len(tail) < SNAPSHOT_EVERY
    found = await journal.load(Counter, "c")
    assert found is not None
    assert (found.count, found.version) == (1400, 1401)


async def test_a_snapshot_that_is_of_no_use_costs_only_time(journal: SqlJournal) -> None:
    """When the class has changed since, the aggregate is folded from its events."""

    def count(uow: StepWork) -> None:
        counter = uow.add(Counter(id="c"))
        for _ in range(SNAPSHOT_EVERY):
            counter.add_one()

    await journal.commit(step(count))
    with journal.engine.begin() as connection:
        assert connection.execute(text("UPDATE snapshots SET topic = 'of other code'")).rowcount == 1
    found = await journal.load(Counter, "c")
    assert found is not None
    assert found.count == SNAPSHOT_EVERY


async def test_a_step_that_fails_takes_its_snapshot_back(journal: SqlJournal) -> None:
    """A snapshot of events that were rolled back is not stored."""

    def unit(tx: Tx) -> None:
        with tx.unit_of_work() as uow:
            counter = uow.add(Counter(id="c"))
            for _ in range(SNAPSHOT_EVERY):
                counter.add_one()
        msg = "after the step"
        raise RuntimeError(msg)

    results = await asyncio.gather(journal.commit(unit), journal.commit(accept("r")), return_exceptions=True)
    assert isinstance(results[0], RuntimeError)
    with journal.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM snapshots")).scalar() == 0
        assert connection.execute(text("SELECT count(*) FROM stored_events")).scalar() == 1
