"""Deliveries of a call to a process that makes, or has made, a call of the same node already."""

import asyncio
from dataclasses import replace

import pytest
from hard_parts import opened, until
from pydantic import BaseModel
from temporalio.testing import ActivityEnvironment

from amends import Call, Intervention, InterventionKind, Retry, Saga, UnitOfWork, effect, pivot, retriable, transaction
from amends.aggregates.run.fact import TEMPORAL_DRIVER
from amends.aggregates.run.record import RunRecord
from amends.aggregates.run.state import Direction, NodeStatus
from amends.aggregates.sql.journal import SqlJournal
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.protocol import RunProtocol
from amends.sagas.engine.seats import Function
from amends.sagas.engine.start import prepare_start
from amends.sagas.temporal.activities import Activities
from amends.sagas.temporal.messages import AdvanceRequest, CallRequest, Progress

HELD: dict[str, asyncio.Event] = {}
"""The call under this key stays in flight; the first event signals that it has begun, the second releases it."""


class Parcel(BaseModel):
    """The input of the saga."""


@transaction
def decide(_: Parcel, __: UnitOfWork) -> None:
    """Do nothing: there is no way back from here."""


@effect
async def send(_: Parcel, call: Call) -> None:
    """Answer late under the first key, and never under another one."""
    if not call.key.endswith("/0"):
        raise ConnectionError("nobody there")
    HELD["begun"].set()
    await HELD["gate"].wait()


SEND = Function("send", Direction.DO)


@effect
async def archive(_: Parcel, __: Call) -> None:
    """Do nothing; the step before it does not end the run."""


post = Saga("post", Parcel, pivot(decide), retriable(send, retry=Retry(max_attempts=2)))
filed = Saga("filed", Parcel, pivot(decide), retriable(send), retriable(archive))


class Run:
    """A run of the saga, and its time.

    Args:
        journal: The store.
        saga: The saga of the run.
    """

    def __init__(self, journal: SqlJournal, saga: Saga[Parcel] = post) -> None:
        self.journal = journal
        self.saga = saga
        self.registry = Registry([saga])
        self.protocol = RunProtocol(self.registry, "operator", TEMPORAL_DRIVER)
        self.now_ms = 1_000

    @property
    def position(self) -> int:
        """The run's position."""
        record = self.journal.record_blocking("r")
        assert record is not None
        return record.state.position

    async def begin(self, worker: Activities) -> None:
        """Accept the run, and pass its pivot."""
        start = prepare_start(self.registry, self.saga, Parcel(), run_id="r", driver=TEMPORAL_DRIVER, actor="test")
        await self.journal.commit(lambda tx: self.protocol.accept(tx, start, self.now_ms), runs=("r",))
        await self.advance(worker)

    async def advance(self, worker: Activities, *, later_ms: int = 0) -> None:
        """Run a worker that writes down the decisions that are due by now."""
        self.now_ms += later_ms
        await worker.advance(AdvanceRequest("r", self.journal.store_id, 0, self.now_ms))

    async def deliver(self, worker: Activities, attempt: int, *, workflow: str = "first") -> Progress:
        """Deliver an attempt to a worker, as a workflow asks for it."""
        self.now_ms += 10_000
        request = CallRequest("r", self.journal.store_id, "send", "do", attempt, self.position, self.now_ms)
        environment = ActivityEnvironment()
        environment.info = replace(environment.info, workflow_run_id=workflow)
        progress: Progress = await environment.run(worker.calls.call, request, SEND)
        return progress

    async def decide(self, verb: InterventionKind) -> None:
        """Decide about the step as an operator."""
        wish = Intervention(kind=verb, actor="op", reason="asked them", node="send", evidence="their log")
        await self.journal.commit(
            lambda tx: self.protocol.intervene(tx, "r", wish, self.now_ms, position=None), runs=("r",)
        )


