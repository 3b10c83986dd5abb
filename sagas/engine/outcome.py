"""The outcome of a call of a user's function, as data."""

from dataclasses import dataclass

from pydantic import JsonValue

from amends.aggregates.errors import CannotContinueError
from amends.aggregates.values.error_report import ErrorLink

__all__ = ["Failed", "FailedAttempt", "NotFound", "Outcome", "Postponed", "Refused", "Succeeded"]


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The function returned; a probe that returns this found the effect.

    Attributes:
        result: The function's result as JSON; `None` for a compensation.
    """

    result: JsonValue


@dataclass(frozen=True, slots=True)
class Refused:
    """The function raised `Rejected`: the participant refused.

    Attributes:
        reason: The participant's words.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """The probe found no effect."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The call ended in another error, a timeout or the loss of its worker; no one knows whether it took effect.

    Attributes:
        error_type: Class of the error.
        error: Its message in one line.
        final: Whether another attempt cannot help, because the fault lies in the value that the function returned.
        chain: The error and its causes, with the places in code where they were raised; empty if no error was raised.
    """

    error_type: str
    error: str
    final: bool = False
    chain: tuple[ErrorLink, ...] = ()


@dataclass(frozen=True, slots=True)
class Postponed:
    """The function asked for a value that this run lacks with the deployed code; no attempt is used up.

    Attributes:
        kind: The kind of thing that is missing or does not fit, a word such as `plan`.
        why: The cause, as the end of a sentence; without any value of the user's.
        remedy: The command or the change that lets the run go on.
    """

    kind: str
    why: str
    remedy: str

    def error(self, run_id: str, node: str) -> CannotContinueError:
        """Return the same as an error about one node of a run."""
        return CannotContinueError(run_id, node, kind=self.kind, why=self.why, remedy=self.remedy)


Outcome = Succeeded | Refused | NotFound | Failed | Postponed


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A failed attempt, for the log.

    Attributes:
        run_id: The run.
        node: The node.
        name: The kind of the attempt: `attempt`, `undo attempt` or `probe attempt`.
        attempt: The attempt, from 1.
        failed: The failure.
    """

    run_id: str
    node: str
    name: str
    attempt: int
    failed: Failed
