"""The process dies at every journal write and at every call, and the next one brings the run to the same end.

This file does not list the moments at which the process can die. A run without a crash passes them one by one, and each
of them is then the last moment of a process in another run. A participant that keeps a ledger by key, and that outlives
the process as another system would, is the judge of outside effects. The run contains transactions that roll back,
replies that are lost after the effect, a probe that answers for them, a parallel stage, and an undo that fails at
first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import pytest
from eventsourcing.domain import event
from journal_parts import prepare
from pydantic import BaseModel
from runs.driving import comparable
from sqlalchemy import Engine
from stores import POSTGRESQL_IN_SOAK

from amends import (
    Aggregate,
    Attempted,
    Call,
    Done,
    Rejected,
    Retry,
    Saga,
    UnitOfWork,
    effect,
    parallel,
    pivot,
    retriable,
    transaction,
)
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.run.facts import Fact
from amends.aggregates.run.state import RunStatus
from amends.aggregates.sql.check import check
from amends.aggregates.sql.engine import create_store_engine
from amends.aggregates.sql.journal import SqlJournal
from amends.aggregates.sql.migrations import ensure_schema
from amends.sagas.definition.registry import Registry
from amends.sagas.runtime.clock import VirtualClock
from amends.sagas.runtime.runner import Runner


class DiedError(BaseException):
    """The process is dead here; no `Exception`, so that no code mistakes it for a failure of the step."""


class Life:
    """One process: the moments that it passes, and the one at which it dies.

    Args:
        dies_at: Index of the process's last moment; `None` for a life without a crash.
        error: The error to raise there instead of death; the process goes on.
    """

    def __init__(self, dies_at: int | None = None, error: Exception | None = None) -> None:
        self.passed: list[str] = []
        self._dies_at = dies_at
        self._error = error
        self._dead = False

    def pass_by(self, moment: str) -> None:
        """Pass a moment, or die at it; a dead process does nothing any more."""
        if self._dead:
            raise DiedError(moment)
        self.passed.append(moment)
        if len(self.passed) - 1 != self._dies_at:
            return
        if self._error is not None:
            raise self._error
        self._dead = True
        raise DiedError(moment)

    def on_commit(self, when: Literal["before", "after"], number: int) -> None:
        """Pass one side of a commit."""
        self.pass_by(f"{when} commit {number}")


class World:
    """The parts that outlive the process: time, and the participant with its ledger.

    Attributes:
        clock: The clock.
        ledger: The effects, by key.
        faults: Calls that the journal, as it was on disk, did not ask for.
    """

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.ledger: dict[str, str] = {}
        self.faults: list[str] = []
        self._life = Life()
        self._journal: SqlJournal | None = None
        self._read = 0
        self._last_of: dict[str, Fact] = {}

    def begin(self, life: Life, journal: SqlJournal) -> None:
        """Serve this process from now on."""
        self._life, self._journal = life, journal

    def called(self, what: str, call: Call, *, asks: bool = False) -> bool:
        """Receive a call, and act unless its key is known or it only probes; return the ledger's entry."""
        moment = f"{what}, attempt {call.attempt}"
        self._life.pass_by(f"before {moment} took effect")
        self._look_for_intent(moment, call, asks=asks)
        if not asks:
            self.ledger.setdefault(call.key, what)
        self._life.pass_by(f"after {moment} took effect")
        return call.key in self.ledger

    def _look_for_intent(self, moment: str, call: Call, *, asks: bool) -> None:
        """Check that the node's last fact in the journal is the intent of exactly this call."""
        assert self._journal is not None
        for fact in self._journal.facts_blocking(call.run_id, self._read):
            self._read = fact.position
            self._last_of[getattr(fact, "node", "")] = fact
        last = self._last_of.get(call.node)
        if asks:
            declared = last is not None and last.kind == "StepAttemptFailed" and getattr(last, "retry_at_ms", 0) is None
        else:
            declared = (getattr(last, "key", None), getattr(last, "attempt", None)) == (call.key, call.attempt)
        if not declared:
            self.faults.append(f"{moment}: the journal's last word was {last}")


WORLDS: dict[str, World] = {}
"""The world of each run, for its effects."""

# More attempts than the planned failures and a death use up together.
RETRY = Retry(max_attempts=3, first=timedelta(milliseconds=10), factor=1)
# The process's death may lose one attempt; the other takes effect, and the probe finds it.
TWICE = Retry(max_attempts=2, first=timedelta(milliseconds=10), factor=1)


