"""Test the kit for drift rules: it behaves like the commands, in virtual time."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from eventsourcing.domain import event

from amends import (
    Aggregate,
    Attempted,
    Call,
    Cause,
    Command,
    Drift,
    DriftKind,
    Intervene,
    Intervention,
    InterventionKind,
    Observation,
    Rejected,
    RunQuery,
    RunStatus,
    Saga,
    ScanFailed,
    UnitOfWork,
    drift_rule,
    effect,
)
from amends.testing import RuleScenario, Scenario


class Lamp(Aggregate):
    """A light that should be on."""

    @event("Hung")
    def __init__(self, id: str) -> None:  # noqa: A002, ARG002 - the word that aggregates use
        self.on = False

    @event("Switched")
    def switch(self, cause: str) -> None:  # noqa: ARG002 - kept in the event
        """Turn the lamp on."""
        self.on = True


@effect
async def call_somebody(name: str, call: Call) -> None:
    """Call."""


@call_somebody.compensation
async def say_sorry(tried: Attempted[str, None], call: Call) -> None:
    """Call again."""


@effect
async def call_the_office(name: str, call: Call) -> None:
    """Call the office."""


@call_the_office.compensation
async def hang_up(tried: Attempted[str, None], call: Call) -> None:
    """End the call."""


calling = Saga("calling", str, call_somebody, call_the_office)


def switch_on(name: str, cause: Cause, uow: UnitOfWork) -> None:
    """Turn a lamp on."""
    uow.get(Lamp, name).switch(cause.fact)


@drift_rule("lamps", every=timedelta(minutes=1), mode="apply")
def lamps_are_on(observation: Observation) -> Iterator[Drift]:
    """The lamp is on; the drift has no version, so two scans are needed."""
    lamp = observation.load(Lamp, "hall")
    if lamp is None:
        raise ScanFailed("there is no lamp")
    if not lamp.on:
        yield Drift(subject="hall", kind=DriftKind.DIFFERENT, actual="off", correction=Command(switch_on, "hall"))


@drift_rule("apologies", every=timedelta(minutes=1), mode="propose")
def apologies_are_made(observation: Observation) -> Iterator[Drift]:
    """A failed apology is made again."""
    for run in observation.runs(RunQuery(statuses=frozenset({RunStatus.NEEDS_ATTENTION}))):
        again = Intervention(kind=InterventionKind.RETRY, actor="", reason="they are at home by now")
        yield Drift(
            subject=run.run_id,
            kind=DriftKind.MISSING,
            version=run.position,
            correction=Intervene(run.run_id, again),
        )


def test_each_reconciliation_is_later_than_the_last() -> None:
    """A drift that needs two scans is held by the first and corrected by the second; `scan` does not count."""
    with Scenario(calling) as scenario:
        rule = RuleScenario(lamps_are_on, scenario.given(Lamp("hall")))
        before = scenario.journal.notifications_blocking()
        assert len(rule.scan()) == len(rule.scan()) == 1
        assert scenario.journal.notifications_blocking() == before
        first = rule.reconcile()
        assert (first.corrected, first.held) == (
            (),
            {"hall": "waits for a second scan that finds it, at least 10 s after the first"},
        )
        (corrected,) = rule.reconcile().corrected
        assert (corrected.subject, corrected.changed) == ("hall", ("Lamp/hall:2",))
        assert rule.scan() == ()


def test_a_failed_scan_is_raised() -> None:
    """A test receives the rule's own reason, for both methods."""
    with Scenario(calling) as scenario:
        rule = RuleScenario(lamps_are_on, scenario)
        for looking in (rule.scan, rule.reconcile):
            with pytest.raises(ScanFailed, match="there is no lamp"):
                looking()


def test_a_run_that_was_decided_about_goes_on() -> None:
    """After a correction that is an operator's decision, the run continues."""
    with Scenario(calling) as scenario:
        scenario.answers(call_somebody, None).answers(call_the_office, Rejected("they are closed"))
        scenario.compensation_answers(call_somebody, TimeoutError("nobody is at home")).when("Ada").needs_attention()
        rule = RuleScenario(apologies_are_made, scenario)
        assert rule.reconcile().held == {"run-1": "waits for approval"}
        scenario.compensation_answers(call_somebody, None)
        (corrected,) = rule.reconcile(approving=True).corrected
        assert corrected.problem is None
        record = scenario.journal.record_blocking("run-1")
        assert record is not None
        assert record.state.status is RunStatus.COMPENSATED
        assert rule.scan() == ()
