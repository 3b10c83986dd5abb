"""`kill -9` and Ctrl-C of processes against the real Temporal: every run reaches its end, nothing takes effect twice.

Each test stops runs in known places, kills, starts the killed process again, and then lets the runs continue. The bank
stops a run in a place: it delays a call or its reply, or is unavailable. So does a transaction that waits for a file;
nothing depends on how long anything takes. The judges of the effects are the bank's own log, on its disk, and the lines
of an aggregate.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import bank_sagas
import httpx
import pytest
from bank_sagas import LINES, Book, Tally, Transfer, tally, transfer
from commands import CommandProject, Started

# The examples are projects of their own: their modules are imported from their folder.
sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "orders"))

from services.process import ServiceProcess

from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import RunStatus
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.cli.exit_codes import ExitCode
from amends.sagas.definition.saga import Saga
from amends.sagas.temporal.client import Client
from amends.sagas.temporal.server.embedded_server import running
from amends.sagas.temporal.server.server_record import ServerRecord

BANK = Path(__file__).resolve().parents[2] / "examples" / "transfer"
HELD = {"delay_ms": 600_000}

PLACES: Mapping[str, tuple[str, dict[str, object]]] = {
    "unheard": ("withdraw/do/0", {"kind": "delay_before", **HELD}),
    "landed": ("withdraw/do/0", {"kind": "delay_after", **HELD}),
    "between": ("deposit/do/0", {"kind": "unavailable", "times": 1_000_000}),
    "undoing": ("deposit/undo/0", {"kind": "delay_before", **HELD}),
    "undone": ("withdraw/undo/0", {"kind": "delay_after", **HELD}),
}
"""Places where a transfer stops: the end of the call's key, and the bank's behaviour.

In this order: the bank does not receive the call; it acts and does not answer; it fails, and the call repeats now and
then; it does not receive an undo; it undoes and does not answer.
"""

UNDOS = ("undoing", "undone")
"""The places in the middle of an undo."""


def wait_until(met: Callable[[], object]) -> None:
    """Wait until a condition is met; only the test's own bound ends the wait."""
    while not met():
        time.sleep(0.02)


def closed(record: RunRecord | None) -> bool:
    """Return whether an accepted run has come to its end."""
    assert record is not None
    return record.state.closed


