"""The Inbox: makes a participant idempotent, in the participant's own database and transaction.

A participant is a service that sagas call over a network. A call may come twice, after its undo, or after its caller
has given up; only the participant can recognise that, by the call's idempotency key. The Inbox is one table next to the
service's own tables. It records the outcome of a key in the transaction that carries out the operation, so a crash
leaves both or neither. It needs SQLAlchemy and a database (SQLite or PostgreSQL), and knows nothing of sagas, Temporal
or the journal.

How calls under one key wait for each other: the first statement of each call inserts the key's row, and the unique
index lets one call through. On PostgreSQL the others wait until its transaction has ended. Then they find its result,
or carry out the operation themselves if it was rolled back. At `REPEATABLE READ` and above they fail instead (a
serialisation error), and the caller may repeat them. SQLite has one writer at a time anyway: the others wait up to the
engine's timeout, and then fail with "database is locked" and without effect.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, Column, Index, MetaData, String, Table, Text, delete, exc, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from amends.aggregates.errors import InputError, Rejected
from amends.aggregates.inbox.rules import Answer, Outcome, Recorded, answer_again, check_key, content_text
from amends.aggregates.text import shorten
from amends.aggregates.values.strict_json import clean_text

__all__ = ["Inbox"]

MAX_PURGED = 10_000
"""Largest number of keys that one purge removes; each is a parameter of its statement, and SQLite allows 32,766."""

_INSERT: dict[str, Callable[[Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}


class Inbox:
    """One table that records the operations done under each idempotency key, and the keys that are closed for good.

    Every method works in the transaction of its argument `bind`, and never commits: the records are committed together
    with the service's own changes. An answer holds only after that commit has succeeded, so commit first and reply
    then. After a failed commit it is unknown which records were stored; the same call again finds out. Call the Inbox
    before the transaction reads anything, because SQLite refuses to write after reading data that another connection
    has changed meanwhile. With an async engine use `await connection.run_sync(...)`.

    Keys are compared as they are: if callers choose their own keys, prefix them with the caller's name.

    Args:
        metadata: The service's own metadata; the Inbox adds its table, which is created like the others.
        retention: Shortest time for which a key is kept. A call that comes later takes effect again, and an undo that
            comes later undoes nothing. So it must be longer than the time from a caller's first call under a key to
            its last call or its undo; see `amends.max_run_duration`.
        table_name: Name of the table; one service may have several.
        schema: Schema of the table; `None` for the metadata's.
        clock: Returns the time in seconds since the epoch, for the dates of the records.

    Attributes:
        table: The table, for the service's own migrations.
        retention: The retention.

    Raises:
        InputError: The retention is not above zero.

    Example:
        >>> from datetime import timedelta
        >>> from sqlalchemy import MetaData, create_engine
        >>> metadata = MetaData()
        >>> inbox = Inbox(metadata, retention=timedelta(days=90))
        >>> engine = create_engine("sqlite://")
        >>> metadata.create_all(engine)
        >>> def charge():
        ...     print("charging")
        ...     return {"payment": "p-1"}
        >>> for _ in range(2):
        ...     with engine.begin() as connection:
        ...         answer = inbox.do(connection, "order-7/charge/do/0", "charge", {"amount": "9.90"}, charge)
        ...     print(answer.outcome, answer.result)
        charging
        done {'payment': 'p-1'}
        done {'payment': 'p-1'}
    """

    def __init__(
        self,
        metadata: MetaData,
        *,
        retention: timedelta,
        table_name: str = "amends_inbox",
        schema: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if retention <= timedelta(0):
            raise InputError(f"Inbox(retention={retention}): give a timedelta longer than any caller's retries")
        self.retention = retention
        self._clock = clock
        self.table = Table(
            table_name,
            metadata,
            Column("key", Text(), primary_key=True),
            Column("outcome", String(10), nullable=False),
            Column("operation", Text(), nullable=True),
            Column("content", Text(), nullable=True),
            Column("result", Text(), nullable=True),
            Column("reason", Text(), nullable=True),
            Column("cancelled_by", Text(), nullable=True),
            Column("changed_ms", BigInteger(), nullable=False),
            Index(f"{table_name}_changed", "changed_ms"),
            schema=schema,
        )
        columns = self.table.c
        self._columns = (
            columns.key,
            columns.outcome,
            columns.operation,
            columns.content,
            columns.result,
            columns.reason,
            columns.cancelled_by,
        )

    def do(
        self, bind: Connection | Session, key: str, operation: str, content: object, work: Callable[[], object]
    ) -> Answer:
        """Run an operation once, for any number of calls under its key.

        Args:
            bind: Connection or session in the transaction that `work` writes to.
            key: The call's idempotency key.
            operation: Name of the operation, such as `charge`.
            content: The request as JSON data, exactly as the caller sent it: if you fill in defaults, the same call
                becomes a different one after a deploy that adds a field.
            work: Runs the operation through `bind` only, and returns the result as JSON. It neither commits nor rolls
                back. It may raise `Rejected` to refuse: its changes are undone and the refusal is recorded. Any other
                exception undoes its changes, leaves the key free and is passed on.

        Returns:
            The outcome of the operation, from this call or from the first one.

        Raises:
            KeyConflictError: The key belongs to another operation or content; the call has no effect.
            InputError: Key, content or result cannot be recorded, or the connection is in autocommit mode.
        """
        check_key(key)
        asked = content_text(content, f"content of {operation} under key {shorten(key)}")
        connection = _connection_of(bind)
        found = self._claim(connection, key, "open", operation, asked)
        if found is not None:
            return answer_again(found, operation, asked)
        return self._first(bind, connection, key, operation, work)

    def undo(
        self,
        bind: Connection | Session,
        key: str,
        of: str,
        work: Callable[[Any], object],
        *,
        operation: str = "undo",
    ) -> Answer:
        """Reverse the operation under another key, or make sure that it never runs.

        Args:
            bind: As for `do`.
            key: Idempotency key of the undo itself.
            of: Key of the operation to undo; it answers `cancelled` from now on, also when it arrives later.
            work: Reverses the operation. It gets the recorded result, and is called only if the operation took effect
                and stands. It may raise `Rejected` if that is no longer possible: then the operation stands.
            operation: Name of the undo.

        Returns:
            The outcome of the undo: `done`, with the result of `work`, or with `None` if there was nothing to reverse;
            `refused`; or `cancelled`, if the undo was undone itself.

        Raises:
            KeyConflictError: The key belongs to another operation or to the undo of another key.
            InputError: As for `do`, or both keys are the same.
        """
        check_key(key)
        check_key(of)
        if key == of:
            raise InputError(f"key {shorten(key)} cannot undo itself; give the undo a key of its own")
        asked = content_text({"of": of}, "content")
        connection = _connection_of(bind)
        found = self._claim(connection, key, "open", operation, asked)
        if found is not None:
            return answer_again(found, operation, asked)

        def take_back() -> object:
            target = self._claim(connection, of, "cancelled", None, None, cancelled_by=key)
            if target is None or target.answer(repeated=True).outcome != "done":
                return None
            result = work(target.answer(repeated=True).result)
            self._change(connection, of, outcome="cancelled", cancelled_by=key)
            return result

        return self._first(bind, connection, key, operation, take_back)

    def settle(self, bind: Connection | Session, key: str) -> Answer:
        """Return the outcome of an operation; if it has none, close its key, so that it never takes effect.

        Use this in a probe. After a plain look-up, an operation that is still on its way would take effect after the
        answer "it did not happen". `settle` waits for a running operation, and refuses one that arrives later.

        Args:
            bind: As for `do`; commit before you reply.
            key: Key of the operation.

        Returns:
            The outcome; `cancelled` if the operation had not arrived.

        Raises:
            InputError: The key is invalid, or the connection is in autocommit mode.
        """
        check_key(key)
        found = self._claim(_connection_of(bind), key, "cancelled", None, None)
        return Answer("cancelled") if found is None else found.answer(repeated=True)

    def find(self, bind: Connection | Session, key: str) -> Answer | None:
        """Return the outcome under a key now, without a guarantee: `None` may be wrong as soon as it is returned.

        It is for people and monitoring; code that compensates or retries because of the answer must `settle` instead.
        """
        check_key(key)
        found = self._read(_connection_of(bind), key, lock=False)
        return None if found is None else found.answer(repeated=True)

    def purge(self, bind: Connection | Session, *, older_than: timedelta | None = None, limit: int = 1000) -> int:
        """Remove keys that have not changed for longer than the retention, oldest first.

        Call it regularly until it returns 0, each time in a transaction of its own, so that no lock lasts long.

        Args:
            bind: As for `do`.
            older_than: Smallest age of the removed keys, at least the retention; `None` for the retention.
            limit: Largest number of keys to remove in one call, 1 to 10,000.

        Returns:
            The number of removed keys.

        Raises:
            InputError: `older_than` is shorter than the retention, or `limit` is out of range.
        """
        age = self.retention if older_than is None else older_than
        if age < self.retention:
            raise InputError(
                f"purge(older_than={age}): callers may rely on the retention of {self.retention}; give a longer age"
            )
        if not 1 <= limit <= MAX_PURGED:
            raise InputError(f"purge(limit={limit}): give 1 to {MAX_PURGED}")
        columns = self.table.c
        # Skip locked keys: an undo has locked such a key, and is about to change its age.
        old = (
            select(columns.key)
            .where(columns.changed_ms < self._now_ms() - age // timedelta(milliseconds=1))
            .order_by(columns.changed_ms)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        connection = _connection_of(bind)
        keys = connection.scalars(old).all()
        if keys:
            connection.execute(delete(self.table).where(columns.key.in_(keys)))
        return len(keys)

    def _first(
        self,
        bind: Connection | Session,
        connection: Connection,
        key: str,
        operation: str,
        work: Callable[[], object],
    ) -> Answer:
        """Run the operation that the key was claimed for, and record its outcome."""
        transaction = connection.get_transaction()
        try:
            try:
                with bind.begin_nested():
                    result = content_text(work(), f"result of {operation} under key {shorten(key)}")
            except Rejected as no:
                return self._record(connection, key, operation, outcome="refused", reason=clean_text(no.reason))
            return self._record(connection, key, operation, outcome="done", result=result)
        except BaseException:
            # A caller that catches this and commits all the same must find the key free. If `work` has committed,
            # though, its outcome is unknown, and the open row stays to show that.
            if transaction is not None and transaction.is_active:
                with suppress(exc.SQLAlchemyError):
                    connection.execute(delete(self.table).where(self.table.c.key == key))
            raise

    def _record(
        self,
        connection: Connection,
        key: str,
        operation: str,
        *,
        outcome: Outcome,
        result: str | None = None,
        reason: str | None = None,
    ) -> Answer:
        self._change(connection, key, outcome=outcome, result=result, reason=reason)
        return Recorded(key, outcome, operation, None, result, reason, None).answer(repeated=False)

    def _claim(
        self,
        connection: Connection,
        key: str,
        outcome: str,
        operation: str | None,
        content: str | None,
        *,
        cancelled_by: str | None = None,
    ) -> Recorded | None:
        """Insert the key's row and return `None`, or return the existing row, locked until the transaction ends."""
        insert = _INSERT.get(connection.dialect.name)
        if insert is None:
            raise InputError(f"Inbox on {connection.dialect.name}: not supported; use SQLite or PostgreSQL")
        row = {
            "key": key,
            "outcome": outcome,
            "operation": operation,
            "content": content,
            "cancelled_by": cancelled_by,
            "changed_ms": self._now_ms(),
        }
        statement = insert(self.table).values(row).on_conflict_do_nothing(index_elements=["key"])
        # Without this option SQLAlchemy does not report the number of inserted rows on PostgreSQL.
        statement = statement.execution_options(preserve_rowcount=True)
        while True:
            if connection.execute(statement).rowcount == 1:
                self._refuse_autocommit(connection, key)
                return None
            found = self._read(connection, key, lock=True)
            if found is not None:
                return found
            # A purge removed the row between the two statements.

    def _read(self, connection: Connection, key: str, *, lock: bool) -> Recorded | None:
        statement = select(*self._columns).where(self.table.c.key == key)
        row = connection.execute(statement.with_for_update() if lock else statement).one_or_none()
        return None if row is None else Recorded(*row)

    def _change(self, connection: Connection, key: str, **values: str | None) -> None:
        statement = update(self.table).where(self.table.c.key == key)
        connection.execute(statement.values(**values, changed_ms=self._now_ms()))

    def _refuse_autocommit(self, connection: Connection, key: str) -> None:
        driver = connection.connection.dbapi_connection
        # Newer versions of `sqlite3` have an `autocommit` too, which is -1 if the driver begins transactions as needed.
        if getattr(driver, "autocommit", False) is True or not getattr(driver, "in_transaction", True):
            connection.execute(delete(self.table).where(self.table.c.key == key))
            raise InputError(
                "Inbox: the connection commits each statement on its own (AUTOCOMMIT), so a key and its effect would "
                "not be recorded together; pass a connection that begins transactions"
            )

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _connection_of(bind: Connection | Session) -> Connection:
    return bind.connection() if isinstance(bind, Session) else bind
