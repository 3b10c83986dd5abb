"""One damaged run never stops the others: the report names its place and a remedy, and all other work continues."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import temporalio.client
from aggregate_parts.damaging import DAMAGE, change, flip_state
from bounds import HANG
from hard_parts import PATIENT, Ledger, Order, client_of, opened, working
from journal_parts import accept, complete, open_prepared, plan_of, succeed
from sqlalchemy import select, text
from temporalio.client import WorkflowExecutionStatus

from amends import RunStatus
from amends.aggregates.errors import DamagedRunError
from amends.aggregates.journal import RunQuery
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.sql.journal import SqlJournal
from amends.aggregates.sql.schema import stored_events
from amends.reconciler.drift.drift import Drift, DriftKind, Intervene
from amends.reconciler.drift.observation import Observation
from amends.reconciler.drift.rule import Rule, drift_rule
from amends.reconciler.drift.rule_state import RuleState
from amends.reconciler.rules.runs import run_rules
from amends.reconciler.rules.temporal import drive_rules
from amends.reconciler.runtime.check import scan
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.interventions import Intervention, InterventionKind
from amends.sagas.temporal.recovery import recover, running_workflows, unknown_to_store
from amends.sagas.temporal.start_workflow import start_workflow

LATER_MS = 10_000_000
EVERY = timedelta(minutes=1)
STEPS = ("reserve", "pack", "confirm")
GOOD, BAD = plan_of(*STEPS), plan_of(*STEPS, saga="bad")
KINDS = pytest.mark.parametrize("kind", DAMAGE)


@pytest.fixture
def journal(store_url: str) -> Iterator[SqlJournal]:
    """Yield a journal with three open runs, the middle one to be damaged, and a closed one."""
    opened = open_prepared(store_url)
    for run_id, plan, at_ms in (("good-1", GOOD, 1_000), ("bad", BAD, 2_000), ("good-2", GOOD, 3_000)):
        for unit in (accept(run_id, plan, at_ms), succeed(run_id, "reserve", at_ms), succeed(run_id, "pack", at_ms)):
            opened.commit_blocking(unit)
    for unit in (accept("done", GOOD), *(succeed("done", name) for name in STEPS), complete("done")):
        opened.commit_blocking(unit)
    yield opened
    opened.close_blocking()


def damaged(journal: SqlJournal, kind: str) -> SqlJournal:
    """Damage the run, and open the store again, as another process would."""
    DAMAGE[kind][0](journal.engine)
    return open_prepared(journal.engine.url.render_as_string(hide_password=False))


@KINDS
async def test_a_damaged_run_is_named_and_the_others_are_read(journal: SqlJournal, kind: str) -> None:
    """Reading many runs returns the damage of one as data: run, stream, position, problem and remedy."""
    other = damaged(journal, kind)
    try:
        found = await other.records(["good-1", "bad", "good-2", "nothing"])
        assert {run_id for run_id, record in found.records.items() if record is not None} == {"good-1", "good-2"}
        (damage,) = found.damaged.values()
        assert (damage.run_id, damage.stream, damage.position) == ("bad", "run/bad", DAMAGE[kind][1])
        assert DAMAGE[kind][2] in damage.problem
        assert damage.remedy
        for part in ("'bad'", "'run/bad'", f"position {damage.position}", damage.problem, damage.remedy):
            assert part in str(damage)
        with pytest.raises(DamagedRunError, match="bad") as raised:
            await other.record("bad")
        assert raised.value.damage == damage
        assert (await other.record("good-1")) is not None
        assert {row.run_id for row in await other.runs(RunQuery())} == {"good-1", "bad", "good-2", "done"}
    finally:
        await other.close()


@KINDS
async def test_a_damaged_run_hurts_no_other_unit_of_its_batch(journal: SqlJournal, kind: str) -> None:
    """A unit that reads the damaged run fails, and the units of sound runs in the same commit are committed."""
    other = damaged(journal, kind)
    try:
        before = [(await other.record(run_id)) for run_id in ("good-1", "good-2")]
        units = [succeed("good-1", "confirm"), succeed("bad", "confirm"), succeed("good-2", "confirm")]
        runs = ("good-1", "bad", "good-2")
        answers = await asyncio.gather(*(other.commit(unit, runs=runs) for unit in units), return_exceptions=True)
        assert [type(answer).__name__ for answer in answers] == ["RunRecord", "DamagedRunError", "RunRecord"]
        for former, run_id in zip(before, ("good-1", "good-2"), strict=True):
            record = await other.record(run_id)
            assert former is not None
            assert record is not None
            assert record.state.position == former.state.position + 1
    finally:
        await other.close()


def rules() -> dict[str, Rule]:
    """Yield the rules over open runs, and a user's rule that reads every run itself."""

    @drift_rule("mine", every=EVERY)
    def mine(observation: Observation) -> Iterator[Drift]:
        for row in observation.runs():
            record = observation.record(row.run_id)
            facts = observation.facts(row.run_id)
            if record is not None and not record.state.closed:
                yield Drift(subject=row.run_id, kind=DriftKind.DIFFERENT, expected="closed", evidence=f"{len(facts)}")

    found = {each.name: each for each in run_rules(Registry(()), driver="in-process")}
    return {**found, "mine": mine}


