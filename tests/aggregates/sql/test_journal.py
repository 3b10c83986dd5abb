"""The journal on both databases: streams, the memory between batches, the read model, reading."""

import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journal_parts import PLAN, Counter, accept, common, complete, open_prepared, plan_of, started, step, succeed
from property_parts import try_out
from sqlalchemy import func, insert, select, text

from amends.aggregates.errors import (
    AmendsError,
    AppendConflictError,
    DamagedRunError,
    InputError,
    JournalError,
    NotFoundError,
    TransitionError,
)
from amends.aggregates.journal import Journal, RunQuery, Tx
from amends.aggregates.run.facts import (
    AttentionRequested,
    CompensationSucceeded,
    Fact,
    SagaCompensated,
    SagaCompleted,
    SagaFailed,
    StepAttemptFailed,
    StepRejected,
    StepSucceeded,
    stream_of_run,
)
from amends.aggregates.run.record import fold_facts
from amends.aggregates.run.state import RunStatus
from amends.aggregates.sql import loading
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.aggregates.sql.schema import plans, run_keys, saga_index, stored_events
from amends.aggregates.values.checksum import event_checksum
from amends.sagas.definition.registry import Registry
from amends.sagas.engine.protocol import RunProtocol


@pytest.fixture
async def journal(store_url: str) -> AsyncIterator[SqlJournal]:
    """Yield a journal on an empty store."""
    journal = open_prepared(store_url)
    yield journal
    await journal.close()


@pytest.fixture
async def other(journal: SqlJournal) -> AsyncIterator[SqlJournal]:
    """Yield a second journal on the same store, as another process would have."""
    other = open_prepared(journal.engine.url.render_as_string(hide_password=False))
    yield other
    await other.close()


async def test_the_adapter_fits_the_port(journal: SqlJournal) -> None:
    """Type checkers see a `Journal`; the store has an identity that all journals on it share."""
    port: Journal = journal
    again = open_prepared(journal.engine.url.render_as_string(hide_password=False))
    assert port.store_id == again.store_id != ""
    await again.close()


async def test_a_run_is_read_as_it_was_written(journal: SqlJournal) -> None:
    """Facts come back equal and in order, the record is their fold, and the plan is found by its fingerprint."""
    await journal.commit(accept("r", customer="ann"))
    for unit in (succeed("r", "reserve"), succeed("r", "confirm"), complete("r")):
        written = await journal.commit(unit, runs=["r"])
    facts = await journal.facts("r")
    assert [fact.kind for fact in facts] == ["SagaStarted", "StepSucceeded", "StepSucceeded", "SagaCompleted"]
    assert await journal.facts("r", after=2) == facts[2:]
    assert await journal.record("r") == fold_facts(PLAN, facts) == written
    assert await journal.plan(PLAN.fingerprint) == PLAN
    assert await journal.plan("none") is None
    assert await journal.record("nobody") is None
    assert await journal.facts("nobody") == []


async def test_streams_have_no_gaps_and_no_forks(journal: SqlJournal) -> None:
    """An append that does not continue the head by exactly one is refused, and nothing of it is written."""
    await journal.commit(accept("r"))
    stale = await journal.record("r")
    assert stale is not None
    await journal.commit(succeed("r", "reserve"))

    def append(position: int, run_id: str = "r") -> Any:  # noqa: ANN401 - a unit
        def unit(tx: Tx) -> None:
            record = tx.record("r")
            assert record is not None
            good = StepSucceeded(**common(tx, "r", 3), node="confirm", generation=0, attempt=1, result=None)
            tx.append(record, [good, SagaCompleted(**common(tx, run_id, position))])

        return unit

    with pytest.raises(AppendConflictError, match="expected its head at position 4, found 3"):
        await journal.commit(append(5))
    with pytest.raises(AppendConflictError, match="expected its head at position 2, found 3"):
        await journal.commit(append(3))
    with pytest.raises(JournalError, match="belongs to stream 'run/elsewhere'"):
        await journal.commit(append(4, "elsewhere"))
    # A decision on an old record is not appended, even where its position would fit.
    with pytest.raises(AppendConflictError, match="expected its head at position 1, found 2"):
        await journal.commit(
            lambda tx: tx.append(
                stale, [StepSucceeded(**common(tx, "r", 3), node="confirm", generation=0, attempt=1, result=None)]
            )
        )
    with pytest.raises(AppendConflictError, match="expected its head at position 0, found 2"):
        await journal.commit(accept("r"))
    with pytest.raises(TransitionError):
        await journal.commit(lambda tx: tx.append(_present(tx), [SagaCompleted(**common(tx, "r", 3))]))
    assert [fact.position for fact in await journal.facts("r")] == [1, 2]


