"""The embedded server: shared by its users, stopped by the last one, and never two on one file."""

import asyncio
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from reading_shop import project_at

from amends import UnreachableError
from amends.cli.project.settings import load_settings
from amends.cli.runtime.wiring import Temporal, keep_alive, use_embedded
from amends.sagas.temporal.connection import TemporalTarget, connect
from amends.sagas.temporal.server.embedded_server import EmbeddedServer, running
from amends.sagas.temporal.server.locks import dev_lock
from amends.sagas.temporal.server.ports import free_port
from amends.sagas.temporal.server.process import find_binary
from amends.sagas.temporal.server.server_record import ServerRecord

USER = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from amends.sagas.temporal.server.embedded_server import EmbeddedServer

    async def main():
        async with EmbeddedServer.shared(Path(sys.argv[1])) as server:
            print(server.pid, flush=True)
            await asyncio.to_thread(sys.stdin.read)

    asyncio.run(main())
    """
)


def user(data_dir: Path) -> subprocess.Popen[str]:
    """Start another process that uses the server until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def told(process: subprocess.Popen[str]) -> int:
    """Read the server's pid from another process."""
    assert process.stdout is not None
    return int(process.stdout.readline())


async def test_a_server_answers_while_it_is_used_and_is_gone_afterwards(tmp_path: Path) -> None:
    """Within the context the default namespace can be used; after the last user nothing runs."""
    async with EmbeddedServer.shared(tmp_path) as server:
        client = await connect(TemporalTarget(server.address, embedded=True))
        assert (await client.count_workflows()).count == 0
        pid = server.pid
    assert running(tmp_path) is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (tmp_path / "temporal.db").stat().st_mode & 0o077 == 0


async def test_users_of_one_directory_share_one_server(tmp_path: Path) -> None:
    """Two users that start at once get the same server, which runs until the second has left."""
    first, second = user(tmp_path), user(tmp_path)
    pid = told(first)
    assert told(second) == pid
    first.communicate()
    assert running(tmp_path) is not None
    second.communicate()
    assert running(tmp_path) is None


async def test_a_killed_user_leaves_a_server_that_the_next_one_adopts(tmp_path: Path) -> None:
    """A killed user holds nothing; the next one adopts its server and stops it."""
    killed = user(tmp_path)
    pid = told(killed)
    killed.kill()
    killed.communicate()
    async with EmbeddedServer.shared(tmp_path) as server:
        assert server.pid == pid
    assert running(tmp_path) is None


async def test_a_killed_server_is_started_again_at_its_address(tmp_path: Path) -> None:
    """Clients find the new server at the address of the old one."""
    async with EmbeddedServer.shared(tmp_path) as server:
        address, pid = server.address, server.pid
        await kill(server)
        assert await server.ensure_alive()
        assert (server.address, server.pid == pid) == (address, False)
        assert not await server.ensure_alive()
        await connect(TemporalTarget(server.address, embedded=True))


async def kill(server: EmbeddedServer) -> None:
    """Kill a server that this process has started."""
    os.kill(server.pid, signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, server.pid, 0)


@asynccontextmanager
async def bereft(folder: Path) -> AsyncIterator[tuple[Temporal, EmbeddedServer]]:
    """Use a server that a test has killed since; no process has started it again."""
    async with use_embedded(load_settings(project_at(folder))) as temporal:
        assert temporal.server is not None
        await kill(temporal.server)
        yield temporal, temporal.server


async def test_a_server_that_another_user_starts_again_is_where_it_was(tmp_path: Path) -> None:
    """A user that asks for no port keeps the old ports, so that the clients of all users continue."""
    async with bereft(tmp_path) as (temporal, server):
        before = server.record
        async with EmbeddedServer.shared(tmp_path / ".amends") as quicker:
            assert (quicker.record.port, quicker.record.ui_port) == (before.port, before.ui_port)
            assert await server.ensure_alive()
            assert server.record == quicker.record
            assert not await server.ensure_alive()
            assert (await temporal.client.count_workflows()).count == 0