@KINDS
@pytest.mark.parametrize("name", ["overdue", "unserved", "mine"])
async def test_a_rule_reports_a_damaged_run_once_and_looks_at_the_others(
    journal: SqlJournal, kind: str, name: str
) -> None:
    """A built-in rule and a user's rule report drifts in sound runs, and the damaged run as a separate drift."""
    other = damaged(journal, kind)
    try:
        seen = await scan(rules()[name], other, RuleState(), LATER_MS, driven={})
    finally:
        await other.close()
    assert seen.unobservable is None
    subjects = [drift.subject for drift in seen.drifts]
    assert sorted(subjects) == ["bad", "good-1", "good-2"]
    (drift,) = [each for each in seen.drifts if each.subject == "bad"]
    assert drift.correction is None
    assert DAMAGE[kind][2] in drift.evidence


async def test_a_correction_of_a_damaged_run_is_held(journal: SqlJournal) -> None:
    """A reconciler does not correct a damaged run for a rule that does not read the run itself."""

    @drift_rule("blind", every=EVERY, mode="apply")
    def blind(observation: Observation) -> Iterator[Drift]:
        for row in observation.runs():
            retry = Intervene(
                row.run_id, Intervention(kind=InterventionKind.RETRY, actor="", reason="to see", node="pack")
            )
            yield Drift(subject=row.run_id, kind=DriftKind.DIFFERENT, expected="x", correction=retry)

    other = damaged(journal, "a middle fact is missing")
    try:
        seen = await scan(blind, other, RuleState(), LATER_MS, driven={})
    finally:
        await other.close()
    assert "position 2: the event is missing" in seen.in_flight["bad"]
    assert "good-1" not in seen.in_flight


async def test_news_leave_out_what_was_changed_and_report_it(journal: SqlJournal) -> None:
    """A rule that follows the log neither receives a changed event nor stops at it, and the event is reported."""

    @drift_rule("news", every=EVERY)
    def new_events(observation: Observation) -> Iterator[Drift]:
        events = [f"{each.originator_id}:{each.originator_version}" for each in observation.new_events()]
        yield Drift(subject="all", kind=DriftKind.DIFFERENT, expected="", evidence=" ".join(events))

    everything = await scan(new_events, journal, RuleState(), LATER_MS, driven={})
    (before,) = everything.drifts
    flip_state(journal.engine, "run/bad", 2)
    seen = await scan(new_events, journal, RuleState(), LATER_MS, driven={})
    after, damage = seen.drifts
    assert set(before.evidence.split()) - set(after.evidence.split()) == {"run/bad:2"}
    assert damage.subject == "bad"
    assert seen.log_position == everything.log_position


