"""The result of a run, as its starter sees it."""

from dataclasses import dataclass
from typing import TypeVar

from pydantic import JsonValue

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
        """Return one short line: id, saga, status and error, without the input or the results."""
        error = "" if self.error is None else f" error={shorten(self.error)}"
        return f"<RunResult {self.run_id} of {self.record.started.saga}: {self.status}{error}>"

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.record.run_id

    @property
    def status(self) -> RunStatus:
        """The status of the run."""
        return self.record.state.status

    @property
    def closed(self) -> bool:
        """Whether the run is closed, so that no driver has work left."""
        return self.record.state.closed

    @property
    def error(self) -> str | None:
        """The reason why the run compensates, and the last error after that, in one line.

        For a run that goes forward, the last error or refusal. `None` if there was none, or if the run has completed.
        """
        return self.record.error

    @property
    def open_nodes(self) -> tuple[str, ...]:
        """The nodes that an operator must decide about; empty unless the run needs attention."""
        return self.record.current

    @property
    def in_doubt(self) -> tuple[str, ...]:
        """Nodes in doubt: no one knows whether they took effect. Includes those that were compensated while in doubt.

        A compensated run is clean only if this is empty: the compensation of such a node received no result, and may
        have changed nothing.
        """
        return self.record.in_doubt

    def to_json(self) -> dict[str, JsonValue]:
        """Return the run as JSON; `amends show --json` prints the same keys and values, and more.

        The keys are the attributes of `RunSummary`; `input` and `actor` of the start; `in_doubt`; and `results`: the
        results of the steps that have one, by step. Times are in milliseconds since the epoch. Input and results are
        your users' data: choose keys before you send the object to somebody else.
        """
        started = self.record.started
        return {
            **self.record.summary.to_json(),
            "input": started.input,
            "actor": started.actor,
            "in_doubt": list(self.in_doubt),
            "results": dict(self.record.results),
        }

    def result_of(self, step: ResultSource[R]) -> R | None:
        """Return the result of a step; `None` if it has not succeeded."""
        if step.name not in self.record.results:
            return None
        return step.load_result(self.record.results[step.name])
