"""Whether anybody drives an open run, as data; finding it out is `reach_temporal`'s."""

from dataclasses import dataclass

from pydantic import JsonValue

__all__ = ["Driving"]


@dataclass(frozen=True, slots=True)
class Driving:
    """Who drives an open run, or why nobody does.

    Attributes:
        text: In one line, with the remedy when nobody does.
        driven: Whether a worker is there that can advance it; `None` when nobody knows.
        temporal: Address of the Temporal that was asked; `None` when none was.
        workflow: Status of the run's workflow there; `None` when it is not known there.
        workers: How many workers poll the queue; `None` when nobody could be asked.
        pending: Activities that Temporal tries again, with the error of their last attempt.
    """

    text: str
    driven: bool | None = None
    temporal: str | None = None
    workflow: str | None = None
    workers: int | None = None
    pending: tuple[tuple[str, int, str], ...] = ()

    def as_json(self) -> dict[str, JsonValue]:
        """Give it as JSON."""
        return {
            "text": self.text,
            "driven": self.driven,
            "temporal": self.temporal,
            "workflow": self.workflow,
            "workers": self.workers,
            "pending": [
                {"activity": activity, "attempt": attempt, "error": error} for activity, attempt, error in self.pending
            ],
        }
