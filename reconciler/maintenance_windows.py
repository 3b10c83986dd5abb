"""Maintenance windows: times that people declare, in which rules scan and nothing is corrected.

All windows of a store share one stream. A correction reads that stream at its head, in its own transaction, so it
respects every window that was declared before it commits. Of several windows for the same rule, the last one counts.
Pure.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from eventsourcing.domain import event
from pydantic import BaseModel, ConfigDict

from amends.aggregates.errors import InputError, NotFoundError
from amends.aggregates.events.fact_stream import FactStream
from amends.aggregates.journal import StepWork

__all__ = [
    "EVERY_RULE",
    "MAINTENANCE_FACTS",
    "Maintenance",
    "MaintenanceEnded",
    "MaintenanceFact",
    "MaintenanceStarted",
    "Window",
    "Windows",
    "end_maintenance",
    "maintenance_of",
    "start_maintenance",
]

EVERY_RULE = "*"
"""The value of `rule` in a window that holds for every rule."""


class MaintenanceFact(BaseModel):
    """The fields of every fact about maintenance.

    Attributes:
        as_of_ms: Time of the decision, in milliseconds since the epoch.
        actor: Name of the person that decided.
        rule: The rule that the fact is about; `*` for every rule.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of_ms: int
    actor: str
    rule: str


class MaintenanceStarted(MaintenanceFact):
    """A maintenance window opens: until its end, nothing is corrected.

    Attributes:
        reason: Reason that the person gave.
        until_ms: End of the window, in milliseconds since the epoch.
    """

    reason: str
    until_ms: int


class MaintenanceEnded(MaintenanceFact):
    """A maintenance window closes before its declared end."""


MAINTENANCE_FACTS: dict[str, type[MaintenanceFact]] = {
    cls.__name__: cls for cls in (MaintenanceStarted, MaintenanceEnded)
}
"""Every kind of fact about maintenance, by its name."""


class Window(BaseModel):
    """A time in which nothing is corrected.

    Attributes:
        reason: Reason that the person gave.
        from_ms: Start, in milliseconds since the epoch.
        until_ms: End, in milliseconds since the epoch.
        actor: Name of the person that declared the window.
    """

    model_config = ConfigDict(frozen=True)

    reason: str
    from_ms: int
    until_ms: int
    actor: str


class Windows(BaseModel):
    """The maintenance windows of a store: the fold of its stream.

    Attributes:
        windows: Windows that were declared and not ended, by rule or `*`; expired ones are included.
    """

    model_config = ConfigDict(frozen=True)

    windows: dict[str, Window] = {}

    def apply(self, fact: MaintenanceFact) -> "Windows":
        """Fold one more fact."""
        others = {rule: each for rule, each in self.windows.items() if rule != fact.rule}
        if isinstance(fact, MaintenanceStarted):
            others[fact.rule] = Window(
                reason=fact.reason, from_ms=fact.as_of_ms, until_ms=fact.until_ms, actor=fact.actor
            )
        return Windows(windows=others)

    def open_at(self, now_ms: int) -> dict[str, Window]:
        """Return the windows that are open, by rule or `*`."""
        return {rule: each for rule, each in self.windows.items() if now_ms < each.until_ms}

    def closed_for(self, rule: str, now_ms: int) -> str | None:
        """Return why a rule may correct nothing now; `None` when it may correct."""
        found = self.open_at(now_ms)
        both = [found[name] for name in (rule, EVERY_RULE) if name in found]
        if not both:
            return None
        last = max(both, key=lambda each: each.until_ms)
        until = datetime.fromtimestamp(last.until_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")
        return f"maintenance window until {until}, by {last.actor}: {last.reason}"


class Maintenance(FactStream, facts=MAINTENANCE_FACTS.values(), folds="windows"):
    """The maintenance windows of a store."""

    CATEGORY = "reconciliation_maintenance"
    # Raise it whenever `Windows` folds differently: snapshots know only the code of this class.
    FOLD = 1
    # A store has one stream of windows.
    ID = "all"

    @event("MaintenanceOpened")
    def __init__(self, id: str, windows: Windows) -> None:  # noqa: A002, ARG002 - the signature of aggregates
        # The event carries the empty value so that snapshots know its type.
        self.windows = windows


def maintenance_of(uow: StepWork) -> Maintenance:
    """Load the store's maintenance windows, or create their stream."""
    return uow.find(Maintenance, Maintenance.ID) or uow.add(Maintenance(id=Maintenance.ID, windows=Windows()))


# ---- decisions of people


def start_maintenance(
    rules: Sequence[str], now_ms: int, *, actor: str, reason: str, until_ms: int
) -> list[MaintenanceStarted]:
    """Return the facts that open a maintenance window.

    Args:
        rules: Names of the rules that correct nothing in the window; empty for every rule.
        now_ms: The time, in milliseconds since the epoch.
        actor: Name of the person that decides.
        reason: Reason that the person gives.
        until_ms: End of the window, in milliseconds since the epoch.

    Raises:
        InputError: The reason is empty, or `until_ms` is not in the future.
    """
    if not reason.strip():
        raise InputError("a maintenance window needs a reason; pass --reason (it is recorded with the window)")
    if until_ms <= now_ms:
        raise InputError("the maintenance window would end in the past; pass a future time")
    return [
        MaintenanceStarted(as_of_ms=now_ms, actor=actor, rule=rule, reason=reason, until_ms=until_ms)
        for rule in dict.fromkeys(rules or [EVERY_RULE])
    ]


def end_maintenance(windows: Windows, rules: Sequence[str], now_ms: int, *, actor: str) -> list[MaintenanceEnded]:
    """Return the facts that end maintenance windows.

    Args:
        windows: The windows of the store.
        rules: Rules whose windows end; empty for every window that is open.
        now_ms: The time, in milliseconds since the epoch.
        actor: Name of the person that decides.

    Raises:
        NotFoundError: No such window is open.
    """
    found = windows.open_at(now_ms)
    for rule in rules or ([EVERY_RULE] if not found else []):
        if rule not in found:
            which = "" if rule == EVERY_RULE else f" for rule {rule!r} alone"
            raise NotFoundError(f"no maintenance window is open{which}; see: amends maintenance list")
    return [MaintenanceEnded(as_of_ms=now_ms, actor=actor, rule=rule) for rule in dict.fromkeys(rules or found)]
