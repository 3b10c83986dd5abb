"""Reconcile: record a scan, and correct the drift that is due, each in a transaction of its own.

Theory of operation: a correction that changes our store (`Command`, `Intervene`) is one unit of the committer. The unit
reads the rule's stream at its head, asks `hold_reason` again, compares the version, makes the correction, and appends
`DriftCorrected`. Either all of it is committed or nothing; a second reconciler finds the drift corrected. Any other
correction is declared first (`CorrectionStarted`, as a lease), then made, then recorded. When the process is killed in
between, the correction is repeated after the lease, so it must be repeatable; `Wake` and `Rebuild` are.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from amends.aggregates.errors import RefusedError, UnitLost, UnreachableError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.journal import Journal, StepWork, Tx
from amends.aggregates.text import one_line
from amends.aggregates.values.error_report import ErrorReport, describe, is_a, line_of, raised_in_amends
from amends.reconciler.drift.decide import ScanResult, Verdict, decide, hold_reason, live_claim
from amends.reconciler.drift.drift import Cause, Command, Correction, Drift, Intervene, Rebuild, Wake, described
from amends.reconciler.drift.facts import CorrectionFailed, CorrectionStarted, DriftCorrected, ReconciliationFact
from amends.reconciler.drift.rule import Rule
from amends.reconciler.drift.rule_state import RuleState
from amends.reconciler.drift.stream import Reconciliation, reconciliation_of
from amends.reconciler.maintenance_windows import Maintenance
from amends.reconciler.runtime.check import rule_state_of, scan, scan_all
from amends.sagas.definition.registry import Registry
from amends.sagas.engine import interventions
from amends.sagas.runtime.error_log import ErrorLog

__all__ = ["Actions", "Corrected", "Reconciler"]

A = TypeVar("A", bound=Aggregate)

_SCANS = 3
"""The number of attempts at a scan when other scans keep being recorded first."""


class Actions(Protocol):
    """Corrections outside of our store's transactions; each may be repeated."""

    async def wake(self, run_id: str) -> None:
        """Wake a run: ask Temporal to read the journal, and start the workflow where none runs.

        Raises:
            UnreachableError: Temporal cannot be reached.
        """
        ...

    async def rebuild(self, runs: Sequence[str] = ()) -> None:
        """Rebuild the read model.

        Args:
            runs: The runs whose rows are rebuilt; empty for all of them.

        Raises:
            UnreachableError: The store cannot be reached.
        """
        ...


@dataclass(frozen=True, slots=True)
class Corrected:
    """The outcome of one correction.

    Attributes:
        drift: Id of the drift.
        subject: Subject of the drift.
        correction: The correction, in words.
        changed: Ids of the facts and streams that it wrote.
        problem: Why it failed or was held; `None` after a success.
    """

    drift: str
    subject: str
    correction: str
    changed: tuple[str, ...] = ()
    problem: str | None = None


