"""Commands that receive a request to stop, each while a part of it does not come to its end.

Every test waits for the state itself (a file that the hanging code touches, a new connection), sends one
signal and waits for the end: `Started.stop` kills a command that does not end, which fails the test.
"""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from commands import CommandProject, Started, shop_at
from outage_parts import Outage

from amends.sagas.temporal.server.embedded_server import running
from amends.sagas.temporal.server.process import server_alive
from amends.sagas.temporal.server.server_record import ServerRecord

MODULE = """
import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from amends import Call, Drift, Observation, Saga, UnitOfWork, drift_rule, effect, transaction

LONG = timedelta(minutes=5)


class Order(BaseModel):
    reached: str = ""


@effect(read_only=True, timeout=LONG)
def thread(order: Order, call: Call) -> None:
    Path(order.reached).touch()
    time.sleep(1_000)


@effect(read_only=True, timeout=LONG)
async def stubborn(order: Order, call: Call) -> None:
    Path(order.reached).touch()
    while True:
        try:
            await asyncio.sleep(1_000)
        except asyncio.CancelledError:
            pass


@effect(read_only=True, timeout=LONG)
async def blocking(order: Order, call: Call) -> None:
    Path(order.reached).touch()
    time.sleep(1_000)


@effect(read_only=True, timeout=LONG, local=True)
async def local(order: Order, call: Call) -> None:
    Path(order.reached).touch()
    await asyncio.sleep(1_000)


@transaction
def unit(order: Order, uow: UnitOfWork) -> None:
    Path(order.reached).touch()
    time.sleep(1_000)


@unit.compensation
def undo_unit(done: object, uow: UnitOfWork) -> None:
    pass


@transaction
def gated(order: Order, uow: UnitOfWork) -> None:
    Path(order.reached).touch()
    while not Path(order.reached + ".gate").exists():
        time.sleep(0.02)


@gated.compensation
def undo_gated(done: object, uow: UnitOfWork) -> None:
    pass


s_gated = Saga("s-gated", Order, gated)
sagas = [Saga(f"s-{each.name}", Order, each) for each in (thread, stubborn, blocking, local, unit)]
s_thread, s_stubborn, s_blocking, s_local, s_unit = sagas
"""
RULE = """

@drift_rule("hanging", every=timedelta(seconds=1), timeout=LONG)
def hanging(observation: Observation) -> Iterator[Drift]:
    Path("reached").touch()
    time.sleep(1_000)
    yield from ()
"""
MISSING = """

@transaction
def added(order: Order, uow: UnitOfWork) -> None:
    pass


@added.compensation
def undo_added(done: object, uow: UnitOfWork) -> None:
    pass


s_added = Saga("s-added", Order, added)
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[CommandProject]:
    """Yield a project whose steps hang; end the embedded server that a failed test leaves."""
    project = shop_at(tmp_path / "shop", MODULE)
    yield project
    if (left := running(project.path / ".amends")) is not None:
        os.kill(left.pid, signal.SIGKILL)


def wait_until(met: Callable[[], object]) -> None:
    """Wait until a condition is met; only the test's own bound ends the wait."""
    while not met():
        time.sleep(0.02)


def reach(project: CommandProject, saga: str, env: dict[str, str] | None = None) -> None:
    """Start a run, and return when its step hangs."""
    reached = project.path / f"{saga}.reached"
    order = json.dumps({"reached": str(reached)})
    assert project.run("run", saga, order, "--id", f"{saga}-1", "--detach", env=env).code == 0
    wait_until(reached.exists)


def assert_nothing_left(project: CommandProject) -> None:
    """Check that the embedded server has ended; a killed server's lock becomes free a moment later."""
    assert running(project.path / ".amends") is None
    wait_until(lambda: not server_alive(project.path / ".amends"))


def server_of(project: CommandProject) -> ServerRecord:
    """Return the project's running embedded server."""
    found = running(project.path / ".amends")
    assert found is not None
    return found


LAST_WORDS = {
    "s-thread": "Stopped.",
    "s-stubborn": "in flight, which another worker takes over: 1 call: stubborn of run s-stubborn-1",
    "s-blocking": "stopped with work in flight: blocking of run s-blocking-1",
    "s-local": "Stopped.",
    "s-unit": "the store does not close",
}


