"""The committer: many units, one commit; failures of one unit and of the database; several processes."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

import journal_parts
import psycopg
import pytest
from bounds import HANG_S
from journal_parts import Counter, accept, open_prepared, run_to_end, step, succeed
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, insert, select, text

from amends.aggregates.errors import AppendConflictError, JournalError, UnreachableError
from amends.aggregates.journal import StepWork, Tx
from amends.aggregates.run.facts import StepSucceeded, stream_of_run
from amends.aggregates.sql.committer import BATCH_UNITS
from amends.aggregates.sql.journal import SqlJournal
from amends.aggregates.values.checksum import event_checksum

OWN = MetaData()
PARENTS = Table("parents", OWN, Column("id", Integer, primary_key=True, autoincrement=False))
CHILDREN = Table(
    "children",
    OWN,
    # Checked at the commit only: a step that breaks it succeeds, and the transaction fails.
    Column("parent", ForeignKey("parents.id", deferrable=True, initially="DEFERRED"), primary_key=True),
)


class PowerCutError(BaseException):
    """A test raises this where the process must die."""


class Commits:
    """Counts commits, and raises the test's error around one of them."""

    def __init__(self) -> None:
        self.count = 0
        self.plan: dict[tuple[str, int], BaseException] = {}

    def __call__(self, when: Literal["before", "after"], number: int) -> None:
        """Count the commit, and raise the error that is planned for this moment."""
        if when == "before":
            self.count += 1
        if (when, number) in self.plan:
            raise self.plan.pop((when, number))

    def fail_next(self, when: Literal["before", "after"], error: BaseException) -> None:
        """Raise around the next commit."""
        self.plan[when, self.count + 1] = error


@pytest.fixture
def commits() -> Commits:
    """Return the journal's commit seam."""
    return Commits()


@pytest.fixture
async def journal(store_url: str, commits: Commits) -> AsyncIterator[SqlJournal]:
    """Yield a journal on an empty store that also has the user's tables."""
    journal = open_prepared(store_url, on_commit=commits)
    OWN.create_all(journal.engine)
    yield journal
    await journal.close()


async def add_counter(journal: SqlJournal, name: str = "c") -> None:
    """Add a counter to the store."""
    await journal.commit(step(lambda uow: uow.add(Counter(id=name))))


async def count_of(journal: SqlJournal, name: str = "c") -> int:
    """Read a counter as committed."""
    found = await journal.load(Counter, name)
    assert found is not None
    return found.count