class Reconciler:
    """Scans by rules, records the scans, and corrects drift.

    Args:
        journal: The store.
        registry: Registry in which interventions find the types of results.
        actions: Corrections outside of the journal.
        clock: Returns the time in milliseconds since the epoch.
        actor: Name under which the scans and corrections are recorded.
        driven: Runs that a driver works on, with the reason not to touch them; `None` when no driver can be asked.
        errors: The log of errors that rules and corrections raise.
    """

    def __init__(
        self,
        journal: Journal,
        registry: Registry,
        actions: Actions,
        *,
        clock: Callable[[], int],
        actor: str,
        driven: Mapping[str, str] | None,
        errors: ErrorLog | None = None,
    ) -> None:
        self._journal = journal
        self._registry = registry
        self._actions = actions
        self._clock = clock
        self._actor = actor
        self._driven = driven
        self._errors = errors or ErrorLog()

    async def scans(self, rule: Rule) -> AsyncIterator[Verdict]:
        """Run a rule until it has scanned everything, and record each scan; correct nothing in between.

        Raises:
            UnreachableError: The store cannot be reached.
        """
        rule_state = await rule_state_of(self._journal, rule.name)
        async for verdict in scan_all(lambda: self.scan(rule), rule_state.sweep):
            yield verdict

    async def scan(self, rule: Rule) -> Verdict:
        """Run a rule once and record its scan; correct nothing.

        A rule that sweeps in parts scans the new facts and the next part.

        The scan is recorded only when no other scan was recorded since it began. It knows nothing of the drift that the
        other scan found, so it would clear that drift, move the sweep backwards, or count a drift that is gone as seen
        twice. The rule scans again instead, and counts as unable to scan when other scans come first every time.

        Raises:
            UnreachableError: The store cannot be reached.
        """
        for _ in range(_SCANS):
            now_ms = self._clock()
            rule_state = await rule_state_of(self._journal, rule.name)
            seen = await scan(
                rule,
                self._journal,
                rule_state,
                now_ms,
                driven=self._driven,
                on_error=partial(self._errors.raised, f"drift rule {rule.name!r}"),
            )
            with suppress(_Overtaken):
                return await self._record_scan(rule, seen, now_ms, before=rule_state.scans)
        reason = f"other processes scanned with this rule {_SCANS} times in the meantime; scan again later"
        return await self._record_scan(rule, ScanResult(unobservable=reason), self._clock(), before=0)

    async def _record_scan(self, rule: Rule, seen: ScanResult, now_ms: int, *, before: int) -> Verdict:
        """Record a scan that began after `before` other scans had ended.

        Raises:
            _Overtaken: Another scan was recorded since it began.
        """

        def unit(tx: Tx) -> Verdict:
            with tx.unit_of_work() as uow:
                stream = reconciliation_of(uow, rule.name)
                # A rule that could not scan reports no drift, so its report cannot be out of date.
                if seen.unobservable is None and stream.rule_state.scans != before:
                    raise _Overtaken
                verdict = decide(stream.rule_state, rule, seen, now_ms, actor=self._actor)
                for fact in verdict.facts:
                    stream.record(fact)
                return verdict

        return await self._journal.commit(unit)

    async def correct(self, rule: Rule, name: str, drift: Drift) -> Corrected:
        """Correct one drift, unless it is no longer due.

        A correction that fails is recorded, with the error that it raised.

        Raises:
            UnreachableError: The store cannot be reached.
        """
        if drift.correction is None:
            return Corrected(name, drift.subject, "", problem="there is no correction")
        task = _Task(rule, name, drift, described(drift.correction))
        try:
            match drift.correction:
                case Wake() | Rebuild():
                    changed = await self._act(task, drift.correction)
                case Command() | Intervene():
                    changed = await self._journal.commit(lambda tx: self._change(tx, task))
        except _Held as held:
            return Corrected(name, drift.subject, task.words, problem=held.reason)
        except Exception as error:  # noqa: BLE001 - any error is recorded, and the correction is tried again later
            problem = error.line if isinstance(error, _CorrectionError) else line_of(error)
            if isinstance(error, _CorrectionError):
                self._errors.reported(f"drift rule {rule.name!r}: correction of drift {name}", error.report)
            await self._record(task, lambda fields: CorrectionFailed(**fields, error=problem))
            return Corrected(name, drift.subject, task.words, problem=problem)
        await self._wake(drift.correction)
        return Corrected(name, drift.subject, task.words, changed)

    def _change(self, tx: Tx, task: "_Task") -> tuple[str, ...]:
        """Correct within our store, in the transaction that records the correction."""
        now_ms = self._clock()
        with tx.unit_of_work() as uow:
            stream = reconciliation_of(uow, task.rule.name)
            cause = self._cause(uow, stream.rule_state, task, now_ms)
            match task.drift.correction:
                case Command() as command:
                    changed = _run(uow, command, task.drift, cause)
                case Intervene() as wish:
                    changed = self._intervene(tx, wish, task.drift, cause, now_ms)
                case _:
                    changed = ()
            stream.record(
                DriftCorrected(**self._fields(stream.rule_state, task, now_ms), correction=task.words, changed=changed)
            )
            return changed

    def _cause(self, uow: StepWork, rule_state: RuleState, task: "_Task", now_ms: int) -> Cause:
        """Check again that the drift is due, and return the cause that the correction records."""
        windows = uow.find(Maintenance, Maintenance.ID)
        maintenance = None if windows is None else windows.windows.closed_for(task.rule.name, now_ms)
        policy = task.rule.policy
        reason = hold_reason(rule_state, task.name, task.drift, policy, now_ms, in_flight={}, maintenance=maintenance)
        if reason is not None:
            raise _Held(reason)
        position = rule_state.drifts[task.name].position
        return Cause(task.rule.name, task.name, f"{Reconciliation.stream_of(task.rule.name)}:{position}")

    def _intervene(self, tx: Tx, wish: Intervene, drift: Drift, cause: Cause, now_ms: int) -> tuple[str, ...]:
        record = tx.record(wish.run_id)
        if record is None:
            raise RefusedError(f"there is no run {wish.run_id!r} to decide about")
        claim = live_claim(record, now_ms)
        if claim is not None:
            raise _Held(f"in flight: {claim}")
        if drift.version is not None and record.state.position != drift.version:
            raise _Held(f"the run has moved on from position {drift.version} to {record.state.position}")
        after = record
        for decision in wish.interventions:
            decided = replace(decision, actor=_actor(cause), causation=cause.fact)
            after = interventions.apply(tx, self._registry, after, decided, now_ms, position=None)
        first, last = record.state.position + 1, after.state.position
        return tuple(f"{wish.run_id}:{position}" for position in range(first, last + 1))

    async def _act(self, task: "_Task", correction: Wake | Rebuild) -> tuple[str, ...]:
        """Correct outside of our store, between the two facts that declare and record the correction."""
        await self._record(task, lambda fields: CorrectionStarted(**fields, correction=task.words), ask=True)
        if isinstance(correction, Wake):
            await self._actions.wake(correction.run_id)
        else:
            await self._actions.rebuild(correction.runs)
        await self._record(task, lambda fields: DriftCorrected(**fields, correction=task.words, changed=()))
        return ()

    async def _wake(self, correction: Correction) -> None:
        """Wake the run after an intervention; while Temporal is away, the run continues when a worker starts."""
        if isinstance(correction, Intervene) and self._driven is not None:
            with suppress(UnreachableError):
                await self._actions.wake(correction.run_id)

    async def _record(
        self, task: "_Task", make: Callable[[dict[str, Any]], ReconciliationFact], *, ask: bool = False
    ) -> None:
        def unit(tx: Tx) -> None:
            now_ms = self._clock()
            with tx.unit_of_work() as uow:
                stream = reconciliation_of(uow, task.rule.name)
                if ask:
                    self._cause(uow, stream.rule_state, task, now_ms)
                stream.record(make(self._fields(stream.rule_state, task, now_ms)))

        await self._journal.commit(unit)

    def _fields(self, rule_state: RuleState, task: "_Task", now_ms: int) -> dict[str, Any]:
        return {"scan": rule_state.scans, "as_of_ms": now_ms, "actor": self._actor, "drift": task.name}


