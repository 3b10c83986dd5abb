"""Whether anything drives an open run, as data; `cli.runtime.temporal` finds it out."""

from dataclasses import dataclass

from pydantic import JsonValue

__all__ = ["DriverStatus"]


@dataclass(frozen=True, slots=True)
class DriverStatus:
    """The driver of an open run, or why it has none.

    Attributes:
        text: One line about it, with the remedy if nothing drives the run.
        driven: Whether a worker is there that can advance the run; `None` if that is unknown.
        temporal: Address of the queried Temporal; `None` if there was no query.
        workflow: Status of the run's workflow in Temporal; `None` if Temporal does not know it.
        workers: The number of workers that poll the queue; `None` if there was no answer.
        pending: Activities that Temporal retries: name, attempts made and the error of the last one.
    """

    text: str
    driven: bool | None = None
    temporal: str | None = None
    workflow: str | None = None
    workers: int | None = None
    pending: tuple[tuple[str, int, str], ...] = ()

    def to_json(self) -> dict[str, JsonValue]:
        """Return the status as JSON."""
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
