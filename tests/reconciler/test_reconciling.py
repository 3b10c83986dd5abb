"""Test reconciliation on a real store: its records, its corrections, and that each is made once."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pytest
from bounds import HANG_S
from journal_parts import Counter, run_to_end, step
from runs import reconciled
from runs.reconciled import EXPECTED, NoActions, count_on, counter_is_behind, reconcile, reconciler

from amends.aggregates.journal import StepWork
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.reconciler.drift.decide import Verdict
from amends.reconciler.drift.drift import Cause, Command, Drift, DriftKind, Rebuild, ScanFailed
from amends.reconciler.drift.observation import Observation
from amends.reconciler.drift.rule import Rule
from amends.reconciler.drift.stream import Reconciliation
from amends.reconciler.maintenance_windows import maintenance_of, start_maintenance
from amends.reconciler.runtime.check import rule_state_of
from amends.reconciler.runtime.reconciler import Reconciler


def fail(_: object, __: Cause, uow: StepWork) -> None:
    """Change the counter, then fail."""
    uow.get(Counter, "c").add_one()
    msg = "no more paper"
    raise ValueError(msg)


journal = reconciled.journal


def topics(journal: SqlJournal, rule: str = "counter") -> list[str]:
    """List the kinds of facts in a rule's stream."""
    return [each.topic.partition(".")[2] for each in journal.events_blocking(f"reconciliation/{rule}")]


def count(journal: SqlJournal) -> int:
    """Return the value of the counter."""
    counter = journal.load_blocking(Counter, "c")
    assert counter is not None
    return counter.count


async def test_a_correction_commits_with_the_fact_that_says_so(journal: SqlJournal) -> None:
    """A drift is detected, corrected by a command, and cleared; the fact names the positions that were written."""
    (done,) = await reconcile(reconciler(journal), counter_is_behind)
    assert done.problem is None
    assert done.changed == ("Counter/c:4",)
    assert count(journal) == EXPECTED
    assert await reconcile(reconciler(journal), counter_is_behind) == []
    assert topics(journal) == [
        "ReconciliationOpened",
        *("DriftDetected", "RuleScanned", "DriftCorrected"),
        *("DriftCleared", "RuleScanned"),
    ]


async def test_two_reconcilers_at_once_make_one_correction(journal: SqlJournal, store_url: str) -> None:
    """Both reconcilers see the drift and find it due; the second one finds it corrected."""
    other = open_journal(store_url, aggregates=[Counter, Reconciliation])
    try:
        verdicts = [await reconciler(each).scan(counter_is_behind) for each in (journal, other)]
        name = verdicts[0].due[0]
        assert verdicts[1].due == (name,)
        drift = verdicts[0].seen[name]
        done = await asyncio.gather(
            *(reconciler(each).correct(counter_is_behind, name, drift) for each in (journal, other))
        )
    finally:
        await other.close()
    assert sorted(each.problem is None for each in done) == [False, True]
    assert count(journal) == EXPECTED
    assert topics(journal).count("DriftCorrected") == 1


class Gate:
    """A gate that can stop a rule in the middle of its scan; the rule runs in a thread."""

    def __init__(self) -> None:
        self._waiting: list[tuple[threading.Event, threading.Event]] = []

    def through(self) -> None:
        """Pass the gate, or wait there."""
        if self._waiting:
            there, opened = self._waiting.pop()
            there.set()
            assert opened.wait(HANG_S)

    async def hold(self, by: Reconciler, rule: Rule) -> tuple[asyncio.Task[Verdict], threading.Event]:
        """Start a scan that waits at the gate; return its task and the event that opens the gate."""
        there, opened = threading.Event(), threading.Event()
        self._waiting.append((there, opened))
        held = asyncio.create_task(by.scan(rule))
        assert await asyncio.to_thread(there.wait, HANG_S)
        return held, opened