async def test_a_server_that_another_user_starts_elsewhere_is_said(tmp_path: Path) -> None:
    """A server whose port was taken meanwhile gets another one; a client of the old port ends in one line."""
    async with bereft(tmp_path) as (temporal, server):
        before = server.record
        with socket.create_server(("127.0.0.1", before.port)):
            async with EmbeddedServer.shared(tmp_path / ".amends") as quicker:
                assert quicker.record.port != before.port
                assert quicker.record.ui_port == before.ui_port
                with pytest.raises(
                    UnreachableError, match=rf"{before.address} is gone, .* at {quicker.address}; repeat this"
                ):
                    await keep_alive(temporal, lambda: pytest.fail("nobody can go on"))


async def test_a_damaged_record_is_no_record(tmp_path: Path) -> None:
    """A record that cannot be read counts as none, and a new server is started."""
    (tmp_path / "server.json").write_text('{"pid": "unheard of"')
    async with EmbeddedServer.shared(tmp_path) as server:
        assert running(tmp_path) == server.record


async def test_the_record_of_a_server_that_is_gone_is_no_server(tmp_path: Path) -> None:
    """Another program with both the process id and the port of the record is neither adopted nor stopped."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        left = ServerRecord(os.getpid(), stranger.getsockname()[1], 1)
        (tmp_path / "server.json").write_text(json.dumps(asdict(left)))
        assert running(tmp_path) is None
        async with EmbeddedServer.shared(tmp_path) as server:
            assert server.record.port != left.port
            await connect(TemporalTarget(server.address, embedded=True))


def as_seen_from_another_container(data_dir: Path) -> ServerRecord:
    """Write a record with a process id that this process cannot see, as of a server in another container."""
    with subprocess.Popen(["true"]) as ended:
        pass
    record = ServerRecord(**{**json.loads((data_dir / "server.json").read_text()), "pid": ended.pid})
    (data_dir / "server.json").write_text(json.dumps(asdict(record)))
    return record


async def test_a_server_in_another_container_is_adopted_and_left(tmp_path: Path) -> None:
    """No second server starts on the file, and the last user, which cannot stop it, leaves it to the next."""
    started = user(tmp_path)
    pid = told(started)
    started.kill()
    started.communicate()
    known = json.loads((tmp_path / "server.json").read_text())
    record = as_seen_from_another_container(tmp_path)
    async with EmbeddedServer.shared(tmp_path) as server:
        assert server.record == record
        assert not await server.ensure_alive()
        await connect(TemporalTarget(server.address, embedded=True))
    assert running(tmp_path) == record
    (tmp_path / "server.json").write_text(json.dumps(known))
    async with EmbeddedServer.shared(tmp_path) as server:
        assert server.pid == pid
    assert running(tmp_path) is None


@pytest.mark.parametrize(
    ("recorded", "where"), [(True, r"127\.0\.0\.1:1 does not answer from here"), (False, r"is not in server\.json")]
)
async def test_a_server_out_of_reach_is_said(tmp_path: Path, *, recorded: bool, where: str) -> None:
    """A live server that can neither be called nor stopped ends in one line; no second one is started."""
    if recorded:
        (tmp_path / "server.json").write_text(json.dumps({"pid": 2**22 + 1, "port": 1, "ui_port": 2}))
    with (tmp_path / "server.alive.lock").open("w") as life:
        fcntl.flock(life, fcntl.LOCK_EX)
        with pytest.raises(UnreachableError, match=rf"^an embedded .* its address {where}; stop it where it runs"):
            async with EmbeddedServer.shared(tmp_path):
                pass
    assert not (tmp_path / "temporal.log").exists()
    assert (tmp_path / "server.json").exists() is recorded


async def test_who_looks_does_not_keep_a_server_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that only checks whether a server is alive may hold the server's lock for a moment."""
    sleep = time.sleep
    with (tmp_path / "server.alive.lock").open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)

        def sleep_until_the_look_is_over(seconds: float) -> None:
            fcntl.flock(looking, fcntl.LOCK_UN)
            sleep(seconds)

        monkeypatch.setattr(time, "sleep", sleep_until_the_look_is_over)
        async with EmbeddedServer.shared(tmp_path) as server:
            await connect(TemporalTarget(server.address, embedded=True))


FIRST_TIME = """\
#!/bin/sh
if mkdir "{folder}/tried" 2>/dev/null; then
    {first}
    exit 1
fi
exec "{real}" "$@"
"""
"""A `temporal` that runs another command the first time."""
LISTEN = "import socket, sys; socket.create_server(('127.0.0.1', int(sys.argv[sys.argv.index('--port') + 1]))).accept()"


