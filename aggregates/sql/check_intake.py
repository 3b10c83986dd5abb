"""Check the tables of the pipelines and the outbox for damage."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, text

from amends.aggregates.audit import Finding, FindingKind
from amends.aggregates.id_pages import DIGEST_BYTES, ID_BYTES, page_fault
from amends.aggregates.intake import HeldKind
from amends.aggregates.sql.engine import snapshot_of
from amends.aggregates.sql.errors import store_errors
from amends.aggregates.sql.id_memory import PAGE_COLUMNS
from amends.aggregates.sql.intake_rows import BATCH_COLUMNS, HELD_COLUMNS, POSITION_COLUMNS
from amends.aggregates.sql.outbox_rows import OUTBOX_COLUMNS, READER_COLUMNS
from amends.aggregates.values.checksum import row_fits
from amends.aggregates.values.strict_json import clean_text

__all__ = ["damaged_intake"]

MOST_FINDINGS = 100
"""Largest number of findings of one table: a damaged table of a million rows is a page of output."""

_ROWS_A_PAGE = 500
_RESTORE = "restore the row from a backup"
_SEEK = "restore it from a backup, or move the position: amends pipeline seek"

Problem = tuple[FindingKind, str, str]
"""Kind, problem and remedy."""


class _Table(NamedTuple):
    """A table to check row by row.

    Attributes:
        name: Its name.
        columns: The columns to read, the checksum last.
        order: The columns that order the rows.
        skipped: The number of columns that come before those of the checksum.
        subject: Returns the name of a row for the finding.
        fault: Returns the problem of a row that matches its checksum, if it has one.
    """

    name: str
    columns: str
    order: str
    skipped: int
    subject: Callable[[Sequence[Any]], str]
    fault: Callable[[Sequence[Any]], Problem | None]


def damaged_intake(engine: Engine) -> Iterator[Finding]:
    """Check every row of the pipelines and the outbox, and compare the rows with each other.

    Raises:
        UnreachableError: The store is unreadable at the moment.
        JournalError: The database is too damaged to read.
    """
    for table in _TABLES:
        yield from _in_snapshot(engine, partial(_table_findings, table=table))
    for compare in (_positions, _batches, _page_order, _buckets, _ids):
        yield from _in_snapshot(engine, compare)


def _in_snapshot(engine: Engine, find: Callable[[Connection], Iterator[Finding]]) -> list[Finding]:
    # A list, so that no transaction is open while the caller works.
    with store_errors(), snapshot_of(engine) as connection:
        return list(islice(find(connection), MOST_FINDINGS))


def _rows(connection: Connection, sql: str) -> Iterator[Sequence[Any]]:
    """Read rows page by page, so that memory stays bounded."""
    options = {"stream_results": True, "yield_per": _ROWS_A_PAGE}
    for row in connection.execute(text(sql), execution_options=options):
        yield tuple(row)


def _table_findings(connection: Connection, table: _Table) -> Iterator[Finding]:
    for row in _rows(connection, f"SELECT {table.columns} FROM {table.name} ORDER BY {table.order}"):  # noqa: S608 - constants
        problem: Problem | None
        if not row_fits(table.name, row[table.skipped :]):
            problem = (FindingKind.CHANGED, "the row was changed: its checksum does not match", _RESTORE)
        else:
            problem = table.fault(row)
        if problem is not None:
            yield Finding(problem[0], clean_text(table.subject(row)), None, problem[1], problem[2])


def _sound(_: Sequence[Any]) -> None:
    """Return no problem."""


def _held_fault(row: Sequence[Any]) -> Problem | None:
    if row[3] in set(HeldKind):
        return None
    return FindingKind.NEWER, f"the kind {row[3]!r} is unknown to this version", "upgrade this program"


def _page_fault(row: Sequence[Any]) -> Problem | None:
    found = page_fault(bytes(row[2]), bytes(row[5]), bytes(row[4]))
    return None if found is None else (FindingKind.IMPOSSIBLE, found, _RESTORE)


_TABLES = (
    _Table(
        "pipeline_positions",
        POSITION_COLUMNS,
        "pipeline, partition",
        0,
        lambda row: f"position of pipeline {row[0]}, partition {row[1]}",
        _sound,
    ),
    _Table(
        "pipeline_batches",
        BATCH_COLUMNS,
        "pipeline, partition, number",
        0,
        lambda row: f"batch {row[2]} of pipeline {row[0]}, partition {row[1]}",
        _sound,
    ),
    _Table(
        "pipeline_held",
        HELD_COLUMNS,
        "pipeline, partition, position",
        0,
        lambda row: f"held message {row[2]} of pipeline {row[0]}, partition {row[1]}",
        _held_fault,
    ),
    _Table(
        "pipeline_id_pages",
        PAGE_COLUMNS,
        "pipeline, bucket, lower",
        0,
        lambda row: f"page of ids of pipeline {row[0]}, bucket {row[1]}",
        _page_fault,
    ),
    _Table(
        "outbox_messages",
        f"id, {OUTBOX_COLUMNS}",
        "id",
        1,
        lambda row: f"message {row[0]} of the outbox",
        _sound,
    ),
    _Table(
        "outbox_readers",
        READER_COLUMNS,
        "reader, topic",
        0,
        lambda row: f"reader {row[0]} of the outbox, topic {row[1]}",
        _sound,
    ),
)

# ---- rows that must agree


def _positions(connection: Connection) -> Iterator[Finding]:
    """Find positions whose last batch is missing, or that are older than it."""
    sql = (
        "SELECT b.pipeline, b.partition, p.batch, max(b.number) FROM pipeline_batches AS b LEFT JOIN "
        "pipeline_positions AS p ON p.pipeline = b.pipeline AND p.partition = b.partition "
        "GROUP BY b.pipeline, b.partition, p.batch HAVING p.batch IS NULL OR p.batch <> max(b.number) "
        "ORDER BY b.pipeline, b.partition"
    )
    for pipeline, partition, batch, last in _rows(connection, sql):
        subject = clean_text(f"position of pipeline {pipeline}, partition {partition}")
        problem = "the partition has batches but no position" if batch is None else f"its batch is {batch}, not {last}"
        yield Finding(FindingKind.IMPOSSIBLE, subject, None, problem, _SEEK)


def _batches(connection: Connection) -> Iterator[Finding]:
    """Find partitions whose batches have gaps."""
    sql = (
        "SELECT pipeline, partition, max(number) - count(*) FROM pipeline_batches GROUP BY pipeline, partition "
        "HAVING max(number) <> count(*) OR min(number) <> 1 ORDER BY pipeline, partition"
    )
    for pipeline, partition, missing in _rows(connection, sql):
        subject = clean_text(f"batches of pipeline {pipeline}, partition {partition}")
        yield Finding(FindingKind.GAP, subject, None, f"{missing} batches are missing", "restore them from a backup")


def _page_order(connection: Connection) -> Iterator[Finding]:
    """Find pages whose ids reach into the next page."""
    sql = (
        "SELECT pipeline, bucket, lower, ids, lead(lower) OVER (PARTITION BY pipeline, bucket ORDER BY lower) "
        "FROM pipeline_id_pages ORDER BY pipeline, bucket, lower"
    )
    for pipeline, bucket, _, ids, following in _rows(connection, sql):
        end = len(ids) // (ID_BYTES + DIGEST_BYTES) * ID_BYTES
        if following is not None and bytes(ids)[end - ID_BYTES : end] >= bytes(following):
            subject = clean_text(f"page of ids of pipeline {pipeline}, bucket {bucket}")
            yield Finding(FindingKind.IMPOSSIBLE, subject, None, "its ids reach into the next page", _RESTORE)


def _buckets(connection: Connection) -> Iterator[Finding]:
    """Find buckets whose rows and pages are not as many as they count."""
    size = ID_BYTES + DIGEST_BYTES
    counted = (
        ("open_ids", "count(*)", "pipeline_ids", "rows"),
        ("sealed_ids", f"sum(length(ids)) / {size}", "pipeline_id_pages", "ids in pages"),
    )
    for column, count, table, what in counted:
        sql = (
            f"SELECT b.pipeline, b.bucket, b.{column}, coalesce(c.found, 0) FROM pipeline_id_buckets AS b "  # noqa: S608 - constants
            f"LEFT JOIN (SELECT pipeline, bucket, {count} AS found FROM {table} GROUP BY pipeline, bucket) AS c "
            f"ON c.pipeline = b.pipeline AND c.bucket = b.bucket WHERE b.{column} <> coalesce(c.found, 0) "
            "ORDER BY b.pipeline, b.bucket"
        )
        for pipeline, bucket, expected, found in _rows(connection, sql):
            subject = clean_text(f"bucket {bucket} of pipeline {pipeline}")
            yield Finding(FindingKind.GAP, subject, None, f"it counts {expected} {what} and has {found}", _RESTORE)


def _ids(connection: Connection) -> Iterator[Finding]:
    """Find ids that have no bucket, or not their length."""
    sql = (
        "SELECT i.pipeline, i.bucket, count(*) FROM pipeline_ids AS i LEFT JOIN pipeline_id_buckets AS b "  # noqa: S608 - constants
        "ON b.pipeline = i.pipeline AND b.bucket = i.bucket WHERE b.bucket IS NULL "
        f"OR length(i.id_hash) <> {ID_BYTES} OR length(i.digest) <> {DIGEST_BYTES} "
        "GROUP BY i.pipeline, i.bucket ORDER BY i.pipeline, i.bucket"
    )
    for pipeline, bucket, count in _rows(connection, sql):
        subject = clean_text(f"bucket {bucket} of pipeline {pipeline}")
        problem = f"{count} ids have another length, or no bucket"
        yield Finding(FindingKind.CHANGED, subject, None, problem, _RESTORE)
