"""Explain errors of the database: the failure, the store and the remedy.

PostgreSQL's driver gives no code for a connection that the server refused, so the module recognises these errors by the
server's words. If the words are in another language than English, the remedy is the general one.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event, exc
from sqlalchemy.engine import Engine, ExceptionContext

from amends.aggregates.errors import AmendsError, InputError, JournalError, UnreachableError
from amends.aggregates.sql.schema import metadata

__all__ = ["BUSY_TIMEOUT_S", "STORE", "as_amends_error", "name_errors", "store_errors"]

BUSY_TIMEOUT_S = 30
"""Longest wait for another writer, in seconds; units of the committer take milliseconds."""

STORE = "amends_store"
"""Option of an engine, and attribute of its errors: the store's name."""


def name_errors(engine: Engine, name: str) -> None:
    """Add the store's name to every error of this engine, so that the message can name the store."""

    @event.listens_for(engine, "handle_error")
    def _name(context: ExceptionContext) -> None:
        if context.sqlalchemy_exception is not None:
            setattr(context.sqlalchemy_exception, STORE, name)


_REMEDIES = (
    # SQLite's names of errors and PostgreSQL's SQLSTATEs, by prefix.
    ("SQLITE_BUSY", f"another process has been writing for over {BUSY_TIMEOUT_S} s; find it, then try again"),
    ("SQLITE_LOCKED", "another connection holds the table; try again"),
    ("SQLITE_FULL", "make room on the disk; nothing was written"),
    ("SQLITE_READONLY", "make the file and its directory writable"),
    ("SQLITE_CANTOPEN", "check that the file and its directory exist and may be read and written"),
    ("SQLITE_IOERR", "check the disk"),
    ("55P03", f"another process has been writing for over {BUSY_TIMEOUT_S} s; find it, then try again"),
    ("53100", "make room on the server's disk; nothing was written"),
    ("53300", "raise the server's max_connections or use fewer processes"),
    ("25006", "the server or connection is read-only; connect to the primary server"),
    ("28", "check the user and password"),
    ("42501", "grant the user the missing privilege"),
)
_REFUSALS = (
    # The server's words, where there is no code.
    (r"authentication failed|no password supplied|role \".*\" does not exist", "check the user and password"),
    (r"database \".*\" does not exist", "create the database, or correct its name in the URL"),
    (r"permission denied for database", "grant the user CONNECT on the database"),
    (
        r"too many (?:connections|clients)|remaining connection slots",
        "raise the limit of connections or use fewer processes",
    ),
    (
        r"unsupported startup parameter",
        "a connection pooler refuses `options`; remove them from the URL and set them for the role",
    ),
    (r"no pg_hba.conf entry", "allow the user from this machine in the server's pg_hba.conf"),
    (r"starting up|shutting down|recovery mode", "try again in a moment"),
    (r"failed to resolve host|could not translate host name", "check the host in the URL"),
)
_NO_TABLE = re.compile(r"no such table: (?:main\.)?(\S+)|relation \"(?:[^\".]+\.)?([^\"]+)\" does not exist")
_NO_SCHEMA = "3F000"
_BROKEN = ("SQLITE_NOTADB", "SQLITE_CORRUPT")


def as_amends_error(error: BaseException) -> AmendsError:
    """Return an error that explains an error of the database: the failure, the store and the remedy.

    The message contains neither the statement nor its parameters, because they may contain user data.

    Args:
        error: An SQLAlchemy error; an `AmendsError` is returned unchanged.

    Returns:
        `UnreachableError` when the operation failed now and may succeed later; `JournalError` when this version cannot
        work with the store's schema or content; `InputError` when a user's own table is missing.
    """
    if isinstance(error, AmendsError):
        return error
    name = getattr(error, STORE, None)
    store = f"store {name!r}" if name else "the store"
    reason, code = _reason(error)
    if missing := _NO_TABLE.search(reason):
        return _missing_table(store, missing[1] or missing[2])
    if code.startswith(_BROKEN):
        return JournalError(f"{store} is not a valid SQLite database ({reason}); restore it from a backup")
    if code == _NO_SCHEMA:
        return InputError(f"{store}: {reason}; create the schema that its search_path names, or correct the URL")
    remedy = next((remedy for prefix, remedy in _REMEDIES if code.startswith(prefix)), None)
    if remedy is None and _unreachable(error):
        remedy = next((remedy for words, remedy in _REFUSALS if re.search(words, reason)), None)
        remedy = remedy or "check that it runs and that the URL is right"
    if remedy is None:
        return JournalError(f"{store} refused: {reason}; check for damage: amends db check")
    return UnreachableError(f"{store}: {reason}; {remedy}")


@contextmanager
def store_errors() -> Iterator[None]:
    """Convert SQLAlchemy errors of the block with `as_amends_error`, and raise the result."""
    try:
        yield
    except exc.SQLAlchemyError as error:
        raise as_amends_error(error) from error


def _reason(error: BaseException) -> tuple[str, str]:
    """Return an error's first line and its code in the database's own terms."""
    cause: BaseException = error
    if isinstance(error, exc.DBAPIError) and error.orig is not None:
        cause = error.orig
    lines = str(cause).strip().splitlines()
    code = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None) or ""
    return (lines[0] if lines else type(cause).__name__), code


def _unreachable(error: BaseException) -> bool:
    return isinstance(error, exc.OperationalError | exc.InterfaceError | exc.TimeoutError) or bool(
        getattr(error, "connection_invalidated", False)
    )


def _missing_table(store: str, table: str) -> AmendsError:
    if table in metadata.tables or table == "alembic_version":
        return JournalError(f"{store} has no table {table!r}; run `amends db upgrade`")
    return InputError(f"{store} has no table {table!r}; create it before a step uses it")