def _present(tx: Tx) -> Any:  # noqa: ANN401 - a record
    record = tx.record("r")
    assert record is not None
    return record


async def test_a_refused_append_does_not_change_what_its_unit_sees(journal: SqlJournal) -> None:
    """A unit that catches the error continues from the head as it was before."""

    def unit(tx: Tx) -> int:
        record = tx.accept(PLAN, started(tx, "r"))
        first = StepSucceeded(**common(tx, "r", 2), node="reserve", generation=0, attempt=1, result=None)
        with pytest.raises(TransitionError):
            tx.append(record, [first, SagaCompleted(**common(tx, "r", 3))])
        tx.append(record, [first])
        return _present(tx).state.position  # type: ignore[no-any-return]

    assert await journal.commit(unit) == 2
    assert [fact.kind for fact in await journal.facts("r")] == ["SagaStarted", "StepSucceeded"]


async def test_a_fact_must_name_the_plan_that_is_stored_for_it(journal: SqlJournal) -> None:
    """A run cannot be accepted under a fingerprint that is not its plan's."""
    with pytest.raises(JournalError, match="names plan"):
        await journal.commit(lambda tx: tx.accept(plan_of("else"), started(tx, "r")))


async def test_a_plan_is_stored_once(journal: SqlJournal, other: SqlJournal) -> None:
    """Runs of one plan share one row for it; a first run that is rolled back leaves none."""

    def fail(tx: Tx) -> None:
        accept("gone")(tx)
        msg = "no"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError):
        await journal.commit(fail)
    with journal.engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(plans)).scalar() == 0
    for each, run_id in ((journal, "a"), (journal, "b"), (other, "c")):
        await each.commit(accept(run_id))
    with journal.engine.connect() as connection:
        assert connection.execute(select(plans.c.fingerprint)).scalars().all() == [PLAN.fingerprint]


async def test_what_is_remembered_follows_other_processes(journal: SqlJournal, other: SqlJournal) -> None:
    """Two processes that take turns on one run and one aggregate always work on the present head."""
    await journal.commit(accept("r"))
    await journal.commit(_add("c"))
    for each in (journal, other) * 5:
        await each.commit(_count("c"))
    await other.commit(succeed("r", "reserve"))
    await journal.commit(succeed("r", "confirm"), runs=["r"])
    await other.commit(complete("r"))
    assert [fact.position for fact in await journal.facts("r")] == [1, 2, 3, 4]
    found = await journal.load(Counter, "c")
    assert found is not None
    assert (found.count, found.version) == (10, 11)


def _add(name: str) -> Callable[[Tx], Counter]:
    return step(lambda uow: uow.add(Counter(id=name)))


def _count(name: str) -> Callable[[Tx], None]:
    return step(lambda uow: uow.get(Counter, name).add_one())


