"""Words for facts that rest on a decision, for every place that shows them. Pure."""

from collections.abc import Sequence

from amends.aggregates.run.facts import CancelRequested, DriverTaken, OperatorFact
from amends.sagas.engine.overdue import Why

__all__ = ["WORDS", "Decided", "and_more", "who_and_why"]

_NAMED = 3

WORDS = {
    Why.ATTENTION: "waits for an operator",
    Why.IDLE: "is due, but no worker does it",
    Why.SLOW: "has been open for longer than its threshold",
}
"""The meaning of each reason for being overdue, to be read after the name of a node."""

Decided = OperatorFact | CancelRequested | DriverTaken
"""Facts that rest on a person's word: they hold the actor and the reason."""


def and_more(names: Sequence[str]) -> str:
    """Return the first three names and the number of the others, such as `a, b, c and 190 more`."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def who_and_why(fact: Decided) -> str:
    """Return the actor, reason and evidence of a decision, such as `by op: seen in the ledger; evidence: TX-7`."""
    evidence = fact.evidence if isinstance(fact, OperatorFact) else None
    return f"by {fact.actor}: {fact.reason}" + (f"; evidence: {evidence}" if evidence else "")
