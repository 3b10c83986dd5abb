"""The program `amends`: its commands, its root options, and how every command ends.

The program imports the module of a command only when the user calls the command. So `amends --help` stays quick and
needs neither Temporal nor a database. A command is a function that returns its `ExitCode` (`None` for OK) and raises an
`AmendsError` for every error. Only this module prints the error and chooses the exit status.
"""

import difflib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from amends.aggregates.errors import AmendsError
from amends.aggregates.text import one_line
from amends.cli.exit_codes import ExitCode, exit_code_of
from amends.cli.output.remarks import tame_python

__all__ = ["CLOSED_PIPE", "COMMANDS", "DEBUG", "LazyCommand", "app", "main"]

DEBUG = "AMENDS_DEBUG"
"""Environment variable that adds the traceback of the error that ends a command; set it to any text but ""."""

CLOSED_PIPE = 141
"""Exit status when the reader of the output has gone away: 128 + SIGPIPE, as in a shell."""

# Typer keeps its own classes for these in private modules.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class LazyCommand(NamedTuple):
    """A command, and where to find it when the user calls it.

    Attributes:
        name: The word that the user types.
        module: Module to import.
        attribute: The command's function; a `typer.Typer` if the command has commands of its own.
        help: Summary in the list of commands; equal to the first line of the function's docstring.
    """

    name: str
    module: str
    attribute: str
    help: str

    @property
    def group(self) -> str:
        """Heading of the command in `amends --help`: the folder of its module."""
        return self.module.split(".")[-2].capitalize()


COMMANDS = (
    LazyCommand("init", "amends.cli.commands.project.init", "init", "Create a small project."),
    LazyCommand("dev", "amends.cli.commands.project.dev", "dev", "Run the embedded Temporal server and a worker."),
    LazyCommand("worker", "amends.cli.commands.project.worker", "worker", "Run a worker, without a server."),
    LazyCommand(
        "doctor",
        "amends.cli.commands.project.doctor",
        "doctor",
        "Check settings, modules, store, Temporal and workers.",
    ),
    LazyCommand("run", "amends.cli.commands.runs.run", "run", "Run a saga and show its progress."),
    LazyCommand("list", "amends.cli.commands.runs.list", "list_runs", "List runs, newest first."),
    LazyCommand("show", "amends.cli.commands.runs.show", "show", "Show the state of a run."),
    LazyCommand(
        "explain",
        "amends.cli.commands.runs.explain",
        "explain_run",
        "Explain the state of a run and list possible commands.",
    ),
    LazyCommand("history", "amends.cli.commands.runs.history", "history", "Show the facts of a run."),
    LazyCommand("cancel", "amends.cli.commands.runs.intervene", "cancel", "Undo a run that has not passed its pivot."),
    LazyCommand("retry", "amends.cli.commands.runs.intervene", "retry", "Retry a step, its probe or its undo."),
    LazyCommand("skip", "amends.cli.commands.runs.intervene", "skip", "Skip a step, or skip its compensation."),
    LazyCommand(
        "resolve", "amends.cli.commands.runs.intervene", "resolve", "Record the outcome of a step or of its undo."
    ),
    LazyCommand(
        "recover", "amends.cli.commands.runs.recover", "recover", "Bring every unfinished run back to Temporal."
    ),
    LazyCommand("sagas", "amends.cli.commands.definitions.sagas", "sagas", "List the sagas of the project."),
    LazyCommand(
        "describe",
        "amends.cli.commands.definitions.sagas",
        "describe",
        "Show the plan of a saga, or a pipeline.",
    ),
    LazyCommand(
        "catalog",
        "amends.cli.commands.definitions.catalog",
        "catalog",
        "List the steps, pipelines and relays.",
    ),
    LazyCommand(
        "prove", "amends.cli.commands.definitions.prove", "prove", "Explore every way in which a saga can fail."
    ),
    LazyCommand(
        "drift", "amends.cli.commands.drift.drift", "drift", "Find drift between record and world; change nothing."
    ),
    LazyCommand(
        "reconcile", "amends.cli.commands.drift.reconcile", "reconcile", "Find drift, record it and correct it."
    ),
    LazyCommand(
        "reconciliations",
        "amends.cli.commands.drift.reconciliations",
        "reconciliations",
        "List past scans, newest first.",
    ),
    LazyCommand(
        "reconciliation",
        "amends.cli.commands.drift.reconciliations",
        "reconciliation",
        "Show the findings and corrections of a scan.",
    ),
    LazyCommand("ignore", "amends.cli.commands.drift.ignore", "app", "Ignore drift for a while."),
    LazyCommand("maintenance", "amends.cli.commands.drift.maintenance", "app", "Pause all corrections for a while."),
    LazyCommand("schedule", "amends.cli.commands.drift.schedule", "app", "Run reconciliation on a schedule."),
    LazyCommand("pipeline", "amends.cli.commands.pipelines.pipeline", "app", "Run, watch and control pipelines."),
    LazyCommand("db", "amends.cli.commands.store.db", "app", "Upgrade, check or rebuild the store."),
)
"""Every command, in the order in which `amends --help` lists them: group by group."""


