"""The work of `amends run`: accept runs, follow them, and print their results."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from amends.aggregates.errors import AmendsError, UnreachableError
from amends.aggregates.run.state import RunStatus
from amends.aggregates.sql.journal import SqlJournal
from amends.aggregates.text import one_line
from amends.aggregates.values.strict_json import ascii_json
from amends.cli.exit_codes import ExitCode, exit_code_of
from amends.cli.output.remarks import note, say
from amends.cli.output.run_display import (
    BatchDisplay,
    Display,
    code_of,
    doubt_of,
    last_line,
    on_terminal,
    open_batch,
    open_display,
    seconds,
    summary,
)
from amends.cli.runtime.run_inputs import Job
from amends.cli.runtime.run_session import Session, StoppedError, open_session
from amends.cli.runtime.signals import Stop
from amends.cli.runtime.wiring import Project, close_store, open_store
from amends.sagas.engine.result import RunResult

__all__ = ["Order", "carry_out"]

_LOOK_S, _LOOK_LONGEST_S = 0.03, 0.1
_AT_ONCE = 50
_ID_COLUMNS = 40
_STATUS_COLUMNS = max(map(len, RunStatus))


@dataclass(frozen=True, slots=True)
class Order:
    """The request of the command line.

    Attributes:
        jobs: The runs, at least one, all valid.
        several: Whether they come from a file of lines, and appear as such even if it has one line.
        detach: Whether to end as soon as they are accepted.
        timeout_s: How long to wait at most, in seconds; `None` for no limit.
        json: Whether to print the outcome as JSON, and nothing else.
    """

    jobs: list[Job]
    several: bool
    detach: bool
    timeout_s: float | None
    json: bool


@dataclass(frozen=True, slots=True)
class _Ended:
    """The outcome of one line of a file."""

    job: Job
    result: RunResult | None
    error: AmendsError | None = None
    earlier: bool = False

    @property
    def code(self) -> ExitCode:
        if self.error is not None:
            return exit_code_of(self.error)
        return ExitCode.OK if self.result is None else code_of(self.result)


async def carry_out(project: Project, order: Order, stop: Stop) -> ExitCode:
    """Start the runs, show them, and return the exit status: of several runs the gravest one.

    Args:
        project: The sagas.
        order: The runs.
        stop: Learns when the command starts, works and ends; asks it to stop.

    Raises:
        AmendsError: No run was accepted, or a part that is needed went away.
    """
    accepted: set[str] = set()
    try:
        # In a thread: a database that does not answer must not keep the command from stopping.
        journal = await asyncio.to_thread(open_store, project.settings, project.aggregates)
        try:
            return await _in_session(project, journal, order, stop, accepted)
        finally:
            await close_store(journal, stop)
    except asyncio.CancelledError:
        if not stop.told:
            raise
        note("interrupted; nothing was accepted")
        return ExitCode.INTERRUPTED
    except Exception as error:
        stop.ends_with(exit_code_of(error))
        raise


async def _in_session(project: Project, journal: SqlJournal, order: Order, stop: Stop, accepted: set[str]) -> ExitCode:
    deadline = None if order.timeout_s is None else asyncio.get_running_loop().time() + order.timeout_s
    session_of = open_session(project, journal, stop, patience_s=order.timeout_s, detach=order.detach)
    async with session_of as session:
        stop.ready()
        work = _run_several if order.several else _run_one
        try:
            code = await session.during(work(session, journal, order, deadline, accepted), accepted)
        except StoppedError:
            note(_interrupted(session, order, accepted))
            code = ExitCode.INTERRUPTED
        except Exception as error:
            stop.ends_with(exit_code_of(error))
            raise
        stop.ends_with(code, calm=True)
        return code


def _interrupted(session: Session, order: Order, accepted: set[str]) -> str:
    if not accepted:
        return "interrupted; nothing was accepted"
    if order.several:
        return f"interrupted; for each accepted run: {session.outlook}; repeat the command to finish the file"
    return f"interrupted; run {order.jobs[0].run_id} is accepted: {session.outlook}"


# ---- one run


async def _run_one(
    session: Session, journal: SqlJournal, order: Order, deadline: float | None, accepted: set[str]
) -> ExitCode:
    job = order.jobs[0]
    began_ms = _now_ms()
    handle = await session.client.accept(job.start)
    accepted.add(job.run_id)
    status = await handle.status()
    if order.detach:
        _answer(status, order)
        return ExitCode.OK
    if _is_earlier(status, began_ms) and not order.json:
        say(f"Run {job.run_id} was started before with the same input; this is its outcome.")
    # A run that was started earlier may follow another plan than today's.
    plan = status.record.state.plan
    try:
        async with asyncio.timeout_at(deadline):
            with open_display(plan, quiet=order.json) as display:
                result = await _follow(session, journal, job.run_id, display)
    except TimeoutError:
        result = await handle.status()
        if not result.closed:
            note(f"run {job.run_id} is {result.status} after {order.timeout_s:g} s: {session.outlook}")
            if order.json:
                _answer(result, order)
            return ExitCode.UNREACHABLE
    _answer(result, order)
    return code_of(result)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _is_earlier(result: RunResult, began_ms: int) -> bool:
    return result.record.state.started_ms < began_ms


async def _follow(session: Session, journal: SqlJournal, run_id: str, display: Display) -> RunResult:
    """Show the run's facts as they arrive, until the run is closed."""
    waiting = asyncio.create_task(session.client.result(run_id))
    position, pause = 0, _LOOK_S
    try:
        while True:
            # This check comes before the read: facts that exist when the run is over are then among those that the read
            # returns.
            over = waiting.done()
            facts = await journal.facts(run_id, position)
            for fact in facts:
                display.show(fact)
                position = fact.position
            display.tick()
            if over:
                return waiting.result()
            pause = _LOOK_S if facts else min(pause * 1.5, _LOOK_LONGEST_S)
            await asyncio.wait([waiting], timeout=pause)
    finally:
        waiting.cancel()


