"""Sagas whose functions hang, answer late or end in every possible way, and both drivers for them."""

import asyncio
import subprocess
import sys
import threading
import time
from asyncio.subprocess import Process
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import temporalio.client
from bounds import HANG
from hard_parts import opened
from pydantic import BaseModel

from amends import Attempted, Call, Rejected, Retry, Runner, RunResult, Saga, UnitOfWork, effect, transaction
from amends.aggregates.run.facts import Fact
from amends.aggregates.sql.journal import SqlJournal
from amends.sagas.definition.registry import Registry
from amends.sagas.definition.steps import Effect
from amends.sagas.temporal.client import Client
from amends.sagas.temporal.worker import running_worker

__all__ = [
    "ASKING",
    "BLOCKING",
    "CALLED",
    "GATES",
    "LATE_PROBE",
    "LATE_UNDO",
    "ON_LOOP",
    "OUTLIVING",
    "PATIENT",
    "SAGAS",
    "SHORT_SAGA",
    "SWIFT",
    "Driven",
    "Job",
    "by_runner",
    "by_worker",
    "ending",
    "process",
]

GATES: defaultdict[str, threading.Event] = defaultdict(threading.Event)
"""Events with which a test releases a delayed call, by name of the gate."""

CALLED: Counter[str] = Counter()
"""The number of calls under each key."""

ONCE = Retry(max_attempts=1)
SHORT = timedelta(milliseconds=100)


class Job(BaseModel):
    """The input of a run.

    Attributes:
        gate: The gate at which delayed calls wait.
    """

    gate: str = ""


def enter(job: Job, call: Call) -> None:
    """Count a call, and wait at its gate."""
    CALLED[call.key] += 1
    GATES[job.gate].wait()


@effect(timeout=HANG, retry=ONCE)
def wait_long(job: Job, call: Call) -> str:
    """Wait at the gate, within the timeout."""
    enter(job, call)
    return "waited"


@wait_long.compensation
def forget_long(_: Attempted[Job, str], __: Call) -> None:
    """Do nothing."""


@effect(timeout=SHORT, retry=ONCE)
def wait_short(job: Job, call: Call) -> str:
    """Wait at the gate, for longer than the timeout."""
    enter(job, call)
    return "late"


@wait_short.compensation
def forget_short(_: Attempted[Job, str], call: Call) -> None:
    """Count the undo."""
    CALLED[call.key] += 1


@effect(timeout=SHORT, retry=ONCE)
async def outlive(job: Job, call: Call) -> str:
    """Ignore the cancellation until the gate opens."""
    CALLED[call.key] += 1
    waiting = asyncio.create_task(asyncio.to_thread(GATES[job.gate].wait))
    while not waiting.done():
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            continue
    return "late"


@outlive.compensation
async def forget_outlived(_: Attempted[Job, str], call: Call) -> None:
    """Count the undo."""
    CALLED[call.key] += 1


@effect(timeout=HANG, retry=ONCE)
def quick(_: Job, call: Call) -> str:
    """Answer at once."""
    CALLED[call.key] += 1
    return "quick"


@quick.compensation
def forget_quick(_: Attempted[Job, str], __: Call) -> None:
    """Do nothing."""


@effect(retry=ONCE)
async def charge(_: Job, call: Call) -> str:
    """Answer at once."""
    CALLED[call.key] += 1
    return "charged"


@charge.compensation(timeout=SHORT, retry=ONCE)
def refund(tried: Attempted[Job, str], call: Call) -> None:
    """Wait at the gate, for longer than the timeout of the undo."""
    enter(tried.input, call)


@transaction(read_only=True)
def refuse(_: Job, __: UnitOfWork) -> None:
    """Turn the run round."""
    raise Rejected("no")


@effect(timeout=SHORT, retry=ONCE)
async def lose(_: Job, call: Call) -> str:
    """Act, and lose the answer."""
    CALLED[call.key] += 1
    raise TimeoutError


@lose.probe
def find(job: Job, call: Call) -> str | None:
    """Wait at the gate, for longer than the timeout of the probe."""
    enter(job, call)
    return "found"


@lose.compensation
async def forget_lost(_: Attempted[Job, str], call: Call) -> None:
    """Count the undo."""
    CALLED[call.key] += 1


PATIENT = Saga("threads-patient", Job, wait_long)
SHORT_SAGA = Saga("threads-short", Job, wait_short)
OUTLIVING = Saga("threads-outliving", Job, outlive)
SWIFT = Saga("threads-swift", Job, quick)
LATE_UNDO = Saga("threads-late-undo", Job, charge, refuse)
LATE_PROBE = Saga("threads-late-probe", Job, lose)
SAGAS = (PATIENT, SHORT_SAGA, OUTLIVING, SWIFT, LATE_UNDO, LATE_PROBE)


