"""Read and write rows of the journal as fast as the databases allow.

The functions send statements directly to the driver, because SQLAlchemy's own work on a statement would cost more than
the database's. They run on a connection that the caller opened, in the caller's transaction, and raise only
SQLAlchemy's errors. `sql.loading` interprets the rows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NoReturn

from eventsourcing.persistence import Notification, StoredEvent
from sqlalchemy import Connection

from amends.aggregates.errors import JournalError
from amends.aggregates.values.checksum import (
    event_checksum,
    plan_checksum,
    plan_fits,
    read_event,
    read_notification,
    snapshot_checksum,
    snapshot_fits,
)
from amends.aggregates.values.strict_json import ascii_json

__all__ = [
    "all_stored",
    "changed_after",
    "changed_streams",
    "insert_events",
    "insert_plans",
    "insert_records",
    "insert_rows",
    "insert_snapshots",
    "last_notification_id",
    "many",
    "query",
    "read_first_events",
    "read_notifications",
    "read_plan",
    "read_snapshot_and_tail",
    "read_stream",
    "read_streams",
    "record_text",
    "records",
    "replacing",
    "streams_of",
    "streams_that_exist",
    "write",
    "write_many",
]

_COLUMNS = "originator_id, originator_version, topic, state, checksum"


# ---- the driver


def query(connection: Connection, sql: str, parameters: tuple[object, ...] = (), *, binary: bool = False) -> list[Any]:
    """Run one statement and return its rows.

    Args:
        connection: A connection in the caller's transaction.
        sql: A constant, with `?` for parameters and `<-(?)` for membership in a list that `many` encodes.
        parameters: As many as the statement has.
        binary: Whether the answer has much binary data, which PostgreSQL sends in hexadecimal otherwise.
    """
    driver: Any = connection.connection.driver_connection
    options = {"binary": True} if binary and connection.dialect.name != "sqlite" else {}
    try:
        rows: list[Any] = driver.execute(_native(sql, connection.dialect.name), parameters, **options).fetchall()
    except connection.dialect.loaded_dbapi.Error as error:
        _raise(connection, error)
    return rows


def write(connection: Connection, sql: str, parameters: tuple[object, ...]) -> int:
    """Run one statement that returns no rows; return the number of rows that it changed."""
    driver: Any = connection.connection.driver_connection
    try:
        cursor = driver.execute(_native(sql, connection.dialect.name), parameters)
        count: int = cursor.rowcount
        cursor.close()
    except connection.dialect.loaded_dbapi.Error as error:
        _raise(connection, error)
    return count


def write_many(connection: Connection, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Run a statement once for every row of parameters."""
    driver: Any = connection.connection.driver_connection
    try:
        cursor = driver.cursor()
        cursor.executemany(_native(sql, connection.dialect.name), rows)
        cursor.close()
    except connection.dialect.loaded_dbapi.Error as error:
        _raise(connection, error)


