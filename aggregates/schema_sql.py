"""Tables of the store, as SQLAlchemy metadata; the migrations lead to exactly this."""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

__all__ = [
    "metadata",
    "notification_tracking",
    "plans",
    "run_keys",
    "saga_index",
    "snapshots",
    "store_identity",
    "stored_events",
]

metadata = MetaData()
_BIG = BigInteger().with_variant(Integer(), "sqlite")

stored_events = Table(
    "stored_events",
    metadata,
    # AUTOINCREMENT: a notification id is never given twice, not even after the last row was deleted.
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("originator_id", Text(), nullable=False),
    Column("originator_version", _BIG, nullable=False),
    Column("topic", Text(), nullable=False),
    Column("state", LargeBinary(), nullable=False),
    Index("stored_events_stream_position", "originator_id", "originator_version", unique=True),
    sqlite_autoincrement=True,
)
"""The journal: all events of all streams. The columns are those of `eventsourcing`, with ids as text."""

snapshots = Table(
    "snapshots",
    metadata,
    Column("originator_id", Text(), primary_key=True),
    Column("originator_version", _BIG, primary_key=True),
    Column("topic", Text(), nullable=False),
    Column("state", LargeBinary(), nullable=False),
)
"""Folded aggregates, so that loading one does not take its whole stream."""

notification_tracking = Table(
    "notification_tracking",
    metadata,
    Column("application_name", String(32), primary_key=True),
    Column("notification_id", _BIG, nullable=False),
)
"""How far each reader of the notification log has come."""

store_identity = Table(
    "store_identity",
    metadata,
    Column("store_id", String(36), primary_key=True),
    Column("created_at_ms", _BIG, nullable=False),
)
"""One row: which store this is."""

plans = Table(
    "plans",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
    Column("saga", Text(), nullable=False),
    Column("plan", Text(), nullable=False),
    Column("recorded_at_ms", _BIG, nullable=False),
)
"""Every plan that a run follows, once."""

saga_index = Table(
    "saga_index",
    metadata,
    Column("run_id", Text(), primary_key=True),
    Column("saga", Text(), nullable=False),
    Column("status", String(20), nullable=False),
    Column("position", _BIG, nullable=False),
    Column("started_ms", _BIG, nullable=False),
    Column("updated_ms", _BIG, nullable=False),
    Column("current", Text(), nullable=False),
    Column("error", Text(), nullable=True),
    Column("keys", Text(), nullable=False),
    Column("driver", String(20), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Index("saga_index_newest", "started_ms", "run_id"),
    Index("saga_index_status", "status", "started_ms"),
    Index("saga_index_saga", "saga", "started_ms"),
)
"""Read model: one row a run, written in the transaction that writes its facts."""

run_keys = Table(
    "run_keys",
    metadata,
    Column("run_id", Text(), primary_key=True),
    Column("field", Text(), primary_key=True),
    Column("value", Text(), nullable=False),
    Index("run_keys_value", "field", "value"),
)
"""Business keys that runs are found by."""