def first_time(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in place of the first server that is started."""
    program = folder / "temporal"
    program.write_text(FIRST_TIME.format(folder=folder, first=command, real=find_binary()))
    program.chmod(0o700)
    monkeypatch.setattr("amends.sagas.temporal.server.process.find_binary", lambda: str(program))


async def test_a_server_that_ends_at_once_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next server gets other ports, since the first one's may be taken by now."""
    first_time(tmp_path, "true", monkeypatch)
    async with EmbeddedServer.shared(tmp_path) as server:
        await connect(TemporalTarget(server.address, embedded=True))
    assert (tmp_path / "tried").is_dir()


async def test_a_server_that_ends_before_it_is_ready_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user of a server that listened and then ended gets another server in its place."""
    first_time(tmp_path, f'"{sys.executable}" -c "{LISTEN}" "$@"', monkeypatch)
    async with use_embedded(load_settings(project_at(tmp_path))) as temporal:
        assert (await temporal.client.count_workflows()).count == 0
    assert (tmp_path / "tried").is_dir()


def test_a_free_port_is_given_to_nobody_else() -> None:
    """A search for a free port does not find a reserved one, and a server that names that port may listen on it."""
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    socket.create_server(("127.0.0.1", port)).close()


async def test_a_server_that_cannot_be_written_down_is_stopped(tmp_path: Path) -> None:
    """A start that fails half-way ends in one line, and leaves no unrecorded server on the file."""
    in_the_way = tmp_path / "server.json.new"
    in_the_way.mkdir()
    with pytest.raises(UnreachableError, match=r"cannot be used \(Is a directory\); make it writable, or set"):
        async with EmbeddedServer.shared(tmp_path):
            pass
    with (tmp_path / "server.alive.lock").open() as life:
        fcntl.flock(life, fcntl.LOCK_EX | fcntl.LOCK_NB)
    in_the_way.rmdir()
    async with EmbeddedServer.shared(tmp_path) as server:
        await connect(TemporalTarget(server.address, embedded=True))


async def test_a_program_that_cannot_be_run_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that the operating system refuses to execute ends in one line with its path."""
    program = tmp_path / "temporal"
    program.write_text("no program")
    program.chmod(0o700)
    monkeypatch.setattr("amends.sagas.temporal.server.process.find_binary", lambda: str(program))
    with pytest.raises(UnreachableError, match=rf"^the program {program} cannot be run \(Exec format error\); install"):
        async with EmbeddedServer.shared(tmp_path):
            pass


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ("port", r"--port of amends dev, or the setting embedded_port \(AMENDS_EMBEDDED_PORT\)"),
        ("ui_port", r"--ui-port of amends dev, or the setting ui_port \(AMENDS_UI_PORT\)"),
    ],
)
async def test_a_taken_port_is_said(tmp_path: Path, wanted: str, names: str) -> None:
    """A port that another process listens on ends in one line with a remedy that every command has."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UnreachableError, match=rf"^port {port} is taken; name another one with {names}$"):
            async with EmbeddedServer.shared(tmp_path, **{wanted: port}):
                pass


async def test_a_missing_directory_is_said(tmp_path: Path) -> None:
    """A missing data directory ends in one line with the remedy."""
    with pytest.raises(UnreachableError, match=r"cannot be used \(No such file or directory\); make it writable"):
        async with EmbeddedServer.shared(tmp_path / "nowhere"):
            pass


def test_only_one_dev_runs_in_a_directory(tmp_path: Path) -> None:
    """The second dev names the first one's process; after the first has ended there is room."""
    with (
        dev_lock(tmp_path),
        pytest.raises(UnreachableError, match=rf"process {os.getpid()}\) runs in"),
        dev_lock(tmp_path),
    ):
        pass
    with dev_lock(tmp_path):
        pass


async def test_an_address_where_nobody_answers_is_said() -> None:
    """An address without a server ends in one line with the remedy."""
    with pytest.raises(UnreachableError, match=r"^Temporal at 127\.0\.0\.1:1 cannot be reached \(.*\); start it"):
        await connect(TemporalTarget("127.0.0.1:1"))
