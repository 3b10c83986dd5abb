"""Plans, aggregates, ids and units with which the tests of the journal write.

Run as a program, this file is one of several processes that write to one store: `journal_parts.py URL NAME COUNT`.
"""

import hashlib
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar

from eventsourcing.domain import event

from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.intake import RememberedId
from amends.aggregates.journal import StepWork, Tx
from amends.aggregates.run.facts import SagaCompleted, SagaStarted, StepSucceeded, stream_of_run
from amends.aggregates.run.plan import Plan, PlanNode, RetryPolicy, Role, Stage, StepKind
from amends.aggregates.run.record import RunRecord
from amends.aggregates.sql.engine import create_store_engine
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.aggregates.sql.migrations import upgrade

T = TypeVar("T")

_ONCE = RetryPolicy(max_attempts=3, first_ms=10, factor=2, longest_ms=1000)


def plan_of(*names: str, saga: str = "order") -> Plan:
    """Create a plan of consecutive transactions."""
    nodes = [PlanNode(name=n, step=n, kind=StepKind.TRANSACTION, role=Role.COMPENSATABLE, retry=_ONCE) for n in names]
    return Plan(saga=saga, input_type="Order", stages=tuple(Stage(nodes=(node,)) for node in nodes), keys=("order_id",))


PLAN = plan_of("reserve", "confirm")


class Stock(Aggregate):
    """The quantity in stock, and the quantity that each customer reserved."""

    @event("Registered")
    def __init__(self, id: str, on_hand: int) -> None:  # noqa: A002, ARG002 - what aggregates take
        self.on_hand = on_hand
        self.reserved: dict[str, int] = {}

    @event("Reserved")
    def reserve(self, quantity: int, order: str) -> None:
        """Reserve a quantity."""
        self.reserved[order] = quantity
        self.on_hand -= quantity
        if self.on_hand < 0:
            # The check follows the change on purpose: a step that raises here leaves an inconsistent object behind.
            msg = f"only {self.on_hand + quantity} left"
            raise ValueError(msg)

    @event("Priced")
    def price(self, amount: Decimal | float) -> None:
        """Set the price."""
        self.amount = amount


class Counter(Aggregate):
    """A counter."""

    @event("Begun")
    def __init__(self, id: str) -> None:  # noqa: A002, ARG002 - what aggregates take
        self.count = 0

    @event("Counted")
    def add_one(self) -> None:
        """Add one."""
        self.count += 1


def prepare(url: str) -> str:
    """Create the schema: PostgreSQL, unlike SQLite, needs it before the first use."""
    engine = create_store_engine(url)
    upgrade(engine)
    engine.dispose()
    return url


def open_prepared(url: str, **options: Any) -> SqlJournal:  # noqa: ANN401 - those of open_journal
    """Open a journal on a store that may not have its schema yet."""
    return open_journal(prepare(url), aggregates=[Stock, Counter], **options)


def common(tx: Tx, run_id: str, position: int, at_ms: int = 1_000) -> dict[str, Any]:
    """Return the fields that every fact carries."""
    return {
        "originator_id": stream_of_run(run_id),
        "originator_version": position,
        "as_of_ms": at_ms,
        "recorded_at_ms": tx.recorded_at_ms,
        "correlation_id": run_id,
        "causation_id": None,
        "actor": "test",
    }


def started(
    tx: Tx, run_id: str, plan: Plan = PLAN, at_ms: int = 1_000, *, driver: str = "in-process", **keys: str
) -> SagaStarted:
    """Create the first fact of a run."""
    return SagaStarted(
        **common(tx, run_id, 1, at_ms),
        saga=plan.saga,
        fingerprint=plan.fingerprint,
        input={"order_id": run_id},
        keys=keys,
        store_id=tx.store_id,
        driver=driver,
        epoch=1,
        guarantees={},
    )


def accept(run_id: str, plan: Plan = PLAN, at_ms: int = 1_000, **keys: str) -> Callable[[Tx], RunRecord]:
    """Create a unit that accepts a run."""
    return lambda tx: tx.accept(plan, started(tx, run_id, plan, at_ms, **keys))


def succeed(run_id: str, node: str, at_ms: int = 1_000) -> Callable[[Tx], RunRecord]:
    """Create a unit that appends a step's success to its run."""

    def unit(tx: Tx) -> RunRecord:
        record = tx.record(run_id)
        assert record is not None, run_id
        fact = StepSucceeded(
            **common(tx, run_id, record.state.position + 1, at_ms),
            node=node,
            generation=0,
            attempt=1,
            result={"node": node},
        )
        return tx.append(record, [fact])

    return unit


def complete(run_id: str, at_ms: int = 1_000) -> Callable[[Tx], RunRecord]:
    """Create a unit that closes a run after the success of all its steps."""

    def unit(tx: Tx) -> RunRecord:
        record = tx.record(run_id)
        assert record is not None, run_id
        return tx.append(record, [SagaCompleted(**common(tx, run_id, record.state.position + 1, at_ms))])

    return unit


def step(work: Callable[[StepWork], T]) -> Callable[[Tx], T]:
    """Create a unit of one transaction step alone."""

    def unit(tx: Tx) -> T:
        with tx.unit_of_work() as uow:
            return work(uow)

    return unit


def run_to_end(run_id: str, counter: str) -> list[Callable[[Tx], object]]:
    """Create the units of a whole run, one of which adds one to a shared counter."""

    def count(tx: Tx) -> None:
        with tx.unit_of_work() as uow:
            uow.get(Counter, counter).add_one()
            succeed(run_id, "reserve")(tx)

    return [accept(run_id), count, succeed(run_id, "confirm"), complete(run_id)]


def id_of(number: int) -> RememberedId:
    """Return the memory of a message."""
    raw = hashlib.sha256(str(number).encode()).digest()
    return RememberedId(raw[:16], raw[16:24])


def main(url: str, name: str, count: int) -> None:
    """Write a number of runs, one unit after the other."""
    journal = open_journal(url, aggregates=[Stock, Counter])
    try:
        for number in range(count):
            for unit in run_to_end(f"{name}-{number}", "shared"):
                journal.commit_blocking(unit, runs=(f"{name}-{number}",))
    finally:
        journal.close_blocking()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
