"""The memory of message ids: rows of a table for recent ids."""

from collections.abc import Sequence

from sqlalchemy import Connection

from amends.aggregates.intake import Bucket, RememberedId
from amends.aggregates.sql.rows import insert_rows, query, write

__all__ = ["IdMemory", "forget_ids", "read_buckets", "read_horizon", "remember_ids"]

_ID_BYTES = 16


def read_buckets(connection: Connection, pipeline: str, oldest: int = -(2**62)) -> list[Bucket]:
    """Read the buckets of a pipeline from a number on, in order."""
    sql = (
        "SELECT bucket, open_ids, sealed_ids FROM pipeline_id_buckets WHERE pipeline = ? AND bucket >= ? "
        "ORDER BY bucket"
    )
    return [Bucket(*row) for row in query(connection, sql, (pipeline, oldest))]


def remember_ids(connection: Connection, pipeline: str, bucket: int, ids: Sequence[RememberedId], now_ms: int) -> None:
    """Add ids to a bucket.

    Raises:
        sqlalchemy.exc.IntegrityError: The bucket has one of them as a row already.
    """
    sql = (
        "INSERT INTO pipeline_id_buckets (pipeline, bucket, open_ids, sealed_ids, version) VALUES (?, ?, ?, 0, ?) "
        "ON CONFLICT (pipeline, bucket) DO UPDATE SET open_ids = pipeline_id_buckets.open_ids + excluded.open_ids"
    )
    write(connection, sql, (pipeline, bucket, len(ids), now_ms))
    rows = [(pipeline, bucket, *each) for each in ids]
    insert_rows(connection, "pipeline_ids", "pipeline, bucket, id_hash, digest", rows)


def forget_ids(connection: Connection, pipeline: str, before: int) -> int:
    """Drop the buckets before a number, and raise the horizon to it; return how many ids they had."""
    sql = "SELECT coalesce(sum(open_ids + sealed_ids), 0) FROM pipeline_id_buckets WHERE pipeline = ? AND bucket < ?"
    count = int(query(connection, sql, (pipeline, before))[0][0])
    for table in ("pipeline_ids", "pipeline_id_pages", "pipeline_id_buckets"):
        write(connection, f"DELETE FROM {table} WHERE pipeline = ? AND bucket < ?", (pipeline, before))  # noqa: S608 - constants
    horizon = max(before, read_horizon(connection, pipeline))
    sql = "INSERT INTO pipeline_horizons (pipeline, bucket) VALUES (?, ?) ON CONFLICT (pipeline) DO UPDATE "
    write(connection, sql + "SET bucket = excluded.bucket", (pipeline, horizon))
    return count


def read_horizon(connection: Connection, pipeline: str) -> int:
    """Return the number of the oldest bucket that a pipeline has never forgotten; 0 if it has forgotten none."""
    rows = query(connection, "SELECT bucket FROM pipeline_horizons WHERE pipeline = ?", (pipeline,))
    return rows[0][0] if rows else 0


class IdMemory:
    """Looks ids up."""

    def known(
        self, connection: Connection, pipeline: str, id_hashes: Sequence[bytes], oldest: int
    ) -> dict[bytes, bytes]:
        """Return the digests of the known ids, by the hash of the id."""
        found: dict[bytes, bytes] = {}
        if not id_hashes:
            return found
        buckets = read_buckets(connection, pipeline, oldest)
        opened = [each.number for each in buckets if each.open_ids]
        if opened:
            found.update(_rows(connection, pipeline, opened, id_hashes))
        return found


def _rows(
    connection: Connection, pipeline: str, buckets: Sequence[int], id_hashes: Sequence[bytes]
) -> list[tuple[bytes, bytes]]:
    """Read the rows of ids in some buckets."""
    if connection.dialect.name == "sqlite":
        # One text of hashes and one statement for every number of them; SQLite has no arrays.
        sql = (
            "WITH RECURSIVE wanted(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM wanted WHERE i + 1 < ?) "  # noqa: S608 - a constant
            "SELECT r.id_hash, r.digest FROM wanted CROSS JOIN pipeline_ids AS r "
            f"ON r.pipeline = ? AND r.bucket = ? AND r.id_hash = substr(?, 1 + {_ID_BYTES} * wanted.i, {_ID_BYTES})"
        )
        raw = b"".join(id_hashes)
        return [row for each in buckets for row in query(connection, sql, (len(id_hashes), pipeline, each, raw))]
    sql = "SELECT id_hash, digest FROM pipeline_ids WHERE pipeline = ? AND bucket = ANY(?) AND id_hash = ANY(?)"
    return query(connection, sql, (pipeline, list(buckets), list(id_hashes)))
