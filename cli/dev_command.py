"""`amends dev`: everything that sagas need, in one terminal, until Ctrl-C."""

import asyncio
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from amends.aggregates.errors import InputError
from amends.cli.exit_codes import ExitCode
from amends.cli.remarks import log_to_stderr, note, say
from amends.cli.serving import serve_until
from amends.cli.settings import Settings
from amends.cli.stopping_asyncio import stop_requests
from amends.cli.wiring import ensure_data_dir, load_project, settings_of, use_embedded

__all__ = ["dev"]

_Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        metavar="PORT",
        min=1,
        max=65_535,
        help="Port of the server; by default the configured one, else a free one.",
    ),
]
_UiPort = Annotated[
    int | None,
    typer.Option(
        "--ui-port",
        metavar="PORT",
        min=1,
        max=65_535,
        help="Port of its web page; by default the configured one, else a free one.",
    ),
]


def dev(ctx: typer.Context, port: _Port = None, ui_port: _UiPort = None) -> ExitCode:
    """Run the embedded Temporal server and a worker.

    Runs that were left open go on. Every drift rule is run on a schedule of its own, unless the setting schedule_rules
    is false. Ctrl-C ends it with status 0; the server stops with its last user.
    """
    log_to_stderr()
    return asyncio.run(_dev(settings_of(ctx), port, ui_port))


async def _dev(settings: Settings, port: int | None, ui_port: int | None) -> ExitCode:
    from amends.sagas.connection_temporal import configured_target  # noqa: PLC0415 - imports Temporal
    from amends.sagas.server_temporal import dev_lock  # noqa: PLC0415 - as above

    if (target := configured_target()) is not None:
        raise InputError(
            f"Temporal at {target.address} is configured, which a server of our own would stand beside; "
            f"use it with amends worker, or unset TEMPORAL_ADDRESS and the like"
        )
    project = load_project(settings)
    with stop_requests() as stop:
        async with AsyncExitStack() as stack:
            stack.enter_context(dev_lock(ensure_data_dir(settings)))
            temporal = await stack.enter_async_context(use_embedded(settings, port=port, ui_port=ui_port))
            if temporal.server is not None:
                if port not in {None, temporal.server.record.port}:
                    note(f"the server runs already; it listens on {temporal.server.record.port}, not on {port}")
                say(f"Temporal  {temporal.address}")
                say(f"web page  {temporal.server.ui_url}")
            await serve_until(project, temporal, stop, every_rule=settings.schedule_rules)
        say("Stopped.")
    return ExitCode.OK
