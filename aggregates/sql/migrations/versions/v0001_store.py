"""Create the store: journal, snapshots, tracking, plans, read model, and the store's identity."""

import time
import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create all tables, and the permanent identity of this store."""
    _create_journal()
    _create_read_model()
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
