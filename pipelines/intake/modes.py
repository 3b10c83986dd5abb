"""Modes of a pipeline: the treatment of a message that the store knows already. Pure."""

from enum import StrEnum

__all__ = ["Mode"]


class Mode(StrEnum):
    """The treatment of duplicates, for a pipeline that `handles` messages."""

    EXACTLY_ONCE = "exactly-once"
    """The pipeline remembers ids, and a message with a known id has no effect."""
    OBSERVED = "observed"
    """The pipeline remembers ids and counts duplicates, but each of them takes effect again."""
    AT_LEAST_ONCE = "at-least-once"
    """The pipeline remembers positions but no ids."""
    SHADOW = "shadow"
    """The handlers run and their changes are rolled back, so that no message takes effect."""

    @property
    def remembers_ids(self) -> bool:
        """Whether the store remembers the ids of messages."""
        return self is not Mode.AT_LEAST_ONCE

    @property
    def refuses_duplicates(self) -> bool:
        """Whether a message with a known id has no effect."""
        return self is Mode.EXACTLY_ONCE
