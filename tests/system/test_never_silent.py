"""Every fault of input, code, size or connection ends in one line with cause and remedy.

Each case is the real program in a separate process. It must end without a signal, with the documented exit status and
without a traceback, and leave no run and no workflow open.
"""

import asyncio
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import temporalio.client
from commands import CommandProject, Started
from runs.faulty_project import MODULE, scaffold

ORDER = '{"order_id": "o-1"}'
NOWHERE = {"TEMPORAL_ADDRESS": "127.0.0.1:1"}


@pytest.fixture
def project(tmp_path: Path) -> CommandProject:
    """Return a project without running processes."""
    return scaffold(tmp_path / "shop")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CommandProject, Started]]:
    """Yield a project in which `amends dev` runs."""
    project = scaffold(tmp_path_factory.mktemp("served") / "shop")
    with project.started("dev") as dev:
        dev.read_until("Ready")
        yield project, dev


def test_nothing_is_wrong_with_the_project_itself(served: tuple[CommandProject, Started]) -> None:
    """The same project completes a saga, so that the refusals below are due to the faults that they name."""
    project, _ = served
    ended = project.run("run", "fine", ORDER)
    assert (ended.code, ended.err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "fien", ORDER], ["no saga is called 'fien'", "fine"]),
        (["run", "fine", "{}"], ["'fine'", "order_id"]),
        (["run", "fine"], ["order_id", "no input was given"]),
        (["run", "fine", '{"order_id": 7}'], ["'fine'", "order_id"]),
        (["run", "fine", '{"order_id": "o", "amount": NaN}'], ["NaN"]),
        (["run", "fine", '{"order_id": '], ["'fine'", "not JSON"]),
        (["run", "fine", json.dumps({"order_id": "x" * 2_000})], ["2016 bytes", "the limit is 1000"]),
        (["run", "fine", "@missing.json"], ["missing.json", "cannot be read"]),
        (["run", "fine", "shop.py"], ["@shop.py"]),
        (["run", "fine", ORDER, "--id", "x" * 1_001], ["1001 characters", "1 to 200"]),
        (["run", "fine", ORDER, "--id", "../../etc/passwd"], ["'../../etc/passwd'", "1 to 200"]),
        (["run", "fine", ORDER, "--id", "a\x1b[2Jb"], ["x1b[2Jb", "1 to 200"]),
        (["run", "fine", ORDER, "--timeout", "nan"], ["--timeout"]),
        (["run", "fine", ORDER, "--timeout", "soon"], ["--timeout", "amends run --help"]),
        (["rnu"], ["'rnu'", "did you mean 'run'"]),
    ],
)
def test_a_wrong_command_line_or_input_is_refused(
    project: CommandProject, arguments: list[str], says: list[str]
) -> None:
    """A fault that the user must correct ends in status 2 before anything is written or started."""
    ended = project.run(*arguments)
    assert ended.code == 2
    assert all(each in ended.error for each in says), ended.error
    assert ended.error.isprintable()
    assert ended.out == ""
    assert not (project.path / ".amends").exists()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import surely_not_installed", ["ModuleNotFoundError", "surely_not_installed", "shop.py:1"]),
        ("def broken(:\n", ["SyntaxError", "shop.py:1", "correct it there"]),
        ("import sys\nsys.exit(0)\n", ["sys.exit(0)", "shop.py:2", "__main__"]),
        ("print('noise')\nraise ValueError('no database')\n", ["ValueError: no database", "shop.py:2"]),
        (MODULE.replace("@note_down.compensation\n", ""), ["note_down", "compensation"]),
    ],
    ids=["ImportError", "SyntaxError", "sys.exit", "raise", "definition"],
)
def test_a_module_that_cannot_be_loaded_is_named(project: CommandProject, code: str, says: list[str]) -> None:
    """The error names the module's file and line, and output that the module printed stays out of our output."""
    project.write("shop.py", code)
    ended = project.run("run", "fine", ORDER)
    assert ended.code == 2
    error = ended.err.splitlines()[-1]
    assert all(each in error for each in says), error
    assert "Traceback" not in ended.err
    assert ended.out == ""


