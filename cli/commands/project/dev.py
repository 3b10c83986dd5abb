"""`amends dev`: everything that sagas need, in one terminal, until Ctrl-C."""

import asyncio
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from amends.aggregates.errors import InputError
from amends.cli.exit_codes import ExitCode
from amends.cli.output.remarks import log_to_stderr, note, say
from amends.cli.project.settings import Settings
from amends.cli.runtime.code_watch import watching_code
from amends.cli.runtime.signals import Stop, run_stoppable
from amends.cli.runtime.wiring import Project, ensure_data_dir, load_project, settings_of, use_embedded
from amends.cli.runtime.worker import serve_until

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
        help="Port of the server's web page; by default the configured one, else a free one.",
    ),
]


def dev(ctx: typer.Context, port: _Port = None, ui_port: _UiPort = None) -> ExitCode:
    """Run the embedded Temporal server and a worker.

    The worker continues open runs. Every drift rule runs on a schedule of its own, unless the setting schedule_rules is
    false. If a loaded file changes, the command names the change and asks for a restart. Ctrl-C ends the command with
    status 0; the server stops with its last user.
    """
    log_to_stderr()
    settings = settings_of(ctx)
    # Here the author of the code reads the log, so it may show the text of errors.
    shown = settings if settings.errors else settings.model_copy(update={"errors": "text"})
    project = _project(shown)
    return run_stoppable(lambda stop: _dev(project, stop, port, ui_port), code=ExitCode.OK)


def _project(settings: Settings) -> Project:
    from amends.sagas.temporal.connection import configured_target  # noqa: PLC0415 - imports Temporal

    if (target := configured_target()) is not None:
        raise InputError(
            f"Temporal at {target.address} is configured, and amends dev would start a second server; use the "
            "configured one with amends worker, or unset TEMPORAL_ADDRESS and similar variables"
        )
    return load_project(settings)


async def _dev(project: Project, stop: Stop, port: int | None, ui_port: int | None) -> ExitCode:
    from amends.sagas.temporal.server.locks import dev_lock  # noqa: PLC0415 - imports Temporal

    settings = project.settings
    try:
        async with AsyncExitStack() as stack:
            stack.enter_context(dev_lock(ensure_data_dir(settings)))
            embedded = use_embedded(settings, stop=stop, port=port, ui_port=ui_port)
            temporal = await stack.enter_async_context(embedded)
            if temporal.server is not None:
                if port not in {None, temporal.server.record.port}:
                    note(f"the server runs already; it listens on {temporal.server.record.port}, not on {port}")
                say(f"Temporal  {temporal.address}")
                say(f"web page  {temporal.server.ui_url}")
            await stack.enter_async_context(watching_code(settings))
            await serve_until(project, temporal, stop, every_rule=settings.schedule_rules)
    except asyncio.CancelledError:
        if not stop.told:
            raise
    say("Stopped.")
    return ExitCode.OK
