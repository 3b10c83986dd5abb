"""The number of examples that property tests try: few in the check before a landing, many in a search."""

from hypothesis import settings

__all__ = ["EXAMPLES", "try_out"]

EXAMPLES = 25
"""Examples of a property test before a landing, for which every test tries the same ones each time."""


def try_out(count: int) -> int:
    """Return how many examples a test tries whose examples cost more, or show less, than usual.

    Args:
        count: Their number before a landing; a search with another profile tries more in the same proportion.
    """
    return max(1, count * settings().max_examples // EXAMPLES)
