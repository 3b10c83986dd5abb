"""`amends pipeline run`: one pipeline in this process."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from amends.cli.exit_codes import ExitCode
from amends.cli.output.answer import print_json
from amends.cli.output.remarks import log_to_stderr, note, say
from amends.cli.runtime.pipeline_commands.run_here import RunHere, RunSummary, run_here
from amends.cli.runtime.signals import Stop, run_stoppable
from amends.cli.runtime.wiring import load_project, settings_of

__all__ = ["run"]


def run(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the pipeline.", show_default=False)],
    until_end: Annotated[bool, typer.Option("--until-end", help="End when the source has no more messages.")] = False,  # noqa: FBT002 - an option
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Run one pipeline in this process, until Ctrl-C.

    A pipeline that handles messages needs no Temporal. For a pipeline that starts runs, the process serves the sagas as
    well, and with --until-end waits for the end of the runs. Use it for one-off work and tests: amends dev and amends
    worker run all pipelines, and share them among processes. Ends with status 5 if the pipeline is paused, or holds
    messages that it could not apply.
    """
    log_to_stderr()
    settings = settings_of(ctx)
    project = load_project(settings)
    request = RunHere(project, project.pipelines.pipeline(name), until_end)

    async def command(stop: Stop) -> ExitCode:
        try:
            summary = await run_here(request, stop, lambda: _ready(request, as_json=as_json))
        except asyncio.CancelledError:
            if not stop.told:
                raise
            return ExitCode.OK
        _report(request, summary, as_json=as_json)
        return summary.code

    return run_stoppable(command, code=ExitCode.OK)


def _ready(request: RunHere, *, as_json: bool) -> None:
    if not as_json and not request.until_end:
        say(f"Reading {request.pipeline.source}; Ctrl-C ends it.")


def _report(request: RunHere, summary: RunSummary, *, as_json: bool) -> None:
    name = request.pipeline.name
    before, after = asdict(summary.before), asdict(summary.after)
    counts = {each: after[each] - before[each] for each in after}
    if as_json:
        print_json({"pipeline": name, **counts, "held": summary.held, "paused": summary.paused or None})
        return
    if not summary.partitions:
        note(f"the source has no partition yet: {request.pipeline.source}")
    duplicates = counts["repeated"] + counts["redelivered"] + counts["replayed"]
    say(f"{counts['applied']} applied, {duplicates} duplicates, {counts['set_aside']} set aside")
    if summary.paused:
        note(f"pipeline {name!r} is paused: {summary.paused}; to resume it: amends pipeline resume {name}")
    if summary.held:
        note(f"{summary.held} messages are held; see: amends pipeline quarantine list {name}")
