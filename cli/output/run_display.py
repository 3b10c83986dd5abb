"""The display of `amends run`: live rows on a terminal, one line per fact elsewhere, and a last line that sums up."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from amends.aggregates.run.facts import Fact
from amends.aggregates.run.plan import Plan
from amends.aggregates.run.state import RunStatus
from amends.aggregates.text import one_line
from amends.cli.exit_codes import ExitCode
from amends.cli.output.remarks import say
from amends.cli.views.fact_words import words
from amends.cli.views.progress import Board
from amends.sagas.engine.result import RunResult

__all__ = [
    "BatchDisplay",
    "Display",
    "code_of",
    "doubt_of",
    "last_line",
    "on_terminal",
    "open_batch",
    "open_display",
    "summary",
]

_CODES = {
    RunStatus.RUNNING: ExitCode.UNREACHABLE,
    RunStatus.CANCELLING: ExitCode.UNREACHABLE,
    RunStatus.COMPENSATING: ExitCode.UNREACHABLE,
    RunStatus.COMPLETED: ExitCode.OK,
    RunStatus.COMPENSATED: ExitCode.COMPENSATED,
    RunStatus.NEEDS_ATTENTION: ExitCode.NEEDS_ATTENTION,
}


def code_of(result: RunResult) -> ExitCode:
    """Return the exit status for a run; an open run counts as `UNREACHABLE`, since the wait for its end failed."""
    return _CODES[result.status]


def seconds(ms: int) -> str:
    """Return a duration in seconds, in the form that the whole display uses."""
    return f"{max(0, ms) / 1000:.2f} s"


def last_line(result: RunResult) -> str:
    """Return the line about how a run ended, why, and which command shows more."""
    state = result.record.state
    took = seconds(state.updated_ms - state.started_ms)
    what = f"run {result.run_id} of {result.record.started.saga}"
    match result.status:
        case RunStatus.COMPLETED:
            return f"{result.status}: {what} in {took}; its facts: amends history {result.run_id}"
        case RunStatus.COMPENSATED:
            why = f"{_why(result)}{doubt_of(result)}"
            return f"{result.status}: {what} in {took}: {why}; its facts: amends history {result.run_id}"
        case RunStatus.NEEDS_ATTENTION:
            why = f"open steps {', '.join(result.open_nodes)}: {_why(result)}{doubt_of(result)}"
            return f"{result.status}: {what}: {why}; see: amends show {result.run_id}"
        case _:
            return f"{result.status}: {what} is accepted; see: amends show {result.run_id}"


def _why(result: RunResult) -> str:
    return one_line(result.error or "no reason was recorded")


def doubt_of(result: RunResult) -> str:
    """Return the nodes that were undone while in doubt, as the end of a sentence; empty if there are none.

    A node that is in doubt and open is listed as open instead.
    """
    undone = [name for name in result.in_doubt if name not in result.open_nodes]
    return f"; undone with unknown outcome: {', '.join(undone)}" if result.closed and undone else ""


def summary(codes: Iterable[str], elapsed_s: float) -> str:
    """Return the number of a file's runs for each status."""
    counted = Counter(codes)
    total = sum(counted.values())
    parts = ", ".join(f"{number} {status}" for status, number in sorted(counted.items()))
    return f"{total} runs in {elapsed_s:.2f} s: {parts}; see: amends list"


def on_terminal() -> bool:
    """Check whether stdout is a terminal on which lines can be drawn again."""
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}


class Display(Protocol):
    """The display of one run while it goes on."""

    def show(self, fact: Fact) -> None:
        """Show one more fact; facts come in order."""
        ...

    def tick(self) -> None:
        """Draw the rows again, because time has passed."""
        ...


class _Nothing:
    def show(self, fact: Fact) -> None:
        pass

    def tick(self) -> None:
        pass


class _Lines:
    """One line for each fact, with the time since the run was accepted."""

    def __init__(self) -> None:
        self._started_ms: int | None = None

    def show(self, fact: Fact) -> None:
        started_ms = self._started_ms = fact.as_of_ms if self._started_ms is None else self._started_ms
        say(f"{seconds(fact.as_of_ms - started_ms):>9}  {one_line(words(fact).line)}")

    def tick(self) -> None:
        pass


class _Live:
    """Rows that are drawn again at each tick."""

    def __init__(self, plan: Plan, live: Any) -> None:  # noqa: ANN401 - rich is imported only where it is needed
        self._board = Board(plan)
        self._live = live

    def show(self, fact: Fact) -> None:
        self._board.apply(fact)

    def tick(self) -> None:
        from amends.cli.output.live import render  # noqa: PLC0415 - as above

        now_ms = time.time_ns() // 1_000_000
        self._live.update(render(self._board, now_ms, encoding=self._live.console.encoding), refresh=True)


@contextmanager
def open_display(plan: Plan, *, quiet: bool) -> Iterator[Display]:
    """Open the display of one run.

    Args:
        plan: The plan that the run follows.
        quiet: Whether to show nothing.
    """
    if quiet:
        yield _Nothing()
    elif not on_terminal():
        yield _Lines()
    else:
        from rich.live import Live  # noqa: PLC0415 - only a terminal needs it

        with Live(auto_refresh=False) as live:
            display = _Live(plan, live)
            yield display
            display.tick()


class BatchDisplay(Protocol):
    """The display of the runs of a file."""

    def done(self, line: str, status: RunStatus | None) -> None:
        """Show a run that has ended, or that could not start."""
        ...


class _BatchLines:
    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def done(self, line: str, status: RunStatus | None) -> None:  # noqa: ARG002 - lines have no colours
        if not self._quiet:
            say(line)


class _BatchLive:
    def __init__(self, progress: Any, task: Any) -> None:  # noqa: ANN401 - as above
        self._progress, self._task = progress, task

    def done(self, line: str, status: RunStatus | None) -> None:
        from amends.cli.output.live import result_line  # noqa: PLC0415 - as above

        self._progress.console.print(result_line(line, status), soft_wrap=True)
        self._progress.advance(self._task)


@contextmanager
def open_batch(total: int, *, quiet: bool) -> Iterator[BatchDisplay]:
    """Open the display for the runs of a file: a line for each run, and on a terminal a progress bar below.

    Args:
        total: The number of runs.
        quiet: Whether to show nothing.
    """
    if quiet or not on_terminal():
        yield _BatchLines(quiet=quiet)
        return
    from amends.cli.output.live import progress_bar  # noqa: PLC0415 - as above

    with progress_bar() as progress:
        yield _BatchLive(progress, progress.add_task("runs", total=total))
