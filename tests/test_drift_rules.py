"""The built-in rules: each finds its damage on a real store, and with a real Temporal; what mends it does."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import temporalio.client
from journal_parts import PLAN, Counter, accept, open_prepared, run_to_end, started
from sqlalchemy import text

from amends.aggregates.codec import EventCodec
from amends.aggregates.journal import Tx
from amends.aggregates.journal_sql import SqlJournal
from amends.cli.reconciling import Hands
from amends.reconciler.decide import Look
from amends.reconciler.drift import Drift, DriftKind, Rebuild, Rouse
from amends.reconciler.drive_rules_temporal import drive_rules, driven_runs
from amends.reconciler.looking_asyncio import look
from amends.reconciler.rule import Rule
from amends.reconciler.standing import Standing
from amends.reconciler.store_rules_sql import store_rules
from amends.sagas.starting_temporal import start_workflow

LATER_MS = 10_000_000


@pytest.fixture
def journal(store_url: str) -> Iterator[SqlJournal]:
    """Give a journal on a store with a finished run and an open one."""
    opened = open_prepared(store_url)
    for unit in [*run_to_end("done", "c")[:1], accept("open", at_ms=2_000)]:
        opened.commit_blocking(unit)
    yield opened
    opened.close_blocking()


def damage(journal: SqlJournal, statement: str) -> None:
    """Change the store behind everybody's back."""
    with journal.engine.begin() as connection:
        connection.execute(text(statement))


async def seen(journal: SqlJournal, rule: Rule) -> Look:
    """Look by a rule, long after everything that happened."""
    return await look(rule, journal, Standing(), LATER_MS)


def rules(journal: SqlJournal, **options: Any) -> dict[str, Rule]:  # noqa: ANN401 - those of store_rules
    """Give the rules over the store."""
    return {each.name: each for each in store_rules(journal.engine, EventCodec([Counter]), **options)}


async def test_a_sound_store_has_no_drift(journal: SqlJournal) -> None:
    """No rule finds anything where nothing is wrong."""
    for rule in rules(journal).values():
        assert await seen(journal, rule) == Look()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM saga_index WHERE run_id = 'open'",
        "UPDATE saga_index SET status = 'COMPLETED' WHERE run_id = 'open'",
    ],
)
async def test_a_wrong_read_model_is_found_and_rebuilt(journal: SqlJournal, statement: str) -> None:
    """A row that is missing or wrong is one drift, and making the read model again mends it."""
    damage(journal, statement)
    (drift,) = (await seen(journal, rules(journal)["read-model"])).drifts
    assert drift.correction == Rebuild()
    assert drift.actual == {"wrong": 1, "first": ["run/open"]}
    await Hands(journal, None, "q").rebuild()
    assert (await seen(journal, rules(journal)["read-model"])).drifts == ()


async def test_a_gap_in_a_stream_is_found_and_left_to_people(journal: SqlJournal) -> None:
    """Damage in a stream is said with its place; nothing claims to mend it."""
    damage(journal, "UPDATE stored_events SET originator_version = 2 WHERE originator_id = 'run/open'")
    (drift,) = (await seen(journal, rules(journal)["streams"])).drifts
    assert (drift.subject, drift.kind, drift.correction) == ("run/open", DriftKind.MISSING, None)


async def test_a_run_that_waits_for_people_is_said_after_a_while(journal: SqlJournal) -> None:
    """A run that needs attention is drift when it has waited longer than the limit, and not before."""
    damage(journal, "UPDATE saga_index SET status = 'NEEDS_ATTENTION' WHERE run_id = 'open'")
    assert (await seen(journal, rules(journal, attended_within=timedelta(days=1))["attention"])).drifts == ()
    (drift,) = (await seen(journal, rules(journal)["attention"])).drifts
    assert drift.subject == "open"


# ---- with Temporal


