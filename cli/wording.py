"""How facts that somebody decided are put into words, wherever they are shown. Pure."""

from amends.aggregates.facts import CancelRequested, DriverTaken, OperatorFact

__all__ = ["Decided", "who_and_why"]

Decided = OperatorFact | CancelRequested | DriverTaken
"""Facts that rest on somebody's word: their actor decided, and said why."""


def who_and_why(fact: Decided) -> str:
    """Say who decided, why, and on what evidence, such as `by op: seen in the ledger; evidence: TX-7`."""
    evidence = fact.evidence if isinstance(fact, OperatorFact) else None
    return f"by {fact.actor}: {fact.reason}" + (f"; evidence: {evidence}" if evidence else "")
