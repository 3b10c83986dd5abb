"""Test the built-in rules: each finds its damage on a real store and a real Temporal, and its correction works."""

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import temporalio.client
from aggregate_parts.damaging import seal
from bounds import HANG_S
from journal_parts import PLAN, Counter, accept, complete, open_prepared, run_to_end, started, step, succeed
from sqlalchemy import text
from strategies import AnyResults, plan_node, plan_of
from temporal_parts import TemporalServer
from temporalio import activity, workflow
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.journal import RunQuery, Tx
from amends.aggregates.run.plan import Plan
from amends.aggregates.run.record import RunSummary
from amends.aggregates.sql import check as store_check
from amends.aggregates.sql.journal import SqlJournal
from amends.cli.runtime.rule_context import TemporalCorrections
from amends.reconciler.drift.decide import ScanResult
from amends.reconciler.drift.drift import Drift, DriftKind, Rebuild, Wake
from amends.reconciler.drift.observation import Observation
from amends.reconciler.drift.rule import Rule
from amends.reconciler.drift.rule_state import RuleState
from amends.reconciler.drift.stream import Reconciliation
from amends.reconciler.rules import sql as sql_module
from amends.reconciler.rules import temporal as temporal_module
from amends.reconciler.rules.sql import store_rules
from amends.reconciler.rules.temporal import drive_rules, driven_runs
from amends.reconciler.runtime.check import scan
from amends.reconciler.runtime.reconciler import Reconciler
from amends.sagas.temporal.start_workflow import pollers, start_workflow

LATER_MS = 10_000_000
ANYTHING: Any = AnyResults()


@pytest.fixture
def journal(store_url: str) -> Iterator[SqlJournal]:
    """Yield a journal on a store with a finished run and an open one."""
    opened = open_prepared(store_url)
    for unit in [*run_to_end("done", "c")[:1], accept("open", at_ms=2_000)]:
        opened.commit_blocking(unit)
    yield opened
    opened.close_blocking()


@pytest.fixture
def small(sqlite_url: str) -> Iterator[SqlJournal]:
    """Yield a journal on an empty store, for tests that do not depend on the database."""
    opened = open_prepared(sqlite_url)
    yield opened
    opened.close_blocking()


def damage(journal: SqlJournal, statement: str) -> None:
    """Change the store without the journal."""
    with journal.engine.begin() as connection:
        connection.execute(text(statement))


async def seen(journal: SqlJournal, rule: Rule) -> ScanResult:
    """Scan by a rule, long after the last event."""
    return await scan(rule, journal, RuleState(), LATER_MS)


def rules(journal: SqlJournal) -> dict[str, Rule]:
    """Return the rules over the store."""
    return {each.name: each for each in store_rules(journal.engine, EventCodec([Counter, Reconciliation]))}


def reconciler(journal: SqlJournal, at_ms: int = LATER_MS) -> Reconciler:
    """Return a reconciler of the journal."""
    hands = TemporalCorrections(journal, None, "q")
    return Reconciler(journal, ANYTHING, hands, clock=lambda: at_ms, actor="test", driven={})


def finish(journal: SqlJournal, *run_ids: str) -> None:
    """Finish runs, each with enough facts to fill a part of a sweep."""
    for run_id in run_ids:
        for unit in [accept(run_id), succeed(run_id, "reserve"), succeed(run_id, "confirm"), complete(run_id)]:
            journal.commit_blocking(unit)


async def test_a_sound_store_has_no_drift(journal: SqlJournal) -> None:
    """No rule finds drift in a sound store."""
    for rule in rules(journal).values():
        found = await seen(journal, rule)
        assert (found.unobservable, found.drifts) == (None, ())


# ---- the read model


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM saga_index WHERE run_id = 'open'",
        "UPDATE saga_index SET status = 'COMPLETED' WHERE run_id = 'open'",
        "UPDATE stored_events SET originator_id = 'run/moved' WHERE originator_id = 'run/open'",
    ],
)
async def test_a_wrong_row_is_found_and_made_again(journal: SqlJournal, statement: str) -> None:
    """A row that is missing, wrong or of an unknown run is drift of that run, and only that row is rebuilt."""
    damage(journal, statement)
    found = (await seen(journal, rules(journal)["read-model"])).drifts
    assert "open" in [each.subject for each in found]
    for each in found:
        assert each.correction == Rebuild((each.subject,))
        await TemporalCorrections(journal, None, "q").rebuild((each.subject,))
    assert (await seen(journal, rules(journal)["read-model"])).drifts == ()