@pytest.mark.parametrize("bound", ["RUNS_KEPT", "AGGREGATES_KEPT", "CHANGES_READ"])
async def test_what_is_forgotten_is_read_again(
    journal: SqlJournal, other: SqlJournal, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """Bounds of the memory change its cost, never the written rows."""
    monkeypatch.setattr(loading, bound, 1)
    for number in range(4):
        await journal.commit(accept(f"r{number}"))
        await journal.commit(_add(f"c{number}"))
    for number in range(4):
        for each, node in ((other, "reserve"), (journal, "confirm")):
            await each.commit(succeed(f"r{number}", node), runs=[f"r{number}"])
            await each.commit(_count(f"c{number}"))
    for number in range(4):
        assert len(await journal.facts(f"r{number}")) == 3
        found = await journal.load(Counter, f"c{number}")
        assert found is not None
        assert found.count == 2


async def test_a_log_that_became_shorter_is_read_again(journal: SqlJournal) -> None:
    """After the restore of a backup below it, a running process does not continue from its memory."""
    await journal.commit(accept("r"))
    await journal.commit(accept("lost"))
    await journal.commit(succeed("lost", "reserve"))
    with journal.engine.begin() as connection:
        connection.execute(text("DELETE FROM stored_events WHERE originator_id = 'run/lost'"))
    record = await journal.commit(accept("lost"))
    assert record.state.position == 1


async def test_closed_runs_are_not_remembered(journal: SqlJournal) -> None:
    """The memory holds open runs only, so large inputs of finished runs do not stay; they are still found."""
    known = journal._committer._known
    assert isinstance(known, loading.StoreCache)
    await journal.commit(accept("r"))
    assert list(known.runs) == ["r"]
    for unit in (succeed("r", "reserve"), succeed("r", "confirm"), complete("r")):
        await journal.commit(unit)
    assert list(known.runs) == []
    with pytest.raises(AppendConflictError):
        await journal.commit(accept("r"))


async def test_topics_outside_the_allow_list_import_nothing(journal: SqlJournal) -> None:
    """A planted row that names a module raises for its reader, and the module is not imported."""
    row = ("run/planted", 1, "turtledemo.clock:main", b"{}")
    values = dict(zip(stored_events.c.keys()[1:], (*row, event_checksum(*row)), strict=True))
    with journal.engine.begin() as connection:
        connection.execute(insert(stored_events).values(values))
    for read in (journal.facts, journal.record):
        with pytest.raises(DamagedRunError, match="turtledemo"):
            await read("planted")
    assert "turtledemo" not in sys.modules


async def test_notifications_are_all_events_in_the_order_of_commits(journal: SqlJournal) -> None:
    """Paging through the log gives every event once; a bound is kept."""
    for number in range(5):
        await journal.commit(accept(f"r{number}"))
    first = await journal.notifications(0, 3)
    rest = await journal.notifications(first[-1].id)
    assert [each.originator_id for each in [*first, *rest]] == [stream_of_run(f"r{number}") for number in range(5)]


async def test_streams_are_listed_by_kind(journal: SqlJournal) -> None:
    """The list has only the streams of the requested kind, each once for any length."""
    journal.commit_blocking(step(lambda uow: uow.add(Counter(id="z"))))
    journal.commit_blocking(step(lambda uow: uow.get(Counter, "z").add_one()))
    journal.commit_blocking(step(lambda uow: uow.add(Counter(id="a/b"))))
    await journal.commit(accept("r-1"))
    assert journal.streams_blocking(Counter.category()) == ["Counter/a/b", "Counter/z"]
    assert journal.streams_blocking("Count_r") == []


async def test_runs_are_listed_newest_first_and_page_by_page(journal: SqlJournal) -> None:
    """Order is by time of acceptance, then id; pages neither repeat nor miss a run, also among equal times."""
    for number, at_ms in enumerate((1_000, 3_000, 3_000, 2_000)):
        await journal.commit(accept(f"r{number}", at_ms=at_ms))
    expected = ["r2", "r1", "r3", "r0"]
    assert [run.run_id for run in await journal.runs(RunQuery())] == expected
    found: list[str] = []
    while page := await journal.runs(RunQuery(limit=1, before=found[-1] if found else None)):
        found += [run.run_id for run in page]
    assert found == expected
    assert [run.run_id for run in await journal.runs(RunQuery(since_ms=2_000))] == expected[:3]
    with pytest.raises(NotFoundError, match="no run 'nobody'"):
        await journal.runs(RunQuery(before="nobody"))


async def test_runs_are_found_by_saga_status_and_keys(journal: SqlJournal) -> None:
    """Every filter narrows the list; several business keys must all match; NUL in a value does no harm."""
    refund = plan_of("pay", saga="refund")
    await journal.commit(accept("a", customer="ann", city="Oslo"))
    await journal.commit(accept("b", customer="ann", city="Rome"))
    await journal.commit(accept("c", refund, customer="bob\0"))
    await journal.commit(succeed("c", "pay"))
    await journal.commit(complete("c"))

    async def ids(**query: Any) -> list[str]:  # noqa: ANN401 - those of RunQuery
        return sorted(run.run_id for run in await journal.runs(RunQuery(**query)))

    assert await ids(where=(("customer", "ann"),)) == ["a", "b"]
    assert await ids(where=(("customer", "ann"), ("city", "Rome"))) == ["b"]
    assert await ids(where=(("customer", "bob\0"),)) == ["c"]
    assert await ids(saga="refund") == ["c"]
    assert await ids(statuses=frozenset({RunStatus.COMPLETED})) == ["c"]
    assert await ids(statuses=frozenset({RunStatus.COMPLETED, RunStatus.RUNNING})) == ["a", "b", "c"]
    assert await ids(statuses=frozenset({RunStatus.COMPENSATED})) == []


async def test_a_run_that_is_taken_over_is_listed_with_its_new_driver(journal: SqlJournal) -> None:
    """Recovery finds runs by the driver that the list names, though taking over changes no status."""
    await journal.commit(accept("r"))
    protocol = RunProtocol(Registry(()), "op")
    await journal.commit(lambda tx: protocol.take_over(tx, "r", "temporal", 1_000, actor="op", reason="why"))
    assert [row.driver for row in await journal.runs(RunQuery())] == ["temporal"]


async def test_a_journal_that_cannot_be_opened_says_why(tmp_path: Path, postgres_url: str) -> None:
    """A missing directory and a missing schema each give one line."""
    with pytest.raises(InputError, match="there is no directory"):
        open_journal(f"sqlite:///{tmp_path / 'none' / 'store.db'}")
    with pytest.raises(JournalError, match="run `amends db upgrade`"):
        open_journal(postgres_url)


async def test_blocking_reads_give_what_the_others_give(journal: SqlJournal) -> None:
    """A program without an event loop reads the same."""
    await journal.commit(accept("r"))
    await journal.commit(_add("c"))
    assert journal.record_blocking("r") == await journal.record("r")
    assert journal.runs_blocking(RunQuery()) == await journal.runs(RunQuery())
    assert journal.events_blocking("Counter/c") == await journal.events("Counter/c", limit=1)
    loaded = journal.load_blocking(Counter, "c")
    assert loaded == await journal.load(Counter, "c") is not None
    assert journal.load_blocking(Counter, "d") is None


# ---- the read model is the fold, after any events

_NODES = ("reserve", "confirm")


def _facts(tx: Tx, run_id: str, position: int, kind: int, node: str) -> Fact:
    base = common(tx, run_id, position, at_ms=1_000 + position)
    attempt = {"node": node, "generation": 0, "attempt": 1}
    makers: list[Any] = [
        lambda: StepSucceeded(**base, **attempt, result={"x": position}),
        lambda: StepRejected(**base, **attempt, reason=f"no {position}\0"),
        lambda: StepAttemptFailed(**base, **attempt, error_type="E", error=f"bad {position}", retry_at_ms=5_000),
        lambda: SagaFailed(**base, node=node, reason="because"),
        lambda: CompensationSucceeded(**base, **attempt),
        lambda: SagaCompleted(**base),
        lambda: SagaCompensated(**base),
        lambda: AttentionRequested(**base, nodes=(node,), reason="help"),
    ]
    return makers[kind]()  # type: ignore[no-any-return]


@contextmanager
def _two_journals() -> Iterator[list[SqlJournal]]:
    with tempfile.TemporaryDirectory() as folder:
        journals = [open_prepared(f"sqlite:///{folder}/store.db") for _ in range(2)]
        try:
            yield journals
        finally:
            for journal in journals:
                journal.close_blocking()


_ACTION = st.tuples(
    st.integers(0, 1), st.sampled_from(["a", "b"]), st.integers(0, 7), st.sampled_from(_NODES), st.booleans()
)


@settings(max_examples=try_out(12), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_ACTION, max_size=30))
def test_the_read_model_equals_the_fold(actions: list[tuple[int, str, int, str, bool]]) -> None:
    """After any history, written by two processes in turn and with failing units, rows and records are folds."""

    def unit_of(run_id: str, kind: int, node: str, *, fails: bool) -> Any:  # noqa: ANN401 - a unit
        def unit(tx: Tx) -> None:
            record = tx.record(run_id) or tx.accept(PLAN, started(tx, run_id, customer=run_id))
            tx.append(record, [_facts(tx, run_id, record.state.position + 1, kind, node)])
            if fails:
                msg = "after the append"
                raise RuntimeError(msg)

        return unit

    with _two_journals() as journals:
        for which, run_id, kind, node, fails in actions:
            try:
                journals[which].commit_blocking(unit_of(run_id, kind, node, fails=fails), runs=[run_id])
            except (AmendsError, RuntimeError):
                continue
        for run_id in ("a", "b"):
            facts = journals[0].facts_blocking(run_id)
            rows = {run.run_id: run for run in journals[0].runs_blocking(RunQuery())}
            assert [fact.position for fact in facts] == list(range(1, len(facts) + 1))
            if not facts:
                assert run_id not in rows
                continue
            folded = fold_facts(PLAN, facts)
            assert [journal.record_blocking(run_id) for journal in journals] == [folded, folded]
            error = folded.summary.error
            cleaned = None if error is None else error.replace("\0", "\ufffd")
            assert rows[run_id] == folded.summary._replace(error=cleaned)
        with journals[0].engine.connect() as connection:
            keys = connection.execute(select(run_keys.c.run_id, run_keys.c.value)).all()
            indexed = connection.execute(select(saga_index.c.run_id)).scalars().all()
        assert sorted(run_id for run_id, _ in keys) == sorted(indexed)
