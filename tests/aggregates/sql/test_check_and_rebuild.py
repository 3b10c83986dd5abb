"""The check finds every kind of damage in its place and nowhere else, and the read model can be rebuilt."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aggregate_parts.damaging import seal
from eventsourcing.domain import event
from sqlalchemy import Engine, func, select, text, update
from sqlalchemy.event import listens_for as event_of

from amends.aggregates.audit import Finding, FindingKind
from amends.aggregates.errors import AmendsError, JournalError
from amends.aggregates.events.aggregate import Aggregate
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.journal import RunQuery, Tx
from amends.aggregates.run.facts import SagaCompleted, SagaStarted, StepSucceeded, stream_of_run
from amends.aggregates.run.plan import Plan, PlanNode, RetryPolicy, Role, Stage, StepKind
from amends.aggregates.run.record import RunRecord
from amends.aggregates.sql import check as store_check
from amends.aggregates.sql.check import check
from amends.aggregates.sql.engine import create_store_engine, safe_url, writing
from amends.aggregates.sql.journal import SqlJournal, open_journal
from amends.aggregates.sql.migrations import upgrade
from amends.aggregates.sql.rebuild_index import rebuild_index
from amends.aggregates.sql.run_index import find_runs
from amends.aggregates.sql.schema import run_keys, saga_index, snapshots, stored_events

ONCE = RetryPolicy(max_attempts=1, first_ms=0, factor=1, longest_ms=0)
NODE = PlanNode(name="count", step="count", kind=StepKind.TRANSACTION, role=Role.PIVOT, retry=ONCE)
PLAN = Plan(saga="counting", input_type="Order", stages=(Stage(nodes=(NODE,)),), keys=("sku",))


class Counter(Aggregate):
    """An aggregate with a command that breaks the rules of its own events."""

    @event("Opened")
    def __init__(self, id: str, limit: int) -> None:  # noqa: A002, ARG002 - the word that aggregates use
        """Begin with zero."""
        self.limit = limit
        self.total = 0

    @event("Counted")
    def count(self, by: int) -> None:
        """Add to the total."""
        if self.total + by > self.limit:
            raise ValueError("over the limit")
        self.total += by


def filled(url: str) -> Iterator[SqlJournal]:
    """Yield the journal of a store with three runs and two counters, one of them with a snapshot."""
    engine = create_store_engine(url)
    upgrade(engine)
    engine.dispose()
    journal = open_journal(url, aggregates=[Counter])
    for number in (1, 2, 3):
        journal.commit_blocking(lambda tx, number=number: start(tx, f"order-{number}", closed=number < 3))
    journal.commit_blocking(lambda tx: count(tx, "few", 3))
    journal.commit_blocking(lambda tx: count(tx, "many", 250))
    yield journal
    journal.engine.dispose()


@pytest.fixture
def journal(store_url: str) -> Iterator[SqlJournal]:
    """Yield the journal of a filled store; the test runs once on each database."""
    yield from filled(store_url)


@pytest.fixture
def store(journal: SqlJournal) -> Engine:
    """Return the engine of a filled store; the test runs once on each database."""
    return journal.engine


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    """Yield the engine of a filled store on SQLite, for tests that do not depend on the database."""
    for journal in filled(sqlite_url):
        yield journal.engine


CODEC = EventCodec([Counter])


def start(tx: Tx, run_id: str, *, closed: bool) -> None:
    """Accept a run, and drive it to its end."""
    common = {"as_of_ms": 5, "recorded_at_ms": 6, "correlation_id": run_id, "causation_id": None, "actor": "test"}
    stream = stream_of_run(run_id)
    started = SagaStarted(
        **common,
        originator_id=stream,
        originator_version=1,
        saga=PLAN.saga,
        fingerprint=PLAN.fingerprint,
        input={"sku": "x"},
        keys={"sku": "x", "by": run_id},
        store_id=tx.store_id,
        driver="in-process",
        epoch=0,
        guarantees={},
    )
    record = tx.accept(PLAN, started)
    if closed:
        tx.append(
            record,
            [
                StepSucceeded(
                    **common,
                    originator_id=stream,
                    originator_version=2,
                    node="count",
                    generation=0,
                    attempt=1,
                    result=None,
                ),
                SagaCompleted(**common, originator_id=stream, originator_version=3),
            ],
        )


def count(tx: Tx, name: str, times: int) -> None:
    """Create a counter with a number of events after its first."""
    with tx.unit_of_work() as work:
        counter = work.add(Counter(id=name, limit=1000))
        for _ in range(times):
            counter.count(1)


def found(engine: Engine, codec: EventCodec = CODEC) -> list[tuple[FindingKind, str, int | None]]:
    """Check the store, and return kind, subject and position of each finding; each message is a line with a remedy."""
    findings = list(check(engine, codec))
    for finding in findings:
        assert "\n" not in finding.message
        assert ";" in finding.message
    return [(finding.kind, finding.subject, finding.position) for finding in findings]


def run(engine: Engine, sql: str, **parameters: object) -> None:
    """Change the store without the journal."""
    with writing(engine) as connection:
        changed = connection.execute(text(sql), parameters)
        assert changed.rowcount > 0


def forge(engine: Engine, sql: str, **parameters: object) -> None:
    """Change the store as a faulty program would: every event fits its checksum afterwards."""
    run(engine, sql, **parameters)
    seal(engine)


def test_a_sound_store_has_no_findings(store: Engine) -> None:
    """A store that only the journal wrote has no findings."""
    assert found(store) == []


def test_pages_change_nothing(store: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check reads every stream and row once, for every size of a page, and changes nothing."""
    run(store, "UPDATE saga_index SET status = 'RUNNING'")
    run(store, "DELETE FROM stored_events WHERE originator_id = 'Counter/few' AND originator_version = 2")
    expected = [
        (FindingKind.GAP, "Counter/few", 2),
        (FindingKind.READ_MODEL, "run/order-1", None),
        (FindingKind.READ_MODEL, "run/order-2", None),
    ]
    assert found(store) == expected
    for size in (3, 2, 1):
        monkeypatch.setattr(store_check, "STREAMS_A_PAGE", size)
        monkeypatch.setattr(store_check, "ROWS_A_PAGE", size)
        assert found(store) == expected
        if size == 1:
            assert rebuild_index(store, CODEC).written == 3
    assert found(store) == expected[:1]