@pytest.mark.parametrize(
    ("saga", "says"),
    [
        ("raising", "raise_at_once: RuntimeError: the machine is [red]broken?[0m"),
        ("raising-transaction", "ZeroDivisionError: division by zero"),
        ("unwritable", "result of step 'give_an_object'"),
        ("nan", "result of step 'answer_nan'"),
        ("lengthy", "the limit is 1000"),
    ],
)
def test_a_step_that_fails_is_undone_and_said(served: tuple[CommandProject, Started], saga: str, says: str) -> None:
    """A step that raises, or whose result cannot be stored, ends in status 4 with the cause in the last line."""
    project, _ = served
    ended = project.run("run", saga, ORDER)
    assert (ended.code, ended.err) == (4, ""), ended.out + ended.err
    last = ended.out.splitlines()[-1]
    assert says in last
    assert "amends history" in last
    assert ended.out.replace("\n", "").isprintable()


def test_no_worker_is_said_and_nothing_is_accepted(project: CommandProject, temporal_address: str) -> None:
    """With a Temporal that has no worker, the command waits as long as its option allows and accepts nothing."""
    elsewhere = {"TEMPORAL_ADDRESS": temporal_address, "AMENDS_TASK_QUEUE": f"nobody-{os.getpid()}"}
    ended = project.run("run", "fine", ORDER, "--timeout", "1", env=elsewhere)
    assert ended.code == 3
    assert "no worker polls" in ended.error
    assert "amends worker" in ended.error
    assert project.open_runs() == []


def test_an_unreachable_server_is_said(project: CommandProject) -> None:
    """A configured Temporal that does not answer ends in status 3; no other one is started instead."""
    for command in (["run", "fine", ORDER], ["worker"]):
        ended = project.run(*command, env=NOWHERE)
        assert ended.code == 3
        assert "127.0.0.1:1 cannot be reached" in ended.error
        assert "TEMPORAL_ADDRESS" in ended.error
    assert project.open_runs() == []


@pytest.fixture
def mute() -> Iterator[str]:
    """Yield the address of a server that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_temporal_that_never_answers_is_said(project: CommandProject, mute: str) -> None:
    """A Temporal that accepts the connection and is silent ends in status 3, with nothing accepted."""
    for command in (["run", "fine", ORDER], ["worker"]):
        ended = project.run(*command, env={"TEMPORAL_ADDRESS": mute})
        assert ended.code == 3
        assert f"{mute} cannot be reached" in ended.error
        assert "TEMPORAL_ADDRESS" in ended.error
    assert project.open_runs() == []


def test_a_postgresql_that_never_answers_is_said(project: CommandProject, mute: str) -> None:
    """A PostgreSQL that accepts the connection and is silent ends in status 3, with a hint where to check."""
    for command in (["run", "fine", ORDER], ["list"]):
        ended = project.run(*command, env={"AMENDS_STORE_URL": f"postgresql://shop:secret@{mute}/shop"})
        assert ended.code == 3
        assert f"{mute}/shop': " in ended.error
        assert ended.error.endswith("check that it runs and that the URL is right")
        assert "secret" not in ended.error


def test_a_worker_without_temporal_is_refused(project: CommandProject) -> None:
    """Where no Temporal is configured and none runs, the worker names the remedy."""
    ended = project.run("worker")
    assert ended.code == 3
    assert "TEMPORAL_ADDRESS" in ended.error
    assert "amends dev" in ended.error


def test_a_run_that_nobody_would_do_is_not_left_behind(project: CommandProject) -> None:
    """`--detach` needs another process that continues the run."""
    ended = project.run("run", "fine", ORDER, "--detach")
    assert ended.code == 3
    assert "amends dev" in ended.error
    assert project.open_runs() == []


@pytest.mark.parametrize("setting", ["--port", "AMENDS_EMBEDDED_PORT"])
def test_a_taken_port_is_named(project: CommandProject, setting: str) -> None:
    """A port that another process listens on ends in status 3 and the line names its setting, for every command."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        if setting.startswith("--"):
            ended = project.run("dev", setting, str(port))
        else:
            ended = project.run("run", "fine", ORDER, env={setting: str(port)})
    assert ended.code == 3
    assert f"port {port} is taken" in ended.error
    assert setting in ended.error


def test_two_developers_of_one_directory_are_told_apart(served: tuple[CommandProject, Started]) -> None:
    """A second `amends dev` ends in status 3, and names the process of the first."""
    project, dev = served
    ended = project.run("dev")
    assert ended.code == 3
    assert f"process {dev.process.pid}" in ended.error


