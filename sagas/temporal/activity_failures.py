"""Turn the errors of activities into failures for Temporal, and log what the failures leave out.

An error's text stays in this process: Temporal receives the failures of `failures.py`, and the worker's log the text.
"""

import logging
from collections.abc import Awaitable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

from amends.aggregates.errors import AmendsError, CannotContinueError, DamagedRunError
from amends.sagas.runtime.error_log import ErrorLog
from amends.sagas.temporal.failures import TravellingError, stated, travelling

__all__ = ["ActivityFailures", "given_back"]

T = TypeVar("T")

_log = logging.getLogger("amends.worker")

_MOST_LOGGED = 10_000
_LONGEST_WAIT_S = 60


class ActivityFailures:
    """The failures of a worker's activities.

    Args:
        errors: The log of errors.
    """

    def __init__(self, errors: ErrorLog) -> None:
        self._errors = errors
        self._logged: dict[tuple[str, str], str] = {}

    async def without_text(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for the work of an activity; raise any error without its text, because Temporal would store the text."""
        info = activity.info()
        try:
            return await work
        except ApplicationError as error:
            failure = error if isinstance(error, TravellingError) else travelling(error, run_id=info.workflow_id or "")
        except Exception as error:  # noqa: BLE001 - the text of every error stays here
            # The workflow may end, because `recover` and the rule `driven` start a damaged run again once its facts are
            # restored.
            lost = isinstance(error, DamagedRunError) and not error.damage.version
            failure = travelling(error, run_id=info.workflow_id or "", lasting=lost)
            if isinstance(error, AmendsError):
                _log.warning("run %r, %s: %s", info.workflow_id, info.activity_type, self._errors.line(error))
            else:
                self._errors.raised(f"run {info.workflow_id!r}, {info.activity_type}", error)
        # Raised outside of the `except` block, so that the error does not become the context of the failure.
        raise failure

    async def retrying_later(self, work: Awaitable[T]) -> T:
        """Await work; if the deployed code cannot do it, have Temporal ask again, less and less often."""
        try:
            return await work
        except CannotContinueError as error:
            self.log_once(error)
            again_s = min(2.0 ** min(activity.info().attempt - 1, 10), _LONGEST_WAIT_S)
            raise travelling(error, run_id=error.run_id, node=error.node, again=timedelta(seconds=again_s)) from None

    def log_once(self, error: CannotContinueError) -> None:
        """Log why a run waits for other code, but only once, although Temporal asks repeatedly."""
        run_node = (error.run_id, error.node)
        if self._logged.get(run_node) != str(error):
            if len(self._logged) >= _MOST_LOGGED:
                self._logged.clear()
            self._logged[run_node] = str(error)
            _log.warning("%s", error)


def given_back() -> TravellingError:
    """Return the failure by which this stopping worker hands a call to another one."""
    return stated("GivenBack")
