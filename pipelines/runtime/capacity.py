"""Read from the store how many messages a pipeline may still take: open runs, deferred and held messages."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from amends.aggregates.intake import HeldKind, HeldMessage
from amends.aggregates.journal import Journal, RunQuery
from amends.aggregates.run.state import OPEN
from amends.pipelines.definition.pipeline import Pipeline, Starts
from amends.pipelines.intake.flow import bound_reached

__all__ = ["Room", "held_too_many"]


class Room:
    """The number of runs that a pipeline may still start.

    It is counted in the store when it is used up, and counted down in between.

    Args:
        journal: The store.
        pipeline: The pipeline.
    """

    def __init__(self, journal: Journal, pipeline: Pipeline[Any]) -> None:
        self._journal = journal
        self._pipeline = pipeline
        self._left = 0

    async def left(self) -> int | None:
        """Return the number of runs that may be started now; `None` if there is no bound."""
        most, work = self._pipeline.max_open_runs, self._pipeline.work
        if most is None or not isinstance(work, Starts):
            return None
        if self._left < max(1, most // 10):
            query = RunQuery(statuses=OPEN, saga=work.saga.name, limit=most)
            self._left = most - len(await self._journal.runs(query))
        return self._left

    def used(self, runs: int) -> None:
        """Count runs that were started."""
        self._left = max(0, self._left - runs)

    async def deferrable(self) -> int:
        """Return the number of messages that may still be deferred."""
        held = await asyncio.to_thread(self._journal.intake.held_counts, self._pipeline.name)
        return max(0, self._pipeline.bounds.max_deferred - held.get(HeldKind.DEFERRED, 0))


def held_too_many(journal: Journal, pipeline: Pipeline[Any], held: Sequence[HeldMessage]) -> str:
    """Return the reason for which a pipeline must pause because of the messages that it holds; empty if it need not.

    Args:
        journal: The store.
        pipeline: The pipeline.
        held: The messages that its last batch has set aside.
    """
    bounds, largest = pipeline.bounds, None
    keys = Counter(each.key for each in held if each.key and each.kind is not HeldKind.DEFERRED)
    if keys:
        key = keys.most_common(1)[0][0]
        largest = (key, len(journal.intake.held(pipeline.name, key=key, limit=bounds.max_held_per_key)))
    return bound_reached(bounds, journal.intake.held_counts(pipeline.name), largest)
