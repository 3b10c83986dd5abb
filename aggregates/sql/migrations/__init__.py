"""Revisions of the store's schema: read a store's revision, and upgrade the store to this version's.

Each file in `versions` is one Alembic revision, which must not change after its release. The package imports Alembic
only when a store has to be upgraded, because every start of a program reads the revision. It may import SQLAlchemy and
the modules of `sql`. Start with `ensure_schema`.

A store keeps its revision in a table with a name of its own, so that users may keep their own tables, with their own
Alembic, in the same database.
"""

import threading

from sqlalchemy import Connection, Engine, column, inspect, select, table

from amends.aggregates.errors import JournalError
from amends.aggregates.sql.engine import is_readonly, safe_url, writing
from amends.aggregates.sql.errors import store_errors
from amends.aggregates.sql.schema import metadata, store_identity

__all__ = [
    "HEAD_REVISION",
    "REVISIONS",
    "VERSION_TABLE",
    "current_revision",
    "ensure_schema",
    "needs_upgrade",
    "upgrade",
]

REVISIONS = ("0001",)
"""Every revision, oldest first; a test compares it with the files."""

HEAD_REVISION = REVISIONS[-1]
"""The revision that this version works with."""

VERSION_TABLE = "amends_schema"
"""Name of the table with the store's revision."""

_version = table(VERSION_TABLE, column("version_num"))
# Alembic keeps its current context in module globals, so two threads must not upgrade at once.
_upgrading = threading.Lock()


def current_revision(engine: Engine) -> str | None:
    """Read the revision of the store's schema; `None` when it has none yet.

    Raises:
        UnreachableError: The store is unreadable at the moment.
    """
    with store_errors(), engine.connect() as connection:
        return _revision(connection)


def needs_upgrade(engine: Engine) -> bool:
    """Check whether the store's schema is missing or older than this version's.

    Raises:
        JournalError: The schema is newer.
        UnreachableError: The store is unreadable at the moment.
    """
    return _is_older(engine, current_revision(engine))


def upgrade(engine: Engine) -> bool:
    """Upgrade the store's schema to this version's, in one transaction.

    Any number of processes may call this at once: the first one upgrades; the others wait and then have nothing to do.

    Returns:
        Whether an upgrade was necessary.

    Raises:
        JournalError: The schema is newer, or the database has foreign tables with names that Amends needs.
        UnreachableError: The store is unreachable or not writable.
    """
    if not needs_upgrade(engine):
        return False
    with store_errors(), _upgrading, writing(engine) as connection:
        revision = _revision(connection)
        if not _is_older(engine, revision):
            return False
        if revision is None:
            _refuse_foreign_tables(engine, connection)
        _run_alembic(connection)
        return True


def ensure_schema(engine: Engine) -> str:
    """Check that the store is usable; call this first with a new engine.

    It upgrades an SQLite store if necessary. It never upgrades a PostgreSQL store, because other processes may use it.

    Returns:
        The store's identity.

    Raises:
        JournalError: The schema is newer, or needs `amends db upgrade` first.
        UnreachableError: The store is unreachable or not writable.
    """
    if needs_upgrade(engine):
        if engine.dialect.name != "sqlite" or is_readonly(engine):
            raise JournalError(
                f"store {safe_url(engine)!r} has schema {current_revision(engine) or 'none'}, "
                f"this version needs {HEAD_REVISION}; run `amends db upgrade`"
            )
        upgrade(engine)
    with store_errors(), engine.connect() as connection:
        identities = connection.execute(select(store_identity.c.store_id)).scalars().all()
    if len(identities) != 1:
        raise JournalError(
            f"store {safe_url(engine)!r} has {len(identities)} identities instead of one; restore it from a backup"
        )
    return str(identities[0])


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    revision: str | None = connection.execute(select(_version.c.version_num)).scalar()
    return revision


def _is_older(engine: Engine, revision: str | None) -> bool:
    if revision is not None and revision not in REVISIONS:
        raise JournalError(
            f"store {safe_url(engine)!r} has schema {revision!r}, which is newer than this version's "
            f"{HEAD_REVISION!r}; install the newer version of amends"
        )
    return revision != HEAD_REVISION


def _refuse_foreign_tables(engine: Engine, connection: Connection) -> None:
    if foreign := sorted(metadata.tables.keys() & set(inspect(connection).get_table_names())):
        raise JournalError(
            f"store {safe_url(engine)!r} has tables that Amends did not create: {', '.join(foreign)}; "
            "use another database or schema"
        )


def _run_alembic(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - most processes never upgrade anything
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "amends.aggregates.sql:migrations")
    command.upgrade(config, HEAD_REVISION)