async def test_a_wrong_row_of_the_read_model_hides_no_run(journal: SqlJournal) -> None:
    """The list reads a run with a damaged row from the journal, and shows the run even if that is damaged too."""
    change(journal.engine, "UPDATE saga_index SET keys = 'nonsense' WHERE run_id IN ('bad', 'good-1')")
    DAMAGE["a middle fact is missing"][0](journal.engine)
    rows = {row.run_id: row for row in await journal.runs(RunQuery())}
    assert set(rows) == {"good-1", "bad", "good-2", "done"}
    assert rows["good-1"].status.value == "RUNNING"
    assert rows["bad"].status.value == "NEEDS_ATTENTION"
    assert "amends db check" in str(rows["bad"].error)


async def test_one_damaged_character_makes_no_other_run_unreadable(tmp_path: Path) -> None:
    """A text that is not UTF-8, for which SQLite refuses every row of an answer, damages only its own run."""
    journal = open_prepared(f"sqlite:///{tmp_path / 'events.db'}")
    try:
        for run_id in ("bad", "good"):
            await journal.commit(accept(run_id))
        with journal.engine.begin() as connection:
            changed = (
                "UPDATE stored_events SET topic = CAST(x'616d656e64732eff' AS TEXT) WHERE originator_id = 'run/bad'"
            )
            connection.execute(text(changed))
        found = await journal.records(["bad", "good"])
        assert (list(found.damaged), list(found.records)) == (["bad"], ["good"])
        assert found.damaged["bad"].position == 1
        await journal.commit(succeed("good", "reserve"))
    finally:
        await journal.close()


async def test_a_start_of_the_same_definition_stores_a_lost_plan_again(journal: SqlJournal) -> None:
    """The remedy for a plan that is missing or changed works: every run that follows the plan is readable again."""
    for kind in ("the plan is missing", "the plan is changed"):
        other = damaged(journal, kind)
        try:
            with pytest.raises(DamagedRunError, match="start a run of the same definition"):
                await other.record("bad")
            await other.commit(accept(f"after {kind}", BAD))
            record = await other.record("bad")
            assert record is not None
            assert record.state.position == 3
        finally:
            await other.close()


