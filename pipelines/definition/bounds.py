"""`Bounds`: how much a pipeline takes at once, and how much it holds. Pure."""

from dataclasses import dataclass, fields

from amends.pipelines.definition.checks import check_count

__all__ = ["Bounds"]

_MOST = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The bounds of a pipeline, whole numbers from 1 to 1,000,000,000. None of them changes the effect of a message.

    Attributes:
        batch: Largest number of messages of one commit.
        lock_ms: Time for which one commit should hold the lock of the store's writer, in milliseconds; batches become
            smaller until they keep to it.
        max_message_bytes: Largest content of a message; a larger one is set aside.
        max_held_per_key: Number of held messages of one key at which the pipeline pauses.
        max_held: Number of held messages at which the pipeline pauses.
        max_deferred: Number of deferred messages at which the pipeline leaves further ones in the source.

    Raises:
        DefinitionError: A bound is out of range.
    """

    batch: int = 1_000
    lock_ms: int = 50
    max_message_bytes: int = 1_000_000
    max_held_per_key: int = 1_000
    max_held: int = 10_000
    max_deferred: int = 100_000

    def __post_init__(self) -> None:
        for field in fields(self):
            check_count(getattr(self, field.name), f"bound {field.name}", _MOST)