@dataclass
class Scene:
    """A project, the bank that its sagas call, and the runs that one test has started.

    Attributes:
        project: The project.
        bank: The bank.
        name: Prefix of every run's id.
        transfers: The started transfers, by the place that stops each.
        tally: The row of transactions; `None` unless one was started.
    """

    project: CommandProject
    bank: ServiceProcess
    name: str
    transfers: dict[str, Transfer] = field(default_factory=dict)
    tally: Tally | None = None

    @property
    def server(self) -> ServerRecord:
        """The running embedded server."""
        found = running(self.project.path / ".amends")
        assert found is not None
        return found

    # ---- before the kill

    def order(self, place: str) -> Transfer:
        """Configure the bank to stop a transfer in a place once it is started."""
        order = Transfer(run=f"{self.name}-{place}", refused=place in UNDOS)
        key, fault = PLACES[place]
        httpx.post(f"{self.bank.base_url}/faults", json={**fault, "key": f"{order.run}/{key}"}).raise_for_status()
        self.transfers[place] = order
        return order

    def start(self, address: str, queue: str, *places: str) -> None:
        """Start a transfer for each place, through the client, and return when each has reached it."""
        self._start(address, queue, {order.run: order for order in map(self.order, places)}, transfer)
        for place in places:
            self.wait_for(place)

    def start_tally(self, address: str, queue: str) -> None:
        """Start the row of transactions, and return when one of them is being executed."""
        gate = self.project.path / f"{self.name}.gate"
        self.tally = Tally(run=f"{self.name}-tally", gate=str(gate))
        self._start(address, queue, {self.tally.run: self.tally}, tally)
        wait_until(gate.with_suffix(".reached").exists)

    def _start(self, address: str, queue: str, orders: Mapping[str, Any], saga: Saga[Any]) -> None:
        async def start() -> None:
            url = self.project.store_url
            client = await Client.connect([transfer, tally], store_url=url, temporal=address, task_queue=queue)
            async with client:
                for run_id, order in orders.items():
                    await client.start(saga, order, id=run_id)

        asyncio.run(start())

    def wait_for(self, place: str) -> None:
        """Wait until the transfer is in its place."""
        run_id, (key, fault) = self.transfers[place].run, PLACES[place]
        if place == "between":
            with self._journal() as journal:
                wait_until(lambda: any(each.kind == "StepAttemptFailed" for each in journal.facts_blocking(run_id)))
        else:
            log = "attempts" if fault["kind"] == "delay_before" else "ledger"
            wait_until(lambda: any(line["key"] == f"{run_id}/{key}" for line in self.logged(log, run_id)))

    # ---- after the kill

    def go_on(self) -> None:
        """Let every run continue, and return when all are closed."""
        httpx.delete(f"{self.bank.base_url}/faults").raise_for_status()
        if self.tally is not None:
            Path(self.tally.gate).touch()
        run_ids = [order.run for order in self.transfers.values()] + ([self.tally.run] if self.tally else [])
        with self._journal() as journal:
            wait_until(lambda: all(closed(journal.record_blocking(run_id)) for run_id in run_ids))

    def judge(self, *, caller_killed: bool = True) -> None:
        """Check that each run came to its end, each transaction took effect once, and each effect once per key.

        Args:
            caller_killed: Whether the process was killed whose calls the bank delayed.
        """
        for place, order in self.transfers.items():
            self._judge_transfer(order)
            held = f"{order.run}/{PLACES[place][0]}"
            calls = sum(1 for line in self.logged("attempts", order.run) if line["key"] == held)
            assert calls > 1 or not caller_killed, f"the kill has missed {held}"
        if self.tally is not None:
            assert self.ended(self.tally.run) == (RunStatus.COMPLETED, list(LINES))

    def _judge_transfer(self, order: Transfer) -> None:
        expected = {"withdraw/do/0": "withdraw", "deposit/do/0": "deposit"}
        status, last = RunStatus.COMPLETED, "settled"
        if order.refused:
            expected |= {"withdraw/undo/0": "void", "deposit/undo/0": "void"}
            status, last = RunStatus.COMPENSATED, "given up"
        entries = [(line["key"], line["op"], line["outcome"]) for line in self.logged("ledger", order.run)]
        assert sorted(entries) == sorted((f"{order.run}/{key}", op, "applied") for key, op in expected.items())
        assert self.ended(order.run) == (status, ["begun", last])

    # ---- looking

    def logged(self, log: str, run_id: str) -> list[dict[str, Any]]:
        """Read a run's entries in the bank's log on disk."""
        lines = (self.bank.data / f"{log}.jsonl").read_text().splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
        return [entry for entry in entries if entry["key"].startswith(f"{run_id}/")]

    def ended(self, run_id: str) -> tuple[RunStatus, list[str]]:
        """Read the run's status, and the lines of its book."""
        with self._journal() as journal:
            record, book = journal.record_blocking(run_id), journal.load_blocking(Book, run_id)
        assert record is not None
        assert book is not None
        return record.state.status, book.lines

    @contextmanager
    def _journal(self) -> Iterator[SqlJournal]:
        journal = open_journal(self.project.store_url, aggregates=[Book])
        try:
            yield journal
        finally:
            journal.close_blocking()


class Kept:
    """A command in the background that many tests kill: each finds it running, even if the previous test killed it.

    Args:
        project: Its project.
        *command: The command; it prints `Ready`.
        env: Its configuration.
    """

    def __init__(self, project: CommandProject, *command: str, env: Mapping[str, str] | None = None) -> None:
        self.project = project
        self._command = command
        self._env = env
        self._running = ExitStack()
        self._started: Started | None = None

    def start(self) -> Started:
        """Start the command, unless it runs."""
        if self._started is None or self._started.process.poll() is not None:
            self.stop()
            self._started = self._running.enter_context(self.project.started(*self._command, env=self._env))
            self._started.read_until("Ready")
        return self._started

    def kill(self) -> None:
        """Kill the command."""
        kill(self.start())

    def stop(self) -> None:
        """Stop the command in good order, if it runs."""
        self._running.close()


def kill(command: Started) -> None:
    """Kill a command."""
    command.process.kill()
    command.process.wait()