def insert_rows(connection: Connection, table: str, columns: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Insert rows; numbers that the database assigns follow their order.

    Args:
        connection: A connection in the caller's transaction.
        table: A constant.
        columns: Names of the columns, as a constant: `topic, state`.
        rows: The values of these columns.
    """
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" for _ in rows[0]) if rows else ""
        write_many(connection, f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)  # noqa: S608 - constants
        return
    driver: Any = connection.connection.driver_connection
    try:
        # COPY takes a third of the processor time of INSERT, and also numbers the rows in their order.
        with driver.cursor() as cursor, cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    except connection.dialect.loaded_dbapi.Error as error:
        _raise(connection, error)


def insert_records(
    connection: Connection, table: str, columns: Mapping[str, str], conflict: str, rows: Sequence[tuple[object, ...]]
) -> None:
    """Insert rows of texts and numbers, with a clause for existing rows.

    PostgreSQL's driver takes several times as long for many rows as for one text that holds them all.

    Args:
        connection: A connection in the caller's transaction.
        table: A constant.
        columns: The columns with their types in PostgreSQL.
        conflict: The clause, as a constant: `ON CONFLICT DO NOTHING`.
        rows: The values of these columns.
    """
    names = ", ".join(columns)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" for _ in columns)
        write_many(connection, f"INSERT INTO {table} ({names}) VALUES ({marks}) {conflict}", rows)  # noqa: S608 - constants
        return
    sql = f"INSERT INTO {table} ({names}) SELECT {names} FROM {records(columns)} {conflict}"  # noqa: S608 - as above
    write(connection, sql, (record_text(columns, rows),))


@cache
def replacing(table: str, columns: str, key: int) -> str:
    """Return the statement that inserts a row, or replaces the one with the same key.

    Args:
        table: A constant.
        columns: Names of the columns, as a constant, those of the key first: `id, topic, state`.
        key: The number of columns of the key.
    """
    names = columns.split(", ")
    marks, values = ", ".join("?" for _ in names), ", ".join(f"{name} = excluded.{name}" for name in names[key:])
    conflict = f"ON CONFLICT ({', '.join(names[:key])}) DO UPDATE SET {values}"
    return f"INSERT INTO {table} ({columns}) VALUES ({marks}) {conflict}"  # noqa: S608 - constants


def records(columns: Mapping[str, str]) -> str:
    """Return the table expression of PostgreSQL that reads a parameter of `record_text`, named `r`."""
    return f"json_to_recordset(CAST(? AS json)) AS r({', '.join(f'{name} {kind}' for name, kind in columns.items())})"


def record_text(columns: Mapping[str, str], rows: Iterable[tuple[object, ...]]) -> str:
    """Return rows as the text that `records` reads."""
    return ascii_json([dict(zip(columns, row, strict=True)) for row in rows])


def many(connection: Connection, values: Sequence[str]) -> object:
    """Return texts as the parameter of `<-(?)`."""
    return ascii_json(values) if connection.dialect.name == "sqlite" else list(values)


def _raise(connection: Connection, error: Exception) -> NoReturn:
    # As SQLAlchemy does for its own statements: wrap the error, name the store, give up a dead connection.
    connection._handle_dbapi_exception(error, None, None, None, None)  # noqa: SLF001 - there is no public name for it


@cache
def _native(sql: str, dialect: str) -> str:
    if dialect == "sqlite":
        return sql.replace("<-(?)", "IN (SELECT value FROM json_each(?))")
    return sql.replace("<-(?)", "= ANY(?)").replace("?", "%s")


# ---- writing


def insert_events(connection: Connection, events: Iterable[StoredEvent]) -> None:
    """Append rows; their notification ids follow the order of `events`.

    Raises:
        sqlalchemy.exc.IntegrityError: A position of a stream exists: another program wrote without the writer's lock.
    """
    insert_rows(connection, "stored_events", _COLUMNS, [_row(event, event_checksum) for event in events])


def insert_snapshots(connection: Connection, snapshots: Iterable[StoredEvent]) -> None:
    """Write snapshots of aggregates, replacing existing ones."""
    rows = [_row(each, snapshot_checksum) for each in snapshots]
    # An existing snapshot that was not used did not match its checksum, or is of other code.
    write_many(connection, replacing("snapshots", _COLUMNS, 2), rows)


def _row(event: StoredEvent, checksum: Callable[[str, int, str, bytes], bytes]) -> tuple[object, ...]:
    stream, position, topic, state = str(event.originator_id), event.originator_version, event.topic, event.state
    return stream, position, topic, state, checksum(stream, position, topic, state)


def insert_plans(connection: Connection, plans: Sequence[tuple[str, str, str, int]]) -> None:
    """Write plans (fingerprint, saga, JSON, time of the first run), replacing existing ones."""
    sql = replacing("plans", "fingerprint, saga, plan, recorded_at_ms, checksum", 1)
    write_many(connection, sql, [(*plan, plan_checksum(*plan)) for plan in plans])


# ---- reading


def read_plan(connection: Connection, fingerprint: str) -> str | None:
    """Read a plan's JSON; `None` when no run ever followed it.

    Raises:
        JournalError: The row does not match its checksum.
    """
    sql = "SELECT fingerprint, saga, plan, recorded_at_ms, checksum FROM plans WHERE fingerprint = ?"
    rows = query(connection, sql, (fingerprint,))
    if not rows:
        return None
    if not plan_fits(*rows[0]):
        raise JournalError(f"plan {fingerprint} was changed: its checksum does not match")
    plan: str = rows[0][2]
    return plan


def last_notification_id(connection: Connection) -> int:
    """Read the highest notification id; 0 when nothing was ever written."""
    return query(connection, "SELECT max(id) FROM stored_events")[0][0] or 0


def changed_streams(connection: Connection, after_id: int, limit: int) -> list[tuple[str, int]] | None:
    """Return the streams that have events after a notification id, with their heads.

    Returns:
        `None` when there are more than `limit`.
    """
    sql = "SELECT originator_id, max(originator_version) FROM stored_events WHERE id > ? GROUP BY originator_id LIMIT ?"
    rows = query(connection, sql, (after_id, limit + 1))
    return None if len(rows) > limit else [(stream, head) for stream, head in rows]


def changed_after(connection: Connection, after_id: int, limit: int) -> tuple[dict[str, int], int]:
    """Return the streams of the next events of the notification log.

    Args:
        connection: A connection in the caller's transaction.
        after_id: Notification id after which to read.
        limit: Largest number of events.

    Returns:
        By stream, the position of the first of these events, in the order of the streams' names; and the last event's
        id.
    """
    sql = (
        "SELECT originator_id, min(originator_version), max(id) FROM "
        "(SELECT id, originator_id, originator_version FROM stored_events WHERE id > ? ORDER BY id LIMIT ?) AS page "
        "GROUP BY originator_id ORDER BY originator_id"
    )
    rows = query(connection, sql, (after_id, limit))
    return {stream: first for stream, first, _ in rows}, max((last for _, _, last in rows), default=after_id)


def read_first_events(connection: Connection, streams: Sequence[str]) -> list[StoredEvent]:
    """Read the first event of those of the streams that have any."""
    sql = f"SELECT {_COLUMNS} FROM stored_events WHERE originator_id <-(?) AND originator_version = 1"  # noqa: S608 - a constant
    return [read_event(*row) for row in query(connection, sql, (many(connection, streams),))]


def streams_that_exist(connection: Connection, streams: Sequence[str]) -> list[str]:
    """Return those of the streams that have any event."""
    sql = "SELECT originator_id FROM stored_events WHERE originator_id <-(?) AND originator_version = 1"
    return [row[0] for row in query(connection, sql, (many(connection, streams),))]


def streams_of(connection: Connection, category: str) -> list[str]:
    """Return the streams of one kind of aggregate, in order of their names; the time grows with the journal's size."""
    sql = "SELECT originator_id FROM stored_events WHERE originator_version = 1 AND originator_id LIKE ? ORDER BY 1"
    # `_` in a category would match any character.
    found = [str(row[0]) for row in query(connection, sql, (f"{category}/%",))]
    return [stream for stream in found if stream.startswith(f"{category}/")]


def read_stream(connection: Connection, stream: str, after: int = 0, limit: int | None = None) -> list[StoredEvent]:
    """Read a stream's events after a position, in order."""
    sql = (
        f"SELECT {_COLUMNS} FROM stored_events "  # noqa: S608 - a constant
        "WHERE originator_id = ? AND originator_version > ? ORDER BY originator_version LIMIT ?"
    )
    bound = 2**62 if limit is None else limit
    return [read_event(*row) for row in query(connection, sql, (stream, after, bound))]


def read_streams(connection: Connection, streams: Sequence[str], after: int = 0) -> dict[str, list[StoredEvent]]:
    """Read the events of several streams after a position at once; a stream without any has no entry."""
    sql = (
        f"SELECT {_COLUMNS} FROM stored_events "  # noqa: S608 - a constant
        "WHERE originator_id <-(?) AND originator_version > ? ORDER BY originator_id, originator_version"
    )
    found: dict[str, list[StoredEvent]] = {}
    for row in query(connection, sql, (many(connection, streams), after)):
        found.setdefault(row[0], []).append(read_event(*row))
    return found


def read_snapshot_and_tail(connection: Connection, stream: str) -> tuple[StoredEvent | None, list[StoredEvent]]:
    """Read a stream's latest snapshot and the events after it, in one statement."""
    newest = "(SELECT max(originator_version) FROM snapshots WHERE originator_id = ?)"
    sql = (
        f"SELECT {_COLUMNS}, 0 AS part FROM snapshots "  # noqa: S608 - constants
        f"WHERE originator_id = ? AND originator_version = {newest} UNION ALL "
        f"SELECT {_COLUMNS}, 1 AS part FROM stored_events "
        f"WHERE originator_id = ? AND originator_version > coalesce({newest}, 0) ORDER BY part, originator_version"
    )
    rows = query(connection, sql, (stream, stream, stream, stream))
    if not rows or rows[0][5] != 0:
        return None, [read_event(*row[:5]) for row in rows]
    snapshot = StoredEvent(*rows[0][:4]) if snapshot_fits(*rows[0][:5]) else None
    return snapshot, [read_event(*row[:5]) for row in rows[1:]]


def read_notifications(connection: Connection, after: int, limit: int) -> list[Notification]:
    """Read the notification log after an id, in order."""
    sql = f"SELECT {_COLUMNS}, id FROM stored_events WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608 - a constant
    return [read_notification(*row) for row in query(connection, sql, (after, limit))]


def all_stored(connection: Connection, events: Sequence[StoredEvent]) -> bool:
    """Check whether exactly these events are in the journal, so that the transaction that wrote them was committed."""
    size = 500
    for start in range(0, len(events), size):
        wanted = events[start : start + size]
        lowest = min(event.originator_version for event in wanted) - 1
        streams = read_streams(connection, sorted({str(event.originator_id) for event in wanted}), lowest)
        found = {(e.originator_id, e.originator_version): (e.topic, e.state) for part in streams.values() for e in part}
        if any(found.get((e.originator_id, e.originator_version)) != (e.topic, e.state) for e in wanted):
            return False
    return True
