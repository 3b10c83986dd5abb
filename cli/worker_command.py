"""`amends worker`: the sagas' code, at the service of a Temporal that runs elsewhere."""

import asyncio

import typer

from amends.aggregates.errors import UnreachableError
from amends.cli.exit_codes import ExitCode
from amends.cli.remarks import log_to_stderr, say
from amends.cli.serving import serve_until
from amends.cli.settings import Settings
from amends.cli.stopping_asyncio import stop_requests
from amends.cli.wiring import load_project, settings_of, use_temporal

__all__ = ["worker"]


def worker(ctx: typer.Context) -> ExitCode:
    """Run a worker alone.

    It serves the Temporal that Temporal's own configuration names (TEMPORAL_ADDRESS and so on), or else the embedded
    server that runs. Schedules that are declared are put into Temporal where it lacks them. Ctrl-C or SIGTERM ends it
    with status 0, after what is being done at that moment.
    """
    log_to_stderr()
    return asyncio.run(_worker(settings_of(ctx)))


async def _worker(settings: Settings) -> ExitCode:
    from amends.sagas.connection_temporal import configured_target  # noqa: PLC0415 - imports Temporal
    from amends.sagas.server_temporal import running  # noqa: PLC0415 - as above

    project = load_project(settings)
    if configured_target() is None and running(settings.data_dir) is None:
        raise UnreachableError(
            f"no Temporal is configured and no embedded server runs in {str(settings.data_dir)!r}; "
            f"set TEMPORAL_ADDRESS, or use amends dev, which starts one"
        )
    with stop_requests() as stop:
        async with use_temporal(settings) as temporal:
            say(f"Temporal  {temporal.address}")
            await serve_until(project, temporal, stop)
        say("Stopped.")
    return ExitCode.OK
