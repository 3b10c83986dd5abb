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
    column,
    literal,
)

__all__ = [
    "bindable",
    "commit_marks",
    "is_text",
    "metadata",
    "outbox_messages",
    "outbox_readers",
    "pipeline_batches",
    "pipeline_held",
    "pipeline_horizons",
    "pipeline_id_buckets",
    "pipeline_id_pages",
    "pipeline_ids",
    "pipeline_numbers",
    "pipeline_positions",
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
_KEPT = column("kept_until_ms", BigInteger()).is_not(None)

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

pipeline_positions = Table(
    "pipeline_positions",
    metadata,
    Column("pipeline", Text(), primary_key=True),
    Column("partition", Text(), primary_key=True),
    Column("first_position", _BIG, nullable=False),
    Column("next_position", _BIG, nullable=False),
    Column("cursor", Text(), nullable=False),
    Column("incarnation", Text(), nullable=False),
    Column("epoch", _BIG, nullable=False),
    Column("token_slice", _BIG, nullable=False),
    Column("token_attempt", _BIG, nullable=False),
    Column("highest", _BIG, nullable=False),
    Column("reached_ms", _BIG, nullable=False),
    Column("batch", _BIG, nullable=False),
    Column("checksum", LargeBinary(), nullable=False),
)
"""The position of each pipeline in each partition of its source, and the claim of the partition's owner."""

pipeline_batches = Table(
    "pipeline_batches",
    metadata,
    Column("pipeline", Text(), primary_key=True),
    Column("partition", Text(), primary_key=True),
    Column("number", _BIG, primary_key=True, autoincrement=False),
    Column("token_slice", _BIG, nullable=False),
    Column("token_attempt", _BIG, nullable=False),
    Column("epoch", _BIG, nullable=False),
    Column("first_position", _BIG, nullable=False),
    Column("next_position", _BIG, nullable=False),
    Column("holes", _BIG, nullable=False),
    Column("applied", _BIG, nullable=False),
    Column("redelivered", _BIG, nullable=False),
    Column("repeated", _BIG, nullable=False),
    Column("replayed", _BIG, nullable=False),
    Column("applied_again", _BIG, nullable=False),
    Column("set_aside", _BIG, nullable=False),
    Column("deferred", _BIG, nullable=False),
    Column("skipped", _BIG, nullable=False),
    Column("gaps", _BIG, nullable=False),
    Column("mode", Text(), nullable=False),
    Column("recorded_at_ms", _BIG, nullable=False),
    Column("first_event", _BIG, nullable=False),
    Column("last_event", _BIG, nullable=False),
    Column("checksum", LargeBinary(), nullable=False),
)
"""The ranges of positions that were committed, with the fate of their messages."""

pipeline_held = Table(
    "pipeline_held",
    metadata,
    Column("pipeline", Text(), primary_key=True),
    Column("partition", Text(), primary_key=True),
    Column("position", _BIG, primary_key=True, autoincrement=False),
    Column("kind", String(20), nullable=False),
    Column("key", Text(), nullable=False),
    Column("message_id", Text(), nullable=False),
    Column("reason", Text(), nullable=False),
    Column("value", LargeBinary(), nullable=True),
    Column("headers", Text(), nullable=False),
    Column("source_ms", _BIG, nullable=True),
    Column("attempts", _BIG, nullable=False),
    Column("held_at_ms", _BIG, nullable=False),
    Column("checksum", LargeBinary(), nullable=False),
    Index("pipeline_held_key", "pipeline", "key", "partition", "position"),
)
"""Messages that are set aside or deferred, whole."""

pipeline_numbers = Table(
    "pipeline_numbers",
    metadata,
    Column("pipeline", Text(), primary_key=True),
    Column("key", Text(), primary_key=True),
    Column("number", _BIG, nullable=False),
    sqlite_with_rowid=False,
)
"""The last sequence number of each key, for producers that count."""

pipeline_id_buckets = Table(
    "pipeline_id_buckets",
    metadata,
    Column("pipeline", Text(), primary_key=True),
    Column("bucket", _BIG, primary_key=True, autoincrement=False),
    Column("open_ids", _BIG, nullable=False),
    Column("sealed_ids", _BIG, nullable=False),
    Column("version", _BIG, nullable=False),
)
"""The buckets of the memory of ids: how many ids are in rows and in pages. `version` grows when its pages change."""

pipeline_horizons = Table(
    "pipeline_horizons",
    metadata,
    Column("pipeline", Text(), primary_key=True),
    Column("bucket", _BIG, nullable=False),
)
"""The oldest bucket that a pipeline has never forgotten."""

pipeline_ids = Table(
    "pipeline_ids",
    metadata,
    Column("pipeline", Text(), primary_key=True),
    Column("bucket", _BIG, primary_key=True, autoincrement=False),
    Column("id_hash", LargeBinary(), primary_key=True),
    Column("digest", LargeBinary(), nullable=False),
    sqlite_with_rowid=False,
)
"""Remembered ids that are not in a page yet."""

pipeline_id_pages = Table(
    "pipeline_id_pages",
    metadata,
    Column("pipeline", Text(), primary_key=True),
    Column("bucket", _BIG, primary_key=True, autoincrement=False),
    Column("lower", LargeBinary(), primary_key=True),
    Column("version", _BIG, nullable=False),
    Column("filter", LargeBinary(), nullable=False),
    Column("ids", LargeBinary(), nullable=False),
    Column("checksum", LargeBinary(), nullable=False),
)
"""Remembered ids of sealed buckets, in the form of `aggregates.id_pages`. A page has the ids from `lower` on."""

outbox_messages = Table(
    "outbox_messages",
    metadata,
    # As in stored_events: a reader that has seen an id must never find it again with another message.
    Column("id", _BIG, primary_key=True, autoincrement=True),
    Column("topic", Text(), nullable=False),
    Column("key", Text(), nullable=False),
    Column("value", LargeBinary(), nullable=False),
    Column("headers", Text(), nullable=False),
    Column("cause", Text(), nullable=False),
    Column("kept_until_ms", _BIG, nullable=True),
    Column("repeats", _BIG, nullable=True),
    Column("recorded_at_ms", _BIG, nullable=False),
    Column("checksum", LargeBinary(), nullable=False),
    Index("outbox_messages_kept", "cause", sqlite_where=_KEPT, postgresql_where=_KEPT),
    Index("outbox_messages_kept_until", "kept_until_ms", sqlite_where=_KEPT, postgresql_where=_KEPT),
    sqlite_autoincrement=True,
)
"""Messages that transactions have sent and relays publish."""

outbox_readers = Table(
    "outbox_readers",
    metadata,
    Column("reader", Text(), primary_key=True),
    Column("topic", Text(), primary_key=True),
    Column("next_position", _BIG, nullable=False),
    Column("checksum", LargeBinary(), nullable=False),
)
"""The positions of the relays, and of pipelines of other stores, in the topics of the outbox."""

commit_marks = Table(
    "commit_marks",
    metadata,
    Column("writer", String(32), primary_key=True),
    Column("number", _BIG, nullable=False),
    Column("marked_at_ms", _BIG, nullable=False),
)
"""The last commit without events of each process: the evidence that it took place, if its reply was lost."""


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