def test_dev_beside_a_configured_temporal_is_refused(project: CommandProject) -> None:
    """`amends dev` refuses a configured Temporal: `amends run` would not use the server that dev starts."""
    ended = project.run("dev", env=NOWHERE)
    assert ended.code == 2
    assert "127.0.0.1:1" in ended.error
    assert "amends worker" in ended.error


def test_a_data_directory_that_cannot_be_made_is_named(project: CommandProject) -> None:
    """A data directory below a file ends in status 3 with the path."""
    project.write("file", "")
    ended = project.run("run", "fine", ORDER, env={"AMENDS_DATA_DIR": "file/data"})
    assert ended.code == 3
    assert str(project.path / "file" / "data") in ended.error
    assert "data_dir" in ended.error


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param((), marks=pytest.mark.soak),
        ("dev.lock", "server.lock", "server.start.lock", "server.alive.lock", "temporal.log"),
    ],
)
@pytest.mark.parametrize("command", [("run", "fine", ORDER), ("dev",)], ids=["run", "dev"])
def test_a_read_only_data_directory_is_named(
    project: CommandProject, command: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    """A data directory without write permission, empty or not, ends in status 3 with the path and the remedy."""
    data_dir = project.path / ".amends"
    data_dir.mkdir()
    for name in kept:
        (data_dir / name).touch()
    data_dir.chmod(0o500)
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere, and there is no setpriv to give that up")
        prefix = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    ended = project.run(*command, prefix=prefix)
    assert ended.code == 3
    assert str(data_dir) in ended.error
    assert "Errno" not in ended.error
    assert re.search("may not write|Permission denied", ended.error)
    assert re.search("make it writable|change its", ended.error)


def test_worker_and_client_on_different_stores_are_told_apart(served: tuple[CommandProject, Started]) -> None:
    """A client whose store is not the worker's accepts nothing, and names both stores."""
    project, _ = served
    other = f"sqlite:///{project.path / 'other.db'}"
    ended = project.run("run", "fine", ORDER, env={"AMENDS_STORE_URL": other})
    assert ended.code == 3
    assert "store_url" in ended.error
    assert "other.db" in ended.error
    assert project.open_runs(other) == []


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [
        ("mysql://localhost/shop", 2, "mysql"),
        ("events.db", 2, "sqlite:///"),
        ("sqlite:///missing/folder/events.db", 2, "create it"),
        ("postgresql://shop:secret@127.0.0.1:1/shop", 3, "127.0.0.1:1"),
    ],
)
def test_a_wrong_store_url_is_named_without_its_password(
    project: CommandProject, url: str, code: int, says: str
) -> None:
    """An unusable store ends in one line; one that may come back, in status 3."""
    ended = project.run("run", "fine", ORDER, env={"AMENDS_STORE_URL": url})
    assert ended.code == code
    assert says in ended.error
    assert "secret" not in ended.error


@pytest.mark.parametrize(
    "command",
    [
        ["run", "fine", ORDER],
        ["dev"],
        ["list"],
        ["show", "o-1"],
        ["retry", "o-1", "--reason", "r"],
        ["recover"],
        ["db", "check"],
    ],
)
def test_a_store_in_no_directory_is_the_same_fault_everywhere(project: CommandProject, command: list[str]) -> None:
    """One fault has one status and one line, whether a command would have written or only read."""
    ended = project.run(*command, env={"AMENDS_STORE_URL": "sqlite:////nowhere/x.db"})
    assert ended.code == 2
    assert ended.error == (
        "amends: store '/nowhere/x.db': there is no directory '/nowhere'; create it or correct store_url"
    )


def test_nothing_was_left_open(served: tuple[CommandProject, Started]) -> None:
    """After everything above, neither the journal nor Temporal has an open run."""
    project, dev = served
    address = next(line.split()[1] for line in dev.lines if line.startswith("Temporal"))
    assert project.open_runs() == []
    assert asyncio.run(_open_workflows(address)) == 0


async def _open_workflows(address: str) -> int:
    """Count the open workflows, once Temporal's list, which is updated late, has all workflows that were started."""
    client = await temporalio.client.Client.connect(address)
    while (count := (await client.count_workflows('ExecutionStatus = "Running"')).count) > 0:
        running = [each async for each in client.list_workflows('ExecutionStatus = "Running"')]
        states = [await client.get_workflow_handle(each.id).describe() for each in running]
        if any(state.close_time is None for state in states):
            return count
        await asyncio.sleep(0.05)
    return count
