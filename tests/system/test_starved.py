"""Many parallel calls: the size of their reports to Temporal, and their end on a starved machine."""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest
import temporalio.client
from temporalio.client import WorkflowHistory
from thread_parts import ONCE, Job, by_worker

from amends import Attempted, Call, RunStatus, Saga, effect, parallel
from amends.aggregates.run.facts import FactKind

LOAD = 20
COUNT = 200
CALLED: Counter[str] = Counter()


@effect(retry=ONCE, timeout=timedelta(minutes=5))
async def answer(_: Job, call: Call) -> str:
    """Answer after a moment."""
    CALLED[call.key] += 1
    await asyncio.sleep(0.1)
    return "answered"


@answer.compensation
async def forget_answer(_: Attempted[Job, str], __: Call) -> None:
    """Do nothing."""


def same(job: Job) -> Job:
    """Return the same input for every call."""
    return job


def wide(count: int) -> Saga[Job]:
    """Return a saga with a number of parallel calls."""
    calls = (answer.using(same, name=f"answer-{number}") for number in range(count))
    return Saga(f"wide-{count}", Job, parallel(*calls))


WIDE = wide(COUNT)


@pytest.fixture
def load() -> Iterator[None]:
    """Keep the processors busy with processes that end with the test."""
    program = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    busy = [subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.DEVNULL) for _ in range(LOAD)]
    yield
    for process in busy:
        process.kill()
    for process in busy:
        process.wait()


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("load")
async def test_a_wide_saga_ends_on_a_starved_machine(sqlite_url: str, temporal_address: str) -> None:
    """A run of 200 parallel calls ends under a load of 20, and every call happens once."""
    async with by_worker(sqlite_url, temporal_address, (WIDE,)) as driven:
        run_id = f"wide-{driven.journal.store_id}"
        assert (await driven.run(WIDE, Job(), run_id)).status is RunStatus.COMPLETED
        kinds = Counter(fact.kind for fact in await driven.journal.facts(run_id))
    assert (kinds[FactKind.STEP_STARTED], kinds[FactKind.STEP_ATTEMPT_FAILED]) == (COUNT, 0)
    assert set(CALLED.values()) == {1}


def told_in(history: WorkflowHistory) -> int:
    """Return the number of bytes that a workflow received from its activities."""
    payloads = [
        payload
        for event in history.events
        for payload in (
            *event.activity_task_completed_event_attributes.result.payloads,
            *event.marker_recorded_event_attributes.details["result"].payloads,
        )
    ]
    return sum(len(payload.data) for payload in payloads)


async def test_calls_side_by_side_tell_temporal_in_proportion_to_their_number(
    sqlite_url: str, temporal_address: str
) -> None:
    """Twice as many parallel calls send the workflow about twice as many bytes, not four times as many."""
    sagas = {count: wide(count) for count in (30, 60)}
    temporal = await temporalio.client.Client.connect(temporal_address)
    told: dict[int, int] = {}
    async with by_worker(sqlite_url, temporal_address, tuple(sagas.values())) as driven:
        for count, saga in sagas.items():
            run_id = f"{saga.name}-{driven.journal.store_id}"
            assert (await driven.run(saga, Job(), run_id)).status is RunStatus.COMPLETED
            told[count] = told_in(await temporal.get_workflow_handle(run_id).fetch_history())
    assert 0 < told[60] < 6 * told[30]
