"""Engines of the store, and the start of a writing transaction.

The module contains the differences between SQLite and PostgreSQL below the level of SQL. `sql.schema` has the tables,
and `sql.migrations` creates them. Creating an engine does not connect, so an unreachable database fails at the first
use, with an SQLAlchemy error; `sql.errors` explains it in one line.

On PostgreSQL no setting and no lock outlives its transaction: neither timeouts nor the writer's lock, and there are no
prepared statements. So a pooler such as PgBouncer in transaction mode may stand in between.

On both databases there is one writer at a time (`writing`). The writing transaction assigns the ids of the notification
log, so the order of commits is the order of ids: a reader that has seen id n will never find a new smaller one.
"""

import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import event, text
from sqlalchemy.engine import URL, Connection, Engine, create_engine, make_url
from sqlalchemy.pool import QueuePool

from amends.aggregates.errors import InputError, UnreachableError
from amends.aggregates.sql.errors import BUSY_TIMEOUT_S, STORE, name_errors, store_errors
from amends.aggregates.store_url import check_store_url, mask_store_url
from amends.aggregates.text import shorten

__all__ = [
    "LOCK_WAIT_MS",
    "check_writable",
    "create_store_engine",
    "is_readonly",
    "no_directory",
    "safe_url",
    "snapshot_of",
    "writing",
]

CONNECT_TIMEOUT_S = 5
"""Longest wait for a PostgreSQL server to answer, in seconds."""

CUT_OFF_S = 15
"""Seconds after which Amends gives up a connection to a PostgreSQL server that the network has cut off."""

IDLE_IN_TRANSACTION_MS = 60_000
"""Milliseconds after which a PostgreSQL server frees the writing lock of a process that is frozen or cut off."""

WRITER_LOCK = 0x616D6E64
"""First half of the advisory lock's key ("amnd"); the second half is derived from the schema's name."""

LOCK_WAIT_MS = "amends_lock_wait_ms"
"""Option of a PostgreSQL engine: longest wait for a lock, in milliseconds; for tests that must not wait."""

_WRITING = "amends_writing"
_READONLY = "amends_readonly"
# Closing any descriptor of a file drops all POSIX locks that the process has on it: SQLite's too. So no thread may open
# the new file as a database before the descriptor that created it is closed.
_creating = threading.Lock()
_DECODE = partial(str, encoding="utf-8", errors="surrogateescape")


def create_store_engine(url: str, *, readonly: bool = False) -> Engine:
    """Create the engine that the journal's adapters work with, without connecting.

    It creates a missing SQLite file, readable by its owner alone; SQLite gives its companion files the same mode.
    `sqlite://` is a store in memory, for quick tests. It has one connection, which one thread uses at a time, so a
    thread that asks for a second connection while it has the first waits in vain.

    Args:
        url: `sqlite:///path`, `sqlite://`, `postgresql://...` or `postgresql+psycopg://...`. With PostgreSQL the
            parameter `prepare_threshold=5` makes the server prepare statements that are used more than five times; do
            not use it behind a pooler in transaction mode.
        readonly: Refuse every write in the database itself, and never create a file.

    Raises:
        InputError: The URL is not one of these forms, a directory on its path does not exist, or the driver for
            PostgreSQL is not installed.
        UnreachableError: This user has no permission to create, read or write the file.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed, readonly=readonly)
    return _postgresql_engine(parsed, readonly=readonly)


@contextmanager
def writing(bind: Engine | Connection) -> Iterator[Connection]:
    """Open a transaction in which no one else writes to the store, and commit it on normal exit.

    Everything that the transaction reads is still true at its commit. SQLite begins with `BEGIN IMMEDIATE`; PostgreSQL
    takes an advisory lock that all stores in the same database and schema share.

    Args:
        bind: An engine, or a connection of it that is not in a transaction.

    Raises:
        sqlalchemy.exc.OperationalError: The store is unreachable, or another writer did not end within 30 s.
    """
    if isinstance(bind, Engine):
        with bind.connect() as connection, writing(connection):
            yield connection
        return
    bind.execution_options(**{_WRITING: True})
    try:
        with bind.begin():
            yield bind
    finally:
        bind.execution_options(**{_WRITING: False})


@contextmanager
def snapshot_of(engine: Engine) -> Iterator[Connection]:
    """Open a transaction that sees the store at one moment.

    Raises:
        sqlalchemy.exc.OperationalError: The store is unreachable.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