class _LazyGroup(TyperGroup):
    """The commands of `COMMANDS`, each imported when the user calls it."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002 - Typer's own class of it is private
        return [each.name for each in COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002 - as above
        for each in COMMANDS:
            if each.name == cmd_name:
                return _load(each)
        return None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - as above
        names = self.list_commands(ctx)
        if args[0] not in names and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], names, n=1)
            ctx.fail(f"there is no command {args[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002 - as above
        for group, commands in groupby(COMMANDS, key=lambda each: each.group):
            with formatter.section(group):
                formatter.write_dl([(each.name, each.help) for each in commands])

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as above
        try:
            result = super().invoke(ctx)
            _flush()
        except BrokenPipeError:
            # Typer would end with 1, the status for a finding.
            raise typer.Exit(CLOSED_PIPE) from None
        return result


def _load(command: LazyCommand) -> Any:  # noqa: ANN401 - as above
    target = getattr(importlib.import_module(command.module), command.attribute)
    if not isinstance(target, typer.Typer):
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(command.name)(target)
        target = alone
    loaded = typer.main.get_command(target)
    loaded.name = command.name
    return loaded


app = typer.Typer(
    name="amends",
    cls=_LazyGroup,
    # Plain help is the same on every terminal, and needs no import of rich.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 completed or no fault, 1 finding, 2 error in usage, definition or input, "
    "3 part not reachable, 4 saga compensated, 5 run needs attention, 6 run damaged, 70 internal error, "
    "130 interrupted.",
)


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    project: Annotated[
        Path | None,
        typer.Option(
            "--project",
            "-C",
            metavar="DIR",
            help="Project directory; by default the current one or a parent with settings.",
        ),
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,  # noqa: FBT002 - an option
) -> None:
    """Run sagas durably, undo them when they fail, and read what happened."""
    ctx.obj = project
    if version:
        from importlib.metadata import version as installed  # noqa: PLC0415 - rarely wanted

        print(f"amends {installed('amends')}")  # noqa: T201 - the user asked for it
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        print(ctx.get_help(), file=sys.stderr)  # noqa: T201 - the user asked for nothing
        raise typer.Exit(ExitCode.USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    Every error ends in one line on stderr that begins with `amends: `.

    Args:
        arguments: The words after the program's name; `None` for those of this process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal's encoding lacks becomes an escape instead of ending the command.
            stream.reconfigure(errors="backslashreplace")
    tame_python()
    try:
        result = typer.main.get_command(app).main(arguments, prog_name="amends", standalone_mode=False)
        _flush()
        code = int(result or ExitCode.OK)
    except BaseException as error:  # noqa: BLE001 - one line instead of a traceback, for any error
        # Typer itself turns a closed pipe into SystemExit(1) while it prints help.
        closed = isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError)
        code = CLOSED_PIPE if closed else _report(error)
    if code == CLOSED_PIPE:
        # Otherwise Python complains when it flushes output that has no reader.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code


def _flush() -> None:
    if sys.stdout is not None:  # None if the parent process closed it
        sys.stdout.flush()


def _report(error: BaseException) -> int:
    """Print in one line why a command ends, and return its exit status."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    code = exit_code_of(error)
    match error:
        case _UsageError():
            path = getattr(getattr(error, "ctx", None), "command_path", "amends")
            text = f"{_message(error)}; see {path} --help"
            code = ExitCode.USAGE
        case typer.Abort() | KeyboardInterrupt():
            text, code = "interrupted", ExitCode.INTERRUPTED
        case AmendsError() | BaseExceptionGroup():
            text = _message(error)
        case OSError():
            text = f"{_message(error)}; see amends doctor"
        case _:
            text = (
                f"internal error: {type(error).__name__}: {_message(error)}; set {DEBUG}=1 to see where, and report it"
            )
    print(f"amends: {text}", file=sys.stderr)  # noqa: T201 - the only place that prints errors
    return code


def _message(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        gravest = max(error.exceptions, key=exit_code_of)
        return _message(gravest)
    describe = getattr(error, "format_message", error.__str__)
    return one_line(describe()).rstrip(".")