def kill_server(server: ServerRecord) -> None:
    """Kill an embedded server, for which its parent process waits."""
    os.kill(server.pid, signal.SIGKILL)


def project_in(folder: Path, bank: ServiceProcess) -> CommandProject:
    """Create a project with the sagas that call the bank."""
    project = CommandProject(folder / "project", {"BANK_URL": bank.base_url})
    project.write("amends.toml", 'modules = ["bank_sagas"]\n')
    shutil.copy(bank_sagas.__file__, project.path)
    return project


@contextmanager
def nothing_left(project: CommandProject) -> Iterator[None]:
    """End the embedded server that a failed test may leave."""
    try:
        yield
    finally:
        if (left := running(project.path / ".amends")) is not None:
            kill_server(left)


@contextmanager
def scene_of(project: CommandProject, bank: ServiceProcess) -> Iterator[Scene]:
    """Yield a scene for one test; at the end remove the test's settings from the bank."""
    yield Scene(project, bank, uuid4().hex[:8])
    httpx.delete(f"{bank.base_url}/faults").raise_for_status()


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Yield one bank for all tests, as starting one is slow; their runs have keys of their own."""
    options = ("--open", "alice=1000.00", "--open", "bob=0.00")
    with ServiceProcess("bank", tmp_path_factory.mktemp("bank"), *options, project=BANK) as service:
        yield service


# ---- the worker, with a Temporal that is not the project's own

QUEUE = uuid4().hex


@pytest.fixture(scope="module")
def worker(bank: ServiceProcess, temporal_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """Yield an `amends worker`."""
    env = {"TEMPORAL_ADDRESS": temporal_address, "AMENDS_TASK_QUEUE": QUEUE}
    kept = Kept(project_in(tmp_path_factory.mktemp("worker"), bank), "worker", env=env)
    yield kept
    kept.stop()


@pytest.fixture
def worked(worker: Kept, bank: ServiceProcess) -> Iterator[Scene]:
    """Yield a project that the worker serves."""
    worker.start()
    with scene_of(worker.project, bank) as scene:
        yield scene


def test_a_killed_worker_s_calls_are_made_again_by_the_next(worked: Scene, worker: Kept, temporal_address: str) -> None:
    """A worker dies with calls in every place, forwards and backwards; the next one brings all runs to their end."""
    worked.start(temporal_address, QUEUE, *PLACES)
    worker.kill()
    worker.start()
    worked.go_on()
    worked.judge()


@pytest.mark.soak
def test_a_worker_killed_in_a_transaction_leaves_nothing_of_it(
    worked: Scene, worker: Kept, temporal_address: str
) -> None:
    """A worker dies in the middle of a row of transactions; each of them still takes effect once."""
    worked.start_tally(temporal_address, QUEUE)
    worker.kill()
    worker.start()
    worked.go_on()
    worked.judge()


# ---- `amends dev`, its server, or both


@pytest.fixture(scope="module")
def dev(bank: ServiceProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """Yield an `amends dev`."""
    kept = Kept(project_in(tmp_path_factory.mktemp("dev"), bank), "dev")
    with nothing_left(kept.project):
        yield kept
        kept.stop()


@pytest.fixture
def served(dev: Kept, bank: ServiceProcess) -> Iterator[Scene]:
    """Yield a project that `amends dev` serves."""
    dev.start()
    with scene_of(dev.project, bank) as scene:
        yield scene


def in_places(scene: Scene, *places: str) -> None:
    """Start transfers on the embedded server, and stop them in these places; in all of them without an argument."""
    scene.start(scene.server.address, "amends", *(places or PLACES))


def test_a_killed_server_is_started_again_and_the_runs_go_on(served: Scene, dev: Kept) -> None:
    """The server dies with calls in every place, starts again on its file, and the runs continue."""
    in_places(served)
    kill_server(served.server)
    dev.start().read_until("started it again")
    served.go_on()
    served.judge(caller_killed=False)


@pytest.mark.soak
def test_the_server_that_a_killed_dev_left_is_adopted(served: Scene, dev: Kept) -> None:
    """`amends dev` dies with calls in every place; the next one adopts its server and ends all runs."""
    in_places(served)
    left = served.server
    dev.kill()
    dev.start()
    assert served.server == left
    served.go_on()
    served.judge()


@pytest.mark.soak
def test_worker_and_server_may_die_together(served: Scene, dev: Kept) -> None:
    """Both die with calls in every place; the next `amends dev` continues from their files."""
    in_places(served)
    dev.kill()
    kill_server(served.server)
    dev.start()
    served.go_on()
    served.judge()


@pytest.mark.soak
def test_worker_and_server_may_die_together_in_a_transaction(served: Scene, dev: Kept) -> None:
    """Both die in the middle of a row of transactions; each of them takes effect once."""
    served.start_tally(served.server.address, "amends")
    dev.kill()
    kill_server(served.server)
    dev.start()
    served.go_on()
    served.judge()


def test_the_file_of_a_killed_server_may_be_lost(served: Scene, dev: Kept) -> None:
    """Both die, and the server's file is lost; the journal alone suffices to bring the run to its end."""
    in_places(served, "between")
    dev.kill()
    kill_server(served.server)
    for file in (served.project.path / ".amends").glob("temporal.db*"):
        file.unlink()
    dev.start()
    served.go_on()
    served.judge()


