"""PgBouncer in transaction mode in front of a real PostgreSQL server, and a process that drives runs through it.

Run as a program, this file is that process: `pooler_parts.py URL NAME COUNT`.
"""

import asyncio
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from eventsourcing.domain import event
from outage_parts import own_server

from amends import Aggregate, Attempted, Call, Done, Rejected, Runner, Saga, UnitOfWork, effect, transaction
from amends.aggregates.errors import UnreachableError
from amends.sagas.temporal.server.ports import free_port

__all__ = ["SAGA", "Counter", "Pooled", "drive", "pgbouncer", "pooled"]

SESSIONS = 3
"""Sessions with the server that all clients share; fewer than any process opens, so that they change hands."""

_CONFIG = """\
[databases]
shop = host=127.0.0.1 port={server_port} dbname=shop
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {sessions}
server_login_retry = 0.1
logfile = {folder}/log
{more}
"""


class Counter(Aggregate):
    """The number of runs."""

    @event("Made")
    def __init__(self, id: str) -> None:  # noqa: A002, ARG002 - the word that aggregates use
        self.count = 0

    @event("Counted")
    def add(self) -> None:
        """Add one."""
        self.count += 1

    @event("Uncounted")
    def subtract(self) -> None:
        """Subtract one."""
        self.count -= 1


@transaction
def count(_: int, uow: UnitOfWork) -> int:
    """Count the run."""
    counter = uow.find(Counter, "runs") or uow.add(Counter("runs"))
    counter.add()
    return counter.count


@count.compensation
def uncount(_: Done[int, int], uow: UnitOfWork) -> None:
    """Uncount the run."""
    uow.get(Counter, "runs").subtract()


@effect
async def tell(number: int, _: Call) -> str:
    """Notify the participant, which refuses every tenth run."""
    await asyncio.sleep(0)
    if number % 10 == 0:
        raise Rejected("no")
    return "told"


@tell.compensation
async def untell(_: Attempted[int, str], __: Call) -> None:
    """Do nothing: no run undoes this step."""


SAGA = Saga("pooled", int, count, tell)


class Pooled:
    """A database behind PgBouncer.

    Attributes:
        url: The URL through the pooler.
        direct: The URL of the server itself, for the database's owner.
    """

    def __init__(self, url: str, direct: str) -> None:
        self.url = url
        self.direct = direct

    def end_sessions(self) -> int:
        """End all connections of the pooler to the server, as a restart of the server does; return their number."""
        with psycopg.connect(self.direct, autocommit=True) as connection:
            ended = connection.execute(
                "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity "
                "WHERE datname = 'shop' AND pid <> pg_backend_pid()"
            ).fetchone()
        assert ended is not None
        return int(ended[0])


def pgbouncer() -> str | None:
    """Find the program; Debian installs it in a folder that is only on the path of administrators."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


@contextmanager
def pooled(executable: str, more: str = "") -> Iterator[Pooled]:
    """Run PostgreSQL, and PgBouncer in transaction mode in front of it.

    Args:
        executable: The program `pgbouncer`.
        more: More lines of its configuration.
    """
    with own_server() as server, tempfile.TemporaryDirectory(prefix="amends-pool-") as name:
        with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as admin:
            admin.execute("CREATE ROLE app LOGIN PASSWORD 'right' SUPERUSER")
            admin.execute("CREATE DATABASE shop OWNER app")
        server_port, port, folder = free_port(), free_port(), Path(name)
        server.ask_for_passwords(server_port)
        (folder / "users").write_text('"app" "right"\n')
        (folder / "config").write_text(
            _CONFIG.format(server_port=server_port, port=port, folder=folder, sessions=SESSIONS, more=more)
        )
        command = [executable, str(folder / "config")]
        if os.geteuid() == 0:  # PgBouncer refuses to run as root
            nobody = pwd.getpwnam("nobody")
            for path in (folder, *folder.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            command[1:1] = ["-u", "nobody"]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        found = Pooled(
            f"postgresql+psycopg://app:right@127.0.0.1:{port}/shop",
            f"postgresql://app:right@127.0.0.1:{server_port}/shop",
        )
        try:
            _wait(found, process, folder / "log")
            yield found
        finally:
            process.terminate()
            process.wait()


def _wait(pooled: Pooled, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the pooler answers; only the test's own bound ends the wait."""
    while True:
        assert process.poll() is None, f"PgBouncer ended: {log.read_text() if log.exists() else 'without a log'}"
        with suppress(psycopg.OperationalError), psycopg.connect(pooled.url.replace("+psycopg", ""), connect_timeout=2):
            return


async def drive(url: str, name: str, total: int) -> list[str]:
    """Drive runs to their end with two runners, each with a journal of its own; return the statuses."""
    async with Runner.open([SAGA], store_url=url) as one, Runner.open([SAGA], store_url=url) as two:

        async def run(number: int) -> str:
            while True:
                # A runner that cannot reach the store raises; the next call with the same id continues the same run.
                with suppress(UnreachableError):
                    return (await (one, two)[number % 2].run(SAGA, number, id=f"{name}-{number}")).status.value

        return [
            status for part in range(0, total, 10) for status in await asyncio.gather(*map(run, range(part, part + 10)))
        ]


if __name__ == "__main__":
    print(*asyncio.run(drive(sys.argv[1], sys.argv[2], int(sys.argv[3]))))  # noqa: T201 - the answer
