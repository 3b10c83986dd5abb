"""The public worker serves sagas in a process of somebody else, and ends as `amends worker` does."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from journal_parts import prepare
from pydantic import BaseModel
from runs.greetings import greeting_project

from amends import (
    AmendsError,
    Call,
    Client,
    DefinitionError,
    InputError,
    RunStatus,
    Saga,
    UnreachableError,
    Worker,
    effect,
)
from amends.aggregates.run.facts import StepSucceeded
from amends.sagas.runtime.deadline import REST


class Order(BaseModel):
    """The input of the saga."""


class Gate:
    """A gate at which the step waits."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()


GATES: list[Gate] = []


@effect(read_only=True, timeout=timedelta(seconds=60))
async def wait_at_gate(_: Order, __: Call) -> str:
    """Wait until the test opens the gate."""
    GATES[-1].reached.set()
    await GATES[-1].open.wait()
    return "through"


GATED = Saga("gated", Order, wait_at_gate)


@pytest.fixture
def upgraded_url(store_url: str) -> str:
    """Return the URL of a store that is ready for use."""
    return prepare(store_url)


@pytest.fixture
def queue() -> str:
    """Return a task queue that no other test uses."""
    return f"own-{uuid4().hex}"


@pytest.fixture
async def gate() -> Gate:
    """Return the gate at which the step waits, closed."""
    GATES.append(Gate())
    return GATES[-1]


@asynccontextmanager
async def clients(store_url: str, address: str, queue: str) -> AsyncIterator[Client]:
    """Yield a client for the saga."""
    client = await Client.connect([GATED], store_url=store_url, temporal=address, task_queue=queue)
    async with client:
        yield client


async def test_a_worker_serves_until_it_is_stopped(
    upgraded_url: str, temporal_address: str, queue: str, gate: Gate
) -> None:
    """Runs come to their end while the context lasts; `run` returns after `stop`; handlers of signals stay."""
    gate.open.set()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    worker = Worker([GATED], store_url=upgraded_url, temporal=temporal_address, task_queue=queue)
    async with worker, clients(upgraded_url, temporal_address, queue) as client:
        waiting = asyncio.create_task(worker.run())
        handle = await client.start(GATED, Order())
        assert (await handle.result()).status is RunStatus.COMPLETED
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
        assert not waiting.done()
        worker.stop()
        await waiting
    with pytest.raises(RuntimeError, match="starts only once"):
        await worker.__aenter__()


async def test_calls_in_flight_end_within_the_drain(
    upgraded_url: str, temporal_address: str, queue: str, gate: Gate
) -> None:
    """A call that is under way when the context ends keeps its outcome, and is not made again."""
    async with clients(upgraded_url, temporal_address, queue) as client:
        async with Worker([GATED], store_url=upgraded_url, temporal=temporal_address, task_queue=queue) as worker:
            handle = await client.start(GATED, Order())
            await gate.reached.wait()
            worker.stop()
            gate.open.set()
        outcomes = [fact for fact in await handle.history() if isinstance(fact, StepSucceeded)]
        assert [(fact.attempt, fact.result) for fact in outcomes] == [(1, "through")]


async def test_only_a_second_stop_ends_the_drain(
    sqlite_url: str, temporal_address: str, queue: str, gate: Gate
) -> None:
    """One `stop` leaves the drain to the calls in flight; a second one ends it."""
    gate.open.set()
    async with Worker([GATED], store_url=sqlite_url, temporal=temporal_address, task_queue=queue) as worker:
        assert worker._stop is not None
        deadline = worker._stop.deadline
        worker.stop()
        assert deadline.left_s() > REST.total_seconds()
        worker.stop()
        assert deadline.left_s() <= REST.total_seconds()


async def test_a_call_that_does_not_end_is_left_behind(
    sqlite_url: str, temporal_address: str, queue: str, gate: Gate
) -> None:
    """Without a drain the context ends although a call hangs, and another worker finishes the run."""
    async with clients(sqlite_url, temporal_address, queue) as client:
        parts = {"store_url": sqlite_url, "temporal": temporal_address, "task_queue": queue}
        async with Worker([GATED], drain=timedelta(0), **parts):  # type: ignore[arg-type]  # the values fit
            handle = await client.start(GATED, Order())
            await gate.reached.wait()
        assert (await handle.status()).status is RunStatus.RUNNING
        gate.open.set()
        async with Worker([GATED], **parts):  # type: ignore[arg-type]  # as above
            assert (await handle.result()).status is RunStatus.COMPLETED


async def test_a_worker_that_cannot_start_says_so(sqlite_url: str, temporal_address: str) -> None:
    """An unreachable part ends the start in one line, and no task stays behind."""
    before = asyncio.all_tasks()
    with pytest.raises(UnreachableError, match="start it, or correct the address"):
        await Worker([GATED], store_url=sqlite_url, temporal="127.0.0.1:1").__aenter__()
    with pytest.raises(AmendsError):
        await Worker([GATED], store_url="sqlite:////nowhere/at/all.db", temporal=temporal_address).__aenter__()
    assert asyncio.all_tasks() == before
    with pytest.raises(RuntimeError, match="has not started"):
        await Worker([GATED], store_url=sqlite_url).run()


def test_wrong_parts_are_refused(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value is named before anything starts, and the environment does not replace an argument."""
    monkeypatch.setenv("AMENDS_WORKER_CONCURRENCY", "7")
    with pytest.raises(InputError, match=r"^settings: worker_concurrency = 0 is refused"):
        Worker([GATED], store_url=sqlite_url, concurrency=0)
    with pytest.raises(InputError, match="store_url = 'nowhere' is refused"):
        Worker([GATED], store_url="nowhere")
    with pytest.raises(DefinitionError, match="used twice"):
        Worker([GATED, Saga("gated", Order, wait_at_gate)], store_url=sqlite_url)


async def test_a_worker_of_a_project_serves_all_its_sagas(
    tmp_path: Path, temporal_address: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Worker.from_project` takes modules, store and queue from the settings; without a Temporal it says so."""
    with greeting_project(tmp_path / "shop", monkeypatch, f'task_queue = "{queue}"\n') as project:
        with pytest.raises(UnreachableError, match="no embedded server runs"):
            Worker.from_project(project.path)
        monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_address)
        async with Worker.from_project(project.path), await Client.from_project(project=project.path) as client:
            greetings = sys.modules["greetings"]
            handle = await client.start(greetings.greeting, greetings.Order(name="Ada"))
            assert (await handle.result()).result_of(greetings.greet) == "hello Ada"