async def test_a_look_that_was_overtaken_clears_nothing_and_sets_no_sweep_back(journal: SqlJournal) -> None:
    """Drift that others found during a scan stays open, and the sweep continues from their position."""
    gate, parts, scanned = Gate(), ["a", "b", "c"], list[str]()

    def sweeping(observation: Observation) -> Iterator[Drift]:
        place = int(observation.sweep or 0)
        gate.through()
        scanned.append(parts[place])
        for subject in sorted({*observation.known, parts[place]} & {"b"}):
            yield Drift(subject=subject, kind=DriftKind.DIFFERENT)
        observation.sweep = str((place + 1) % len(parts) or "")

    rule = replace(counter_is_behind, name="parts", function=sweeping)
    slow, opened = await gate.hold(reconciler(journal), rule)
    for _ in range(2):
        verdict = await reconciler(journal).scan(rule)
    assert [each.subject for each in verdict.seen.values()] == ["b"]
    opened.set()
    late = await slow
    assert late.seen == verdict.seen, "found again under the same id"
    assert scanned == ["a", "b", "a", "c"]
    assert (late.rule_state.sweep, late.rule_state.scans) == ("", 3), "the look that was overtaken is not recorded"


async def test_looks_that_were_overtaken_are_no_sightings(journal: SqlJournal) -> None:
    """A drift that was corrected and is gone is not corrected again by scans that saw it before."""
    gate = Gate()

    def world(observation: Observation) -> list[Drift]:
        counter = observation.load(Counter, "c")
        behind = counter is not None and counter.count < EXPECTED
        gate.through()
        drift = Drift(subject="world", kind=DriftKind.DIFFERENT, correction=Command(count_on))
        return [drift] if behind else []

    # The rule reports no versions, so it takes two scans.
    rule = replace(counter_is_behind, function=world)
    await reconciler(journal, now_ms=0).scan(rule)
    overtaken = [await gate.hold(reconciler(journal, now_ms=now_ms), rule) for now_ms in (15_000, 30_000)]
    (done,) = await reconcile(reconciler(journal, now_ms=31_000), rule)
    assert done.problem is None
    assert await reconcile(reconciler(journal, now_ms=60_000), rule) == []
    for slow, opened in overtaken:
        opened.set()
        verdict = await slow
        assert (verdict.seen, verdict.due) == ({}, ())
    assert count(journal) == EXPECTED
    assert topics(journal).count("DriftDetected") == 1


async def test_a_look_that_is_overtaken_time_after_time_could_not_look(journal: SqlJournal) -> None:
    """After three scans that others overtook, the rule counts as unable to scan, and drift stays as it was."""

    async def overtaken(observation: Observation) -> list[Drift]:
        await reconciler(journal).scan(counter_is_behind)
        observation.sweep = "never recorded"
        return []

    verdict = await reconciler(journal).scan(replace(counter_is_behind, function=overtaken))
    said = "other processes scanned with this rule 3 times in the meantime; scan again later"
    assert verdict.rule_state.unobservable == said
    assert (verdict.rule_state.sweep, len(verdict.rule_state.drifts)) == ("", 1)
    assert topics(journal)[1:] == ["DriftDetected", *["RuleScanned"] * 3, "DriftUnobservable"]


async def test_a_maintenance_window_holds_what_was_due_until_it_ends(journal: SqlJournal) -> None:
    """A window declared between scan and correction holds: the transaction of the correction reads it."""
    by = reconciler(journal)
    verdict = await by.scan(counter_is_behind)

    def close(uow: StepWork, until_ms: int) -> None:
        for fact in start_maintenance([], 0, actor="ann", reason="stocktaking", until_ms=until_ms):
            maintenance_of(uow).record(fact)

    await journal.commit(step(lambda uow: close(uow, 2_000)))
    done = await by.correct(counter_is_behind, verdict.due[0], verdict.seen[verdict.due[0]])
    assert done.problem == "maintenance window until 1970-01-01 00:00:02+00:00, by ann: stocktaking"
    again = await by.scan(counter_is_behind)
    assert set(again.held.values()) == {done.problem}
    assert count(journal) == EXPECTED - 1
    assert (await reconcile(reconciler(journal, now_ms=2_000), counter_is_behind))[0].problem is None
    assert count(journal) == EXPECTED