def test_a_missing_event_is_a_gap(engine: Engine) -> None:
    """A hole in a stream is found once, at the first missing position."""
    run(engine, "DELETE FROM stored_events WHERE originator_id = 'Counter/few' AND originator_version = 2")
    assert found(engine) == [(FindingKind.GAP, "Counter/few", 2)]


def test_a_stream_without_its_beginning_is_a_gap(engine: Engine) -> None:
    """Positions begin with 1."""
    run(engine, "DELETE FROM stored_events WHERE originator_id = 'run/order-1' AND originator_version = 1")
    assert found(engine) == [(FindingKind.GAP, "run/order-1", 1)]


def test_a_position_below_1_is_found(store: Engine) -> None:
    """A row before the first position is a fault as well."""
    run(
        store,
        "INSERT INTO stored_events (originator_id, originator_version, topic, state, checksum) "
        "SELECT originator_id, -1, topic, state, checksum FROM stored_events "
        "WHERE originator_id = 'Counter/few' AND originator_version = 1",
    )
    assert (FindingKind.GAP, "Counter/few", -1) in found(store)


def test_damaged_state_is_found(store: Engine) -> None:
    """The finding names a row whose payload cannot be read, with its position."""
    forge(
        store,
        "UPDATE stored_events SET state = :raw WHERE originator_id = 'run/order-2' AND originator_version = 2",
        raw=b'{"node": "co',
    )
    assert found(store) == [(FindingKind.DAMAGED, "run/order-2", 2)]


def test_an_unknown_topic_is_found_and_not_imported(engine: Engine) -> None:
    """A topic that no loaded module defines is one finding for the whole stream, and is not imported."""
    assert found(engine, EventCodec()) == [
        (FindingKind.UNKNOWN_TOPIC, "Counter/few", 1),
        (FindingKind.UNKNOWN_TOPIC, "Counter/many", 1),
    ]


