"""Maintenance windows: times in which rules go on looking and nothing is corrected, declared by people as facts.

One stream for the whole store, so that a correction reads it at its head in its own transaction: what is declared
before a correction commits holds for it. Of several for the same rule the last one counts. Pure.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from eventsourcing.domain import event
from pydantic import BaseModel, ConfigDict

from amends.aggregates.errors import InputError, NotFoundError
from amends.aggregates.events.aggregate import Aggregate
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
"""What a window is for that is for every rule."""


class MaintenanceFact(BaseModel):
    """What every fact about maintenance carries.

    Attributes:
        as_of_ms: When it was decided, in milliseconds since the epoch.
        actor: Who decided.
        rule: The rule that it is about; `*` for every one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of_ms: int
    actor: str
    rule: str


class MaintenanceStarted(MaintenanceFact):
    """From now on nothing is corrected, for a time.

    Attributes:
        reason: Why.
        until_ms: Until when, in milliseconds since the epoch.
    """

    reason: str
    until_ms: int


class MaintenanceEnded(MaintenanceFact):
    """Corrections are made again, before the time that was named."""


MAINTENANCE_FACTS: dict[str, type[MaintenanceFact]] = {
    cls.__name__: cls for cls in (MaintenanceStarted, MaintenanceEnded)
}
"""Every kind of fact about maintenance, by its name."""


class Window(BaseModel):
    """A time in which nothing is corrected.

    Attributes:
        reason: Why.
        from_ms: Since when, in milliseconds since the epoch.
        until_ms: Until when.
        actor: Who says so.
    """

    model_config = ConfigDict(frozen=True)

    reason: str
    from_ms: int
    until_ms: int
    actor: str


class Windows(BaseModel):
    """What is known of maintenance: the fold of its stream.

    Attributes:
        windows: What was declared and not ended, by rule or `*`; what has expired included.
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
        """Give the windows that are open, by rule or `*`."""
        return {rule: each for rule, each in self.windows.items() if now_ms < each.until_ms}

    def closed_for(self, rule: str, now_ms: int) -> str | None:
        """Tell why nothing is corrected by a rule now; `None` when something may be."""
        found = self.open_at(now_ms)
        both = [found[name] for name in (rule, EVERY_RULE) if name in found]
        if not both:
            return None
        last = max(both, key=lambda each: each.until_ms)
        until = datetime.fromtimestamp(last.until_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")
        return f"maintenance window until {until}, by {last.actor}: {last.reason}"


class Maintenance(Aggregate):
    """The maintenance windows of a store."""

    CATEGORY = "reconciliation_maintenance"
    # Raise it whenever `Windows` folds differently: snapshots know only the code of this class.
    FOLD = 1
    # The only one.
    ID = "all"

    @event("MaintenanceOpened")
    def __init__(self, id: str, windows: Windows) -> None:  # noqa: A002, ARG002 - what aggregates take
        # Part of the event so that its type is known to snapshots; it is always the empty one.
        self.windows = windows

    def record(self, fact: MaintenanceFact) -> None:
        """Write a fact down; each kind is an event of its own, whose only field is the fact."""
        self.trigger_event(getattr(type(self), type(fact).__name__), fact=fact)

    @event("MaintenanceStarted")
    def _started(self, fact: MaintenanceStarted) -> None:
        self.windows = self.windows.apply(fact)

    @event("MaintenanceEnded")
    def _ended(self, fact: MaintenanceEnded) -> None:
        self.windows = self.windows.apply(fact)


def maintenance_of(uow: StepWork) -> Maintenance:
    """Load the store's maintenance, or begin it."""
    return uow.find(Maintenance, Maintenance.ID) or uow.add(Maintenance(id=Maintenance.ID, windows=Windows()))


# ---- what people decide


def start_maintenance(
    rules: Sequence[str], now_ms: int, *, actor: str, reason: str, until_ms: int
) -> list[MaintenanceStarted]:
    """Make the facts that nothing is to be corrected for a time.

    Args:
        rules: By these rules; by any when there are none.
        now_ms: The time, in milliseconds since the epoch.
        actor: Who decides.
        reason: Why.
        until_ms: Until when.

    Raises:
        InputError: There is no reason, or the time is over already.
    """
    if not reason.strip():
        raise InputError("a maintenance window needs a reason, which the journal keeps; give one with --reason")
    if until_ms <= now_ms:
        raise InputError("the maintenance window would end before it begins; name a time to come")
    return [
        MaintenanceStarted(as_of_ms=now_ms, actor=actor, rule=rule, reason=reason, until_ms=until_ms)
        for rule in dict.fromkeys(rules or [EVERY_RULE])
    ]


def end_maintenance(windows: Windows, rules: Sequence[str], now_ms: int, *, actor: str) -> list[MaintenanceEnded]:
    """Make the facts that corrections are made again.

    Args:
        windows: What is known.
        rules: Only the windows that were declared for these; all when there are none.
        now_ms: The time, in milliseconds since the epoch.
        actor: Who decides.

    Raises:
        NotFoundError: No such window is open.
    """
    found = windows.open_at(now_ms)
    for rule in rules or ([EVERY_RULE] if not found else []):
        if rule not in found:
            which = "" if rule == EVERY_RULE else f" for rule {rule!r} alone"
            raise NotFoundError(f"no maintenance window is open{which}; `amends maintenance list` lists those that are")
    return [MaintenanceEnded(as_of_ms=now_ms, actor=actor, rule=rule) for rule in dict.fromkeys(rules or found)]