def _answer(result: RunResult, order: Order) -> None:
    if order.json:
        _say_json(_as_object(result))
        return
    line = last_line(result)
    if not on_terminal():
        say(line)
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it

    from amends.cli.output.live import result_line  # noqa: PLC0415 - as above

    Console().print(result_line(line, result.status), soft_wrap=True)


def _as_object(result: RunResult) -> dict[str, Any]:
    record = result.record
    return {
        "run_id": result.run_id,
        "saga": record.started.saga,
        "status": result.status.value,
        "error": result.error,
        "open": list(result.open_nodes),
        "in_doubt": list(result.in_doubt),
        "keys": dict(record.started.keys),
        "results": dict(record.results),
        "started_ms": record.state.started_ms,
        "updated_ms": record.state.updated_ms,
    }


def _say_json(value: object) -> None:
    # Not in one call of `say`, which would mask the line breaks.
    for line in ascii_json(value, indented=True).splitlines():
        say(line)


# ---- a file of runs


async def _run_several(
    session: Session, journal: SqlJournal, order: Order, deadline: float | None, accepted: set[str]
) -> ExitCode:
    del journal  # a single run is followed fact by fact, a file of runs is not
    began = time.monotonic()
    waiting = iter(order.jobs)
    ended: dict[str, _Ended] = {}
    widths = _Widths.of(order.jobs)

    async def work(display: BatchDisplay) -> None:
        for job in waiting:
            outcome = await _run_line(session, order, job, deadline, accepted)
            ended[job.run_id] = outcome
            display.done(_line_of(outcome, widths), None if outcome.result is None else outcome.result.status)

    with open_batch(len(order.jobs), quiet=order.json) as display:
        await asyncio.gather(*(work(display) for _ in range(min(_AT_ONCE, len(order.jobs)))))
    outcomes = [ended[job.run_id] for job in order.jobs]
    if order.json:
        _say_json([_line_object(each) for each in outcomes])
    else:
        say(summary((_status(each) for each in outcomes), time.monotonic() - began))
    return max(each.code for each in outcomes)


async def _run_line(session: Session, order: Order, job: Job, deadline: float | None, accepted: set[str]) -> _Ended:
    try:
        if deadline is not None and asyncio.get_running_loop().time() >= deadline:
            raise UnreachableError(f"not started within {order.timeout_s:g} s; repeat the command to start it")
        began_ms = _now_ms()
        handle = await session.client.accept(job.start)
        accepted.add(job.run_id)
        if order.detach:
            return _Ended(job, None)
        try:
            async with asyncio.timeout_at(deadline):
                result = await handle.result()
        except TimeoutError:
            result = await handle.status()
        return _Ended(job, result, earlier=_is_earlier(result, began_ms))
    except AmendsError as error:
        return _Ended(job, None, error)


def _status(outcome: _Ended) -> str:
    if outcome.result is not None:
        return outcome.result.status.value
    return "accepted" if outcome.error is None else "refused"


class _Widths(NamedTuple):
    """Widths of the columns for the lines of a file; known before the first line is printed."""

    place: int
    run_id: int

    @classmethod
    def of(cls, jobs: list[Job]) -> Self:
        """Return the width of the widest value for each column; for ids at most that of a common id."""
        return cls(max(len(job.place) for job in jobs), min(_ID_COLUMNS, max(len(job.run_id) for job in jobs)))


def _line_of(outcome: _Ended, widths: _Widths) -> str:
    job = outcome.job
    begin = f"{job.place:{widths.place}}  {_status(outcome):{_STATUS_COLUMNS}}  {job.run_id:{widths.run_id}}"
    if outcome.error is not None:
        return f"{begin}  {one_line(str(outcome.error))}"
    if outcome.result is None:
        return begin.rstrip()
    state = outcome.result.record.state
    why = f"  {one_line(outcome.result.error)}" if outcome.code is not ExitCode.OK and outcome.result.error else ""
    earlier = "  (started before)" if outcome.earlier else ""
    took = seconds(state.updated_ms - state.started_ms)
    return f"{begin}  {took}{why}{doubt_of(outcome.result)}{earlier}"


def _line_object(outcome: _Ended) -> dict[str, Any]:
    if outcome.result is not None:
        return {"place": outcome.job.place, **_as_object(outcome.result)}
    refused = None if outcome.error is None else str(outcome.error)
    return {"place": outcome.job.place, "run_id": outcome.job.run_id, "status": None, "error": refused}