def each_with_one_signal() -> Iterator[Any]:
    """Yield every saga with each signal; the signals take turns, and the other one is left to soak."""
    for number, saga in enumerate(LAST_WORDS):
        for at, sent in enumerate((signal.SIGTERM, signal.SIGINT)):
            marks = () if (number + at) % 2 == 0 else (pytest.mark.soak,)
            yield pytest.param(saga, sent, marks=marks, id=f"{saga}-{sent.name}")


@pytest.mark.parametrize(("saga", "number"), list(each_with_one_signal()))
def test_dev_ends_whatever_user_code_does(project: CommandProject, saga: str, number: signal.Signals) -> None:
    """One signal ends dev with status 0 while a step hangs; its server stops, and dev names the abandoned calls."""
    with project.started("dev") as dev:
        dev.read_until("Ready")
        reach(project, saga)
        assert dev.stop(number) == 0
    assert LAST_WORDS[saga] in "".join(dev.lines)
    assert_nothing_left(project)


def test_dev_ends_with_a_unit_that_cannot_commit(project: CommandProject) -> None:
    """A run whose code this process lacks, which Temporal repeats without limit, does not keep dev alive."""
    with project.started("dev") as dev:
        dev.read_until("Ready")
        project.write("shop.py", MODULE + MISSING)
        assert project.run("run", "s-added", "--id", "lacking-1", "--detach").code == 0
        dev.read_until("no step is called 'added' here")
        assert dev.stop(signal.SIGTERM) == 0
    assert dev.lines[-1].endswith("Stopped.\n")
    assert_nothing_left(project)


def test_dev_ends_with_a_drift_rule_that_hangs(project: CommandProject) -> None:
    """A scheduled rule that does not return keeps no process alive."""
    project.write("shop.py", MODULE + RULE)
    with project.started("dev", env={"AMENDS_SCHEDULE_RULES": "true"}) as dev:
        dev.read_until("Ready")
        wait_until((project.path / "reached").exists)
        assert dev.stop(signal.SIGTERM) == 0
    assert_nothing_left(project)


def test_dev_ends_with_a_server_that_is_silent(project: CommandProject) -> None:
    """A suspended server answers no client and does not react to SIGTERM; dev kills it and ends."""
    with project.started("dev") as dev:
        dev.read_until("Ready")
        server = server_of(project)
        reach(project, "s-thread")
        os.kill(server.pid, signal.SIGSTOP)
        assert dev.stop(signal.SIGTERM) == 0
    assert_nothing_left(project)


@pytest.mark.parametrize(
    "saga",
    ["s-thread", *(pytest.param(each, marks=pytest.mark.soak) for each in ("s-stubborn", "s-blocking")), "s-unit"],
)
def test_run_ends_whatever_user_code_does(project: CommandProject, saga: str) -> None:
    """Ctrl-C ends a run that serves itself with status 130, reports the run's future, and stops its server."""
    reached = project.path / "reached"
    order = json.dumps({"reached": str(reached)})
    with project.started("run", saga, order, "--id", "cut-1") as command:
        wait_until(reached.exists)
        assert command.stop(signal.SIGINT) == 130
    said = "".join(command.lines)
    assert ("run cut-1 is accepted" in said) or ("stopped with work in flight" in said)
    assert_nothing_left(project)


class Silent(NamedTuple):
    """A port that accepts connections and never answers."""

    port: int
    listener: socket.socket
    connections: list[socket.socket]

    def wait_for_connection(self) -> None:
        """Wait until a client has connected; the connection stays open."""
        self.connections.append(self.listener.accept()[0])


