"""Test the words for every kind of fact."""

import pytest
from runs.examples import CLAIM, FAILURE, PLAN, decided, fact
from strategies import started

from amends.aggregates.run import facts
from amends.cli.views.fact_words import words
from amends.cli.views.facts import timeline_row

WORDS: list[tuple[facts.Fact, str, str]] = [
    (started(PLAN), "run run-1 of a-saga accepted", 'a-saga {"order":1}'),
    (fact("StepStarted", 0, node="a", attempt=1, **CLAIM), "a: attempt 1 started", "by w"),
    (fact("StepSucceeded", 0, node="a", attempt=1, result=1), "a: succeeded", "1"),
    (
        fact("StepSucceeded", 0, node="a", attempt=1, result=1, probed=True),
        "a: succeeded (found by its probe)",
        "found by the probe: 1",
    ),
    (fact("StepRejected", 0, node="a", attempt=1, reason="sold out"), "a: refused: sold out", "sold out"),
    (
        fact("StepAttemptFailed", 100, node="a", attempt=2, retry_at_ms=1_600, **FAILURE),
        "a: attempt 2 failed: E: no; again in 1.5 s",
        "again in 1.5 s; E: no",
    ),
    (
        fact("StepPostponed", 100, node="a", attempt=0, reason="no such step; deploy it", retry_at_ms=2_100),
        "a: waits: no such step; deploy it; again in 2.0 s",
        "no attempt used, again in 2 s; no such step; deploy it",
    ),
    (
        fact("ProbePostponed", 100, node="a", attempt=0, reason="no such step; deploy it", retry_at_ms=2_100),
        "a: waits: no such step; deploy it; again in 2.0 s",
        "no attempt used, again in 2 s; no such step; deploy it",
    ),
    (
        fact("CompensationPostponed", 100, node="a", attempt=0, reason="no such step; deploy it", retry_at_ms=2_100),
        "undo of a: waits: no such step; deploy it; again in 2.0 s",
        "no attempt used, again in 2 s; no such step; deploy it",
    ),
    (
        fact("StepAttemptFailed", 0, node="a", attempt=3, retry_at_ms=None, **FAILURE),
        "a: attempt 3 failed: E: no",
        "no more attempts; E: no",
    ),
    (
        fact("ProbeAttemptFailed", 0, node="a", attempt=1, retry_at_ms=None, **FAILURE),
        "a: asking, attempt 1 failed: E: no",
        "no more attempts; E: no",
    ),
    (fact("StepFailed", 0, node="a", reason="rolled back"), "a: failed: rolled back", "rolled back"),
    (fact("StepInDoubt", 0, node="a", reason="no probe"), "a: in doubt: no probe", "no probe"),
    (fact("CompensationStarted", 0, node="a", attempt=2, **CLAIM), "undo of a: attempt 2 started", "by w"),
    (fact("CompensationSucceeded", 0, node="a", attempt=1), "undo of a: undone", ""),
    (
        fact("CompensationAttemptFailed", 0, node="a", attempt=1, retry_at_ms=None, **FAILURE),
        "undo of a: attempt 1 failed: E: no",
        "no more attempts; E: no",
    ),
    (fact("CompensationExhausted", 0, node="a"), "undo of a: not undone: no attempts are left", ""),
    (
        fact("CompensationRejected", 0, node="a", attempt=1, reason="too late"),
        "undo of a: not undone: refused: too late",
        "too late",
    ),
    (fact("SagaFailed", 0, node="a", reason="no"), "turning back: undoing the steps that may have acted", "no"),
    (fact("SagaCompleted", 0), "completed", ""),
    (fact("SagaCompensated", 0), "compensated", ""),
    (fact("AttentionRequested", 0, nodes=("a", "b"), reason="stuck"), "needs attention (a, b): stuck", "stuck"),
    (decided("RetryRequested", node="a", attempt=0), "a: to be retried, by op: why", "by op: why"),
    (decided("StepSkipped", node="a", result=1), "a: skipped, by op: why", "by op: why; result: 1"),
    (
        decided("StepResolved", node="a", result=1, evidence="TX-7"),
        "a: found to have taken effect, by op: why; evidence: TX-7",
        "by op: why; evidence: TX-7; result: 1",
    ),
    (
        decided("StepRuledOut", node="a", evidence="empty ledger"),
        "a: found to have taken no effect, by op: why; evidence: empty ledger",
        "by op: why; evidence: empty ledger",
    ),
    (decided("CompensationSkipped", node="a"), "undo of a: effect kept, by op: why", "by op: why"),
    (
        decided("CompensationResolved", node="a", evidence="TX-8"),
        "undo of a: found to be undone, by op: why; evidence: TX-8",
        "by op: why; evidence: TX-8",
    ),
    (decided("CancelRequested"), "cancel requested, by op: why", "by op: why"),
    (decided("DriverTaken", driver="temporal", epoch=2), "now driven by temporal, by op: why", "temporal, by op: why"),
    (fact("LateEffectObserved", 0, node="a", attempt=1, result=1), "a: took effect late", "late answer: 1"),
]
"""Facts, each with its line in `amends run` and its detail in `amends history`."""


@pytest.mark.parametrize(("said", "line", "detail"), WORDS, ids=[said.kind for said, *_ in WORDS])
def test_every_fact_has_its_words(said: facts.Fact, line: str, detail: str) -> None:
    """A fact is one line on a pipe, and has the details that its row of the history shows."""
    assert (words(said).line, timeline_row(said, 0, whole=True)[-1]) == (line, detail)


def test_no_kind_of_fact_is_without_words() -> None:
    """A new kind of fact needs words in the table above."""
    assert {said.kind for said, *_ in WORDS} == set(facts.FACTS) == set(facts.FactKind)
