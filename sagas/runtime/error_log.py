"""The log of errors in user code: class, places and causes; messages and source lines only with `errors = "text"`.

A message may quote user data, and logs travel further than the journal. So a log line names the class of an error, the
places in code and the causes, with run, step and attempt; `amends show` prints the message from the journal. With
`errors = "text"` messages and lines of code are in the log as well.

How it can fail: for a source file that was removed or changed, the log has no line, or another one.
"""

import linecache
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from amends.aggregates.errors import AmendsError, DamagedRunError
from amends.aggregates.text import one_line
from amends.aggregates.values.error_report import ErrorLink, ErrorReport, Frame, class_name, describe, text_of
from amends.aggregates.values.strict_json import clean_text
from amends.sagas.engine.outcome import FailedAttempt

__all__ = ["ErrorDetail", "ErrorLog"]

_log = logging.getLogger("amends.errors")
# Without a handler nothing is printed, because the journal has the error and the program reports the failure anyway.
_log.addHandler(logging.NullHandler())

_SOURCE_CHARS = 200
# Errors of Amends, by class, whose messages contain only ids, positions and names of code and servers.
_WITHOUT_VALUES = frozenset(
    {
        "BusyError",
        "CannotContinueError",
        "MissingCodeError",
        "StoreBehindError",
        "UnreachableError",
        "WrongDriverError",
        "WrongStoreError",
    }
)


class ErrorDetail(StrEnum):
    """How much of an error the log shows."""

    TYPE = "type"
    """Class, places and causes."""
    TEXT = "text"
    """Messages and lines of code as well."""


@dataclass(frozen=True, slots=True)
class ErrorLog:
    """Writes errors to the logger `amends.errors`.

    Attributes:
        detail: How much of an error the log shows.
    """

    detail: ErrorDetail = ErrorDetail.TYPE

    def failed(self, attempt: FailedAttempt) -> None:
        """Log a failed attempt of user code."""
        failed = attempt.failed
        where = f"run {attempt.run_id!r} step {attempt.node!r}: {attempt.name} {attempt.attempt} failed"
        if not failed.chain:
            said = f": {one_line(failed.error)}" if self.detail is ErrorDetail.TEXT else ""
            _log.warning("%s: %s%s", where, failed.error_type, said)
            return
        for line in self._lines(f"{where}: ", failed.chain):
            _log.warning("%s", line)

    def raised(self, where: str, error: BaseException) -> None:
        """Log an error that user code outside of a saga raised.

        Args:
            where: The place in words, such as `drift rule 'stock'`.
            error: The error.
        """
        self.reported(where, describe(error))

    def reported(self, where: str, report: ErrorReport) -> None:
        """Log an error from its description, which was taken where the error was raised; otherwise like `raised`."""
        for line in self._lines(f"{where}: ", report.chain):
            _log.warning("%s", line)

    def line(self, error: BaseException) -> str:
        """Return an error of Amends in one line for the log: its message, unless that may quote user data."""
        name = class_name(error)
        if self.detail is ErrorDetail.TEXT or (isinstance(error, AmendsError) and name in _WITHOUT_VALUES):
            return text_of(error)
        if isinstance(error, DamagedRunError):
            return str(replace(error.damage, problem="`amends db check` shows the fault"))
        return name

    def _lines(self, where: str, chain: tuple[ErrorLink, ...]) -> Iterator[str]:
        if self.detail is ErrorDetail.TYPE:
            yield where + "; ".join(str(link) for link in chain)
            return
        for number, link in enumerate(chain):
            indent = where if not number else "  "
            yield f"{indent}{link.relation} {link.error_type}: {one_line(link.message)}"
            yield from (f"    at {frame}: {_source(frame)}" for frame in reversed(link.frames))


def _source(frame: Frame) -> str:
    """Read the line of code from the present file; return an empty text if the file cannot be read."""
    return one_line(clean_text(linecache.getline(frame.file, frame.line), _SOURCE_CHARS))
