"""Words for reasons and for long lists, for every place that shows them. Pure."""

from collections.abc import Sequence

from amends.sagas.engine.overdue import Why

__all__ = ["WORDS", "and_more", "counted"]

WORDS = {
    Why.ATTENTION: "waits for an operator",
    Why.IDLE: "is due, but no worker does it",
    Why.SLOW: "has been open for longer than its threshold",
}
"""The meaning of each reason for being overdue, to be read after the name of a node."""


def and_more(names: Sequence[str], most: int = 3) -> str:
    """Return the first names and the number of the others, such as `a, b, c and 190 more`.

    Args:
        names: The names.
        most: The largest number of names to return.
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as `1 saga` or `2 sagas`.

    Args:
        number: The number.
        noun: The singular of a noun that forms its plural with an s.
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
