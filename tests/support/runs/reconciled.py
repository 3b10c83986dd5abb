"""A counter that drifts, and reconcilers for it."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from journal_parts import Counter, open_prepared, step
from strategies import AnyResults

from amends.aggregates.journal import StepWork
from amends.aggregates.sql.journal import SqlJournal
from amends.reconciler.drift.drift import Cause, Command, Drift, DriftKind
from amends.reconciler.drift.observation import Observation
from amends.reconciler.drift.rule import Rule, drift_rule
from amends.reconciler.drift.stream import Reconciliation
from amends.reconciler.runtime.reconciler import Corrected, Reconciler

EXPECTED = 3
REGISTRY: Any = AnyResults()


def count_on(_: object, cause: Cause, uow: StepWork) -> None:
    """Increase the counter by one."""
    assert cause.fact == "reconciliation/counter:2"
    uow.get(Counter, "c").add_one()


@drift_rule("counter", every=timedelta(minutes=1), mode="apply")
def counter_is_behind(observation: Observation) -> Iterator[Drift]:
    """The counter should have come to three."""
    counter = observation.load(Counter, "c")
    observation.scanned(1)
    if counter is not None and counter.count < EXPECTED:
        yield Drift(
            subject="Counter/c",
            kind=DriftKind.DIFFERENT,
            expected=EXPECTED,
            actual=counter.count,
            version=counter.version,
            correction=Command(count_on, aggregate=(Counter, "c")),
        )


@pytest.fixture
def journal(store_url: str) -> Iterator[SqlJournal]:
    """Yield a journal on an empty store, with a counter at two."""
    opened = open_prepared(store_url)
    opened.codec.register(Reconciliation)
    opened.commit_blocking(step(lambda uow: uow.add(Counter(id="c"))))
    for _ in range(2):
        opened.commit_blocking(step(lambda uow: uow.get(Counter, "c").add_one()))
    yield opened
    opened.close_blocking()


class NoActions:
    """Counts the actions outside of the journal."""

    def __init__(self, *, failing: bool = False) -> None:
        self.rebuilt = 0
        self.failing = failing

    async def wake(self, run_id: str) -> None:
        """Do nothing."""

    async def rebuild(self, runs: Sequence[str] = ()) -> None:  # noqa: ARG002 - the signature of the port
        """Count."""
        self.rebuilt += 1
        if self.failing:
            msg = "killed"
            raise asyncio.CancelledError(msg)


def reconciler(journal: SqlJournal, actions: NoActions | None = None, now_ms: int = 1_000) -> Reconciler:
    """Return a reconciler of the journal."""
    return Reconciler(journal, REGISTRY, actions or NoActions(), clock=lambda: now_ms, actor="test", driven={})


async def reconcile(by: Reconciler, rule: Rule) -> list[Corrected]:
    """Scan, and correct the drift that is due."""
    verdict = await by.scan(rule)
    return [await by.correct(rule, name, verdict.seen[name]) for name in verdict.due]
