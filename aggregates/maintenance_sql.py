"""Looking for damage in a store, and making the read model again.

Both work through the store page by page, each page in a transaction of its own, so that memory stays bounded, whatever
the size of the store, and others can go on working. What is compared with each other is read in one snapshot, so a
store that is being written to is not found wrong because of that.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from eventsourcing.persistence import StoredEvent
from pydantic import ValidationError
from sqlalchemy import Connection, Engine, delete, exc, literal, select, text

from amends.aggregates.audit import AggregateAudit, Finding, FindingKind, RunAudit, StreamAudit
from amends.aggregates.codec import EventCodec
from amends.aggregates.engine_sql import safe_url, writing
from amends.aggregates.facts import run_of, stream_of_run
from amends.aggregates.failures_sql import as_amends_error, store_errors
from amends.aggregates.index_sql import write_keys, write_runs
from amends.aggregates.loading_sql import Plans
from amends.aggregates.plan import Plan
from amends.aggregates.record import RunSummary
from amends.aggregates.schema_sql import plans, run_keys, saga_index, snapshots, stored_events
from amends.aggregates.snapshot import Snapshot

__all__ = ["RebuiltIndex", "check", "rebuild_index"]

STREAMS_A_PAGE = 100
ROWS_A_PAGE = 500


@dataclass(frozen=True, slots=True)
class RebuiltIndex:
    """What rebuilding the read model did.

    Attributes:
        written: Runs whose rows were made again.
        removed: Rows of runs that have no facts, which were removed.
        skipped: Why runs could not be folded; their rows were left as they were.
    """

    written: int
    removed: int
    skipped: tuple[Finding, ...]


def check(engine: Engine, codec: EventCodec) -> Iterator[Finding]:
    """Look at every row of the store, and compare what is derived with what it is derived from.

    Found are: damage that the database itself knows of (SQLite), gaps in streams, events and plans that cannot be read
    or do not follow, runs without their plan, snapshots and read model rows that differ from folding the journal. At
    most one finding of a kind is given for a stream.

    Args:
        engine: Of a store whose schema is up to date; may be read-only.
        codec: Knows the facts and the aggregates of all modules; what it does not know is an unknown topic.

    Raises:
        UnreachableError: The store cannot be read.
        JournalError: The database is damaged so that it cannot be read.
    """
    damage = list(_database_damage(engine))
    yield from damage
    if damage:
        # What follows would only be the same damage in other words, if it can be read at all.
        return
    yield from _damaged_plans(engine)
    kept = Plans()
    after = ""
    while True:
        with store_errors(), _snapshot_of(engine) as connection:
            streams = _streams(connection, after)
            found = [finding for stream in streams for finding in _audit(connection, codec, kept, stream).findings]
        yield from found
        if not streams:
            break
        after = streams[-1]
    yield from _orphans(engine)


def rebuild_index(engine: Engine, codec: EventCodec) -> RebuiltIndex:
    """Make the rows and business keys of all runs again from the journal, and remove those of runs that are not in it.

    Others can go on working meanwhile; the writing lock is held for one page at a time.

    Args:
        engine: Of a store whose schema is up to date.
        codec: Knows the facts.

    Raises:
        UnreachableError: The store cannot be read or written; what was done so far stays, and is right.
    """
    kept = Plans()
    written = 0
    skipped: list[Finding] = []
    after = ""
    while True:
        with store_errors(), writing(engine) as connection:
            streams = _streams(connection, after, only_runs=True)
            # SQLite's pattern does not tell "run/" from "Run/".
            runs = [stream for stream in streams if run_of(stream) is not None]
            audits = [_fold_run(connection, codec, kept, stream) for stream in runs]
            summaries = [audit.record.summary for audit in audits if audit.sound and audit.record is not None]
            _replace(connection, summaries)
        written += len(summaries)
        skipped += [finding for audit in audits for finding in audit.findings]
        if not streams:
            break
        after = streams[-1]
    with store_errors(), writing(engine) as connection:
        removed = connection.execute(delete(saga_index).where(_without_facts(saga_index))).rowcount
        connection.execute(delete(run_keys).where(_without_facts(run_keys)))
    return RebuiltIndex(written, removed, tuple(skipped))


# ---- the parts of a check


def _database_damage(engine: Engine) -> Iterator[Finding]:
    if engine.dialect.name != "sqlite":
        return
    try:
        with engine.connect() as connection:
            said = connection.execute(text("PRAGMA integrity_check(20)")).scalars().all()
    except exc.DatabaseError as error:
        if isinstance(error, exc.OperationalError):
            raise as_amends_error(error) from error
        said = [str(as_amends_error(error))]
    for line in said:
        if line != "ok":
            yield Finding(FindingKind.DATABASE, safe_url(engine), None, f"{line}; restore the file from a backup")


def _damaged_plans(engine: Engine) -> Iterator[Finding]:
    after = ""
    while True:
        with store_errors(), engine.connect() as connection:
            page = connection.execute(
                select(plans.c.fingerprint, plans.c.plan)
                .where(plans.c.fingerprint > after)
                .order_by(plans.c.fingerprint)
                .limit(STREAMS_A_PAGE)
            ).all()
        if not page:
            return
        for fingerprint, plan in page:
            if (wrong := _wrong_with_plan(fingerprint, plan)) is not None:
                yield Finding(FindingKind.DAMAGED, f"plan {fingerprint}", None, wrong)
        after = page[-1].fingerprint


def _wrong_with_plan(fingerprint: str, plan: str) -> str | None:
    try:
        found = Plan.model_validate_json(plan).fingerprint
    except ValidationError as error:
        return f"cannot be read, {error.error_count()} fields do not fit; upgrade this program or restore the plan"
    return None if found == fingerprint else f"its content has fingerprint {found}; restore the plan"


def _audit(connection: Connection, codec: EventCodec, kept: Plans, stream: str) -> StreamAudit:
    run_id = run_of(stream)
    if run_id is not None:
        audit = _fold_run(connection, codec, kept, stream)
        row = connection.execute(select(saga_index).where(saga_index.c.run_id == run_id)).mappings().first()
        keys = connection.execute(select(run_keys.c.field, run_keys.c.value).where(run_keys.c.run_id == run_id))
        audit.compare(None if row is None else dict(row), frozenset((field, value) for field, value in keys))
        return audit
    aggregate = AggregateAudit(stream, codec, _newest_snapshot(connection, stream))
    for stored in _rows(connection, stream):
        aggregate.feed(stored)
    aggregate.finish()
    return aggregate


def _fold_run(connection: Connection, codec: EventCodec, kept: Plans, stream: str) -> RunAudit:
    audit = RunAudit(stream, codec, lambda fingerprint: kept.read(connection, fingerprint))
    for stored in _rows(connection, stream):
        audit.feed(stored)
    return audit


def _orphans(engine: Engine) -> Iterator[Finding]:
    """Find what was derived from streams that are not there."""
    for table in (saga_index, run_keys):
        for run_id in _pages(engine, table.c.run_id, _without_facts(table)):
            message = f"run {run_id!r} is in it and has no facts in the journal; rebuild the read model"
            yield Finding(FindingKind.READ_MODEL, table.name, None, message)
    no_events = ~select(literal(1)).where(stored_events.c.originator_id == snapshots.c.originator_id).exists()
    for stream in _pages(engine, snapshots.c.originator_id, no_events):
        yield Finding(FindingKind.SNAPSHOT, stream, None, "the stream has no events; delete its snapshots")


# ---- reading


@contextmanager
def _snapshot_of(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that sees the store as it is at one moment."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


def _streams(connection: Connection, after: str, *, only_runs: bool = False) -> Sequence[str]:
    name = stored_events.c.originator_id
    found = select(name).where(name > after).distinct().order_by(name).limit(STREAMS_A_PAGE)
    if only_runs:
        found = found.where(name.startswith(stream_of_run(""), autoescape=True))
    return connection.execute(found).scalars().all()


def _rows(connection: Connection, stream: str) -> Iterator[StoredEvent]:
    """Read a stream from its very beginning, including positions that should not be there."""
    table = stored_events.c
    after: int | None = None
    while True:
        found = select(table.originator_id, table.originator_version, table.topic, table.state)
        found = found.where(table.originator_id == stream)
        if after is not None:
            found = found.where(table.originator_version > after)
        page = connection.execute(found.order_by(table.originator_version).limit(ROWS_A_PAGE)).all()
        for row in page:
            yield StoredEvent(row[0], row[1], row[2], row[3])
        if len(page) < ROWS_A_PAGE:
            return
        after = page[-1].originator_version


def _newest_snapshot(connection: Connection, stream: str) -> Snapshot | None:
    table = snapshots.c
    found = select(snapshots).where(table.originator_id == stream).order_by(table.originator_version.desc()).limit(1)
    row = connection.execute(found).first()
    return None if row is None else Snapshot(row.originator_id, row.originator_version, row.topic, row.state)


def _pages(engine: Engine, column: Any, condition: Any) -> Iterator[str]:  # noqa: ANN401 - SQL expressions
    after = ""
    while True:
        with store_errors(), engine.connect() as connection:
            found = select(column).where(condition, column > after).distinct().order_by(column).limit(STREAMS_A_PAGE)
            page = connection.execute(found).scalars().all()
        yield from page
        if not page:
            return
        after = page[-1]


def _without_facts(table: Any) -> Any:  # noqa: ANN401 - SQL expressions
    stream = literal(stream_of_run("")).concat(table.c.run_id)
    return ~select(literal(1)).where(stored_events.c.originator_id == stream).exists()


# ---- writing


def _replace(connection: Connection, summaries: Sequence[RunSummary]) -> None:
    run_ids = [summary.run_id for summary in summaries]
    if not run_ids:
        return
    for table in (saga_index, run_keys):
        connection.execute(delete(table).where(table.c.run_id.in_(run_ids)))
    write_runs(connection, summaries)
    keys = [(summary.run_id, field, value) for summary in summaries for field, value in summary.keys.items()]
    if keys:
        write_keys(connection, keys)