def ending(name: str, make: Callable[[], BaseException], *, blocking: bool) -> Saga[Job]:
    """Create a saga whose only step ends by raising an error."""

    def fail(_: Job, __: Call) -> str:
        raise make()

    async def fail_on_loop(_: Job, __: Call) -> str:
        raise make()

    function: Any = fail if blocking else fail_on_loop
    step: Effect[Job, str] = effect(name=name, retry=ONCE)(function)

    @step.compensation
    def undo(_: Attempted[Job, object], __: Call) -> None:
        """Do nothing."""

    return Saga(name, Job, step)


class Driven:
    """A way to drive runs.

    Args:
        journal: The store.
        run: Starts a run and waits until it has ended.
    """

    def __init__(self, journal: SqlJournal, run: Callable[[Saga[Job], Job, str], "asyncio.Task[RunResult]"]) -> None:
        self.journal = journal
        self.run = run

    async def until(self, run_id: str, met: Callable[[list[Fact]], bool]) -> list[Fact]:
        """Wait until a run's facts meet a condition."""
        while not met(facts := await self.journal.facts(run_id)):  # noqa: ASYNC110 - another task writes them
            await asyncio.sleep(0.02)
        return facts


@asynccontextmanager
async def by_runner(url: str, sagas: tuple[Saga[Job], ...] = SAGAS, *, threads: int = 100) -> AsyncIterator[Driven]:
    """Drive runs in this process, without Temporal."""
    async with opened(url) as journal:
        runner = Runner(journal, Registry(sagas), threads=threads)
        async with runner:
            yield Driven(journal, lambda saga, job, run_id: asyncio.create_task(runner.run(saga, job, id=run_id)))


@asynccontextmanager
async def by_worker(
    url: str, address: str, sagas: tuple[Saga[Job], ...] = SAGAS, *, threads: int = 100, at_once: int = 100
) -> AsyncIterator[Driven]:
    """Drive runs with a worker in this process."""
    temporal = await temporalio.client.Client.connect(address)
    async with opened(url) as journal:
        registry, queue = Registry(sagas), f"threads-{journal.store_id}"
        client = Client(journal, temporal, registry, task_queue=queue)

        async def run(saga: Saga[Job], job: Job, run_id: str) -> RunResult:
            return await (await client.start(saga, job, id=run_id)).result()

        async with running_worker(temporal, journal, registry, task_queue=queue, at_once=at_once, threads=threads):
            yield Driven(journal, lambda saga, job, run_id: asyncio.create_task(run(saga, job, run_id)))


@effect(timeout=timedelta(minutes=1), retry=ONCE)
async def block(job: Job, call: Call) -> str:
    """Block the event loop for longer than Temporal waits for a heartbeat."""
    Path(job.gate).write_text(call.key)  # noqa: ASYNC240 - as blocking as the rest
    time.sleep(BLOCKED_S)  # noqa: ASYNC251 - the fault that is tested
    return "blocked"


@block.compensation
async def unblock(_: Attempted[Job, str], __: Call) -> None:
    """Do nothing."""


@effect(timeout=HANG, retry=ONCE)
async def wait_on_loop(job: Job, call: Call) -> str:
    """Wait at the gate, and block the event loop meanwhile."""
    enter(job, call)
    return "waited"


@wait_on_loop.compensation
async def forget_on_loop(_: Attempted[Job, str], __: Call) -> None:
    """Do nothing."""


class Question(BaseModel):
    """The input of a run that asks a participant.

    Attributes:
        port: The participant's port.
    """

    port: int


@effect(timeout=timedelta(seconds=1), retry=ONCE)
async def ask(question: Question, call: Call) -> str:
    """Ask the participant, and wait for its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", question.port)
    writer.write(f"{call.key}\n".encode())
    answer = await reader.readline()
    for _ in range(5):  # as the layers of an HTTP client do
        await asyncio.sleep(0)
    writer.close()
    return answer.decode().strip()


@ask.compensation
async def take_back(_: Attempted[Question, str], __: Call) -> None:
    """Do nothing."""


BLOCKING = Saga("threads-blocking", Job, block)
BLOCKED_S = 14
ON_LOOP = Saga("threads-on-loop", Job, wait_on_loop)
ASKING = Saga("threads-asking", Question, ask)


@asynccontextmanager
async def process(function: str, *arguments: str) -> AsyncIterator[Process]:
    """Run one of the functions below in a separate process, and end the process when the context ends."""
    program = f"import asyncio, sys, thread_parts; asyncio.run(thread_parts.{function}(*sys.argv[1:]))"
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *arguments),
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


async def ask_once(url: str, port: str) -> None:
    """Run a saga that asks a participant, and print how it ended."""
    async with opened(url) as journal, Runner(journal, Registry([ASKING])) as runner:
        result = await runner.run(ASKING, Question(port=int(port)), id="asked")
        print(result.status.value)  # noqa: T201 - what the test reads


async def serve_blocking(url: str, address: str, queue: str) -> None:
    """Serve the saga that blocks the event loop, until the input ends."""
    temporal = await temporalio.client.Client.connect(address)
    async with (
        opened(url) as journal,
        running_worker(temporal, journal, Registry([BLOCKING]), task_queue=queue),
    ):
        print("ready", flush=True)  # noqa: T201 - what the test waits for
        await asyncio.to_thread(sys.stdin.read)
