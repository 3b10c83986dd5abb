"""A worker in the foreground, as `amends dev` and `amends worker` run it."""

import asyncio

from amends.cli.remarks import note, say
from amends.cli.wiring import Project, Temporal, keep_alive, open_store, serve

__all__ = ["serve_until"]


async def serve_until(project: Project, temporal: Temporal, stop: asyncio.Event) -> None:
    """Serve the project's sagas until it is told to stop, and say what is served.

    Args:
        project: The sagas.
        temporal: Where the work comes from; an embedded server is started again when it dies.
        stop: Ends it.

    Raises:
        UnreachableError: The store or Temporal cannot be reached, or the server cannot be started again.
    """
    settings = project.settings
    journal = open_store(settings, project.aggregates)
    try:
        say(f"store     {settings.safe_store_url}")
        say(f"queue     {settings.task_queue}")
        say(f"sagas     {', '.join(sorted(project.registry.sagas)) or 'none'}")
        async with serve(project, journal, temporal, on_open_runs=_say_open):
            say("Ready; Ctrl-C ends it.")
            await _until(stop, temporal)
            say("Stopping: what is being done comes to its end.")
    finally:
        await journal.close()


def _say_open(found: int) -> None:
    if found:
        say(f"resumed   {found} open {'run' if found == 1 else 'runs'}")


async def _until(stop: asyncio.Event, temporal: Temporal) -> None:
    """Wait for the request to stop, and start the server again meanwhile."""
    stopping = asyncio.create_task(stop.wait())
    watch = asyncio.create_task(keep_alive(temporal, lambda: note("the Temporal server was gone; started again")))
    try:
        await asyncio.wait([stopping, watch], return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            watch.result()
    finally:
        for task in (stopping, watch):
            task.cancel()
        await asyncio.gather(stopping, watch, return_exceptions=True)
