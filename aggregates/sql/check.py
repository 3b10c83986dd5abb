"""Check a store for damage: the whole store, its next page, its new events, or some of its streams.

The check reads page by page, each page in a transaction of its own, so that memory stays bounded for any size of the
store and other processes can go on working. It reads data that it compares in one database snapshot, so concurrent
writes never appear as damage.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from eventsourcing.persistence import StoredEvent
from sqlalchemy import Connection, Engine, literal, select

from amends.aggregates.audit import (
    DELETE_SNAPSHOTS,
    REBUILD,
    AggregateAudit,
    Finding,
    FindingKind,
    RunAudit,
    StreamAudit,
)
from amends.aggregates.damage import RESTORE
from amends.aggregates.events.event_codec import EventCodec
from amends.aggregates.events.snapshot import Snapshot
from amends.aggregates.run.facts import run_of, stream_of_run
from amends.aggregates.sql.check_intake import damaged_intake
from amends.aggregates.sql.damage import damaged_plans, database_damage
from amends.aggregates.sql.engine import snapshot_of
from amends.aggregates.sql.errors import store_errors
from amends.aggregates.sql.loading import Plans
from amends.aggregates.sql.rows import changed_after, last_notification_id, read_stream
from amends.aggregates.sql.schema import bindable, is_text, run_keys, saga_index, snapshots, stored_events
from amends.aggregates.values.checksum import snapshot_fits
from amends.aggregates.values.strict_json import clean_text

__all__ = [
    "ALL",
    "READ_MODEL",
    "STREAMS",
    "Changed",
    "Page",
    "Part",
    "check",
    "check_changes",
    "check_page",
    "check_streams",
    "fold_run",
    "newest_change",
    "streams_after",
]

STREAMS_A_PAGE = 100
ROWS_A_PAGE = 500
_BEGINNING = -(2**62)
CHANGES_A_PAGE = 2_000


class Part(StrEnum):
    """A part of a store; a check reads one part after the other."""

    STREAMS = "streams"
    RUNS = "runs"
    ROWS = "rows"
    KEYS = "keys"
    SNAPSHOTS = "snapshots"


ALL = (Part.STREAMS, Part.ROWS, Part.KEYS, Part.SNAPSHOTS)
"""The journal, and all data that is derived from it."""

READ_MODEL = (Part.RUNS, Part.ROWS, Part.KEYS)
"""The data from which runs are listed and found."""

STREAMS = (Part.STREAMS, Part.SNAPSHOTS)
"""The journal, and the snapshots of its aggregates; the read model is compared along the way."""


@dataclass(frozen=True, slots=True)
class Page:
    """The result of checking one page.

    Attributes:
        findings: The faults.
        position: Position of the next page; empty at the end.
        size: Amount of work: the number of events, plus a tenth of the number of rows, which take less time.
    """

    findings: tuple[Finding, ...]
    position: str
    size: int


@dataclass(frozen=True, slots=True)
class Changed:
    """The result of checking one page of changes.

    Attributes:
        findings: The faults of the changed streams.
        position: Notification id up to which changes are checked; the former id if nothing has changed.
    """

    findings: tuple[Finding, ...]
    position: int


def check(engine: Engine, codec: EventCodec) -> Iterator[Finding]:
    """Check every row of the store, and compare derived data with its source.

    The check finds damage that the database itself reports (SQLite), gaps in streams, events and plans that are
    unreadable or do not follow, runs without their plan, snapshots and read model rows that differ from the folded
    journal, and changed or missing rows of the pipelines and the outbox. It yields at most one finding of each kind per
    stream.

    Args:
        engine: Engine of a store whose schema is up to date; may be read-only.
        codec: Codec with the facts and the aggregates of all modules; any other event has an unknown topic.

    Raises:
        UnreachableError: The store is unreadable at the moment.
        JournalError: The database is too damaged to read.
    """
    damage = list(database_damage(engine))
    yield from damage
    if damage:
        # Further checks would report the same damage in other words, or fail to read at all.
        return
    yield from damaged_plans(engine)
    yield from damaged_intake(engine)
    kept = Plans()
    page = check_page(engine, codec, "", ALL, kept)
    yield from page.findings
    while page.position:
        page = check_page(engine, codec, page.position, ALL, kept)
        yield from page.findings


def check_page(
    engine: Engine,
    codec: EventCodec,
    position: str,
    parts: Sequence[Part],
    kept: Plans,
    *,
    most: int | None = None,
) -> Page:
    """Check the next page of a store.

    Args:
        engine: Engine of a store whose schema is up to date; may be read-only.
        codec: As for `check`.
        position: End of the page before; empty to begin.
        parts: The parts to check, in this order.
        kept: Plans that were read.
        most: The number of events after which the page ends, at the end of a stream; `None` for no such bound.

    Raises:
        UnreachableError: The store is unreadable at the moment.
        JournalError: The database is too damaged to read.
    """
    name, _, after = position.partition(":")
    part = Part(name) if name in set(Part) else parts[0]
    with store_errors(), snapshot_of(engine) as connection:
        match part:
            case Part.STREAMS | Part.RUNS:
                findings, last, size = _stream_page(
                    connection, codec, kept, after, only_runs=part is Part.RUNS, most=most
                )
            case Part.ROWS:
                findings, last, size = _row_page(connection, saga_index, after)
            case Part.KEYS:
                findings, last, size = _row_page(connection, run_keys, after)
            case Part.SNAPSHOTS:
                findings, last, size = _snapshot_page(connection, after)
    if last is not None:
        return Page(findings, f"{part.value}:{last}", size)
    following = parts[parts.index(part) + 1 :]
    return Page(findings, f"{following[0].value}:" if following else "", size)


def check_changes(engine: Engine, codec: EventCodec, after_id: int, kept: Plans, *, only_runs: bool = False) -> Changed:
    """Check a page of the events after a notification id.

    The check folds changed runs from the beginning and compares them with the read model. Of aggregates, which may be
    long, it reads only the new events and the event before them.

    Raises:
        UnreachableError: The store is unreadable at the moment.
        JournalError: The database is too damaged to read.
    """
    findings: list[Finding] = []
    with store_errors(), snapshot_of(engine) as connection:
        changed, last_id = changed_after(connection, after_id, CHANGES_A_PAGE)
        derived = _ReadModel(connection, changed)
        for stream, first in changed.items():
            if not is_text(stream):
                findings.append(_damaged_name(stream))
            elif run_of(stream) is not None:
                findings += _audit(connection, codec, kept, stream, derived).findings
            elif not only_runs:
                tail = StreamAudit(stream, codec, after=max(0, first - 2))
                _feed(tail, _rows(connection, stream, after=first - 2))
                # The findings come from a check of the whole stream, so that their messages are the same as there.
                findings += _audit(connection, codec, kept, stream, derived).findings if tail.findings else []
    return Changed(tuple(findings), last_id)


def newest_change(engine: Engine) -> int:
    """Read the highest notification id; 0 when nothing was ever written.

    Raises:
        UnreachableError: The store is unreadable at the moment.
    """
    with store_errors(), engine.connect() as connection:
        return last_notification_id(connection)


def check_streams(engine: Engine, codec: EventCodec, streams: Sequence[str]) -> Iterator[Finding]:
    """Check some whole streams and the data derived from them; a missing stream may have left rows behind.

    Raises:
        UnreachableError: The store is unreadable at the moment.
        JournalError: The database is too damaged to read.
    """
    kept = Plans()
    for stream in streams:
        with store_errors(), snapshot_of(engine) as connection:
            audit = _audit(connection, codec, kept, stream, _ReadModel(connection, [stream]))
            found = audit.findings if audit.last else list(_left_behind(connection, stream))
        yield from found


# ---- the parts of a check


_Part = tuple[tuple[Finding, ...], str | None, int]


def _stream_page(
    connection: Connection, codec: EventCodec, kept: Plans, after: str, *, only_runs: bool, most: int | None
) -> _Part:
    findings: list[Finding] = []
    last, size = None, 0
    streams = streams_after(connection, after, only_runs=only_runs)
    derived = _ReadModel(connection, streams)
    for stream in streams:
        last = stream
        if not is_text(stream):
            findings.append(_damaged_name(stream))
            continue
        # SQLite's pattern does not distinguish "run/" from "Run/".
        if only_runs and run_of(stream) is None:
            continue
        audit = _audit(connection, codec, kept, stream, derived)
        findings += audit.findings
        size += audit.count
        if most is not None and size >= most:
            break
    return tuple(findings), last, size


def _row_page(connection: Connection, table: Any, after: str) -> _Part:  # noqa: ANN401 - an SQL table
    """Find rows of the read model whose runs are not in the journal."""
    run_ids = _page(connection, table.c.run_id, after)
    there = _that_exist(connection, [stream_of_run(run_id) for run_id in run_ids if is_text(run_id)])
    lost = [run_id for run_id in run_ids if stream_of_run(run_id) not in there]
    return tuple(_lost_run(table, run_id) for run_id in lost), run_ids[-1] if run_ids else None, len(run_ids) // 10


def _snapshot_page(connection: Connection, after: str) -> _Part:
    streams = _page(connection, snapshots.c.originator_id, after)
    there = _that_exist(connection, [stream for stream in streams if is_text(stream)])
    findings = [_lost_stream(stream) for stream in streams if stream not in there]
    if streams:
        name = snapshots.c.originator_id
        rows = select(snapshots).where(name > bindable(after), name <= bindable(streams[-1]))
        for row in connection.execute(rows.order_by(name, snapshots.c.originator_version)):
            if not snapshot_fits(*row):
                problem = "the snapshot was changed: its checksum does not match"
                subject = clean_text(row.originator_id)
                findings.append(
                    Finding(FindingKind.SNAPSHOT, subject, row.originator_version, problem, DELETE_SNAPSHOTS)
                )
    return tuple(findings), streams[-1] if streams else None, len(streams) // 10


def _damaged_name(stream: str) -> Finding:
    problem = "the name of the stream is not valid text"
    return Finding(FindingKind.CHANGED, clean_text(stream), None, problem, RESTORE)


def _lost_run(table: Any, run_id: str) -> Finding:  # noqa: ANN401 - as above
    problem = f"the run is in {table.name} but has no facts in the journal"
    return Finding(FindingKind.READ_MODEL, stream_of_run(clean_text(run_id)), None, problem, REBUILD)


def _lost_stream(stream: str) -> Finding:
    return Finding(FindingKind.SNAPSHOT, clean_text(stream), None, "the stream has no events", DELETE_SNAPSHOTS)


def _left_behind(connection: Connection, stream: str) -> Iterator[Finding]:
    """Find data that is derived from a missing stream."""
    run_id = run_of(stream)
    if run_id is None:
        if _newest_snapshot(connection, stream) is not None:
            yield _lost_stream(stream)
        return
    for table in (saga_index, run_keys):
        if connection.execute(select(literal(1)).where(table.c.run_id == run_id).limit(1)).first() is not None:
            yield _lost_run(table, run_id)


class _ReadModel:
    """The read model's rows of some runs, read at once, because one statement per run would take most of the time."""

    def __init__(self, connection: Connection, streams: Iterable[str]) -> None:
        run_ids = [run_id for stream in streams if is_text(stream) and (run_id := run_of(stream)) is not None]
        rows = connection.execute(select(saga_index).where(saga_index.c.run_id.in_(run_ids))).mappings()
        self.rows = {row["run_id"]: dict(row) for row in rows}
        self.keys: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        for run_id, field, value in connection.execute(select(run_keys).where(run_keys.c.run_id.in_(run_ids))):
            self.keys[run_id].add((field, value))


