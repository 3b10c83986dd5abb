"""Create the store: journal, snapshots, plans, read model, intake, memory of ids, outbox, and the store's identity."""

import time
import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_KEPT = sa.column("kept_until_ms", sa.BigInteger()).is_not(None)


def upgrade() -> None:
    """Create all tables, and the permanent identity of this store."""
    _create_journal()
    _create_read_model()
    _create_intake()
    _create_memory_of_ids()
    _create_outbox()
    identity = op.create_table(
        "store_identity",
        sa.Column("store_id", sa.String(36), primary_key=True),
        sa.Column("created_at_ms", _BIG, nullable=False),
    )
    op.bulk_insert(identity, [{"store_id": str(uuid.uuid4()), "created_at_ms": time.time_ns() // 1_000_000}])


def _create_journal() -> None:
    op.create_table(
        "stored_events",
        sa.Column("id", _BIG, primary_key=True, autoincrement=True),
        sa.Column("originator_id", sa.Text(), nullable=False),
        sa.Column("originator_version", _BIG, nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("checksum", sa.LargeBinary(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "stored_events_stream_position", "stored_events", ["originator_id", "originator_version"], unique=True
    )
    op.create_table(
        "snapshots",
        sa.Column("originator_id", sa.Text(), primary_key=True),
        sa.Column("originator_version", _BIG, primary_key=True),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.Column("checksum", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "plans",
        sa.Column("fingerprint", sa.String(64), primary_key=True),
        sa.Column("saga", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("recorded_at_ms", _BIG, nullable=False),
        sa.Column("checksum", sa.LargeBinary(), nullable=False),
    )


def _create_read_model() -> None:
    op.create_table(
        "saga_index",
        sa.Column("run_id", sa.Text(), primary_key=True),
        sa.Column("saga", sa.Text(), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("position", _BIG, nullable=False),
        sa.Column("started_ms", _BIG, nullable=False),
        sa.Column("updated_ms", _BIG, nullable=False),
        sa.Column("current", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("keys", sa.Text(), nullable=False),
        sa.Column("driver", sa.String(20), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
    )
    op.create_index("saga_index_newest", "saga_index", ["started_ms", "run_id"])
    op.create_index("saga_index_status", "saga_index", ["status", "started_ms"])
    op.create_index("saga_index_saga", "saga_index", ["saga", "started_ms"])
    op.create_table(
        "run_keys",
        sa.Column("run_id", sa.Text(), primary_key=True),
        sa.Column("field", sa.Text(), primary_key=True),
        sa.Column("value", sa.Text(), nullable=False),
    )
    op.create_index("run_keys_value", "run_keys", ["field", "value"])


def _create_intake() -> None:
    op.create_table(
        "pipeline_positions",
        sa.Column("pipeline", sa.Text(), primary_key=True),
        sa.Column("partition", sa.Text(), primary_key=True),
        sa.Column("first_position", _BIG, nullable=False),
        sa.Column("next_position", _BIG, nullable=False),
        sa.Column("cursor", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Text(), nullable=False),
        sa.Column("epoch", _BIG, nullable=False),
        sa.Column("token_slice", _BIG, nullable=False),
        sa.Column("token_attempt", _BIG, nullable=False),
        sa.Column("highest", _BIG, nullable=False),
        sa.Column("reached_ms", _BIG, nullable=False),
        sa.Column("batch", _BIG, nullable=False),
        sa.Column("checksum", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "pipeline_batches",
        sa.Column("pipeline", sa.Text(), primary_key=True),
        sa.Column("partition", sa.Text(), primary_key=True),
        sa.Column("number", _BIG, primary_key=True, autoincrement=False),
        sa.Column("token_slice", _BIG, nullable=False),
        sa.Column("token_attempt", _BIG, nullable=False),
        sa.Column("epoch", _BIG, nullable=False),
        sa.Column("first_position", _BIG, nullable=False),
        sa.Column("next_position", _BIG, nullable=False),
        sa.Column("holes", _BIG, nullable=False),
        sa.Column("applied", _BIG, nullable=False),
        sa.Column("redelivered", _BIG, nullable=False),
        sa.Column("repeated", _BIG, nullable=False),
        sa.Column("replayed", _BIG, nullable=False),
        sa.Column("applied_again", _BIG, nullable=False),
        sa.Column("set_aside", _BIG, nullable=False),
        sa.Column("deferred", _BIG, nullable=False),
        sa.Column("skipped", _BIG, nullable=False),
        sa.Column("gaps", _BIG, nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("recorded_at_ms", _BIG, nullable=False),
        sa.Column("first_event", _BIG, nullable=False),
        sa.Column("last_event", _BIG, nullable=False),
        sa.Column("checksum", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "pipeline_held",
        sa.Column("pipeline", sa.Text(), primary_key=True),
        sa.Column("partition", sa.Text(), primary_key=True),
        sa.Column("position", _BIG, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=True),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("source_ms", _BIG, nullable=True),
        sa.Column("attempts", _BIG, nullable=False),
        sa.Column("held_at_ms", _BIG, nullable=False),
        sa.Column("checksum", sa.LargeBinary(), nullable=False),
    )
    op.create_index("pipeline_held_key", "pipeline_held", ["pipeline", "key", "partition", "position"])
    op.create_table(
        "pipeline_numbers",
        sa.Column("pipeline", sa.Text(), primary_key=True),
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("number", _BIG, nullable=False),
        sqlite_with_rowid=False,
    )


def _create_memory_of_ids() -> None:
    op.create_table(
        "pipeline_id_buckets",
        sa.Column("pipeline", sa.Text(), primary_key=True),
        sa.Column("bucket", _BIG, primary_key=True, autoincrement=False),
        sa.Column("open_ids", _BIG, nullable=False),
        sa.Column("sealed_ids", _BIG, nullable=False),
        sa.Column("version", _BIG, nullable=False),
    )
    op.create_table(
        "pipeline_horizons",
        sa.Column("pipeline", sa.Text(), primary_key=True),
        sa.Column("bucket", _BIG, nullable=False),
    )
    op.create_table(
        "pipeline_ids",
        sa.Column("pipeline", sa.Text(), primary_key=True),
        sa.Column("bucket", _BIG, primary_key=True, autoincrement=False),
        sa.Column("id_hash", sa.LargeBinary(), primary_key=True),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "pipeline_id_pages",
        sa.Column("pipeline", sa.Text(), primary_key=True),
        sa.Column("bucket", _BIG, primary_key=True, autoincrement=False),
        sa.Column("lower", sa.LargeBinary(), primary_key=True),
        sa.Column("version", _BIG, nullable=False),
        sa.Column("filter", sa.LargeBinary(), nullable=False),
        sa.Column("ids", sa.LargeBinary(), nullable=False),
        sa.Column("checksum", sa.LargeBinary(), nullable=False),
    )


def _create_outbox() -> None:
    op.create_table(
        "outbox_messages",
        sa.Column("id", _BIG, primary_key=True, autoincrement=True),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("kept_until_ms", _BIG, nullable=True),
        sa.Column("repeats", _BIG, nullable=True),
        sa.Column("recorded_at_ms", _BIG, nullable=False),
        sa.Column("checksum", sa.LargeBinary(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("outbox_messages_kept", "outbox_messages", ["cause"], sqlite_where=_KEPT, postgresql_where=_KEPT)
    op.create_index(
        "outbox_messages_kept_until",
        "outbox_messages",
        ["kept_until_ms"],
        sqlite_where=_KEPT,
        postgresql_where=_KEPT,
    )
    op.create_table(
        "outbox_readers",
        sa.Column("reader", sa.Text(), primary_key=True),
        sa.Column("topic", sa.Text(), primary_key=True),
        sa.Column("next_position", _BIG, nullable=False),
        sa.Column("checksum", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "commit_marks",
        sa.Column("writer", sa.String(32), primary_key=True),
        sa.Column("number", _BIG, nullable=False),
        sa.Column("marked_at_ms", _BIG, nullable=False),
    )
