"""Given / when / then for drift rules: unit tests without a server and without waiting.

A rule scans the store of a `Scenario`, after the test has run sagas and added aggregates there. The same code as in
`amends reconcile` records and corrects the drift; only time is virtual.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amends.aggregates.errors import RefusedError
from amends.aggregates.journal import Tx
from amends.reconciler.drift.decide import approve
from amends.reconciler.drift.drift import Drift, ScanFailed
from amends.reconciler.drift.rule import Rule
from amends.reconciler.drift.stream import reconciliation_of
from amends.reconciler.runtime.check import rule_state_of, scan
from amends.reconciler.runtime.reconciler import Corrected, Reconciler
from amends.sagas.testing import Scenario, blocking

__all__ = ["Reconciled", "RuleScenario"]

_ACTOR = "test"


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The outcome of a reconciliation.

    Attributes:
        corrected: Corrections that succeeded or failed.
        held: Why a drift that has a correction was not corrected, by subject.
    """

    corrected: tuple[Corrected, ...]
    held: Mapping[str, str]


class RuleScenario:
    """A drift rule on the store of a scenario.

    Args:
        rule: The rule under test.
        scenario: The scenario whose store the rule scans.

    Example:
        >>> from datetime import timedelta
        >>> from amends import Call, Drift, DriftKind, Observation, Saga, drift_rule, effect
        >>> @effect(read_only=True)
        ... async def ask(question: str, call: Call) -> str: ...
        >>> @drift_rule("answers", every=timedelta(minutes=1))
        ... def answered(observation: Observation):
        ...     for run in observation.runs():
        ...         yield Drift(subject=run.run_id, kind=DriftKind.DIFFERENT, actual=run.status.value)
        >>> with Scenario(Saga("ask", str, ask)) as scenario:
        ...     _ = scenario.answers(ask, "42").when("what is it?")
        ...     (drift,) = RuleScenario(answered, scenario).scan()
        >>> drift.subject, drift.actual
        ('run-1', 'COMPLETED')
    """

    def __init__(self, rule: Rule, scenario: Scenario[Any]) -> None:
        self._rule = rule
        self._scenario = scenario
        self._reconciler = Reconciler(
            scenario.journal,
            scenario.registry,
            _Actions(scenario),
            clock=scenario.clock.now_ms,
            actor=_ACTOR,
            # No driver works between two calls of a test.
            driven={},
        )

    def scan(self) -> tuple[Drift, ...]:
        """Scan as `amends drift` does, and write nothing.

        Raises:
            ScanFailed: The rule could not scan.
        """
        return blocking(self._scan())

    def reconcile(self, *, approving: bool = False) -> Reconciled:
        """Advance the clock by the rule's `every`, scan as `amends reconcile` does, and correct the drift that is due.

        Args:
            approving: Whether somebody has approved all the drift found so far.

        Raises:
            ScanFailed: The rule could not scan.
        """
        return blocking(self._reconcile(approving=approving))

    async def _scan(self) -> tuple[Drift, ...]:
        journal, name = self._scenario.journal, self._rule.name
        seen = await scan(self._rule, journal, await rule_state_of(journal, name), self._now_ms(), driven={})
        if seen.unobservable is not None:
            raise ScanFailed(seen.unobservable)
        return seen.drifts

    async def _reconcile(self, *, approving: bool) -> Reconciled:
        every_ms = round(self._rule.every.total_seconds() * 1000)
        await self._scenario.clock.wait((), self._now_ms() + every_ms)
        if approving:
            await self._scenario.journal.commit(self._approve)
        verdict = await self._reconciler.scan(self._rule)
        if verdict.rule_state.unobservable is not None:
            raise ScanFailed(verdict.rule_state.unobservable)
        made = [await self._reconciler.correct(self._rule, name, verdict.seen[name]) for name in verdict.due]
        return Reconciled(tuple(made), {verdict.seen[name].subject: why for name, why in verdict.held.items()})

    def _approve(self, tx: Tx) -> None:
        with tx.unit_of_work() as uow:
            stream = reconciliation_of(uow, self._rule.name)
            for name, drift in stream.rule_state.drifts.items():
                if drift.found.correction is not None and drift.corrected_ms is None:
                    stream.record(approve(stream.rule_state, name, self._now_ms(), actor=_ACTOR))

    def _now_ms(self) -> int:
        return self._scenario.clock.now_ms()


class _Actions:
    """Corrections outside of the journal; a run continues after an intervention."""

    def __init__(self, scenario: Scenario[Any]) -> None:
        self._scenario = scenario

    async def wake(self, run_id: str) -> None:
        await self._scenario.runner.resume(run_id)

    async def rebuild(self, runs: Sequence[str] = ()) -> None:  # noqa: ARG002 - the port has it
        raise RefusedError("the read model of a scenario is never wrong; nothing is to be rebuilt")