def _audit(connection: Connection, codec: EventCodec, kept: Plans, stream: str, derived: _ReadModel) -> StreamAudit:
    run_id = run_of(stream)
    if run_id is not None:
        audit = fold_run(connection, codec, kept, stream)
        audit.compare(derived.rows.get(run_id), frozenset(derived.keys[run_id]))
        return audit
    aggregate = AggregateAudit(stream, codec, _newest_snapshot(connection, stream))
    _feed(aggregate, _rows(connection, stream))
    aggregate.finish()
    return aggregate


def fold_run(connection: Connection, codec: EventCodec, kept: Plans, stream: str) -> RunAudit:
    """Return the audit of a run's stream, folded as far as possible."""
    audit = RunAudit(stream, codec, lambda fingerprint: kept.read(connection, fingerprint))
    _feed(audit, _rows(connection, stream))
    return audit


def _feed(audit: StreamAudit, rows: Iterator[StoredEvent]) -> None:
    for stored in rows:
        audit.feed(stored)


# ---- reading


def streams_after(connection: Connection, after: str, *, only_runs: bool = False) -> Sequence[str]:
    """Return a page of the names of the next streams, in order; even with `only_runs` a few may not be runs."""
    name = stored_events.c.originator_id
    found = select(name).where(name > bindable(after)).distinct().order_by(name).limit(STREAMS_A_PAGE)
    if only_runs:
        found = found.where(name.startswith(stream_of_run(""), autoescape=True))
    return connection.execute(found).scalars().all()


