"""What became of calling a user's function, as data."""

from dataclasses import dataclass

from pydantic import JsonValue

from amends.aggregates.errorreport import ErrorLink

__all__ = ["Failed", "NotFound", "Outcome", "Refused", "Succeeded"]


@dataclass(frozen=True, slots=True)
class Succeeded:
    """It returned; for a probe: it found the effect.

    Attributes:
        result: What it returned, as JSON; `None` for a compensation.
    """

    result: JsonValue


@dataclass(frozen=True, slots=True)
class Refused:
    """It raised `Rejected`: the participant said no.

    Attributes:
        reason: The participant's words.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """The probe found no effect."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It raised something else, took too long, or its worker was lost: nobody knows what it did.

    Attributes:
        error_type: Class of the error.
        error: Its message in one line.
        final: Whether another attempt cannot help, because the fault lies in what it returned.
        chain: The error and its causes, with the places in code where they were raised; empty where nothing was raised.
    """

    error_type: str
    error: str
    final: bool = False
    chain: tuple[ErrorLink, ...] = ()


Outcome = Succeeded | Refused | NotFound | Failed