def test_a_newer_event_is_found(engine: Engine) -> None:
    """The check distinguishes an event of a newer version from a damaged one."""
    with engine.connect() as connection:
        stored = stored_events.c
        here = (stored.originator_id == "Counter/few") & (stored.originator_version == 2)
        state = json.loads(connection.execute(select(stored.state).where(here)).scalar_one())
    with writing(engine) as connection:
        raw = json.dumps({**state, "class_version": 7}).encode()
        connection.execute(update(stored_events).where(here).values(state=raw))
    seal(engine)
    assert found(engine) == [(FindingKind.NEWER, "Counter/few", 2)]


def test_a_fact_that_does_not_follow_is_found(engine: Engine) -> None:
    """A run that was closed before its step succeeded, which the core never writes, is found."""
    forge(
        engine,
        "UPDATE stored_events SET topic = 'amends.SagaCompleted', state = (SELECT state FROM stored_events "
        "WHERE originator_id = 'run/order-1' AND originator_version = 3) "
        "WHERE originator_id = 'run/order-1' AND originator_version = 2",
    )
    assert found(engine) == [(FindingKind.IMPOSSIBLE, "run/order-1", 2)]


def test_a_run_that_does_not_begin_is_found(engine: Engine) -> None:
    """A run's stream must begin with its acceptance."""
    run(engine, "DELETE FROM stored_events WHERE originator_id = 'run/order-1' AND originator_version < 3")
    forge(engine, "UPDATE stored_events SET originator_version = 1 WHERE originator_id = 'run/order-1'")
    assert found(engine) == [(FindingKind.IMPOSSIBLE, "run/order-1", 1)]


def test_an_event_that_cannot_be_applied_is_found(engine: Engine) -> None:
    """The finding names an event that the aggregate's own code refuses on replay."""
    forge(
        engine,
        "UPDATE stored_events SET state = (SELECT state FROM stored_events "
        "WHERE originator_id = 'Counter/few' AND originator_version = 1), topic = 'Counter.Opened' "
        "WHERE originator_id = 'Counter/few' AND originator_version = 3",
    )
    assert found(engine) == [(FindingKind.IMPOSSIBLE, "Counter/few", 3)]


def test_a_missing_plan_is_found(engine: Engine) -> None:
    """The finding names runs whose plan is not in the store."""
    run(engine, "DELETE FROM plans")
    assert found(engine) == [(FindingKind.NO_PLAN, f"run/order-{number}", 1) for number in (1, 2, 3)]


def test_a_changed_plan_is_found(engine: Engine) -> None:
    """A plan whose content does not match its fingerprint is found."""
    run(engine, "UPDATE plans SET plan = replace(plan, 'Order', 'Other')")
    assert (FindingKind.CHANGED, f"plan {PLAN.fingerprint}", None) in found(engine)


def test_an_unreadable_plan_is_found(engine: Engine) -> None:
    """The findings name a plan that cannot be read, and the runs that follow it."""
    run(engine, "UPDATE plans SET plan = 'nonsense'")
    assert found(engine) == [
        (FindingKind.CHANGED, f"plan {PLAN.fingerprint}", None),
        *((FindingKind.DAMAGED, f"run/order-{number}", 1) for number in (1, 2, 3)),
    ]


def test_a_snapshot_of_another_state_is_found(engine: Engine) -> None:
    """The check folds the events and finds a snapshot that would restore a different aggregate."""
    with engine.connect() as connection:
        raw = connection.execute(select(snapshots.c.state)).scalar_one()
    with writing(engine) as connection:
        assert b'"total":250' in raw
        connection.execute(update(snapshots).values(state=raw.replace(b'"total":250', b'"total":999')))
    seal(engine)
    assert found(engine) == [(FindingKind.SNAPSHOT, "Counter/many", 251)]


def test_a_snapshot_ahead_of_its_stream_is_found(engine: Engine) -> None:
    """A snapshot beyond the end of its stream, whose last events were lost, is found."""
    run(engine, "DELETE FROM stored_events WHERE originator_id = 'Counter/many' AND originator_version > 100")
    assert found(engine) == [(FindingKind.SNAPSHOT, "Counter/many", 251)]


