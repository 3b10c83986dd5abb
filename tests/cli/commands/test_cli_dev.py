"""Test `amends dev` and `amends worker`: served runs, restarts, and clean ends."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from commands import CommandProject, Started, shop_at

from amends.sagas.temporal.server.embedded_server import running
from amends.sagas.temporal.server.server_record import ServerRecord

MODULE = """
import asyncio
from pathlib import Path

from pydantic import BaseModel

from amends import Attempted, Call, Saga, effect


class Order(BaseModel):
    gate: str = ""


@effect
async def pack(order: Order, call: Call) -> None:
    while order.gate and not Path(order.gate).exists():
        await asyncio.sleep(0.02)


@pack.compensation
async def unpack(tried: Attempted[Order, None], call: Call) -> None:
    pass


ship = Saga("ship", Order, pack)
"""
ADDED = """

@effect(read_only=True)
async def weigh(order: Order, call: Call) -> None:
    pass


weighed = Saga("weighed", Order, weigh)
"""


@pytest.fixture
def project(tmp_path: Path) -> CommandProject:
    """Return a project in which no program runs."""
    return shop_at(tmp_path / "shop", MODULE)


def server_of(project: CommandProject) -> ServerRecord:
    """Return the record of the project's embedded server, which runs."""
    found = running(project.path / ".amends")
    assert found is not None
    return found


def wait_until_closed(project: CommandProject) -> None:
    """Return when no run is open; the test's own timeout ends a wait in vain."""
    while project.open_runs():
        time.sleep(0.05)


def test_dev_says_where_everything_is_and_ends_cleanly(project: CommandProject) -> None:
    """Server, web page, store, sagas and schedules are printed; Ctrl-C ends in status 0 and stops the server."""
    with project.started("dev", env={"AMENDS_SCHEDULE_RULES": "true"}) as dev:
        dev.read_until("Ready")
        server = server_of(project)
        said = "".join(dev.lines)
        assert re.search(rf"^Temporal +{server.address}$", said, re.MULTILINE)
        assert re.search(rf"^web page +{server.ui_url}$", said, re.MULTILINE)
        assert re.search(r"^store +sqlite:////.*/\.amends/events\.db$", said, re.MULTILINE)
        assert re.search(r"^sagas +ship$", said, re.MULTILINE)
        assert project.run("run", "ship").code == 0
        assert server_of(project) == server
        assert dev.read_until("schedules") == "schedules 7, 7 of them created in Temporal\n"
        assert dev.stop(signal.SIGINT) == 0
    assert dev.lines[-1].endswith("Stopped.\n")
    assert running(project.path / ".amends") is None
    assert (project.path / ".amends" / ".gitignore").read_text() == "*\n"


def test_ports_can_be_chosen(project: CommandProject, unused_tcp_port_factory: object) -> None:
    """The server listens on the chosen ports."""
    assert callable(unused_tcp_port_factory)
    port, ui_port = unused_tcp_port_factory(), unused_tcp_port_factory()
    with project.started("dev", "--port", str(port), "--ui-port", str(ui_port)) as dev:
        dev.read_until("Ready")
        assert (server_of(project).port, server_of(project).ui_port) == (port, ui_port)
        assert dev.stop(signal.SIGTERM) == 0


def test_a_server_that_dies_is_started_again(project: CommandProject) -> None:
    """When the server is killed, dev starts it on the same file and ports, and open runs continue."""
    gate = project.path / "gate"
    order = json.dumps({"gate": str(gate)})
    with project.started("dev") as dev:
        dev.read_until("Ready")
        before = server_of(project)
        assert project.run("run", "ship", order, "--id", "kept-1", "--detach").code == 0
        os.kill(before.pid, signal.SIGKILL)
        dev.read_until("started it again")
        after = server_of(project)
        assert (after.port, after.ui_port) == (before.port, before.ui_port)
        assert after.pid != before.pid
        gate.touch()
        assert project.run("run", "ship", order, "--id", "kept-1").code == 0


