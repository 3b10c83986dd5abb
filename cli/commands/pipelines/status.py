"""`amends pipeline list` and `show`: rate, backlog, duplicates, held messages, mode, owner and state."""

import asyncio
from functools import partial
from typing import Annotated

import typer
from rich.console import RenderableType

from amends.aggregates.errors import AmendsError
from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json, screen
from amends.cli.output.remarks import note, silence_logs
from amends.cli.project.settings import Settings
from amends.cli.runtime.pipeline_commands.status import Statuses
from amends.cli.runtime.signals import Stop, run_stoppable
from amends.cli.runtime.store import open_for_reading
from amends.cli.runtime.wiring import Project, load_project, settings_of
from amends.cli.views.operated_pipelines.status import (
    PARTITIONS,
    STATUS,
    PipelineStatus,
    partition_row,
    status_fields,
    status_json,
    status_row,
)
from amends.cli.views.table import fields, table

__all__ = ["list_pipelines", "show"]

_Offline = Annotated[bool, typer.Option("--offline", help="Read only the store: ask neither the sources nor Temporal.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def list_pipelines(
    ctx: typer.Context,
    as_json: _Json = False,  # noqa: FBT002 - an option
    watch: Annotated[bool, typer.Option("--watch", help="Print the list again at an interval, until Ctrl-C.")] = False,  # noqa: FBT002 - an option
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.1, max=3_600, help="Interval of --watch.")
    ] = 1.0,
    offline: _Offline = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """List the pipelines and relays with their status.

    The list shows messages a second over the last minute, the backlog in messages and in time, the held messages, the
    duplicates by their cause, the mode, and the worker that owns the partitions. Columns without a value are left out.
    A source that does not answer is a remark; its backlog is then unknown. With --watch on a terminal, the list stays
    in place and changes.
    """
    silence_logs()
    settings = settings_of(ctx)
    project = _project(settings)
    if watch:
        return run_stoppable(
            lambda stop: _watch(settings, project, stop, every_s=every, as_json=as_json, offline=offline),
            code=ExitCode.OK,
        )
    found = asyncio.run(_read(settings, project, None, offline=offline))
    if as_json:
        print_json([status_json(each) for each in found])
        return ExitCode.OK
    _note_problems(found)
    if not found:
        note("the project defines no pipelines or relays, and the store knows none")
    else:
        shown = screen()
        shown.show(_table(found, shown.width))
    return ExitCode.OK


def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the pipeline or relay.", show_default=False)],
    as_json: _Json = False,  # noqa: FBT002 - an option
    offline: _Offline = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Show the status of a pipeline or relay by partition."""
    silence_logs()
    settings = settings_of(ctx)
    (status,) = asyncio.run(_read(settings, _project(settings), name, offline=offline))
    if as_json:
        print_json(status_json(status))
        return ExitCode.OK
    _note_problems([status])
    shown = screen()
    shown.show(fields(status_fields(status), shown.width))
    if status.partitions:
        shown.show("", table(PARTITIONS, [partition_row(each) for each in status.partitions], shown.width))
    return ExitCode.OK


def _project(settings: Settings) -> Project | None:
    """Load the project; without modules, or with modules that have a fault, the store alone is read."""
    if not settings.modules:
        return None
    try:
        return load_project(settings)
    except AmendsError as error:
        note(f"only the store is read, because the project cannot be loaded: {error}")
        return None


async def _read(
    settings: Settings, project: Project | None, name: str | None, *, offline: bool
) -> list[PipelineStatus]:
    with open_for_reading(settings) as journal:
        statuses = Statuses(settings, journal, project, ask=not offline)
        try:
            return await statuses.read(name)
        finally:
            await statuses.close()


def _note_problems(found: list[PipelineStatus]) -> None:
    for each in found:
        if each.problem:
            note(f"{each.kind} {each.name!r}: {each.problem}")


def _table(found: list[PipelineStatus], width: int) -> RenderableType:
    return table(STATUS, [status_row(each) for each in found], width)


async def _watch(
    settings: Settings, project: Project | None, stop: Stop, *, every_s: float, as_json: bool, offline: bool
) -> ExitCode:
    from amends.cli.output.live_table import live_table  # noqa: PLC0415 - rarely wanted

    with open_for_reading(settings) as journal:
        statuses = Statuses(settings, journal, project, ask=not offline)
        stop.ready()
        try:
            with live_table(enabled=not as_json) as draw:
                while not stop.requested.is_set():
                    found = await statuses.read()
                    if as_json:
                        print_json([status_json(each) for each in found])
                    else:
                        draw(partial(_table, found))
                    try:
                        async with asyncio.timeout(every_s):
                            await stop.requested.wait()
                    except TimeoutError:
                        continue
        finally:
            await statuses.close()
    return ExitCode.OK
