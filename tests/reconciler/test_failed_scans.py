"""A scan without an answer changes nothing and names its reason."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from journal_parts import open_prepared
from runs.reconciled import counter_is_behind

from amends.reconciler.drift.drift import Drift, DriftKind, ScanFailed
from amends.reconciler.drift.observation import Observation
from amends.reconciler.drift.rule_state import RuleState
from amends.reconciler.runtime.check import scan


def _nothing(_: Observation) -> Any:  # noqa: ANN401 - an invalid result, on purpose
    return None


def _raising(_: Observation) -> Iterator[Drift]:
    yield Drift(subject="s", kind=DriftKind.MISSING)
    raise TimeoutError("the bank does not answer")


async def _away(_: Observation) -> AsyncIterator[Drift | ScanFailed]:
    yield Drift(subject="s", kind=DriftKind.MISSING)
    yield ScanFailed("the bank is closed")


def _late(_: Observation) -> list[Drift]:
    threading.Event().wait()
    return []


async def _later(_: Observation) -> list[Drift]:
    await asyncio.Event().wait()
    return []


def _one(_: Observation) -> Any:  # noqa: ANN401 - as above
    return Drift(subject="s", kind=DriftKind.MISSING)


def _endless(_: Observation) -> Iterator[Drift]:
    for number in itertools.count():
        yield Drift(subject=f"s-{number}", kind=DriftKind.MISSING)


def _wrong(_: Observation) -> Any:  # noqa: ANN401 - as above
    return ["drift"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_nothing, "nothing at all"),
        (_one, "returned a Drift itself"),
        (_raising, "TimeoutError: the bank does not answer"),
        (_away, "the bank is closed"),
        (_wrong, "not a Drift"),
        (_endless, "more than 1,000 differences"),
        (_late, "has not answered within 0.2 s"),
        (_later, "has not answered within 0.2 s"),
    ],
)
async def test_what_is_no_answer_is_could_not_look(sqlite_url: str, function: Any, said: str) -> None:  # noqa: ANN401 - a rule
    """A rule with an invalid answer could not scan, and the drift that it found before does not count."""
    journal = open_prepared(sqlite_url)
    try:
        policy = replace(counter_is_behind.policy, timeout_ms=200 if "answered" in said else 60_000)
        rule = replace(counter_is_behind, function=function, policy=policy)
        seen = await scan(rule, journal, RuleState(), 0)
    finally:
        await journal.close()
    assert said in str(seen.unobservable)
    assert seen.drifts == ()
