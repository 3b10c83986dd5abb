"""`amends run`: checks the arguments and the input before it opens or starts anything."""

import math
from typing import Annotated

import typer

from amends.aggregates.errors import InputError
from amends.cli.exit_codes import ExitCode
from amends.cli.output.remarks import silence_logs
from amends.cli.runtime.run_inputs import read_jobs
from amends.cli.runtime.signals import run_stoppable
from amends.cli.runtime.wiring import load_project, settings_of

__all__ = ["run"]


def run(  # noqa: PLR0917 - arguments and options of the command line
    ctx: typer.Context,
    saga: Annotated[str, typer.Argument(metavar="SAGA", help="Name of the saga.", show_default=False)],
    input_: Annotated[
        str | None,
        typer.Argument(
            metavar="[JSON|@FILE.json|@FILE.jsonl|-]",
            help="Input: JSON, a file with JSON, - for standard input, or a file with one input on each line; "
            "by default {}.",
            show_default=False,
        ),
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="ID",
            help="Id of the run; the same id and input find the earlier run. "
            "For a file of lines, the beginning of their ids; by default the file's name.",
        ),
    ] = None,
    id_field: Annotated[
        str | None, typer.Option("--id-field", metavar="FIELD", help="Input field that holds the run's id.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="End as soon as the run is accepted.")] = False,  # noqa: FBT002 - an option
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="S", min=0, help="Wait at most this number of seconds, also for a worker."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,  # noqa: FBT002 - as above
) -> ExitCode:
    """Run a saga and show its progress.

    Without a configured Temporal and without `amends dev`, this command starts a server and does the work itself.
    Each line of a .jsonl file starts a run, whose id consists of the file's name and a hash of the line's input. So if
    you run the file again, only new inputs start.
    """
    silence_logs()
    if timeout is not None and not math.isfinite(timeout):
        raise InputError(f"--timeout {timeout} is not a number of seconds; leave it out to wait without limit")
    project = load_project(settings_of(ctx))
    chosen = project.registry.saga(saga)
    jobs = read_jobs(project.registry, chosen, input_, run_id=run_id, id_field=id_field)
    several = input_ is not None and input_.startswith("@") and input_.endswith(".jsonl")
    from amends.cli.runtime.run_work import Order, carry_out  # noqa: PLC0415 - imports Temporal and the database

    order = Order(jobs, several, detach, timeout, as_json)
    return run_stoppable(lambda stop: carry_out(project, order, stop), code=ExitCode.INTERRUPTED)
