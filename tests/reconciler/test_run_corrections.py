"""Corrections of runs: a run that has gone on, or is worked on, is left alone."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from journal_parts import accept, common, open_prepared
from runs import reconciled
from runs.reconciled import REGISTRY, NoActions, counter_is_behind, reconcile, reconciler

from amends.aggregates.run.facts import RetryRequested, StepAttemptFailed, StepStarted
from amends.aggregates.sql.journal import SqlJournal
from amends.reconciler.drift.drift import Drift, DriftKind, Intervene
from amends.reconciler.drift.observation import Observation
from amends.reconciler.drift.rule import Rule
from amends.reconciler.drift.rule_state import RuleState
from amends.reconciler.runtime.check import scan
from amends.reconciler.runtime.reconciler import Reconciler
from amends.sagas.engine.interventions import Intervention, InterventionKind

journal = reconciled.journal


def _attend(run_id: str) -> Any:  # noqa: ANN401 - a unit
    """Return the unit in which a step of a run is given up, so that people have to decide."""

    def unit(tx: Any) -> None:  # noqa: ANN401 - a Tx
        record = tx.record(run_id)
        fields = {"node": "reserve", "attempt": 1, "generation": 0}
        claim = StepStarted(**common(tx, run_id, 2), **fields, key="k", worker="w", lease_until_ms=5_000)
        lost = StepAttemptFailed(
            **common(tx, run_id, 3), **fields, error_type="TimeoutError", error="no answer", retry_at_ms=9_000
        )
        record = tx.append(record, [claim])
        tx.append(record, [lost])

    return unit


async def test_an_intervention_is_linked_both_ways_and_waits_for_a_live_claim(journal: SqlJournal) -> None:
    """An intervention by a rule names the drift as its cause, and the drift names the facts that were written."""
    await journal.commit(accept("run-1"))
    await journal.commit(_attend("run-1"))

    rule = stuck_rule(versioned=True)
    driven = Reconciler(
        journal, REGISTRY, NoActions(), clock=lambda: 1_000, actor="test", driven={"run-1": "its workflow runs"}
    )
    assert [*(await driven.scan(rule)).held.values()] == ["in flight: its workflow runs"]
    (done,) = await reconcile(reconciler(journal), rule)
    assert done.problem is None, done
    (fact,) = await journal.facts("run-1", 3)
    assert isinstance(fact, RetryRequested)
    assert fact.causation_id == "reconciliation/stuck:2"
    assert fact.actor == "rule stuck"
    assert done.changed == (fact.id,)


def stuck_rule(*, versioned: bool) -> Rule:
    """Return a rule that wants the step of a run retried."""

    def stuck(observation: Observation) -> Iterable[Drift]:
        record = observation.record("run-1")
        wish = Intervention(kind=InterventionKind.RETRY, actor="", reason="the participant is back", node="reserve")
        version = (0 if record is None else record.state.position) if versioned else None
        return [Drift(subject="run-1", kind=DriftKind.DIFFERENT, version=version, correction=Intervene("run-1", wish))]

    return replace(counter_is_behind, name="stuck", function=stuck)


def _claim(position: int) -> Any:  # noqa: ANN401 - a unit
    """Return the unit that begins another attempt of the run's step."""

    def unit(tx: Any) -> None:  # noqa: ANN401 - a Tx
        claim = StepStarted(
            **common(tx, "run-1", position),
            node="reserve",
            attempt=2,
            generation=0,
            key="k",
            worker="w",
            lease_until_ms=50_000,
        )
        tx.append(tx.record("run-1"), [claim])

    return unit


async def test_a_run_that_is_worked_on_is_left_alone(sqlite_url: str) -> None:
    """While a call of a run is under way, neither a scan nor a correction that was due before touches the run."""
    journal = open_prepared(sqlite_url)
    for unit in (accept("run-1"), _attend("run-1")):
        await journal.commit(unit)
    rule, early, by = stuck_rule(versioned=False), reconciler(journal), reconciler(journal, now_ms=20_000)
    await early.scan(rule)
    verdict = await by.scan(rule)
    assert len(verdict.due) == 1
    await journal.commit(_claim(4))
    done = await by.correct(rule, verdict.due[0], verdict.seen[verdict.due[0]])
    assert done.problem == "in flight: a call of reserve"
    assert [*(await by.scan(rule)).held.values()] == ["in flight: a call of reserve"]
    assert (await reconciler(journal, now_ms=60_000).scan(rule)).due, "the claim has ended"
    await journal.close()


async def test_a_run_that_has_gone_on_is_left_alone(sqlite_url: str) -> None:
    """An intervention by a rule is refused when any fact was written to the run after the scan."""
    journal = open_prepared(sqlite_url)
    for unit in (accept("run-1"), _attend("run-1")):
        await journal.commit(unit)
    rule, by = stuck_rule(versioned=True), reconciler(journal, now_ms=60_000)
    verdict = await by.scan(rule)
    await journal.commit(_claim(4))
    done = await by.correct(rule, verdict.due[0], verdict.seen[verdict.due[0]])
    assert done.problem == "the run has moved on from position 3 to 4"
    await journal.close()


async def test_where_nobody_can_be_asked_no_open_run_is_touched(sqlite_url: str) -> None:
    """A rule decides about an open run only when it is known that no driver works on it."""
    journal = open_prepared(sqlite_url)
    for unit in (accept("run-1"), _attend("run-1")):
        await journal.commit(unit)
    blind = await scan(stuck_rule(versioned=True), journal, RuleState(), 60_000, driven=None)
    assert blind.in_flight == {"run-1": "it is unknown whether its workflow runs"}
    await journal.close()


async def test_a_run_that_is_not_there_is_left_alone(sqlite_url: str) -> None:
    """A decision about a run that the journal does not know is held, and does not fail again and again."""
    journal = open_prepared(sqlite_url)
    (verdict,) = [verdict async for verdict in reconciler(journal).scans(stuck_rule(versioned=True))]
    assert [*verdict.held.values()] == ["there is no such run"]
    await journal.close()
