"""The border to Temporal: of an error nothing crosses but our own class, ids and names of code.

Temporal keeps the message, the stack and the causes of a failure in its database, and shows them to all who can see its
web page. So no text of an exception crosses: `travelling` turns any exception into a failure whose text is written
here, and `ClosedFailureConverter` does so with whatever reaches Temporal by another way, such as a fault in a workflow.
The texts say where the rest is: the worker's log and the journal.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import temporalio.client
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DefaultFailureConverter, PayloadConverter
from temporalio.exceptions import ApplicationError, FailureError

from amends.aggregates import errors
from amends.aggregates.values.error_report import class_name

__all__ = ["ClosedFailureConverter", "TravellingError", "closed", "stated", "travelling"]

# Nothing that is asked again helps against these.
_LASTING = frozenset({"NotFoundError", "StoreBehindError", "TransitionError", "WrongDriverError", "WrongStoreError"})
_UNKNOWN = "Error"


class TravellingError(ApplicationError):
    """A failure whose text was written for Temporal; made by `travelling` only."""


def travelling(
    error: BaseException,
    *,
    run_id: str = "",
    node: str = "",
    schedule: str = "",
    again: timedelta | None = None,
    lasting: bool = False,
) -> TravellingError:
    """Turn any exception into the failure that Temporal is given.

    Args:
        error: The exception; nothing of it is kept but the name of its class, where that is one of ours.
        run_id: The run; empty where it is about none.
        node: The node; empty where it is about none.
        schedule: The schedule; empty where it is about none.
        again: When Temporal is to try again; `None` for its own policy.
        lasting: Whether it is known that another delivery cannot help; of some classes that is always true.
    """
    name = class_name(error)
    code = name if getattr(errors, name, None) is type(error) else _UNKNOWN
    return stated(code, run_id=run_id, node=node, schedule=schedule, again=again, lasting=lasting or code in _LASTING)


def stated(
    code: str,
    *,
    run_id: str = "",
    node: str = "",
    schedule: str = "",
    again: timedelta | None = None,
    lasting: bool = False,
) -> TravellingError:
    """Make a failure of a code of ours.

    Args:
        code: A word from our own code, never from data.
        run_id: As for `travelling`.
        node: As for `travelling`.
        schedule: As for `travelling`.
        again: As for `travelling`.
        lasting: Whether another delivery cannot help.
    """
    about = [("run", run_id), ("step", node), ("schedule", schedule)]
    where = " ".join(f"{kind} {name!r}" for kind, name in about if name)
    text = f"{code}{' of ' if where else ''}{where}; the worker's log and the journal say more"
    return TravellingError(text, type=code, non_retryable=lasting, next_retry_delay=again)


class ClosedFailureConverter(DefaultFailureConverter):
    """Writes failures for Temporal without any text, stack or cause of an exception."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        """Write a failure; what was not made by `travelling` becomes an error without text."""
        known = isinstance(exception, TravellingError) or (
            isinstance(exception, FailureError) and not isinstance(exception, ApplicationError)
        )
        super().to_failure(
            exception if known or _was_read(exception) else travelling(exception), payload_converter, failure
        )
        _strip(failure)


def _was_read(error: BaseException) -> bool:
    """Check whether an error came from Temporal, which has it already."""
    return isinstance(error, FailureError) and error.failure is not None


def _strip(failure: Failure) -> None:
    failure.stack_trace = ""
    if failure.HasField("cause"):
        _strip(failure.cause)


def closed(client: temporalio.client.Client) -> temporalio.client.Client:
    """Give the same client with `ClosedFailureConverter`; payloads are converted as before."""
    config: dict[str, Any] = {**client.config()}
    converter = replace(config["data_converter"], failure_converter_class=ClosedFailureConverter)
    return temporalio.client.Client(**(config | {"data_converter": converter}))
