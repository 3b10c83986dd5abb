"""The error that ends a search: the saga, its functions or the arguments do not fit."""

from amends.aggregates.errors import InputError

__all__ = ["ProveError"]


class ProveError(InputError):
    """The search cannot explore this saga; the message names the step and the remedy."""
