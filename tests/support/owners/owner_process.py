"""A worker of pipelines in a process of its own, which tests kill, suspend and end."""

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import forked  # noqa: F401 - sets the modules that a forked process has imported already
import psutil
from bounds import HANG_S

from amends.aggregates.sql.journal import open_journal
from amends.pipelines.temporal.ownership import Ownership
from amends.pipelines.temporal.serving import running_pipelines
from amends.sagas.temporal.connection import TemporalTarget, connect
from owners.counting_work import Ledger, counting

__all__ = ["OwnerProcess", "Owners", "until"]

_CONTEXT = multiprocessing.get_context("forkserver")


class Owners(NamedTuple):
    """The parts that all workers of a test share.

    Attributes:
        folder: Folder of the store and of the ledger.
        address: Address of Temporal.
        queue: Task queue, and name of the pipeline, which no other test on the same Temporal may have.
        partitions: Number of partitions.
        heartbeat_s: As `Ownership.heartbeat`.
        slice_s: As `Ownership.slice`.
    """

    folder: Path
    address: str
    queue: str
    partitions: int = 1
    heartbeat_s: float = 1.5
    slice_s: float = 60.0

    @property
    def ledger(self) -> Ledger:
        """The file with the applied numbers."""
        return Ledger(self.folder / "ledger.db")

    @property
    def names(self) -> list[str]:
        """The names of the partitions."""
        return [str(number) for number in range(self.partitions)]

    @asynccontextmanager
    async def process(self) -> AsyncIterator["OwnerProcess"]:
        """Run a worker in a process of its own, from when it is ready; kill it at the end if it still runs."""
        process = OwnerProcess(self)
        try:
            await until(lambda: "ready" in process.said or process.exit_code is not None)
            assert process.exit_code is None, process.said
            yield process
        finally:
            process.kill()

    async def until_owned(self, partition: str = "0", *, by: "OwnerProcess | None" = None) -> int:
        """Wait until a process commits in a partition, and return its id.

        Args:
            partition: The partition.
            by: The process; `None` for any one.
        """
        start, ledger = time.monotonic(), self.ledger

        def owned() -> bool:
            last = ledger.last(partition)
            return last is not None and last.at > start and (by is None or last.pid == by.pid)

        await until(owned)
        last = ledger.last(partition)
        assert last is not None
        return last.pid


class OwnerProcess:
    """A worker in a process of its own.

    Args:
        owners: The parts that it shares.

    Attributes:
        pid: Its process id.
        said: The lines that it has printed so far.
    """

    def __init__(self, owners: Owners) -> None:
        reader, writer = _CONTEXT.Pipe(duplex=False)
        with reader, writer:
            self._process = _CONTEXT.Process(target=_be_an_owner, args=(owners, writer))
            self._process.start()
            output = os.fdopen(os.dup(reader.fileno()))
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        self.said: list[str] = []

        def listen() -> None:
            with output:
                self.said.extend(line.rstrip() for line in iter(output.readline, ""))

        self._listening = threading.Thread(target=listen, daemon=True)
        self._listening.start()

    @property
    def exit_code(self) -> int | None:
        """The exit status; `None` while it runs."""
        return self._process.exitcode

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process, and read the rest of its output."""
        self._process.kill()
        self._process.join()
        self._listening.join()

    async def ended(self) -> int | None:
        """Wait until the process has ended, and return its exit status."""
        await until(lambda: self.exit_code is not None)
        await asyncio.to_thread(self._listening.join)
        return self.exit_code

    async def suspend(self, ledger: Ledger) -> None:
        """Suspend the process between two commits; in a commit it would hold up all other owners."""
        with ledger.locked():
            self.send(signal.SIGSTOP)
            await until(lambda: psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)


async def until(met: Callable[[], object]) -> None:
    """Wait until a condition is met; only a bound against hangs ends the wait."""
    async with asyncio.timeout(HANG_S):
        while not met():  # noqa: ASYNC110 - other processes change it
            await asyncio.sleep(0.03)


def _be_an_owner(owners: Owners, output: Connection) -> None:
    with output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("amends").setLevel(logging.INFO)
    asyncio.run(_work(owners))


async def _work(owners: Owners) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    journal = open_journal(f"sqlite:///{owners.folder / 'store.db'}")
    client = await connect(TemporalTarget(owners.address))
    async with running_pipelines(
        client,
        journal,
        [counting(owners.queue, owners.ledger, owners.names)],
        task_queue=owners.queue,
        ownership=Ownership(
            slice=timedelta(seconds=owners.slice_s),
            heartbeat=timedelta(seconds=owners.heartbeat_s),
            retry=timedelta(milliseconds=200),
            discover=timedelta(seconds=2),
        ),
    ):
        print("ready")  # noqa: T201 - the test waits for it
        await stop.wait()
    await journal.close()
    print("ended")  # noqa: T201 - as above
