"""`amends init`: a project that runs as it is."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from amends.aggregates.errors import InputError, UnreachableError
from amends.aggregates.text import one_line
from amends.cli.exit_codes import ExitCode
from amends.cli.project.new_project import FILES, TRY_NEXT
from amends.cli.project.settings import load_settings

__all__ = ["init"]


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Target directory; created if missing.", show_default=False)
    ] = Path(),
) -> ExitCode:
    """Create a small project.

    The project has settings, one saga with its compensations, and a test. The command overwrites no existing file.
    """
    _refuse_occupied(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in FILES.items():
            # Mode "x" also refuses a file that appeared after the check above.
            with (directory / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except FileExistsError as error:
        raise _occupied(Path(error.filename)) from None
    except OSError as error:
        raise UnreachableError(
            f"{error.filename!r} cannot be written ({error.strerror}); choose a directory that you may write to"
        ) from None
    for line in _what_next(directory):
        print(line)  # noqa: T201 - the answer
    return ExitCode.OK


def _refuse_occupied(directory: Path) -> None:
    if directory.exists():
        if not directory.is_dir():
            raise InputError(f"{str(directory)!r} is not a directory; choose another name")
        if (found := load_settings(directory).config_file) is not None:
            raise InputError(f"{str(found)!r} has settings already: this is a project; choose another directory")
    for name in FILES:
        if (directory / name).is_symlink() or (directory / name).exists():
            raise _occupied(directory / name)


def _occupied(file: Path) -> InputError:
    return InputError(f"{str(file)!r} exists and is not overwritten; choose another directory")


def _what_next(directory: Path) -> list[str]:
    """Return the lines with the new files and the commands to try; every command works as printed."""
    commands = list(TRY_NEXT)
    if directory.resolve() != Path.cwd():
        commands.insert(0, (f"cd {shlex.quote(str(directory))}", ""))
    lines = [f"  {command}" + (f"\n      # {what}" if what else "") for command, what in commands]
    made = f"Made {', '.join(FILES)} in {one_line(str(directory.resolve()))}."
    return [made, "", "Try next:", *lines]
