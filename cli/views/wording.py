"""Words for reasons and for long lists, for every place that shows them. Pure."""

from collections.abc import Sequence

from amends.sagas.engine.overdue import Why

__all__ = ["WORDS", "and_more"]

_NAMED = 3

WORDS = {
    Why.ATTENTION: "waits for an operator",
    Why.IDLE: "is due, but no worker does it",
    Why.SLOW: "has been open for longer than its threshold",
}
"""The meaning of each reason for being overdue, to be read after the name of a node."""


def and_more(names: Sequence[str]) -> str:
    """Return the first three names and the number of the others, such as `a, b, c and 190 more`."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