def test_a_worker_with_other_code_is_told_of(project: CommandProject) -> None:
    """A run that waits for a step unknown to the running `amends dev` reports that dev must be restarted."""
    with project.started("dev") as dev:
        dev.read_until("Ready")
        project.write("shop.py", MODULE + ADDED)
        with project.started("run", "weighed", "--id", "new-1") as command:
            said = command.read_until("runs other sagas or steps than the project defines now")
        assert f"/{dev.process.pid} runs" in said


def test_a_killed_dev_is_continued_by_the_next(project: CommandProject) -> None:
    """After `kill -9`, the next dev adopts the orphaned server, and brings the open run to its end."""
    gate = project.path / "gate"
    with project.started("dev") as dev:
        dev.read_until("Ready")
        left = server_of(project)
        assert project.run("run", "ship", json.dumps({"gate": str(gate)}), "--id", "left-1", "--detach").code == 0
        dev.process.kill()
        dev.process.wait()
    gate.touch()
    with project.started("dev") as dev:
        assert dev.read_until("open run") == "resumed   1 open run\n"
        assert server_of(project) == left
        wait_until_closed(project)


def test_a_run_outlives_the_dev_that_served_it(project: CommandProject) -> None:
    """When dev is stopped while `amends run` waits, that command does the work itself."""
    gate = project.path / "gate"
    with project.started("dev") as dev:
        dev.read_until("Ready")
        with project.started("run", "ship", json.dumps({"gate": str(gate)}), "--id", "outlived-1") as command:
            command.read_until("pack: attempt 1 started")
            assert dev.stop() == 0
            command.read_until("amends dev has ended")
            gate.touch()
            command.read_until("COMPLETED: run outlived-1")
            assert command.process.wait() == 0
    assert running(project.path / ".amends") is None


def test_a_worker_serves_a_configured_temporal(project: CommandProject, temporal_address: str) -> None:
    """A worker takes the runs of its own task queue, including those that waited for it, and ends on SIGTERM."""
    elsewhere = {"TEMPORAL_ADDRESS": temporal_address, "AMENDS_TASK_QUEUE": f"queue-{project.path.parent.name}"}
    with project.started("run", "ship", "--timeout", "30", env=elsewhere) as early:
        worker: Started
        with project.started("worker", env=elsewhere) as worker:
            worker.read_until("Ready")
            early.read_until("COMPLETED")
            assert early.process.wait() == 0
            assert project.run("run", "ship", env=elsewhere).code == 0
            assert worker.stop(signal.SIGTERM) == 0
    assert running(project.path / ".amends") is None


def test_a_configured_temporal_that_goes_away_is_said(project: CommandProject, tmp_path: Path) -> None:
    """A command that waits for a run reports that Temporal is gone, and starts no other server."""
    other = shop_at(tmp_path / "other", MODULE)
    with other.started("dev") as dev:
        dev.read_until("Ready")
        elsewhere = {"TEMPORAL_ADDRESS": server_of(other).address, "AMENDS_TASK_QUEUE": "shop"}
        with project.started("worker", env=elsewhere) as worker:
            worker.read_until("Ready")
            order = json.dumps({"gate": str(project.path / "gate")})
            with project.started("run", "ship", order, "--id", "lonely-1", env=elsewhere) as command:
                command.read_until("pack: attempt 1 started")
                assert dev.stop() == 0
                assert "open runs wait for it" in command.read_until("does not answer")
                assert command.stop() == 130
                assert "run lonely-1 is accepted: it continues" in "".join(command.lines)
            worker.process.kill()
    assert running(project.path / ".amends") is None


def test_a_worker_joins_the_embedded_server(project: CommandProject) -> None:
    """Without a configured Temporal, a worker serves the embedded server that runs, and keeps it after dev ends."""
    with project.started("dev") as dev:
        dev.read_until("Ready")
        with project.started("worker") as worker:
            worker.read_until("Ready")
            assert dev.stop() == 0
            assert project.run("run", "ship").code == 0
            assert worker.stop() == 0
    assert running(project.path / ".amends") is None
