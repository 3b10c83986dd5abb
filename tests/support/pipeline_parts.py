"""Pipelines for tests: handlers whose effects name the ids of their messages, and sagas that messages start.

An effect is a row of a user's own table without a unique key, so the table shows every message that took effect twice.
"""

import asyncio
import json
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Column, Integer, MetaData, Table, Text, insert, select

from amends import Saga, transaction
from amends.aggregates.intake import Token
from amends.aggregates.journal import StepWork
from amends.aggregates.run.facts import run_of
from amends.aggregates.sql.journal import SqlJournal
from amends.pipelines.definition.bounds import Bounds
from amends.pipelines.definition.pipeline import Handles, Pipeline
from amends.pipelines.definition.sources import KafkaSource
from amends.pipelines.intake.audit import Comparison, PartitionAudit, compare_ids
from amends.pipelines.intake.whole_account import audit_account
from amends.pipelines.runtime.partition_loop import PartitionLoop
from amends.pipelines.runtime.slice_end import SliceEnd
from amends.pipelines.testing.memory_source import MemorySource
from amends.sagas.definition.context import UnitOfWork
from amends.sagas.definition.registry import Registry

NAME = "counts"
EFFECTS = Table("effects", MetaData(), Column("message", Text()), Column("key", Text()), Column("quantity", Integer()))


class Counted(BaseModel):
    """A message."""

    id: str
    sku: str
    quantity: int = 1


class Order(BaseModel):
    """The input of a run."""

    order_id: str
    quantity: int


@transaction
def reserve(order: Order, uow: UnitOfWork) -> str:  # noqa: ARG001 - what transactions take
    """Reserve nothing."""
    return order.order_id


PLACE_ORDER = Saga("place_order", Order, reserve)


def message(number: int, *, keys: int = 10, quantity: int = 1, name: str = "m") -> bytes:
    """Create a message; its key follows from its number."""
    return json.dumps({"id": f"{name}-{number}", "sku": f"sku-{number % keys}", "quantity": quantity}).encode()


def id_of(counted: Counted) -> str:
    """Return the id of a message."""
    return counted.id


def sku_of(counted: Counted) -> str:
    """Return the key of a message."""
    return counted.sku


def record_effect(counted: Counted, uow: StepWork) -> None:
    """Insert a row, whatever the table has already; a message with a negative quantity fails after its effect."""
    uow.execute(insert(EFFECTS).values(message=counted.id, key=counted.sku, quantity=counted.quantity))
    if counted.quantity < 0:
        msg = f"quantity {counted.quantity}"
        raise ValueError(msg)


def counting(
    handler: Callable[[Counted, StepWork], None] = record_effect,
    *,
    bounds: Bounds | None = None,
    notify_duplicates: bool = False,
    **options: Any,  # noqa: ANN401 - of Pipeline
) -> Pipeline[Counted]:
    """Create a pipeline that handles messages."""
    pipeline = Pipeline(
        NAME, KafkaSource("counts"), Counted, id=id_of, key=sku_of, bounds=bounds or Bounds(batch=100), **options
    )
    pipeline.handles(notify_duplicates=notify_duplicates)(handler)
    return pipeline


def starting(*, bounds: Bounds | None = None, **options: Any) -> Pipeline[Counted]:  # noqa: ANN401 - of Pipeline
    """Create a pipeline that starts runs."""
    pipeline = Pipeline(
        NAME, KafkaSource("counts"), Counted, id=id_of, key=sku_of, bounds=bounds or Bounds(batch=100), **options
    )

    @pipeline.starts(PLACE_ORDER)
    def to_order(counted: Counted) -> Order:
        if counted.quantity < 0:
            msg = f"quantity {counted.quantity}"
            raise ValueError(msg)
        return Order(order_id=counted.id, quantity=counted.quantity)

    return pipeline


def create_effects(journal: SqlJournal) -> None:
    """Create the user's table."""
    EFFECTS.metadata.create_all(journal.engine)


class Bench:
    """A pipeline, its source, and a store, with the judgement of the store by the source's own list of ids.

    Args:
        journal: The store.
        pipeline: The pipeline.
        source: The source; by default an empty one.

    Attributes:
        driven: The ids of runs that the loop has asked to drive.
    """

    def __init__(self, journal: SqlJournal, pipeline: Pipeline[Any], source: MemorySource | None = None) -> None:
        self.journal = journal
        self.pipeline = pipeline
        self.source = source or MemorySource()
        self.driven: list[str] = []
        self.loop = PartitionLoop(journal, Registry([PLACE_ORDER]), pipeline, self.source, on_started=self._drive)

    async def _drive(self, runs: Iterable[str]) -> None:
        self.driven += runs

    def run(self, token: tuple[int, int] = (1, 1), *, partition: str = "0") -> SliceEnd:
        """Run the loop over every message that the source has."""
        return asyncio.run(self.take(token, partition=partition))

    async def take(self, token: tuple[int, int] = (1, 1), *, partition: str = "0") -> SliceEnd:
        """Run the loop over every message that the source has."""
        return await self.loop.run(partition, Token(*token), stop=asyncio.Event(), seconds=60, until_end=True)

    def effects(self) -> list[str]:
        """Return the id of the message of every effect, in order."""
        if isinstance(self.pipeline.work, Handles):
            with self.journal.engine.connect() as connection:
                return list(connection.execute(select(EFFECTS.c.message)).scalars())
        first = [each for each in self.journal.notifications_blocking(0, 100_000) if each.originator_version == 1]
        return [run for each in first if (run := run_of(str(each.originator_id))) is not None]

    def ids(self, partition: str = "0") -> list[str]:
        """Return the id of every readable message of the source, in order."""
        found = []
        for each in self.source.messages(partition):
            try:
                found.append(str(json.loads(each.value or b"")["id"]))
            except (ValueError, KeyError):
                continue
        return found

    def compare(self) -> Comparison:
        """Compare the effects in the store with the source's own list of ids; held messages need no effect."""
        held = {each.id for each in self.journal.intake.held(NAME, limit=100_000)}
        return compare_ids(self.ids(), self.effects(), excused=held)

    def audit(self, partition: str = "0") -> PartitionAudit:
        """Audit the account of a partition."""
        return audit_account(self.journal.intake, NAME, partition)
