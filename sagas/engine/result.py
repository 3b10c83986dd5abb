"""How a run stands, as its starter sees it."""

from dataclasses import dataclass
from typing import TypeVar

from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import RunStatus
from amends.aggregates.text import shorten
from amends.sagas.definition.context import ResultSource

__all__ = ["RunResult"]

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run at one position of its stream.

    Attributes:
        record: The fold of its facts.
    """

    record: RunRecord

    def __repr__(self) -> str:
        """Return one short line: id, saga, status and error, and none of the input or the results."""
        error = "" if self.error is None else f" error={shorten(self.error)}"
        return f"<RunResult {self.run_id} of {self.record.started.saga}: {self.status}{error}>"

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.record.run_id

    @property
    def status(self) -> RunStatus:
        """Where the run stands."""
        return self.record.state.status

    @property
    def closed(self) -> bool:
        """Whether nothing is left for a driver to do."""
        return self.record.state.closed

    @property
    def error(self) -> str | None:
        """Why the run turned round, and the last error that it met after that, in one line.

        Of a run that goes on, the last error or refusal. `None` when there was none, and when the run has completed.
        """
        return self.record.error

    @property
    def open_nodes(self) -> tuple[str, ...]:
        """What an operator has to decide about; empty unless the run needs attention."""
        return self.record.current

    @property
    def in_doubt(self) -> tuple[str, ...]:
        """Nodes of which nobody knows whether they took effect, also when they were undone like that.

        A compensated run is clean only where this is empty: the compensation of such a node was given no result, and
        may have come to nothing.
        """
        return self.record.in_doubt

    def result_of(self, step: ResultSource[R]) -> R | None:
        """Give what a step returned; `None` when it has not succeeded."""
        if step.name not in self.record.results:
            return None
        return step.load_result(self.record.results[step.name])
