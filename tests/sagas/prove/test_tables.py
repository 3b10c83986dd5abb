"""Own tables in the search: statements run for real, and each world has its own state."""

import pytest
from runs.proved_shop import ORDER, PlaceOrder
from sqlalchemy import CheckConstraint, Column, Integer, MetaData, String, Table, insert, select, text, update

from amends import Call, Done, InputError, Saga, UnitOfWork, effect, pivot, transaction
from amends.sagas.prove.end import End
from amends.sagas.prove.runtime.explore import explore, replay
from amends.sagas.prove.sql.tables import create_tables

METADATA = MetaData()
STOCK = Table(
    "stock",
    METADATA,
    Column("sku", String, primary_key=True),
    Column("free", Integer, CheckConstraint("free >= 0"), nullable=False),
)
GIVEN = [insert(STOCK).values(sku="teapot", free=1)]


@transaction
def take(order: PlaceOrder, uow: UnitOfWork) -> int:
    """Reserve one piece in the table."""
    uow.execute(update(STOCK).where(STOCK.c.sku == order.sku).values(free=STOCK.c.free - 1), expect_rows=1)
    return int(uow.execute(select(STOCK.c.free).where(STOCK.c.sku == order.sku))[0][0])


@take.compensation
def put_back(done: Done[PlaceOrder, int], uow: UnitOfWork) -> None:
    """Release the piece."""
    uow.execute(update(STOCK).where(STOCK.c.sku == done.input.sku).values(free=STOCK.c.free + 1), expect_rows=1)


@effect
async def pay(_: PlaceOrder, __: Call) -> str:
    """Pay."""
    return "paid"


SAGA = Saga("table-shop", PlaceOrder, take, pivot(pay))


def _right(end: End) -> None:
    free = end.rows(select(STOCK.c.free))[0][0]
    assert free == (0 if end.completed or end.needs_attention else 1)


def test_transactions_on_own_tables_run_in_every_world() -> None:
    """A row is changed exactly in the worlds in which the transaction stands."""
    report = explore(SAGA, ORDER, tables=METADATA, given=GIVEN, invariant=_right)
    assert report.holds, str(report)
    assert len(report.explored.ends) > 1


def test_a_story_on_tables_is_played_again() -> None:
    """A replay begins with the same rows."""
    report = explore(SAGA, ORDER, tables=METADATA, given=GIVEN, faults=1, invariant=lambda _: 1 / 0)
    story = replay(report.broken[0].token, SAGA, ORDER, tables=METADATA, given=GIVEN)
    assert str(story) == str(report.broken[0].story)


def test_two_runs_never_sell_one_row_twice() -> None:
    """The database's own constraint refuses the second order for the last piece, in every interleaving."""
    report = explore(SAGA, ORDER, others=[(SAGA, ORDER)], tables=METADATA, given=GIVEN, faults=0)
    assert report.holds
    assert set(report.explored.ends) == {("COMPLETED", "COMPENSATED"), ("COMPENSATED", "COMPLETED")}


def test_a_saga_with_unknown_tables_names_the_step() -> None:
    """Without `tables=` the search ends in one line."""
    with pytest.raises(
        InputError, match="step 'take': it uses your own tables, and the search knows none; pass tables="
    ):
        explore(SAGA, ORDER)


@pytest.mark.parametrize("given", [[text("nonsense")], ["teapot"], [insert(STOCK).values(sku="x", free=-1)]])
def test_wrong_rows_are_refused_in_one_line(given: list[object]) -> None:
    """A statement that the database refuses is named before the search begins."""
    with pytest.raises(InputError, match="tables=, given=") as caught:
        explore(SAGA, ORDER, tables=METADATA, given=given)
    assert "\n" not in str(caught.value)


def test_tables_are_a_metadata() -> None:
    """A single table is not enough; the message names the type to pass."""
    with pytest.raises(InputError, match="give the MetaData of your tables"):
        explore(SAGA, ORDER, tables=STOCK)


def test_states_of_tables_are_independent() -> None:
    """Each state keeps its rows, whichever state ran the last statement; equal rows are equal states."""
    first = create_tables(METADATA, GIVEN)
    second = first.execute(update(STOCK).values(free=5))[2]
    back = second.execute(update(STOCK).values(free=1))[2]
    read = select(STOCK.c.free)
    assert [each.execute(read)[0] for each in (first, second, back, first)] == [[(1,)], [(5,)], [(1,)], [(1,)]]
    assert first.key == back.key != second.key
    assert first.execute(read)[2] is first
