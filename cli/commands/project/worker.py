"""`amends worker`: the sagas' code, at the service of a Temporal that runs elsewhere."""

import asyncio

import typer

from amends.cli.exit_codes import ExitCode
from amends.cli.output.remarks import log_to_stderr, say
from amends.cli.runtime.signals import Stop, run_stoppable
from amends.cli.runtime.wiring import Project, drain_of, find_temporal, load_project, settings_of, use_temporal
from amends.cli.runtime.worker import serve_until

__all__ = ["worker"]


def worker(ctx: typer.Context) -> ExitCode:
    """Run a worker, without a server.

    The worker serves the Temporal that Temporal's own configuration names (TEMPORAL_ADDRESS and so on), or else the
    running embedded server. It adds declared schedules that Temporal lacks. Ctrl-C or SIGTERM ends it with status 0: it
    starts no new calls, and calls in flight may end within the time of the setting drain. A second signal shortens that
    time to 5 s.
    """
    log_to_stderr()
    settings = settings_of(ctx)
    project = load_project(settings)
    find_temporal(settings)
    drain = drain_of(settings, project.registry)
    return run_stoppable(lambda stop: _worker(project, stop), code=ExitCode.OK, drain=drain)


async def _worker(project: Project, stop: Stop) -> ExitCode:
    try:
        async with use_temporal(project.settings, stop=stop) as temporal:
            say(f"Temporal  {temporal.address}")
            await serve_until(project, temporal, stop)
    except asyncio.CancelledError:
        if not stop.told:
            raise
    say("Stopped.")
    return ExitCode.OK
