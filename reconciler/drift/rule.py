"""Drift rules: functions that compare the journal with the world, and the policy that limits their corrections."""

import re
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Literal, TypeAlias

from amends.aggregates.errors import DefinitionError
from amends.aggregates.text import shorten
from amends.reconciler.drift.drift import Drift, ScanFailed
from amends.reconciler.drift.observation import Observation

__all__ = ["MOST_DRIFTS", "Found", "Mode", "Policy", "Rule", "RuleFunction", "drift_rule"]

Found: TypeAlias = Drift | ScanFailed
"""One result of a rule."""

RuleFunction: TypeAlias = Callable[[Observation], Iterable[Found] | AsyncIterable[Found] | Awaitable[Iterable[Found]]]
"""A rule's function: `def` or `async def`, which yields its results or returns them."""

MOST_DRIFTS = 1_000
"""The largest number of drifts of one scan: open drift stays in memory, and people have to read it."""

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_MAX_NAME_CHARS = 60


class Mode(StrEnum):
    """The treatment of a drift that has a correction.

    - `OBSERVE`: it is recorded.
    - `PROPOSE`: it is corrected when somebody approves.
    - `APPLY`: it is corrected.
    """

    OBSERVE = "observe"
    PROPOSE = "propose"
    APPLY = "apply"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How far a rule may go.

    Attributes:
        mode: The treatment of a drift.
        confirm_after_ms: The least time between two scans before a drift without a version counts as seen twice.
        cap: Most corrections of one scan; when more are due, the scan corrects nothing.
        share: Largest part of the scanned subjects that one scan may correct, above 0 up to 1; `None` for any.
        attempts: How often a subject's correction may fail in a row before people have to find the cause.
        backoff_ms: Wait after the first failure; doubled after each further one.
        flips: How many corrections of one subject within `flips_within_ms` stop further ones.
        flips_within_ms: See `flips`.
        lease_ms: How long a correction outside of our store counts as under way.
        timeout_ms: How long a scan may take; a rule that takes longer could not scan.
    """

    mode: Mode = Mode.OBSERVE
    confirm_after_ms: int = 10_000
    cap: int = 20
    share: float | None = None
    attempts: int = 3
    backoff_ms: int = 60_000
    flips: int = 3
    flips_within_ms: int = 24 * 3_600_000
    lease_ms: int = 60_000
    timeout_ms: int = 600_000


@dataclass(frozen=True, slots=True)
class Rule:
    """A drift rule.

    Attributes:
        name: Names the rule, its stream and its drifts.
        function: Finds drift.
        every: How often it should run on a schedule.
        policy: How far it may go.
    """

    name: str
    function: RuleFunction
    every: timedelta
    policy: Policy

    @property
    def summary(self) -> str:
        """The purpose of the rule: the first line of its function's docstring."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]


def drift_rule(
    name: str,
    *,
    every: timedelta,
    mode: Literal["observe", "propose", "apply"] = "observe",
    confirm_after: timedelta = timedelta(seconds=10),
    cap: int = 20,
    share: float | None = None,
    timeout: timedelta = timedelta(minutes=10),
) -> Callable[[RuleFunction], Rule]:
    """Turn a function into a drift rule, which `amends drift` and `amends reconcile` run.

    The function receives an `Observation` and yields a `Drift` for each difference that it finds. An error that it
    raises means that it could not scan; then nothing counts as cleared, and nothing is corrected. The function must not
    change anything.

    Args:
        name: Name of the rule and its stream: lower-case words joined by `-`.
        every: How often it should run on a schedule.
        mode: Whether a drift is only recorded, corrected when somebody approves, or corrected.
        confirm_after: The least time between two scans before a drift without a version is corrected.
        cap: Most corrections of one scan, at least 1; when more are due, the scan corrects nothing.
        share: Largest part of the scanned subjects (`Observation.scanned`) that one scan may correct, above 0 up to
            1; `None` for any.
        timeout: How long a scan may take: a rule that answers later could not scan. A plain function keeps running in
            its thread then, and nothing waits for it.

    Raises:
        DefinitionError: The name or a bound is invalid.
    """
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME_CHARS:
        raise DefinitionError(
            f"drift rule {shorten(name)}: use up to {_MAX_NAME_CHARS} lower-case letters, digits and - as its name"
        )
    what = f"drift rule {name!r}"
    if mode not in set(Mode):
        raise DefinitionError(f"{what}: mode is {shorten(mode)}; use {', '.join(Mode)}")
    for bound, given in (("every", every), ("confirm_after", confirm_after), ("timeout", timeout)):
        if not isinstance(given, timedelta):
            raise DefinitionError(
                f"{what}: {bound} is {shorten(given)}; give a timedelta, such as timedelta(minutes=5)"
            )
    if every <= timedelta(0) or confirm_after < timedelta(0) or timeout <= timedelta(0):
        raise DefinitionError(
            f"{what}: every is {every}, confirm_after {confirm_after} and timeout {timeout}; "
            "use times above 0; confirm_after may be 0"
        )
    if cap < 1 or (share is not None and not 0 < share <= 1):
        raise DefinitionError(
            f"{what}: cap is {cap} and share is {share}; use a cap from 1 and a share above 0 up to 1"
        )
    policy = Policy(
        mode=Mode(mode),
        confirm_after_ms=confirm_after // timedelta(milliseconds=1),
        cap=cap,
        share=share,
        timeout_ms=timeout // timedelta(milliseconds=1),
    )

    def decorate(function: RuleFunction) -> Rule:
        if not callable(function):
            raise DefinitionError(f"{what}: {shorten(function)} is not a function; put @drift_rule above a def")
        return Rule(name, function, every, policy)

    return decorate
