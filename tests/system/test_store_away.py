"""A store that is away for a while: units wait or fail as callers chose; nothing is used up, lost or doubled."""

import asyncio
from collections.abc import AsyncIterator, Collection
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from journal_parts import Counter, accept, open_prepared, step
from outage_parts import OUTAGE, Order, Outage, Shelf, Trace

from amends import RunStatus
from amends.aggregates.errors import UnreachableError
from amends.aggregates.journal import StepWork
from amends.aggregates.sql.journal import SqlJournal
from amends.sagas.definition.registry import Registry
from amends.sagas.runtime.clock import SystemClock
from amends.sagas.runtime.runner import Runner

PATIENT = timedelta(minutes=5)


@pytest.fixture
def outage(postgres_server: str, postgres_url: str) -> Outage:
    """Return the switch that takes the database away."""
    return Outage(postgres_server, postgres_url)


class Seam:
    """Calls a function after the next commit, and then reports that the reply was lost."""

    def __init__(self) -> None:
        self.outage: Outage | None = None

    def __call__(self, when: Literal["before", "after"], _: int) -> None:
        """Cut the store off after the commit, if the test wants that."""
        if when == "after" and self.outage is not None:
            outage, self.outage = self.outage, None
            outage.begin()
            raise ConnectionResetError("the reply was lost")


@pytest.fixture
def seam() -> Seam:
    """Return the journal's commit seam."""
    return Seam()


@pytest.fixture
async def journal(postgres_url: str, seam: Seam) -> AsyncIterator[SqlJournal]:
    """Yield a journal that can count on one counter."""
    journal = open_prepared(postgres_url, on_commit=seam)
    await journal.commit(step(lambda uow: uow.add(Counter("c"))))
    yield journal
    await journal.close()


async def count_of(journal: SqlJournal) -> int:
    """Read the counter as committed."""
    found = await journal.load(Counter, "c")
    assert found is not None
    return found.count


def count(uow: StepWork) -> str:
    """Add one."""
    uow.get(Counter, "c").add_one()
    return "counted"


async def told(journal: SqlJournal) -> None:
    """Check that an impatient caller gets an error at once, even while others wait: the outage is known."""
    with pytest.raises(UnreachableError, match="nothing was written"):
        await journal.commit(accept("impatient"))


async def test_who_is_patient_is_held_and_who_is_not_is_told(journal: SqlJournal, outage: Outage) -> None:
    """Units of patient callers are committed once when the store is back; the others end in one line meanwhile."""
    outage.begin()
    waiting = [asyncio.ensure_future(journal.commit(step(count), patience=PATIENT)) for _ in range(3)]
    await told(journal)
    waiting.append(asyncio.ensure_future(journal.commit(step(count), patience=PATIENT)))
    await told(journal)
    assert not any(each.done() for each in waiting)
    outage.end()
    assert await asyncio.gather(*waiting) == ["counted"] * 4
    assert await count_of(journal) == 4
    assert await journal.record("impatient") is None


async def test_a_reply_lost_in_the_outage_is_found_afterwards(journal: SqlJournal, outage: Outage, seam: Seam) -> None:
    """The journal recognises a commit that succeeded without a reply when the store is back, and does not repeat it."""
    runs = 0
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(uow: StepWork) -> str:
        nonlocal runs
        runs += 1
        loop.call_soon_threadsafe(begun.set)
        return count(uow)

    seam.outage = outage
    waiting = asyncio.ensure_future(journal.commit(step(work), patience=PATIENT))
    await begun.wait()
    await told(journal)
    outage.end()
    assert (await waiting, runs) == ("counted", 1)
    assert await count_of(journal) == 1


async def test_patience_ends(journal: SqlJournal, outage: Outage) -> None:
    """A caller whose patience has ended gets an error, and nothing was written."""
    outage.begin()
    with pytest.raises(UnreachableError, match="nothing was written"):
        await journal.commit(step(count), patience=timedelta(milliseconds=200))
    outage.end()
    assert await count_of(journal) == 0


async def test_closing_gives_up_what_is_held(journal: SqlJournal, outage: Outage) -> None:
    """A journal that is closed in an outage does not wait for its end."""
    outage.begin()
    waiting = asyncio.ensure_future(journal.commit(step(count), patience=PATIENT))
    await told(journal)
    await journal.close()
    with pytest.raises(UnreachableError, match="nothing was written"):
        await waiting
    outage.end()


async def test_who_was_cancelled_in_the_outage_is_passed_over(journal: SqlJournal, outage: Outage) -> None:
    """The unit of a caller that was cancelled does not run when the store is back: no caller would use its answer."""
    outage.begin()
    waiting = asyncio.ensure_future(journal.commit(step(count), patience=PATIENT))
    await told(journal)
    waiting.cancel()
    await asyncio.wait([waiting])
    outage.end()
    assert await journal.commit(step(count), patience=PATIENT) == "counted"
    assert await count_of(journal) == 1


class LateClock(SystemClock):
    """Wall time, which a test advances."""

    def __init__(self) -> None:
        self.later_ms = 0

    def now_ms(self) -> int:
        """Return the time in milliseconds since the epoch."""
        return super().now_ms() + self.later_ms

    async def wait(
        self,
        pending: Collection[asyncio.Future[Any]],
        due_ms: int | None,
        woken: asyncio.Future[Any] | None = None,
    ) -> None:
        """Wait for the pending calls alone or, without any, until the due time."""
        await super().wait(pending, None if pending else due_ms, woken)


async def test_an_outage_of_a_minute_uses_up_no_attempt_in_process(
    journal: SqlJournal, outage: Outage, tmp_path: Path
) -> None:
    """All answers of a parallel group come in the outage; a minute later each is recorded, and none is expired."""
    await journal.commit(step(lambda uow: uow.add(Shelf("shelf"))))
    clock, trace = LateClock(), Trace(tmp_path)
    runner = Runner(journal, Registry([OUTAGE]), clock=clock)
    order = Order(trace=str(tmp_path), gate=True, slow=True)
    running = asyncio.ensure_future(runner.run(OUTAGE, order, id="r"))
    await trace.until("call", 3)
    outage.begin()
    trace.open_gate()
    await trace.until("paid", 1)
    await trace.until("told", 2)
    await told(journal)
    # As long as the call may take, plus the outage.
    clock.later_ms = 10_000 + 60_000
    outage.end()
    result = await running
    assert result.status is RunStatus.COMPLETED
    assert [fact.kind for fact in await journal.facts("r") if "Failed" in fact.kind] == []