@dataclass(frozen=True, slots=True)
class _Task:
    rule: Rule
    name: str
    drift: Drift
    words: str


class _Overtaken(Exception):  # noqa: N818 - an answer, not a fault
    """Another scan was recorded since this one began."""


class _Held(Exception):  # noqa: N818 - an answer, not a fault
    """The drift must not be corrected after all."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _CorrectionError(Exception):
    """A correction's function raised an error, of any class."""

    def __init__(self, report: ErrorReport) -> None:
        super().__init__(report.error_type)
        self.report = report

    @property
    def line(self) -> str:
        """The class and message of the error."""
        return one_line(f"{self.report.error_type}: {self.report.message}")


def _actor(cause: Cause) -> str:
    return f"rule {cause.rule}"


def _run(uow: StepWork, command: Command, drift: Drift, cause: Cause) -> tuple[str, ...]:
    watched = _Watched(uow)
    if command.aggregate is not None and drift.version is not None:
        found = watched.find(*command.aggregate)
        version = 0 if found is None else found.version
        if version != drift.version:
            raise _Held(f"{command.aggregate[1]} has moved on from position {drift.version} to {version}")
    try:
        command.function(command.input, cause, watched)
    except BaseException as error:
        if is_a(error, UnitLost) and raised_in_amends(error):
            raise
        raise _CorrectionError(describe(error)) from None
    return watched.changed()


class _Watched:
    """A unit of work that remembers the aggregates that were changed."""

    def __init__(self, uow: StepWork) -> None:
        self._uow = uow
        self._used: dict[str, tuple[Aggregate, int]] = {}

    def get(self, cls: type[A], id: str) -> A:  # noqa: A002 - the word that aggregates use
        found = self._uow.get(cls, id)
        self._used.setdefault(cls.stream_of(id), (found, found.version))
        return found

    def find(self, cls: type[A], id: str) -> A | None:  # noqa: A002 - as above
        found = self._uow.find(cls, id)
        if found is not None:
            self._used.setdefault(cls.stream_of(id), (found, found.version))
        return found

    def add(self, aggregate: A) -> A:
        self._used.setdefault(type(aggregate).stream_of(aggregate.id), (aggregate, 0))
        return self._uow.add(aggregate)

    def execute(self, statement: object, *, expect_rows: int | None = None) -> Any:  # noqa: ANN401 - rows
        return self._uow.execute(statement, expect_rows=expect_rows)

    def changed(self) -> tuple[str, ...]:
        """List the new positions in the aggregates' streams."""
        return tuple(
            f"{stream}:{position}"
            for stream, (aggregate, before) in self._used.items()
            for position in range(before + 1, aggregate.version + 1)
        )