async def test_many_wrong_rows_are_one_drift_until_none_is_left(journal: SqlJournal) -> None:
    """A lost read model is rebuilt whole; while any row is wrong the drift stays open, at any position of the sweep."""
    finish(journal, *(f"run-{number:02}" for number in range(25)))
    damage(journal, "DELETE FROM saga_index")
    rule = rules(journal)["read-model"]
    verdict = await reconciler(journal, 0).scan(rule)
    assert [each.subject for each in verdict.seen.values()] == ["read model"]
    by = reconciler(journal)
    verdict = await by.scan(rule)
    (done,) = [await by.correct(rule, name, verdict.seen[name]) for name in verdict.due]
    assert (done.problem, done.correction) == (None, "rebuild the read model")
    assert (await by.scan(rule)).seen == {}
    assert len(journal.runs_blocking(RunQuery(limit=100))) == 27


# ---- read the news, and sweep the rest

WRONG = {
    "read-model": "saga_index SET error = 'none'",
    "streams": "stored_events SET topic = topic || '?' WHERE originator_version = 4 OR topic = 'Counter.Counted'",
}
"""The statement that damages every finished run, by the rule that finds the damage."""


@pytest.mark.parametrize("name", ["read-model", "streams"])
async def test_a_look_reads_what_is_new_and_no_more(
    journal: SqlJournal, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Without its sweep, a rule finds damage in events since the last scan, and not in older ones."""
    monkeypatch.setattr(sql_module, "SWEPT_EVENTS", 0)
    monkeypatch.setattr(store_check, "CHANGES_A_PAGE", 3)
    by, rule = reconciler(journal), rules(journal)[name]
    await by.scan(rule)
    finish(journal, "new")
    journal.commit_blocking(step(lambda uow: uow.add(Counter(id="c"))))
    journal.commit_blocking(step(lambda uow: uow.get(Counter, "c").add_one()))
    damage(journal, f"UPDATE {WRONG[name]}")
    found = {each.subject.removeprefix("run/") for each in (await by.scan(rule)).seen.values()}
    assert found == ({"new"} if name == "read-model" else {"new", "Counter/c"})
    assert len((await by.scan(rule)).seen) == len(found), "the new scan sees them again"


@pytest.mark.parametrize("name", ["read-model", "streams"])
async def test_a_sweep_goes_on_where_the_last_look_ended(
    small: SqlJournal, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each scan sweeps a part of bounded size and records its position, so that a restart continues there."""
    finish(small, *(f"run-{number}" for number in range(6)))
    damage(small, f"UPDATE {WRONG[name]}")
    monkeypatch.setattr(sql_module, "SWEPT_EVENTS", 5)
    places: list[str] = []
    rule, last = rules(small)[name], RuleState()
    while len(places) < 2 or places[-1]:
        # As after a restart: only recorded positions remain.
        verdict = await reconciler(small).scan(rule)
        last = verdict.rule_state
        places.append(last.sweep)
    assert len(places) == len(set(places)) > 3
    assert len(last.drifts) == 6


async def test_looking_at_everything_comes_around(small: SqlJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of everything also covers the parts before the position of the sweep."""
    finish(small, *(f"run-{number}" for number in range(6)))
    monkeypatch.setattr(sql_module, "SWEPT_EVENTS", 5)
    by, rule = reconciler(small), rules(small)["read-model"]
    assert (await by.scan(rule)).rule_state.sweep
    assert (await by.scan(rule)).rule_state.sweep
    damage(small, "UPDATE saga_index SET error = 'none' WHERE run_id = 'run-0'")
    verdicts = [verdict async for verdict in by.scans(rule)]
    assert [each.subject for each in verdicts[-1].seen.values()] == ["run-0"]
    assert verdicts[-1].rule_state.sweep == ""
    again = [verdict async for verdict in by.scans(rule)]
    assert len(again) < len(verdicts), "from the beginning it takes one turn"


async def test_a_sweep_that_does_not_come_on_ends(small: SqlJournal) -> None:
    """A rule whose sweep stays at one position is not run for ever."""

    def stuck(observation: Observation) -> list[Drift]:
        observation.sweep = "here"
        return []

    rule = replace(rules(small)["streams"], name="stuck", function=stuck)
    assert len([verdict async for verdict in reconciler(small).scans(rule)]) == 2


async def test_much_damage_is_named_in_part(small: SqlJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many damaged streams a scan names some, the same ones each time, and reports that there are more."""
    monkeypatch.setattr(sql_module, "_NAMED", 2)
    finish(small, *(f"run-{number}" for number in range(6)))
    damage(small, f"UPDATE {WRONG['streams']}")
    by, rule = reconciler(small), rules(small)["streams"]
    for _ in range(3):
        found = [each.subject for each in (await by.scan(rule)).seen.values()]
        assert found == ["run/run-0", "run/run-1", "other streams"]


async def test_that_there_is_more_damage_is_said_for_as_long_as_there_is(
    small: SqlJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drift for unnamed streams stays open at any position of the sweep, and clears after all are repaired."""
    monkeypatch.setattr(sql_module, "_NAMED", 2)
    monkeypatch.setattr(sql_module, "SWEPT_EVENTS", 5)
    finish(small, *(f"run-{number}" for number in range(9)))
    topic = "UPDATE stored_events SET topic"
    for number in range(3):
        damage(small, f"{topic} = topic || '?' WHERE originator_version = 4 AND originator_id = 'run/run-{number}'")
    by, rule = reconciler(small), rules(small)["streams"]
    verdicts = [verdict async for verdict in by.scans(rule)]
    assert len(verdicts) > 4
    for verdict in (*verdicts[1:], await by.scan(rule)):
        assert [each.subject for each in verdict.seen.values()] == ["run/run-0", "run/run-1", "other streams"]
    assert verdict.rule_state.sweep, "there is more to be swept"
    damage(small, f"{topic} = rtrim(topic, '?') WHERE originator_id = 'run/run-1'")
    assert [each.subject for each in (await by.scan(rule)).seen.values()] == ["run/run-0", "run/run-2"]


async def test_damage_in_a_stream_is_found_and_left_to_people(journal: SqlJournal) -> None:
    """A gap is reported with its place and without a correction; after a restore it is no drift any more."""
    rule, by = rules(journal)["streams"], reconciler(journal)
    damage(journal, "UPDATE stored_events SET originator_version = 2 WHERE originator_id = 'run/open'")
    seal(journal.engine)
    (drift,) = (await by.scan(rule)).seen.values()
    assert (drift.subject, drift.kind, drift.correction) == ("run/open", DriftKind.MISSING, None)
    damage(journal, "UPDATE stored_events SET originator_version = 1 WHERE originator_id = 'run/open'")
    seal(journal.engine)
    assert (await by.scan(rule)).seen == {}


# ---- with Temporal


@pytest.fixture
async def client(temporal_address: str) -> temporalio.client.Client:
    """Return a client of a real Temporal."""
    return await temporalio.client.Client.connect(temporal_address)


def accept_for_temporal(run_id: str, plan: Plan = PLAN) -> Callable[[Tx], object]:
    """Return a unit that accepts a run which Temporal drives."""
    return lambda tx: tx.accept(plan, started(tx, run_id, plan).model_copy(update={"driver": "temporal"}))


@activity.defn
async def anything() -> None:
    """Do nothing: the test only needs its poller."""


def drive(client: temporalio.client.Client | None, queue: str, *, nothing_runs: bool = False) -> dict[str, Rule]:
    """Return the rules that ask Temporal."""
    found = drive_rules(client, "no answer", task_queue=queue, nothing_runs=nothing_runs)
    return {each.name: each for each in found}


async def only(journal: SqlJournal, rule: Rule) -> Drift:
    """Return the only drift that a rule finds."""
    found = await seen(journal, rule)
    assert found.unobservable is None
    (drift,) = found.drifts
    return drift


async def until_listed(client: temporalio.client.Client, queue: str, count: int, status: str = "Running") -> None:
    """Wait until Temporal lists a number of workflows of a queue; its list lags behind."""
    query = f'ExecutionStatus = "{status}" AND TaskQueue = "{queue}"'
    async with asyncio.timeout(HANG_S):
        while len([each async for each in client.list_workflows(query)]) < count:  # noqa: ASYNC110 - Temporal has no event for it
            await asyncio.sleep(0.05)


async def test_an_open_run_that_nobody_drives_is_found_and_started(
    sqlite_url: str, client: temporalio.client.Client
) -> None:
    """A run that was never started, and one whose workflow was terminated, are found; waking them corrects it."""
    journal, run_id, queue = open_prepared(sqlite_url), f"run-{uuid.uuid4().hex}", f"q-{uuid.uuid4().hex}"
    await journal.commit(accept_for_temporal(run_id))
    hands, driven = TemporalCorrections(journal, client, queue), drive(client, queue)["driven"]
    try:
        drift = await only(journal, driven)
        assert (drift.kind, drift.actual) == (DriftKind.MISSING, "Temporal does not know the run")
        assert drift.correction == Wake(run_id)
        assert (await scan(driven, journal, RuleState(), 2_000)).drifts == (), "it was accepted a second ago"
        await hands.wake(run_id)
        assert await seen(journal, driven) == ScanResult(count=1)
        await client.get_workflow_handle(run_id).terminate("by somebody")
        await until_listed(client, queue, 1, "Terminated")
        drift = await only(journal, driven)
        assert (drift.kind, drift.actual) == (DriftKind.DIFFERENT, "its workflow is TERMINATED")
    finally:
        await journal.close()


@workflow.defn(name="fails", sandboxed=False)
class Fails:
    """A workflow that fails because of its own fault."""

    @workflow.run
    async def run(self) -> None:
        """Fail for good."""
        raise ApplicationError("a fault")


@pytest.mark.parametrize(("status", "listed"), [("FAILED", "Failed"), ("TIMED_OUT", "TimedOut")])
async def test_an_open_run_whose_workflow_ended_badly_is_found_and_started(
    sqlite_url: str, client: temporalio.client.Client, status: str, listed: str
) -> None:
    """A workflow that failed or timed out does not drive its run; the rule finds the run, and waking it corrects it."""
    journal, run_id, queue = open_prepared(sqlite_url), f"run-{uuid.uuid4().hex}", f"q-{uuid.uuid4().hex}"
    await journal.commit(accept_for_temporal(run_id))
    driven = drive(client, queue)["driven"]
    try:
        # A workflow on a queue without a poller can only time out.
        async with Worker(client, task_queue=queue if status == "FAILED" else f"{queue}-other", workflows=[Fails]):
            bound = timedelta(seconds=1) if status == "TIMED_OUT" else None
            handle = await client.start_workflow("fails", id=run_id, task_queue=queue, execution_timeout=bound)
            with pytest.raises(WorkflowFailureError):
                await handle.result()
        await until_listed(client, queue, 1, listed)
        drift = await only(journal, driven)
        assert (drift.kind, drift.actual) == (DriftKind.DIFFERENT, f"its workflow is {status}")
        assert drift.correction == Wake(run_id)
        await TemporalCorrections(journal, client, queue).wake(run_id)
        assert await seen(journal, driven) == ScanResult(count=1)
        await client.get_workflow_handle(run_id).terminate()
    finally:
        await journal.close()


async def test_what_temporal_runs_although_it_is_closed_is_found(
    sqlite_url: str, client: temporalio.client.Client
) -> None:
    """A workflow of a closed run is drift and is woken; a workflow of an open run is not drift."""
    journal, run_id, queue = open_prepared(sqlite_url), f"run-{uuid.uuid4().hex}", f"q-{uuid.uuid4().hex}"
    finish(journal, run_id)
    await journal.commit(accept_for_temporal(f"{run_id}-open"))
    try:
        for name in (run_id, f"{run_id}-open"):
            await start_workflow(client, saga="order", run_id=name, store_id=journal.store_id, task_queue=queue)
        await until_listed(client, queue, 2)
        drift = await only(journal, drive(client, queue)["orphans"])
        assert (drift.subject, drift.kind, drift.correction) == (run_id, DriftKind.UNEXPECTED, Wake(run_id))
        assert drift.expected == "the run is COMPLETED"
        for name in (run_id, f"{run_id}-open"):
            await client.get_workflow_handle(name).terminate()
    finally:
        await journal.close()


async def test_what_temporal_runs_without_the_store_is_found(sqlite_url: str, client: temporalio.client.Client) -> None:
    """A workflow of a run that this store does not know is drift; a workflow of another store is not."""
    journal, run_id, queue = open_prepared(sqlite_url), f"run-{uuid.uuid4().hex}", f"q-{uuid.uuid4().hex}"
    try:
        for name, store_id in ((run_id, journal.store_id), (f"{run_id}-other", "another")):
            await start_workflow(client, saga="order", run_id=name, store_id=store_id, task_queue=queue)
        await until_listed(client, queue, 2)
        drift = await only(journal, drive(client, queue)["orphans"])
        assert (drift.subject, drift.kind, drift.correction) == (run_id, DriftKind.UNEXPECTED, None)
        for name in (run_id, f"{run_id}-other"):
            await client.get_workflow_handle(name).terminate()
    finally:
        await journal.close()


async def test_a_queue_that_nobody_polls_is_found(sqlite_url: str, client: temporalio.client.Client) -> None:
    """A run whose due effect is routed to a queue without a worker is drift, until a worker polls there."""
    journal, run_id, queue = open_prepared(sqlite_url), f"run-{uuid.uuid4().hex}", f"q-{uuid.uuid4().hex}"
    far = f"far-{queue}"
    await journal.commit(accept_for_temporal(run_id, plan_of(plan_node("send", queue=far))))
    driven = drive(client, queue)["driven"]
    try:
        await start_workflow(client, saga="order", run_id=run_id, store_id=journal.store_id, task_queue=queue)
        await until_listed(client, queue, 1)
        drift = await only(journal, driven)
        assert (drift.subject, drift.expected, drift.correction) == (run_id, f"a worker polls queue {far}", None)
        async with Worker(client, task_queue=far, activities=[anything]):
            while not await pollers(client, far, effects=True):  # noqa: ASYNC110 - Temporal has no event for it
                await asyncio.sleep(0.05)
            assert await seen(journal, driven) == ScanResult(count=1)
    finally:
        await client.get_workflow_handle(run_id).terminate()
        await journal.close()


async def test_without_temporal_nobody_could_look_if_there_was_something_to_ask(journal: SqlJournal) -> None:
    """While Temporal is away the rules could not scan, unless no run needs it and none can be running."""
    assert await seen(journal, drive(None, "q")["driven"]) == ScanResult(), "no run is driven by Temporal"
    assert (await seen(journal, drive(None, "q")["orphans"])).unobservable == "no answer"
    assert (await seen(journal, drive(None, "q", nothing_runs=True)["orphans"])) == ScanResult()
    await journal.commit(accept_for_temporal("theirs"))
    assert (await seen(journal, drive(None, "q", nothing_runs=True)["driven"])).unobservable == "no answer"


async def test_a_store_that_hangs_does_not_stop_the_event_loop(
    small: SqlJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a page of open runs is read, the event loop continues, so a worker can send its heartbeats."""
    monkeypatch.setattr(temporal_module, "_PAGE", 1)
    for unit in (accept_for_temporal("last"), accept("second", at_ms=2_000), accept("first", at_ms=3_000)):
        await small.commit(unit)
    asked, answer = threading.Event(), threading.Event()
    read, pages = small.runs_blocking, list[str]()

    def hang(query: RunQuery) -> list[RunSummary]:
        answer.clear()
        asked.set()
        assert answer.wait(HANG_S), "the loop does not go on"
        page = read(query)
        pages.extend(each.run_id for each in page)
        return page

    async def beat() -> None:
        while True:
            await asyncio.to_thread(asked.wait)
            asked.clear()
            answer.set()

    monkeypatch.setattr(small, "runs_blocking", hang)
    beating = asyncio.create_task(beat())
    try:
        assert (await seen(small, drive(None, "q")["driven"])).unobservable == "no answer"
    finally:
        beating.cancel()
        asked.set()
    assert pages == ["first", "second", "last"], "each page hung"


async def test_a_temporal_that_is_down_for_periods_is_caught_up_once(
    sqlite_url: str, temporal_executable: Path, tmp_path: Path
) -> None:
    """In three periods without Temporal the rule could not scan and nothing is done; then each run is started once."""
    journal, queue, server = open_prepared(sqlite_url), "away", TemporalServer(temporal_executable, tmp_path)
    for run_id in ("run-1", "run-2"):
        await journal.commit(accept_for_temporal(run_id))

    async def reconcile(period: int) -> tuple[str | None, int]:
        found: temporalio.client.Client | None = None
        with suppress(RuntimeError):
            found = await temporalio.client.Client.connect(server.address)
        driven = None if found is None else await driven_runs(found, queue)
        hands, at_ms = TemporalCorrections(journal, found, queue), LATER_MS + period * 60_000
        by = Reconciler(journal, ANYTHING, hands, clock=lambda: at_ms, actor="test", driven=driven)
        rule = drive(found, queue)["driven"]
        verdict = await by.scan(rule)
        made = [await by.correct(rule, name, verdict.seen[name]) for name in verdict.due]
        return verdict.rule_state.unobservable, sum(each.problem is None for each in made)

    with server.serving():
        assert await reconcile(0) == (None, 0), "seen once"
    assert [await reconcile(period) for period in (1, 2, 3)] == [("no answer", 0)] * 3
    with server.serving():
        assert [await reconcile(period) for period in (4, 5, 6)] == [(None, 2), (None, 0), (None, 0)]
    await journal.close()
