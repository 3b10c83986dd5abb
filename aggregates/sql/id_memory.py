"""The memory of message ids: rows of a table for recent ids, sealed pages for the others.

Theory of operation: new ids are rows. Sealing moves the rows of a bucket, in order of their hashes and part by part,
into pages (`aggregates.id_pages`), which take a third of the space. Looking ids up costs one statement for the list of
buckets, one for the rows, and one for the pages that their filters admit. The process keeps the filters, and reads
those of changed pages only: each change of a bucket's pages raises the bucket's version.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from amends.aggregates.errors import InputError, JournalError
from amends.aggregates.id_pages import (
    FULL,
    ID_BYTES,
    BucketFilter,
    Probe,
    filter_of,
    find,
    merged,
    pack,
    probes_of,
    split,
    unpack,
)
from amends.aggregates.intake import Bucket, RememberedId
from amends.aggregates.sql.rows import insert_rows, query, replacing, write, write_many
from amends.aggregates.values.checksum import row_checksum, row_fits

__all__ = ["PAGE_COLUMNS", "IdMemory", "forget_ids", "read_buckets", "read_horizon", "remember_ids"]

PAGE_COLUMNS = "pipeline, bucket, lower, version, filter, ids, checksum"
_EARLIEST = -(2**62)
_NEARLY_FULL = FULL * 3 // 4


class _Bucket(NamedTuple):
    """A row of a bucket."""

    number: int
    open_ids: int
    sealed_ids: int
    version: int


class _Filters(NamedTuple):
    """The filters of a bucket as this process has read them."""

    version: int
    filters: BucketFilter


def read_buckets(connection: Connection, pipeline: str) -> list[Bucket]:
    """Read the buckets of a pipeline, in order."""
    return [Bucket(*each[:3]) for each in _buckets(connection, pipeline, _EARLIEST)]


def _buckets(connection: Connection, pipeline: str, oldest: int) -> list[_Bucket]:
    sql = (
        "SELECT bucket, open_ids, sealed_ids, version FROM pipeline_id_buckets WHERE pipeline = ? AND bucket >= ? "
        "ORDER BY bucket"
    )
    return [_Bucket(*row) for row in query(connection, sql, (pipeline, oldest))]


def remember_ids(connection: Connection, pipeline: str, bucket: int, ids: Sequence[RememberedId], now_ms: int) -> None:
    """Add ids to a bucket.

    Raises:
        InputError: The pipeline has forgotten the bucket.
        sqlalchemy.exc.IntegrityError: The bucket has one of them as a row already.
    """
    sql = "UPDATE pipeline_id_buckets SET open_ids = open_ids + ? WHERE pipeline = ? AND bucket = ?"
    if not write(connection, sql, (len(ids), pipeline, bucket)):
        # A bucket that began a second time would have versions that other processes know already.
        if bucket < (horizon := read_horizon(connection, pipeline)):
            raise InputError(
                f"pipeline {pipeline!r} has forgotten the ids of bucket {bucket}; its oldest one is {horizon}"
            )
        sql = "INSERT INTO pipeline_id_buckets (pipeline, bucket, open_ids, sealed_ids, version) VALUES (?, ?, ?, 0, ?)"
        write(connection, sql, (pipeline, bucket, len(ids), now_ms))
    rows = [(pipeline, bucket, *each) for each in ids]
    insert_rows(connection, "pipeline_ids", "pipeline, bucket, id_hash, digest", rows)


def forget_ids(connection: Connection, pipeline: str, before: int) -> int:
    """Drop the buckets before a number, and raise the horizon to it; return how many ids they had."""
    sql = "SELECT coalesce(sum(open_ids + sealed_ids), 0) FROM pipeline_id_buckets WHERE pipeline = ? AND bucket < ?"
    count = int(query(connection, sql, (pipeline, before))[0][0])
    if count:
        for table in ("pipeline_ids", "pipeline_id_pages", "pipeline_id_buckets"):
            write(connection, f"DELETE FROM {table} WHERE pipeline = ? AND bucket < ?", (pipeline, before))  # noqa: S608 - constants
    horizon = max(before, read_horizon(connection, pipeline))
    write(connection, replacing("pipeline_horizons", "pipeline, bucket", 1), (pipeline, horizon))
    return count


def read_horizon(connection: Connection, pipeline: str) -> int:
    """Return the number of the oldest bucket that a pipeline has never forgotten; 0 if it has forgotten none."""
    rows = query(connection, "SELECT bucket FROM pipeline_horizons WHERE pipeline = ?", (pipeline,))
    return rows[0][0] if rows else 0


class IdMemory:
    """Looks ids up and seals them, and keeps the filters of sealed buckets; one thread at a time uses it."""

    def __init__(self) -> None:
        self._filters: dict[tuple[str, int], _Filters] = {}

    def forget(self) -> None:
        """Discard the filters, because they may be wrong."""
        self._filters.clear()

    def known(
        self,
        connection: Connection,
        pipeline: str,
        id_hashes: Sequence[bytes],
        oldest: int,
        changed: Collection[tuple[str, int]] = (),
    ) -> dict[bytes, bytes]:
        """Return the digests of the known ids, by the hash of the id.

        Args:
            connection: A connection in a transaction that sees the store at one moment.
            pipeline: Name of the pipeline.
            id_hashes: Hashes of ids.
            oldest: Number of the oldest bucket that counts.
            changed: Buckets whose pages this transaction has changed: pipeline and number.

        Raises:
            JournalError: A page does not match its checksum.
        """
        if not id_hashes:
            return {}
        buckets = _buckets(connection, pipeline, oldest)
        found = dict(_rows(connection, pipeline, [each.number for each in buckets if each.open_ids], id_hashes))
        sealed = [each for each in buckets if each.sealed_ids]
        if sealed:
            self._drop_before(pipeline, buckets[0].number)
            probes = probes_of(id_hashes)
            for each in sealed:
                keep = (pipeline, each.number) not in changed
                filters = self._read_filters(connection, pipeline, each, keep=keep)
                found.update(_search(connection, pipeline, each.number, filters, probes))
        return found

    def seal(self, connection: Connection, pipeline: str, before: int, limit: int, now_ms: int) -> dict[int, int]:
        """Move ids of the buckets before a number from rows into pages.

        Args:
            connection: A connection in a transaction that holds the writer's lock.
            pipeline: Name of the pipeline.
            before: Number of the first bucket that stays as it is.
            limit: Largest number of ids to move.
            now_ms: Time of the transaction.

        Returns:
            The number of ids that were moved, by bucket.

        Raises:
            JournalError: A page does not match its checksum.
        """
        moved: dict[int, int] = {}
        for each in _buckets(connection, pipeline, _EARLIEST):
            left = limit - sum(moved.values())
            if each.number >= before or left <= 0:
                break
            if each.open_ids:
                moved[each.number] = self._seal(connection, pipeline, each, left, max(each.version + 1, now_ms))
        return moved

    def _seal(self, connection: Connection, pipeline: str, bucket: _Bucket, limit: int, version: int) -> int:
        sql = "SELECT id_hash, digest FROM pipeline_ids WHERE pipeline = ? AND bucket = ? ORDER BY id_hash LIMIT ?"
        ids = [RememberedId(*row) for row in query(connection, sql, (pipeline, bucket.number, limit))]
        filters = self._read_filters(connection, pipeline, bucket, keep=False)
        by_page: defaultdict[bytes, list[RememberedId]] = defaultdict(list)
        for each in ids:
            by_page[filters.page_of(each.id_hash)].append(each)
        present = _read_pages(connection, pipeline, bucket.number, list(by_page)) if bucket.sealed_ids else {}
        rows: list[tuple[object, ...]] = []
        count = 0
        for lower, new in by_page.items():
            former = unpack(present.get(lower, b""))
            if min(len(former), len(new)) >= _NEARLY_FULL and new[0].id_hash > former[-1].id_hash:
                # The usual case, in which the present page need not be written again.
                count += len(new)
                rows += _pages(pipeline, bucket.number, new[0].id_hash, version, new)
                continue
            every = merged(former, new)
            count += len(every) - len(former)
            rows += _pages(pipeline, bucket.number, lower, version, every)
        write_many(connection, replacing("pipeline_id_pages", PAGE_COLUMNS, 3), rows)
        sql = "DELETE FROM pipeline_ids WHERE pipeline = ? AND bucket = ? AND id_hash <= ?"
        write(connection, sql, (pipeline, bucket.number, ids[-1].id_hash))
        sql = (
            "UPDATE pipeline_id_buckets SET open_ids = open_ids - ?, sealed_ids = sealed_ids + ?, version = ? "
            "WHERE pipeline = ? AND bucket = ?"
        )
        write(connection, sql, (len(ids), count, version, pipeline, bucket.number))
        return len(ids)

    def _read_filters(self, connection: Connection, pipeline: str, bucket: _Bucket, *, keep: bool) -> BucketFilter:
        """Return the filters of a bucket; read those that changed since the last time.

        Args:
            connection: A connection in the caller's transaction.
            pipeline: Name of the pipeline.
            bucket: The bucket.
            keep: Whether its pages are committed. If they are not, the process neither uses its filters nor keeps new
                ones.
        """
        held = self._filters.get((pipeline, bucket.number)) if keep else None
        if held is not None and held.version == bucket.version:
            return held.filters
        # A smaller version means that the store was restored from a backup.
        after, filters = _EARLIEST, BucketFilter({})
        if held is not None and held.version < bucket.version:
            after, filters = held
        if bucket.sealed_ids:
            sql = "SELECT lower, filter FROM pipeline_id_pages WHERE pipeline = ? AND bucket = ? AND version > ?"
            filters.add(dict(query(connection, sql, (pipeline, bucket.number, after), binary=True)))
        if keep:
            self._filters[pipeline, bucket.number] = _Filters(bucket.version, filters)
        return filters

    def _drop_before(self, pipeline: str, oldest: int) -> None:
        for key in [key for key in self._filters if key[0] == pipeline and key[1] < oldest]:
            del self._filters[key]


def _pages(
    pipeline: str, bucket: int, lower: bytes, version: int, ids: Sequence[RememberedId]
) -> Iterable[tuple[object, ...]]:
    """Yield the rows of the pages that replace the page at a lower bound."""
    for at, part in enumerate(split(ids)):
        row = (pipeline, bucket, lower if at == 0 else part[0].id_hash, version, filter_of(part), pack(part))
        yield (*row, row_checksum("pipeline_id_pages", row))


def _rows(
    connection: Connection, pipeline: str, buckets: Sequence[int], id_hashes: Sequence[bytes]
) -> list[tuple[bytes, bytes]]:
    """Read the rows of ids in some buckets."""
    if not buckets:
        return []
    if connection.dialect.name == "sqlite":
        # One text of hashes and one statement for every number of them; SQLite has no arrays.
        sql = (
            "WITH RECURSIVE wanted(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM wanted WHERE i + 1 < ?) "  # noqa: S608 - a constant
            "SELECT r.id_hash, r.digest FROM wanted CROSS JOIN pipeline_ids AS r "
            f"ON r.pipeline = ? AND r.bucket = ? AND r.id_hash = substr(?, 1 + {ID_BYTES} * wanted.i, {ID_BYTES})"
        )
        raw = b"".join(id_hashes)
        return [row for each in buckets for row in query(connection, sql, (len(id_hashes), pipeline, each, raw))]
    sql = "SELECT id_hash, digest FROM pipeline_ids WHERE pipeline = ? AND bucket = ANY(?) AND id_hash = ANY(?)"
    return query(connection, sql, (pipeline, list(buckets), list(id_hashes)))


def _search(
    connection: Connection, pipeline: str, bucket: int, filters: BucketFilter, probes: Sequence[Probe]
) -> dict[bytes, bytes]:
    """Return the digests of those ids that the pages of a bucket have."""
    wanted = filters.candidates(probes)
    found: dict[bytes, bytes] = {}
    if not wanted:
        return found
    pages = _read_pages(connection, pipeline, bucket, list(wanted))
    for lower, id_hashes in wanted.items():
        for id_hash in id_hashes:
            if (digest := find(pages.get(lower, b""), id_hash)) is not None:
                found[id_hash] = digest
    return found


def _read_pages(connection: Connection, pipeline: str, bucket: int, bounds: Sequence[bytes]) -> Mapping[bytes, bytes]:
    """Read pages by their lower bounds."""
    sql = f"SELECT {PAGE_COLUMNS} FROM pipeline_id_pages WHERE pipeline = ? AND bucket = ? AND lower "  # noqa: S608 - a constant
    if connection.dialect.name == "sqlite":
        rows = [row for each in bounds for row in query(connection, f"{sql}= ?", (pipeline, bucket, each))]
    else:
        rows = query(connection, f"{sql}= ANY(?)", (pipeline, bucket, list(bounds)), binary=True)
    for row in rows:
        if not row_fits("pipeline_id_pages", tuple(row)):
            raise JournalError(
                f"pipeline {pipeline!r}: a page of the memory of ids, bucket {bucket}, was changed: its checksum does "
                "not match; restore it from a backup"
            )
    return {row[2]: row[5] for row in rows}