class Order(BaseModel):
    """An order, and whether it comes too late."""

    goods: str
    sold_out: bool = False


class Goods(Aggregate):
    """The goods for sale."""

    @event("Counted")
    def __init__(self, id: str) -> None:  # noqa: A002 - the word that aggregates use
        """Begin with no held items."""

    @event("Held")
    def hold(self) -> None:
        """Hold one item."""

    @event("Freed")
    def free(self) -> None:
        """Release one held item."""

    @event("Sold")
    def sell(self) -> None:
        """Sell one held item."""


def fail_first(attempt: int) -> None:
    """Fail the first attempt, after its effect."""
    if attempt == 1:
        raise ConnectionError("no answer")


@transaction(retry=RETRY)
def hold(order: Order, uow: UnitOfWork) -> str:
    """Hold the goods."""
    uow.add(Goods(order.goods)).hold()
    return "held"


@hold.compensation(retry=RETRY)
def free(done: Done[Order, str], uow: UnitOfWork) -> None:
    """Release the goods; the first attempt rolls back."""
    uow.get(Goods, done.input.goods).free()
    fail_first(uow.attempt)


@effect(retry=RETRY)
async def charge(_: Order, call: Call) -> str:
    """Charge the money; the first reply is lost."""
    WORLDS[call.run_id].called("charge", call)
    fail_first(call.attempt)
    return "paid"


@charge.compensation(retry=RETRY)
async def refund(_: Attempted[Order, str], call: Call) -> None:
    """Refund the money; the first reply is lost."""
    WORLDS[call.run_id].called("refund", call)
    fail_first(call.attempt)


@effect(retry=TWICE)
async def notify(_: Order, call: Call) -> str:
    """Notify the warehouse; every reply is lost."""
    WORLDS[call.run_id].called("notify", call)
    raise ConnectionError("no answer")


@notify.probe
async def was_notified(_: Order, call: Call) -> str | None:
    """Ask the warehouse whether the notification arrived."""
    return "noted" if WORLDS[call.run_id].called("was notified", call, asks=True) else None


@notify.compensation(retry=RETRY)
async def forget(_: Attempted[Order, str], call: Call) -> None:
    """Withdraw the notification of the warehouse."""
    WORLDS[call.run_id].called("forget", call)


@transaction(retry=RETRY)
def sell(order: Order, uow: UnitOfWork) -> str:
    """Sell the goods, or refuse."""
    uow.get(Goods, order.goods).sell()
    if order.sold_out:
        raise Rejected("sold out")
    return "sold, " + uow.result_of(charge)


@effect(retry=RETRY)
async def thank(_: Order, call: Call) -> str:
    """Write a letter."""
    WORLDS[call.run_id].called("thank", call)
    return "thanked"


SAGA = Saga("order", Order, hold, parallel(charge, notify), pivot(sell), retriable(thank))
REGISTRY = Registry([SAGA])
CODEC = EventCodec()
CODEC.register(Goods)
STAGE = {"charge": 1, "notify": 1, "thank": 2, "refund": 3, "forget": 3}


@dataclass(frozen=True)
class End:
    """The end of a run: everything that must not depend on whether and where its process died.

    Attributes:
        status: The run's status.
        results: The results of its steps.
        nodes: The status of each step.
        events: Kinds of its aggregate's events.
        took_effect: Keys under which an effect happened.
        order: The stages in the order of these effects.
        faults: Calls that the journal had not asked for.
    """

    status: RunStatus
    results: dict[str, object]
    nodes: dict[str, str]
    events: list[str]
    took_effect: list[str]
    order: list[int]
    faults: list[str]


@dataclass(frozen=True)
class Store:
    """The database; every process has a separate journal on it, which remembers nothing of the previous one."""

    engine: Engine
    store_id: str

    def opened(self, life: Life) -> SqlJournal:
        """Open the store as a new process would, but without the check of the schema, which takes longer than a run."""
        return SqlJournal(self.engine, CODEC, self.store_id, on_commit=life.on_commit)


@dataclass(frozen=True)
class Story:
    """A run without a crash: its input, the moments that it passed, its end, and its facts."""

    sold_out: bool
    moments: list[str]
    end: End
    facts: list[tuple[str, ...]]

    async def repeat(self, store: Store, run_id: str, life: Life) -> tuple[End, list[tuple[str, ...]]]:
        """Run one process with a run of the same input: start or continue the run until it is closed."""
        return await live(store, run_id, Order(goods=run_id, sold_out=self.sold_out), life)


