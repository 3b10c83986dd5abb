"""Test `amends init`: run the project that it creates, and the commands that it prints."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import AMENDS, CommandProject, Ended
from documents.pages import plain_arguments
from repository import ROOT

from amends.cli.project.new_project import FILES, KEPT_IF_PRESENT, SAGA, TRY_NEXT, new_project

EXPECTED = {
    "--id ada-1": (0, "COMPLETED: run ada-1"),
    "--id bob-1": (4, "COMPENSATED: run bob-1"),
    "amends list": (0, "bob-1"),
    "amends history bob-1": (0, "StepRejected"),
    "python -m pytest": (0, "3 passed"),
}


def test_every_command_that_is_printed_works(tmp_path: Path) -> None:
    """Every command that `amends init` suggests works, from the first line to the last."""
    project = CommandProject(tmp_path)
    made = project.run("init", "my shop")
    assert (made.code, made.err) == (0, "")
    printed = [line.strip() for line in made.out.splitlines() if line.startswith("  ") and not line.startswith("   ")]
    assert printed == ["cd 'my shop'", *(command for command, _ in TRY_NEXT)]
    environment = project.environment | {"PATH": f"{AMENDS.parent}{os.pathsep}{os.environ['PATH']}"}
    folder = tmp_path / shlex.split(printed[0])[1]
    for command in printed[1:]:
        if command == "amends dev":
            continue
        if (arguments := plain_arguments(command)) is not None:
            ended = CommandProject(folder).run(*arguments)
        else:
            done = subprocess.run(
                ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            ended = Ended(done.returncode, done.stdout, done.stderr)
        code, says = next(value for part, value in EXPECTED.items() if part in command)
        assert ended.code == code, f"{command}\n{ended.out}{ended.err}"
        assert ended.err == "" or "pytest" in command
        assert says in ended.out
    assert printed[-1] == "amends dev"
    with CommandProject(folder).started("dev") as dev:
        dev.read_until("Ready")
        assert dev.stop(signal.SIGINT) == 0


def test_the_files_are_well_typed(tmp_path: Path) -> None:
    """The files that a newcomer copies from pass the strictest type check."""
    CommandProject(tmp_path).run("init")
    # The directory and options of `make types`: with other options, mypy would read all files again.
    checked = subprocess.run(
        [sys.executable, "-P", "-m", "mypy", "--strict", tmp_path / "trips.py", tmp_path / "test_trips.py"],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_command_of_the_readme_has_a_purpose() -> None:
    """Each line of the README's block is a command with its purpose, and the saga that they run is the defined one."""
    assert TRY_NEXT
    assert all(command and purpose for command, purpose in TRY_NEXT)
    assert f"amends run {SAGA} " in TRY_NEXT[0][0]
    assert f'Saga("{SAGA}"' in FILES["trips.py"]


def test_every_file_of_the_folder_is_created() -> None:
    """The folder that the package ships holds the files of a new project and no other."""
    shipped = {path.name for path in (ROOT / "cli" / "project" / "new_project_files").iterdir()}
    assert shipped == {f"{name}.txt" for name in FILES}


@pytest.mark.parametrize("name", sorted(KEPT_IF_PRESENT))
def test_files_of_other_tools_are_kept(tmp_path: Path, name: str) -> None:
    """A file that another tool wrote before stays as it is, and the command creates the others and reports both."""
    (tmp_path / name).write_text("# mine\n")
    ended = CommandProject(tmp_path).run("init")
    assert (ended.code, ended.err) == (0, "")
    assert f"Kept {name}, which you had already.\n" in ended.out
    assert (tmp_path / name).read_text() == "# mine\n"
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


def test_the_project_can_be_installed(tmp_path: Path) -> None:
    """The tool pip accepts `pyproject.toml`, whose requirements this environment has, and would install the module."""
    CommandProject(tmp_path).run("init")
    pip = [sys.executable, "-P", "-m", "pip", "install", "--dry-run", "--no-index", "--no-build-isolation", ".[test]"]
    done = subprocess.run(pip, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Would install trips-0.1.0" in done.stdout


def test_git_ignores_data_and_caches(tmp_path: Path) -> None:
    """The tool git sees the files of the project, and neither the data directory nor caches."""
    CommandProject(tmp_path).run("init")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    ignored = [".amends/events.db", "__pycache__/trips.pyc", ".venv/bin/python", "trips.egg-info/PKG-INFO"]
    done = subprocess.run(
        ["git", "check-ignore", *ignored, *FILES], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ignored


@pytest.mark.parametrize("name", sorted(set(FILES) - KEPT_IF_PRESENT))
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    """One file that exists already stops the command before it writes the first one."""
    (tmp_path / name).write_text("# mine\n")
    ended = CommandProject(tmp_path).run("init")
    assert ended.code == 2
    assert name in ended.error
    assert (tmp_path / name).read_text() == "# mine\n"
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_a_project_is_not_made_inside_its_own_settings(tmp_path: Path) -> None:
    """A pyproject.toml with settings already makes the directory a project."""
    (tmp_path / "pyproject.toml").write_text('[tool.amends]\nmodules = ["shop"]\n')
    ended = CommandProject(tmp_path).run("init")
    assert ended.code == 2
    assert "pyproject.toml" in ended.error


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A file in place of the directory ends in one line."""
    (tmp_path / "taken").write_text("")
    project = CommandProject(tmp_path)
    assert "'taken' is not a directory" in project.run("init", "taken").error
    below = project.run("init", "taken/below")
    assert below.code == 3
    assert "taken/below" in below.error


def test_every_command_of_the_project_with_a_pipeline_works(tmp_path: Path) -> None:
    """Every command that `amends init --pipeline` suggests works; `amends dev` takes a line that is added meanwhile."""
    project = CommandProject(tmp_path)
    made = project.run("init", "--pipeline")
    assert (made.code, made.err) == (0, "")
    environment = project.environment | {"PATH": f"{AMENDS.parent}{os.pathsep}{os.environ['PATH']}"}
    said = {
        "run payments": "3 applied, 1 duplicates, 2 set aside",
        "retry": "1 took effect",
        "audit": "0 missing, 0 doubled",
        "pytest": "2 passed",
    }
    for command, _ in new_project(pipeline=True).try_next[:-1]:
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert all(text in done.stdout for part, text in said.items() if part in command), command + done.stdout
    with project.started("dev") as dev:
        dev.read_until("Ready")
        with (tmp_path / "in" / "more.jsonl").open("a") as lines:
            lines.write('{"id": "p-9", "customer": "ada", "amount": 1}\n')
        while '"applied": 5' not in project.run("pipeline", "list", "--json", "--offline").out:
            pass
        assert dev.stop(signal.SIGINT) == 0


def test_the_files_of_the_project_with_a_pipeline_are_well_typed(tmp_path: Path) -> None:
    """The pipeline's module and its test pass the strictest type check."""
    CommandProject(tmp_path).run("init", "--pipeline")
    checked = subprocess.run(
        [sys.executable, "-P", "-m", "mypy", "--strict", tmp_path / "payments.py", tmp_path / "test_payments.py"],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
