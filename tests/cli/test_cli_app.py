"""Test the program's frame: its list of commands, its imports, and its end."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commands import AMENDS, CommandProject

from amends.cli.app import CLOSED_PIPE, COMMANDS, LazyCommand, main
from amends.cli.exit_codes import ExitCode

LOADED = (
    "import sys; from amends.cli.app import main; main(sys.argv[1:]); "
    "sys.stderr.write(' '.join(name for name in sys.modules if '.' not in name))"
)


def test_help_imports_neither_temporal_nor_a_database() -> None:
    """The list of commands is quick, because a command imports its modules when it is called."""
    shown = subprocess.run([sys.executable, "-P", "-c", LOADED, "--help"], capture_output=True, text=True, check=True)
    assert "amends" in shown.stderr.split()
    assert not {"temporalio", "sqlalchemy", "alembic", "pydantic", "rich"} & set(shown.stderr.split())
    assert all(f"  {each.name} " in shown.stdout and each.help in shown.stdout for each in COMMANDS)


def test_a_run_imports_rich_only_for_a_terminal() -> None:
    """The work of `amends run` prints plain lines into a pipe without the library that draws on terminals."""
    program = "import sys; import amends.cli.runtime.run_work; print('rich' in sys.modules)"
    shown = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_list_says_what_the_command_says(command: LazyCommand) -> None:
    """A command's line in the list is the first line of its own help."""
    target = getattr(importlib.import_module(command.module), command.attribute)
    told = target.info.help if isinstance(target, typer.Typer) else inspect.getdoc(target)
    assert told is not None
    assert told.splitlines()[0] == command.help


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_explains_itself(command: LazyCommand, capsys: pytest.CaptureFixture[str]) -> None:
    """`amends COMMAND --help` works for every command."""
    assert main([command.name, "--help"]) == ExitCode.OK
    assert f"Usage: amends {command.name}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], *([each.name] for each in COMMANDS)], ids=" ".join)
def test_no_summary_is_cut(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a screen of 80 columns, every line fits, and every summary in a list of commands is complete."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*arguments, "--help"]) == ExitCode.OK
    usage, *lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if len(line) > 80 or line.endswith("...")], usage


def test_no_command_shows_the_help_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A script that lost its arguments must not succeed."""
    assert main([]) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert all(f"{each.group}:\n" in shown.err for each in COMMANDS)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` needs no command."""
    assert main(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("amends 0.")


def test_an_unexpected_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A fault of Amends ends in status 70 and one line; a traceback follows only on request."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("amends.cli.runtime.wiring.load_settings", _break)
    monkeypatch.delenv("AMENDS_DEBUG", raising=False)
    assert main(["run", "x"]) == ExitCode.INTERNAL
    line = capsys.readouterr().err
    assert (
        line
        == "amends: internal error: ZeroDivisionError: broken ?[31m; set AMENDS_DEBUG=1 to see where, and report it\n"
    )
    monkeypatch.setenv("AMENDS_DEBUG", "1")
    assert main(["run", "x"]) == ExitCode.INTERNAL
    assert "Traceback" in capsys.readouterr().err


def _break(_: object) -> None:
    raise ZeroDivisionError("broken\n\x1b[31m")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["init", "made"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_fault(tmp_path: Path, arguments: list[str]) -> None:
    """Output into a closed pipe ends with the status that shells use, without a message."""
    with subprocess.Popen(
        [AMENDS, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == CLOSED_PIPE


def test_a_closed_output_is_no_fault(tmp_path: Path) -> None:
    """A process that was started without stdout does its work."""
    project = CommandProject(tmp_path)
    ended = project.run("init", "made", prefix=("sh", "-c", 'exec "$@" >&-', "sh"))
    assert (ended.code, ended.err) == (0, "")
    assert (tmp_path / "made" / "trips.py").exists()
