"""Without Temporal: the in-process runner compared with single saves of `eventsourcing`, and the cost of length."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from figures import Effort, Row, in_turn, ratios
from measured import Counter, Order, count_once, many_effects, many_steps, three_steps

from amends import Runner, Saga
from amends.aggregates.journal import Tx
from amends.aggregates.sql.engine import create_store_engine
from amends.aggregates.sql.migrations import upgrade

__all__ = ["store_rows"]

AT_ONCE = 50
LENGTH_BOUND = 1.3


class Account(Aggregate):
    """An aggregate that is saved with two events at a time."""

    @event("Opened")
    def __init__(self, name: str) -> None:
        self.name = name
        self.sum = 0

    @event("Paid")
    def pay(self, amount: int) -> None:
        """Add."""
        self.sum += amount


class Accounts(Application[UUID]):
    """An `eventsourcing` application on the SQLAlchemy recorders."""


class SingleSaves:
    """The other side: new aggregates of two events, saved one by one, each acknowledged when it is on disk.

    Args:
        url: An empty database.

    Raises:
        RuntimeError: A commit would not be as durable as one of Amends.
    """

    def __init__(self, url: str) -> None:
        self._application = Accounts({"PERSISTENCE_MODULE": "eventsourcing_sqlalchemy", "SQLALCHEMY_URL": url})
        engine: sqlalchemy.Engine = self._application.factory.datastore.engine  # type: ignore[attr-defined]  # the SQLAlchemy factory has one
        if engine.dialect.name == "sqlite":

            @sqlalchemy.event.listens_for(engine, "connect")
            def _(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's connection
                connection.execute("PRAGMA synchronous=FULL")

            engine.dispose()
        self._application.save(Account("first"))  # sets WAL, and fills the pool
        check_durable(engine)

    async def rate(self, count: int) -> float:
        """Save a number of aggregates; return saves per second."""
        return await asyncio.to_thread(self._rate, count)

    def _rate(self, count: int) -> float:
        began = time.perf_counter()
        for n in range(count):
            account = Account(f"account-{n}")
            account.pay(n)
            self._application.save(account)
        return count / (time.perf_counter() - began)

    def close(self) -> None:
        """Close the database."""
        self._application.close()


def check_durable(engine: sqlalchemy.Engine) -> None:
    """Check the real settings of a pool's connections: a commit is on disk when it is acknowledged.

    Raises:
        RuntimeError: It is not.
    """
    wanted = (
        {"PRAGMA journal_mode": "wal", "PRAGMA synchronous": "2"}
        if engine.dialect.name == "sqlite"
        else {"SHOW fsync": "on", "SHOW synchronous_commit": "on"}
    )
    with engine.connect() as connection:
        for statement, value in wanted.items():
            found = str(connection.exec_driver_sql(statement).scalar_one())
            if found != value:
                raise RuntimeError(f"{engine.dialect.name}: {statement} is {found!r}, so a commit is not on disk")


async def runs(runner: Runner, saga: Saga[Order], orders: list[Order], at_once: int = AT_ONCE) -> float:
    """Run a saga for every order, `at_once` at a time; return runs per second."""
    waiting = iter(orders)

    async def one_after_the_other() -> None:
        for order in waiting:
            result = await runner.run(saga, order, id=order.order_id)
            if result.status != "COMPLETED":
                raise RuntimeError(f"{order.order_id}: {result.error}")

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(at_once)))
    return len(orders) / (time.perf_counter() - began)


def orders(prefix: str, count: int, sku: str = "A1") -> list[Order]:
    """Create a number of orders, each with its own id."""
    return [Order(order_id=f"{prefix}-{n}", sku=sku, quantity=1) for n in range(count)]


def with_schema(url: str) -> str:
    """Create the schema of Amends in an empty database, which on PostgreSQL is `amends db upgrade`."""
    engine = create_store_engine(url)
    upgrade(engine)
    engine.dispose()
    return url


async def against_single_saves(fresh: Callable[[], str], bound: float, what: str, effort: Effort) -> Row:
    """Compare three-step sagas with single saves."""
    theirs = SingleSaves(fresh())
    async with Runner.open([three_steps], store_url=with_schema(fresh())) as runner:
        check_durable(runner.journal.engine)  # type: ignore[attr-defined]  # it is the one in SQL
        await runs(runner, three_steps, orders("warm", effort.of(200)))
        await theirs.rate(effort.of(200))
        sagas, saves = await in_turn(
            effort.rounds,
            lambda n: runs(runner, three_steps, orders(f"r{n}", effort.of(1_000))),
            lambda _: theirs.rate(effort.of(500)),
        )
    theirs.close()
    return Row(
        f"in-process runner: sagas of three transactions per second, {AT_ONCE} at a time, {what}",
        "eventsourcing-sqlalchemy: single saves of two events per second, as durable",
        ratios(sagas, saves),
        bound,
    )


async def length_of_run(
    fresh: Callable[[], str], make: Callable[[int], Saga[Order]], steps: int, what: str, effort: Effort
) -> Row:
    """Compare the cost of a step in a long run and in a short one."""
    short, long = make(10), make(steps)
    few, many = effort.of(200), effort.of(max(2, 2_000 // steps))
    async with Runner.open([short, long], store_url=fresh()) as runner:
        await runs(runner, short, orders("warm-short", few), 1)
        await runs(runner, long, orders("warm-long", 1), 1)

        async def cost(saga: Saga[Order], prefix: str, count: int, length: int) -> float:
            return 1 / (await runs(runner, saga, orders(prefix, count), 1) * length)

        of_long, of_short = await in_turn(
            effort.rounds,
            lambda n: cost(long, f"l{n}", many, steps),
            lambda n: cost(short, f"s{n}", few, 10),
        )
    return Row(
        f"in-process runner: time of a step in a saga of {steps:,} {what}",
        f"in a saga of 10 {what}",
        ratios(of_long, of_short),
        LENGTH_BOUND,
        at_least=False,
    )


async def length_of_aggregate(fresh: Callable[[], str], effort: Effort) -> Row:
    """Compare a step on a long aggregate with one on a short one, in processes that have not seen it before."""
    url = fresh()
    async with Runner.open([count_once], store_url=url) as runner:
        for name, events in (("short", effort.of(1_000)), ("long", effort.of(100_000))):
            await grow(runner, name, events)

    async def cost(name: str, number: int) -> float:
        async with Runner.open([count_once], store_url=url) as runner:  # it remembers nothing
            return 1 / await runs(runner, count_once, orders(f"{name}-{number}", effort.of(20), name), 1)

    # Twenty steps take no time compared with a commit that waits for a busy disk, so there are more rounds of them.
    of_long, of_short = await in_turn(3 * effort.rounds, lambda n: cost("long", n), lambda n: cost("short", n))
    return Row(
        "in-process runner: time of a step on an aggregate of 100,000 events, the first one reads it from the store",
        "on an aggregate of 1,000 events, likewise",
        ratios(of_long, of_short),
        LENGTH_BOUND,
        at_least=False,
    )


async def grow(runner: Runner, name: str, events: int) -> None:
    """Write a number of events to an aggregate."""

    def begin(tx: Tx) -> None:
        with tx.unit_of_work() as work:
            work.add(Counter(name))

    def extend(tx: Tx) -> None:
        with tx.unit_of_work() as work:
            counter = work.get(Counter, name)
            for _ in range(min(1_000, events - counter.version)):
                counter.increment()

    await runner.journal.commit(begin)
    for _ in range(1, events, 1_000):
        await runner.journal.commit(extend)


async def store_rows(folder: Path, postgresql: Callable[[], str], effort: Effort) -> list[Row]:
    """Measure every row of this module."""
    made = 0

    def sqlite() -> str:
        nonlocal made
        made += 1
        return f"sqlite:///{folder}/store-{made}.db"

    return [
        await against_single_saves(sqlite, 1.0, "SQLite file, synchronous=FULL", effort),
        await against_single_saves(postgresql, 1.5, "PostgreSQL", effort),
        await length_of_run(sqlite, many_steps, 200, "transactions", effort),
        await length_of_run(sqlite, many_steps, 1_000, "transactions", effort),
        await length_of_run(sqlite, many_effects, 200, "effects", effort),
        await length_of_aggregate(sqlite, effort),
    ]
