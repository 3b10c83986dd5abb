"""Drift rules: functions that compare the journal with the world, and the policy under which they are acted on."""

import re
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Literal, TypeAlias

from amends.aggregates.errors import DefinitionError
from amends.aggregates.text import shorten
from amends.reconciler.drift.drift import CouldNotLook, Drift
from amends.reconciler.drift.observation import Observation

__all__ = ["MOST_DRIFTS", "Found", "Mode", "Policy", "Rule", "RuleFunction", "drift_rule"]

Found: TypeAlias = Drift | CouldNotLook
"""What a rule yields."""

RuleFunction: TypeAlias = Callable[[Observation], Iterable[Found] | AsyncIterable[Found] | Awaitable[Iterable[Found]]]
"""A rule's function: `def` or `async def`, with `yield` or returning what it found."""

MOST_DRIFTS = 1_000
"""How many drifts one look may find: what is open is kept in memory, and is for people to read."""

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_MAX_NAME_CHARS = 60


class Mode(StrEnum):
    """What becomes of a drift that a rule knows a correction for.

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
        mode: What becomes of a drift.
        apart_ms: How far apart two looks must be before a drift without a version counts as seen twice.
        cap: Most corrections of one look; when more are due, none is made.
        share: Largest part of what was looked at that one look may correct, above 0 up to 1; `None` for any.
        attempts: How often a subject's correction may fail in a row before people have to look.
        backoff_ms: Wait after the first failure; doubled after each further one.
        flips: How many corrections of one subject within `flips_within_ms` are enough to stop.
        flips_within_ms: See `flips`.
        lease_ms: How long a correction outside of our store is taken to be under way.
        timeout_ms: How long a look may take; one that takes longer could not look.
    """

    mode: Mode = Mode.OBSERVE
    apart_ms: int = 10_000
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
        """What it looks for: the first line of its function's docstring."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]


def drift_rule(
    name: str,
    *,
    every: timedelta,
    mode: Literal["observe", "propose", "apply"] = "observe",
    apart: timedelta = timedelta(seconds=10),
    cap: int = 20,
    share: float | None = None,
    timeout: timedelta = timedelta(minutes=10),
) -> Callable[[RuleFunction], Rule]:
    """Make a function a drift rule, which `amends drift` and `amends reconcile` run.

    The function is given an `Observation` and yields a `Drift` for each difference that it finds. What it raises means
    that it could not look; nothing is called cleared or corrected then. It must not change anything.

    Args:
        name: Names the rule and its stream: lower-case words joined by `-`.
        every: How often it should run on a schedule.
        mode: Whether a drift is only recorded, corrected when somebody approves, or corrected.
        apart: How far apart two looks must be before a drift that has no version is acted on.
        cap: Most corrections of one look, at least 1; when more are due, none is made.
        share: Largest part of what was looked at (`Observation.looked_at`) that one look may correct, above 0 up to 1;
            `None` for any.
        timeout: How long a look may take: an answer that is late is no answer, and the rule could not look. A function
            that is no coroutine is left behind then, and what it still does is not waited for.

    Raises:
        DefinitionError: The name or a bound cannot be used.
    """
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME_CHARS:
        raise DefinitionError(
            f"drift rule {shorten(name)}: use up to {_MAX_NAME_CHARS} lower-case letters, digits and - as its name"
        )
    what = f"drift rule {name!r}"
    if mode not in set(Mode):
        raise DefinitionError(f"{what}: mode is {shorten(mode)}; use {', '.join(Mode)}")
    for bound, given in (("every", every), ("apart", apart), ("timeout", timeout)):
        if not isinstance(given, timedelta):
            raise DefinitionError(
                f"{what}: {bound} is {shorten(given)}; give a timedelta, such as timedelta(minutes=5)"
            )
    if every <= timedelta(0) or apart < timedelta(0) or timeout <= timedelta(0):
        raise DefinitionError(
            f"{what}: every is {every}, apart {apart} and timeout {timeout}; use times above 0, and apart from 0"
        )
    if cap < 1 or (share is not None and not 0 < share <= 1):
        raise DefinitionError(
            f"{what}: cap is {cap} and share is {share}; use a cap from 1 and a share above 0 up to 1"
        )
    policy = Policy(
        mode=Mode(mode),
        apart_ms=apart // timedelta(milliseconds=1),
        cap=cap,
        share=share,
        timeout_ms=timeout // timedelta(milliseconds=1),
    )

    def decorate(function: RuleFunction) -> Rule:
        if not callable(function):
            raise DefinitionError(f"{what}: {shorten(function)} is no function; put @drift_rule above a def")
        return Rule(name, function, every, policy)

    return decorate
