"""`amends worker`: the sagas' code, at the service of a Temporal that runs elsewhere."""

import asyncio

import typer

from amends.aggregates.errors import UnreachableError
from amends.cli.exit_codes import ExitCode
from amends.cli.output.remarks import log_to_stderr, say
from amends.cli.project.settings import Settings
from amends.cli.runtime.signals import Stop, run_stoppable
from amends.cli.runtime.wiring import Project, drain_of, load_project, settings_of, use_temporal
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
    project = _project(settings)
    drain = drain_of(settings, project.registry)
    return run_stoppable(lambda stop: _worker(project, stop), code=ExitCode.OK, drain=drain)


def _project(settings: Settings) -> Project:
    from amends.sagas.temporal.connection import configured_target  # noqa: PLC0415 - imports Temporal
    from amends.sagas.temporal.server.embedded_server import running  # noqa: PLC0415 - as above

    project = load_project(settings)
    if configured_target() is None and running(settings.data_dir) is None:
        raise UnreachableError(
            f"no Temporal is configured and no embedded server runs in {str(settings.data_dir)!r}; "
            f"set TEMPORAL_ADDRESS, or use amends dev, which starts one"
        )
    return project


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
