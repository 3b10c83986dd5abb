"""A worker: in the foreground, for `amends dev` and `amends worker`, or next to the work of `amends run`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amends.aggregates.errors import AmendsError
from amends.cli.exit_codes import exit_code_of
from amends.cli.output.remarks import note, say
from amends.cli.runtime.blocked_runs import open_blockers
from amends.cli.runtime.pipelines import serving_pipelines
from amends.cli.runtime.schedules import restore, scheduled_runs
from amends.cli.runtime.signals import Stop
from amends.cli.runtime.wiring import Project, Temporal, close_store, keep_alive, open_store
from amends.sagas.engine.blockers import grouped
from amends.sagas.runtime.deadline import WORKERS_RESERVE_S

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from amends.aggregates.sql.journal import SqlJournal
    from amends.sagas.temporal.effect_calls import PendingCall

__all__ = ["ON_SCREEN", "Report", "serve", "serve_until"]

# The notice takes longer than a round of the watch plus a restart. With very many open runs the worker begins before it
# has checked all of them.
_LOOK_AT_RUNS_S = 30.0
_NOTICE_S = 20.0
_RESTORING_S = 0.3


@dataclass(frozen=True)
class Report:
    """The places to which a worker reports.

    Attributes:
        say: Writes a line about the worker's start and end.
        note: Writes a line about a problem.
        ready: Called once when the worker serves.
        files: Whether the data directory shows `amends doctor` that the worker is alive.
    """

    say: Callable[[str], None]
    note: Callable[[str], None]
    ready: Callable[[], None]
    files: bool = True


ON_SCREEN = Report(say, note, lambda: say("Ready; Ctrl-C ends it."))
"""Reports of a command."""


def serve(
    project: Project,
    journal: "SqlJournal",
    temporal: Temporal,
    stop: Stop,
    *,
    on_open_runs: Callable[[int], None] | None = None,
    files: bool = True,
) -> "AbstractAsyncContextManager[str]":
    """Run a worker for the project's sagas, and for scheduled runs, while the context lasts; yield the worker's name.

    Args:
        project: The sagas and steps.
        journal: The store.
        temporal: The source of the work.
        stop: Bounds the end of the worker, and learns which calls are under way.
        on_open_runs: Called with the number of unfinished runs that were found.
        files: As in `Report`.
    """
    from amends.reconciler.temporal.scheduled_run import ReconcileWorkflow  # noqa: PLC0415 - imports Temporal
    from amends.sagas.runtime.error_log import ErrorDetail  # noqa: PLC0415 - as above
    from amends.sagas.temporal.worker import AlsoServed, running_worker  # noqa: PLC0415 - as above

    def on_calls(pending: "Callable[[], list[PendingCall]]") -> None:
        stop.under_way = lambda: [str(each) for each in pending()]

    return running_worker(
        temporal.client,
        journal,
        project.registry,
        task_queue=project.settings.task_queue,
        at_once=project.settings.worker_concurrency,
        errors=ErrorDetail(project.settings.errors or ErrorDetail.TYPE),
        threads=project.settings.worker_threads,
        report_in=project.settings.data_dir if files else None,
        also=AlsoServed([ReconcileWorkflow], scheduled_runs(project, journal, temporal.client).all()),
        on_open_runs=on_open_runs,
        deadline=stop.deadline,
        on_calls=on_calls,
    )


async def serve_until(
    project: Project,
    temporal: Temporal,
    stop: Stop,
    *,
    every_rule: bool | None = None,
    report: Report = ON_SCREEN,
) -> None:
    """Serve the project's sagas until a request to stop, and report which ones are served.

    Args:
        project: The sagas.
        temporal: The source of the work; an embedded server that dies starts again.
        stop: Ends the worker.
        every_rule: Whether each drift rule gets a schedule of its own; `None` for no change.
        report: The places to which the worker reports.

    Raises:
        UnreachableError: The store or Temporal cannot be reached, or the server cannot be started again.
    """
    settings = project.settings
    # In a thread: a database that does not answer must not keep the command from stopping.
    journal = await asyncio.to_thread(open_store, settings, project.aggregates)

    async def schedules() -> None:
        try:
            timetable, changes = await restore(project, journal, temporal.client, every_rule=every_rule)
        except Exception as error:  # noqa: BLE001 - the worker serves sagas in spite of any error
            from amends.sagas.runtime.error_log import ErrorDetail, ErrorLog  # noqa: PLC0415 - imports the needs of workers

            said = ErrorLog(ErrorDetail(settings.errors or ErrorDetail.TYPE)).line(error)
            report.note(f"could not restore schedules: {said}")
            return
        if timetable.schedules:
            restored = f", {len(changes.create)} of them created in Temporal" if changes.create else ""
            report.say(f"schedules {len(timetable.schedules)}{restored}")

    try:
        report.say(f"store     {settings.safe_store_url}")
        report.say(f"queue     {settings.task_queue}")
        report.say(f"sagas     {', '.join(sorted(project.registry.sagas)) or 'none'}")
        if project.pipelines.names:
            report.say(f"pipelines {', '.join(sorted(project.pipelines.names))}")
        async with _kept_alive(temporal, stop, report) as server, AsyncExitStack() as stack:
            await _begin(stack, lambda: _served(project, journal, temporal, stop, report), server, stop)
            # Entered last, so that partitions are handed over before the calls of sagas drain.
            await _begin(
                stack,
                lambda: serving_pipelines(project, journal, temporal.client, stop, note=report.note),
                server,
                stop,
            )
            await _report_blocked(project, journal, stop, report)
            report.ready()
            stop.ready()
            await _until(stop, server, schedules)
            drain_s = stop.deadline.drain_s
            bound = f" within {drain_s:g} s" if drain_s else ""
            report.say(f"Stopping: calls in flight may finish{bound}; no new calls start.")
    except Exception as error:
        stop.ends_with(exit_code_of(error))
        raise
    finally:
        await close_store(journal, stop, note=report.note)


def _served(
    project: Project, journal: "SqlJournal", temporal: Temporal, stop: Stop, report: Report
) -> "AbstractAsyncContextManager[str]":
    def on_open_runs(found: int) -> None:
        if found:
            report.say(f"resumed   {found} open {'run' if found == 1 else 'runs'}")

    return serve(project, journal, temporal, stop, on_open_runs=on_open_runs, files=report.files)


async def _report_blocked(project: Project, journal: "SqlJournal", stop: Stop, report: Report) -> None:
    """Report the open runs that the loaded code cannot continue: one line for each saga, step and reason."""
    reading = asyncio.create_task(asyncio.to_thread(lambda: grouped(open_blockers(journal, project.registry))))
    stopping = asyncio.create_task(stop.requested.wait())
    try:
        await asyncio.wait([reading, stopping], timeout=_LOOK_AT_RUNS_S, return_when=asyncio.FIRST_COMPLETED)
        for line in reading.result() if reading.done() else ():
            report.note(line)
    except AmendsError as error:  # the store went away: the worker waits for it
        report.note(f"cannot check whether the loaded code can continue all open runs: {error}")
    finally:
        for task in (reading, stopping):
            task.cancel()


class _Server:
    """The embedded server, kept alive; for a configured one the watch has nothing to do.

    Attributes:
        watch: Keeps it alive; its error says why that is not possible.
        restarts: The number of its restarts.
        on_restart: Called after each restart.
    """

    def __init__(self, temporal: Temporal, report: Report) -> None:
        self.restarts = 0
        self._report = report
        self.on_restart: Callable[[], None] = lambda: None
        self.watch = asyncio.create_task(keep_alive(temporal, self._restarted))

    def _restarted(self) -> None:
        self._report.note("the Temporal server was lost; this command started it again")
        self.restarts += 1
        self.on_restart()


@asynccontextmanager
async def _kept_alive(temporal: Temporal, stop: Stop, report: Report) -> AsyncIterator[_Server]:
    """Keep the embedded server alive while the context lasts."""
    server = _Server(temporal, report)
    try:
        yield server
    finally:
        server.watch.cancel()
        await stop.within(asyncio.wait([server.watch]), WORKERS_RESERVE_S)


async def _begin(
    stack: AsyncExitStack,
    worker: "Callable[[], AbstractAsyncContextManager[object]]",
    server: _Server,
    stop: Stop,
) -> None:
    """Start the worker, and once more each time the embedded server was lost meanwhile."""
    while True:
        before = server.restarts
        try:
            await stack.enter_async_context(worker())
        except Exception:
            # The watch may have noticed already, or notices in its next round.
            await asyncio.wait([server.watch], timeout=_NOTICE_S)
            if server.watch.done():
                server.watch.result()
            if server.restarts == before:
                raise
            stop.goes_on()
        else:
            return


async def _until(stop: Stop, server: _Server, schedules: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Wait for the request to stop; restore the schedules, and again after each restart of the server."""
    stopping = asyncio.create_task(stop.requested.wait())
    restoring = [asyncio.create_task(schedules())]
    # The server may have lost its file.
    server.on_restart = lambda: restoring.append(asyncio.create_task(schedules()))
    try:
        await asyncio.wait([stopping, server.watch], return_when=asyncio.FIRST_COMPLETED)
        if server.watch.done():
            server.watch.result()
    finally:
        server.on_restart = lambda: None
        stop.deadline.begin()
        for task in (stopping, *restoring):
            task.cancel()
        await asyncio.wait([stopping, *restoring], timeout=_RESTORING_S)