def test_a_snapshot_without_stream_is_found(store: Engine) -> None:
    """A snapshot of an aggregate without events is found."""
    run(store, "DELETE FROM stored_events WHERE originator_id = 'Counter/many'")
    assert found(store) == [(FindingKind.SNAPSHOT, "Counter/many", None)]


STALE = [
    ("status = 'RUNNING'", "status is 'RUNNING', the journal says 'COMPLETED'"),
    ("position = 2", "position is 2, the journal says 3"),
    ("saga = 'other'", "saga is 'other', the journal says 'counting'"),
    ("started_ms = 0", "started_ms is 0, the journal says 5"),
    ("updated_ms = 0", "updated_ms is 0, the journal says 5"),
    ("current = 'count'", "current is 'count', the journal says ''"),
    ("error = 'none'", "error is 'none', the journal says None"),
    ("keys = '{}'", """keys is '{}', the journal says '{"sku": "x", "by": "order-1"}'"""),
    (
        """keys = '{"sku":"x","by":"order-1"}'""",
        """keys is '{"sku":"x","by":"order-1"}', the journal says '{"sku": "x", "by": "order-1"}'""",
    ),
    ("keys = 'x'", """keys is 'x', the journal says '{"sku": "x", "by": "order-1"}'"""),
    ("driver = 'temporal'", "driver is 'temporal', the journal says 'in-process'"),
    ("fingerprint = 'f'", f"fingerprint is 'f', the journal says '{PLAN.fingerprint}'"),
]


def test_a_stale_row_is_found_and_made_again(store: Engine) -> None:
    """The check compares every column of the read model, and rebuilding restores the journal's values."""
    columns = {column.name for column in saga_index.columns} - {"run_id"}
    assert columns == {change.partition(" ")[0] for change, _ in STALE}
    for change, said in STALE:
        run(store, f"UPDATE saga_index SET {change} WHERE run_id = 'order-1'")  # noqa: S608 - from the table above
        assert list(check(store, CODEC)) == [
            Finding(FindingKind.READ_MODEL, "run/order-1", None, said, "rebuild the read model")
        ]
        assert rebuild_index(store, CODEC).written == 3
        assert found(store) == []


def test_missing_and_wrong_rows_are_made_again(store: Engine) -> None:
    """A run without a row, or with wrong business keys, is found, and rebuilding fixes it."""
    for damage in (
        "DELETE FROM saga_index WHERE run_id = 'order-1'",
        "DELETE FROM run_keys WHERE run_id = 'order-1'",
        "UPDATE run_keys SET value = 'y' WHERE run_id = 'order-1' AND field = 'sku'",
        "INSERT INTO run_keys (run_id, field, value) VALUES ('order-1', 'colour', 'red')",
    ):
        run(store, damage)
        assert found(store) == [(FindingKind.READ_MODEL, "run/order-1", None)]
        assert all(finding.fixed_by_rebuild for finding in check(store, CODEC))
        rebuild_index(store, CODEC)
        assert found(store) == []


def test_rows_of_runs_without_facts_are_removed(store: Engine) -> None:
    """Rows of a run that is not in the journal are found, and rebuilding removes them."""
    run(store, "DELETE FROM stored_events WHERE originator_id = 'run/order-1'")
    assert found(store) == [(FindingKind.READ_MODEL, "run/order-1", None)] * 2
    assert rebuild_index(store, CODEC).removed == 1
    assert found(store) == []


def test_rebuilding_gives_what_was_there(store: Engine) -> None:
    """A read model that was lost whole comes back equal, business keys included."""
    queries = [RunQuery(), RunQuery(where=(("by", "order-2"),))]
    with store.connect() as connection:
        before = [find_runs(connection, query) for query in queries]
    run(store, "DELETE FROM saga_index")
    run(store, "DELETE FROM run_keys")
    rebuilt = rebuild_index(store, CODEC)
    assert (rebuilt.written, rebuilt.removed, rebuilt.skipped) == (3, 0, ())
    with store.connect() as connection:
        assert [find_runs(connection, query) for query in queries] == before
    assert [len(runs) for runs in before] == [3, 1]


