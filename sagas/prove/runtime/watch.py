"""Watch the user's functions during a search: they may open no file and no connection, and their time is measured.

The hook of the interpreter (`sys.addaudithook`) cannot be removed, so it is installed once, with the first search, and
does nothing outside of a watched function. Imports, time zones and the source lines of a traceback may be read.
"""

import inspect
import sys
import threading
import time
import zoneinfo
from collections import Counter
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

from amends.aggregates.text import shorten
from amends.sagas.prove.problem import ProveError

__all__ = ["Watch"]

_ACTIONS = {
    "open": "opens {}",
    "socket.connect": "connects to {1}",
    "socket.getaddrinfo": "looks up the host {}",
    "subprocess.Popen": "starts the program {}",
    "os.system": "runs the command {}",
    "sqlite3.connect": "opens the database {}",
}
_READING_CODE = ("<frozen importlib", "<frozen zipimport")
_READERS = frozenset({"linecache", "tokenize"})


class Watch:
    """The time that each step has used, and the watch over the function that runs now.

    Attributes:
        seconds: Seconds by name of the step.
        calls: Number of calls by name of the step.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: Counter[str] = Counter()
        _install()

    def __call__(self, step: str) -> AbstractContextManager[object]:
        """Return the block in which a function of a step runs.

        Args:
            step: Name of the step.
        """
        return _Block(self, step)

    def slowest(self) -> str:
        """Return the step that used most of the time, in words."""
        if not self.seconds:
            return "no step has run"
        seconds, step = max((seconds, step) for step, seconds in self.seconds.items())
        return f"step {step!r} took {seconds:.2g} s in {self.calls[step]} calls"


class _Block:
    """The block in which one function runs."""

    __slots__ = ("_before", "_began", "_watch", "problem", "step", "thread")

    def __init__(self, watch: Watch, step: str) -> None:
        self._watch = watch
        self.step = step
        self.problem: ProveError | None = None

    def __enter__(self) -> None:
        self.thread = threading.get_ident()
        self._before = _Active.block
        self._began = time.perf_counter()
        _Active.block = self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _Active.block = self._before
        self._watch.seconds[self.step] = self._watch.seconds.get(self.step, 0.0) + time.perf_counter() - self._began
        self._watch.calls[self.step] += 1
        # The function may have caught the error that the hook raised.
        if self.problem is not None:
            raise self.problem


class _Active:
    """The block that runs now; `None` outside of the user's functions."""

    block: _Block | None = None
    installed = False


def _install() -> None:
    if not _Active.installed:
        _Active.installed = True
        sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    block = _Active.block
    if block is None or event not in _ACTIONS or block.thread != threading.get_ident():
        return
    if event == "open" and (str(arguments[0]).startswith(zoneinfo.TZPATH) or _is_reading_code(inspect.currentframe())):
        return
    words = _ACTIONS[event].format(*(shorten(each) for each in arguments))
    block.problem = ProveError(
        f"step {block.step!r}: its function {words}, and a search must not leave its process; "
        f"replace it: results={{{block.step}: a result}}"
    )
    raise block.problem


def _is_reading_code(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(_READING_CODE) or frame.f_globals.get("__name__") in _READERS:
            return True
        frame = frame.f_back
    return False