def _rows(connection: Connection, stream: str, after: int = _BEGINNING) -> Iterator[StoredEvent]:
    """Read a stream after a position; by default from its very beginning, including positions that must not exist."""
    page = read_stream(connection, stream, after, ROWS_A_PAGE)
    while page:
        yield from page
        page = (
            read_stream(connection, stream, page[-1].originator_version, ROWS_A_PAGE)
            if len(page) == ROWS_A_PAGE
            else []
        )


def _newest_snapshot(connection: Connection, stream: str) -> Snapshot | None:
    table = snapshots.c
    found = select(snapshots).where(table.originator_id == stream).order_by(table.originator_version.desc()).limit(1)
    row = connection.execute(found).first()
    # The check of the snapshots reports a changed one; comparing it with the events would add nothing.
    return (
        None
        if row is None or not snapshot_fits(*row)
        else Snapshot(row.originator_id, row.originator_version, row.topic, row.state)
    )


def _page(connection: Connection, column: Any, after: str) -> Sequence[str]:  # noqa: ANN401 - an SQL expression
    found = select(column).where(column > bindable(after)).distinct().order_by(column).limit(ROWS_A_PAGE)
    return connection.execute(found).scalars().all()


def _that_exist(connection: Connection, streams: Sequence[str]) -> frozenset[str]:
    name = stored_events.c.originator_id
    return frozenset(connection.execute(select(name).where(name.in_(streams)).distinct()).scalars())
