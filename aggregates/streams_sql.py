"""Rows of the journal, as fast as the databases take and give them.

Hot statements are sent to the driver as written here; SQLAlchemy's compiler would cost as much as the database does.
Everything runs on a connection that the caller opened, in the caller's transaction, and raises SQLAlchemy's errors
only. What the rows mean is the business of `loading_sql`.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from eventsourcing.persistence import Notification, StoredEvent
from sqlalchemy import Connection, CursorResult, exc

__all__ = [
    "all_stored",
    "changed_streams",
    "insert_events",
    "insert_plans",
    "insert_snapshots",
    "last_notification_id",
    "read_notifications",
    "read_plan",
    "read_snapshot_and_tail",
    "read_stream",
    "read_streams",
    "run",
    "stream_exists",
]

_COLUMNS = "originator_id, originator_version, topic, state"
_INSERT = f"INSERT INTO stored_events ({_COLUMNS}) VALUES (?, ?, ?, ?)"  # noqa: S608 - a constant
_COPY = f"COPY stored_events ({_COLUMNS}) FROM STDIN"


def run(connection: Connection, sql: str, parameters: Any = ()) -> CursorResult[Any]:  # noqa: ANN401 - the driver's
    """Send a statement to the driver, with `?` for parameters and `<-(?)` for membership in a list.

    Args:
        connection: In the caller's transaction.
        sql: A constant.
        parameters: A tuple, or a list of tuples to run the statement once for each.
    """
    return connection.exec_driver_sql(_native(sql, connection.dialect.name), parameters)


def many(connection: Connection, values: Sequence[str]) -> object:
    """Give a list of texts as the parameter that `<-(?)` takes."""
    return json.dumps(values) if connection.dialect.name == "sqlite" else list(values)


@cache
def _native(sql: str, dialect: str) -> str:
    if dialect == "sqlite":
        return sql.replace("<-(?)", "IN (SELECT value FROM json_each(?))")
    return sql.replace("<-(?)", "= ANY(?)").replace("?", "%s")


def insert_events(connection: Connection, events: Iterable[StoredEvent]) -> None:
    """Append rows; their notification ids follow the order given.

    Raises:
        sqlalchemy.exc.IntegrityError: A position of a stream is taken: somebody wrote without the writer's lock.
    """
    rows = [(event.originator_id, event.originator_version, event.topic, event.state) for event in events]
    if connection.dialect.name == "sqlite":
        run(connection, _INSERT, rows)
        return
    dialect = connection.dialect
    try:
        # COPY takes a third of the processor time of INSERT, and numbers the rows in their order as well.
        cursor: Any = connection.connection.cursor()
        with cursor, cursor.copy(_COPY) as copy:
            for row in rows:
                copy.write_row(row)
    except dialect.loaded_dbapi.Error as error:
        # The statement went past SQLAlchemy, so its own classes of errors have to be found here.
        lost = dialect.is_disconnect(error, connection.connection.driver_connection, None)
        raise exc.DBAPIError.instance(
            None, None, error, dialect.loaded_dbapi.Error, connection_invalidated=lost, dialect=dialect
        ) from error


def insert_snapshots(connection: Connection, snapshots: Iterable[StoredEvent]) -> None:
    """Keep folded aggregates; one that is there already stays."""
    rows = [(each.originator_id, each.originator_version, each.topic, each.state) for each in snapshots]
    run(connection, f"INSERT INTO snapshots ({_COLUMNS}) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", rows)  # noqa: S608


def insert_plans(connection: Connection, plans: Sequence[tuple[str, str, str, int]]) -> None:
    """Keep plans: fingerprint, saga, JSON, time of the first run; one that is there already stays."""
    sql = "INSERT INTO plans (fingerprint, saga, plan, recorded_at_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
    run(connection, sql, list(plans))


def read_plan(connection: Connection, fingerprint: str) -> str | None:
    """Read a plan's JSON; `None` when no run ever followed it."""
    text: str | None = run(connection, "SELECT plan FROM plans WHERE fingerprint = ?", (fingerprint,)).scalar()
    return text


def last_notification_id(connection: Connection) -> int:
    """Read the highest notification id; 0 when nothing was ever written."""
    found: int | None = run(connection, "SELECT max(id) FROM stored_events").scalar()
    return found or 0


def changed_streams(connection: Connection, after_id: int, limit: int) -> list[tuple[str, int]] | None:
    """List the streams that have events after a notification id, with their heads.

    Returns:
        `None` when there are more than `limit`.
    """
    sql = "SELECT originator_id, max(originator_version) FROM stored_events WHERE id > ? GROUP BY originator_id LIMIT ?"
    rows = run(connection, sql, (after_id, limit + 1)).all()
    return None if len(rows) > limit else [(stream, head) for stream, head in rows]


def stream_exists(connection: Connection, stream: str) -> bool:
    """Tell whether a stream has any event."""
    sql = "SELECT 1 FROM stored_events WHERE originator_id = ? LIMIT 1"
    return run(connection, sql, (stream,)).first() is not None


def read_stream(connection: Connection, stream: str, after: int = 0, limit: int | None = None) -> list[StoredEvent]:
    """Read a stream's events after a position, in order."""
    sql = (
        f"SELECT {_COLUMNS} FROM stored_events "  # noqa: S608 - a constant
        "WHERE originator_id = ? AND originator_version > ? ORDER BY originator_version LIMIT ?"
    )
    bound = 2**62 if limit is None else limit
    return [_event(row) for row in run(connection, sql, (stream, after, bound))]


def read_streams(connection: Connection, streams: Sequence[str], after: int = 0) -> dict[str, list[StoredEvent]]:
    """Read the events of several streams after a position at once; a stream without any has no entry."""
    sql = (
        f"SELECT {_COLUMNS} FROM stored_events "  # noqa: S608 - a constant
        "WHERE originator_id <-(?) AND originator_version > ? ORDER BY originator_id, originator_version"
    )
    found: dict[str, list[StoredEvent]] = {}
    for row in run(connection, sql, (many(connection, streams), after)):
        found.setdefault(row[0], []).append(_event(row))
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
    rows = run(connection, sql, (stream, stream, stream, stream)).all()
    if rows and rows[0].part == 0:
        return _event(rows[0]), [_event(row) for row in rows[1:]]
    return None, [_event(row) for row in rows]


def read_notifications(connection: Connection, after: int, limit: int) -> list[Notification]:
    """Read the notification log after an id, in order."""
    sql = f"SELECT {_COLUMNS}, id FROM stored_events WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608 - a constant
    return [Notification(*row) for row in run(connection, sql, (after, limit))]


def all_stored(connection: Connection, events: Sequence[StoredEvent]) -> bool:
    """Tell whether exactly these events are in the journal: whether the transaction that wrote them was committed."""
    size = 500
    for start in range(0, len(events), size):
        wanted = events[start : start + size]
        lowest = min(event.originator_version for event in wanted) - 1
        streams = read_streams(connection, sorted({str(event.originator_id) for event in wanted}), lowest)
        found = {(e.originator_id, e.originator_version): (e.topic, e.state) for part in streams.values() for e in part}
        if any(found.get((e.originator_id, e.originator_version)) != (e.topic, e.state) for e in wanted):
            return False
    return True


def _event(row: Any) -> StoredEvent:  # noqa: ANN401 - a row
    return StoredEvent(row[0], row[1], row[2], row[3])