@contextmanager
def silent_port() -> Iterator[Silent]:
    """Listen, and answer nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = Silent(listener.getsockname()[1], listener, [])
        yield silent
        for each in silent.connections:
            each.close()


@pytest.mark.parametrize("command", [("dev",), ("run", "s-thread")])
def test_a_command_that_waits_for_a_silent_database_ends(project: CommandProject, command: tuple[str, ...]) -> None:
    """A command that starts up and has no answer from its database yet ends at once on a signal."""
    with silent_port() as silent:
        url = f"postgresql://shop:secret@127.0.0.1:{silent.port}/shop?connect_timeout=600"
        with project.started(*command, env={"AMENDS_STORE_URL": url}) as started:
            silent.wait_for_connection()
            assert started.stop(signal.SIGTERM) == (0 if command == ("dev",) else 130)
    assert running(project.path / ".amends") is None


@pytest.mark.parametrize(("command", "code"), [(("worker",), 0), (("run", "s-thread", "--timeout", "600"), 130)])
def test_a_command_that_waits_for_a_silent_temporal_ends(
    project: CommandProject, command: tuple[str, ...], code: int
) -> None:
    """A command that starts up and has no answer from Temporal yet ends at once on a signal."""
    with silent_port() as silent:
        started: Started
        with project.started(*command, env={"TEMPORAL_ADDRESS": f"127.0.0.1:{silent.port}"}) as started:
            silent.wait_for_connection()
            assert started.stop(signal.SIGTERM) == code


def test_a_worker_ends_while_the_database_is_away(
    project: CommandProject, temporal_address: str, postgres_server: str, postgres_url: str
) -> None:
    """The worker leaves transactions that are due and cannot be written to others, and prints Stopped."""
    outage = Outage(postgres_server, postgres_url)
    env = {
        "TEMPORAL_ADDRESS": temporal_address,
        "AMENDS_TASK_QUEUE": f"queue-{project.path.parent.name}",
        "AMENDS_STORE_URL": postgres_url.replace("postgresql+psycopg://", "postgresql://"),
    }
    assert project.run("db", "upgrade", env=env).code == 0
    with project.started("worker", env=env) as worker:
        worker.read_until("Ready")
        reach(project, "s-gated", env)
        outage.begin()
        try:
            (project.path / "s-gated.reached.gate").touch()
            worker.read_until("keeps pending writes until")
            assert worker.stop(signal.SIGTERM) == 0
        finally:
            outage.end()
    assert "Stopped." in "".join(worker.lines)


@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_ends_while_temporal_is_away(project: CommandProject, tmp_path: Path, fate: signal.Signals) -> None:
    """A server that was killed, or is silent, keeps no worker alive, even one that has results to report."""
    other = shop_at(tmp_path / "other", MODULE)
    with other.started("dev") as dev:
        dev.read_until("Ready")
        server = server_of(other)
        env = {"TEMPORAL_ADDRESS": server.address, "AMENDS_TASK_QUEUE": "shop", "AMENDS_DRAIN": "1s"}
        try:
            with project.started("worker", env=env) as worker:
                worker.read_until("Ready")
                reach(project, "s-thread", env)
                dev.process.kill()
                dev.process.wait()
                os.kill(server.pid, fate)
                assert worker.stop(signal.SIGTERM) == 0
            assert "Stopped." in "".join(worker.lines)
        finally:
            with suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGKILL)


def test_a_second_signal_cuts_the_drain_short(project: CommandProject, temporal_address: str) -> None:
    """A worker waits for its calls and names them; after a second signal it ends without them."""
    env = {
        "TEMPORAL_ADDRESS": temporal_address,
        "AMENDS_TASK_QUEUE": f"queue-{project.path.parent.name}",
        "AMENDS_DRAIN": "1h",
    }
    with project.started("worker", env=env) as worker:
        worker.read_until("Ready")
        reach(project, "s-thread", env)
        worker.process.send_signal(signal.SIGTERM)
        assert "1 call: thread of run s-thread-1" in worker.read_until("waiting up to")
        assert worker.stop(signal.SIGTERM) == 0
    assert "Stopped." in "".join(worker.lines)


def test_dev_starts_a_server_that_dies_while_it_starts(project: CommandProject) -> None:
    """Dev starts a server again that dies between its start and the worker's, and becomes ready."""
    with project.started("dev") as dev:
        dev.read_until("web page")
        os.kill(server_of(project).pid, signal.SIGKILL)
        dev.read_until("started it again")
        dev.read_until("Ready")
        assert project.run("sagas").code == 0
        assert dev.stop(signal.SIGTERM) == 0
    assert running(project.path / ".amends") is None


def test_a_command_stopped_while_its_server_starts_leaves_none(project: CommandProject) -> None:
    """A signal before the server answers makes dev end the server that it has just started."""
    record = project.path / ".amends" / "server.json"
    with project.started("dev") as dev:
        wait_until(record.exists)
        assert dev.stop(signal.SIGTERM) == 0
    assert_nothing_left(project)