@pytest.fixture
async def client(temporal_address: str) -> temporalio.client.Client:
    """Give a client of a real Temporal."""
    return await temporalio.client.Client.connect(temporal_address)


def accept_for_temporal(run_id: str) -> Callable[[Tx], object]:
    """Make a unit that accepts a run which Temporal is to drive."""
    return lambda tx: tx.accept(PLAN, started(tx, run_id).model_copy(update={"driver": "temporal"}))


def drive(client: temporalio.client.Client | None, queue: str, *, nothing_runs: bool = False) -> dict[str, Rule]:
    """Give the rules that ask Temporal."""
    found = drive_rules(client, "no answer", task_queue=queue, nothing_runs=nothing_runs)
    return {each.name: each for each in found}


async def only(journal: SqlJournal, rule: Rule) -> Drift:
    """Give the one drift that a rule finds."""
    found = await seen(journal, rule)
    assert found.unobservable is None
    (drift,) = found.drifts
    return drift


async def test_an_open_run_that_nobody_drives_is_found_and_started(
    sqlite_url: str, client: temporalio.client.Client
) -> None:
    """A run that was accepted and never started, and one whose workflow was terminated, are found; rousing mends it."""
    journal, run_id, queue = open_prepared(sqlite_url), f"run-{uuid.uuid4().hex}", f"q-{uuid.uuid4().hex}"
    await journal.commit(accept_for_temporal(run_id))
    hands, driven = Hands(journal, client, queue), drive(client, queue)["driven"]
    try:
        drift = await only(journal, driven)
        assert (drift.kind, drift.actual) == (DriftKind.MISSING, "Temporal does not know it")
        assert drift.correction == Rouse(run_id)
        assert (await look(driven, journal, Standing(), 2_000)).drifts == (), "it was accepted a second ago"
        await hands.rouse(run_id)
        assert await seen(journal, driven) == Look(count=1)
        await client.get_workflow_handle(run_id).terminate("by somebody")
        drift = await only(journal, driven)
        assert (drift.kind, drift.actual) == (DriftKind.DIFFERENT, "its workflow is TERMINATED")
    finally:
        await journal.close()


async def test_what_temporal_runs_without_the_store_is_found(sqlite_url: str, client: temporalio.client.Client) -> None:
    """A workflow of a run that this store does not know is drift, one that belongs to another store is not."""
    journal, run_id, queue = open_prepared(sqlite_url), f"run-{uuid.uuid4().hex}", f"q-{uuid.uuid4().hex}"
    try:
        for name, store_id in ((run_id, journal.store_id), (f"{run_id}-other", "another")):
            await start_workflow(client, saga="order", run_id=name, store_id=store_id, task_queue=queue)
        async with asyncio.timeout(30):
            # Temporal lists what it runs a moment later.
            while len(await driven_runs(client, queue)) < 2:  # noqa: ASYNC110 - Temporal has no event for it
                await asyncio.sleep(0.05)
        drift = await only(journal, drive(client, queue)["orphans"])
        assert (drift.subject, drift.kind, drift.correction) == (run_id, DriftKind.UNEXPECTED, None)
        for name in (run_id, f"{run_id}-other"):
            await client.get_workflow_handle(name).terminate()
    finally:
        await journal.close()


async def test_without_temporal_nobody_could_look_if_there_was_something_to_ask(journal: SqlJournal) -> None:
    """A Temporal that is away is "could not look", unless no run needs it and none can be running."""
    assert (await seen(journal, drive(None, "q")["driven"])).drifts == (), "no run is driven by Temporal"
    assert (await seen(journal, drive(None, "q")["orphans"])).unobservable == "no answer"
    assert (await seen(journal, drive(None, "q", nothing_runs=True)["orphans"])) == Look()
    await journal.commit(accept_for_temporal("theirs"))
    assert (await seen(journal, drive(None, "q", nothing_runs=True)["driven"])).unobservable == "no answer"