async def test_a_worker_serves_the_others_and_a_restored_run_goes_on(
    store_url: str, temporal_address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A new worker starts, names the damaged run and ends the others; once its facts are restored, the run ends too."""
    temporal = await temporalio.client.Client.connect(temporal_address)
    ledger = Ledger(tmp_path)
    async with opened(store_url) as journal:
        queue = f"damaged-{journal.store_id}"
        bad, good = f"{queue}-bad", f"{queue}-good"
        async with working(temporal, journal, queue):
            for run_id in (bad, good):
                order = Order(folder=str(tmp_path), away=("pay/do",))
                await client_of(temporal, journal, queue).start(PATIENT, order, id=run_id)
                await ledger.until_called(run_id, "pay/do/0")
        lost = (stored_events.c.originator_id == f"run/{bad}") & (stored_events.c.originator_version == 2)
        with journal.engine.begin() as connection:
            row = connection.execute(select(stored_events).where(lost)).mappings().one()
            connection.execute(stored_events.delete().where(lost))
    for run_id in (bad, good):
        ledger.open_gate(run_id)
    async with opened(store_url) as journal:
        client = client_of(temporal, journal, queue)
        async with working(temporal, journal, queue):
            assert (await client.result(good, timeout=HANG)).status is RunStatus.COMPLETED
            # The run's workflow fails, so that Temporal does not repeat it again and again.
            workflow = temporal.get_workflow_handle(bad)
            while (await workflow.describe()).status is not WorkflowExecutionStatus.FAILED:  # noqa: ASYNC110 - a server's state
                await asyncio.sleep(0.02)
            assert f"skipped: run '{bad}' cannot be read" in caplog.text
            found = await recover(temporal, journal, task_queue=queue, sagas=None)
            assert (found.started, found.driven, list(found.damaged)) == ([], [], [bad])
            assert await unknown_to_store(temporal, journal, task_queue=queue) == []
            for rule in drive_rules(temporal, "", task_queue=queue, nothing_runs=False):
                seen = await scan(rule, journal, RuleState(), LATER_MS)
                assert seen.unobservable is None
                assert [drift.subject for drift in seen.drifts] == ([bad] if rule.name == "driven" else [])
            with journal.engine.begin() as connection:
                connection.execute(stored_events.insert(), dict(row))
            found = await recover(temporal, journal, task_queue=queue, sagas=None)
            assert (found.started, list(found.damaged)) == ([bad], [])
            assert (await client.result(bad, timeout=HANG)).status is RunStatus.COMPLETED
    assert ledger.acted(bad) == ledger.acted(good) == ["pay/do/0", "deliver/do/0"]


@pytest.mark.parametrize("page", [7, pytest.param(200, marks=pytest.mark.soak)])
async def test_recovery_walks_all_pages_and_leaves_out_the_damaged_run(
    sqlite_url: str, temporal_address: str, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """Every other run of three pages is started once, whichever page the damaged run is on."""
    monkeypatch.setattr("amends.sagas.temporal.recovery._PAGE", page)
    monkeypatch.setattr("amends.sagas.temporal.recovery._AT_ONCE", 3)
    temporal, count = await temporalio.client.Client.connect(temporal_address), 2 * page + 2
    before = open_prepared(sqlite_url)
    run_ids = [f"{before.store_id}-{number}" for number in range(count)]
    for number, run_id in enumerate(run_ids):
        before.commit_blocking(accept(run_id, GOOD, 1_000 + number, driver=TEMPORAL_DRIVER))
    bad = run_ids[page + 1]
    flip_state(before.engine, f"run/{bad}", 1)
    before.close_blocking()
    async with opened(sqlite_url) as journal:
        found = await recover(temporal, journal, task_queue=before.store_id, sagas=None)
        assert sorted(found.started) == sorted(set(run_ids) - {bad})
        assert (list(found.damaged), found.driven, found.refused) == ([bad], [], {})
        again = await recover(temporal, journal, task_queue=before.store_id, sagas=None)
        assert (again.started, sorted(again.driven)) == ([], sorted(set(run_ids) - {bad}))
    for run_id in found.started:
        await temporal.get_workflow_handle(run_id).terminate()


async def test_a_damaged_run_that_temporal_runs_is_no_orphan(sqlite_url: str, temporal_address: str) -> None:
    """A workflow of an unreadable run is reported as damage, neither as unknown nor as one to end."""
    temporal = await temporalio.client.Client.connect(temporal_address)
    async with opened(sqlite_url) as journal:
        queue = f"orphan-{journal.store_id}"
        for position, unit in enumerate((accept(queue), succeed(queue, "reserve")), 1):
            assert (await journal.commit(unit)).state.position == position
        change(journal.engine, "DELETE FROM stored_events WHERE originator_version = 1")
        workflow = await start_workflow(
            temporal, saga="order", run_id=queue, store_id=journal.store_id, task_queue=queue
        )
        try:
            while queue not in await running_workflows(temporal, queue):  # noqa: ASYNC110 - Temporal has no event for it
                await asyncio.sleep(0.05)
            (_, orphans) = drive_rules(temporal, "", task_queue=queue, nothing_runs=False)
            (drift,) = (await scan(orphans, journal, RuleState(), LATER_MS)).drifts
            assert (drift.subject, drift.expected, drift.correction) == (queue, "facts that can be read", None)
            assert await unknown_to_store(temporal, journal, task_queue=queue) == []
        finally:
            await workflow.terminate()
