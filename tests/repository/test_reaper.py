"""No server and no command that a test has started outlives its test process, in any way that process ends."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from reaper import LINEAGE, kill, members

TESTS = Path(__file__).resolve().parents[1]
SUPPORT = TESTS / "support"
REAPER = SUPPORT / "reaper.py"

STARTS_SERVERS = """
import os
import signal
from pathlib import Path

from commands import CommandProject

MODULE = '''
from amends import Call, Saga, effect
from pydantic import BaseModel


class Order(BaseModel):
    pass


@effect(read_only=True)
async def look(order: Order, call: Call) -> None:
    pass


saga = Saga("looking", Order, look)
'''


def test_starts_servers(temporal_address, postgres_url, tmp_path):
    project = CommandProject(tmp_path / "project")
    project.write("amends.toml", 'modules = ["shop"]')
    project.write("shop.py", MODULE)
    with project.started("dev") as dev:
        dev.read_until("Ready")
        Path("started.new").write_text(f"{os.environ['TEST_LINEAGE']} {os.getpid()} {os.getppid()}")
        Path("started.new").rename("started")
        signal.pause()
"""

LEAVES_A_PROCESS = """
import subprocess
import sys


def test_leaves_a_process():
    subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
"""


def pytest_command(folder: Path, content: str, *options: str) -> list[str]:
    """Write a test into a folder, and return the command that runs it with the fixtures of this folder."""
    (folder / "test_inner.py").write_text(content)
    settings = ("-c", str(TESTS.parent / "pyproject.toml"), "--rootdir", str(folder), "-p", "conftest")
    return [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *settings, *options, "test_inner.py"]


@contextmanager
def started(folder: Path, command: list[str], lineage: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command, and end all its processes afterwards, even when it fails.

    Args:
        folder: The working directory.
        command: The command.
        lineage: The lineage that it inherits; empty for a command that has no test process above it.
    """
    environment = {**os.environ, LINEAGE: lineage, "PYTHONPATH": os.pathsep.join((str(TESTS), str(SUPPORT)))}
    if not lineage:
        del environment[LINEAGE]
    with (folder / "printed").open("wb") as printed:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=printed, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if lineage:
            kill(lineage)
        elif (folder / "started").exists():
            kill((folder / "started").read_text().split("/")[0])


def wait_for_servers(folder: Path, process: subprocess.Popen[bytes]) -> tuple[str, int, int]:
    """Return the lineage of the test process, its id and that of its parent, once its test has started servers."""
    while not (folder / "started").exists():
        assert process.poll() is None, (folder / "printed").read_text()
        time.sleep(0.05)
    lineage, test_process, parent = (folder / "started").read_text().split()
    names = [member.name() for member in members(lineage)]
    assert names.count("temporal") == 2
    assert "postgres" in names
    return lineage, int(test_process), int(parent)


def descendants(lineage: str) -> list[psutil.Process]:
    """List the members of a lineage and their children: those of PostgreSQL overwrite their environment."""
    found = members(lineage)
    for member in list(found):
        with suppress(psutil.NoSuchProcess):  # a process of PostgreSQL ends at any time
            found += member.children(recursive=True)
    return found


def is_alive(process: psutil.Process) -> bool:
    """Check whether a process still runs."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_until_gone(processes: list[psutil.Process]) -> None:
    """Wait until all processes have ended; only the test's own bound ends the wait."""
    while any(is_alive(process) for process in processes):
        time.sleep(0.05)


@pytest.mark.parametrize(
    "killed",
    [
        pytest.param("the only process", marks=pytest.mark.soak),
        "a worker",
        pytest.param("the controller", marks=pytest.mark.soak),
    ],
)
def test_servers_end_with_a_test_process_that_is_killed(tmp_path: Path, killed: str) -> None:
    """After SIGKILL of a test process its Temporal, its PostgreSQL, its `amends dev` and the server of that end."""
    options = () if killed == "the only process" else ("-n", "1", "--max-worker-restart", "0")
    with started(
        tmp_path, pytest_command(tmp_path, STARTS_SERVERS, *options), f"{os.environ[LINEAGE]}/inner"
    ) as process:
        lineage, test_process, parent = wait_for_servers(tmp_path, process)
        there = descendants(lineage)
        os.kill(parent if killed == "the controller" else test_process, signal.SIGKILL)
        wait_until_gone(there)


def test_everything_ends_when_make_is_killed(tmp_path: Path) -> None:
    """After SIGKILL of `make` its guard, the test processes and their servers end."""
    (tmp_path / "Makefile").write_text(f"test:\n\t@exec {shlex.join(guarded(tmp_path, STARTS_SERVERS, '-n', '1'))}\n")
    with started(tmp_path, ["make"], "") as make:
        lineage, _, _ = wait_for_servers(tmp_path, make)
        there = descendants(lineage.split("/")[0])
        make.kill()
        wait_until_gone(there)


def test_a_process_that_a_test_leaves_fails_the_run(tmp_path: Path) -> None:
    """A run of passing tests that leaves a process behind fails, names the process and ends it."""
    with started(tmp_path, [*guarded(tmp_path, LEAVES_A_PROCESS)], "") as guard:
        assert guard.wait() == 1
        printed = (tmp_path / "printed").read_text()
        assert "1 passed" in printed
        assert re.search(r"^killed, as a test has left it behind: .*signal\.pause", printed, re.MULTILINE)


def guarded(folder: Path, content: str, *options: str) -> list[str]:
    """Write a test into a folder, and return the command that runs it as `make` does."""
    return [sys.executable, "-P", str(REAPER), "guard", "2", *pytest_command(folder, content, *options)]