class CountedWork:
    """A step that adds one to the counter, and counts its own runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, uow: StepWork) -> str:
        """Run the step."""
        self.runs += 1
        uow.get(Counter, "c").add_one()
        return "counted"


class Gate:
    """A unit that blocks the committer until all units that a test wants in one batch are waiting."""

    def __init__(self, journal: SqlJournal) -> None:
        self._entered = threading.Event()
        self._open = threading.Event()
        self._task = asyncio.ensure_future(journal.commit(self._hold))

    def _hold(self, tx: Tx) -> None:  # noqa: ARG002 - a unit
        self._entered.set()
        assert self._open.wait(HANG_S)

    async def __aenter__(self) -> None:
        await asyncio.to_thread(self._entered.wait, 30)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)
        self._open.set()
        await self._task


async def together(journal: SqlJournal, units: list[Callable[[Tx], Any]], runs: tuple[str, ...] = ()) -> list[Any]:
    """Commit units in one batch; return their answers and errors."""
    async with Gate(journal):
        tasks = [asyncio.ensure_future(journal.commit(unit, runs=runs)) for unit in units]
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_hundred_writers_of_one_aggregate_need_one_commit(journal: SqlJournal, commits: Commits) -> None:
    """Concurrent steps on a hot aggregate run at most twice on average, none fails, and few commits carry them."""
    await add_counter(journal)
    executed = 0

    def work(uow: StepWork) -> int:
        nonlocal executed
        executed += 1
        counter = uow.get(Counter, "c")
        counter.add_one()
        return counter.count

    before = commits.count
    answers = await asyncio.gather(*(journal.commit(step(work)) for _ in range(100)))
    assert sorted(answers) == list(range(1, 101))
    assert executed <= 200
    assert commits.count - before <= 10
    assert await count_of(journal) == 100


async def test_a_failing_unit_loses_only_itself(journal: SqlJournal) -> None:
    """When a unit raises, its neighbours are committed, without any of its facts, events and own rows."""
    await add_counter(journal)

    def good(number: int) -> Callable[[Tx], None]:
        def unit(tx: Tx) -> None:
            accept(f"good-{number}")(tx)
            with tx.unit_of_work() as uow:
                uow.execute(insert(PARENTS).values(id=number))
                uow.get(Counter, "c").add_one()

        return unit

    def bad(tx: Tx) -> None:
        accept("bad")(tx)
        with tx.unit_of_work() as uow:
            uow.execute(insert(PARENTS).values(id=99))
            uow.get(Counter, "c").add_one()
        msg = "no"
        raise RuntimeError(msg)

    answers = await together(journal, [good(1), bad, good(2)])
    assert [type(answer) for answer in answers] == [type(None), RuntimeError, type(None)]
    assert await journal.record("bad") is None
    assert await count_of(journal) == 2
    with journal.engine.connect() as connection:
        assert connection.execute(select(PARENTS.c.id).order_by(PARENTS.c.id)).scalars().all() == [1, 2]


async def test_a_unit_the_database_refuses_loses_only_itself(journal: SqlJournal) -> None:
    """When the commit fails because of one unit's rows, the other units of the batch are committed without it."""

    def orphan(uow: StepWork) -> None:
        uow.execute(insert(CHILDREN).values(parent=404))

    answers = await together(journal, [accept("a"), step(orphan), accept("b")])
    assert isinstance(answers[1], JournalError)
    assert await journal.record("a") is not None
    assert await journal.record("b") is not None
    with journal.engine.connect() as connection:
        assert connection.execute(select(CHILDREN)).all() == []


async def test_later_units_of_a_batch_see_earlier_ones(journal: SqlJournal) -> None:
    """A batch is one transaction whose units follow each other on the uncommitted head."""
    answers = await together(journal, [accept("r"), succeed("r", "reserve"), accept("r"), succeed("r", "confirm")])
    assert isinstance(answers[2], AppendConflictError)
    assert [fact.position for fact in await journal.facts("r")] == [1, 2, 3]


async def test_a_commit_that_failed_is_repeated(journal: SqlJournal, commits: Commits) -> None:
    """After a failed commit, which wrote nothing, the units run again and take effect once."""
    await add_counter(journal)
    work = CountedWork()
    commits.fail_next("before", OSError("the disk went away"))
    await journal.commit(step(work))
    assert work.runs == 2
    assert await count_of(journal) == 1


async def test_a_commit_of_which_the_reply_was_lost_has_one_effect(journal: SqlJournal, commits: Commits) -> None:
    """After a commit whose reply was lost, the units do not run again, and callers get their answers."""
    await add_counter(journal)
    work = CountedWork()
    commits.fail_next("after", ConnectionResetError("the reply was lost"))
    assert await journal.commit(step(work)) == "counted"
    assert work.runs == 1
    assert await count_of(journal) == 1
    await journal.commit(step(work))
    assert await count_of(journal) == 2


async def test_a_store_that_never_commits_is_given_up(journal: SqlJournal, commits: Commits) -> None:
    """After a bounded number of attempts the caller learns that nothing was written; later units go through."""
    for number in range(commits.count + 1, commits.count + 5):
        commits.plan["before", number] = OSError("no space")
    with pytest.raises(UnreachableError, match="no space; nothing was written"):
        await journal.commit(accept("r"))
    assert await journal.record("r") is None
    await journal.commit(accept("r"))
    assert await journal.record("r") is not None


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_around_the_commit_is_all_or_nothing(
    journal: SqlJournal, commits: Commits, when: Literal["before", "after"]
) -> None:
    """A process that dies before its commit leaves nothing of the batch, after it everything; all callers notice."""
    async with Gate(journal):
        tasks = [asyncio.ensure_future(journal.commit(accept(run_id))) for run_id in ("a", "b")]
        commits.plan[when, commits.count + 2] = PowerCutError()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [PowerCutError, PowerCutError]
    assert [(await journal.record(run_id)) is not None for run_id in ("a", "b")] == [when == "after"] * 2


