"""Workers in separate processes, and the check of all runs after an outage."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import outage_parts
from outage_parts import OUTAGE, Order, Shelf, Trace

from amends.aggregates.run.facts import CompensationStarted, StepStarted
from amends.aggregates.sql.journal import SqlJournal
from amends.sagas.temporal.client import Client, RunHandle

PARTS = Path(outage_parts.__file__)
FAILED = {"StepAttemptFailed", "CompensationAttemptFailed", "StepInDoubt", "CompensationExhausted"}


class Worker(NamedTuple):
    """A worker in a separate process.

    Attributes:
        process: The process.
        said: The lines that it has printed so far.
    """

    process: asyncio.subprocess.Process
    said: list[str]


@asynccontextmanager
async def worker_process(url: str, address: str, queue: str, pause_after_s: float = 60) -> AsyncIterator[Worker]:
    """Run a worker in a separate process, from when it is ready until it has ended cleanly."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, PARTS, "worker", url, address, queue, str(pause_after_s)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said: list[str] = []

    async def listen() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            said.append(line.decode().rstrip())

    listening = asyncio.create_task(listen())
    try:
        await until_said(said, "ready")
        yield Worker(process, said)
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
        await listening
        assert process.returncode == 0, said
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until_said(said: list[str], text: str) -> None:
    """Wait until a process has printed a text; only the test's own bound ends the wait."""
    while not any(text in line for line in said):
        assert not any(line.startswith("Traceback") for line in said), said
        await asyncio.sleep(0.05)


async def start(client: Client, queue: str, trace: Path, count: int, gated: int) -> list[RunHandle[Order]]:
    """Start runs, one in five of which is refused at its end."""
    orders = [Order(trace=str(trace), gate=n < gated, refused=n % 5 == 0) for n in range(count)]
    return await asyncio.gather(
        *(client.start(OUTAGE, order, id=f"{queue}-{number}") for number, order in enumerate(orders))
    )


async def check(journal: SqlJournal, trace: Trace, run_ids: Sequence[str], among: int) -> None:
    """Check that every run has ended as its order demands, no attempt was used up, and nothing was lost or doubled.

    Args:
        journal: The store.
        trace: The calls and answers that the participants saw.
        run_ids: The runs, in the order of their numbers.
        among: The size of each group of numbered runs.
    """
    keys: list[str] = []
    completed = 0
    for number, run_id in enumerate(run_ids):
        facts = await journal.facts(run_id)
        expected = "SagaCompleted" if number % among % 5 else "SagaCompensated"
        completed += expected == "SagaCompleted"
        failed = [fact for fact in facts if fact.kind in FAILED]
        assert (run_id, facts[-1].kind, failed) == (run_id, expected, [])
        assert [fact.position for fact in facts] == list(range(1, len(facts) + 1))
        keys += [fact.key for fact in facts if isinstance(fact, StepStarted | CompensationStarted)]
    assert trace.calls() == dict.fromkeys(keys, 1)
    shelf = await journal.load(Shelf, "shelf")
    assert shelf is not None
    assert shelf.held == completed