def check_writable(engine: Engine) -> None:
    """Check that the store is writable before a caller relies on it; `create_store_engine` has checked a file already.

    Raises:
        UnreachableError: The server or the connection is read-only, or the user has no permission to write.
    """
    if engine.dialect.name != "postgresql":
        return
    with store_errors(), engine.connect() as connection:
        readonly, granted = connection.execute(_MAY_WRITE).one()
    if readonly:
        raise UnreachableError(f"store {safe_url(engine)!r} is read-only; connect to the primary server")
    if not granted:
        raise UnreachableError(
            f"store {safe_url(engine)!r} cannot be written by this user; "
            f"grant the user SELECT, INSERT, UPDATE and DELETE on all tables of the schema"
        )


def is_readonly(engine: Engine) -> bool:
    """Check whether the engine refuses every write."""
    return bool(engine.get_execution_options().get(_READONLY))


def safe_url(store: URL | Engine) -> str:
    """Return a store's URL without its password and its parameters, for messages and the screen."""
    if isinstance(store, Engine):
        named = store.get_execution_options().get(STORE)
        return named if isinstance(named, str) else safe_url(store.url)
    return mask_store_url(store.render_as_string(hide_password=False))


def _parse(url: str) -> URL:
    try:
        check_store_url(url)
    except ValueError as error:
        raise InputError(f"store URL {mask_store_url(url)!r} is refused: {error}") from None
    return make_url(url)


# ---- SQLite


def _sqlite_engine(url: URL, *, readonly: bool) -> Engine:
    name = safe_url(url)
    in_memory = url.database in {None, "", ":memory:"}
    if not in_memory:
        path = Path(url.database or "").absolute()
        _check_file(path, readonly=readonly)
        if readonly:
            url = url.set(database=f"file:{quote(str(path))}", query={"uri": "true", "mode": "ro"})
        else:
            url = url.set(database=str(path))
    engine = create_engine(
        url,
        poolclass=QueuePool,
        # In memory the connection *is* the database: exactly one, never closed, used by one thread at a time.
        pool_size=1 if in_memory else 5,
        max_overflow=0 if in_memory else 10,
        pool_timeout=BUSY_TIMEOUT_S,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_S, "isolation_level": None},
        execution_options={STORE: name, _READONLY: readonly},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        if not readonly and not in_memory:
            _set_wal(connection)
        # One damaged character must not make a page of rows unreadable; its row fails the checksum anyway.
        connection.text_factory = _DECODE
        connection.execute("PRAGMA synchronous=FULL")
        # Only macOS distinguishes "handed to the disk" from "on the disk".
        connection.execute("PRAGMA fullfsync=ON")
        connection.execute("PRAGMA foreign_keys=ON")
        if readonly:
            connection.execute("PRAGMA query_only=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes later fails at once if another one wrote in between.
        wanted = connection.get_execution_options().get(_WRITING)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if wanted else "BEGIN")

    name_errors(engine, name)
    return engine


def no_directory(path: Path) -> InputError:
    """Return the error for opening an SQLite file in a directory that does not exist."""
    return InputError(
        f"store {str(path)!r}: there is no directory {str(path.parent)!r}; create it or correct store_url"
    )


def _check_file(path: Path, *, readonly: bool) -> None:
    if path.is_dir():
        raise InputError(f"store {str(path)!r} is a directory; name a file in it, such as {str(path / 'store.db')!r}")
    if not path.parent.is_dir():
        raise no_directory(path)
    if readonly:
        if not path.exists():
            raise InputError(f"store {str(path)!r} does not exist; the first run creates it")
        return
    try:
        with _creating:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        # The directory too, because SQLite keeps its write-ahead log next to the file.
        for needed in (path, path.parent):
            if not os.access(needed, os.R_OK | os.W_OK):
                raise UnreachableError(
                    f"store {str(path)!r}: this user may not write {str(needed)!r}; change its permissions"
                ) from None
    except OSError as error:
        raise UnreachableError(
            f"store {str(path)!r} cannot be created: {error.strerror}; change its directory's permissions or the URL"
        ) from error