async def test_a_version_that_has_gone_on_is_left_alone(journal: SqlJournal) -> None:
    """A drift whose aggregate changed between scan and correction is not corrected."""
    by = reconciler(journal)
    verdict = await by.scan(counter_is_behind)
    await journal.commit(step(lambda uow: uow.get(Counter, "c").add_one()))
    done = await by.correct(counter_is_behind, verdict.due[0], verdict.seen[verdict.due[0]])
    assert done.problem == "c has moved on from position 3 to 4"
    assert count(journal) == EXPECTED


async def test_a_correction_that_fails_leaves_nothing_and_is_recorded(journal: SqlJournal) -> None:
    """The writes of a failing command are rolled back; the failure is a fact, and the next attempt waits."""

    def broken(observation: Observation) -> Iterable[Drift]:
        return [replace(each, correction=Command(fail, aggregate=(Counter, "c"))) for each in _found(observation)]

    rule = replace(counter_is_behind, function=broken)
    (done,) = await reconcile(reconciler(journal), rule)
    assert done.problem == "ValueError: no more paper"
    assert count(journal) == EXPECTED - 1
    assert topics(journal)[-1] == "CorrectionFailed"
    verdict = await reconciler(journal).scan(rule)
    assert "no more paper" in next(iter(verdict.held.values()))


def _found(observation: Observation) -> list[Drift]:
    return list(counter_is_behind.function(observation))  # type: ignore[arg-type]  # it is a generator


async def test_an_action_that_was_killed_is_made_again_after_its_lease(journal: SqlJournal) -> None:
    """An action outside of the store is declared first, so nobody else makes it; it is repeated after its lease."""
    damaged = Drift(subject="read model", kind=DriftKind.DIFFERENT, correction=Rebuild())
    rule = replace(counter_is_behind, name="damage", function=lambda _: [damaged])
    killed, again = NoActions(failing=True), NoActions()
    first = await reconciler(journal).scan(rule)
    assert first.due == ()
    second = await reconciler(journal, now_ms=20_000).scan(rule)
    with pytest.raises(asyncio.CancelledError):
        await reconciler(journal, killed, 20_000).correct(rule, second.due[0], damaged)
    late = await reconciler(journal, again, 20_000).correct(rule, second.due[0], damaged)
    assert late.problem == "is being corrected", "who found it due at the same time leaves it alone as well"
    assert await reconcile(reconciler(journal, again, 30_000), rule) == []
    assert again.rebuilt == 0
    (done,) = await reconcile(reconciler(journal, again, 90_000), rule)
    assert done.problem is None
    assert again.rebuilt == 1
    assert topics(journal, "damage")[-3:] == ["RuleScanned", "CorrectionStarted", "DriftCorrected"]


async def test_a_rule_reads_what_is_new_from_where_the_last_look_ended(journal: SqlJournal) -> None:
    """The position in the notification log is recorded with the scan, and not when the rule could not scan."""
    read: list[list[int]] = []

    async def reading(observation: Observation) -> list[Drift]:
        read.append(
            [each.id for each in observation.new_events() if not str(each.originator_id).startswith("reconciliation/")]
        )
        if len(read) == 2:
            raise ScanFailed("not now")
        return []

    rule = replace(counter_is_behind, name="news", function=reading)
    by = reconciler(journal)
    for unit in [*run_to_end("run-1", "c"), None]:
        await by.scan(rule)
        if unit is not None:
            await journal.commit(unit)
    assert read[0] == [1, 2, 3]
    assert len(read[1]) == 1
    assert read[2][0] == read[1][0], "what was read by a failed scan is read again"
    assert (await rule_state_of(journal, "news")).scans == len(read)
