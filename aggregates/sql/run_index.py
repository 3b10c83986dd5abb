"""The read model: one row for each run, and its business keys, written in the transaction of the facts.

It is folded from the journal, and `sql.rebuild_index` can always rebuild it from there.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection, Select, and_, or_, select

from amends.aggregates.errors import NotFoundError
from amends.aggregates.journal import RunQuery
from amends.aggregates.run.record import RunSummary
from amends.aggregates.run.state import RunStatus
from amends.aggregates.sql.rows import insert_records, record_text, records, write, write_many
from amends.aggregates.sql.schema import is_text, run_keys, saga_index
from amends.aggregates.values.strict_json import ascii_json, clean_text

__all__ = ["find_runs", "move_runs", "write_keys", "write_runs"]

# Columns with their types, in the order of the rows.
_KEY = {"run_id": "text", "field": "text", "value": "text"}
_MOVED = {"position": "bigint", "updated_ms": "bigint", "current": "text", "error": "text", "run_id": "text"}
_RUN = {
    "run_id": "text",
    "saga": "text",
    "status": "text",
    "position": "bigint",
    "started_ms": "bigint",
    "updated_ms": "bigint",
    "current": "text",
    "error": "text",
    "keys": "text",
    "driver": "text",
    "fingerprint": "text",
}
_RUN_CONFLICT = (
    "ON CONFLICT (run_id) DO UPDATE SET status = excluded.status, position = excluded.position, "
    "updated_ms = excluded.updated_ms, current = excluded.current, error = excluded.error, "
    "driver = excluded.driver, fingerprint = excluded.fingerprint"
)


def write_runs(connection: Connection, runs: Iterable[RunSummary]) -> None:
    """Update the rows of runs from their summaries; insert a row for a run without one."""
    rows = []
    for each in runs:
        columns = (each.run_id, each.saga, each.status.value, each.position, each.started_ms, each.updated_ms)
        keys = ascii_json(dict(each.keys))
        rows.append((*columns, each.current, _clean(each.error), keys, each.driver, each.fingerprint))
    insert_records(connection, "saga_index", _RUN, _RUN_CONFLICT, rows)


def move_runs(connection: Connection, runs: Iterable[RunSummary]) -> None:
    """Update the rows of runs whose status and driver are unchanged.

    Most facts do not change the status, and leaving it out saves the database updates of its indexes.
    """
    rows = [(each.position, each.updated_ms, each.current, _clean(each.error), each.run_id) for each in runs]
    if connection.dialect.name == "sqlite":
        changes = "position = ?, updated_ms = ?, current = ?, error = ?"
        write_many(connection, f"UPDATE saga_index SET {changes} WHERE run_id = ?", rows)  # noqa: S608 - a constant
        return
    changes = "position = r.position, updated_ms = r.updated_ms, current = r.current, error = r.error"
    sql = f"UPDATE saga_index AS i SET {changes} FROM {records(_MOVED)} WHERE i.run_id = r.run_id"  # noqa: S608 - as above
    write(connection, sql, (record_text(_MOVED, rows),))


def write_keys(connection: Connection, keys: Iterable[tuple[str, str, str]]) -> None:
    """Write business keys by which runs can be found: run id, field, value."""
    rows = [(run_id, clean_text(field), clean_text(value)) for run_id, field, value in keys]
    insert_records(connection, "run_keys", _KEY, "ON CONFLICT DO NOTHING", rows)


def _clean(error: str | None) -> str | None:
    # Text from outside is clean already, but a single text that cannot be stored would hold up all other runs.
    return None if error is None else clean_text(error)


def find_runs(
    connection: Connection, query: RunQuery, fold: Callable[[str], RunSummary | None] | None = None
) -> list[RunSummary]:
    """Return runs, newest first; runs of the same millisecond in descending order of their ids.

    Args:
        connection: Any connection to the store.
        query: The runs to list.
        fold: Reads a run from the journal if its row is unreadable, and returns `None` if the facts are unreadable too.
            Such a run is listed as needing attention, with the reason as its error.

    Raises:
        NotFoundError: The run in `query.before` does not exist.
    """
    row = saga_index.c
    found = _select(query)
    if query.before is not None:
        started_ms = connection.execute(select(row.started_ms).where(row.run_id == query.before)).scalar()
        if started_ms is None:
            raise NotFoundError(f"there is no run {query.before!r} to continue the list from; start at the first page")
        found = found.where(
            or_(row.started_ms < started_ms, and_(row.started_ms == started_ms, row.run_id < query.before))
        )
    summaries: list[RunSummary] = []
    for each in connection.execute(found).all():
        try:
            summaries.append(_summary(each))
        except (ValueError, TypeError, AttributeError):
            folded = fold(each.run_id) if fold is not None else None
            summaries.append(folded or _unreadable(each))
    return summaries


def _select(query: RunQuery) -> Select[Any]:
    row = saga_index.c
    found = select(saga_index)
    if query.statuses:
        found = found.where(row.status.in_(sorted(status.value for status in query.statuses)))
    if query.saga is not None:
        found = found.where(row.saga == query.saga)
    if query.since_ms is not None:
        found = found.where(row.started_ms >= query.since_ms)
    for field, value in query.where:
        key = run_keys.alias()
        wanted = and_(key.c.run_id == row.run_id, key.c.field == clean_text(field), key.c.value == clean_text(value))
        found = found.join(key, wanted)
    return found.order_by(row.started_ms.desc(), row.run_id.desc()).limit(max(1, query.limit))


def _unreadable(row: Any) -> RunSummary:  # noqa: ANN401 - a row
    return RunSummary(
        run_id=clean_text(str(row.run_id)),
        saga=clean_text(str(row.saga)),
        status=RunStatus.NEEDS_ATTENTION,
        position=int(row.position),
        started_ms=int(row.started_ms),
        updated_ms=int(row.updated_ms),
        current="",
        error="neither its row in the read model nor its facts can be read; run `amends db check`",
        keys={},
        driver=clean_text(str(row.driver)),
        fingerprint=clean_text(str(row.fingerprint)),
    )


def _summary(row: Any) -> RunSummary:  # noqa: ANN401 - a row
    if not all(is_text(text) for text in (row.run_id, row.saga, row.current, row.error or "", row.driver)):
        raise ValueError(row.run_id)
    return RunSummary(
        run_id=row.run_id,
        saga=row.saga,
        status=RunStatus(row.status),
        position=row.position,
        started_ms=row.started_ms,
        updated_ms=row.updated_ms,
        current=row.current,
        error=row.error,
        keys=_keys(row.keys),
        driver=row.driver,
        fingerprint=row.fingerprint,
    )


def _keys(text: str) -> dict[str, str]:
    keys: dict[str, str] = json.loads(text)
    if not isinstance(keys, dict):
        raise TypeError(text)
    return keys