def test_rebuilding_leaves_out_what_it_cannot_fold(engine: Engine) -> None:
    """One damaged run does not stop the others from being rebuilt, and keeps its row."""
    run(engine, "UPDATE saga_index SET status = 'RUNNING'")
    run(engine, "DELETE FROM stored_events WHERE originator_id = 'run/order-1' AND originator_version = 2")
    rebuilt = rebuild_index(engine, CODEC)
    assert rebuilt.written == 2
    assert [(each.kind, each.subject) for each in rebuilt.skipped] == [(FindingKind.GAP, "run/order-1")]
    with engine.connect() as connection:
        status = connection.execute(select(saga_index.c.status).where(saga_index.c.run_id == "order-1")).scalar_one()
    assert status == "RUNNING"


def test_a_store_in_use_is_not_found_wrong(journal: SqlJournal) -> None:
    """Runs that are accepted and closed during a check, and a rebuild, give no findings."""
    stop = threading.Event()

    def work() -> None:
        number = 100
        while not stop.is_set():
            number += 1
            journal.commit_blocking(lambda tx, number=number: start(tx, f"order-{number}", closed=False))
            journal.commit_blocking(lambda tx, number=number: close(tx, f"order-{number}"))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(5):
            assert found(journal.engine) == []
            rebuild_index(journal.engine, CODEC)
    finally:
        stop.set()
        worker.join()
    assert found(journal.engine) == []
    with journal.engine.connect() as connection:
        runs = connection.execute(select(func.count()).select_from(saga_index)).scalar_one()
        keys = connection.execute(select(func.count()).select_from(run_keys)).scalar_one()
    assert keys == 2 * runs > 6


def test_facts_and_rows_are_read_at_one_moment(journal: SqlJournal) -> None:
    """A run that ends after the check read its facts, and before it reads the row, gives no finding."""
    ended: list[str] = []

    @event_of(journal.engine, "before_cursor_execute")
    def _end_run(_connection: object, _cursor: object, statement: str, parameters: object, *_rest: object) -> None:
        if "FROM saga_index" in statement and "order-3" in str(parameters) and not ended:
            ended.append(statement)
            journal.commit_blocking(lambda tx: close(tx, "order-3"))

    assert found(journal.engine) == []
    assert len(ended) == 1


def close(tx: Tx, run_id: str) -> None:
    """Drive an accepted run to its end."""
    record = tx.record(run_id)
    assert isinstance(record, RunRecord)
    common = {"as_of_ms": 7, "recorded_at_ms": 8, "correlation_id": run_id, "causation_id": None, "actor": "test"}
    stream = stream_of_run(run_id)
    succeeded = StepSucceeded(
        **common, originator_id=stream, originator_version=2, node="count", generation=0, attempt=1, result=None
    )
    tx.append(record, [succeeded, SagaCompleted(**common, originator_id=stream, originator_version=3)])


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    """Damage that SQLite itself sees is a finding of the file, and ends the check."""
    url = f"sqlite:///{tmp_path}/events.db"
    journal = open_journal(url, aggregates=[Counter])
    journal.commit_blocking(lambda tx: count(tx, "many", 250))
    journal.engine.dispose()
    with sqlite3.connect(tmp_path / "events.db") as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = 'stored_events_stream_position'").fetchone()
        size = raw.execute("PRAGMA page_size").fetchone()[0]
    raw.close()
    with (tmp_path / "events.db").open("r+b") as file:
        file.seek((page[0] - 1) * size)
        file.write(b"\xff" * 200)
    engine = create_store_engine(url)
    findings = list(check(engine, CODEC))
    assert {finding.kind for finding in findings} == {FindingKind.DATABASE}
    assert {finding.subject for finding in findings} == {safe_url(engine)}
    assert findings[0].message.endswith("restore the file from a backup")
    engine.dispose()


def test_a_store_without_schema_says_so(store_url: str) -> None:
    """A check of a file that is not a store yet ends in a line that names the command to run."""
    engine = create_store_engine(store_url)
    with pytest.raises(JournalError, match="run `amends db upgrade`") as caught:
        list(check(engine, CODEC))
    assert isinstance(caught.value, AmendsError)
    engine.dispose()
