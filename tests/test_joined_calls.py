"""Deliveries of a call to a process that makes, or has made, a call of the same node already."""

import asyncio

from hard_parts import opened
from pydantic import BaseModel
from temporalio.testing import ActivityEnvironment

from amends import Call, Intervention, Retry, Saga, UnitOfWork, Verb, effect, pivot, retriable, transaction
from amends.aggregates.journal_sql import SqlJournal
from amends.aggregates.record import RunRecord
from amends.sagas.activities_temporal import Activities
from amends.sagas.advance import Protocol
from amends.sagas.messages_temporal import DRIVER, AdvanceRequest, CallRequest, Progress
from amends.sagas.registry import Registry
from amends.sagas.seats import Function
from amends.sagas.start import prepare_start
from amends.sagas.task import Direction

HELD: dict[str, asyncio.Event] = {}
"""The call under this key is kept in flight; the first says when it has begun, the second lets it go on."""


class Parcel(BaseModel):
    """What is sent."""


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
post = Saga("post", Parcel, pivot(decide), retriable(send, retry=Retry(max_attempts=2)))


class Run:
    """A run of the saga, and its time.

    Args:
        journal: The store.
    """

    def __init__(self, journal: SqlJournal) -> None:
        self.journal = journal
        self.registry = Registry([post])
        self.protocol = Protocol(self.registry, "operator", DRIVER)
        self.now_ms = 1_000

    @property
    def position(self) -> int:
        """Where it stands."""
        record = self.journal.record_blocking("r")
        assert record is not None
        return record.state.position

    async def begin(self, worker: Activities) -> None:
        """Accept it, and pass its pivot."""
        start = prepare_start(self.registry, post, Parcel(), run_id="r", driver=DRIVER, actor="test")
        await self.journal.commit(lambda tx: self.protocol.accept(tx, start, self.now_ms), runs=("r",))
        await self.advance(worker)

    async def advance(self, worker: Activities, *, later_ms: int = 0) -> None:
        """Have a worker write down what follows by now."""
        self.now_ms += later_ms
        await worker.advance(AdvanceRequest("r", self.journal.store_id, 0, self.now_ms))

    async def deliver(self, worker: Activities, attempt: int) -> Progress:
        """Deliver an attempt to a worker."""
        self.now_ms += 10_000
        request = CallRequest("r", self.journal.store_id, "send", "do", attempt, self.position, self.now_ms)
        progress: Progress = await ActivityEnvironment().run(worker.call, request, SEND)
        return progress

    async def decide(self, verb: Verb) -> None:
        """Decide about the step as an operator."""
        wish = Intervention(verb=verb, actor="op", reason="asked them", node="send", evidence="their log")
        await self.journal.commit(
            lambda tx: self.protocol.intervene(tx, "r", wish, self.now_ms, position=None), runs=("r",)
        )


async def test_a_delivery_is_told_how_the_run_stands_now(sqlite_url: str) -> None:
    """A call that ended late and cannot tell Temporal keeps no later delivery from being made."""
    HELD.update(begun=asyncio.Event(), gate=asyncio.Event())
    told, reached = asyncio.Event(), asyncio.Event()

    async def rouse(_: RunRecord) -> None:
        told.set()
        await reached.wait()  # Temporal is away

    async with opened(sqlite_url) as journal:
        run = Run(journal)
        slow, quick = (Activities(journal, run.registry, worker=name, rouse=rouse) for name in ("slow", "quick"))
        await run.begin(slow)
        calls = []
        for attempt, worker in ((1, slow), (2, quick)):
            HELD["begun"].clear()
            calls.append(asyncio.create_task(run.deliver(worker, attempt)))
            await HELD["begun"].wait()
            await run.advance(slow, later_ms=400_000)  # its lease has ended
        await run.decide(Verb.RULE_OUT)
        await run.decide(Verb.RETRY)
        HELD["gate"].set()
        await told.wait()
        await run.deliver(quick, 1)
        before = run.position
        await run.deliver(slow, 2)
        assert run.position > before, "the second attempt under the new key was made"
        reached.set()
        await asyncio.gather(*calls)