def _set_wal(connection: sqlite3.Connection) -> None:
    """Switch a new file to write-ahead logging.

    The switch needs exclusive access to the file, and SQLite does not wait for that as it does for a writer; so two
    processes that open a new file at once take turns here. A file system without support for it keeps the rollback
    journal, which is slower and equally safe.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


# ---- PostgreSQL


def _postgresql_engine(url: URL, *, readonly: bool) -> Engine:
    name = safe_url(url)
    try:
        import psycopg  # noqa: F401, PLC0415 - an extra that only users of PostgreSQL need
    except ImportError as error:
        raise InputError(
            f"store URL {name!r} needs the driver for PostgreSQL ({error}); pip install 'amends[postgresql]'"
        ) from error
    options: dict[str, Any] = {STORE: name, _READONLY: readonly}
    if readonly:
        options["postgresql_readonly"] = True
    connect_args: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "amends",
        "tcp_user_timeout": CUT_OFF_S * 1000,
        "keepalives_idle": CUT_OFF_S // 3,
        "keepalives_interval": CUT_OFF_S // 3,
        "keepalives_count": 2,
    }
    given = {key: value for key, value in connect_args.items() if key not in url.query}
    engine = create_engine(
        url.set(drivername="postgresql+psycopg").difference_update_query([_PREPARE]),
        pool_pre_ping=True,
        pool_size=5,
        max_overflow=10,
        pool_timeout=BUSY_TIMEOUT_S,
        # A stricter level would take its snapshot before it waits for the lock, and then read outdated data.
        isolation_level="READ COMMITTED",
        connect_args={**given, _PREPARE: _prepare_threshold(url, name)},
        execution_options=options,
    )

    if (wanted := _search_path(url)) is not None:

        @event.listens_for(engine, "connect")
        def _check_search_path(connection: Any, _record: object) -> None:  # noqa: ANN401 - of an optional package
            with connection.cursor() as cursor:
                (found,) = cursor.execute("SELECT current_setting('search_path')").fetchone()
            connection.commit()
            if _names(found) != _names(wanted):
                raise InputError(
                    f"store {name!r}: the connection pooler ignores the search_path in the URL; set it for the role "
                    f"(ALTER ROLE ... SET search_path = ...) and remove it from the URL"
                )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        # Once per connection would not do: behind a pooler the next transaction may run in another session.
        connection.execute(
            _BEGIN_WRITING if options.get(_WRITING) else _BEGIN_READING,
            {
                "lock_ms": str(options.get(LOCK_WAIT_MS, BUSY_TIMEOUT_S * 1000)),
                "idle_ms": str(IDLE_IN_TRANSACTION_MS),
                "lock": WRITER_LOCK,
            },
        )

    name_errors(engine, name)
    return engine


def _prepare_threshold(url: URL, name: str) -> int | None:
    """Return the number of uses after which the server prepares a statement; `None`, the default, for never.

    A pooler in transaction mode hands a session from client to client. Prepared statements stay in the session under
    names that every client chooses alike, so one client would run the statement of another.
    """
    given = url.query.get(_PREPARE)
    if given is None or given == "none":
        return None
    if not isinstance(given, str) or not _SMALL_NUMBER.fullmatch(given):
        raise InputError(
            f"store {name!r}: {_PREPARE} in the URL is {shorten(given)}; write the number of uses after which a "
            f"statement is prepared, 0 to 9999, or leave it out where a pooler stands before the server"
        )
    return int(given)


def _search_path(url: URL) -> str | None:
    """Return the search_path that the options in a URL set; `None` if they set none."""
    options = url.query.get("options", ())
    texts = (options,) if isinstance(options, str) else options
    found = [match[1] for each in texts for match in _SEARCH_PATH.finditer(each)]
    return found[-1] if found else None


def _names(search_path: str) -> list[str]:
    return [each.strip().strip('"') for each in search_path.split(",")]


_PREPARE = "prepare_threshold"
_SMALL_NUMBER = re.compile(r"[0-9]{1,4}")
_SEARCH_PATH = re.compile(r"-c\s*search_path=((?:\\.|\S)+)")
_SETTINGS = """
    set_config('lock_timeout', :lock_ms, true),
    set_config('idle_in_transaction_session_timeout', :idle_ms, true),
    -- Acknowledged means on disk, whatever the server's default is; stronger settings are left alone.
    set_config('synchronous_commit', CASE current_setting('synchronous_commit')
        WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)
"""
_LOCK = "pg_advisory_xact_lock(:lock, hashtext(coalesce(current_schema(), '')))"
_BEGIN_READING = text(f"SELECT {_SETTINGS}")
# One statement is one round trip; the timeout is set first because the lock is taken for the row of the settings.
_BEGIN_WRITING = text(f"WITH settings AS MATERIALIZED (SELECT {_SETTINGS}) SELECT {_LOCK} FROM settings")  # noqa: S608 - constants
_MAY_WRITE = text(
    "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on', "
    "has_table_privilege('stored_events', 'INSERT')"
)
