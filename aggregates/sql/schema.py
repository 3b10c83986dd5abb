"""Tables of the store, as SQLAlchemy metadata; the migrations create exactly this schema."""

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    cast,
    literal,
)

__all__ = [
    "bindable",
    "is_text",
    "metadata",
    "plans",
    "run_keys",
    "saga_index",
    "snapshots",
    "store_identity",
    "stored_events",
]

metadata = MetaData()
"""All tables of the store."""

_BIG = BigInteger().with_variant(Integer(), "sqlite")

stored_events = Table(
    "stored_events",
    metadata,
    # AUTOINCREMENT never reuses a notification id, not even after the last row was deleted.
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("originator_id", Text(), nullable=False),
    Column("originator_version", _BIG, nullable=False),
    Column("topic", Text(), nullable=False),
    Column("state", LargeBinary(), nullable=False),
    Column("checksum", LargeBinary(), nullable=False),
    Index("stored_events_stream_position", "originator_id", "originator_version", unique=True),
    sqlite_autoincrement=True,
)
"""The journal: all events of all streams. The columns are `eventsourcing`'s, with ids as text, and a checksum."""

snapshots = Table(
    "snapshots",
    metadata,
    Column("originator_id", Text(), primary_key=True),
    Column("originator_version", _BIG, primary_key=True),
    Column("topic", Text(), nullable=False),
    Column("state", LargeBinary(), nullable=False),
    Column("checksum", LargeBinary(), nullable=False),
)
"""Folded aggregates, so that a load does not have to read the whole stream."""

store_identity = Table(
    "store_identity",
    metadata,
    Column("store_id", String(36), primary_key=True),
    Column("created_at_ms", _BIG, nullable=False),
)
"""One row: the identity of the store."""

plans = Table(
    "plans",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
    Column("saga", Text(), nullable=False),
    Column("plan", Text(), nullable=False),
    Column("recorded_at_ms", _BIG, nullable=False),
    Column("checksum", LargeBinary(), nullable=False),
)
"""Every plan that a run follows, stored once."""

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
"""Read model: one row for each run, written in the transaction of its facts."""

run_keys = Table(
    "run_keys",
    metadata,
    Column("run_id", Text(), primary_key=True),
    Column("field", Text(), primary_key=True),
    Column("value", Text(), nullable=False),
    Index("run_keys_value", "field", "value"),
)
"""Business keys by which runs are found."""


def is_text(text: str) -> bool:
    """Check whether a stored text is valid; SQLite returns a text that is not UTF-8 with lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def bindable(text: str) -> ColumnElement[str]:
    """Return a text as a parameter for comparison with stored texts, also if it is not valid."""
    if is_text(text):
        return literal(text, Text())
    return cast(literal(text.encode("utf-8", "surrogateescape"), LargeBinary()), Text())
