"""Test the built-in rules about open runs, on runs of every kind."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from reading_shop import Shop

from amends import (
    Attempted,
    Call,
    Rejected,
    Retry,
    RunQuery,
    RunStatus,
    Saga,
    UnitOfWork,
    effect,
    pivot,
    retriable,
    transaction,
)
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.reconciler.drift.decide import ScanResult
from amends.reconciler.drift.drift import Intervene, Wake, described
from amends.reconciler.drift.rule_state import RuleState
from amends.reconciler.rules.runs import run_rules
from amends.reconciler.runtime.check import scan
from amends.sagas.definition.registry import Registry
from amends.testing import RuleScenario, Scenario

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS


@pytest.fixture
def journal(shop: Shop) -> Iterator[SqlJournal]:
    """Yield the journal of the shop."""
    opened = open_journal(f"sqlite:///{shop.store}")
    yield opened
    opened.close_blocking()


async def seen(journal: SqlJournal, name: str, registry: Registry | None, after_ms: int, **options: Any) -> ScanResult:  # noqa: ANN401 - those of run_rules
    """Scan by a rule, some time after the last fact of all."""
    (rule,) = [each for each in run_rules(registry, driver="temporal", **options) if each.name == name]
    with journal.engine.connect() as connection:
        last_ms = connection.exec_driver_sql("SELECT max(updated_ms) FROM saga_index").scalar_one()
    return await scan(rule, journal, RuleState(), last_ms + after_ms, driven={})


async def test_an_exhausted_compensation_is_drift_at_once_with_a_retry(shop: Shop, journal: SqlJournal) -> None:
    """A run that waits for people about an undo is drift at once, with a retry as its correction."""
    found = (await seen(journal, "attention", shop.project.registry, 0)).drifts
    drifts = {each.subject: each for each in found}
    stuck = drifts["order-stuck"]
    assert isinstance(stuck.correction, Intervene)
    assert described(stuck.correction) == "retry reserve_stock of run order-stuck"
    assert stuck.version is not None
    assert "the shelf is locked" in stuck.evidence
    assert described(drifts["order-mail"].correction) == "retry send_receipt of run order-mail"  # type: ignore[arg-type]  # it has one
    assert len(drifts) == 2


def test_all_exhausted_compensations_of_a_run_are_retried_together() -> None:
    """One approval takes all decisions about a run in one transaction, each linked to the drift, and the run closes."""

    @effect
    async def charge(_: str, __: Call) -> str:
        return ""

    @charge.compensation(retry=Retry(max_attempts=1))
    async def refund(tried: Attempted[str, str], call: Call) -> None: ...

    @effect
    async def ship(_: str, __: Call) -> str:
        return ""

    @ship.compensation(retry=Retry(max_attempts=1))
    async def call_back(tried: Attempted[str, str], call: Call) -> None: ...

    @transaction
    def confirm(_: str, __: UnitOfWork) -> None:
        raise Rejected("sold out")

    (attention,) = [each for each in run_rules(None, driver="temporal") if each.name == "attention"]
    with Scenario(Saga("buy", str, charge, ship, pivot(confirm))) as scenario:
        for step in (charge, ship):
            scenario.answers(step, "done").compensation_answers(step, OSError("closed"), None)
        scenario.when("a book").needs_attention("charge", "ship")
        rule = RuleScenario(attention, scenario)
        (drift,) = rule.scan()
        assert described(drift.correction) == "retry charge, retry ship of run run-1"  # type: ignore[arg-type]  # it has one
        assert rule.reconcile().held == {"run-1": "waits for approval"}
        (done,) = rule.reconcile(approving=True).corrected
        assert done.problem is None
        retries = [each for each in scenario.journal.facts_blocking("run-1") if each.kind == "RetryRequested"]
        assert [each.id for each in retries] == [*done.changed]
        assert {getattr(each, "reason", "") for each in retries} == {"its attempts were spent, and it is still open"}
        assert {str(each.causation_id) for each in retries} == {"reconciliation/attention:2"}
        assert scenario.journal.runs_blocking(RunQuery())[0].status is RunStatus.COMPENSATED
        assert rule.scan() == ()


async def test_what_only_people_can_decide_is_drift_after_a_while(
    shop: Shop, journal: SqlJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without a known correction is reported after it has waited longer than the limit."""
    monkeypatch.setattr("amends.reconciler.rules.runs._worth_retrying", lambda *_: False)
    registry, limit = shop.project.registry, timedelta(days=1)
    assert (await seen(journal, "attention", registry, DAY_MS // 2, attended_within=limit)).drifts == ()
    late = (await seen(journal, "attention", registry, DAY_MS, attended_within=limit)).drifts
    assert {each.subject for each in late} == {"order-stuck", "order-mail"}
    assert {each.correction for each in late} == {None}


async def test_what_is_due_and_not_done_is_woken_and_slow_runs_are_reported(shop: Shop, journal: SqlJournal) -> None:
    """A run that Temporal should drive and does not is woken; a call that takes too long is for people to see."""
    registry = shop.project.registry
    assert (await seen(journal, "overdue", registry, 0)).drifts == ()
    found = {each.subject: each for each in (await seen(journal, "overdue", registry, 30 * MINUTE_MS)).drifts}
    assert found["order-accepted"].correction == Wake("order-accepted")
    assert found["order-accepted"].actual == {"reserve_stock": "idle"}
    assert found["order-hang"].correction is None, "its driver is not Temporal"
    assert set(found["order-slow-undo"].actual) == {"charge_card"}  # type: ignore[arg-type]  # an object


async def test_the_facts_of_runs_that_cannot_be_overdue_yet_are_not_read(
    shop: Shop, journal: SqlJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For young runs the rule reads only the records, which are read together."""
    monkeypatch.setattr(journal, "facts_blocking", lambda run_id, after=0: pytest.fail(f"{run_id} after {after}"))
    found = await seen(journal, "overdue", shop.project.registry, 0)
    assert (found.count, found.drifts, found.unobservable) == (3, (), None)


_AHEAD, _ALL = {"order-hang", "order-accepted"}, {"order-hang", "order-accepted", "order-slow-undo"}


@pytest.mark.parametrize(
    ("lost", "runs", "said"),
    [
        ("nothing", set(), ""),
        ("undo", _ALL, "step 'charge_card' has no compensation here"),
        ("probe", _AHEAD, "step 'charge_card' has no probe here"),
        ("step", _ALL, "no step is called 'charge_card' here"),
    ],
)
async def test_a_run_whose_code_is_gone_is_named_with_what_it_lacks(
    shop: Shop, journal: SqlJournal, lost: str, runs: set[str], said: str
) -> None:
    """A run is drift when a step, compensation or probe that it may still need is not loaded."""
    registry = Registry(shop.project.registry.sagas.values())
    if lost == "step":
        del registry.steps["charge_card"]
    elif lost != "nothing":
        without: dict[str, Any] = {lost: None}
        registry.steps["charge_card"] = replace(registry.steps["charge_card"], **without)
    found = (await seen(journal, "unserved", registry, 0)).drifts
    assert {each.subject for each in found} == runs
    assert all(said in each.evidence for each in found)


async def test_without_modules_nobody_can_tell_what_is_served(journal: SqlJournal) -> None:
    """When no code is loaded at all, open runs make the rule report that it could not scan."""
    assert "no modules are configured" in str((await seen(journal, "unserved", None, 0)).unobservable)


def test_the_retry_of_a_refused_step_says_that_it_was_refused() -> None:
    """The retry of a refused step states the refusal as its reason, and not spent attempts."""

    @transaction
    def confirm(_: str, __: UnitOfWork) -> None: ...

    @effect(retry=Retry(max_attempts=1))
    async def send(_: str, __: Call) -> str:
        return ""

    (attention,) = [each for each in run_rules(None, driver="temporal") if each.name == "attention"]
    with Scenario(Saga("buy", str, pivot(confirm), retriable(send))) as scenario:
        scenario.answers(send, Rejected("no such street"))
        scenario.when("a book").needs_attention("send")
        (drift,) = RuleScenario(attention, scenario).scan()
        assert isinstance(drift.correction, Intervene)
        assert drift.correction.intervention.reason == "it was refused, and it is still open"