async def test_whatever_a_unit_raises_is_its_callers(journal: SqlJournal) -> None:
    """Neither a simulated crash nor `StopIteration` in a unit harms the thread or the neighbours."""

    def raising(error: BaseException) -> Callable[[Tx], None]:
        def unit(tx: Tx) -> None:
            accept("gone")(tx)
            raise error

        return unit

    answers = await together(journal, [raising(PowerCutError()), raising(StopIteration()), accept("r")])
    assert isinstance(answers[0], PowerCutError)
    assert isinstance(answers[1], RuntimeError)
    assert await journal.record("r") is not None
    assert await journal.record("gone") is None


async def test_answers_come_with_one_call_per_batch(journal: SqlJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch wakes an event loop once, not once per unit."""
    loop = asyncio.get_running_loop()
    calls = 0
    original = loop.call_soon_threadsafe

    def counting(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as in asyncio
        nonlocal calls
        calls += "_settle" in repr(args[0])
        return original(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
    await together(journal, [accept(f"r{number}") for number in range(50)])
    assert calls == 2


async def test_a_batch_is_bounded(journal: SqlJournal, commits: Commits) -> None:
    """A transaction contains no more units than the bound, for any number that wait."""
    before = commits.count
    answers = await together(journal, [accept(f"r{number}") for number in range(2 * BATCH_UNITS + 1)])
    assert not [answer for answer in answers if isinstance(answer, BaseException)]
    assert commits.count - before == 1 + 3


async def test_close_commits_what_is_waiting(store_url: str) -> None:
    """Units submitted before `close` are committed; later ones are refused in one line; closing twice is allowed."""
    journal = open_prepared(store_url)
    waiting = [asyncio.ensure_future(journal.commit(accept(f"r{number}"))) for number in range(20)]
    await asyncio.sleep(0)
    await journal.close()
    assert len(await asyncio.gather(*waiting)) == 20
    with pytest.raises(JournalError, match="the journal is closed"):
        await journal.commit(accept("late"))
    await journal.close()


async def test_a_unit_that_waits_for_another_is_refused(journal: SqlJournal) -> None:
    """A unit that waits for another one raises an error: the committer cannot wait for itself."""
    with pytest.raises(JournalError, match="cannot wait for another"):
        await journal.commit(lambda tx: journal.commit_blocking(accept("inner")))  # noqa: ARG005 - a unit


async def test_a_blocking_caller_gets_answers_and_errors(journal: SqlJournal) -> None:
    """Programs without an event loop write through the same committer."""
    record = await asyncio.to_thread(journal.commit_blocking, accept("r"))
    assert record.state.position == 1
    with pytest.raises(AppendConflictError):
        await asyncio.to_thread(journal.commit_blocking, accept("r"))


async def test_a_stream_that_cannot_be_read_concerns_its_own_unit_only(journal: SqlJournal) -> None:
    """A damaged run does not stop the commit of its batch, although one unit reads it."""
    await journal.commit(accept("damaged"))
    with journal.engine.begin() as connection:
        connection.execute(text("UPDATE stored_events SET topic = 'os:system'"))
    other = open_prepared(journal.engine.url.render_as_string(hide_password=False))
    try:
        answers = await together(
            other, [succeed("damaged", "reserve"), accept("r"), succeed("r", "reserve")], ("damaged", "r")
        )
    finally:
        await other.close()
    assert [type(answer).__name__ for answer in answers] == ["DamagedRunError", "RunRecord", "RunRecord"]


async def test_a_connection_lost_in_a_step_uses_up_no_attempt(postgres_url: str) -> None:
    """After a lost connection the whole batch runs again on a new one, uses up no attempt, and takes effect once."""
    journal = open_prepared(postgres_url)
    await add_counter(journal)
    runs = 0
    taken: list[Exception] = []

    def work(uow: StepWork) -> None:
        nonlocal runs
        runs += 1
        uow.get(Counter, "c").add_one()
        if runs == 1:
            try:
                uow.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
            except Exception as error:  # noqa: BLE001 - what a driver of sagas does
                taken.append(error)

    answers = await together(journal, [step(work), accept("r")])
    assert [type(answer).__name__ for answer in answers] == ["NoneType", "RunRecord"]
    assert runs == 2
    assert taken == [], "the step took the store's failure for its own"
    assert await count_of(journal) == 1
    await journal.close()


async def test_a_writer_without_the_lock_is_noticed(postgres_url: str) -> None:
    """After a write to its stream by another program in the middle, the batch runs again on the new head."""
    journal = open_prepared(postgres_url)
    await journal.commit(accept("r"))
    positions: list[int] = []

    def unit(tx: Tx) -> None:
        record = tx.record("r")
        assert record is not None
        position = record.state.position + 1
        positions.append(position)
        node = ("reserve", "confirm")[position - 2]
        fact = StepSucceeded(**journal_parts.common(tx, "r", position), node=node, generation=0, attempt=1, result=None)
        tx.append(record, [fact])
        if len(positions) == 1:
            stored = journal.codec.to_stored(fact)
            with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as intruder:
                row = (stored.originator_id, stored.originator_version, stored.topic, stored.state)
                intruder.execute(
                    "INSERT INTO stored_events (originator_id, originator_version, topic, state, checksum) "
                    "VALUES (%s, %s, %s, %s, %s)",
                    (*row, event_checksum(str(row[0]), *row[1:])),
                )

    await journal.commit(unit)
    assert positions == [2, 3]
    assert [fact.position for fact in await journal.facts("r")] == [1, 2, 3]
    await journal.close()


async def test_a_store_that_is_gone_is_said_to_be(postgres_server: str, postgres_url: str) -> None:
    """When the store is gone, waiting units end in one line that nothing was written; the thread lives on."""
    journal = open_prepared(postgres_url)
    name = journal.engine.url.database
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        with pytest.raises(UnreachableError, match="nothing was written"):
            await journal.commit(accept("r"))
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
    await journal.commit(accept("r"))
    await journal.close()


RUNS = 15
"""Runs of each process."""


async def test_two_processes_lose_nothing(store_url: str) -> None:
    """Streams have no gaps under two processes and this one; a reader of the log never finds a gap filled later."""
    journal = open_prepared(store_url)
    await add_counter(journal, "shared")
    script = Path(journal_parts.__file__)
    writers = [
        await asyncio.create_subprocess_exec(sys.executable, script, store_url, name, str(RUNS), stderr=subprocess.PIPE)
        for name in ("one", "two")
    ]
    seen: list[tuple[int, str, int]] = []

    async def write() -> None:
        for number in range(RUNS):
            for unit in run_to_end(f"here-{number}", "shared"):
                await journal.commit(unit)

    ended = asyncio.gather(write(), *(writer.communicate() for writer in writers))
    done = False
    while not done:
        # The check comes before the reading: a reading after all writers have ended is complete.
        done = ended.done()
        page = await journal.notifications(seen[-1][0] if seen else 0, 10_000)
        seen.extend((each.id, str(each.originator_id), each.originator_version) for each in page)
    output = await ended
    assert [writer.returncode for writer in writers] == [0, 0], output
    found = await journal.notifications(0, 10_000)
    assert seen == [(each.id, each.originator_id, each.originator_version) for each in found]
    streams: dict[str, list[int]] = {}
    for _, stream, position in seen:
        streams.setdefault(stream, []).append(position)
    assert streams == {stream: list(range(1, len(positions) + 1)) for stream, positions in streams.items()}
    assert {len(streams[stream_of_run(f"{name}-{n}")]) for name in ("one", "two", "here") for n in range(RUNS)} == {4}
    assert await count_of(journal, "shared") == 3 * RUNS
    await journal.close()


async def test_accepting_the_same_run_from_two_processes_happens_once(store_url: str) -> None:
    """Of two journals that begin the same run at once, one does and the other gets the stream's position."""
    one, two = open_prepared(store_url), open_prepared(store_url)
    try:
        for number in range(10):
            answers = await asyncio.gather(
                one.commit(accept(f"r{number}")), two.commit(accept(f"r{number}")), return_exceptions=True
            )
            assert sorted(type(answer).__name__ for answer in answers) == ["AppendConflictError", "RunRecord"]
    finally:
        await one.close()
        await two.close()
