"""Failures for Temporal: only our own error class, ids and names of code leave this process, never an error's text.

Temporal keeps the message, the stack and the causes of a failure in its database, and shows them to all who can see its
web page. So `travelling` turns any exception into a failure whose text is written here, and `ClosedFailureConverter`
does the same with every error that reaches Temporal in another way, such as a fault in a workflow. The texts refer to
the worker's log and the journal for the rest.
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

# Another delivery cannot help against these.
_LASTING = frozenset({"NotFoundError", "StoreBehindError", "TransitionError", "WrongDriverError", "WrongStoreError"})
_UNKNOWN = "Error"


class TravellingError(ApplicationError):
    """A failure whose text was written for Temporal; only `travelling` and `stated` create it."""


def travelling(
    error: BaseException,
    *,
    run_id: str = "",
    node: str = "",
    schedule: str = "",
    again: timedelta | None = None,
    lasting: bool = False,
) -> TravellingError:
    """Turn any exception into a failure for Temporal.

    Args:
        error: The exception; the failure keeps only the name of its class, and only if it is a class of Amends.
        run_id: The run; empty if there is none.
        node: The node; empty if there is none.
        schedule: The schedule; empty if there is none.
        again: The delay before Temporal's next try; `None` for Temporal's own policy.
        lasting: Whether another delivery certainly cannot help; for some classes this is always so.
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
    """Return a failure for one of Amends' own codes.

    Args:
        code: A word from Amends' own source, never from data.
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
        """Write a failure; an error that `travelling` did not create loses its text."""
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
    """Return the same client with `ClosedFailureConverter`; payloads are converted as before."""
    config: dict[str, Any] = {**client.config()}
    converter = replace(config["data_converter"], failure_converter_class=ClosedFailureConverter)
    return temporalio.client.Client(**(config | {"data_converter": converter}))
