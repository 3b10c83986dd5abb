"""The same id and input give the first run, for any caller, any number of times, also after Temporal forgot it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import temporalio.client
from hard_parts import opened
from pydantic import BaseModel
from stores import POSTGRESQL_IN_SOAK
from temporal_parts import TemporalServer

from amends import Call, Client, RunStatus, Saga, StartConflictError, effect
from amends.aggregates.run.facts import FactKind
from amends.aggregates.sql.journal import SqlJournal
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.start import read_input
from amends.sagas.temporal.worker import running_worker

GATES: dict[str, asyncio.Event] = {}
"""Events that hold a run in flight, by its id; each belongs to the loop of its test."""


class Line(BaseModel):
    """A line of an order."""

    weight: float
    count: int
    note: Any = None


class LaterLine(Line):
    """The same line, some versions later."""

    gift: bool = False


@effect(read_only=True)
async def look(_: Line, call: Call) -> None:
    """Stay in flight until the test ends it."""
    await GATES[call.run_id].wait()


THEN = Saga("keyed", Line, look)
NOW = Saga("keyed", LaterLine, look)

FIRST = '{"weight": 1, "count": 2, "note": {"a": 1, "b": [1.0, "x"]}}'
SAME = (
    FIRST,
    '{"count": 2, "note": {"b": [1.0, "x"], "a": 1}, "weight": 1}',
    ' {"weight":1.0,\n "count":2.0,"note":{"a":1.0,"b":[1,"x"]}}',
    '{"weight": "1", "count": "2", "note": {"a": 1, "b": [1, "x"]}}',
)
"""Forms of one input."""

OTHERS = {
    '{"weight": 2, "count": 2, "note": {"a": 1, "b": [1.0, "x"]}}': r"weight.*1.*2",
    '{"weight": 1, "count": 2, "note": {"a": "1", "b": [1.0, "x"]}}': r"note.*a",
    '{"weight": 1, "count": 2}': r"note",
}
"""Other inputs, and the part of the difference that the error shows."""


class Door:
    """The place where starts come in.

    Args:
        saga: Today's definition of the saga.
        journal: The store.
        temporal: Temporal.
    """

    def __init__(self, saga: Saga[Any], journal: SqlJournal, temporal: temporalio.client.Client) -> None:
        self._saga = saga
        self._registry = Registry([saga])
        self._journal = journal
        self.run_id = f"keyed-{journal.store_id}"
        self.client = Client(journal, temporal, self._registry, task_queue=self.run_id)

    async def start(self, text: str) -> str:
        """Start the run with one form of the input."""
        value = read_input(self._registry, self._saga, text)
        return (await self.client.start(self._saga, value, id=self.run_id)).id

    async def check(self) -> None:
        """Check that every form of the input gives the first run, and that another input raises with the difference."""
        assert [await self.start(text) for text in SAME] == [self.run_id] * len(SAME)
        for text, shown in OTHERS.items():
            with pytest.raises(StartConflictError, match=shown) as refused:
                await self.start(text)
            assert self.run_id in str(refused.value)
        facts = await self._journal.facts(self.run_id)
        assert [fact.kind for fact in facts].count(FactKind.SAGA_STARTED) == 1


async def workflows(temporal: temporalio.client.Client, run_id: str) -> int:
    """Count the workflows that a run has had, as far as Temporal lists them."""
    return len([each async for each in temporal.list_workflows(f'WorkflowId = "{run_id}"')])


@asynccontextmanager
async def serving(server: TemporalServer) -> AsyncIterator[temporalio.client.Client]:
    """Run a server."""
    with server.serving():
        yield await temporalio.client.Client.connect(server.address)


@POSTGRESQL_IN_SOAK
async def test_fifty_starts_make_one_run(store_url: str, temporal_executable: Path, tmp_path: Path) -> None:
    """Fifty starts at once give one run and one workflow, for every form of the input, also after Temporal lost it."""
    server = TemporalServer(temporal_executable, tmp_path)
    async with opened(store_url) as journal:
        async with serving(server) as temporal:
            door = Door(THEN, journal, temporal)
            GATES[door.run_id] = asyncio.Event()
            async with running_worker(temporal, journal, Registry([THEN]), task_queue=door.run_id):
                started = await asyncio.gather(*(door.start(SAME[number % len(SAME)]) for number in range(50)))
                assert set(started) == {door.run_id}
                await door.check()
                GATES[door.run_id].set()
                assert (await door.client.result(door.run_id)).status is RunStatus.COMPLETED
                while not (found := await workflows(temporal, door.run_id)):  # noqa: ASYNC110 - the list comes later
                    await asyncio.sleep(0.02)
                assert found == 1
        server.lose()
        async with serving(server) as temporal:
            await Door(THEN, journal, temporal).check()
            later = Door(NOW, journal, temporal)
            await later.check()
            with pytest.raises(StartConflictError, match=r"gift.*true|gift.*True"):
                await later.start(json.dumps({**json.loads(FIRST), "gift": True}))