def test_ctrl_c_of_dev_cuts_no_undo_short(served: Scene, dev: Kept) -> None:
    """`amends dev` stops in the middle of undos; after the next one each has taken effect once."""
    in_places(served, *UNDOS)
    assert dev.start().stop(signal.SIGINT) == ExitCode.OK
    dev.start()
    served.go_on()
    served.judge()


def test_a_run_is_not_hurt_by_the_death_of_the_command_that_watches_it(served: Scene) -> None:
    """`amends run` dies next to `amends dev`, which ends the run; the same command then reports how it ended."""
    with run_of(served, "landed") as command:
        kill(command)
    served.go_on()
    assert served.project.run(*command_of(served.transfers["landed"])).code == ExitCode.OK
    served.judge(caller_killed=False)


# ---- `amends run` alone


@pytest.fixture
def alone(bank: ServiceProcess, tmp_path: Path) -> Iterator[Scene]:
    """Yield a project without running processes."""
    project = project_in(tmp_path, bank)
    with nothing_left(project), scene_of(project, bank) as scene:
        yield scene


def command_of(order: Transfer) -> tuple[str, ...]:
    """Return the command that starts a transfer."""
    return "run", "transfer", order.model_dump_json(), "--id", order.run


@contextmanager
def run_of(scene: Scene, place: str) -> Iterator[Started]:
    """Start a transfer with `amends run`, and stop it in a place."""
    with scene.project.started(*command_of(scene.order(place))) as command:
        scene.wait_for(place)
        yield command


@pytest.mark.soak
def test_a_killed_run_is_finished_by_the_same_command(alone: Scene) -> None:
    """`amends run` dies; the same command with the same id adopts the server that it left, and ends the run."""
    with run_of(alone, "undone") as command:
        kill(command)
    left = alone.server
    with alone.project.started(*command_of(alone.transfers["undone"])) as command:
        command.read_until("was started before")
        assert alone.server == left
        alone.go_on()
        command.read_until("COMPENSATED")
        assert command.process.wait() == ExitCode.COMPENSATED
    assert running(alone.project.path / ".amends") is None
    alone.judge()


@pytest.mark.soak
@pytest.mark.parametrize("place", UNDOS)
def test_ctrl_c_of_a_run_cuts_no_undo_short(alone: Scene, place: str) -> None:
    """`amends run` stops in the middle of an undo; the next worker ends the run, each undo took effect once."""
    with run_of(alone, place) as command:
        assert command.stop(signal.SIGINT) == ExitCode.INTERRUPTED
        assert f"run {alone.transfers[place].run} is accepted" in "".join(command.lines)
    next_one = Kept(alone.project, "dev")
    next_one.start()
    alone.go_on()
    next_one.stop()
    alone.judge()


@pytest.mark.soak
def test_a_killed_server_of_a_single_run_is_started_again(alone: Scene) -> None:
    """The server dies under `amends run`, which starts it again and drives its run to the end."""
    with run_of(alone, "landed") as command:
        kill_server(alone.server)
        command.read_until("started it again")
        alone.go_on()
        command.read_until("COMPLETED")
        assert command.process.wait() == ExitCode.OK
    alone.judge(caller_killed=False)
