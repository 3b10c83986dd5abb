"""Test that `amends doctor` notices when no worker is alive, even while Temporal still lists a killed one."""

import signal
from pathlib import Path

import pytest
from commands import CommandProject, shop_at

from amends.sagas.runtime.alive import ended_workers, marked_alive

MODULE = """
import asyncio

from amends import Call, Saga, effect

@effect(read_only=True)
async def wait(text: str, call: Call) -> str:
    await asyncio.Event().wait()
    return text

@effect(read_only=True, queue="far")
async def tell(text: str, call: Call) -> str:
    return text

slow = Saga("slow", str, wait, tell)
"""


@pytest.fixture
def project(tmp_path: Path, temporal_address: str) -> CommandProject:
    """Create a project whose runs wait for a participant."""
    environment = {"TEMPORAL_ADDRESS": temporal_address, "AMENDS_TASK_QUEUE": tmp_path.name}
    return shop_at(tmp_path / "project", MODULE, environment)


def test_a_worker_that_ended_is_told_from_one_that_lives(tmp_path: Path) -> None:
    """A name counts as ended only while no lock of that name exists; a worker without a file is not judged."""
    assert ended_workers(tmp_path) == frozenset()
    with marked_alive(tmp_path, "host/7"):
        assert ended_workers(tmp_path) == frozenset()
    assert ended_workers(tmp_path) == {"host/7"}
    with marked_alive(tmp_path, "host/7"), marked_alive(tmp_path / "missing", "host/8"):
        assert ended_workers(tmp_path) == frozenset()


def workers_said(project: CommandProject) -> tuple[int, str]:
    """Return the exit status of `doctor`, and its lines about workers as one text."""
    ended = project.run("doctor", env={"COLUMNS": "250"})
    return ended.code, "\n".join(line for line in ended.out.splitlines() if "  workers  " in line)


def test_a_killed_worker_is_missed_at_once(project: CommandProject) -> None:
    """With open runs, `doctor` finds a worker that lives, and ends with 1 as soon as the worker was killed."""
    with project.started("worker") as worker:
        worker.read_until("Ready")
        assert project.run("run", "slow", '"a"', "--detach").code == 0
        _, said = workers_said(project)
        assert "polls queue" in said
        assert "no worker polls" not in said
        assert "1 worker polls queue 'far', for effects of open runs" in said
        worker.stop(signal.SIGKILL)
    code, said = workers_said(project)
    assert code == 1
    assert f"no worker polls queue '{project.environment['AMENDS_TASK_QUEUE']}', but runs are open" in said
    assert "no worker polls queue 'far', but open runs need it" in said