async def live(store: Store, run_id: str, order: Order, life: Life) -> tuple[End, list[tuple[str, ...]]]:
    """Run one process: open the store, and start or continue the run until it is closed."""
    world = WORLDS.setdefault(run_id, World())
    journal = store.opened(life)
    world.begin(life, journal)
    try:
        runner = Runner(journal, REGISTRY, clock=world.clock)
        accepted = await journal.record(run_id) is not None
        result = await (runner.resume(run_id) if accepted else runner.run(SAGA, order, id=run_id))
        record = result.record
        rows = await journal.events(Goods.stream_of(order.goods))
        end = End(
            status=result.status,
            results=dict(record.results),
            nodes={name: node.status.value for name, node in record.state.nodes.items()},
            events=[row.topic.rpartition(".")[2] for row in rows],
            took_effect=sorted(key.replace(run_id, "RUN") for key in world.ledger),
            order=[STAGE[what] for what in world.ledger.values()],
            faults=world.faults,
        )
        return end, comparable(await journal.facts(run_id))
    finally:
        await journal.close()


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """Yield a store, and check afterwards that nothing in it is damaged."""
    engine = create_store_engine(prepare(store_url))
    store = Store(engine, ensure_schema(engine))
    yield store
    WORLDS.clear()
    journal = store.opened(Life())
    try:
        assert list(check(engine, journal.codec)) == []
    finally:
        journal.close_blocking()


@pytest.fixture(params=[False, True], ids=["completes", "is compensated"])
async def story(request: pytest.FixtureRequest, store: Store) -> Story:
    """Return a run without a crash."""
    life, sold_out = Life(), bool(request.param)
    end, facts = await live(store, "uncrashed", Order(goods="uncrashed", sold_out=sold_out), life)
    return Story(sold_out, life.passed, end, facts)


async def test_the_story_is_what_the_others_are_compared_with(story: Story) -> None:
    """The run without a crash ends as planned, and passes commits and calls of every direction."""
    undone = ["RUN/charge/undo/0", "RUN/notify/undo/0"] if story.sold_out else []
    kept = [] if story.sold_out else ["RUN/thank/do/0"]
    assert story.end.status is (RunStatus.COMPENSATED if story.sold_out else RunStatus.COMPLETED)
    assert story.end.events == ["Counted", "Held", "Freed" if story.sold_out else "Sold"]
    assert story.end.took_effect == sorted(["RUN/charge/do/0", "RUN/notify/do/0", *undone, *kept])
    assert story.end.faults == []
    for what in ("commit 1", "charge", "notify", "was notified", "refund" if story.sold_out else "thank"):
        for side in ("before", "after"):
            assert any(each.startswith(f"{side} {what}") for each in story.moments), (side, what)


@POSTGRESQL_IN_SOAK
async def test_the_end_is_the_same_wherever_the_process_dies(store: Store, story: Story) -> None:
    """Wherever the process dies, the next process, which starts at once, reaches the same end."""
    assert await ends_that_differ(store, story, timedelta(0)) == {}, f"expected {story.end}"


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_the_end_is_the_same_when_the_next_process_comes_late(store: Store, story: Story) -> None:
    """The next process reaches the same end when all claims of the dead process have run out by then."""
    assert await ends_that_differ(store, story, timedelta(days=1)) == {}, f"expected {story.end}"


async def ends_that_differ(store: Store, story: Story, away: timedelta) -> dict[str, End]:
    """Run one process per moment that dies there; return the moments after which the end was a different one."""
    wrong: dict[str, End] = {}
    for at, moment in enumerate(story.moments):
        run_id, life = f"dies-at-{at}", Life(dies_at=at)
        with pytest.raises(DiedError):
            await story.repeat(store, run_id, life)
        assert life.passed == story.moments[: at + 1]
        clock = WORLDS[run_id].clock
        await clock.wait((), clock.now_ms() + away // timedelta(milliseconds=1))
        end, _ = await story.repeat(store, run_id, Life())
        if end != story.end:
            wrong[moment] = end
    return wrong


async def test_an_ambiguous_commit_is_read_again(store: Store, story: Story) -> None:
    """A commit that fails, or whose reply is lost, leaves no trace: the facts are those of the run without a crash."""
    wrong: dict[str, list[tuple[str, ...]]] = {}
    for at, moment in enumerate(story.moments):
        if "commit" not in moment:
            continue
        end, facts = await story.repeat(store, f"fails-at-{at}", Life(at, error=OSError("the disk is slow")))
        if (end, facts) != (story.end, story.facts):
            wrong[moment] = facts
    assert wrong == {}, f"expected {story.facts}"
