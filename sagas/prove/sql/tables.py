"""Own tables in memory: each state is an image of an SQLite database, and one connection loads the image that is asked.

A statement that a real database would refuse may pass here, and the other way round, if your store is PostgreSQL: the
dialects differ. The message of an error is SQLite's.
"""

import sqlite3
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from sqlalchemy import Executable, MetaData, create_engine, exc
from sqlalchemy.engine import Connection
from sqlalchemy.pool import StaticPool

from amends.aggregates.errors import InputError
from amends.aggregates.text import shorten
from amends.sagas.prove.problem import ProveError

__all__ = ["SqlTables", "create_tables"]


class _Database:
    """The connection that all states of one search share, and the image that it has loaded."""

    def __init__(self) -> None:
        self.raw = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self.engine = create_engine("sqlite://", creator=lambda: self.raw, poolclass=StaticPool)
        self.loaded: bytes | None = None

    def load(self, image: bytes) -> Connection:
        """Return a connection to the state of an image."""
        if self.loaded is not image:
            self.raw.deserialize(image)
            self.raw.execute("PRAGMA foreign_keys=ON")
            self.loaded = image
        return self.engine.connect()

    def content(self) -> Hashable:
        """Return the content of every table."""
        names = [
            row[0] for row in self.raw.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        ]
        return tuple((name, tuple(self.raw.execute(f'SELECT * FROM "{name}" ORDER BY 1'))) for name in names)  # noqa: S608 - names of the schema


class SqlTables:
    """The user's own tables at one moment; it never changes.

    Args:
        database: The connection.
        image: The image of the database.
        key: The content of every table.

    Attributes:
        key: The content of every table, for comparison.
    """

    __slots__ = ("_database", "_image", "key")

    def __init__(self, database: _Database, image: bytes, key: Hashable) -> None:
        self._database = database
        self._image = image
        self.key = key

    def execute(self, statement: object) -> tuple[Sequence[tuple[Any, ...]], int, "SqlTables"]:
        """Run a statement; return its rows, the number of rows that it matched, and the tables after it.

        Raises:
            InputError: It is no SQLAlchemy statement.
            DBAPIError: The database refuses it.
        """
        if not isinstance(statement, Executable):
            raise InputError(f"execute() takes an SQLAlchemy statement, not {type(statement).__name__}; use text()")
        database = self._database
        with database.load(self._image) as connection:
            before = database.raw.total_changes
            try:
                result = connection.execute(statement, execution_options={"preserve_rowcount": True})
                rows = [tuple(row) for row in result] if result.returns_rows else []
                matched = len(rows) if result.returns_rows else result.rowcount
            except BaseException:
                database.loaded = None
                raise
        if database.raw.total_changes == before:
            return rows, matched, self
        image = database.loaded = database.raw.serialize()
        return rows, matched, SqlTables(database, image, database.content())


def create_tables(metadata: object, rows: Iterable[object] = ()) -> SqlTables:
    """Create the tables, and run statements that fill them.

    Args:
        metadata: The user's tables.
        rows: Statements that insert the rows that exist before.

    Raises:
        ProveError: A statement is none, or the database refuses a table or a statement.
    """
    if not isinstance(metadata, MetaData):
        raise ProveError(f"tables={shorten(metadata)}: give the MetaData of your tables")
    database = _Database()
    try:
        with database.engine.connect() as connection:
            metadata.create_all(connection)
        image = database.loaded = database.raw.serialize()
        tables = SqlTables(database, image, database.content())
        for statement in rows:
            tables = tables.execute(statement)[2]
    except (exc.SQLAlchemyError, InputError) as error:
        line = (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]
        raise ProveError(f"tables=, given=: {line}; give a MetaData, and statements that insert rows") from error
    return tables
