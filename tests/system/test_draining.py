"""Workers that are replaced one after the other: no call is repeated, by the participants' own records."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from commands import Started, shop_at

from amends.aggregates.sql.journal import open_journal

MODULE = """
import asyncio
import os
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from amends import Call, Saga, effect

TRACE = Path("trace")
SECONDS = float(os.environ["CALL_S"])


class Order(BaseModel):
    number: int


def write(line: str) -> None:
    with TRACE.open("a") as file:
        file.write(line + "\\n")


@effect(read_only=True, timeout=timedelta(minutes=3))
async def first(order: Order, call: Call) -> None:
    write(f"call {call.key}")
    await asyncio.sleep(SECONDS)
    while not Path("gate").exists():
        await asyncio.sleep(0.05)
    write(f"done {call.key}")


@effect(read_only=True, timeout=timedelta(minutes=3))
async def second(order: Order, call: Call) -> None:
    write(f"call {call.key}")
    await asyncio.sleep(SECONDS)
    write(f"done {call.key}")


deliver = Saga("deliver", Order, first, second)
"""


class Rolling:
    """A project whose workers a test replaces, and the records of their calls.

    Args:
        folder: The project's folder.
        temporal: Address of Temporal.
        call_s: Duration of a call, in seconds.
        at_once: Number of calls that one worker makes at the same time.
    """

    def __init__(self, folder: Path, temporal: str, call_s: float, at_once: int) -> None:
        self.project = shop_at(
            folder / "shop",
            MODULE,
            {
                "TEMPORAL_ADDRESS": temporal,
                "AMENDS_TASK_QUEUE": f"rolling-{folder.name}",
                "AMENDS_WORKER_CONCURRENCY": str(at_once),
                "CALL_S": str(call_s),
            },
        )
        self.running = ExitStack()

    def workers(self, count: int) -> list[Started]:
        """Start workers, and return when all of them are ready."""
        started = [self.running.enter_context(self.project.started("worker")) for _ in range(count)]
        for worker in started:
            worker.read_until("Ready")
        return started

    def start(self, runs: int) -> None:
        """Start a number of runs without waiting for their end."""
        lines = "".join(json.dumps({"number": number}) + "\n" for number in range(runs))
        self.project.write("orders.jsonl", lines)
        assert self.project.run("run", "deliver", "@orders.jsonl", "--detach").code == 0

    def lines(self, word: str) -> list[str]:
        """Read the keys of the calls that began, or that ended."""
        trace = self.project.path / "trace"
        found = trace.read_text().splitlines() if trace.exists() else []
        return [line.removeprefix(f"{word} ") for line in found if line.startswith(f"{word} ")]

    def open_gate(self) -> None:
        """Let the first calls end."""
        (self.project.path / "gate").touch()

    def wait_until(self, met: Callable[[], bool]) -> None:
        """Wait until a condition is met; only the test's own bound ends the wait."""
        while not met():
            time.sleep(0.1)

    def judge(self, runs: int) -> None:
        """Check that every run has ended, with one call for each step, and that no attempt was lost."""
        self.wait_until(lambda: not self.project.open_runs())
        calls = Counter(self.lines("call"))
        assert {key: count for key, count in calls.items() if count > 1} == {}
        assert len(calls) == 2 * runs
        assert sorted(calls) == sorted(self.lines("done"))
        journal = open_journal(self.project.store_url)
        try:
            kinds = Counter(fact.kind for key in calls for fact in journal.facts_blocking(key.partition("/")[0]))
        finally:
            journal.close_blocking()
        assert set(kinds) == {"SagaStarted", "StepStarted", "StepSucceeded", "SagaCompleted"}


def test_a_worker_in_drain_finishes_its_calls_and_gives_back_the_others(tmp_path: Path, temporal_address: str) -> None:
    """Every call happens once when two workers are replaced under 20 runs whose calls outlast five seconds."""
    rolling = Rolling(tmp_path, temporal_address, call_s=1.0, at_once=6)
    with rolling.running:
        workers = rolling.workers(2)
        rolling.start(20)
        # One step may not take every seat of a worker: one of the six stays free.
        rolling.wait_until(lambda: len(rolling.lines("call")) == 10)
        for old in workers:
            old.process.send_signal(signal.SIGTERM)
        for old in workers:
            # The first report comes after five seconds; then other workers take the calls that these hand over.
            assert "5 calls: first of run" in old.read_until("waiting up to")
        rolling.workers(2)
        rolling.open_gate()
        for old in workers:
            old.read_until("Stopped.")
            assert old.process.wait() == 0
        rolling.judge(20)


@pytest.mark.soak
def test_a_rolling_restart_under_load_repeats_no_call(tmp_path: Path, temporal_address: str) -> None:
    """Every call happens once when two workers are replaced in turn under 200 runs with calls of 8 s."""
    rolling = Rolling(tmp_path, temporal_address, call_s=8.0, at_once=40)
    rolling.open_gate()
    with rolling.running:
        workers = rolling.workers(2)
        rolling.start(200)
        for number, old in enumerate(workers):
            ended = len(rolling.lines("done"))
            rolling.wait_until(lambda ended=ended: len(rolling.lines("done")) > ended + 20)  # type: ignore[misc]
            old.process.send_signal(signal.SIGTERM)
            rolling.workers(1)
            old.read_until("Stopped.")
            assert old.process.wait() == 0, f"worker {number}"
        rolling.judge(200)