async def test_a_delivery_is_told_how_the_run_stands_now(sqlite_url: str) -> None:
    """A later delivery gets through after a call that ended late and cannot reach Temporal."""
    HELD.update(begun=asyncio.Event(), gate=asyncio.Event())
    told, reached = asyncio.Event(), asyncio.Event()

    async def wake(_: RunRecord) -> None:
        told.set()
        await reached.wait()  # Temporal is away

    async with opened(sqlite_url) as journal:
        run = Run(journal)
        slow, quick = (Activities(journal, run.registry, worker=name, wake=wake) for name in ("slow", "quick"))
        await run.begin(slow)
        calls = []
        for attempt, worker in ((1, slow), (2, quick)):
            HELD["begun"].clear()
            calls.append(asyncio.create_task(run.deliver(worker, attempt)))
            await HELD["begun"].wait()
            await run.advance(slow, later_ms=400_000)  # its lease has ended
        await run.decide(InterventionKind.RULE_OUT)
        await run.decide(InterventionKind.RETRY)
        HELD["gate"].set()
        await told.wait()
        await run.deliver(quick, 1)
        before = run.position
        await run.deliver(slow, 2)
        assert run.position > before, "the second attempt under the new key was made"
        reached.set()
        await asyncio.gather(*calls)


async def test_a_call_of_a_replaced_workflow_is_not_made_again(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A delivery that finds the claim of another workflow's delivery waits for its answer: the claim is still alive."""
    HELD.update(begun=asyncio.Event(), gate=asyncio.Event())
    caplog.set_level("INFO", "amends.worker")
    async with opened(sqlite_url) as journal:
        run = Run(journal)
        slow, quick = (Activities(journal, run.registry, worker=name) for name in ("slow", "quick"))
        await run.begin(slow)
        first = asyncio.create_task(run.deliver(slow, 1))
        await HELD["begun"].wait()
        second = asyncio.create_task(run.deliver(quick, 1, workflow="second"))
        while "waits for the outcome" not in caplog.text:  # noqa: ASYNC110 - the worker's log
            await asyncio.sleep(0.02)
        HELD["gate"].set()
        await asyncio.gather(first, second)
        assert [fact.kind for fact in await journal.facts("r") if getattr(fact, "node", "") == "send"] == [
            "StepStarted",
            "StepSucceeded",
        ]


async def test_the_same_delivery_takes_the_claim_of_a_lost_worker_over(sqlite_url: str) -> None:
    """Temporal delivers a call again only when it has given up the worker: the next one repeats the call at once."""
    HELD.update(begun=asyncio.Event(), gate=asyncio.Event())
    async with opened(sqlite_url) as journal:
        run = Run(journal)
        slow, quick = (Activities(journal, run.registry, worker=name) for name in ("slow", "quick"))
        await run.begin(slow)
        first = asyncio.create_task(run.deliver(slow, 1))
        await HELD["begun"].wait()
        HELD["begun"].clear()
        second = asyncio.create_task(run.deliver(quick, 1))
        facts = await until(journal, "r", lambda facts: facts[-1].kind != "StepStarted")
        assert getattr(facts[-1], "error_type", "") == "WorkerLost"
        HELD["gate"].set()
        await asyncio.gather(first, second)


async def test_an_answer_that_nobody_waits_for_wakes_the_run(sqlite_url: str) -> None:
    """A call whose delivery was cancelled continues, and its end wakes the run's workflow through Temporal."""
    HELD.update(begun=asyncio.Event(), gate=asyncio.Event())
    told: asyncio.Queue[RunRecord] = asyncio.Queue()
    async with opened(sqlite_url) as journal:
        run = Run(journal, filed)
        worker = Activities(journal, run.registry, worker="w", wake=told.put)
        await run.begin(worker)
        delivery = asyncio.create_task(run.deliver(worker, 1))
        await HELD["begun"].wait()
        delivery.cancel()
        await asyncio.wait([delivery])
        HELD["gate"].set()
        record = await told.get()
        assert record.state.node("send").status is NodeStatus.SUCCEEDED
