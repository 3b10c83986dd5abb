"""Lines of a command: answers on stdout, remarks and errors on stderr, one line each."""

import logging
import os
import re
import sys
import threading
import warnings
from typing import TextIO

from amends.aggregates.text import one_line

__all__ = ["log_to_stderr", "note", "printable", "say", "silence_logs", "tame_python"]

_log = logging.getLogger("amends.python")

_NOT_AWAITED = re.compile(r"coroutine '[\w.<>]+' was never awaited")
"""A warning of Python's own that holds names of code only."""


def say(line: str = "") -> None:
    """Write a line of the command's answer, with unprintable characters masked."""
    _write(sys.stdout, printable(line))


def note(line: str) -> None:
    """Write a remark next to the answer: `amends: ...` on stderr."""
    _write(sys.stderr, f"amends: {one_line(line)}")


def _write(stream: TextIO | None, line: str) -> None:
    if stream is not None:  # None if the parent process closed it
        stream.write(f"{line}\n")
        stream.flush()


def printable(line: str) -> str:
    """Return a line with its unprintable characters masked; runs of spaces, which `one_line` joins, stay."""
    return "".join(char if char.isprintable() else "?" for char in line)


class _Lines(logging.Handler):
    """A log handler that writes each record as one remark, without traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.name == "asyncio":
            # The other lines show objects, which may hold user data.
            error = record.exc_info[0] if record.exc_info else None
            message = message.partition("\n")[0] + (f": {error.__name__}" if error is not None else "")
        note(message)


def tame_python() -> None:
    """Send Python's own output (warnings, errors that no code can catch) to the log, one line each.

    From then on Temporal's SDK logs errors only, because its warnings are about failures that Amends itself reports.
    """
    logging.getLogger("temporalio").setLevel(logging.ERROR)
    if os.environ.get("AMENDS_DEBUG"):
        return
    warnings.showwarning = _warn
    sys.unraisablehook = _unraisable
    threading.excepthook = _ended


def _warn(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    # Any other text may quote user data, as pydantic's warnings do.
    said = f": {message}" if _NOT_AWAITED.fullmatch(str(message)) else ""
    _log.warning("Python warns: %s%s (%s:%d)", category.__name__, said, filename, lineno)


def _unraisable(found: "sys.UnraisableHookArgs") -> None:
    _log.warning("an error that no caller could catch: %s (AMENDS_DEBUG=1 shows where)", found.exc_type.__name__)


def _ended(found: threading.ExceptHookArgs) -> None:
    name = "unknown" if found.thread is None else found.thread.name
    _log.warning("thread %s ended with %s (AMENDS_DEBUG=1 shows where)", name, found.exc_type.__name__)


def log_to_stderr() -> None:
    """Send warnings of workers to stderr, one line each."""
    _route(_Lines(logging.WARNING))


def silence_logs() -> None:
    """Keep logs of libraries off the screen: the command itself prints the lines that matter."""
    _route(logging.NullHandler())


def _route(handler: logging.Handler) -> None:
    # Full logs with tracebacks, in Python's own form, for the search for a fault in Amends.
    if os.environ.get("AMENDS_DEBUG"):
        logging.basicConfig(level=logging.INFO)
    else:
        logging.getLogger().handlers[:] = [handler]
