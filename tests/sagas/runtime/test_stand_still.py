"""A process that was stopped, and an event loop that a call keeps busy."""

import asyncio
import logging
import signal
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
import temporalio.client
from hard_parts import opened
from thread_parts import BLOCKING, GATES, ON_LOOP, SWIFT, Job, by_runner, by_worker, process

from amends import RunStatus
from amends.aggregates.run.facts import FactKind
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.decide import decide
from amends.sagas.temporal.client import Client
from amends.sagas.temporal.worker import running_worker


async def test_an_answer_that_waits_for_a_stopped_process_is_in_time(sqlite_url: str) -> None:
    """A process suspended beyond a timeout reads the answers that have arrived before it counts the timeout."""
    asked: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await asked.put(writer)

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        port = str(server.sockets[0].getsockname()[1])
        async with process("ask_once", sqlite_url, port) as asking:
            writer = await asked.get()
            asking.send_signal(signal.SIGSTOP)
            writer.write(b"done\n")
            await writer.drain()
            await asyncio.sleep(2.5)  # the timeout of 1 s is over by then, and that is the point
            asking.send_signal(signal.SIGCONT)
            assert asking.stdout is not None
            assert (await asking.stdout.readline()).strip() == b"COMPLETED"
            writer.close()
    async with opened(sqlite_url) as journal:
        assert Counter(fact.kind for fact in await journal.facts("asked"))[FactKind.STEP_ATTEMPT_FAILED] == 0


async def test_blocking_code_on_the_event_loop_is_named(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log names step, run, file and line of the code that keeps the loop busy, while it does so and afterwards."""
    gate = GATES["loop"]

    def open_when_named() -> None:
        while not any("has been blocked" in record.getMessage() for record in caplog.records):
            time.sleep(0.02)
        gate.set()

    with caplog.at_level(logging.WARNING, "amends.worker"):
        opener = threading.Thread(target=open_when_named, daemon=True)
        opener.start()
        async with by_runner(sqlite_url, (ON_LOOP,)) as driven:
            assert (await driven.run(ON_LOOP, Job(gate="loop"), "busy")).status is RunStatus.COMPLETED
            while not any("was blocked" in record.getMessage() for record in caplog.records):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        opener.join()
    named = [record.getMessage() for record in caplog.records if "was blocked" in record.getMessage()]
    assert "step wait_on_loop of run busy" in named[0]
    assert "thread_parts.py:" in named[0]


@pytest.mark.soak
@pytest.mark.timeout(120)
async def test_a_worker_whose_loop_is_busy_is_not_lost(sqlite_url: str, temporal_address: str, tmp_path: Path) -> None:
    """Heartbeats continue while a call keeps the event loop busy, so another worker does not take the call over."""
    temporal = await temporalio.client.Client.connect(temporal_address)
    begun = tmp_path / "begun"
    async with opened(sqlite_url) as journal:
        registry, queue = Registry([BLOCKING]), f"busy-{journal.store_id}"
        run_id = f"busy-{journal.store_id}"
        client = Client(journal, temporal, registry, task_queue=queue)
        async with process("serve_blocking", sqlite_url, temporal_address, queue) as busy:
            assert busy.stdout is not None
            assert (await busy.stdout.readline()).strip() == b"ready"
            handle = await client.start(BLOCKING, Job(gate=str(begun)), id=run_id)
            while not begun.exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.02)
            async with running_worker(temporal, journal, registry, task_queue=queue):
                assert (await handle.result(timeout=timedelta(seconds=80))).status is RunStatus.COMPLETED
        kinds = Counter(fact.kind for fact in await journal.facts(run_id))
    assert (kinds[FactKind.STEP_STARTED], kinds[FactKind.STEP_ATTEMPT_FAILED]) == (1, 0)


async def test_a_slow_workflow_task_is_not_interrupted(
    sqlite_url: str, temporal_address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Temporal's detection of deadlocks is off, so a workflow task may take 3 s on a slow machine."""
    slow = [3.0]

    def decide_slowly(*arguments: object) -> object:
        if slow:
            time.sleep(slow.pop())
        return decide(*arguments)  # type: ignore[arg-type] # as it is given

    monkeypatch.setattr("amends.sagas.temporal.workflow.decide", decide_slowly)
    async with by_worker(sqlite_url, temporal_address, (SWIFT,)) as driven:
        run_id = f"slow-{driven.journal.store_id}"
        assert (await driven.run(SWIFT, Job(), run_id)).status is RunStatus.COMPLETED
    assert not slow
    assert not [record for record in caplog.records if "eadlock" in record.getMessage() + str(record.exc_info)]
