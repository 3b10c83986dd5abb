"""`amends init`: a project that runs as it is."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from amends.aggregates.errors import InputError, UnreachableError
from amends.aggregates.text import one_line
from amends.cli.exit_codes import ExitCode
from amends.cli.project.new_project import KEPT_IF_PRESENT, NewProject, new_project
from amends.cli.project.settings import load_settings

__all__ = ["init"]

_Pipeline = Annotated[bool, typer.Option("--pipeline", help="Create a project with a pipeline over JSON lines files.")]


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Target directory; created if missing.", show_default=False)
    ] = Path(),
    pipeline: _Pipeline = False,  # noqa: FBT002 - an option
) -> ExitCode:
    """Create a small project.

    The project has settings, one saga with its compensations, a test, and files for pip, pytest and git. With
    --pipeline it has a pipeline over a file of messages instead of the saga. The command overwrites no existing file:
    it keeps a pyproject.toml and a .gitignore as they are, and refuses the directory if it has one of the other files.
    """
    project = new_project(pipeline=pipeline)
    _refuse_occupied(directory, project)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        made = [name for name in project.files if not _keeps(directory / name)]
        for name in made:
            (directory / name).parent.mkdir(exist_ok=True)
            # Mode "x" also refuses a file that appeared after the check above.
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(project.files[name])
    except FileExistsError as error:
        raise _occupied(Path(error.filename)) from None
    except OSError as error:
        raise UnreachableError(
            f"{error.filename!r} cannot be written ({error.strerror}); choose a directory that you may write to"
        ) from None
    for line in _what_next(directory, made, project):
        print(line)  # noqa: T201 - the answer
    return ExitCode.OK


def _refuse_occupied(directory: Path, project: NewProject) -> None:
    if directory.exists():
        if not directory.is_dir():
            raise InputError(f"{str(directory)!r} is not a directory; choose another name")
        if (found := load_settings(directory).config_file) is not None:
            raise InputError(f"{str(found)!r} has settings already: this is a project; choose another directory")
    for name in project.files:
        if name not in KEPT_IF_PRESENT and _exists(directory / name):
            raise _occupied(directory / name)


def _keeps(file: Path) -> bool:
    return file.name in KEPT_IF_PRESENT and _exists(file)


def _exists(file: Path) -> bool:
    return file.is_symlink() or file.exists()


def _occupied(file: Path) -> InputError:
    return InputError(f"{str(file)!r} exists and is not overwritten; choose another directory")


def _what_next(directory: Path, made: list[str], project: NewProject) -> list[str]:
    """Return the lines with the new files and the commands to try; every command works as printed."""
    commands = list(project.try_next)
    if directory.resolve() != Path.cwd():
        commands.insert(0, (f"cd {shlex.quote(str(directory))}", ""))
    lines = [f"  {command}" + (f"\n      # {what}" if what else "") for command, what in commands]
    kept = [name for name in project.files if name not in made]
    about = [f"Made {', '.join(made)} in {one_line(str(directory.resolve()))}."]
    if kept:
        about.append(f"Kept {' and '.join(kept)}, which you had already.")
    return [*about, "", "Try next:", *lines]
