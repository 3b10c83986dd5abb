"""A worker: in the foreground, as `amends dev` and `amends worker` run it, or beside what `amends run` does."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from amends.aggregates.errors import AmendsError
from amends.cli.remarks import note, say
from amends.cli.scheduling import restore, scheduled_runs
from amends.cli.wiring import Project, Temporal, keep_alive, open_store

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from amends.aggregates.journal_sql import SqlJournal

__all__ = ["serve", "serve_until"]


def serve(
    project: Project,
    journal: "SqlJournal",
    temporal: Temporal,
    *,
    on_open_runs: Callable[[int], None] | None = None,
) -> "AbstractAsyncContextManager[str]":
    """Run a worker for the project's sagas, and for scheduled runs, while the context lasts; gives the worker's name.

    Args:
        project: The sagas and steps.
        journal: The store.
        temporal: Where the work comes from.
        on_open_runs: Called with the number of unfinished runs that were found.
    """
    from amends.reconciler.scheduled_temporal import ReconcileWorkflow  # noqa: PLC0415 - imports Temporal
    from amends.sagas.worker_temporal import AlsoServed, running_worker  # noqa: PLC0415 - as above

    return running_worker(
        temporal.client,
        journal,
        project.registry,
        task_queue=project.settings.task_queue,
        at_once=project.settings.worker_concurrency,
        also=AlsoServed([ReconcileWorkflow], scheduled_runs(project, journal, temporal.client).all()),
        on_open_runs=on_open_runs,
    )


async def serve_until(
    project: Project, temporal: Temporal, stop: asyncio.Event, *, every_rule: bool | None = None
) -> None:
    """Serve the project's sagas until it is told to stop, and say what is served.

    Args:
        project: The sagas.
        temporal: Where the work comes from; an embedded server is started again when it dies.
        stop: Ends it.
        every_rule: Whether each drift rule is to have a schedule of its own; `None` to leave that as it is.

    Raises:
        UnreachableError: The store or Temporal cannot be reached, or the server cannot be started again.
    """
    settings = project.settings
    journal = open_store(settings, project.aggregates)

    async def schedules() -> None:
        try:
            timetable, changes = await restore(project, journal, temporal.client, every_rule=every_rule)
        except Exception as error:  # noqa: BLE001 - sagas are served all the same, whatever it is
            note(f"schedules were not restored: {error if isinstance(error, AmendsError) else repr(error)}")
            return
        if timetable.schedules:
            restored = f", {len(changes.create)} of them put into Temporal" if changes.create else ""
            say(f"schedules {len(timetable.schedules)}{restored}")

    try:
        say(f"store     {settings.safe_store_url}")
        say(f"queue     {settings.task_queue}")
        say(f"sagas     {', '.join(sorted(project.registry.sagas)) or 'none'}")
        async with serve(project, journal, temporal, on_open_runs=_say_open):
            say("Ready; Ctrl-C ends it.")
            await _until(stop, temporal, schedules)
            say("Stopping: what is being done comes to its end.")
    finally:
        await journal.close()


def _say_open(found: int) -> None:
    if found:
        say(f"resumed   {found} open {'run' if found == 1 else 'runs'}")


async def _until(stop: asyncio.Event, temporal: Temporal, schedules: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Wait for the request to stop; restore the schedules and start the server again meanwhile."""
    stopping = asyncio.create_task(stop.wait())
    restoring = [asyncio.create_task(schedules())]

    def restarted() -> None:
        note("the Temporal server was gone; started again")
        # It may have lost its file.
        restoring.append(asyncio.create_task(schedules()))

    watch = asyncio.create_task(keep_alive(temporal, restarted))
    try:
        await asyncio.wait([stopping, watch], return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            watch.result()
    finally:
        for task in (stopping, watch, *restoring):
            task.cancel()
        await asyncio.gather(stopping, watch, *restoring, return_exceptions=True)
