"""A relay of closed runs publishes one message for each run that closes, and the same one again after a failure."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from journal_parts import open_prepared
from pipeline_parts import Order

from amends import Runner, Saga, pivot, transaction
from amends.aggregates.intake import HeldKind, Token
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.pipelines.definition.declaration import relay_declaration_of
from amends.pipelines.definition.relays import RunRelay
from amends.pipelines.definition.sinks import JsonLinesSink
from amends.pipelines.files.sink import JsonLinesFiles
from amends.pipelines.runtime.relay import RelayLoop
from amends.pipelines.runtime.run_feed import RUNS
from amends.sagas.definition.context import UnitOfWork
from amends.sagas.definition.registry import Registry


@transaction
def note(order: Order, uow: UnitOfWork) -> str:  # noqa: ARG001 - what transactions take
    """Note nothing."""
    return order.order_id


PLACE_ORDER = Saga("place_order", Order, pivot(note))
OTHER = Saga("note_order", Order, pivot(note))
RESULTS = RunRelay("results", JsonLinesSink("out"), topic="run-results", sagas=[PLACE_ORDER])


@pytest.fixture
def journal(store_url: str) -> Iterator[SqlJournal]:
    """Open an empty store."""
    opened = open_prepared(store_url)
    yield opened
    asyncio.run(opened.close())


async def close_runs(url: str, saga: Saga[Order], *names: str) -> None:
    """Run a saga to its end."""
    async with Runner(open_journal(url), Registry([saga])) as runner:
        for name in names:
            await runner.run(saga, Order(order_id=name, quantity=1), id=name)


async def published(journal: SqlJournal, folder: Path, token: Token, relay: RunRelay = RESULTS) -> list[dict[str, Any]]:
    """Publish everything, and return all lines so far."""
    loop = RelayLoop(journal, relay, JsonLinesFiles(folder))
    await loop.run(loop.partition, token, stop=asyncio.Event(), until_end=True)
    file = folder / "run-results.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


async def test_each_closed_run_of_the_sagas_is_one_message(journal: SqlJournal, store_url: str, tmp_path: Path) -> None:
    """The message is the run as `amends list --json` prints it; other sagas are none, and nothing comes twice."""
    await close_runs(store_url, PLACE_ORDER, "a", "b")
    await close_runs(store_url, OTHER, "c")
    assert [line["key"] for line in await published(journal, tmp_path, Token(1, 1))] == ["a", "b"]
    await close_runs(store_url, PLACE_ORDER, "d")
    lines = await published(journal, tmp_path, Token(2, 1))
    assert [line["key"] for line in lines] == ["a", "b", "d"]
    record = journal.record_blocking("d")
    assert record is not None
    assert lines[-1]["value"] == record.summary.to_json()
    assert lines[-1]["id"] == f"{journal.store_id}/d/{record.state.position}"
    rows = journal.intake.batches("results", RUNS)
    assert sum(row.next - row.first - row.holes for row in rows) == sum(row.counts.applied for row in rows) == 3


async def test_a_run_that_cannot_be_read_is_set_aside(journal: SqlJournal, store_url: str, tmp_path: Path) -> None:
    """The others go out, and the reason names the run."""
    await close_runs(store_url, PLACE_ORDER, "a", "b")
    with journal.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM stored_events WHERE originator_id = 'run/a' AND originator_version = 2")
    assert [line["key"] for line in await published(journal, tmp_path, Token(1, 1))] == ["b"]
    (held,) = journal.intake.held("results")
    assert (held.kind, held.key) == (HeldKind.UNDECODABLE, "a")
    assert held.reason.startswith("run 'a' cannot be read")


def test_the_declaration_names_topic_and_sagas() -> None:
    """A change of either is a change of the relay; the destination can be replaced."""
    assert relay_declaration_of(RESULTS.to(JsonLinesSink("elsewhere"))) == {
        "sink": {"kind": "jsonl", "folder": "elsewhere"},
        "closed_runs": {"topic": "run-results", "sagas": ["place_order"]},
    }
