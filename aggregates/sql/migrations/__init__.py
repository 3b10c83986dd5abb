"""The store's schema over time: which revision a store has, and how it gets to this version's.

Each file in `versions` is one Alembic revision and is never changed after it was released. Nothing here imports Alembic
until a store has to be upgraded, because reading the revision is part of every start.

A store keeps its revision in a table of our own name, so that users may keep their own tables, with their own Alembic,
in the same database.
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
"""Where a store keeps its revision."""

_version = table(VERSION_TABLE, column("version_num"))
# Alembic keeps what it is working on in module globals.
_upgrading = threading.Lock()


def current_revision(engine: Engine) -> str | None:
    """Read which revision the store's schema has; `None` when it has none yet.

    Raises:
        UnreachableError: The store cannot be read.
    """
    with store_errors(), engine.connect() as connection:
        return _revision(connection)


def needs_upgrade(engine: Engine) -> bool:
    """Tell whether the store's schema is older than this version's, or not there.

    Raises:
        JournalError: It is newer.
        UnreachableError: The store cannot be read.
    """
    return _is_older(engine, current_revision(engine))


def upgrade(engine: Engine) -> bool:
    """Bring the store's schema to this version's, in one transaction.

    Any number of processes may do so at once: the first does it while the others wait, and then find it done.

    Returns:
        Whether there was anything to do.

    Raises:
        JournalError: The schema is newer, or the database has foreign tables with names that we need.
        UnreachableError: The store cannot be reached or written.
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
    """Make sure that the store can be worked with: the first thing to do with an engine.

    An SQLite store is upgraded in passing. A PostgreSQL one never is, because other processes may be at work on it.

    Returns:
        The store's identity.

    Raises:
        JournalError: The schema is newer; or it has to be upgraded first, by `amends db upgrade`.
        UnreachableError: The store cannot be reached or written.
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
            f"store {safe_url(engine)!r} has tables that are not ours: {', '.join(foreign)}; "
            "use another database or schema"
        )


def _run_alembic(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415 - most processes never upgrade anything
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "amends.aggregates.sql:migrations")
    command.upgrade(config, HEAD_REVISION)
