"""Without Temporal: the in-process runner beside single saves of `eventsourcing`, and what length costs."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from figures import Row, ratio
from measured import Counter, Order, count_once, many_steps, three_steps

from amends import Runner, Saga
from amends.aggregates.journal import Tx

__all__ = ["store_rows"]

AT_ONCE = 50
ROUNDS = 3


class Account(Aggregate):
    """What is saved with two events at a time."""

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


def single_saves(url: str, count: int) -> float:
    """Save new aggregates of two events, one by one; gives saves per second."""
    os.environ.update(PERSISTENCE_MODULE="eventsourcing_sqlalchemy", SQLALCHEMY_URL=url)
    application = Accounts()
    if url.startswith("sqlite"):
        # The same promise as ours: acknowledged means on disk.
        engine = application.factory.datastore.engine  # type: ignore[attr-defined]  # the SQLAlchemy factory has one
        from sqlalchemy import event as sql_event  # noqa: PLC0415 - only here

        @sql_event.listens_for(engine, "connect")
        def _(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's connection
            connection.execute("PRAGMA synchronous=FULL")

        engine.dispose()
    began = time.perf_counter()
    for n in range(count):
        account = Account(f"account-{n}")
        account.pay(n)
        application.save(account)
    rate = count / (time.perf_counter() - began)
    application.close()
    return rate


async def runs(runner: Runner, saga: Saga[Order], orders: list[Order], at_once: int = AT_ONCE) -> float:
    """Run a saga for every order, so many at a time; gives runs per second."""
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
    """Make so many orders with ids of their own."""
    return [Order(order_id=f"{prefix}-{n}", sku=sku, quantity=1) for n in range(count)]


async def against_single_saves(fresh: Callable[[], str], bound: float, what: str) -> Row:
    """Compare three-step sagas with single saves, in turn."""
    ours: list[float] = []
    theirs: list[float] = []
    async with Runner.open([three_steps], store_url=fresh()) as runner:
        await runs(runner, three_steps, orders("warm", 200))
        for n in range(ROUNDS):
            url = fresh()
            theirs.append(await asyncio.to_thread(single_saves, url, 1_500))
            ours.append(await runs(runner, three_steps, orders(f"r{n}", 2_000)))
    return Row(
        f"in-process runner, three transactions, {AT_ONCE} at a time, {what}",
        "single saves of two events by eventsourcing-sqlalchemy",
        ratio(ours, theirs),
        bound,
    )


async def length_of_run(fresh: Callable[[], str]) -> Row:
    """Compare the cost of a step in a long run and in a short one."""
    short, long = many_steps(10), many_steps(200)
    async with Runner.open([short, long], store_url=fresh()) as runner:
        await runs(runner, short, orders("warm", 20), 1)
        pairs = []
        for n in range(ROUNDS):
            few = 1 / (await runs(runner, short, orders(f"s{n}", 200), 1) * 10)
            many = 1 / (await runs(runner, long, orders(f"l{n}", 10), 1) * 200)
            pairs.append((many, few))
    return Row(
        "in-process runner: a step of a 200-step saga",
        "a step of a 10-step saga",
        ratio([a for a, _ in pairs], [b for _, b in pairs]),
        1.3,
        at_least=False,
    )


async def length_of_aggregate(fresh: Callable[[], str]) -> Row:
    """Compare a step on an aggregate with 100,000 events with one on 1,000, each read for the first time."""
    url = fresh()
    async with Runner.open([count_once], store_url=url) as runner:
        for name, events in (("small", 1_000), ("large", 100_000)):
            await grow(runner, name, events)
    small: list[float] = []
    large: list[float] = []
    for n in range(5):
        for name, into in (("small", small), ("large", large)):
            async with Runner.open([count_once], store_url=url) as runner:  # nothing is cached
                await runs(runner, count_once, orders(f"warm-{name}-{n}", 1, "warm"), 1) if n < 0 else None
                into.append(1 / await runs(runner, count_once, orders(f"{name}-{n}", 20, name), 1))
    return Row(
        "a step on an aggregate with 100,000 events",
        "one on an aggregate with 1,000",
        ratio(large, small),
        1.3,
        at_least=False,
    )


async def grow(runner: Runner, name: str, events: int) -> None:
    """Give an aggregate so many events."""

    def begin(tx: Tx) -> None:
        with tx.unit_of_work() as work:
            work.add(Counter(name))

    def extend(tx: Tx) -> None:
        with tx.unit_of_work() as work:
            counter = work.get(Counter, name)
            for _ in range(999):
                counter.increment()

    await runner.journal.commit(begin)
    for _ in range(events // 1_000):
        await runner.journal.commit(extend)


async def store_rows(folder: Path, postgresql: Callable[[], str]) -> list[Row]:
    """Measure everything here."""
    made = 0

    def sqlite() -> str:
        nonlocal made
        made += 1
        return f"sqlite:///{folder}/store-{made}.db"

    work: list[Callable[[], Coroutine[Any, Any, Row]]] = [
        lambda: against_single_saves(sqlite, 1.0, "SQLite, synchronous=FULL"),
        lambda: against_single_saves(postgresql, 1.5, "PostgreSQL"),
        lambda: length_of_run(sqlite),
        lambda: length_of_aggregate(sqlite),
    ]
    return [await each() for each in work]
