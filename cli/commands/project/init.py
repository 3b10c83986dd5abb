"""`amends init`: a project that runs as it is."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from amends.aggregates.errors import InputError, UnreachableError
from amends.aggregates.text import one_line
from amends.cli.exit_codes import ExitCode
from amends.cli.project.new_project import FILES, KEPT_IF_PRESENT, TRY_NEXT
from amends.cli.project.settings import load_settings

__all__ = ["init"]


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Target directory; created if missing.", show_default=False)
    ] = Path(),
) -> ExitCode:
    """Create a small project.

    The project has settings, one saga with its compensations, a test, and files for pip, pytest and git. The command
    overwrites no existing file: it keeps a pyproject.toml and a .gitignore as they are, and refuses the directory if it
    has one of the other files.
    """
    _refuse_occupied(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        made = [name for name in FILES if not _keeps(directory / name)]
        for name in made:
            # Mode "x" also refuses a file that appeared after the check above.
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(FILES[name])
    except FileExistsError as error:
        raise _occupied(Path(error.filename)) from None
    except OSError as error:
        raise UnreachableError(
            f"{error.filename!r} cannot be written ({error.strerror}); choose a directory that you may write to"
        ) from None
    for line in _what_next(directory, made):
        print(line)  # noqa: T201 - the answer
    return ExitCode.OK


def _refuse_occupied(directory: Path) -> None:
    if directory.exists():
        if not directory.is_dir():
            raise InputError(f"{str(directory)!r} is not a directory; choose another name")
        if (found := load_settings(directory).config_file) is not None:
            raise InputError(f"{str(found)!r} has settings already: this is a project; choose another directory")
    for name in FILES:
        if name not in KEPT_IF_PRESENT and _exists(directory / name):
            raise _occupied(directory / name)


def _keeps(file: Path) -> bool:
    return file.name in KEPT_IF_PRESENT and _exists(file)


def _exists(file: Path) -> bool:
    return file.is_symlink() or file.exists()


def _occupied(file: Path) -> InputError:
    return InputError(f"{str(file)!r} exists and is not overwritten; choose another directory")


def _what_next(directory: Path, made: list[str]) -> list[str]:
    """Return the lines with the new files and the commands to try; every command works as printed."""
    commands = list(TRY_NEXT)
    if directory.resolve() != Path.cwd():
        commands.insert(0, (f"cd {shlex.quote(str(directory))}", ""))
    lines = [f"  {command}" + (f"\n      # {what}" if what else "") for command, what in commands]
    kept = [name for name in FILES if name not in made]
    about = [f"Made {', '.join(made)} in {one_line(str(directory.resolve()))}."]
    if kept:
        about.append(f"Kept {' and '.join(kept)}, which you had already.")
    return [*about, "", "Try next:", *lines]
